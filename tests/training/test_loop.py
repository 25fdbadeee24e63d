"""Training resumes bit for bit, depends on its seed alone, keeps its schedule; evaluation survives little memory."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench import catalog
from advbench.device import is_out_of_memory
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.losses.softmax import Softmax
from advbench.networks import Network
from advbench.recipes import Training
from advbench.runs.artifacts import within
from advbench.training.loop import Checkpoint, Trainer
from advbench.types import ImageSet, Splits
from advbench.victim import Composed, Victim, build
from tests.helpers.resuming import run_and_resume

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("softmax", {}),
    ("center", {}),
    ("lgm", {"alpha": 0.3}),
    ("lgm", {"alpha": 0.3, "covariance": "diagonal"}),
]


class Noisy(Network):
    """Every kind of state a training can have: weights, running statistics, and random numbers drawn on the way."""

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        pixels = math.prod(shape)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class Hungry(Network):
    """Runs out of memory when more than `limit` images come at once."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__()
        self.feature_dim = 64
        self.limit = limit
        self.error = error
        self.scale = nn.Parameter(torch.ones(()))
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise self.error
        return images.flatten(1) * self.scale


@pytest.fixture
def small(digits: Splits) -> ImageSet:
    return digits.train.take(slice(0, 120))


@pytest.fixture
def validation(digits: Splits) -> ImageSet:
    return digits.validation.take(slice(0, 50))


Make = Callable[..., Trainer]


@pytest.fixture
def trainer(small: ImageSet, validation: ImageSet) -> Make:
    """Makes a trainer of `loss` over the noisy network, or over `network`."""

    def make(
        loss: str = "softmax",
        loss_settings: dict[str, Any] | None = None,
        *,
        network: Network | None = None,
        train: ImageSet = small,
        seed: int = 0,
        native: bool = True,
        **settings: Any,
    ) -> Trainer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = Noisy(SHAPE, 2) if network is None else network
            head = catalog.load("loss", loss)(body.feature_dim, 10, **(loss_settings or {}))
        training = Training(**{"epochs": 4, "batch_size": 32} | settings)
        return Trainer(body, head, train, validation, training, seed=seed, device=CPU, native=lambda device: native)

    return make


def state(trainer: Trainer) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in trainer.checkpoint().tensors.items()}


def rows(trainer: Trainer) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(epoch).items() if k != "seconds"} for epoch in trainer.epochs]


@pytest.mark.parametrize(("loss", "settings"), LOSSES)
@pytest.mark.parametrize("after", [1, 3])
def test_a_resumed_training_ends_in_the_same_bits(
    trainer: Make, loss: str, settings: dict[str, Any], after: int
) -> None:
    whole, resumed = trainer(loss, settings), trainer(loss, settings, seed=99)
    run_and_resume(whole, resumed, after)
    assert state(resumed) == state(whole)
    assert rows(resumed) == rows(whole)


def test_a_checkpoint_does_not_change_while_training_goes_on(trainer: Make) -> None:
    kept: list[tuple[Checkpoint, dict[str, Tensor]]] = []

    def keep(running: Trainer) -> None:
        checkpoint = running.checkpoint()
        kept.append((checkpoint, {k: v.clone() for k, v in checkpoint.tensors.items()}))

    trainer("center").run(keep)
    for checkpoint, copies in kept:
        assert all(torch.equal(checkpoint.tensors[k], v) for k, v in copies.items())
    assert [len(checkpoint.epochs) for checkpoint, _ in kept] == [1, 2, 3, 4]


@pytest.mark.parametrize(("loss", "settings"), LOSSES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    trainer: Make, loss: str, settings: dict[str, Any]
) -> None:
    runs: list[dict[str, bytes]] = []
    for seed in (0, 0, 1):
        running = trainer(loss, settings, seed=seed, epochs=2)
        torch.manual_seed(len(runs))  # the global stream is nobody's business
        running.run()
        runs.append(state(running))
    assert runs[0] == runs[1]
    assert all(runs[0][k] != runs[2][k] for k in runs[0] if k.endswith("weight"))


def test_the_seed_alone_decides_the_order_of_images_and_the_dropout(trainer: Make) -> None:
    first, second = trainer(seed=0, epochs=1), trainer(seed=1, epochs=1)
    second.network.load_state_dict(first.network.state_dict())
    second.head.load_state_dict(first.head.state_dict())
    first.run()
    second.run()
    assert state(first)["rng.order"] != state(second)["rng.order"]
    assert state(first)["network.layers.1.weight"] != state(second)["network.layers.1.weight"]


