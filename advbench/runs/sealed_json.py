"""Write JSON, digest it, and seal objects with a sha256 of their own."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from advbench.runs.json_records import as_json

DIGEST = "digest"  # the key


def to_json(value: object) -> bytes:
    """Indented JSON of JSON values and records; NaN and infinity are refused, undefined is null."""
    return (json.dumps(as_json(value), indent=2, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def digest(value: object) -> str:
    """Eight hex digits that change whenever a JSON value or a record does."""
    return sha256(json.dumps(as_json(value), sort_keys=True, allow_nan=False).encode())[:8]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its sha256 added, or brought up to date; raises ValueError for NaN and infinity."""
    return {**value, DIGEST: _content(value)}


def is_intact(value: Mapping[str, Any]) -> bool:
    """Whether an object is what it was sealed as; True for one that was never sealed."""
    return DIGEST not in value or value[DIGEST] == _content(value)


def _content(value: Mapping[str, Any]) -> str:
    """The sha256 of all but its own: of what is read back from JSON, whose keys are texts, in any order."""
    again = json.loads(json.dumps({k: v for k, v in value.items() if k != DIGEST}, allow_nan=False))
    return sha256(json.dumps(again, sort_keys=True).encode())
