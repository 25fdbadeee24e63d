"""Worker processes on this machine: started once, sent cell after cell, replaced where one is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

from advbench.grid.cells import Cell
from advbench.grid.import_path import without_current_folder
from advbench.grid.pool import Pool, Worker
from advbench.grid.queue import Queue
from advbench.grid.worker import Message, serve
from advbench.progress import Progress

Context = ForkServerContext | SpawnContext
# What a server process has loaded before it forks a worker, so that the first worker and every replacement start at
# once. Nothing in it uses CUDA or starts a thread, so forking it is safe; forking this process would not be.
PRELOAD = [
    "advbench.grid.worker",
    "advbench.victim.art_classifier",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",  # loaded by torch at a process's first training step; larger than the rest of torch
]


def _context() -> Context:
    """How processes are started: forked from a server of their own where the system can, else from nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Local:
    """At most `jobs` worker processes with `threads` threads of torch each; `started` is told their process ids."""

    jobs: int
    threads: int = 1
    started: Callable[[int], None] = lambda pid: None

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells until the queue is empty; the workers end with this call, however it ends."""
        Pool(self.jobs, self._worker, _heard).work(queue, progress)

    def _worker(self, index: int) -> Process:
        worker = Process(index, self.threads)
        self.started(worker.process.pid or 0)
        return worker


class Process:
    """A worker process."""

    def __init__(self, index: int, threads: int) -> None:
        self.cell: Cell | None = None
        self.run: str | None = None
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, index, threads), daemon=True)
        with without_current_folder(), _ctrl_c_waits():
            self.process.start()
        theirs.close()

    @property
    def ready(self) -> bool:
        """Whether it is at no cell."""
        return self.cell is None

    def send(self, cell: Cell) -> None:
        """Give it a cell; raises OSError where the process is gone."""
        self.pipe.send_bytes(cell.to_json().encode())

    def hear(self) -> Message:
        """One message."""
        try:
            return Message.from_json(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return Message(lost=self.fate)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def fate(self) -> str:
        """How its process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"its worker was killed ({signal.Signals(-code).name})" if code < 0 else f"its worker ended ({code})"


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """A child starts with SIGINT blocked, so that Ctrl-C comes to its sender alone even before it can say so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts its own process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heard(workers: Sequence[Worker]) -> Sequence[Worker]:
    """Those from which there is something to hear, their end included."""
    pipes = {worker.pipe: worker for worker in workers if isinstance(worker, Process)}
    return [pipes[pipe] for pipe in connection.wait(list(pipes)) if isinstance(pipe, connection.Connection)]
