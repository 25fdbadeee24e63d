"""Records that pass between rooms (n inputs, d features, k classes)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from advbench.errors import Diagnostic


@dataclass(frozen=True)
class ImageSet:
    """Labelled images."""

    name: str
    pixels: Tensor | Streamed  # float32 [n c h w] in [0, 1]; larger than memory: work on `pixels[rows]`, in batches
    labels: Tensor  # int64 [n]
    classes: tuple[str, ...]  # k names

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
        return replace(self, pixels=pixels, labels=self.labels[index])


@dataclass(frozen=True)
class Splits:
    """The four parts of a data set: to fit, to choose settings, to fix thresholds, to report."""

    train: ImageSet
    validation: ImageSet
    calibration: ImageSet
    test: ImageSet
    _: KW_ONLY
    excluded: Mapping[str, int] = field(default_factory=dict)  # files or arrays left out, by the reason
    calibration_given: bool = False  # the calibration part came as such, not as a share of the training part
    given: tuple[str, ...] = ("train", "test")  # the parts that came as such; none of data in one piece
    test_part: Literal["given", "validation", "split"] = "given"  # as such, as validation part, from other data
    untrainable: str = ""  # why no model can be trained on these parts; empty where one can
    findings: tuple[Diagnostic, ...] = ()  # what a user should know about the data, warnings only


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives."""

    features: Tensor  # float32 [n d]
    logits: Tensor  # float32 [n k]
    # int64 [n], classes that replace `predictions` and nothing else: how a targeted attack asks a detector what it
    # would think of an image once it has its target's label; a score without a predicted class in it stays as it is
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
    """What an attack returns for one batch."""

    images: Tensor  # float32 [n c h w]
    targets: Tensor | None  # int64 [n]; None: untargeted
    gradients: Tensor  # int64 [n], backward passes spent on each image
    forwards: Tensor  # int64 [n], forward passes spent on each image
    zero_gradients: Tensor | None  # bool [n], one was zero in all pixels, NaN or infinite in any; None: nobody looked
    # int64 [n], gradients (of an attack that takes none at all: forward passes) spent on the image when it was first
    # seen to succeed, 0 = before any; -1 where that was not seen
    first_success: Tensor
    misclassified: Tensor | None = (
        None  # of an ensemble: bool [n], some point tried was misclassified, detected or not
    )
    member: Tensor | None = None  # of an ensemble: int64 [n], place in `members` of the one that found the image
    members: tuple[str, ...] = ()  # of an ensemble: the names of those that took part
    implementation: str | None = None  # whose code took the step, "art" or "advbench"; None: there is no choice


@dataclass(frozen=True)
class Adversarials:
    """An attack's result on the first n test images; what is not explained is as in `Perturbed`."""

    images: Tensor
    index: Tensor  # int64 [n], row in the test set
    labels: Tensor  # int64 [n]
    targets: Tensor | None
    outputs: Outputs  # the model's, on `images`
    zero_gradients: Tensor | None
    saturated: Tensor  # bool [n]: float32 posterior of the true class exactly 1
    gradients: Tensor | None = None  # None where a file does not hold them, as the next two
    forwards: Tensor | None = None
    first_success: Tensor | None = None
    misclassified: Tensor | None = None
    member: Tensor | None = None
    clean: Tensor | None = None  # where only the first images are kept: what those were before the attack
    members: tuple[str, ...] = ()  # not in files, where the attack's row names them, as what follows
    implementation: str | None = None

    @property
    def succeeded(self) -> Tensor:
        """Bool [n]: the target is reached (targeted), or the label is wrong (untargeted)."""
        if self.targets is not None:
            return self.outputs.predictions == self.targets
        return self.outputs.predictions != self.labels


@dataclass(frozen=True)
class Streamed:
    """Stands where a tensor of images would, and holds no pixel: `shape`, `len`, `[rows]`, `to(device)`."""

    read: Callable[[Tensor], Tensor]  # rows (int64 [m], CPU) of the whole -> float32 [m c h w] in [0, 1], CPU
    index: Tensor  # int64 [n], the rows of the whole that are in this part, in this part's order
    image_shape: tuple[int, int, int]  # (c, h, w)
    device: torch.device | str = "cpu"  # where rows are handed over

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
        return replace(self, index=index)

    def to(self, device: torch.device) -> Streamed:
        """The same rows, to be handed over on another device."""
        return replace(self, device=device)


def slices(n: int, row: int, most: int = 2**26) -> Iterator[slice]:
    """Of 0..n rows of so many bytes, at most `most` bytes at a time."""
    step = max(1, most // max(1, row))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


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
