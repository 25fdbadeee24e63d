"""What a run's manifest holds: the model, what it was made with, and the steps done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from advbench.errors import Diagnostic
from advbench.runs import shapes
from advbench.runs.json_records import from_json
from advbench.runs.rows import ModelRow, Regime, read_attack_row
from advbench.runs.shapes import Count, Key, Label, Long, Name, Number, Positive, Rate, Seconds, Settings, Sha, Text

FILE = shapes.named(
    r"model\.safetensors|training\.jsonl|scores\.parquet|metrics\.json|checkpoint-\d+\.safetensors"
    r"|(?:outputs|attacks)/[\w+-][\w.+-]*\.safetensors",
    "a file that advbench writes into a run",
)
INSPECTED = "door"  # the step of a supplied model's inspection, which comes from no weights trained here
LOSS = shapes.Rule("a table with a name", lambda v: isinstance(v, dict) and shapes.NAME.holds(v.get("name")))
ATTACK_STEP = "attack "  # begins the name of an attack's step, which ends in its file's name


@dataclass(frozen=True, kw_only=True)
class TrainedRecord:
    """A model trained here: what determines its weights."""

    dataset: Label
    data_sha256: Sha  # of the data themselves
    network: Name  # catalog name
    feature_dim: Positive
    loss: Annotated[Settings, LOSS]  # its `name`, and its own settings
    regime: Regime
    training: Settings
    seed: Count
    adversarial: Settings | None = None  # the attack trained on
    image_size: Positive | None = None  # that an image folder's pictures were brought to

    @property
    def loss_name(self) -> str:
        """The loss's catalog name."""
        return str(self.loss["name"])

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The loss's own settings."""
        return {k: v for k, v in self.loss.items() if k != "name"}

    @property
    def fitted_to_all(self) -> bool:
        """Whether it was trained on the images, too, that fix thresholds."""
        return bool(self.training.get("all_parts"))


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells a supplied model from others, without a path beyond a file's name."""

    source: Long  # `m.py:build`, `package.module:build`, `timm:NAME` or `archive.pt2`
    code_sha256: Sha | None  # of the code file's bytes, not of what it imports
    state_sha256: Sha  # of the names, shapes, dtypes and bytes of the state dict
    weights: Long | None = None  # the file's name
    features: Long | None = None  # the layer that was named
    mean: tuple[Number, ...] | Text | None = None  # the model is given (image - mean) / std
    std: tuple[Number, ...] | Text | None = None
    tapped: Long | None = None  # the layer that the features are taken from
    variant: Annotated[int, shapes.whole(2)] | None = None  # counts models of equal weights and other outputs


@dataclass(frozen=True, kw_only=True)
class SuppliedRecord:
    """A model that was not trained here."""

    dataset: Label
    data_sha256: Sha
    supplied: Identity
    image_size: Positive | None = None


ModelRecord = TrainedRecord | SuppliedRecord


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run was made with; no host, user or path."""

    versions: Mapping[Key, Text]  # of Python and of packages
    commit: Text | None  # of the checkout; None outside of one
    dirty: bool | None  # whether it had uncommitted changes
    device: Text
    system: Text


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file as it was written."""

    sha256: Sha
    bytes: Count  # its size


@dataclass(frozen=True, kw_only=True)
class Step:
    """A done step."""

    seconds: Seconds | None  # that it took
    info: Mapping[Key, Any]  # what it noted about itself: one of the records below, of an attack `row`
    files: Mapping[Annotated[str, FILE], FileRecord]


@dataclass(frozen=True, kw_only=True)
class TrainingInfo:
    """What the step `train` notes."""

    loss: Number | None = None  # mean training loss of the last epoch, nats
    validation_error: Rate
    n_train: Positive  # images
    arithmetic: Text | None = None  # precision that it was computed in
    released: Mapping[Key, Text] | None = None  # `file` and `sha256` of the weights it was adopted from


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of training.jsonl."""

    epoch: Positive  # counted from 1
    loss: Number  # mean in nats, on the images trained on: attacked ones in adversarial training
    accuracy: Rate  # on the same
    validation_error: Rate  # on clean images
    learning_rate: Seconds  # at its end
    seconds: Seconds


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What the step `checkpoint` notes."""

    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, kw_only=True)
class DivergedInfo:
    """What the step `diverged` notes: the loss stopped being finite."""

    epoch: Positive


@dataclass(frozen=True, kw_only=True)
class OutputsInfo:
    """What the step `outputs` notes."""

    excluded: Mapping[Key, Count] = field(default_factory=dict)  # files left out of the data set, by the reason
    classes: tuple[Long, ...] | None = None  # their names; None: numbers


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What the inspection of a supplied model notes."""

    findings: tuple[Diagnostic, ...] = ()
    gradients: bool = True  # whether they were looked at
    test_part: Text | None = None  # how the test images came; None: older than the key
    slopes: tuple[Number, ...] | None = None  # of the model at a few test images


INFOS: dict[str, type] = {"train": TrainingInfo, "checkpoint": CheckpointInfo, "outputs": OutputsInfo}
INFOS |= {INSPECTED: Inspection, "diverged": DivergedInfo}


def read_model(value: Any) -> ModelRecord:
    """The model of a manifest; raises ValueError."""
    supplied = isinstance(value, dict) and "supplied" in value
    return from_json(SuppliedRecord, value, "model") if supplied else from_json(TrainedRecord, value, "model")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json holds."""

    schema: Literal[1] = 1
    name: str  # the folder's
    model: Any  # a ModelRecord, of whose JSON the name's digest is taken
    environment: Environment
    steps: Mapping[Key, Step]  # the done ones, in the order they were done
    digest: str | None = None  # sha256 of all the rest


def model_row(run: str, model: ModelRecord, inspection: Inspection) -> ModelRow:
    """The fields of a run's rows that say which model they are about."""
    if isinstance(model, SuppliedRecord):
        return ModelRow(
            dataset=model.dataset, loss=None, alpha=None, lam=None, covariance=None, seed=None, training=None,
            test_part=inspection.test_part, run=run,
        )  # fmt: skip
    of_loss = {key: model.loss.get(key) for key in ("alpha", "lam", "covariance")}
    return ModelRow(
        dataset=model.dataset, loss=model.loss_name, seed=model.seed, training=model.regime, run=run, **of_loss
    )


def check_step(name: str, step: Step, model: ModelRow) -> None:
    """Raise ValueError where a step of a run whose rows are about `model` is not what one of its name holds."""
    kind, _, attack = name.partition(" ")
    if kind == "attack":
        read_attack_row(step.info.get("row"), f"{name}: row", model=model)
        if set(step.files) != {f"attacks/{attack}.safetensors"}:
            raise ValueError(f"{name} has other files than its own")
    elif name in INFOS:
        from_json(INFOS[name], step.info, f"{name}: info")
    if kind == "train" and "model.safetensors" not in step.files:
        raise ValueError(f"{name} lists no model.safetensors")
    if kind == "checkpoint" and len(step.files) != 1:
        raise ValueError(f"{name} lists {len(step.files)} files")
    if kind in ("train", "outputs", "attack") and step.seconds is None:
        raise ValueError(f"{name}: seconds is missing")
