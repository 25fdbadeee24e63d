"""Workers that take one cell at a time, as processes or Ray actors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from advbench.errors import FailedCells
from advbench.grid.cells import Cell
from advbench.grid.queue import TRIES, Queue
from advbench.grid.worker import Message
from advbench.progress import Progress


class Worker(Protocol):
    """One that performs a cell at a time.

    cell   the one it is at, None where it is at none
    run    of the cell it did last, whose model it still has in memory
    """

    cell: Cell | None
    run: str | None

    @property
    def ready(self) -> bool:
        """Whether it can be sent a cell."""

    def send(self, cell: Cell) -> None:
        """Give it a cell; raises OSError where it is gone."""

    def hear(self) -> Message:
        """What it has to say; `lost` where it is gone."""

    def end(self) -> None:
        """Kill it: all that it writes, it writes whole."""


@dataclass(frozen=True)
class Pool:
    """At most `jobs` workers.

    start   a new worker in the place of that index
    heard   waits until one of these workers, which are at work or starting, has something to say; those that have
    """

    jobs: int
    start: Callable[[int], Worker]
    heard: Callable[[Sequence[Worker]], Sequence[Worker]]

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells until the queue is empty; the workers end with this call, however it ends.

        Raises FailedCells where workers do not even start.
        """
        workers: list[Worker] = []
        unstarted = 0
        try:
            workers += map(self.start, range(min(self.jobs, len(queue))))
            while queue:
                for index, worker in enumerate(workers):
                    workers[index] = self._sent(worker, index, queue)
                for worker in self.heard([w for w in workers if not w.ready]):
                    starting, message = worker.cell is None, worker.hear()
                    unstarted = unstarted + 1 if starting and message.lost else 0
                    if unstarted == TRIES:
                        raise FailedCells(f"no worker starts: {message.lost}", FailedCells.exit_code)
                    if not _told(worker, message, queue, progress):
                        index = workers.index(worker)
                        workers[index] = self.start(index)
        finally:
            for worker in workers:
                worker.end()

    def _sent(self, worker: Worker, index: int, queue: Queue) -> Worker:
        """The worker with its next cell, if there is one for it; another in its place where it is gone."""
        while worker.ready and (cell := queue.take(worker.run)) is not None:
            try:
                worker.send(cell)
            except OSError:
                worker.end()
                queue.returned(cell)
                worker = self.start(index)
            else:
                worker.cell, worker.run = cell, cell.run
        return worker


def _told(worker: Worker, message: Message, queue: Queue, progress: Progress) -> bool:
    """Pass on one message; False where the worker is gone."""
    for line in message.said:
        progress.say(line)
    cell = worker.cell
    if cell is not None and (message.done or message.refused or message.lost):
        worker.cell = None
        settle(queue, cell, message)
    if message.lost:
        worker.end()
    return not message.lost


def settle(queue: Queue, cell: Cell, message: Message) -> None:
    """Tell the queue what became of a cell."""
    if message.done:
        queue.finished(cell)
    elif message.refused:
        queue.refused(cell, message.refused, message.exit_code)
    else:
        queue.lost(cell, message.lost)
