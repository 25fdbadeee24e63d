"""The order of steps: train, attack, verify, report; each does only what its runs do not hold yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from advbench import artifacts, attacking, catalog, runs, scoring
from advbench.contracts import check_eps
from advbench.data import fingerprint, join
from advbench.environment import describe
from advbench.errors import BadSetting
from advbench.progress import Progress, Quiet
from advbench.runs import Run, to_json
from advbench.scoring import Row
from advbench.selection import Found
from advbench.spec import AttackChoice, Model, Spec
from advbench.training import Checkpoint, Epoch, Trainer, build, within
from advbench.types import ImageSet, Outputs, Splits, resolve_device
from advbench.victim import Victim


@dataclass(frozen=True)
class Place:
    """Where and on what to work; nothing here changes a result beyond the float noise of the kernels."""

    runs_dir: Path = Path("runs")
    reports_dir: Path = Path("reports")
    data_dir: Path | None = None
    download: bool = False
    device: torch.device = field(default_factory=lambda: resolve_device(None))
    batch_size: int = 256
    progress: Progress = field(default_factory=Quiet)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise BadSetting(f"batch_size = {self.batch_size} is out of range; it must be at least 1")


class Study:
    """A spec at a place: its data set is loaded once, when first asked for."""

    def __init__(self, spec: Spec, place: Place) -> None:
        self.spec = spec
        self.place = place

    @cached_property
    def splits(self) -> Splits:
        """The four parts of the data set."""
        source = catalog.load("data set", self.spec.dataset)()
        splits: Splits = source.load(self.place.data_dir, download=self.place.download)
        for choice in self.spec.attacks:
            if choice.n is not None and choice.n > len(splits.test):
                raise BadSetting(
                    f"n = {choice.n} is more than the {len(splits.test)} test images of {self.spec.dataset}; "
                    "leave --n out to attack them all"
                )
            check_eps(choice.attack.eps, choice.attack.norm, splits.test.images[0].numel())
        return splits

    @cached_property
    def fingerprint(self) -> str:
        """Of the data itself."""
        return fingerprint(self.splits)

    @property
    def attacks(self) -> list[AttackChoice]:
        """The attacks of the spec; on all test images is the same as on no stated number of them."""
        every = len(self.splits.test)
        return [replace(choice, n=None if choice.n == every else choice.n) for choice in self.spec.attacks]

    @contextmanager
    def run_of(self, model: Model) -> Iterator[Run]:
        """The model's run, held for this process."""
        name = model.run_name(self.fingerprint)
        with runs.hold(self.place.runs_dir / name):
            environment = describe(str(self.place.device))
            yield runs.open_or_new(self.place.runs_dir, name, model.record(self.fingerprint), environment)

    def train(self) -> list[Row]:
        """Every model of the spec trained, with its outputs stored; a row each."""
        rows = []
        for model in self.spec.models():
            with self.run_of(model) as run:
                self._ensure_trained(run, model)
                rows.append(training_row(run))
        return rows

    def attack(self) -> list[Row]:
        """Every model attacked, and trained first where it does not exist; a row for each model and attack."""
        rows = []
        for model in self.spec.models():
            with self.run_of(model) as run:
                self._ensure_trained(run, model)
                rows += self._ensure_attacked(run, model)
        return rows

    def run(self) -> tuple[Path, list[Row]]:
        """All of it: the report's path, and the verify rows on it."""
        runs.check_folder(self.place.reports_dir / self.spec.name)
        self.attack()
        names = tuple(choice.file_name for choice in self.attacks)
        found = [
            Found(runs.load(self.place.runs_dir / model.run_name(self.fingerprint)), names)
            for model in self.spec.models()
        ]
        return report(self.spec.name, found, self.spec.detectors, self.place)

    # -- train ---------------------------------------------------------------------------------------------

    def _ensure_trained(self, run: Run, model: Model) -> None:
        if not run.has("train"):
            self._train(run, model)
        run.drop("checkpoint")  # here, so that one that an interruption left behind goes too
        if not run.has("outputs"):
            began = time.perf_counter()
            victim = self._victim(run, model)
            files = {
                f"outputs/{name}.safetensors": artifacts.pack_part(
                    victim.outputs(part.images), part, examples=name == "test"
                )
                for name, part in self._parts(model).items()
                if name in artifacts.PARTS
            }
            run.write("outputs", files, seconds=time.perf_counter() - began)

    def _parts(self, model: Model) -> dict[str, ImageSet]:
        train, validation = self.splits.train, self.splits.validation
        if model.training.full_train:
            train = join(train, validation)
        return {
            "train": train,
            "validation": validation,
            "calibration": self.splits.calibration,
            "test": self.splits.test,
        }

    def _build(self, model: Model) -> tuple[Any, Any]:
        return build(
            model.network,
            model.feature_dim,
            model.loss.name,
            model.loss.settings,
            shape=self.splits.test.shape,
            classes=len(self.splits.test.classes),
            seed=model.seed,
        )

    def _train(self, run: Run, model: Model) -> None:
        say = self.place.progress.say
        parts = self._parts(model)
        trainer = Trainer(
            *self._build(model),
            parts["train"],
            parts["validation"],
            model.training,
            seed=model.seed,
            device=self.place.device,
        )
        if run.has("checkpoint"):
            trainer.restore(read_checkpoint(run))
            say(f"{run.name}: going on after epoch {len(trainer.epochs)} of {model.training.epochs}")
        else:
            say(f"{run.name}: training {model.training.epochs} epochs on {len(parts['train'])} images")
        total = model.training.epochs * len(parts["train"])
        with self.place.progress.bar(run.name, total) as advance:

            def on_batch(images: int, loss: float, accuracy: float) -> None:
                epoch = len(trainer.epochs)
                note = f"epoch {epoch + 1}/{model.training.epochs} loss {loss:.3f} acc {accuracy:.1%}"
                advance(epoch * len(parts["train"]) + images, note)

            trainer.run(lambda t: write_checkpoint(run, t), on_batch)
        weights = {k: v for k, v in trainer.checkpoint().tensors.items() if k.startswith(("network.", "head."))}
        rows = history(trainer.epochs)
        files = {artifacts.MODEL: artifacts.pack(weights), "training.jsonl": rows}
        last = trainer.epochs[-1]
        run.write(
            "train",
            files,
            seconds=sum(epoch.seconds for epoch in trainer.epochs),
            info={
                "loss": last.loss,
                "validation_error": last.validation_error,
                "n_train": len(parts["train"]),
            },
        )

    def _victim(self, run: Run, model: Model) -> Victim:
        network, head = self._build(model)
        tensors = artifacts.unpack(run, artifacts.MODEL)
        scoring.load_state(network, within(tensors, "network"), run)
        scoring.load_state(head, within(tensors, "head"), run)
        return Victim(
            network,
            head,
            shape=self.splits.test.shape,
            classes=len(self.splits.test.classes),
            device=self.place.device,
            batch_size=self.place.batch_size,
            say=self.place.progress.say,
        )

    # -- attack --------------------------------------------------------------------------------------------

    def _ensure_attacked(self, run: Run, model: Model) -> list[Row]:
        missing = [c for c in self.attacks if not run.has(f"attack {c.file_name}")]
        if missing:
            victim = self._victim(run, model)
            clean = artifacts.read_part(run, "test").outputs
            for choice in missing:
                self._attack(run, choice, victim, clean)
        return [scoring.attack_row(run, choice.file_name) for choice in self.attacks]

    def _attack(self, run: Run, choice: AttackChoice, victim: Victim, clean: Outputs) -> None:
        began = time.perf_counter()
        attack = choice.attack
        images = self.splits.test.take(slice(choice.n))
        self.place.progress.say(f"{run.name}: {choice.file_name} on {len(images)} images")
        guard = None
        if choice.detector is not None and choice.fpr is not None:
            guard = scoring.guard(run, choice.detector, choice.fpr)
        with self.place.progress.bar(choice.file_name, len(images)) as advance:
            made = attacking.perturb(attack, victim, images, clean, lambda done: advance(done, ""), guard)
        scoring.check_perturbation(attack, images, made)
        row = attacking.effect(choice, made, clean.take(slice(len(images))), guard)
        run.write(
            f"attack {choice.file_name}",
            {f"attacks/{choice.file_name}.safetensors": artifacts.pack_adversarials(made)},
            seconds=time.perf_counter() - began,
            info={"row": row},
        )


