"""Which cells are left, which may be performed now, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from advbench.cells import READY, Cell
from advbench.errors import FailedCells
from advbench.progress import Advance, Progress


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
    """The cells of a study that are not done, in their order, those of one run one at a time.

    A run is one folder with one manifest: what writes to it is never at work twice. Models go side by side.
    """

    def __init__(self, cells: Sequence[Cell], progress: Progress, *, tries: int) -> None:
        self._left = [cell for cell in cells if not cell.done]
        self._progress = progress
        self._tries = tries
        self._lost: Counter[str] = Counter()
        self._at_work: list[Cell] = []
        self._refused: dict[str, int] = {}  # sentence -> exit status
        self._total = len(cells)
        self._advance: Advance = lambda done, note: None
        self.tally = Tally(before=len(cells) - len(self._left))

    @property
    def empty(self) -> bool:
        """Whether nothing is left or at work."""
        return not self._left and not self._at_work

    @property
    def widest(self) -> int:
        """How many cells can be at work at once, at most: as many as there are runs."""
        return len({cell.run for cell in self._left})

    @contextmanager
    def shown(self) -> Iterator[None]:
        """One bar over all cells while the queue is worked through."""
        with self._progress.bar("cells", self._total) as self._advance:
            self._show()
            yield

    def take(self, run: str | None = None) -> Cell | None:
        """A cell to perform now, of `run` if it has one; None where all that are left wait for others."""
        busy = {name for cell in self._at_work for name in cell.writes}
        free = [cell for cell in self._left if busy.isdisjoint(cell.writes)]
        if not free:
            return None
        cell = next((cell for cell in free if cell.run == run), free[0])
        self._left.remove(cell)
        self._at_work.append(cell)
        self._show()
        return cell

    def finished(self, cell: Cell) -> None:
        """A cell that was taken is done."""
        self._at_work.remove(cell)
        self._count(done=1)

    def lost(self, cell: Cell, why: str) -> None:
        """Whoever performed a cell came to an end before it: try again, or fail after the last try."""
        self._at_work.remove(cell)
        self._lost[cell.name] += 1
        if self._lost[cell.name] < self._tries:
            self._left.insert(0, cell)
            self._count(retried=1)
            self._progress.say(f"{cell.name}: {why}; try {self._lost[cell.name] + 1} of {self._tries}")
        else:
            times = f"failed {self._tries} times, the last time because {why}"
            self._fail(cell, f"{cell.name} {times}; the same command tries it again", FailedCells.exit_code)

    def refused(self, cell: Cell, sentence: str, exit_code: int) -> None:
        """The study itself refuses a cell, which trying again would not change."""
        self._at_work.remove(cell)
        self._fail(cell, sentence, exit_code)

    def _fail(self, cell: Cell, sentence: str, exit_code: int) -> None:
        if sentence not in self._refused:
            self._progress.say(f"{cell.name}: failed")
        self._refused[sentence] = exit_code
        after = [other for other in self._left if other.run == cell.run] if cell.step == READY else []
        self._left = [other for other in self._left if other not in after]
        self._count(failed=1, not_tried=len(after))

    def check(self) -> None:
        """Raise FailedCells with every different sentence once, where there is one."""
        if not self._refused:
            return
        tally = self.tally
        done = f"({tally.before + tally.done} of {self._total} cells are done)"
        raise FailedCells(f"{'; '.join(self._refused)} {done}", max(self._refused.values()))

    def _count(self, **more: int) -> None:
        self.tally = replace(self.tally, **{k: getattr(self.tally, k) + v for k, v in more.items()})
        self._show()

    def _show(self) -> None:
        note = f"{len(self._at_work)} running, {self.tally.retried} retried, {self.tally.failed} failed"
        self._advance(self.tally.before + self.tally.done, note)
