"""Objectives that attacks maximise: the classifier's, the detector's, and both together.

An objective's value need not agree with the success margin of `criteria`. It holds tensors over a whole batch and is
asked about some `rows` of it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.detection import Guard
from advbench.errors import FailedCheck
from advbench.evasion.logit_objectives import ObjectiveName, objective
from advbench.types import Outputs, margin, without_class


def gradient_of(values: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    """Gradient [b c h w] of each image's own value [b]; `again` keeps the graph for another one.

    Where it is NaN or infinite there is nothing to follow, and it is zero; `SearchState` counts such images.
    """
    if values.isnan().any():
        raise FailedCheck("the attack's objective is NaN; the model's outputs must be numbers")
    (gradient,) = torch.autograd.grad(values.sum(), x, retain_graph=again)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


class Objective(ABC):
    """What an attack maximises; `backwards` = backward passes that one gradient costs."""

    backwards: int = 1

    @abstractmethod
    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Float64 [b], with their graph."""

    def gradient(self, outputs: Outputs, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values [b] and the ascent direction [b c h w]: by default the values' gradient in `x`."""
        values = self.values(outputs, rows)
        return values.detach(), gradient_of(values, x)


@dataclass(frozen=True)
class ClassifierObjective(Objective):
    """An objective on the logits at the labels [n], or towards targets [n]; no detector."""

    objective: ObjectiveName
    labels: Tensor
    targets: Tensor | None = None

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """The objective."""
        targets = None if self.targets is None else self.targets[rows]
        return objective(self.objective, outputs.logits, self.labels[rows], targets)


@dataclass(frozen=True)
class EvasionObjective(ClassifierObjective):
    """Base of the objectives against a guard too, which is asked as if the wrong class were predicted already.

    That class is the target, or without targets the best other one: the score of the true class would hold an image
    back on its own side.
    """

    guard: Guard | None = None  # dataclass order: never None

    def slack(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """The score's distance below the threshold [b], with its graph."""
        assert self.guard is not None
        if self.targets is None:
            assumed = without_class(outputs.logits.detach(), self.labels[rows]).argmax(dim=1)
        else:
            assumed = self.targets[rows]
        heading = Outputs(outputs.features, outputs.logits, assumed)
        return self.guard.threshold - self.guard.differentiable_score(heading)

    def misclassified(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Bool [b]: another class's logit is above that of the label."""
        return margin(outputs.logits.detach(), self.labels[rows]) > 0


@dataclass(frozen=True)
class JointObjective(EvasionObjective):
    """`f / F + lam * g / G`: objective and slack, each in the unit of clean images (Carlini and Wagner 2017).

    F is the median clean margin (1 for dlr, which is a ratio), G the interquartile range of the clean scores.
    """

    lam: float = 1.0

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Float64 [b]; larger = nearer to misclassified and accepted."""
        assert self.guard is not None
        unit = 1.0 if self.objective == "dlr" else self.guard.typical_margin
        f = super().values(outputs, rows) / unit
        return f + self.lam * self.slack(outputs, rows) / self.guard.spread


@dataclass(frozen=True)
class SelectiveObjective(EvasionObjective):
    """The objective until the image is misclassified, then the slack (Bryniarski et al. 2021, sec. 4.1)."""

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Whichever constraint is not met yet; the classifier's comes first."""
        return torch.where(
            self.misclassified(outputs, rows), self.slack(outputs, rows), super().values(outputs, rows)
        )


@dataclass(frozen=True)
class OrthogonalObjective(SelectiveObjective):
    """Selective, along the part of its gradient that is orthogonal to the other's where the two conflict.

    As ibid., sec. 4.2, but for two cases in which the projection would only stall the attack: gradients that agree
    are not projected (cf. Yu et al. 2020, arXiv:2001.06782), and while the label is right, neither is an objective
    of which the projection would leave less than `LEAST`.
    """

    backwards: int = 2

    def gradient(self, outputs: Outputs, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values of `SelectiveObjective`, and the projected gradient."""
        f, g = ClassifierObjective.values(self, outputs, rows), self.slack(outputs, rows)
        of_f, of_g = gradient_of(f, x, again=True), gradient_of(g, x)
        misclassified = self.misclassified(outputs, rows)
        chosen = misclassified[:, None, None, None]
        follow, leave = torch.where(chosen, of_g, of_f), torch.where(chosen, of_f, of_g)
        least = torch.where(misclassified, ROUNDING, LEAST)
        return torch.where(misclassified, g, f).detach(), orthogonal_part(follow, leave, least)


LEAST = 0.5  # share of an objective's gradient: max-posterior's score all but opposes it, and no image would be won
ROUNDING = 1e-6  # what is left of opposite gradients


def orthogonal_part(follow: Tensor, leave: Tensor, least: Tensor) -> Tensor:
    """`a - (a.b / b.b) b` for each image where `a.b < 0`, in float64; a itself elsewhere.

    a itself also where not more than `least` [b] of its length would be left.
    """
    a, b = follow.flatten(1).double(), leave.flatten(1).double()
    dot = (a * b).sum(dim=1)
    rest = a - (dot / b.square().sum(dim=1).clamp(min=1e-300))[:, None] * b
    whole = (dot >= 0) | (rest.norm(dim=1) <= least * a.norm(dim=1))
    return torch.where(whole[:, None], a, rest).to(follow.dtype).view_as(follow)


@dataclass(frozen=True)
class RejectionObjective(Objective):
    """The detector's score."""

    guard: Guard

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:  # noqa: ARG002
        """Suspicion."""
        return self.guard.differentiable_score(outputs)


@dataclass(frozen=True)
class FeatureObjective(Objective):
    """`-||phi(x) - phi(r)||^2 / 2` to the features [n d] of a reference image of each (Sabour et al. 2016)."""

    references: Tensor

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Minus half the squared distance."""
        return -(outputs.features.double() - self.references[rows].double()).square().sum(dim=1) / 2


@dataclass(frozen=True)
class ViolationObjective(Objective):
    """`min(margin, 0) / F + min(slack, 0) / G`: 0 where both constraints are met; units as in `JointObjective`."""

    labels: Tensor
    guard: Guard

    def values(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """How far short of success each image is, as a number that is at most 0; needs no gradient."""
        wrong = margin(outputs.logits, self.labels[rows]) / self.guard.typical_margin
        return wrong.clamp(max=0) + (self.guard.slack(outputs) / self.guard.spread).clamp(max=0)
