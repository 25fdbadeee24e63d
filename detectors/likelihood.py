"""The likelihood that a loss's own parameters give a feature of the predicted class."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Detector, FittedDetector, FittedOn
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.types import Outputs


@dataclass(frozen=True)
class FittedLikelihood(FittedDetector):
    """A frozen float64 copy of the model's head."""

    head: Head

    def score(self, outputs: Outputs) -> Tensor:
        """`-log l(x | predicted class)` [n], in nats but for the affinity of the softmax losses."""
        return -self.head.log_likelihood(outputs.features.double(), outputs.predictions)


@dataclass(frozen=True)
class Likelihood(Detector):
    """Wan et al. 2018, sec. 4.3: low likelihood to the learned training feature distribution = suspicious.

    L-GM: `-||x - mu||^2 / 2` (identity) or `-d - log|L| / 2` (diagonal) of the predicted class; center:
    likewise with its centres; softmax: the affinity `w^T x + b`. Nothing is estimated from data.
    """

    fitted_on: ClassVar[FittedOn] = "head"

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedLikelihood:  # noqa: ARG002
        """Copies the head; outputs and labels are not used. Raises BadSetting where there is no head."""
        if head is None:
            raise BadSetting(
                "detector likelihood is that of the loss a model was trained with, unknown of a supplied model; "
                "take class-gaussian or mahalanobis"
            )
        return FittedLikelihood(copy.deepcopy(head).double().requires_grad_(False).eval())
