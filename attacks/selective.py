"""Selective attack: follows only the constraint that is not met yet, the classifier's or the detector's."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion import Objective, SelectiveObjective, SwitchingEvasion
from advbench.types import Outputs


@dataclass(frozen=True, kw_only=True)
class Selective(SwitchingEvasion):
    """Steps up the objective while the label is right, down the score once it is wrong (Bryniarski et al. 2021).

    arXiv:2106.15023, sec. 4.1. Steps of eps / 4 that fall to 0 by a half cosine.
    objective, targets, restarts as in `apgd`; steps cost one gradient each
    """

    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:  # noqa: ARG002
        """One, which changes with what the image has reached."""
        return [SelectiveObjective(self.objective, labels, targets, guard)]
