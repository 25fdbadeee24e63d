"""Detector-aware attacks: known optima, what a sweep of weights wins, and detectors that need care."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from advbench import catalog, settings
from advbench.detection import Guard
from advbench.detectors.likelihood import FittedLikelihood
from advbench.errors import BadSetting, FailedCheck
from advbench.evasion import AdaptiveAttack, Criterion, Rejected, SearchState, Undetected, adaptive_ascent, objectives
from advbench.losses.lgm import LGM
from advbench.types import ImageSet, Outputs, Perturbed, Splits, margin
from advbench.victim import Composed, Victim
from tests.conftest import CPU
from tests.helpers.guards import Made, guard_of, made_guard, stepped
from tests.helpers.models import Pixels

AWARE = [n for n in catalog.names("attack") if issubclass(catalog.load("attack", n), AdaptiveAttack)]
EVADING = [n for n in AWARE if n != "force-rejection"]  # of which success means wrong and accepted
LIGHT = {"steps": 8, "queries": 60}


def attack(name: str, **options: Any) -> AdaptiveAttack:
    made: AdaptiveAttack = catalog.load("attack", name)(**options)
    return made


def light(name: str, **options: Any) -> AdaptiveAttack:
    known = settings.defaults(catalog.load("attack", name))
    return attack(name, **({k: v for k, v in LIGHT.items() if k in known} | options))


def perturb(which: AdaptiveAttack, victim: Victim, images: Tensor, labels: Tensor, guard: Guard) -> Perturbed:
    return which.perturb(victim, images, labels, torch.arange(len(images)), guard)


def lost(victim: Victim, made: Perturbed, labels: Tensor, guard: Guard) -> Tensor:
    """As the scorer sees it: misclassified and not rejected."""
    outputs = victim.outputs(made.images)
    return (outputs.predictions != labels) & (guard.score(outputs) <= guard.threshold)


@pytest.fixture(scope="module")
def guards(victims: dict[str, Victim], digits: Splits) -> dict[str, Guard]:
    return {name: guard_of(victim, digits) for name, victim in victims.items()}


# The contract, over every detector-aware attack


@pytest.mark.parametrize("name", AWARE)
@pytest.mark.parametrize("clip", [True, False])
def test_perturbation_stays_in_budget_and_range(
    name: str, clip: bool, victim: Victim, few: ImageSet, digits: Splits
) -> None:
    guard = guard_of(victim, digits)
    images, weights = few.load_all().clone(), [p.clone() for p in victim.model.parameters()]
    assert not any(p.requires_grad for p in victim.model.parameters())
    grads = [p.grad for p in victim.model.parameters()]
    made = perturb(light(name, eps=0.2, clip=clip), victim, few.load_all(), few.labels, guard)
    assert ((made.images.double() - images.double()).abs() <= 0.2 + 1e-6).all()
    assert made.images.dtype == torch.float32
    assert made.images.shape == images.shape
    assert not clip or (made.images.min() >= 0 and made.images.max() <= 1)
    assert torch.equal(images, few.load_all())
    assert all(torch.equal(a, b) for a, b in zip(weights, victim.model.parameters(), strict=True))
    assert [p.grad for p in victim.model.parameters()] == grads
    assert not any(p.requires_grad for p in victim.model.parameters())


@pytest.mark.parametrize("name", AWARE)
def test_the_same_seeds_give_the_same_bytes(name: str, victims: Any, guards: Any, few: ImageSet) -> None:
    victim, guard = victims["lgm"], guards["lgm"]
    first = perturb(light(name), victim, few.load_all(), few.labels, guard)
    torch.rand(3)
    again = perturb(light(name), victim, few.load_all(), few.labels, guard)
    for field in ("images", "gradients", "forwards", "first_success", "zero_gradients"):
        assert torch.equal(getattr(first, field), getattr(again, field))


@pytest.mark.parametrize("name", AWARE)
def test_an_images_result_does_not_depend_on_the_images_beside_it(
    name: str, victims: Any, guards: Any, few: ImageSet
) -> None:
    victim, guard, which = victims["lgm"], guards["lgm"], light(name)
    whole = perturb(which, victim, few.load_all(), few.labels, guard)
    for i in (0, 5, 23):
        alone = which.perturb(victim, few.load_all()[[i]], few.labels[[i]], torch.tensor([i]), guard)
        assert ((whole.images[i] - alone.images[0]).abs() < 1e-4).float().mean() > 0.98
        assert alone.gradients.item() == whole.gradients[i]


@pytest.mark.parametrize("name", EVADING)
@pytest.mark.parametrize("loss", ["softmax", "lgm"])
def test_what_the_attack_calls_lost_is_lost_for_the_scorer_and_costs_nothing_further(
    name: str, loss: str, victims: Any, guards: Any, digits: Splits
) -> None:
    victim, guard = victims[loss], guards[loss]
    images, labels = digits.test.load_all()[:60], digits.test.labels[:60]
    made = perturb(light(name, eps=0.2), victim, images, labels, guard)
    found = lost(victim, made, labels, guard)
    assert torch.equal(made.first_success >= 0, found)
    assert found.sum() > 0
    spent = made.forwards if name == "detector-square" else made.gradients
    assert (spent[found] <= made.first_success[found] + 2).all()
    assert (spent[found] < spent.max()).any() or found.all()


@pytest.mark.parametrize("name", EVADING)
def test_an_image_that_is_wrong_and_accepted_as_it_stands_is_lost_before_any_step(
    name: str, victims: Any, guards: Any, few: ImageSet
) -> None:
    victim, guard = victims["lgm"], guards["lgm"]
    accepted = guard.score(victim.outputs(few.load_all())) <= guard.threshold
    others = (victim.outputs(few.load_all()).predictions + 1) % 10
    made = perturb(light(name), victim, few.load_all(), others, guard)
    assert torch.equal(made.images[accepted], few.load_all()[accepted])
    assert (made.first_success[accepted] == 0).all()
    assert (made.gradients[accepted] == 0).all()


# Known optima: identity features, L-GM with identity covariance, two classes


MU = np.array([[0.35, 0.5, 0.5, 0.45], [0.65, 0.55, 0.4, 0.5]])
RADIUS = 0.1  # of the accepted ball around a mean


def gaussian_pair() -> tuple[Victim, Guard]:
    """Class k around MU[k]; the guard accepts what lies within RADIUS of the predicted class's mean."""
    head = LGM(4, 2)
    head.mu.data = torch.from_numpy(MU).float()
    victim = Victim(Composed(Pixels((1, 1, 4), 4), head), shape=(1, 1, 4), classes=2, device=CPU)
    rng = np.random.default_rng(0)
    labels = torch.arange(200) % 2
    clean = torch.from_numpy(MU[labels.numpy()] + rng.normal(0, 0.04, size=(200, 4))).float()
    outputs = victim.outputs(clean.reshape(200, 1, 1, 4))
    guard = Guard("likelihood", FittedLikelihood(victim.head_in_float64()), RADIUS**2 / 2, True, outputs, labels)
    return victim, guard


