"""Train a model, or adopt released weights, and store its outputs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from advbench.data import join
from advbench.errors import Diverged
from advbench.progress import Progress
from advbench.runs import Epoch, Run, TrainingRow, artifacts, released, repair, to_json, write_whole
from advbench.runs.manifest import CheckpointInfo, DivergedInfo, OutputsInfo, TrainingInfo
from advbench.runs.run import Written
from advbench.study.spec import Model, StudiedModel, surrogate_of
from advbench.study.workspace import Workspace
from advbench.training.loop import Checkpoint, Trainer
from advbench.types import ImageSet, Splits
from advbench.victim import Classifier, Victim, build, rebuilt


@dataclass(frozen=True)
class TrainedModel(StudiedModel):
    """A model that is trained here, or of which weights lie in one of the folders `weights`."""

    model: Model
    splits: Splits
    workspace: Workspace
    weights: Sequence[Path]

    def prepare(self, run: Run) -> None:
        """Train it, or adopt its weights, and store its outputs."""
        ensure_trained(run, self.model, self.splits, self.workspace, self.weights)
        parts = parts_of(self.splits, self.model)
        ensure_outputs(run, parts, lambda: self.victim(run), self.workspace.progress)

    def victim(self, run: Run) -> Victim:
        """Rebuilt from the run."""
        return victim_of(run, self.splits, self.workspace)

    def surrogate(self, source: str) -> "TrainedModel":
        """Trained on the same part; raises BadSetting where it is this very model."""
        return replace(self, model=surrogate_of(self.model, source))


def parts_of(splits: Splits, model: Model) -> Splits:
    """The parts as this model has them: what it is fitted to is its training part, and no calibration image."""
    every = model.training.all_parts
    joined = (splits.validation, splits.calibration)[: 2 if every else int(model.training.full_train)]
    calibration = splits.calibration.take(slice(0 if every else None))
    return replace(splits, train=reduce(join, joined, splits.train), calibration=calibration)


def ensure_trained(run: Run, model: Model, splits: Splits, workspace: Workspace, weights: Iterable[Path]) -> None:
    """Do the step `train` where it is not done or damaged: adopt weights released under `weights`, else train.

    Raises Diverged for a training that does, and for one that has done so before, which is not tried again.
    """
    if not repair.is_whole(run, "train", workspace.progress.say):
        if "checkpoint" not in run.steps and (found := released.find(weights, run.model)) is not None:
            workspace.progress.say(f"{run.name}: released weights {found.path}")
            released.adopt(run, found)
        elif "diverged" in run.steps:
            raise Diverged(run.noted(DivergedInfo).epoch, model.training.learning_rate)
        else:
            try:
                train(run, model, splits, workspace)
            except Diverged as error:
                run.write("diverged", {}, info=DivergedInfo(epoch=error.epoch))
                raise
    run.drop("checkpoint")  # here, so that one that an interruption left behind goes too


def ensure_outputs(run: Run, splits: Splits, victim_of: Callable[[], Victim], progress: Progress) -> None:
    """Do the step `outputs` where it is not done or damaged: one forward pass over train, calibration and test."""
    if repair.is_whole(run, "outputs", progress.say):
        return
    began = time.perf_counter()
    victim, before = victim_of(), 0
    files: dict[str, Written] = {}
    parts: dict[str, ImageSet] = {name: getattr(splits, name) for name in artifacts.PARTS}
    progress.say(f"{run.name}: outputs of {sum(map(len, parts.values())):,} images, the parts {', '.join(parts)}")
    with progress.bar("outputs", sum(map(len, parts.values()))) as advance:
        for name, part in parts.items():
            at = run.folder / f"outputs/.{name}.safetensors.part"
            file = artifacts.PartFile(at, part, examples=name == "test")
            victim.each_output(part.pixels, file.take, lambda done: advance(before + done, ""))  # noqa: B023
            files[f"outputs/{name}.safetensors"] = file.done()
            before += len(part)
    classes = splits.test.classes
    numbered = classes == tuple(map(str, range(len(classes))))
    info = OutputsInfo(excluded=splits.excluded, classes=None if numbered else classes)
    run.write("outputs", files, seconds=time.perf_counter() - began, info=info)


def images_of(splits: Splits) -> dict[str, Any]:
    """What a model is built for: the shape of the images and the number of classes."""
    return {"shape": splits.test.shape, "classes": len(splits.test.classes)}


def train(run: Run, model: Model, splits: Splits, workspace: Workspace) -> None:
    """Train from the run's checkpoint, or from the start."""
    say = workspace.progress.say
    parts = parts_of(splits, model)
    how: dict[str, Any] = {"seed": model.seed, "device": workspace.device, "adversarial": model.adversarial}
    own: dict[str, Any] = {**images_of(splits), "seed": model.seed}
    untrained = build(model.network, model.feature_dim, model.loss.name, model.loss.settings, **own)
    trainer = Trainer(*untrained, parts.train, parts.validation, model.training, **how)
    if repair.is_whole(run, "checkpoint", say):
        (name,) = run.steps["checkpoint"].files
        try:
            trainer.restore(Checkpoint(artifacts.unpack(run, name), run.noted(CheckpointInfo).epochs))
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise artifacts.unsound(run.folder / name, f"it is of another model ({type(error).__name__})") from error
        say(f"{run.name}: going on after epoch {len(trainer.epochs)} of {model.training.epochs}")
    else:
        say(f"{run.name}: training {model.training.epochs} epochs on {len(parts.train)} images")
    if trainer.arithmetic != model.training.precision:
        say(f"{run.name}: in float32, because this {workspace.device.type} does not compute bf16 natively")
    images_per_epoch = len(parts.train) + len(parts.validation)
    with workspace.progress.bar(run.name, model.training.epochs * images_per_epoch) as advance:

        def on_batch(images: float, loss: float, accuracy: float) -> None:
            epoch = len(trainer.epochs)
            note = f" loss {loss:.3f} acc {accuracy:.1%}" if accuracy >= 0 else ""  # NaN in the first batch
            advance(epoch * images_per_epoch + images, f"epoch {epoch + 1}/{model.training.epochs}{note}")

        trainer.run(lambda t: write_checkpoint(run, t), on_batch)
    weights = {k: v for k, v in trainer.checkpoint().tensors.items() if k.startswith(("network.", "head."))}
    files = {artifacts.MODEL: artifacts.pack(weights), "training.jsonl": history(trainer.epochs)}
    last, seconds = trainer.epochs[-1], sum(epoch.seconds for epoch in trainer.epochs)
    info = {"loss": last.loss, "validation_error": last.validation_error, "n_train": len(parts.train)}
    run.write("train", files, seconds=seconds, info={**info, "arithmetic": trainer.arithmetic})