def test_training_and_building_leave_the_global_random_stream_alone(trainer: Make) -> None:
    running = trainer(epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    running.run()
    build("digits-cnn", 2, "lgm", {}, shape=SHAPE, classes=10, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_built_weights_depend_on_the_seed_alone() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.rand(3)
        network, head = build("digits-cnn", 100, "lgm", {"alpha": 0.5}, shape=SHAPE, classes=10, seed=seed)
        weights.append(torch.cat([p.flatten() for p in (*network.parameters(), *head.parameters())]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("images", "batch_size", "batches"),
    [
        (120, 40, [40, 40, 40]),
        (100, 40, [40, 40, 20]),  # half a batch stays
        (60, 40, [40, 20]),
        (99, 40, [40, 40]),  # less than half is left out
        (59, 40, [40]),
        (101, 40, [40, 40, 21]),
        (10, 40, [10]),  # but an epoch is never empty
    ],
)
def test_an_epoch_draws_every_image_once_but_leaves_out_a_last_batch_of_less_than_half(
    trainer: Make, small: ImageSet, images: int, batch_size: int, batches: list[int]
) -> None:
    hungry = Hungry(1000, RuntimeError())
    seen: list[Tensor] = []
    hungry.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]) if hungry.training else None)
    train = small.take(slice(0, images))
    trainer(network=hungry, train=train, epochs=2, batch_size=batch_size).run()
    assert [len(batch) for batch in seen] == batches * 2
    drawn = torch.cat(seen[: len(batches)])
    assert Counter(map(bytes, drawn.numpy())) <= Counter(map(bytes, train.load_all().numpy()))
    assert not torch.equal(drawn, train.load_all()[: len(drawn)])


# One epoch in numbers


@pytest.mark.parametrize(("batch_size", "drawn"), [(50, 100), (80, 120)])  # twice 50; or 80, then 40
def test_an_epoch_reports_mean_loss_over_images_accuracy_and_validation_error(
    trainer: Make, small: ImageSet, validation: ImageSet, batch_size: int, drawn: int
) -> None:
    running = trainer(network=Hungry(1000, RuntimeError()), epochs=1, batch_size=batch_size, learning_rate=1e-12)
    running.run()  # so slowly that the weights stand still
    head = running.head
    logits = head(small.load_all().flatten(1)).detach()
    (epoch,) = running.epochs
    assert epoch.epoch == 1
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:drawn]
    assert running.steps_per_epoch == 2
    assert epoch.loss == pytest.approx(F.cross_entropy(logits[order], small.labels[order]).item(), rel=1e-5)
    right = (logits[order].argmax(1) == small.labels[order]).float().mean().item()
    assert epoch.accuracy == pytest.approx(right, abs=1e-6)
    predictions = head(validation.load_all().flatten(1)).argmax(1)
    assert epoch.validation_error == pytest.approx(np.mean((predictions != validation.labels).numpy()))
    assert epoch.seconds > 0