X0 = MU[0] + np.array([-0.03, 0.02, 0.05, -0.04])


def least_distance(order: float) -> float:
    """The least L2 or L-inf distance from X0 to a point of class 1 that the guard accepts, by a convex solver."""
    constraints = [
        {"type": "ineq", "fun": lambda v: RADIUS**2 - ((v[:4] - MU[1]) ** 2).sum()},
        {"type": "ineq", "fun": lambda v: ((v[:4] - MU[0]) ** 2).sum() - ((v[:4] - MU[1]) ** 2).sum()},
    ]
    if order == 2:
        found = minimize(lambda v: ((v - X0) ** 2).sum(), MU[1], constraints=constraints, tol=1e-14)
        return float(found.fun**0.5)
    constraints += [
        {"type": "ineq", "fun": lambda v: v[4] - (v[:4] - X0)},
        {"type": "ineq", "fun": lambda v: v[4] + (v[:4] - X0)},
    ]
    return float(minimize(lambda v: v[4], np.append(MU[1], 1.0), constraints=constraints, tol=1e-14).fun)


def test_the_least_joint_perturbation_in_l2_has_a_closed_form() -> None:
    # the accepted ball lies wholly in class 1's half: the nearest point is on the line to its centre
    assert np.linalg.norm(MU[1] - MU[0]) / 2 > RADIUS
    assert least_distance(2) == pytest.approx(np.linalg.norm(MU[1] - X0) - RADIUS, rel=1e-5)


