"""What stored JSON must hold: shapes of values, and what is wrong with a value that does not fit.

A shape is a `Rule` for one value; a dict of shapes for an object (keys in `Maybe` may be left out, others are let
be); `Each(shape)` for the values of an object whose keys are names; `[shape]` for a list; a tuple for one of several.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One value for which `holds` is true; `what` says what it is, for people."""

    what: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object whose keys are names and whose values all have one shape."""

    shape: Any


@dataclass(frozen=True)
class Maybe:
    """A value of an object that may be left out."""

    shape: Any


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number in a range."""
    bounds = (
        f" from {low:g} to {high:g}" if math.isfinite(low + high) else f" of at least {low:g}" * (low > -math.inf)
    )
    return Rule(f"a finite number{bounds}", lambda v: _is_number(v) and low <= v <= high and abs(v) < 1e300)


def whole(low: int = 0) -> Rule:
    """A whole number, at most 2^53."""
    return Rule(f"a whole number of at least {low}", lambda v: type(v) is int and low <= v <= 2**53)


def text(most: int = 200) -> Rule:
    """Text of so many characters at most, each of which UTF-8 can hold."""
    return Rule(
        f"text of at most {most:,} characters",
        lambda v: isinstance(v, str) and len(v) <= most and not re.search("[\ud800-\udfff]", v),
    )


def choice(*values: Any) -> Rule:
    """One of these."""
    return Rule(f"one of {', '.join(map(repr, values))}", lambda v: type(v) in map(type, values) and v in values)


def _short(value: Any) -> str:
    return said if len(said := repr(value)) <= 60 else f"{said[:57]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**1000


def named(pattern: str, what: str) -> Rule:
    """Text that matches as a whole."""
    return Rule(what, lambda v: isinstance(v, str) and len(v) <= 400 and re.fullmatch(pattern, v) is not None)


NONE = choice(None)
YES = choice(True, False)
TEXT, LONG, RATE, COUNT, SECONDS = text(), text(10_000), number(0, 1), whole(), number(0)
SHA = named("[0-9a-f]{64}", "a sha256 of 64 hex digits")
NAME = named(r"[\w.+:-]*\w[\w.+:-]*", "a name of letters, digits and . _ + : -")
LABEL = named(r"[^/\0-\x1f]*[^/.\0-\x1f:][^/\0-\x1f]*", "a data set's name, without a path")
FILE = named(
    r"model\.safetensors|training\.jsonl|scores\.parquet|metrics\.json|checkpoint-\d+\.safetensors"
    r"|(?:outputs|attacks)/[\w+-][\w.+-]*\.safetensors",
    "a file that advbench writes into a run",
)
SETTING = (NONE, YES, number(), LONG)
EPS = Rule("a number above 0", lambda v: _is_number(v) and 0 < v < 1e6)
MODEL = {"dataset": LABEL, "data_sha256": SHA, "image_size": Maybe(whole(1))}
CHANNELS = Maybe((TEXT, [number()]))
SUPPLIED = MODEL | {
    "supplied": {
        "source": LONG,
        "code_sha256": (SHA, NONE),
        "state_sha256": SHA,
        "tapped": Maybe(LONG),
        "weights": Maybe(LONG),
        "features": Maybe(LONG),
        "mean": CHANNELS,
        "std": CHANNELS,
        "variant": Maybe(whole(2)),
    }
}
TRAINED = MODEL | {
    "network": NAME,
    "feature_dim": whole(1),
    "loss": {"name": NAME},
    "regime": choice("standard", "adversarial"),
    "training": Each(SETTING),
    "seed": whole(),
    "adversarial": Maybe(Each(SETTING)),
}
ENVIRONMENT = {"versions": Each(TEXT), "commit": (TEXT, NONE), "dirty": (YES, NONE), "device": TEXT, "system": TEXT}
TRAINING = {
    "validation_error": RATE,
    "n_train": whole(1),
    "loss": Maybe(number()),
    "arithmetic": Maybe(TEXT),
    "released": Maybe({"file": TEXT, "sha256": SHA}),
}
EPOCH = {
    "epoch": whole(1), "loss": number(), "accuracy": RATE, "validation_error": RATE, "learning_rate": number(0),
    "seconds": SECONDS,
}  # fmt: skip
ATTACKED = {"attack": NAME, "settings": Each(SETTING), "norm": choice("linf", "l2"), "eps": EPS}
ROW = ATTACKED | {
    "n": whole(1),
    "clean_error_rate": RATE,
    "error_rate": RATE,
    "success_rate": (RATE, NONE),
    "target_rate": (RATE, NONE),
    "zero_gradients": (COUNT, NONE),
    "saturated": COUNT,
    "eight_bit_error_rate": Maybe(RATE),
    "implementation": Maybe((TEXT, NONE)),
}
AWARE = ROW | {
    "detector": NAME,
    "fpr": (number(0, 1), NONE),
    "threshold": (number(), NONE),
    **dict.fromkeys(("undetected_error_rate", "undetected_error_low", "undetected_error_high"), RATE),
    **dict.fromkeys(("rejected_rate", "clean_rejected"), RATE),
    "fgsm_undetected_error_rate": (RATE, NONE),
    "members": Maybe(Each(RATE)),
    "eight_bit_undetected_error_rate": Maybe(RATE),
}
DOOR = {
    "findings": [{"name": TEXT, "severity": TEXT, "text": LONG}],
    "gradients": Maybe(YES),
    "test_part": Maybe((TEXT, NONE)),
    "slopes": Maybe([number()]),
}
INFOS: Mapping[str, Any] = {
    "train": TRAINING,
    "checkpoint": {"epochs": [EPOCH]},
    "outputs": {"excluded": Maybe(Each(COUNT)), "classes": Maybe([LONG])},
    "door": DOOR,
}
RELEASED = {
    "model": TRAINED,
    "info": TRAINING,
    "seconds": SECONDS,
    "history": text(1_000_000),
    "environment": ENVIRONMENT,
}
STEP = {"seconds": (SECONDS, NONE), "info": {}, "files": Each({"sha256": SHA, "bytes": COUNT})}
MANIFEST = {"name": text(400), "environment": ENVIRONMENT, "steps": Each(STEP)}
FIGURES = (
    *("eer", "eer_low", "eer_high", "auroc", "auroc_low", "auroc_high"),
    *("tpr_at_fpr01", "tpr_at_fpr05", "tpr_at_fpr10", "fpr05_realised"),
)
VERIFY = ATTACKED | {
    "detector": NAME,
    "population": choice("all", "successful", "failed"),
    "n_clean": whole(1),
    **dict.fromkeys(("n_attacked", "n_nonfinite"), COUNT),
    **dict.fromkeys(FIGURES, (RATE, NONE)),
}
THRESHOLD = (number(), choice("inf", "-inf", None))
SCORED = {
    "source": NAME, "detector": NAME, "sha256": SHA, "rows": [VERIFY], "thresholds": Each(THRESHOLD),
    "eer_threshold": THRESHOLD,
}  # fmt: skip
METRICS = {"schema": choice(1), "cells": [SCORED]}
CANARY = {"canary": TEXT, "expected": TEXT, "found": TEXT, "met": YES, "evidence": LONG}
SELFTEST = {"schema": choice(1), "advbench": TEXT, "rows": [CANARY]}
SHARD = {
    "sha256": SHA, "bytes": COUNT, "shard": whole(1), "of": whole(1), "first": COUNT, "weights": SHA,
    "batch_size": whole(1), "seconds": SECONDS, "members": [NAME], "info": Each(SETTING), "table": {},
}  # fmt: skip


