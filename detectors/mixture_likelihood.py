"""The likelihood of the features under the mixture of the classes' diagonal Gaussians, whatever is predicted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.detection import Detector, FittedDetector
from advbench.detection.gaussians import DiagonalGaussians
from advbench.losses import Head
from advbench.settings import at_least
from advbench.types import Outputs


@dataclass(frozen=True)
class FittedMixtureLikelihood(FittedDetector):
    """Float64: `log p(k) N(x; mu_k, var_k) = constant_k + y . linear_k - y^2 . precision_k / 2`, `y = x - centre`."""

    centre: Tensor
    constant: Tensor
    linear: Tensor
    precision: Tensor

    def score(self, outputs: Outputs) -> Tensor:
        """`-log p(x) = -log sum_k p(k) N(x; mu_k, diag var_k)` [n] in nats."""
        y = outputs.features.double() - self.centre
        joint = torch.addmm(self.constant, y, self.linear.T).addmm(y.square(), self.precision.T, alpha=-0.5)
        return -joint.logsumexp(dim=1)


@dataclass(frozen=True, kw_only=True)
class MixtureLikelihood(Detector):
    """The Gaussian mixture of Wan et al. 2018 (arXiv:1803.02988), fitted after training to any model.

    p(k) is the share of class k in the training part. `ridge` and classes of one sample: as in `class-gaussian`.
    """

    # the power of ten with the densest held-out images, MNIST's released softmax and L-GM taken together
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        at_least("mixture-likelihood: ridge", self.ridge, 0, above=True)

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedMixtureLikelihood:  # noqa: ARG002
        """Priors, means and variances by label. Raises BadData and BadSetting as `DiagonalGaussians.of` does."""
        fitted = DiagonalGaussians.of(outputs.features, labels, outputs.logits.shape[1], self.ridge)
        share = fitted.counts.double() / len(labels)
        # a centre amid the means keeps the digits that the expanded square would cancel
        centre = share @ fitted.means
        mu, precision = fitted.means - centre, 1 / fitted.variances
        constant = share.log() + fitted.log_peaks - (mu.square() * precision).sum(dim=1) / 2
        return FittedMixtureLikelihood(centre, constant, mu * precision, precision)
