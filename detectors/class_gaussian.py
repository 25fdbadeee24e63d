"""The likelihood of the features under a diagonal Gaussian of the predicted class, estimated from training data."""

from dataclasses import dataclass

from torch import Tensor

from advbench.detection import Detector, FittedDetector
from advbench.detection.gaussians import DiagonalGaussians
from advbench.losses import Head
from advbench.settings import at_least
from advbench.types import Outputs


@dataclass(frozen=True)
class FittedClassGaussian(FittedDetector):
    """Float64: means and precisions [k d], logs of the densities at the means [k]."""

    means: Tensor
    precisions: Tensor
    log_peaks: Tensor

    def score(self, outputs: Outputs) -> Tensor:
        """`-log N(x; mu_z, diag var_z)` [n] in nats, z the predicted class; +inf where z has no training sample."""
        z = outputs.predictions
        away = outputs.features.double() - self.means[z]
        return (away.square() * self.precisions[z]).sum(dim=1) / 2 - self.log_peaks[z]


@dataclass(frozen=True, kw_only=True)
class ClassGaussian(Detector):
    """The class-conditional Gaussian of Wan et al. 2018 (arXiv:1803.02988), fitted after training to any model.

    Mean and variances of each class are those of its training features, plus `ridge` times the mean within-class
    variance of a feature, so that one that never varies (a dead ReLU) has a density too; a class of one sample
    takes the variances of all classes together.
    """

    # the power of ten with the densest held-out images, MNIST's released softmax and L-GM taken together
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        at_least("class-gaussian: ridge", self.ridge, 0, above=True)

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedClassGaussian:  # noqa: ARG002
        """Means and variances by label. Raises BadData and BadSetting as `DiagonalGaussians.of` does."""
        fitted = DiagonalGaussians.of(outputs.features, labels, outputs.logits.shape[1], self.ridge)
        return FittedClassGaussian(fitted.means, 1 / fitted.variances, fitted.log_peaks)
