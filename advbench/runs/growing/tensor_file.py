"""Safetensors files larger than memory: written a few rows at a time, and read through a memory map.

A file has the bytes that `safetensors.torch.save` gives for the same tensors.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from advbench.runs.files import UNFOLLOWED, cannot_write
from advbench.runs.manifest import FileRecord

KINDS = {  # in the order in which tensors lie in a file
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
MAPPED_ABOVE = 2**20  # bytes of a tensor: smaller ones are read
CHUNK = 2**24  # bytes looked through at a time
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def shapes_in(path: Path) -> Shapes:
    """Those of a file's tensors; raises SafetensorError where it is none, or longer or shorter than it says."""
    with safe_open(str(path), "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (KINDS[one.get_dtype()], tuple(one.get_shape())) for name, one in slices.items()}


def mapped(path: Path, only: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a file, `only` those of such names; the large ones are memory maps.

    Images, known by their names, cannot be written to. Raises SafetensorError for what is no such file, KeyError for
    a type that is not among KINDS.
    """
    shapes, found = shapes_in(path), {}
    with path.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        for name, (kind, shape) in ((name, shape) for name, shape in shapes.items() if only(name)):
            start, stop = header[name]["data_offsets"]
            raw: np.ndarray[Any, np.dtype[np.uint8]]
            if stop - start < MAPPED_ABOVE:
                opened.seek(8 + size + start)
                raw = np.fromfile(opened, np.uint8, stop - start)
            else:
                mode: Literal["r", "c"] = "r" if name.endswith(("images", "clean")) else "c"
                raw = np.memmap(path, np.uint8, mode, 8 + size + start, (stop - start,))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of what cannot be written to
                found[name] = (
                    (torch.from_numpy(raw) if len(raw) else torch.empty(0, dtype=kind)).view(kind).reshape(shape)
                )
    return found


@dataclass
class TensorFile:
    """A file of tensors of these shapes, being written."""

    path: Path
    shapes: Shapes

    def __post_init__(self) -> None:
        kinds = list(KINDS.values())
        self._at: dict[str, int] = {}
        header, end = {}, 0
        for name in sorted(self.shapes, key=lambda name: (kinds.index(self.shapes[name][0]), name)):
            kind, shape = self.shapes[name]
            self._at[name], start, end = end, end, end + kind.itemsize * prod(shape)
            of = list(KINDS)[kinds.index(kind)]
            header[name] = {"dtype": of, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self.bytes = len(self._head) + end

    def begin(self) -> None:
        """Make the file, in the place of another; raises BadSetting where the system refuses."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | UNFOLLOWED, 0o644), "wb") as file:
                file.write(self._head)
                file.truncate(self.bytes)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def put(self, tensors: Mapping[str, Tensor], first: int = 0) -> None:
        """Write rows `first` and following of these tensors; raises BadSetting where the system refuses."""
        try:
            with self.path.open("rb+", buffering=0) as file:
                for name, rows in ((name, rows) for name, rows in tensors.items() if rows.numel()):
                    file.seek(self._place(name, first))
                    data = memoryview(rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                    while data:
                        data = data[file.write(data) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def rows(self, name: str, part: slice) -> Tensor:
        """Those rows of a tensor."""
        kind, shape = self.shapes[name]
        with self.path.open("rb") as file:
            file.seek(self._place(name, part.start))
            raw = np.fromfile(file, np.uint8, (part.stop - part.start) * self.row_bytes(name))
        return torch.from_numpy(raw).view(kind).reshape(-1, *shape[1:])

    def row_bytes(self, name: str) -> int:
        """Of a row of a tensor."""
        kind, shape = self.shapes[name]
        return kind.itemsize * prod(shape[1:])

    def digest(self, rows: Mapping[str, range]) -> str:
        """sha256 of these rows of these tensors, in the order of their names."""
        found = hashlib.sha256()
        with self.path.open("rb") as file:
            for name in sorted(rows):
                file.seek(self._place(name, rows[name].start))
                left = self._place(name, rows[name].stop) - file.tell()
                while left > 0 and (data := file.read(min(left, CHUNK))):
                    found.update(data)
                    left -= len(data)
        return found.hexdigest()

    def done(self) -> FileRecord:
        """On disk for good: hash and size; raises BadSetting where the system refuses."""
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
                return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=self.bytes)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _place(self, name: str, row: int) -> int:
        return len(self._head) + self._at[name] + row * self.row_bytes(name)


def shapes_of(tensors: Mapping[str, Tensor], rows: int | None = None) -> Shapes:
    """Theirs; with another number of rows, where one is given."""
    of = {name: tuple(t.shape) if rows is None else (rows, *t.shape[1:]) for name, t in tensors.items()}
    return {name: (tensors[name].dtype, shape) for name, shape in of.items()}


def fewer_images(file: TensorFile, keep: int, clean: Tensor) -> TensorFile:
    """A copy of an attack's file with its first images alone, and with what those were before; the file stays."""
    tensors = mapped(file.path)
    tensors |= {"images": tensors["images"][:keep], "clean": clean}
    copy = TensorFile(file.path.with_suffix(".part"), shapes_of(tensors))
    copy.begin()
    copy.put(tensors)
    return copy
