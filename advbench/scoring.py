"""Score one run's clean and attacked images with every detector, and turn scores into verify rows.

Only files are read: the network does not run again. What was already scored is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from advbench import artifacts, catalog, metrics
from advbench.contracts import NO_DETECTOR, AcceptAll, AttackSettings, Detector, FittedDetector, Guard
from advbench.errors import BadRun, BadSetting, FailedCheck
from advbench.losses import Head
from advbench.runs import MANIFEST, Run, to_json
from advbench.training import within
from advbench.types import Adversarials, ImageSet, Outputs

METRICS = "metrics.json"
SUPPLIED = "supplied"  # the key of a model's record where it was not trained here
FPRS = (0.01, 0.05, 0.10)
TOLERANCE = 1e-6
Row = dict[str, Any]


def check_perturbation(attack: AttackSettings, clean: ImageSet, made: Adversarials) -> None:
    """Refuse adversarial images that break the attack's own terms: norm, range, type, shape, NaN, labels."""
    images = made.images
    if images.dtype != torch.float32 or images.shape != clean.pixels.shape:
        raise FailedCheck(
            f"{attack!r} returned {images.dtype} {tuple(images.shape)} where torch.float32 "
            f"{tuple(clean.pixels.shape)} belongs; mend the attack"
        )
    if not torch.isfinite(images).all():
        raise FailedCheck(f"{attack!r} returned images that are not finite; mend the attack")
    if not torch.equal(made.labels, clean.labels):
        raise FailedCheck(f"{attack!r} came back with other labels than it was given; mend the attack")
    size = max(_distance(attack, images[part], clean.pixels[part]) for part in _slices(len(images)))
    if size > attack.eps + TOLERANCE:
        raise FailedCheck(
            f"{attack!r} moved an image by {size:.7f} in {attack.norm}, beyond its eps; mend the attack"
        )
    low, high = float(images.min()), float(images.max())
    if attack.clip and (low < 0 or high > 1):
        raise FailedCheck(f"{attack!r} left [0, 1]: pixels from {low:.7f} to {high:.7f}; mend the attack")


def _slices(n: int) -> Iterator[slice]:
    """Of 0..n, at most 1,024 rows each: the clean images may be on disk."""
    return (slice(start, start + 1024) for start in range(0, n, 1024))


def _distance(attack: AttackSettings, moved: Tensor, clean: Tensor) -> float:
    """The largest, in the attack's norm; float64, as float32 would add a rounding of its own to the differences."""
    delta = (moved.double() - clean.double()).flatten(1)
    return float(delta.abs().max() if attack.norm == "linf" else delta.norm(dim=1).max())


def applicable(run: Run, detectors: Sequence[str]) -> list[str]:
    """Those of `detectors` that a run has what it takes to fit, in their order; all where that would be none."""
    held = {"nothing"} | ({"outputs"} if len(artifacts.read_part(run, "train")) else set())
    held |= set() if SUPPLIED in run.model else {"head"}
    return [d for d in detectors if catalog.load("detector", d).fitted_on in held] or list(detectors)


def fit(run: Run, name: str, train: artifacts.Part) -> FittedDetector:
    """Detector `name` fitted on a run's training outputs, or on its head.

    Raises BadSetting where a supplied model has not what it takes.
    """
    detector: Detector = catalog.load("detector", name)()
    if detector.fitted_on == "outputs" and not len(train):
        raise BadSetting(
            f"detector {name} is fitted on training images, and there are none; give them (in Python: "
            "train=(images, labels)), or take a detector of the logits alone: max-posterior, energy"
        )
    wanted = detector.fitted_on == "head" and SUPPLIED not in run.model
    head = head_of(run, train.outputs.logits.shape[1]) if wanted else None
    return detector.fit(head, train.outputs, train.labels)


