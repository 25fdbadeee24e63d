"""Work through the grid: train what is missing, round, evaluate, and keep each cell's record as it is finished."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from advbench import catalog, runs
from advbench.device import CPU
from advbench.reproduce import records
from advbench.reproduce.cells import DETECTORS, Cell, Entry, chosen
from advbench.reproduce.records import Record
from advbench.runs import Run, VerifyRow, released, sha256, to_json, write_whole
from advbench.study.selection import Found
from advbench.study.study import LoadedData, Study
from advbench.study.train import ensure_trained
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace
from advbench.types import Splits

NAME = "reproduce-mnist"


class Grid:
    """The benchmark at a place: records and weights under the reports folder, everything else under the runs folder.

    home   reports/mnist: `cells/<cell>.json`, `weights/<cell>.safetensors` of the attacked models
    work   runs/reproduce-mnist: trainings, rounded weights that are not released, evaluated runs
    """

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.home = place.reports_dir / "mnist"
        self.work = place.runs_dir / NAME

    @cached_property
    def splits(self) -> Splits:
        """MNIST, loaded once."""
        splits: Splits = catalog.load("data set", "mnist")().load(self.place.data_dir, download=self.place.download)
        return splits

    def study(self, cell: Cell, kind: str, attacks: list[Entry] | None = None, **training: Any) -> Study:
        """The study of one cell; its runs of that kind ("training", "evaluated", ...) lie in a folder of their own.

        Trainings use the device at hand; published figures are computed on the CPU.
        """
        place = replace(self.place, runs_dir=self.work / kind)
        if kind in ("evaluated", "security"):
            place = replace(place, device=CPU)
        data = LoadedData(self.splits, self.place.progress)
        return Study(cell.spec(training, attacks), place, weights=[self.weights(cell).parent], data=data)

    def weights(self, cell: Cell) -> Path:
        """Where the cell's rounded weights lie, or would."""
        return (self.home if cell.attacked else self.work) / "weights" / f"{cell.name}.safetensors"

    def record_file(self, cell: Cell) -> Path:
        """Where the cell's record lies, or would."""
        return self.home / "cells" / f"{cell.name}.json"

    def security_file(self, cell: Cell) -> Path:
        """Where the record of the attacks that know a detector lies, or would."""
        return self.home / "security" / f"{cell.name}.json"

    def weights_of(self, cell: Cell) -> dict[str, Any]:
        """What a record says about the weights that it speaks of."""
        file = self.weights(cell)
        data = file.read_bytes()
        return {"file": file.name, "sha256": sha256(data), "bytes": len(data), "released": cell.attacked}

    def security(self) -> dict[str, Record]:
        """The security records there are, by loss (all of 100-D models of seed 0)."""
        found = [records.read(path) for path in sorted((self.home / "security").glob("*.json"))]
        return {record["cell"]["loss"]: record for record in found}

    def records(self) -> list[Record]:
        """The records of all finished cells."""
        return [records.read(path) for path in sorted((self.home / "cells").glob("*.json"))]

    # -- one cell ------------------------------------------------------------------------------------------

    def train(self, cell: Cell) -> None:
        """Train the cell's model and write its rounded weights."""
        study = self.study(cell, "training")
        (model,) = study.spec.models()
        with study.run_of(model) as run:
            ensure_trained(run, model, self.splits, study.workspace, [])
            write_whole(self.weights(cell), released.pack(run))

    def evaluate(self, cell: Cell, attacks: list[Entry]) -> tuple[Run, list[VerifyRow]]:
        """The run of the cell's rounded weights, attacked and verified, and its verify rows."""
        study = self.study(cell, "evaluated", attacks)
        study.attack() if attacks else study.train()
        (model,) = study.spec.models()
        run = runs.load(study.workspace.runs_dir / model.run_name(study.fingerprint))
        if not attacks:
            return run, []
        names = tuple(choice.file_name for choice in study.attacks)
        return run, verify_found([Found(run, names)], DETECTORS, self.place.progress)

    def finish(self, cell: Cell) -> Run | None:
        """Bring a cell to its record, training it where it has no weights; None where only its record is here.

        A record is made anew where the weights beside it are not the ones that it speaks of.
        """
        file, record = self.weights(cell), self.record_file(cell)
        if not file.exists():
            if record.exists():
                return None
            self.train(cell)
        weights = self.weights_of(cell)
        run, verify = self.evaluate(cell, cell.attacks())
        if not record.exists() or records.read(record)["weights"] != weights:
            write_whole(record, to_json(records.record_of(cell, run, verify, weights)))
        return run

    def evaluated(self) -> dict[str, Run]:
        """The evaluated runs of finished cells that are on this machine, by cell; nothing is computed."""
        found = {}
        for cell in chosen(None):
            if not self.record_file(cell).exists():
                continue
            study = self.study(cell, "evaluated")
            (model,) = study.spec.models()
            folder = study.workspace.runs_dir / model.run_name(study.fingerprint)
            if (folder / runs.MANIFEST).exists():
                found[cell.name] = runs.load(folder)
        return found


def compare(committed: Sequence[Record], found: Sequence[Record]) -> list[dict[str, Any]]:
    """Error counts and EERs derived again beside the committed ones: a row for each figure of both.

    `met`: errors within 5 images, EERs within 0.1 percentage points.
    """
    rows = []
    old = {r["cell"]["loss"] + str(r["cell"]["seed"]): r for r in committed if r["cell"]["dim"] == 100}
    for new in found:
        before = old[new["cell"]["loss"] + str(new["cell"]["seed"])]
        name = Cell(**new["cell"]).name
        rows.append(_beside(name, "wrong clean images", len(before["wrong"]), len(new["wrong"]), 5))
        for row in new["attacks"]:
            match = _same(before["attacks"], row, ("attack", "settings", "eps"))
            what = f"wrong under {row['attack']} eps {row['eps']:g}"
            rows.append(_beside(name, what, match["error_rate"] * match["n"], row["error_rate"] * row["n"], 5))
        for row in new["verify"]:
            match = _same(before["verify"], row, ("attack", "settings", "eps", "detector"))
            what = f"EER of {row['detector']}, {row['attack']} eps {row['eps']:g}"
            rows.append(_beside(name, what, match["eer"], row["eer"], 0.001))
    return rows


def _same(rows: Sequence[dict[str, Any]], row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return next(r for r in rows if all(r[k] == row[k] for k in keys))


def _beside(cell: str, figure: str, committed: float, found: float, tolerance: float) -> dict[str, Any]:
    return {
        "cell": cell,
        "figure": figure,
        "committed": committed,
        "found": found,
        "tolerance": tolerance,
        "met": abs(found - committed) <= tolerance,
    }
