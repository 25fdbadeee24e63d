"""Read and write files whole: atomic writes, sizes and hashes checked, links refused."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from advbench.errors import BadRun, BadSetting, Damaged, Unreadable
from advbench.runs.json_records import from_json, parsed
from advbench.runs.sealed_json import DIGEST, is_intact

T = TypeVar("T")
# flags of opening what may be a link, or a pipe that nobody writes to; not all are there on every system
UNFOLLOWED = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))
MOST_JSON = 2**28  # bytes of a manifest or note: a run of 100,000 attacks has 2**26


def write_whole(path: Path, data: bytes, *, alone: bool = False) -> None:
    """Write a file in one move, creating its folder; raises BadSetting where the system refuses.

    `alone`: nobody else writes it now, and what an interrupted write of it left may be written over.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if alone:
            name = str(path.with_name(f".{path.name}.part"))
            Path(name).unlink(missing_ok=True)
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | UNFOLLOWED, 0o600)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise cannot_write(path, error) from error


def move(path: Path, to: Path) -> None:
    """Move a file into place, over another; raises BadSetting where the system refuses."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)
    except OSError as error:
        raise cannot_write(to, error) from error


def cannot_write(path: Path, error: OSError) -> BadSetting:
    """The sentence about what the system refused to write."""
    return BadSetting(
        f"cannot write {path}: {error.strerror or error}; free space or name another folder "
        "(--runs-dir, --reports-dir)"
    )


def inside(folder: Path, name: str) -> Path:
    """The path of a file below a folder; raises BadRun where it, or a folder on the way to it, is a link."""
    path = folder
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
            raise linked(path)
    return path


def remove(folder: Path, name: str) -> None:
    """Delete a file below a folder, where it is there; raises BadRun for a link, and where it cannot be deleted."""
    path = inside(folder, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # a folder lies in its place, or a file in its folder's
        raise BadRun(f"{path} cannot be deleted ({error.strerror}); move it away") from error


def linked(path: Path) -> BadRun:
    """The sentence about a link where a file or folder of a run belongs."""
    return BadRun(f"{path} is a link, and nothing in a run is one; put the file or folder itself in its place")


def is_link(path: Path, error: OSError) -> BadRun | None:
    """The same, where that is why a file could not be opened."""
    return linked(path) if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink() else None


@contextmanager
def open_regular(path: Path, most: int, cure: str = "delete it") -> Iterator[BufferedReader]:
    """A file that may come from anybody, open: a regular one, no larger than `most` bytes.

    Raises FileNotFoundError, BadRun for a link and what else is no file, Damaged, which ends in `cure`, for a larger
    one, Unreadable where the system does not let it be read. Nothing that never ends is waited for.
    """
    try:
        handle = os.open(path, os.O_RDONLY | UNFOLLOWED)
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode):
            os.close(handle)
            raise BadRun(f"{path} is no file; delete it")
        with open(handle, "rb") as file:
            if there.st_size > most:
                raise Damaged(f"{path} was altered: it has {there.st_size:,} bytes, not {most:,}; {cure}")
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise is_link(path, error) or Unreadable(f"{path} cannot be read ({why}); mend that and try again") from error


def read_regular(path: Path, most: int, cure: str = "delete it") -> bytes:
    """The bytes of such a file, nothing beyond `most`; raises as `open_regular`."""
    with open_regular(path, most, cure) as file:
        return file.read(most)


def check_whole(path: Path, expected: str, size: int, cure: str | None = None) -> tuple[int, ...]:
    """Raise Damaged where a file is missing or has another size or hash, else as `open_regular` does.

    What comes back is equal as long as nobody writes to the file.
    """
    try:
        with open_regular(path, size, cure or "delete it") as file:
            found, there = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing; {cure or 'make it again'}") from error
    if found != expected:
        said = f"{path} was altered: sha256 {found[:12]}... found, {expected[:12]}... expected"
        raise Damaged(f"{said}; {cure or 'delete it'}")
    return there.st_ino, there.st_size, there.st_mtime_ns


def text_of(path: Path) -> str:
    """The text of a file that is to be written over; empty where there is none. Raises BadSetting as writing does."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise cannot_write(path, error) from error


def read_note(path: Path, cls: type[T], cure: str = "delete it", *, is_sealed: bool = False) -> T | None:
    """The record in a JSON file; None where there is none. Raises Damaged, with the `cure`, for an altered one."""
    try:
        value = parsed(read_regular(path, MOST_JSON, cure))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{path} cannot be read ({error}); {cure}") from error
    try:
        bare = {k: v for k, v in value.items() if k != DIGEST} if isinstance(value, dict) else value
        note = from_json(cls, bare, path.stem)
    except ValueError as error:
        raise Damaged(f"{path} was altered: {error}; {cure}") from error
    if (is_sealed and DIGEST not in value) or not is_intact(value):
        raise Damaged(f"{path} was altered; {cure}")
    return note


def check_folder(folder: Path) -> None:
    """Raise BadSetting where `folder` could not be made and written to; makes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no permission" if there.is_dir() else "it is a file"
        raise BadSetting(f"cannot write to {there}: {why}; name another folder (--runs-dir, --reports-dir)")
