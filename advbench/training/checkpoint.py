"""A training checkpoint: the epochs so far, and all tensors the next one depends on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Epoch:
    """One row of training.jsonl: epochs count from 1, loss is the mean training loss in nats.

    Loss and accuracy are those on the images trained on, attacked ones in adversarial training; the validation error
    is on clean images.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_error: float
    learning_rate: float
    seconds: float

    def row(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """All that the next epoch depends on: model, optimiser and random state as tensors, and the rows so far."""

    tensors: Mapping[str, Tensor]
    epochs: tuple[Epoch, ...]
