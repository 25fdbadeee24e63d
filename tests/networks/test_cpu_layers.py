"""The shared-slope PReLU against torch's own."""

import pytest
import torch
from torch import nn

from advbench.networks._cpu_layers import PReLU


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.3, 1.7])
def test_values_and_gradients_are_those_of_torchs_prelu(slope: float) -> None:
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    x[0, 0, 0, 0] = 0.0
    ours, theirs = PReLU(init=slope).double(), nn.PReLU(init=slope).double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.linspace(-1, 1, x.numel()).double().reshape(x.shape)
    (ours(a) * weights).sum().backward()
    (theirs(b) * weights).sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-12, atol=1e-12)


def test_a_frozen_slope_gets_no_gradient() -> None:
    layer = PReLU().requires_grad_(False)
    x = torch.randn(4, 2, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_slopes_gradient_in_bfloat16_is_summed_in_float32(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, 14, 14, generator=generator).bfloat16().contiguous(memory_format=layout)
    gradient = torch.rand(x.shape, generator=generator).bfloat16().contiguous(memory_format=layout)
    layer = PReLU()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x.requires_grad_()).backward(gradient)
    exact = (gradient.double() * x.detach().double().clamp(max=0)).sum()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad.double().squeeze(), exact, rtol=1e-3, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(x > 0, gradient, gradient * 0.25), rtol=0, atol=0)


def test_vectors_pass_in_bfloat16_too() -> None:
    layer = PReLU().bfloat16()
    layer(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [-2.0]
