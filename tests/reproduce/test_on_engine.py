"""The reproduction's grid on worker processes: the records and answers of one process."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from advbench.errors import FailedCells
from advbench.grid.local import Local
from advbench.grid.queue import Queue
from advbench.progress import Progress
from advbench.reproduce import search, security
from advbench.reproduce.experiment import Entry, Experiment, Loss, Probe, Recipe, Search
from advbench.reproduce.models import Reproduction
from advbench.reproduce.records import Asked, PaperModel, SecurityRecord, Trial, read, write
from advbench.reproduce.rows import answer_to
from advbench.reproduce.run import OnEngine
from advbench.runs.rows import AdaptiveRow
from advbench.study import train
from advbench.study.workspace import Workspace

LGM = PaperModel("lgm", 100, 0)
MODELS = [PaperModel("softmax", 100, 0), LGM]
QUICK = Probe("curve", LGM, Asked("detector-aware", {"budget": "quick"}, 0.3, 6, "likelihood", 0.05))
FGSM = Probe("noise", LGM, Asked("fgsm", {}, 0.3, 20, "likelihood", 0.05), blind=True)
RATES = [{"epochs": 1, "learning_rate": rate} for rate in (0.05, 0.01)]


class Digits(Experiment):
    """Models that are trained in a second."""

    title = "Digits"
    dataset = "digits"
    losses = {name: Loss(name, name) for name in ("softmax", "lgm", "center")}  # noqa: RUF012
    models = (*MODELS, PaperModel("center", 100, 0))
    tables = ()
    recipes = {None: Recipe(spec={"training": {"epochs": 1}})}  # noqa: RUF012
    probes = (FGSM, FGSM._replace(model=MODELS[0]), QUICK)
    search = Search(
        [Trial("center", {}, rate) for rate in RATES],
        lambda best: [Trial("center", {"weight": 0.1}, {"epochs": 1, "learning_rate": best})],
        [{"name": "fgsm", "eps": 0.3}],
        20,
    )
    everywhere = True

    def attacks(self, model: PaperModel) -> Sequence[Entry]:
        """Two on 20 images."""
        attacked = (self.everywhere and model.loss != "center") or model.loss == "softmax"
        return [{"name": "fgsm", "eps": [0.1, 0.3], "n": 20}] if attacked else []


def at(folder: Path) -> Reproduction:
    place = Workspace(runs_dir=folder / "runs", reports_dir=folder / "reports", device=torch.device("cpu"))
    return Reproduction(Digits(), place)


def kept(grid: Reproduction) -> dict[str, Any]:
    """Weights as they are stored; records and answers without seconds and hashes of files that hold seconds."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "weights")}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    found: dict[str, Any] = {
        p.name: {k: v.numpy().tobytes() for k, v in load_file(p).items()} for p in grid.home.rglob("*.safetensors")
    }
    for model in MODELS:
        for file in (grid.file("cells", model), grid.file("security", model)):
            record = timeless(json.loads(file.read_bytes()))
            if "rows" in record:
                record["rows"].sort(key=lambda row: str(row["asked"]))
            found[str(file.relative_to(grid.home))] = record
    return found


def test_workers_leave_the_weights_records_and_answers_of_one_process(tmp_path: Path) -> None:
    here, there = at(tmp_path / "here"), at(tmp_path / "there")
    for model in MODELS:
        here.finish(model)
    security.ask(here, None, lambda: None)
    ahead = OnEngine(there, Local(2), "cpu")
    ahead.train(MODELS)
    ahead.evaluate(MODELS)
    ahead.ask(None)
    assert kept(there) == kept(here)
    assert len(kept(there)) == 6

    before = {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()}
    again = OnEngine(there, Local(1, started=lambda pid: pytest.fail(f"worker {pid} for nothing")), "cpu")
    again.train(MODELS)
    again.ask(None)
    assert {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()} == before

    damaged = [*(there.work / "security").rglob("attacks/*"), *(there.work / "evaluated").rglob("model.safetensors")]
    assert len(damaged) >= 2
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-7])
    for model in MODELS:
        there.file("cells", model).unlink()
        there.file("security", model).unlink(missing_ok=True)
    again.evaluate(MODELS)
    again.ask(None)
    assert kept(there) == kept(here)


def counting(grid: Reproduction, counts: list[int]) -> Local:
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
    OnEngine(grid, counting(grid, trained), "cpu").train(MODELS)
    OnEngine(grid, counting(grid, attacked), "cpu").evaluate(MODELS)
    assert (trained, attacked) == ([0, 0], [0, 0, 0, 1, 1, 1, 1, 2])


