"""Rows arranged as the page's tables, which also leave as CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from advbench.metrics import Z95
from advbench.reproduce.arranged import Rows, Table
from advbench.reproduce.cells import EPS, HEADLINE, LOSSES, SHOWN
from advbench.reproduce.paper import LABELS
from advbench.reproduce.records import Record
from advbench.reproduce.rows import READINGS, name_of
from advbench.reproduce.security_tables import AWARE, security_tables
from advbench.runs import Row

WITHIN = {2: 0.004, 100: 0.0015}  # differences from Table 1 that go unremarked, by feature dimension
LARGE = 0.05  # a gap to the paper that asks for an experiment


def tables(rows: Iterable[Row], records: Sequence[Record]) -> dict[str, Table]:
    """The page's tables by key.

    A table of what a detector does against an attack that does not know it ends with what is left of it against one
    that does.
    """
    r = Rows(rows)
    aware = r.line("security", AWARE)
    heads = [LABELS[loss] for loss in SHOWN]
    default = {"clip": True}
    found = [
        Table(
            "table1",
            "Table 1: error on the clean test images",
            "Test error in %, 2-D and 100-D features.",
            [LABELS[loss] for loss in LOSSES],
            [r.line("table1", f"{dim}-D", tuple(LOSSES)) for dim in (2, 100)],
            best=frozenset((loss, f"{dim}-D") for dim in (2, 100) if (loss := best(records, dim))),
        ),
        Table(
            "table6",
            "Table 6: error under FGSM",
            "100-D features. Error in %, images clipped to [0, 1], eps in [0, 1] units; below each plain row the "
            "same attack with its logit gradient taken in float64.",
            heads,
            [r.line("table6", "100-D, eps 0")]
            + [
                r.line("table6", f"100-D, FGSM {name_of(eps, exact=exact, **default)}")
                for eps in EPS
                for exact in (False, True)
            ],
        ),
        Table(
            "eer",
            "EER under FGSM at eps 0.3",
            "100-D features. EER in %, all attacked images against all clean ones; zero-knowledge attack. Last line: "
            "share of images in % that an attack that knows the detector has misclassified and accepted.",
            heads,
            [
                r.line("eer", f"100-D, {detector}, FGSM {name_of(HEADLINE, exact=exact, **default)}")
                for detector in ("likelihood", "max-posterior")
                for exact in (False, True)
            ]
            + [aware],
        ),
        Table(
            "targeted",
            "Targeted FGSM at eps 0.3",
            "100-D features. Error, target rate (of clean-correct images) and EER in %; target: the runner-up class.",
            heads,
            [
                r.line("targeted", f"100-D, {what}, {name_of(HEADLINE, exact=exact, **default)}")
                for what in ("error", "target reached", "EER, likelihood", "EER, max-posterior")
                for exact in (False, True)
            ]
            + [aware],
        ),
        Table(
            "readings",
            "Four readings of the paper's eps",
            "100-D features. Error, EER and targeted results in %: the paper is silent on clipping and pixel scale.",
            heads,
            [
                r.line(table, f"100-D, {what}{name_of(eps * scale, clip=clip, exact=False)}")
                for table, what, epses in (
                    ("table6", "FGSM ", EPS),
                    ("eer", "likelihood, FGSM ", (HEADLINE,)),
                    ("targeted", "error, ", (HEADLINE,)),
                    ("targeted", "EER, likelihood, ", (HEADLINE,)),
                )
                for clip, scale in READINGS
                for eps in epses
            ]
            + [aware],
        ),
        Table(
            "shares",
            "Shares behind Fig. 3, 4 and 6",
            "100-D features. Share of images in %, eps 0.3.",
            heads,
            [
                r.line(table, f"100-D, {who} images with {what}{name_of(HEADLINE, exact=False, **default)}")
                for table, what in (
                    ("fig3", "p_max > 0.98, FGSM "),
                    ("fig4", "likelihood under 0.2, FGSM "),
                    ("fig6", "likelihood under 0.2, targeted FGSM "),
                )
                for who in ("clean", "attacked")
            ],
        ),
    ]
    return {table.key: table for table in (*found, *security_tables(r))}


def best(records: Sequence[Record], dim: int) -> str | None:
    """The loss with the least error, where the paired interval of its lead over every other one excludes 0.

    Compared on the seeds that all losses share; the unit is the test image, its error averaged over those seeds.
    """
    by_loss: dict[str, dict[int, Record]] = {}
    for record in records:
        if record["cell"]["dim"] == dim and record["cell"]["loss"] in LOSSES:
            by_loss.setdefault(record["cell"]["loss"], {})[record["cell"]["seed"]] = record
    shared = set.intersection(*(set(seeds) for seeds in by_loss.values())) if len(by_loss) > 1 else set()
    if not shared:
        return None
    wrong = {
        loss: np.mean([np.isin(np.arange(r["n"]), r["wrong"]) for s, r in seeds.items() if s in shared], axis=0)
        for loss, seeds in by_loss.items()
    }
    first = min(wrong, key=lambda loss: float(wrong[loss].mean()))
    for loss, errors in wrong.items():
        lead = errors - wrong[first]
        if loss != first and lead.mean() - Z95 * lead.std(ddof=1) / np.sqrt(len(lead)) <= 0:
            return None
    return first


def ours(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A row's mean +- std in per cent, or `not run`."""
    if row is None or row["mean"] is None:
        return "not run" if row is not None else ""
    spread = "" if row["std"] is None else f" +- {100 * row['std']:.{digits}f}"
    return f"{100 * row['mean']:.{digits}f}{spread}"


