"""Damage and forgeries of a runs folder, each drawn by its number and a seed."""

import contextlib
import functools
import io
import json
import math
import operator
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load, save

from advbench.runs import digest, sealed, sha256
from advbench.runs.sealed_json import DIGEST

Way = tuple[str | int, ...]
Table = dict[str, Any]  # what is done -> a function that does it
MISSING = "(missing)"
VALUES: list[Any] = [
    *(MISSING, MISSING, None, True, [], {}, [1, 2, 3], {"a": {}}, 0, -1, 2, 1.5, 1e308, 10**400, math.nan, math.inf),
    *("", "text", "7", "../../outside/keep.txt", "/etc/passwd", "--model", "evil:build", "evil.py:build", "a\0b"),
    *("$(touch EXECUTED)", "__import__('os').system('touch EXECUTED')", "\x1b[2J\n$ advbench", "\ud800", "$\\frac{$"),
    *("x && touch EXECUTED", "x && advbench  evaluate --model evil.py:build --dataset digits && y"),
]
KINDS = ["field"] * 11 + ["tensor"] * 3 + ["place"] * 3 + ["column"] * 2 + ["odd"]
TENSORS: Table = {
    **{str(kind): lambda t, k=kind: t.to(k) for kind in (torch.float64, torch.float16, torch.int8, torch.complex64)},
    **{f"all {v}": lambda t, v=v: torch.full_like(t.double(), v).to(t.dtype) for v in (-1, 99, 10**6)},
    **{f"all {v}": lambda t, v=v: torch.full_like(t.float(), v) for v in (math.nan, math.inf)},
    "of three": lambda t: t.reshape(-1, *t.shape[1:])[:3],
    "empty": lambda t: t.reshape(-1)[:0],
    "without columns": lambda t: t.reshape(*t.shape, 1)[..., :0],
    "a number": lambda t: t.new_zeros(()),
    "twice": lambda t: torch.cat([t.reshape(-1, *t.shape[1:])] * 2),
    "renamed": lambda t: t,
    "missing": lambda t: t,
}
COLUMNS: Table = {
    **{f"all {v!r}": lambda t, c, v=v: t.assign(**{c: v}) for v in (None, math.nan, -1, 1e308, "\x1b[2J", True)},
    "missing": lambda t, c: t.drop(columns=c),
    "lists": lambda t, c: t.assign(**{c: [[1]] * len(t)}),
    "backwards": lambda t, c: t.assign(**{c: t[c].to_numpy()[::-1]}),
    "of five rows, as all": lambda t, _: t.head(5),
    "of no rows, as all": lambda t, _: t.head(0),
    "twice, as all": lambda t, _: pd.concat([t, t]),
}
BYTES: Table = {
    "emptied": lambda _, __: b"",
    "cut": lambda data, draw: data[: draw.randrange(len(data) + 1)],
    "with a byte changed": lambda data, draw: (
        data[: (at := draw.randrange(len(data) + 1))] + b"\x1b" + data[at + 1 :]
    ),
    "nested 100,000 deep": lambda _, __: b"[" * 10**5,
    "10 MB of text": lambda _, __: b'{"schema": 1, "name": "%s"}' % (b"x" * 10**7),
}
PLACES: Table = {  # of a path, and of where it was moved, outside
    "deleted": lambda _, __: None,
    "a folder": lambda path, _: path.mkdir(),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a link to itself": lambda path, _: path.symlink_to(path),
    "a link to /dev/zero": lambda path, _: path.symlink_to("/dev/zero"),
    "moved outside and linked": lambda path, moved: path.symlink_to(moved),
    "a link outside": lambda path, moved: path.symlink_to(moved.parent / ("keep.txt" * moved.is_file())),
}
ODD: Table = {  # of the runs, and of one of them
    "1,000 folders that are no runs": lambda runs, _: _foreign(runs, 1000),
    "folders nested 400 deep": lambda runs, _: (runs / "/".join("d" * 400)).mkdir(parents=True),
    "runs is a file": lambda runs, _: runs.rename(runs.parent / "was") and runs.write_text("x"),
    "a run a second time": lambda runs, run: shutil.copytree(run, runs / "again"),
    "a run inside a run": lambda runs, run: shutil.copytree(run, runs.parent / "was").rename(run / "again"),
    "a run that is a link to the runs": lambda runs, run: run.rename(runs / "was") and run.symlink_to(runs),
    "a name of control characters": lambda runs, run: run.rename(runs / "\x1b[2J\n$ advbench"),
    "a name that is no text": lambda runs, run: run.rename(runs / os.fsdecode(b"\xff")),
}


def _foreign(runs: Path, count: int) -> None:
    for i in range(count):
        (runs / f"folder-{i}").mkdir()
        (runs / f"folder-{i}" / ("manifest.json", ".lock", "notes.txt", ".x.part")[i % 4]).write_text("{}" * (i % 3))


