"""The five canaries: masked gradients, a noise detector, a constant, a coin, and an oracle."""

from typing import Any

import torch

from advbench.audit import State
from advbench.audit.canaries import Canary, Figure
from advbench.audit.canaries.in_memory import CanaryModel, evaluate, model_row
from advbench.audit.canaries.toy_models import Grain, Oracle, Random, Stepped, WithGrain, blind_to_the_last, victim_of
from advbench.audit.evidence import Evidence
from advbench.detection import AcceptAll, FittedDetector
from advbench.detectors.max_posterior import MaxPosterior
from advbench.formatting import percent
from advbench.losses.softmax import Softmax
from advbench.runs import VerifyRow
from advbench.types import Splits
from advbench.victim import Victim

EPS = 0.22  # between grey levels, where the grain of an attack shows
GREY = 1 / 255
STANDING: dict[str, State] = {"eer-definition": "met", "sign": "met"}  # of a useless detector's figures


def entry(name: str, n: int = 60, eps: float = EPS, **settings: Any) -> dict[str, Any]:
    """An attack as a spec has it."""
    return {"name": name, "n": n, "eps": eps, **settings}


def aware(
    detector: str, name: str = "detector-aware", n: int = 60, eps: float = EPS, **settings: Any
) -> dict[str, Any]:
    """An adaptive attack as a spec has it; the ensemble with its smallest budget."""
    budget = {"budget": "quick"} if name == "detector-aware" else {}
    return entry(name, n, eps, detector=detector, **budget, **settings)


def masked(splits: Splits, softmax: Victim) -> Canary:
    """A classifier whose gradients are all zero, and that falls to random search all the same."""
    victim = victim_of(Stepped(softmax.network), softmax.head)
    subject = CanaryModel(model_row("softmax", 0), victim, MaxPosterior(), "max-posterior")
    attacks = [entry("fgsm"), entry("pgd"), entry("apgd", steps=20, objective="margin"), entry("square", queries=500)]
    attacks.append(entry("fgsm", exact_gradient=True))
    evidence, what = evaluate(subject, splits, attacks), "features in steps: every gradient is zero"
    return Canary("masked gradients", what, evidence, dict.fromkeys(("gradient-free", "zero-gradients"), "not met"))


def noise_detector(splits: Splits, softmax: Victim) -> Canary:
    """A detector of grain, which sees attacks and noise alike."""
    assert isinstance(softmax.head, Softmax)
    victim = victim_of(WithGrain(softmax.network), blind_to_the_last(softmax.head))
    subject = CanaryModel(model_row("softmax", 0), victim, Grain(), "grain")
    attacks = [entry("fgsm"), entry("pgd"), entry("uniform-noise"), entry("gaussian-noise")]
    evidence = evaluate(subject, splits, attacks, verified=("fgsm",))
    expected: dict[str, State] = {"noise": "not met", "better-than-chance": "met"}
    return Canary("noise detector", "scores the grain of an image", evidence, expected)


def constant(splits: Splits, softmax: Victim) -> Canary:
    """A detector that says the same of every image."""
    evidence, row = blind(splits, softmax, AcceptAll(), "constant")
    expected: dict[str, State] = {"better-than-chance": "not met", "stand-ins": "not met", **STANDING}
    figures = (
        Figure("EER 50 %", percent(row.eer), row.eer == 0.5),
        Figure("TPR 0", percent(row.tpr_at_fpr05), row.tpr_at_fpr05 == 0),
    )
    return Canary("constant", "one score for all images", evidence, expected, figures)


def random_score(splits: Splits, softmax: Victim) -> Canary:
    """A detector that throws a coin for each image."""
    evidence, row = blind(splits, softmax, Random(), "random")
    expected: dict[str, State] = {"better-than-chance": "not met", **STANDING}
    low, high = row.auroc_low or 0.0, row.auroc_high or 0.0
    figure = Figure("AUROC's interval holds 0.5", f"[{percent(low)}, {percent(high)}]", low <= 0.5 <= high)
    return Canary("random score", "a number drawn for each image", evidence, expected, (figure,))


def blind(splits: Splits, softmax: Victim, detector: FittedDetector, name: str) -> tuple[Evidence, VerifyRow]:
    """FGSM on all test images, scored by a detector without a gradient; and the verify row of all of them."""
    subject = CanaryModel(model_row("softmax", 0), softmax, detector, name, differentiable=False)
    evidence = evaluate(subject, splits, [entry("fgsm", n=len(splits.test))], verified=("fgsm",))
    return evidence, next(r for r in evidence.verify if r.population == "all")


def oracle(splits: Splits, softmax: Victim) -> Canary:
    """A detector that knows the clean images, those it is tested on too: nothing passes, and it shows."""
    clean = torch.cat([softmax.outputs(part.load_all()).features for part in (splits.calibration, splits.test)])
    subject = CanaryModel(model_row("softmax", 0), softmax, Oracle(clean.double()), "oracle")
    attacks = [aware("oracle"), entry("uniform-noise", eps=GREY), entry("fgsm")]
    evidence = evaluate(subject, splits, attacks, verified=("fgsm",))
    row = evidence.results[0].adaptive
    moved = row.undetected_error_rate - row.clean_lost
    expected: dict[str, State] = {"sees-the-clean-image": "not met", "better-than-chance": "met"}
    figure = Figure("0 undetected beyond clean errors", f"{percent(moved)} of {row.n}", moved == 0)
    return Canary("oracle", "compares an image with the clean ones", evidence, expected, (figure,))


BROKEN_DEFENCES = (masked, noise_detector, constant, random_score, oracle)  # each on a softmax model of the digits
