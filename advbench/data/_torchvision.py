"""Data sets with an official training and test part, read by torchvision from the files as they were published."""

import contextlib
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advbench.data import QUIET, DataSource, parts_of
from advbench.errors import BadData
from advbench.progress import Progress
from advbench.recipes import Recipe
from advbench.types import ImageSet, Splits

GREY = Recipe(  # of 28x28 grey pictures: MNIST's, but for the eps of adversarial training
    "mnist-cnn",
    {"epochs": 8, "batch_size": 64, "learning_rate": 0.05, "precision": "bf16"},
    {"eps": 0.1, "ramp": 0.3},
    {"epochs": 6},
)

Part = tuple[Tensor, Tensor, Iterable[str]]  # images uint8 [n c h w], labels int64 [n], names of the classes


class OfficialSet(DataSource):
    """Train / validation / calibration = 10 : 1 : 1 of the official training part; test = the official one, in order.

    name     the catalog name
    title    the name people write, for messages
    place    the folder below --data-dir that holds the files
    files    file name -> its bytes, or None where a checksum is compared instead
    shape    (c, h, w) of an image
    counts   images of the official training and test part
    """

    name: ClassVar[str]
    title: ClassVar[str]
    place: ClassVar[str]
    files: ClassVar[Mapping[str, int | None]]
    shape: ClassVar[tuple[int, int, int]]
    counts: ClassVar[tuple[int, int]]

    @abstractmethod
    def parse(self, folder: Path, *, train: bool, download: bool) -> Part:
        """An official part, by torchvision; may raise whatever it does."""

    def load(self, folder: Path | None, *, download: bool = False, progress: Progress = QUIET) -> Splits:  # noqa: ARG002
        """The four parts; raises BadData where files are missing, truncated, altered or of another size."""
        if folder is None:
            held = f"{self.place}/" if self.place else next(iter(self.files))
            raise BadData(
                f"{self.name} needs a data folder; name the one that holds {held} with --data-dir or ADVBENCH_DATA, "
                "or a new one together with --download"
            )
        train = self.read(folder, train=True, download=download)
        return parts_of({"train": train, "test": self.read(folder, train=False, download=download)})

    def read(self, folder: Path, *, train: bool, download: bool) -> ImageSet:
        """The official training or test part, whole and in its order."""
        at = folder / self.place
        try:
            with contextlib.redirect_stdout(sys.stderr):  # torchvision may tell of its downloads
                images, labels, names = self.parse(folder, train=train, download=download)
        # a file of another kind can raise anything out of its parser
        except Exception as error:
            cure = "the download did not work" if download else "or fetch them with --download"
            raise BadData(
                f"{self.title} in {at}: {self._trouble(at, error)}; put the original files there, {cure}"
            ) from error
        classes = tuple(names)
        count, last = self.counts[0 if train else 1], len(classes) - 1
        if images.shape != (count, *self.shape) or labels.shape != (count,) or int(labels.max()) > last:
            raise BadData(
                f"{self.title} in {at}: found images {tuple(images.shape)} and labels {tuple(labels.shape)} up to "
                f"{int(labels.max()) if len(labels) else 'nothing'} where {(count, *self.shape)} and ({count},) with "
                f"classes 0 to {last} belong; put the original files there"
            )
        return ImageSet(self.name, images.float().div_(255), labels, classes)

    def _trouble(self, at: Path, error: Exception) -> str:
        """What is wrong with the files, by name; the reader's own words where their sizes are right."""
        missing = [name for name in self.files if not (at / name).is_file()]
        if missing and all((at / f"{name}.gz").is_file() for name in missing):
            return f"{', '.join(missing)} packed as .gz (gunzip unpacks them)"
        if missing:
            return f"{', '.join(missing)} missing"
        sizes = [(name, (at / name).stat().st_size, size) for name, size in self.files.items() if size is not None]
        wrong = [f"{name} has {found:,} bytes where {size:,} belong" for name, found, size in sizes if found != size]
        said = " ".join(str(error).partition(". ")[0].split()) or type(error).__name__
        return f"unreadable, truncated or altered ({', '.join(wrong) or said})"


class IDXSet(OfficialSet):
    """A set in MNIST's format: four IDX files under `<title>/raw/`, 60,000 and 10,000 grey images of 28x28."""

    files = {  # noqa: RUF012  # bytes: header, then one for each pixel or label
        "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
        "train-labels-idx1-ubyte": 8 + 60_000,
        "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
        "t10k-labels-idx1-ubyte": 8 + 10_000,
    }
    shape = (1, 28, 28)
    counts = (60_000, 10_000)

    def parse(self, folder: Path, *, train: bool, download: bool) -> Part:
        """By the torchvision class of this title."""
        from torchvision import datasets

        part = getattr(datasets, self.title)(root=str(folder), train=train, download=download)
        names = (name.partition(" - ")[0] for name in part.classes)  # MNIST's are 0 - zero, 1 - one, ...
        return part.data.unsqueeze(1), part.targets.long(), names


class CIFAR(OfficialSet):
    """CIFAR as Python pickles, which could run code: torchvision opens them where their MD5 is the published one.

    It compares the checksums of all files, whether it has just fetched them or not, before it reads the first; a file
    that differs is refused unread.
    """

    shape = (3, 32, 32)
    counts = (50_000, 10_000)

    def parse(self, folder: Path, *, train: bool, download: bool) -> Part:
        """By the torchvision class of this class's name."""
        from torchvision import datasets

        part = getattr(datasets, self.title.replace("-", ""))(root=str(folder), train=train, download=download)
        return torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets), part.classes
