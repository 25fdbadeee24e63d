"""Data sets: one file each; the contract, the parts and the stratified split they share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advbench.errors import BadData, Diagnostic, warn
from advbench.formatting import shown
from advbench.progress import Progress, Quiet
from advbench.recipes import Recipe
from advbench.types import ImageSet, Splits, Streamed, slices

SPLIT_SEED = 20180618  # of the splits alone: a run's --seed never moves an image from one part to another
TRAIN = "train"
SHARES = {TRAIN: 10, "validation": 1, "calibration": 1, "test": 2}  # of data that come in one piece; MNIST's own
WHOLE = ""  # the name of data in one piece, where others have those of the parts
ALIASES = dict.fromkeys(("val", "valid", "dev"), "validation")
ALIASES |= {"training": TRAIN, "calib": "calibration", "testing": "test"}
DOUBTS = {  # how the test images of a supplied model came -> why its figures may be too good
    "validation": "has no test part, so validation is measured; if the model was chosen by it, add a test part",
    "split": "comes in one piece, and a share of it is measured; if the model was trained on it, add a test part",
}
COLOUR = Recipe(  # of small colour pictures, and of any folder or file of images
    "resnet20",
    {"epochs": 30, "batch_size": 64, "learning_rate": 0.1, "precision": "bf16", "augmentation": "mirror-crop"},
    {"eps": 8 / 255},
)
QUIET = Quiet()


class DataSource(ABC):
    """A data set: `load` lays out its four parts; `recipe` says what it is trained with by default."""

    recipe: ClassVar[Recipe]

    @abstractmethod
    def load(self, folder: Path | None, *, download: bool = False, progress: Progress = QUIET) -> Splits:
        """The four parts, images float32 in [0, 1].

        `folder` is --data-dir; `download` allows fetching into it; `progress` is told of reading that takes long.
        Raises BadData where files are missing, truncated or wrong.
        """


def part_of(name: str) -> str | None:
    """The part, a name in SHARES, that folders and arrays of this name hold, in any letter case; None = no part."""
    name = name.casefold()
    return ALIASES.get(name, name if name in SHARES else None)


def split(whole: ImageSet, sizes: tuple[int, ...]) -> list[ImageSet]:
    """Stratified parts of exactly these sizes (their sum = n), each in the order of `whole`."""
    rest = torch.arange(len(whole))
    parts: list[Tensor] = []
    for size in sizes[:-1]:
        part, rest = _parted(rest, whole.labels[rest], size)
        parts.append(part)
    return [whole.take(index) for index in (*parts, rest)]


def _parted(rows: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A stratified sample of `size` rows, and the other rows; both sorted."""
    from sklearn.model_selection import train_test_split

    try:
        part, rest = train_test_split(rows.numpy(), train_size=size, random_state=SPLIT_SEED, stratify=labels.numpy())
        return torch.as_tensor(part).sort().values, torch.as_tensor(rest).sort().values
    except ValueError:  # a class of one image, or a part with fewer images than classes: a systematic sample
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))
        order = order[labels[order].argsort(stable=True)]
        chosen = torch.zeros(len(rows), dtype=torch.bool)
        chosen[order[(2 * torch.arange(size) + 1) * len(rows) // max(2 * size, 1)]] = True
        return rows[chosen], rows[~chosen]


def join(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both parts of one data set, one after the other."""
    early, late = first.pixels, second.pixels
    if isinstance(early, Tensor) and isinstance(late, Tensor):
        pixels: Tensor | Streamed = torch.cat([early, late])
    elif isinstance(early, Streamed) and isinstance(late, Streamed) and early.read == late.read:
        pixels = replace(early, index=torch.cat([early.index, late.index]))
    else:

        def read(rows: Tensor) -> Tensor:
            images, is_early = torch.empty(len(rows), *first.shape), rows < len(early)
            images[is_early], images[~is_early] = early[rows[is_early]], late[rows[~is_early] - len(early)]
            return images

        pixels = Streamed(read, torch.arange(len(early) + len(late)), first.shape)
    return replace(first, pixels=pixels, labels=torch.cat([first.labels, second.labels]))


def parts_of(given: Mapping[str, ImageSet], excluded: Mapping[str, int] | None = None) -> Splits:
    """The four parts from those given, by their names in SHARES, or from data in one piece, named WHOLE.

    Each missing one is a stratified share of the training part or of the whole, empty where there is neither. The
    shares are SHARES: of a training part beside a test part, train / validation / calibration = 10 : 1 : 1; of data
    in one piece, train / validation / calibration / test = 10 : 1 : 1 : 2.
    """
    came = {name: given[name] for name in SHARES if name in given}
    whole = given.get(WHOLE, given.get(TRAIN, next(iter(given.values())).take(slice(0))))
    missing = [name for name in SHARES if name != TRAIN and name not in given]
    total = SHARES[TRAIN] + sum(SHARES[name] for name in missing)
    shares = [len(whole) * SHARES[name] // total for name in missing]
    pieces = split(whole, (len(whole) - sum(shares), *shares)) if missing else [whole]
    parts = came | dict(zip((TRAIN, *missing), pieces, strict=True))
    untrainable = lacking(whole, TRAIN, excluded) or lacking(pieces[0], "train after the split", excluded)
    if (empty := [name for name in SHARES if not len(parts[name])]) and not untrainable:
        cure = "give it some" if empty[0] in came else f"give at least {total} images to be split"
        untrainable = f"{whole.name} has no usable image for {empty[0]}{left_out(excluded or {})}; {cure}"
    return Splits(
        *(parts[name] for name in SHARES),
        excluded=dict(excluded or {}),
        given=tuple(came),
        calibration_given="calibration" in came,
        test_part="given" if "test" in came else "split",
        untrainable=untrainable,
    )


def lacking(part: ImageSet, where: str, excluded: Mapping[str, int] | None = None) -> str:
    """A sentence on the first class that has no image in `part`, which is called `where`; empty if there is none."""
    counts = torch.bincount(part.labels, minlength=len(part.classes))
    what = f"class {shown(part.classes[int(counts.argmin())])} has no" if len(part) else "no class has a"
    cure = f"{left_out(excluded or {})}; give it some{', or remove the class everywhere' * (len(part) > 0)}"
    return "" if counts.all() else f"{part.name}: {what} usable image under {where}{cure}"


def for_supplied(splits: Splits) -> Splits:
    """The parts for a model that was not trained here, which may have seen every image under `train/`.

    Test is the part given as such, or else the validation part; of data in one piece, the share that was split off.
    Calibration is the part given as such, else a stratified half of the test part, by SPLIT_SEED; train is all the
    rest: the training part, then validation, then the shares that were set aside. Raises BadData where all images
    came for training, and where there are too few test images.
    """
    came, kept, name = splits.given, splits.calibration_given, splits.test.name
    serves = "validation" if "test" not in came and "validation" in came else "test"
    if came and serves not in came:
        only = f"{name} holds only {', '.join(came)}{left_out(splits.excluded)}"
        raise BadData(f"{only}; a model is not measured on what it may have been trained on, so add test or val")
    test, calibration = getattr(splits, serves), splits.calibration
    if len(test) < 2 - kept:
        few = f"{len(test)} test image{'s' * (len(test) != 1)}{left_out(splits.excluded)}"
        cure = "at least one" if kept else "at least two, half of which fix the thresholds, or a calibration part"
        raise BadData(f"{name}: {few}; give {cure}")
    if not kept:
        calibration, test = split(test, (len(test) // 2, len(test) - len(test) // 2))
    used = ("train", serves, "calibration") if kept else ("train", serves)
    others = [getattr(splits, part) for part in SHARES if part not in used]
    train, nothing = reduce(join, filter(len, others), splits.train), test.take(slice(0))
    made = replace(splits, train=train, validation=nothing, calibration=calibration, test=test, untrainable="")
    made = replace(made, test_part="validation" if serves == "validation" else splits.test_part)
    found = [warn("test-part", f"{name} {DOUBTS[made.test_part]}")] if made.test_part in DOUBTS else []
    return replace(made, findings=(*splits.findings, *found, *missing_classes(test)))


def missing_classes(test: ImageSet) -> list[Diagnostic]:
    """A warning where some classes have no image."""
    absent, known = len(test.classes) - len(test.labels.unique()), len(test.classes)  # type: ignore[no-untyped-call]
    text = f"{absent} of {known} classes have no test image, so the figures say nothing of them"
    return [warn("missing-classes", text)] if absent else []


def duplicates(splits: Splits, progress: Progress = QUIET) -> tuple[Diagnostic, ...]:
    """A warning for each two of the parts train, calibration and test that share images, equal in every pixel."""
    parts = {name: _decoded(getattr(splits, name), progress) for name in ("train", "calibration", "test")}
    digests = {n: [sha256(image).digest() for batch in part for image in batch.numpy()] for n, part in parts.items()}
    found = []
    for other, part in combinations(digests, 2):
        seen = set(digests[other])
        if count := sum(digest in seen for digest in digests[part]):
            text = f"{count:,} of {len(digests[part]):,} {part} images are in the {other} part too, pixel for pixel"
            found.append(warn(f"{part}-in-{other}", f"{text}; keep each in one part, or the figures are too good"))
    return tuple(found)


def _decoded(part: ImageSet, progress: Progress) -> Iterator[Tensor]:
    """The images, a few at a time; with a bar where they come from disk."""
    shown = progress if isinstance(part.pixels, Streamed) else QUIET
    with shown.bar("comparing images", len(part)) as advance:
        for rows in slices(len(part), 4 * math.prod(part.shape)):
            yield part.pixels[rows].contiguous()
            advance(rows.stop, "")


def listed(names: Iterable[str]) -> str:
    """The first eight of these names as `shown`, and how many more there are."""
    found = [shown(name) for name in names]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") if found else "nothing"


def left_out(excluded: Mapping[str, int]) -> str:
    """What was left out, by reason, in brackets; empty where nothing was."""
    return f" (left out: {', '.join(f'{n:,} {why}' for why, n in excluded.items())})" if excluded else ""


def fingerprint(splits: Splits, progress: Progress = QUIET) -> str:
    """sha256 over every part's images and labels: the same name over other data is another data set.

    Images that stay on disk give the same one.
    """
    digest = sha256()
    for part in (splits.train, splits.validation, splits.calibration, splits.test):
        digest.update(str(tuple(part.pixels.shape)).encode())
        for batch in _decoded(part, progress):
            digest.update(batch.numpy().data)
        digest.update(str(tuple(part.labels.shape)).encode())
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()
