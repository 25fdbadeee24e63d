"""What ART ascends or descends, as modules over a model's last output; sums over the batch.

Sums, not means: a mean would divide each image's gradient by the batch it happens to share.
Labels may be class indices [b] or one-hot rows [b k], the form in which ART hands them on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.losses import Head


def class_index(labels: Tensor) -> Tensor:
    """Class indices [b] from indices or one-hot rows."""
    return (labels.argmax(dim=1) if labels.ndim == 2 else labels).long()


class CrossEntropy(nn.Module):
    """Cross-entropy of logits [b k] in their own precision."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the batch."""
        return F.cross_entropy(logits, class_index(labels), reduction="sum")


class ExactCrossEntropy(nn.Module):
    """Cross-entropy in float64, with each image's logit gradient divided by its `1 - p_z`.

    The division leaves the gradient's direction and keeps it from vanishing: in float32 `1 - p_z` is exactly 0
    once the winning logit leads by about 17. Made for attacks that use only the gradient's sign or direction.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum over the batch, float64."""
        labels, exact = class_index(labels), logits.double()
        others = exact.scatter(1, labels[:, None], -torch.inf)
        # d CE / d logits = (1 - p_z) (q - e_z), q = the posterior over the other classes; of this it is q - e_z
        behind = others.logsumexp(dim=1) - exact.gather(1, labels[:, None]).squeeze(1)
        return (F.softplus(behind).detach() + (behind - behind.detach())).sum()


class FullLoss(nn.Module):
    """Cross-entropy + regularizer of a head, without margin, over features [b d]; `exact`: computed in float64."""

    def __init__(self, head: Head, *, exact: bool = False) -> None:
        super().__init__()
        self.head, self.exact = head, exact

    def extra_repr(self) -> str:
        """Tells two of them apart."""
        return f"exact={self.exact}"

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Sum over the batch."""
        labels = class_index(labels)
        x = features.double() if self.exact else features
        cross_entropy = F.cross_entropy(self.head(x), labels, reduction="sum")
        return cross_entropy + self.head.regularizer(x, labels).sum()
