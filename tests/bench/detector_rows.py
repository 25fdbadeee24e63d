"""Rows on detectors: fitted and scored, each over the library a user would otherwise call."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advbench import catalog
from advbench.losses.lgm import LGM
from advbench.types import Outputs
from tests.bench.timing import ratio, row

M, N, D, K = 50_000, 10_000, 512, 10
QUERIES = 1_000  # of knn: every one is compared with all M
REPEATS = 3


@functools.cache
def some() -> tuple[Outputs, Tensor, Outputs]:
    """Training outputs and labels, test outputs: features around class means, float32."""
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(K, D, generator=rng)

    def draw(n: int) -> tuple[Outputs, Tensor]:
        labels = torch.randint(K, (n,), generator=rng)
        features = torch.randn(n, D, generator=rng) + means[labels]
        return Outputs(features, features @ means.T), labels

    return *draw(M), draw(N)[0]


@functools.cache
def head() -> LGM:
    """At its random first means."""
    torch.manual_seed(0)
    return LGM(D, K)


def over(name: str, theirs: Callable[[Outputs, Tensor, Outputs], Any], n: int = N) -> float:
    """Fit and score in the catalog over the same in `theirs`, whose scores must agree to float32 and a ridge."""
    train, labels, test = some()
    test = test.take(slice(n))

    detector = catalog.load("detector", name)()  # looks the file up, which takes longer than a maximum

    def ours() -> Tensor:
        with torch.no_grad():
            scores: Tensor = detector.fit(head(), train, labels).score(test)
            return scores

    np.testing.assert_allclose(ours(), theirs(train, labels, test), rtol=1e-3, atol=1e-9)
    return ratio(ours, lambda: theirs(train, labels, test), REPEATS)


@row("mahalanobis-over-pytorch-ood", 1.0)
def mahalanobis() -> float:
    """Over `pytorch_ood.detector.Mahalanobis`, float32."""
    from pytorch_ood.detector import Mahalanobis

    def theirs(train: Outputs, labels: Tensor, test: Outputs) -> Tensor:
        fitted = Mahalanobis(None).fit_features(train.features, labels)
        scores: Tensor = 2 * len(labels) * fitted.predict_features(test.features)  # halved and undivided there
        return scores

    return over("mahalanobis", theirs)


def naive_bayes(train: Outputs, labels: Tensor, test: Outputs) -> np.ndarray[Any, Any]:
    """Log joint densities [n k] of scikit-learn's GaussianNB, smoothed nearly as ours are."""
    from sklearn.naive_bayes import GaussianNB

    fitted = GaussianNB(var_smoothing=5e-4).fit(train.features.numpy(), labels.numpy())
    found: np.ndarray[Any, Any] = fitted.predict_joint_log_proba(test.features.numpy())
    return found


@row("class-gaussian-over-scikit-learn", 1.0)
def class_gaussian() -> float:
    """Over the predicted class's column of `GaussianNB.predict_joint_log_proba`, its prior aside."""

    def theirs(train: Outputs, labels: Tensor, test: Outputs) -> Any:
        joint = naive_bayes(train, labels, test)
        z = test.predictions.numpy()
        priors = np.bincount(labels.numpy()) / len(labels)
        return np.log(priors)[z] - joint[np.arange(len(z)), z]

    return over("class-gaussian", theirs)


@row("mixture-likelihood-over-scikit-learn", 1.0)
def mixture_likelihood() -> float:
    """Over `GaussianNB.predict_joint_log_proba` summed by SciPy's logsumexp."""
    from scipy.special import logsumexp

    def theirs(train: Outputs, labels: Tensor, test: Outputs) -> Any:
        return -logsumexp(naive_bayes(train, labels, test), axis=1)

    return over("mixture-likelihood", theirs)


@row("knn-over-scikit-learn", 1.0)
def knn() -> float:
    """Over `NearestNeighbors(algorithm="brute")` on unit vectors, float32, for 1,000 queries."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    def theirs(train: Outputs, labels: Tensor, test: Outputs) -> Any:  # noqa: ARG001
        fitted = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(normalize(train.features.numpy()))
        return fitted.kneighbors(normalize(test.features.numpy()))[0][:, -1]

    return over("knn", theirs, n=QUERIES)


@row("energy-over-pytorch-ood", 1.0)
def energy() -> float:
    """Over `pytorch_ood.detector.EnergyBased`, float32."""
    from pytorch_ood.detector import EnergyBased

    return over("energy", lambda train, labels, test: EnergyBased.score(test.logits))


@row("max-logit-over-pytorch-ood", 1.0)
def max_logit() -> float:
    """Over `pytorch_ood.detector.MaxLogit`, float32."""
    from pytorch_ood.detector import MaxLogit

    return over("max-logit", lambda train, labels, test: MaxLogit.score(test.logits))


@row("max-posterior-over-scipy", 1.0)
def max_posterior() -> float:
    """Over SciPy's `log_softmax`, whose digits ours are to have: pytorch-ood's posterior of 1 - 1e-9 is 1."""
    from scipy.special import log_softmax

    return over(
        "max-posterior", lambda train, labels, test: -log_softmax(test.logits.double().numpy(), axis=1).max(axis=1)
    )


@row("likelihood-over-scipy", 1.0)
def likelihood() -> float:
    """L-GM's, over the sum of SciPy's `norm.logpdf` around the predicted class's mean, its constant aside."""
    from scipy.stats import norm

    mu = head().mu.detach().numpy()

    def theirs(train: Outputs, labels: Tensor, test: Outputs) -> Any:  # noqa: ARG001
        density = norm.logpdf(test.features.double().numpy(), mu[test.predictions.numpy()])
        return -density.sum(axis=1) - D / 2 * np.log(2 * np.pi)

    return over("likelihood", theirs)
