"""Rows as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def percent(value: float | None) -> str:
    """A rate; undefined is n/a."""
    return "n/a" if value is None else f"{value:.1%}"


def interval(row: Row, key: str) -> str:
    """A rate and its 95 % interval."""
    if row[key] is None:
        return "n/a"
    return f"{row[key]:.1%} [{row[key + '_low']:.1%}, {row[key + '_high']:.1%}]"


def model(row: Row) -> str:
    """Loss and seed, with alpha and lambda where there are any."""
    settings = "" if row["alpha"] is None else f" a={row['alpha']:g} l={row['lam']:g}"
    diagonal = " diagonal" if row["covariance"] == "diagonal" else ""
    return f"{row['dataset']} {row['loss']}{settings}{diagonal} #{row['seed']}"


def attack(row: Row) -> str:
    """Name, eps, and the settings that are not the default."""
    extra = "".join(f" {k}={v}" for k, v in row["settings"].items())
    return f"{row['attack']} {row['eps']:g}{extra}"


Column = tuple[str, Callable[[Row], str]]
VERIFY: list[Column] = [
    ("model", model),
    ("attack", attack),
    ("detector", lambda r: r["detector"]),
    ("n", lambda r: f"{r['n_clean']:,}+{r['n_attacked']:,}"),
    ("EER [95 %]", lambda r: interval(r, "eer")),
    ("AUROC", lambda r: percent(r["auroc"])),
    ("TPR at 5 %", lambda r: percent(r["tpr_at_fpr05"])),
    ("clean rejected", lambda r: percent(r["fpr05_realised"])),
]
COLUMNS: dict[str, list[Column]] = {
    "train": [
        ("model", model),
        ("run", lambda r: r["run"]),
        ("epochs", lambda r: str(r["epochs"])),
        ("validation error", lambda r: percent(r["validation_error_rate"])),
        ("test error", lambda r: f"{percent(r['clean_error_rate'])} of {r['n']:,}"),
    ],
    "attack": [
        ("model", model),
        ("attack", attack),
        ("n", lambda r: f"{r['n']:,}"),
        ("clean error", lambda r: percent(r["clean_error_rate"])),
        ("error", lambda r: percent(r["error_rate"])),
        ("success", lambda r: percent(r["success_rate"])),
        ("target reached", lambda r: percent(r["target_rate"]) if r["target_rate"] is not None else "-"),
        ("zero gradients", lambda r: f"{r['zero_gradients']:,}"),
        ("saturated", lambda r: f"{r['saturated']:,}"),
    ],
    "verify": VERIFY,
    "run": VERIFY,
    "report": VERIFY,
}
CAPTION = (
    "All attacked images against all clean ones. FGSM knows nothing of the detector (zero knowledge). "
    "Other populations: --json."
)


def show(command: str, rows: list[Row]) -> None:
    """Print rows on stdout; of verify rows, the population `all`."""
    columns = COLUMNS.get(command) or _plain(rows)
    if columns is VERIFY:
        rows = [r for r in rows if r["population"] == "all"]
    table = Table(caption=CAPTION if columns is VERIFY else None, caption_justify="left")
    for name, _ in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row).replace("[", r"\[") for _, cell in columns))
    Console().print(table)


def _plain(rows: list[Row]) -> list[Column]:
    def column(key: str) -> Column:
        return key, lambda r: ", ".join(r[key]) if isinstance(r[key], list) else str(r[key])

    return [column(key) for key in (rows[0] if rows else ["nothing"])]
