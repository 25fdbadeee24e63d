"""Auto-PGD: gradient ascent with momentum and steps that halve themselves, on any objective."""

from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Guard
from advbench.evasion import (
    ClassifierObjective,
    GradientAttack,
    Misclassified,
    ObjectiveName,
    SearchState,
    adaptive_ascent,
)
from advbench.types import Outputs, Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Algorithm 1 of Croce and Hein 2020 (arXiv:2003.01690), from random starts; the largest margin is kept.

    objective   ce, margin, dlr or logits, as in `advbench.evasion.logit_objectives`
    targets     0: untargeted; t: the objective's targeted form towards each of the t runner-up classes in turn
    restarts    random starts (of each target); all but the first run only on images that have not succeeded
    stop        an image leaves at its first success

    Success is any wrong label, also where the way there has a target.
    """

    steps: int = 100
    restarts: int = 1
    objective: ObjectiveName = "ce"
    targets: int = 0
    stop: bool = False
    samples: int = 1

    def run(self, state: SearchState, labels: Tensor, guard: Guard | None, clean: Outputs | None) -> None:  # noqa: ARG002
        """Attack the images of `state`, whatever its criterion; the guard is not used.

        `clean`, the outputs at its origin, are needed where there are targets.
        """
        objectives = [ClassifierObjective(self.objective, labels)]
        if self.targets:
            assert clean is not None
            objectives = [
                ClassifierObjective(self.objective, labels, t) for t in state.targets(clean, labels, self.targets)
            ]
        first = True
        for objective in objectives:
            for _ in range(self.restarts):
                rows = state.everyone if first and not state.stop else state.remaining
                if not len(rows):
                    return
                adaptive_ascent(state, objective, rows, state.random_start(rows), self.steps)
                first = False

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """`steps` gradients an image, restart and target, and a forward pass more."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Misclassified(labels), stop=self.stop)
        self.run(state, labels, None, state.evaluate(state.everyone, state.origin) if self.targets else None)
        return state.result()
