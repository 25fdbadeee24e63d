"""A study as cells, as plain data: train a model, make one attack on it, score its attacks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from advbench import runs
from advbench.device import resolve_device
from advbench.errors import BadRun, Damaged
from advbench.evasion import FromSurrogate
from advbench.progress import Progress
from advbench.runs import Run, as_json, locks, repair
from advbench.runs.json_records import from_json
from advbench.study.parsing import parse
from advbench.study.spec import AttackChoice, Model, Spec, surrogate_of
from advbench.study.study import READY, Study
from advbench.study.verify import is_verified
from advbench.study.workspace import Workspace

SCORED = "verify"  # the step that scores a run's attacks
Key = tuple[str, str]  # run and step


@dataclass(frozen=True)
class Place:
    """A study's workspace as JSON values, its folders absolute, and where released weights are looked for."""

    runs_dir: str
    reports_dir: str
    data_dir: str | None
    download: bool
    device: str
    batch_size: int
    keep_images: int | None
    locks: bool
    weights: tuple[str, ...]

    @classmethod
    def of(cls, study: Study) -> Place:
        """Where a study works."""
        own = study.workspace
        return cls(
            str(own.runs_dir.absolute()),
            str(own.reports_dir.absolute()),
            None if own.data_dir is None else str(own.data_dir.absolute()),
            own.download,
            str(own.device),
            own.batch_size,
            own.keep_images,
            locks.in_use,
            tuple(str(Path(folder).absolute()) for folder in study.weights),
        )

    def workspace(self, progress: Progress) -> Workspace:
        """The workspace; sets this process up to lock runs, or not to."""
        locks.in_use = self.locks
        return Workspace(
            runs_dir=Path(self.runs_dir),
            reports_dir=Path(self.reports_dir),
            data_dir=None if self.data_dir is None else Path(self.data_dir),
            download=self.download,
            batch_size=self.batch_size,
            keep_images=self.keep_images,
            device=resolve_device(self.device),
            progress=progress,
        )


@dataclass(frozen=True)
class Cell:
    """One piece of a study, as JSON values.

    run     name of the run, which ends in a digest of the data, the model and its training
    step    what the run's manifest holds if the cell is done: `outputs`; `attack <file name>`, which ends in a digest
            of the attack's settings; or `verify`, which is done if its scores are of all these attacks and detectors
    table   a spec of this one model, and of the attack that it makes, or of the attacks and detectors that it scores
    needs   the keys of the cells that come first
    """

    run: str
    step: str
    table: Mapping[str, Any]
    place: Place
    needs: tuple[Key, ...] = ()

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> Key:
        """What tells it from other cells."""
        return self.run, self.step

    @property
    def what(self) -> str:
        """What is done to the run, for people."""
        return {READY: "training", SCORED: "scoring"}.get(self.step, self.step)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.run}: {self.what}"

    @property
    def done(self) -> bool:
        """Whether the manifest holds the step; raises BadRun for one of another schema."""
        return self.done_in(run_below(Path(self.place.runs_dir) / self.run))

    def done_in(self, run: Run | None) -> bool:
        """The same, of a run that was read already."""
        if run is None or self.step not in run.steps:
            return False
        if self.step != SCORED:
            return True
        spec = parse(self.table)
        return is_verified(run, [choice.file_name for choice in spec.attacks], spec.detectors)

    def to_json(self) -> str:
        """As text."""
        return json.dumps(as_json(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """From that text."""
        return from_json(cls, json.loads(text), "cell")


def cells_of(study: Study, detectors: Sequence[str] = ()) -> list[Cell]:
    """Every cell of a study of models that are trained here: each model, its attacks, their scores by `detectors`.

    A surrogate that is none of the study's models has a cell of its own.
    """
    place, found = Place.of(study), dict[Key, Cell]()

    def add(model: Model, step: str, needs: Iterable[Key] = (), **more: object) -> Key:
        name, table = model.run_name(study.fingerprint), model_table(study.spec, model) | more
        return found.setdefault((name, step), Cell(name, step, table, place, tuple(needs))).key

    for model in study.spec.models():
        ready, needs, made = add(model, READY), list[Iterable[Key]](), list[Key]()
        for attack in (choice.attack for choice in study.attacks):
            others = [surrogate_of(model, attack.source)] if isinstance(attack, FromSurrogate) else []
            needs.append(dict.fromkeys([ready, *(add(other, READY) for other in others)]))
        for choice, first in zip(study.attacks, needs, strict=True):
            made.append(add(model, f"attack {choice.file_name}", first, attacks=[attack_table(choice)]))
        if detectors:
            entries = [attack_table(choice) for choice in study.attacks]
            add(model, SCORED, made, attacks=entries, detectors=list(detectors))
    return list(found.values())


def done_among(cells: Sequence[Cell]) -> list[bool]:
    """Whether each is done, each run read once; one that cannot be read counts as not begun.

    The files of what the others need are hashed, and no more: where those are damaged, their cells are not done.
    """
    read = cache(run_below)

    def run_of(cell: Cell) -> Run | None:
        try:
            return read(Path(cell.place.runs_dir) / cell.run)
        except BadRun:
            return None

    done = [cell.done_in(run_of(cell)) for cell in cells]
    there = {cell.key: cell for cell, is_done in zip(cells, done, strict=True) if is_done}
    left, seen = [cell for cell, is_done in zip(cells, done, strict=True) if not is_done], set[Key]()
    while left:
        cell = left.pop()
        for key in ({(cell.run, READY), *cell.needs} & there.keys()) - seen:
            seen.add(key)
            gone = _undone(run_of(there[key]), key[1])
            for i in [i for i, one in enumerate(cells) if done[i] and (one.run, one.step) in gone]:
                done[i] = False
                left.append(cells[i])
    return done


def _undone(run: Run | None, step: str) -> set[Key]:
    """What is not done where the files of this step of a run are damaged; nothing where they are whole."""
    if run is None:
        return set()
    steps = ("train", READY) if step == READY else (step,)
    bad = repair.faults(run, [name for name in steps if name in run.steps])
    return {(run.name, name) for name in (*repair.came_of(run, bad), *((step,) if bad else ()))}


def run_below(folder: Path) -> Run | None:
    """The run in a folder; None where nothing was done, or its manifest is damaged."""
    try:
        return runs.load(folder) if (folder / runs.MANIFEST).exists() else None
    except Damaged:
        return None


def model_table(spec: Spec, model: Model) -> dict[str, Any]:
    """The table that `parsing.parse` reads as a study of this one model, every setting written out."""
    adversarial = {} if model.adversarial is None else {"adversarial": asdict(model.adversarial)}
    return {
        "name": spec.name,
        "dataset": spec.dataset,
        "image_size": spec.image_size,
        "network": model.network,
        "feature_dim": model.feature_dim,
        "losses": [{"name": model.loss.name, **model.loss.settings, **adversarial}],
        "seeds": [model.seed],
        "training": asdict(model.training),
        "attacks": ["fgsm"],  # a spec has one at least; a model's own cell makes none
    }


def attack_table(choice: AttackChoice) -> dict[str, Any]:
    """The entry of a spec's `attacks` that `parsing.parse` reads as this one attack."""
    aimed = {"n": choice.n, "detector": choice.detector, "fpr": choice.fpr}
    return {"name": choice.choice.name, **choice.choice.settings, **{k: v for k, v in aimed.items() if v is not None}}


def on_device(cell: Cell, device: str) -> Cell:
    """The cell, to be computed there."""
    return replace(cell, place=replace(cell.place, device=device))
