"""Shapes of stored JSON: types, ranges and keys, and what is wrong with a value that does not fit.

A shape is a `Rule` for one value; a dict for an object, from names of keys (`"eps n"` two of one shape, `"n?"` one
that may be left out, `"*"` all there are) to shapes; `[shape]` for a list; a tuple for one of several.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One value for which `holds` is true; `what` says what it is, for people."""

    what: str
    holds: Callable[[Any], bool]


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number in a range."""
    bounds = "" if low == -math.inf else f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
    return Rule(f"a finite number{bounds}", lambda v: type(v) in (int, float) and low <= v <= high and abs(v) < 1e300)


def whole(low: int = 0) -> Rule:
    """A whole number, at most 2^53."""
    return Rule(f"a whole number of at least {low}", lambda v: type(v) is int and low <= v <= 2**53)


def text(most: int = 200) -> Rule:
    """Text of so many characters at most, each of which UTF-8 can hold."""
    what = f"text of at most {most:,} characters"
    return Rule(what, lambda v: isinstance(v, str) and len(v) <= most and not re.search("[\ud800-\udfff]", v))


def choice(*values: Any) -> Rule:
    """One of these."""
    return Rule(f"one of {', '.join(map(repr, values))}", lambda v: type(v) in map(type, values) and v in values)


def named(pattern: str, what: str) -> Rule:
    """Text that matches as a whole."""
    return Rule(what, lambda v: isinstance(v, str) and len(v) <= 400 and re.fullmatch(pattern, v) is not None)


NONE, YES, NUMBER, ANYTHING = choice(None), choice(True, False), number(), Rule("anything", lambda v: True)
TEXT, KEY, LONG, RATE = text(), text(400), text(10_000), number(0, 1)
COUNT, POSITIVE, SECONDS = whole(), whole(1), number(0)
SHA = named("[0-9a-f]{64}", "a sha256 of 64 hex digits")
NAME = named(r"[\w.+:-]*\w[\w.+:-]*", "a name of letters, digits and . _ + : -")
LABEL = named(r"[^/\0-\x1f]*[^/.\0-\x1f:][^/\0-\x1f]*", "a data set's name, without a path")
FILE = named(
    r"model\.safetensors|training\.jsonl|scores\.parquet|metrics\.json|checkpoint-\d+\.safetensors"
    r"|(?:outputs|attacks)/[\w+-][\w.+-]*\.safetensors",
    "a file that advbench writes into a run",
)
SETTINGS = {"*": (NONE, YES, NUMBER, LONG)}
EPS = Rule("a number above 0", lambda v: type(v) in (int, float) and 0 < v < 1e6)
MODEL = {"dataset": LABEL, "data_sha256": SHA, "image_size?": POSITIVE}
IDENTITY = {
    "source tapped? weights? features?": LONG, "code_sha256": (SHA, NONE), "state_sha256": SHA,
    "mean? std?": (TEXT, [NUMBER]), "variant?": whole(2),
}  # fmt: skip
TRAINED = MODEL | {
    "network": NAME, "feature_dim": POSITIVE, "loss": {"name": NAME, "*": SETTINGS["*"]}, "seed": COUNT,
    "regime": choice("standard", "adversarial"), "training adversarial?": SETTINGS,
}  # fmt: skip
ENVIRONMENT = {"versions": {"*": TEXT}, "commit": (TEXT, NONE), "dirty": (YES, NONE), "device system": TEXT}
TRAINING = {
    "validation_error": RATE, "n_train": POSITIVE, "loss?": NUMBER, "arithmetic?": TEXT,
    "released?": {"file": TEXT, "sha256": SHA},
}  # fmt: skip
RELEASED = {
    "model": TRAINED, "info": TRAINING, "seconds": SECONDS, "history": text(10**6), "environment": ENVIRONMENT,
}  # fmt: skip
ATTACKED = {"attack": NAME, "settings": SETTINGS, "norm": choice("linf", "l2"), "eps": EPS}
ROW = ATTACKED | {
    "n": POSITIVE, "clean_error_rate error_rate eight_bit_error_rate?": RATE,
    "success_rate target_rate": (RATE, NONE), "zero_gradients": (COUNT, NONE), "saturated": COUNT,
    "implementation?": (TEXT, NONE),
}  # fmt: skip
AWARE = ROW | {
    "detector": NAME, "fpr fgsm_undetected_error_rate": (RATE, NONE), "threshold": (NUMBER, NONE),
    "undetected_error_rate undetected_error_low undetected_error_high rejected_rate clean_rejected": RATE,
    "members?": {"*": RATE}, "eight_bit_undetected_error_rate?": RATE,
}  # fmt: skip
EPOCH = {"epoch": POSITIVE, "loss": NUMBER, "accuracy validation_error": RATE, "learning_rate seconds": SECONDS}
INFOS: dict[str, Any] = {
    "train": TRAINING,
    "checkpoint": {"epochs": [EPOCH]},
    "outputs": {"excluded?": {"*": COUNT}, "classes?": [LONG]},
    "door": {
        "findings": [{"name severity": TEXT, "text": LONG}], "gradients?": YES, "test_part?": (TEXT, NONE),
        "slopes?": [NUMBER],
    },
}  # fmt: skip
STEP = {"seconds": (SECONDS, NONE), "info": {"*": ANYTHING}, "files": {"*": {"sha256": SHA, "bytes": COUNT}}}
MANIFEST = {"name": KEY, "environment": ENVIRONMENT, "steps": {"*": STEP}}
VERIFY = ATTACKED | {
    "detector": NAME, "population": choice("all", "successful", "failed"), "n_clean": POSITIVE,
    "n_attacked n_nonfinite": COUNT, "eer eer_low eer_high auroc auroc_low auroc_high": (RATE, NONE),
    "tpr_at_fpr01 tpr_at_fpr05 tpr_at_fpr10 fpr05_realised": (RATE, NONE),
}  # fmt: skip
THRESHOLD = (NUMBER, choice("inf", "-inf", None))
SCORED = {
    "source detector": NAME, "sha256": SHA, "rows": [VERIFY], "thresholds": {"*": THRESHOLD},
    "eer_threshold": THRESHOLD,
}  # fmt: skip
METRICS = {"schema": choice(1), "cells": [SCORED]}
CANARY = {"canary expected found": TEXT, "met": YES, "evidence": LONG}
SELFTEST = {"schema": choice(1), "advbench": TEXT, "rows": [CANARY]}
SHARD = {
    "sha256 weights": SHA, "bytes first": COUNT, "shard of batch_size": POSITIVE, "seconds": SECONDS,
    "members": [NAME], "implementation?": (TEXT, NONE), "info": SETTINGS, "table": {"*": ANYTHING},
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
    if isinstance(shape, tuple):
        return None if any(fault(value, one, at) is None for one in shape) else fault(value, shape[0], at)
    if isinstance(shape, list) and isinstance(value, list):
        return _first(fault(one, shape[0], f"{at}.{i}") for i, one in enumerate(value))
    if isinstance(shape, dict) and isinstance(value, dict):
        return _first(_fault_of(value, name, one, at) for names, one in shape.items() for name in _split(names))
    if isinstance(shape, Rule) and shape.holds(value):
        return None
    said = ascii(value)
    what = shape.what if isinstance(shape, Rule) else "a list" if isinstance(shape, list) else "a table"
    return f"{at} = {said if len(said) <= 60 else f'{said[:57]}...'} is not {what}"


def _fault_of(value: dict[str, Any], name: str, shape: Any, at: str) -> str | None:
    if name == "*":
        return _first(fault(key, KEY, f"{at}: key") or fault(one, shape, f"{at}.{key}") for key, one in value.items())
    key = name.removesuffix("?")
    if key not in value:
        return None if name.endswith("?") else f"{at}.{key} is missing"
    return fault(value[key], shape, f"{at}.{key}")


_split = cache(str.split)


def _first(faults: Iterable[str | None]) -> str | None:
    return next((found for found in faults if found is not None), None)


def fault_of_manifest(manifest: dict[str, Any]) -> str | None:
    """What keeps a manifest from being one of this schema; None where nothing does."""
    model = manifest["model"]
    supplied = isinstance(model, dict) and "supplied" in model
    return (
        fault(manifest, MANIFEST, "manifest")
        or fault(model, MODEL | {"supplied": IDENTITY} if supplied else TRAINED, "model")
        or _first(_fault_of_step(name, step) for name, step in manifest["steps"].items())
    )


def _fault_of_step(name: str, step: dict[str, Any]) -> str | None:
    kind, _, attack = name.partition(" ")
    info, files, row = step["info"], set(step["files"]), step["info"].get("row")
    found = _first(fault(file, FILE, f"{name}: file") for file in files)
    if found is None and kind == "attack":
        knows = row.get("settings") if isinstance(row, dict) else None
        aware = isinstance(knows, dict) and "detector" in knows
        found = fault(row, AWARE if aware else ROW, f"{name}: row")
        if found is None and files != {f"attacks/{attack}.safetensors"}:
            found = f"{name} has other files than its own"
    if found is None and kind == "train" and "model.safetensors" not in files:
        found = f"{name} lists no model.safetensors"
    if found is None and kind == "checkpoint" and len(files) != 1:
        found = f"{name} lists {len(files)} files"
    if found is None and kind in ("train", "outputs", "attack") and step["seconds"] is None:
        found = f"{name}: seconds is missing"
    return found or fault(info, INFOS.get(name, {}), f"{name}: info")
