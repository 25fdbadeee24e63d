"""Base of the noise controls: noise of the same norm as an attack."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advbench.evasion.ball import generator
from advbench.evasion.base import Attack, EitherNorm, check_eps
from advbench.types import Perturbed
from advbench.victim import Victim


@dataclass(frozen=True, kw_only=True)
class Noise(EitherNorm, Attack):
    """Base of the noise controls (Carlini et al. 2019, arXiv:1902.06705): a frozen dataclass with its own `drawn`.

    The model is never asked, whatever it is. A detector that rejects these images about as often as attacked ones
    of the same norm detects noise.
    """

    differentiates: ClassVar[bool] = False

    @abstractmethod
    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Tensor:
        """Noise [c h w] whose norm is 1."""

    def check(self, victim: Victim) -> None:
        """Any model will do, one with random outputs too."""
        check_eps(self.eps, self.norm, math.prod(victim.shape))

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:  # noqa: ARG002
        """No passes at all; labels are not used."""
        self.check(victim)
        shape, none = images.shape[1:], torch.zeros(len(images), dtype=torch.long)
        noise = torch.stack([self.drawn(shape, generator(seed, 0)) for seed in seeds.tolist()])
        return Perturbed(
            images=self.ball.project(images + self.eps * noise, images),
            targets=None,
            gradients=none,
            forwards=none,
            zero_gradients=none.bool(),
            first_success=none - 1,
        )
