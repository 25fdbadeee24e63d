"""Detector-aware Square attack: random search on margin and score together, for detectors without a gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion import AdaptiveAttack, SearchState, Undetected, ViolationObjective, square_search
from advbench.types import Outputs, Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class DetectorSquare(AdaptiveAttack):
    """Random squares (Andriushchenko et al. 2020, arXiv:1912.00049) that lessen what is short of success; L-inf only.

    Maximises `min(margin, 0) / F + min(slack, 0) / G` in the units of clean images (`ViolationObjective`); only the
    model's logits and the score are read.
    queries   forward passes an image; a lost image leaves at once
    """

    differentiates: ClassVar[bool] = False
    queries: int = 5000
    samples: int = 1

    def run(self, state: SearchState, labels: Tensor, guard: Guard, clean: Outputs) -> None:  # noqa: ARG002
        """Attack the images of `state` that are not lost yet; `clean` is not used."""
        rows = state.remaining
        if len(rows):
            square_search(state, ViolationObjective(labels, guard), rows, self.queries)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """No gradients; a forward pass of the clean image and up to `queries` more."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Undetected(labels, guard), stop=True, in_queries=True)
        self.run(state, labels, guard, state.evaluate(state.everyone, state.origin))
        return state.result()
