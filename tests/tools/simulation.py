"""`python -m tests.tools.simulation`: a grid of 10,000 cells on 1, 8, 64 and 1,000 GPUs, by the queue of real grids.

The queue is the real one, with all its rules; the workers are imagined, and the clock is theirs. What a cell costs is
given: figures marked "measured" were taken on a machine (docs/scaling.md says which), the others are assumptions, and
every one of them can be given on the command line.
"""

import argparse
import heapq
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from advbench.errors import FailedCells
from advbench.grid.cells import SCORED, Cell
from advbench.grid.queue import Queue
from advbench.progress import Quiet
from advbench.study.study import READY
from tests.helpers.studies import place

GPUS = (1, 8, 64, 1000)
# gradients an image, images, and how many of a model's 98 attacks are of the kind
ATTACKS = {
    "fgsm, 10,000 images": (1, 10_000, 40),
    "pgd-40, 10,000 images": (40, 10_000, 40),
    "detector-aware quick, 200 images": (200, 200, 10),
    "detector-aware standard, 1,000 images": (2_000, 1_000, 6),
    "autoattack, 1,000 images": (4_500, 1_000, 2),
}


HEADINGS = ["GPUs", "cells done", "hours", "at best", "GPUs busy", "cells an hour", "retried", "failed", "written"]
HEADINGS += ["a second", "caller busy", "caller alone, after"]


@dataclass(frozen=True)
class Costs:
    """Of the MNIST network on one GPU, in seconds unless said otherwise."""

    models: int = field(default=100, metadata={"help": "each with 98 attacks and a scoring"})
    gradients: float = field(default=30_000.0, metadata={"help": "input gradients a second (assumed: 10 TFLOP/s)"})
    training: float = field(default=60.0, metadata={"help": "a model of ten epochs, its outputs stored (assumed)"})
    scoring: float = field(default=1.0, metadata={"help": "an attack of a model by two detectors (measured, CPU)"})
    start: float = field(default=20.0, metadata={"help": "a worker, until its first cell is done (measured, Ray)"})
    cell: float = field(default=0.3, metadata={"help": "what comes to each cell: reading, writing (measured, CPU)"})
    message: float = field(default=0.015, metadata={"help": "of the calling process, for each cell (measured)"})
    page: float = field(default=0.3, metadata={"help": "of the caller, for each attack on the page (assumed)"})
    read: float = field(default=725e6, metadata={"help": "bytes a second that a process reads and hashes (measured)"})
    losses: float = field(default=0.02, metadata={"help": "workers lost, an hour and GPU (assumed)"})
    model_bytes: float = field(default=33.3e6, metadata={"help": "of a model and its outputs (measured)"})
    image_bytes: float = field(default=3_620.0, metadata={"help": "of an attacked image and its outputs (measured)"})
    seed: int = field(default=0, metadata={"help": "of durations and losses"})


@dataclass(frozen=True)
class Found:
    """What came of a grid on so many GPUs.

    hours, tail     until the last cell; of the calling process alone, after it
    busy            share of the GPU time that went into cells that were done
    calling         share of the time for which the calling process had something to do
    own             seconds of this machine that the real queue took, over all cells
    writing         bytes a second that all workers write together, on the mean over the run
    """

    gpus: int
    cells: int
    hours: float
    tail: float
    bound: float
    busy: float
    calling: float
    own: float
    retried: int
    failed: int
    terabytes: float
    writing: float


