"""Base of detectors: fitted on clean outputs, they give each input a suspicion score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from advbench.losses import Head
from advbench.types import Outputs


class FittedDetector(ABC):
    """A detector after `fit`: an immutable record that scores outputs.

    A score about the predicted class takes it from `outputs.predictions`, which `outputs.assumed` replaces; a score
    of the outputs as a whole does not depend on `assumed`.
    """

    @abstractmethod
    def score(self, outputs: Outputs) -> Tensor:
        """Suspicion [n], float64, higher = more suspicious: a negated log-likelihood; +inf is allowed.

        Torch operations only, so that an attack can differentiate it in `outputs`, unless the detector says
        `differentiable = False`.
        """

    def stand_in(self, outputs: Outputs) -> Tensor | None:  # noqa: ARG002
        """A differentiable function [n] whose gradient an attack may take for the score's (BPDA); None = none.

        For a detector that is not differentiable; the score itself stays what is compared with the threshold.
        """
        return None


class Detector(ABC):
    """A detector with its settings: a frozen dataclass."""

    differentiable: ClassVar[bool] = True
    # what it learns from: the training part's outputs, the head of a model trained here, or nothing
    fitted_on: ClassVar[FittedOn] = "outputs"

    @abstractmethod
    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedDetector:
        """A fitted record from the model's head and its outputs and labels on the training part.

        `head` is None for a model that was not trained here, which only a detector fitted on the head refuses.
        """


FittedOn = Literal["outputs", "head", "nothing"]
