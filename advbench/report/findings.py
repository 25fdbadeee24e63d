"""What the page needs to know of an audit: its findings, requirement by requirement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advbench.checks import Finding

STATES = ("met", "not met", "not run")


def block(label: str, run: str, findings: Sequence[Finding] | None) -> dict[str, Any]:
    """An audit's block of the page: counts by state, then the findings; None = the audit was not run."""
    counts: Mapping[str, int] = {state: sum(f.state == state for f in findings or ()) for state in STATES}
    return {"label": label, "run": run, "findings": findings, "counts": counts}
