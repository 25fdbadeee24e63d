"""Rows arranged as the page's tables, which also leave as CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advbench.metrics import Z95
from advbench.reproduce.experiment import Experiment, Line, Table
from advbench.reproduce.records import Record, ReproductionRow


@dataclass(frozen=True)
class Arranged:
    """A table's rows in lines and columns, None where there is none; `best` are those that are marked so."""

    table: Table
    lines: Sequence[tuple[str, Sequence[ReproductionRow | None]]]
    best: Sequence[ReproductionRow]


Rows = Mapping[tuple[str, str, str], ReproductionRow]


def by_key(rows: Iterable[ReproductionRow]) -> Rows:
    """Rows by (table, loss, setting)."""
    return {(r.table, r.loss, r.setting): r for r in rows}


def arrange(tables: Iterable[Table], rows: Iterable[ReproductionRow], records: Sequence[Record]) -> list[Arranged]:
    """The tables of an experiment with their rows."""
    known, found = by_key(rows), []
    for table in tables:
        leads = [(line.table, best(records, line, table.losses), line.setting) for line in table.lines if table.best]
        lines = [cells for line in table.lines for cells in _lines(known, line, table.losses)]
        found.append(Arranged(table, lines, [known[t, loss, setting] for t, loss, setting in leads if loss]))
    return found


def _lines(known: Rows, line: Line, losses: Sequence[str]) -> Iterator[tuple[str, Sequence[ReproductionRow | None]]]:
    """The label, and a cell a loss, of a line, or of each that one with a `*` stands for."""
    every = [s for t, _, s in known if t == line.table and s.startswith(line.setting[:-1])]
    for setting in dict.fromkeys(every) if line.what.endswith("*") else [line.setting]:
        cells = [known.get((line.table, loss, setting)) or known.get((line.other, loss, setting)) for loss in losses]
        yield line.label or setting, cells


def best(records: Sequence[Record], line: Line, losses: Sequence[str]) -> str | None:
    """The loss with the least clean error, where the paired interval of its lead over every other one excludes 0.

    Compared on the seeds that all losses share, three at least; the unit is the test image, its error averaged over
    those seeds.
    """
    by_loss: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.cell.loss in losses and (record.cell.dim, record.cell.recipe) == (line.dim, line.recipe):
            by_loss.setdefault(record.cell.loss, {})[record.cell.seed] = record
    shared = set.intersection(*(set(seeds) for seeds in by_loss.values())) if len(by_loss) > 1 else set()
    if len(shared) < 3:
        return None
    wrong = {
        loss: np.mean([np.isin(np.arange(r.n), r.wrong) for s, r in seeds.items() if s in shared], axis=0)
        for loss, seeds in by_loss.items()
    }
    first = min(wrong, key=lambda loss: float(wrong[loss].mean()))
    leads = [errors - wrong[first] for loss, errors in wrong.items() if loss != first]
    ahead = all(lead.mean() - Z95 * lead.std(ddof=1) / np.sqrt(len(lead)) > 0 for lead in leads)
    return first if ahead else None


def ours(row: ReproductionRow | None, digits: int = 2) -> str:
    """A row's mean +- std in per cent, or `not run`, or `diverged`."""
    if row is None or row.mean is None:
        return "" if row is None else "diverged" if row.diverged else "not run"
    spread = "" if row.std is None else f" +- {100 * row.std:.{digits}f}"
    return f"{100 * row.mean:.{digits}f}{spread}"


def to_csv(arranged: Arranged) -> bytes:
    """A line for every cell, with all fields of its row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("table", "loss", "setting", "seeds", "mean", "std", "low", "high", "n", "paper"))
    for r in (cell for _, cells in arranged.lines for cell in cells if cell is not None):
        seeds = " ".join(map(str, r.seeds))
        writer.writerow((r.table, r.loss, r.setting, seeds, r.mean, r.std, r.low, r.high, r.n, r.paper))
    return buffer.getvalue().encode()


def to_latex(arranged: Arranged, experiment: Experiment) -> bytes:
    """A `tabular` in per cent, the paper's figure in brackets; needs no package."""

    def escape(text: str) -> str:
        for sign in "&%#_":
            text = text.replace(sign, "\\" + sign)
        return text.replace("+-", "$\\pm$").replace(">", "$>$")

    def cell(row: ReproductionRow | None) -> str:
        printed = f" ({100 * row.paper:.2f})" if row is not None and row.paper is not None else ""
        text = escape(ours(row) + printed)
        return f"\\textbf{{{text}}}" if row in arranged.best else text

    heads = [experiment.losses[loss].label for loss in arranged.table.losses]
    lines = [
        f"% {arranged.table.title}. In brackets: {experiment.paper}.",
        f"\\begin{{tabular}}{{l{'r' * len(heads)}}}",
        "\\hline",
        " & ".join(["", *map(escape, heads)]) + " \\\\",
        "\\hline",
        *(" & ".join([escape(label), *map(cell, cells)]) + " \\\\" for label, cells in arranged.lines),
    ]
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""]).encode()
