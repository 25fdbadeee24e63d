"""Files written and read whole: in one move, and against a hash; what the system refuses in a sentence."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from advbench.errors import BadRun, BadSetting, Damaged
from advbench.seals import is_intact, sha256


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one move, creating its folder; raises BadSetting where the system refuses."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def cannot_write(path: Path, error: OSError) -> BadSetting:
    """The sentence about what the system refused to write."""
    return BadSetting(
        f"cannot write {path}: {error.strerror or error}; free space or name another folder "
        "(--runs-dir, --reports-dir)"
    )


def read_whole(path: Path, expected: str, cure: str | None = None) -> bytes:
    """A file's bytes; raises Damaged, which ends in `cure`, where it is missing or has another sha256.

    Raises BadRun where the system does not let it be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        kind = Damaged if isinstance(error, FileNotFoundError) else BadRun
        raise kind(f"{path}: {error.strerror}; {cure or 'make it again'}") from error
    if (found := sha256(data)) != expected:
        said = f"{path} was altered: sha256 {found[:12]}... found, {expected[:12]}... expected"
        raise Damaged(f"{said}; {cure or 'delete it'}")
    return data


def text_of(path: Path) -> str:
    """The text of a file that is to be written over; empty where there is none. Raises BadSetting as writing does."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise cannot_write(path, error) from error


def read_note(path: Path, cure: str = "delete it") -> Any:
    """A JSON file beside the runs; None where it does not exist.

    Raises Damaged, which ends in `cure`, where it is no JSON, or not what it was sealed as; BadRun where the system
    does not let it be read.
    """
    try:
        value = json.loads(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise Damaged(f"{path} cannot be read ({error}); {cure}") from error
    except OSError as error:
        raise BadRun(f"{path} cannot be read ({error}); delete it") from error
    if isinstance(value, dict) and not is_intact(value):
        raise Damaged(f"{path} was altered; {cure}")
    return value


def check_folder(folder: Path) -> None:
    """Raise BadSetting where `folder` could not be made and written to; makes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no permission" if there.is_dir() else "it is a file"
        raise BadSetting(f"cannot write to {there}: {why}; name another folder (--runs-dir, --reports-dir)")
