"""Check images and labels that somebody hands over as arrays, each mistake with its own message."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from advbench.errors import BadData
from advbench.types import ImageSet

CHANNELS = (1, 3)
MOST_CLASSES = 2**16  # where their number is not stated
AT_ONCE = 4096  # images looked through at a time
LOOKS = "images are float32 [n, channels, height, width] in [0, 1]"


def check(
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    classes: Sequence[str] | int | None = None,
    name: str = "data",
) -> ImageSet:
    """The images and labels as a set: float32 [n c h w] in [0, 1] and int64 [n], copied only where they must be.

    classes   their names, or how many there are; None = the largest label and those below it

    Raises BadData, beginning with `name`, for images of another rank, type, layout or range, or that are not finite;
    for labels that are one-hot, of another type or length, or outside the classes; and for an empty set.
    """
    pixels, targets = _tensor(images, f"{name}: images"), _tensor(labels, f"{name}: labels")
    _check_labels(targets, name)
    _check_layout(pixels, name)
    if len(pixels) != len(targets):
        raise BadData(f"{name}: {len(pixels)} images and {len(targets)} labels; give one label for each image")
    if not len(pixels):
        raise BadData(f"{name}: the set is empty; give at least one image")
    pixels = pixels.float()
    _check_range(pixels, name)
    return ImageSet(name, pixels, targets.long(), _classes(targets, classes, name))


def _tensor(values: Tensor | ArrayLike, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise BadData(f"{what} are no array ({error}); give all of them one shape") from error
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise BadData(f"{what} are of type {array.dtype}, which is no plain number; give a numeric array")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native) if native.flags.writeable else native.copy())


def _check_labels(labels: Tensor, name: str) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise BadData(
            f"{name}: labels have the shape {tuple(labels.shape)}, as one-hot rows have; give class numbers, "
            "labels.argmax(1)"
        )
    if labels.ndim != 1:
        raise BadData(
            f"{name}: labels have the shape {tuple(labels.shape)}; give one class number for each image, [n]"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise BadData(f"{name}: labels are {_type(labels)}; class numbers are whole, so give int64")


def _check_layout(images: Tensor, name: str) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4:
        add = "; add the axis of the channel, images[:, None]" if images.ndim == 3 else ""
        raise BadData(f"{name}: images have {images.ndim} axes, shape {shape}; {LOOKS}{add}")
    if images.shape[1] not in CHANNELS and images.shape[3] in CHANNELS:
        raise BadData(
            f"{name}: images have the shape {shape}, channels last (NHWC); {LOOKS}, so transpose them: "
            "images.transpose(0, 3, 1, 2) in NumPy, images.permute(0, 3, 1, 2) in torch"
        )
    if 0 in shape[1:]:
        raise BadData(f"{name}: images have the shape {shape} and so no pixel; {LOOKS}")
    if images.dtype == torch.uint8:
        raise BadData(f"{name}: images are uint8, from 0 to 255; {LOOKS}, so divide by 255")
    if not images.is_floating_point():
        raise BadData(f"{name}: images are {_type(images)}; {LOOKS}, so scale them")


def _check_range(images: Tensor, name: str) -> None:
    low, high = float("inf"), float("-inf")
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE]
        bad = ~torch.isfinite(part).flatten(1).all(1)
        if bad.any():
            row = start + int(bad.int().argmax())
            raise BadData(f"{name}: image {row} has pixels that are NaN or infinite; {LOOKS}, so remove or mend it")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low < 0 or high > 1:
        cure = "divide by 255" if low >= 0 and high <= 255 and high > 2 else "undo their normalisation, or scale them"
        raise BadData(f"{name}: pixels reach from {low:g} to {high:g}; {LOOKS}, so {cure}")


def _classes(labels: Tensor, classes: Sequence[str] | int | None, name: str) -> tuple[str, ...]:
    low, high = int(labels.min()), int(labels.max())
    if classes is None:
        classes = min(max(high + 1, 2), MOST_CLASSES)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if low < 0 or high >= len(names):
        raise BadData(
            f"{name}: labels reach from {low} to {high} where there are {len(names)} classes; they count from 0, so "
            f"the largest is {len(names) - 1}"
        )
    return names


def _type(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
