"""Whether the detectors' figures stand: sign, intervals, definition of the EER (R3, R16, R17)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from advbench.audit import Check, Verdict, either, met, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import NOT_ATTACKS
from advbench.formatting import as_text, percent
from advbench.metrics import Array
from advbench.study.command_lines import Line

SEEDS = 3


def scores(e: Evidence, row: dict[str, object]) -> tuple[Array, Array] | None:
    """Clean and attacked scores that a verify row of all images is about; None where the attack is not at hand."""
    keys = ("attack", "settings", "norm", "eps")
    found = [r for r in e.results if all(r.row[k] == row[k] for k in keys) and r.n == row["n_attacked"]]
    if not found:
        return None
    guard = e.guard(str(row["detector"]), e.fpr)
    attacked = guard.score(found[0].made.outputs).numpy()
    return guard.score(e.clean.outputs).numpy()[: len(attacked)], attacked


def _anew(e: Evidence, name: str, figure: Callable[[Array, Array], float], missing: str, said: str) -> Verdict:
    """Whether the rows of all images state the figure that their scores give; `said` has {} for their number."""
    rows = [r for r in e.verify if r["population"] == "all" and (r["norm"], r["eps"]) == e.at]
    found = [(row[name], both) for row in rows if (both := scores(e, row)) is not None and row[name] is not None]
    if not found:
        return not_run(f"{missing} at {e.at[0]} eps {as_text(e.eps)}", e.verification())
    worst = max([0.0, *(abs(figure(*both) - stated) for stated, both in found)])
    return either(worst < 1e-6, f"{said.format(len(found))} differ by at most {worst:.1e}", e.verification())


def sign(e: Evidence) -> Verdict:
    """R3: AUROCs counted anew, pair by pair, with adversarial as positive and higher as more suspicious."""
    said = "positive = adversarial, higher = more suspicious: {} AUROCs counted anew"
    return _anew(e, "auroc", auroc, "no EER or AUROC", said)


def auroc(clean: Array, attacked: Array) -> float:
    """The share of pairs in which the attacked image has the higher score; a tie counts half."""
    clean = np.sort(clean)
    wins = np.searchsorted(clean, attacked, side="left") + np.searchsorted(clean, attacked, side="right")
    return float(wins.mean() / (2 * len(clean)))


def better_than_chance(e: Evidence) -> Verdict:
    """R17: a detector that cannot be told from a coin is said to be none."""
    rows = [r for r in e.verify if r["population"] == "all" and r["auroc"] is not None]
    rows = [r for r in rows if r["attack"] not in NOT_ATTACKS]
    if not rows:
        return not_run("no verify rows", e.verification())
    said, good = [], True
    for name in dict.fromkeys(r["detector"] for r in rows):
        # one row, chosen before its figure is seen: of many rows the best beats a coin by chance
        best = max((r for r in rows if r["detector"] == name), key=lambda r: _plainness(e, r))
        good &= best["auroc_low"] > 0.5
        tpr = "n/a" if best["tpr_at_fpr05"] is None else percent(best["tpr_at_fpr05"])
        found = f"{best['attack']} {as_text(best['eps'])}, {best['n_clean']}+{best['n_attacked']}"
        around = f"[{100 * best['auroc_low']:.1f}, {100 * best['auroc_high']:.1f}]"
        figures = f"AUROC {percent(best['auroc'])} {around}, EER {percent(best['eer'])}, TPR {tpr} at 5 % FPR"
        said.append(f"{name}: {figures} ({found})")
    return either(good, "; ".join(said), e.verification())


def _plainness(e: Evidence, row: dict[str, Any]) -> tuple[bool, bool, int]:
    """FGSM first, then the audit's eps, then many images."""
    plain, here = (row["attack"], row["settings"]) == ("fgsm", {}), (row["norm"], row["eps"]) == e.at
    return plain, here, int(row["n_attacked"])


