"""PReLU with one slope for a layer, its gradient vectorised on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PReLU(nn.PReLU):
    """`max(0, x) + weight * min(0, x)` (He et al. 2015, Eq. 1), channel-shared; the values of `nn.PReLU()`.

    torch's own backward kernel is scalar code on a CPU: it took 24 % of a bf16 training step of the MNIST network.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """The same shape."""
        if input.device.type != "cpu":
            return super().forward(input)
        output: Tensor = _SharedPReLU.apply(input, self.weight)
        return output


class _SharedPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.leaky_relu(x, float(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[1]:
            for_x = x.clamp(max=0)
            for_weight = _inner(gradient, for_x).to(weight.dtype).reshape(weight.shape)
        if not ctx.needs_input_grad[0]:
            return None, for_weight
        # the memory of the negative part serves twice: a fresh one costs page faults, more than the arithmetic
        for_x = torch.empty_like(x) if for_x is None else for_x
        torch.ops.aten.leaky_relu_backward(gradient, x, float(weight), False, grad_input=for_x)
        return for_x, for_weight


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum over all `a * b`, no narrower than float32, of tensors of one shape."""
    wide = torch.promote_types(a.dtype, torch.float32)  # there may be 1e6 summands
    if a.dtype == wide or a.dim() < 2:
        return (a * b).sum(dtype=wide)
    # a matrix product sums narrow types in float32 without the products in memory; [b 1 n] @ [b n 1], channels last
    rows, columns = a.movedim(1, -1).flatten(1)[:, None], b.movedim(1, -1).flatten(1)[..., None]
    return torch.bmm(rows, columns).sum(dtype=wide)
