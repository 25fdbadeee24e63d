"""The records a run keeps, to bytes and back: safetensors for tensors, parquet for tables; never pickle.

model.safetensors             `network.*`, `head.*`
checkpoint-*.safetensors      `network.*`, `head.*`, `optimizer.*`, `rng.*` after an epoch
outputs/<part>.safetensors    features [n d], logits [n k], labels [n], index [n]; for the test part also
                              `examples`, the first images [m c h w], for pictures
attacks/<name>.safetensors    images [n c h w], index, labels, targets (targeted attacks), features, logits,
                              zero_gradients (where counted), saturated, gradients, forwards, first_success [n]; of an
                              ensemble misclassified, member [n]
scores.parquet                detector, source, index, label, prediction, score (float64, higher = more suspicious)
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from advbench.runs import Run
from advbench.types import Adversarials, ImageSet, Outputs

EXAMPLES = 8
MODEL = "model.safetensors"
SCORES = "scores.parquet"
PARTS = ("train", "calibration", "test")
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
    """The tensors of a run's file, its hash checked."""
    return load(run.read(name))


def pack_part(outputs: Outputs, part: ImageSet, *, examples: bool) -> bytes:
    """Bytes of outputs/<part>.safetensors."""
    tensors = {
        "features": outputs.features,
        "logits": outputs.logits,
        "labels": part.labels,
        "index": torch.arange(len(part)),
    }
    return pack(tensors | ({"examples": part.take(slice(EXAMPLES)).images} if examples else {}))


def read_part(run: Run, name: str) -> Part:
    """outputs/<name>.safetensors."""
    tensors = unpack(run, f"outputs/{name}.safetensors")
    return Part(Outputs(tensors["features"], tensors["logits"]), tensors["labels"], tensors.get("examples"))


def pack_adversarials(made: Adversarials) -> bytes:
    """Bytes of attacks/<name>.safetensors."""
    tensors = {
        "images": made.images,
        "index": made.index,
        "labels": made.labels,
        "features": made.outputs.features,
        "logits": made.outputs.logits,
        "saturated": made.saturated,
    }
    optional = {k: getattr(made, k) for k in OPTIONAL}
    return pack(tensors | {k: v for k, v in optional.items() if v is not None})


def read_adversarials(run: Run, name: str) -> Adversarials:
    """attacks/<name>.safetensors."""
    return adversarials_of(run.read(f"attacks/{name}.safetensors"))


def adversarials_of(data: bytes) -> Adversarials:
    """What `pack_adversarials` made these bytes of."""
    tensors = load(data)
    optional: dict[str, Any] = {k: tensors.get(k) for k in OPTIONAL}
    return Adversarials(
        images=tensors["images"],
        index=tensors["index"],
        labels=tensors["labels"],
        outputs=Outputs(tensors["features"], tensors["logits"]),
        saturated=tensors["saturated"],
        **optional,
    )


def pack_table(table: pd.DataFrame) -> bytes:
    """Parquet bytes."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def read_scores(run: Run) -> pd.DataFrame:
    """scores.parquet."""
    return pd.read_parquet(io.BytesIO(run.read(SCORES)))


def scores_of(table: pd.DataFrame, detector: str, source: str) -> NDArray[np.float64]:
    """Scores of one detector on `calibration`, `test` or an attack file, in image order."""
    chosen = table[(table.detector == detector) & (table.source == source)]
    values: NDArray[np.float64] = chosen.sort_values("index")["score"].to_numpy()
    return values
