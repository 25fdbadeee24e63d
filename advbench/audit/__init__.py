"""The audit's vocabulary: checks, findings, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from advbench.audit.evidence import Evidence
    from advbench.study.command_lines import Line

State = Literal["met", "not met", "not run"]
# a percentage point: what restarts, batches and the noise of kernels may move a rate by; a hair more, for rounding
POINT = 0.01 + 1e-9


@dataclass(frozen=True)
class Verdict:
    """What a check says of some evidence."""

    state: State  # `not run` where the evidence is missing, else whether the requirement is met
    evidence: str  # figures with the number of images they come from
    command: Line | None = None  # makes what is missing, or stronger evidence; None where all is well


@dataclass(frozen=True)
class Check:
    """One check of one requirement (R1 to R22 of the protocol); `judge` reads evidence and nothing else."""

    requirement: str
    name: str
    title: str
    judge: Callable[[Evidence], Verdict]


@dataclass(frozen=True)
class Finding:
    """A check and its verdict, as a row of the audit."""

    requirement: str
    name: str
    title: str
    state: State
    evidence: str
    command: Line | None


@dataclass(frozen=True)
class CanaryRow:
    """One expectation of a canary, as a row of the selftest."""

    canary: str
    expected: str
    found: str
    met: bool
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Selftest:
    """The record of a selftest."""

    schema: Literal[1] = 1
    advbench: str  # the version
    rows: tuple[CanaryRow, ...]


def not_run(evidence: str, command: Line) -> Verdict:
    """What it takes to tell is missing."""
    return Verdict("not run", evidence, command)


def either(good: bool, evidence: str, command: Line) -> Verdict:
    """Met or not met."""
    return Verdict("met", evidence) if good else Verdict("not met", evidence, command)
