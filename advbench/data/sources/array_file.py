"""Images and labels in one npz or safetensors file as a data set."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from advbench.data import COLOUR, QUIET, SHARES, WHOLE, DataSource, listed, part_of, parts_of
from advbench.data.sources.arrays import check
from advbench.device import check_memory
from advbench.errors import BadData, Diagnostic, printable
from advbench.formatting import shown
from advbench.progress import Progress
from advbench.runs.growing.tensor_file import mapped
from advbench.types import ImageSet, Splits

KINDS = ("images", "labels")
CHUNK = 2**20
Arrays = Mapping[str, Any]
Named = dict[str, dict[str, str]]  # part, or WHOLE -> one of KINDS -> the name of its array


class ArrayFile(DataSource):
    """Arrays `train_images` [n c h w] and `train_labels` [n], as `arrays.check` takes them; likewise `test_*`.

    Optional: `validation_*`, `calibration_*`, and `classes`, their names (text in npz; in safetensors an entry of the
    metadata, a list in JSON). What is missing is split off train with a fixed seed (`parts_of`, and `part_of` for the
    names); `images` and `labels` alone are split into all four parts. Images keep the order of the file, and stay in
    it until a batch is made; those of a compressed npz are unpacked into memory.
    """

    recipe = COLOUR

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def load(self, folder: Path | None, *, download: bool = False, progress: Progress = QUIET) -> Splits:  # noqa: ARG002
        """The four parts; `folder` and `download` are not needed.

        Raises BadData for a file that is missing, cannot be read or holds other arrays, and as `arrays.check` does.
        """
        if not os.path.isfile(self.path):  # False for too long a name too
            wrong = "is a folder; for images write folder:PATH" if os.path.isdir(self.path) else "does not exist"
            raise BadData(
                f"{self.path} {wrong}; write --dataset {self.name.partition(':')[0]}:PATH with a file's path"
            )
        arrays = _npz(self.path) if self.name.startswith("npz:") else _safetensors(self.path)
        faults, found = list[str](), list[Diagnostic]()
        named = self._named(arrays, faults)
        parts = self._parts(arrays, named, faults, found)
        used = [key for pair in named.values() for key in pair.values()]
        others = [printable(key) for key in arrays if key not in ("classes", *used)]
        excluded = {f"of another name ({listed(others)})": len(others)} if others else {}
        return replace(parts_of(parts, excluded), findings=tuple(dict.fromkeys(found)))

    def _named(self, arrays: Arrays, faults: list[str]) -> Named:
        """The arrays of each part; what is wrong with the names is added to `faults`."""
        named: Named = {}
        for key in arrays:
            part, kind = _place(key)
            if part is not None and named.setdefault(part, {}).setdefault(kind, key) != key:
                faults.append(f"{self.name}: {shown(named[part][kind])} and {shown(key)} are one part; keep one")
        whole = len(named.get(WHOLE, {})) == 2
        named = {part: named[part] for part in ((WHOLE,) if whole else SHARES) if part in named}
        missing = [f"{part}_{kind}" for part, pair in named.items() for kind in KINDS if kind not in pair]
        if missing or not named:
            faults.append(
                f"{self.name}: {', '.join(missing) or 'train_images, train_labels'} missing, found "
                f"{listed(map(printable, arrays))}; name the arrays train_images and train_labels, test_images and "
                "test_labels, or images and labels"
            )
        return {part: pair for part, pair in named.items() if len(pair) == len(KINDS)}

    def _parts(self, arrays: Arrays, named: Named, faults: list[str], found: list[Diagnostic]) -> dict[str, ImageSet]:
        """The parts; raises BadData with `faults` and all that is wrong with the arrays."""
        classes = _class_names(arrays.get("classes"), self.name)
        parts: dict[str, ImageSet] = {}
        for part, pair in named.items():
            name = f"{self.name}, {part}" if part else self.name
            of, first = next(iter(parts.items()), ("", None))
            known = first.classes if first else classes
            try:
                made = check(arrays[pair["images"]], arrays[pair["labels"]], known, name, found)
            except BadData as error:
                faults += error.faults
                continue
            parts[part] = replace(made, name=self.name)
            if first and made.shape != first.shape:
                shapes = f"images of {part} have the shape {made.shape} and those of {of} {first.shape}"
                faults.append(f"{self.name}: {shapes}; give all parts one shape")
            elif not first and (made.labels == made.labels[0]).all():
                faults.append(f"{self.name} holds images of one class; a classifier needs at least two")
            elif not known and (low := int(made.labels.min())):
                cure = f"subtract {low} or add an array classes"
                faults.append(f"{self.name}: labels start at {low}; they count from 0, so {cure}")
        if faults:
            raise BadData(*faults)
        return parts


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
            if others := [member.filename for member in members if not member.filename.endswith(".npy")]:
                raise BadData(f"{path} is a zip but no npz: it holds {listed(map(printable, others))}; {cure}")
            asked = {m.filename.removesuffix(".npy"): m for m in members}
            arrays = {key: _stored(path, archive, m) if _known(key) else None for key, m in asked.items()}
        packed = [key for key in arrays if _known(key) and arrays[key] is None]
        place = "numpy.savez writes a file that stays on disk, and so does folder:PATH"
        check_memory(sum(asked[key].file_size for key in packed), f"{path.name}, unpacked,", place)
        with np.load(path, allow_pickle=False) as unpacked:
            return arrays | {key: unpacked[key] for key in packed}
    except (BadData, MemoryError):
        raise
    except Exception as error:  # a hostile archive can raise anything out of zipfile, zlib or numpy
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BadData(
                f"{path} holds an array of Python objects, which only pickle can read and pickle can run code; {cure}"
            ) from error
        raise BadData(f"{path} cannot be read as npz ({type(error).__name__}: {_line(error)}); {cure}") from error


def _stored(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any] | None:
    """An array that lies in an npz as it is, as a memory map; None for one that has to be unpacked."""
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = header(file)
        begins = file.tell()
        while file.read(CHUNK):  # its end compares the checksum
            pass
    if fortran or kind.hasobject or not math.prod(shape):
        return None
    with path.open("rb") as raw:
        raw.seek(member.header_offset + 26)  # two lengths, of what lies before the member's bytes
        more = sum(int.from_bytes(raw.read(2), "little") for _ in range(2))
    return np.memmap(path, kind, "r", member.header_offset + 30 + more + begins, shape)


def _safetensors(path: Path) -> Arrays:
    try:
        with safe_open(str(path), "np") as file:
            said = (file.metadata() or {}).get("classes")
            keys = list(file.keys())
        tensors: dict[str, Any] = dict.fromkeys(keys) | mapped(path, only=_known)
        names = {} if said is None else {"classes": [str(one) for one in list(json.loads(said))]}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadData(
            f"{path} cannot be read as safetensors ({type(error).__name__}: {_line(error)}); write it with "
            "safetensors.torch.save_file"
        ) from error
    return tensors | names


def _known(key: str) -> bool:
    return key == "classes" or _place(key)[0] is not None


def _place(key: str) -> tuple[str | None, str]:
    """The part that an array of this name belongs to, None = no part, and "images" or "labels"."""
    prefix, _, kind = key.casefold().rpartition("_")
    return (None if kind not in KINDS else part_of(prefix) if prefix else WHOLE), kind


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
