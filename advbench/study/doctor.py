"""`advbench doctor`: which runs are whole, which files are broken, what would be recomputed."""

import os
from collections.abc import Iterator
from pathlib import Path

from advbench.errors import AdvbenchError, BadRun, BadSetting, Renamed, Unreadable
from advbench.runs import MANIFEST, Row, Run, holds_run, inside, load, locks, remove, repair, shapes, strays
from advbench.runs.locks import LOCK
from advbench.runs.shards import FOLDER, delete, folder_of, notes_of, read_shard
from advbench.study import selection

EVERYTHING = "everything"


def examine(runs_dir: Path, *, mend: bool = False) -> list[Row]:
    """A row for each run below `runs_dir`, nested folders of runs included; without `mend` nothing is written.

    run      the folder, from `runs_dir`
    state    whole, unfinished (the next call goes on), empty (nothing was done), broken (what reads it refuses, what
             made it makes it again), skipped (under another name, which `needs` says), unread (the system does not
             let a file be read, which `needs` says: nothing is mended), or in use (another process is at work: not
             examined)
    steps    those that the manifest lists and whose files are whole
    broken   file and why: missing, truncated, altered, or what a manifest lacks
    redone   what the next call of what made it would make again
    needs    plug-ins that are missing, broken or changed, and the parts, whole in themselves, that cannot be read
    left     files that nothing goes on from, by names that advbench gives: temporary ones, stale checkpoints, those
             that no step lists
    mended   whether the broken steps were forgotten and the leftovers deleted; a manifest of another schema is not,
             nor a run with links in it

    Raises BadSetting where `runs_dir` is no folder.
    """
    if runs_dir.exists() and not runs_dir.is_dir():
        raise BadSetting(f"{runs_dir} is a file, not a folder of runs; name another with --runs-dir")
    return [_examined(at, str(at.relative_to(runs_dir)), mend=mend) for at in sorted(_folders(runs_dir))]


def _folders(runs_dir: Path) -> Iterator[Path]:
    """Those that hold a run; through links only where a run's own folder is one."""
    for top, below, _ in os.walk(runs_dir):
        for name in list(below):
            folder = Path(top, name)
            if any(os.path.lexists(folder / file) for file in (MANIFEST, LOCK)) and holds_run(folder):
                below.remove(name)
                yield folder


def _examined(folder: Path, name: str, *, mend: bool) -> Row:
    lists: Row = {key: [] for key in ("steps", "broken", "redone", "needs", "left")}
    row = {"run": name, "state": "in use", **lists, "mended": False}
    if locks.is_held(folder):
        return row
    row |= _state_of(folder)
    if mend and (row["broken"] or row["left"]):
        try:
            with locks.hold(folder):
                row |= _state_of(folder)
                row["mended"] = row["state"] != "unread" and _mend(folder, row)
        except BadRun as error:  # taken meanwhile, or with a link in the place of a file
            row["broken"] = row["broken"] or [{"file": LOCK, "why": str(error)}]
    return row


def _state_of(folder: Path) -> Row:
    if not (folder / MANIFEST).exists():
        return {"state": "empty", "broken": [], "redone": [EVERYTHING], "left": _left(Run(folder, {"steps": {}}))}
    try:
        run = load(folder)
    except Renamed as error:
        return {"state": "skipped", "needs": [str(error)]}
    except Unreadable as error:
        return {"state": "unread", "needs": [str(error)]}
    except BadRun as error:
        return {"state": "broken", "broken": [{"file": MANIFEST, "why": str(error)}], "redone": [EVERYTHING]}
    bad, unread = _faults(run)
    broken = [{"file": file, "why": why} for files in bad.values() for file, why in files.items()]
    shards_broken, shards_unread = _broken_shards(run)
    unread += shards_unread
    state = "broken" if broken or shards_broken else "whole" if _finished(run) else "unfinished"
    return {
        "state": "unread" if unread else state,
        "steps": [step for step in run.steps if step not in bad],
        "broken": broken + shards_broken,
        "redone": repair.came_of(run, bad) + [f"shard {fault['file']}" for fault in shards_broken],
        "needs": unread or _needs(run),
        "left": _left(run),
    }


def _faults(run: Run) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Those of `repair.faults`, and a sentence for each step whose files the system does not let be read."""
    bad: dict[str, dict[str, str]] = {}
    unread = []
    for step in run.steps:
        try:
            bad |= repair.faults(run, [step])
        except Unreadable as error:
            unread.append(str(error))
    return bad, unread


def _needs(run: Run) -> list[str]:
    try:
        return [line.removeprefix(f"{run.name}: ") for line in selection.left_out(run)]
    except BadRun as error:  # a record that this version does not read
        return [str(error)]


def _finished(run: Run) -> bool:
    shards_left = any((run.folder / FOLDER).glob("*/*.json"))
    return "outputs" in run.steps and "checkpoint" not in run.steps and not shards_left


def _broken_shards(run: Run) -> tuple[list[dict[str, str]], list[str]]:
    found, unread = [], []
    for path in sorted((run.folder / FOLDER).glob("*")):
        try:
            folder = folder_of(run, path.name)
            for note in notes_of(folder):
                read_shard(folder, note)
        except Unreadable as error:
            unread.append(str(error))
        except AdvbenchError as error:
            found.append({"file": str(path.relative_to(run.folder)), "why": str(error)})
    return found, unread


def _left(run: Run) -> list[str]:
    """From the run's folder: what `Run.sweep` would delete, and files that the next try would write over."""
    listed = {name for step in run.steps.values() for name in step["files"]}
    known = listed | ({"training.jsonl"} if "checkpoint" in run.steps else set())
    below = [path for path in (run.folder, run.folder / "outputs", run.folder / "attacks") if path.is_dir()]
    names = [str(path.relative_to(run.folder)) for folder in below for path in folder.iterdir() if path.is_file()]
    parts = {str(path.relative_to(run.folder)) for path in strays(run) if path.suffix == ".part"}
    return sorted(parts | {name for name in names if shapes.FILE.holds(name)} - known)


def _mend(folder: Path, found: Row) -> bool:
    """Forget what is broken, weights with all that came of them; delete leftovers and broken shards.

    False for a manifest of another schema, which an advbench that reads it may find whole.
    """
    bad = {fault["file"] for fault in found["broken"]}
    if MANIFEST in bad:
        return repair.forget_manifest(folder, lambda line: None)
    for name in found["left"]:
        remove(folder, name)
    if not (folder / MANIFEST).exists():
        return True
    run = load(folder)
    repair.forget(run, {step for step, note in run.steps.items() if bad & set(note["files"])})
    for name in (name for name in bad if name.startswith(FOLDER)):
        delete(inside(folder, name))
    return True
