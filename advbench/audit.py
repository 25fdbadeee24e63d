"""What each requirement of the protocol finds in a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from advbench import artifacts, disk, guards, scoring
from advbench.checks import Finding
from advbench.checks.evidence import Evidence
from advbench.checks.results import Result
from advbench.checks.table import findings
from advbench.contracts import Guard
from advbench.process import CPU
from advbench.report.commands import attacking
from advbench.runs import Run
from advbench.selection import attack_rows
from advbench.types import ImageSet
from advbench.victim import Victim

SELFTEST = "selftest.json"


def audit(run: Run, others: Sequence[Run] = (), *, images: ImageSet | None = None) -> list[Finding]:
    """The findings of all checks, in the order of the requirements.

    others   further runs, for controls: other seeds, an undefended and an adversarially trained model; those of
             another data set are left out
    images   clean test images, to check the stored ones against; None: the few that the run keeps

    Only files are read and the model is run, on the CPU; nothing is attacked. Raises BadRun for an altered file.
    """
    alike = [o for o in others if o.name != run.name and o.model.get("data_sha256") == run.model.get("data_sha256")]
    beside = tuple(evidence_of(o) for o in alike if "outputs" in o.steps)
    return findings(evidence_of(run, beside, images))


def evidence_of(run: Run, others: tuple[Evidence, ...] = (), images: ImageSet | None = None) -> Evidence:
    """What a run holds, to be read by the checks; its arrays are read when they are asked for."""
    clean = artifacts.read_part(run, "test")
    results = tuple(
        Result(row, partial(artifacts.read_adversarials, run, n), n) for n, row in attack_rows(run).items()
    )
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
        guard=cache(partial(_guard, run)),
        calibration=len(artifacts.read_part(run, "calibration")),
        # the code of a supplied model is run only where its user names it
        victim=None if guards.SUPPLIED in run.model else cache(partial(_victim, run, *_sizes(clean, examples))),
        images=examples if images is None else images,
        others=others,
        selftest=disk.read_note(run.folder.parent / SELFTEST),
    )


def _guard(run: Run, detector: str, fpr: float) -> Guard:
    return guards.guard(run, detector, fpr)


def _sizes(clean: artifacts.Part, examples: ImageSet) -> tuple[tuple[int, int, int], int]:
    return examples.shape, clean.outputs.logits.shape[1]


def _victim(run: Run, shape: tuple[int, int, int], classes: int) -> Victim:
    """The run's model, without its data."""
    return Victim(guards.rebuilt(run, shape, classes), shape=shape, classes=classes, device=CPU)