def test_a_model_that_is_attacked_nowhere_has_its_record_once_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "everywhere", False)
    grid = at(tmp_path)
    counts: list[int] = []
    OnEngine(grid, counting(grid, counts), "cpu").train(Digits.models)
    assert counts == [0, 1, 2]
    assert {record.cell.loss for record in grid.records()} == {"lgm", "center"}


class Looks:
    """An engine that gives up at the first cell; `devices` are those that its cells were to be computed on."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def work(self, queue: Queue, progress: Progress) -> None:  # noqa: ARG002
        """Look at one cell."""
        cell = queue.take()
        assert cell is not None
        self.devices.append(cell.place.device)
        raise FailedCells("enough was seen", 1)


def test_published_figures_are_computed_on_the_cpu_wherever_trainings_are(tmp_path: Path) -> None:
    grid, engine = at(tmp_path), Looks()
    with pytest.raises(FailedCells, match="enough"):
        OnEngine(grid, engine, "cuda").train(MODELS)
    OnEngine(grid, Local(1), "cpu").train(MODELS)
    with pytest.raises(FailedCells, match="enough"):
        OnEngine(grid, engine, "cuda").evaluate(MODELS)
    with pytest.raises(FailedCells, match="enough"):
        OnEngine(grid, engine, "cuda").ask(None)
    assert engine.devices == ["cuda", "cpu", "cpu"]


def test_trials_are_trained_by_workers_and_make_the_rows_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = at(tmp_path / "here"), at(tmp_path / "there")
    rows, pids = search.tune(here), list[int]()
    assert [(row.part, row.trial.own) for row in rows] == [("search", {})] * 2 + [("sensitivity", {"weight": 0.1})]
    ahead = OnEngine(there, Local(1, started=pids.append), "cpu")
    ahead.tune()
    assert len(pids) == 2  # the sensitivity's settings wait for the search
    assert search.rows_in(there.home / search.FILE) == rows
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    (there.home / search.FILE).unlink()
    ahead.tune()
    assert search.rows_in(there.home / search.FILE) == rows
    assert len(pids) == 2


def test_an_answer_is_kept_at_once_and_asked_for_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = QUICK._replace(asked=replace(QUICK.asked, attack="no-such-attack"))
    monkeypatch.setattr(Digits, "probes", (QUICK, FGSM, unknown))
    book = at(tmp_path)
    book.train(LGM)
    file, seen = book.file("security", LGM), list[int]()
    security.ask(book, None, lambda: seen.append(len(read(SecurityRecord, file).rows)))
    assert seen == [1, 2]
    record = read(SecurityRecord, file)
    one = answer_to(QUICK, record)
    assert one is not None
    assert one.found is not None
    assert isinstance(one.row, AdaptiveRow)
    assert one.row.undetected_error_rate == one.lost.count("1") / 6 == one.found.share[-1]
    assert one.row.clean_rejected == one.clean_rejected.count("1") / 6

    # neither runs nor data are there: whatever is asked for again would fail
    nowhere = replace(book.place, runs_dir=tmp_path / "none", data_dir=Path("nowhere"))
    before = file.read_bytes()
    security.ask(Reproduction(book.experiment, nowhere), None, lambda: pytest.fail("an answer was computed again"))
    assert file.read_bytes() == before

    write(file, replace(record, rows=record.rows[1:]))
    security.ask(book, None, lambda: seen.append(len(read(SecurityRecord, file).rows)))
    assert seen == [1, 2, 2]
    assert answer_to(QUICK, read(SecurityRecord, file)) == one


def test_answers_about_other_weights_or_settings_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "probes", (FGSM,))
    book, seen = at(tmp_path), list[int]()
    book.train(LGM)
    file = book.file("security", LGM)
    security.ask(book, [MODELS[0].name], lambda: pytest.fail("another model was asked"))
    for change in ("weights", "settings"):
        security.ask(book, None, lambda: None)
        record = read(SecurityRecord, file)
        if change == "weights":
            record = replace(record, weights=replace(record.weights, sha256="0" * 64))
        else:
            record = replace(record, rows=(replace(record.rows[0], settings={"clip": False}),))
        write(file, record)
        security.ask(book, None, lambda: seen.append(1))
        record = read(SecurityRecord, file)
        assert record.weights == book.weights_of(LGM)
        assert [row.settings["clip"] for row in record.rows] == [True]
    assert seen == [1, 1]
