"""Guard: a fitted detector with its threshold, which rejects what scores above."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from advbench.detection.base import FittedDetector
from advbench.errors import BadSetting, FailedCheck
from advbench.types import Outputs, margin, slices
from advbench.victim import straight_through

NO_DETECTOR = "none"  # the name under which an adaptive attack is told that there is none


@dataclass(frozen=True)
class Guard:
    """A fitted detector on duty: it rejects what scores above `threshold`."""

    name: str  # the detector's catalog name
    detector: FittedDetector
    threshold: float
    differentiable: bool  # whether an attack may differentiate its score
    clean: Outputs  # of the clean calibration images that the threshold comes from
    labels: Tensor  # of the same images

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
        found = Outputs(outputs.features.cpu(), outputs.logits.cpu(), assumed)
        parts = slices(max(1, len(found)), 8 * (found.features.shape[1] + found.logits.shape[1]))
        scores = torch.cat([self.detector.score(found.take(part)).double() for part in parts])
        if scores.isnan().any():
            raise FailedCheck(
                f"detector {self.name} gives NaN for {int(scores.isnan().sum())} of {len(scores)} images under "
                "attack; its log-likelihood must be a number or -inf"
            )
        return scores

    def slack(self, outputs: Outputs) -> Tensor:
        """How far below the threshold each score lies [n], float64, on the outputs' device; negative = rejected."""
        return (self.threshold - self.score(outputs)).to(outputs.logits.device)

    def rejects(self, outputs: Outputs) -> Tensor:
        """Bool [n], on the outputs' device: the score lies above the threshold."""
        return (self.score(outputs) > self.threshold).to(outputs.logits.device)

    def differentiable_score(self, outputs: Outputs) -> Tensor:
        """Scores [n] that carry a gradient, maybe a stand-in's; raises BadSetting or FailedCheck without one."""
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


def undetected_errors(outputs: Outputs, labels: Tensor, guard: Guard) -> Tensor:
    """Bool [n]: misclassified and not rejected, whose share is the undetected error rate."""
    return (outputs.predictions != labels) & ~guard.rejects(outputs)
