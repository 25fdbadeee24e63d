"""Transfer attack: made on a surrogate, a model of another loss, and tried on the victim."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advbench import catalog
from advbench.evasion import (
    ClassifierObjective,
    EitherNorm,
    FromSurrogate,
    Misclassified,
    ObjectiveName,
    SearchState,
    fixed_ascent,
    steady,
)
from advbench.types import Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class Transfer(EitherNorm, FromSurrogate):
    """The momentum iterative method (Dong et al. 2018, arXiv:1710.06081) on the surrogate; cf. `mim`, decay 1.

    The point of largest margin on the surrogate is handed over: the victim is not asked once.
    source      the surrogate's loss, as in `FromSurrogate`
    objective   ce, margin, dlr or logits, as in `advbench.evasion.logit_objectives`
    """

    steps: int = 20
    objective: ObjectiveName = "ce"
    source: str = "softmax"
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        catalog.load("loss", self.source)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, surrogate: Victim) -> Perturbed:  # noqa: ARG002
        """`steps` gradients an image and a forward pass more, all of them of the surrogate."""
        labels = labels.to(surrogate.device)
        state = SearchState(self, surrogate, images, seeds, Misclassified(labels), stop=False)
        objective, sizes = ClassifierObjective(self.objective, labels), steady(self.steps, self.eps / self.steps)
        fixed_ascent(state, objective, state.everyone, state.origin, sizes, decay=1.0)
        made = state.result()
        return replace(made, first_success=torch.full_like(made.first_success, -1))  # the surrogate's tells nothing
