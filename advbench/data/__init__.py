"""Data sets: one file each; the contract and the stratified split they share."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advbench.types import ImageSet, Recipe, Splits

SPLIT_SEED = 20180618  # of the splits alone: a run's --seed never moves an image from one part to another


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
    images = torch.cat([first.images, second.images])
    return ImageSet(first.name, images, torch.cat([first.labels, second.labels]), first.classes)


def fingerprint(splits: Splits) -> str:
    """sha256 over every part's images and labels: the same name over other data is another data set."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.calibration, splits.test):
        for tensor in (part.images, part.labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
