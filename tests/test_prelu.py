"""The shared-slope PReLU against torch's own."""

import pytest
import torch
from torch import nn

from advbench.prelu import PReLU


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
