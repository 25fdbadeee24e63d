"""The posterior of the predicted class: an unsure model is suspicious."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advbench.detection import Detector, FittedDetector, FittedOn
from advbench.losses import Head
from advbench.types import Outputs


@dataclass(frozen=True)
class MaxPosterior(Detector, FittedDetector):
    """`p_max = max_k p(k|x)` (Hendrycks and Gimpel 2017; Wan et al. 2018, sec. 4.3 and Fig. 3)."""

    fitted_on: ClassVar[FittedOn] = "nothing"

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedDetector:  # noqa: ARG002
        """Nothing to remember: the logits say it all."""
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`-log max_k p(k|x)` [n]: the largest posterior, whichever class has it, so that `assumed` changes nothing.

        As log(1 + sum of the other odds), which still ranks posteriors that differ from 1 by less than a
        float64 can hold.
        """
        logits = outputs.logits.double()
        top, predicted = logits.max(dim=1, keepdim=True)
        others = (logits - top).scatter(1, predicted, -torch.inf)
        return torch.log1p(others.exp().sum(dim=1))
