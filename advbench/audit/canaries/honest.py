"""An honest model and detector, evaluated in full, and copies of that evaluation with a fault put in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from advbench import metrics
from advbench.audit import CanaryRow, Selftest, State
from advbench.audit.attack_strength import OBJECTIVES
from advbench.audit.canaries import Canary
from advbench.audit.canaries.broken_defences import EPS, GREY, aware, entry
from advbench.audit.canaries.in_memory import CanaryModel, evaluate, model_row, result_of
from advbench.audit.canaries.toy_models import trained
from advbench.audit.evidence import Evidence
from advbench.audit.results import ENSEMBLE, ITERATIVE, Result
from advbench.detection import DEFAULT_FPR, NO_DETECTOR
from advbench.detectors.likelihood import FittedLikelihood
from advbench.runs import AdaptiveRow, ModelRow
from advbench.types import Splits
from advbench.victim import Victim

RECORD = Selftest(advbench="in memory", rows=(CanaryRow("none", "", "", True, ""),))


def subject_of(victim: Victim, row: ModelRow) -> CanaryModel:
    """A model with its own likelihood."""
    return CanaryModel(row, victim, FittedLikelihood(victim.head_in_float64()), "likelihood")


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
    """An L-GM model under all of it; beside it two more seeds, an undefended and an adversarially trained model."""
    few = [aware("likelihood", n=20)]
    beside = []
    for seed in (1, 2):
        victim = trained(splits, "lgm", seed=seed, alpha=0.3)
        beside.append(evaluate(subject_of(victim, model_row("lgm", seed, run=f"seed {seed}")), splits, few))
    plain = subject_of(softmax, model_row("softmax", 0, run="undefended"))
    beside.append(evaluate(plain, splits, [entry("apgd", objective="margin")]))
    hardened = trained(splits, "softmax", adversarial=EPS / 2)
    hard = subject_of(hardened, model_row("softmax", 0, "adversarial", "hardened"))
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
FORGED = (
    "threshold", "headline", "targeted", "sign", "eer-definition", "intervals", "populations", "settings",
    "rechecked", "eight-bit", "canaries", "learned-detectors", "forced-rejection", "decision-based",
    "adversarially-trained",
)  # fmt: skip


def careless(good: Evidence) -> Canary:
    """FGSM, once, and no more: the audit must miss all the rest."""
    fgsm = tuple(r for r in good.results if r.row.attack == "fgsm")
    bare = replace(good, results=fgsm, verify=(), others=(), selftest=None, detectors=())
    states: dict[str, State] = {name: "not run" for name in ALL if name not in NEEDS_NOTHING}
    return Canary("careless", "FGSM at one eps", bare, states | {"threat-model": "not met"})


def inert(result: Result, good: Evidence) -> Result:
    """The same attack, had it moved no image."""
    assert good.images is not None
    n = result.row.n
    clean = good.clean.outputs.take(slice(n))
    made = replace(
        result.made, images=good.images.load_all()[:n], outputs=clean, misclassified=None, member=None, targets=None
    )
    row = replace(result.row, error_rate=float(good.clean_wrong[:n].mean()))
    if isinstance(row, AdaptiveRow) and result.detector is not None:
        lost = float(Result(row, lambda: made).lost(good.guard(result.detector, DEFAULT_FPR)).mean())
        spread = metrics.wilson(round(lost * n), n)
        assert spread is not None
        row = replace(row, undetected_error_rate=lost, members={"clean": lost})
        row = replace(row, undetected_error_low=spread.low, undetected_error_high=spread.high)
    return result_of(row, made)


def without(e: Evidence, which: Callable[[Result], bool]) -> Evidence:
    """The same, had these attacks moved no image."""
    return replace(e, results=tuple(inert(r, e) if which(r) else r for r in e.results))


def unmet(*checks: str) -> dict[str, State]:
    """What is expected of these checks."""
    return dict.fromkeys(checks, "not met")


def spoilt(good: Evidence) -> list[Canary]:
    """Attacks that do nothing, in some places or in all: what they leave standing must not pass for robust."""
    stripped = tuple(
        replace(o, results=tuple(inert(r, o) for r in o.results if r.row.attack != "autoattack")) for o in good.others
    )
    white_box = replace(without(good, lambda r: r.row.attack in (*ITERATIVE, ENSEMBLE)), others=stripped)
    expected = unmet("iterative-over-single-step", "large-eps", "gradient-free", "transfer", "undefended")
    expected |= {"adversarially-trained": "not run", "parity": "not met"}
    return [
        Canary("attack without effect", "no iterative attack moves anything", white_box, expected),
        Canary(
            "attack that stalls",
            "40 steps do nothing, 80 steps or five starts do all",
            without(good, lambda r: r.row.attack == "pgd" and not r.row.settings and r.row.eps != EPS / 2),
            unmet("twice-the-iterations", "restarts", "monotone-in-eps"),
        ),
        Canary(
            "ensemble without effect",
            "the headline is that of clean images",
            without(good, lambda r: r.row.attack == ENSEMBLE),
            unmet("worst-case", "adaptive-attacks", "objective-spread", "detector-gradient-free", "half-eps"),
        ),
    ]


def forged(good: Evidence) -> Canary:
    """Rows and images that do not fit one another."""

    def break_row(result: Result) -> Result:
        row, made = result.row, result.made
        if isinstance(row, AdaptiveRow) and row.attack == "detector-aware":
            made, beyond = replace(made, images=made.images.double()), (row.threshold or 0.0) + 1
            row = replace(row, threshold=beyond, undetected_error_low=1.0, undetected_error_rate=0.5)
        if row.attack == "targeted-fgsm":
            row = replace(row, success_rate=None)
        if isinstance(row, AdaptiveRow) and row.attack == "force-rejection":
            row = replace(row, rejected_rate=0.0)
        if row.attack == "gaussian-noise":
            made = replace(made, images=(made.images + 2 * EPS).clamp(0, 1))
            row = replace(row, settings={"colour": "white"})
        if result.row.attack == "art:HopSkipJump":
            wrong = made.outputs.logits.roll(1, dims=1)
            made = replace(made, outputs=replace(made.outputs, logits=wrong))
        return result_of(row, made)

    verify = tuple(
        row if row.auroc is None or row.eer is None else replace(row, auroc=1 - row.auroc, eer=1 - row.eer)
        for row in good.verify
        if row.population != "failed" and row.attack == "fgsm"
    )
    broken = replace(good, results=tuple(map(break_row, good.results)))
    evidence = replace(
        without(broken, lambda r: r.row.attack in ITERATIVE),
        verify=verify,
        others=tuple(without(o, lambda r: r.row.attack == ENSEMBLE) for o in good.others),
        learned=frozenset({"likelihood"}),
        selftest=replace(RECORD, rows=(CanaryRow("none", "", "", False, ""),)),
    )
    return Canary("forged", "rows and images that do not fit one another", evidence, unmet(*FORGED))
