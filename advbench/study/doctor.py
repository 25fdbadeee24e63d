"""`advbench doctor`: which runs are whole, which files are broken, what would be recomputed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from advbench.errors import AdvbenchError, BadRun, BadSetting, Renamed, Unreadable
from advbench.runs import MANIFEST, Run, holds_run, inside, load, locks, remove, repair, strays
from advbench.runs.locks import LOCK
from advbench.runs.manifest import FILE, Step
from advbench.runs.rows import DoctorRow, Fault
from advbench.runs.shards import FOLDER, delete, folder_of, notes_of, read_shard
from advbench.study import selection

EVERYTHING = "everything"


def examine(runs_dir: Path, *, mend: bool = False) -> list[DoctorRow]:
    """A row for each run below `runs_dir`, nested folders of runs included; without `mend` nothing is written.

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


def _examined(folder: Path, name: str, *, mend: bool) -> DoctorRow:
    if locks.is_held(folder):
        return DoctorRow(run=name, state="in use")
    row = _found(folder, name)
    if mend and (row.broken or row.left):
        try:
            with locks.hold(folder):
                row = _found(folder, name)
                row = replace(row, mended=row.state != "unread" and _mend(folder, row))
        except BadRun as error:  # taken meanwhile, or with a link in the place of a file
            row = replace(row, broken=row.broken or [Fault(LOCK, str(error))])
    return row


def _found(folder: Path, name: str) -> DoctorRow:
    if not (folder / MANIFEST).exists():
        return DoctorRow(run=name, state="empty", redone=[EVERYTHING], left=_left(folder, {}))
    try:
        run = load(folder)
    except Renamed as error:
        return DoctorRow(run=name, state="skipped", needs=[str(error)])
    except Unreadable as error:
        return DoctorRow(run=name, state="unread", needs=[str(error)])
    except BadRun as error:
        return DoctorRow(run=name, state="broken", broken=[Fault(MANIFEST, str(error))], redone=[EVERYTHING])
    bad: dict[str, dict[str, str]] = {}
    unread: list[str] = []
    for step in run.steps:
        try:
            bad |= repair.faults(run, [step])
        except Unreadable as error:
            unread.append(str(error))
    shards_broken = _broken_shards(run, unread)
    broken = [Fault(file, why) for files in bad.values() for file, why in files.items()]
    whole = not broken and not shards_broken
    return DoctorRow(
        run=name,
        state="unread" if unread else "broken" if not whole else "whole" if _finished(run) else "unfinished",
        steps=[step for step in run.steps if step not in bad],
        broken=broken + shards_broken,
        redone=repair.came_of(run, bad) + [f"shard {fault.file}" for fault in shards_broken],
        needs=unread or _needs(run),
        left=_left(folder, run.steps),
    )


def _needs(run: Run) -> list[str]:
    try:
        return [line.removeprefix(f"{run.name}: ") for line in selection.left_out(run)]
    except BadRun as error:  # a record that this version does not read
        return [str(error)]


def _finished(run: Run) -> bool:
    begun = [*(run.folder / FOLDER).glob("*/*.json"), *(run.folder / "attacks").glob(".*.parts")]
    return "outputs" in run.steps and "checkpoint" not in run.steps and not begun


def _broken_shards(run: Run, unread: list[str]) -> list[Fault]:
    """Adds to `unread` a sentence on each that the system does not let be read."""
    found = []
    for path in sorted((run.folder / FOLDER).glob("*")):
        try:
            folder = folder_of(run, path.name)
            for note in notes_of(folder):
                read_shard(folder, note)
        except Unreadable as error:
            unread.append(str(error))
        except AdvbenchError as error:
            found.append(Fault(str(path.relative_to(run.folder)), str(error)))
    return found


def _left(folder: Path, steps: Mapping[str, Step]) -> list[str]:
    """From the run's folder: what `Run.sweep` would delete, and files that the next try would write over."""
    listed = {name for step in steps.values() for name in step.files}
    known = listed | ({"training.jsonl"} if "checkpoint" in steps else set())
    below = [path for path in (folder, folder / "outputs", folder / "attacks") if path.is_dir()]
    names = [str(path.relative_to(folder)) for within in below for path in within.iterdir() if path.is_file()]
    parts = {str(path.relative_to(folder)) for path in strays(folder, listed) if path.suffix == ".part"}
    return sorted(parts | {name for name in names if FILE.holds(name)} - known)


def _mend(folder: Path, found: DoctorRow) -> bool:
    """Forget what is broken, weights with all that came of them; delete leftovers and broken shards.

    False for a manifest of another schema, which an advbench that reads it may find whole.
    """
    bad = {fault.file for fault in found.broken}
    if MANIFEST in bad:
        return repair.forget_manifest(folder, lambda line: None)
    for name in found.left:
        remove(folder, name)
    if not (folder / MANIFEST).exists():
        return True
    run = load(folder)
    repair.forget(run, {step for step, note in run.steps.items() if bad & set(note.files)})
    for name in (name for name in bad if name.startswith(FOLDER)):
        delete(inside(folder, name))
    return True
