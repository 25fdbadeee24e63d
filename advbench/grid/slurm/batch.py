"""A Slurm job: what it executes, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from advbench.grid.cells import Cell
from advbench.grid.worker import Message, Performer, Relay, outcome

if TYPE_CHECKING:
    from submitit import Job

BEGINS = "begins "  # in a job's output before each cell
TIME_IS_UP = "UncompletedJobError"  # which submitit raises in the midst of a cell, a little before Slurm ends the job
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def perform(texts: Sequence[str], threads: int) -> str:
    """Perform cells that are JSON texts until one is not done: a JSON list of the messages about them.

    What is said goes to the job's output too, for a person who looks there while it runs.
    """
    # submitit lets SIGTERM pass; by default it ends the process, so that a cancelled job leaves its run at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(threads)
    said: list[str] = []

    def note(line: str) -> None:
        print(line, flush=True)
        said.append(line)

    performer = Performer(Relay(note))
    messages: list[str] = []
    for cell in map(Cell.from_json, texts):
        print(f"{BEGINS}{cell.name}", flush=True)
        message = outcome(performer, cell)
        if message.lost.startswith(TIME_IS_UP):
            over = "the time that its job had asked for was over; ask for more with --slurm timeout_min"
            message = Message(lost=over)
        messages.append(replace(message, said=tuple(said)).to_json())
        said.clear()
        if not message.done:
            break
    return json.dumps(messages)


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
            return [Message.from_json(text) for text in json.loads(self.job.result())]
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


def _on_main_thread() -> bool:
    """Where alone signals are handled."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def undisturbed() -> Iterator[None]:
    """What would end this process waits for the end of this, so that no job is made but not known.

    Ctrl-C does not come to processes started in it.
    """
    if not _on_main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came in held:
            signal.raise_signal(came)


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Where SIGTERM or SIGHUP would end this process at once, they raise SystemExit, as Ctrl-C raises its own."""
    caught = [number for number in ENDING if _on_main_thread() and signal.getsignal(number) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
