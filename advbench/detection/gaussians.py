"""Class means and variances of training features, summed in float64, for the Gaussian detectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.errors import BadData, BadSetting

ROWS = 1024  # at a time in float64: small enough for a cache, so that no float64 copy of the features is ever made


def check_finite(features: Tensor, sums: Tensor) -> None:
    """Raise BadData where `features` [n d] are not all finite, as `sums` over them show without another pass."""
    if sums.isfinite().all():
        return
    bad = sum(int((~rows.isfinite()).any(dim=1).sum()) for rows in torch.split(features, ROWS))
    raise BadData(
        f"the features of {bad} of {len(features)} training images are not finite, and no detector can be fitted "
        "to them; leave these images out, or mend the model"
    )


@dataclass(frozen=True)
class ClassMeans:
    """Samples of each class [k] and their mean features [k d], float64; zeros for a class without samples."""

    counts: Tensor
    means: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> ClassMeans:
        """Of features [n d] and int64 labels [n]; raises BadData where a feature is not finite."""
        totals = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        for rows, own in zip(torch.split(features, ROWS), torch.split(labels, ROWS), strict=True):
            totals.index_add_(0, own, rows.double())
        check_finite(features, totals)
        counts = torch.bincount(labels, minlength=classes)
        return cls(counts, totals / counts.clamp(min=1)[:, None])

    @property
    def present(self) -> Tensor:
        """Bool [k]: the classes that have samples."""
        return self.counts > 0

    def residuals(self, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """`x - mu_z` float64 [b d] with the labels [b], block by block."""
        for rows, own in zip(torch.split(features, ROWS), torch.split(labels, ROWS), strict=True):
            yield rows.double().sub_(self.means[own]), own


@dataclass(frozen=True)
class DiagonalGaussians:
    """A normal density with a diagonal covariance for each class: counts [k], means and variances [k d], float64."""

    counts: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int, ridge: float) -> DiagonalGaussians:
        """Maximum likelihood plus `ridge` times `unit`; a class of fewer than two samples takes the tied variance."""
        classes_of = ClassMeans.of(features, labels, classes)
        squares = torch.zeros_like(classes_of.means)
        for rows, own in classes_of.residuals(features, labels):
            squares.index_add_(0, own, rows.square_())
        tied = squares.sum(dim=0) / len(features)
        counts = classes_of.counts[:, None]
        variances = torch.where(counts > 1, squares / counts.clamp(min=1), tied)
        return cls(classes_of.counts, classes_of.means, variances + ridge * unit(tied))

    @property
    def log_peaks(self) -> Tensor:
        """The log of each density at its mean [k], in nats: `-sum log(2 pi var) / 2`; -inf without samples."""
        peaks = -(2 * torch.pi * self.variances).log().sum(dim=1) / 2
        return peaks.masked_fill(self.counts == 0, -torch.inf)


def unit(variances: Tensor) -> Tensor:
    """The mean of the tied (within-class) variances [d], scalar: what a ridge is a multiple of.

    So that a ridge does not depend on the scale of the features, and gives a feature that never varies (a dead ReLU)
    a variance too. Raises BadSetting where no feature varies within any class.
    """
    mean = variances.mean()
    if not mean > 0:
        raise BadSetting(
            "the training features do not vary within any class, and no Gaussian fits them; take a detector of the "
            "logits (energy, max-logit), or a training part with at least two different images in some class"
        )
    return mean
