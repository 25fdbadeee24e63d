"""The cost of rejection: errors if a rejection below a fraction of eps counts as one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from advbench import metrics
from advbench.metrics import Mask


@dataclass(frozen=True)
class Cost:
    """Of n images, `errors` are wrong and undetected within eps, or rejected within alpha * eps.

    rejected   of all n, how many are rejected within alpha * eps
    """

    alpha: float
    errors: int
    rejected: int
    n: int

    @property
    def rate(self) -> float:
        """The share of errors."""
        return self.errors / self.n


def costs(lost: Mask, rejected: Mapping[float, Mask], eps: float) -> list[Cost]:
    """The curve over alpha, a point for each radius (Chen et al. 2023, arXiv:2305.01139).

    lost [n]: misclassified and undetected within eps. rejected: by radius of at most eps, whether an image [n] was
    made to be rejected within it; radius 0 = the clean images. An image rejected within a radius is within every
    larger one, so that the curve never falls. Both are found by attacks: the curve is a lower bound.
    """
    ever = np.zeros_like(lost)
    curve = []
    for radius in sorted(rejected):
        ever = ever | rejected[radius]
        curve.append(Cost(radius / eps, int((lost | ever).sum()), int(ever.sum()), len(lost)))
    return curve


def interval(cost: Cost) -> metrics.Interval:
    """Wilson's, with the threshold taken as it is."""
    found = metrics.wilson(cost.errors, cost.n)
    assert found is not None
    return found
