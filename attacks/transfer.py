"""Transfer attack: made on a surrogate, a model of another loss, and tried on the victim."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advbench import catalog
from advbench.evasion.base import FromSurrogate, EitherNorm
from advbench.evasion.gradient_ascent import fixed_ascent, steady
from advbench.evasion.logit_objectives import Objective
from advbench.evasion.objectives import Misclassified, Misclassify
from advbench.evasion.state import Search
from advbench.types import Perturbed
from advbench.victim.victim import Victim


@dataclass(frozen=True, kw_only=True)
class Transfer(EitherNorm, FromSurrogate):
    """The momentum iterative method (Dong et al. 2018, arXiv:1710.06081) on the surrogate; cf. `mim`, decay 1.

    The point of largest margin on the surrogate is handed over: the victim is not asked once.
    source      the surrogate's loss, as in `FromSurrogate`
    objective   ce, margin, dlr or logits, as in `advbench.evasion.logit_objectives`
    """

    steps: int = 20
    objective: Objective = "ce"
    source: str = "softmax"
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        catalog.load("loss", self.source)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, surrogate: Victim) -> Perturbed:  # noqa: ARG002
        """`steps` gradients an image and a forward pass more, all of them of the surrogate."""
        labels = labels.to(surrogate.device)
        search = Search(self, surrogate, images, seeds, Misclassified(labels), stop=False)
        goal, sizes = Misclassify(self.objective, labels), steady(self.steps, self.eps / self.steps)
        fixed_ascent(search, goal, search.everyone, search.origin, sizes, decay=1.0)
        made = search.result()
        return replace(made, first_success=torch.full_like(made.first_success, -1))  # the surrogate's tells nothing
