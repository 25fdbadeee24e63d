"""Who works on a run folder, or on a step of it: locks that the system lets go of when their process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from advbench.disk import cannot_write
from advbench.errors import BadRun
from advbench.seals import digest

try:
    import fcntl
except ImportError:  # not on this system: two processes on one run are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # held by who works on the run; with a digest of a step's name, by who works on that step
WRITING = f"{LOCK}.writing"  # held for the moment in which the manifest is written


def is_held(folder: Path) -> bool:
    """Whether a process holds a run folder, or a step of it; writes nothing."""
    lock = folder / LOCK
    if fcntl is None or not lock.exists():
        return False
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # what cannot be read or locked here says nothing
        return isinstance(error, BlockingIOError)
    return False


@contextmanager
def hold(folder: Path, *, step: str | None = None, wait: bool = False, writes: bool = True) -> Iterator[None]:
    """Hold a run folder for this process, making it where it does not exist; with `step`, for that step alone.

    Who holds a step may write it while others hold other steps, and nobody the folder. Raises BadRun where another
    process is in the way and `wait` is not set, BadSetting where the folder cannot be written and the caller `writes`
    to it. The system lets go when the process ends, however it ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            held.enter_context(locked(folder / LOCK, shared=step is not None, wait=wait))
            if step is not None:
                held.enter_context(locked(folder / f"{LOCK}-{digest(step)}", wait=wait))
            taken = held.pop_all()
    except BlockingIOError:
        raise BadRun(
            f"{folder} is in use by another advbench process; wait for it or name another --runs-dir"
        ) from None
    except OSError as error:
        if writes:
            raise cannot_write(folder, error) from error
        taken = ExitStack()
    with taken:
        yield


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold one file, making it; raises BlockingIOError where another process is in the way and `wait` is not set."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
