"""The detector-aware ensemble: members frozen, budget kept, shares that add up, and the worst case of its members."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from advbench import catalog, metrics
from advbench.attacks import detector_aware
from advbench.detection import NO_DETECTOR, AcceptAll, Guard, undetected_errors
from advbench.errors import BadSetting, FailedCheck
from advbench.evasion import perturb
from advbench.runs import AdaptiveRow, sealed_json
from advbench.study.attack_rows import AttackedModel, effect, evasion, row_of, weakness
from advbench.study.parsing import attack_choices
from advbench.types import Adversarials, ImageSet, Splits
from advbench.victim import Victim
from tests.helpers.guards import Made, guard_of, made_guard, stepped
from tests.helpers.records import MODEL_ROW


def made_of(
    entry: dict[str, Any], victim: Victim, images: ImageSet, guard: Guard
) -> tuple[Adversarials, AdaptiveRow]:
    (choice,) = attack_choices(entry)
    clean = victim.outputs(images.load_all())
    made = perturb(choice.attack, victim, images, clean, lambda done: None, guard)
    return made, evasion(effect(MODEL_ROW, choice, made, clean), choice.fpr, made, clean, guard, None)


def ensemble(budget: str = "quick", **more: Any) -> dict[str, Any]:
    return {"name": "detector-aware", "detector": "likelihood", "eps": 0.2, "budget": budget, **more}


def test_version_1_is_frozen_to_its_members_settings_and_their_order() -> None:
    record = {
        "version": detector_aware.DetectorAware().version,
        "gradients": detector_aware.GRADIENTS,
        "members": {b: [dataclasses.asdict(m) for m in ms] for b, ms in detector_aware.MEMBERS.items()},
        "defaults": {
            m.attack: repr(catalog.load("attack", m.attack)()) for m in detector_aware.STANDARD
        },
    }  # fmt: skip
    assert sealed_json.digest(record) == "d468471b", "another choice of members is another version"


def alone_guard(victim: Victim, digits: Splits) -> Guard:
    """No detector at all."""
    clean = victim.outputs(digits.calibration.load_all())
    return Guard(NO_DETECTOR, AcceptAll(), 1.0, False, clean, digits.calibration.labels)


@pytest.mark.parametrize(("version", "digest"), [("v2", "42a72fa4"), ("v3", "8027fb35")])
def test_later_versions_are_frozen_too_and_differ_where_there_is_no_score_to_follow(
    version: Any, digest: str, victims: dict[str, Victim], digits: Splits
) -> None:
    alone = {b: [dataclasses.asdict(m) for m in ms] for b, ms in detector_aware.ALONE[version].items()}
    assert sealed_json.digest(alone) == digest, "another choice of members is another version"
    one, later = (detector_aware.DetectorAware(budget="standard", version=v) for v in ("v1", version))
    none, some = alone_guard(victims["lgm"], digits), guard_of(victims["lgm"], digits)
    assert list(one.members(victims["lgm"], some)) == list(later.members(victims["lgm"], some))
    assert list(later.members(victims["lgm"], none)) == list(detector_aware.ALONE[version]["standard"])


@pytest.mark.parametrize(
    ("version", "budget", "n", "spent"),
    [("v2", "quick", 6, 200), ("v2", "standard", 1, 2000), ("v3", "quick", 6, 200), ("v3", "standard", 1, 1520)],
)
def test_what_later_versions_spend_on_a_classifier_alone(
    version: Any, budget: Any, n: int, spent: int, victims: dict[str, Victim], digits: Splits
) -> None:
    few = digits.test.take(slice(n))
    made, row = made_of(
        {**ensemble(budget, version=version), "detector": NO_DETECTOR, "eps": 1e-6},
        victims["softmax"],
        few,
        alone_guard(victims["softmax"], digits),
    )
    members = detector_aware.ALONE[version][budget]
    queries = sum(m.settings.get("queries", 0) for m in members)
    assert made.gradients is not None
    assert made.first_success is not None
    kept = made.first_success < 0
    assert kept.any()
    assert (made.gradients[kept] + queries // 5 == spent).all()
    assert spent <= detector_aware.GRADIENTS[budget]
    assert row.members.keys() == {"clean", *(m.name for m in members)}


# its score has a gradient and is above every threshold
REJECTING = Made(lambda outputs: 1e6 + outputs.logits.double().square().sum(dim=1))


@pytest.mark.parametrize(("budget", "n"), [("quick", 6), ("standard", 2)])
def test_an_image_that_is_never_lost_costs_the_budget_and_no_more(
    budget: Any, n: int, victims: dict[str, Victim], digits: Splits
) -> None:
    victim = victims["lgm"]
    guard = dataclasses.replace(guard_of(victim, digits), detector=REJECTING, threshold=0.0)
    made, row = made_of(ensemble(budget), victim, digits.test.take(slice(n)), guard)
    queries = sum(m.settings.get("queries", 0) for m in detector_aware.MEMBERS[budget])
    assert made.gradients is not None
    assert made.forwards is not None
    assert (made.gradients + queries // 5 == detector_aware.GRADIENTS[budget]).all()
    # a pass for the clean image and one at the end of each ascent; an orthogonal step is one pass for two gradients
    assert (made.forwards - queries <= made.gradients + 120).all()
    assert row.undetected_error_rate == 0
    assert set(row.members.values()) == {0}


@pytest.mark.parametrize("loss", ["softmax", "center", "lgm", "lgm-diagonal"])
def test_shares_add_up_to_the_undetected_errors_that_the_scorer_counts(
    loss: str, victims: dict[str, Victim], digits: Splits
) -> None:
    victim = victims[loss]
    images, guard = digits.test.take(slice(60)), guard_of(victims[loss], digits)
    made, row = made_of(ensemble(), victim, images, guard)
    outputs = victim.outputs(made.images)
    lost = (outputs.predictions != images.labels) & (guard.score(outputs) <= guard.threshold)
    assert row.undetected_error_rate == lost.double().mean().item() > 0
    assert row.rejected_rate == (guard.score(outputs) > guard.threshold).double().mean().item()
    assert sum(row.members.values()) == pytest.approx(row.undetected_error_rate)
    assert row.error_rate >= row.undetected_error_rate
    assert row.undetected_error_low <= row.undetected_error_rate <= row.undetected_error_high
    clean = victim.outputs(images.load_all())
    before = (clean.predictions != images.labels) & (guard.score(clean) <= guard.threshold)
    assert row.members["clean"] == before.double().mean().item()


def test_no_member_alone_loses_an_image_that_the_ensemble_does_not(
    victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images = victims["lgm"], digits.test.take(slice(200))
    guard = guard_of(victim, digits)
    worst, _ = made_of(ensemble(eps=0.12), victim, images, guard)
    lost = undetected_errors(worst.outputs, worst.labels, guard).numpy()
    assert 0 < lost.mean() < 1
    alone = np.zeros_like(lost)
    for member in detector_aware.QUICK:
        if member.attack != "apgd":  # which knows no detector
            entry = {"name": member.attack, "detector": "likelihood", "eps": 0.12, **member.settings}
            made = made_of(entry, victim, images, guard)[0]
            alone |= undetected_errors(made.outputs, made.labels, guard).numpy()
    # other random starts, so that an image on the edge may fall either way
    assert (alone & ~lost).sum() <= 1


def test_without_a_detector_it_is_an_attack_on_the_classifier_alone(
    victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images = victims["softmax"], digits.test.take(slice(40))
    made, row = made_of(ensemble(detector=NO_DETECTOR, eps=0.08), victim, images, alone_guard(victim, digits))
    assert row.threshold is None
    assert row.fpr is None
    assert row.undetected_error_rate == row.error_rate
    assert row.clean_rejected == 0
    assert not {"joint-margin", "selective", "orthogonal"} & row.members.keys()
    pgd = catalog.load("attack", "pgd")(eps=0.08).perturb(victim, images.load_all(), images.labels, torch.arange(40))
    assert row.error_rate >= (victim.outputs(pgd.images).predictions != images.labels).double().mean()
    assert made.misclassified is not None
    assert torch.equal(made.misclassified, made.outputs.predictions != images.labels)


def test_the_error_counts_what_any_member_misclassified_though_the_detector_caught_it(
    victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images = victims["lgm"], digits.test.take(slice(20))
    guard = dataclasses.replace(guard_of(victim, digits), detector=REJECTING, threshold=0.0)
    made, row = made_of(ensemble(eps=0.3), victim, images, guard)
    assert row.error_rate == 1
    assert row.error_rate >= (made.outputs.predictions != images.labels).double().mean()


def test_random_search_is_left_out_in_l2_and_four_class_losses_where_there_are_two(
    victims: dict[str, Victim], digits: Splits, linear_victim: Any
) -> None:
    guard = guard_of(victims["lgm"], digits)
    names = {m.name for m in detector_aware.DetectorAware(norm="l2", eps=1.0).members(victims["lgm"], guard)}
    assert names == {m.name for m in detector_aware.STANDARD} - {"detector-square"}
    two = linear_victim(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    outputs = two.outputs(torch.rand(50, 1, 1, 2))
    likelihood = catalog.load("detector", "likelihood")().fit(two.head, outputs, outputs.predictions)
    pair = Guard("likelihood", likelihood, 10.0, True, outputs, outputs.predictions)
    assert not {"apgd-dlr", "joint-dlr"} & {m.name for m in detector_aware.DetectorAware().members(two, pair)}
    images = ImageSet("two", torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), ("a", "b"))
    _, row = made_of(ensemble(eps=0.3), two, images, pair)
    assert row.undetected_error_rate == 1


# The interval


def test_the_interval_of_a_fixed_threshold_is_that_of_a_share() -> None:
    # calibration scores that all agree: every resample gives the same threshold
    wrong = np.arange(1000) < 300
    found = metrics.undetected(np.zeros(500), np.zeros(1000), wrong, 0.05, rng=np.random.default_rng(0))
    share = metrics.wilson(300, 1000)
    assert share is not None
    assert found.low == pytest.approx(share.low, abs=0.005)
    assert found.high == pytest.approx(share.high, abs=0.005)


def test_the_interval_covers_the_spread_of_the_threshold_too(rng: np.random.Generator) -> None:
    # all attacked images wrong, their scores those of clean ones: the share passed is 1 - the realised FPR
    shares, calibration = [], rng.normal(size=200)
    for _ in range(400):
        threshold = metrics.threshold_at(0.1, rng.normal(size=200))
        assert threshold is not None
        shares.append(float(np.mean(rng.normal(size=300) <= threshold)))
    found = metrics.undetected(calibration, rng.normal(size=300), np.ones(300, bool), 0.1, rng=rng)
    low, high = np.percentile(shares, [2.5, 97.5])
    assert found.high - found.low == pytest.approx(high - low, rel=0.2)  # of a fixed threshold: 0.7 of it


# From the command line


def test_lists_of_detectors_and_rates_are_every_pair_and_none_has_no_rate() -> None:
    choices = attack_choices(ensemble(detector=["likelihood", NO_DETECTOR], fpr=[0.05, "0.1"]))
    assert [(c.detector, c.fpr) for c in choices] == [("likelihood", 0.05), ("likelihood", 0.1), ("none", None)]
    assert len({c.file_name for c in choices}) == 3


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"budget": "huge"}, "quick"),
        ({"version": "v4"}, "v1"),
        ({"fpr": 0}, "0.05"),
        ({"fpr": [0.05, 1.5]}, "0.05"),
        ({"detector": []}, "detector is empty"),
        ({"detector": "liklihood"}, "likelihood"),
        ({"steps": 3}, "steps"),
        ({"n": 0}, "at least 1"),
    ],
)
def test_a_bad_value_is_refused_with_the_way_out(more: dict[str, Any], word: str) -> None:
    with pytest.raises(BadSetting, match=word):
        attack_choices(ensemble(**more))


# Models and detectors that need care


@pytest.mark.parametrize("claimed", [True, False])
def test_a_score_without_a_gradient_loses_its_members_and_one_that_claims_it_is_an_error(
    claimed: bool, victims: dict[str, Victim], digits: Splits
) -> None:
    victim = victims["lgm"]
    guard = made_guard(victim, digits, Made(stepped), differentiable=claimed)
    images = digits.test.take(slice(30))
    if claimed:
        with pytest.raises(FailedCheck, match="carries no gradient"):
            made_of(ensemble(), victim, images, guard)
        return
    made, row = made_of(ensemble(eps=0.3), victim, images, guard)
    assert set(row.members) == {"clean", "apgd-ce", "apgd-dlr", "feature-matching", "detector-square"}
    assert made.first_success is not None
    assert made.gradients is not None
    assert (made.first_success <= made.gradients).all()  # in gradients, whoever found it
    assert row.undetected_error_rate > 0.3


def test_a_row_says_what_is_left_of_the_images_in_eight_bits(linear_victim: Any) -> None:
    victim = linear_victim(torch.eye(2))  # the brighter pixel's class, else the first
    labels = torch.tensor([0, 0, 1])
    # after rounding: equal and so right; still wrong; clipped to equal and so still wrong, but rejected
    images = torch.tensor([[99.6, 99.7], [99.4, 100.7], [330.0, 320.0]]).reshape(3, 1, 1, 2) / 255
    part, clean = ImageSet("p", images.clamp(0, 1), labels, ("a", "b")), victim.outputs(images.clamp(0, 1))
    guard = Guard("second", Made(lambda outputs: outputs.features[:, 1].double()), 0.99, True, clean, labels)
    target = AttackedModel(victim, clean, part, lambda name, fpr: guard)
    made = Adversarials(images, torch.arange(3), labels, None, victim.outputs(images), None, labels.bool())
    (choice,) = attack_choices({"name": "joint", "eps": 0.1, "detector": "likelihood"})
    row = row_of(MODEL_ROW, choice, made, target)
    assert (row.error_rate, row.zero_gradients) == (1, None)
    assert row.eight_bit_error_rate == pytest.approx(2 / 3)
    assert isinstance(row, AdaptiveRow)
    assert row.eight_bit_undetected_error_rate == pytest.approx(1 / 3)
    assert weakness(row) == weakness(dataclasses.replace(row, success_rate=0)) == ""
    of_art = dataclasses.replace(row, attack="art:DeepFool", success_rate=0)
    assert weakness(of_art).startswith("art:DeepFool at eps 0.1 made no prediction wrong; ")
    assert weakness(dataclasses.replace(of_art, success_rate=0.1)) == ""
