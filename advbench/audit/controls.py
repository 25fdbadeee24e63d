"""Controls: noise, an undefended model, an adversarially trained one, eps / 2, rejection (R11 to R14, R22)."""

from itertools import pairwise

import numpy as np

from advbench import metrics
from advbench.audit import POINT, Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import ENSEMBLE, ITERATIVE, NOISE, NOT_ATTACKS, Result, common, count, worst
from advbench.detection import NO_DETECTOR
from advbench.formatting import as_text, percent

AS_OFTEN = 0.10  # noise within so much of the attacks counts as flagged as often
GREY_LEVEL = 1 / 255
RADII = (0.1, 0.25, 0.5)  # of eps, at which rejection is forced
AGREEMENT = 0.005  # between our ensemble and the published AutoAttack
BROKEN = 0.02  # robust accuracy that passes for none


def noise(e: Evidence) -> Verdict:
    """R11: what flags noise more than clean images, and as often as attacks without knowledge, detects noise."""
    controls = [r for name in NOISE for r in e.of(name)[:1]]
    attacks = [r for r in e.results if r.row.ball == e.at and r.detector is None and r.row.attack not in NOT_ATTACKS]
    if len({r.row.attack for r in controls}) < len(NOISE) or not attacks:
        missing = [name for name in NOISE if not e.of(name)] + ["fgsm"] * (not attacks)
        return not_run(f"missing at eps {as_text(e.eps)}: {', '.join(missing)}", e.attack(*missing))
    said, good = [], True
    for name in e.detectors:
        guard = e.guard(name, e.fpr)
        clean = float(guard.rejects(e.clean.outputs).double().mean())
        of_noise = max((r.flagged(guard) for r in controls), key=np.mean)
        of_attack = max((r.flagged(guard) for r in attacks), key=np.mean)
        spread = metrics.wilson(int(of_noise.sum()), len(of_noise))
        beyond = spread is not None and spread.low > clean
        exposed = beyond and float(of_noise.mean()) > float(of_attack.mean()) - AS_OFTEN
        good &= not exposed
        said.append(f"{name} flags noise {count(of_noise)}, attacks {count(of_attack)}, clean {percent(clean)}")
    return either(good, "; ".join(said), e.attack("apgd", objective="margin"))


def sees_clean(e: Evidence) -> Verdict:
    """R11: no detector flags most images after noise of less than a grey level, which changes nothing.

    What a detector may know is the image before it. One that compares it with the clean image, or with a list of
    clean images, is set off by any change at all; one of continuous features is not. (A detector of the rounding to
    grey levels is set off too, and evaded by rounding: it is none either.)
    """
    found = [r for by_eps, _ in e.at_any_eps("uniform-noise") for x, r in by_eps.items() if x <= GREY_LEVEL + 1e-9]
    if not found:
        return not_run("no noise of a grey level", e.attack("uniform-noise", eps="1/255"))
    said, good = [], True
    for name in e.detectors:
        guard = e.guard(name, e.fpr)
        clean = float(guard.rejects(e.clean.outputs.take(slice(found[0].row.n))).double().mean())
        flagged = found[0].flagged(guard)
        good &= bool(flagged.mean() <= clean + 0.5)
        said.append(f"{name} flags {count(flagged)}, clean {percent(clean)}")
    unlike = int((found[0].wrong != e.clean_wrong[: found[0].row.n]).sum())
    said.append(f"labels moved by it: {unlike}")
    return either(good, f"uniform noise of eps {found[0].row.eps:.4f}: {'; '.join(said)}", e.verification())


def _robust(e: Evidence, of: Evidence, names: tuple[str, ...]) -> Result | None:
    """The strongest of these attacks, of those on most images, on another model at the audit's norm and eps."""
    found = [r for r in of.results if r.row.attack in names and r.detector is None and r.row.ball == e.at]
    return max(found, key=lambda r: (r.row.n, float(r.wrong.mean())), default=None)


def undefended(e: Evidence) -> Verdict:
    """R12: the attack of this audit leaves a softmax model, trained as usual, no accuracy."""
    models = [o for o in (e, *e.others) if (o.model.loss, o.model.training) == ("softmax", "standard")]
    ran = {r.row.attack for r in e.results if r.row.ball == e.at}
    names = tuple(a for a in (*ITERATIVE, ENSEMBLE) if a in ran or a == "pgd")
    tried = [(o, r) for o in models if (r := _robust(e, o, names)) is not None]
    if not tried:
        command = e.attack("pgd", words=e.other("softmax"))
        return not_run(f"no softmax model attacked at eps {as_text(e.eps)}", command)
    model, best = max(tried, key=lambda pair: float(pair[1].wrong.mean()))
    said = f"{best.row.attack} on {model.model.run}: robust accuracy {count(~best.wrong)}"
    return either(bool((~best.wrong).mean() <= BROKEN), said, e.attack("apgd", words=e.other("softmax"), targets=9))


