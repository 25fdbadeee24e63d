"""The image files of a folder, by part and class, without opening one.

Only regular files inside the folder count: a link that leads out of it is never followed.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advbench.data import SHARES, TRAIN, WHOLE, left_out, listed, part_of
from advbench.errors import BadData, printable
from advbench.formatting import shown


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    parts      part, or WHOLE for data in one piece -> (path, class) of each file, sorted by class and name
    classes    the names of the folders below train, or else below all parts, sorted; a class is its place here
    excluded   reason -> how many files or folders were left out for it
    faults     sentences on what is wrong with the layout
    """

    parts: dict[str, list[tuple[Path, int]]]
    classes: tuple[str, ...]
    excluded: Counter[str]
    faults: tuple[str, ...]


def listing(root: Path) -> Listing:
    """The files below `train/<class>/`, `validation/<class>/`, ... as `part_of` knows them by their names.

    Where no folder of such a name holds folders, `<class>/` directly: all of it is then in one piece. Raises BadData
    for a folder that is missing, cannot be read or holds fewer than two classes.
    """
    if not os.path.isdir(root):  # False for too long a name too
        file = "is a file, not a folder; for arrays write npz:PATH or safetensors:PATH"
        none = "does not exist; write --dataset folder:PATH with an existing folder"
        raise BadData(f"{root} {file if os.path.exists(root) else none}")
    excluded: Counter[str] = Counter()
    faults: list[str] = []
    folders = {part: dict(_classes(at, root, excluded)) for part, at in _parts(root, excluded, faults).items()}
    names = sorted(folders.get(TRAIN) or set().union(*folders.values()))
    if len(names) < 2:
        found = (f"one class, {shown(printable(names[0]))}" if names else "no class") + left_out(excluded)
        need = "a classifier needs at least two folders of images, as train/<class>/<image>"
        raise BadData(*faults, f"{root} holds {found}; {need}")
    parts: dict[str, list[tuple[Path, int]]] = {}
    for part, classes in folders.items():
        cure = f"is under {part} and not under train; the classes are the folders under train, so rename or remove it"
        faults += [f"{root}: class {shown(printable(name))} {cure}" for name in sorted(classes.keys() - names)]
        there = [(number, classes[name]) for number, name in enumerate(names) if name in classes]
        parts[part] = [(path, number) for number, folder in there for path in _images(folder, root, excluded)]
    return Listing(parts, tuple(map(printable, names)), excluded, tuple(faults))


def _parts(root: Path, excluded: Counter[str], faults: list[str]) -> dict[str, Path]:
    """The folder of each part, or of WHOLE."""
    entries = _entries(root)
    named = {Path(e.path): part for e in entries if (part := part_of(e.name)) and e.is_dir()}
    if not any(child.is_dir() for folder in named if _inside(folder, root) for child in _entries(folder)):
        return {WHOLE: root}
    there: dict[str, Path] = {}
    for folder, part in named.items():
        if there.setdefault(part, folder) != folder:
            faults.append(f"{root}: {shown(there[part].name)} and {shown(folder.name)} are both {part}; keep one")
    others = [entry.name for entry in entries if Path(entry.path) not in named]
    if beside := [printable(name) for name in others if not name.startswith(".")]:
        excluded[f"beside the parts ({listed(beside)})"] = len(beside)
    excluded.update(["hidden"] * (len(others) - len(beside)))
    return {part: there[part] for part in SHARES if part in there}


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
