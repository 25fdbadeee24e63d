"""What was tried on the validation part: the search for the common settings, and how EERs depend on settings.

The search looks at validation errors alone. The sensitivity tables look at attacks on validation images and choose
nothing; no figure here touches a test image.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advbench import catalog, metrics
from advbench.evasion import perturb
from advbench.reproduce.cells import GREY, HEADLINE, LOSSES, Cell, Entry
from advbench.reproduce.grid import Grid
from advbench.runs import Row, to_json, write_whole
from advbench.study.parsing import attack_choices, loss_choice
from advbench.study.study import Study
from advbench.study.train import ensure_trained, victim_of
from advbench.victim import Victim

FILE = "tuning.json"
EPOCHS = 3
RATES = (0.05, 0.02, 0.1)
SEARCHED = ("softmax", "center", "l-softmax", "lgm1.0")
# 0.01 is what Wen et al. 2016 and the L-GM authors' settings file use
SLOW = (("softmax", 0.01), ("lgm1.0", 0.01), ("center", 0.01), ("softmax", 0.005))
CENTER = [{"weight": w, "centre_step": s} for w in (0.001, 0.01, 0.1) for s in (0.1, 0.5)]
ATTACKED = 2000  # validation images, the first ones
READINGS: list[Entry] = [
    {"name": "fgsm", "eps": HEADLINE * scale, "clip": clip} for scale in (1.0, GREY) for clip in (True, False)
]


@dataclass(frozen=True)
class Trial:
    """One short training: a loss with settings of its own, and training settings beside the recipe's."""

    loss: str
    own: Mapping[str, Any]
    training: Mapping[str, Any]

    def entry(self) -> Entry:
        """The loss as a spec states it."""
        base = LOSSES[self.loss]
        return {**({"name": base} if isinstance(base, str) else base), **self.own}

    def made(self, row: Row) -> bool:
        """Whether `row` states the result of this trial."""
        return (row["loss"], row["own"], row["training"]) == (self.loss, dict(self.own), dict(self.training))


Train = Callable[[Sequence[Trial]], object]


def searched() -> Iterator[Trial]:
    """Learning rates x losses; every loss gets the rate whose mean validation error is least."""
    yield from (Trial(loss, {}, {"epochs": EPOCHS, "learning_rate": r}) for r in RATES for loss in SEARCHED)


def varied(rate: float) -> Iterator[Trial]:
    """The center loss under other weights and centre steps, and the attacked losses at lower learning rates."""
    yield from (Trial("center", own, {"epochs": EPOCHS, "learning_rate": rate}) for own in CENTER)
    yield from (Trial(loss, {}, {"epochs": EPOCHS, "learning_rate": slow}) for loss, slow in SLOW)


def tune(grid: Grid, train: Train = lambda trials: None) -> list[Row]:
    """Every trial trained, and attacked on validation images: its rows, kept in reports/mnist/tuning.json.

    `train` may train what is missing of a part beforehand; what it leaves is trained here.
    """
    return bring_on(grid.home / FILE, lambda trial, part: _row(grid, trial, part), train)


def bring_on(file: Path, make: Callable[[Trial, str], Row], train: Train = lambda trials: None) -> list[Row]:
    """The rows of every trial, in order: those in `file` as they are, the others made.

    `file` is written after each row made, so that the trials can be continued elsewhere with nothing but it.
    """
    kept = _rows_in(file)

    def rows_of(trials: Iterable[Trial], part: str) -> list[Row]:
        trials = list(trials)
        found = [next((r for r in kept if trial.made(r) and r["part"] == part), None) for trial in trials]
        train([trial for trial, row in zip(trials, found, strict=True) if row is None])
        for i, trial in enumerate(trials):
            if found[i] is None:
                found[i] = made = make(trial, part)
                kept.append(made)
                _write(file, kept)
        return [row for row in found if row is not None]

    search = rows_of(searched(), "search")
    means = mean_errors(search)
    best = min(means, key=lambda r: means[r])
    rows = search + rows_of(varied(best), "sensitivity")
    if rows != kept:
        _write(file, rows)
    return rows


def read(grid: Grid) -> list[Row]:
    """The rows of tuning.json; none where it does not exist."""
    return _rows_in(grid.home / FILE)


def _rows_in(file: Path) -> list[Row]:
    rows: list[Row] = json.loads(file.read_bytes())["rows"] if file.exists() else []
    return rows


def _write(file: Path, rows: list[Row]) -> None:
    write_whole(file, to_json({"schema": 1, "rows": rows}))


def mean_errors(rows: list[Row]) -> dict[float, float]:
    """Searched learning rate -> mean validation error over the losses."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["part"] == "search":
            found.setdefault(row["training"]["learning_rate"], []).append(row["validation_error"])
    return {rate: float(np.mean(errors)) for rate, errors in found.items()}


def study_of(grid: Grid, trial: Trial) -> Study:
    """The study of a trial's model, trained and never released."""
    study = grid.study(Cell(trial.loss, 100, 0), "tuning", None, **trial.training)
    (loss,) = study.spec.losses
    choice = loss_choice(trial.entry())
    spec = replace(study.spec, losses=(replace(loss, name=choice.name, settings=choice.settings),))
    return Study(spec, study.workspace, weights=[], data=study.data)


def _row(grid: Grid, trial: Trial, part: str) -> Row:
    study = study_of(grid, trial)
    (model,) = study.spec.models()
    with study.run_of(model) as run:
        ensure_trained(run, model, grid.splits, study.workspace, [])
        if not run.has("validation attacks"):
            victim = victim_of(run, grid.splits, study.workspace)
            rows = [_attacked(grid, victim, entry) for entry in READINGS]
            run.write("validation attacks", {}, info={"rows": rows})
        return {
            "part": part,
            "loss": trial.loss,
            "own": dict(trial.own),
            "training": dict(trial.training),
            "validation_error": run.info("train")["validation_error"],
            "n_validation": len(grid.splits.validation),
            "attacks": run.info("validation attacks")["rows"],
        }


def _attacked(grid: Grid, victim: Victim, entry: Entry) -> Row:
    """Error and EERs of one attack on the first validation images."""
    (choice,) = attack_choices(entry)
    images = grid.splits.validation.take(slice(ATTACKED))
    clean = victim.outputs(images.load_all())
    made = perturb(choice.attack, victim, images, clean, lambda done: None)
    row: Row = {"attack": choice.choice.name, "eps": entry["eps"], "clip": entry["clip"], "n": len(images)}
    row["error_rate"] = float((made.outputs.predictions != images.labels).double().mean())
    for name in ("likelihood", "max-posterior"):
        fitted = catalog.load("detector", name)().fit(victim.head_in_float64(), clean, images.labels)
        with torch.no_grad():
            before, after = (fitted.score(o).double().cpu().numpy() for o in (clean, made.outputs))
        row[name] = metrics.roc(before, after).eer
    return row
