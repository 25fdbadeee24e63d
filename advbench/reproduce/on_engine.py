"""A reproduction's work as cells that an engine performs; records and answers are kept as soon as they can be."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from advbench.grid.cells import Cell, cells_of, on_device
from advbench.grid.engine import Engine, go_through
from advbench.reproduce import search, security
from advbench.reproduce.experiment import Probe
from advbench.reproduce.models import Reproduction
from advbench.reproduce.page import write_rows
from advbench.reproduce.records import PaperModel, Trial


@dataclass(frozen=True)
class OnEngine:
    """A reproduction and who works on it; trainings are computed on `device`, published figures on the CPU."""

    book: Reproduction
    engine: Engine
    device: str

    def tune(self) -> None:
        """Train the trials that are missing, a part of them at a time, and make their rows."""

        def train(trials: Sequence[Trial]) -> None:
            firsts = [cells_of(search.study_of(self.book, trial))[0] for trial in trials]
            self._go([on_device(first, self.device) for first in firsts], lambda cell: None)

        search.tune(self.book, train)

    def train(self, models: Sequence[PaperModel]) -> None:
        """Train those that have neither weights nor a record, and round their weights.

        One that is attacked nowhere gets its record at once, so that a stop in the middle loses none.
        """
        book, wanted = self.book, dict[Cell, PaperModel]()
        for model in models:
            if not book.weights(model).exists() and not book.file("cells", model).exists():
                first, *_ = cells_of(book.study(model, "training"))
                wanted[on_device(first, self.device)] = model

        def done(cell: Cell) -> None:
            model = wanted[cell]
            if book.experiment.attacks(model):
                book.train(model)
            else:
                self._finish(model)

        self._go(wanted, done)

    def evaluate(self, models: Sequence[PaperModel]) -> None:
        """Attack those that have weights; each gets its record when its last attack is done."""
        book, wanted = self.book, dict[Cell, PaperModel]()
        for model in models:
            if book.weights(model).exists():
                attacks = book.experiment.attacks(model)
                found = cells_of(
                    book.study(model, "evaluated", attacks), book.experiment.detectors if attacks else ()
                )
                wanted |= dict.fromkeys(found if attacks else found[:1], model)
        left = Counter(wanted.values())

        def done(cell: Cell) -> None:
            model = wanted[cell]
            left[model] -= 1
            if not left[model]:
                self._finish(model)

        self._go(wanted, done)

    def ask(self, names: Sequence[str] | None) -> None:
        """Answer the probes that are open, each as soon as its attack is done."""
        book, wanted = self.book, dict[Cell, Probe | None]()
        for probe in security.wanted(book, names):
            ready, attack = cells_of(book.study(probe.model, "security", [probe.entry]))
            wanted.setdefault(ready, None)
            wanted[attack] = probe

        def done(cell: Cell) -> None:
            probe = wanted[cell]
            if probe is not None:
                security.keep(book, probe)
                write_rows(book)

        self._go(wanted, done)

    def _finish(self, model: PaperModel) -> None:
        self.book.finish(model)
        write_rows(self.book)

    def _go(self, wanted: Iterable[Cell], done: Callable[[Cell], None]) -> None:
        if found := list(wanted):
            go_through(found, self.engine, self.book.place.progress, on_done=done)
