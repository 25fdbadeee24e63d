"""The logit of the predicted class: little evidence for it is suspicious."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Detector, FittedDetector, FittedOn
from advbench.losses import Head
from advbench.types import Outputs, of_class


@dataclass(frozen=True)
class MaxLogit(Detector, FittedDetector):
    """Hendrycks et al. 2022 (arXiv:1911.11132)."""

    fitted_on: ClassVar[FittedOn] = "nothing"

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedDetector:  # noqa: ARG002
        """Nothing to remember: the logits say it all."""
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`-s_z` [n], z the predicted class, whose logit is the largest unless another class is assumed."""
        return -of_class(outputs.logits, outputs.predictions)
