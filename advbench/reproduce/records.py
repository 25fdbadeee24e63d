"""Records of a model as JSON files: what it contributes to the page's figures, and what its detectors were asked."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from scipy.stats import t as student_t

from advbench import metrics
from advbench.errors import BadRun
from advbench.report.likelihood_axis import LOW, SURE, LikelihoodAxis
from advbench.runs import Run, artifacts, json_records as js, shapes, to_json, write_whole
from advbench.runs.manifest import Environment, Epoch, TrainedRecord
from advbench.runs.rows import AdaptiveRow, AttackRow, VerifyRow
from advbench.study.selection import attack_rows

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class PaperModel:
    """One training of an experiment, by the keys of its loss and of its recipe."""

    loss: shapes.Label
    dim: shapes.Positive
    seed: shapes.Count
    recipe: shapes.Label | None = None  # None: the data set's own

    @property
    def name(self) -> str:
        """Such as `lgm1.0-100d-seed0`: the stem of its files."""
        return "-".join([*([self.recipe] if self.recipe else []), self.loss, f"{self.dim}d", f"seed{self.seed}"])


@dataclass(frozen=True)
class Weights:
    """The file of weights that a record speaks of."""

    file: shapes.Text
    sha256: shapes.Sha
    bytes: shapes.Positive
    released: bool  # kept with the page


@dataclass(frozen=True)
class Shares:
    """Shares of clean and attacked images with a likelihood under 0.2 (`low`) and with a p_max over 0.98 (`sure`)."""

    attack: shapes.Name
    eps: shapes.Eps
    settings: shapes.Settings
    n: shapes.Positive
    low_clean: shapes.Rate
    low_attacked: shapes.Rate
    sure_clean: shapes.Rate
    sure_attacked: shapes.Rate
    rounded_eer: shapes.Rate | None = None  # of the likelihoods themselves in float32; None: older than the key


R = TypeVar("R", AttackRow, VerifyRow, Shares)


@dataclass(frozen=True)
class OfModel:
    """A record that is named after its model."""

    cell: PaperModel


@dataclass(frozen=True)
class DivergedRecord(OfModel):
    """A model whose training diverged: `diverged/<model>.json`."""

    model: TrainedRecord
    epoch: shapes.Positive
    environment: Environment


@dataclass(frozen=True)
class Record(OfModel):
    """What a model contributes: `cells/<model>.json`."""

    weights: Weights
    model: TrainedRecord
    history: tuple[Epoch, ...]
    seconds: shapes.Seconds  # of training
    environment: Environment
    n: shapes.Positive  # test images
    wrong: tuple[shapes.Count, ...]  # the clean ones that are misclassified
    within_variance: shapes.Number  # see `within_variance`
    attacks: tuple[AttackRow, ...]
    verify: tuple[VerifyRow, ...]  # populations `all` and, in newer records, `successful`
    shares: tuple[Shares, ...]
    resampled: tuple[shapes.Rate, ...] | None = None  # EERs, by resample, of an attack on a model in an `Order`

    @property
    def clean_error(self) -> float:
        """Of the test images, the share misclassified."""
        return len(self.wrong) / self.n


@dataclass(frozen=True)
class Asked:
    """What a detector was asked: an attack at one eps on the first n test images."""

    attack: shapes.Name
    settings: shapes.Settings  # those that are not the default
    eps: shapes.Eps
    n: shapes.Positive
    detector: shapes.Name  # the guard's
    fpr: shapes.Rate | None  # of its threshold; None: no detector


@dataclass(frozen=True)
class Curve:
    """Share of the images lost within so many `MARKS` (gradients; queries of a gradient-free attack)."""

    within: tuple[shapes.Count, ...]
    share: tuple[shapes.Rate, ...]


@dataclass(frozen=True)
class Answer:
    """What an attack did to a guarded model; lost, rejected, clean_rejected: a digit an image, see `figures.mask`."""

    part: shapes.Name
    asked: Asked
    settings: shapes.Settings  # all of the attack's
    row: AttackRow | AdaptiveRow
    seconds: shapes.Seconds
    threshold: shapes.Number | None
    lost: str  # misclassified and accepted
    rejected: str
    clean_rejected: str
    spent: Mapping[shapes.Name, shapes.Number] | None = None  # mean numbers of gradients and forwards an image
    found: Curve | None = None
    eight_bit: Mapping[shapes.Name, shapes.Rate | None] | None = None  # rates of the same images rounded to 255ths


@dataclass(frozen=True)
class SecurityRecord(OfModel):
    """The answers about a model's detectors: `security/<model>.json`."""

    weights: Weights
    environment: Environment
    rows: tuple[Answer, ...]


@dataclass(frozen=True)
class Trial:
    """A short training of a loss."""

    loss: shapes.Label
    own: shapes.Settings  # the loss's that are not the default
    training: shapes.Settings  # beside the recipe's


@dataclass(frozen=True)
class TrialRow:
    """What came of a trial, on validation images alone."""

    part: Literal["search", "sensitivity"]
    trial: Trial = field(metadata=js.FLAT)
    validation_error: shapes.Rate
    n_validation: shapes.Positive
    attacks: tuple[shapes.Settings, ...]  # attack, eps, clip, n, error_rate, and the EER of each detector by its name


@dataclass(frozen=True)
class Trials:
    """`tuning.json`."""

    rows: tuple[TrialRow, ...]


