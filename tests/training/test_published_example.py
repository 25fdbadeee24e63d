"""The recipe wan2018 against plain torch: network, margins, centres, schedule, optimiser."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.device import CPU
from advbench.losses import LGM, Center
from advbench.recipes import Training
from advbench.reproduce.experiments import _wan2018
from advbench.reproduce.experiments.mnist import MNIST
from advbench.reproduce.records import PaperModel
from advbench.study.parsing import parse
from advbench.training.loop import Trainer
from advbench.types import ImageSet
from advbench.victim import build

Tensors = dict[str, Tensor]
DATA = 64 * "0"  # a data set's digest


def images(n: int) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(n, 1, 28, 28, generator=rng) / 4  # as dark as digits on the whole
    return ImageSet("made", pixels, torch.arange(n) % 10, tuple("0123456789"))


def trainer_of(loss: str, settings: dict[str, Any], **training: Any) -> Trainer:
    given = {k: v for k, v in _wan2018.TRAINING.items() if k != "all_parts"} | training
    shape: Any = (1, 28, 28)
    network, head = build("lenet-plus", 100, loss, settings, shape=shape, classes=10, seed=0)
    return Trainer(network, head, images(256), images(64), Training(**given), seed=0, device=CPU)


def plain_features(w: Tensors, x: Tensor) -> Tensor:
    """The example's network by hand; `w` are the weights by the names of a state dict."""
    x = x * 255 / 256
    for first, second, slope in ((0, 1, 3), (4, 5, 7), (8, 9, 11)):
        for layer in (first, second):
            padding = 0 if layer == 0 else 1
            x = F.conv2d(x, w[f"layers.{layer}.weight"], w[f"layers.{layer}.bias"], padding=padding)
        x = F.max_pool2d(x, 2)
        x = torch.where(x > 0, x, x * w[f"layers.{slope}.weight"].view(1, -1, 1, 1))
    return x.flatten(1) @ w["layers.13.weight"].T + w["layers.13.bias"]


def plain_lgm(x: Tensor, mu: Tensor, z: Tensor, *, alpha: float, additive: float, lam: float) -> Tensor:
    d = ((x[:, None] - mu) ** 2).sum(dim=2) / 2
    d_z = d.gather(1, z[:, None])
    return F.cross_entropy((-d).scatter(1, z[:, None], -(1 + alpha) * d_z - additive), z) + lam * d_z.mean()


