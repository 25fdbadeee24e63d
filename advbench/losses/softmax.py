"""Softmax cross-entropy over a linear layer."""

from typing import ClassVar

from advbench.losses import LinearHead


class Softmax(LinearHead):
    """`-log softmax(W x + b)_z` (Wan et al. 2018, Eq. 1-2); without b where `bias` is false."""

    younger: ClassVar[frozenset[str]] = frozenset({"bias"})
