"""Run all checks on a run: `audit`."""

from collections.abc import Sequence
from functools import cache, partial

from advbench.audit import (
    Check,
    Finding,
    Selftest,
    Verdict,
    attack_strength,
    controls,
    detector_figures,
    gradient_masking,
    provenance,
    threat_model,
)
from advbench.audit.evidence import Evidence
from advbench.audit.results import Result
from advbench.detection import calibration
from advbench.errors import Misfit, TooFewImages
from advbench.runs import Run, SuppliedRecord, artifacts, read_note
from advbench.study.command_lines import attacking
from advbench.study.selection import attack_rows, lacking_for_model
from advbench.study.verify import checked_attack, known
from advbench.types import ImageSet
from advbench.victim.restore import victim

SELFTEST = "selftest.json"


def audit(run: Run, others: Sequence[Run] = (), *, images: ImageSet | None = None) -> list[Finding]:
    """The findings of all checks, in the order of the requirements.

    others   further runs, for controls: other seeds, an undefended and an adversarially trained model; those of
             another data set, and those whose plug-ins are not at hand, are left out
    images   clean test images, to check the stored ones against; None: the few that the run keeps

    Only files are read and the model is run, on the CPU; nothing is attacked. Raises BadRun for an altered file.
    """
    alike = [o for o in others if o.name != run.name and o.model.data_sha256 == run.model.data_sha256]
    beside = tuple(evidence_of(o) for o in alike if "outputs" in o.steps and lacking_for_model(o.model) is None)
    return findings(evidence_of(run, beside, images))


def evidence_of(run: Run, others: tuple[Evidence, ...] = (), images: ImageSet | None = None) -> Evidence:
    """What a run holds, to be read by the checks; its arrays are read when they are asked for."""
    clean = artifacts.read_part(run, "test")
    results = tuple(Result(row, partial(checked_attack, run, n, clean), n) for n, row in attack_rows(run).items())
    verify = tuple(known(run))
    aware = [r.detector for r in results if r.detector is not None]
    assert clean.examples is not None  # the test part has some
    examples = ImageSet(run.model.dataset, clean.examples, clean.labels[: len(clean.examples)], ())
    return Evidence(
        model=run.model_row,
        words=tuple(attacking(run)),
        results=results,
        verify=verify,
        clean=clean,
        detectors=tuple(dict.fromkeys([*aware, *(row.detector for row in verify)])),
        guard=cache(partial(calibration.guard, run)),
        calibration=len(artifacts.read_part(run, "calibration")),
        # the code of a supplied model is run only where its user names it
        victim=None
        if isinstance(run.model, SuppliedRecord)
        else cache(partial(victim, run, examples.shape, clean.outputs.logits.shape[1])),
        images=examples if images is None else images,
        others=others,
        selftest=read_note(run.folder.parent / SELFTEST, Selftest),
    )


_PARTS = (threat_model, attack_strength, gradient_masking, controls, detector_figures, provenance)
_FOUND = (check for part in _PARTS for check in part.CHECKS)
CHECKS: tuple[Check, ...] = tuple(sorted(_FOUND, key=lambda check: int(check.requirement.removeprefix("R"))))


def findings(evidence: Evidence) -> list[Finding]:
    """What every check says of this evidence."""
    return [Finding(c.requirement, c.name, c.title, **vars(_judge(c, evidence))) for c in CHECKS]


def _judge(check: Check, evidence: Evidence) -> Verdict:
    """What a check says; one is not run where calibration is too small for its threshold, or weights do not fit."""
    try:
        return check.judge(evidence)
    except (TooFewImages, Misfit) as error:
        return Verdict("not run", str(error))
