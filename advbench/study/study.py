"""A study's steps in order, each only where its run does not hold it: train, outputs, attacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final

import torch

from advbench import runs
from advbench.data import fingerprint
from advbench.data.sources import label, slug, source
from advbench.detection import calibration
from advbench.errors import BadData, BadRun, Damaged
from advbench.evasion import FromSurrogate, batches, perturb_into
from advbench.progress import Progress
from advbench.runs import AttackRow, Run, TrainingRow, artifacts, as_json, locks, released, repair, sealed_json
from advbench.runs.environment import describe
from advbench.runs.growing.attack_file import AttackFile
from advbench.runs.growing.tensor_file import TensorFile, fewer_images
from advbench.runs.manifest import Environment
from advbench.runs.run import Written
from advbench.study.attack_rows import AttackedModel, check, row_of, weakness
from advbench.study.spec import AttackChoice, Model, Spec, StudiedModel, SuppliedModel, surrogate_of
from advbench.study.train import TrainedModel, training_row
from advbench.study.verify import checked_attack
from advbench.study.workspace import Workspace
from advbench.types import Splits

READY = "outputs"  # the step that ends the making of a model


@dataclass
class LoadedData:
    """The parts of a data set, and the fingerprint of the data itself, computed once."""

    splits: Splits
    progress: Progress

    @cached_property
    def fingerprint(self) -> str:
        """Of the data itself."""
        return fingerprint(self.splits, self.progress)


def load(spec: Spec, workspace: Workspace) -> Splits:
    """The data set of a spec, as it lies in the workspace."""
    data = source(spec.dataset, spec.image_size)
    return data.load(workspace.data_dir, download=workspace.download, progress=workspace.progress)


def check_data(spec: Spec, splits: Splits, progress: Progress) -> None:
    """Refuse parts that cannot be trained on or do not fit the spec's attacks; say what was left out of them."""
    if splits.untrainable:
        raise BadData(splits.untrainable)
    if splits.excluded:
        left_out = ", ".join(f"{n:,} {why}" for why, n in splits.excluded.items())
        progress.say(f"{label(spec.dataset)}: left out {left_out}")
    for choice in attacks_on(spec, splits):
        check(choice, splits)


def attacks_on(spec: Spec, splits: Splits) -> list[AttackChoice]:
    """The attacks of a spec; on all test images is the same as on no stated number of them."""
    every = len(splits.test)
    return [replace(choice, n=None if choice.n == every else choice.n) for choice in spec.attacks]


