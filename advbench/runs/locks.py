"""File locks on a run folder or one of its steps, released by the system when the process ends.

`in_use` False: nothing is locked, where a file system knows no locks and the user sees to it that one process alone
works on a run.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from advbench.errors import BadRun, BadSetting
from advbench.runs.files import UNFOLLOWED, cannot_write, is_link
from advbench.runs.sealed_json import digest

try:
    import fcntl
except ImportError:  # not on this system: two processes on one run are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # held by who works on the run; with a digest of a step's name, by who works on that step
WRITING = f"{LOCK}.writing"  # held for the moment in which the manifest is written
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of a file system without locks
MOMENT = 0.5  # seconds that a look at a lock may stand in the way of who takes it
in_use = True


def is_held(folder: Path) -> bool:
    """Whether a process holds a run folder or a step of it; a lock that cannot be read is held by nobody."""
    return any(_is_locked(path) for path in sorted(folder.glob(f"{LOCK}*")) if path.name != WRITING)


def _is_locked(path: Path) -> bool:
    if fcntl is None or not in_use:
        return False
    try:
        with open(os.open(path, os.O_RDONLY | UNFOLLOWED), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


@contextmanager
def hold(folder: Path, *, step: str | None = None, wait: bool = False, writes: bool = True) -> Iterator[None]:
    """Hold a run folder for this process, making it where it does not exist; with `step`, for that step alone.

    Who holds a step may write it while others hold other steps, and nobody the folder. Raises BadRun where another
    process is in the way and `wait` is not set, or for a link; BadSetting where it `writes` and cannot be written.
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
    """Hold one file; raises BlockingIOError where it is held, BadRun for a link, BadSetting without any."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | UNFOLLOWED, 0o644)  # NFS wants both to lock it either way
    except OSError as error:
        raise is_link(path, error) or error from None
    with open(handle, "rb+", buffering=0) as file:
        if fcntl is not None and in_use:
            _lock(file.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX, path, wait=wait)
        yield


def _lock(file: int, kind: int, path: Path, *, wait: bool) -> None:
    deadline = time.monotonic() + MOMENT
    while True:
        try:
            return fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            raise BadSetting(
                f"the file system of {path.parent} knows no locks ({error.strerror}); name a --runs-dir on another, "
                "or write --no-locks and see to it that one process alone works on a run"
            ) from error
