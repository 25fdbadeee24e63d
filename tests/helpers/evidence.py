"""Evidence for the checks, made by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advbench import metrics
from advbench.audit.evidence import Evidence
from advbench.audit.results import Result
from advbench.detection import FittedDetector, Guard
from advbench.runs import AdaptiveRow, AttackRow, ModelRow, VerifyRow
from advbench.runs.artifacts import Part
from advbench.types import Adversarials, ImageSet, Outputs

N, K, EPS, PIXELS = 100, 10, 0.3, (1, 2, 2)
MODEL = ModelRow(
    dataset="digits",
    loss="lgm",
    alpha=1.0,
    lam=0.1,
    covariance="identity",
    seed=0,
    training="standard",
    run="made-up",
)


IMAGES = ImageSet("digits", torch.full((N, *PIXELS), 0.5), torch.zeros(N, dtype=torch.long), tuple("0123456789"))


@dataclass(frozen=True)
class First(FittedDetector):
    """Suspicion is the first feature, flat below `floor`."""

    floor: float = -math.inf

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features[:, 0].double().clamp(min=self.floor)


def outputs(wrong: int, scores: Tensor) -> Outputs:
    """The first `wrong` images are called 1 where 0 is right."""
    logits = torch.zeros(len(scores), K)
    logits[:, 0] = 1
    logits[:wrong, 1] = 2
    return Outputs(scores[:, None].float(), logits)


CALIBRATION = torch.linspace(0, 1, 300)


CLEAN = outputs(2, torch.linspace(0, 1, N)[torch.randperm(N, generator=torch.Generator().manual_seed(0))])


def guard(name: str, fpr: float) -> Guard:
    threshold = metrics.threshold_at(fpr, CALIBRATION.double().numpy())
    assert threshold is not None
    clean = outputs(0, CALIBRATION)
    first = First(0.53 if name == "flat" else -math.inf)
    return Guard(name, first, threshold, name != "hard", clean, torch.zeros(len(CALIBRATION), dtype=torch.long))


def result(attack: str, wrong: int = 0, flagged: int = 0, *, eps: float = EPS, n: int = N, **more: Any) -> Result:
    """An attack that makes the first `wrong` of n images wrong and has the last `flagged` rejected.

    `more`: settings; `row` overrides its fields, `made` those of its images.
    """
    row, made = more.pop("row", {}), more.pop("made", {})
    scores = torch.full((n,), 0.5)
    scores[n - flagged :] = 2.0
    seen = outputs(wrong, scores)
    images = IMAGES.take(slice(n))
    none = torch.zeros(n, dtype=torch.bool)
    record = Adversarials(images.load_all() + eps, torch.arange(n), images.labels, None, seen, none, none)
    if eps > 0.5:
        record = replace(record, images=images.load_all())
    fields: dict[str, Any] = {
        "model": MODEL, "attack": attack, "settings": more, "norm": "linf", "eps": eps, "n": n,
        "clean_error_rate": 0.02, "error_rate": wrong / n, "success_rate": wrong / n, "target_rate": None,
        "zero_gradients": 0, "saturated": 0,
    }  # fmt: skip
    if "detector" in more:
        known = guard(more["detector"], more["fpr"])
        lost = float(((seen.predictions != images.labels) & (known.slack(seen) >= 0)).double().mean())
        fields |= {
            "detector": more["detector"], "fpr": more["fpr"], "threshold": known.threshold,
            "undetected_error_rate": lost, "undetected_error_low": lost, "undetected_error_high": lost,
            "rejected_rate": flagged / n, "clean_rejected": 0.05, "fgsm_undetected_error_rate": 0.1,
        }  # fmt: skip
    final, cls = replace(record, **made), AdaptiveRow if "detector" in more else AttackRow
    return Result(cls(**fields | row), lambda: final)


def evidence(*results: Result, verify: Sequence[VerifyRow] = (), **more: Any) -> Evidence:
    return Evidence(
        **{
            "model": MODEL,
            "words": ("attack", "--dataset", "digits", "--loss", "lgm", "--seed", "0"),
            "results": results,
            "verify": tuple(verify),
            "clean": Part(CLEAN, IMAGES.labels, IMAGES.load_all()[:8]),
            "detectors": ("likelihood",),
            "guard": guard,
            "images": IMAGES,
            **more,
        }
    )
