"""The Mahalanobis distance of the features to the nearest class mean, under one tied covariance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.detection import Detector, FittedDetector
from advbench.detection.gaussians import ClassMeans, unit
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.settings import at_least
from advbench.types import Outputs


@dataclass(frozen=True)
class FittedMahalanobis(FittedDetector):
    """In float64: `(x - centre) @ whitening` has the identity for tied covariance; `means` [k d] are whitened."""

    centre: Tensor
    whitening: Tensor
    means: Tensor

    def score(self, outputs: Outputs) -> Tensor:
        """`min_k (x - mu_k)^T S^-1 (x - mu_k)` [n], at least 0: squared, as in the paper."""
        x = (outputs.features.double() - self.centre) @ self.whitening
        cross = torch.addmm(self.means.square().sum(dim=1), x, self.means.T, alpha=-2)
        return (x.square().sum(dim=1) + cross.amin(dim=1)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Detector):
    """Lee et al. 2018 (arXiv:1807.03888), of the penultimate layer alone, without input preprocessing.

    S is the mean over all samples of `(x - mu_z)(x - mu_z)^T`, plus `ridge` times its mean diagonal element on the
    diagonal, so that fewer samples than features, or dead features, leave it regular. Classes without samples are
    left out.
    """

    # of powers of ten, the likeliest on held-out images under MNIST's released L-GM, and among them under its softmax
    ridge: float = 1e-5

    def __post_init__(self) -> None:
        at_least("mahalanobis: ridge", self.ridge, 0, above=True)

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedMahalanobis:  # noqa: ARG002
        """Class means and tied covariance of the features. Raises BadData and BadSetting as `ClassMeans.of` does."""
        classes = ClassMeans.of(outputs.features, labels, outputs.logits.shape[1])
        covariance = torch.zeros(outputs.features.shape[1], outputs.features.shape[1], dtype=torch.float64)
        for rows, _ in classes.residuals(outputs.features, labels):
            covariance.addmm_(rows.T, rows)
        covariance /= len(labels)
        covariance.diagonal().add_(self.ridge * unit(covariance.diagonal()))
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise BadSetting(
                f"mahalanobis: ridge = {self.ridge:g} leaves the covariance singular; write 1e-5 or more"
            )
        whitening = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False).T
        means = classes.means[classes.present]
        # distances to means near the origin keep the digits that `||x||^2 - 2 x mu + ||mu||^2` would cancel
        centre = means.mean(dim=0)
        return FittedMahalanobis(centre, whitening.contiguous(), (means - centre) @ whitening)
