"""A job that was handed in, its cells, and what it left behind."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advbench.cells import Cell
from advbench.engines.pool import Message
from advbench.engines.slurm_job import BEGINS

if TYPE_CHECKING:
    from submitit import Job


@dataclass(frozen=True, eq=False)
class Batch:
    """Cells of one run in the order in which their job performs them."""

    job: Job[str]
    cells: Sequence[Cell]

    def messages(self) -> list[Message]:
        """What the job returned, of its first cells; nothing where there is nothing that can be read."""
        if not self.job.paths.result_pickle.exists():
            return []
        try:
            return [{**message, "said": list(message["said"])} for message in json.loads(self.job.result())]
        except Exception:  # the job's own, or whatever reading a pickle that was cut short raises
            return []

    @property
    def began(self) -> bool:
        """Whether it came to its first cell."""
        return BEGINS in _text(self.job.stdout)

    @property
    def last_words(self) -> str:
        """The last line of its error output and where the rest is, to be added to a sentence."""
        lines = _text(self.job.stderr).strip().splitlines()
        return f": {lines[-1][:200]} ({self.job.paths.stderr})" if lines else ""


def _text(read: Callable[[], str | None]) -> str:
    with suppress(OSError, ValueError):
        return read() or ""
    return ""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of this and does not come to processes started in it: no job is made but not known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if pressed:
            raise KeyboardInterrupt
