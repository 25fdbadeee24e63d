"""One thing that a check found: its name, whether it forbids going on, and a sentence for the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from advbench.errors import BadSetting


@dataclass(frozen=True)
class Finding:
    """A finding of a check.

    name       a short name with hyphens, for records and tests
    severity   error: numbers measured on it would be wrong, so it is refused; warning: reported beside the numbers
    text       one sentence: the value, the rule, the way out
    """

    name: str
    severity: Literal["error", "warning"]
    text: str


def refuse(name: str, text: str) -> Finding:
    """A finding that forbids going on."""
    return Finding(name, "error", text)


def warn(name: str, text: str) -> Finding:
    """A finding that is reported."""
    return Finding(name, "warning", text)


def enforce(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """The warnings; raises BadSetting with the first error's text."""
    kept = tuple(found)
    for finding in kept:
        if finding.severity == "error":
            raise BadSetting(finding.text)
    return kept
