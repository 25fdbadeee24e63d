"""Progress on stderr: lines and a bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from advbench.errors import one_line, printable

Advance = Callable[[float, str], None]  # done so far, a note
EVERY = 30  # seconds between two lines about one piece of work, where there is no terminal


class Progress(Protocol):
    """What a study reports to; this base shows nothing."""

    def say(self, text: str) -> None:
        """One line."""
        del text

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """A bar for one piece of work, as a context manager that gives an `Advance`."""
        yield lambda done, note: None


class Quiet(Progress):
    """Says nothing."""


def duration(seconds: float) -> str:
    """For people: 59.0 s, 1.5 min, 2.5 h."""
    size, unit = (1, "s") if seconds < 60 else (60, "min") if seconds < 3600 else (3600, "h")
    return f"{seconds / size:.1f} {unit}"


class Terminal:
    """On stderr: a bar with the share, the note and the time left at the mean pace.

    Where that is no terminal, a line when a piece of work begins, one every 30 s at most, and one with its duration.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.now = now
        self._said = ""

    def say(self, text: str) -> None:
        """One line."""
        self._said = one_line(text)
        self.console.print(self._said, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """A bar that vanishes when its work is done, or lines; it never goes back."""
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        label = one_line(label)
        lines, began, told, first, most = not self.console.is_terminal, self.now(), 0.0, 0.0, 0.0
        room = Column(no_wrap=True, max_width=max(12, self.console.width - 64))
        texts = ("{task.percentage:.2f}%", "{task.fields[note]}", "{task.fields[left]}")
        columns = [TextColumn("{task.description}", markup=False, table_column=room), BarColumn(bar_width=24)]
        columns += [TextColumn(text, markup=False) for text in texts]
        with Progress(*columns, console=self.console, transient=True, disable=lines) as progress:
            task = progress.add_task(label, total=total, note="", left="")
            if lines and label not in self._said:  # or the line before is the one at the start
                self.say(f"{label}: 0 of {total:,}")

            def advance(done: float, note: str) -> None:
                nonlocal told, first, most
                spent, most = self.now() - began, max(most, done)
                first = most if spent < 0.05 else first  # told so soon, it was done before
                left = f"{duration(spent * (total - most) / (most - first))} left" if first < most < total else ""
                progress.update(task, completed=most, note=printable(note), left=left)
                if lines and spent - told >= EVERY:
                    told = spent
                    self.say(", ".join(filter(None, (f"{label}: {most / total:.1%}", note, left))))

            yield advance
        if lines:
            self.say(f"{label}: done in {duration(self.now() - began)}")
