"""What a plug-in attack or detector must offer."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advbench.errors import BadSetting, FailedCheck
from advbench.geometry import Ball, Norm
from advbench.losses import Head
from advbench.objectives import margin
from advbench.types import Outputs, Perturbed
from advbench.victim import Victim, straight_through

COUNTS = {"steps": 1, "restarts": 1, "samples": 1, "queries": 1, "targets": 0}  # an attack's, and the least of each


class AttackSettings(ABC):
    """What `Attack` and `AdaptiveAttack` share: a frozen dataclass with keyword-only fields, all with defaults.

    norm         the norm in which eps bounds the perturbation
    targeted     whether it has targets, so that success = target reached
    differentiates  whether it asks the model for gradients; what asks only for outputs says no
    independent  whether an image's result is free of the images beside it and its randomness all from its seed
    eps          pixel units of [0, 1]: 8/255 is eight grey levels
    clip         whether results are kept inside [0, 1]
    samples      forward and backward passes averaged into one gradient (EoT, Athalye et al. 2018,
                 arXiv:1802.00420); a model with random outputs needs more than 1

    An eps out of range is refused with BadSetting, and so is a number below the least in COUNTS.
    """

    norm: Norm = "linf"
    targeted: ClassVar[bool] = False
    differentiates: ClassVar[bool] = True
    independent: ClassVar[bool] = True
    eps: float
    clip: bool
    samples: int = 1

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        for name, least in COUNTS.items():
            value = getattr(self, name, least)
            if isinstance(value, int) and value < least:
                raise BadSetting(f"{name} = {value} is out of range; it must be at least {least}")

    @property
    def passes(self) -> int:
        """Forward and backward passes that an image may take, about: a bar starts from it and learns."""
        names = ("steps", "restarts", "samples", "targets", "sweep", "queries", "max_iter", "binary_search_steps")
        return int((1 + self.differentiates) * math.prod(getattr(self, name, 1) or 1 for name in names))

    @property
    def ball(self) -> Ball:
        """Where its results may lie."""
        return Ball(self.norm, self.eps, self.clip)

    def check(self, victim: Victim) -> None:
        """Refuse a model that this attack cannot be trusted on; every `perturb` may rely on it having passed.

        Raises BadSetting for an eps beyond the largest distance between two images, a model in training mode,
        and random outputs where the attack takes no more than one sample of them.
        """
        check_eps(self.eps, self.norm, math.prod(victim.shape))
        if any(getattr(module, "training", False) for module in victim.model.modules()):
            raise BadSetting("the model is in training mode, where it is not the one that was tested; call .eval()")
        if self.samples < 2 and victim.stochastic:
            raise BadSetting(
                "two passes over one image differ: the model is stochastic, and one gradient of it means little; "
                "use an attack with samples (EoT), for example: --attack pgd --set samples=20"
            )


class Attack(AttackSettings):
    """An attack that knows the model and nothing of any detector."""

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """Perturb one batch: images float32 [n c h w] in [0, 1], labels and seeds int64 [n], on the CPU.

        The input stays untouched, the victim's mode and weights too. An image's result does not depend on the
        images beside it; all randomness comes from its seed (but see `independent`).
        """


class FittedDetector(ABC):
    """A detector after `fit`: an immutable record that scores outputs.

    A score about the predicted class takes it from `outputs.predictions`, which `outputs.assumed` replaces; a score
    of the outputs as a whole does not depend on `assumed`.
    """

    @abstractmethod
    def score(self, outputs: Outputs) -> Tensor:
        """Suspicion [n], float64, higher = more suspicious: a negated log-likelihood; +inf is allowed.

        Torch operations only, so that an attack can differentiate it in `outputs`, unless the detector says
        `differentiable = False`.
        """

    def stand_in(self, outputs: Outputs) -> Tensor | None:  # noqa: ARG002
        """A differentiable function [n] whose gradient an attack may take for the score's (BPDA); None = none.

        For a detector that is not differentiable; the score itself stays what is compared with the threshold.
        """
        return None


FittedOn = Literal["outputs", "head", "nothing"]
NO_DETECTOR = "none"  # the name under which an adaptive attack is told that there is none


class Detector(ABC):
    """A detector with its settings: a frozen dataclass.

    fitted_on   what it learns from: the training part's "outputs", the "head" of a model trained here, or "nothing"
    """

    differentiable: ClassVar[bool] = True
    fitted_on: ClassVar[FittedOn] = "outputs"

    @abstractmethod
    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedDetector:
        """A fitted record from the model's head and its outputs and labels on the training part.

        `head` is None for a model that was not trained here, which only a detector fitted on the head refuses.
        """


@dataclass(frozen=True)
class Guard:
    """A fitted detector on duty: it rejects what scores above `threshold`.

    name            the detector's catalog name
    differentiable  whether an attack may differentiate its score
    clean, labels   outputs and labels of the clean calibration images that the threshold comes from
    """

    name: str
    detector: FittedDetector
    threshold: float
    differentiable: bool
    clean: Outputs
    labels: Tensor

    @cached_property
    def has_gradient(self) -> bool:
        """Whether an attack can follow the score: it is differentiable, or has a stand-in."""
        return self.differentiable or self.detector.stand_in(self.clean.take(slice(1))) is not None

    @cached_property
    def clean_scores(self) -> Tensor:
        """Scores [m] of the clean calibration images, float64, on the CPU."""
        with torch.no_grad():
            return self.score(self.clean)

    @cached_property
    def spread(self) -> float:
        """Interquartile range of the clean scores: the unit of a score (1 where it is 0 or infinite)."""
        low, high = torch.quantile(self.clean_scores, torch.tensor([0.25, 0.75], dtype=torch.float64))
        return _unit(float(high - low))

    @cached_property
    def typical_margin(self) -> float:
        """Median lead of the true class over the best other, in logits, on the clean images: the unit of a margin."""
        return _unit(float(-margin(self.clean.logits, self.labels).median()))

    def score(self, outputs: Outputs) -> Tensor:
        """Scores [n], float64, on the CPU; raises FailedCheck where one is NaN."""
        assumed = None if outputs.assumed is None else outputs.assumed.cpu()
        scores = self.detector.score(Outputs(outputs.features.cpu(), outputs.logits.cpu(), assumed)).double()
        if scores.isnan().any():
            raise FailedCheck(
                f"detector {self.name} gives NaN for {int(scores.isnan().sum())} of {len(scores)} images under "
                "attack; its log-likelihood must be a number or -inf"
            )
        return scores

    def slack(self, outputs: Outputs) -> Tensor:
        """How far below the threshold each score lies [n], float64, on the outputs' device; negative = rejected."""
        return (self.threshold - self.score(outputs)).to(outputs.logits.device)

    def differentiable_score(self, outputs: Outputs) -> Tensor:
        """Scores [n] that carry a gradient: the detector's own, or its stand-in's.

        Raises BadSetting for a detector that has neither, FailedCheck for one that claims a gradient and has none.
        """
        scores = self.score(outputs)
        if not self.differentiable:
            stand_in = self.detector.stand_in(outputs)
            if stand_in is None:
                raise BadSetting(
                    f"detector {self.name} has no gradient and no stand-in for one; attack it with detector-square"
                )
            scores = straight_through(scores, stand_in.double().cpu())
        if not scores.requires_grad:
            raise FailedCheck(
                f"detector {self.name} says it is differentiable, but its score carries no gradient; score in torch "
                "operations, or declare differentiable = False"
            )
        return scores.to(outputs.logits.device)


