"""Iterative attacks against closed forms and convex solvers, what they keep, what they count, where each one wins."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from advbench import catalog
from advbench.errors import BadSetting, FailedCheck
from advbench.evasion import Attack, Misclassified, SearchState
from advbench.evasion.gradient_ascent import checkpoints, decaying
from advbench.losses.softmax import Softmax
from advbench.networks import Network
from advbench.types import ImageSet, Perturbed, Splits, margin
from advbench.victim import Composed, Victim
from tests.helpers.models import Function, margin_only, victim_of

Linear = Callable[..., Victim]
NAMES = ("pgd", "mim", "apgd")
OBJECTIVES = ("ce", "margin", "dlr", "logits")


def attack(name: str, **options: Any) -> Attack:
    made: Attack = catalog.load("attack", name)(**options)
    return made


def perturb(which: Attack, victim: Victim, images: Tensor, labels: Tensor) -> Perturbed:
    return which.perturb(victim, images, labels, torch.arange(len(images)))


class Noisy(Network):
    """Pixels with fresh noise in every pass."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat + 0.3 * torch.randn_like(flat)


class Rounded(Network):
    """Pixels on 256 levels: no gradient passes; the identity stands in for the rounding."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).detach() * 255).round() / 255


class RoundedWithStandIn(Rounded):
    def stand_in(self, images: Tensor) -> Tensor:
        return images.flatten(1)


# Closed forms


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_on_a_binary_linear_model_the_optimum_is_reached(
    name: str, norm: str, objective: str, rng: np.random.Generator, linear_victim: Linear
) -> None:
    weight = rng.normal(size=(2, 16))
    images = torch.from_numpy(rng.uniform(0.4, 0.6, size=(5, 1, 4, 4))).float()
    made = perturb(
        attack(name, eps=0.3, norm=norm, objective=objective),
        linear_victim(torch.from_numpy(weight), height=4),
        images,
        torch.zeros(5, dtype=torch.long),
    )
    w = weight[1] - weight[0]
    best = 0.3 * (np.sign(w) if norm == "linf" else w / np.linalg.norm(w))
    moved = (made.images - images).double().flatten(1).numpy()
    np.testing.assert_allclose(moved @ w, best @ w, rtol=2e-3 if (name, norm) != ("pgd", "l2") else 0.03)
    if name != "pgd":  # whose random start fades but slowly on the sphere
        np.testing.assert_allclose(moved, np.broadcast_to(best, moved.shape), atol=2e-3)


@pytest.mark.parametrize("targets", [0, 4])
def test_apgd_reaches_the_largest_margin_that_a_linear_program_finds_with_the_box_active(
    targets: int, rng: np.random.Generator, linear_victim: Linear
) -> None:
    k, p, eps = 5, 12, 0.4
    weight, x = rng.normal(size=(k, p)), rng.uniform(0, 1, size=p)
    victim = linear_victim(torch.from_numpy(weight))
    z = int((weight @ x).argmax())
    image = torch.from_numpy(x).float().reshape(1, 1, 1, p)
    which = attack("apgd", eps=eps, objective="margin", targets=targets, restarts=1 if targets else 5)
    made = perturb(which, victim, image, torch.tensor([z]))
    bounds = [(max(0.0, v - eps), min(1.0, v + eps)) for v in x]
    best = max(-linprog(weight[z] - weight[t], bounds=bounds).fun for t in range(k) if t != z)
    ours = margin(victim.outputs(made.images).logits, torch.tensor([z])).item()
    assert best > 0
    assert ours == pytest.approx(best, rel=1e-3) if targets else 0.8 * best < ours <= best + 1e-4


def test_apgd_looks_back_at_the_papers_checkpoints() -> None:
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]  # Croce and Hein 2020, sec. 3 and their code


def hills(x: Any, sin: Callable[[Any], Any]) -> Any:
    """So steep and many that momentum, gains and returns to the best point all show in the way over them."""
    return (sin(15 * x) + 3 * x).sum(-1)


def slow_apgd(image: Any, start: Any, eps: float, steps: int) -> list[Any]:
    """Every point of algorithm 1 of Croce and Hein 2020 on `hills`, typed in from the paper; L-inf, float64."""

    def ahead(move: Any) -> Any:
        return (x + move).clip(image - eps, image + eps).clip(0, 1)

    x = before = best = start
    step, gains, halved, then, last, points = 2 * eps, 0, False, hills(start, np.sin), 0, [start]
    for k in range(1, steps + 1):
        z = ahead(step * np.sign(15 * np.cos(15 * x) + 3))
        z = z if k == 1 else ahead(0.75 * (z - x) + 0.25 * (x - before))
        gains += hills(z, np.sin) > hills(x, np.sin)
        x, before, best = z, x, max(best, z, key=lambda v: hills(v, np.sin))
        points.append(x)
        if k in checkpoints(steps):
            top = hills(best, np.sin)
            halved = gains < 0.75 * (k - last) or (not halved and top == then)
            step, x = (step / 2, best) if halved else (step, x)
            gains, then, last = 0, top, k
    return points


def test_apgd_goes_from_point_to_point_as_the_papers_algorithm_does() -> None:
    seen: list[Any] = []

    def noted(x: Tensor) -> Tensor:
        seen.append(x.detach().double().numpy())
        return torch.as_tensor(hills(x, torch.sin) - 99)

    victim = victim_of(Function(margin_only(noted)), 2, 3)
    images = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (20, 1, 1, 3))).float()  # each rule decides
    perturb(attack("apgd", eps=0.3, steps=40, objective="margin"), victim, images, torch.zeros(20, dtype=torch.long))
    for i, image in enumerate(images.reshape(20, 3).double().numpy()):
        theirs = slow_apgd(image, seen[-41][i], 0.3, 40)
        np.testing.assert_allclose([x[i] for x in seen[-41:]], theirs, atol=1e-4)


def test_decaying_steps_end_near_zero() -> None:
    sizes = decaying(40, 0.1)
    assert len(sizes) == 40
    assert sizes[0] == 0.1
    assert sizes[-1] < 0.001
    assert sizes == sorted(sizes, reverse=True)


# Where each wins and plain PGD does not


def test_mim_runs_through_a_dip_that_holds_pgd_back() -> None:
    def rise(x: Tensor) -> Tensor:  # up to 0.6, down to 0.66, up again to 0.8
        t = x[:, 0]
        return -0.3 + (t - 0.5) - 2 * (t - 0.6).clamp(min=0) + 4 * (t - 0.66).clamp(min=0)

    victim = victim_of(Function(margin_only(rise)), 2, 1)
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    same = {"eps": 0.3, "steps": 30, "objective": "margin"}
    plain = perturb(attack("pgd", step=0.01, random_start=False, **same), victim, image, label)
    momentum = perturb(attack("mim", **same), victim, image, label)
    assert victim.outputs(plain.images).predictions.item() == 0
    assert victim.outputs(momentum.images).predictions.item() == 1


def test_a_restart_finds_what_the_first_start_does_not() -> None:
    victim = victim_of(Function(margin_only(lambda x: 0.05 - (x[:, 0] - 0.75).abs().minimum(x[:, 0]))), 2, 1)
    images, labels = torch.full((40, 1, 1, 1), 0.4), torch.zeros(40, dtype=torch.long)
    once = perturb(attack("pgd", eps=0.35, steps=40, objective="margin"), victim, images, labels)
    often = perturb(attack("pgd", eps=0.35, steps=40, objective="margin", restarts=8), victim, images, labels)
    long = perturb(attack("pgd", eps=0.35, steps=320), victim, images, labels)
    missed = victim.outputs(once.images).predictions == 0
    assert 0 < missed.sum() < 40
    assert (victim.outputs(often.images).predictions == 1).all()
    assert (victim.outputs(long.images).predictions == 0).sum() >= 10
    assert torch.equal(often.images[~missed], once.images[~missed])
    assert (often.gradients[~missed] == 40).all()
    assert (often.gradients[missed] > 40).all()


def test_a_search_that_keeps_leads_gives_as_targets_the_classes_that_came_nearest_anywhere() -> None:
    def logits(x: Tensor) -> Tensor:
        lead = 10 * (x[:, 0] - 0.79)
        return torch.stack([0 * lead, 0 * lead - 1, lead], dim=1)  # class 1 is the runner-up of a clean 0.5

    victim = victim_of(Function(logits), 3, 1)
    images, labels = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8, dtype=torch.long)
    apgd: Any = attack("apgd", eps=0.3, steps=20, objective="margin", targets=1, stop=True)
    won = {}
    for keeps in (False, True):
        state = SearchState(apgd, victim, images, torch.arange(8), Misclassified(labels), stop=True)
        if keeps:
            state.keep_class_margins()
        clean = state.evaluate(state.everyone, state.origin)
        state.evaluate(state.everyone[:4], state.origin[:4] + 0.25)
        apgd.run(state, labels, None, clean)
        won[keeps] = (state.success_margin > 0).tolist()
        if state.class_margins is not None:
            assert state.class_margins[0].tolist() == pytest.approx([0, -1, 0.1], abs=1e-4)
            assert state.class_margins[7].tolist()[:2] == [0, -1]
    assert won == {False: [False] * 8, True: [True] * 4 + [False] * 4}


def test_logits_that_saturate_stop_plain_cross_entropy_and_none_of_ours(linear_victim: Linear) -> None:
    weight = torch.tensor([[400.0, 400.0, -400.0, 400.0], [0.0] * 4])
    victim, label = linear_victim(weight), torch.tensor([0])
    image = torch.full((1, 1, 1, 4), 0.5)
    for name in NAMES:
        for objective in ("ce", "margin", "logits"):
            made = perturb(attack(name, eps=0.5, objective=objective, **({"random_start": False} if name == "pgd"
                                  else {})), victim, image, label)  # fmt: skip
            assert made.zero_gradients is not None
            assert made.zero_gradients.tolist() == [False]
            assert margin(victim.outputs(made.images).logits, label).item() == pytest.approx(400, rel=0.02)


# What is kept and counted


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_counted_as_the_model_sees_them(name: str, victim: Victim, few: ImageSet) -> None:
    seen = {"forward": 0, "backward": 0}

    def backward(gradient: Tensor) -> None:
        seen["backward"] += len(gradient)

    def forward(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen["forward"] += len(inputs[0])
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    hook = victim.network.register_forward_hook(forward)
    _ = victim.stochastic
    seen["forward"] = 0
    made = perturb(attack(name, eps=0.1, steps=7, stop=True), victim, few.load_all(), few.labels)
    hook.remove()
    assert int(made.gradients.sum()) == seen["backward"]
    assert int(made.forwards.sum()) == seen["forward"]
    full = perturb(attack(name, eps=0.1, steps=7), victim, few.load_all(), few.labels)
    assert full.gradients.tolist() == [7] * len(few)
    assert full.forwards.tolist() == [8] * len(few)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_may_leave_stops_costing_and_comes_back_misclassified(
    name: str, victim: Victim, digits: Splits
) -> None:
    images, labels = digits.test.load_all()[:100], digits.test.labels[:100]
    whole = perturb(attack(name, eps=0.15), victim, images, labels)
    left = perturb(attack(name, eps=0.15, stop=True), victim, images, labels)
    lost = left.first_success >= 0
    assert torch.equal(left.first_success, whole.first_success)
    assert torch.equal(
        left.gradients, torch.where(lost, (left.first_success + 1).clamp(max=whole.gradients), whole.gradients)
    )
    assert torch.equal(victim.outputs(left.images).predictions != labels, lost)
    assert left.gradients.sum() < whole.gradients.sum()


def test_first_success_is_the_gradients_spent_when_the_margin_first_turned(linear_victim: Linear) -> None:
    victim = linear_victim(torch.tensor([[1.0], [0.0]]), torch.tensor([-0.5, 0.0]))  # class 1 below 0.5
    images = torch.tensor([0.45, 0.525, 0.575, 0.9]).reshape(4, 1, 1, 1)
    which = attack("pgd", eps=0.3, step=0.05, steps=5, random_start=False)
    made = perturb(which, victim, images, torch.zeros(4, dtype=torch.long))
    assert made.first_success.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize("name", NAMES)
def test_the_point_of_largest_margin_is_kept_not_the_last_one(name: str) -> None:
    peak = margin_only(lambda x: 1 - (x[:, 0] - 0.55).abs() * 40)
    victim = victim_of(Function(peak), 2, 1)
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    made = perturb(attack(name, eps=0.3, objective="margin"), victim, image, label)
    assert abs(made.images.item() - 0.55) < 0.03
    assert victim.outputs(made.images).predictions.item() == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_every_objective_makes_errors(name: str, objective: str, victim: Victim, digits: Splits) -> None:
    images, labels = digits.test.load_all()[:100], digits.test.labels[:100]
    made = perturb(attack(name, eps=0.3, objective=objective), victim, images, labels)
    # the raw true logit alone leads away from one class and not always to another; see the targeted form
    least = 0.4 if objective == "logits" else 0.8
    assert (victim.outputs(made.images).predictions != labels).double().mean() > least


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_targets_find_at_least_nearly_as_much_as_no_target(objective: str, victim: Victim, digits: Splits) -> None:
    images, labels = digits.test.load_all()[:100], digits.test.labels[:100]
    made = [
        perturb(attack("apgd", eps=0.1, steps=30, objective=objective, targets=t), victim, images, labels)
        for t in (0, 9)
    ]
    plain, targeted = ((victim.outputs(m.images).predictions != labels).double().mean() for m in made)
    assert targeted >= plain - 0.02


def test_eps_in_l2_may_exceed_one_but_not_the_diagonal_of_the_images(victim: Victim, few: ImageSet) -> None:
    made = perturb(attack("pgd", norm="l2", eps=2.0), victim, few.load_all(), few.labels)
    sizes = (made.images - few.load_all()).double().flatten(1).norm(dim=1)
    assert 1.5 < sizes.max() <= 2 + 1e-6
    with pytest.raises(BadSetting, match=r"outside \(0, 8\]"):
        perturb(attack("pgd", norm="l2", eps=8.1), victim, few.load_all(), few.labels)


# Models that need care


def test_a_model_in_training_mode_is_refused(dense: type[Network], few: ImageSet) -> None:
    victim = Victim(
        Composed(dense((1, 8, 8), 16), Softmax(16, 10)), shape=(1, 8, 8), classes=10, device=torch.device("cpu")
    )
    victim.model.train()
    with pytest.raises(BadSetting, match=r"training mode.*\.eval\(\)"):
        perturb(attack("pgd"), victim, few.load_all(), few.labels)


def test_a_stochastic_model_is_refused_without_samples_and_averaged_with_them() -> None:
    images, labels = torch.full((30, 1, 1, 2), 0.5), torch.zeros(30, dtype=torch.long)
    images[:, :, :, 0] += 0.1  # class 0 leads by 0.1 before the noise of 0.3
    victim = victim_of(Noisy(), 2, 2)
    assert victim.stochastic
    with pytest.raises(BadSetting, match=r"stochastic.*samples=20"):
        perturb(attack("pgd"), victim, images, labels)
    which = attack("pgd", eps=0.2, steps=5, samples=40, objective="margin")
    made = perturb(which, victim, images, labels)
    moved = (made.images - images).flatten(1)
    assert (moved[:, 0] < -0.1).all()
    assert (moved[:, 1] > 0.1).all()
    assert made.gradients.tolist() == [200] * 30
    assert made.forwards.tolist() == [240] * 30
    torch.rand(3)  # the global stream has moved on
    assert torch.equal(perturb(which, victim, images, labels).images, made.images)


def test_eot_leaves_the_global_stream_where_it_was() -> None:
    images, labels = torch.full((3, 1, 1, 2), 0.5), torch.zeros(3, dtype=torch.long)
    victim = victim_of(Noisy(), 2, 2)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    perturb(attack("pgd", steps=2, samples=3), victim, images, labels)
    assert torch.equal(torch.rand(1), expected)


def test_a_part_without_a_gradient_needs_a_declared_stand_in() -> None:
    images, labels = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2), torch.tensor([0])
    with pytest.raises(BadSetting, match=r"no gradient.*stand_in.*square"):
        perturb(attack("pgd", eps=0.1), victim_of(Rounded(), 2, 2), images, labels)
    victim = victim_of(RoundedWithStandIn(), 2, 2)
    made = perturb(attack("pgd", eps=0.1), victim, images, labels)
    assert victim.outputs(made.images).predictions.tolist() == [1]


def test_logits_that_are_nan_are_refused() -> None:
    victim = victim_of(Function(lambda x: x * math.nan), 2, 2)
    victim.__dict__["stochastic"] = False  # NaN differs from NaN
    with pytest.raises(FailedCheck, match="NaN"):
        perturb(attack("pgd"), victim, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]))


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("pgd", {"steps": 0}, "steps"),
        ("pgd", {"restarts": 0}, "restarts"),
        ("pgd", {"samples": 0}, "samples"),
        ("pgd", {"step": 0.0}, "step"),
        ("pgd", {"norm": "l2", "eps": math.inf}, "eps"),
        ("mim", {"decay": -1.0}, "decay"),
        ("mim", {"steps": 0}, "steps"),
        ("apgd", {"targets": -1}, "targets"),
        ("apgd", {"steps": 0}, "steps"),
        ("joint", {"sweep": 0}, "sweep"),
        ("joint", {"sweep": 6}, "sweep"),
        ("joint", {"eps": 0.0}, "8/255"),
        ("feature-matching", {"targets": 0}, "targets"),
        ("orthogonal", {"restarts": 0}, "restarts"),
        ("detector-square", {"queries": 0}, "queries"),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(name: str, options: dict[str, Any], word: str) -> None:
    with pytest.raises(BadSetting, match=word):
        attack(name, **options)
