"""MNIST: 70,000 handwritten digits, 28x28 grey levels, read from IDX files through torchvision."""

from pathlib import Path

from advbench.data import DataSource, split
from advbench.errors import BadData
from advbench.types import ImageSet, Recipe, Splits

COUNTS = {True: 60_000, False: 10_000}
FILES = {  # bytes: header, then one for each pixel or label
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}


class MNIST(DataSource):
    """MNIST (LeCun et al. 1998) from `<folder>/MNIST/raw/*-ubyte`.

    Of the official 60,000, 50,000 train / 5,000 validation / 5,000 calibration; test = the official 10,000.
    """

    # adversarial training: one step an image is what two cores can afford; it is learned too well (softmax, eps 0.3,
    # 200 validation images: FGSM errs 0.5 %, APGD 33 %), more steps are stronger and cost a pass each
    recipe = Recipe(
        "mnist-cnn",
        {"epochs": 8, "batch_size": 64, "learning_rate": 0.05, "precision": "bf16"},
        {"eps": 0.3, "ramp": 0.3},
        {"epochs": 6},
    )

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
        cure = "the download did not work" if download else "or fetch them with --download"
        raise BadData(
            f"MNIST in {raw}: {_trouble(raw, error)}; put the four original IDX files there, {cure}"
        ) from error
    images, labels = part.data, part.targets.long()
    count = COUNTS[train]
    if images.shape != (count, 28, 28) or labels.shape != (count,) or int(labels.max()) > 9:
        raise BadData(
            f"MNIST in {raw}: found images {tuple(images.shape)} and labels {tuple(labels.shape)} up to "
            f"{int(labels.max()) if len(labels) else 'nothing'} where "
            f"({count}, 28, 28) and ({count},) with classes 0 to 9 belong; put the original files there"
        )
    return ImageSet("mnist", images.unsqueeze(1).float().div_(255), labels, tuple("0123456789"))


def _trouble(raw: Path, error: Exception) -> str:
    """What is wrong with the four files, by name; the reader's own words where their sizes are right."""
    missing = [name for name in FILES if not (raw / name).is_file()]
    if missing and all((raw / f"{name}.gz").is_file() for name in missing):
        return f"{', '.join(missing)} packed as .gz (gunzip unpacks them)"
    if missing:
        return f"{', '.join(missing)} missing"
    sizes = {name: (raw / name).stat().st_size for name in FILES}
    wrong = [f"{n} has {sizes[n]:,} bytes where {FILES[n]:,} belong" for n in FILES if sizes[n] != FILES[n]]
    return f"unreadable or truncated ({', '.join(wrong) or error or type(error).__name__})"
