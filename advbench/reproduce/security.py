"""Ask the released models what `probes.plan` lists, and keep each answer as soon as it is there.

`security/<cell>.json` holds all that the page's rows and figures need: no run has to be on the machine. A row that
it holds for the same weights and settings is not computed again.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from advbench import metrics
from advbench.detection import NO_DETECTOR, calibration, undetected_errors
from advbench.errors import Damaged
from advbench.evasion import AdaptiveAttack
from advbench.reproduce import records
from advbench.reproduce.cells import Cell, chosen
from advbench.reproduce.grid import Grid
from advbench.reproduce.probes import Probe, plan
from advbench.reproduce.records import Record
from advbench.runs import artifacts, as_json, to_json, write_whole
from advbench.runs.environment import describe
from advbench.study.spec import AttackChoice
from advbench.study.study import Study
from advbench.types import Adversarials

Answer = dict[str, Any]
# gradients or queries at which a curve over them is read off
MARKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def ask(grid: Grid, names: list[str] | None, kept: Callable[[], object]) -> None:
    """Answer the probes that are `wanted`; `kept` is called after each new answer is on disk."""
    for probe in wanted(grid, names):
        grid.place.progress.say(f"{probe.cell.name}: {probe.part}, {probe.by} eps {probe.eps:g}, {probe.detector}")
        keep(grid, probe)
        kept()


def wanted(grid: Grid, names: list[str] | None) -> list[Probe]:
    """The probes of these cells (all where None) that have no answer and can have one: weights, attack are there."""
    cells, found = {cell.name for cell in chosen(names)}, []
    for probe in plan():
        if probe.cell.name in cells and grid.weights(probe.cell).exists() and probe.available:
            old = find(record_of(grid, probe.cell), probe)
            if old is None or old["settings"] != dict(choice_of(probe).choice.settings):
                found.append(probe)
    return found


def keep(grid: Grid, probe: Probe) -> None:
    """The probe's answer in its cell's record, in the place of an older one."""
    new, record = answer(grid, probe), record_of(grid, probe.cell)
    old = find(record, probe)
    record["rows"] = [row for row in record["rows"] if row is not old] + [new]
    write_whole(grid.security_file(probe.cell), to_json(record))


def record_of(grid: Grid, cell: Cell) -> Record:
    """The cell's record, or an empty one where there is none that speaks of the weights at hand."""
    file, weights = grid.security_file(cell), grid.weights_of(cell)
    if file.exists() and (found := records.read(file))["weights"] == weights:
        return found
    return {
        "schema": records.SCHEMA,
        "cell": {"loss": cell.loss, "dim": cell.dim, "seed": cell.seed},
        "weights": weights,
        "environment": describe("cpu"),
        "rows": [],
    }


def find(record: Record | None, probe: Probe) -> Answer | None:
    """The answer to a probe, or None."""
    rows = record["rows"] if record is not None else []
    return next((row for row in rows if row["asked"] == probe.asked), None)


def choice_of(probe: Probe) -> AttackChoice:
    """The probe's attack with all its settings."""
    (choice,) = probe.cell.spec({}, [probe.entry]).attacks
    return choice


def answer(grid: Grid, probe: Probe) -> Answer:
    """The probe's attack, run where its run does not hold it, and what it did to each image.

    lost, rejected, clean_rejected   a digit an image, 1 = wrong and accepted; the attacked, the clean one rejected
    found      share of the images lost within so many `MARKS` (gradients; queries of a gradient-free attack)
    spent      mean numbers of gradients and forward passes an image
    eight_bit  the same images rounded to 255ths, which can move a pixel by another 1/510
    """
    study = grid.study(probe.cell, "security", [probe.entry])
    with contextlib.suppress(Damaged):
        found = _answer(study, probe)
        if found is not None:  # others may be at work on the run
            return found
    study.attack()
    found = _answer(study, probe)
    assert found is not None
    return found


def _answer(study: Study, probe: Probe) -> Answer | None:
    """The same from what the run holds; None where it does not hold the attack."""
    (model,), (choice,) = study.spec.models(), study.attacks
    run = study.opened(model)
    if f"attack {choice.file_name}" not in run.steps:
        return None
    made = artifacts.read_adversarials(run, choice.file_name)
    clean = artifacts.read_part(run, "test").outputs.take(slice(len(made.labels)))
    guard = calibration.guard(run, probe.detector, probe.fpr)
    row = as_json(run.attack_row(choice.file_name))
    found: Answer = {
        "part": probe.part,
        "asked": probe.asked,
        "settings": dict(choice.choice.settings),
        "row": row,
        "seconds": run.seconds(f"attack {choice.file_name}"),
        "threshold": None if probe.detector == NO_DETECTOR else guard.threshold,
        "lost": digits(undetected_errors(made.outputs, made.labels, guard).numpy()),
        "rejected": digits(guard.rejects(made.outputs).numpy()),
        "clean_rejected": digits(guard.rejects(clean).numpy()),
    }
    if made.gradients is not None and made.forwards is not None:
        means = (float(passes.double().mean()) for passes in (made.gradients, made.forwards))
        found["spent"] = dict(zip(("gradients", "forwards"), means, strict=True))
    if isinstance(choice.attack, AdaptiveAttack) and probe.part != "rejection":
        found["found"] = curve(made)
        kinds = ("undetected_error_rate", "error_rate")
        found["eight_bit"] = {kind: row.get(f"eight_bit_{kind}") for kind in kinds}  # None: an older row
    return found


def digits(mask: metrics.Mask) -> str:
    """A digit an image."""
    return "".join("1" if one else "0" for one in mask)


def mask(text: str) -> metrics.Mask:
    """Bool [n] from `digits`."""
    found: metrics.Mask = np.array([one == "1" for one in text], dtype=bool)
    return found


def curve(made: Adversarials) -> dict[str, list[float]]:
    """Share of all images lost within so many gradients, or queries, of `MARKS`."""
    assert made.first_success is not None
    spent = made.first_success
    shares = [float(((spent >= 0) & (spent <= mark)).double().mean()) for mark in MARKS]
    return {"within": list(MARKS), "share": shares}
