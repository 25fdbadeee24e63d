"""Base of engines: they take cells from a queue until none is left."""

from collections.abc import Sequence
from typing import Protocol

from advbench.grid.cells import Cell
from advbench.grid.queue import TRIES, Done, Queue, Tally
from advbench.progress import Progress


class Engine(Protocol):
    """Performs cells; every engine does it by `perform.Performer.perform`."""

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells from `queue` until it is empty, and tell it of each what became of it."""


def go_through(
    cells: Sequence[Cell],
    engine: Engine,
    progress: Progress,
    *,
    tries: int = TRIES,
    on_done: Done = lambda cell: None,
) -> Tally:
    """Perform the cells that are not done; raises FailedCells at the end where one could not be, all others done.

    A cell whose worker was lost is tried again, `tries` times in all; one that the study itself refuses is not.
    `on_done` is called with each cell as soon as it is done, with those that were done before at the start.
    """
    queue = Queue(cells, progress, tries=tries, on_done=on_done)
    with queue.shown():
        engine.work(queue, progress)
    progress.say(f"cells: {queue.tally}")
    queue.check()
    return queue.tally
