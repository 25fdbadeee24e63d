"""Gaussian noise: a control, not an attack."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.evasion import Noise


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Noise):
    """Normal pixels: in L-inf of standard deviation eps / 2 and cut off at +-eps, in L2 stretched to length eps.

    The cut takes 4.6 % of the pixels; an image without one is stretched to the norm eps too. In L2 that is a uniform
    direction. Images are clipped to [0, 1] after.
    """

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Normal pixels over their norm, in L-inf cut off first."""
        pixels = torch.randn(shape, generator=rng)
        if self.norm == "linf":
            pixels = (pixels / 2).clamp(-1, 1)
            return pixels / pixels.abs().max()
        length: Tensor = torch.linalg.vector_norm(pixels)
        return pixels / length