def head_of(run: Run, classes: int) -> Head:
    """The trained head, on the CPU, from model.safetensors."""
    model = run.model
    settings = {k: v for k, v in model["loss"].items() if k != "name"}
    head: Head = catalog.load("loss", model["loss"]["name"])(model["feature_dim"], classes, **settings)
    load_state(head, within(artifacts.unpack(run, artifacts.MODEL), "head"), run)
    return head


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], run: Run) -> None:
    """Load weights; raises BadRun where they do not fit the module the manifest describes."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise BadRun(
            f"{run.folder / artifacts.MODEL} does not fit the model in its manifest ({why}); delete {run.folder} "
            "and run again"
        ) from error


def score(name: str, detector: FittedDetector, outputs: Outputs, source: str) -> metrics.Array:
    """Scores [n], float64; raises FailedCheck naming the detector where one is NaN."""
    with torch.no_grad():
        scores = detector.score(outputs).double().cpu().numpy()
    if np.isnan(scores).any():
        raise FailedCheck(
            f"detector {name} gives NaN for {int(np.isnan(scores).sum())} of {len(scores)} inputs of {source}; "
            "its log-likelihood must be a number or -inf"
        )
    return scores


def guard(run: Run, name: str, fpr: float | None) -> Guard:
    """Detector `name`, fitted on the run's training outputs, with its threshold at false-positive rate `fpr`.

    `none` is a guard that accepts everything, whatever the fpr. Raises BadSetting where the calibration part holds
    fewer than 10 / fpr images.
    """
    calibration = artifacts.read_part(run, "calibration")
    if name == NO_DETECTOR or fpr is None:
        return Guard(NO_DETECTOR, AcceptAll(), 1.0, False, calibration.outputs, calibration.labels)
    train = artifacts.read_part(run, "train")
    if len(calibration) < 10 / fpr:
        raise BadSetting(
            f"fpr = {fpr:g} needs at least {math.ceil(10 / fpr)} calibration images, {run.model['dataset']} has "
            f"{len(calibration)}; take an fpr of {10 / len(calibration):.3f} or more"
        )
    fitted = fit(run, name, train)
    threshold = metrics.threshold_at(fpr, score(name, fitted, calibration.outputs, "calibration"))
    assert threshold is not None
    differentiable = catalog.load("detector", name).differentiable
    return Guard(name, fitted, threshold, differentiable, calibration.outputs, calibration.labels)


def verify(run: Run, attacks: Sequence[str], detectors: Sequence[str]) -> list[Row]:
    """The verify rows of these attack files x detectors x populations; computes and stores what is missing.

    Raises BadRun for an altered file, of those too that rows already computed were made from.
    """
    for step in ("train", "outputs", *(f"attack {a}" for a in attacks)):
        run.has(step)
    known = _read_cells(run)
    hashes = {a: run.steps[f"attack {a}"]["files"][f"attacks/{a}.safetensors"]["sha256"] for a in attacks}
    wanted = [(a, d) for a in attacks for d in detectors]
    missing = [(a, d) for a, d in wanted if known.get((a, d), {}).get("sha256") != hashes[a]]
    if missing:
        cells, table = _compute(run, missing)
        for (a, d), cell in cells.items():
            known[a, d] = {"source": a, "detector": d, "sha256": hashes[a], **cell}
        if run.has("verify"):
            table = _merge(artifacts.read_scores(run), table)
        files = {
            artifacts.SCORES: artifacts.pack_table(table),
            METRICS: to_json({"schema": 1, "cells": list(known.values())}),
        }
        run.write("verify", files, info={"resamples": metrics.RESAMPLES, "bootstrap_seed": 0})
    return [model_row(run) | row for key in wanted for row in known[key]["rows"]]


def known(run: Run) -> list[Row]:
    """The verify rows that a run holds already."""
    return [model_row(run) | row for cell in _read_cells(run).values() for row in cell["rows"]]


def _read_cells(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    if not run.has("verify"):
        return {}
    cells = json.loads(run.read(METRICS))["cells"]
    return {(cell["source"], cell["detector"]): cell for cell in cells}


def _merge(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    keys = ["detector", "source"]
    fresh = pd.MultiIndex.from_frame(new[keys].drop_duplicates())
    return pd.concat([old[~pd.MultiIndex.from_frame(old[keys]).isin(fresh)], new], ignore_index=True)


def _compute(
    run: Run, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, str], dict[str, Any]], pd.DataFrame]:
    parts = {name: artifacts.read_part(run, name) for name in artifacts.PARTS}
    fitted = {name: fit(run, name, parts["train"]) for name in dict.fromkeys(d for _, d in pairs)}
    clean: dict[tuple[str, str], metrics.Array] = {}
    tables = []
    for name, detector in fitted.items():
        for source in ("calibration", "test"):
            part = parts[source]
            clean[name, source] = score(name, detector, part.outputs, source)
            index = torch.arange(len(part))
            tables.append(_table(name, source, index, part.labels, part.outputs, clean[name, source]))
    cells = {}
    for attack in dict.fromkeys(a for a, _ in pairs):
        made = artifacts.read_adversarials(run, attack)
        for name in (d for a, d in pairs if a == attack):
            attacked = score(name, fitted[name], made.outputs, attack)
            tables.append(_table(name, attack, made.index, made.labels, made.outputs, attacked))
            test = parts["test"]
            correct = (test.outputs.predictions == test.labels)[made.index].numpy()
            groups = metrics.populations(correct, made.succeeded.numpy())
            cells[attack, name] = cell_of(
                attack_row(run, attack),
                name,
                clean[name, "calibration"],
                clean[name, "test"][made.index.numpy()],
                attacked,
                groups,
            )
    return cells, pd.concat(tables, ignore_index=True)


def _table(
    detector: str, source: str, index: Tensor, labels: Tensor, outputs: Outputs, scores: metrics.Array
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "detector": detector,
            "source": source,
            "index": index.numpy(),
            "label": labels.numpy(),
            "prediction": outputs.predictions.numpy(),
            "score": scores,
        }
    )


def cell_of(
    attack_row: Row,
    detector: str,
    calibration: metrics.Array,
    clean: metrics.Array,
    attacked: metrics.Array,
    groups: Mapping[str, metrics.Mask],
) -> dict[str, Any]:
    """Verify rows, one for each population, and thresholds: of one attack and one detector's scores."""
    thresholds = {f: metrics.threshold_at(f, calibration) for f in FPRS}
    rows, eer_threshold = [], None
    for population, members in groups.items():
        scores = attacked[members]
        row = {k: attack_row[k] for k in ATTACK_KEYS} | {
            "detector": detector,
            "population": population,
            "n_clean": len(clean),
            "n_attacked": len(scores),
            "n_nonfinite": int((~np.isfinite(clean)).sum() + (~np.isfinite(scores)).sum()),
        }
        row |= dict.fromkeys(("eer", "eer_low", "eer_high", "auroc", "auroc_low", "auroc_high"))
        if len(scores):
            curve = metrics.roc(clean, scores)
            pairs = np.flatnonzero(members)
            spread = metrics.bootstrap(clean, scores, pairs, rng=np.random.default_rng(0))
            row |= {"eer": curve.eer, "eer_low": spread.eer.low, "eer_high": spread.eer.high}
            row |= {"auroc": curve.auroc, "auroc_low": spread.auroc.low, "auroc_high": spread.auroc.high}
            eer_threshold = curve.eer_threshold if population == "all" else eer_threshold
        row |= {f"tpr_at_fpr{f * 100:02.0f}": metrics.rejected(scores, t) for f, t in thresholds.items()}
        row["fpr05_realised"] = metrics.rejected(clean, thresholds[0.05])
        rows.append(row)
    return {
        "rows": rows,
        "thresholds": {f"{f:.2f}": _json_number(t) for f, t in thresholds.items()},
        "eer_threshold": _json_number(eer_threshold),
    }


