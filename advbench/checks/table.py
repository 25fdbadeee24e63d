"""All checks, in the order of the requirements, and what they find."""

from __future__ import annotations

from advbench.checks import Check, Finding, Verdict, controls, figures, masking, records, strength, threat
from advbench.checks.evidence import Evidence
from advbench.errors import Misfit, TooFewImages

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (check for part in (threat, strength, masking, controls, figures, records) for check in part.CHECKS),
        key=lambda check: int(check.requirement.removeprefix("R")),
    )
)


def findings(evidence: Evidence) -> list[Finding]:
    """What every check says of this evidence."""
    return [Finding(c.requirement, c.name, c.title, **vars(_judge(c, evidence))) for c in CHECKS]


def _judge(check: Check, evidence: Evidence) -> Verdict:
    """What a check says; one is not run where calibration is too small for its threshold, or weights do not fit."""
    try:
        return check.judge(evidence)
    except (TooFewImages, Misfit) as error:
        return Verdict("not run", str(error))
