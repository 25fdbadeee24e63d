"""The rows of an attack: errors, undetected errors, rejections, with intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

import numpy as np
import torch
from torch import Tensor

from advbench import catalog, metrics
from advbench.detection import NO_DETECTOR, Guard, calibration, undetected_errors
from advbench.errors import BadSetting
from advbench.evasion import InMemory, check_eps, perturb_into
from advbench.evasion.art_attacks import PREFIX
from advbench.progress import Progress, Quiet
from advbench.runs import AdaptiveRow, Attacked, AttackRow, ModelRow
from advbench.study.spec import AttackChoice
from advbench.study.verify import counts
from advbench.types import Adversarials, ImageSet, Outputs, Splits, Streamed
from advbench.victim import Victim


@dataclass(frozen=True)
class AttackedModel:
    """A model under attack, and what all attacks on it share.

    clean     the model's outputs on the test part
    images    the test part
    guard     a detector at a false-positive rate, each fitted once
    progress  told of what is computed beside an attack
    """

    victim: Victim
    clean: Outputs
    images: ImageSet
    guard: Callable[[str, float | None], Guard]
    progress: Progress = field(default_factory=Quiet)

    @cached_property
    def fgsm(self) -> Callable[[float, bool, int | None], Outputs]:
        """Its outputs under FGSM at (eps, clip) on the first n test images, each computed once."""
        return cache(partial(_fgsm, self))

    def guard_of(self, choice: AttackChoice) -> Guard | None:
        """The detector that an attack is told of."""
        return None if choice.detector is None else self.guard(choice.detector, choice.fpr)


def check(choice: AttackChoice, splits: Splits) -> None:
    """Raise BadSetting where these parts have too few images for an attack, or too small ones for its eps."""
    if choice.fpr is not None:
        calibration.check_calibration(len(splits.calibration), choice.fpr, splits.calibration.name)
    if choice.n is not None and choice.n > len(splits.test):
        raise BadSetting(
            f"n = {choice.n} is more than the {len(splits.test)} test images of {splits.test.name}; "
            "leave --n out to attack them all"
        )
    check_eps(choice.attack.eps, choice.attack.norm, math.prod(splits.test.shape))


def _fgsm(attacked: AttackedModel, eps: float, clip: bool, n: int | None) -> Outputs:
    attack, images = catalog.load("attack", "fgsm")(eps=eps, clip=clip), attacked.images.take(slice(n))
    keeper = InMemory(images=False)
    with attacked.progress.bar(f"fgsm-eps{eps:g} beside it", len(images)) as advance:
        perturb_into(keeper, attack, attacked.victim, images, lambda done: advance(done, ""))
    return keeper.all_outputs()


def row_of(model: ModelRow, choice: AttackChoice, made: Adversarials, attacked: AttackedModel) -> AttackRow:
    """All that an attack did to a model. An ensemble's images, which are rounded, are those that it returned."""
    clean, guard, attack = attacked.clean.take(slice(len(made.labels))), attacked.guard_of(choice), choice.attack
    saved = attacked.victim.outputs(in_eight_bits(made.images))
    row = replace(effect(model, choice, made, clean), eight_bit_error_rate=_rate(saved.predictions != made.labels))
    if guard is None:
        return row
    fgsm = attacked.fgsm(attack.eps, attack.clip, choice.n) if attack.norm == "linf" else None
    rounded = _rate(undetected_errors(saved, made.labels, guard))
    return replace(evasion(row, choice.fpr, made, clean, guard, fgsm), eight_bit_undetected_error_rate=rounded)


def in_eight_bits(images: Tensor) -> Streamed:
    """The images once rounded to k / 255, a batch at a time."""
    c, h, w = images.shape[1:]
    return Streamed(lambda rows: (images[rows].clamp(0, 1) * 255).round() / 255, torch.arange(len(images)), (c, h, w))


def weakness(row: AttackRow) -> str:
    """A sentence where an attack of ART made nothing wrong, which says little of the model; else empty."""
    if not row.attack.startswith(PREFIX) or row.success_rate != 0:
        return ""
    return (
        f"{row.attack} at eps {row.eps:g} made no prediction wrong; its settings may be too weak: compare with pgd, "
        "or raise them by --set"
    )


def effect(model: ModelRow, choice: AttackChoice, made: Adversarials, clean: Outputs) -> AttackRow:
    """What an attack is, and what it did to the labels."""
    attack, settings = choice.attack, choice.settings
    own = Attacked(model=model, attack=choice.choice.name, settings=settings, norm=attack.norm, eps=attack.eps)
    return replace(counts(own, made, clean), implementation=made.implementation)


def evasion(
    row: AttackRow, fpr: float | None, made: Adversarials, clean: Outputs, guard: Guard, fgsm: Outputs | None
) -> AdaptiveRow:
    """The row of an adaptive attack on a guarded model.

    `clean` and `fgsm` are the model's outputs on the same images, as they were and after FGSM at the same eps.
    """
    lost = undetected_errors(made.outputs, made.labels, guard).numpy()
    spread, members = _interval(fpr, made, guard, lost), {}
    if made.member is not None:
        winners = np.bincount(made.member.numpy()[lost], minlength=len(made.members))
        members = {name: int(w) / len(lost) for name, w in zip(made.members, winners, strict=True)}
    return AdaptiveRow(
        **vars(row),
        detector=guard.name,
        fpr=fpr,
        threshold=None if guard.name == NO_DETECTOR else guard.threshold,
        undetected_error_rate=float(lost.mean()),
        undetected_error_low=spread.low,
        undetected_error_high=spread.high,
        rejected_rate=_rate(guard.rejects(made.outputs)),
        clean_rejected=_rate(guard.rejects(clean)),
        fgsm_undetected_error_rate=None if fgsm is None else _rate(undetected_errors(fgsm, made.labels, guard)),
        members=members,
    )


def _rate(mask: Tensor) -> float:
    return float(mask.double().mean())


def _interval(fpr: float | None, made: Adversarials, guard: Guard, lost: metrics.Mask) -> metrics.Interval:
    if guard.name == NO_DETECTOR or fpr is None:
        found = metrics.wilson(int(lost.sum()), len(lost))
        assert found is not None
        return found
    clean, scores = guard.clean_scores.numpy(), guard.score(made.outputs).numpy()
    wrong = (made.outputs.predictions != made.labels).numpy()
    return metrics.undetected(clean, scores, wrong, fpr, rng=np.random.default_rng(0))
