"""`python -m tests.tools.storm [KILLS]`: worker processes killed at random moments, over a grid of tiny cells.

After every storm the same cells are gone through until all are done, and every tensor is compared with those that an
undisturbed process made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advbench.grid.cells import Cell, cells_of
from advbench.grid.local import Local
from advbench.grid.queue import Queue
from advbench.grid.worker import Performer
from advbench.progress import Quiet
from advbench.study.doctor import examine
from advbench.study.study import Study
from tests.helpers import studies
from tests.helpers.studies import tensors

TINY: dict[str, Any] = {
    "losses": ["softmax", "lgm"],
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]}, {"name": "pgd", "steps": 2, "eps": 0.1}],
    "n": 20,
    "training": {"epochs": 2},
}


@dataclass(frozen=True)
class Counts:
    """Of a storm: workers killed, cells completed, tries made again, files lost or other than undisturbed."""

    faults: int = 0
    cells: int = 0
    retried: int = 0
    failed: int = 0
    files: int = 0
    lost: int = 0

    def __str__(self) -> str:
        return (
            f"faults {self.faults}, cells completed {self.cells}, retried {self.retried}, failed after three tries "
            f"{self.failed}, files compared {self.files}, files lost {self.lost}"
        )


def study(folder: Path, **table: Any) -> Study:
    """The study of the tiny cells below a folder."""
    return studies.study(folder, **{**TINY, **table})


class Killer:
    """Kills one of the workers it is told of at random moments, `most` of them in all, while it is entered."""

    def __init__(self, rng: np.random.Generator, most: int, longest: float) -> None:
        self.rng = rng
        self.most = most
        self.longest = longest
        self.faults = 0
        self.pids: list[int] = []
        self.stopped = threading.Event()

    def __enter__(self) -> Killer:
        self.thread = threading.Thread(target=self._kill)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def _kill(self) -> None:
        while self.faults < self.most and not self.stopped.wait(self.rng.uniform(0.02, self.longest)):
            if self.pids:
                pid = self.pids.pop(int(self.rng.integers(len(self.pids))))
                with contextlib.suppress(ProcessLookupError):  # it had ended, and that was no fault
                    os.kill(pid, signal.SIGKILL)
                    self.faults += 1


def storm(folder: Path, kills: int, *, seed: int = 0, longest: float = 0.8) -> Counts:
    """Kill `kills` workers, in grids one after the other, each gone through until it is done; what was counted."""
    rng, counts, grid = np.random.default_rng(seed), Counts(), 0
    study(folder / "calm").attack()
    calm = tensors(folder / "calm")
    while counts.faults < kills:
        stormy = study(folder / f"storm-{grid}")
        cells = cells_of(stormy)
        while not all(cell.done for cell in cells):
            with Killer(rng, kills - counts.faults, longest) as killer:
                counts = _gone_through(cells, killer, counts)
            counts = replace(counts, faults=counts.faults + killer.faults)
        stormy.attack()  # every file against its hash
        made = tensors(folder / f"storm-{grid}")
        lost = sum(made.get(name) != data for name, data in calm.items()) + len(made.keys() - calm.keys())
        lost += sum(len(row.broken) + len(row.left) for row in examine(folder / f"storm-{grid}" / "runs"))
        counts = replace(
            counts, cells=counts.cells + len(cells), files=counts.files + len(calm), lost=counts.lost + lost
        )
        grid += 1
    return counts


def _gone_through(cells: list[Cell], killer: Killer, counts: Counts) -> Counts:
    queue = Queue(cells, Quiet(), tries=3)
    Local(2, started=killer.pids.append).work(queue, Quiet())
    tally = queue.tally
    return replace(counts, retried=counts.retried + tally.retried, failed=counts.failed + tally.failed)


def killed_at_write(text: str, last: int) -> None:
    """Perform a cell and die in the middle of write number `last`: its bytes are on disk, and not in place yet."""
    done: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if len(done) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(handle)
        real(handle)

    os.fsync = fsync  # type: ignore[assignment]
    torch.set_num_threads(1)
    Performer(Quiet()).perform(Cell.from_json(text))


def main() -> int:
    """Print the counts; 1 where a file was lost."""
    torch.set_num_threads(1)
    kills, began = int(sys.argv[1]) if len(sys.argv) > 1 else 200, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = storm(Path(folder), kills)
    sys.stdout.write(f"{counts}, in {time.perf_counter() - began:.0f} s\n")
    return int(counts.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
