"""The grid's work as cells that an engine performs; records and answers are kept as soon as they can be."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from advbench.grid.cells import Cell, cells_of, on_device
from advbench.grid.engine import Engine, go_through
from advbench.reproduce import cells, security, tuning
from advbench.reproduce.cells import DETECTORS
from advbench.reproduce.grid import Grid
from advbench.reproduce.page import write_rows
from advbench.reproduce.probes import Probe


@dataclass(frozen=True)
class Ahead:
    """A grid and who works on it; trainings are computed on `device`, published figures on the CPU."""

    grid: Grid
    engine: Engine
    device: str

    def tune(self) -> None:
        """Train the trials that are missing, a part of them at a time, and make their rows."""

        def train(trials: Sequence[tuning.Trial]) -> None:
            firsts = [cells_of(tuning.study_of(self.grid, trial))[0] for trial in trials]
            self._go([on_device(first, self.device) for first in firsts], lambda cell: None)

        tuning.tune(self.grid, train)

    def train(self, models: Sequence[cells.Cell]) -> None:
        """Train those that have neither weights nor a record, and round their weights.

        One that is attacked nowhere gets its record at once, so that a stop in the middle loses none.
        """
        grid = self.grid
        wanted: dict[Cell, cells.Cell] = {}
        for model in models:
            if not grid.weights(model).exists() and not grid.record_file(model).exists():
                first, *_ = cells_of(grid.study(model, "training"))
                wanted[on_device(first, self.device)] = model

        def done(cell: Cell) -> None:
            model = wanted[cell]
            if model.attacks():
                grid.train(model)
            else:
                self._finish(model)

        self._go(wanted, done)

    def evaluate(self, models: Sequence[cells.Cell]) -> None:
        """Attack those that have weights; each gets its record when its last attack is done."""
        grid = self.grid
        wanted: dict[Cell, cells.Cell] = {}
        for model in models:
            if grid.weights(model).exists():
                attacks = model.attacks()
                found = cells_of(grid.study(model, "evaluated", attacks), DETECTORS if attacks else ())
                wanted |= dict.fromkeys(found if attacks else found[:1], model)
        left = Counter(wanted.values())

        def done(cell: Cell) -> None:
            model = wanted[cell]
            left[model] -= 1
            if not left[model]:
                self._finish(model)

        self._go(wanted, done)

    def ask(self, names: list[str] | None) -> None:
        """Answer the probes that are open, each as soon as its attack is done."""
        grid = self.grid
        wanted: dict[Cell, Probe | None] = {}
        for probe in security.wanted(grid, names):
            ready, attack = cells_of(grid.study(probe.cell, "security", [probe.entry]))
            wanted.setdefault(ready, None)
            wanted[attack] = probe

        def done(cell: Cell) -> None:
            probe = wanted[cell]
            if probe is not None:
                security.keep(grid, probe)
                write_rows(grid)

        self._go(wanted, done)

    def _finish(self, model: cells.Cell) -> None:
        self.grid.finish(model)
        write_rows(self.grid)

    def _go(self, wanted: Iterable[Cell], done: Callable[[Cell], None]) -> None:
        if found := list(wanted):
            go_through(found, self.engine, self.grid.place.progress, on_done=done)
