"""Where each attack succeeds and plain PGD, at the same eps and with as many gradients, does not.

On a small trained L-GM model, and in a plane where it can be seen why: class 1 begins at `u + v = C`, and the guard
accepts `v` up to T, so that the way to class 1 that is shortest is the one that is noticed.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench import catalog
from advbench.attacks.detector_aware import STANDARD, Member
from advbench.detection import FittedDetector, Guard
from advbench.evasion import Attack, SearchState, Undetected
from advbench.types import Outputs, Splits
from advbench.victim import Victim
from tests.helpers.guards import guard_of
from tests.helpers.models import Function, margin_only, victim_of


def lost(victim: Victim, images: Tensor, labels: Tensor, guard: Guard) -> Tensor:
    """Bool [n], as the scorer sees it: misclassified and not rejected."""
    outputs = victim.outputs(images)
    return (outputs.predictions != labels) & (guard.score(outputs) <= guard.threshold)


def by_pgd(victim: Victim, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """The images of plain PGD."""
    attack: Attack = catalog.load("attack", "pgd")(**options)
    moved: Tensor = attack.perturb(victim, images, labels, torch.arange(len(images))).images
    return moved


def by_member(member: Member, victim: Victim, images: Tensor, labels: Tensor, guard: Guard, **ball: Any) -> Tensor:
    """The images of one member of the ensemble, with its settings there."""
    attack = catalog.load("attack", member.attack)(**ball, **member.settings)
    state = SearchState(attack, victim, images, torch.arange(len(images)), Undetected(labels, guard), stop=True)
    attack.run(state, labels, guard, state.evaluate(state.everyone, state.origin))
    return state.images


def budget(member: Member) -> int:
    """Gradients an image; a member without gradients gets five queries for one."""
    own = member.settings
    if "queries" in own:
        return int(own["queries"]) // 5
    ascents = max(1, own.get("targets", 0)) * own.get("sweep", 1) * (2 if member.attack == "orthogonal" else 1)
    return int(ascents * own["steps"])


MEMBERS = {m.name: m for m in STANDARD}
KNOWING = [m for m in STANDARD if m.attack != "apgd"]  # the guard


@pytest.mark.parametrize("member", KNOWING, ids=lambda m: m.name)
def test_each_member_that_knows_the_guard_evades_it_on_lgm_where_pgd_with_its_budget_is_caught(
    member: Member, victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images, labels = victims["lgm"], digits.test.load_all()[:30], digits.test.labels[:30]
    guard = guard_of(victim, digits)
    won = lost(victim, by_member(member, victim, images, labels, guard, eps=0.3), labels, guard)
    plain = lost(victim, by_pgd(victim, images, labels, eps=0.3, steps=budget(member)), labels, guard)
    assert (won & ~plain).sum() >= 2


# In the plane

C, T, EPS = 0.27, 0.02, 0.3
FAR = -5.0  # logits of two classes that nothing is near to; the third one tells the guard v


@dataclass(frozen=True)
class Height(FittedDetector):
    """Its score is v."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features[:, 2].double() - FAR


def plane(u_weight: float = 1.0, v_weight: float = 1.0) -> tuple[Victim, Guard]:
    """Two pixels (u, v) + 0.5; class 1 where their weighted sum exceeds C; the guard accepts v <= T."""

    def logits(x: Tensor) -> Tensor:
        u, v = (x - 0.5).unbind(dim=1)
        return torch.stack([0 * u, u_weight * u + v_weight * v - C, FAR + v, FAR + 0 * u], dim=1)

    victim = victim_of(Function(logits), 4, 2)
    # leads of C, and heights with quartiles C apart: the guard's two units are the same; one reference of class 1
    heights = torch.linspace(-C, C, 41)
    points = torch.cat([torch.stack([-heights, heights], dim=1), torch.tensor([[0.28, 0.0]])])
    clean = victim.outputs((points + 0.5).reshape(-1, 1, 1, 2))
    return victim, Guard("height", Height(), T, True, clean, torch.tensor([0] * 41 + [1]))


def at(u: float, v: float) -> Tensor:
    return torch.tensor([u + 0.5, v + 0.5]).reshape(1, 1, 1, 2)


