"""`python -m tests.tools.costs`: what cells cost on this machine, one thread each, as docs/scaling.md quotes it.

The first part needs nothing, the second the real MNIST under ADVBENCH_DATA and the released L-GM model.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from advbench import runs
from advbench.grid.cells import Cell, cells_of
from advbench.grid.local import Local
from advbench.grid.queue import Engine, go_through
from advbench.grid.worker import Performer
from advbench.progress import Quiet
from advbench.report import write
from advbench.runs import sealed_json
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.verify import verify_run
from advbench.study.workspace import Workspace

GRID: dict[str, Any] = {
    "losses": ["softmax", "center", "lgm"],
    "seeds": [0, 1],
    "n": 20,
    "training": {"epochs": 1},
    "attacks": [{"name": "fgsm", "eps": [0.05, 0.1, 0.2, 0.3]}, {"name": "pgd", "steps": 2, "eps": [0.1, 0.2, 0.3]}],
}
DETECTORS = ("likelihood", "max-posterior")
MNIST: dict[str, Any] = {"dataset": "mnist", "losses": "lgm", "attacks": [{"name": "fgsm", "eps": [0.1, 0.3]}]}
Made = TypeVar("Made")


def study(folder: Path, table: dict[str, Any], **more: Any) -> Study:
    """Of that spec, below a folder."""
    reports = more.pop("reports", folder / "reports")
    return Study(parse(table), Workspace(folder / "runs", reports, device=torch.device("cpu"), **more), weights=None)


def timed(work: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def tell(what: str, value: str) -> None:
    """A row of the table."""
    sys.stdout.write(f"| {what} | {value} |\n")
    sys.stdout.flush()


def engines(folder: Path) -> None:
    """Tiny cells in this process and by one worker of each engine."""
    from advbench.grid.ray_engine import Ray

    warm, performer = cells_of(study(folder / "warm", {**GRID, "seeds": 0}), DETECTORS), Performer(Quiet())
    for cell in warm[:3]:
        performer.perform(cell)
    cells = cells_of(study(folder / "here", GRID), DETECTORS)
    here, _ = timed(lambda: [performer.perform(cell) for cell in cells])
    tell(f"a tiny cell of digits, in the calling process ({len(cells)} cells)", f"{here / len(cells):.3f} s")
    named: list[tuple[str, Engine]] = [("a local worker", Local(1)), ("a Ray actor, a Ray started for it", Ray(1, 1))]
    for name, engine in named:
        cells, done = cells_of(study(folder / name, GRID), DETECTORS), [time.perf_counter()]
        go_through(cells, engine, Quiet(), on_done=partial(_note, done))
        done.append(time.perf_counter())
        tell(f"the same by {name}", f"{(done[-2] - done[1]) / (len(cells) - 1):.3f} s")
        tell(f"{name}: until its first cell is done", f"{done[1] - done[0]:.1f} s")
        tell(f"{name}: all {len(cells)} cells", f"{done[-1] - done[0]:.1f} s")


def _note(done: list[float], _: Cell) -> None:
    done.append(time.perf_counter())


def network(folder: Path, data: Path, reports: Path) -> None:
    """The MNIST network's model, attacks, scores and page."""
    one = study(folder, MNIST, data_dir=data, reports=reports)
    loaded, _ = timed(lambda: one.splits)
    tell("MNIST: data set loaded", f"{loaded:.1f} s")
    ready, _ = timed(one.train)
    parts = one.splits
    images = sum(map(len, (parts.train, parts.validation, parts.calibration, parts.test)))
    tell(f"a released model's outputs for {images:,} images, hashed and written", f"{ready:.0f} s")
    attack, _ = timed(one.attack)
    each = attack / len(one.attacks)
    tell("FGSM on 10,000 images, outputs stored", f"{each:.1f} s: {10_000 / each:.0f} images a second")
    (run,) = runs.find(folder / "runs")
    files = {path.name: path.stat().st_size for path in run.folder.rglob("*") if path.is_file()}
    attacked = sum(size for name, size in files.items() if "fgsm" in name) / len(one.attacks) / 10_000
    whole = sum(files.values()) / 1e6
    tell("written: an attacked image; the run with two attacks", f"{attacked:,.0f} bytes; {whole:.0f} MB")
    names = [choice.file_name for choice in one.attacks]
    scored, _ = timed(lambda: verify_run(run, names, DETECTORS, Quiet()))
    tell("scoring an attack of 10,000 images by two detectors", f"{scored / len(one.attacks):.2f} s")
    again, _ = timed(lambda: verify_run(run, names, DETECTORS, Quiet()))
    tell("reading the scores again, hashes included", f"{again / len(one.attacks):.2f} s an attack")
    big = folder / "big"
    big.write_bytes(bytes(300_000_000))
    hashed, _ = timed(lambda: sealed_json.sha256(big.read_bytes()))
    tell("reading and hashing", f"{300 / hashed:,.0f} MB a second")


def page(folder: Path) -> None:
    """A page of many attacks."""
    table = {
        **GRID,
        "losses": "lgm",
        "seeds": 0,
        "attacks": [{"name": "fgsm", "eps": [i / 200 for i in range(1, 61)]}],
    }
    write.run(study(folder, table))
    drawn, _ = timed(lambda: write.run(study(folder, table)))
    tell("a page with 60 attacks of 20 images, scores there", f"{drawn / 60:.3f} s an attack")


def main(_: Sequence[str] = ()) -> int:
    """Print the rows."""
    torch.set_num_threads(1)
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.stdout.write("| | one thread |\n|---|---|\n")
        engines(folder / "engines")
        page(folder / "page")
        if "ADVBENCH_DATA" in os.environ:
            network(folder / "mnist", Path(os.environ["ADVBENCH_DATA"]), root / "reports")
    return 0


if __name__ == "__main__":
    sys.exit(main())
