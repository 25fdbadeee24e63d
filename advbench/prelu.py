"""PReLU with one slope for a layer: its gradient in passes that vectorise, and pooling first where that is exact."""

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

    def keeps_order(self, x: Tensor) -> bool:
        """Whether the largest of some values is the largest after this layer too, and `x` is bf16 on a CPU.

        In float32, that of attacks, rounding breaks a few ties otherwise, and gradients would not be bit for bit
        those of the written order.
        """
        return x.device.type == "cpu" and x.dtype == torch.bfloat16 and float(self.weight.detach()) >= 0


class Layers(nn.Sequential):
    """`nn.Sequential`, but a max-pool after a `PReLU` goes first where the layer keeps the order.

    The values are the same, and of the activation and its gradient only a quarter is computed.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Of the last layer."""
        x, layers = input, [*self]
        for i, layer in enumerate(layers):
            then = layers[i + 1] if i + 1 < len(layers) else None
            if isinstance(layer, PReLU) and isinstance(then, nn.MaxPool2d) and layer.keeps_order(x):
                layers[i + 1], layer = layer, then
            x = layer(x)
        return x


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
