"""A table of benchmark rows, and the one way they are timed."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Work = Callable[[], object]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Row:
    """A ratio to measure; `value` at most `target` is met. `measure` gives None where this machine cannot."""

    name: str
    target: float
    measure: Callable[[], float | None]
    slow: bool


ROWS: dict[str, Row] = {}


def row(name: str, target: float, *, slow: bool = False) -> Callable[[Callable[[], float | None]], Work]:
    """Add a function that measures one ratio to the table."""

    def add(measure: Callable[[], float | None]) -> Work:
        assert name not in ROWS, name
        ROWS[name] = Row(name, target, measure, slow)
        return measure

    return add


def by_turns(things: Sequence[Thing], rounds: int) -> Iterator[tuple[int, Thing]]:
    """Each thing once a round, with the round's number, every other round in the opposite order."""
    for i in range(rounds):
        for thing in things if i % 2 else reversed(things):
            yield i, thing


def medians(works: Sequence[Work], repeats: int, *, warm: bool = True) -> list[float]:
    """Median seconds of each, taken by turns, after one round that does not count where they are to be `warm`."""
    times: dict[Work, list[float]] = {work: [] for work in works}
    for _, work in by_turns(works, repeats + warm):
        began = time.perf_counter()
        work()
        times[work].append(time.perf_counter() - began)
    return [statistics.median(taken[warm:]) for taken in times.values()]


def ratio(ours: Work, theirs: Work, repeats: int) -> float:
    """Median time of `ours` over that of `theirs`, taken by turns after one round that does not count."""
    one, other = medians((ours, theirs), repeats)
    return one / other
