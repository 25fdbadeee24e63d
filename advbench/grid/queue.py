"""The queue of cells, which engines go through: which are left, which may start, which failed."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

from advbench.errors import FailedCells
from advbench.grid.cells import Cell, Key, done_among
from advbench.progress import Advance, Progress

TRIES = 3
Done = Callable[[Cell], object]


@dataclass(frozen=True)
class Tally:
    """Counts of cells: done before, done now, tries that were lost and made again, failed, not tried."""

    before: int = 0
    done: int = 0
    retried: int = 0
    failed: int = 0
    not_tried: int = 0

    def __str__(self) -> str:
        untried = f", {self.not_tried} not tried" if self.not_tried else ""
        return f"{self.before} done before, {self.done} done, {self.retried} retried, {self.failed} failed{untried}"


class Queue:
    """The cells of a study that are not done; those whose models are there are open, the others wait.

    `on_done` is called with each cell that is finished, and at the start with each that was done before.
    """

    def __init__(
        self, cells: Sequence[Cell], progress: Progress, *, tries: int, on_done: Done = lambda cell: None
    ) -> None:
        self._progress = progress
        self._tries = tries
        self._on_done = on_done
        self._total = len(cells)
        self._advance: Advance = lambda done, note: None
        self._lost: Counter[Key] = Counter()
        self._refused: dict[str, int] = {}  # sentence -> exit status
        self._at_work: Counter[str] = Counter()  # cells, by run
        done = done_among(cells)
        left = [cell for cell, is_done in zip(cells, done, strict=True) if not is_done]
        self._missing = {cell.key for cell in left}
        self._open: dict[str, deque[Cell]] = {}  # by run, in order
        self._waiting: dict[Key, Cell] = {}
        self._after: dict[Key, list[Key]] = {}  # those that wait for one
        for cell in left:
            self._add(cell)
        self.tally = Tally(before=sum(done))
        for cell in compress(cells, done):
            on_done(cell)

    def __len__(self) -> int:
        """Cells left or at work."""
        return sum(map(len, self._open.values())) + len(self._waiting) + self._at_work.total()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """One bar over all cells while the queue is worked through."""
        with self._progress.bar("cells", self._total) as self._advance:
            self._show()
            yield

    def take(self, run: str | None = None) -> Cell | None:
        """An open cell: of `run` if it has one, else of a run that the fewest are at; None where there is none."""
        if run not in self._open:
            run = min(self._open, key=lambda name: self._at_work[name], default=None)
        if run is None:
            return None
        cell = self._open[run].popleft()
        if not self._open[run]:
            del self._open[run]
        self._begin(cell)
        return cell

    def take_some(self, most: int) -> list[Cell]:
        """At most so many cells of one run, for one who performs them in this order and stops at what goes wrong.

        A model comes with attacks on it, attacks with their scoring, if nothing else that these need is missing.
        """
        if (first := self.take()) is None:
            return []
        taken = {first.key: first}
        while len(taken) < most:
            after = [key for done in taken for key in self._after.get(done, ()) if key in self._waiting]
            ready = (
                k for k in after if k[0] == first.run and self._missing & {*self._waiting[k].needs} <= taken.keys()
            )
            if (key := next(ready, None)) is not None:
                cell = self._waiting.pop(key)
                self._begin(cell)
            elif first.run in self._open:
                (cell,) = filter(None, [self.take(first.run)])
            else:
                break
            taken[cell.key] = cell
        return list(taken.values())

    def finished(self, cell: Cell) -> None:
        """A cell that was taken is done."""
        self._end(cell)
        self._missing.discard(cell.key)
        for key in self._after.pop(cell.key, ()):
            if key in self._waiting:
                self._add(self._waiting.pop(key))
        self._count(done=1)
        self._on_done(cell)

    def returned(self, cell: Cell) -> None:
        """A cell that was taken was not begun."""
        self._end(cell)
        self._add(cell, first=True)
        self._show()

    def lost(self, cell: Cell, why: str) -> None:
        """Whoever performed a cell came to an end before it: try again, or fail after the last try."""
        self._end(cell)
        self._lost[cell.key] += 1
        if self._lost[cell.key] < self._tries:
            self._add(cell, first=True)
            self._count(retried=1)
            self._progress.say(f"{cell.name}: {why}; try {self._lost[cell.key] + 1} of {self._tries}")
        else:
            times = f"failed {self._tries} times, the last time because {why}"
            self._fail(cell, f"{cell.name} {times}; the same command tries it again", FailedCells.exit_code)

    def refused(self, cell: Cell, sentence: str, exit_code: int) -> None:
        """The study itself refuses a cell, which trying again would not change."""
        self._end(cell)
        self._fail(cell, sentence, exit_code)

    def _add(self, cell: Cell, *, first: bool = False) -> None:
        missing = next((key for key in cell.needs if key in self._missing), None)
        if missing is not None:  # looked at again when that one is done
            self._waiting[cell.key] = cell
            self._after.setdefault(missing, []).append(cell.key)
            return
        open_ones = self._open.setdefault(cell.run, deque())
        open_ones.insert(0 if first else len(open_ones), cell)

    def _begin(self, cell: Cell) -> None:
        self._at_work[cell.run] += 1
        self._show()

    def _end(self, cell: Cell) -> None:
        self._at_work[cell.run] -= 1

    def _fail(self, cell: Cell, sentence: str, exit_code: int) -> None:
        if sentence not in self._refused:
            self._progress.say(f"{cell.name}: failed")
        self._refused[sentence] = exit_code
        self._count(failed=1, not_tried=self._drop_after(cell.key))

    def _drop_after(self, key: Key) -> int:
        """Forget all cells that need this one; how many."""
        after = [other for other in self._waiting.values() if key in other.needs]
        for other in after:
            self._waiting.pop(other.key, None)
        return len(after) + sum(self._drop_after(other.key) for other in after)

    def check(self) -> None:
        """Raise FailedCells with every different sentence once, where there is one."""
        if self._refused:
            done = f"({self.tally.before + self.tally.done} of {self._total} cells are done)"
            raise FailedCells(f"{'; '.join(self._refused)} {done}", max(self._refused.values()))

    def _count(self, **more: int) -> None:
        self.tally = replace(self.tally, **{k: getattr(self.tally, k) + v for k, v in more.items()})
        self._show()

    def _show(self) -> None:
        note = f"{self._at_work.total()} running, {self.tally.retried} retried, {self.tally.failed} failed"
        self._advance(self.tally.before + self.tally.done, note)


class Engine(Protocol):
    """Performs cells; every engine does it by `worker.Performer.perform`."""

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells from `queue` until it is empty, and tell it of each what became of it."""


def go_through(
    cells: Sequence[Cell],
    engine: Engine,
    progress: Progress,
    *,
    on_done: Done = lambda cell: None,
) -> Tally:
    """Perform the cells that are not done; raises FailedCells at the end where one could not be, all others done.

    A cell whose worker was lost is tried again, TRIES times in all; one that the study itself refuses is not.
    `on_done` is called with each cell as soon as it is done, with those that were done before at the start.
    """
    queue = Queue(cells, progress, tries=TRIES, on_done=on_done)
    with queue.shown():
        engine.work(queue, progress)
    progress.say(f"cells: {queue.tally}")
    queue.check()
    return queue.tally
