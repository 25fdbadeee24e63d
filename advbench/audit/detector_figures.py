"""Whether the detectors' figures stand: sign, intervals, definition of the EER (R3, R16, R17)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from advbench.audit import Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import NOT_ATTACKS
from advbench.formatting import as_text, percent
from advbench.metrics import Array
from advbench.runs import AdaptiveRow, Attacked, VerifyRow
from advbench.study.command_lines import Line

SEEDS = 3


def scores(e: Evidence, row: VerifyRow) -> tuple[Array, Array] | None:
    """Clean and attacked scores that a verify row of all images is about; None where the attack is not at hand."""
    found = e.by_identity.get((row.identity, row.n_attacked))
    if found is None:
        return None
    attacked = e.score(row.detector, found)
    return e.score(row.detector, None)[: len(attacked)], attacked


Figure = Callable[[Array, Array], float]
Stated = Callable[[VerifyRow], float | None]


def _anew(e: Evidence, stated: Stated, figure: Figure, missing: str, said: str) -> Verdict:
    """Whether the rows of all images state the figure that their scores give; `said` has {} for their number."""
    rows = [r for r in e.verify if r.population == "all" and r.ball == e.at]
    both = [(value, scores(e, row)) for row in rows if (value := stated(row)) is not None]
    found = [(value, pair) for value, pair in both if pair is not None]
    if not found:
        return not_run(f"{missing} at {e.at[0]} eps {as_text(e.eps)}", e.verification())
    worst = max([0.0, *(abs(figure(*pair) - value) for value, pair in found)])
    return either(worst < 1e-6, f"{said.format(len(found))} differ by at most {worst:.1e}", e.verification())


def sign(e: Evidence) -> Verdict:
    """R3: AUROCs counted anew, pair by pair, with adversarial as positive and higher as more suspicious."""
    said = "positive = adversarial, higher = more suspicious: {} AUROCs counted anew"
    return _anew(e, lambda row: row.auroc, auroc, "no EER or AUROC", said)


def auroc(clean: Array, attacked: Array) -> float:
    """The share of pairs in which the attacked image has the higher score; a tie counts half."""
    clean = np.sort(clean)
    wins = np.searchsorted(clean, attacked, side="left") + np.searchsorted(clean, attacked, side="right")
    return float(wins.mean() / (2 * len(clean)))


def beats_a_coin(e: Evidence) -> Verdict:
    """R17: a detector that cannot be told from a coin is said to be none."""
    rows = [r for r in e.verify if r.population == "all" and r.auroc is not None and r.attack not in NOT_ATTACKS]
    if not rows:
        return not_run("no verify rows", e.verification())
    said, good = [], True
    for name in dict.fromkeys(r.detector for r in rows):
        # one row, chosen before its figure is seen: of many rows the best beats a coin by chance
        own = [r for r in rows if r.detector == name]
        best = max(own, key=lambda r: ((r.attack, r.settings) == ("fgsm", {}), r.ball == e.at, r.n_attacked))
        low, high = best.auroc_low or 0.0, best.auroc_high or 0.0
        good &= low > 0.5
        found = f"{best.attack} {as_text(best.eps)}, {best.n_clean}+{best.n_attacked}"
        figures = f"AUROC {percent(best.auroc)} [{100 * low:.1f}, {100 * high:.1f}], EER {percent(best.eer)}, "
        figures += f"TPR {percent(best.tpr_at_fpr05)} at 5 % FPR"
        said.append(f"{name}: {figures} ({found})")
    return either(good, "; ".join(said), e.verification())


def eer_definition(e: Evidence) -> Verdict:
    """R16: EERs computed anew from the definition: the crossing of FPR and FNR, linear between thresholds."""
    said = "linear interpolation of the ROC where FPR = FNR, ties as one threshold, "
    said += "threshold chosen with the attack in view; {} EERs computed anew"
    return _anew(e, lambda row: row.eer, eer, "no EER", said)


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
    rows = [r for r in e.verify if r.n_attacked]
    aware = [r.row for r in e.results if isinstance(r.row, AdaptiveRow)]
    if not rows and not aware:
        return not_run("no figures of a detector", e.verification())
    figures: list[tuple[Attacked, str, float | None, float | None, float | None]] = []
    for row in rows:
        figures.append((row, "eer", row.eer_low, row.eer, row.eer_high))
        figures.append((row, "auroc", row.auroc_low, row.auroc, row.auroc_high))
    for one in aware:
        low, high = one.undetected_error_low, one.undetected_error_high
        figures.append((one, "undetected_error", low, one.undetected_error_rate, high))
    outside = [f"{of.attack} {as_text(of.eps)} {name}" for of, name, *figure in figures if not _inside(*figure)]
    said = f"{len(rows)} verify rows (bootstrap) and {len(aware)} adaptive rows (bootstrap with the threshold)"
    said += f"; outside its interval or without one: {outside[0] if outside else 'none'}"
    return either(not outside, said, e.verification())


def _inside(low: float | None, value: float | None, high: float | None) -> bool:
    if low is None or value is None or high is None:
        return False
    return low - 1e-9 <= value <= high + 1e-9


def seeds(e: Evidence) -> Verdict:
    """R17: what is claimed of a loss was seen with three training seeds or more."""
    top = e.headline
    if top is None:
        return not_run("no headline to repeat", e.aware("detector-aware"))
    if e.supplied:
        return Verdict("met", "one supplied model: its figures are its own and claim nothing of a loss")
    alike = [o for o in (e, *e.others) if replace(o.model, seed=e.model.seed, run=e.model.run) == e.model]
    attacked = top.row.attack, top.detector, e.at
    same = [(o, r) for o in alike for r in o.results if (r.row.attack, r.detector, r.row.ball) == attacked]
    rates = {o.model.seed: r.adaptive.undetected_error_rate for o, r in same if o.model.seed is not None}
    said = ", ".join(f"seed {k} {percent(v)}" for k, v in sorted(rates.items()))
    said = f"undetected and wrong, {top.detector}, eps {as_text(e.eps)}: {said}"
    free = [s for s in range(SEEDS + 1) if s not in rates][: max(0, SEEDS - len(rates))]
    commands = [e.aware("detector-aware", words=e.with_seed(s), budget=top.row.setting("budget")) for s in free]
    return Verdict("met", said) if len(rates) >= SEEDS else not_run(said, Line.joined(commands))
