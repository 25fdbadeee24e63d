"""A training checkpoint: the epochs so far, and all tensors the next one depends on."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from advbench.runs import Epoch


@dataclass(frozen=True)
class Checkpoint:
    """All that the next epoch depends on: model, optimiser and random state as tensors, and the rows so far."""

    tensors: Mapping[str, Tensor]
    epochs: tuple[Epoch, ...]
