"""A folder of images as a data set: `train/<class>/<image>`, or `<class>/<image>`."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from advbench.data import COLOUR, QUIET, SPLIT_SEED, DataSource, lacking, left_out, parts_of
from advbench.data.sources.decoding import PORTION, Pixels, Unusable, batch_of, decode_all
from advbench.data.sources.folder_layout import Listing, listing
from advbench.errors import BadData, BadSetting, printable
from advbench.formatting import shown
from advbench.progress import Progress
from advbench.types import ImageSet, Splits, Streamed

STREAM_ABOVE = 2 * 2**30  # bytes of float32 pixels: a set beyond stays on disk and is decoded batch by batch
LARGEST = 1024  # pixels a side that --image-size may ask for


class ImageFolder(DataSource):
    """Images below `path`, decoded to float32 in [0, 1]; three channels, or one where every file is grey.

    Parts are the folders train, validation, calibration and test, whose names `part_of` knows; what is missing is
    split off train, with a fixed seed (`parts_of`). Each part is in one fixed random order, so that its first n
    images are of all classes. Images have one size, their own or `image_size` squared (`decoding.decode`). Files that
    cannot be used are left out and counted. A set of more than `limit` bytes as float32 is streamed, with the same
    pixels and fingerprint.
    """

    recipe = COLOUR

    def __init__(self, path: Path, name: str, image_size: int | None = None, *, limit: int = STREAM_ABOVE) -> None:
        if image_size is not None and not 1 <= image_size <= LARGEST:
            raise BadSetting(f"image_size = {image_size} is out of range; it must be from 1 to {LARGEST}")
        self.path = path
        self.name = name
        self.image_size = image_size
        self.limit = limit

    def load(self, folder: Path | None, *, download: bool = False, progress: Progress = QUIET) -> Splits:  # noqa: ARG002
        """The four parts; `folder` and `download` are not needed.

        Raises BadData for a missing or empty folder, two folders for one part, other classes under another part than
        under train, and images of different sizes.
        """
        found = listing(self.path)
        scan = scanned(self.path, found, self.image_size, self.limit, progress)
        excluded = found.excluded + Counter(scan.unusable.values())
        parts, start = {}, 0
        for name, files in found.parts.items():
            usable = [row for row in range(len(files)) if start + row not in scan.unusable]
            order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(SPLIT_SEED))
            index = torch.tensor(usable, dtype=torch.long)[order]
            labels = torch.tensor([files[row][1] for row in index.tolist()], dtype=torch.long)
            parts[name] = ImageSet(self.name, Streamed(scan.read, index + start, scan.shape), labels, found.classes)
            start += len(files)
        splits = parts_of(parts, excluded)
        if "test" in parts and not splits.untrainable:
            splits = replace(splits, untrainable=lacking(splits.test, "test", excluded))
        return splits


@dataclass(frozen=True)
class Scan:
    """What decoding every file once has shown.

    paths      the files; their place here is their row
    shape      (c, h, w) of all usable ones
    unusable   row -> reason
    kept       row -> decoded pixels; None where they would exceed the limit
    """

    root: Path
    paths: list[Path]
    image_size: int | None
    shape: tuple[int, int, int]
    unusable: dict[int, str]
    kept: dict[int, Pixels] | None

    def read(self, rows: Tensor) -> Tensor:
        """Rows int64 [m] as float32 [m c h w]; raises BadData for a file that is not what it was at the scan."""
        if self.kept is not None:
            return batch_of([self.kept[row] for row in rows.tolist()], self.shape)
        decoded, chosen = list[Pixels](), [self.paths[row] for row in rows.tolist()]
        decode_all(chosen, self.image_size, lambda place, made: decoded.append(self._same(chosen[place], made)))
        return batch_of(decoded, self.shape)

    def _same(self, path: Path, made: Pixels | Unusable) -> Pixels:
        if isinstance(made, Unusable) or made.shape[:2] != self.shape[1:] or made.ndim == 3 > self.shape[0]:
            raise BadData(f"{_inside(path, self.root)} changed while it was in use; run again")
        return made


def scanned(root: Path, found: Listing, image_size: int | None, limit: int, progress: Progress) -> Scan:
    """Decode every file; raises BadData for the listing's faults, and where sizes differ or no file can be used."""
    paths = [path for files in found.parts.values() for path, _ in files]
    unusable: dict[int, str] = {}
    kept: dict[int, Pixels] = {}
    first: tuple[int, tuple[int, ...]] | None = None
    numbers, colour = 0, False

    def take(row: int, made: Pixels | Unusable) -> None:
        nonlocal first, numbers, colour
        if row % PORTION == 0:
            advance(row, "")
        if isinstance(made, Unusable):
            unusable[row] = made.reason
            return
        size = made.shape[:2]
        first = first or (row, size)
        if size != first[1]:
            raise BadData(
                *found.faults,
                f"{root}: {_inside(paths[first[0]], root)} has {first[1][1]} x {first[1][0]} pixels and "
                f"{_inside(paths[row], root)} {size[1]} x {size[0]}; images must have one size, so choose one, for "
                "example --image-size 64",
            )
        colour = colour or made.ndim == 3
        numbers += made.size
        kept[row] = made
        if 4 * numbers > limit:  # as float32
            kept.clear()

    with progress.bar("reading images", len(paths)) as advance:
        decode_all(paths, image_size, take)
    if first is None:
        excluded = left_out(found.excluded + Counter(unusable.values()))
        raise BadData(*found.faults, f"{root} holds no usable image{excluded}; put files there, not links to others")
    if found.faults:
        raise BadData(*found.faults)
    shape = (3 if colour else 1, first[1][0], first[1][1])
    return Scan(root, paths, image_size, shape, unusable, None if 4 * numbers > limit else kept)


def _inside(path: Path, root: Path) -> str:
    return shown(printable(str(path.relative_to(root))))
