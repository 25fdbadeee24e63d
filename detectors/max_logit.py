"""The logit of the predicted class: little evidence for it is suspicious."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advbench.contracts import Detector, FittedDetector, FittedOn
from advbench.losses import Head
from advbench.types import Outputs


@dataclass(frozen=True)
class FittedMaxLogit(FittedDetector):
    """Nothing to remember: the logits say it all."""

    def score(self, outputs: Outputs) -> Tensor:
        """`-max_k s_k` [n]; of the class assumed where there is one."""
        if outputs.assumed is None:
            return -outputs.logits.amax(dim=1).double()
        return -outputs.logits.gather(1, outputs.assumed[:, None]).squeeze(1).double()


@dataclass(frozen=True)
class MaxLogit(Detector):
    """Hendrycks et al. 2022 (arXiv:1911.11132)."""

    fitted_on: ClassVar[FittedOn] = "nothing"

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedMaxLogit:  # noqa: ARG002
        """Nothing is fitted."""
        return FittedMaxLogit()
