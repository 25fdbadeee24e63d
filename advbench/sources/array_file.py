"""Images and labels in one npz or safetensors file as a data set."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from advbench.arrays import check
from advbench.data import COLOUR, SHARES, DataSource, parts_of, shown
from advbench.errors import BadData
from advbench.sources.naming import printable
from advbench.types import ImageSet, Splits

MOST_BYTES = 2**34  # of arrays unpacked from one npz
Arrays = Mapping[str, Any]


class ArrayFile(DataSource):
    """Arrays `train_images` float32 [n c h w] in [0, 1] and `train_labels`, whole numbers [n]; likewise `test_*`.

    Optional: `validation_*`, `calibration_*`, and `classes`, their names (text in npz; in safetensors an entry of the
    metadata, a list in JSON). What is missing is split off train with a fixed seed (`parts_of`); `images` and
    `labels` alone are split into all four parts. Images keep the order of the file, and are read whole into memory.
    """

    recipe = COLOUR

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def load(self, folder: Path | None, *, download: bool = False) -> Splits:  # noqa: ARG002
        """The four parts; `folder` and `download` are not needed.

        Raises BadData for a file that is missing, cannot be read or holds other arrays, and as `arrays.check` does.
        """
        if not self.path.is_file():
            wrong = "is a folder; for images write folder:PATH" if self.path.is_dir() else "does not exist"
            raise BadData(
                f"{self.path} {wrong}; write --dataset {self.name.partition(':')[0]}:PATH with a file's path"
            )
        arrays = _npz(self.path) if self.name.startswith("npz:") else _safetensors(self.path)
        return parts_of(self._parts(arrays))

    def _parts(self, arrays: Arrays) -> dict[str, ImageSet]:
        whole = {"images", "labels"} <= arrays.keys()
        prefix = {name: "" if whole else f"{name}_" for name in (("train",) if whole else SHARES)}
        wanted = [f"{prefix['train']}{kind}" for kind in ("images", "labels")]
        wanted += [f"{p}{kind}" for p in prefix.values() for kind in ("images", "labels") if _half(arrays, p)]
        missing = [name for name in dict.fromkeys(wanted) if name not in arrays]
        if missing:
            raise BadData(
                f"{self.name}: {', '.join(missing)} missing, found {_listed(arrays)}; name the arrays train_images "
                "and train_labels, test_images and test_labels, or images and labels"
            )
        there = {name: p for name, p in prefix.items() if f"{p}images" in arrays}
        classes = _class_names(arrays.get("classes"), self.name)
        parts: dict[str, ImageSet] = {}
        for name, p in there.items():
            known = parts["train"].classes if parts else classes
            made = check(arrays[f"{p}images"], arrays[f"{p}labels"], known, f"{self.name}, {name}")
            parts[name] = replace(made, name=self.name)
        self._compare(parts)
        return parts

    def _compare(self, parts: Mapping[str, ImageSet]) -> None:
        train = parts["train"]
        if len(train.classes) < 2 or int(train.labels.min()) == int(train.labels.max()):
            raise BadData(f"{self.name} holds images of one class; a classifier needs at least two")
        for name, part in parts.items():
            if part.shape != train.shape:
                raise BadData(
                    f"{self.name}: images of {name} have the shape {part.shape} and those of train {train.shape}; "
                    "give all parts one shape"
                )


def _half(arrays: Arrays, prefix: str) -> bool:
    return f"{prefix}images" in arrays or f"{prefix}labels" in arrays


def _class_names(given: Any, name: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = np.asarray(given)
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise BadData(f"{name}: classes is {names.dtype} {names.shape}; it must be a list of names, text [k]")
    return tuple(printable(str(one)) for one in names.tolist())


def _npz(path: Path) -> Arrays:
    cure = "write it with numpy.savez from plain arrays"
    try:
        if not zipfile.is_zipfile(path):
            raise BadData(f"{path} is no npz file; {cure}")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        others = [member.filename for member in members if not member.filename.endswith(".npy")]
        if others:
            raise BadData(f"{path} is a zip but no npz: it holds {_listed(others)}; {cure}")
        if sum(member.file_size for member in members) > MOST_BYTES:
            raise BadData(f"{path} unpacks to more than {MOST_BYTES >> 30} GiB; lay large sets out as folder:PATH")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if _known(key)} or dict.fromkeys(arrays.files)
    except BadData:
        raise
    except Exception as error:  # a hostile archive can raise anything out of zipfile, zlib or numpy
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BadData(
                f"{path} holds an array of Python objects, which only pickle can read and pickle can run code; {cure}"
            ) from error
        raise BadData(f"{path} cannot be read as npz ({type(error).__name__}: {_line(error)}); {cure}") from error


def _safetensors(path: Path) -> Arrays:
    try:
        with safe_open(str(path), "pt") as file:
            said = (file.metadata() or {}).get("classes")
            keys = list(file.keys())
            tensors: dict[str, Any] = {key: file.get_tensor(key) for key in keys if _known(key)}
        names = {} if said is None else {"classes": [str(one) for one in list(json.loads(said))]}
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadData(
            f"{path} cannot be read as safetensors ({type(error).__name__}: {_line(error)}); write it with "
            "safetensors.torch.save_file"
        ) from error
    return (tensors or dict.fromkeys(keys)) | names


def _known(key: str) -> bool:
    part, _, kind = key.rpartition("_")
    return key == "classes" or (kind in ("images", "labels") and part in ("", *SHARES))


def _listed(names: Iterable[str]) -> str:
    found = [shown(printable(name)) for name in names]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") if found else "nothing"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
