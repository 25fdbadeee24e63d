"""What the gradient attacks on a model and its detector share: targets, restarts, and who is still to be won."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advbench.detection.guard import Guard
from advbench.evasion.base import AdaptiveAttack, EitherNorm
from advbench.evasion.gradient_ascent import adaptive_ascent, decaying, fixed_ascent
from advbench.evasion.logit_objectives import Objective
from advbench.evasion.objectives import Criterion, Goal, Undetected
from advbench.evasion.state import Search
from advbench.types import Outputs, Perturbed
from advbench.victim.victim import Victim


class GradientEvasion(EitherNorm, AdaptiveAttack):
    """Base of the detector-aware gradient attacks: a frozen dataclass with these fields and its own `goals`.

    steps     gradients of each ascent
    targets   0: untargeted; t: towards each of the t runner-up classes of the clean image in turn
    restarts  random starts of each goal

    An image counts as lost when it is misclassified and scores a hair below the guard's threshold, and leaves at
    once; the clean image itself is looked at first. The point of an image that is not lost is the one of largest
    `goals.Undetected` merit.
    """

    steps: int
    targets: int
    restarts: int

    def criterion(self, labels: Tensor, guard: Guard) -> Criterion:
        """What success is: misclassified and undetected, unless an attack says otherwise."""
        return Undetected(labels, guard)

    @abstractmethod
    def goals(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Goal]:
        """What to climb in turn, given labels [n], one target each [n], and the outputs of the clean images."""

    def ascend(self, search: Search, goal: Goal, rows: Tensor, start: Tensor) -> None:
        """One ascent; Auto-PGD unless an attack says otherwise."""
        adaptive_ascent(search, goal, rows, start, self.steps)

    def pursue(self, search: Search, labels: Tensor, guard: Guard, clean: Outputs) -> None:
        """Go after the images of `search` that are not lost yet; `clean` are the outputs at its origin."""
        for targets in search.targets(clean, labels, self.targets) if self.targets else (None,):
            for goal in self.goals(labels, targets, guard, clean):
                for _ in range(self.restarts):
                    rows = search.unmet
                    if not len(rows):
                        return
                    self.ascend(search, goal, rows, search.random_start(rows))

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """Up to `steps` gradients an image, target, goal and restart; lost images cost nothing further."""
        labels = labels.to(victim.device)
        search = Search(self, victim, images, seeds, self.criterion(labels, guard), stop=True)
        self.pursue(search, labels, guard, search.look(search.everyone, search.origin))
        return search.result()


@dataclass(frozen=True, kw_only=True)
class SwitchingEvasion(GradientEvasion):
    """Base of those whose goal changes with what the image has reached; steps of eps / 4 that fall to 0."""

    steps: int = 100
    objective: Objective = "margin"
    targets: int = 3
    restarts: int = 1
    samples: int = 1

    def ascend(self, search: Search, goal: Goal, rows: Tensor, start: Tensor) -> None:
        """Decaying steps: the goal jumps between two scales, which would mislead Auto-PGD's comparisons."""
        fixed_ascent(search, goal, rows, start, decaying(self.steps, self.eps / 4))
