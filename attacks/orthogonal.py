"""Orthogonal attack: follows one constraint along what does not worsen the other, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion import Objective, OrthogonalObjective, SwitchingEvasion
from advbench.types import Outputs


@dataclass(frozen=True, kw_only=True)
class Orthogonal(SwitchingEvasion):
    """Selective steps along the part of one gradient orthogonal to the other (Bryniarski et al. 2021).

    arXiv:2106.15023, sec. 4.2: the objective's gradient without the score's while the label is right, the score's
    without the objective's once it is wrong. Only gradients that conflict are projected, and not where that would
    stall the attack (`OrthogonalObjective`). Steps of eps / 4 that fall to 0 by a half cosine.
    objective, targets, restarts as in `apgd`; steps cost two backward passes each
    """

    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:  # noqa: ARG002
        """One, which changes with what the image has reached."""
        return [OrthogonalObjective(self.objective, labels, targets, guard)]