def victim_of(run: Run, splits: Splits, workspace: Workspace) -> Victim:
    """The run's trained model, ready to be attacked."""
    return victim(rebuilt(run, **images_of(splits)), splits, workspace)


def victim(model: Classifier, splits: Splits, workspace: Workspace) -> Victim:
    """A model on the workspace's device, ready to be attacked."""
    return Victim(
        model,
        **images_of(splits),
        device=workspace.device,
        batch_size=workspace.batch_size,
        say=workspace.progress.say,
        reuse_gradients=True,
    )


def write_checkpoint(run: Run, trainer: Trainer) -> None:
    """After an epoch: its checkpoint, then the manifest, then the one before is deleted; rows in training.jsonl."""
    checkpoint = trainer.checkpoint()
    write_whole(run.folder / "training.jsonl", history(checkpoint.epochs))
    name = f"checkpoint-{len(checkpoint.epochs):04d}.safetensors"
    info = CheckpointInfo(epochs=checkpoint.epochs)
    run.write("checkpoint", {name: artifacts.pack(dict(checkpoint.tensors))}, info=info)


def history(epochs: Sequence[Epoch]) -> bytes:
    """training.jsonl: a JSON object per epoch and line."""
    return b"".join(to_json(e).replace(b"\n", b" ").strip() + b"\n" for e in epochs)


def training_row(run: Run) -> TrainingRow:
    """A model's row: settings, size of the training part, and its errors on validation and test."""
    model, info, test = run.trained, run.noted(TrainingInfo), artifacts.read_part(run, "test")
    return TrainingRow(
        model=run.model_row,
        network=model.network,
        feature_dim=model.feature_dim,
        epochs=model.training["epochs"],
        n_train=info.n_train,
        validation_error_rate=info.validation_error,
        n=len(test),
        clean_error_rate=float((test.outputs.predictions != test.labels).double().mean()),
        seconds=run.seconds("train"),
    )
