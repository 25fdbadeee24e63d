"""What was tried on the validation part: the search for the common settings, and how EERs depend on settings.

The search looks at validation errors alone. The sensitivity tables look at attacks on validation images and choose
nothing; no figure here touches a test image.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from advbench import catalog, metrics
from advbench.evasion import perturb
from advbench.recipes import Training
from advbench.reproduce.experiment import Entry, Search
from advbench.reproduce.models import Reproduction
from advbench.reproduce.records import PaperModel, Trial, TrialRow, Trials, read, write
from advbench.runs.manifest import TrainingInfo
from advbench.study.parsing import attack_choices
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

    def held(part: Part, trial: Trial) -> TrialRow | None:
        return next((row for row in kept if (row.part, row.trial) == (part, trial)), None)

    def rows_of(part: Part, trials: Sequence[Trial]) -> list[TrialRow]:
        train([trial for trial in trials if held(part, trial) is None])
        for trial in trials:
            if held(part, trial) is None:
                kept.append(make(trial, part))
                write(file, Trials(tuple(kept)))
        return [row for trial in trials if (row := held(part, trial)) is not None]

    tried = rows_of("search", search.trials)
    means = mean_errors(tried)
    rows = tried + rows_of("sensitivity", search.varied(min(means, key=means.__getitem__)))
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
            found.setdefault(Training(**row.trial.training).learning_rate, []).append(row.validation_error)
    return {rate: float(np.mean(errors)) for rate, errors in found.items()}


def study_of(book: Reproduction, trial: Trial) -> Study:
    """The study of a trial's model."""
    return book.study(PaperModel(trial.loss, 100, 0), "tuning", own=trial.own, **trial.training)


def _row(book: Reproduction, search: Search, trial: Trial, part: Part) -> TrialRow:
    study, step = study_of(book, trial), "validation attacks"
    (model,) = study.spec.models()
    with study.run_of(model) as run:
        ensure_trained(run, model, book.data.splits, study.workspace, [])
        if not run.has(step):
            victim = victim_of(run, book.data.splits, study.workspace)
            run.write(step, {}, info={"rows": [_attacked(book, victim, entry, search.n) for entry in search.attacks]})
        (attacks,) = run.info(step).values()
        error = run.noted(TrainingInfo).validation_error
        return TrialRow(part, trial, error, len(book.data.splits.validation), tuple(attacks))


def _attacked(book: Reproduction, victim: Victim, entry: Entry, n: int) -> dict[str, Any]:
    """Error and EERs of one attack on the first validation images."""
    (choice,) = attack_choices(entry)
    images = book.data.splits.validation.take(slice(n))
    clean = victim.outputs(images.load_all())
    made = perturb(choice.attack, victim, images, clean, lambda done: None)
    row = {"attack": choice.choice.name, "eps": choice.attack.eps, "clip": choice.attack.clip, "n": len(images)}
    row["error_rate"] = float((made.outputs.predictions != images.labels).double().mean())
    for name in book.experiment.detectors:
        fitted = catalog.load("detector", name)().fit(victim.head_in_float64(), clean, images.labels)
        with torch.no_grad():
            before, after = (fitted.score(o).double().cpu().numpy() for o in (clean, made.outputs))
        row[name] = metrics.roc(before, after).eer
    return row