def test_network_loss_and_steps_equal_plain_torch() -> None:
    trainer = trainer_of("lgm", {"rising": True, "lam": 0.03, "additive_margin": 1.0}, head_rate=0.3, batch_size=16)
    w = {k: v.detach().clone().requires_grad_() for k, v in trainer.network.named_parameters()}
    mu = trainer.head.get_parameter("mu").detach().clone().requires_grad_()
    bound = math.sqrt(3 / 100)
    assert bound * 0.95 < mu.abs().max() <= bound
    assert not w["layers.0.bias"].any()
    biases = [v for k, v in w.items() if k.endswith("bias")]
    weights = [v for k, v in w.items() if not k.endswith("bias")]
    plain = torch.optim.SGD(
        [
            {"params": weights, "weight_decay": 0.001},
            {"params": biases, "lr": 0.006},
            {"params": [mu], "lr": 0.0009},
        ],
        lr=0.003,
        momentum=0.9,
    )
    x, z = images(16).load_all(), images(16).labels
    for step in range(3):
        features = plain_features(w, x)
        loss = plain_lgm(features, mu, z, alpha=0.001, additive=0.001, lam=0.03)
        torch.testing.assert_close(trainer._features(x), features, atol=1e-5, rtol=1e-5)
        logits = -((features[:, None] - mu) ** 2).sum(dim=2) / 2
        torch.testing.assert_close(trainer._logits(x), logits, atol=1e-5, rtol=1e-5)
        plain.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        ours, _ = trainer._step(x, z, 0.003)
        torch.testing.assert_close(ours, loss.detach(), atol=1e-5, rtol=1e-5)
        for key, value in trainer.network.named_parameters():
            # later a weight's last bit may decide which of two pixels a pooling takes
            assert value.grad is not None
            torch.testing.assert_close(value.grad, w[key].grad, atol=1e-5 if step == 0 else 1e-3, rtol=1e-4)
        plain.step()
        for key, value in trainer.network.named_parameters():
            torch.testing.assert_close(value, w[key], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(trainer.head.get_parameter("mu"), mu, atol=1e-5, rtol=1e-5)


def test_rate_falls_in_steps_and_training_ends_within_an_epoch() -> None:
    own = {"learning_rate": 1e-4, "decay_every": 4, "batch_size": 32, "head_rate": 3.0}
    trainer = trainer_of("softmax", {"bias": False}, max_steps=10, **own)
    assert [trainer.learning_rate(s) for s in (0, 3, 4, 8)] == pytest.approx([1e-4, 1e-4, 7e-5, 4.9e-5])
    trainer.run()
    assert trainer.steps_per_epoch == 8
    assert [e.learning_rate for e in trainer.epochs] == pytest.approx([7e-5, 4.9e-5])  # of steps 8 and 10
    assert [g["lr_scale"] for g in trainer.optimizer.param_groups] == [1.0, 2.0, 3.0]
    resumed = trainer_of("softmax", {"bias": False}, max_steps=10, **own)
    first = trainer_of("softmax", {"bias": False}, max_steps=8, **own)
    first.run()
    resumed.restore(first.checkpoint())
    resumed.run()
    for key, value in trainer.checkpoint().tensors.items():
        assert torch.equal(value, resumed.checkpoint().tensors[key]), key


def test_margins_rise_in_steps_up_to_their_values() -> None:
    head = LGM(2, 3, alpha=1.0, additive_margin=1.0, rising=True)
    found = {}
    for step in (0, 999, 1000, 1499, 1500, 4499, 4500, 5000, 20_000):
        head.step.fill_(step)
        found[step] = head.margins()
    assert found[0] == found[999] == (0.001, 0.001)
    assert found[1000] == found[1499] == pytest.approx((0.001, 0.005))
    assert found[1500] == pytest.approx((0.01, 0.005))
    assert found[4499] == pytest.approx((0.1, 0.625))
    assert found[4500] == pytest.approx((1.0, 0.625))
    assert found[5000] == found[20_000] == (1.0, 1.0)


def test_optimiser_moves_centres_by_their_mean_residual() -> None:
    torch.manual_seed(0)
    x, z = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 0, 0, 1, 1, 2])
    head, plain = Center(4, 3, solver=True, weight=0.5), Center(4, 3, weight=0.5)
    centres = torch.randn(3, 4)
    head.load_state_dict({**head.state_dict(), "centres": centres})
    plain.load_state_dict({**head.state_dict()})
    loss = head.loss(x, z)
    torch.testing.assert_close(loss, plain.loss(x, z))
    loss.backward()
    counts = (3, 2, 1)
    expected = torch.stack([(centres[j] - x[z == j]).sum(dim=0) / (1 + n) for j, n in enumerate(counts)])
    assert isinstance(head.centres, nn.Parameter)
    torch.testing.assert_close(head.centres.grad, expected.detach())
    head.after_step(x, z)
    assert torch.equal(head.centres, centres)


def test_one_variance_a_class_is_the_density_of_a_round_gaussian() -> None:
    torch.manual_seed(0)
    head, x, z = LGM(5, 3, covariance="isotropic"), torch.randn(7, 5), torch.arange(7) % 3
    assert head.log_var is not None
    with torch.no_grad():
        head.log_var.copy_(torch.tensor([[0.5], [-1.0], [0.2]]))
    scale = (head.log_var / 2).exp().expand(3, 5)
    gaussian = torch.distributions.Independent(torch.distributions.Normal(head.mu[z], scale[z]), 1)
    constant = 5 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(head.log_likelihood(x, z), gaussian.log_prob(x) + constant)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(head(x).gather(1, z[:, None]).squeeze(1), head.log_likelihood(x, z))


def test_younger_settings_are_in_a_record_only_where_they_differ() -> None:
    (old,) = parse({"losses": ["lgm"]}).models()
    before = "epochs batch_size learning_rate momentum weight_decay warmup max_gradient_norm precision full_train"
    assert list(old.record(DATA).training) == before.split()
    assert "rising" not in old.record(DATA).loss
    (new,) = MNIST().spec(PaperModel("lgm1.0", 100, 0, "wan2018")).models()
    record = new.record(DATA)
    assert record.loss["rising"] is True
    assert "additive_margin" not in record.loss
    assert (record.training["max_steps"], record.training["all_parts"]) == (20_000, True)


def test_training_on_all_parts_leaves_no_image_out() -> None:
    from advbench.study.train import parts_of
    from advbench.types import Splits

    (model,) = MNIST().spec(PaperModel("lgm1.0", 100, 0, "wan2018")).models()
    splits = Splits(train=images(50), validation=images(20), calibration=images(30), test=images(10))
    assert len(parts_of(splits, model).train) == 100
