"""An honest model with an honest detector, evaluated in full; and the same evaluation with something wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from advbench import metrics
from advbench.canaries import Canary
from advbench.canaries.evaluate import Subject, evaluate, model_row, result_of
from advbench.canaries.fools import EPS, GREY, aware, entry
from advbench.canaries.models import trained
from advbench.checks import State
from advbench.checks.evidence import Evidence
from advbench.checks.results import ITERATIVE, Result
from advbench.contracts import NO_DETECTOR
from advbench.detectors.likelihood import FittedLikelihood
from advbench.scoring import Row
from advbench.types import Splits
from advbench.victim import Victim

OBJECTIVES = ("ce", "margin", "dlr", "logits")
RECORD = {"advbench": "in memory", "rows": [{"canary": "none", "met": True}]}


def subject_of(victim: Victim, row: Row) -> Subject:
    """A model with its own likelihood."""
    return Subject(row, victim, FittedLikelihood(victim.head_in_float64()), "likelihood")


def attacks() -> list[dict[str, Any]]:
    """Everything that the checks ask for, on few images."""
    size = round(2.5 * EPS / 40, 8)
    return [
        *(entry(name) for name in ("fgsm", "targeted-fgsm", "pgd", "transfer", "uniform-noise", "gaussian-noise")),
        entry("pgd", steps=80),
        entry("pgd", restarts=5),
        *(entry("pgd", eps=eps) for eps in (EPS / 2, 0.5)),
        *(entry("apgd", steps=30, objective=o) for o in OBJECTIVES),
        entry("square", n=40, queries=300),
        entry("art:HopSkipJump", n=4, norm="linf", max_iter=2, max_eval=100, init_eval=10),
        entry("art:ProjectedGradientDescentPyTorch", n=10, max_iter=40, eps_step=size, num_random_init=1),
        entry("uniform-noise", eps=GREY),
        aware("likelihood"),
        aware("likelihood", "detector-square", n=40, queries=100),
        *(aware("likelihood", "force-rejection", eps=eps) for eps in (EPS / 4, EPS / 2)),
    ]


def honest(splits: Splits, softmax: Victim) -> Evidence:
    """An L-GM model under all of it, with two more seeds, an undefended and a hardened model beside it."""
    few = [aware("likelihood", n=20)]
    beside = []
    for seed in (1, 2):
        victim = trained(splits, "lgm", seed=seed, alpha=0.3)
        beside.append(evaluate(subject_of(victim, model_row("lgm", seed, run=f"seed {seed}")), splits, few))
    plain = subject_of(softmax, model_row("softmax", 0, run="undefended"))
    beside.append(evaluate(plain, splits, [entry("apgd", objective="margin")]))
    hard = subject_of(
        trained(splits, "softmax", adversarial=EPS / 2), model_row("softmax", 0, "adversarial", "hardened")
    )
    both = [aware(NO_DETECTOR, n=20), entry("autoattack", n=20), entry("apgd", eps=EPS / 2)]
    beside.append(evaluate(hard, splits, both))
    subject = subject_of(trained(splits, "lgm", alpha=0.3), model_row("lgm", 0))
    whole = evaluate(subject, splits, attacks(), surrogate=softmax, verified=("fgsm", "targeted-fgsm", "pgd"))
    return replace(whole, others=tuple(beside), selftest=RECORD)


def controls(splits: Splits, softmax: Victim) -> list[Canary]:
    """The honest evaluation, of which nothing may be said; and with one thing after the other gone wrong."""
    good = honest(splits, softmax)
    return [
        Canary("honest", "L-GM and its likelihood, evaluated in full", good, dict.fromkeys(ALL, "met")),
        careless(good),
        *spoilt(good),
        forged(good),
    ]


ALL = (
    "threat-model", "threshold", "populations", "headline", "worst-case", "targeted", "adaptive-attacks",
    "objective-spread", "iterative-over-single-step", "twice-the-iterations", "restarts", "monotone-in-eps",
    "large-eps", "gradient-free", "decision-based", "transfer", "detector-gradient-free", "stand-ins",
    "zero-gradients", "noise", "sees-the-clean-image", "undefended", "adversarially-trained", "half-eps",
    "learned-detectors", "sign", "eer-definition", "intervals", "better-than-chance", "seeds", "eight-bit",
    "settings", "rechecked", "parity", "canaries", "forced-rejection",
)  # fmt: skip
NEEDS_NOTHING = ("settings", "rechecked", "eight-bit", "stand-ins", "zero-gradients", "learned-detectors")


def careless(good: Evidence) -> Canary:
    """FGSM, once, and no more: the audit must miss all the rest."""
    bare = replace(
        good,
        results=tuple(r for r in good.results if r.attack == "fgsm"),
        verify=(),
        others=(),
        selftest=None,
        detectors=(),
    )
    states: dict[str, State] = {name: "not run" for name in ALL if name not in NEEDS_NOTHING}
    return Canary("careless", "FGSM at one eps", bare, states | {"threat-model": "not met"})


def inert(result: Result, good: Evidence) -> Result:
    """The same attack, had it moved no image."""
    assert good.images is not None
    n = result.n
    clean = good.clean.outputs.take(slice(n))
    made = replace(
        result.made, images=good.images.images[:n], outputs=clean, misclassified=None, member=None, targets=None
    )
    row = dict(result.row)
    row["error_rate"] = float(good.clean_wrong[:n].mean())
    if result.detector is not None:
        lost = float(Result(row, lambda: made).lost(good.guard(result.detector, 0.05)).mean())
        spread = metrics.wilson(round(lost * n), n)
        assert spread is not None
        row |= {"undetected_error_rate": lost, "members": {"clean": lost}}
        row |= {"undetected_error_low": spread.low, "undetected_error_high": spread.high}
    return result_of(row, made)


def spoilt(good: Evidence) -> list[Canary]:
    """Attacks that do nothing, in some places or in all: what they leave standing must not pass for robust."""

    def without(which: Callable[[Result], bool]) -> Evidence:
        return replace(good, results=tuple(inert(r, good) if which(r) else r for r in good.results))

    def plain(r: Result) -> bool:
        return r.attack == "pgd" and not r.row["settings"]

    ensemble = without(lambda r: r.attack == "detector-aware")
    white_box = without(lambda r: r.attack in (*ITERATIVE, "detector-aware"))
    stripped = tuple(
        replace(o, results=tuple(inert(r, o) for r in o.results if r.attack != "autoattack")) for o in good.others
    )
    return [
        Canary(
            "attack without effect",
            "no iterative attack moves anything",
            replace(white_box, others=stripped),
            {
                "iterative-over-single-step": "not met",
                "large-eps": "not met",
                "gradient-free": "not met",
                "transfer": "not met",
                "undefended": "not met",
                "adversarially-trained": "not run",
                "parity": "not met",
            },
        ),
        Canary(
            "attack that stalls",
            "40 steps do nothing, 80 steps or five starts do all",
            without(lambda r: plain(r) and r.row["eps"] != EPS / 2),
            {"twice-the-iterations": "not met", "restarts": "not met", "monotone-in-eps": "not met"},
        ),
        Canary(
            "ensemble without effect",
            "the headline is that of clean images",
            ensemble,
            {
                "worst-case": "not met",
                "adaptive-attacks": "not met",
                "objective-spread": "not met",
                "detector-gradient-free": "not met",
                "half-eps": "not met",
            },
        ),
    ]


def forged(good: Evidence) -> Canary:
    """Rows and images that do not fit one another."""

    def break_row(result: Result) -> Result:
        row, made = dict(result.row), result.made
        if result.attack == "detector-aware":
            made = replace(made, images=made.images.double())
            row |= {"threshold": row["threshold"] + 1, "undetected_error_low": 1.0, "undetected_error_rate": 0.5}
        if result.attack == "targeted-fgsm":
            row["success_rate"] = None
        if result.attack == "force-rejection":
            row["rejected_rate"] = 0.0
        if result.attack == "gaussian-noise":
            made = replace(made, images=(made.images + 2 * EPS).clamp(0, 1))
            row["settings"] = {"colour": "white"}
        if result.attack == "art:HopSkipJump":
            wrong = made.outputs.logits.roll(1, dims=1)
            made = replace(made, outputs=replace(made.outputs, logits=wrong))
        return result_of(row, made)

    verify = tuple(
        row | {"auroc": 1 - row["auroc"], "eer": 1 - row["eer"]} if row["auroc"] is not None else row
        for row in good.verify
        if row["population"] != "failed"
    )
    white = tuple(inert(r, good) if r.attack in ITERATIVE else r for r in map(break_row, good.results))
    others = tuple(
        replace(o, results=tuple(inert(r, o) if r.attack == "detector-aware" else r for r in o.results))
        for o in good.others
    )
    evidence = replace(
        good,
        results=white,
        verify=verify,
        others=others,
        learned=frozenset({"likelihood"}),
        selftest={"advbench": "in memory", "rows": [{"canary": "none", "met": False}]},
    )
    evidence = replace(evidence, verify=tuple(r for r in verify if r["attack"] == "fgsm"))
    return Canary(
        "forged",
        "rows and images that do not fit one another",
        evidence,
        {
            "threshold": "not met",
            "headline": "not met",
            "targeted": "not met",
            "sign": "not met",
            "eer-definition": "not met",
            "intervals": "not met",
            "populations": "not met",
            "settings": "not met",
            "rechecked": "not met",
            "eight-bit": "not met",
            "canaries": "not met",
            "learned-detectors": "not met",
            "forced-rejection": "not met",
            "decision-based": "not met",
            "adversarially-trained": "not met",
        },
    )
