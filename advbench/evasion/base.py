"""Base of attacks: settings, checks, and what `perturb` is given."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Guard
from advbench.errors import BadSetting
from advbench.evasion.ball import Ball, Norm
from advbench.types import Perturbed
from advbench.victim import Victim

COUNTS = {"steps": 1, "restarts": 1, "samples": 1, "queries": 1, "targets": 0}  # an attack's, and the least of each


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What every attack shares: a frozen dataclass with keyword-only fields, all with defaults.

    norm         the norm in which eps bounds the perturbation
    targeted     whether it has targets, so that success = target reached
    differentiates  whether it asks the model for gradients; what asks only for outputs says no
    independent  whether an image's result is free of the images beside it and its randomness all from its seed
    at_once      images that are kept as soon as they are done, of an attack that takes one by one; None: a batch
    eps          pixel units of [0, 1]: 8/255 is eight grey levels
    clip         whether results are kept inside [0, 1]
    samples      forward and backward passes averaged into one gradient (EoT, Athalye et al. 2018,
                 arXiv:1802.00420); a model with random outputs needs more than 1

    An eps out of range is refused with BadSetting, and so is a number below the least in COUNTS.
    """

    eps: float = 0.3
    clip: bool = True
    targeted: ClassVar[bool] = False
    differentiates: ClassVar[bool] = True
    independent: ClassVar[bool] = True
    at_once: ClassVar[int | None] = None

    @property
    def norm(self) -> Norm:
        """Of the attacks without a choice."""
        return "linf"

    @property
    def samples(self) -> int:
        """Of the attacks without a choice."""
        return 1

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        for name, least in COUNTS.items():
            value = getattr(self, name, least)
            if isinstance(value, int) and value < least:
                raise BadSetting(f"{name} = {value} is out of range; it must be at least {least}")

    @property
    def passes(self) -> int:
        """Forward and backward passes that an image may take, about: a bar starts from it and learns."""
        names = ("steps", "restarts", "samples", "targets", "sweep", "queries", "max_iter", "binary_search_steps")
        return int((1 + self.differentiates) * math.prod(getattr(self, name, 1) or 1 for name in names))

    @property
    def ball(self) -> Ball:
        """Where its results may lie."""
        return Ball(self.norm, self.eps, self.clip)

    def check(self, victim: Victim) -> None:
        """Refuse a model that this attack cannot be trusted on; every `perturb` may rely on it having passed.

        Raises BadSetting for an eps beyond the largest distance between two images, a model in training mode,
        and random outputs where the attack takes no more than one sample of them.
        """
        check_eps(self.eps, self.norm, math.prod(victim.shape))
        if any(hasattr(module, "training") and module.training for module in victim.model.modules()):
            raise BadSetting("the model is in training mode, where it is not the one that was tested; call .eval()")
        if self.samples < 2 and victim.stochastic:
            raise BadSetting(
                "two passes over one image differ: the model is stochastic, and one gradient of it means little; "
                "use an attack with samples (EoT), for example: --attack pgd --set samples=20"
            )


@dataclass(frozen=True, kw_only=True)
class EitherNorm(AttackSettings):
    """What attacks share that know both norms."""

    norm: Norm = "linf"


class Attack(AttackSettings, ABC):
    """An attack that knows the model and nothing of any detector."""

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """Perturb one batch: images float32 [n c h w] in [0, 1], labels and seeds int64 [n], on the CPU.

        The input stays untouched, the victim's mode and weights too. An image's result does not depend on the
        images beside it; all randomness comes from its seed (but see `independent`).
        """


class GradientAttack(EitherNorm, Attack):
    """An attack by gradient, in either norm, that knows the model and nothing of any detector."""


class AdaptiveAttack(AttackSettings, ABC):
    """An attack that also knows a detector and its threshold (Tramer et al. 2020, arXiv:2002.08347).

    Success = misclassified and not rejected.
    """

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """As `Attack.perturb`, against `guard` too."""


def check_eps(eps: float, norm: Norm = "linf", pixels: int | None = None) -> None:
    """Refuse an eps outside (0, 1] (L-inf) or (0, sqrt(pixels)] (L2; no upper end where pixels is None)."""
    top = 1.0 if norm == "linf" else math.inf if pixels is None else pixels**0.5
    if not 0 < eps <= top or math.isinf(eps):
        raise BadSetting(
            f"eps = {eps!r} is outside (0, {top:g}]; images are scaled to [0, 1], so write 8/255 for eight grey "
            "levels (the clean error, eps 0, stands in every row)"
        )


class FromSurrogate(AttackSettings, ABC):
    """An attack made on another model of the same data set, the surrogate, and only tried on the victim.

    source   the loss that the surrogate is trained with: standard training, seed 0, that loss's default settings,
             otherwise trained as the victim is, less what the data set's recipe changes for adversarial training
    """

    source: str

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, surrogate: Victim) -> Perturbed:
        """As `Attack.perturb`; gradients, passes and zero gradients are those of `surrogate`."""
