"""The contract of every attack in the catalog, and the fast gradient steps against closed forms and plain torch."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from scipy.special import softmax
from torch import Tensor

from advbench import catalog, settings
from advbench.errors import BadSetting
from advbench.evasion import AdaptiveAttack, Attack, FromSurrogate, Noise
from advbench.losses import Head
from advbench.losses.lgm import LGM
from advbench.types import ImageSet, Perturbed, Splits
from advbench.victim import Composed, Victim, build
from advbench.victim.art_losses import CrossEntropy

CPU = torch.device("cpu")
EPS = 0.125  # a power of two: x +- eps is exact on the 17 grey levels of the digits
TOLERANCE = 1e-6
ATTACKS = [n for n in catalog.names("attack") if not issubclass(catalog.load("attack", n), AdaptiveAttack)]  # evasion
NOISE = [n for n in ATTACKS if issubclass(catalog.load("attack", n), Noise)]
Linear = Callable[..., Victim]


INDEPENDENT = [n for n in ATTACKS if catalog.load("attack", n).independent]
ALWAYS_CLIPPED = {"autoattack"}
LIGHT = {"steps": 6, "queries": 300}  # enough for a contract


def attack(name: str, **options: Any) -> Attack | FromSurrogate:
    """An attack with these settings, and a light version of those that make it slow."""
    cls = catalog.load("attack", name)
    light = {k: v for k, v in LIGHT.items() if k in settings.defaults(cls)}
    made: Attack | FromSurrogate = cls(**(light | options))
    return made


def perturb(
    which: Attack | FromSurrogate, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor | None = None
) -> Perturbed:
    """The attack's result; one that needs a surrogate gets the victim itself."""
    batch = victim, images, labels, torch.arange(len(images)) if seeds is None else seeds
    return which.perturb(*batch, victim) if isinstance(which, FromSurrogate) else which.perturb(*batch)


def bits(victim: Victim) -> list[bytes]:
    return [t.numpy().tobytes() for t in victim.model.state_dict().values()]


