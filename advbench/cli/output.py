"""Print a command's rows as JSON or as a table."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advbench.errors import printable
from advbench.study.options import Evaluate, Output

if TYPE_CHECKING:
    from advbench.report.adaptive import Shown
    from advbench.runs import VerifyRow
    from advbench.study.command_lines import Line

NAMED_BY_FILE = ("--dataset", "--model", "--weights")


def emit(command: str, rows: Sequence[object], options: Output, page: Path | None = None) -> None:
    """Rows as JSON (and nothing else on stdout), or as tables and the page's path."""
    from advbench.runs import VerifyRow, as_json

    if options.json:
        said = {"schema": 1, "command": command, "rows": as_json(list(rows))}
        sys.stdout.write(json.dumps(said, allow_nan=False) + "\n")
        if page is not None:
            sys.stderr.write(f"{printable(str(page))}\n")
        return
    from advbench.cli.tables import show

    scored = [row for row in rows if isinstance(row, VerifyRow)]
    show(rows, aware_of(scored, options) if scored else None)
    if page is not None:
        sys.stdout.write(f"{printable(str(page))}\n")


def filled_text(text: str, first: str, later: str) -> str:
    """Text for a terminal of 80 columns, its first and later lines indented; no name in it is broken."""
    own = textwrap.TextWrapper(80, first, later, break_on_hyphens=False, break_long_words=False)
    return own.fill(printable(text))


def filled(words: Sequence[str], options: Output) -> tuple[list[str], list[str]]:
    """A command's words with data, model and weights as options name them, and the values left to fill in."""
    from advbench.data.sources import label_of

    def recorded(dataset: str) -> str:
        return label_of(*dataset.partition(":")[::2]).replace(":", ":PATH/", 1)

    words, left = list(words), []
    for i, flag in enumerate(words[:-1], 1):
        typed = getattr(options, flag.removeprefix("--"), None) if flag in NAMED_BY_FILE else None
        every = typed if isinstance(typed, tuple) else (typed,) if typed else ()
        named = [t for t in every if flag != "--dataset" or recorded(t) == words[i]]
        if named:
            words[i] = named[0]
        elif flag in NAMED_BY_FILE and (flag == "--weights" or re.search(r"PATH/|\.py:|\.pt2$|^python:", words[i])):
            left.append(words[i])
    if "--model" in words:
        words += ["--trust"] * (isinstance(options, Evaluate) and options.trust)
        for key, usual in (("runs_dir", "runs"), ("reports_dir", "reports"), ("data_dir", None)):
            given = getattr(options, key, None)
            words += [] if given in (None, usual) else [f"--{key.replace('_', '-')}", str(given)]
    return words, left


def pasteable(line: Line, options: Output) -> str:
    """A record's commands as they run in this terminal; a comment names what is left to fill in."""
    from advbench.study.command_lines import Line

    parts = [filled(words, options) for words in line.commands]
    left = ", ".join(dict.fromkeys(value for _, values in parts for value in values))
    return f"{Line(tuple(tuple(words) for words, _ in parts))}" + f"  # fill in where these lie: {left}" * bool(left)


def aware_of(rows: Sequence[VerifyRow], options: Output) -> dict[str, tuple[Shown, str | None]]:
    """By run, what the attacks that know a detector did to the models of verify rows, and the command for more."""
    from advbench.report.adaptive import beside
    from advbench.runs import load

    names = dict.fromkeys(row.model.run for row in rows)
    folder = Path(options.runs_dir)
    found = {name: beside(load(folder / name), [r for r in rows if r.model.run == name]) for name in names}
    return {n: (one, None if one.command is None else pasteable(one.command, options)) for n, one in found.items()}
