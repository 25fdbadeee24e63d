"""What a command says at its end: rows as JSON or as a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advbench.cli_takes import Options

if TYPE_CHECKING:
    from advbench.report.adaptive import Shown

Row = dict[str, Any]


def emit(command: str, rows: list[Row], options: Options, page: Path | None = None, table: str | None = None) -> None:
    """Rows as JSON (and nothing else on stdout), or as a table (the command's own) and the page's path."""
    if options["json"]:
        sys.stdout.write(json.dumps({"schema": 1, "command": command, "rows": rows}, allow_nan=False) + "\n")
        if page is not None:
            sys.stderr.write(f"{page}\n")
        return
    from advbench.cli_tables import show

    show(
        table or command,
        rows,
        aware_of(rows, options) if command in ("verify", "run", "evaluate", "report") else None,
    )
    if page is not None:
        sys.stdout.write(f"{page}\n")


def aware_of(rows: list[Row], options: Options) -> dict[str, Shown]:
    """By run, what the attacks that know a detector did to the models of these verify rows."""
    from advbench.report.adaptive import beside
    from advbench.runs import load

    names = dict.fromkeys(row["run"] for row in rows)
    folder = Path(options["runs_dir"])
    return {name: beside(load(folder / name), [r for r in rows if r["run"] == name]) for name in names}