def parsed(data: bytes | str) -> Any:
    """What JSON says; raises ValueError for what is none, NaN and nesting without end among it."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def fault(value: Any, shape: Any, at: str) -> str | None:
    """What is wrong with a value that stands `at` a place, as a clause; None where nothing is."""
    if isinstance(shape, Rule):
        return None if shape.holds(value) else f"{at} = {_short(value)} is not {shape.what}"
    if isinstance(shape, tuple):
        return None if any(fault(value, one, at) is None for one in shape) else fault(value, shape[0], at)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at} = {_short(value)} is not a list"
        return _first(fault(one, shape[0], f"{at}.{i}") for i, one in enumerate(value))
    if not isinstance(value, dict):
        return f"{at} = {_short(value)} is not a table"
    if isinstance(shape, Each):
        long = next((key for key in value if not text(400).holds(key)), None)
        if long is not None:
            return f"{at} has a key of {len(long):,} characters or of none that are text"
        return _first(fault(one, shape.shape, f"{at}.{key}") for key, one in value.items())
    return _first(_fault_of(value, key, one, at) for key, one in shape.items())


def _fault_of(value: dict[str, Any], key: str, shape: Any, at: str) -> str | None:
    if key not in value:
        return None if isinstance(shape, Maybe) else f"{at}.{key} is missing"
    return fault(value[key], shape.shape if isinstance(shape, Maybe) else shape, f"{at}.{key}")


def _first(faults: Any) -> str | None:
    return next((found for found in faults if found is not None), None)


def fault_of_manifest(manifest: dict[str, Any]) -> str | None:
    """What keeps a manifest from being one of this schema; None where nothing does."""
    found = fault(manifest, MANIFEST, "manifest")
    if found is None:
        model = manifest.get("model")
        found = fault(model, SUPPLIED if isinstance(model, dict) and "supplied" in model else TRAINED, "model")
    return found or _first(_fault_of_step(name, step) for name, step in manifest["steps"].items())


def _fault_of_step(name: str, step: dict[str, Any]) -> str | None:
    kind, _, attack = name.partition(" ")
    info, files = step["info"], set(step["files"])
    found = _first(fault(file, FILE, f"{name}: file") for file in files)
    if found is None and kind == "attack":
        row = info.get("row")
        aware = isinstance(row, dict) and "undetected_error_rate" in row
        found = fault(row, AWARE if aware else ROW, f"{name}: row")
        if found is None and files != {f"attacks/{attack}.safetensors"}:
            found = f"{name} has other files than its own"
    elif found is None and name in INFOS:
        found = fault(info, INFOS[name], f"{name}: info")
    if found is None and step["seconds"] is None and kind in ("train", "outputs", "attack"):
        found = f"{name}: seconds is missing"
    return found
