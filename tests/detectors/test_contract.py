"""The contract of every detector in the catalog, and each detector's score against SciPy or a slow loop."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from torch import Tensor

from advbench import catalog
from advbench.detection import Detector, FittedDetector
from advbench.losses import Head
from advbench.losses.center import Center
from advbench.losses.lgm import LGM
from advbench.losses.softmax import Softmax
from advbench.types import Outputs, Splits
from advbench.victim import Victim

DETECTORS = catalog.names("detector")
N, D, K = 20, 3, 4


def fit(name: str, head: Head, outputs: Outputs, labels: Tensor) -> FittedDetector:
    detector: Detector = catalog.load("detector", name)()
    return detector.fit(head, outputs, labels)


@pytest.fixture
def clean(victim: Victim, digits: Splits) -> Outputs:
    return victim.outputs(digits.train.load_all()[:200])


@pytest.fixture
def fitted(request: pytest.FixtureRequest, victim: Victim, clean: Outputs, digits: Splits) -> FittedDetector:
    return fit(request.param, victim.head, clean, digits.train.labels[:200])


def every_detector(test: Any) -> Any:
    return pytest.mark.parametrize("fitted", DETECTORS, indirect=True)(test)


# Every detector


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_a_frozen_record_that_needs_no_settings(name: str) -> None:
    detector = catalog.load("detector", name)()
    assert isinstance(detector, Detector)
    assert dataclasses.is_dataclass(detector)
    assert detector == catalog.load("detector", name)()
    assert type(detector).__dataclass_params__.frozen


@every_detector
def test_scores_are_one_float64_number_per_input(fitted: FittedDetector, clean: Outputs) -> None:
    scores = fitted.score(clean)
    assert scores.dtype == torch.float64
    assert scores.shape == (len(clean),)
    assert not torch.isnan(scores).any()


@every_detector
def test_an_inputs_score_does_not_depend_on_its_batch(fitted: FittedDetector, clean: Outputs) -> None:
    alone = torch.cat([fitted.score(clean.take(slice(i, i + 1))) for i in range(20)])
    np.testing.assert_allclose(alone, fitted.score(clean)[:20], rtol=1e-10)


@every_detector
def test_extreme_outputs_score_a_finite_number(fitted: FittedDetector, clean: Outputs) -> None:
    for scale in (0.0, 1e4, 1e18):
        assert fitted.score(Outputs(clean.features * scale, clean.logits * scale)).isfinite().all()


@every_detector
def test_outputs_that_are_not_numbers_do_not_get_one(fitted: FittedDetector, clean: Outputs) -> None:
    spoilt = Outputs(clean.features.clone(), clean.logits.clone())
    spoilt.features[1], spoilt.logits[1] = torch.nan, torch.nan
    assert fitted.score(spoilt).isnan().nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_second_fit_scores_the_same_to_the_last_bit(name: str, victims: dict[str, Victim], digits: Splits) -> None:
    train, test = (victims["softmax"].outputs(part.load_all()[:200]) for part in (digits.train, digits.test))
    first, second = (fit(name, victims["softmax"].head, train, digits.train.labels[:200]) for _ in range(2))
    assert torch.equal(first.score(test), second.score(test))


OF_A_CLASS = {"class-gaussian", "likelihood", "max-logit"}
OF_ALL_OUTPUTS = {"energy", "knn", "mahalanobis", "max-posterior", "mixture-likelihood"}


@every_detector
def test_the_class_assumed_is_scored_in_place_of_the_predicted_one_or_changes_no_score(
    fitted: FittedDetector, clean: Outputs, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["fitted"]
    assert (name in OF_A_CLASS) != (name in OF_ALL_OUTPUTS)
    for assumed in clean.logits.topk(3, dim=1).indices.T:
        scores = fitted.score(Outputs(clean.features, clean.logits, assumed))
        if name in OF_ALL_OUTPUTS:
            assert torch.equal(scores, fitted.score(clean))
            continue
        others = torch.ones_like(clean.logits, dtype=torch.bool).scatter(1, assumed[:, None], 0)
        predicted = Outputs(clean.features, clean.logits.masked_fill(others, -torch.inf))  # no class beside it
        assert torch.equal(scores, fitted.score(predicted))
        assert torch.equal(scores == fitted.score(clean), assumed == clean.predictions)


@pytest.mark.parametrize("name", DETECTORS)
def test_dead_features_and_missing_classes_leave_every_score_and_gradient_finite(
    name: str, victims: dict[str, Victim], digits: Splits
) -> None:
    head = victims["softmax"].head_in_float64()
    features = victims["softmax"].outputs(digits.train.load_all()[:200]).features.double()
    features[:, 3:6] = 0.0
    labels = digits.train.labels[:200].clone()
    labels[labels == 9] = 8  # no sample of class 9, and one of class 7
    labels[(labels == 7).nonzero()[1:]] = 6
    detector = fit(name, head, Outputs(features, head(features).detach()), labels)
    known = head(features).argmax(dim=1) < 9
    x = (features[known] + 0.5).requires_grad_()
    logits = head(x)
    scores = detector.score(Outputs(x, logits, logits[:, :9].argmax(dim=1)))
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert scores.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", DETECTORS)
def test_fit_leaves_the_head_as_it_is(name: str, clean: Outputs) -> None:
    head = LGM(16, 10, covariance="diagonal")
    before = {k: v.clone() for k, v in head.state_dict().items()}
    fit(name, head, clean, torch.zeros(len(clean), dtype=torch.long)).score(clean)
    after = head.state_dict()
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in before.items())
    assert head.training
    assert all(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_a_fitted_detector_outlives_changes_of_the_head(name: str, clean: Outputs) -> None:
    head = LGM(16, 10, covariance="diagonal")
    detector = fit(name, head, clean, torch.zeros(len(clean), dtype=torch.long))
    before = detector.score(clean)
    with torch.no_grad():
        head.mu.add_(1)
    assert torch.equal(detector.score(clean), before)


@every_detector
def test_score_can_be_differentiated_in_the_outputs(
    fitted: FittedDetector, victim: Victim, clean: Outputs, request: pytest.FixtureRequest
) -> None:
    if not catalog.load("detector", request.node.callspec.params["fitted"]).differentiable:
        pytest.skip("declares itself not differentiable")
    features = (clean.features[:8] * 1.01).double().requires_grad_()  # near the training data, not on them
    head = victim.head_in_float64()

    def score(x: Tensor) -> Tensor:
        return fitted.score(Outputs(x, head(x)))

    assert torch.autograd.gradcheck(score, (features,), atol=1e-4)
    (gradient,) = torch.autograd.grad(score(features).sum(), features)
    assert gradient.any(dim=1).all()


# likelihood


@pytest.fixture
def features(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(0, 2, size=(N, D))).float()


def randomised(head: Head, rng: np.random.Generator) -> Head:
    with torch.no_grad():
        for tensor in (*head.parameters(), *head.buffers()):
            tensor += torch.from_numpy(rng.normal(0, 0.7, size=tuple(tensor.shape)))
    if isinstance(head, LGM):
        head.log_prior.zero_()
    return head


def likelihood_scores(head: Head, features: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with torch.no_grad():
        outputs = Outputs(features, head(features))
    scores = fit("likelihood", head, outputs, torch.zeros(N, dtype=torch.long)).score(outputs)
    assert len(set(outputs.predictions.tolist())) > 1
    return scores.numpy(), outputs.predictions.numpy()


@pytest.mark.parametrize("covariance", ["identity", "diagonal"])
def test_likelihood_of_lgm_is_the_negated_log_density_of_the_predicted_class(
    covariance: str, features: Tensor, rng: np.random.Generator
) -> None:
    head = randomised(LGM(D, K, covariance=covariance), rng)  # type: ignore[arg-type]
    assert isinstance(head, LGM)
    scores, predicted = likelihood_scores(head, features)
    mu = head.mu.detach().double().numpy()
    var = np.ones((K, D)) if head.log_var is None else np.exp(head.log_var.detach().double().numpy())
    density = [
        multivariate_normal.logpdf(x, mu[z], np.diag(var[z]))
        for x, z in zip(features.double().numpy(), predicted, strict=True)
    ]
    np.testing.assert_allclose(scores, -np.array(density) - D / 2 * math.log(2 * math.pi), rtol=1e-12)


def test_likelihood_of_center_is_half_the_squared_distance_to_the_predicted_centre(
    features: Tensor, rng: np.random.Generator
) -> None:
    head = randomised(Center(D, K, weight=0.01), rng)
    assert isinstance(head, Center)
    scores, predicted = likelihood_scores(head, features)
    centres, x = head.centres.double().numpy(), features.double().numpy()
    slow = [sum((x[i, j] - centres[z, j]) ** 2 for j in range(D)) / 2 for i, z in enumerate(predicted)]
    np.testing.assert_allclose(scores, slow, rtol=1e-13)


def test_likelihood_of_softmax_is_the_negated_affinity_of_the_predicted_class(
    features: Tensor, rng: np.random.Generator
) -> None:
    head = randomised(Softmax(D, K), rng)
    assert isinstance(head, Softmax)
    scores, predicted = likelihood_scores(head, features)
    weight, bias = head.linear.weight.detach().double().numpy(), head.linear.bias.detach().double().numpy()
    slow = [-(weight[z] @ x + bias[z]) for x, z in zip(features.double().numpy(), predicted, strict=True)]
    np.testing.assert_allclose(scores, slow, rtol=1e-12)


def test_likelihood_tells_scores_apart_that_float32_would_tie() -> None:
    head = LGM(1, 2)
    head.mu.data = torch.tensor([[0.0], [-1.0]])
    features = torch.tensor([[16384.0], [16384.002]])  # half squares of about 1.3e8, a few units apart
    outputs = Outputs(features, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    low, high = fit("likelihood", head, outputs, torch.tensor([0, 0])).score(outputs).tolist()
    assert [low, high] == [x**2 / 2 for x in features.double().flatten().tolist()]
    assert high > low


# max-posterior


def max_posterior(logits: Tensor) -> Tensor:
    outputs = Outputs(torch.zeros(len(logits), 1), logits)
    return fit("max-posterior", Softmax(1, logits.shape[1]), outputs, torch.zeros(len(logits))).score(outputs)


def test_max_posterior_is_the_negated_log_of_the_largest_posterior(rng: np.random.Generator) -> None:
    logits = rng.normal(0, 3, size=(50, 6))
    np.testing.assert_allclose(
        max_posterior(torch.from_numpy(logits)), -log_softmax(logits, axis=1).max(axis=1), rtol=1e-11
    )


def test_an_undecided_model_scores_the_log_of_the_number_of_classes() -> None:
    for level in (0.0, 1e6, -1e8):
        assert max_posterior(torch.full((1, 10), level)).item() == pytest.approx(math.log(10), rel=1e-14)


def test_posteriors_closer_to_one_than_float64_can_tell_are_still_ranked() -> None:
    leads = torch.tensor([17.0, 40.0, 60.0, 104.0, 300.0, 700.0])
    scores = max_posterior(torch.stack([leads, torch.zeros(6), torch.zeros(6)], dim=1))
    np.testing.assert_allclose(scores, np.log1p(2 * np.exp(-leads.double().numpy())), rtol=1e-12)
    assert (scores.diff() < 0).all()
    assert scores[-1] > 0
