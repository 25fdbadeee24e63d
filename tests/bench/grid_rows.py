"""Rows on the grid: what an engine adds to its cells, and two shards beside one process. For idle cores."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from statistics import median

import torch

from advbench import runs
from advbench.grid.cells import cells_of
from advbench.grid.worker import Performer
from advbench.progress import Quiet
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from tests.bench.timing import by_turns, medians, row

SECONDS = 10.0  # of a cell
CPU = ("--device", "cpu")  # which is where a Ray actor computes without a GPU
ENGINES = {"one process": CPU, "local": ("--on", "local", "--jobs", "1", *CPU), "ray": ("--on", "ray", "--jobs", "1")}
REPEATS = 3
EPS = [0.1 + i / 100 for i in range(12)]
GRID = 'name = "g"\nlosses = "softmax"\ntraining.epochs = 1\nattacks = {{ name = "pgd", steps = {}, eps = {} }}\n'


def _advbench(folder: Path, command: str, *more: str) -> subprocess.Popen[bytes]:
    """A process of one thread of torch, as a user starts it, below a folder."""
    places = ["--runs-dir", f"{folder}/runs", "--reports-dir", f"{folder}/reports"]
    words = [sys.executable, "-m", "advbench", command, *places, "--threads", "1", "--json", *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _finish(*running: subprocess.Popen[bytes]) -> None:
    """Wait until they are done."""
    assert [process.wait() for process in running] == [0] * len(running)


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
            place = Workspace(Path(folder) / "runs", Path(folder) / "reports", device=torch.device("cpu"))
            ready, first, again, *_ = cells_of(Study(parse(table), place, weights=[]))
            performer = Performer(Quiet())
            for cell in (ready, first):  # the first attack loads what the next finds loaded
                performer.perform(cell)
            began = time.perf_counter()
            performer.perform(again)
            return max(1, round(100 * SECONDS / (time.perf_counter() - began)))
    finally:
        torch.set_num_threads(threads)


@cache
def _seconds_on() -> dict[str, float]:
    """Seconds of a command with twelve such attacks on a model that is there, on each engine; medians, by turns.

    What the attacks themselves take, as their run notes it, changes by a fifth from one call to the next on shared
    cores, whatever the engine: it counts as `SECONDS` each, and what lies beside it as measured.
    """
    steps = _steps()
    own: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    beside: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        for engine in ENGINES:
            (Path(name) / engine).mkdir()
            _run(Path(name) / engine, 1, [0.05], *CPU)  # the model, and one step of an attack
        for i, engine in by_turns([*ENGINES], REPEATS):
            folder, before = Path(name) / engine, _noted(Path(name) / engine)
            began = time.perf_counter()
            # other eps in each round, for what is done is not done again
            _run(folder, steps, [eps + i / 1000 for eps in EPS], *ENGINES[engine])
            own[engine].append(_noted(folder) - before)
            beside[engine].append(time.perf_counter() - began - own[engine][-1])
    for engine in ENGINES:
        seconds = ", ".join(f"{a:.1f} + {b:.1f} s" for a, b in zip(own[engine], beside[engine], strict=True))
        sys.stderr.write(f"{engine}, attacks + what lies beside: {seconds}\n")
    return {engine: len(EPS) * SECONDS + median(beside[engine]) for engine in ENGINES}


def _run(folder: Path, steps: int, eps: Sequence[float], *options: str) -> None:
    spec = folder / "grid.toml"
    spec.write_text(GRID.format(steps, [*eps]), encoding="utf-8")
    _finish(_advbench(folder, "run", str(spec), *options))


def _noted(folder: Path) -> float:
    """Seconds of all attacks below a folder, as their run notes them."""
    (run,) = runs.find(folder / "runs")
    return sum(run.seconds(step) for step in run.steps if step.startswith("attack "))


@row("local-cells-over-one-process", 1.1, slow=True)
def local() -> float:
    """`advbench run` of 12 attacks of ten seconds by one worker over the same in one process, starts included."""
    return _seconds_on()["local"] / _seconds_on()["one process"]


@row("ray-cells-over-one-process", 1.1, slow=True)
def ray() -> float:
    """The same by one actor of a Ray that is started for it."""
    return _seconds_on()["ray"] / _seconds_on()["one process"]


@row("two-shards-over-one-process", 0.6, slow=True)
def shards() -> float:
    """`advbench attack` as two shards in two processes of one thread over one such process, starts included."""
    attack = ["--loss", "softmax", "--epochs", "1", "--attack", "pgd", "--set", "steps=2000", *CPU]
    attack += ["--batch-size", "50"]
    rounds = count(100)

    def both() -> None:
        eps = ("--eps", f"{next(rounds) / 1000}")
        _finish(*(_advbench(folder, "attack", *attack, *eps, "--shard", f"{i}/2") for i in (1, 2)))

    def plain() -> None:
        _finish(_advbench(folder, "attack", *attack, "--eps", f"{next(rounds) / 1000}"))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _finish(_advbench(folder, "attack", *attack, "--eps", "0.05", "--n", "1"))  # the model, and one image
        two, one = medians((both, plain), REPEATS, warm=False)
        sys.stderr.write(f"two shards: {two:.1f} s, one process {one:.1f} s\n")
        return two / one
