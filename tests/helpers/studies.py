"""Studies of a few cells, and what they left behind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from advbench import runs
from advbench.grid.cells import Cell, Place
from advbench.grid.queue import Queue
from advbench.progress import Advance, Progress, Quiet
from advbench.runs import Run
from advbench.study.parsing import parse
from advbench.study.study import READY, Study
from advbench.study.workspace import Workspace

SMALL: dict[str, Any] = {
    "losses": ["softmax", "lgm"],
    "attacks": [{"name": "fgsm", "eps": [0.1, 0.2]}],
    "n": 20,
    "training": {"epochs": 1},
}


GRID: dict[str, Any] = {
    "losses": ["softmax", "center", "lgm"],
    "seeds": [0, 1],
    "attacks": [
        {"name": "fgsm", "eps": [0.05, 0.1, 0.2, 0.3]},
        {"name": "pgd", "steps": 2, "eps": [0.05, 0.1, 0.2, 0.3]},
    ],
}


def study(
    folder: Path,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
    keep_images: int | None = None,
    **table: Any,
) -> Study:
    more: dict[str, Any] = {"batch_size": batch_size, "progress": progress or Quiet(), "keep_images": keep_images}
    place = Workspace(folder / "runs", folder / "reports", device=torch.device("cpu"), **more)
    return Study(parse({**SMALL, **table}), place, weights=[])


def only_run(folder: Path) -> Run:
    (run,) = runs.find(folder / "runs")
    return run


def tensors(folder: Path) -> dict[str, bytes]:
    """Every tensor file below the runs folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "runs").rglob("*.safetensors"))}


class Heard(Quiet):
    """Keeps lines and the bar's notes; `on_line` is called with each line."""

    def __init__(self, on_line: Callable[[str], None] = lambda text: None) -> None:
        self.said: list[str] = []
        self.notes: list[tuple[float, str]] = []
        self.on_line = on_line

    def say(self, text: str) -> None:
        self.said.append(text)
        self.on_line(text)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        yield lambda done, note: self.notes.append((done, note))


def place(folder: Path) -> Place:
    return Place(str(folder), str(folder), None, False, "cpu", 1, None, True, ())


def cell(folder: Path, run: str, step: str, *needs: str) -> Cell:
    return Cell(run, step, {}, place(folder), tuple((name, READY) for name in needs))


def two_models(folder: Path, **more: Any) -> Queue:
    cells = [
        cell(folder, run, step, *needs)
        for run in ("a", "b")
        for step, needs in ((READY, ()), ("attack x", (run,)), ("attack y", (run,)))
    ]
    return Queue(cells, Quiet(), tries=3, **more)
