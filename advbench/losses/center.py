"""Softmax cross-entropy plus the center loss, its centres moved by a step of their own or by the optimiser."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from advbench.losses import LinearHead, ParameterGroup, half_squared_distance
from advbench.settings import at_least


class Center(LinearHead):
    """Cross-entropy + `weight` x batch mean of `||x - c_z||^2 / 2` (Wen et al. 2016, Eq. 2-5).

    The centres start at 0 and are buffers, out of the optimiser's reach: after each step, class j moves by
    `centre_step * sum_{z_i = j}(x_i - c_j) / (1 + count_j)` (Wen et al., Eq. 4 and algorithm 1).

    solver   the centres are parameters instead, without weight decay, and that sum is the optimiser's descent, not
             times `weight`: as the authors' Caffe layer has it; `centre_step` is not used
    bias     whether the linear layer has one
    """

    is_density: ClassVar[bool] = True
    younger: ClassVar[frozenset[str]] = frozenset({"solver", "bias"})
    centres: Tensor

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        *,
        weight: float = 0.01,
        centre_step: float = 0.5,
        solver: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(feature_dim, classes, bias=bias)
        at_least("center: weight", weight, 0)
        at_least("center: centre_step", centre_step, 0)
        self.weight = weight
        self.centre_step = centre_step
        self.solver = solver
        centres = torch.zeros(classes, feature_dim)
        if solver:
            self.centres = nn.Parameter(centres)
        else:
            self.register_buffer("centres", centres)

    def regularizer(self, features: Tensor, labels: Tensor) -> Tensor:
        """`weight * ||x - c_z||^2 / 2` [b]."""
        return self.weight * half_squared_distance(features, self.centres[labels].detach())

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The training loss: batch mean, scalar; with `solver`, plus a zero whose gradient moves the centres."""
        loss = super().loss(features, labels)
        if self.solver:
            pull = -(self.centres * self._residual(features, labels)).sum()
            loss = loss + (pull - pull.detach())
        return loss

    def log_likelihood(self, features: Tensor, classes: Tensor) -> Tensor:
        """`-||x - c||^2 / 2` [b]: Lemma 1 of Wan et al. 2018, without the constant."""
        return -half_squared_distance(features, self.centres[classes])

    @torch.no_grad()
    def after_step(self, features: Tensor, labels: Tensor) -> None:
        """Move each centre towards the features of its class in this batch."""
        if not self.solver:
            self.centres += self.centre_step * self._residual(features, labels)

    @torch.no_grad()
    def _residual(self, features: Tensor, labels: Tensor) -> Tensor:
        """`sum_{z_i = j}(x_i - c_j) / (1 + count_j)` [k d]."""
        count = torch.bincount(labels, minlength=len(self.centres)).to(features.dtype)
        total = torch.zeros_like(self.centres).index_add_(0, labels, features)
        return (total - count[:, None] * self.centres) / (1 + count[:, None])

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """The linear layer; the centres, where they are parameters, without weight decay."""
        yield ParameterGroup(list(self.linear.parameters()))
        if self.solver:
            yield ParameterGroup([self.centres], decay=False)  # type: ignore[list-item]
