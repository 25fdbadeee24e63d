"""L-Softmax against pytorch-metric-learning, the paper's piecewise definition, and plain softmax."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import LargeMarginSoftmaxLoss
from torch import Tensor

from advbench.losses.l_softmax import LSoftmax, angular_margin

N, D, K = 40, 7, 5


def random_batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=rng).double() * 3, torch.randint(K, (N,), generator=rng)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_the_whole_margin_equals_pytorch_metric_learning(margin: int) -> None:
    features, labels = random_batch()
    head = LSoftmax(D, K, margin=margin, floor=0.0).double()
    oracle = LargeMarginSoftmaxLoss(K, D, margin=margin)
    oracle.W.data = head.linear.weight.data.T.clone()
    mine, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss, expected = head.loss(mine, labels), oracle(theirs, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 7])
def test_psi_is_the_papers_piecewise_cosine(margin: int) -> None:
    theta = np.linspace(0.001, math.pi - 0.001, 999)
    piece = np.floor(theta * margin / math.pi)
    expected = (-1) ** piece * np.cos(margin * theta) - 2 * piece
    np.testing.assert_allclose(angular_margin(torch.from_numpy(np.cos(theta)), margin), expected, atol=1e-8)


def test_evaluation_logits_carry_no_margin() -> None:
    features, _ = random_batch()
    head = LSoftmax(D, K, floor=0.0).double()
    torch.testing.assert_close(head(features), features @ head.linear.weight.T)


def test_the_plain_logit_fades_over_the_announced_share_of_the_training() -> None:
    features, labels = random_batch()
    head = LSoftmax(D, K, start=99.0, floor=0.0, anneal=0.5).double()
    head.prepare(20)
    blends = []
    for _ in range(20):
        blends.append(float(head.blend()))
        head.after_step(features, labels)
    assert blends[0] == pytest.approx(99)
    assert blends[5] == pytest.approx(9)  # half-way down in 1 + l, on a log scale: 100, 10, 1
    assert blends[10:] == pytest.approx([0.0] * 10)
    plain = features @ head.linear.weight.T
    own = labels[:, None]
    full = head.margin_logits(features, labels).gather(1, own)
    head.step.zero_()
    first = head.margin_logits(features, labels).gather(1, own)
    torch.testing.assert_close(first, (99 * plain.gather(1, own) + full) / 100)


def test_without_an_announced_training_the_floor_holds_from_the_first_step() -> None:
    assert float(LSoftmax(D, K, floor=0.5).blend()) == pytest.approx(0.5)


def test_an_all_zero_feature_has_a_finite_loss_and_gradient() -> None:
    features = torch.zeros(K, D, requires_grad=True)
    head = LSoftmax(D, K, floor=0.0)
    head.loss(features, torch.arange(K)).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(head.linear.weight.grad).all()  # type: ignore[arg-type]