def training_row(run: Run) -> Row:
    """A model's row: settings, size of the training part, and its errors on validation and test."""
    test = artifacts.read_part(run, "test")
    wrong = test.outputs.predictions != test.labels
    info = run.info("train")
    return scoring.model_row(run) | {
        "network": run.model["network"],
        "feature_dim": run.model["feature_dim"],
        "epochs": run.model["training"]["epochs"],
        "n_train": info["n_train"],
        "validation_error_rate": info["validation_error"],
        "n": len(test),
        "clean_error_rate": float(wrong.double().mean()),
        "seconds": run.steps["train"]["seconds"],
    }


def write_checkpoint(run: Run, trainer: Trainer) -> None:
    """After an epoch: its checkpoint, then the manifest, then the one before is deleted; rows in training.jsonl."""
    checkpoint = trainer.checkpoint()
    runs.write_whole(run.folder / "training.jsonl", history(checkpoint.epochs))
    name = f"checkpoint-{len(checkpoint.epochs):04d}.safetensors"
    rows = [epoch.row() for epoch in checkpoint.epochs]
    run.write("checkpoint", {name: artifacts.pack(dict(checkpoint.tensors))}, info={"epochs": rows})


def read_checkpoint(run: Run) -> Checkpoint:
    """The checkpoint that the manifest lists."""
    (name,) = run.steps["checkpoint"]["files"]
    epochs = tuple(Epoch(**row) for row in run.info("checkpoint")["epochs"])
    return Checkpoint(artifacts.unpack(run, name), epochs)


def history(epochs: Sequence[Epoch]) -> bytes:
    """training.jsonl: a JSON object per epoch and line."""
    return b"".join(to_json(e.row()).replace(b"\n", b" ").strip() + b"\n" for e in epochs)


def verify_run(run: Run, attacks: Sequence[str], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of one run, saying so where something has to be computed."""
    progress.say(f"{run.name}: {len(attacks)} attacks x {len(detectors)} detectors")
    return scoring.verify(run, attacks, detectors)


def verify_found(found: Sequence[Found], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of runs found on disk."""
    rows = []
    for one in found:
        with runs.hold(one.run.folder):
            rows += verify_run(one.run, one.attacks, detectors, progress)
    return rows


def report(name: str, found: Sequence[Found], detectors: Sequence[str], place: Place) -> tuple[Path, list[Row]]:
    """Write the page of these runs, verifying what is missing; its path and the rows on it."""
    from advbench.report.page import render

    rows = verify_found(found, detectors, place.progress)
    page = place.reports_dir / name / "index.html"
    runs.write_whole(page, render(name, found, rows).encode())
    return page, rows
