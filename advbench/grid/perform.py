"""Execute one cell in this process. All engines call this."""

import json
from dataclasses import replace
from pathlib import Path

from advbench.errors import Damaged
from advbench.grid.cells import SCORED, Cell
from advbench.progress import Progress
from advbench.study.parsing import parse
from advbench.study.spec import Spec
from advbench.study.study import READY, LoadedData, Study
from advbench.study.train import TrainedModel
from advbench.study.verify import verify


class Performer:
    """Performs cells in this process, one after the other; keeps the data and the last model for the next cell."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._data: dict[str, LoadedData] = {}
        self._last: tuple[object, Study] | None = None

    def perform(self, cell: Cell) -> bool:
        """Do a cell; False where it was done before.

        Raises what a study does, BadRun too where another process has its run. Where a file of the
        model is found damaged, the model is made again first.
        """
        spec = parse(cell.table)
        study = self._study(spec, cell)
        (model,) = study.trained
        try:
            return self._perform(study, spec, model, cell)
        except Damaged:  # found while others may be at work on the run
            with study.run_of(model.model) as run:
                study.perform(run, model, None)
            return self._perform(study, spec, model, cell)

    def _perform(self, study: Study, spec: Spec, model: TrainedModel, cell: Cell) -> bool:
        # a model is made alone, attacks on it side by side
        with study.run_of(model.model, None if cell.step == READY else cell.step) as run:
            made = not cell.done_in(run)
            if cell.step == SCORED:
                verify(run, [choice.file_name for choice in spec.attacks], spec.detectors, self.progress)
            else:
                study.perform(run, model, None if cell.step == READY else spec.attacks[0])
        return made

    def _study(self, spec: Spec, cell: Cell) -> Study:
        key = spec.models(), spec.dataset, cell.place
        if self._last is None or self._last[0] != key:
            place = cell.place.workspace(self.progress)
            data = json.dumps([spec.dataset, spec.image_size, cell.place.data_dir])
            # an attack's own checks were made where the cell came from
            blank, weights = replace(spec, attacks=(), detectors=()), [Path(f) for f in cell.place.weights]
            study = Study(blank, place, weights=weights, data=self._data.get(data))
            self._data[data] = study.data
            self._last = key, study
        return self._last[1]
