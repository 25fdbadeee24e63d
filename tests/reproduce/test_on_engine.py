"""The reproduction's grid on worker processes: the records and answers of one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from advbench.data.digits import Digits
from advbench.errors import FailedCells
from advbench.grid.local import Local
from advbench.grid.queue import Queue
from advbench.progress import Progress
from advbench.reproduce import records, security, tuning
from advbench.reproduce.ahead import Ahead
from advbench.reproduce.cells import CONTROLS, LOSSES, Cell, Entry
from advbench.reproduce.grid import Grid
from advbench.reproduce.probes import Probe
from advbench.study import train
from advbench.study.parsing import parse
from advbench.study.spec import Spec
from advbench.study.workspace import Workspace

MODELS = [Cell("softmax", 100, 0), Cell("lgm1.0", 100, 0)]
PROBES = [Probe("noise", model.loss, "fgsm", eps, 20, blind=True) for model in MODELS for eps in (0.1, 0.3)] + [
    Probe("curve", "lgm1.0", "detector-aware", 0.3, 6, settings={"budget": "quick"})
]


def on_digits(self: Cell, training: Mapping[str, Any], attacks: list[Entry] | None = None) -> Spec:
    """A cell's study, of a data set that is trained on in a second."""
    return parse(
        {
            "losses": [(LOSSES | CONTROLS)[self.loss]],
            "seeds": [self.seed],
            "training": {"epochs": 1, **training},
            "attacks": [{**entry, "n": 20} for entry in attacks or [{"name": "fgsm"}]],
        }
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "spec", on_digits)
    monkeypatch.setattr(Cell, "attacks", lambda self: [{"name": "fgsm", "eps": [0.1, 0.3]}])
    monkeypatch.setattr(security, "plan", lambda: iter(PROBES))


def at(folder: Path) -> Grid:
    grid = Grid(Workspace(runs_dir=folder / "runs", reports_dir=folder / "reports", device=torch.device("cpu")))
    grid.splits = Digits().load(None, download=False)
    return grid


def kept(grid: Grid) -> dict[str, Any]:
    """Weights as they are stored; records and answers without seconds and hashes of files that hold seconds."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "weights")}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    found: dict[str, Any] = {
        p.name: {k: v.numpy().tobytes() for k, v in load_file(p).items()} for p in grid.home.rglob("*.safetensors")
    }
    for model in MODELS:
        for file in (grid.record_file(model), grid.security_file(model)):
            record = timeless(records.read(file))
            if "rows" in record:
                record["rows"].sort(key=lambda row: str(row["asked"]))
            found[str(file.relative_to(grid.home))] = record
    return found


def test_workers_leave_the_weights_records_and_answers_of_one_process(tmp_path: Path) -> None:
    here, there = at(tmp_path / "here"), at(tmp_path / "there")
    for model in MODELS:
        here.finish(model)
    security.ask(here, None, lambda: None)
    ahead = Ahead(there, Local(2), "cpu")
    ahead.train(MODELS)
    ahead.evaluate(MODELS)
    ahead.ask(None)
    assert kept(there) == kept(here)
    assert len(kept(there)) == 6

    before = {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()}
    again = Ahead(there, Local(1, started=lambda pid: pytest.fail(f"worker {pid} for nothing")), "cpu")
    again.train(MODELS)
    again.ask(None)
    assert {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()} == before

    damaged = [*(there.work / "security").rglob("attacks/*"), *(there.work / "evaluated").rglob("model.safetensors")]
    assert len(damaged) >= 2
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-7])
    for model in MODELS:
        there.record_file(model).unlink()
        there.security_file(model).unlink(missing_ok=True)
    again.evaluate(MODELS)
    again.ask(None)
    assert kept(there) == kept(here)


def counting(grid: Grid, counts: list[int]) -> Local:
    """One worker; `counts` gets the number of records that the grid has whenever a cell is finished."""

    class Watched(Local):
        def work(self, queue: Any, progress: Progress) -> None:
            finished = queue.finished

            def count(cell: Any) -> None:
                finished(cell)
                counts.append(len(grid.records()))

            queue.finished = count
            super().work(queue, progress)

    return Watched(1)


def test_a_record_is_kept_when_its_last_attack_is_done_and_not_before(tmp_path: Path) -> None:
    grid = at(tmp_path)
    trained: list[int] = []
    attacked: list[int] = []
    Ahead(grid, counting(grid, trained), "cpu").train(MODELS)
    Ahead(grid, counting(grid, attacked), "cpu").evaluate(MODELS)
    assert (trained, attacked) == ([0, 0], [0, 0, 0, 1, 1, 1, 1, 2])


def test_a_model_that_is_attacked_nowhere_has_its_record_once_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cell, "attacks", lambda self: [{"name": "fgsm"}] if self.loss == "softmax" else [])
    grid = at(tmp_path)
    counts: list[int] = []
    Ahead(grid, counting(grid, counts), "cpu").train([*MODELS, Cell("center", 100, 0)])
    assert counts == [0, 1, 2]
    assert {record["cell"]["loss"] for record in grid.records()} == {"lgm1.0", "center"}


class Looks:
    """An engine that gives up at the first cell; `devices` are those that its cells were to be computed on."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def work(self, queue: Queue, progress: Progress) -> None:  # noqa: ARG002
        """Look at one cell."""
        cell = queue.take()
        assert cell is not None
        self.devices.append(cell.place["device"])
        raise FailedCells("enough was seen", 1)


def test_published_figures_are_computed_on_the_cpu_wherever_trainings_are(tmp_path: Path) -> None:
    grid, engine = at(tmp_path), Looks()
    with pytest.raises(FailedCells, match="enough"):
        Ahead(grid, engine, "cuda").train(MODELS)
    Ahead(grid, Local(1), "cpu").train(MODELS)
    with pytest.raises(FailedCells, match="enough"):
        Ahead(grid, engine, "cuda").evaluate(MODELS)
    with pytest.raises(FailedCells, match="enough"):
        Ahead(grid, engine, "cuda").ask(None)
    assert engine.devices == ["cuda", "cpu", "cpu"]


def test_trials_are_trained_by_workers_and_make_the_rows_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = [{"epochs": 1, "learning_rate": rate} for rate in (0.05, 0.01)]
    monkeypatch.setattr(tuning, "searched", lambda: (tuning.Trial("center", {}, rate) for rate in rates))
    monkeypatch.setattr(
        tuning, "varied", lambda rate: [tuning.Trial("center", {"weight": 0.1}, {"epochs": 1, "learning_rate": rate})]
    )
    here, there = at(tmp_path / "here"), at(tmp_path / "there")
    rows, pids = tuning.tune(here), list[int]()
    assert [(row["part"], row["own"]) for row in rows] == [("search", {})] * 2 + [("sensitivity", {"weight": 0.1})]
    ahead = Ahead(there, Local(1, started=pids.append), "cpu")
    ahead.tune()
    assert len(pids) == 2  # the sensitivity's settings wait for the search
    assert tuning.read(there) == rows
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    (there.home / tuning.FILE).unlink()
    ahead.tune()
    assert tuning.read(there) == rows
    assert len(pids) == 2
