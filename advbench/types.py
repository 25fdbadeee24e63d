"""The records that pass between modules (n inputs, d features, k classes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from advbench.findings import Finding
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

    excluded            reason -> how many files or arrays were left out for it
    calibration_given   whether the calibration part came as such, rather than as a share of the training part
    given               the parts that came as such; none of data in one piece
    test_part           how the test images came: "given" as such, as a "validation" part, or "split" from other data
    untrainable         why no model can be trained on these parts; empty where one can
    findings            what a user should know about the data, warnings only
    """

    train: ImageSet
    validation: ImageSet
    calibration: ImageSet
    test: ImageSet
    excluded: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    calibration_given: bool = field(default=False, kw_only=True)
    given: tuple[str, ...] = field(default=("train", "test"), kw_only=True)
    test_part: Literal["given", "validation", "split"] = field(default="given", kw_only=True)
    untrainable: str = field(default="", kw_only=True)
    findings: tuple[Finding, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives: `features` float32 [n d], `logits` float32 [n k].

    assumed   int64 [n], classes that replace `predictions` and nothing else: how a targeted attack asks a detector
              what it would think of an image once it has its target's label. A score that has no predicted class in
              it, the largest posterior for one, stays as it is
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
    zero_gradients  bool [n], a gradient was exactly zero in every pixel, or NaN or infinite in one; None where nobody
                    looked
    first_success   int64 [n], gradients (of an attack that takes none at all: forward passes) spent on the image
                    when it was first seen to succeed, 0 = before any; -1 where that was not seen
    misclassified   of an ensemble: bool [n], some point tried was misclassified, detected or not
    member          of an ensemble: int64 [n], place in `members` of the one that found the image returned
    members         of an ensemble: the names of those that took part
    implementation  whose code took the step, "art" or "advbench"; None where there is no choice
    """

    images: Tensor
    targets: Tensor | None
    gradients: Tensor
    forwards: Tensor
    zero_gradients: Tensor | None
    first_success: Tensor
    misclassified: Tensor | None = None
    member: Tensor | None = None
    members: tuple[str, ...] = ()
    implementation: str | None = None


@dataclass(frozen=True)
class Adversarials:
    """An attack's result on the first n test images.

    images       float32 [n c h w]
    index        int64 [n], row in the test set
    labels       int64 [n]
    targets      int64 [n] or None
    outputs      the model's outputs on `images`
    zero_gradients, saturated   bool [n]: as in `Perturbed`; float32 posterior of the true class exactly 1
    gradients, forwards, first_success   int64 [n] as in `Perturbed`; None where a file does not hold them
    misclassified, member   as in `Perturbed`; None but for an ensemble
    members, implementation   as in `Perturbed`; not in files, where the attack's row names them
    """

    images: Tensor
    index: Tensor
    labels: Tensor
    targets: Tensor | None
    outputs: Outputs
    zero_gradients: Tensor | None
    saturated: Tensor
    gradients: Tensor | None = None
    forwards: Tensor | None = None
    first_success: Tensor | None = None
    misclassified: Tensor | None = None
    member: Tensor | None = None
    members: tuple[str, ...] = ()
    implementation: str | None = None

    @property
    def succeeded(self) -> Tensor:
        """Bool [n]: the target is reached (targeted), or the label is wrong (untargeted)."""
        if self.targets is not None:
            return self.outputs.predictions == self.targets
        return self.outputs.predictions != self.labels
