"""A table of benchmark rows, and the one way they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
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


def ratio(ours: Work, theirs: Work, repeats: int) -> float:
    """Median time of `ours` over that of `theirs`, taken by turns after one round that does not count."""
    times: dict[Work, list[float]] = {ours: [], theirs: []}
    for i in range(repeats + 1):
        for work in (ours, theirs) if i % 2 else (theirs, ours):
            began = time.perf_counter()
            work()
            times[work].append(time.perf_counter() - began)
    return statistics.median(times[ours][1:]) / statistics.median(times[theirs][1:])
