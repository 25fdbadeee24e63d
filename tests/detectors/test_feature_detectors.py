"""Detectors that need no special loss, each against an independent oracle on random features."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_ood import detector as ood
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, spearmanr
from sklearn.covariance import EmpiricalCovariance
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from advbench import catalog
from advbench.detection import FittedDetector
from advbench.errors import BadData, BadSetting
from advbench.types import Outputs
from tests.helpers.memory import Largest

N, D, K = 400, 6, 4
GAUSSIAN = ("mahalanobis", "class-gaussian", "mixture-likelihood")
OF_FEATURES = (*GAUSSIAN, "knn")


def fit(name: str, outputs: Outputs, labels: Tensor, **settings: Any) -> FittedDetector:
    made: FittedDetector = catalog.load("detector", name)(**settings).fit(None, outputs, labels)
    return made


def some(rng: np.random.Generator, n: int = N, d: int = D) -> tuple[Outputs, Tensor]:
    """Correlated features around a mean of each class, unequal class sizes, logits of their own."""
    labels = torch.from_numpy(rng.choice(K, size=n, p=[0.1, 0.2, 0.3, 0.4]))
    features = rng.normal(0, 1, (n, d)) @ rng.normal(0, 1, (d, d)) + rng.normal(0, 3, (K, d))[labels] + 5
    return Outputs(torch.from_numpy(features).float(), torch.from_numpy(rng.normal(0, 3, (n, K))).float()), labels


@pytest.fixture
def train(rng: np.random.Generator) -> tuple[Outputs, Tensor]:
    return some(rng)


@pytest.fixture
def test(train: tuple[Outputs, Tensor], rng: np.random.Generator) -> Outputs:
    """Features inside the training data, between the classes, and far outside."""
    spread = torch.from_numpy(rng.normal(0, 1, (60, D))).float() * torch.logspace(-1, 3, 60)[:, None]
    return Outputs(train[0].features[:60] + spread, torch.from_numpy(rng.normal(0, 3, (60, K))).float())


def numbers(x: Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = x.double().numpy()
    return found


# mahalanobis


def slow_mahalanobis(train: Outputs, labels: Tensor, test: Outputs, ridge: float) -> list[float]:
    """Lee et al. 2018, typed in as loops over classes and images."""
    x, z = numbers(train.features), labels.numpy()
    means = [x[z == k].mean(axis=0) for k in range(K)]
    covariance = sum(np.outer(v - means[k], v - means[k]) for v, k in zip(x, z, strict=True)) / len(x)
    covariance += ridge * np.trace(covariance) / x.shape[1] * np.eye(x.shape[1])
    inverse = np.linalg.inv(covariance)
    return [min((v - m) @ inverse @ (v - m) for m in means) for v in numbers(test.features)]


@pytest.mark.parametrize("ridge", [1e-5, 0.1])
def test_mahalanobis_is_the_least_squared_distance_under_the_tied_covariance(
    ridge: float, train: tuple[Outputs, Tensor], test: Outputs
) -> None:
    scores = fit("mahalanobis", *train, ridge=ridge).score(test)
    np.testing.assert_allclose(scores, slow_mahalanobis(*train, test, ridge), rtol=1e-9)


def test_mahalanobis_agrees_with_scikit_learns_covariance(train: tuple[Outputs, Tensor], test: Outputs) -> None:
    x, z = numbers(train[0].features), train[1].numpy()
    means = np.array([x[z == k].mean(axis=0) for k in range(K)])
    fitted = EmpiricalCovariance(assume_centered=True).fit(x - means[z])
    theirs = np.min([fitted.mahalanobis(numbers(test.features) - m) for m in means], axis=0)
    np.testing.assert_allclose(fit("mahalanobis", *train, ridge=1e-13).score(test), theirs, rtol=1e-9)


def test_mahalanobis_ranks_as_pytorch_ood_does(train: tuple[Outputs, Tensor], test: Outputs) -> None:
    theirs = ood.Mahalanobis(None).fit_features(train[0].features, train[1]).predict_features(test.features)
    ours = fit("mahalanobis", *train).score(test)
    assert spearmanr(ours, theirs).statistic > 0.9999
    # theirs halves the distance and leaves the scatter undivided by the number of samples
    np.testing.assert_allclose(ours, 2 * N * theirs.double(), rtol=1e-2)


def test_the_squared_distance_to_ones_own_mean_averages_to_the_number_of_features(
    train: tuple[Outputs, Tensor],
) -> None:
    outputs, _ = train
    one = fit("mahalanobis", outputs, torch.zeros(N, dtype=torch.long), ridge=1e-12)
    assert one.score(outputs).mean().item() == pytest.approx(D, rel=1e-9)


def test_mahalanobis_stands_fewer_samples_than_features(rng: np.random.Generator) -> None:
    outputs, labels = some(rng, n=30, d=50)
    fitted = fit("mahalanobis", outputs, labels)
    assert fitted.score(outputs).isfinite().all()
    outside = Outputs(outputs.features + torch.from_numpy(rng.normal(0, 1, (30, 50))).float(), outputs.logits)
    assert fitted.score(outside).min() > fitted.score(outputs).max()


# class-gaussian, mixture-likelihood


def diagonal_gaussians(train: Outputs, labels: Tensor, ridge: float) -> tuple[Any, Any, Any]:
    """Means, variances, priors: a loop over classes."""
    x, z = numbers(train.features), labels.numpy()
    means = np.array([x[z == k].mean(axis=0) for k in range(K)])
    tied = ((x - means[z]) ** 2).mean(axis=0).mean()
    variances = np.array([x[z == k].var(axis=0) for k in range(K)]) + ridge * tied
    return means, variances, np.bincount(z, minlength=K) / len(z)


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_class_gaussian_is_scipys_log_density_of_the_predicted_class(
    ridge: float, train: tuple[Outputs, Tensor], test: Outputs
) -> None:
    means, variances, _ = diagonal_gaussians(*train, ridge)
    theirs = [
        -multivariate_normal.logpdf(x, means[k], np.diag(variances[k]))
        for x, k in zip(numbers(test.features), test.predictions.tolist(), strict=True)
    ]
    np.testing.assert_allclose(fit("class-gaussian", *train, ridge=ridge).score(test), theirs, rtol=1e-10)


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_mixture_likelihood_is_the_log_of_scipys_weighted_densities(
    ridge: float, train: tuple[Outputs, Tensor], test: Outputs
) -> None:
    means, variances, priors = diagonal_gaussians(*train, ridge)
    densities = [
        multivariate_normal(m, np.diag(v)).logpdf(numbers(test.features))
        for m, v in zip(means, variances, strict=True)
    ]
    theirs = -logsumexp(np.array(densities).T + np.log(priors), axis=1)
    np.testing.assert_allclose(fit("mixture-likelihood", *train, ridge=ridge).score(test), theirs, rtol=1e-10)


def test_mixture_likelihood_is_the_evidence_of_scikit_learns_naive_bayes(
    train: tuple[Outputs, Tensor], test: Outputs
) -> None:
    x, z = numbers(train[0].features), train[1].numpy()
    _, variances, _ = diagonal_gaussians(*train, 0.0)
    plus = 0.01 * np.average(variances.mean(axis=1), weights=np.bincount(z))
    bayes = GaussianNB(var_smoothing=plus / x.var(axis=0).max()).fit(x, z)
    theirs = -logsumexp(bayes.predict_joint_log_proba(numbers(test.features)), axis=1)
    np.testing.assert_allclose(fit("mixture-likelihood", *train, ridge=0.01).score(test), theirs, rtol=1e-10)


def test_the_mixtures_density_integrates_to_one(rng: np.random.Generator) -> None:
    outputs, labels = some(rng, d=1)
    grid = torch.linspace(-60, 70, 200_001, dtype=torch.float64)[:, None]
    scores = fit("mixture-likelihood", outputs, labels).score(Outputs(grid, torch.zeros(len(grid), K)))
    assert torch.trapezoid((-scores).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-9)


def test_a_class_of_one_sample_takes_the_variances_of_all(train: tuple[Outputs, Tensor], test: Outputs) -> None:
    outputs, labels = train
    labels = labels.clamp(max=2)
    labels[0] = 3
    outputs = Outputs(outputs.features.double(), outputs.logits)
    x, z = numbers(outputs.features), labels.numpy()
    means = np.array([x[z == k].mean(axis=0) for k in range(K)])
    tied = ((x - means[z]) ** 2).mean(axis=0)
    theirs = -multivariate_normal.logpdf(numbers(test.features), x[0], np.diag(tied + 1e-3 * tied.mean()))
    asked = Outputs(test.features, test.logits, torch.full((60,), 3))
    np.testing.assert_allclose(fit("class-gaussian", outputs, labels).score(asked), theirs, rtol=1e-10)


def test_a_predicted_class_without_samples_is_infinitely_suspicious(
    train: tuple[Outputs, Tensor], test: Outputs
) -> None:
    outputs, labels = train
    fitted = fit("class-gaussian", outputs, labels.clamp(max=2))
    asked = Outputs(test.features, test.logits, torch.full((60,), 3))
    assert (fitted.score(asked) == torch.inf).all()


@pytest.mark.parametrize("name", ["mahalanobis", "mixture-likelihood"])
def test_a_class_without_samples_changes_nothing(name: str, train: tuple[Outputs, Tensor], test: Outputs) -> None:
    outputs, labels = train
    more = Outputs(outputs.features, torch.zeros(N, K + 3))
    assert torch.equal(fit(name, more, labels).score(test), fit(name, outputs, labels).score(test))


@pytest.mark.parametrize(
    ("name", "factor", "offset", "change", "rtol"),
    [
        *(("mahalanobis", factor, 0.0, 0.0, 1e-8) for factor in (1e-6, 1e6)),
        *((name, 1e4, 0.0, D * math.log(1e4), 1e-9) for name in ("class-gaussian", "mixture-likelihood")),
        *((name, 1.0, 2.0**20, 0.0, 1e-6) for name in GAUSSIAN),
    ],
)
def test_another_unit_shifts_every_log_density_alike_and_a_huge_common_offset_costs_no_digits(
    name: str, factor: float, offset: float, change: float, rtol: float, train: Any, test: Outputs
) -> None:
    def moved(outputs: Outputs) -> Outputs:
        return Outputs(outputs.features.double() * factor + offset, outputs.logits)

    scores = fit(name, moved(train[0]), train[1]).score(moved(test))
    np.testing.assert_allclose(scores, fit(name, *train).score(test) + change, rtol=rtol)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_features_that_do_not_vary_within_a_class_are_refused(name: str, train: tuple[Outputs, Tensor]) -> None:
    _, labels = train
    constant = Outputs(labels[:, None].float().expand(N, D), torch.zeros(N, K))
    with pytest.raises(BadSetting, match="do not vary within any class"):
        fit(name, constant, labels)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_training_features_that_are_not_finite_are_refused_with_their_number(
    name: str, train: tuple[Outputs, Tensor]
) -> None:
    train[0].features[3, 1], train[0].features[3, 2], train[0].features[9, 0] = math.nan, math.inf, -math.inf
    with pytest.raises(BadData, match="2 of 400 training images are not finite"):
        fit(name, *train)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_a_ridge_must_be_positive(name: str) -> None:
    with pytest.raises(BadSetting, match="greater than 0"):
        catalog.load("detector", name)(ridge=0.0)


def test_a_ridge_too_small_for_a_singular_covariance_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(BadSetting, match="ridge = 1e-18 leaves the covariance singular"):
        fit("mahalanobis", *some(rng, n=30, d=50), ridge=1e-18)


# energy, max-logit


def test_energy_is_scipys_and_pytorch_oods(test: Outputs, train: tuple[Outputs, Tensor]) -> None:
    scores = fit("energy", *train).score(test)
    np.testing.assert_allclose(scores, -logsumexp(numbers(test.logits), axis=1), rtol=1e-13)
    np.testing.assert_allclose(scores, ood.EnergyBased.score(test.logits), rtol=1e-4)


def test_max_logit_is_pytorch_oods(test: Outputs, train: tuple[Outputs, Tensor]) -> None:
    assert torch.equal(fit("max-logit", *train).score(test), ood.MaxLogit.score(test.logits).double())


# knn


@pytest.mark.parametrize("k", [1, 7, N])
def test_knn_is_scikit_learns_distance_of_unit_vectors(k: int, train: tuple[Outputs, Tensor], test: Outputs) -> None:
    bank, queries = (
        numbers(x.features) / np.linalg.norm(numbers(x.features), axis=1)[:, None] for x in (train[0], test)
    )
    theirs = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(bank).kneighbors(queries)[0][:, -1]
    np.testing.assert_allclose(fit("knn", *train, k=k).score(test), theirs, rtol=1e-12)


def test_knn_agrees_with_pytorch_ood(train: tuple[Outputs, Tensor], test: Outputs) -> None:
    theirs = ood.KNN(None, k=50).fit_features(*(train[0].features, train[1])).predict_features(test.features)
    np.testing.assert_allclose(fit("knn", *train).score(test), theirs, rtol=1e-3, atol=1e-6)


def test_knn_is_the_same_in_blocks(
    train: tuple[Outputs, Tensor], test: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit("knn", *train, k=9).score(test)
    for rows in (1, 5, 64):
        monkeypatch.setattr("advbench.detectors.knn.ROWS", rows)
        monkeypatch.setattr("advbench.detectors.knn.QUERIES", 7)
        np.testing.assert_allclose(fit("knn", *train, k=9).score(test), whole, rtol=1e-13)


def test_knn_takes_a_feature_of_length_zero_for_the_origin(train: tuple[Outputs, Tensor]) -> None:
    outputs, labels = train
    outputs.features[::3] = 0.0
    fitted = fit("knn", outputs, labels, k=5)
    queries = torch.cat([torch.zeros(1, D), outputs.features[1:2] * torch.tensor([1, 1, 1, -1, -1, -1])])
    unit = numbers(outputs.features) / np.linalg.norm(numbers(outputs.features), axis=1).clip(1e-12)[:, None]
    asked = numbers(queries) / np.linalg.norm(numbers(queries), axis=1).clip(1e-12)[:, None]
    slow = [sorted(np.linalg.norm(unit - q, axis=1))[4] for q in asked]
    np.testing.assert_allclose(fitted.score(Outputs(queries, torch.zeros(2, K))), slow, rtol=1e-12)


def test_knn_keeps_the_digits_of_a_near_duplicate(train: tuple[Outputs, Tensor]) -> None:
    near = train[0].features[:1].double()
    near[0, 0] *= 1 + 1e-7
    unit = train[0].features[:1].double() / train[0].features[0].double().norm()
    distance = fit("knn", *train, k=1).score(Outputs(near, torch.zeros(1, K)))
    assert distance.item() == pytest.approx((near / near.norm() - unit).norm().item(), rel=1e-6)


def test_knn_has_a_gradient_orthogonal_to_the_feature(train: tuple[Outputs, Tensor], test: Outputs) -> None:
    x = test.features.double().requires_grad_()
    (gradient,) = torch.autograd.grad(fit("knn", *train).score(Outputs(x, test.logits)).sum(), x)
    assert gradient.abs().amax(dim=1).min() > 0
    np.testing.assert_allclose((gradient * x).sum(dim=1).detach(), np.zeros(60), atol=1e-12)


def test_more_neighbours_than_training_images_are_refused(train: tuple[Outputs, Tensor]) -> None:
    with pytest.raises(BadSetting, match="k = 401 neighbours of 400 training images; take a smaller k"):
        fit("knn", *train, k=N + 1)
    with pytest.raises(BadSetting, match="at least 1"):
        catalog.load("detector", "knn")(k=0)


@pytest.mark.parametrize(("name", "m"), [("knn", 100_000), *((name, 20_000) for name in GAUSSIAN)])
def test_many_features_are_fitted_and_compared_in_bounded_memory(name: str, m: int) -> None:
    d = 512
    features = torch.rand(64, d).repeat(m // 64 + 1, 1)[:m]
    outputs, labels = Outputs(features, torch.zeros(m, 1)), torch.zeros(m, dtype=torch.long)
    with Largest(features, outputs.logits, labels) as largest:
        fit(name, outputs, labels).score(outputs.take(slice(20)))
    assert 0 < largest.bytes <= 17_000_000  # a float64 copy of the features: 410 MB for knn, 82 MB for the others


def test_many_queries_are_answered_in_bounded_memory(rng: np.random.Generator) -> None:
    fitted, queries = fit("knn", *some(rng, d=512)), torch.rand(10_000, 512)
    outputs = Outputs(queries, torch.zeros(10_000, K))
    with Largest(queries, outputs.logits) as largest:
        fitted.score(outputs)
    assert 0 < largest.bytes <= 5_000_000  # a float64 copy of the queries: 41 MB
