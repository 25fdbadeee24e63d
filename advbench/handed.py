"""What is handed over in Python, in its forms: arrays to the parts of a data set, names and numbers to lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from advbench import catalog
from advbench.arrays import MOST_CLASSES, check
from advbench.contracts import AdaptiveAttack
from advbench.data import for_supplied
from advbench.errors import BadData, BadSetting
from advbench.evaluation import DETECTORS, usual_attacks
from advbench.findings import Finding
from advbench.parsing import entries, listed, text
from advbench.process import Device, resolve_device
from advbench.settings import number
from advbench.types import ImageSet, Splits

Images = Tensor | ArrayLike
Pair = tuple[Images, Images]
Channels = float | Sequence[float] | None
Entry = str | Mapping[str, Any]
Entries = Entry | Sequence[Entry] | None


def names(detectors: str | Sequence[str] | None, trained: bool) -> list[str]:
    """The detectors; of the default ones those that can be fitted, which takes a training part for some."""
    if detectors is None:
        return [d for d in DETECTORS if trained or catalog.load("detector", d).fitted_on == "nothing"]
    return [text(name, "detectors") for name in listed(detectors, "detectors")]


def attacks_of(attacks: Entries, eps: float, fpr: float, detectors: Sequence[str]) -> list[dict[str, Any]]:
    """An entry of a spec for each attack, with what it leaves open: eps, of an adaptive one the detectors and fpr."""
    chosen = []
    for name, given in entries(usual_attacks() if attacks is None else attacks, "attack"):
        adaptive = issubclass(catalog.load("attack", name), AdaptiveAttack)
        aim = {"detector": list(detectors), "fpr": fpr} if adaptive else {}
        chosen.append({"name": name, "eps": eps, **aim, **given})
    return chosen


def channels(values: Channels, name: str) -> list[float] | None:
    """One finite number, or one a channel."""
    if values is None:
        return None
    return [number(value, name) for value in np.ravel(np.asarray(values)).tolist()]


def device_of(model: nn.Module, name: str | None) -> Device:
    """The device of that name; for None the GPU that the model is on, else the usual one. Raises BadSetting."""
    own = next((t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"), None)
    wanted = own if name is None else name
    return resolve_device(None if wanted is None else str(wanted))


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
    found: list[Finding] = []
    test = check(images, labels, classes, name, found)
    nothing = test.take(slice(0))
    fitting, fixing = (
        nothing if pair is None else _like(_set(pair, part, test, found), test)
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


def _set(pair: Pair, part: str, test: ImageSet, found: list[Finding]) -> ImageSet:
    if not _is_pair(pair):
        raise BadSetting(f"{part} is no pair; write {part}=(images, labels)")
    return check(*pair, test.classes, f"{part} part of {test.name}", found)


def _like(part: ImageSet, test: ImageSet) -> ImageSet:
    if part.shape != test.shape:
        raise BadData(f"{part.name}: images are {part.shape}, the test images {test.shape}; give images of one shape")
    return ImageSet(test.name, part.pixels, part.labels, test.classes)