@pytest.mark.parametrize("name", ["joint", "selective", "orthogonal"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("targets", [0, 1])
def test_two_per_cent_above_the_least_joint_perturbation_the_image_is_lost_and_two_below_nothing_is(
    name: str, norm: str, targets: int
) -> None:
    victim, guard = gaussian_pair()
    image, label = torch.from_numpy(X0).float().reshape(1, 1, 1, 4), torch.tensor([0])
    images, labels = image.repeat(5, 1, 1, 1), label.repeat(5)  # five random starts
    least = least_distance(2 if norm == "l2" else np.inf)
    for factor, expected in ((0.98, False), (1.02, True)):
        options: dict[str, Any] = {"sweep": 5} if name == "joint" else {}
        which = attack(name, eps=factor * least, norm=norm, clip=False, targets=targets, steps=200, **options)
        made = perturb(which, victim, images, labels, guard)
        assert lost(victim, made, labels, guard).tolist() == [expected] * 5, factor


@pytest.mark.parametrize("lam", [0.1, 1.0, 10.0])
def test_the_joint_goal_is_maximal_where_its_closed_form_says(lam: float) -> None:
    victim, guard = gaussian_pair()
    image, label, eps = torch.from_numpy(X0).float().reshape(1, 1, 1, 4), torch.tensor([0]), 0.12
    objective = objectives.JointObjective("margin", label, torch.tensor([1]), guard, lam)

    class Own(Criterion):
        labels = label

        def success_margin(self, outputs: Outputs, rows: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = Outputs(outputs.features.detach().requires_grad_(), outputs.logits)
                return objective.values(leaf, rows).detach()

    which = attack("joint", eps=eps, norm="l2", clip=False)
    state = SearchState(which, victim, image, torch.tensor([0]), Own(), stop=False)
    adaptive_ascent(state, objective, state.everyone, state.origin, 200)
    # J = (mu1 - mu0).x / F - lam |x - mu1|^2 / 2G + const: its level sets are spheres around the free maximum
    free = MU[1] + (MU[1] - MU[0]) / guard.typical_margin * guard.spread / lam
    away = np.linalg.norm(free - X0)
    best = free if away <= eps else X0 + eps * (free - X0) / away
    found = state.images.double().numpy().reshape(4)
    assert np.linalg.norm(found - X0) <= eps + 1e-6
    assert np.linalg.norm(found - best) <= 0.02 * np.linalg.norm(best - X0)


def two_gradients(objective: objectives.EvasionObjective, victim: Victim, images: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the objective and of the slack [n p], float64."""
    x, rows = images.clone().requires_grad_(), torch.arange(len(images))
    outputs = victim.differentiable_outputs(x)
    own = objectives.gradient_of(objectives.ClassifierObjective.values(objective, outputs, rows), x, again=True)
    slack = objectives.gradient_of(objective.slack(outputs, rows), x)
    return own.flatten(1).double(), slack.flatten(1).double()


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("detector", ["likelihood", "max-posterior"])
def test_an_orthogonal_step_climbs_its_own_constraint_and_keeps_the_other_to_first_order_or_is_not_projected(
    wrong: bool, detector: str, victims: Any, digits: Splits, few: ImageSet
) -> None:
    victim = victims["lgm"]
    predicted = victim.outputs(few.load_all()).predictions
    labels = (predicted + 1) % 10 if wrong else predicted
    objective = objectives.OrthogonalObjective("margin", labels, None, guard_of(victim, digits, detector))
    climbing, slack = two_gradients(objective, victim, few.load_all())
    own, other = (slack, climbing) if wrong else (climbing, slack)
    x = few.load_all().clone().requires_grad_()
    _, ascents = objective.gradient(victim.differentiable_outputs(x), torch.arange(len(few)), x)
    direction = ascents.flatten(1).double()
    assert ((direction * own).sum(dim=1) > 0).all()
    change = (direction * other).sum(dim=1) / (direction.norm(dim=1) * other.norm(dim=1))
    cosine = (own * other).sum(dim=1) / (own.norm(dim=1) * other.norm(dim=1))
    whole = (direction - own).norm(dim=1) <= 1e-6 * own.norm(dim=1)
    least = objectives.ROUNDING if wrong else 0.5
    assert torch.equal(whole, (cosine >= 0) | ((1 - cosine.square()).sqrt() <= least))
    assert (change[~whole].abs() <= 1e-4).all()


def test_the_orthogonal_part_leaves_agreeing_and_opposite_gradients_as_they_are() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [1.0, 1.0]]).reshape(5, 1, 1, 2)
    b = torch.tensor([[-2.0, -4.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, 0.1], [0.0, 0.0]]).reshape(5, 1, 1, 2)
    found = objectives.orthogonal_part(a, b, torch.full((5,), 0.5)).reshape(5, 2)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0], [1.5, 1.5], [3.0, 0.0], [3.0, 0.0], [1.0, 1.0]]))
    kept = objectives.orthogonal_part(a[3:4], b[3:4], torch.tensor([objectives.ROUNDING])).reshape(2)
    assert (kept @ b[3].flatten()).abs() < 1e-6
    assert kept.norm() < 0.5 * 3


def test_without_targets_the_guard_is_asked_about_the_best_wrong_class() -> None:
    victim, guard = gaussian_pair()
    images, labels = torch.from_numpy(X0).float().reshape(1, 1, 1, 4), torch.tensor([0])
    x = images.clone().requires_grad_()
    objective = objectives.JointObjective("margin", labels, None, guard, 1.0)
    slack = objective.slack(victim.differentiable_outputs(x), torch.arange(1))
    assert slack.item() == pytest.approx((RADIUS**2 - ((X0 - MU[1]) ** 2).sum()) / 2, rel=1e-4)
    np.testing.assert_allclose(objectives.gradient_of(slack, x).flatten(), MU[1] - X0, rtol=1e-4, atol=1e-6)


# Where a sweep wins


def test_each_weight_of_the_sweep_wins_an_image_that_the_first_one_does_not(
    victims: Any, guards: Any, digits: Splits
) -> None:
    victim, guard = victims["lgm"], guards["lgm"]
    images, labels = digits.test.load_all()[:150], digits.test.labels[:150]
    made = [perturb(attack("joint", eps=0.12, sweep=s, steps=30), victim, images, labels, guard) for s in (1, 5)]
    one, all_ = (lost(victim, each, labels, guard) for each in made)
    sweep = catalog.load("attack", "joint")(sweep=5).objectives(labels, None, guard, guard.clean)
    assert [objective.lam for objective in sweep] == [1, 0.1, 10, 0.01, 100]
    assert (all_ & ~one).any()
    assert not (one & ~all_).any()


# Detectors that need care


FIRST = Made(lambda outputs: outputs.features[:, 0].double())


def test_success_is_claimed_a_hair_inside_the_threshold_and_the_hair_grows_with_it() -> None:
    labels, rows = torch.zeros(4, dtype=torch.long), torch.arange(4)
    scores = 1000 + torch.tensor([-0.011, -0.009, 0.009, 0.011], dtype=torch.float64)
    seen = Outputs(scores[:, None], torch.tensor([[0.0, 1.0]]).expand(4, 2))
    guard = Guard("first", FIRST, 1000.0, True, seen, labels)
    assert (Undetected(labels, guard).success_margin(seen, rows) > 0).tolist() == [True, *[False] * 3]
    assert (Rejected(labels, guard).success_margin(seen, rows) > 0).tolist() == [False, False, False, True]


def test_goals_have_the_values_of_their_formulas_in_the_units_of_clean_images() -> None:
    clean = Outputs(torch.tensor([[0.0], [3.0], [5.0], [7.0], [90.0]]), torch.tensor([[2.0, 0.0, 0.0]]).expand(5, 3))
    labels, rows = torch.zeros(5, dtype=torch.long), torch.tensor([0])
    guard = Guard("first", FIRST, 10.0, True, clean, labels)  # the units are 2 of margin, 4 of score
    far, accepted, wrong = (
        Outputs(torch.tensor([[score]], requires_grad=True), torch.tensor([[logit, 0.0, 1.0]]))
        for score, logit in ((16.0, 3.0), (6.0, 3.0), (16.0, -1.0))
    )
    joint = [
        objectives.JointObjective(f, labels, None, guard, 0.5).values(far, rows).item() for f in ("margin", "dlr")
    ]
    assert joint == pytest.approx([-2 / 2 - 0.5 * 6 / 4, -2 / 3 - 0.5 * 6 / 4])
    violations = [objectives.ViolationObjective(labels, guard).values(x, rows).item() for x in (far, accepted, wrong)]
    assert violations == [-2 / 2 - 6 / 4, -2 / 2, -6 / 4]
    assert objectives.FeatureObjective(torch.tensor([[13.0]])).values(far, rows).item() == -(3**2) / 2


def test_features_are_matched_to_the_nearest_clean_image_of_the_target_that_is_right_and_not_rejected() -> None:
    # of class 1: one rejected, one wrong, one that scores the threshold, one further away; and one of class 2
    found, logits = torch.tensor([[2.5, 1.0], [0, 1], [2, 3], [0, 4], [0, 0.5]]), torch.eye(4)[[1, 0, 1, 1, 2]]
    guard = Guard("first", FIRST, 2.0, True, Outputs(found, logits), torch.tensor([1, 1, 1, 1, 2]))
    clean = Outputs(torch.zeros(2, 2), logits[:2])
    (objective,) = catalog.load("attack", "feature-matching")().objectives(None, torch.tensor([1, 3]), guard, clean)
    assert objective.references.tolist() == [[2, 3], [0, 0]]  # for class 3 there is none


@pytest.mark.parametrize("name", AWARE)
def test_a_score_that_is_nan_is_refused_by_the_detectors_name(name: str, victims: Any, digits: Splits) -> None:
    victim = victims["softmax"]
    outputs = victim.outputs(digits.calibration.load_all())
    broken = Made(lambda o: torch.where(o.logits.amax(dim=1) > -1e9, torch.nan, 0.0).double())
    guard = Guard("made", broken, 0.0, True, outputs, digits.calibration.labels)
    with pytest.raises(FailedCheck, match="detector made gives NaN"):
        perturb(light(name), victim, digits.test.load_all()[:4], digits.test.labels[:4], guard)


@pytest.mark.parametrize("name", ["joint", "selective", "orthogonal"])
@pytest.mark.parametrize(
    ("claimed", "error", "said"),
    [
        (False, BadSetting, r"no gradient and no stand-in.*detector-square"),
        (True, FailedCheck, "carries no gradient"),
    ],
)
def test_a_detector_without_a_gradient_is_refused_whatever_it_claims(
    name: str, claimed: bool, error: type[Exception], said: str, victims: Any, digits: Splits
) -> None:
    victim = victims["softmax"]
    guard = made_guard(victim, digits, Made(stepped), differentiable=claimed)
    with pytest.raises(error, match=said):
        perturb(light(name), victim, digits.test.load_all()[:4], digits.test.labels[:4], guard)


@pytest.mark.parametrize("name", ["joint", "selective", "orthogonal"])
def test_a_declared_stand_in_gives_the_direction_and_the_score_itself_decides(
    name: str, victims: Any, digits: Splits
) -> None:
    victim = victims["lgm"]
    detector = Made(stepped, lambda outputs: -outputs.logits.amax(dim=1).double())
    guard = made_guard(victim, digits, detector, differentiable=False)
    images, labels = digits.test.load_all()[:60], digits.test.labels[:60]
    made = perturb(attack(name, eps=0.2), victim, images, labels, guard)
    assert torch.equal(made.first_success >= 0, lost(victim, made, labels, guard))
    assert lost(victim, made, labels, guard).double().mean() > 0.5


@pytest.mark.parametrize("name", ["feature-matching", "detector-square"])
def test_two_attacks_need_no_gradient_of_the_score(name: str, victims: Any, digits: Splits) -> None:
    victim = victims["lgm"]
    guard = made_guard(victim, digits, Made(stepped), differentiable=False)
    images, labels = digits.test.load_all()[:60], digits.test.labels[:60]
    options = {"queries": 500} if name == "detector-square" else {}
    made = perturb(attack(name, eps=0.3, **options), victim, images, labels, guard)
    assert lost(victim, made, labels, guard).double().mean() > 0.3


def test_an_infinite_score_is_most_suspicious_and_no_error(victims: Any, digits: Splits, few: ImageSet) -> None:
    victim = victims["softmax"]
    wall = Made(lambda o: torch.where(margin(o.logits, o.predictions) > -1e9, torch.inf, 0.0) + 0 * o.logits.sum(1))
    guard = Guard("wall", wall, 0.0, True, victim.outputs(digits.calibration.load_all()), digits.calibration.labels)
    made = perturb(light("joint"), victim, few.load_all(), few.labels, guard)
    assert (made.first_success == -1).all()


# The attack whose success is a rejection


def test_a_forced_rejection_is_found_where_geometry_says_it_is_and_nowhere_nearer() -> None:
    # identity features: the score is half the squared distance to the nearest centre
    victim, guard = gaussian_pair()
    image, label = torch.from_numpy(X0).float().reshape(1, 1, 1, 4), torch.tensor([0])
    least = RADIUS - np.linalg.norm(X0 - MU[0])
    for factor, expected in ((0.98, False), (1.02, True)):
        which = attack("force-rejection", eps=factor * least, norm="l2", clip=False)
        made = perturb(which, victim, image, label, guard)
        rejected = guard.score(victim.outputs(made.images)) > guard.threshold
        assert rejected.item() is expected
        assert (made.first_success >= 0).item() is expected


def test_a_clean_image_that_is_rejected_needs_no_step(victims: Any, guards: Any, digits: Splits) -> None:
    victim, guard = victims["lgm"], guards["lgm"]
    rejected = guard.score(victim.outputs(digits.test.load_all())) > guard.threshold
    images, labels = digits.test.load_all()[rejected], digits.test.labels[rejected]
    assert len(images) > 0
    made = perturb(attack("force-rejection", eps=0.1), victim, images, labels, guard)
    assert torch.equal(made.images, images)
    assert (made.gradients == 0).all()