def test_progress_is_told_in_every_batch_and_of_validation(trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advbench.victim.meter.PAUSE", -1)
    told: list[tuple[float, float, float]] = []
    running = trainer(epochs=1, batch_size=40)
    running.run(on_batch=lambda *row: told.append(row))
    done = [images for images, _, _ in told]
    assert done == sorted(done)
    assert {0, 40, 80, 120, 120 + len(running.validation)} <= set(done)
    assert sum(40 < images < 80 for images in done) == 2  # the second batch, forward and back
    assert told[-1][1:] == pytest.approx((running.epochs[0].loss, running.epochs[0].accuracy))


def test_validation_counts_every_image_in_evaluation_mode(trainer: Make, digits: Splits) -> None:
    running = trainer()
    many = digits.train.take(slice(0, 700))  # more than one validation batch
    running.validation = many
    running.network.train()
    error = running.validation_error()
    assert not running.network.training
    assert not running.head.training
    with torch.no_grad():
        wrong = [
            int(running.head(running.network(x[None])).argmax() != z)
            for x, z in zip(many.load_all(), many.labels, strict=True)
        ]
    assert error == pytest.approx(np.mean(wrong), abs=1e-9)


def test_training_learns_digits(trainer: Make, digits: Splits) -> None:
    running = trainer("lgm", {"alpha": 0.1}, train=digits.train, epochs=6, learning_rate=0.1)
    running.run()
    assert running.epochs[-1].loss < running.epochs[0].loss / 2
    assert running.epochs[-1].validation_error < 0.5 < running.epochs[0].validation_error


def test_one_step_is_sgd_with_nesterov_momentum_and_weight_decay(trainer: Make, small: ImageSet) -> None:
    images = small.take(slice(0, 40))
    running = trainer(
        network=Hungry(1000, RuntimeError()), train=images, epochs=2, batch_size=40, learning_rate=0.1, warmup=0
    )
    assert isinstance(running.head, Softmax)
    w = running.head.linear.weight.detach().double().clone()
    b = running.head.linear.bias.detach().double().clone()
    scale = torch.ones((), dtype=torch.float64)
    momentum = [torch.zeros_like(t) for t in (w, b, scale)]
    running.run()
    x, z = images.load_all().flatten(1).double(), images.labels
    for step in range(2):
        rate = 0.1 * (1 + math.cos(math.pi * step / 2)) / 2
        leaves = [t.clone().requires_grad_() for t in (w, b, scale)]
        loss = F.cross_entropy(x * leaves[2] @ leaves[0].T + leaves[1], z)
        for i, (leaf, gradient) in enumerate(zip(leaves, torch.autograd.grad(loss, leaves), strict=True)):
            decayed = gradient + 5e-4 * leaf.detach()
            momentum[i] = decayed if step == 0 else 0.9 * momentum[i] + decayed
            leaves[i] = leaf.detach() - rate * (decayed + 0.9 * momentum[i])
        w, b, scale = leaves
    torch.testing.assert_close(running.head.linear.weight.detach().double(), w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(running.head.linear.bias.detach().double(), b, rtol=1e-5, atol=1e-6)


def test_means_and_variances_of_lgm_do_not_decay_and_variances_learn_slowly(trainer: Make) -> None:
    running = trainer("lgm", {"covariance": "diagonal"}, weight_decay=0.01)
    running.run()
    assert [(g["weight_decay"], g["lr_scale"]) for g in running.optimizer.param_groups] == [
        (0.01, 1.0),
        (0.0, 1.0),
        (0.0, 0.1),
    ]
    rates = [g["lr"] for g in running.optimizer.param_groups]
    assert rates[1] == rates[0]
    assert rates[2] == pytest.approx(rates[0] / 10)


def test_without_momentum_the_optimiser_is_plain_sgd(trainer: Make) -> None:
    running = trainer(epochs=1, momentum=0.0)
    running.run()
    assert not within(running.checkpoint().tensors, "optimizer")


def test_centres_move_after_the_step_by_the_features_of_the_batch(trainer: Make, small: ImageSet) -> None:
    images = small.take(slice(0, 40))
    running = trainer(
        "center", {"centre_step": 0.5}, network=Hungry(1000, RuntimeError()), train=images, epochs=1, batch_size=40
    )
    running.learning_rate = lambda step: 0.0  # type: ignore[method-assign]
    running.run()
    x, z = images.load_all().flatten(1), images.labels
    slow = torch.stack([0.5 * x[z == j].sum(0) / (1 + (z == j).sum()) for j in range(10)])
    torch.testing.assert_close(running.head.centres, slow)


def test_bf16_leaves_weights_and_head_in_float32(trainer: Make, small: ImageSet) -> None:
    plain, mixed = trainer(epochs=1), trainer(epochs=1, precision="bf16")
    plain.run()
    mixed.run()
    assert {t.dtype for t in mixed.head.state_dict().values()} == {torch.float32}
    assert mixed.network.layers[1].weight.dtype == torch.float32  # type: ignore[index, union-attr]
    assert mixed.epochs[0].loss == pytest.approx(plain.epochs[0].loss, rel=0.02)
    assert mixed.epochs[0].loss != plain.epochs[0].loss
    assert small.load_all().dtype == torch.float32


# The learning rate


@pytest.fixture
def schedule(trainer: Make) -> Callable[[float], list[float]]:
    """Learning rates of all steps of ten epochs of six steps, for a warm-up of so many epochs."""

    def rates(warmup: float) -> list[float]:
        running = trainer(epochs=10, batch_size=20, learning_rate=0.4, warmup=warmup)
        assert running.steps_per_epoch == 6
        return [running.learning_rate(step) for step in range(61)]

    return rates


def test_the_learning_rate_rises_linearly_to_its_peak_and_falls_by_half_a_cosine_to_zero(
    schedule: Callable[[float], list[float]],
) -> None:
    rates = schedule(2)
    np.testing.assert_allclose(rates[:13], 0.4 * np.arange(1, 14) / 13, rtol=1e-12)
    assert max(rates) == rates[12] == 0.4
    np.testing.assert_allclose(rates[12:], 0.2 + 0.2 * np.cos(np.linspace(0, np.pi, 49)), atol=1e-12)
    assert rates[60] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("warmup", [10, 30])
def test_a_warm_up_as_long_as_the_training_only_rises(
    schedule: Callable[[float], list[float]], warmup: float
) -> None:
    rates = schedule(warmup)[:60]
    assert all(0 < a < b <= 0.4 for a, b in itertools.pairwise(rates))


def test_the_reported_learning_rate_is_that_of_the_epochs_last_step(trainer: Make) -> None:
    running = trainer(epochs=3, warmup=1)
    running.run()
    steps = running.steps_per_epoch
    assert [e.learning_rate for e in running.epochs] == [running.learning_rate(n * steps - 1) for n in (1, 2, 3)]
    assert running.optimizer.param_groups[0]["lr"] == running.epochs[-1].learning_rate


# Refusals


@pytest.mark.parametrize("loss", ["softmax", "center", "lgm"])
def test_a_diverging_training_is_refused_with_a_lower_learning_rate(
    trainer: Make, dense: type[Network], loss: str
) -> None:
    running = trainer(loss, network=dense(SHAPE, 16), learning_rate=1e12, warmup=0, momentum=0.0)
    with pytest.raises(BadSetting, match=r"diverged in epoch [1-4].*learning_rate below 1e\+12"):
        running.run()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_batch_too_large_for_the_memory_is_refused_with_half_of_it(trainer: Make, error: Exception) -> None:
    with pytest.raises(BadSetting, match=r"batch of 32 images.*cpu; try --train-batch-size 16"):
        trainer(network=Hungry(31, error)).run()


def test_another_error_of_the_network_is_passed_on(trainer: Make) -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer(network=Hungry(31, RuntimeError("shapes do not fit"))).run()


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"momentum": -0.1},
        {"weight_decay": -1e-4},
        {"warmup": -1.0},
    ],
)
def test_training_settings_outside_their_range_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=next(iter(bad))):
        Training(**bad)


