"""The records a run keeps, to bytes and back: safetensors for tensors, parquet for tables; never pickle.

model.safetensors             `network.*`, `head.*`
checkpoint-*.safetensors      `network.*`, `head.*`, `optimizer.*`, `rng.*` after an epoch
outputs/<part>.safetensors    features [n d], logits [n k], labels [n], index [n]; for the test part also
                              `examples`, the first images [m c h w], for pictures
attacks/<name>.safetensors    images [n c h w], index, labels, targets (targeted attacks), features, logits,
                              zero_gradients (where counted), saturated, gradients, forwards, first_success [n]; of an
                              ensemble misclassified, member [n]; where only the first m images are kept, `images`
                              and `clean`, what they were before, are [m c h w]
scores.parquet                detector, source, index, label, prediction, score (float64, higher = more suspicious)
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from advbench.device import check_memory
from advbench.errors import BadRun
from advbench.runs.growing.tensor_file import TensorFile, mapped, shapes_of
from advbench.runs.json_records import from_json, parsed
from advbench.runs.manifest import TrainedRecord
from advbench.runs.rows import VerifyRow
from advbench.runs.run import Run, Written
from advbench.runs.shapes import Name, Number, Sha, Text
from advbench.types import Adversarials, ImageSet, Outputs, slices

Threshold = Number | Literal["inf", "-inf"] | None
EXAMPLES = 8
MODEL = "model.safetensors"
SCORES = "scores.parquet"
METRICS = "metrics.json"
PARTS = ("train", "calibration", "test")
FLOAT, WHOLE, YES = torch.float32, torch.int64, torch.bool
COLUMNS = dict.fromkeys(("index", "label", "prediction"), "int64")
COLUMNS |= {"detector": "string", "source": "string", "score": "double"}
Scores = dict[tuple[str, str], pd.DataFrame]  # by detector and source
OPTIONAL = ("targets", "zero_gradients", "gradients", "forwards", "first_success", "misclassified", "member")


@dataclass(frozen=True)
class Part:
    """A clean part as the model sees it: outputs and labels; `examples` its first images (test part only)."""

    outputs: Outputs
    labels: Tensor
    examples: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Safetensors bytes of tensors, moved to the CPU and made contiguous."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(run: Run, name: str) -> dict[str, Tensor]:
    """The tensors of a run's file, to keep; raises BadRun where it is no safetensors."""
    return _tensors(run.checked(name), lambda path: load(path.read_bytes()))


def _tensors(path: Path, read: Callable[[Path], dict[str, Tensor]] = mapped) -> dict[str, Tensor]:
    try:
        return read(path)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:  # KeyError: a type torch does not have
        raise unsound(path, " ".join(str(error).split())) from error


def unsound(path: Path, why: str) -> BadRun:
    """The sentence about a file that is whole and does not hold what it should."""
    return BadRun(f"{path} does not hold what it should: {why}; delete {path.parent} and run again")


def _check(path: Path, tensors: dict[str, Tensor], sizes: dict[str, tuple[torch.dtype, int, int]]) -> None:
    """Raise BadRun where one of these tensors is missing, or of another type, rank or length, or NaN."""
    for name, (kind, rank, n) in sizes.items():
        found = tensors.get(name)
        if found is None:
            raise unsound(path, f"{name} is missing")
        if (found.dtype, found.ndim) != (kind, rank) or len(found) != n or 0 in found.shape[1:]:
            raise unsound(path, f"{name} is {found.dtype} {list(found.shape)}, not {kind} of rank {rank}, length {n}")
        of_row = found[:1].nbytes
        if found.is_floating_point() and any(bool(found[part].isnan().any()) for part in slices(n, of_row)):
            raise unsound(path, f"{name} has NaN")


def _outputs(path: Path, tensors: dict[str, Tensor], first: int) -> Outputs:
    """Features and logits that belong to the labels and the index beside them, images `first` and following."""
    n = len(labels) if (labels := tensors.get("labels")) is not None and labels.ndim else 0
    kinds = {"features": (FLOAT, 2, n), "logits": (FLOAT, 2, n)} | dict.fromkeys(("labels", "index"), (WHOLE, 1, n))
    _check(path, tensors, kinds)
    if n and not 0 <= int(tensors["labels"].min()) <= int(tensors["labels"].max()) < tensors["logits"].shape[1]:
        raise unsound(path, "labels are not those of its classes")
    if not torch.equal(tensors["index"], torch.arange(first, first + n)):
        raise unsound(path, "index is not that of its images")
    return Outputs(tensors["features"], tensors["logits"])


class PartFile:
    """outputs/<part>.safetensors, being written batch by batch."""

    def __init__(self, path: Path, part: ImageSet, *, examples: bool) -> None:
        self._path, self._file = path, TensorFile(path, {})
        self._rows = {"index": torch.arange(len(part)), "labels": part.labels}
        self._rows |= {"examples": part.take(slice(EXAMPLES)).load_all()} if examples else {}

    def take(self, part: slice, outputs: Outputs) -> None:
        """The outputs of images of a slice, the first of them first."""
        tensors = {"features": outputs.features, "logits": outputs.logits}
        if not part.start:
            n = len(self._rows["index"])
            self._file = TensorFile(self._path, shapes_of(tensors, n) | shapes_of(self._rows))
            self._file.begin()
            self._file.put(self._rows)
        self._file.put(tensors, part.start)

    def done(self) -> Written:
        """Whole, to be moved into place."""
        return Written(self._path, self._file.done())


