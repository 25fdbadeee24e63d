"""Worker processes on this machine: started once, sent cell after cell, replaced where one is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

from advbench.cells import Cell
from advbench.engines.queue import Queue
from advbench.engines.worker import serve
from advbench.progress import Progress

Context = ForkServerContext | SpawnContext
# What a server process has loaded before it forks a worker, so that the first worker and every replacement start at
# once. Nothing in it uses CUDA or starts a thread, so forking it is safe; forking this process would not be.
PRELOAD = [
    "advbench.engines.worker",
    "advbench.art_classifier",
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
        jobs = min(self.jobs, queue.widest)
        if 0 < jobs < self.jobs:
            progress.say(f"{jobs} workers of {self.jobs}: the cells of one model are performed one after the other")
        workers: list[Worker] = []
        try:
            workers += map(self._worker, range(jobs))
            while not queue.empty:
                for index, worker in enumerate(workers):
                    if worker.cell is None:
                        workers[index] = self._sent(worker, queue)
                for index in _ready(workers):
                    if not _heard(workers[index], queue, progress):
                        workers[index] = self._worker(index)
        finally:
            for worker in workers:
                worker.end()

    def _worker(self, index: int) -> Worker:
        worker = Worker(index, self.threads)
        self.started(worker.process.pid or 0)
        return worker

    def _sent(self, worker: Worker, queue: Queue) -> Worker:
        """The worker with its next cell, if there is one for it; another in its place where it was killed idle."""
        cell = queue.take(worker.run)
        while cell is not None:
            try:
                worker.send(cell)
            except OSError:
                worker.end()
                worker = self._worker(worker.index)
            else:
                break
        return worker


class Worker:
    """One process and the cell it is at; `run` is the one it did last, which it still has in memory."""

    def __init__(self, index: int, threads: int) -> None:
        self.index = index
        self.threads = threads
        self.cell: Cell | None = None
        self.run: str | None = None
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, index, threads), daemon=True)
        with _ctrl_c_waits():
            self.process.start()
        theirs.close()

    def send(self, cell: Cell) -> None:
        """Give it a cell; raises OSError where the process is gone."""
        self.cell, self.run = cell, cell.run
        self.pipe.send_bytes(cell.to_json().encode())

    def end(self) -> None:
        """Kill it: all that it writes, it writes whole."""
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


def _ready(workers: list[Worker]) -> list[int]:
    """Those at work from which there is something to hear, their end included."""
    busy = {worker.pipe: index for index, worker in enumerate(workers) if worker.cell is not None}
    return [busy[pipe] for pipe in connection.wait(list(busy)) if isinstance(pipe, connection.Connection)]


def _heard(worker: Worker, queue: Queue, progress: Progress) -> bool:
    """Hear one message; False where the worker is lost."""
    cell = worker.cell
    assert cell is not None
    try:
        message = json.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        message = {"lost": worker.fate}
    if "say" in message:
        progress.say(message["say"])
        return True
    worker.cell = None
    if "done" in message:
        queue.finished(cell)
    elif "refused" in message:
        queue.refused(cell, message["refused"], message["exit_code"])
    else:
        queue.lost(cell, message["lost"])
        worker.end()
        return False
    return True
