"""Detector-aware Square attack: random search on margin and score together, for detectors without a gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection.guard import Guard
from advbench.evasion.base import AdaptiveAttack
from advbench.evasion.objectives import Undetected, Violation
from advbench.evasion.random_search import square_search
from advbench.evasion.state import Search
from advbench.types import Outputs, Perturbed
from advbench.victim.victim import Victim


@dataclass(frozen=True, kw_only=True)
class DetectorSquare(AdaptiveAttack):
    """Random squares (Andriushchenko et al. 2020, arXiv:1912.00049) that lessen what is short of success; L-inf only.

    Climbs `min(margin, 0) / F + min(slack, 0) / G` in the units of clean images (`goals.Violation`); only the
    model's logits and the score are read.
    queries   forward passes an image; a lost image leaves at once
    """

    differentiates: ClassVar[bool] = False
    queries: int = 5000
    samples: int = 1

    def pursue(self, search: Search, labels: Tensor, guard: Guard, clean: Outputs) -> None:  # noqa: ARG002
        """Go after the images of `search` that are not lost yet; `clean` is not used."""
        rows = search.unmet
        if len(rows):
            square_search(search, Violation(labels, guard), rows, self.queries)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """No gradients; a forward pass of the clean image and up to `queries` more."""
        labels = labels.to(victim.device)
        search = Search(self, victim, images, seeds, Undetected(labels, guard), stop=True, in_queries=True)
        self.pursue(search, labels, guard, search.look(search.everyone, search.origin))
        return search.result()
