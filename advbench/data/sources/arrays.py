"""Check images and labels given as arrays; each mistake has its own message."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from advbench.data import for_supplied
from advbench.errors import BadData, BadSetting, Diagnostic, warn
from advbench.types import ImageSet, Splits, Streamed, slices

T = TypeVar("T")
CHANNELS = (1, 3)
MOST_CLASSES = 2**16  # where their number is not stated
# torch's other types have no arithmetic
WHOLE_NUMBERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COMPUTED = (*WHOLE_NUMBERS, torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOOKS = "images are float32 [n, channels, height, width] in [0, 1]"


def check(
    images: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    classes: Sequence[str] | int | None = None,
    name: str = "data",
    found: list[Diagnostic] | None = None,
) -> ImageSet:
    """The images and labels as a set: [n c h w] in [0, 1], made float32 a batch at a time, and int64 [n].

    images    as in the set; or uint8, divided by 255; or [n h w c], transposed; or [n h w], of one channel
    classes   their names, or how many there are; None = the largest label and those below it
    found     is given a warning for each change that a user should know of

    Raises BadData, each fault beginning with `name`, for images of another rank, type or range, or that are not
    finite; for labels that are one-hot, of another type or length, or outside the classes; and for an empty set.
    """
    faults = list[str]()
    targets = _read(_targets, labels, name, faults)
    pixels = _read(partial(_pixels, found=[] if found is None else found), images, name, faults)
    if targets is None or pixels is None:
        raise BadData(*faults)
    if len(pixels) != len(targets):
        raise BadData(f"{name}: {len(pixels)} images and {len(targets)} labels; give one label for each image")
    if not len(pixels):
        raise BadData(f"{name}: the set is empty; give at least one image")
    return ImageSet(name, pixels, targets.long(), _classes(targets, classes, name))


def _read(read: Callable[[Any], T], values: Tensor | ArrayLike, name: str, faults: list[str]) -> T | None:
    try:
        return read(values)
    except BadData as error:
        faults.append(f"{name}: {error}")
        return None


def _tensor(values: Tensor | ArrayLike, what: str) -> Tensor:
    """A tensor on the CPU that autograd may keep, of a type that torch has."""
    try:
        if isinstance(values, Tensor):
            if values.is_complex() or values.is_quantized or values.is_nested:
                kind = "nested" if values.is_nested else _type(values)
                raise BadData(f"{what} are {kind}, not plain numbers; give a numeric tensor")
            dense = (values.clone() if values.is_inference() else values).detach().cpu().to_dense()
            if dense.dtype in COMPUTED:
                return dense
            return dense.to(torch.float32 if dense.is_floating_point() else torch.int64)
        array = np.asarray(values)
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise BadData(f"{what} are of type {array.dtype}, not numbers; give a numeric array")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what cannot be written to, and is not
            return torch.from_numpy(np.ascontiguousarray(native))
    except (ValueError, TypeError, RuntimeError) as error:  # lists of unequal lengths, long double
        raise BadData(f"{what} are no array of numbers ({error}); give one tensor or NumPy array") from error


def _targets(values: Tensor | ArrayLike) -> Tensor:
    """Labels [n], of any type of whole numbers."""
    labels = _tensor(values, "labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    shape = tuple(labels.shape)
    if labels.ndim == 2:
        several = (labels != 0).sum(1) > 1
        wrong = f"row {int(several.int().argmax())} with several classes; an image has one here, so give its number"
        one_hot = "as one-hot rows have; give class numbers, labels.argmax(1)"
        raise BadData(f"labels have the shape {shape}, {wrong if several.any() else one_hot}")
    if labels.ndim != 1:
        raise BadData(f"labels have the shape {shape}; give one class number for each image, [n]")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise BadData(f"labels are {_type(labels)}; class numbers are whole, so give int64")
    return labels


@dataclass(frozen=True, eq=False)
class _Images:
    """Images [n c h w] of any type, as they were given, of which a batch becomes float32 in [0, 1]."""

    values: Tensor
    scale: float

    def __call__(self, rows: Tensor) -> Tensor:
        images = self.values[rows].float().contiguous()
        return images if self.scale == 1 else images.div_(self.scale)


def _pixels(values: Tensor | ArrayLike, found: list[Diagnostic]) -> Streamed:
    """Images as float32 [n c h w] in [0, 1], a batch at a time."""
    images = _tensor(values, "images")
    images = images[:, None] if images.ndim == 3 else images
    shape = tuple(images.shape)
    if images.ndim != 4:
        raise BadData(f"images have {images.ndim} axes, shape {shape}; {LOOKS}")
    if 0 in shape[1:]:
        raise BadData(f"images have the shape {shape} and so no pixel; {LOOKS}")
    if shape[1] not in CHANNELS and shape[3] in CHANNELS:
        images = images.permute(0, 3, 1, 2)
        found.append(warn("channels-last", f"images have their channels last, {shape[1:]}: transposed"))
    n, c, h, w = images.shape
    scale = 255 if images.dtype == torch.uint8 and not (n and images.max() <= 1) else 1
    if scale != 1:
        found.append(warn("uint8-images", "images are uint8: taken as 0 to 255 and divided by 255"))
    elif not images.is_floating_point():
        cure = "scale them as float32: divide what reaches to 255 by 255, leave 0 and 1 as they are"
        raise BadData(f"images are {_type(images)}; {LOOKS}, so {cure}")
    else:
        _check_range(images)
    return Streamed(_Images(images, scale), torch.arange(n), (c, h, w))


def _check_range(images: Tensor) -> None:
    low, high = float("inf"), float("-inf")
    for rows in slices(len(images), 4 * images[:1].numel()):
        part = images[rows].float()
        bad = ~torch.isfinite(part).flatten(1).all(1)
        if bad.any():
            row = rows.start + int(bad.int().argmax())
            raise BadData(f"image {row} has pixels that are NaN or infinite; {LOOKS}, so remove or mend it")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low < 0 or high > 1:
        undo = "undo their normalisation, or scale them: where they are from -1 to 1, (images + 1) / 2"
        cure = "divide by 255" if low >= 0 and 2 < high <= 255 else undo
        raise BadData(f"pixels reach from {low:g} to {high:g}; {LOOKS}, so {cure}")


def _classes(labels: Tensor, classes: Sequence[str] | int | None, name: str) -> tuple[str, ...]:
    low, high = int(labels.min()), int(labels.max())
    if classes is None:
        classes = min(max(high + 1, 2), MOST_CLASSES)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if low < 0 or high >= len(names):
        cure = "subtract 1" if (low, high) == (1, len(names)) else f"the largest is {len(names) - 1}"
        wrong = f"labels reach from {low} to {high} where there are {len(names)} classes"
        raise BadData(f"{name}: {wrong}; they count from 0, so {cure}")
    return names


def _type(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


Images = Tensor | ArrayLike
Pair = tuple[Images, Images]


def splits_of(
    images: Images,
    labels: Images,
    train: Pair | None,
    calibration: Pair | None,
    classes: Sequence[str] | int | None,
    name: str,
) -> Splits:
    """The parts of what was handed over; those not given are empty, or half of the test part.

    Where `classes` is None, they are those that occur in any part.
    """
    if classes is None:
        classes = _classes_in(labels, *(pair[1] for pair in (train, calibration) if _is_pair(pair)))
    found: list[Diagnostic] = []
    test = check(images, labels, classes, name, found)
    nothing = test.take(slice(0))
    fitting, fixing = (
        nothing if pair is None else _set(pair, part, test, found)
        for part, pair in (("train", train), ("calibration", calibration))
    )
    parts = Splits(fitting, nothing, fixing, test, calibration_given=calibration is not None, findings=tuple(found))
    return for_supplied(parts)


def _classes_in(*labels: Images) -> int | None:
    """As many as the largest label says; None where these are no labels, which `arrays.check` says better."""
    try:
        return min(MOST_CLASSES, max(2, *(int(torch.as_tensor(values).max()) + 1 for values in labels)))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _is_pair(pair: Any) -> TypeGuard[Pair]:
    return isinstance(pair, (tuple, list)) and len(pair) == 2


def _set(pair: Pair, part: str, test: ImageSet, found: list[Diagnostic]) -> ImageSet:
    if not _is_pair(pair):
        raise BadSetting(f"{part} is no pair; write {part}=(images, labels)")
    made = check(*pair, test.classes, f"{part} part of {test.name}", found)
    if made.shape != test.shape:
        raise BadData(f"{made.name}: images are {made.shape}, the test images {test.shape}; give images of one shape")
    return ImageSet(test.name, made.pixels, made.labels, test.classes)