def _json_number(value: float | None) -> float | str | None:
    """JSON has no infinity: it is written as text."""
    return value if value is None or np.isfinite(value) else str(value)


ATTACK_KEYS = ("attack", "settings", "norm", "eps")


def attack_row(run: Run, file_name: str) -> Row:
    """The `attack` row of a done attack."""
    row = run.info(f"attack {file_name}").get("row")
    if not isinstance(row, dict) or not {"attack", "eps"} <= row.keys():
        raise BadRun(f"{run.folder / MANIFEST} holds no row of attack {file_name}; delete {run.folder} and run again")
    return model_row(run) | row


def model_row(run: Run) -> Row:
    """The fields that say which model a row is about; of a supplied one, those of a training are None."""
    model = run.model
    try:
        if SUPPLIED in model:
            own = dict.fromkeys(("loss", "alpha", "lam", "covariance", "seed", "training"))
            return {"dataset": model["dataset"], **own, "run": run.name}
        loss = model["loss"]
        return {
            "dataset": model["dataset"],
            "loss": loss["name"],
            "alpha": loss.get("alpha"),
            "lam": loss.get("lam"),
            "covariance": loss.get("covariance"),
            "seed": model["seed"],
            "training": model["regime"],
            "run": run.name,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRun(
            f"{run.folder / MANIFEST} does not describe a model ({type(error).__name__}: {error}); delete "
            f"{run.folder} and run again"
        ) from error
