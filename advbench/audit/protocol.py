"""Run all checks on a run: `audit`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

from advbench.audit import (
    Check,
    Finding,
    Selftest,
    Verdict,
    attack_strength as strength,
    controls,
    detector_figures as figures,
    gradient_masking as masking,
    provenance,
    threat_model as threat,
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

    `others` are further runs, for controls; those of other data or without their plug-ins are left out. The stored
    images are checked against `images`, clean test ones; None: the few that the run keeps. The model is run, on the
    CPU, and nothing is attacked. Raises BadRun for an altered file.
    """
    beside = {o.name: o for o in others if "outputs" in o.steps and lacking_for_model(o.model) is None}
    alike = [o for o in beside.values() if o.model.data_sha256 == run.model.data_sha256 and o.name != run.name]
    return findings(replace(evidence_of(run, images), others=tuple(map(evidence_of, alike))))


def audits(runs: Sequence[Run]) -> Iterator[tuple[str, list[Finding]]]:
    """The name and the findings of each of these runs, the others beside it; each is read once."""
    every = {run.name: evidence_of(run) for run in runs}
    for run in runs:
        alike = [o.name for o in runs if o.model.data_sha256 == run.model.data_sha256 and o.name != run.name]
        yield run.name, findings(replace(every[run.name], others=tuple(every[name] for name in alike)))


def evidence_of(run: Run, images: ImageSet | None = None) -> Evidence:
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
        selftest=read_note(run.folder.parent / SELFTEST, Selftest),
    )


CHECKS = (
    Check("R1", "threat-model", "Threat model declared, zero and full knowledge both run", threat.threat_model),
    Check("R2", "threshold", "Threshold from calibration images, holding on test images", threat.threshold),
    Check("R3", "sign", "Positive = adversarial, higher = more suspicious", figures.sign),
    Check("R4", "populations", "All, successful and failed adversarials told apart", threat.populations),
    Check("R5", "headline", "Undetected and misclassified, with interval and clean figures", threat.headline),
    Check("R5", "worst-case", "No other attack adds to the headline", threat.worst_case),
    Check("R6", "targeted", "Targeted attacks: target reached and label wrong", threat.targeted),
    Check("R7", "adaptive-attacks", "Joint, selective, orthogonal and feature-matching attacks", threat.adaptive),
    Check("R8", "objective-spread", "Four objectives at one eps", strength.objectives),
    Check("R9", "iterative-over-single-step", "Many steps do at least what one does", strength.iterative),
    Check("R9", "twice-the-iterations", "Twice the steps gain nothing", strength.twice_the_iterations),
    Check("R9", "restarts", "Further random starts gain nothing", strength.restarts),
    Check("R9", "monotone-in-eps", "A larger eps is never safer", strength.monotone),
    Check("R9", "large-eps", "At half of the pixel range, no better than a guess", strength.large_eps),
    Check("R10", "gradient-free", "Random search finds no more than gradients", masking.gradient_free),
    Check("R10", "decision-based", "An attack by labels alone finds no more", masking.decision_based),
    Check("R10", "transfer", "An attack made on another model finds no more", masking.transfer),
    Check("R10", "detector-gradient-free", "Random search evades the detector no better", masking.detector_search),
    Check("R10", "stand-ins", "EoT where passes differ, BPDA where no gradient is", masking.stand_ins),
    Check("R10", "zero-gradients", "Gradients that vanish are counted and mended", masking.zero_gradients),
    Check("R11", "noise", "Noise is flagged less often than attacks", controls.noise),
    Check("R11", "sees-the-clean-image", "A change below a grey level sets no detector off", controls.sees_clean),
    Check("R12", "undefended", "The attack leaves an undefended model nothing", controls.undefended),
    Check("R12", "adversarially-trained", "On a hardened model, agreement with AutoAttack", controls.hardened),
    Check("R13", "half-eps", "No robustness at eps / 2 that nobody has", controls.half_eps),
    Check("R14", "learned-detectors", "Detectors that learn from attacks meet other attacks", controls.learned),
    Check("R15", "eight-bit", "Float32 kept, and what 8 bits leave of it", provenance.eight_bit),
    Check("R16", "eer-definition", "EER by its definition, safe with ties", figures.eer_definition),
    Check("R17", "intervals", "Counts and intervals everywhere", figures.intervals),
    Check("R17", "better-than-chance", "The detector beats a coin on the plainest attack", figures.beats_a_coin),
    Check("R17", "seeds", "Three training seeds behind a claim about a loss", figures.seeds),
    Check("R18", "settings", "Every setting recorded, each image's result kept", provenance.settings),
    Check("R19", "rechecked", "Norm, range, type and labels checked by the scorer", provenance.rechecked),
    Check("R20", "parity", "The same attack of another library does the same", provenance.parity),
    Check("R21", "canaries", "The evaluation sees through canaries", provenance.canaries),
    Check("R22", "forced-rejection", "What rejection costs, at radii below eps", controls.forced_rejection),
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