def grid(costs: Costs) -> tuple[list[Cell], dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """The cells, what each takes (seconds), and what it writes (bytes)."""
    rng = np.random.default_rng(costs.seed)
    cells: list[Cell] = []
    seconds, written = {}, {}

    def add(run: str, step: str, needs: tuple[tuple[str, str], ...], takes: float, writes: float) -> None:
        cell = Cell(run, step, {}, place(Path("/nowhere")), needs)
        cells.append(cell)
        seconds[cell.key] = costs.cell + takes * float(rng.lognormal(0.0, 0.1))
        written[cell.key] = writes

    for model in range(costs.models):
        run = f"model-{model:04d}"
        add(run, READY, (), costs.training, costs.model_bytes)
        attacks = []
        for name, (gradients, images, count) in ATTACKS.items():
            for i in range(count):
                attacks.append((run, f"attack {name} {i}"))
                takes = gradients * images / costs.gradients
                add(*attacks[-1], ((run, READY),), takes, images * costs.image_bytes)
        add(run, SCORED, tuple(attacks), costs.scoring * len(attacks), 1e6)
    return cells, seconds, written


class Imagined:
    """An engine on so many GPUs that loses workers at random; `clock` is theirs."""

    def __init__(self, gpus: int, costs: Costs, seconds: dict[tuple[str, str], float]) -> None:
        self.gpus = gpus
        self.costs = costs
        self.seconds = seconds
        self.clock = self.calling = self.own = self.useful = 0.0
        self.rng = np.random.default_rng(costs.seed + 1)

    def work(self, queue: Queue) -> None:
        """Take cells until the queue is empty."""
        idle: dict[int, str | None] = dict.fromkeys(range(self.gpus))
        events: list[tuple[float, int, Cell | None, bool]] = [(self.costs.start, gpu, None, True) for gpu in idle]
        idle.clear()
        heapq.heapify(events)
        while queue:
            now, gpu, cell, whole = heapq.heappop(events)
            self.clock = max(self.clock, now) + self.costs.message  # messages are dealt with one at a time
            self.calling += self.costs.message
            began = time.perf_counter()
            if cell is not None and whole:
                self.useful += self.seconds[cell.key]
                queue.finished(cell)
            elif cell is not None:
                queue.lost(cell, "its worker was lost")
            if whole:
                idle[gpu] = cell.run if cell is not None else None
            else:
                heapq.heappush(events, (self.clock + self.costs.start, gpu, None, True))
            for free in list(idle):
                taken = queue.take(idle[free])
                if taken is None:
                    break
                del idle[free]
                heapq.heappush(events, self._event(free, taken))
            self.own += time.perf_counter() - began

    def _event(self, gpu: int, cell: Cell) -> tuple[float, int, Cell | None, bool]:
        """When its cell is done, or its worker lost."""
        takes = self.seconds[cell.key]
        until = float(self.rng.exponential(3600 / self.costs.losses)) if self.costs.losses else np.inf
        return self.clock + min(takes, until), gpu, cell, takes <= until


def simulate(gpus: int, costs: Costs) -> Found:
    """Go through the grid on so many GPUs."""
    cells, seconds, written = grid(costs)
    queue = Queue(cells, Quiet(), tries=3)
    engine = Imagined(gpus, costs, seconds)
    engine.work(queue)
    total, attacks = sum(written.values()), len(cells) - 2 * costs.models
    chain = max(seconds[cell.key] for cell in cells if cell.step.startswith("attack"))
    bound = max(sum(seconds.values()) / gpus, costs.training + chain + costs.scoring * attacks / costs.models)
    try:
        queue.check()
    except FailedCells:
        assert queue.tally.failed
    return Found(
        gpus=gpus,
        cells=queue.tally.done,
        hours=engine.clock / 3600,
        tail=(attacks * costs.page + 2 * total / costs.read) / 3600,
        bound=bound / 3600,
        busy=engine.useful / (engine.clock * gpus),
        calling=engine.calling / engine.clock,
        own=engine.own,
        retried=queue.tally.retried,
        failed=queue.tally.failed,
        terabytes=total / 1e12,
        writing=total / engine.clock,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Print a table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.simulation", description=__doc__.partition("\n")[0])
    for one in fields(Costs):
        text = f"{one.metadata['help']}; default {one.default}"
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default, help=text)
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    given = vars(parser.parse_args(words))
    gpus = given.pop("gpus")
    say = sys.stdout.write
    say(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}\n")
    for number in gpus:
        f = simulate(number, Costs(**given))
        say(
            f"| {f.gpus:,} | {f.cells:,} | {f.hours:.2f} | {f.bound:.2f} | {f.busy:.0%} | {f.cells / f.hours:,.0f} | "
            f"{f.retried} | {f.failed} | {f.terabytes:.2f} TB | {f.writing / 1e6:,.0f} MB | {f.calling:.1%} | "
            f"{f.tail:.2f} h |\n"
        )
        sys.stderr.write(f"{f.gpus} GPUs: the queue itself took {f.own:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
