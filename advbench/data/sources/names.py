"""The name of a data set in records and pages: never a path, only its last part."""

import os
from pathlib import Path

from advbench.errors import BadSetting, UnknownName, printable

PREFIXES = ("folder", "npz", "safetensors")
LONGEST_PATH = 4096  # characters that a system takes
LONGEST = 60  # bytes of a data set's name in the name of a run or a study


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
