"""ROC, AUROC, EER, thresholds fixed in advance, and intervals; float64 NumPy throughout.

Positive class = adversarial. A score is higher for the more suspicious input and may be +inf; only the order of
scores matters, so none is ever rescaled. Rates are fractions.
"""

import bisect
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
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

    `threshold_at` is of the other side: it rejects if score > threshold, so that an input that ties with it passes.

    eer            where fpr = 1 - tpr, linear between the neighbouring points; above 0.5 where the detector
                   finds attacked inputs less suspicious than clean ones (never flipped)
    eer_threshold  the threshold of the neighbouring point nearer to the crossing; rejects at score >= eer_threshold
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
    found = binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class RocIntervals:
    """Bootstrap percentile intervals of one ROC; `eers` [resamples], NaN where no attacked image was drawn."""

    eer: Interval
    auroc: Interval
    eers: Array = field(compare=False)


def bootstrap(
    clean: Array, attacked: Array, pairs: Ints | None = None, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> RocIntervals:
    """95 % intervals of EER and AUROC, images resampled with replacement.

    clean [n], attacked [m]; `pairs` [m] is the clean image each attacked one was made from, so that both members
    of a pair are drawn together (default: attacked i from clean i). Resamples that draw no attacked image are
    left out.

    The scores are sorted once; a resample only re-weights them, and both figures follow from the running sums of the
    weights of either side.
    """
    n, m = len(clean), len(attacked)
    pairs = np.arange(m) if pairs is None else pairs
    by_clean, by_attacked = np.argsort(clean, kind="stable"), np.argsort(attacked, kind="stable")
    clean, attacked, source = clean[by_clean], attacked[by_attacked], pairs[by_attacked]
    cuts = np.unique(np.concatenate([clean, attacked]))
    clean_upto, attacked_upto = (np.searchsorted(side, cuts, side="right") for side in (clean, attacked))
    below, upto = (np.searchsorted(clean, attacked, side=side) for side in ("left", "right"))
    tied = bool((below != upto).any())
    clean_sum, attacked_sum = np.zeros(n + 1, dtype=np.int64), np.zeros(m + 1, dtype=np.int64)
    eers, aurocs = np.full(resamples, np.nan), np.full(resamples, np.nan)
    for r in range(resamples):
        drawn = np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n)
        weight = drawn[source]
        np.cumsum(drawn[by_clean], out=clean_sum[1:])
        np.cumsum(weight, out=attacked_sum[1:])
        if not (total := int(attacked_sum[-1])):
            continue
        # an attacked score beats the clean ones below it, and half of its equals
        wins = int(weight @ clean_sum[below])
        wins2 = wins + (int(weight @ clean_sum[upto]) if tied else wins)
        aurocs[r] = wins2 / (2 * n * total)
        eers[r] = _eer(clean_sum, attacked_sum, clean_upto, attacked_upto)
    return RocIntervals(_percentiles(eers), _percentiles(aurocs), eers)


def _eer(clean_sum: Ints, attacked_sum: Ints, clean_upto: Ints, attacked_upto: Ints) -> float:
    """The EER of a resample: `*_sum[i]` counts the i lowest scores, `*_upto[j]` is the i of the j-th distinct one.

    Both error rates are monotone along the distinct scores, so that their crossing is found by bisection.
    """
    n, m = int(clean_sum[-1]), int(attacked_sum[-1])

    def rates(j: int) -> tuple[float, float]:
        if j < 0:
            return 1.0, 0.0
        return 1 - int(clean_sum[clean_upto[j]]) / n, int(attacked_sum[attacked_upto[j]]) / m

    def crossed(j: int) -> bool:
        return int(clean_sum[clean_upto[j]]) * m + int(attacked_sum[attacked_upto[j]]) * n >= n * m

    at = bisect.bisect_left(range(len(clean_upto)), True, key=crossed)
    (fpr, fnr), (fpr_before, fnr_before) = rates(at), rates(at - 1)
    share = (fpr_before - fnr_before) / ((fpr_before - fnr_before) + (fnr - fpr))
    return fpr_before + share * (fpr - fpr_before)


def _percentiles(values: Array) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def least_calibration(fpr: float) -> int:
    """How many calibration images a threshold at a false-positive rate needs: 10 / fpr, so that ten lie above it."""
    return math.ceil(10 / fpr - 1e-9)


def threshold_at(fpr: float, calibration: Array) -> float | None:
    """The order statistic ceil((n + 1)(1 - fpr)) of the calibration scores; reject if score > threshold.

    On new clean inputs the false-positive rate is at most `fpr` on average. None where calibration holds fewer
    than 10 / fpr images, too few to fix such a rate.
    """
    n = len(calibration)
    if n < least_calibration(fpr):
        return None
    rank = _threshold_rank(n, fpr)
    return float(np.sort(calibration)[rank - 1]) if rank <= n else float("inf")


def undetected(
    calibration: Array,
    scores: Array,
    wrong: Mask,
    fpr: float,
    *,
    rng: np.random.Generator,
) -> Interval:
    """95 % interval of the share of test images that are wrong and pass the threshold at `fpr`.

    Bootstrap percentiles: calibration scores [m] and test images (scores [n], wrong [n]) are resampled together,
    the threshold is fixed anew each time. The attacked images stay as they are: one that was taken just below the
    threshold counts as rejected where a resampled threshold is lower, so that the lower end is a cautious one.
    """
    m, n = len(calibration), len(scores)
    ordered, rank = np.sort(calibration), _threshold_rank(m, fpr)
    rates = np.empty(RESAMPLES)
    for r in range(RESAMPLES):
        upto = np.cumsum(np.bincount(rng.integers(m, size=m), minlength=m))
        threshold = ordered[np.searchsorted(upto, rank)] if rank <= m else np.inf
        weight = np.bincount(rng.integers(n, size=n), minlength=n)
        rates[r] = weight @ (wrong & (scores <= threshold)) / n
    return _percentiles(rates)


def _threshold_rank(n: int, fpr: float) -> int:
    return int(np.ceil((n + 1) * (1 - fpr) - 1e-9))


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