# Every attack


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_frozen_record_of_keyword_settings_with_defaults(name: str) -> None:
    cls = catalog.load("attack", name)
    assert issubclass(cls, (Attack, FromSurrogate))
    fields = dataclasses.fields(cls)
    assert {f.name for f in fields} == set(settings.defaults(cls))
    assert {"eps", "clip"} <= {f.name for f in fields}
    assert cls().clip is True
    assert cls().norm in ("linf", "l2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().eps = 0.1


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("eps", [0.0, -0.1, 1.0000001, 8.0, math.nan, math.inf])
def test_an_eps_outside_its_range_is_refused_with_the_way_to_write_grey_levels(name: str, eps: float) -> None:
    with pytest.raises(BadSetting, match=rf"eps = {eps!r} is outside .* 8/255"):
        attack(name, eps=eps)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("eps", [8 / 255, EPS, 0.3, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_perturbation_stays_in_budget_and_range(
    name: str, eps: float, clip: bool, victim: Victim, few: ImageSet
) -> None:
    if name in ALWAYS_CLIPPED and not clip:
        pytest.skip("always clips")
    which = attack(name, eps=eps, clip=clip)
    images = perturb(which, victim, few.load_all(), few.labels).images
    delta = (images.double() - few.load_all().double()).flatten(1)
    size = delta.abs().amax(dim=1) if which.norm == "linf" else delta.norm(dim=1)
    assert images.dtype == torch.float32
    assert images.shape == few.load_all().shape
    assert (size <= eps + TOLERANCE).all()
    assert size.max() > eps - TOLERANCE
    if clip:
        assert images.min() >= 0
        assert images.max() <= 1
    else:
        assert images.min() < -eps * 2 / 3
        assert images.max() > 1 + eps * 2 / 3


@pytest.mark.parametrize("name", ATTACKS)
def test_input_model_and_mode_stay_untouched(name: str, victim: Victim, few: ImageSet) -> None:
    images, labels, weights = few.load_all().clone(), few.labels.clone(), bits(victim)
    perturb(attack(name), victim, images, labels)
    assert torch.equal(images, few.load_all())
    assert torch.equal(labels, few.labels)
    assert bits(victim) == weights
    assert not any(module.training for module in victim.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in victim.model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seeds_give_the_same_bytes(name: str, victim: Victim, few: ImageSet) -> None:
    first = perturb(attack(name), victim, few.load_all(), few.labels).images
    torch.rand(3)  # the global stream has moved on
    assert torch.equal(perturb(attack(name), victim, few.load_all(), few.labels).images, first)


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("sizes", [[1] * 24, [7, 17], [23, 1]])
def test_results_do_not_depend_on_the_batch_split(
    name: str, sizes: list[int], rng: np.random.Generator, linear_victim: Linear
) -> None:
    weight = rng.integers(-4, 5, size=(2, 16)) / 4
    weight[1] += 1 / 8  # the rows differ in every pixel, so that no gradient is as small as rounding
    model = linear_victim(torch.from_numpy(weight), height=4)
    images = torch.from_numpy(rng.integers(0, 9, size=(24, 1, 4, 4)) / 8).float()
    labels = torch.from_numpy(rng.integers(0, 2, size=24))
    which = attack(name, eps=EPS)
    whole = perturb(which, model, images, labels)
    cuts = [0, *itertools.accumulate(sizes)]
    seeds = torch.arange(24)
    parts = [perturb(which, model, images[a:b], labels[a:b], seeds[a:b]) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
    for field in ("gradients", "forwards", "zero_gradients", "first_success"):
        assert torch.equal(torch.cat([getattr(p, field) for p in parts]), getattr(whole, field))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_on_a_trained_model_the_batch_split_moves_at_most_a_stray_pixel(
    name: str, victim: Victim, few: ImageSet
) -> None:
    whole = perturb(attack(name), victim, few.load_all(), few.labels).images
    alone = torch.cat(
        [
            perturb(attack(name), victim, few.load_all()[[i]], few.labels[[i]], torch.tensor([i])).images
            for i in range(len(few))
        ]
    )
    assert ((whole - alone).abs() < 1e-4).float().mean() > 0.998


@pytest.mark.parametrize("name", ATTACKS)
def test_the_record_counts_passes_and_targets_per_image(name: str, victim: Victim, few: ImageSet) -> None:
    made = perturb(attack(name), victim, few.load_all(), few.labels)
    for field in (made.gradients, made.forwards, made.first_success):
        assert field.dtype == torch.int64
        assert field.shape == few.labels.shape
    assert (made.forwards >= 1).all() or name in NOISE
    assert bool(made.gradients.any()) == attack(name).differentiates
    assert (made.first_success <= torch.maximum(made.gradients, made.forwards)).all()
    assert (made.zero_gradients is None) == (name == "autoattack")
    if made.zero_gradients is not None:
        assert made.zero_gradients.dtype == torch.bool
        assert made.zero_gradients.shape == few.labels.shape
    assert (made.targets is None) != catalog.load("attack", name).targeted


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_works_on_a_single_image(name: str, victim: Victim, few: ImageSet) -> None:
    made = perturb(attack(name), victim, few.load_all()[:1], few.labels[:1])
    assert made.images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in NOISE])
def test_an_attack_makes_errors(name: str, victim: Victim, digits: Splits) -> None:
    images, labels = digits.test.load_all(), digits.test.labels
    wrong = victim.outputs(images).predictions != labels
    after = victim.outputs(perturb(attack(name), victim, images, labels).images).predictions != labels
    assert wrong.float().mean() < 0.15
    assert after.float().mean() > 0.5


# Fast gradient steps on linear models


@pytest.mark.parametrize("z", [0, 1])
@pytest.mark.parametrize("exact", [False, True])
def test_fgsm_on_a_binary_linear_model_steps_along_the_sign_of_the_weight_difference(
    z: int, exact: bool, rng: np.random.Generator, linear_victim: Linear
) -> None:
    weight, bias = rng.normal(size=(2, 16)), torch.from_numpy(rng.normal(size=2))
    images = torch.from_numpy(rng.uniform(0.2, 0.8, size=(5, 1, 4, 4))).float()
    made = perturb(
        attack("fgsm", eps=EPS, exact_gradient=exact),
        linear_victim(torch.from_numpy(weight), bias, height=4),
        images,
        torch.full((5,), z),
    )
    step = EPS * np.sign(weight[1 - z] - weight[z]).reshape(1, 4, 4)
    np.testing.assert_allclose(made.images, images.numpy() + step, atol=1e-7)


@pytest.mark.parametrize("z", [0, 1])
def test_no_corner_of_the_box_has_a_larger_loss_than_fgsm_finds_on_a_binary_linear_model(
    z: int, rng: np.random.Generator, linear_victim: Linear
) -> None:
    victim = linear_victim(torch.from_numpy(rng.normal(size=(2, 8))))
    image = torch.from_numpy(rng.uniform(0.2, 0.8, size=(1, 1, 1, 8))).float()
    made = perturb(attack("fgsm", eps=EPS), victim, image, torch.tensor([z]))
    corners = torch.tensor(list(itertools.product([-EPS, EPS], repeat=8))).reshape(-1, 1, 1, 8)
    losses = F.cross_entropy(victim.outputs(image + corners).logits, torch.full((256,), z), reduction="none")
    reached = F.cross_entropy(victim.outputs(made.images).logits, torch.tensor([z]))
    assert reached.item() == pytest.approx(losses.max().item(), rel=1e-6)
    assert losses.max() > losses.min() + 0.1


@pytest.mark.parametrize("exact", [False, True])
def test_fgsm_on_a_linear_softmax_model_follows_the_gradient_of_the_cross_entropy(
    exact: bool, rng: np.random.Generator, linear_victim: Linear
) -> None:
    weight = rng.normal(size=(5, 12))
    images = rng.uniform(0.2, 0.8, size=(30, 1, 1, 12))
    z = rng.integers(0, 5, size=30)
    p = softmax(images.reshape(30, 12) @ weight.T, axis=1)
    gradient = np.stack([sum(p[i, k] * weight[k] for k in range(5)) - weight[z[i]] for i in range(30)])
    made = perturb(
        attack("fgsm", eps=EPS, exact_gradient=exact),
        linear_victim(torch.from_numpy(weight)),
        torch.from_numpy(images).float(),
        torch.from_numpy(z),
    )
    np.testing.assert_allclose(made.images, images + EPS * np.sign(gradient).reshape(images.shape), atol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_targeted_fgsm_on_a_binary_linear_model_steps_towards_the_runner_up(
    exact: bool, rng: np.random.Generator, linear_victim: Linear
) -> None:
    weight = rng.normal(size=(2, 16))
    halfway = torch.from_numpy((weight[1] - weight[0]).sum() / 2 * np.array([1.0, 0.0]))
    victim = linear_victim(torch.from_numpy(weight), halfway, height=4)  # either class wins about as often
    images = torch.from_numpy(rng.uniform(0.2, 0.8, size=(20, 1, 4, 4))).float()
    made = perturb(
        attack("targeted-fgsm", eps=EPS, exact_gradient=exact), victim, images, torch.zeros(20, dtype=torch.long)
    )
    t = 1 - victim.outputs(images).predictions
    assert set(t.tolist()) == {0, 1}
    assert isinstance(made.targets, Tensor)
    assert torch.equal(made.targets, t)
    step = EPS * np.sign(weight[t.numpy()] - weight[1 - t.numpy()]).reshape(-1, 1, 4, 4)
    np.testing.assert_allclose(made.images, images.numpy() + step, atol=1e-7)


@pytest.mark.parametrize("exact", [False, True])
def test_targeted_fgsm_on_lgm_descends_equation_23_without_the_margin(
    exact: bool, rng: np.random.Generator, linear_victim: Linear
) -> None:
    lam = 0.4
    head = LGM(12, 4, alpha=3.0, lam=lam)
    head.mu.data = torch.from_numpy(rng.uniform(0, 1, size=(4, 12))).float()
    network = linear_victim(torch.zeros(4, 12)).network
    victim = Victim(Composed(network, head), shape=(1, 1, 12), classes=4, device=CPU)
    x = rng.uniform(0.2, 0.8, size=(30, 12)).astype(np.float32).astype(np.float64)
    mu = head.mu.double().numpy()
    d = np.array([[((x[i] - mu[k]) ** 2).sum() / 2 for k in range(4)] for i in range(30)])
    p = softmax(-d, axis=1)
    t = np.argsort(-p, axis=1)[:, 1]
    gradient = np.zeros_like(x)
    for i in range(30):
        gradient[i] = (1 - p[i, t[i]] + lam) * (x[i] - mu[t[i]])
        gradient[i] -= sum(p[i, k] * (x[i] - mu[k]) for k in range(4) if k != t[i])
    images = torch.from_numpy(x).float().reshape(30, 1, 1, 12)
    made = perturb(
        attack("targeted-fgsm", eps=EPS, exact_gradient=exact), victim, images, torch.zeros(30, dtype=torch.long)
    )
    clear = np.abs(gradient) > 1e-5
    assert clear.mean() > 0.99
    moved = (made.images - images).reshape(30, 12).numpy()
    np.testing.assert_allclose(moved[clear], -EPS * np.sign(gradient)[clear], atol=1e-6)


def test_a_saturated_model_stops_fgsm_and_the_stop_is_reported(linear_victim: Linear) -> None:
    weight = torch.tensor([[400.0] * 4, [0.0] * 4])
    images = torch.tensor([[0.5] * 4, [0.01, 0.0, 0.0, 0.0]]).reshape(2, 1, 1, 4)  # leads of 800 and of 4
    made = perturb(attack("fgsm", eps=EPS), linear_victim(weight), images, torch.tensor([0, 0]))
    assert made.zero_gradients is not None
    assert made.zero_gradients.tolist() == [True, False]
    assert torch.equal(made.images[0], images[0])
    assert not torch.equal(made.images[1], images[1])


def test_the_exact_gradient_moves_a_saturated_model(linear_victim: Linear) -> None:
    weight = torch.tensor([[400.0, 400.0, -400.0, 400.0], [0.0] * 4])
    images = torch.full((1, 1, 1, 4), 0.5)
    made = perturb(attack("fgsm", eps=EPS, exact_gradient=True), linear_victim(weight), images, torch.tensor([0]))
    assert made.zero_gradients is not None
    assert made.zero_gradients.tolist() == [False]
    assert (made.images - images).flatten().tolist() == [-EPS, -EPS, EPS, -EPS]


def test_a_gradient_of_zero_in_some_pixels_only_is_no_zero_gradient(linear_victim: Linear) -> None:
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    images = torch.full((1, 1, 1, 3), 0.5)
    made = perturb(attack("fgsm", eps=EPS), linear_victim(weight), images, torch.tensor([0]))
    assert made.zero_gradients is not None
    assert made.zero_gradients.tolist() == [False]
    assert (made.images - images).flatten().tolist() == [-EPS, 0.0, 0.0]


# Fast gradient steps on trained models


def plain_fgsm(victim: Victim, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(victim.model(x), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return (images + eps * gradient.sign()).clamp(0, 1)


def plain_targeted_fgsm(victim: Victim, images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    targets = victim.model(images).sort(dim=1, descending=True).indices[:, 1]
    x = images.clone().requires_grad_()
    features = victim.network(x)
    loss = F.cross_entropy(victim.head(features), targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + victim.head.regularizer(features, targets).sum(), x)
    return (images - eps * gradient.sign()).clamp(0, 1), targets


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_fgsm_through_art_is_the_plain_torch_loop_bit_for_bit(victim: Victim, digits: Splits, eps: float) -> None:
    images, labels = digits.test.load_all(), digits.test.labels
    made = perturb(attack("fgsm", eps=eps), victim, images, labels)
    assert torch.equal(made.images, plain_fgsm(victim, images, labels, eps))


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_targeted_fgsm_through_art_is_the_plain_torch_loop_bit_for_bit(
    victim: Victim, digits: Splits, eps: float
) -> None:
    images, targets = plain_targeted_fgsm(victim, digits.test.load_all(), eps)
    made = perturb(attack("targeted-fgsm", eps=eps), victim, digits.test.load_all(), digits.test.labels)
    assert torch.equal(made.images, images)
    assert isinstance(made.targets, Tensor)
    assert torch.equal(made.targets, targets)


@pytest.mark.parametrize("loss", ["softmax", "lgm"])
def test_a_convolutional_network_gives_the_same_bits_through_art(loss: str, few: ImageSet) -> None:
    network, head = build("digits-cnn", 100, loss, {}, shape=(1, 8, 8), classes=10, seed=0)
    victim = Victim(Composed(network, head), shape=(1, 8, 8), classes=10, device=CPU)
    made = perturb(attack("fgsm", eps=0.3), victim, few.load_all(), few.labels)
    assert torch.equal(made.images, plain_fgsm(victim, few.load_all(), few.labels, 0.3))
    made = perturb(attack("targeted-fgsm", eps=0.3), victim, few.load_all(), few.labels)
    assert torch.equal(made.images, plain_targeted_fgsm(victim, few.load_all(), 0.3)[0])


@pytest.mark.parametrize("name", ["fgsm", "targeted-fgsm"])
def test_where_nothing_saturates_the_exact_gradient_is_the_plain_one(
    name: str, victim: Victim, few: ImageSet
) -> None:
    plain = perturb(attack(name, eps=0.1), victim, few.load_all(), few.labels).images
    exact = perturb(attack(name, eps=0.1, exact_gradient=True), victim, few.load_all(), few.labels).images
    assert (plain == exact).float().mean() > 0.97


def test_the_head_in_float64_is_a_copy(victims: dict[str, Victim]) -> None:
    head: Head = victims["center"].head_in_float64()
    for ours, theirs in zip(victims["center"].head.state_dict().values(), head.state_dict().values(), strict=True):
        assert theirs.dtype == torch.float64
        assert torch.equal(theirs.float(), ours)
        assert theirs.data_ptr() != ours.data_ptr()


def test_the_art_classifier_predicts_the_logits_in_the_unit_range(victim: Victim, few: ImageSet) -> None:
    art, logits = victim.logits_classifier(CrossEntropy()), victim.outputs(few.load_all()).logits
    np.testing.assert_allclose(art.predict(few.load_all().numpy()), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(art.clip_values, [0.0, 1.0])
    assert art.input_shape == (1, 8, 8)


def test_gradients_kept_for_other_eps_change_no_byte_and_are_taken_once_a_loss(
    victim: Victim, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Victim(
        Composed(victim.network, victim.head),
        shape=victim.shape,
        classes=victim.classes,
        device=CPU,
        reuse_gradients=True,
    )
    chosen = [
        attack(name, eps=eps, clip=clip, exact_gradient=exact)
        for name in ("fgsm", "targeted-fgsm")
        for exact in (False, True)
        for eps, clip in ((EPS, True), (0.3, True), (0.3, False))
    ]
    expected = [perturb(which, victim, few.load_all(), few.labels) for which in chosen]
    taken: list[int] = []
    original = PyTorchClassifier.loss_gradient

    def counted(*given: Any, **more: Any) -> Any:
        taken.append(1)
        return original(*given, **more)

    monkeypatch.setattr(PyTorchClassifier, "loss_gradient", counted)
    for which, before in zip(chosen, expected, strict=True):
        after = perturb(which, keeping, few.load_all(), few.labels)
        assert torch.equal(before.images, after.images)
        assert before.zero_gradients is not None
        assert after.zero_gradients is not None
        assert torch.equal(before.zero_gradients, after.zero_gradients)
    assert len(taken) == 4
    other = perturb(chosen[0], keeping, few.load_all().flip(0), few.labels.flip(0)).images
    assert torch.equal(other.flip(0), expected[0].images)
    assert len(taken) == 5
