"""Drop a run's damaged steps and every step computed from them; the next call recomputes them."""

from collections.abc import Callable, Collection
from pathlib import Path

from advbench import runs
from advbench.errors import Damaged
from advbench.runs.files import remove
from advbench.runs.manifest import INSPECTED
from advbench.runs.run import MANIFEST, Run

Say = Callable[[str], object]


def faults(run: Run, steps: Collection[str]) -> dict[str, dict[str, str]]:
    """Step -> file -> what is wrong with it (missing, truncated, altered), of those whose files are not whole."""
    found = {step: {name: why for name in run.steps[step].files if (why := run.fault(name))} for step in steps}
    return {step: files for step, files in found.items() if files}


def came_of(run: Run, bad: Collection[str]) -> list[str]:
    """The steps to make again: the broken ones, and where `train` is among them all that came of these weights."""
    if "train" in bad:
        return [step for step in run.steps if step not in (INSPECTED, "checkpoint") or step in bad]
    return [step for step in run.steps if step in bad]


def forget(run: Run, bad: Collection[str]) -> list[str]:
    """Forget broken steps and what came of them, and delete their files; which steps these were.

    For weights the run must be held whole, since others may be at work on what came of them.
    """
    gone = came_of(run, bad)
    for step in gone:
        run.drop(step)
    return gone


def is_whole(run: Run, step: str, say: Say) -> bool:
    """Whether a step is done and its files are what they were; a damaged one is forgotten, and `say` told so.

    Raises BadRun where a file is there and the system does not let it be read, which is no damage.
    """
    try:
        return run.has(step)
    except Damaged:
        found = faults(run, [step]).get(step, {})
    gone = forget(run, [step])
    damage = ", ".join(f"{name} {'is' if why == 'missing' else 'was'} {why}" for name, why in found.items())
    also = f" with all that came of it ({', '.join(gone)})" if len(gone) > 1 else ""
    say(f"{run.name}: {damage}; {step} is made again{also}")
    return False


def forget_manifest(folder: Path, say: Say) -> bool:
    """Where a run's manifest is damaged, forget the run, which is held whole, and tell `say` so; whether it was.

    Files are left to be written over. A manifest of another schema is not damaged, nor is one that cannot be read:
    raises BadRun.
    """
    try:
        if (folder / MANIFEST).exists():
            runs.load(folder)
        return False
    except Damaged as error:
        what, _, _ = str(error).removeprefix(f"{folder}/").partition("; ")
        say(f"{folder.name}: {what}; the run is begun anew")
        remove(folder, MANIFEST)
        return True
