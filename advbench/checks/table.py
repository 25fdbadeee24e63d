"""All checks, in the order of the requirements, and what they find."""

from __future__ import annotations

from advbench.checks import Check, Finding, Verdict, controls, figures, masking, records, strength, threat
from advbench.checks.evidence import Evidence
from advbench.errors import TooFewImages

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (check for part in (threat, strength, masking, controls, figures, records) for check in part.CHECKS),
        key=lambda check: int(check.requirement.removeprefix("R")),
    )
)


def findings(evidence: Evidence) -> list[Finding]:
    """What every check says of this evidence."""
    found = []
    for check in CHECKS:
        verdict = _judge(check, evidence)
        found.append(
            Finding(check.requirement, check.name, check.title, verdict.state, verdict.evidence, verdict.command)
        )
    return found


def _judge(check: Check, evidence: Evidence) -> Verdict:
    """What a check says; one that calls for a threshold which calibration is too small to fix is not run."""
    try:
        return check.judge(evidence)
    except TooFewImages as error:
        return Verdict("not run", str(error))
