"""Fit a run's detectors, and fix their thresholds on its calibration images."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from advbench import catalog, metrics
from advbench.detection.base import Detector, FittedDetector
from advbench.detection.guard import NO_DETECTOR, AcceptAll, Guard
from advbench.errors import BadSetting, FailedCheck, TooFewImages
from advbench.runs import Run, SuppliedRecord, TrainedRecord, artifacts
from advbench.types import Outputs
from advbench.victim import Told, head_of

AT_ONCE = 256  # images scored between two reports
DEFAULT_FPR = 0.05  # one clean image in twenty rejected
ATTACK_FPRS = (DEFAULT_FPR, 0.10)  # that a threshold is set at unless one is named, in this order


def applicable(run: Run, detectors: Sequence[str]) -> list[str]:
    """Those of `detectors` that a run has what it takes to fit, in their order; all where that would be none."""
    held = {"nothing"} | ({"outputs"} if len(artifacts.read_part(run, "train")) else set())
    held |= set() if isinstance(run.model, SuppliedRecord) else {"head"}
    return [d for d in detectors if catalog.load("detector", d).fitted_on in held] or list(detectors)


def check_fittable(name: str, n: int) -> None:
    """Raise BadSetting where detector `name` is fitted on training images, and there are n = 0 of them."""
    if not n and catalog.load("detector", name).fitted_on == "outputs":
        raise BadSetting(
            f"detector {name} is fitted on training images, and there are none; give them (in Python: "
            "train=(images, labels)), or take a detector of the logits alone: max-posterior, energy"
        )


def fit(run: Run, name: str, train: artifacts.Part) -> FittedDetector:
    """Detector `name` fitted on a run's training outputs or head; raises BadSetting where these are missing."""
    detector: Detector = catalog.load("detector", name)()
    check_fittable(name, len(train))
    wanted = detector.fitted_on == "head" and not isinstance(run.model, SuppliedRecord)
    head = head_of(run, train.outputs.logits.shape[1]) if wanted else None
    return detector.fit(head, train.outputs, train.labels)


def score(
    name: str, detector: FittedDetector, outputs: Outputs, source: str, told: Told = lambda share: None
) -> metrics.Array:
    """Scores [n], float64; `told` hears the share done. Raises FailedCheck naming the detector where one is NaN."""
    parts = []
    with torch.no_grad():
        for start in range(0, max(1, len(outputs)), AT_ONCE):
            parts.append(detector.score(outputs.take(slice(start, start + AT_ONCE))).double().cpu().numpy())
            told(min(1.0, (start + AT_ONCE) / max(1, len(outputs))))
    scores = np.concatenate(parts)
    if np.isnan(scores).any():
        raise FailedCheck(
            f"detector {name} gives NaN for {int(np.isnan(scores).sum())} of {len(scores)} inputs of {source}; "
            "its log-likelihood must be a number or -inf"
        )
    return scores


def check_calibration(n: int, fpr: float, dataset: str) -> None:
    """Raise TooFewImages where n calibration images cannot fix a threshold at false-positive rate `fpr`."""
    if n >= metrics.least_calibration(fpr):
        return
    way = "give it more test images, or a calibration part of its own"
    if n > 10:
        way = f"take an fpr of {least_fpr(n):g} or more, or {way}"
    raise TooFewImages(
        f"fpr = {fpr:g} needs at least {metrics.least_calibration(fpr)} calibration images, {dataset} has {n}; {way}"
    )


def usual_fpr(n: int) -> float | None:
    """The false-positive rate of an attack that is told of none: the first that n images can fix, or None."""
    return next((fpr for fpr in ATTACK_FPRS if n >= metrics.least_calibration(fpr)), None)


def least_fpr(n: int) -> float:
    """The least false-positive rate, in thousandths, that n images can fix; where they fix none, the usual one."""
    return math.ceil(10_000 / n) / 1000 if n > 10 else ATTACK_FPRS[0]


def guard(run: Run, name: str, fpr: float | None) -> Guard:
    """Detector `name` with its threshold at `fpr`; `none` accepts everything. Raises as `check_calibration`."""
    calibration = artifacts.read_part(run, "calibration")
    if name == NO_DETECTOR or fpr is None:
        return Guard(NO_DETECTOR, AcceptAll(), 1.0, False, calibration.outputs, calibration.labels)
    if isinstance(run.model, TrainedRecord) and run.model.fitted_to_all:
        raise TooFewImages(
            f"fpr = {fpr:g} asks for a threshold, and {run.name} was trained on all images that could fix one "
            "(all_parts); take a model trained without all_parts"
        )
    check_calibration(len(calibration), fpr, run.model.dataset)
    fitted = fit(run, name, artifacts.read_part(run, "train"))
    threshold = metrics.threshold_at(fpr, score(name, fitted, calibration.outputs, "calibration"))
    assert threshold is not None
    differentiable = catalog.load("detector", name).differentiable
    return Guard(name, fitted, threshold, differentiable, calibration.outputs, calibration.labels)
