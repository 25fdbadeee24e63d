"""`--dataset` to a data set: a catalog name, or `folder:`, `npz:` or `safetensors:` and a path.

In records and pages a path is never named, only its last part.
"""

import os
from pathlib import Path

from advbench import catalog
from advbench.data import COLOUR, DataSource
from advbench.errors import BadSetting, UnknownName, printable
from advbench.recipes import Recipe

PREFIXES = ("folder", "npz", "safetensors")
LONGEST_PATH = 4096  # characters that a system takes
LONGEST = 60  # bytes of a data set's name in the name of a run or a study


def source(name: str, image_size: int | None = None) -> DataSource:
    """The data set that `--dataset` and `--image-size` name; nothing is read yet.

    Raises UnknownName, or BadSetting for an image size where it means nothing or is out of range.
    """
    prefix, path = parted(name)
    if image_size is not None and prefix != "folder":
        raise BadSetting(
            f"image_size = {image_size} is for image folders; {name} comes in a size of its own, so leave it out"
        )
    if prefix is None:
        made: DataSource = catalog.load("data set", name)()
        return made
    from advbench.data.sources.array_file import ArrayFile
    from advbench.data.sources.folder import ImageFolder

    where = Path(os.path.expanduser(path))  # an unknown ~user stays
    return ImageFolder(where, label(name), image_size) if prefix == "folder" else ArrayFile(where, label(name))


def label(name: str) -> str:
    """What is recorded: the catalog name, or the prefix and the last part of the path. A label is its own label.

    Raises UnknownName.
    """
    prefix, path = parted(name)
    if prefix is not None:
        return label_of(prefix, path)
    catalog.load("data set", name)
    return name


def recipe_of(name: str) -> Recipe:
    """What a data set, by its name or its label, is trained with unless told otherwise; raises UnknownName."""
    recipe: Recipe = COLOUR if parted(name)[0] is not None else catalog.load("data set", name).recipe
    return recipe


def parted(name: str) -> tuple[str | None, str]:
    """(prefix, path) of what `--dataset` takes, or (None, catalog name).

    Raises UnknownName for another prefix, BadSetting where no path follows.
    """
    prefix, colon, path = name.partition(":")
    if not colon:
        return None, name
    if prefix not in PREFIXES:
        raise UnknownName("kind of data set", prefix, PREFIXES)
    if not path.strip() or "\0" in path or len(path) > LONGEST_PATH:
        raise BadSetting(f"data set {name!r} names no path; write for example {prefix}:PATH")
    return prefix, path


def label_of(prefix: str, path: str) -> str:
    """The prefix and the last part of the path."""
    last = Path(os.path.abspath(os.path.expanduser(path))).name
    return f"{prefix}:{printable(last) or 'root'}"


def slug(label: str) -> str:
    """A label as it may stand in the name of a folder: `folder-cats` for `folder:cats`."""
    safe = "".join("-" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in label)
    return safe.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")


def option(label: str) -> str:
    """What `--dataset` takes for a label; of a path the part that was not recorded is left to fill in."""
    prefix, path = parted(label)
    return label if prefix is None else f"{prefix}:PATH/{path}"
