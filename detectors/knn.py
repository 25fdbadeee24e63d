"""The distance of the normalised features to the k-th nearest ones of the training part."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.detection import Detector, FittedDetector
from advbench.detection.gaussians import check_finite
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.settings import at_least
from advbench.types import Outputs

QUERIES, ROWS = 1024, 4096  # compared at a time: 32 MiB of similarities, whatever the sizes


@dataclass(frozen=True)
class FittedKNN(FittedDetector):
    """The training features [m d] themselves, as they are, and their lengths [m]."""

    bank: Tensor
    lengths: Tensor
    k: int

    def score(self, outputs: Outputs) -> Tensor:
        """`||z - z_(k)||` [n], in 0 ... 2, of unit vectors; a feature of length 0 stays the origin."""
        return torch.cat([self._distance(part) for part in torch.split(outputs.features, QUERIES)])

    def _distance(self, features: Tensor) -> Tensor:
        z = F.normalize(features.double())
        # the gradient is that of the distance to the neighbour found, which only moves on where two are equally far
        nearest = self.bank[self._kth_nearest(z.detach())]
        distance: Tensor = torch.linalg.vector_norm(z - F.normalize(nearest.double()), dim=1)
        return distance

    @torch.no_grad()
    def _kth_nearest(self, z: Tensor) -> Tensor:
        """Row in the bank of each one's k-th nearest, int64 [b]: the k-th largest cosine, over blocks of the bank."""
        best, index = z.new_zeros(len(z), 0), torch.zeros(len(z), 0, dtype=torch.long)
        for start in range(0, len(self.bank), ROWS):
            cosines = self._cosines(z, slice(start, start + ROWS))
            found = cosines.topk(min(self.k, cosines.shape[1]), dim=1, sorted=False)
            joined = torch.cat([best, found.values], dim=1)
            best, chosen = joined.topk(min(self.k, joined.shape[1]), dim=1, sorted=False)
            index = torch.cat([index, found.indices + start], dim=1).gather(1, chosen)
        return index.gather(1, best.argmin(dim=1, keepdim=True)).squeeze(1)

    def _cosines(self, z: Tensor, part: slice) -> Tensor:
        """Of unit vectors with a block of the bank; 1/2 for the origin, as near as a unit vector at 60 degrees."""
        cosines = (z @ self.bank[part].double().T).div_(self.lengths[part])
        empty = self.lengths[part] == 0
        return cosines.masked_fill_(empty, 0.5) if empty.any() else cosines


@dataclass(frozen=True, kw_only=True)
class KNN(Detector):
    """Sun et al. 2022 (arXiv:2204.06507), over the whole training part.

    k   how many neighbours are passed over, the last included; the paper's 50 for CIFAR-10
    """

    k: int = 50

    def __post_init__(self) -> None:
        at_least("knn: k", self.k, 1)

    def fit(self, head: Head | None, outputs: Outputs, labels: Tensor) -> FittedKNN:  # noqa: ARG002
        """Keeps the features. Raises BadSetting where there are fewer than k, BadData where one is not finite."""
        bank = outputs.features
        if self.k > len(bank):
            raise BadSetting(f"knn: k = {self.k} neighbours of {len(bank)} training images; take a smaller k")
        lengths = torch.cat([torch.linalg.vector_norm(rows.double(), dim=1) for rows in torch.split(bank, ROWS)])
        check_finite(bank, lengths)
        return FittedKNN(bank, lengths, self.k)
