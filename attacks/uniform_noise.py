"""Uniform noise: a control, not an attack."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.evasion import Noise


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Noise):
    """Every pixel uniform in [-1, 1], then all of them stretched to the norm eps.

    In L-inf that is a uniform point of the ball, enlarged until its largest pixel is eps: on MNIST by about 1/784.
    Images are clipped to [0, 1] after.
    """

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Uniform pixels over their norm."""
        pixels = 2 * torch.rand(shape, generator=rng) - 1
        return pixels / (pixels.abs().max() if self.norm == "linf" else torch.linalg.vector_norm(pixels))