@dataclass(frozen=True)
class More:
    """What a row has beside its figures: nothing."""


@dataclass(frozen=True)
class Counted(More):
    """Shares of images that make an attack look weaker than it is."""

    zero_gradients: float | None
    saturated: float | None


@dataclass(frozen=True)
class Aware(More):
    """What tells a question about a guarded model from others; None where it says nothing."""

    what: str
    attack: str | None
    budget: object  # text
    detector: str | None
    fpr: float | None
    eps: float | None
    within: int | None = field(default_factory=lambda: None)  # gradients or queries


@dataclass(frozen=True)
class ReproductionRow:
    """A figure of the page: rates are fractions; without seeds it has not run, and its figures are None."""

    table: str
    loss: str
    setting: str
    seeds: tuple[int, ...]  # that ran
    mean: float | None
    std: float | None  # n - 1; of one seed None
    low: float | None  # 95 %, over images: of one seed its own, of several the mean of theirs
    high: float | None
    n: int | None  # images
    paper: float | None
    paper_std: float | None = None
    diverged: tuple[int, ...] | None = None  # seeds whose training did
    more: More = field(default=More(), metadata=js.FLAT)

    @property
    def gap(self) -> float | None:
        """What it has more than the paper prints."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper

    @property
    def over_seeds(self) -> tuple[float, float] | None:
        """The 95 % interval (Student's t) of the mean over training seeds; None of fewer than three."""
        if self.mean is None or self.std is None or (n := len(self.seeds)) < 3:
            return None
        reach = float(student_t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)
        return self.mean - reach, self.mean + reach


def read(kind: type[T], path: Path) -> T:
    """The record in a file; raises BadRun, with the key that is wrong, where it is none of this kind."""
    try:
        found = js.parsed(path.read_bytes())
        if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA}")
        record = js.from_json(kind, found, "record")
        if isinstance(record, OfModel) and record.cell.name != path.stem:
            raise ValueError(f"cell is {record.cell.name}")
    except (OSError, ValueError) as error:
        raise BadRun(f"{path} cannot be read as a record ({error}); restore or delete it") from error
    return record


def write(path: Path, record: object) -> None:
    """The record as a file that `read` reads."""
    write_whole(path, to_json({"schema": SCHEMA, **js.as_json(record)}))


def of_attack(rows: Iterable[R], attack: str, eps: float, settings: Mapping[str, Any]) -> R | None:
    """The first of these rows that is of this attack, `settings` those that are not the default."""
    same = (r for r in rows if r.attack == attack and abs(r.eps - eps) < 1e-9 and r.settings == settings)
    return next(same, None)


def record_of(
    model: PaperModel, run: Run, verify: Sequence[VerifyRow], weights: Weights, compared: str | None = None
) -> Record:
    """The record of an evaluated run; `verify` are its verify rows, `compared` names the attack to resample."""
    test = artifacts.read_part(run, "test")
    attacks = attack_rows(run)
    scores = artifacts.by_source(artifacts.read_scores(run)) if attacks else {}
    return Record(
        cell=model,
        weights=weights,
        model=run.trained,
        history=tuple(Epoch(**json.loads(line)) for line in run.read("training.jsonl").decode().splitlines()),
        seconds=run.seconds("train"),
        environment=run.environment,
        n=len(test),
        wrong=tuple((test.outputs.predictions != test.labels).nonzero().squeeze(1).tolist()),
        within_variance=within_variance(artifacts.read_part(run, "train")),
        attacks=tuple(attacks.values()),
        verify=tuple(row for row in verify if row.population in ("all", "successful")),
        shares=_shares(run, scores, attacks),
        resampled=None if compared is None else _resampled(scores, compared),
    )


def _resampled(scores: artifacts.Scores, attack: str) -> tuple[float, ...]:
    """EERs of the likelihood by resample, as in the intervals of `verify`: the same images in every run."""
    clean, attacked = (artifacts.scores_of(scores, "likelihood", source) for source in ("test", attack))
    found = metrics.bootstrap(clean, attacked, rng=np.random.default_rng(0)).eers
    return tuple(found.round(6).tolist())


def within_variance(part: artifacts.Part) -> float:
    """Share of the features' variance that lies within classes: 0 = each class one point, 1 = no clusters."""
    x, z = part.outputs.features.double(), part.labels
    means = x.new_zeros(int(z.max()) + 1, x.shape[1]).index_add_(0, z, x) / z.bincount()[:, None]
    within = (x - means[z]).square().sum()
    return float(within / (x - x.mean(dim=0)).square().sum())


def _shares(run: Run, scores: artifacts.Scores, attacks: Mapping[str, AttackRow]) -> tuple[Shares, ...]:
    found = []
    for name, row in attacks.items():
        axis = LikelihoodAxis.of_run(run, scores, name)
        low, low_attacked = (float((side < LOW).mean()) for side in (axis.clean, axis.attacked))
        p_max = [np.exp(-artifacts.scores_of(scores, "max-posterior", s)[: row.n]) for s in ("test", name)]
        sure, sure_attacked = (float((p > SURE).mean()) for p in p_max)
        rounded = (-side.astype(np.float32).astype(float) for side in (axis.clean, axis.attacked))
        about, eer = (row.attack, row.eps, row.settings, row.n), metrics.roc(*rounded).eer
        found.append(Shares(*about, low, low_attacked, sure, sure_attacked, eer))
    return tuple(found)
