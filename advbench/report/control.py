"""The positive control in words: whether any detector beats adversarial training at equal eps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from advbench import metrics
from advbench.detection import NO_DETECTOR
from advbench.report.adaptive import AWARE, aim
from advbench.runs import AdaptiveRow, AttackRow

Outcome = Literal["beats", "does not beat", "cannot be told from"]


@dataclass(frozen=True)
class Rate:
    """A model's error rate, its 95 % interval and number of images; `against` = a detector and its FPR, if any."""

    model: str
    against: str
    rate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """At one eps: the detector on a standard model with the least undetected errors, the best adversarial model."""

    eps: float
    detector: Rate
    adversarial: Rate

    @property
    def outcome(self) -> Outcome:
        """By the intervals: they must lie apart."""
        if self.detector.high < self.adversarial.low:
            return "beats"
        return "does not beat" if self.adversarial.high < self.detector.low else "cannot be told from"


def compare(rows: Iterable[tuple[str, AttackRow]]) -> list[Comparison]:
    """One comparison per L-inf eps at which the ensemble attacked both kinds of model.

    `rows` are (label, attack row) pairs. A standard model has its undetected errors, with a detector; an adversarial
    one its errors of whatever kind without: the most that any ensemble row at that eps shows.
    """
    guarded: dict[float, list[Rate]] = {}
    trained: dict[tuple[float, str], Rate] = {}
    for label, row in rows:
        if not isinstance(row, AdaptiveRow) or row.attack != AWARE or row.norm != "linf":
            continue
        if row.model.training == "adversarial":
            interval = metrics.wilson(round(row.error_rate * row.n), row.n)
            assert interval is not None
            found = Rate(label, "", row.error_rate, interval.low, interval.high, row.n)
            before = trained.get((row.eps, row.model.run), found)
            trained[row.eps, row.model.run] = max(before, found, key=lambda r: r.rate)
        elif row.detector != NO_DETECTOR:
            low, high = row.undetected_error_low, row.undetected_error_high
            rate = Rate(label, aim(row), row.undetected_error_rate, low, high, row.n)
            guarded.setdefault(row.eps, []).append(rate)
    comparisons = []
    for eps, rates in sorted(guarded.items()):
        if rivals := [rate for (at, _), rate in trained.items() if at == eps]:
            best = [min(side, key=lambda r: r.rate) for side in (rates, rivals)]
            comparisons.append(Comparison(eps, *best))
    return comparisons
