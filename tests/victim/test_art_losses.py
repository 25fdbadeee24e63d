"""What attacks ascend: cross-entropy in full precision and saturated, and the full losses without their margins."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from torch import Tensor

from advbench.losses.center import Center
from advbench.losses.lgm import LGM
from advbench.losses.softmax import Softmax
from advbench.victim.art_losses import CrossEntropy, ExactCrossEntropy, FullLoss, class_index

N, K, D = 6, 5, 3
LEADS = (50.0, 200.0, 1000.0)


@pytest.fixture
def logits(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(0, 3, size=(N, K)))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(N) % K


def gradient(loss: torch.nn.Module, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value: Tensor = loss(logits, labels)
    (grad,) = torch.autograd.grad(value, logits)
    return value.detach(), grad


def ahead(lead: float) -> Tensor:
    """float32 logits whose class 0 leads the others, which differ among themselves."""
    return torch.tensor([[lead, 0.0, -1.0, -3.0]])


def test_class_indices_are_read_from_indices_and_from_one_hot_rows(labels: Tensor) -> None:
    assert torch.equal(class_index(labels), labels)
    assert torch.equal(class_index(F.one_hot(labels, K).float()), labels)
    assert class_index(labels.int()).dtype == torch.int64


@pytest.mark.parametrize("loss", [CrossEntropy(), ExactCrossEntropy()])
def test_the_value_is_the_sum_of_each_images_cross_entropy(
    loss: torch.nn.Module, logits: Tensor, labels: Tensor
) -> None:
    expected = -log_softmax(logits.numpy(), axis=1)[np.arange(N), labels.numpy()].sum()
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    assert loss(logits, F.one_hot(labels, K)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [CrossEntropy(), ExactCrossEntropy()])
def test_an_images_gradient_does_not_depend_on_its_batch(
    loss: torch.nn.Module, logits: Tensor, labels: Tensor
) -> None:
    together = gradient(loss, logits, labels)[1]
    alone = torch.cat([gradient(loss, logits[[i]], labels[[i]])[1] for i in range(N)])
    assert torch.equal(together, alone)


def test_cross_entropy_gradient_is_posterior_minus_one_hot(logits: Tensor, labels: Tensor) -> None:
    expected = softmax(logits.numpy(), axis=1) - np.eye(K)[labels.numpy()]
    np.testing.assert_allclose(gradient(CrossEntropy(), logits, labels)[1], expected, atol=1e-14)


def test_exact_gradient_times_the_miss_is_the_cross_entropy_gradient(logits: Tensor, labels: Tensor) -> None:
    miss = 1 - logits.softmax(1).gather(1, labels[:, None])
    exact = gradient(ExactCrossEntropy(), logits, labels)[1]
    torch.testing.assert_close(exact * miss, gradient(CrossEntropy(), logits, labels)[1], rtol=1e-11, atol=1e-13)


def test_exact_gradient_takes_one_from_the_true_class_and_gives_it_to_the_others(
    logits: Tensor, labels: Tensor
) -> None:
    exact = gradient(ExactCrossEntropy(), logits * 30, labels)[1]
    torch.testing.assert_close(exact.gather(1, labels[:, None]), -torch.ones(N, 1, dtype=torch.float64))
    torch.testing.assert_close(exact.sum(1), torch.zeros(N, dtype=torch.float64))


@pytest.mark.parametrize("lead", LEADS)
def test_exact_gradient_points_the_way_where_the_float32_loss_is_exactly_zero(lead: float) -> None:
    z = torch.tensor([0])
    assert F.cross_entropy(ahead(lead), z).item() == 0
    others = np.exp([0.0, -1.0, -3.0])
    grad = gradient(ExactCrossEntropy(), ahead(lead), z)[1]
    np.testing.assert_allclose(grad[0], [-1.0, *(others / others.sum())], rtol=1e-6)


@pytest.mark.parametrize("lead", LEADS)
def test_exact_value_is_right_where_the_float32_loss_is_exactly_zero(lead: float) -> None:
    value = gradient(ExactCrossEntropy(), ahead(lead), torch.tensor([0]))[0]
    tail = math.log1p(sum(math.exp(other - lead) for other in (0.0, -1.0, -3.0)))
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(tail, rel=1e-12)


def test_exact_value_grows_with_the_lead_of_a_wrong_class() -> None:
    value, grad = gradient(ExactCrossEntropy(), ahead(1000.0), torch.tensor([2]))
    assert value.item() == pytest.approx(1001.0, abs=1e-9)
    np.testing.assert_allclose(grad[0], [1.0, 0.0, -1.0, 0.0], atol=1e-12)


def test_exact_gradient_comes_in_the_precision_of_the_logits_and_scales_with_the_outer_one(labels: Tensor) -> None:
    logits = torch.zeros(N, K, requires_grad=True)
    (3 * ExactCrossEntropy()(logits, labels)).backward()
    assert isinstance(logits.grad, Tensor)
    assert logits.grad.dtype == torch.float32
    expected = 3 * (torch.ones(N, K) / (K - 1)).scatter(1, labels[:, None], -1.0)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("covariance", ["identity", "diagonal"])
def test_full_loss_of_lgm_is_classification_plus_lambda_likelihood_without_a_margin(
    rng: np.random.Generator, labels: Tensor, covariance: str
) -> None:
    head = LGM(D, K, alpha=2.0, lam=0.3, covariance=covariance).double()  # type: ignore[arg-type]
    var = np.ones((K, D))
    if head.log_var is not None:
        var = np.exp(rng.uniform(-1, 1, size=(K, D)))
        head.log_var.data = torch.from_numpy(np.log(var))
    mu = head.mu.detach().numpy()
    x = rng.normal(size=(N, D))
    slow = 0.0
    for i, z in enumerate(labels.tolist()):
        d = [((x[i] - mu[k]) ** 2 / var[k]).sum() / 2 for k in range(K)]
        density = [math.prod(var[k]) ** -0.5 * math.exp(-d[k]) for k in range(K)]
        slow += -math.log(density[z] / sum(density)) + 0.3 * (d[z] + math.log(math.prod(var[z])) / 2)
    assert FullLoss(head)(torch.from_numpy(x), labels).item() == pytest.approx(slow, rel=1e-12)


def test_full_loss_of_center_adds_the_weighted_distance_to_the_centre(
    rng: np.random.Generator, labels: Tensor
) -> None:
    head = Center(D, K, weight=0.2).double()
    head.centres = torch.from_numpy(rng.normal(size=(K, D)))
    x = torch.from_numpy(rng.normal(size=(N, D)))
    affinity = (x @ head.linear.weight.T + head.linear.bias).detach().numpy()
    distances = ((x - head.centres[labels]) ** 2).sum().item() / 2
    expected = -log_softmax(affinity, axis=1)[np.arange(N), labels.numpy()].sum() + 0.2 * distances
    assert FullLoss(head)(x, labels).item() == pytest.approx(expected, rel=1e-12)


def test_full_loss_of_softmax_is_its_cross_entropy(rng: np.random.Generator, labels: Tensor) -> None:
    head = Softmax(D, K).double()
    x = torch.from_numpy(rng.normal(size=(N, D)))
    assert FullLoss(head)(x, F.one_hot(labels, K)).item() == CrossEntropy()(head(x), labels).item()


def test_exact_full_loss_keeps_the_gradient_that_float32_bends() -> None:
    head = Softmax(D, 3)
    head.linear.weight.data = torch.tensor([[30.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]])  # class 0 leads by about 30
    head.linear.bias.data.zero_()
    x, z = torch.ones(1, D), torch.tensor([0])
    weight = head.linear.weight.detach().double().numpy()
    odds = np.exp(weight.sum(axis=1) - weight.sum(axis=1).max())
    true_gradient = ((odds[1:, None] * (weight[1:] - weight[0])).sum(axis=0) / odds.sum()).astype(np.float32)
    plain, exact = x.clone().requires_grad_(), x.clone().requires_grad_()
    FullLoss(head)(plain, z).backward()
    FullLoss(head.double(), exact=True)(exact, z).backward()
    assert isinstance(plain.grad, Tensor)
    assert isinstance(exact.grad, Tensor)
    np.testing.assert_allclose(exact.grad[0], true_gradient, rtol=1e-3)  # 1 - p_z has four digits left in float64
    assert exact.grad.dtype == torch.float32
    assert plain.grad[0, 0] == 0 > true_gradient[0]
