"""Threat model, threshold, populations, headline and adaptive attacks (R1 to R7)."""

import math

from advbench.audit import POINT, Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import NOT_ATTACKS, count
from advbench.formatting import as_text, percent

FAMILIES = ("joint", "selective", "orthogonal", "feature-matching")
WITHOUT_GRADIENT = ("feature-matching", "detector-square")
DEVIATIONS = 4  # standard errors beyond which a realised false-positive rate is not chance


def threat_model(e: Evidence) -> Verdict:
    """R1: zero-knowledge rows alone support no claim of robustness."""
    here = [r for r in e.results if r.row.ball == e.at and r.row.attack not in NOT_ATTACKS]
    full = sorted({f"{r.row.attack} ({r.detector})" for r in here if r.detector is not None})
    zero = sorted({r.row.attack for r in here if r.detector is None})
    said = f"{e.at[0]}, eps {as_text(e.eps)}; zero knowledge: {', '.join(zero) or 'none'}; "
    said += f"full: {', '.join(full) or 'none'}"
    if not here:
        return not_run(f"no attack at {e.at[0]} eps {as_text(e.eps)}", e.aware("detector-aware"))
    if not full:
        return Verdict("not met", said, e.aware("detector-aware"))
    return Verdict("met", said) if zero else not_run(said, e.attack("fgsm"))


def threshold(e: Evidence) -> Verdict:
    """R2: thresholds are those of the calibration images, and hold on test images."""
    rows = [r for r in e.results if r.detector is not None]
    if not rows and not e.verify:
        return not_run("no threshold was used", e.aware("detector-aware"))
    said, good = [], True
    used_by = sorted({(r.adaptive.detector, r.adaptive.fpr or 0.0) for r in rows})
    for name, fpr in used_by or [(d, e.fpr) for d in e.detectors]:
        guard = e.guard(name, fpr)
        rejected = guard.rejects(e.clean.outputs).numpy()
        m, n = len(guard.clean), len(rejected)
        error = math.sqrt(fpr * (1 - fpr) * (1 / m + 1 / n))
        good &= bool(rejected.mean() - fpr <= DEVIATIONS * error)
        used = {r.adaptive.threshold for r in rows if (r.detector, r.adaptive.fpr) == (name, fpr)}
        found = f"{name} at {100 * fpr:g} % of {m} calibration images rejects {count(rejected)} clean test images"
        if not all(t is not None and math.isclose(t, guard.threshold, rel_tol=1e-6, abs_tol=1e-9) for t in used):
            good = False
            found += f"; a row used another threshold ({', '.join(map(str, sorted(used, key=str)))})"
        said.append(found)
    return either(good, "; ".join(said), e.aware("detector-aware"))


def populations(e: Evidence) -> Verdict:
    """R4: all, successful and failed adversarials stand in rows of their own, and their counts add up."""
    groups: dict[str, dict[str, int]] = {}
    for row in e.verify:
        key = f"{row.attack} {row.settings} {row.norm} {row.eps} {row.detector}"
        groups.setdefault(key, {})[row.population] = row.n_attacked
    if not groups:
        return not_run("no verify rows", e.verification())
    good = True
    for counts in groups.values():
        whole, *parts = (counts.get(population, -1) for population in ("all", "successful", "failed"))
        good &= min(whole, *parts) >= 0 and sum(parts) == int((~e.clean_wrong[:whole]).sum())
    said = ", ".join(f"{k} {v}" for k, v in next(iter(groups.values())).items())
    return either(good, f"{len(groups)} attacks x detectors; the first: {said}", e.verification())


def headline(e: Evidence) -> Verdict:
    """R5: the undetected-and-misclassified rate with its interval, clean accuracy and clean rejections beside it."""
    top = e.headline
    if top is None:
        return not_run("no detector was attacked by one that knows it", e.aware("detector-aware"))
    row, lost = top.adaptive, top.lost(e.guard(e.detector, e.fpr))
    low, high = row.undetected_error_low, row.undetected_error_high
    said = (
        f"{e.detector}, {e.at[0]} eps {as_text(e.eps)}, FPR {100 * e.fpr:g} %, budget {top.row.setting('budget')}: "
        f"{percent(lost.mean())} [{100 * low:.1f}, {100 * high:.1f}] of {top.row.n} undetected and wrong; "
        f"clean error {percent(row.clean_error_rate)}, clean rejected {percent(row.clean_rejected)}; "
        f"FGSM {percent(row.fgsm_undetected_error_rate)}"
    )
    counted = abs(float(lost.mean()) - row.undetected_error_rate) < 1e-9
    inside = low <= row.undetected_error_rate <= high
    return either(counted and inside, said, e.aware("detector-aware"))


def worst_case(e: Evidence) -> Verdict:
    """R5: no attack at the headline's eps loses what the headline does not."""
    top = e.headline
    if top is None:
        return not_run("no headline", e.aware("detector-aware"))
    guard = e.guard(e.detector, e.fpr)
    lost = top.lost(guard)
    more = [r for r in e.results if r is not top and r.row.ball == e.at]
    more = [r for r in more if r.row.attack != "force-rejection" and r.row.setting("clip") is not False]
    if not more:
        return not_run(f"nothing beside the headline at eps {as_text(e.eps)}", e.attack("fgsm", "pgd"))
    union = lost.copy()
    for r in more:
        m = min(r.row.n, len(union))
        union[:m] |= r.lost(guard)[:m]
    said = f"headline {count(lost)}; with {len(more)} further attacks at this eps {count(union)}"
    return either(bool(union.mean() - lost.mean() <= POINT), said, e.aware("detector-aware", budget="thorough"))


def targeted(e: Evidence) -> Verdict:
    """R6: where an attack has targets, success and target reached are both reported."""
    rows = [(r.row, rate) for r in e.results if (rate := r.row.target_rate) is not None]
    command = e.attack("targeted-fgsm", eps=None if e.at[0] == "linf" else "0.3")  # L-inf only, at its usual eps
    if not rows:
        return not_run("no targeted attack", command)
    good = all(row.success_rate is not None and 0 <= rate <= 1 for row, rate in rows)
    row, rate = max(rows, key=lambda pair: (pair[0].ball == e.at, pair[0].n))
    wrong = percent(math.nan if row.success_rate is None else row.success_rate)
    said = f"{row.attack} {as_text(row.eps)}: target reached {percent(rate)}, "
    return either(good, f"{said}wrong label {wrong} of the clean-correct of {row.n}", command)


def adaptive(e: Evidence) -> Verdict:
    """R7: joint, selective, orthogonal, feature matching; for a score without gradient, those that need none."""
    if not e.detectors:
        return not_run("no detector", e.aware("detector-aware"))
    ran: dict[str, float] = {}
    for r in e.results:
        if r.detector == e.detector and r.row.ball == e.at:
            own = r.adaptive.members
            ran = {**ran, **own} if own else {r.row.attack: r.adaptive.undetected_error_rate} | ran
    wanted = FAMILIES if e.guard(e.detector, e.fpr).has_gradient else WITHOUT_GRADIENT
    missing = [f for f in wanted if not any(name.startswith(f) for name in ran)]
    said = ", ".join(f"{k} {percent(v)}" for k, v in ran.items())
    said = f"against {e.detector}, shares of lost images: {said or 'none ran'}"
    if not ran:
        return not_run(said, e.aware("detector-aware"))
    said += f"; missing {', '.join(missing)}" * bool(missing)
    return either(not missing, said, e.aware("detector-aware"))