def read_part(run: Run, name: str) -> Part:
    """outputs/<name>.safetensors; raises BadRun where its tensors do not fit together."""
    path = run.checked(f"outputs/{name}.safetensors")
    tensors = _tensors(path)
    outputs = _outputs(path, tensors, 0)
    none = isinstance(run.model, TrainedRecord) and run.model.fitted_to_all and name == "calibration"
    if not len(outputs) and name != "train" and not none:
        raise unsound(path, "it is of no image")
    if name == "test":
        _check(path, tensors, {"examples": (FLOAT, 4, min(EXAMPLES, len(outputs)))})
    return Part(outputs, tensors["labels"], tensors.get("examples"))


def tensors_of(made: Adversarials) -> dict[str, Tensor]:
    """Those of an attack, by their names in attacks/<name>.safetensors."""
    own = {name: getattr(made, name) for name in ("images", "index", "labels", "saturated", *OPTIONAL, "clean")}
    present = {name: tensor for name, tensor in own.items() if tensor is not None}
    return present | {"features": made.outputs.features, "logits": made.outputs.logits}


def attack_of(tensors: dict[str, Tensor], **said: Any) -> Adversarials:
    """The attack of these tensors; `said` is what they do not hold."""
    own: dict[str, Any] = dict.fromkeys(OPTIONAL) | {"clean": None} | tensors
    return Adversarials(outputs=Outputs(own.pop("features"), own.pop("logits")), **own, **said)


def read_adversarials(run: Run, name: str) -> Adversarials:
    """attacks/<name>.safetensors; raises BadRun where its tensors do not fit together, or do not fit its row."""
    path = run.checked(f"attacks/{name}.safetensors")
    made = adversarials_of(path)
    if len(made.labels) != run.attack_row(name).n:
        raise unsound(path, f"it is of {len(made.labels)} images, its row of another number")
    return made


def adversarials_of(path: Path, first: int = 0, **said: Any) -> Adversarials:
    """The attack in this file, on images from the `first` on; `said` is what it does not hold.

    Raises BadRun where tensors do not fit together. Pixels are not looked at.
    """
    tensors = _tensors(path)
    _outputs(path, tensors, first)
    n = len(tensors["labels"])
    kinds = {"zero_gradients": YES, "misclassified": YES}
    own = {k: (kinds.get(k, WHOLE), 1, n) for k in OPTIONAL if k in tensors}
    _check(path, tensors, {"saturated": (YES, 1, n)} | own)
    images = tensors.get("images", torch.empty(0))
    clean = tensors.get("clean", images)
    if (images.dtype, images.ndim, clean.dtype) != (FLOAT, 4, FLOAT) or images.shape != clean.shape:
        raise unsound(path, f"images are {images.dtype} {list(images.shape)}, {clean.dtype} {list(clean.shape)}")
    if len(images) > n or (len(images) < n) != ("clean" in tensors) or 0 in images.shape[1:]:
        raise unsound(path, f"images is {images.dtype} {list(images.shape)}, its labels {n}")
    if "member" in tensors and n and int(tensors["member"].min()) < 0:
        raise unsound(path, "a member is none")
    own_names = ("images", "index", "labels", "saturated", "features", "logits", *OPTIONAL, "clean")
    return attack_of({name: tensors[name] for name in own_names if name in tensors}, **said)


def read_scores(run: Run) -> pd.DataFrame:
    """scores.parquet; raises BadRun where it is none, has other columns, gaps, or more rows than its run can have."""
    path, data = run.folder / SCORES, run.read(SCORES)
    most = 100 * sum(run.attack_row(name).n for name in run.attacks)
    most += 100 * sum(len(read_part(run, part)) for part in ("calibration", "test"))
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        kinds = {field.name: str(field.type).removeprefix("large_") for field in file.schema_arrow}
        if kinds != COLUMNS or file.metadata.num_rows > most:
            raise unsound(path, f"it has {file.metadata.num_rows:,} rows of {', '.join(kinds)}"[:200])
        check_memory(200 * file.metadata.num_rows, path.name, "name fewer attacks: --attack")
        table = file.read().to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise unsound(path, " ".join(str(error).split())[:200]) from error
    if table.isna().to_numpy().any():
        raise unsound(path, "it has gaps")
    return table


def by_source(table: pd.DataFrame) -> Scores:
    """The rows of each detector on `calibration`, `test` or an attack file, in image order."""
    groups = table.groupby(["detector", "source"], sort=False, observed=True)
    return {key: part if part["index"].is_monotonic_increasing else part.sort_values("index") for key, part in groups}


def scores_of(scores: Scores, detector: str, source: str) -> NDArray[np.float64]:
    """Scores of one detector on one source; none where it did not score it."""
    part = scores.get((detector, source))
    values: NDArray[np.float64] = np.empty(0) if part is None else part["score"].to_numpy()
    return values


def within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries `prefix.*`, by what follows the point."""
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


@dataclass(frozen=True, kw_only=True)
class ScoredCell:
    """The verify rows of one attack and one detector, a row for each population."""

    source: Name  # the attack file's name
    detector: Name
    sha256: Sha  # of the attack file that was scored
    rows: tuple[VerifyRow, ...]
    thresholds: Mapping[Text, Threshold]  # by the false-positive rate on calibration images; None: too few
    eer_threshold: Threshold  # at which false positives are as many as false negatives; None: nothing attacked


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What metrics.json holds."""

    schema: Literal[1] = 1
    cells: tuple[ScoredCell, ...]


Cells = dict[tuple[str, str], ScoredCell]  # by attack file and detector


def scored_cells(run: Run) -> Cells:
    """What metrics.json holds; empty where nothing is verified. Raises BadRun where it is none, and Damaged."""
    if not run.has("verify"):
        return {}
    try:
        cells = from_json(Metrics, parsed(run.read(METRICS)), "metrics", model=run.model_row).cells
    except ValueError as error:
        raise unsound(run.folder / METRICS, str(error)) from error
    return {(cell.source, cell.detector): cell for cell in cells}
