"""Released weights: a trained model in one file, rounded to 16 bits, found by its record.

A file is safetensors: `network.*` and `head.*`, floating-point tensors as float16. Its metadata, JSON texts, hold
`model` (the record that a run's digest covers), `info` and `seconds` of the training step, `history` (the lines of
training.jsonl) and `environment`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from advbench.errors import BadRun, FailedCheck
from advbench.runs import artifacts
from advbench.runs.json_records import as_json, from_json, parsed
from advbench.runs.manifest import Environment, ModelRecord, TrainedRecord, TrainingInfo
from advbench.runs.run import Run
from advbench.runs.sealed_json import digest, sha256
from advbench.runs.shapes import Seconds


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is said of released weights."""

    model: TrainedRecord
    info: TrainingInfo
    seconds: Seconds  # of training
    history: str  # the lines of training.jsonl
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class Released(Metadata):
    """A file of released weights: tensors as float32 (integers as they are), and what its metadata says."""

    path: Path
    tensors: Mapping[str, Tensor]


def pack(run: Run) -> bytes:
    """A trained run's weights, rounded; raises FailedCheck where one leaves float16's range."""
    rounded = {}
    for name, tensor in artifacts.unpack(run, artifacts.MODEL).items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        if not torch.isfinite(half).all():
            raise FailedCheck(f"{run.name}: {name} does not fit into 16 bits; release it in another format")
        rounded[name] = half.contiguous()
    said = Metadata(
        model=run.trained,
        info=run.noted(TrainingInfo),
        seconds=run.seconds("train"),
        history=run.read("training.jsonl").decode(),
        environment=run.environment,
    )
    return save(rounded, {key: json.dumps(value, sort_keys=True) for key, value in as_json(said).items()})


def read(path: Path) -> Released:
    """A file of released weights; raises BadRun where it cannot be read as one."""
    try:
        with safe_open(str(path), "pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = from_json(Metadata, {key: parsed(text) for key, text in found.items()}, "metadata")
    except (OSError, SafetensorError, ValueError) as error:
        raise BadRun(
            f"{path} cannot be read as released weights ({type(error).__name__}: {error}); restore the file"
        ) from error
    single = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    return Released(path=path, tensors=single, **vars(said))


def folders(reports_dir: Path, dataset: str) -> list[Path]:
    """Where released weights for a data set may lie: below the reports folder, and in this checkout."""
    checkout = Path(__file__).resolve().parents[2] / "reports"
    return list(dict.fromkeys(root / dataset / "weights" for root in (reports_dir, checkout)))


def find(places: Iterable[Path], model: ModelRecord) -> Released | None:
    """The first file in these folders that was trained as `model` says, to the last setting."""
    every = (read(path) for folder in places for path in sorted(folder.glob("*.safetensors")))
    return next((released for released in every if digest(released.model) == digest(model)), None)


def adopt(run: Run, released: Released) -> None:
    """Make the trained model of `run` the released one."""
    origin = {"file": released.path.name, "sha256": sha256(released.path.read_bytes())}
    run.environment = released.environment
    run.write(
        "train",
        {artifacts.MODEL: artifacts.pack(dict(released.tensors)), "training.jsonl": released.history.encode()},
        seconds=released.seconds,
        info=replace(released.info, released=origin),
    )
