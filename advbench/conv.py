"""A convolution whose weight gradient, in bf16 on a CPU, is taken as a forward convolution where maps are small."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

SMALL = 64  # pixels of a map: over 14 x 14 maps oneDNN's own way is the faster one


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` of one padding for both sides; stride, dilation and groups are 1.

    For a weight gradient over maps of 7 x 7, oneDNN's bf16 kernels took 1.6 times as long on a CPU as the same sums
    written as a convolution with batch and channels exchanged: 3 to 4 % of a training step of the MNIST network.
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, padding: int) -> None:
        super().__init__(inputs, outputs, size, padding=padding)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Of shape [b outputs h w]."""
        if not self._exchanges(input):
            return super().forward(input)
        output: Tensor = _Exchanged.apply(input, self.weight, self.bias, self.padding)
        return output

    def _exchanges(self, x: Tensor) -> bool:
        """Whether the weight gradient will be asked for, in a case where exchanging pays."""
        pays = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[2] * x.shape[3] <= SMALL
        return pays and torch.is_grad_enabled() and self.weight.requires_grad


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.padding = padding
        return F.conv2d(x, narrow, bias.to(x.dtype), padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = conv2d_input(x.shape, weight, gradient, padding=ctx.padding)  # type: ignore[no-untyped-call]
        # the sum over images is one over channels, of the gradient with the input as its kernel; it comes out turned
        turned = tuple(k - 1 - p for k, p in zip(weight.shape[2:], ctx.padding, strict=True))
        images, kernel = gradient.transpose(0, 1).contiguous(), x.transpose(0, 1).contiguous()
        for_weight = F.conv2d(images, kernel, padding=turned).flip(2, 3)
        return for_x, for_weight, gradient.sum(dim=(0, 2, 3)), None
