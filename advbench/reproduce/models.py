"""An experiment's models: train what is missing, round, evaluate, and keep each one's record as it is finished."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from advbench.data.sources import source
from advbench.device import CPU
from advbench.reproduce.experiment import Entry, Experiment
from advbench.reproduce.records import PaperModel, Record, SecurityRecord, Weights, read, record_of, write
from advbench.runs import Run, released, sha256, write_whole
from advbench.study.selection import Found
from advbench.study.study import LoadedData, Study
from advbench.study.train import ensure_trained
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace


class Reproduction:
    """An experiment at a place: records and weights under the reports folder, all else under the runs folder.

    home   reports/<name>: `cells/<model>.json`, `security/<model>.json`, `weights/<model>.safetensors` of kept ones
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
        """Where the model's record lies, or would, among the `cells`, or that of its detectors, among `security`."""
        return self.home / kind / f"{model.name}.json"

    def weights_of(self, model: PaperModel) -> Weights:
        """What a record says about the weights that it speaks of."""
        file = self.weights(model)
        data = file.read_bytes()
        return Weights(file.name, sha256(data), len(data), self.experiment.kept(model))

    def records(self) -> list[Record]:
        """The records of all finished models."""
        return [read(Record, path) for path in sorted((self.home / "cells").glob("*.json"))]

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
        """The record of the rounded weights, attacked and verified."""
        study = self.study(model, "evaluated", attacks)
        study.attack() if attacks else study.train()
        run = study.opened(study.spec.models()[0])
        found = [Found(run, tuple(choice.file_name for choice in study.attacks))] if attacks else []
        return record_of(model, run, verify_found(found, self.experiment.detectors, self.place.progress), weights)

    def finish(self, model: PaperModel) -> None:
        """Bring a model to its record, training it where it has no weights.

        A record is made anew where the weights beside it are not the ones that it speaks of.
        """
        file, record = self.weights(model), self.file("cells", model)
        if not file.exists():
            if record.exists():
                return
            self.train(model)
        weights = self.weights_of(model)
        found = self.evaluate(model, self.experiment.attacks(model), weights)
        if not record.exists() or read(Record, record).weights != weights:
            write(record, found)

    def evaluated(self) -> dict[PaperModel, Run]:
        """The evaluated runs of finished models that are on this machine; nothing is computed."""
        done = [model for model in self.experiment.models if self.file("cells", model).exists()]
        studies = {model: self.study(model, "evaluated") for model in done}
        found = {model: study.opened(study.spec.models()[0]) for model, study in studies.items()}
        return {model: run for model, run in found.items() if run.steps}
