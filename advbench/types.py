"""The records that pass between modules (n inputs, d features, k classes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from advbench.errors import BadSetting
from advbench.settings import at_least
from advbench.streaming import Streamed


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: `pixels` float32 [n c h w] in [0, 1], `labels` int64 [n], `classes` k names.

    The pixels of a set larger than memory are `Streamed`: work on `pixels[rows]`, batch by batch.
    """

    name: str
    pixels: Tensor | Streamed
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All the images in memory, float32 [n c h w]."""
        return self.pixels if isinstance(self.pixels, Tensor) else self.pixels[:]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.pixels.shape[1:]
        return c, h, w

    def take(self, index: Tensor | slice) -> ImageSet:
        """The rows `index`, in that order."""
        pixels = self.pixels[index] if isinstance(self.pixels, Tensor) else self.pixels.take(index)
        return ImageSet(self.name, pixels, self.labels[index], self.classes)


@dataclass(frozen=True)
class Splits:
    """The four parts of a data set: to fit, to choose settings, to fix thresholds, to report.

    excluded            reason -> how many files were left out for it
    calibration_given   whether the calibration part came as such, rather than as a share of the training part
    """

    train: ImageSet
    validation: ImageSet
    calibration: ImageSet
    test: ImageSet
    excluded: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    calibration_given: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives: `features` float32 [n d], `logits` float32 [n k].

    assumed   int64 [n], classes to take for predicted whatever the logits say: how a targeted attack asks a
              detector what it would think of an image once it has its target's label
    """

    features: Tensor
    logits: Tensor
    assumed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def predictions(self) -> Tensor:
        """The class of the largest logit, or the one assumed, int64 [n]."""
        return self.logits.argmax(dim=1) if self.assumed is None else self.assumed

    def take(self, index: Tensor | slice) -> Outputs:
        """The rows `index`, in that order."""
        assumed = None if self.assumed is None else self.assumed[index]
        return Outputs(self.features[index], self.logits[index], assumed)


