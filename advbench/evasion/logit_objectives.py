"""Objectives on the logits: cross-entropy, margin, DLR, raw logits; untargeted or towards a target.

Each takes logits [b k] and int64 [b] labels (or targets) and gives float64 [b], larger = nearer to success. All
are taken on evaluation logits, which never carry a training margin, and none saturates: the gradient in the logits
stays of order 1 however far the true class leads.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from advbench.errors import BadSetting
from advbench.types import margin, of_class, without_class

ObjectiveName = Literal["ce", "margin", "dlr", "logits"]


def targeted_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """`s_t - max_{k != t} s_k`: positive = classified as the target."""
    return -margin(logits, targets)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """`log((1 - p_z) / p_z)`: cross-entropy `CE = log(1 + e^v)` on the scale where it does not saturate.

    CE grows with v and its gradient is v's times `1 - p_z`, so that the two have the same order and direction.
    """
    return without_class(logits, labels).logsumexp(dim=1) - of_class(logits, labels)


def targeted_log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """`log(p_t / (1 - p_t))`: targeted cross-entropy on the scale where it does not saturate."""
    return -log_odds(logits, targets)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, `(max_{k != z} s_k - s_z) / (s_(1) - s_(3))` (Croce and Hein 2020)."""
    top = _top(logits, 3, "dlr")
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """`(s_t - s_z) / (s_(1) - (s_(3) + s_(4)) / 2)` (Croce and Hein 2020, targeted DLR)."""
    top = _top(logits, 4, "targeted dlr")
    gain = of_class(logits, targets) - of_class(logits, labels)
    return gain / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _top(logits: Tensor, count: int, name: str) -> Tensor:
    if logits.shape[1] < count:
        raise BadSetting(f"objective {name} needs {count} classes, this model has {logits.shape[1]}; use margin")
    return logits.double().topk(count, dim=1).values


_UNTARGETED: dict[ObjectiveName, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": log_odds,
    "margin": margin,
    "dlr": dlr,
    "logits": lambda logits, labels: -of_class(logits, labels),
}
_TARGETED: dict[ObjectiveName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda logits, _, targets: targeted_log_odds(logits, targets),
    "margin": lambda logits, _, targets: targeted_margin(logits, targets),
    "dlr": targeted_dlr,
    "logits": lambda logits, _, targets: of_class(logits, targets),
}


def objective(name: ObjectiveName, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The objective of that name [b]; with targets its targeted form.

    logits = the raw logit alone, `-s_z` or `s_t`: for a head of distances, the way to or from one centre.
    """
    if targets is None:
        return _UNTARGETED[name](logits, labels)
    return _TARGETED[name](logits, labels, targets)
