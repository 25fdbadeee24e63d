"""`python -m tests.bench [--slow] [ROW ...]`: measure rows, print a table, write bench.json beside the Makefile."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from advbench.errors import UnknownName
from tests.bench import (
    attack_rows as _attack_rows,  # noqa: F401  (fill the table)
    detector_rows as _detector_rows,  # noqa: F401
    grid_rows as _grid_rows,  # noqa: F401
    mnist_rows as _mnist_rows,  # noqa: F401
    resnet_rows as _resnet_rows,  # noqa: F401
    rows as _rows,  # noqa: F401
)
from tests.bench.timing import ROWS

OUT = Path(__file__).resolve().parents[2] / "bench.json"


def main() -> int:
    """0 when every row that was asked for ran, whatever it says; rows left out stay null."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--slow", action="store_true", help="also the rows marked slow")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {', '.join(ROWS)}")
    given = parser.parse_args()
    for name in given.rows:
        if name not in ROWS:
            sys.stderr.write(f"bench: {UnknownName('row', name, ROWS)}\n")
            return 2
    written: list[dict[str, Any]] = []
    for row in ROWS.values():
        wanted = row.name in given.rows if given.rows else given.slow or not row.slow
        began = time.perf_counter()
        value = row.measure() if wanted else None
        if wanted:
            sys.stderr.write(f"{row.name}: {time.perf_counter() - began:.0f} s\n")
        met = None if value is None else value <= row.target
        written.append({"name": row.name, "value": value, "target": row.target, "met": met})
    OUT.write_text(json.dumps(written, indent=2) + "\n")
    table = Table("row", "value", "at most", "met")
    for entry in written:
        said = {None: "not measured", True: "yes", False: "NO"}[entry["met"]]
        shown = "-" if entry["value"] is None else f"{entry['value']:.3f}"
        table.add_row(entry["name"], shown, str(entry["target"]), said)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
