"""What counts as an attack's success: misclassified, misclassified and not rejected, or rejected."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.detection import Guard
from advbench.types import Outputs, margin

# Success is claimed only TOLERANCE inside the threshold: features of another batch differ in their seventh digit.
TOLERANCE = 1e-5


class Criterion(ABC):
    """What counts as success; `labels` int64 [n] are the true ones."""

    labels: Tensor

    @abstractmethod
    def success_margin(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """How far inside success each image is [b], float64; positive = success."""

    def misclassified(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Bool [b]: another class's logit is above that of the label."""
        return margin(outputs.logits, self.labels[rows]) > 0


@dataclass(frozen=True)
class Misclassified(Criterion):
    """Another class's logit is above that of the label [n]."""

    labels: Tensor

    def success_margin(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """The margin of the best other class."""
        return margin(outputs.logits, self.labels[rows])


@dataclass(frozen=True)
class Undetected(Criterion):
    """Misclassified, and not rejected by the guard."""

    labels: Tensor
    guard: Guard

    def success_margin(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """The lesser of the margin and the score's distance below the threshold."""
        slack = self.guard.slack(outputs) - TOLERANCE * max(1.0, abs(self.guard.threshold))
        return torch.minimum(margin(outputs.logits, self.labels[rows]), slack)


@dataclass(frozen=True)
class Rejected(Criterion):
    """Rejected by the guard, whatever its class."""

    labels: Tensor
    guard: Guard

    def success_margin(self, outputs: Outputs, rows: Tensor) -> Tensor:  # noqa: ARG002
        """How far the score lies above the threshold."""
        return -self.guard.slack(outputs) - TOLERANCE * max(1.0, abs(self.guard.threshold))
