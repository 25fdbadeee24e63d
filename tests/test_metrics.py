"""ROC figures against closed forms, scikit-learn and SciPy; thresholds, intervals and populations by definition."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from advbench.metrics import Interval, bootstrap, populations, rate, rejected, roc, threshold_at, wilson

Array = NDArray[np.float64]
INF = math.inf


def slow_eer(clean: Array, attacked: Array, clean_weight: Array, attacked_weight: Array) -> float:
    """Walk the distinct scores upwards and cut the segment on which the false negatives overtake."""
    before = (1.0, 0.0)
    for score in sorted({*clean, *attacked}):
        fpr = float(clean_weight[clean > score].sum() / clean_weight.sum())
        fnr = float(attacked_weight[attacked <= score].sum() / attacked_weight.sum())
        if fnr >= fpr:
            # fpr and fnr are linear between the two points: solve fpr(t) = fnr(t)
            t = (before[0] - before[1]) / ((before[0] - before[1]) - (fpr - fnr))
            return before[0] + t * (fpr - before[0])
        before = (fpr, fnr)
    raise AssertionError("the curves always cross")


def finite(scores: Array) -> Array:
    """The same order without infinities, for scikit-learn."""
    values: Array = np.where(scores == INF, 1e300, np.where(scores == -INF, -1e300, scores))
    return values


SIDES: dict[str, tuple[list[float], list[float]]] = {
    "apart": ([1, 2, 3], [4, 5]),
    "swapped": ([4, 5], [1, 2, 3]),
    "ties across the sides": ([1, 2, 2, 3, 3, 3], [2, 3, 3, 4]),
    "all equal": ([7, 7, 7], [7, 7]),
    "infinities on both sides": ([-INF, 0, INF, 1], [INF, INF, 0.5, 2, -INF]),
    "far outside [0, 1]": ([-1e8, -1e8 - 1, -3e7], [-1e8, 2e8, 1e300]),
    "closer than float32 can tell": ([1e8, 1e8 + 1, 1e8 + 2], [1e8 + 1, 1e8 + 3]),
    "one of each": ([0], [1]),
}


@pytest.fixture(params=list(SIDES))
def sides(request: pytest.FixtureRequest) -> tuple[Array, Array]:
    clean, attacked = SIDES[request.param]
    return np.array(clean, dtype=float), np.array(attacked, dtype=float)


def test_eer_of_two_shifted_normals_is_the_tail_beyond_the_midpoint(rng: np.random.Generator) -> None:
    curve = roc(rng.normal(0, 1, 200_000), rng.normal(2, 1, 200_000))
    assert curve.eer == pytest.approx(norm.sf(1.0), abs=3e-3)
    assert curve.eer_threshold == pytest.approx(1.0, abs=0.02)


def test_swapping_the_sides_gives_one_minus_each_figure(sides: tuple[Array, Array]) -> None:
    clean, attacked = sides
    curve, swapped = roc(clean, attacked), roc(attacked, clean)
    assert swapped.eer == pytest.approx(1 - curve.eer, abs=1e-12)
    assert swapped.auroc == pytest.approx(1 - curve.auroc, abs=1e-12)


def test_curve_is_scikit_learns(sides: tuple[Array, Array]) -> None:
    clean, attacked = sides
    labels, scores = np.repeat([0, 1], [len(clean), len(attacked)]), np.concatenate(sides)
    fpr, tpr, _ = roc_curve(labels, finite(scores), drop_intermediate=False)
    curve = roc(clean, attacked)
    np.testing.assert_array_equal(curve.fpr, fpr)
    np.testing.assert_array_equal(curve.tpr, tpr)
    assert curve.auroc == pytest.approx(roc_auc_score(labels, finite(scores)), abs=1e-12)


def test_each_threshold_yields_its_point_of_the_curve(sides: tuple[Array, Array]) -> None:
    clean, attacked = sides
    curve = roc(clean, attacked)
    assert (curve.fpr[0], curve.tpr[0], curve.thresholds[0]) == (0, 0, INF)
    for fpr, tpr, threshold in list(zip(curve.fpr, curve.tpr, curve.thresholds, strict=True))[1:]:
        assert (fpr, tpr) == (np.mean(clean >= threshold), np.mean(attacked >= threshold))


def test_eer_is_where_the_interpolated_curve_crosses(sides: tuple[Array, Array]) -> None:
    clean, attacked = sides
    assert roc(clean, attacked).eer == pytest.approx(
        slow_eer(clean, attacked, np.ones_like(clean), np.ones_like(attacked)), abs=1e-12
    )


def test_eer_of_a_hand_drawn_curve_lies_between_its_points() -> None:
    # (fpr, tpr): (0, 1/2) at 3, (1/2, 1/2) at 2, (1/2, 1) at 1; the diagonal fpr = 1 - tpr is met at (1/2, 1/2)
    curve = roc(np.array([2.0, 0.0]), np.array([3.0, 1.0]))
    assert (curve.eer, curve.eer_threshold) == (0.5, 2.0)
    # (0, 0), (1/3, 1): crossed a quarter of the way along: 1/3 t = 1 - t
    tied = roc(np.array([0.0, 1.0, 2.0]), np.array([2.0, 2.0]))
    assert tied.eer == pytest.approx(0.25)
    assert tied.eer_threshold == 2.0


def test_eer_threshold_is_that_of_the_nearer_point() -> None:
    # from (1/4, 0) at 9 to (1, 1) at 1, crossed at 3/7 of the way: the first point is nearer
    curve = roc(np.array([9.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0]))
    assert curve.eer == pytest.approx(1 / 4 + 3 / 7 * 3 / 4)
    assert curve.eer_threshold == 9.0


def test_the_eer_threshold_rejects_what_ties_with_it_and_a_calibrated_one_does_not() -> None:
    clean, attacked = np.array([1.0, 2.0, 2.0, 3.0]), np.array([2.0, 2.0, 3.0, 3.0])
    curve = roc(clean, attacked)
    assert [np.mean(side >= curve.eer_threshold) for side in (clean, attacked)] == [1 / 4, 1 / 2]
    assert (1 / 4, 1 / 2) in zip(curve.fpr, curve.tpr, strict=True)
    assert [rejected(side, curve.eer_threshold) for side in (clean, attacked)] == [0, 0]


@pytest.mark.parametrize("transform", [np.exp, np.arctan, lambda s: 1e8 * s - 1e8, np.cbrt])
def test_figures_do_not_change_under_a_rising_transform(
    rng: np.random.Generator, transform: Callable[[Array], Array]
) -> None:
    clean, attacked = rng.normal(0, 1, 300).round(1), rng.normal(1, 2, 200).round(1)
    curve, moved = roc(clean, attacked), roc(transform(clean), transform(attacked))
    assert (moved.eer, moved.auroc) == (curve.eer, curve.auroc)
    np.testing.assert_array_equal(moved.thresholds[1:], transform(curve.thresholds[1:]))


@pytest.mark.parametrize(("clean", "attacked"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([0.0], [math.nan])])
def test_a_roc_of_nothing_or_of_nan_is_refused(clean: list[float], attacked: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one clean and one attacked score"):
        roc(np.array(clean), np.array(attacked))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 10), (412, 10_000)])
def test_wilson_is_scipys_interval(successes: int, n: int) -> None:
    exact = binomtest(successes, n).proportion_ci(method="wilson")
    interval = wilson(successes, n)
    assert isinstance(interval, Interval)
    assert interval.low == pytest.approx(exact.low, abs=1e-12)
    assert interval.high == pytest.approx(exact.high, abs=1e-12)
    assert 0 <= interval.low <= interval.high <= 1


def test_a_rate_of_nothing_has_no_interval() -> None:
    assert wilson(0, 0) is None


def slow_bootstrap(
    clean: Array, attacked: Array, pairs: NDArray[np.int64], seed: int, resamples: int
) -> tuple[list[float], list[float]]:
    """scikit-learn and the slow crossing on the images that the same generator draws."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    eers, aurocs = [], []
    for _ in range(resamples):
        drawn = rng.integers(len(clean), size=len(clean), dtype=np.int32)
        times = np.array([np.sum(drawn == i) for i in range(len(clean))], dtype=float)
        if not times[pairs].any():
            continue
        weights = np.concatenate([times, times[pairs]])
        aurocs.append(roc_auc_score(labels, finite(np.concatenate([clean, attacked])), sample_weight=weights))
        some, others = times > 0, times[pairs] > 0
        eers.append(slow_eer(clean[some], attacked[others], times[some], times[pairs][others]))
    return eers, aurocs


