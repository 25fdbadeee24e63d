"""Softmax cross-entropy over a linear layer with bias."""

from torch import Tensor, nn

from advbench.losses import Head


class Softmax(Head):
    """`-log softmax(W x + b)_z` (Wan et al. 2018, Eq. 1-2)."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Affinities `W x + b` [b k]."""
        logits: Tensor = self.linear(features)
        return logits
