"""MNIST: 70,000 handwritten digits, 28x28 grey levels, read from IDX files through torchvision."""

from pathlib import Path

from advbench.data import DataSource, split
from advbench.errors import BadData
from advbench.types import ImageSet, Recipe, Splits

COUNTS = {True: 60_000, False: 10_000}
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class MNIST(DataSource):
    """MNIST (LeCun et al. 1998) from `<folder>/MNIST/raw/*-ubyte`.

    Of the official 60,000, 50,000 train / 5,000 validation / 5,000 calibration; test = the official 10,000.
    """

    recipe = Recipe("mnist-cnn", {"epochs": 8, "batch_size": 64, "learning_rate": 0.05, "precision": "bf16"})

    def load(self, folder: Path | None, *, download: bool = False) -> Splits:
        """The four parts; raises BadData where the IDX files are missing, truncated or of another size."""
        if folder is None:
            raise BadData(
                "mnist needs a data folder; name the one that holds MNIST/raw/ with --data-dir or ADVBENCH_DATA, "
                "or a new one together with --download"
            )
        official = read(folder, train=True, download=download)
        test = read(folder, train=False, download=False)
        train, validation, calibration = split(official, (50_000, 5_000, 5_000))
        return Splits(train, validation, calibration, test)


def read(folder: Path, *, train: bool, download: bool) -> ImageSet:
    """The official training or test part, whole and in its order."""
    from torchvision import datasets

    raw = folder / "MNIST" / "raw"
    try:
        part = datasets.MNIST(root=str(folder), train=train, download=download)
    except (RuntimeError, ValueError, AssertionError, OSError, IndexError, KeyError) as error:
        missing = [n for n in FILES if not (raw / n).is_file() and not (raw / f"{n}.gz").is_file()]
        what = f"{', '.join(missing)} missing" if missing else f"unreadable or truncated ({error})"
        raise BadData(
            f"MNIST in {raw}: {what}; put the four original IDX files there, or fetch them with --download"
        ) from error
    images, labels = part.data, part.targets.long()
    count = COUNTS[train]
    if images.shape != (count, 28, 28) or labels.shape != (count,) or int(labels.max()) > 9:
        raise BadData(
            f"MNIST in {raw}: found images {tuple(images.shape)} and labels {tuple(labels.shape)} where "
            f"({count}, 28, 28) and ({count},) with classes 0 to 9 belong; put the original files there"
        )
    return ImageSet("mnist", images.unsqueeze(1).float().div_(255), labels, tuple("0123456789"))