PAIRS = {"every pair": list(range(12)), "missing members": [0, 3, 4, 7, 11], "out of order": [9, 2, 5], "one": [6]}


@pytest.mark.parametrize("kind", ["distinct", "ties", "infinities", "far outside [0, 1]"])
@pytest.mark.parametrize("pairs", list(PAIRS))
def test_bootstrap_is_the_percentiles_of_a_loop_around_scikit_learn(
    rng: np.random.Generator, kind: str, pairs: str
) -> None:
    index = np.array(PAIRS[pairs])
    clean, attacked = rng.normal(0, 1, 12), rng.normal(0.7, 1, len(index))
    if kind == "ties":
        clean, attacked = clean.round(), attacked.round()
    if kind == "infinities":
        clean[[0, 3]], attacked[0], clean[5] = INF, INF, -INF
    if kind == "far outside [0, 1]":
        clean, attacked = clean * 1e8, attacked * 1e8 - 1e8
    eers, aurocs = slow_bootstrap(clean, attacked, index, 5, 30)
    intervals = bootstrap(clean, attacked, index, rng=np.random.default_rng(5), resamples=30)
    np.testing.assert_allclose([intervals.eer.low, intervals.eer.high], np.percentile(eers, [2.5, 97.5]), atol=1e-12)
    np.testing.assert_allclose(
        [intervals.auroc.low, intervals.auroc.high], np.percentile(aurocs, [2.5, 97.5]), atol=1e-12
    )


