"""Losses: one file each, as heads over features; the contract.

`from advbench.losses import LGM` works for `Softmax`, `Center`, `LSoftmax` and `LGM`: see docs/losses.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from advbench import catalog


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate (times `lr_scale`) and whether weight decay acts on them."""

    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    decay: bool = True


class Head(nn.Module, ABC):
    """From features [b d] to logits [b k], and the loss that trains both.

    A loss's constructor takes (feature_dim, classes) and its settings as keywords. Every loss is the batch mean
    of its per-sample form: cross-entropy of `margin_logits` + `regularizer`. Attacks and evaluation use
    `forward`, which never carries a margin.

    is_density   whether `log_likelihood` is the log of a density up to a constant, not a mere affinity
    younger      settings that came after the first stored records: a record holds them where they are no default
    """

    is_density: ClassVar[bool] = False
    younger: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Evaluation logits [b k]."""

    def margin_logits(self, features: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Logits [b k] of the training loss, where a loss demands a margin at `labels`; else `forward`."""
        return self(features)  # type: ignore[no-any-return]

    def regularizer(self, features: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """What the loss adds to the cross-entropy, weighted, per sample [b]; zero unless a loss says otherwise."""
        return features.new_zeros(len(features))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The training loss: batch mean, scalar."""
        cross_entropy = F.cross_entropy(self.margin_logits(features, labels), labels)
        return cross_entropy + self.regularizer(features, labels).mean()

    def log_likelihood(self, features: Tensor, classes: Tensor) -> Tensor:
        """The likelihood this loss gives a feature of class `classes`, in logs [b]; higher = more typical.

        Default: the affinity `w^T x + b` (Wan et al. 2018, sec. 4.3: the softmax loss has no likelihood of
        its own).
        """
        logits: Tensor = self(features)
        return logits.gather(1, classes[:, None]).squeeze(1)

    def prepare(self, steps: int) -> None:
        """Told before training how many steps it will have, for a head that anneals; nothing by default."""

    def after_step(self, features: Tensor, labels: Tensor) -> None:
        """A move of the head's own after each optimiser step (centres); nothing by default."""

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """How the optimiser treats the parameters; one plain group by default."""
        return [ParameterGroup(list(self.parameters()))]


class LinearHead(Head):
    """A head whose logits are those of a linear layer."""

    def __init__(self, feature_dim: int, classes: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, classes, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Affinities `W x + b` [b k]."""
        logits: Tensor = self.linear(features)
        return logits


def half_squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """`||x - y||^2 / 2` row by row [b]."""
    return (x - y).square().sum(dim=1) / 2


def __getattr__(name: str) -> Any:
    """A loss by its class's name; imported when it is asked for, since each of them imports this module."""
    for plugin in () if name.startswith("_") else catalog.names("loss"):
        if plugin.replace("-", "") == name.lower() and (cls := catalog.load("loss", plugin)).__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(catalog.load("loss", plugin).__name__ for plugin in catalog.names("loss"))])
