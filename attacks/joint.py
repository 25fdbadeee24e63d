"""Joint attack: maximises the sum of misclassification and a detector's score, over a sweep of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Guard
from advbench.errors import BadSetting
from advbench.evasion import GradientEvasion, JointObjective, Objective, ObjectiveName
from advbench.types import Outputs

WEIGHTS = (1.0, 0.1, 10.0, 0.01, 100.0)


@dataclass(frozen=True, kw_only=True)
class Joint(GradientEvasion):
    """`f / F + lambda g / G` by Auto-PGD (Carlini and Wagner 2017, arXiv:1705.07263).

    f is the objective, g the distance of the score below the threshold; F and G are their sizes on clean images
    (`JointObjective`), so that one sweep fits every detector.
    sweep      how many of the weights lambda 1, 0.1, 10, 0.01, 100 are tried, in this order
    objective, targets, steps, restarts as in `apgd`
    """

    steps: int = 50
    objective: ObjectiveName = "margin"
    targets: int = 3
    sweep: int = 3
    restarts: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.sweep <= len(WEIGHTS):
            raise BadSetting(f"sweep = {self.sweep} is out of range; it must be a number from 1 to {len(WEIGHTS)}")

    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:  # noqa: ARG002
        """One for each weight."""
        return [JointObjective(self.objective, labels, targets, guard, lam) for lam in WEIGHTS[: self.sweep]]
