"""The free energy of the logits: little evidence for any class is suspicious."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.detection import Detector, FittedDetector, FittedOn
from advbench.losses import Head
from advbench.types import Outputs


@dataclass(frozen=True)
class Energy(Detector, FittedDetector):
    """Liu et al. 2020 (arXiv:2010.03759). For L-GM's logits: minus the mixture's log-density, up to a constant."""

    fitted_on: ClassVar[FittedOn] = "nothing"

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedDetector:  # noqa: ARG002
        """Nothing to remember: the logits say it all."""
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`E(x) = -log sum_k exp s_k` [n], temperature 1."""
        return -outputs.logits.double().logsumexp(dim=1)
