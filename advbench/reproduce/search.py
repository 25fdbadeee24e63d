"""What was tried on the validation part: the search for the common settings, and how EERs depend on settings.

The search looks at validation errors alone. The sensitivity tables look at attacks on validation images and choose
nothing; no figure here touches a test image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from advbench import catalog, metrics
from advbench.evasion import perturb
from advbench.reproduce.experiment import Entry, Search
from advbench.reproduce.models import Reproduction
from advbench.reproduce.records import PaperModel, Trial, TrialRow, Trials, read, write
from advbench.study.parsing import attack_choices, loss_choice
from advbench.study.study import Study
from advbench.study.train import ensure_trained, victim_of
from advbench.victim import Victim

FILE = "tuning.json"
Part = Literal["search", "sensitivity"]
Train = Callable[[Sequence[Trial]], object]


def tune(book: Reproduction, train: Train = lambda trials: None) -> list[TrialRow]:
    """Every trial trained, and attacked on validation images: its rows, kept in tuning.json.

    `train` may train what is missing of a part beforehand; what it leaves is trained here.
    """
    search = book.experiment.search
    if search is None:
        return []
    return bring_on(search, book.home / FILE, lambda trial, part: _row(book, search, trial, part), train)


def bring_on(
    search: Search, file: Path, make: Callable[[Trial, Part], TrialRow], train: Train = lambda trials: None
) -> list[TrialRow]:
    """The rows of every trial, in order: those in `file` as they are, the others made.

    `file` is written after each row made, so that the trials can be continued elsewhere with nothing but it.
    """
    kept = rows_in(file)

    def rows_of(trials: Iterable[Trial], part: Part) -> list[TrialRow]:
        trials = list(trials)
        found = [next((r for r in kept if r.part == part and r.trial == trial), None) for trial in trials]
        train([trial for trial, row in zip(trials, found, strict=True) if row is None])
        for i, trial in enumerate(trials):
            if found[i] is None:
                found[i] = made = make(trial, part)
                kept.append(made)
                write(file, Trials(tuple(kept)))
        return [row for row in found if row is not None]

    tried = rows_of(search.trials, "search")
    means = mean_errors(tried)
    rows = tried + rows_of(search.varied(min(means, key=lambda r: means[r])), "sensitivity")
    if rows != kept:
        write(file, Trials(tuple(rows)))
    return rows


def rows_in(file: Path) -> list[TrialRow]:
    """The rows of tuning.json; none where it does not exist."""
    return list(read(Trials, file).rows) if file.exists() else []


def mean_errors(rows: Iterable[TrialRow]) -> dict[float, float]:
    """Searched learning rate -> mean validation error over the losses."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row.part == "search":
            found.setdefault(row.trial.training["learning_rate"], []).append(row.validation_error)
    return {rate: float(np.mean(errors)) for rate, errors in found.items()}


def study_of(book: Reproduction, trial: Trial) -> Study:
    """The study of a trial's model, trained and never released."""
    study = book.study(PaperModel(trial.loss, 100, 0), "tuning", **trial.training)
    (loss,) = study.spec.losses
    choice = loss_choice({"name": loss.name, **loss.settings, **trial.own})
    spec = replace(study.spec, losses=(replace(loss, name=choice.name, settings=choice.settings),))
    return Study(spec, study.workspace, weights=[], data=study.data)


def _row(book: Reproduction, search: Search, trial: Trial, part: Part) -> TrialRow:
    study = study_of(book, trial)
    (model,) = study.spec.models()
    with study.run_of(model) as run:
        ensure_trained(run, model, book.data.splits, study.workspace, [])
        if not run.has("validation attacks"):
            victim = victim_of(run, book.data.splits, study.workspace)
            rows = [_attacked(book, victim, entry, search.n) for entry in search.attacks]
            run.write("validation attacks", {}, info={"rows": rows})
        error, attacks = run.info("train")["validation_error"], tuple(run.info("validation attacks")["rows"])
        return TrialRow(part, trial, error, len(book.data.splits.validation), attacks)


def _attacked(book: Reproduction, victim: Victim, entry: Entry, n: int) -> dict[str, Any]:
    """Error and EERs of one attack on the first validation images."""
    (choice,) = attack_choices(entry)
    images = book.data.splits.validation.take(slice(n))
    clean = victim.outputs(images.load_all())
    made = perturb(choice.attack, victim, images, clean, lambda done: None)
    settings = choice.choice.settings
    row = {"attack": choice.choice.name, "eps": settings["eps"], "clip": settings["clip"], "n": len(images)}
    row["error_rate"] = float((made.outputs.predictions != images.labels).double().mean())
    for name in book.experiment.detectors:
        fitted = catalog.load("detector", name)().fit(victim.head_in_float64(), clean, images.labels)
        with torch.no_grad():
            before, after = (fitted.score(o).double().cpu().numpy() for o in (clean, made.outputs))
        row[name] = metrics.roc(before, after).eer
    return row