def test_attacked_images_are_paired_with_the_clean_ones_in_order_by_default(rng: np.random.Generator) -> None:
    clean, attacked = rng.normal(0, 1, 30), rng.normal(1, 1, 20)
    default = bootstrap(clean, attacked, rng=np.random.default_rng(1), resamples=50)
    assert default == bootstrap(clean, attacked, np.arange(20), rng=np.random.default_rng(1), resamples=50)


def test_the_order_in_which_attacked_images_are_listed_does_not_matter(rng: np.random.Generator) -> None:
    clean, attacked, pairs = rng.normal(0, 1, 30), rng.normal(1, 1, 20), rng.permutation(30)[:20]
    turned = bootstrap(clean, attacked[::-1], pairs[::-1], rng=np.random.default_rng(1), resamples=50)
    assert turned == bootstrap(clean, attacked, pairs, rng=np.random.default_rng(1), resamples=50)


def test_drawing_pairs_together_narrows_the_interval_of_correlated_scores(rng: np.random.Generator) -> None:
    clean = rng.normal(0, 1, 400)
    attacked = clean + 1
    paired = bootstrap(clean, attacked, rng=np.random.default_rng(2), resamples=200).auroc
    mixed = bootstrap(clean, attacked, rng.permutation(400), rng=np.random.default_rng(2), resamples=200).auroc
    assert paired.high - paired.low < 0.8 * (mixed.high - mixed.low)


def test_bootstrap_intervals_cover_the_true_figures_about_95_times_in_a_hundred() -> None:
    rng = np.random.default_rng(1)
    hits, trials = np.zeros(2), 60
    for _ in range(trials):
        intervals = bootstrap(rng.normal(0, 1, 200), rng.normal(2, 1, 200), rng=rng, resamples=100)
        eer, auroc = norm.sf(1.0), norm.cdf(math.sqrt(2))
        hits += [intervals.eer.low <= eer <= intervals.eer.high, intervals.auroc.low <= auroc <= intervals.auroc.high]
    assert (hits >= 0.85 * trials).all()


@pytest.mark.parametrize("n", [99, 100, 199, 200, 297, 999, 1000, 5000])
@pytest.mark.parametrize("fpr", [0.1, 0.05, 0.01])
def test_threshold_is_the_order_statistic_of_split_conformal_prediction(n: int, fpr: float) -> None:
    calibration: Array = np.random.default_rng(n).permutation(n).astype(float) + 1  # the j-th smallest score is j
    threshold = threshold_at(fpr, calibration)
    per_cent = round(fpr * 100)
    if n * per_cent < 1000:
        assert threshold is None
    else:
        assert threshold == -(-(n + 1) * (100 - per_cent) // 100)  # in whole numbers, rounded up


def test_threshold_passes_infinite_scores_on() -> None:
    calibration = np.concatenate([np.zeros(80), np.full(20, INF)])
    assert threshold_at(0.1, calibration) == INF


def test_only_scores_above_the_threshold_are_rejected() -> None:
    scores = np.array([-1e8, 1.0, 2.0, 2.0, INF])
    assert rejected(scores, 2.0) == 0.2
    assert rejected(scores, -INF) == 1.0
    assert rejected(scores, INF) == 0.0


def test_without_a_threshold_or_scores_the_share_rejected_is_undefined() -> None:
    assert rejected(np.array([1.0]), None) is None
    assert rejected(np.array([]), 1.0) is None


def test_clean_wrong_images_are_only_in_the_population_of_all() -> None:
    correct, succeeded = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert {name: mask.tolist() for name, mask in populations(correct, succeeded).items()} == {
        "all": [True, True, True, True],
        "successful": [True, False, False, False],
        "failed": [False, True, False, False],
    }


def test_a_rate_counts_hits_among_the_chosen_only() -> None:
    hits, among = np.array([True, True, False, False]), np.array([True, False, True, True])
    assert rate(hits, among) == pytest.approx(1 / 3)
    assert rate(hits, np.zeros(4, dtype=bool)) is None