def hardened(e: Evidence) -> Verdict:
    """R12: on an adversarially trained model our ensemble without detector agrees with the published AutoAttack."""
    models = [o for o in (e, *e.others) if o.model.training == "adversarial"]
    command = e.attack(ENSEMBLE, "autoattack", words=e.other("softmax", "--adversarial"), detector=NO_DETECTOR, n=200)
    said = ""
    for other in models:
        ours, published = (_robust(e, other, (a,)) for a in (ENSEMBLE, "autoattack"))
        if ours is None or published is None:
            continue
        n = common(ours, published)
        theirs = float(published.wrong[:n].mean())
        said = f"{other.model.run}: robust accuracy under the ensemble {count(~ours.wrong[:n])}, under AutoAttack "
        said += percent(1 - theirs)
        if theirs - float(ours.wrong[:n].mean()) > AGREEMENT + 1e-9:
            return Verdict("not met", said, command)
    if said:
        return Verdict("met", said)
    names = ", ".join(o.model.run for o in models) or "none"
    return not_run(f"adversarially trained models: {names}; not attacked by both at eps {as_text(e.eps)}", command)


def half_eps(e: Evidence) -> Verdict:
    """R13: a detector robust at eps implies a classifier robust at eps / 2 (Tramer 2021, arXiv:2107.11630).

    The implied accuracy counts as lost what is undetected and wrong at eps, clean-wrong, or clean and rejected. It is
    too good to be true where it exceeds what this model, and an adversarially trained one, keep at eps / 2.
    """
    top = e.headline
    if top is None:
        return not_run("no headline", e.aware(ENSEMBLE))
    guard = e.guard(e.detector, e.fpr)
    lost = top.lost(guard)
    clean = e.clean.outputs.take(slice(len(lost)))
    kept = ~(lost | e.clean_wrong[: len(lost)] | guard.rejects(clean).numpy())
    half = e.eps / 2
    own = [r for r in e.of(*ITERATIVE, ENSEMBLE, eps=half) if r.detector is None]
    said = f"implied robust accuracy at eps {as_text(half)}: {count(kept)}"
    if not own:
        return not_run(f"{said}; the classifier was not attacked there", e.attack("apgd", eps=f"{as_text(half)}"))
    n = common(*own)
    robust = ~worst(own, n)
    said += f"; the classifier's own {count(robust)}"
    if float(kept.mean()) <= float(robust.mean()) + POINT:
        return Verdict("met", said)
    trained = [o for o in e.others if o.model.training == "adversarial"]
    hard = [r for o in trained for r in o.of(*ITERATIVE, ENSEMBLE, "autoattack", eps=half)]
    hard = [r for r in hard if r.detector is None and r.row.norm == e.at[0]]
    if not hard:
        command = e.attack("apgd", eps=f"{as_text(half)}", words=e.other("softmax", "--adversarial"))
        return not_run(f"{said}; no adversarially trained model to compare with", command)
    best = min(hard, key=lambda r: float(r.wrong.mean()))
    said += f"; adversarially trained {count(~best.wrong)}"
    good = float(kept.mean()) <= float((~best.wrong).mean()) + POINT
    return either(good, said, e.aware(ENSEMBLE, budget="thorough"))


def learned(e: Evidence) -> Verdict:
    """R14: a detector that learned from one attack is judged on others."""
    if not e.detectors:
        return not_run("no detector", e.aware(ENSEMBLE))
    taught = [d for d in e.detectors if d in e.learned]
    if not taught:
        return Verdict("met", f"{', '.join(e.detectors)}: fitted on clean training images alone")
    seen = {d: sorted({r.attack for r in e.verify if r.detector == d}) for d in taught}
    said = "; ".join(f"{d} learned from attacks, scored on {', '.join(a) or 'none'}" for d, a in seen.items())
    return either(all(len(a) > 1 for a in seen.values()), said, e.attack("pgd", "mim"))


def forced_rejection(e: Evidence) -> Verdict:
    """R22: how many images a fraction of eps makes the detector reject (Chen et al. 2023, arXiv:2305.01139)."""
    radii = ",".join(f"{share * e.eps:.4g}" for share in RADII)
    found = (pair for by_eps, _ in e.at_any_eps("force-rejection") for pair in by_eps.items())
    rows = {x: r for x, r in sorted(found, key=lambda pair: pair[0]) if r.detector == e.detector and x < e.eps}
    if not rows:
        return not_run(f"no radius below eps {as_text(e.eps)}", e.aware("force-rejection", eps=radii))
    guard, n = e.guard(e.detector, e.fpr), common(*rows.values())
    shares = {x: float(r.flagged(guard)[:n].mean()) for x, r in rows.items()}
    said = ", ".join(f"{x:g}: {percent(y)}" for x, y in shares.items())
    rising = all(b >= a - POINT for a, b in pairwise(shares.values()))
    counted = all(abs(float(r.flagged(guard).mean()) - r.adaptive.rejected_rate) < 1e-9 for r in rows.values())
    command = e.aware("force-rejection", eps=radii, steps=100, restarts=3)
    return either(rising and counted, f"{e.detector} made to reject, by radius: {said} of {n}", command)
