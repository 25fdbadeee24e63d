"""Momentum iterative method: sign steps along the accumulated gradient."""

from dataclasses import dataclass

from torch import Tensor

from advbench.evasion import (
    ClassifierObjective,
    GradientAttack,
    Misclassified,
    ObjectiveName,
    SearchState,
    fixed_ascent,
    steady,
)
from advbench.settings import at_least
from advbench.types import Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class MIM(GradientAttack):
    """`g <- decay * g + grad / ||grad||_1; x <- project(x + eps / steps * steepest(g))` (Dong et al. 2018).

    arXiv:1710.06081. Starts at the image; the point of largest margin is kept.
    objective   ce, margin, dlr or logits, as in `advbench.evasion.logit_objectives`
    stop        an image leaves at its first success
    """

    steps: int = 10
    decay: float = 1.0
    objective: ObjectiveName = "ce"
    stop: bool = False
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("decay", self.decay, 0)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """`steps` gradients an image and a forward pass more."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Misclassified(labels), stop=self.stop)
        sizes = steady(self.steps, self.eps / self.steps)
        objective = ClassifierObjective(self.objective, labels)
        fixed_ascent(state, objective, state.everyone, state.origin, sizes, decay=self.decay)
        return state.result()
