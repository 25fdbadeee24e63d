"""The file of an attack while the attack goes on: written as results come, noted in parts, gone on from after a kill.

.<name>.parts     beside the finished file's place: the file, of which rows are missing
.<name>.journal   how many rows are there, and their hash: a `Journal`, a line for each part
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from advbench.errors import AdvbenchError
from advbench.runs.files import move
from advbench.runs.growing.journal import Journal
from advbench.runs.growing.tensor_file import TensorFile, shapes_in, shapes_of
from advbench.runs.json_records import as_json, from_json
from advbench.runs.manifest import Step
from advbench.runs.shapes import Count, Name, Sha, Text
from advbench.types import Outputs, Perturbed

BYTES, SECONDS = 2**26, 30.0  # of a part, about: it ends where it is as large, or took as long
SCORED = ("features", "logits")
CURE = "it is made again"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is noted of a part."""

    attacked: Count  # images done at its end
    scored: Count  # those of them whose outputs are there
    sha256: Sha  # of its rows
    members: tuple[Name, ...] = ()  # of an ensemble
    implementation: Text | None = None


class AttackFile:
    """Keeps an attack's results on n images, of which `rows` are known before: index, labels, saturated.

    `of` tells this attack on this model from others, whose parts are not gone on from; `sizes` are outputs of the
    model. `say` is told of parts that are gone on from, or cannot be.
    """

    def __init__(
        self, final: Path, of: str, rows: dict[str, Tensor], sizes: Outputs, say: Callable[[str], object]
    ) -> None:
        self.attacked = self.scored = 0
        self.said: dict[str, Any] = {"members": (), "implementation": None}  # what the file does not hold
        self._rows, self._n = rows, len(rows["labels"])
        self._sizes = {name: getattr(sizes, name) for name in SCORED}
        self._final, self._began, self._before = final, time.perf_counter(), 0.0
        self._at = final.with_name(f".{final.name}.parts")
        self._journal = Journal(final.with_name(f".{final.name}.journal"), of)
        self._file: TensorFile | None = None
        self._noted, self._noted_at = (0, 0), self._began
        if self._journal.path.is_file():
            self._go_on(say)

    def _go_on(self, say: Callable[[str], object]) -> None:
        if self._final.is_file() and not self._at.exists():  # killed before its record
            move(self._final, self._at)
        parts = list[tuple[str, Step]]()
        with suppress(AdvbenchError, SafetensorError, OSError, ValueError):
            self._file = TensorFile(self._at, shapes_in(self._at))
            if self._file.shapes["labels"][1] == (self._n,):
                parts = [(name, step) for name, step in self._journal.read(CURE) if step is not None]
        self._journal.begin()
        for name, step in parts:
            part = from_json(Part, step.info, name)
            if self.file.digest(self._new(part.attacked, part.scored)) != part.sha256:
                break
            self.attacked, self.scored = self._noted = part.attacked, part.scored
            self.said, self._before = {key: getattr(part, key) for key in self.said}, step.seconds or 0.0
            self._journal.append(name, step)
        say(f"{self._final.name}: going on after image {self.attacked} of {self._n}")
        if self.attacked:
            self.file.put(self._rows)
        else:
            self._file = None

    def take(self, part: slice, made: Perturbed) -> None:
        """What was made of the images of a slice."""
        tensors = {name: value for name, value in vars(made).items() if isinstance(value, Tensor)}
        if self._file is None:
            shapes = shapes_of(tensors | self._sizes, self._n) | shapes_of(self._rows)
            self._file = TensorFile(self._at, shapes)
            self._file.begin()
            self._file.put(self._rows)
        self._file.put(tensors, part.start)
        self.attacked, self.said = part.stop, {key: getattr(made, key) for key in self.said}
        self._note()

    def images(self, part: slice) -> Tensor:
        """The attacked images of a slice."""
        return self.file.rows("images", part)

    def score(self, part: slice, outputs: Outputs) -> None:
        """The model's outputs on them."""
        self.file.put({name: getattr(outputs, name) for name in SCORED}, part.start)
        self.scored = part.stop
        self._note()

    def _note(self) -> None:
        """Note a part, where it is large enough."""
        rows = self._new(self.attacked, self.scored)
        size = sum(len(one) * self.file.row_bytes(name) for name, one in rows.items())
        if size < BYTES and time.perf_counter() - self._noted_at < SECONDS:
            return
        part = Part(attacked=self.attacked, scored=self.scored, sha256=self.file.digest(rows), **self.said)
        if not self._journal.end:
            self._journal.begin()
        name = f"{self.attacked} images, {self.scored} scored"
        self._journal.append(name, Step(seconds=self.seconds, info=as_json(part), files={}))
        self._noted, self._noted_at = (self.attacked, self.scored), time.perf_counter()

    def _new(self, attacked: int, scored: int) -> dict[str, range]:
        """The rows of each tensor since the last part."""
        own = self.file.shapes.keys() - self._rows.keys()
        of_attack, of_outputs = map(range, self._noted, (attacked, scored))
        return {name: of_outputs if name in SCORED else of_attack for name in own}

    @property
    def seconds(self) -> float:
        """That it took so far, killed processes' included."""
        return self._before + time.perf_counter() - self._began

    @property
    def file(self) -> TensorFile:
        """The file; whole once all is attacked and scored."""
        assert self._file is not None
        return self._file

    def forget(self) -> None:
        """Delete what was noted of parts, and the file where it was not moved away."""
        self._journal.path.unlink(missing_ok=True)
        self._at.unlink(missing_ok=True)
