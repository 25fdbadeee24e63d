"""Attack a model in memory and hand the results to the checks, by the code that evaluates stored runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from advbench import catalog, metrics
from advbench.audit.evidence import Evidence
from advbench.audit.results import Result
from advbench.detection import DEFAULT_FPR, NO_DETECTOR, AcceptAll, FittedDetector, Guard, score
from advbench.errors import MissingLibrary
from advbench.evasion import perturb
from advbench.runs import AttackRow, ModelRow, VerifyRow
from advbench.runs.artifacts import Part
from advbench.study.attack_rows import AttackedModel, row_of
from advbench.study.parsing import attack_choices
from advbench.study.spec import AttackChoice
from advbench.study.verify import rows_of
from advbench.types import Adversarials, Outputs, Splits
from advbench.victim import Victim


@dataclass(frozen=True)
class CanaryModel:
    """A model under test with its detector on duty."""

    model: ModelRow
    victim: Victim
    detector: FittedDetector
    name: str  # the detector's
    differentiable: bool = True  # its score has a gradient


def model_row(loss: str, seed: int, training: str = "standard", run: str = "in memory") -> ModelRow:
    """The fields that say which model a row is about."""
    of_loss: dict[str, Any] = dict.fromkeys(("alpha", "lam", "covariance"))
    if loss == "lgm":
        of_loss = {"alpha": 1.0, "lam": 0.1, "covariance": "identity"}
    return ModelRow(dataset="digits", loss=loss, seed=seed, training=training, run=run, **of_loss)


def evaluate(
    subject: CanaryModel,
    splits: Splits,
    entries: Sequence[dict[str, Any]],
    *,
    surrogate: Victim | None = None,
    verified: Sequence[str] = (),
) -> Evidence:
    """The evidence of these attacks (entries as in a spec, each with its n) on a subject, `verified` ones scored."""
    victim = subject.victim
    clean = victim.outputs(splits.test.load_all())
    calibration = victim.outputs(splits.calibration.load_all()), splits.calibration.labels

    @cache
    def guard(name: str, fpr: float | None) -> Guard:
        if name == NO_DETECTOR or fpr is None:
            return Guard(NO_DETECTOR, AcceptAll(), 1.0, False, *calibration)
        threshold = metrics.threshold_at(fpr, score(name, subject.detector, calibration[0], "calibration"))
        assert threshold is not None
        return Guard(name, subject.detector, threshold, subject.differentiable, *calibration)

    target, results = AttackedModel(victim, clean, splits.test, guard), []
    for choice in (choice_of(**entry) for entry in entries):
        if choice is None:
            continue
        images, on = splits.test.take(slice(choice.n)), target.guard_of(choice)
        made = perturb(choice.attack, victim, images, clean, lambda done: None, on, surrogate)
        results.append(result_of(row_of(subject.model, choice, made, target), made))
    part = Part(clean, splits.test.labels, splits.test.load_all()[:8])
    words = ("attack", "--dataset", "digits", "--loss", str(subject.model.loss), "--seed", str(subject.model.seed))
    scored = (r for r in results if r.row.attack in verified)
    rows = [row for r in scored for row in verify_rows(r, guard(subject.name, DEFAULT_FPR), clean)]
    evidence = Evidence(subject.model, words, tuple(results), tuple(rows), part, (subject.name,), guard)
    return replace(evidence, victim=lambda: victim, images=splits.test)


def choice_of(name: str, detector: str | None = None, **settings: Any) -> AttackChoice | None:
    """The attack of an entry; None where its library cannot be imported."""
    if lacking(name):
        return None
    known = {} if detector is None else {"detector": NO_DETECTOR}
    (choice,) = attack_choices({"name": name, **settings, **known})
    own = detector not in (None, NO_DETECTOR)
    return replace(choice, detector=detector, fpr=DEFAULT_FPR) if own else choice


def lacking(attack: str) -> bool:
    """Whether the library of an attack cannot be imported."""
    try:
        catalog.load("attack", attack)
    except MissingLibrary:
        return True
    return False


def result_of(row: AttackRow, made: Adversarials) -> Result:
    """A result that is in memory already."""
    return Result(row, lambda: made)


def verify_rows(result: Result, guard: Guard, clean: Outputs) -> list[VerifyRow]:
    """The verify rows of one result and detector."""
    made, before = result.made, clean.take(slice(result.row.n))
    usual, clear, moved = (guard.score(outputs).numpy() for outputs in (guard.clean, before, made.outputs))
    groups = metrics.populations((before.predictions == made.labels).numpy(), made.succeeded.numpy())
    return rows_of(result.row, guard.name, usual, clear, moved, groups)
