"""The journal of a run: the record of each done step on a line of its own, each sealed with those before it.

The first line, of HEAD bytes, says where the last known line ends and its seal. Every further line is a seal and a
JSON object: the step's name, and what it is; the name alone says that the step is forgotten. The seal is the sha256
of the seal before (of the first: of the run's name) and this JSON, so that a line that was changed, removed, swapped
or brought from another run is noticed. A line is added at the end, then the head is brought up to date: what an
interruption leaves behind the last whole line is written over.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advbench.errors import Damaged
from advbench.runs.files import MOST_JSON, UNFOLLOWED, cannot_write, open_regular, write_whole
from advbench.runs.json_records import as_json, from_json, parsed
from advbench.runs.manifest import Step
from advbench.runs.sealed_json import sha256

JOURNAL = "steps.journal"
HEAD, SEAL = 128, 64  # bytes of the first line, and of a seal


@dataclass
class Journal:
    """The journal at `path` of what is named `of`, read up to byte `end`, after `lines`, the last with this seal."""

    path: Path
    of: str
    end: int = 0
    seal: str = ""
    lines: int = 0

    def read(self, cure: str) -> Iterator[tuple[str, Step | None]]:
        """Each step done or forgotten (None) since the last call, in order.

        Raises FileNotFoundError, Damaged, which ends in `cure`, where a line is not as it was sealed, also where a
        shorter journal took the place of the one that was read, and ValueError for a record that is none.
        """
        with open_regular(self.path, MOST_JSON, cure) as file:
            head = file.read(HEAD)
            file.seek(max(self.end, HEAD))
            lines = file.read().splitlines(keepends=True)
        known = head.strip().decode(errors="replace")
        if not self.end:
            self._start()
        met = known == self._head
        for line in lines:
            seal, text = sha256(self.seal.encode() + line[SEAL + 1 : -1]), line[SEAL + 1 : -1]
            if line != b"%b %b\n" % (seal.encode(), text):
                break
            self._passed(seal, line)
            met = met or known == self._head
            said = parsed(text)
            name = said.pop("step")
            yield name, from_json(Step, said, name) if said else None
        if not met:
            raise Damaged(f"{self.path} was altered: line {self.lines + 2} is not as it was sealed; {cure}")

    def append(self, step: str, record: Step | None) -> None:
        """Note a step as done, or as forgotten; all that the journal holds was read. Raises BadSetting."""
        text = json.dumps({"step": step, **(as_json(record) if record else {})}, allow_nan=False).encode()
        seal = sha256(self.seal.encode() + text)
        line = b"%b %b\n" % (seal.encode(), text)
        try:
            with open(os.open(self.path, os.O_RDWR | UNFOLLOWED), "rb+") as file:
                file.truncate(self.end)
                file.seek(self.end)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                self._passed(seal, line)
                file.seek(0)
                file.write(self._head.ljust(HEAD - 1).encode())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def begin(self) -> None:
        """An empty one in its place."""
        self._start()
        write_whole(self.path, self._head.ljust(HEAD - 1).encode() + b"\n")

    def _start(self) -> None:
        self.end, self.seal, self.lines = HEAD, sha256(self.of.encode()), 0

    def _passed(self, seal: str, line: bytes) -> None:
        self.end, self.seal, self.lines = self.end + len(line), seal, self.lines + 1

    @property
    def _head(self) -> str:
        return f"{self.end} {self.seal}"
