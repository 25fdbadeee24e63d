"""Softmax cross-entropy over a linear layer."""

from typing import ClassVar

from torch import Tensor, nn

from advbench.losses import Head


class Softmax(Head):
    """`-log softmax(W x + b)_z` (Wan et al. 2018, Eq. 1-2); without b where `bias` is false."""

    younger: ClassVar[frozenset[str]] = frozenset({"bias"})

    def __init__(self, feature_dim: int, classes: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, classes, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Affinities `W x + b` [b k]."""
        logits: Tensor = self.linear(features)
        return logits
