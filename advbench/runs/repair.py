"""Drop a run's damaged steps and every step computed from them; the next call recomputes them."""

from collections.abc import Callable, Collection
from pathlib import Path

from advbench import runs
from advbench.errors import Damaged
from advbench.runs.files import remove
from advbench.runs.growing.journal import JOURNAL
from advbench.runs.manifest import INSPECTED
from advbench.runs.run import MANIFEST, Run

Say = Callable[[str], object]


def faults(run: Run, steps: Collection[str]) -> dict[str, dict[str, str]]:
    """Step -> file -> what is wrong with it (missing, truncated, altered), of those whose files are not whole."""
    found = {step: {name: why for name in run.steps[step].files if (why := run.fault(name))} for step in steps}
    return {step: files for step, files in found.items() if files}


def came_of(run: Run, bad: Collection[str]) -> list[str]:
    """The steps to make again: the broken ones, and where `train` is among them all that came of these weights."""
    apart = (INSPECTED, "checkpoint") if "train" in bad else run.steps
    return [step for step in run.steps if step in bad or step not in apart]


def forget(run: Run, bad: Collection[str]) -> list[str]:
    """Forget broken steps and what came of them, with their files; which these were. For weights: held whole."""
    gone = came_of(run, bad)
    for step in gone:
        run.drop(step)
    return gone


def is_whole(run: Run, step: str, say: Say) -> bool:
    """Whether a step is done and whole; a damaged one is forgotten. Raises BadRun for an unreadable file."""
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
    """Forget a run, held whole, whose manifest is damaged; whether it was. Raises BadRun as `load` does."""
    try:
        if (folder / MANIFEST).exists():
            runs.load(folder)
        return False
    except Damaged as error:
        what, _, _ = str(error).removeprefix(f"{folder}/").partition("; ")
        say(f"{folder.name}: {what}; the run is begun anew")
        remove(folder, MANIFEST)
        remove(folder, JOURNAL)
        return True
