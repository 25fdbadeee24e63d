"""What a plug-in attack or detector must offer."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.types import Outputs, Perturbed
from advbench.victim import Victim


class Attack(ABC):
    """An attack with its settings: a frozen dataclass with keyword-only fields, all with defaults.

    norm      the norm in which eps bounds the perturbation
    targeted  whether it has targets, so that success = target reached
    eps       pixel units of [0, 1]: 8/255 is eight grey levels
    clip      whether results are kept inside [0, 1]
    """

    norm: ClassVar[Literal["linf", "l2"]] = "linf"
    targeted: ClassVar[bool] = False
    eps: float
    clip: bool

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """Perturb one batch: images float32 [n c h w] in [0, 1], labels and seeds int64 [n], on the CPU.

        The input stays untouched, the victim's mode and weights too. An image's result does not depend on the
        images beside it; all randomness comes from its seed.
        """


def check_eps(eps: float, norm: str = "linf", pixels: int = 1) -> None:
    """Refuse an eps outside (0, 1] (L-inf) or (0, sqrt(pixels)] (L2)."""
    top = 1.0 if norm == "linf" else pixels**0.5
    if not 0 < eps <= top:
        raise BadSetting(
            f"eps = {eps!r} is outside (0, {top:g}]; images are scaled to [0, 1], so write 8/255 for eight grey "
            "levels (the clean error, eps 0, stands in every row)"
        )


class FittedDetector(ABC):
    """A detector after `fit`: an immutable record that scores outputs."""

    @abstractmethod
    def score(self, outputs: Outputs) -> Tensor:
        """Suspicion [n], float64, higher = more suspicious: a negated log-likelihood; +inf is allowed.

        Torch operations only, so that an attack can differentiate it in `outputs`, unless the detector says
        `differentiable = False`.
        """


class Detector(ABC):
    """A detector with its settings: a frozen dataclass."""

    differentiable: ClassVar[bool] = True

    @abstractmethod
    def fit(self, head: Head, outputs: Outputs, labels: Tensor) -> FittedDetector:
        """A fitted record from the model's head and its outputs and labels on the training part."""
