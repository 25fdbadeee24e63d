"""Projected gradient ascent in an L-inf or L2 ball, with random starts."""

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
class PGD(GradientAttack):
    """`x <- project(x + step * steepest(grad f))` from a random point (Madry et al. 2018, arXiv:1706.06083).

    The sign of the gradient in L-inf, its unit vector in L2. The point of largest margin is kept.
    step          in the unit of eps; None = 2.5 eps / steps, enough to cross the ball
    restarts      random starts; from the second on only for images that have not succeeded
    random_start  false: start at the image itself
    objective     ce, margin, dlr or logits, as in `advbench.evasion.logit_objectives`
    stop          an image leaves at its first success
    """

    steps: int = 40
    step: float | None = None
    restarts: int = 1
    random_start: bool = True
    objective: ObjectiveName = "ce"
    stop: bool = False
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None:
            at_least("step", self.step, 0, above=True)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """`steps` gradients an image and restart, and a forward pass more."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Misclassified(labels), stop=self.stop)
        sizes = steady(self.steps, 2.5 * self.eps / self.steps if self.step is None else self.step)
        for restart in range(self.restarts):
            rows = state.everyone if restart == 0 else state.remaining
            if not len(rows):
                break
            start = state.random_start(rows) if self.random_start else state.origin[rows]
            fixed_ascent(state, ClassifierObjective(self.objective, labels), rows, start, sizes)
        return state.result()
