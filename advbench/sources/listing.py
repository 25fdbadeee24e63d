"""The image files of a folder, by part and class, without opening one.

Only regular files inside the folder count: a link that leads out of it is never followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advbench.data import SHARES, shown
from advbench.errors import BadData
from advbench.sources.files import SUFFIXES
from advbench.sources.naming import printable


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    parts      part -> (path, class) of each file, sorted by class and name
    classes    the names of the folders below train, sorted; a class is its place here
    excluded   reason -> how many files or folders were left out for it
    """

    parts: dict[str, list[tuple[Path, int]]]
    classes: tuple[str, ...]
    excluded: Counter[str]


def listing(root: Path) -> Listing:
    """The files below `train/<class>/` and, where they exist, `validation/`, `calibration/` and `test/`.

    Without any of these folders, `<class>/` directly: all of it is then the part `train`. Raises BadData for a folder
    that is missing, cannot be read or is laid out otherwise.
    """
    if not root.is_dir():
        wrong = "is a file, not a folder; for arrays write npz:PATH or safetensors:PATH" if root.exists() else None
        raise BadData(f"{root} {wrong or 'does not exist; write --dataset folder:PATH with an existing folder'}")
    there = [name for name in SHARES if (root / name).is_dir()]
    if there and "train" not in there:
        raise BadData(f"{root} holds {', '.join(there)} but no folder train; lay it out as train/<class>/<image>")
    excluded: Counter[str] = Counter()
    folders = {name: dict(_classes(root / name, root, excluded)) for name in there} or {
        "train": dict(_classes(root, root, excluded))
    }
    names = sorted(folders["train"])
    if len(names) < 2:
        found = f"one class, {shown(printable(names[0]))}" if names else "no class"
        raise BadData(
            f"{root} holds {found}; a classifier needs at least two folders of images, as train/<class>/<image>"
        )
    for part, classes in folders.items():
        for name in classes:
            if name not in folders["train"]:
                raise BadData(
                    f"{root}: class {shown(printable(name))} is under {part} and not under train; the classes are "
                    "the folders under train, so rename it or remove it"
                )
    parts = {
        part: [
            (path, names.index(name)) for name in sorted(classes) for path in _images(classes[name], root, excluded)
        ]
        for part, classes in folders.items()
    }
    return Listing(parts, tuple(map(printable, names)), excluded)


def _classes(folder: Path, root: Path, excluded: Counter[str]) -> Iterator[tuple[str, Path]]:
    if not _inside(folder, root):
        raise BadData(f"{folder} is a link that leaves {root}; put the folder itself there, or name its target")
    for entry in _entries(folder):
        if entry.name.startswith("."):
            excluded["hidden"] += 1
        elif not entry.is_dir():
            excluded["in no class folder"] += 1
        elif not _inside(Path(entry.path), root):
            excluded["a link that leaves the folder"] += 1
        else:
            yield entry.name, Path(entry.path)


def _images(folder: Path, root: Path, excluded: Counter[str]) -> Iterator[Path]:
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.name.startswith("."):
            excluded["hidden"] += 1
        elif entry.is_symlink() and not _inside(path, root):
            excluded["a link that leaves the folder"] += 1
        elif entry.is_dir():
            excluded["a folder inside a class folder"] += 1
        elif path.suffix.lower() not in SUFFIXES:
            excluded["no image by its name"] += 1
        elif not entry.is_file():  # a pipe or a device, which might never end, or a link to nothing
            excluded["no regular file"] += 1
        else:
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise BadData(f"{folder} cannot be listed: {error.strerror}; make it readable or remove it") from error


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False
