"""What each requirement of the protocol finds in a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from advbench import artifacts, disk, guards, needs, scoring, stored
from advbench.checks import Finding
from advbench.checks.evidence import Evidence
from advbench.checks.results import Result
from advbench.checks.table import findings
from advbench.report.commands import attacking
from advbench.runs import Run
from advbench.selection import attack_rows
from advbench.types import ImageSet

SELFTEST = "selftest.json"


def audit(run: Run, others: Sequence[Run] = (), *, images: ImageSet | None = None) -> list[Finding]:
    """The findings of all checks, in the order of the requirements.

    others   further runs, for controls: other seeds, an undefended and an adversarially trained model; those of
             another data set, and those whose plug-ins are not at hand, are left out
    images   clean test images, to check the stored ones against; None: the few that the run keeps

    Only files are read and the model is run, on the CPU; nothing is attacked. Raises BadRun for an altered file.
    """
    alike = [o for o in others if o.name != run.name and o.model.get("data_sha256") == run.model.get("data_sha256")]
    beside = tuple(evidence_of(o) for o in alike if "outputs" in o.steps and needs.of_model(o.model) is None)
    return findings(evidence_of(run, beside, images))


def evidence_of(run: Run, others: tuple[Evidence, ...] = (), images: ImageSet | None = None) -> Evidence:
    """What a run holds, to be read by the checks; its arrays are read when they are asked for."""
    clean = artifacts.read_part(run, "test")
    results = tuple(Result(row, partial(scoring.checked_attack, run, n), n) for n, row in attack_rows(run).items())
    verify = tuple(scoring.known(run))
    aware = [r.detector for r in results if r.detector is not None]
    assert clean.examples is not None  # the test part has some
    examples = ImageSet(str(run.model["dataset"]), clean.examples, clean.labels[: len(clean.examples)], ())
    return Evidence(
        model=scoring.model_row(run),
        words=tuple(attacking(run)),
        results=results,
        verify=verify,
        clean=clean,
        detectors=tuple(dict.fromkeys([*aware, *(row["detector"] for row in verify)])),
        guard=cache(partial(guards.guard, run)),
        calibration=len(artifacts.read_part(run, "calibration")),
        # the code of a supplied model is run only where its user names it
        victim=None
        if guards.SUPPLIED in run.model
        else cache(partial(guards.victim, run, examples.shape, clean.outputs.logits.shape[1])),
        images=examples if images is None else images,
        others=others,
        selftest=disk.read_note(run.folder.parent / SELFTEST, stored.SELFTEST),
    )
