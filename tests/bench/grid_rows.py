"""Rows on the grid: what an engine adds to its cells, and two shards beside one process. For idle cores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from advbench.cells import cells_of
from advbench.parsing import parse
from advbench.performer import Performer
from advbench.pipeline import Study
from advbench.place import Place
from advbench.progress import Quiet
from tests.bench.timing import row

SECONDS = 10.0  # of a cell
CPU = ("--device", "cpu")  # which is where a Ray actor computes without a GPU
EPS = [0.1 + i / 100 for i in range(12)]
GRID = 'name = "g"\nlosses = "softmax"\ntraining.epochs = 1\nattacks = {{ name = "pgd", steps = {}, eps = {} }}\n'


def _advbench(folder: Path, command: str, *more: str) -> subprocess.Popen[bytes]:
    """A process of one thread of torch, as a user starts it, below a folder."""
    places = ["--runs-dir", f"{folder}/runs", "--reports-dir", f"{folder}/reports"]
    words = [sys.executable, "-m", "advbench", command, *places, "--threads", "1", "--json", *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _seconds(*running: subprocess.Popen[bytes]) -> float:
    """Until they are done, for processes that were started just now."""
    began = time.perf_counter()
    assert [process.wait() for process in running] == [0] * len(running)
    return time.perf_counter() - began


@cache
def _steps() -> int:
    """Steps of PGD with which an attack on digits takes `SECONDS`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = {
                "losses": "softmax",
                "training": {"epochs": 1},
                "attacks": {"name": "pgd", "steps": 100, "eps": EPS},
            }
            place = Place(Path(folder) / "runs", Path(folder) / "reports", device=torch.device("cpu"))
            ready, first, again, *_ = cells_of(Study(parse(table), place, weights=[]))
            performer = Performer(Quiet())
            for cell in (ready, first):  # the first attack loads what the next finds loaded
                performer.perform(cell)
            began = time.perf_counter()
            performer.perform(again)
            return max(1, round(100 * SECONDS / (time.perf_counter() - began)))
    finally:
        torch.set_num_threads(threads)


def _overhead(*engine: str) -> float:
    """Time of a command with twelve such attacks on a model that is there, on an engine, over that without it."""
    with tempfile.TemporaryDirectory() as name:
        taken = []
        for folder, more in ((Path(name) / "theirs", CPU), (Path(name) / "ours", engine)):
            folder.mkdir()
            for steps, eps, options in ((1, [0.05], CPU), (_steps(), EPS, more)):  # the first trains the model
                spec = folder / "grid.toml"
                spec.write_text(GRID.format(steps, eps), encoding="utf-8")
                taken.append(_seconds(_advbench(folder, "run", str(spec), *options)))
        sys.stderr.write(f"{' '.join(engine)}: {taken[3]:.1f} s, one process {taken[1]:.1f} s\n")
        return taken[3] / taken[1]


@row("local-cells-over-one-process", 1.1, slow=True)
def local() -> float:
    """`advbench run` of 12 attacks of ten seconds by one worker over the same in one process, starts included."""
    return _overhead("--on", "local", "--jobs", "1", *CPU)


@row("ray-cells-over-one-process", 1.1, slow=True)
def ray() -> float:
    """The same by one actor of a Ray that is started for it."""
    return _overhead("--on", "ray", "--jobs", "1")


@row("two-shards-over-one-process", 0.6, slow=True)
def shards() -> float:
    """`advbench attack` as two shards in two processes of one thread over one such process, starts included."""
    attack = ["--loss", "softmax", "--epochs", "1", "--attack", "pgd", "--eps", "0.1", "--set", "steps=2000"]
    attack += ["--batch-size", "50", *CPU]
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        for folder in (ours, theirs):  # the model, and one image
            _seconds(_advbench(folder, "attack", *attack, "--n", "1"))
        plain = _seconds(_advbench(theirs, "attack", *attack))
        both = _seconds(*(_advbench(ours, "attack", *attack, "--shard", f"{i}/2") for i in (1, 2)))
        sys.stderr.write(f"two shards: {both:.1f} s, one process {plain:.1f} s\n")
        return both / plain
