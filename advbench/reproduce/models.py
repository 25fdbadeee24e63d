"""An experiment's models: train what is missing, round, evaluate, and keep each one's record as it is finished."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from advbench.data.sources import source
from advbench.device import CPU
from advbench.errors import BadRun, Diverged
from advbench.reproduce.experiment import Entry, Experiment
from advbench.reproduce.records import (
    DivergedRecord,
    PaperModel,
    Record,
    SecurityRecord,
    Weights,
    read,
    record_of,
    write,
)
from advbench.runs import Run, TrainedRecord, as_json, released, sha256, write_whole
from advbench.runs.environment import describe
from advbench.study.selection import Found
from advbench.study.study import LoadedData, Study
from advbench.study.train import ensure_trained
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace

R = TypeVar("R", Record, DivergedRecord)


class Reproduction:
    """An experiment at a place: records and weights under the reports folder, all else under the runs folder.

    home   reports/<name>: `cells/<model>.json`, `diverged/`, `security/`, `weights/<model>.safetensors` of kept ones
    work   runs/reproduce-<name>: trainings, rounded weights that are not kept, evaluated runs
    """

    def __init__(self, experiment: Experiment, place: Workspace) -> None:
        self.experiment = experiment
        self.place = place
        self.home = place.reports_dir / experiment.name
        self.work = place.runs_dir / f"reproduce-{experiment.name}"

    @cached_property
    def data(self) -> LoadedData:
        """Loaded once."""
        place = self.place
        splits = source(self.experiment.dataset, None).load(
            place.data_dir, download=place.download, progress=place.progress
        )
        return LoadedData(splits, place.progress)

    def study(self, model: PaperModel, kind: str, attacks: Sequence[Entry] = (), **more: Any) -> Study:
        """The study of one model; its runs of that kind ("training", "evaluated", ...) lie in a folder of their own.

        Trainings use the device at hand; published figures are computed on the CPU. A trial is never released.
        `more` goes to the spec.
        """
        device = CPU if kind in ("evaluated", "security") else self.place.device
        place = replace(self.place, runs_dir=self.work / kind, device=device)
        weights = [] if kind == "tuning" else [self.weights(model).parent]
        return Study(self.experiment.spec(model, attacks, **more), place, weights=weights, data=self.data)

    def weights(self, model: PaperModel) -> Path:
        """Where the model's rounded weights lie, or would."""
        return (self.home if self.experiment.kept(model) else self.work) / "weights" / f"{model.name}.safetensors"

    def file(self, kind: str, model: PaperModel) -> Path:
        """Where a record of the model lies, or would: among `cells`, `diverged`, or (of its detectors) `security`."""
        return self.home / kind / f"{model.name}.json"

    def weights_of(self, model: PaperModel) -> Weights:
        """What a record says about the weights that it speaks of."""
        file = self.weights(model)
        data = file.read_bytes()
        return Weights(file.name, sha256(data), len(data), self.experiment.kept(model))

    def records(self) -> list[Record]:
        """The records of all finished models; raises BadRun for one of a model that was trained otherwise."""
        return self._read(Record, "cells")

    def diverged(self) -> list[DivergedRecord]:
        """The records of models whose training diverged."""
        return self._read(DivergedRecord, "diverged")

    def _read(self, kind: type[R], folder: str) -> list[R]:
        found = []
        for path in sorted((self.home / folder).glob("*.json")):
            record = read(kind, path)
            self._confirm(path, record.cell, record.model)
            found.append(record)
        return found

    def _confirm(self, path: Path, model: PaperModel, trained: TrainedRecord) -> None:
        """Raise BadRun where what a file speaks of is not what this experiment trains as `model`."""
        (declared,) = self.experiment.spec(model).models()
        if why := _difference(as_json(trained), as_json(declared.record(trained.data_sha256))):
            raise BadRun(f"{path} is not of {model.name}: {why}; restore or delete it")

    def answered(self) -> list[SecurityRecord]:
        """The records about detectors."""
        return [read(SecurityRecord, path) for path in sorted((self.home / "security").glob("*.json"))]

    # -- one model -----------------------------------------------------------------------------------------

    def train(self, model: PaperModel) -> None:
        """Train the model and write its rounded weights."""
        study = self.study(model, "training")
        (trained,) = study.spec.models()
        with study.run_of(trained) as run:
            ensure_trained(run, trained, self.data.splits, study.workspace, [])
            write_whole(self.weights(model), released.pack(run))

    def evaluate(self, model: PaperModel, attacks: Sequence[Entry], weights: Weights) -> Record:
        """The record of the rounded weights, attacked and verified; raises BadRun where they are of another model."""
        self._confirm(path := self.weights(model), model, released.read(path).model)
        study, order = self.study(model, "evaluated", attacks), self.experiment.order
        study.attack() if attacks else study.train()
        run = study.opened(study.spec.models()[0])
        found = [Found(run, tuple(choice.file_name for choice in study.attacks))] if attacks else []
        verified = verify_found(found, self.experiment.detectors, self.place.progress)
        asked = order.attack if order is not None and order.recipe == model.recipe else None
        said = {c.file_name: (c.choice.name, c.attack.eps, c.settings) for c in study.attacks if attacks}
        return record_of(model, run, verified, weights, next((file for file in said if said[file] == asked), None))

    def finish(self, model: PaperModel) -> None:
        """Bring a model to its record, training it where it has no weights.

        A record is made anew where the weights beside it are not the ones that it speaks of. A training that diverges
        is a record of its own, and not tried again.
        """
        record = self.file("cells", model)
        if self.is_missing(model):
            try:
                self.train(model)
            except Diverged as error:
                self.place.progress.say(f"{model.name}: {error}")
                made_with, (declared,) = describe(str(self.place.device)), self.experiment.spec(model).models()
                diverged = DivergedRecord(model, declared.record(self.data.fingerprint), error.epoch, made_with)
                write(self.file("diverged", model), diverged)
        if not self.weights(model).exists():
            return
        weights = self.weights_of(model)
        found = self.evaluate(model, self.experiment.attacks(model), weights)
        if not record.exists() or read(Record, record).weights != weights:
            write(record, found)

    def is_missing(self, model: PaperModel) -> bool:
        """Whether a model has still to be trained."""
        kept = self.file("cells", model), self.file("diverged", model), self.weights(model)
        return not any(path.exists() for path in kept)

    def has_diverged(self, model: PaperModel) -> bool:
        """Whether its training came to that on this machine."""
        study = self.study(model, "training")
        return "diverged" in study.opened(study.spec.models()[0]).steps

    def evaluated(self) -> dict[PaperModel, Run]:
        """The evaluated runs of finished models that are on this machine; nothing is computed."""
        done = [model for model in self.experiment.models if self.file("cells", model).exists()]
        studies = {model: self.study(model, "evaluated") for model in done}
        found = {model: study.opened(study.spec.models()[0]) for model, study in studies.items()}
        return {model: run for model, run in found.items() if run.steps}


def _difference(found: Any, wanted: Any, at: str = "") -> str | None:
    """The first thing in which two values of JSON differ, in words."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return None if found == wanted else f"its {at} is {found}, not {wanted}"
    each = (_difference(found.get(key), wanted.get(key), f"{at} {key}".strip()) for key in found | wanted)
    return next(filter(None, each), None)
