"""Models and detectors made to fool an evaluation, each with the findings expected of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from advbench.audit import State
from advbench.audit.evidence import Evidence


@dataclass(frozen=True)
class Figure:
    """A figure that an evaluation must come to: what it is, what it was, whether it is the one expected."""

    expected: str
    found: str
    met: bool


@dataclass(frozen=True)
class Canary:
    """What was evaluated, and what is expected of it."""

    name: str
    what: str
    evidence: Evidence
    findings: Mapping[str, State]  # check -> the state it must find
    figures: tuple[Figure, ...] = ()  # what else must come out