def caught(victim: Victim, image: Tensor, guard: Guard, steps: int, **ball: Any) -> bool:
    """Whether PGD is: from the image or a random start, with its first success or its last point."""
    label = torch.tensor([0])
    ways = [
        by_pgd(victim, image, label, steps=steps, random_start=r, stop=s, **ball)
        for r, s in ((False, False), (False, True), (True, False))
    ]
    return not any(lost(victim, x, label, guard).item() for x in ways)


@pytest.mark.parametrize(
    "name", ["joint-margin", "joint-ce", "joint-logits", "selective", "orthogonal", "feature-matching"]
)
def test_a_member_that_knows_the_guard_goes_round_it_where_pgd_takes_the_shortest_way(name: str) -> None:
    victim, guard = plane()
    ball: dict[str, Any] = {"eps": EPS, "norm": "l2"}
    moved = by_member(MEMBERS[name], victim, at(0, 0), torch.tensor([0]), guard, **ball)
    assert lost(victim, moved, torch.tensor([0]), guard).item()
    assert caught(victim, at(0, 0), guard, budget(MEMBERS[name]), **ball)


def test_the_orthogonal_attack_wins_the_other_way_round_too_from_a_point_that_is_wrong_and_rejected() -> None:
    # straight down the score leads back to class 0; along the border it takes sqrt(2) * (0.1 - T) = 0.113
    victim, guard = plane()
    ball: dict[str, Any] = {"eps": 0.125, "norm": "l2"}
    image, label = at(0.2, 0.1), torch.tensor([0])
    assert victim.outputs(image).predictions.item() == 1
    assert not lost(victim, image, label, guard).item()
    moved = by_member(MEMBERS["orthogonal"], victim, image, label, guard, **ball)
    assert lost(victim, moved, label, guard).item()
    assert caught(victim, image, guard, budget(MEMBERS["orthogonal"]), **ball)


def test_a_forced_rejection_climbs_a_score_that_pgd_leaves_alone() -> None:
    victim, guard = plane(v_weight=-1.0)  # towards class 1 the score falls
    image, label = at(0, 0), torch.tensor([0])
    which = catalog.load("attack", "force-rejection")(eps=0.05)
    moved = which.perturb(victim, image, label, torch.tensor([0]), guard).images
    assert guard.score(victim.outputs(moved)).item() > T
    plain = by_pgd(victim, image, label, eps=0.05, steps=which.steps)
    assert guard.score(victim.outputs(plain)).item() <= T


# Against the classifier alone


def all_pass(victim: Victim, images: Tensor, labels: Tensor) -> Guard:
    """A guard that rejects nothing."""
    return Guard("all", Height(), 1e3, True, victim.outputs(images), labels)


def test_apgd_ce_halves_its_step_into_a_region_that_pgd_steps_across() -> None:
    hole = torch.tensor([0.6137, 0.3791, 0.5511, 0.4271, 0.6431, 0.3313])
    victim = victim_of(Function(margin_only(lambda x: 0.012 - (x - hole).abs().sum(dim=1))), 2, 6)
    image, label = torch.full((1, 1, 1, 6), 0.5), torch.tensor([0])
    which = catalog.load("attack", "apgd")(eps=EPS, **MEMBERS["apgd-ce"].settings)
    moved = which.perturb(victim, image, label, torch.tensor([0])).images
    assert victim.outputs(moved).predictions.item() == 1
    plain = by_pgd(victim, image, label, eps=EPS, steps=budget(MEMBERS["apgd-ce"]))
    assert victim.outputs(plain).predictions.item() == 0


def test_apgd_dlr_tries_the_class_that_is_further_where_the_nearest_is_a_dead_end_for_pgd() -> None:
    def logits(x: Tensor) -> Tensor:
        t = x[:, 0] - 0.5  # class 1 comes near to the left and stops short; class 2 begins at the right end
        return 20 * torch.stack([0 * t, (-0.1 - t).clamp(max=-0.02), 3.2 * t - 0.9, FAR + 0 * t], dim=1)

    victim = victim_of(Function(logits), 4, 1)
    images, labels = torch.full((10, 1, 1, 1), 0.5), torch.zeros(10, dtype=torch.long)
    guard, member = all_pass(victim, images, labels), MEMBERS["apgd-dlr"]
    moved = by_member(member, victim, images, labels, guard, eps=EPS)
    assert victim.outputs(moved).predictions.tolist() == [2] * 10
    plain = by_pgd(victim, images, labels, eps=EPS, steps=3 * member.settings["steps"])  # there are three targets
    assert (victim.outputs(plain).predictions == 0).sum() >= 5
