"""The shard files of an attack: reading, checking, deleting."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advbench.errors import BadSetting, Damaged
from advbench.runs import artifacts, files
from advbench.runs.json_records import ABSENT, Absent
from advbench.runs.run import Run
from advbench.runs.shapes import Count, Key, Name, Positive, Seconds, Settings, Sha, Text
from advbench.types import Adversarials

FOLDER = "shards"
CURE = "make the shard again with: advbench attack --shard"
OWN = re.compile(r"\d+-of-\d+\.(json|safetensors)|\..*\.(parts?|journal)")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `of`, counted from 1."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise BadSetting(f"shard {self} is none; write 1/4 for the first of four, 4/4 for the last")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def name(self) -> str:
        """What its two files are called, less their endings."""
        return f"{self.index}-of-{self.of}"

    def part(self, n: int, batch: int) -> slice:
        """Its images of n, whole batches of them; raises BadSetting where there are fewer batches than shards."""
        batches = -(-n // batch)
        if self.of > batches:
            raise BadSetting(
                f"{n} images are {batches} batches of {batch}, too few for {self.of} shards; take a --batch-size of "
                f"{max(1, n // self.of)} or fewer shards"
            )
        start, stop = (batches * i // self.of * batch for i in (self.index - 1, self.index))
        return slice(start, min(stop, n))


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is noted of a shard beside its tensors."""

    schema: Literal[1] = 1
    sha256: Sha  # of its tensors' file
    bytes: Count  # that file's size
    shard: Positive  # which it is
    of: Positive  # how many there are
    first: Count  # its first image
    weights: Sha  # of the model that was attacked
    batch_size: Positive  # of evaluation
    seconds: Seconds  # that it took
    members: tuple[Name, ...]  # of an ensemble
    implementation: Text | Absent | None = ABSENT  # the library that made it; None: this one
    info: Settings  # of the attack's step, but for its row
    table: Mapping[Key, Any]  # a spec of the model and the attack


def folder_of(run: Run, attack: str) -> Path:
    """Where the shards of an attack lie; raises BadRun where that is a link."""
    return files.inside(run.folder, f"{FOLDER}/{attack}")


def delete(folder: Path) -> None:
    """Delete the shards in a folder, and it where nothing else lies there."""
    for path in folder.glob("*"):
        if OWN.fullmatch(path.name) and not path.is_dir():
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def notes_of(folder: Path) -> list[Note]:
    """What is noted of each shard of an attack, in the order of their images; raises BadRun where that is altered."""
    notes = [note for path in folder.glob("*.json") if (note := read_note(path)) is not None]
    return sorted(notes, key=lambda note: (note.first, note.of))


def read_note(path: Path) -> Note | None:
    """What is noted of a shard, None where there is nothing; raises Damaged where that was altered."""
    note = files.read_note(path, Note, CURE, is_sealed=True)
    if note is not None and path.name != f"{note.shard}-of-{note.of}.json":
        raise Damaged(f"{path} was altered: it is of another shard; {CURE}")
    return note


def read_shard(folder: Path, note: Note) -> Adversarials:
    """A shard's images and the rest; raises Damaged where the file is not the one that was noted."""
    path = folder / f"{note.shard}-of-{note.of}.safetensors"
    files.check_whole(path, note.sha256, note.bytes, CURE)
    said = {"members": note.members, "implementation": note.implementation or None}
    return artifacts.adversarials_of(path, note.first, **said)
