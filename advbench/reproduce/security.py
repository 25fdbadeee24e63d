"""Ask kept models what their experiment's probes list, and keep each answer as soon as it is there.

`security/<model>.json` holds all that the page's rows and figures need: no run has to be on the machine. A row that
it holds for the same weights and settings is not computed again.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from advbench import catalog
from advbench.detection import calibration, undetected_errors
from advbench.errors import Damaged
from advbench.evasion import AdaptiveAttack
from advbench.reproduce.experiment import MARKS, Probe
from advbench.reproduce.models import Reproduction
from advbench.reproduce.records import Answer, Curve, PaperModel, SecurityRecord, read, write
from advbench.reproduce.rows import answer_to
from advbench.runs import Run, artifacts
from advbench.runs.environment import describe
from advbench.runs.rows import AdaptiveRow
from advbench.study.spec import AttackChoice
from advbench.types import Adversarials


def ask(book: Reproduction, names: Sequence[str] | None, kept: Callable[[], object]) -> None:
    """Answer the probes that are `wanted`; `kept` is called after each new answer is on disk."""
    for probe in wanted(book, names):
        asked, who = probe.asked, f"{probe.model.name}: {probe.part}, {probe.by}"
        book.place.progress.say(f"{who} eps {asked.eps:g}, {asked.detector}")
        keep(book, probe)
        kept()


def wanted(book: Reproduction, names: Sequence[str] | None) -> list[Probe]:
    """The probes of these models (all where None) that have no answer and can have one: weights, attack are there."""
    models, there, found = book.experiment.chosen(names), catalog.names("attack"), []
    for probe in book.experiment.probes:
        if probe.model in models and probe.asked.attack in there and book.weights(probe.model).exists():
            old = answer_to(probe, record_for(book, probe.model))
            (choice,) = book.experiment.spec(probe.model, [probe.entry]).attacks
            if old is None or old.settings != choice.choice.settings:
                found.append(probe)
    return found


def keep(book: Reproduction, probe: Probe) -> None:
    """The probe's answer in its model's record, in the place of an older one."""
    new, record = answer(book, probe), record_for(book, probe.model)
    others = (row for row in record.rows if row.asked != new.asked)
    write(book.file("security", probe.model), replace(record, rows=(*others, new)))


def record_for(book: Reproduction, model: PaperModel) -> SecurityRecord:
    """The model's record, or an empty one where there is none that speaks of the weights at hand."""
    file, weights = book.file("security", model), book.weights_of(model)
    if file.exists() and (found := read(SecurityRecord, file)).weights == weights:
        return found
    return SecurityRecord(model, weights, describe("cpu"), ())


def answer(book: Reproduction, probe: Probe) -> Answer:
    """The probe's attack, run where its run does not hold it, and what it did to each image."""
    study = book.study(probe.model, "security", [probe.entry])
    (model,), (choice,) = study.spec.models(), study.attacks
    with contextlib.suppress(Damaged):
        run = study.opened(model)
        if f"attack {choice.file_name}" in run.steps:  # others may be at work on the run
            return _answer(run, choice, probe)
    study.attack()
    return _answer(study.opened(model), choice, probe)


def _answer(run: Run, choice: AttackChoice, probe: Probe) -> Answer:
    made = artifacts.read_adversarials(run, choice.file_name)
    clean = artifacts.read_part(run, "test").outputs.take(slice(len(made.labels)))
    guard = calibration.guard(run, probe.asked.detector, probe.asked.fpr)
    row, curve, eight_bit = run.attack_row(choice.file_name), None, None
    passes = {"gradients": made.gradients, "forwards": made.forwards}
    spent = {what: float(each.double().mean()) for what, each in passes.items() if each is not None} or None
    if isinstance(choice.attack, AdaptiveAttack) and probe.part != "rejection":
        undetected = row.eight_bit_undetected_error_rate if isinstance(row, AdaptiveRow) else None
        curve = curve_of(made)
        eight_bit = {"undetected_error_rate": undetected, "error_rate": row.eight_bit_error_rate}
    masks = undetected_errors(made.outputs, made.labels, guard), guard.rejects(made.outputs), guard.rejects(clean)
    lost, rejected, clean_rejected = ("".join("1" if one else "0" for one in mask) for mask in masks)
    threshold = None if probe.asked.fpr is None else guard.threshold
    own, seconds = dict(choice.choice.settings), run.seconds(f"attack {choice.file_name}")
    asked = probe.part, probe.asked, own, row, seconds, threshold
    return Answer(*asked, lost, rejected, clean_rejected, spent, curve, eight_bit)


def curve_of(made: Adversarials) -> Curve:
    """Share of all images lost within so many gradients, or queries, of `MARKS`."""
    assert made.first_success is not None
    spent = made.first_success
    return Curve(MARKS, tuple(float(((spent >= 0) & (spent <= mark)).double().mean()) for mark in MARKS))