class Study:
    """A spec in a workspace: its data set is loaded once, when first asked for.

    weights    the folders in which released models are looked for before one is trained; None = the workspace's
    data       of the spec, where they are loaded and checked already
    supplied   the model it is about, in the place of those of the spec
    waits      whether a run that another process holds is waited for; else it is refused
    """

    def __init__(
        self,
        spec: Spec,
        workspace: Workspace,
        *,
        weights: Sequence[Path] | None = None,
        data: LoadedData | None = None,
        supplied: StudiedModel | None = None,
        waits: bool = False,
    ) -> None:
        self.spec: Final = spec
        self.workspace: Final = workspace
        if weights is None:
            weights = released.folders(workspace.reports_dir, slug(label(spec.dataset)))
        self.weights: Final = weights
        self.waits: Final = waits
        self._data, self._supplied = data, supplied
        self._last: tuple[tuple[str, str], AttackedModel] | None = None

    @cached_property
    def data(self) -> LoadedData:
        """The data set."""
        if self._data is not None:
            return self._data
        splits = load(self.spec, self.workspace)
        check_data(self.spec, splits, self.workspace.progress)
        for attack in (choice.attack for choice in self.spec.attacks):
            if isinstance(attack, FromSurrogate):
                for model in self.spec.models():
                    surrogate_of(model, attack.source)
        return LoadedData(splits, self.workspace.progress)

    @property
    def splits(self) -> Splits:
        """The four parts of the data set."""
        return self.data.splits

    @property
    def fingerprint(self) -> str:
        """Of the data itself."""
        return self.data.fingerprint

    @property
    def trained(self) -> list[TrainedModel]:
        """The models of the spec."""
        more = self.splits, self.workspace, self.weights
        return [TrainedModel(model, *more) for model in self.spec.models()]

    def models(self) -> Sequence[StudiedModel]:
        """The models that it is about."""
        return self.trained if self._supplied is None else [self._supplied]

    @property
    def attacks(self) -> list[AttackChoice]:
        """The attacks on them."""
        return attacks_on(self.spec, self.splits)

    @contextmanager
    def run_of(self, model: Model | SuppliedModel, step: str | None = None) -> Iterator[Run]:
        """The model's run, held for this process; with `step`, for that step alone, others at work beside it."""
        folder = self.workspace.runs_dir / model.run_name(self.fingerprint)
        with locks.hold(folder, step=step, wait=self.waits):
            if step is None:
                repair.forget_manifest(folder, self.workspace.progress.say)
            run = self.opened(model)
            if step is None:
                run.sweep()
            yield run

    def opened(self, model: Model | SuppliedModel) -> Run:
        """The model's run as it lies on disk, or a new one; held by nobody."""
        record = model.record(self.fingerprint)
        run = runs.open_or_new(self.workspace.runs_dir, model.run_name(self.fingerprint), record, self._environment)
        if sealed_json.digest(run.model) != sealed_json.digest(record):
            raise BadRun(
                f"{run.folder / runs.MANIFEST} was altered: it describes another model than its folder is named "
                f"after; restore the file, or delete {run.folder} and run again"
            )
        return run

    @cached_property
    def _environment(self) -> Environment:
        return describe(str(self.workspace.device))

    def perform(self, run: Run, model: StudiedModel, choice: AttackChoice | None) -> None:
        """One cell, in the model's held run: the model and its outputs (choice None), or one attack on it.

        Whatever goes through a study's cells, in this process or in another, does it by this; what is done and whole
        is left, what is damaged is made again.
        """
        if choice is None:
            model.prepare(run)
        elif not repair.is_whole(run, f"attack {choice.file_name}", self.workspace.progress.say) or (
            run.attack_row(choice.file_name).norm != choice.attack.norm  # an older version's of ART
        ):
            n = len(self.splits.test) if choice.n is None else choice.n
            made, info = self.perturb(run, model, choice, slice(0, n), run.folder / file_of(choice))
            self.keep(run, model, choice, made.file, made.said, info, seconds=lambda: made.seconds)
            made.forget()
        else:
            there = checked_attack(run, choice.file_name, artifacts.read_part(run, "test"))
            kept, n, wanted = len(there.images), len(there.labels), self.workspace.keep_images
            if kept < (n if wanted is None else min(wanted, n)):
                self.workspace.progress.say(
                    f"{run.name}: {choice.file_name} keeps {kept} of {n} images, as it was first made; delete its "
                    "file to make and keep more"
                )

    def train(self) -> list[TrainingRow]:
        """Every model of the spec trained, with its outputs stored; a row each."""
        rows = []
        for model in self.models():
            with self.run_of(model.model) as run:
                self.perform(run, model, None)
                rows.append(training_row(run))
        return rows

    def attack(self) -> list[AttackRow]:
        """Every model attacked, and trained first where it does not exist; a row for each model and attack."""
        rows = []
        for model in self.models():
            with self.run_of(model.model) as run:
                for choice in (None, *self.attacks):
                    self.perform(run, model, choice)
                rows += [run.attack_row(choice.file_name) for choice in self.attacks]
                model.confirm(run)
        for weak in filter(None, map(weakness, rows)):
            self.workspace.progress.say(weak)
        return rows

    def _target(self, run: Run, model: StudiedModel) -> AttackedModel:
        """The run's model, kept until another is asked for."""
        key = run.name, sealed_json.digest([run.steps.get(step) for step in ("train", READY)])
        if self._last is None or self._last[0] != key:
            victim, clean = model.victim(run), artifacts.read_part(run, "test").outputs
            guard = cache(partial(calibration.guard, run))
            self._last = key, AttackedModel(victim, clean, self.splits.test, guard, self.workspace.progress)
        return self._last[1]

    def perturb(
        self, run: Run, model: StudiedModel, choice: AttackChoice, part: slice, final: Path
    ) -> tuple[AttackFile, dict[str, Any]]:
        """An attack on test images `part` alone, in parts beside the file `final`, and what its step notes of it."""
        attack, surrogate, info, target = choice.attack, None, {}, self._target(run, model)
        sources = [run.files["outputs/test.safetensors"].sha256]
        if isinstance(attack, FromSurrogate):
            other = model.surrogate(attack.source)
            info = {"surrogate": other.run_name(self.fingerprint)}
            try:
                beside = self.opened(other.model)
                whole = READY in beside.steps and beside.has("train")
            except Damaged:
                whole = False
            if not whole:
                with self.run_of(other.model) as beside:
                    self.perform(beside, other, None)
            surrogate = other.victim(beside)
            sources.append(beside.files[artifacts.MODEL].sha256)
        images = self.splits.test.take(part)
        self.workspace.progress.say(f"{run.name}: {choice.file_name} on {len(images)} images")
        guard = target.guard_of(choice)
        with self.workspace.progress.bar(choice.file_name, len(images)) as advance:
            rows = {"index": torch.arange(part.start, part.stop), "labels": images.labels}
            rows["saturated"] = batches.saturated(target.clean, images.labels, part.start)
            of = f"{run.name} {choice.file_name} {part.start} {' '.join(sources)}"
            made = AttackFile(final, of, rows, target.clean, self.workspace.progress.say)
            attacked = made, attack, target.victim, images
            perturb_into(*attacked, lambda done: advance(done, ""), guard, surrogate, part.start)
        return made, info

    def keep(
        self,
        run: Run,
        model: StudiedModel,
        choice: AttackChoice,
        file: TensorFile,
        said: Mapping[str, Any],
        info: Mapping[str, Any],
        *,
        seconds: Callable[[], float],
    ) -> None:
        """Do the step of an attack whose whole file this is, which is `said` to be of these members and this library.

        `seconds` are those that it took until asked.
        """
        made = artifacts.adversarials_of(file.path, **said)
        row = as_json(row_of(run.model_row, choice, made, self._target(run, model)), whole=False)
        if (keep := self.workspace.keep_images) is not None and keep < len(made.labels):
            file = fewer_images(file, keep, self.splits.test.take(slice(keep)).load_all())
        done = Written(file.path, file.done())
        run.write(f"attack {choice.file_name}", {file_of(choice): done}, seconds=seconds(), info={"row": row, **info})


def file_of(choice: AttackChoice) -> str:
    """An attack's file, from its run's folder."""
    return f"attacks/{choice.file_name}.safetensors"
