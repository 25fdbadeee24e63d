"""Records that pass between rooms (n inputs, d features, k classes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from advbench.errors import Diagnostic


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

    def load_all(self) -> Tensor:
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
    findings: tuple[Diagnostic, ...] = field(default=(), kw_only=True)


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


@dataclass(frozen=True)
class Streamed:
    """Stands where a tensor of images would, and holds no pixel: `shape`, `len`, `[rows]`, `to(device)`.

    read          decodes rows (int64 [m], CPU) of the whole that this is a part of: float32 [m c h w] in [0, 1], CPU
    index         int64 [n], the rows of the whole that are in this part, in this part's order
    image_shape   (c, h, w)
    device        where rows are handed over
    """

    read: Callable[[Tensor], Tensor]
    index: Tensor
    image_shape: tuple[int, int, int]
    device: torch.device | str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, h, w)."""
        return (len(self.index), *self.image_shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """These rows decoded, float32 [m c h w] on `device`; `rows` is a slice or int64 [m] on any device."""
        return self.read(self.take(rows).index).to(self.device)

    def take(self, rows: Tensor | slice) -> Streamed:
        """These rows, still on disk."""
        index = self.index[rows if isinstance(rows, slice) else rows.cpu()]
        return Streamed(self.read, index, self.image_shape, self.device)

    def to(self, device: torch.device) -> Streamed:
        """The same rows, to be handed over on another device."""
        return Streamed(self.read, self.index, self.image_shape, device)


def joined(first: Tensor | Streamed, second: Tensor | Streamed) -> Tensor | Streamed:
    """Rows of both parts of one data set, one after the other."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, Streamed)
    assert isinstance(second, Streamed)
    assert first.read == second.read  # parts of one data set lie in one place
    return Streamed(first.read, torch.cat([first.index, second.index]), first.image_shape)


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of class `classes` [b], float64."""
    return logits.double().gather(1, classes[:, None]).squeeze(1)


def without_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The logits [b k], float64, with -inf at `classes`."""
    return logits.double().scatter(1, classes[:, None], -torch.inf)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """`max_{k != z} s_k - s_z` (Carlini and Wagner 2017, arXiv:1608.04644, f6): positive = misclassified."""
    return without_class(logits, labels).amax(dim=1) - of_class(logits, labels)


def runners_up(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The classes of the `count` largest logits but for the label's, int64 [b min(count, k - 1)], best first."""
    return without_class(logits, labels).topk(min(count, logits.shape[1] - 1), dim=1).indices
