"""The convolution whose weight gradient is taken another way, against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from advbench.conv import Conv2d


def data(side: int) -> tuple[Tensor, Tensor]:
    """Images and weights of a gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 6, side, side, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    return x, torch.randn(16, 8, 16, 16, generator=generator)


@pytest.mark.parametrize(("size", "padding"), [(5, 2), (3, 1), (3, 0), (5, 1), (1, 0)])
def test_over_small_maps_in_bfloat16_the_gradients_are_the_sums_they_should_be(size: int, padding: int) -> None:
    layer = Conv2d(6, 8, size, padding=padding).to(memory_format=torch.channels_last)
    x, weights = data(7)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.requires_grad_())
    assert type(out.grad_fn).__name__ == "_ExchangedBackward"
    gradient = weights[:, :, : out.shape[2], : out.shape[3]].bfloat16()
    out.backward(gradient)
    exact = nn.Conv2d(6, 8, size, padding=padding).double()
    exact.load_state_dict({k: v.bfloat16().double() for k, v in layer.state_dict().items()})
    y = x.detach().double().requires_grad_()
    exact(y).backward(gradient.double())
    pairs = [(layer.weight, exact.weight), (layer.bias, exact.bias), (x, y)]
    for ours, theirs in pairs:
        assert ours is not None
        assert theirs is not None
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == ours.dtype
        torch.testing.assert_close(
            ours.grad.double(), theirs.grad, rtol=0.01, atol=0.01 * float(theirs.grad.abs().max())
        )
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_elsewhere_it_is_torchs_own() -> None:
    layer, (x, _), (large, _) = Conv2d(6, 8, 5, padding=2), data(7), data(14)
    with torch.autocast("cpu", torch.bfloat16):
        assert type(layer(large).grad_fn).__name__ == "ConvolutionBackward0"
        with torch.no_grad():
            assert layer(x).grad_fn is None
    assert type(layer(x.float()).grad_fn).__name__ == "ConvolutionBackward0"
    layer.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert type(layer(x.requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"
