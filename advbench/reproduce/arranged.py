"""Tables of the page: rows of results.json arranged in lines and columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advbench.reproduce.cells import SHOWN
from advbench.runs import Row


@dataclass(frozen=True)
class Table:
    """Lines of cells under a head; a cell is one row of results.json, or None where there is none."""

    key: str
    title: str
    caption: str
    head: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Row | None]]]
    best: frozenset[tuple[str, str]] = frozenset()  # (loss, setting) of the cells marked as best


class Rows:
    """Rows by (table, loss, setting)."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_key = {(r["table"], r["loss"], r["setting"]): r for r in rows}

    def line(self, table: str, setting: str, losses: Sequence[str] = SHOWN) -> tuple[str, list[Row | None]]:
        """A line of one setting, a cell a loss."""
        return setting, [self.by_key.get((table, loss, setting)) for loss in losses]

    def get(self, table: str, loss: str, setting: str) -> Row:
        """One row."""
        return self.by_key[table, loss, setting]

    def aware(self, setting: str, losses: Sequence[str] = SHOWN) -> tuple[str, list[Row | None]]:
        """A line of table `security`; the setting is given without its `100-D, `."""
        return self.line("security", f"100-D, {setting}", losses)
