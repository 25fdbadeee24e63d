"""Square attack: random search on the margin, without gradients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.evasion import Attack, ClassifierObjective, Misclassified, SearchState, square_search
from advbench.types import Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random squares of +-eps that raise the margin (Andriushchenko et al. 2020, arXiv:1912.00049); L-inf only.

    queries   forward passes an image
    stop      an image leaves at its first success
    """

    differentiates: ClassVar[bool] = False
    queries: int = 5000
    stop: bool = True
    samples: int = 1

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """No gradients; up to `queries` forward passes an image."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Misclassified(labels), stop=self.stop, in_queries=True)
        square_search(state, ClassifierObjective("margin", labels), state.everyone, self.queries)
        return state.result()