def eer_definition(e: Evidence) -> Verdict:
    """R16: EERs computed anew from the definition: the crossing of FPR and FNR, linear between thresholds."""
    said = "linear interpolation of the ROC where FPR = FNR, ties as one threshold, "
    said += "threshold chosen with the attack in view; {} EERs computed anew"
    return _anew(e, "eer", eer, "no EER", said)


def eer(clean: Array, attacked: Array) -> float:
    """The EER from its definition, by a walk over the distinct scores; `metrics.roc` goes another way."""
    cuts = np.unique(np.concatenate([clean, attacked]))
    clean, attacked = np.sort(clean), np.sort(attacked)
    # reject above a cut, from the largest down; above all of them nothing is rejected
    fpr = np.append(1 - np.searchsorted(clean, cuts, side="right")[::-1] / len(clean), 1.0)
    fnr = np.append(np.searchsorted(attacked, cuts, side="right")[::-1] / len(attacked), 0.0)
    i = int(np.argmax(fpr >= fnr))
    before, after = fnr[i - 1] - fpr[i - 1], fpr[i] - fnr[i]
    return float(fpr[i - 1] + before / (before + after) * (fpr[i] - fpr[i - 1]))


def intervals(e: Evidence) -> Verdict:
    """R17: each figure lies in an interval of its own, with the counts it comes from."""
    rows = [r for r in e.verify if r["n_attacked"]]
    aware = [r.row for r in e.results if r.row.get("undetected_error_rate") is not None]
    if not rows and not aware:
        return not_run("no figures of a detector", e.verification())
    outside = [
        f"{row['attack']} {as_text(row['eps'])} {name}"
        for found, figures in ((rows, ("eer", "auroc")), (aware, ("undetected_error",)))
        for row in found
        for name in figures
        if not _inside(row, name)
    ]
    said = f"{len(rows)} verify rows (bootstrap) and {len(aware)} adaptive rows (bootstrap with the threshold)"
    said += f"; outside its interval or without one: {outside[0] if outside else 'none'}"
    return either(not outside, said, e.verification())


def _inside(row: dict[str, object], name: str) -> bool:
    value = row.get(name, row.get(f"{name}_rate"))
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if not all(isinstance(x, float) for x in (low, value, high)):
        return False
    return low - 1e-9 <= value <= high + 1e-9  # type: ignore[operator]


def seeds(e: Evidence) -> Verdict:
    """R17: what is claimed of a loss was seen with three training seeds or more."""
    top = e.headline
    if top is None:
        return not_run("no headline to repeat", e.aware("detector-aware"))
    if e.supplied:
        return met("one supplied model: its figures are its own and claim nothing of a loss")
    anyone = dict.fromkeys(("seed", "run"))
    rates = {
        int(one.model["seed"]): float(r.row["undetected_error_rate"])
        for one in (e, *e.others)
        for r in one.results
        if one.model | anyone == e.model | anyone
        and (r.attack, r.detector, r.ball) == (top.attack, top.detector, e.at)
    }
    said = ", ".join(f"seed {k} {percent(v)}" for k, v in sorted(rates.items()))
    said = f"undetected and wrong, {top.detector}, eps {as_text(e.eps)}: {said}"
    free = [s for s in range(SEEDS + 1) if s not in rates][: max(0, SEEDS - len(rates))]
    commands = [e.aware("detector-aware", words=e.with_seed(s), budget=top.setting("budget")) for s in free]
    return met(said) if len(rates) >= SEEDS else not_run(said, Line.joined(commands))


CHECKS = (
    Check("R3", "sign", "Positive = adversarial, higher = more suspicious", sign),
    Check("R16", "eer-definition", "EER by its definition, safe with ties", eer_definition),
    Check("R17", "intervals", "Counts and intervals everywhere", intervals),
    Check("R17", "better-than-chance", "The detector beats a coin on the plainest attack", better_than_chance),
    Check("R17", "seeds", "Three training seeds behind a claim about a loss", seeds),
)
