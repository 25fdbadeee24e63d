"""Large-margin softmax: the true class must win by an angle multiplied by a whole number."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.errors import BadSetting
from advbench.losses import LinearHead
from advbench.settings import at_least


class LSoftmax(LinearHead):
    """The L-Softmax loss of Liu et al. 2016 (arXiv:1612.02295), Eq. 4-8; a linear layer without bias.

    In training the true class scores `||w|| ||x|| (l cos(theta) + psi(theta)) / (1 + l)`, with
    `psi(theta) = (-1)^j cos(margin theta) - 2 j` on `[j pi / margin, (j + 1) pi / margin]`.

    margin   m, a whole number; 1 is plain softmax
    start    l at the first step; it falls, geometrically in 1 + l, to `floor` ...
    anneal   ... over this share of the training, and stays there (0, or no training announced: at once)
    floor    least l; small values demand the whole margin and may diverge
    """

    step: Tensor

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        *,
        margin: int = 4,
        start: float = 1000.0,
        anneal: float = 0.5,
        floor: float = 0.5,
    ) -> None:
        super().__init__(feature_dim, classes, bias=False)
        at_least("l-softmax: margin", margin, 1)
        at_least("l-softmax: anneal", anneal, 0)
        at_least("l-softmax: floor", floor, 0)
        if not floor <= start < math.inf:
            raise BadSetting(f"l-softmax: start = {start:g} is out of range; it must be finite and at least floor")
        self.margin = margin
        self.start = start
        self.anneal = anneal
        self.floor = floor
        self.annealing_steps = 0.0
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def prepare(self, steps: int) -> None:
        """Spread the annealing over a training of that many steps."""
        self.annealing_steps = self.anneal * steps

    def blend(self) -> Tensor:
        """The weight l of the plain logit at the present step, scalar."""
        done = (self.step / self.annealing_steps).clamp(max=1) if self.annealing_steps else torch.ones_like(self.step)
        ratio = (1 + self.floor) / (1 + self.start)
        blend: Tensor = (1 + self.start) * ratio ** done.to(self.linear.weight.dtype) - 1
        return blend

    def margin_logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Affinities in which the true class's is blended with its margin form [b k]."""
        logits: Tensor = self(features)
        own = logits.gather(1, labels[:, None])
        norms = F.embedding(labels, self.linear.weight).norm(dim=1, keepdim=True) * features.norm(dim=1, keepdim=True)
        # an all-zero feature (possible behind a ReLU) has no angle; its logit is 0 with any margin
        cosine = (own / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp(-1, 1)
        blend = self.blend()
        mixed = (blend * own + norms * angular_margin(cosine, self.margin)) / (1 + blend)
        return logits.scatter(1, labels[:, None], mixed)

    def after_step(self, features: Tensor, labels: Tensor) -> None:  # noqa: ARG002
        """Count the step."""
        self.step += 1


def angular_margin(cosine: Tensor, margin: int) -> Tensor:
    """`psi(theta)` of Liu et al. 2016, Eq. 5-6, from `cos(theta)`; falls from 1 to `1 - 2 margin`.

    `cos(margin theta)` is the Chebyshev polynomial T_margin of the cosine, which spares the gradient of acos,
    infinite at 0 and pi.
    """
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    piece = (torch.acos(cosine.detach()) * margin / math.pi).floor().clamp(max=margin - 1)
    return (1 - 2 * (piece % 2)) * multiple - 2 * piece
