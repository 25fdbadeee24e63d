"""`--dataset` to a data set: a catalog name, or `folder:`, `npz:` or `safetensors:` and a path."""

import os
from pathlib import Path

from advbench import catalog
from advbench.data import COLOUR, DataSource
from advbench.data.sources.names import label_of, option, parted, slug
from advbench.errors import BadSetting
from advbench.recipes import Recipe


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