def ways(value: Any, way: Way = ()) -> list[Way]:
    """Where the parts of a JSON document lie, its own place first."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(inner for key, part in parts for inner in ways(part, (*way, key)))]


def fields(runs: Path) -> list[tuple[str, list[Way]]]:
    """(file, where) of every field of the JSON files; the items of a list are one field."""
    found: dict[tuple[str, Way], list[Way]] = {}
    for path in sorted(runs.rglob("*.json")):
        for way in ways(json.loads(path.read_bytes())):
            shape = tuple(0 if isinstance(key, int) else key for key in way)
            found.setdefault((str(path.relative_to(runs)), shape), []).append(way)
    return [(name, where) for (name, _), where in found.items()]


def _forge(path: Path, way: Way, draw: Random) -> str:
    """Put a drawn value in a field's place, or give it another key; what was done."""
    value, whole = draw.choice(VALUES) if draw.random() < 0.99 else "x" * 10**7, json.loads(path.read_bytes())
    inner, key = functools.reduce(operator.getitem, way[:-1], whole), way[-1] if way else None
    renamed = isinstance(key, str) and isinstance(value, str) and draw.random() < 0.25
    if key is None:
        whole = {} if value == MISSING else value
    elif value == MISSING or renamed:
        old = inner.pop(key)
        if renamed:
            inner[value] = old
    else:
        inner[key] = value
    path.write_text(json.dumps(whole))
    return f"{'.'.join(map(str, way)) or 'all of it'} {'renamed' if renamed else '='} {ascii(value)[:60]}"


def _settle(runs: Path, path: Path, way: Way, draw: Random) -> str:
    """Bring names, hashes and seals up to date, as a forger would, in most cases; how far."""
    how, run = draw.choice(["sealed again"] * 7 + ["seal removed", "left so"]), runs / path.relative_to(runs).parts[0]
    note = path.with_suffix(".json") if "shards" in path.parts else run / "manifest.json"
    if how == "left so" or path.parent == runs or not note.is_file():
        return "left so"
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration):
        value, name, data = json.loads(note.read_bytes()), str(path.relative_to(run)), path.read_bytes()
        if path != note and "shards" in path.parts:
            value["sha256"] = sha256(data)
        elif path != note:
            step = next(step for step in value["steps"].values() if name in step["files"])
            step["files"][name] = {"sha256": sha256(data), "bytes": len(data)}
        if way[:1] == ("model",) and draw.random() < 0.5:
            value["name"] = f"{value['name'].rpartition('-')[0]}-{digest(value['model'])}"
        value.pop(DIGEST, None)
        note.write_text(json.dumps(sealed(value) if how == "sealed again" else value))
    return how


def harm(number: int, seed: int, runs: Path, places: list[tuple[str, list[Way]]]) -> tuple[str, str]:
    """Do the damage of that number to a runs folder, beside which lies `outside`: (what was touched, how)."""
    draw, kind, way = Random(f"{seed} {number}"), KINDS[number % len(KINDS)], Way()
    ending = {"odd": "", "place": "/**/*", "column": "/*.parquet"}
    found = sorted(runs.glob("*-*" + ending.get(kind, "/**/*.safetensors")))
    path = draw.choice(found + [runs / "selftest.json"] * (3 if kind == "place" else 0))
    if kind == "odd":
        ODD[how := draw.choice(list(ODD))](runs, path)
        return path.name, how
    if kind == "place" and (path.is_dir() or path.name[0] == "." or draw.random() < 0.4):
        PLACES[how := draw.choice(list(PLACES))](path, path.rename(runs.parent / "outside" / "moved"))
        return str(path.relative_to(runs)), how
    if kind == "place":
        how, like = draw.choice(["another's", *BYTES]), draw.choice(sorted(runs.glob(f"*-*/**/*{path.suffix}")))
        path.write_bytes(BYTES[how](path.read_bytes(), draw) if how in BYTES else like.read_bytes())
    elif kind == "field":
        at = number // len(KINDS) * KINDS.count(kind) + number % len(KINDS)
        name, where = Random(seed).sample(places, len(places))[at % len(places)]
        path, way = runs / name, draw.choice(where)
        how = _forge(path, way, draw)
    elif kind == "column":
        table, buffer, change = pd.read_parquet(path), io.BytesIO(), draw.choice(list(COLUMNS))
        COLUMNS[change](table, key := draw.choice(list(table.columns))).to_parquet(buffer, index=False)
        path.write_bytes(buffer.getvalue())
        how = f"{key} {change}"
    else:
        tensors, change = load(path.read_bytes()), draw.choice(list(TENSORS))
        value = TENSORS[change](tensors.pop(key := draw.choice(sorted(tensors)))).contiguous()
        tensors |= {} if change == "missing" else {"\x1b[2J" if change == "renamed" else key: value}
        path.write_bytes(save(tensors, {"format": "\x1b[2J"} if draw.random() < 0.1 else None))
        how = f"{key} {change}"
    return str(path.relative_to(runs)), f"{how}, {_settle(runs, path, way, draw)}"
