"""Ways to damage a file, and writes that fail."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from advbench.runs import write_whole
from advbench.runs.files import move


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def stop_at_write(monkeypatch: pytest.MonkeyPatch, last: int, error: type[BaseException]) -> None:
    """Runs write `last` files, and the next one raises the error."""
    done: list[Path] = []

    def write(path: Path, data: bytes, **how: bool) -> None:
        if len(done) == last:
            raise error
        done.append(path)
        write_whole(path, data, **how)

    def put(path: Path, to: Path) -> None:
        if len(done) == last:
            raise error
        done.append(to)
        move(path, to)

    monkeypatch.setattr("advbench.runs.run.write_whole", write)
    monkeypatch.setattr("advbench.runs.run.move", put)
