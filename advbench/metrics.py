"""ROC, AUROC, EER, thresholds fixed in advance, and intervals; float64 NumPy throughout.

Positive class = adversarial. A score is higher for the more suspicious input and may be +inf; only the order of
scores matters, so none is ever rescaled. Rates are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Z95 = 1.959963984540054  # the normal's 97.5 % point
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Roc:
    """Rejected if score >= threshold: `fpr` of clean, `tpr` of attacked; both rise from 0 to 1.

    eer            where fpr = 1 - tpr, linear between the neighbouring points; above 0.5 where the detector
                   finds attacked inputs less suspicious than clean ones (never flipped)
    eer_threshold  the threshold of the neighbouring point nearer to the crossing
    """

    fpr: Array
    tpr: Array
    thresholds: Array
    auroc: float
    eer: float
    eer_threshold: float


def roc(clean: Array, attacked: Array) -> Roc:
    """The curve of scikit-learn, on ranks, so that infinite scores count as what they are: the largest.

    Both sides need at least one score; NaN is a ValueError.
    """
    from sklearn.metrics import auc, roc_curve

    scores = np.concatenate([clean, attacked])
    if not len(clean) or not len(attacked) or np.isnan(scores).any():
        raise ValueError("a ROC needs at least one clean and one attacked score, none of them NaN")
    values, ranks = np.unique(scores, return_inverse=True)
    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    fpr, tpr, at = roc_curve(labels, ranks, drop_intermediate=False)
    thresholds = np.concatenate([[np.inf], values[at[1:].astype(int)]])
    gap = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return Roc(
        fpr=fpr,
        tpr=tpr,
        thresholds=thresholds,
        auroc=float(auc(fpr, tpr)),
        eer=float(fpr[after - 1] + share * (fpr[after] - fpr[after - 1])),
        eer_threshold=float(thresholds[after if share >= 0.5 else after - 1]),
    )


def wilson(successes: int, n: int) -> Interval | None:
    """The 95 % score interval of a rate (Wilson 1927); None for n = 0."""
    if n == 0:
        return None
    p = successes / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Interval(float(max(0.0, centre - half)), float(min(1.0, centre + half)))


@dataclass(frozen=True)
class RocIntervals:
    """Bootstrap percentile intervals of one ROC."""

    eer: Interval
    auroc: Interval


def bootstrap(
    clean: Array,
    attacked: Array,
    pairs: NDArray[np.int64] | None = None,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> RocIntervals:
    """95 % intervals of EER and AUROC, images resampled with replacement.

    clean [n], attacked [m]; `pairs` [m] is the clean image each attacked one was made from, so that both members
    of a pair are drawn together (default: attacked i from clean i). Resamples that draw no attacked image are
    left out.

    The scores are sorted once; a resample only re-weights them, and both figures follow from two running sums.
    """
    n, m = len(clean), len(attacked)
    pairs = np.arange(m) if pairs is None else pairs
    scores = np.concatenate([clean, attacked])
    order = np.argsort(scores, kind="stable")
    is_clean = order < n
    source = np.concatenate([np.arange(n), pairs])[order]
    ordered = scores[order]
    # the last position of each group of equal scores; inf - inf is nan, hence the comparison
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    tied = len(ends) < n + m
    eers, aurocs = np.full(resamples, np.nan), np.full(resamples, np.nan)
    for r in range(resamples):
        # int32 halves the memory that the running sums pass through
        weight = np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n).astype(np.int32)[source]
        clean_weight = weight * is_clean
        below_clean = np.cumsum(clean_weight, dtype=np.int32)
        below_attacked = np.cumsum(weight, dtype=np.int32) - below_clean
        if not below_attacked[-1]:
            continue
        if tied:
            below_clean, below_attacked = below_clean[ends], below_attacked[ends]
        eers[r], aurocs[r] = _eer_and_auroc(below_clean, below_attacked)
    return RocIntervals(_percentiles(eers), _percentiles(aurocs))


def _eer_and_auroc(below_clean: NDArray[np.int32], below_attacked: NDArray[np.int32]) -> tuple[float, float]:
    """Both figures from the counts of clean and attacked scores up to each distinct score, ascending."""
    n, m = int(below_clean[-1]), int(below_attacked[-1])
    # trapezoid under (clean share, attacked share); 2 n m < 2^63
    steps = np.diff(below_attacked, prepend=0)
    twice = 2 * np.dot(steps, below_clean.astype(np.float64)) - np.dot(
        steps, np.diff(below_clean, prepend=0).astype(np.float64)
    )
    # accept up to score j: fnr = attacked share below, fpr = 1 - clean share below; find the first j with fnr >= fpr
    at = int(np.searchsorted(below_clean * float(m) + below_attacked * float(n), float(n) * m))
    fpr, fnr = 1 - below_clean[at] / n, below_attacked[at] / m
    fpr_before = 1 - below_clean[at - 1] / n if at else 1.0
    fnr_before = below_attacked[at - 1] / m if at else 0.0
    share = (fpr_before - fnr_before) / ((fpr_before - fnr_before) + (fnr - fpr))
    return fpr_before + share * (fpr - fpr_before), twice / (2 * n * m)


def _percentiles(values: Array) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def threshold_at(fpr: float, calibration: Array) -> float | None:
    """The order statistic ceil((n + 1)(1 - fpr)) of the calibration scores; reject if score > threshold.

    On new clean inputs the false-positive rate is at most `fpr` on average. None where calibration holds fewer
    than 10 / fpr images, too few to fix such a rate.
    """
    n = len(calibration)
    if n * fpr < 10 - 1e-9:
        return None
    rank = int(np.ceil((n + 1) * (1 - fpr) - 1e-9))
    return float(np.sort(calibration)[rank - 1]) if rank <= n else float("inf")


def rejected(scores: Array, threshold: float | None) -> float | None:
    """Share of scores above the threshold; None without scores or threshold."""
    return None if threshold is None or not len(scores) else float(np.mean(scores > threshold))


def populations(clean_correct: Mask, succeeded: Mask) -> dict[str, Mask]:
    """Which attacked images belong to `all`, `successful` and `failed`.

    clean_correct [n]: the clean image is classified rightly; succeeded [n]: label wrong, or target reached for a
    targeted attack. A clean-wrong image is only in `all`.
    """
    return {
        "all": np.ones_like(clean_correct),
        "successful": clean_correct & succeeded,
        "failed": clean_correct & ~succeeded,
    }


def rate(hits: Mask, among: Mask) -> float | None:
    """Share of `hits` within `among`; None where that is empty."""
    return float(hits[among].mean()) if among.any() else None
