"""Rows as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def percent(value: float | None) -> str:
    """A rate in per cent, without the sign that the column's head has; undefined is n/a."""
    return "n/a" if value is None else f"{value:.1%}".removesuffix("%")


def interval(row: Row, key: str) -> str:
    """A rate and its 95 % interval, in per cent."""
    if row[key] is None:
        return "n/a"
    return f"{percent(row[key])} [{percent(row[key + '_low'])}, {percent(row[key + '_high'])}]"


def model(row: Row) -> str:
    """Data set, loss and seed, with the settings an L-GM model has."""
    settings = "" if row["alpha"] is None else f" {row['alpha']:g}/{row['lam']:g}"
    diagonal = " diag" if row["covariance"] == "diagonal" else ""
    return f"{row['dataset']} {row['loss']}{settings}{diagonal} #{row['seed']}"


def attack(row: Row) -> str:
    """Name, eps, and the settings that are not the default."""
    extra = "".join(f" {k}={v}" for k, v in row["settings"].items())
    return f"{row['attack']} {row['eps']:g}{extra}"


VERIFY: list[Column] = [
    ("attack", attack),
    ("detector", lambda r: r["detector"]),
    ("EER % [95 %]", lambda r: interval(r, "eer")),
    ("AUROC %", lambda r: percent(r["auroc"])),
    ("TPR % at FPR 5 %", lambda r: percent(r["tpr_at_fpr05"])),
    ("n", lambda r: f"{r['n_clean']}+{r['n_attacked']}"),
]
COLUMNS: dict[str, list[Column]] = {
    "train": [
        ("run", lambda r: r["run"]),
        ("epochs", lambda r: str(r["epochs"])),
        ("validation error %", lambda r: percent(r["validation_error_rate"])),
        ("test error %", lambda r: percent(r["clean_error_rate"])),
        ("n test", lambda r: str(r["n"])),
    ],
    "attack": [
        ("attack", attack),
        ("n", lambda r: str(r["n"])),
        ("clean error %", lambda r: percent(r["clean_error_rate"])),
        ("error %", lambda r: percent(r["error_rate"])),
        ("success %", lambda r: percent(r["success_rate"])),
        ("target reached %", lambda r: "-" if r["target_rate"] is None else percent(r["target_rate"])),
        ("zero gradients", lambda r: str(r["zero_gradients"])),
        ("saturated", lambda r: str(r["saturated"])),
    ],
    "verify": VERIFY,
    "run": VERIFY,
    "report": VERIFY,
    "runs": [
        ("run", lambda r: r["run"]),
        ("model", model),
        ("trained", lambda r: "yes" if r["trained"] else "no"),
        ("attacks", lambda r: "\n".join(r["attacks"]) or "-"),
    ],
    "list": [("name", lambda r: r["name"]), ("what it is", lambda r: r["summary"])],
}
GROUPED = ("attack", "verify", "run", "report")
VERIFY_NOTE = (
    "All attacked images against all clean ones; 95 % intervals by bootstrap over images. These attacks know nothing "
    "of the detector (zero knowledge). More populations and thresholds: --json, or the report."
)


def show(command: str, rows: list[Row]) -> None:
    """Print rows on stdout, a table for each model; of verify rows, the population `all`."""
    columns = COLUMNS[command]
    if columns is VERIFY:
        rows = [r for r in rows if r["population"] == "all"]
    console = Console(highlight=False)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{model(row)}  ({row['run']})" if command in GROUPED else "", []).append(row)
    for title, members in groups.items():
        table = Table(title=Text(title, "bold") if title else None, title_justify="left", box=SIMPLE_HEAD)
        for i, (name, _) in enumerate(columns):
            numeric = command != "list" and i > 0 and name not in ("detector", "model", "attacks")
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in members:
            table.add_row(*(Text(cell(row)) for _, cell in columns))
        console.print(table)
    if columns is VERIFY:
        console.print(VERIFY_NOTE, markup=False)
