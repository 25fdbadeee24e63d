"""Which of the runs on disk, and which of their attacks, a `verify` or `report` is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advbench import runs, scoring, seals
from advbench.errors import BadRun, BadSetting, UnknownName
from advbench.runs import Run

ATTACK_STEP = "attack "


@dataclass(frozen=True)
class Found:
    """A run and the file names of its selected attacks."""

    run: Run
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Field of an attack row -> the values that are wanted; fields left out select everything."""

    wanted: Mapping[str, tuple[Any, ...]]

    def __contains__(self, row: Mapping[str, Any]) -> bool:
        return all(row[field] in values for field, values in self.wanted.items())

    def __str__(self) -> str:
        return ", ".join(f"{k} {' or '.join(map(str, v))}" for k, v in self.wanted.items()) or "anything"


def attack_rows(run: Run) -> dict[str, dict[str, Any]]:
    """Attack row by attack file name, sorted by attack and eps."""
    names = [step.removeprefix(ATTACK_STEP) for step in run.steps if step.startswith(ATTACK_STEP)]
    rows = {name: scoring.attack_row(run, name) for name in names}
    return dict(sorted(rows.items(), key=lambda item: (item[1]["attack"], item[1]["eps"], item[0])))


def find(runs_dir: Path, selection: Selection) -> list[Found]:
    """The attacked models that match; raises BadSetting where there is none."""
    found = []
    for run in _runs(runs_dir):
        names = tuple(name for name, row in attack_rows(run).items() if row in selection)
        if names:
            found.append(Found(run, names))
    if not found:
        raise BadSetting(
            f"nothing to verify: no attacked model under {runs_dir} matches {selection}; make one, for example with: "
            "advbench attack --loss lgm --eps 0.3"
        )
    return found


def listing(runs_dir: Path) -> list[dict[str, Any]]:
    """A row for every run: its model, whether it is trained, its attacks."""
    return [
        scoring.model_row(run) | {"trained": "train" in run.steps, "attacks": list(attack_rows(run))}
        for run in _runs(runs_dir)
    ]


def by_name(runs_dir: Path, name: str) -> Run:
    """The run of that name under `runs_dir`, or in the folder `name`; raises UnknownName with those there are."""
    for folder in (runs_dir / name, Path(name)):
        if (folder / runs.MANIFEST).is_file():
            return checked(runs.load(folder))
    raise UnknownName(f"run under {runs_dir}", name, [run.name for run in runs.find(runs_dir)])


def _runs(runs_dir: Path) -> list[Run]:
    """Every run, its manifest's model checked against the digest at the end of the name it was given."""
    return [checked(run) for run in runs.find(runs_dir)]


def checked(run: Run) -> Run:
    """The run itself; raises BadRun where its model is not the one that its name was given to."""
    ending = str(run.manifest.get("name")).rpartition("-")[2]
    if re.fullmatch("[0-9a-f]{8}", ending) and ending != seals.digest(run.model):
        raise BadRun(
            f"{run.folder / runs.MANIFEST} was altered: its model has the digest {seals.digest(run.model)}, its "
            f"name ends in {ending}; restore the file, or delete {run.folder} and run again"
        )
    return run