@dataclass(frozen=True)
class Perturbed:
    """What an attack returns for one batch.

    images          float32 [n c h w]
    targets         int64 [n], or None for an untargeted attack
    gradients       int64 [n], backward passes spent on each image
    forwards        int64 [n], forward passes spent on each image
    zero_gradients  bool [n], a gradient was exactly zero in every pixel
    first_success   int64 [n], gradients (of an attack that takes none at all: forward passes) spent on the image
                    when it was first seen to succeed, 0 = before any; -1 where that was not seen
    misclassified   of an ensemble: bool [n], some point tried was misclassified, detected or not
    member          of an ensemble: int64 [n], place in `members` of the one that found the image returned
    members         of an ensemble: the names of those that took part
    """

    images: Tensor
    targets: Tensor | None
    gradients: Tensor
    forwards: Tensor
    zero_gradients: Tensor
    first_success: Tensor
    misclassified: Tensor | None = None
    member: Tensor | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adversarials:
    """An attack's result on the first n test images.

    images       float32 [n c h w]
    index        int64 [n], row in the test set
    labels       int64 [n]
    targets      int64 [n] or None
    outputs      the model's outputs on `images`
    zero_gradients, saturated   bool [n]: gradient all zero; float32 posterior of the true class exactly 1
    gradients, forwards, first_success   int64 [n] as in `Perturbed`; None where a file does not hold them
    misclassified, member   as in `Perturbed`; None but for an ensemble
    members      as in `Perturbed`; not in files, where the attack's row names them
    """

    images: Tensor
    index: Tensor
    labels: Tensor
    targets: Tensor | None
    outputs: Outputs
    zero_gradients: Tensor
    saturated: Tensor
    gradients: Tensor | None = None
    forwards: Tensor | None = None
    first_success: Tensor | None = None
    misclassified: Tensor | None = None
    member: Tensor | None = None
    members: tuple[str, ...] = ()

    @property
    def succeeded(self) -> Tensor:
        """Bool [n]: the target is reached (targeted), or the label is wrong (untargeted)."""
        if self.targets is not None:
            return self.outputs.predictions == self.targets
        return self.outputs.predictions != self.labels


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training settings, the same for every loss; a loss's own settings are its constructor's.

    SGD with Nesterov momentum; the learning rate rises linearly for `warmup` epochs, then falls to 0 by a
    half cosine. `batch_size` images a step; a last batch of less than half of it is left out of the epoch.
    A gradient longer than `max_gradient_norm` (Euclidean, all parameters together) is scaled down to it.
    `precision` bf16 = autocast of the network (the head stays in float32) where the device computes bf16 natively,
    float32 elsewhere. `full_train` joins the validation part to the training part. `augmentation` mirror-crop = each
    training image mirrored or not and shifted by up to 4 pixels, at random (`advbench.augmentation`).
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 1.0
    max_gradient_norm: float = 2.0
    precision: Literal["fp32", "bf16"] = "fp32"
    full_train: bool = False
    augmentation: Literal["none", "mirror-crop"] = "none"

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("training batch_size", self.batch_size, 1)
        at_least("learning_rate", self.learning_rate, 0, above=True)
        at_least("momentum", self.momentum, 0)
        if self.momentum >= 1:
            raise BadSetting(f"momentum = {self.momentum:g} is out of range; it must be below 1")
        at_least("weight_decay", self.weight_decay, 0)
        at_least("warmup", self.warmup, 0)
        at_least("max_gradient_norm", self.max_gradient_norm, 0, above=True)

    def record(self) -> dict[str, Any]:
        """As JSON; a training without augmentation has no field for it, as records had before there was any."""
        record = asdict(self)
        if self.augmentation == "none":
            del record["augmentation"]
        return record


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """Training on attacked images instead of clean ones; L-inf, eps and step in pixel units of [0, 1].

    Each batch is attacked from a uniformly random start in the ball of radius `eps`, by `steps` sign steps of size
    `step`. One step: 1.25 eps (Wong et al. 2020, arXiv:2001.03994, algorithm 3); more: 2.5 eps / steps each (Madry
    et al. 2018, arXiv:1706.06083) unless `step` says otherwise. eps rises linearly from 0 over the first `ramp` of
    all steps, a share: large networks may otherwise never leave chance level.
    """

    eps: float = 0.3
    steps: int = 1
    step: float | None = None
    ramp: float = 0.0

    def __post_init__(self) -> None:
        at_least("adversarial eps", self.eps, 0, above=True)
        if self.eps > 1:
            raise BadSetting(
                f"adversarial eps = {self.eps:g} is outside (0, 1]; images are scaled to [0, 1], so write 8/255 for "
                "eight grey levels"
            )
        at_least("adversarial steps", self.steps, 1)
        if self.step is not None:
            at_least("adversarial step", self.step, 0, above=True)
        at_least("adversarial ramp", self.ramp, 0)
        if self.ramp > 1:
            raise BadSetting(f"adversarial ramp = {self.ramp:g} is outside [0, 1]; it is a share of the training")

    @property
    def step_size(self) -> float:
        """The size of a step: `step`, or the default for that many steps."""
        if self.step is not None:
            return self.step
        return (1.25 if self.steps == 1 else 2.5 / self.steps) * self.eps

    def record(self) -> dict[str, Any]:
        """As JSON, the step's size written out."""
        return {**asdict(self), "step": self.step_size}


@dataclass(frozen=True)
class Recipe:
    """What a data set is trained with unless told otherwise: a network's name and settings of the two regimes.

    hardened   training settings that adversarial training takes instead of those of `training`
    """

    network: str
    training: dict[str, Any]
    adversarial: dict[str, Any]
    hardened: dict[str, Any] = field(default_factory=dict)

    def training_of(self, adversarial: object) -> dict[str, Any]:
        """The training settings of a regime; `adversarial` is falsy for the standard one."""
        return self.training | (self.hardened if adversarial else {})


def resolve_device(name: str | None) -> torch.device:
    """The device of that name; None = CUDA where there is one, else the CPU. Raises BadSetting."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    usable = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "cuda" and len(usable) > 1:
        return torch.device("cuda")
    if name not in usable:
        raise BadSetting(f"device {name!r} cannot be used on this machine; usable: {', '.join(usable)}")
    return torch.device(name)
