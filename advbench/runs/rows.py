"""Rows: what the commands print of a model, an attack and a detector."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from advbench import catalog
from advbench.errors import AdvbenchError
from advbench.formatting import as_text
from advbench.runs.json_records import ABSENT, FLAT, Absent, from_json
from advbench.runs.shapes import Count, Eps, Label, Name, Number, Positive, Rate, Settings, Text, choice
from advbench.settings import defaults

Regime = Annotated[str, choice("standard", "adversarial")]
Identity = tuple[str, frozenset[tuple[str, Any]], tuple[str, float]]  # attack, settings, ball
Population = Annotated[str, choice("all", "successful", "failed")]


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """Which model a row is about; of a supplied one, the fields of a training are None."""

    dataset: Label  # its label
    loss: Name | None  # catalog name
    alpha: Number | None  # margin, of a loss that has one
    lam: Number | None  # weight of L-GM's likelihood term
    covariance: Text | None  # of L-GM: identity or diagonal
    seed: Count | None  # of initialisation and order
    training: Regime | None
    test_part: Text | Absent | None = ABSENT  # of a supplied model: how it got its test images; None: not recorded
    run: Text  # the run folder's name


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Which attack on which model a row is about."""

    model: ModelRow = field(metadata=FLAT)
    attack: Name  # catalog name
    settings: Settings  # those that are not the default; of an adaptive attack its detector and fpr too
    norm: Literal["linf", "l2"]  # that bounds the perturbation
    eps: Eps  # its radius, pixel units of [0, 1]

    @property
    def is_adaptive(self) -> bool:
        """Whether the attack knows a detector, or that there is none."""
        return "detector" in self.settings

    @property
    def ball(self) -> tuple[str, float]:
        """Norm and eps."""
        return self.norm, self.eps

    @property
    def described(self) -> str:
        """The attack, its eps and settings in words."""
        return ", ".join([f"{self.attack} eps {as_text(self.eps)}", *(f"{k} {v}" for k, v in self.settings.items())])

    @property
    def identity(self) -> Identity:
        """The same of all rows about this attack at this eps, on whatever images."""
        return self.attack, frozenset(self.settings.items()), self.ball

    def is_attack_of(self, other: "Attacked") -> bool:
        """Whether both are about one attack at one eps, on whatever images."""
        return self.identity == other.identity

    def setting(self, key: str) -> Any:
        """A setting, its default where it is not named; None where it, or the attack, is not known."""
        return self.settings[key] if key in self.settings else _usual(self.attack).get(key)

    @property
    def own_settings(self) -> dict[str, Any]:
        """Its settings without what an adaptive attack is aimed at."""
        return {key: value for key, value in self.settings.items() if key not in ("detector", "fpr")}


@cache
def _usual(attack: str) -> dict[str, Any]:
    with suppress(AdvbenchError):
        return defaults(catalog.load("attack", attack))
    return {}


@dataclass(frozen=True, kw_only=True)
class AttackRow(Attacked):
    """One attack on one model."""

    n: Positive  # the first n test images
    clean_error_rate: Rate  # misclassified before the attack, of all n
    error_rate: Rate  # misclassified after it; of an ensemble, by one of its members
    success_rate: Rate | None  # of the clean-correct images, label now wrong
    target_rate: Rate | None  # of the clean-correct images, target reached; None: no targets
    zero_gradients: Count | None  # images whose loss gradient is all zero; None: not counted
    saturated: Count  # images whose true-class posterior is exactly 1 in float32
    implementation: Text | Absent | None = ABSENT  # the library that made it; None: this one
    eight_bit_error_rate: Rate | None = None  # misclassified once rounded to k / 255


@dataclass(frozen=True, kw_only=True)
class AdaptiveRow(AttackRow):
    """One attack that knows the detector (or that there is none: `none`) on one guarded model; rates are of all n."""

    detector: Name  # that it knows
    fpr: Rate | None  # false-positive rate of its threshold; None: no detector
    threshold: Number | None  # scores above it are rejected
    undetected_error_rate: Rate  # misclassified and accepted
    undetected_error_low: Rate  # 95 % interval, calibration and test images resampled
    undetected_error_high: Rate
    rejected_rate: Rate  # attacked images rejected
    clean_rejected: Rate  # the same images rejected before the attack
    fgsm_undetected_error_rate: Rate | None  # FGSM's at the same eps; None: another norm
    members: Mapping[Name, Rate] = field(default_factory=dict)  # of an ensemble: share that each lost first
    eight_bit_undetected_error_rate: Rate | None = None  # the same rate once rounded to k / 255

    @property
    def clean_lost(self) -> float:
        """Share of images that an ensemble lost as they are: the unperturbed image is a member."""
        return self.members["clean"]


@dataclass(frozen=True, kw_only=True)
class VerifyRow(Attacked):
    """One detector on one population of one attack."""

    detector: Name
    population: Population  # of the attacked images
    n_clean: Positive  # clean images
    n_attacked: Count  # attacked images in the population
    n_nonfinite: Count  # scores of either that are not finite
    eer: Rate | None  # equal error rate; None where the population is empty, as what follows
    eer_low: Rate | None  # 95 % interval, images resampled in pairs
    eer_high: Rate | None
    auroc: Rate | None
    auroc_low: Rate | None
    auroc_high: Rate | None
    tpr_at_fpr01: Rate | None  # attacked images above the threshold of 1 % of the calibration images
    tpr_at_fpr05: Rate | None
    tpr_at_fpr10: Rate | None
    fpr05_realised: Rate | None  # clean images above the threshold of 5 %


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One trained model."""

    model: ModelRow = field(metadata=FLAT)
    network: Name  # catalog name
    feature_dim: Positive
    epochs: Positive
    n_train: Positive  # images trained on
    validation_error_rate: Rate
    n: Positive  # test images
    clean_error_rate: Rate  # misclassified, of all n
    seconds: float  # of training


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run."""

    model: ModelRow = field(metadata=FLAT)
    trained: bool
    attacks: Sequence[str]  # the file names of the done ones, sorted by attack and eps


@dataclass(frozen=True)
class Fault:
    """A file, and what is wrong with it: missing, truncated, altered, or what a manifest lacks."""

    file: str
    why: str


@dataclass(frozen=True, kw_only=True)
class DoctorRow:
    """What of a run is whole."""

    run: str  # the folder, from `runs_dir`
    # unfinished: the next call goes on; empty: nothing was done; broken: what reads it refuses, what made it makes it
    # again; skipped: it lies under another name; unread: the system does not let a file be read, which `needs` says
    # of both, and nothing is mended; in use: by another process, not examined
    state: Literal["whole", "unfinished", "empty", "broken", "skipped", "unread", "in use"]
    steps: Sequence[str] = ()  # those that the manifest lists and whose files are whole
    broken: Sequence[Fault] = ()
    redone: Sequence[str] = ()  # what the next call of what made it would make again
    needs: Sequence[str] = ()  # plug-ins that are missing, broken or changed, and the parts that need them
    left: Sequence[str] = ()  # files that nothing goes on from: temporary ones, stale checkpoints, unlisted ones
    mended: bool = False  # broken steps were forgotten and leftovers deleted


def read_attack_row(value: Any, at: str, **known: object) -> AttackRow:
    """The row that `as_json` made this of: an AdaptiveRow where its settings name a detector. Raises ValueError."""
    settings = value.get("settings") if isinstance(value, dict) else None
    adaptive = isinstance(settings, dict) and "detector" in settings
    return from_json(AdaptiveRow if adaptive else AttackRow, value, at, **known)
