"""A table of benchmark rows, and the one way they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


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


def medians(works: Sequence[Work], repeats: int, *, warm: bool = True) -> list[float]:
    """Median seconds of each, taken by turns, after one round that does not count where they are to be `warm`."""
    times: dict[Work, list[float]] = {work: [] for work in works}
    for i in range(repeats + warm):
        for work in works if i % 2 else reversed(works):
            began = time.perf_counter()
            work()
            times[work].append(time.perf_counter() - began)
    return [statistics.median(taken[warm:]) for taken in times.values()]


def ratio(ours: Work, theirs: Work, repeats: int) -> float:
    """Median time of `ours` over that of `theirs`, taken by turns after one round that does not count."""
    one, other = medians((ours, theirs), repeats)
    return one / other
