"""What a file of `experiments/` declares: models, attacks, rows with the paper's figures, tables, questions."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from matplotlib.figure import Figure as Picture

from advbench import catalog
from advbench.detection import DEFAULT_FPR
from advbench.errors import BrokenPlugin, UnknownName
from advbench.reproduce.records import Asked, PaperModel, Record, ReproductionRow, Trial
from advbench.runs import Run
from advbench.study.parsing import parse
from advbench.study.spec import Spec

Entry = dict[str, Any]  # as a spec states a loss or an attack
At = tuple[str, float, Mapping[str, Any]]  # an attack, its eps, and those of its settings that are not the default
LIKELIHOOD = "likelihood"
MARKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # gradients or queries of a curve over them
LARGE = 0.05  # a gap to the paper that asks for an experiment


class Loss(NamedTuple):
    """A loss as the page calls it and as a spec states it."""

    label: str
    entry: str | Entry


@dataclass(frozen=True)
class Recipe:
    """How models are trained; what it leaves out is the data set's and the losses' own.

    label      as the page calls it
    spec       what a study of theirs has beside their losses: network, training
    own        settings of the losses, by loss
    training   further settings of the training, by loss
    """

    label: str = ""
    spec: Entry = field(default_factory=dict)
    own: Mapping[str, Entry] = field(default_factory=dict)
    training: Mapping[str, Entry] = field(default_factory=dict)


class Measured(NamedTuple):
    """A figure of one model, its 95 % interval, and the number of images."""

    value: float
    interval: tuple[float, float] | None
    n: int


class Drawing(NamedTuple):
    """A figure of the page: `key` names its files, `label` says what it shows, below it and to a screen reader."""

    key: str
    label: str
    picture: Picture


Figure = Callable[[Record], Measured | None]


@dataclass(frozen=True)
class Order:
    """A claim: in every seed of a recipe, the likelihood's EERs of 100-D models under an attack rise in this order.

    Every record of the recipe keeps the EERs of images resampled under that attack, the same for all models.
    """

    losses: Sequence[str]
    recipe: str
    attack: At


@dataclass(frozen=True)
class Line:
    """Rows of one setting, a row a loss: the mean over the seeds of what `figure` says of each record.

    what               the setting without its dimension; one that ends in `*` is all that begin so
    figure             by default none: the rows are made elsewhere
    formula            figures, by loss, that need no model
    paper, paper_std   what the paper prints, by loss
    counts             zero_gradients, saturated: shares that are shown beside it
    other              in a table: whose rows stand for those losses of which `table` has none
    label              in a table; "": the setting
    """

    table: str
    what: str = ""
    dim: int = 100
    recipe: str | None = None
    figure: Figure = lambda record: None
    paper: Mapping[str, float] = field(default_factory=dict)
    paper_std: Mapping[str, float] = field(default_factory=dict)
    formula: Mapping[str, float] = field(default_factory=dict)
    counts: Sequence[Figure] = ()
    other: str = ""
    label: str = ""

    @property
    def setting(self) -> str:
        """Such as `100-D, wan2018, FGSM eps 0.3`."""
        return ", ".join(filter(None, (f"{self.dim}-D", self.recipe, self.what)))


Block = tuple[Sequence[str], Sequence[Line]]  # losses, and the lines that each of them has a row of


@dataclass(frozen=True)
class Table:
    """A table of the page, a column a loss; `best` marks the loss whose clean error is the least for sure."""

    key: str
    title: str
    losses: Sequence[str]
    lines: Sequence[Line]
    best: bool = False


class Probe(NamedTuple):
    """What one model is asked: an attack, scored against one guard; a `blind` one does not know it.

    part   what it is for: headline, curve, queries, posterior, thresholds, undefended, noise, rejection, control,
           published
    """

    part: str
    model: PaperModel
    asked: Asked
    blind: bool = False

    @property
    def by(self) -> str:
        """The attack as the page names it, such as `detector-aware (standard, v3)`."""
        chosen = ", ".join(str(v) for k, v in self.asked.settings.items() if k in ("budget", "version"))
        return self.asked.attack + (f" ({chosen})" if chosen else "")

    @property
    def entry(self) -> Entry:
        """The attack as a spec states it."""
        asked = self.asked
        known = {} if self.blind else {"detector": asked.detector, "fpr": asked.fpr}
        return {"name": asked.attack, "eps": asked.eps, "n": asked.n, **asked.settings, **known}


def guard(detector: str = LIKELIHOOD, fpr: float | None = DEFAULT_FPR) -> str:
    """A detector and its threshold in words."""
    return "no detector" if fpr is None else f"{detector} at {100 * fpr:g} % FPR"


class Search(NamedTuple):
    """The search for the common learning rate by validation errors, and trials `varied` at the best, for the tables.

    Nothing is chosen by `attacks`, which are on the first `n` validation images.
    """

    trials: Sequence[Trial]
    varied: Callable[[float], Sequence[Trial]]
    attacks: Sequence[Entry]
    n: int


class Experiment:
    """A paper's experiments on one data set; the class of a file of `experiments/`, which carries the file's name.

    recipes          by name, how its models are trained
    order            a claim about EERs that is tested by pairs
    models, probes   in the order of work: what is trained, and what kept models are asked about their detectors
    guarded          losses whose detectors are asked; `controls`: adversarially trained, which are known to hold
    eer              the line of the guarded losses' EERs, of which the controls get rows too
    eps, epses       of the verdict's sentences
    """

    title: str
    dataset: str
    losses: Mapping[str, Loss]
    models: Sequence[PaperModel]
    tables: Sequence[Table]
    recipes: Mapping[str | None, Recipe] = {None: Recipe()}
    order: Order | None = None
    detectors: Sequence[str] = (LIKELIHOOD, "max-posterior")
    search: Search | None = None
    probes: Sequence[Probe] = ()
    guarded: Sequence[str] = ()
    controls: Sequence[str] = ()
    eer: Line | None = None
    eps = 0.3
    epses: Sequence[float] = ()
    paper = "the paper"
    licence = ""

    @property
    def name(self) -> str:
        """Its file's, with hyphens; of its folders too."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def rows(self) -> Sequence[Block]:
        """The rows of results.json in their order: each table's own, where nothing else is said."""
        return [(table.losses, [line for line in table.lines if line.table == table.key]) for table in self.tables]

    def attacks(self, model: PaperModel) -> Sequence[Entry]:  # noqa: ARG002
        """What a model is attacked with."""
        return ()

    def checked(self, model: PaperModel) -> Sequence[Entry]:
        """The attacks among them that `--check` makes again."""
        return self.attacks(model)

    def kept(self, model: PaperModel) -> bool:
        """Whether a model's weights are kept with the page: those of the attacked ones."""
        return bool(self.attacks(model))

    def drawings(
        self,
        runs: Mapping[PaperModel, Run],  # noqa: ARG002
        rows: Sequence[ReproductionRow],  # noqa: ARG002
    ) -> Iterator[Drawing]:
        """The figures that the evaluated runs at hand, and the rows, can give."""
        return iter(())

    def conclusions(self, rows: Mapping[tuple[str, str, str], ReproductionRow]) -> Iterator[str]:  # noqa: ARG002
        """What the rows carry, a sentence each, the most important first."""
        return iter(())

    def remark(self, row: ReproductionRow) -> str:
        """How a row's figure differs from the paper's, in percentage points; empty where none is printed."""
        gap = row.gap
        return "" if gap is None else f"{100 * gap:+.2f}" + (", a large gap" if abs(gap) > LARGE else "")

    def spec(
        self, model: PaperModel, attacks: Sequence[Entry] = (), own: Entry | None = None, **training: Any
    ) -> Spec:
        """The study of one model alone; `own` beside its loss's settings, `training` beside its recipe's."""
        entry, recipe = self.losses[model.loss].entry, self.recipes[model.recipe]
        loss = ({"name": entry} if isinstance(entry, str) else entry) | recipe.own.get(model.loss, {}) | (own or {})
        table: Entry = {"losses": [loss], "seeds": [model.seed], "feature_dim": model.dim}
        table["training"] = recipe.spec.get("training", {}) | recipe.training.get(model.loss, {}) | training
        table["attacks"] = list(attacks) or [{"name": "fgsm"}]
        return parse({"dataset": self.dataset, "detectors": list(self.detectors), **recipe.spec, **table})

    def chosen(self, names: Sequence[str] | None) -> list[PaperModel]:
        """The models of these names in their order, all where None; raises UnknownName."""
        known = {model.name: model for model in self.models}
        for name in names or ():
            if name not in known:
                raise UnknownName("cell", name, known)
        return [model for name, model in known.items() if names is None or name in names]


