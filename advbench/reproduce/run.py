"""What `advbench reproduce NAME` does: bring an experiment on, or check it against its kept weights."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advbench.errors import BadSetting, FailedCells
from advbench.grid.cells import Cell, cells_of, on_device
from advbench.grid.queue import Engine, go_through
from advbench.reproduce import search, security
from advbench.reproduce.experiment import Experiment, Probe
from advbench.reproduce.figures import verified
from advbench.reproduce.models import Reproduction
from advbench.reproduce.page import write_page, write_rows
from advbench.reproduce.records import PaperModel, Record, ReproductionRow, Trial, of_attack, read
from advbench.study.workspace import Workspace

NEAR = 2.01  # images by which a figure that is derived again may differ; 0.01 is for rounding
SATURATED = 0.01  # and of those with a posterior of exactly 1, whose float32 gradient hangs on the processor


@dataclass(frozen=True)
class OnEngine:
    """A reproduction and who works on it; trainings are computed on `device`, published figures on the CPU.

    Records and answers are kept as soon as they can be.
    """

    book: Reproduction
    engine: Engine
    device: str

    def tune(self) -> None:
        """Train the trials that are missing, a part of them at a time, and make their rows."""
        search.tune(self.book, lambda trials: self._go(map(self._training, trials), lambda cell: None))

    def train(self, models: Sequence[PaperModel]) -> None:
        """Train those that have neither weights nor a record, and round their weights.

        One that is attacked nowhere gets its record at once, so that a stop in the middle loses none; so does one
        whose training diverged. Raises FailedCells for what else could not be trained.
        """
        book = self.book
        wanted = {self._training(model): model for model in models if book.is_missing(model)}

        def done(cell: Cell) -> None:
            model = wanted[cell]
            if book.experiment.attacks(model):
                book.train(model)
            else:
                _finish(book, model)

        try:
            self._go(wanted, done)
        except FailedCells:
            for model in filter(book.is_missing, wanted.values()):
                if not book.has_diverged(model):
                    raise
                _finish(book, model)

    def evaluate(self, models: Sequence[PaperModel]) -> None:
        """Attack those that have weights; each gets its record when its last attack is done."""
        book, wanted = self.book, dict[Cell, PaperModel]()
        for model in models:
            if book.weights(model).exists():
                attacks = book.experiment.attacks(model)
                detectors = book.experiment.detectors if attacks else ()
                found = cells_of(book.study(model, "evaluated", attacks), detectors)
                wanted |= dict.fromkeys(found if attacks else found[:1], model)
        left = Counter(wanted.values())

        def done(cell: Cell) -> None:
            left[wanted[cell]] -= 1
            if not left[wanted[cell]]:
                _finish(book, wanted[cell])

        self._go(wanted, done)

    def ask(self, names: Sequence[str] | None) -> None:
        """Answer the probes that are open, each as soon as its attack is done."""
        book, wanted = self.book, dict[Cell, Probe | None]()
        for probe in security.wanted(book, names):
            ready, attack = cells_of(book.study(probe.model, "security", [probe.entry]))
            wanted.setdefault(ready, None)
            wanted[attack] = probe

        def done(cell: Cell) -> None:
            if (probe := wanted[cell]) is not None:
                security.keep(book, probe)
                write_rows(book)

        self._go(wanted, done)

    def _training(self, of: PaperModel | Trial) -> Cell:
        book = self.book
        study = search.study_of(book, of) if isinstance(of, Trial) else book.study(of, "training")
        return on_device(cells_of(study)[0], self.device)

    def _go(self, wanted: Iterable[Cell], done: Callable[[Cell], None]) -> None:
        if found := list(wanted):
            go_through(found, self.engine, self.book.place.progress, on_done=done)


def _finish(book: Reproduction, model: PaperModel) -> None:
    book.finish(model)
    write_rows(book)


def complete(
    experiment: Experiment,
    place: Workspace,
    names: Sequence[str] | None,
    *,
    train: bool,
    cells: bool = True,
    engine: Engine | None = None,
    device: str = "cpu",
) -> tuple[Path, list[ReproductionRow]]:
    """Every model of these names finished and probed, its rows written as soon as they are, then the page.

    Returns the page's path and rows. Without `train`, models that have no weights stay as they are, and trials that
    are missing stay so. Without `cells`, only the attacks that know a detector are run, on what has weights. An
    `engine` trains (on `device`) and attacks; without one, this process does.
    """
    book = Reproduction(experiment, place)
    tunes = train and cells and names is None
    models = experiment.chosen(names) if cells else []
    if engine is not None:
        ahead = OnEngine(book, engine, device)
        if tunes:
            ahead.tune()
        ahead.train(models if train else [])
        ahead.evaluate(models)
        ahead.ask(names)
    else:
        if tunes:
            search.tune(book)
        for model in models:
            if train or book.weights(model).exists():
                place.progress.say(f"cell {model.name}")
                _finish(book, model)
        security.ask(book, names, lambda: write_rows(book))
    page = write_page(book, book.evaluated())
    return page, write_rows(book)


@dataclass(frozen=True)
class CheckRow:
    """A figure derived again beside the committed one."""

    cell: str
    figure: str
    committed: float
    found: float
    tolerance: float
    met: bool  # the two differ by no more than it


def check(experiment: Experiment, place: Workspace, names: Sequence[str] | None) -> list[CheckRow]:
    """What `checked` attacks give, derived again from kept weights in a temporary folder, beside the committed."""
    committed = Reproduction(experiment, place)
    models = [
        model
        for model in experiment.chosen(names)
        if experiment.checked(model) and committed.weights(model).exists() and committed.file("cells", model).exists()
    ]
    if not models:
        raise BadSetting(
            f"nothing to check: {committed.home} holds no weights with a record; name another --reports-dir"
        )
    rows = []
    with tempfile.TemporaryDirectory(prefix="advbench-check-") as folder:
        again = Reproduction(experiment, replace(place, runs_dir=Path(folder)))
        again.data = committed.data
        for model in models:
            place.progress.say(f"cell {model.name}")
            found = again.evaluate(model, experiment.checked(model), again.weights_of(model))
            rows += compare(read(Record, committed.file("cells", model)), found)
    return rows


def compare(committed: Record, found: Record) -> list[CheckRow]:
    """Error counts and EERs derived again beside the committed: within two images and 1 % of the saturated ones."""

    def beside(figure: str, old: float, new: float, tolerance: float) -> CheckRow:
        return CheckRow(found.cell.name, figure, old, new, tolerance, abs(new - old) <= tolerance)

    rows, eers = [beside("wrong clean images", len(committed.wrong), len(found.wrong), NEAR)], []
    for row in found.attacks:
        at = row.attack, row.eps, row.settings
        if (old := of_attack(committed.attacks, *at)) is not None:
            near, name = NEAR + SATURATED * old.saturated, f"{row.attack} eps {row.eps:g}"
            rows.append(beside(f"wrong under {name}", old.error_rate * old.n, row.error_rate * row.n, near))
            for detector in dict.fromkeys(one.detector for one in found.verify):
                before, after = (verified(at, detector)(record) for record in (committed, found))
                if before is not None and after is not None:
                    eers.append(beside(f"EER of {detector}, {name}", before.value, after.value, near / after.n))
    return rows + eers
