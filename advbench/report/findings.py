"""What the page needs to know of an audit: its findings, requirement by requirement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

STATES = ("met", "not met", "not run")


class Finding(Protocol):
    """One requirement of the evaluation protocol and how a run stands to it."""

    @property
    def requirement(self) -> str:
        """Such as R9."""

    @property
    def title(self) -> str:
        """What it asks."""

    @property
    def state(self) -> str:
        """One of STATES."""

    @property
    def evidence(self) -> str:
        """The figures that say so."""

    @property
    def command(self) -> str | None:
        """The command line that would close it; empty or None where there is nothing to close."""


def block(label: str, run: str, findings: Sequence[Finding] | None) -> dict[str, Any]:
    """An audit's block of the page: counts by state, then the findings; None = the audit was not run."""
    counts: Mapping[str, int] = {state: sum(f.state == state for f in findings or ()) for state in STATES}
    return {"label": label, "run": run, "findings": findings, "counts": counts}
