"""Forced rejection: a small perturbation that makes the detector reject an image it should accept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion import Criterion, GradientEvasion, Objective, Rejected, RejectionObjective
from advbench.types import Outputs


@dataclass(frozen=True, kw_only=True)
class ForceRejection(GradientEvasion):
    """Maximises the detector's score by Auto-PGD until it passes the threshold; the label does not matter.

    What rejection costs (Chen et al. 2023, arXiv:2305.01139): a detector that a perturbation of a fraction of eps
    makes reject trades one denial for another. Needs a score with a gradient, or a stand-in.
    steps, restarts   as in `apgd`
    """

    eps: float = 0.1
    steps: int = 40
    restarts: int = 1
    samples: int = 1
    targets: ClassVar[int] = 0  # type: ignore[misc]

    def criterion(self, labels: Tensor, guard: Guard) -> Criterion:
        """Rejected."""
        return Rejected(labels, guard)

    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:  # noqa: ARG002
        """One: the score."""
        return [RejectionObjective(guard)]
