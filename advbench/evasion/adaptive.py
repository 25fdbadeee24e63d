"""Base of the gradient attacks that know a detector: targets, restarts, which images remain."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion.base import AdaptiveAttack, EitherNorm
from advbench.evasion.criteria import Criterion, Undetected
from advbench.evasion.gradient_ascent import adaptive_ascent, decaying, fixed_ascent
from advbench.evasion.logit_objectives import ObjectiveName
from advbench.evasion.objectives import Objective
from advbench.evasion.state import SearchState
from advbench.types import Outputs, Perturbed
from advbench.victim import Victim


class GradientEvasion(EitherNorm, AdaptiveAttack):
    """Base of the detector-aware gradient attacks: a frozen dataclass with these fields and its own `objectives`.

    steps     gradients of each ascent
    targets   0: untargeted; t: towards each of the t runner-up classes of the clean image in turn
    restarts  random starts of each objective

    An image counts as lost when it is misclassified and scores below the guard's threshold by the tolerance, and
    leaves at once; the clean image itself is evaluated first. The point of an image that is not lost is the one of
    largest `Undetected` success margin.
    """

    steps: int
    targets: int
    restarts: int

    def criterion(self, labels: Tensor, guard: Guard) -> Criterion:
        """What success is: misclassified and undetected, unless an attack says otherwise."""
        return Undetected(labels, guard)

    @abstractmethod
    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:
        """The objectives to maximise in turn, for labels [n], one target each [n], and the clean images' outputs."""

    def ascend(self, state: SearchState, objective: Objective, rows: Tensor, start: Tensor) -> None:
        """One ascent; Auto-PGD unless an attack says otherwise."""
        adaptive_ascent(state, objective, rows, start, self.steps)

    def run(self, state: SearchState, labels: Tensor, guard: Guard, clean: Outputs) -> None:
        """Attack the images of `state` that are not lost yet; `clean` are the outputs at its origin."""
        for targets in state.targets(clean, labels, self.targets) if self.targets else (None,):
            for objective in self.objectives(labels, targets, guard, clean):
                for _ in range(self.restarts):
                    rows = state.remaining
                    if not len(rows):
                        return
                    self.ascend(state, objective, rows, state.random_start(rows))

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """Up to `steps` gradients an image, target, objective and restart; lost images cost nothing further."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, self.criterion(labels, guard), stop=True)
        self.run(state, labels, guard, state.evaluate(state.everyone, state.origin))
        return state.result()


@dataclass(frozen=True, kw_only=True)
class SwitchingEvasion(GradientEvasion):
    """Base of those whose objective changes with what the image has reached; steps of eps / 4 that fall to 0."""

    steps: int = 100
    objective: ObjectiveName = "margin"
    targets: int = 3
    restarts: int = 1
    samples: int = 1

    def ascend(self, state: SearchState, objective: Objective, rows: Tensor, start: Tensor) -> None:
        """Decaying steps: the objective jumps between two scales, which would mislead Auto-PGD's comparisons."""
        fixed_ascent(state, objective, rows, start, decaying(self.steps, self.eps / 4))