class AcceptAll(FittedDetector):
    """No detector: nothing is suspicious. An attack against it is one on the classifier alone."""

    def score(self, outputs: Outputs) -> Tensor:
        """Zeros [n]."""
        return torch.zeros(len(outputs), dtype=torch.float64)


def _unit(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 1.0


class AdaptiveAttack(AttackSettings):
    """An attack that also knows a detector and its threshold (Tramer et al. 2020, arXiv:2002.08347).

    Success = misclassified and not rejected.
    """

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """As `Attack.perturb`, against `guard` too."""


def check_eps(eps: float, norm: Norm = "linf", pixels: int | None = None) -> None:
    """Refuse an eps outside (0, 1] (L-inf) or (0, sqrt(pixels)] (L2; no upper end where pixels is None)."""
    top = 1.0 if norm == "linf" else math.inf if pixels is None else pixels**0.5
    if not 0 < eps <= top or math.isinf(eps):
        raise BadSetting(
            f"eps = {eps!r} is outside (0, {top:g}]; images are scaled to [0, 1], so write 8/255 for eight grey "
            "levels (the clean error, eps 0, stands in every row)"
        )


class FromSurrogate(AttackSettings):
    """An attack made on another model of the same data set, the surrogate, and only tried on the victim.

    source   the loss that the surrogate is trained with: standard training, seed 0, that loss's default settings,
             otherwise trained as the victim is, less what the data set's recipe changes for adversarial training
    """

    source: str

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, surrogate: Victim) -> Perturbed:
        """As `Attack.perturb`; gradients, passes and zero gradients are those of `surrogate`."""
