"""Each check on hand-made evidence: what it takes to be met, what breaks it, what it misses."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from advbench import catalog, cli, metrics
from advbench.audit import CanaryRow, Selftest, Verdict
from advbench.audit.detector_figures import eer
from advbench.audit.evidence import Evidence
from advbench.audit.protocol import CHECKS, findings
from advbench.audit.results import Result
from advbench.runs import VerifyRow
from advbench.runs.artifacts import Part
from advbench.study import study
from advbench.types import Splits
from advbench.victim import Victim
from tests.helpers.evidence import CLEAN, EPS, IMAGES, MODEL, N, evidence, guard, outputs, result


def aware(wrong: int = 95, flagged: int = 0, attack: str = "detector-aware", **more: Any) -> Result:
    budget = {"budget": "quick"} if attack == "detector-aware" else {}
    return result(attack, wrong, flagged, **{**budget, "detector": "likelihood", "fpr": 0.05, **more})


MEMBERS = {"clean": 0.02, "joint-margin": 0.9, "selective": 0.0, "orthogonal": 0.0, "feature-matching": 0.03}


def headline(wrong: int = 95, **more: Any) -> Result:
    return aware(wrong, **{"row": {"members": MEMBERS}, **more})


def verify_row(population: str = "all", n: int = N, **more: Any) -> VerifyRow:
    attacked = np.concatenate([np.full(N - 50, 0.5), np.full(50, 2.0)])
    clean = CLEAN.features[:, 0].double().numpy()
    curve = metrics.roc(clean, attacked)
    row = VerifyRow(
        model=MODEL, attack="fgsm", settings={}, norm="linf", eps=EPS, detector="likelihood", population=population,
        n_clean=N, n_attacked=n, n_nonfinite=0, eer=curve.eer, eer_low=curve.eer - 0.02, eer_high=curve.eer + 0.02,
        auroc=curve.auroc, auroc_low=curve.auroc - 0.02, auroc_high=curve.auroc + 0.02, tpr_at_fpr01=None,
        tpr_at_fpr05=0.5, tpr_at_fpr10=None, fpr05_realised=None,
    )  # fmt: skip
    return replace(row, **more)


PGD_ROW = verify_row(attack="pgd")
TIED = Part(outputs(2, torch.full((N,), 0.5)), IMAGES.labels, None)  # with half of the attacked images
GROUPS = (verify_row(), verify_row("successful", 90), verify_row("failed", 8))
AUROC, EER = GROUPS[0].auroc or 0.0, GROUPS[0].eer or 0.0


def other(*results: Result, **model: Any) -> Evidence:
    return evidence(*results, model=replace(MODEL, **{"run": "another", **model}))


def finding(name: str, e: Evidence) -> Verdict:
    (check,) = [c for c in CHECKS if c.name == name]
    return check.judge(e)


def soft(*results: Result) -> Evidence:
    return other(*results, loss="softmax")


def hard(*results: Result) -> Evidence:
    return other(*results, loss="softmax", training="adversarial")


REST = (IMAGES.labels, None)
HSJ, ART_PGD = "art:HopSkipJump", "art:ProjectedGradientDescentPyTorch"
SIZE = round(2.5 * EPS / 40, 8)
OBJECTIVES = ("ce", "margin", "dlr", "logits")


def seeds(**model: Any) -> tuple[Evidence, ...]:
    return tuple(other(headline(), seed=seed, **model) for seed in (1, 2))


def objectives(**wrong: int) -> list[Result]:
    return [result("apgd", wrong.get(name, 90), objective=name) for name in OBJECTIVES]


def noise(uniform: int, gaussian: int) -> list[Result]:
    return [result("uniform-noise", 0, uniform), result("gaussian-noise", 0, gaussian)]


def forced(small: int, large: int, **more: Any) -> list[Result]:
    pairs = ((0.05, small), (0.1, large))
    return [aware(2, flagged, "force-rejection", eps=eps, **more) for eps, flagged in pairs]


HALF: dict[str, Any] = {"eps": EPS / 2}
SELFTEST, MISSED = (Selftest(advbench="1", rows=(CanaryRow("constant", "", "", met, ""),)) for met in (True, False))
TARGET: dict[str, Any] = {"target_rate": 0.3}
DEAD: dict[str, Any] = {"row": {"zero_gradients": 90}}
SQUARE: dict[str, Any] = {
    "row": {"members": {"clean": 0, "detector-square": 0.9}},
    "made": {"member": IMAGES.labels + 1},
}
MOVED: dict[str, Any] = {"made": {"images": IMAGES.load_all() + 0.31}}

# check, what it is given, what it says
CASES: list[tuple[str, Callable[[], Evidence], str]] = [
    ("threat-model", lambda: evidence(), "not run"),
    ("threat-model", lambda: evidence(result("fgsm", 90)), "not met"),
    ("threat-model", lambda: evidence(headline()), "not run"),
    ("threat-model", lambda: evidence(headline(), result("fgsm", 90)), "met"),
    ("threshold", lambda: evidence(result("fgsm")), "not run"),
    ("threshold", lambda: evidence(headline()), "met"),
    ("threshold", lambda: evidence(headline(row={"threshold": 0.9})), "not met"),
    ("threshold", lambda: evidence(headline(row={"threshold": None})), "not met"),
    ("threshold", lambda: evidence(headline(), clean=Part(outputs(2, torch.ones(N)), *REST)), "not met"),
    # 5 % of 100 images, of 300 to calibrate: four standard errors are 10.07 points
    ("threshold", lambda: evidence(headline(), clean=Part(outputs(2, torch.arange(N) < 15), *REST)), "met"),
    ("threshold", lambda: evidence(headline(), clean=Part(outputs(2, torch.arange(N) < 16), *REST)), "not met"),
    ("populations", lambda: evidence(), "not run"),
    ("populations", lambda: evidence(verify=GROUPS), "met"),
    ("populations", lambda: evidence(verify=GROUPS[:2]), "not met"),
    ("populations", lambda: evidence(verify=(*GROUPS[:2], verify_row("failed", 9))), "not met"),
    ("headline", lambda: evidence(result("fgsm")), "not run"),
    ("headline", lambda: evidence(aware(row={"detector": "none"})), "not run"),
    ("headline", lambda: evidence(headline()), "met"),
    ("headline", lambda: evidence(headline(row={"undetected_error_rate": 0.5})), "not met"),
    ("headline", lambda: evidence(headline(row={"undetected_error_high": 0.9})), "not met"),
    ("worst-case", lambda: evidence(), "not run"),
    ("worst-case", lambda: evidence(headline(95)), "not run"),
    ("worst-case", lambda: evidence(headline(95), result("pgd", 96)), "met"),
    ("worst-case", lambda: evidence(headline(95), result("pgd", 97)), "not met"),
    ("worst-case", lambda: evidence(headline(95), result("pgd", 97, flagged=100)), "met"),
    ("worst-case", lambda: evidence(headline(95), result("pgd", 97, clip=False)), "not run"),
    ("worst-case", lambda: evidence(headline(95), aware(97, attack="force-rejection")), "not run"),
    ("targeted", lambda: evidence(result("fgsm")), "not run"),
    ("targeted", lambda: evidence(result("targeted-fgsm", row=TARGET)), "met"),
    ("targeted", lambda: evidence(result("targeted-fgsm", row=TARGET | {"success_rate": None})), "not met"),
    ("adaptive-attacks", lambda: evidence(result("fgsm")), "not run"),
    ("adaptive-attacks", lambda: evidence(headline()), "met"),
    ("adaptive-attacks", lambda: evidence(aware(row={"members": {"joint-margin": 1.0}})), "not met"),
    ("adaptive-attacks", lambda: evidence(aware(row={"members": dict.fromkeys(list(MEMBERS)[:-1], 0)})), "not met"),
    ("objective-spread", lambda: evidence(result("apgd", 90)), "not run"),
    ("objective-spread", lambda: evidence(*objectives(ce=10)), "met"),
    ("objective-spread", lambda: evidence(*objectives(ce=10), headline(90)), "met"),
    ("objective-spread", lambda: evidence(*objectives(logits=97), headline(95)), "not met"),
    ("iterative-over-single-step", lambda: evidence(result("fgsm", 90)), "not run"),
    ("iterative-over-single-step", lambda: evidence(result("fgsm", 90), result("pgd", 90, steps=1)), "not run"),
    ("iterative-over-single-step", lambda: evidence(result("fgsm", 90), result("pgd", 89)), "met"),
    ("iterative-over-single-step", lambda: evidence(result("fgsm", 90), result("pgd", 88)), "not met"),
    ("twice-the-iterations", lambda: evidence(result("pgd", 90)), "not run"),
    ("twice-the-iterations", lambda: evidence(result("pgd", 90), result("pgd", 92, steps=120)), "not run"),
    ("twice-the-iterations", lambda: evidence(result("pgd", 90), result("pgd", 92, steps=80, samples=9)), "not run"),
    ("twice-the-iterations", lambda: evidence(result("pgd", 90), result("pgd", 91, steps=80)), "met"),
    ("twice-the-iterations", lambda: evidence(result("pgd", 90), result("pgd", 92, steps=80)), "not met"),
    ("restarts", lambda: evidence(result("pgd", 90)), "not run"),
    ("restarts", lambda: evidence(result("pgd", 90), result("pgd", 92, restarts=5, objective="dlr")), "not run"),
    ("restarts", lambda: evidence(result("pgd", 90), result("pgd", 91, restarts=5)), "met"),
    ("restarts", lambda: evidence(result("pgd", 90), result("pgd", 92, restarts=5)), "not met"),
    ("monotone-in-eps", lambda: evidence(result("pgd", 90), result("fgsm", 10, eps=0.1)), "not run"),
    ("monotone-in-eps", lambda: evidence(result("pgd", 90), result("pgd", 91, eps=0.1)), "met"),
    ("monotone-in-eps", lambda: evidence(result("pgd", 90), result("pgd", 92, eps=0.1)), "not met"),
    ("large-eps", lambda: evidence(result("pgd", 90)), "not run"),
    ("large-eps", lambda: evidence(result("pgd", 90, eps=0.99, row={"norm": "l2"})), "not run"),  # of four pixels: 1
    ("large-eps", lambda: evidence(result("pgd", 90), result("pgd", 85, eps=0.5)), "met"),  # a guess less 2 x 3
    ("large-eps", lambda: evidence(result("pgd", 90), result("pgd", 83, eps=0.5)), "not met"),
    *(
        case
        for name, attack in (("gradient-free", "square"), ("decision-based", HSJ), ("transfer", "transfer"))
        for case in (
            (name, lambda attack=attack: evidence(result(attack, 90)), "not run"),
            (name, lambda attack=attack: evidence(result("pgd", 90)), "not run"),
            (name, lambda attack=attack: evidence(result("pgd", 90), result(attack, 91)), "met"),
            (name, lambda attack=attack: evidence(result("pgd", 10), result(attack, 90)), "not met"),
        )
    ),
    ("detector-gradient-free", lambda: evidence(headline()), "not run"),
    ("detector-gradient-free", lambda: evidence(headline(90), aware(91, attack="detector-square")), "met"),
    ("detector-gradient-free", lambda: evidence(headline(50), aware(91, attack="detector-square")), "not met"),
    ("detector-gradient-free", lambda: evidence(headline(**SQUARE), aware(attack="detector-square")), "not met"),
    ("zero-gradients", lambda: evidence(), "not run"),
    ("zero-gradients", lambda: evidence(result("fgsm")), "met"),
    ("zero-gradients", lambda: evidence(result("fgsm", **DEAD)), "not run"),
    ("zero-gradients", lambda: evidence(result("fgsm", **DEAD), result("fgsm", exact_gradient=True)), "met"),
    ("zero-gradients", lambda: evidence(result("fgsm", exact_gradient=True, **DEAD)), "not met"),
    ("zero-gradients", lambda: evidence(result("pgd", **DEAD)), "not run"),
    ("zero-gradients", lambda: evidence(result("pgd", **DEAD), result("apgd", objective="margin")), "met"),
    ("noise", lambda: evidence(result("fgsm", 90, 60), noise(5, 5)[0]), "not run"),
    ("noise", lambda: evidence(result("fgsm", 90, 60), *noise(5, 40)), "met"),
    ("noise", lambda: evidence(result("fgsm", 90, 60), *noise(5, 60)), "not met"),
    ("noise", lambda: evidence(result("fgsm", 90, 5), *noise(5, 5)), "met"),
    ("sees-the-clean-image", lambda: evidence(*noise(90, 90)), "not run"),
    ("sees-the-clean-image", lambda: evidence(result("uniform-noise", 2, 5, eps=1.5 / 255)), "not run"),
    ("sees-the-clean-image", lambda: evidence(result("uniform-noise", 2, 54, eps=1 / 255)), "met"),
    ("sees-the-clean-image", lambda: evidence(result("uniform-noise", 2, 56, eps=1 / 255)), "not met"),
    ("undefended", lambda: evidence(result("pgd", 90)), "not run"),
    ("undefended", lambda: evidence(result("pgd", 90), others=(soft(result("pgd", 98)),)), "met"),
    ("undefended", lambda: evidence(result("pgd", 90), others=(soft(result("pgd", 97)),)), "not met"),
    ("undefended", lambda: evidence(result("pgd", 90), others=(hard(result("pgd", 98)),)), "not run"),
    ("adversarially-trained", lambda: evidence(headline(), others=(hard(result("pgd", 9)),)), "not run"),
    *(
        (
            "adversarially-trained",
            lambda wrong=wrong: evidence(
                headline(), others=(hard(aware(wrong, row={"detector": "none"}), result("autoattack", 20)),)
            ),
            state,
        )
        for wrong, state in ((20, "met"), (25, "met"), (19, "not met"))
    ),
    ("half-eps", lambda: evidence(result("pgd", 90)), "not run"),
    ("half-eps", lambda: evidence(headline(95)), "not run"),
    ("half-eps", lambda: evidence(headline(95), result("apgd", 50, **HALF)), "met"),
    ("half-eps", lambda: evidence(headline(2), result("apgd", 50, **HALF)), "not run"),
    ("half-eps", lambda: evidence(headline(0), result("apgd", 8, **HALF)), "met"),  # 2 wrong, 5 rejected: 93 % kept
    *(
        (
            "half-eps",
            lambda wrong=wrong: evidence(
                headline(2), result("apgd", 50, **HALF), others=(hard(result("apgd", wrong, **HALF)),)
            ),
            state,
        )
        for wrong, state in ((5, "met"), (30, "not met"))
    ),
    ("learned-detectors", lambda: evidence(), "met"),
    ("learned-detectors", lambda: evidence(detectors=()), "not run"),
    ("learned-detectors", lambda: evidence(learned=frozenset({"likelihood"}), verify=GROUPS), "not met"),
    (
        "learned-detectors",
        lambda: evidence(learned=frozenset({"likelihood"}), verify=(*GROUPS, verify_row(attack="pgd"))),
        "met",
    ),
    ("sign", lambda: evidence(verify=GROUPS), "not run"),
    ("sign", lambda: evidence(result("fgsm", 90, 50), verify=GROUPS), "met"),
    ("sign", lambda: evidence(result("fgsm", 90, 50), clean=TIED, verify=(verify_row(auroc=0.75),)), "met"),
    ("sign", lambda: evidence(result("fgsm", 90, 50), verify=(verify_row(auroc=AUROC + 1e-5),)), "not met"),
    ("eer-definition", lambda: evidence(verify=GROUPS), "not run"),
    ("eer-definition", lambda: evidence(result("fgsm", 90, 50), verify=GROUPS), "met"),
    ("eer-definition", lambda: evidence(result("fgsm", 90, 50), verify=(verify_row(eer=EER + 1e-5),)), "not met"),
    ("intervals", lambda: evidence(result("fgsm")), "not run"),
    ("intervals", lambda: evidence(headline(), verify=GROUPS), "met"),
    ("intervals", lambda: evidence(headline(), verify=(verify_row(eer_low=0.9),)), "not met"),
    ("intervals", lambda: evidence(headline(), verify=(verify_row(eer_high=0.0),)), "not met"),
    ("intervals", lambda: evidence(headline(row={"undetected_error_low": 0.99})), "not met"),
    ("better-than-chance", lambda: evidence(), "not run"),
    ("better-than-chance", lambda: evidence(verify=(verify_row(auroc_low=0.51),)), "met"),
    ("better-than-chance", lambda: evidence(verify=(verify_row(auroc_low=0.49),)), "not met"),
    # FGSM is judged, not the best of many
    ("better-than-chance", lambda: evidence(verify=(verify_row(auroc_low=0.49), PGD_ROW)), "not met"),
    ("better-than-chance", lambda: evidence(verify=(verify_row(n=200, eps=0.1, auroc_low=0.4), verify_row())), "met"),
    ("seeds", lambda: evidence(), "not run"),
    ("seeds", lambda: evidence(headline(), others=(other(headline(), seed=1),)), "not run"),
    ("seeds", lambda: evidence(headline(), others=seeds()), "met"),
    ("seeds", lambda: evidence(headline(), others=seeds(lam=1.0)), "not run"),
    ("settings", lambda: evidence(), "not run"),
    ("settings", lambda: evidence(headline(), result("fgsm")), "met"),
    ("settings", lambda: evidence(result("fgsm", colour="white")), "not met"),
    ("settings", lambda: evidence(replace(result("fgsm"), name="fgsm-eps0.4")), "not met"),
    ("settings", lambda: evidence(result("fgsm", row={"n": 99})), "not met"),
    ("rechecked", lambda: evidence(), "not run"),
    ("rechecked", lambda: evidence(result("fgsm"), images=None), "not run"),
    ("rechecked", lambda: evidence(result("fgsm"), headline()), "met"),
    ("rechecked", lambda: evidence(result("fgsm", **MOVED)), "not met"),
    ("rechecked", lambda: evidence(result("fgsm", made={"labels": torch.ones(N, dtype=torch.long)})), "not met"),
    ("parity", lambda: evidence(result("pgd", 90)), "not run"),
    *(
        (
            "parity",
            lambda wrong=wrong: evidence(
                result("pgd", 90), result(ART_PGD, wrong, max_iter=40, eps_step=SIZE, num_random_init=1)
            ),
            state,
        )
        for wrong, state in ((89, "met"), (91, "met"), (92, "not met"), (88, "not met"))
    ),
    ("canaries", lambda: evidence(), "not run"),
    ("canaries", lambda: evidence(selftest=SELFTEST), "met"),
    ("canaries", lambda: evidence(selftest=MISSED), "not met"),
    ("canaries", lambda: evidence(selftest=replace(SELFTEST, rows=())), "not met"),
    ("forced-rejection", lambda: evidence(headline()), "not run"),
    ("forced-rejection", lambda: evidence(headline(), *forced(10, 60)), "met"),
    ("forced-rejection", lambda: evidence(headline(), *forced(10, 60), aware(2, 5, "force-rejection")), "met"),
    ("forced-rejection", lambda: evidence(headline(), *forced(60, 58)), "not met"),
    ("forced-rejection", lambda: evidence(headline(), *forced(10, 60, row={"rejected_rate": 0.0})), "not met"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "state"), CASES, ids=[f"{c[0]}-{i}-{c[2]}" for i, c in enumerate(CASES)])
def test_a_check_says_of_hand_made_evidence_what_it_shows(
    name: str, make: Callable[[], Evidence], state: str
) -> None:
    found = finding(name, make())
    assert found.state == state, found.evidence
    assert found.evidence
    assert (found.command is None) == (state == "met")


class Waving:
    """A victim that may be random."""

    def __init__(self, stochastic: bool) -> None:
        self.stochastic = stochastic


@pytest.mark.parametrize(
    ("stochastic", "detector", "results", "state"),
    [
        (False, "likelihood", [], "met"),
        (True, "likelihood", [result("pgd")], "not met"),
        (True, "likelihood", [result("pgd", samples=20)], "met"),
        (False, "hard", [], "not met"),
        (False, "flat", [], "not met"),  # a gradient on 47 of 100 images
    ],
)
def test_random_models_need_samples_and_scores_without_gradient_a_stand_in(
    stochastic: bool, detector: str, results: list[Result], state: str
) -> None:
    made = evidence(*results, detectors=(detector,), victim=lambda: Waving(stochastic))
    assert finding("stand-ins", made).state == state


def test_against_a_score_without_gradient_the_random_search_must_have_run() -> None:
    made = evidence(aware(detector="hard", row={"members": MEMBERS}))
    assert "missing detector-square" in finding("adaptive-attacks", made).evidence


def test_an_image_that_scores_the_threshold_is_not_flagged_and_so_is_lost() -> None:
    known = guard("likelihood", 0.05)
    tied = result("fgsm", made={"outputs": outputs(N, torch.full((N,), known.threshold))})
    assert tied.lost(known).all()
    assert not tied.flagged(known).any()


def test_eight_bits_are_put_through_the_model_again(victims: dict[str, Victim], digits: Splits) -> None:
    victim, part = victims["softmax"], digits.test.take(slice(N))
    images = (
        catalog.load("attack", "fgsm")(eps=0.1).perturb(victim, part.load_all(), part.labels, IMAGES.labels).images
    )
    seen = victim.outputs(images)
    one = aware(made={"images": images, "labels": part.labels, "outputs": seen})
    found = finding("eight-bit", evidence(one, victim=lambda: victim))
    rounded = victim.outputs((images * 255).round() / 255)
    wrong = rounded.predictions != part.labels
    lost = wrong & (guard("likelihood", 0.05).slack(rounded) >= 0)
    assert found.state == "met"
    assert f"in 8 bits {wrong.sum()}.0 % [" in found.evidence
    assert f"in 8 bits {lost.sum()}.0 % [" in found.evidence
    coarse = result("fgsm", made={"images": images.half(), "labels": part.labels, "outputs": seen})
    assert finding("eight-bit", evidence(coarse, victim=lambda: victim)).state == "not met"
    assert finding("eight-bit", evidence(one)).state == "not run"


def test_the_headline_is_the_ensemble_on_most_images_and_of_the_largest_budget() -> None:
    many, few = headline(n=N), headline(n=50, budget="standard")
    more = headline(n=N, budget="standard", eps=0.2)
    assert evidence(many, few).headline is many
    assert evidence(many, more, few).headline is more
    assert evidence(many, more, few).eps == 0.2
    assert evidence(many, worst := headline(90)).headline is worst
    assert evidence(headline(90, fpr=0.1), many).headline is many
    assert evidence(many, often := headline(eps=0.2), result("pgd", eps=0.2)).headline is often
    assert evidence(result("pgd"), result("fgsm"), result("fgsm", eps=0.1)).at == ("linf", EPS)


def test_comparisons_are_over_the_images_that_both_attacks_had() -> None:
    # of the first 50, pgd misses none: the other 50 are not its concern
    assert finding("gradient-free", evidence(result("pgd", 50), result("square", 50, n=50))).state == "met"


def test_the_eer_of_the_check_is_that_of_the_metrics_with_ties_and_infinities(rng: np.random.Generator) -> None:
    for _ in range(200):
        clean = rng.integers(0, 6, size=rng.integers(1, 40)).astype(float)
        attacked = rng.integers(1, 8, size=rng.integers(1, 40)).astype(float)
        attacked[rng.random(len(attacked)) < 0.1] = math.inf
        assert eer(clean, attacked) == pytest.approx(metrics.roc(clean, attacked).eer, abs=1e-12)


def test_every_check_has_a_name_of_its_own_and_they_stand_in_the_order_of_the_requirements() -> None:
    assert len({c.name for c in CHECKS}) == len(CHECKS)
    assert sorted({int(c.requirement[1:]) for c in CHECKS}) == list(range(1, 23))
    assert [int(c.requirement[1:]) for c in CHECKS] == sorted(int(c.requirement[1:]) for c in CHECKS)


def test_each_check_has_a_case_for_every_state_that_it_knows() -> None:
    seen: dict[str, set[str]] = {}
    for name, _, state in CASES:
        seen.setdefault(name, set()).add(state)
    elsewhere = {"stand-ins", "eight-bit"}
    assert {c.name for c in CHECKS} - seen.keys() == elsewhere
    assert {name for name, states in seen.items() if len(states) < 3} == {"seeds"}  # three seeds are there or not


def commands() -> Iterator[tuple[str, ...]]:
    for _, make, _ in CASES:
        for found in findings(make()):
            yield from found.command.commands if found.command else ()


def test_every_command_that_a_check_gives_is_one_that_the_command_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(name: str) -> Callable[..., list[dict[str, Any]]]:
        def instead(*given: object) -> list[dict[str, Any]]:  # noqa: ARG001
            seen.append(name)
            return []

        return instead

    monkeypatch.setattr(study.Study, "attack", noted("attack"))
    monkeypatch.setattr("advbench.study.verify.verify_found", noted("verify"))
    monkeypatch.setattr("advbench.cli.commands.found_by", noted("found"))
    monkeypatch.setattr("advbench.audit.canaries.selftest.selftest", noted("selftest"))
    monkeypatch.setattr("advbench.cli.audit.findings_of", noted("audit"))
    given = sorted(set(commands()))
    assert len(given) > 30
    for words in given:
        assert cli.main(words) == 0, words
    assert {"attack", "verify", "selftest", "audit"} <= set(seen)


def test_outside_l_inf_no_command_names_an_attack_that_knows_no_other_norm() -> None:
    e = object.__new__(Evidence)
    e.__dict__.update(words=("attack", "--dataset", "digits"), at=("l2", 1.0), headline=None)
    text = "advbench attack --dataset digits --attack pgd --eps 1 --set norm=l2"
    assert str(e.attack("fgsm", "pgd")) == text
    assert "norm" not in str(e.attack("targeted-fgsm", eps="0.3"))