def remark(row: Row) -> str:
    """How a figure differs from the paper's, in percentage points; empty where there is nothing to compare."""
    if row["mean"] is None or row["paper"] is None:
        return ""
    gap = row["mean"] - row["paper"]
    if row["table"] == "fig3":
        return "over it, as the paper says" if gap > 0 else "under it"
    text = f"{100 * gap:+.2f}"
    if row["table"] == "table1" and abs(gap) > (within := WITHIN[int(row["setting"].split("-")[0])]):
        return f"{text}, beyond {100 * within:.2f}"
    return f"{text}, a large gap" if row["table"] != "table1" and abs(gap) > LARGE else text


def to_csv(table: Table) -> bytes:
    """A line for every cell, with all fields of its row."""
    buffer = io.StringIO()
    fields = ("table", "loss", "setting", "seeds", "mean", "std", "low", "high", "n", "paper")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(fields)
    for cell in (cell for _, cells in table.lines for cell in cells if cell is not None):
        writer.writerow([" ".join(map(str, cell[f])) if f == "seeds" else cell[f] for f in fields])
    return buffer.getvalue().encode()


def to_latex(table: Table) -> bytes:
    """A `tabular` in per cent, the paper's figure in brackets; needs no package."""

    def escape(text: str) -> str:
        for sign in "&%#_":
            text = text.replace(sign, "\\" + sign)
        return text.replace("+-", "$\\pm$").replace(">", "$>$")

    lines = [
        f"% {table.title}. In brackets: Wan et al. 2018.",
        f"\\begin{{tabular}}{{l{'r' * len(table.head)}}}",
        "\\hline",
        " & ".join(["", *map(escape, table.head)]) + " \\\\",
        "\\hline",
    ]
    for label, cells in table.lines:
        texts = []
        for cell in cells:
            printed = f" ({100 * cell['paper']:.2f})" if cell is not None and cell["paper"] is not None else ""
            strong = cell is not None and (cell["loss"], cell["setting"]) in table.best
            text = escape(ours(cell) + printed)
            texts.append(f"\\textbf{{{text}}}" if strong else text)
        lines.append(" & ".join([escape(label), *texts]) + " \\\\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""]).encode()
