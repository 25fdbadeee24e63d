"""The norm ball of an attack: projection, steepest step, random point."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
_MASK = (1 << 64) - 1


def generator(seed: int, stream: int) -> torch.Generator:
    """A CPU generator of an image's own; the streams of one seed do not overlap (splitmix64's finaliser)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    for multiplier, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        mixed = ((mixed ^ (mixed >> shift)) * multiplier) & _MASK
    return torch.Generator().manual_seed((mixed ^ (mixed >> 31)) >> 32)  # torch reads 32 bits


def per_image(tensor: Tensor) -> Tensor:
    """A tensor [b] as [b 1 1 1], to scale images."""
    return tensor[:, None, None, None]


def length(delta: Tensor) -> Tensor:
    """Euclidean norms [b] of images [b c h w]."""
    norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norms


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of an origin in `norm`; with `clip`, those in [0, 1] only."""

    norm: Norm
    eps: float
    clip: bool

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """The nearest point of the ball (L-inf) or a near one in it (L2 with clip), for each image."""
        if self.norm == "linf":
            low, high = origin - self.eps, origin + self.eps
            if self.clip:
                low, high = low.clamp_(min=0), high.clamp_(max=1)
            return torch.clamp(x, low, high)
        delta = x - origin
        # a hair inside: float32 lengths are right to about 1e-7 of themselves
        scale = self.eps * (1 - 5e-7) / length(delta).clamp(min=1e-12)
        inside = origin + delta * per_image(scale.clamp(max=1))
        return inside.clamp_(0, 1) if self.clip else inside

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of size 1 that climbs fastest: the sign (L-inf) or the unit vector (L2); 0 where all is 0."""
        if self.norm == "linf":
            return gradient.sign()
        scale = gradient.flatten(1).abs().amax(dim=1)  # the square of a tiny gradient would vanish
        scaled = gradient / per_image(torch.where(scale > 0, scale, 1))
        return scaled / per_image(length(scaled).clamp(min=1e-12))

    def random(self, origin: Tensor, seeds: Tensor, stream: int) -> Tensor:
        """A uniform point of the ball around each image, drawn from the image's own seed, then clipped."""
        shape = origin.shape[1:]
        deltas = []
        for seed in seeds.tolist():
            rng = generator(seed, stream)
            if self.norm == "linf":
                deltas.append(self.eps * (2 * torch.rand(shape, generator=rng) - 1))
                continue
            direction = torch.randn(shape, generator=rng)
            radius = float(torch.rand((), generator=rng)) ** (1 / direction.numel())
            deltas.append(self.eps * radius * direction / torch.linalg.vector_norm(direction))
        return self.project(origin + torch.stack(deltas).to(origin.device), origin)