# Evaluation in batches


def hungry_victim(limit: int, error: Exception, batch_size: int) -> tuple[Victim, Hungry, list[str]]:
    network, said = Hungry(limit, error), list[str]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head: Head = Softmax(64, 10)
    victim = Victim(
        Composed(network, head), shape=SHAPE, classes=10, device=CPU, batch_size=batch_size, say=said.append
    )
    return victim, network, said


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_running_out_of_memory_halves_the_batch_says_so_and_gives_the_same_outputs(
    error: Exception, few: ImageSet
) -> None:
    victim, network, said = hungry_victim(3, error, 17)
    outputs = victim.outputs(few.load_all())
    assert network.sizes == [17, 9, 5, *[3] * 8]
    assert victim.batch_size == 3
    assert len(said) == 3
    assert [next(n for n in ("9", "5", "3") if f" {n} images" in text) for text in said] == ["9", "5", "3"]
    roomy = hungry_victim(1000, error, 17)[0].outputs(few.load_all())
    assert torch.equal(outputs.features, roomy.features)
    torch.testing.assert_close(outputs.logits, roomy.logits)


def test_what_was_done_before_memory_ran_out_is_kept_and_the_smaller_batch_stays() -> None:
    victim, _, said = hungry_victim(1000, MemoryError(), 4)
    seen: list[tuple[int, int]] = []

    def work(part: slice) -> range:
        if part.start == 4 and part.stop - part.start > 2:
            raise MemoryError
        seen.append((part.start, part.stop))
        return range(part.start, part.stop)

    results = victim.in_batches(11, work)
    assert [i for part in results for i in part] == list(range(11))
    assert seen == [(0, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    assert len(said) == 1
    assert victim.in_batches(3, lambda part: part.stop - part.start) == [2, 1]


def test_one_image_that_does_not_fit_is_refused_and_another_error_passed_on_at_once(few: ImageSet) -> None:
    victim, network, _ = hungry_victim(0, MemoryError(), 4)
    with pytest.raises(BadSetting, match="one image does not fit into the memory of cpu"):
        victim.outputs(few.load_all())
    assert network.sizes == [4, 2, 1]
    victim, network, said = hungry_victim(0, RuntimeError("shapes do not fit"), 4)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        victim.outputs(few.load_all())
    assert (network.sizes, said) == ([4], [])


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_errors_about_memory_are_told_from_others(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError(str(error)))
    assert not is_out_of_memory(RuntimeError("memory format is not supported"))
    assert not is_out_of_memory(RuntimeError("already allocated twice"))


def test_outputs_are_features_and_logits_of_one_forward_pass(victim: Victim, few: ImageSet) -> None:
    outputs = victim.outputs(few.load_all())
    with torch.no_grad():
        features = victim.network(few.load_all())
        logits = victim.head(features)
    assert torch.equal(outputs.features, features)
    assert torch.equal(outputs.logits, logits)
    assert torch.equal(outputs.predictions, victim.model(few.load_all()).argmax(1))
    assert not outputs.logits.requires_grad


def test_a_victim_is_frozen_and_in_evaluation_mode() -> None:
    network = Noisy(SHAPE, 2).train()
    victim = Victim(Composed(network, Softmax(2, 10)), shape=SHAPE, classes=10, device=CPU)
    assert not any(module.training for module in victim.model.modules())
    assert not any(p.requires_grad for p in victim.model.parameters())
