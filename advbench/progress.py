"""What a user sees while work goes on: lines and a bar, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]  # done so far, a note


class Progress(Protocol):
    """Where the pipeline reports to."""

    def say(self, text: str) -> None:
        """One line."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A bar for one piece of work, as a context manager that gives an `Advance`."""


class Quiet:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Ignored."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Ignored."""
        yield lambda done, note: None


class Terminal:
    """rich on stderr: a bar with the note and the time left where stderr is a terminal, lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """A bar that vanishes when its work is done; nothing where stderr is no terminal."""
        if not self.console.is_terminal:
            yield lambda done, note: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(label, total=total, note="")
            yield lambda done, note: progress.update(task, completed=done, note=note)
