"""Data sets: one file each; the contract and the stratified split they share."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advbench.errors import BadData
from advbench.recipes import Recipe
from advbench.streaming import joined
from advbench.types import ImageSet, Splits

SPLIT_SEED = 20180618  # of the splits alone: a run's --seed never moves an image from one part to another
SHARES = {"train": 10, "validation": 1, "calibration": 1, "test": 2}  # of data that come in one piece; MNIST's own
COLOUR = Recipe(  # of small colour pictures, and of any folder or file of images
    "resnet20",
    {"epochs": 30, "batch_size": 64, "learning_rate": 0.1, "precision": "bf16", "augmentation": "mirror-crop"},
    {"eps": 8 / 255},
)
AT_ONCE = 1024  # images held for a fingerprint


class DataSource(ABC):
    """A data set: `load` lays out its four parts; `recipe` says what it is trained with by default."""

    recipe: ClassVar[Recipe]

    @abstractmethod
    def load(self, folder: Path | None, *, download: bool = False) -> Splits:
        """The four parts, images float32 in [0, 1].

        `folder` is --data-dir; `download` allows fetching into it. Raises BadData where files are missing,
        truncated or wrong.
        """


def split(whole: ImageSet, sizes: tuple[int, ...]) -> list[ImageSet]:
    """Stratified parts of exactly these sizes (their sum = n), each in the order of `whole`."""
    from sklearn.model_selection import train_test_split

    rest = torch.arange(len(whole))
    parts: list[Tensor] = []
    for size in sizes[:-1]:
        part, rest = (
            torch.as_tensor(half).sort().values
            for half in train_test_split(
                rest.numpy(),
                train_size=size,
                random_state=SPLIT_SEED,
                stratify=whole.labels[rest].numpy(),
            )
        )
        parts.append(part)
    return [whole.take(index) for index in (*parts, rest)]


def join(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets, one after the other."""
    pixels = joined(first.pixels, second.pixels)
    return ImageSet(first.name, pixels, torch.cat([first.labels, second.labels]), first.classes)


def parts_of(given: Mapping[str, ImageSet], excluded: Mapping[str, int] | None = None) -> Splits:
    """The four parts from those given; `train`, always among them, gives up a stratified share for each missing one.

    The shares are SHARES: of a training part beside a test part, train / validation / calibration = 10 : 1 : 1; of
    data in one piece, train / validation / calibration / test = 10 : 1 : 1 : 2. Raises BadData where a class has too
    few images to be split so.
    """
    whole = given["train"]
    missing = [name for name in SHARES if name not in given]
    total = SHARES["train"] + sum(SHARES[name] for name in missing)
    least = total if missing else 1
    for label, count in enumerate(torch.bincount(whole.labels, minlength=len(whole.classes)).tolist()):
        if count < least:
            raise BadData(
                f"{whole.name}: class {shown(whole.classes[label])} has {count} training images; a split into "
                f"{', '.join(('train', *missing))} needs at least {least} of each class"
            )
    shares = [len(whole) * SHARES[name] // total for name in missing]
    pieces = split(whole, (len(whole) - sum(shares), *shares)) if missing else [whole]
    parts = {**given, **dict(zip(("train", *missing), pieces, strict=True))}
    return Splits(**parts, excluded=dict(excluded or {}), calibration_given="calibration" in given)


def for_supplied(splits: Splits) -> Splits:
    """The parts for a model that was not trained here, which may have seen every image under `train/`.

    Calibration is the part given as such, else a stratified half of the test part, by SPLIT_SEED; train is all that
    came for training: the training part, then validation, then the share that was set aside for calibration.
    Raises BadData where a class has fewer than two test images to be halved.
    """
    train = join(splits.train, splits.validation) if len(splits.validation) else splits.train
    nothing = splits.validation.take(slice(0))
    if splits.calibration_given:
        return replace(splits, train=train, validation=nothing)
    if len(splits.calibration):
        train = join(train, splits.calibration)
    test = splits.test
    for label, count in enumerate(torch.bincount(test.labels, minlength=len(test.classes)).tolist()):
        if count == 1:
            raise BadData(
                f"{test.name}: class {shown(test.classes[label])} has a single test image; half of the test part "
                "fixes the thresholds, so give at least two of each class, or a calibration part"
            )
    calibration, rest = split(test, (len(test) // 2, len(test) - len(test) // 2))
    return replace(splits, train=train, validation=nothing, calibration=calibration, test=rest)


def shown(name: str) -> str:
    """A name out of somebody's files as it may stand in a message: quoted, one line, at most 60 characters."""
    return repr(name if len(name) <= 60 else f"{name[:59]}\N{HORIZONTAL ELLIPSIS}")


def fingerprint(splits: Splits) -> str:
    """sha256 over every part's images and labels: the same name over other data is another data set.

    Images that stay on disk give the same one, decoded AT_ONCE at a time.
    """
    digest = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.calibration, splits.test):
        digest.update(str(tuple(part.pixels.shape)).encode())
        for start in range(0, len(part), AT_ONCE):
            digest.update(part.pixels[start : start + AT_ONCE].contiguous().numpy().data)
        digest.update(str(tuple(part.labels.shape)).encode())
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()