def load(name: str) -> Experiment:
    """The experiment of that name; raises UnknownName with those there are, BrokenPlugin with the fault."""
    kind: type[Experiment] = catalog.load("experiment", name)
    beside = vars(sys.modules[kind.__module__]).values()
    own = [v for v in beside if isinstance(v, type) and issubclass(v, Experiment) and v.__module__ == kind.__module__]
    why = None if own == [kind] else f"its file declares {len(own)} experiments; it must be one"
    if why := why or _fault(kind()):
        raise BrokenPlugin("experiment", name, why)
    return kind()


def _fault(found: Experiment) -> str | None:
    """What keeps an experiment from being reproduced; None where nothing does."""
    for key in ("title", "dataset", "losses", "models", "tables"):
        if not getattr(found, key, None):
            return f"it declares no {key}"
    blocks = [(losses, line) for losses, lines in found.rows for line in lines]
    declared = [f"table {table.key!r}" for table in found.tables]
    declared += [f"row {(line.table, loss, line.setting)}" for losses, line in blocks for loss in losses]
    for what in (what for what, n in Counter(declared).items() if n > 1):
        return f"it declares {what} twice"
    used = [(f"row {line.setting!r}", loss) for losses, line in blocks for loss in losses]
    used += [(f"table {table.key!r}", loss) for table in found.tables for loss in table.losses]
    used += [(f"model {model.name}", model.loss) for model in found.models]
    for where, loss in used:
        if loss not in found.losses:
            return f"{where} is of {loss!r}, which is none of its losses"
    for model in found.models:
        if model.recipe not in found.recipes:
            return f"model {model.name} is of recipe {model.recipe!r}, which it does not declare"
    for losses, line in blocks:
        for loss in (line.paper.keys() | line.paper_std.keys()) - set(losses):
            return f"the paper's figure of {loss!r} in table {line.table!r}, {line.setting!r}, is of no row"
    return None
