"""Rows on the grid: what an engine adds to its cells, and two shards beside one process. For idle cores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from advbench.cells import Cell, Performer, cells_of
from advbench.engines import Engine, go_through
from advbench.engines.local import Local
from advbench.engines.on_ray import Ray
from advbench.parsing import parse
from advbench.pipeline import Study
from advbench.place import Place
from advbench.progress import Quiet
from tests.bench.timing import row

SECONDS = 10.0  # of a cell
CELLS = 4


def _study(folder: Path, steps: int) -> Study:
    eps = [0.1 + i / 100 for i in range(CELLS)]
    table: dict[str, Any] = {
        "losses": "softmax",
        "training": {"epochs": 1},
        "attacks": {"name": "pgd", "steps": steps, "eps": eps},
    }
    place = Place(folder / "runs", folder / "reports", device=torch.device("cpu"))
    return Study(parse(table), place, weights=[])


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _attacks(folder: Path, steps: int) -> list[Cell]:
    """The cells of attacks on a model that is there."""
    study = _study(folder, steps)
    study.train()
    return cells_of(study)[1:]


def _overhead(engine: Engine) -> float:
    """Time of cells of about `SECONDS` on one worker over that in this process; neither has data or model loaded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (first, *_), trial = _attacks(Path(folder) / "trial", 100), Performer(Quiet())
            steps = max(1, round(100 * SECONDS / _seconds(lambda: trial.perform(first))))
            ours, theirs = (_attacks(Path(folder) / name, steps) for name in ("ours", "theirs"))
            performer = Performer(Quiet())
            plain = _seconds(lambda: [performer.perform(cell) for cell in theirs])
            return _seconds(lambda: go_through(ours, engine, Quiet())) / plain
    finally:
        torch.set_num_threads(threads)


@row("local-cells-over-one-process", 1.1, slow=True)
def local() -> float:
    """Four attacks of ten seconds by one worker process, its start included, over the same in this process."""
    return _overhead(Local(1))


@row("ray-cells-over-one-process", 1.1, slow=True)
def ray() -> float:
    """The same by one actor of a Ray that is started for it."""
    return _overhead(Ray(1, 1))


@row("two-shards-over-one-process", 0.6, slow=True)
def shards() -> float:
    """`advbench attack` as two shards in two processes of one thread over one such process, starts included."""
    with tempfile.TemporaryDirectory() as folder:

        def start(name: str, *more: str) -> subprocess.Popen[bytes]:
            places = ["--runs-dir", f"{folder}/{name}", "--device", "cpu", "--threads", "1"]
            attack = ["--loss", "softmax", "--epochs", "1", "--attack", "pgd", "--eps", "0.1", "--set", "steps=2000"]
            words = [
                sys.executable,
                "-m",
                "advbench",
                "attack",
                *attack,
                *places,
                "--batch-size",
                "50",
                "--json",
                *more,
            ]
            return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def both() -> None:
            running = [start("ours", "--shard", f"{i}/2") for i in (1, 2)]
            assert [process.wait() for process in running] == [0, 0]

        for name in ("ours", "theirs"):  # the model, and one image
            assert start(name, "--n", "1").wait() == 0
        plain = _seconds(lambda: start("theirs").wait())
        return _seconds(both) / plain
