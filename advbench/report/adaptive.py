"""Rows of the attacks that know a detector: which are shown, in which order, and commands for missing ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advbench import catalog, metrics
from advbench.attacks.detector_aware import GRADIENTS
from advbench.detection import DEFAULT_FPR, least_fpr, usual_fpr
from advbench.report.model import ReportedModel
from advbench.runs import AdaptiveRow, AttackRow, Run, VerifyRow, artifacts
from advbench.study.command_lines import Line, command
from advbench.study.selection import attack_rows

AWARE = "detector-aware"
REJECTION = "force-rejection"  # wants images rejected, not errors undetected: it has a chart of its own
EPS = 0.3  # the headline's, as in the paper
COMMAND_N, COMMAND_BUDGET = 200, "quick"


@dataclass(frozen=True)
class Shown:
    """Of one model: adaptive attack rows by file name, and the detectors that the ensemble has not attacked."""

    rows: Mapping[str, AdaptiveRow]
    missing: Sequence[str]
    command: Line | None  # what would attack them; None where none is missing


def adaptive(rows: Mapping[str, AttackRow]) -> dict[str, AdaptiveRow]:
    """Those of the attacks that know a detector (or that there is none)."""
    return {name: row for name, row in rows.items() if isinstance(row, AdaptiveRow)}


def differentiable(detectors: Iterable[str]) -> list[str]:
    """Those whose score an attack can follow: no table with one is without the ensemble's figure."""
    return [d for d in detectors if catalog.load("detector", d).differentiable]


def headline(rows: Mapping[str, AdaptiveRow], detector: str) -> str | None:
    """The file of the ensemble on a detector that stands for the others: usual FPR and eps, else the largest eps."""
    own = [name for name, r in rows.items() if r.attack == AWARE and r.detector == detector]
    return max(own, key=lambda a: _weight(rows[a]), default=None)


def _weight(row: AdaptiveRow) -> tuple[Any, ...]:
    of_budget = list(GRADIENTS).index(row.setting("budget"))
    return row.norm == "linf", row.fpr == DEFAULT_FPR, row.eps == EPS, row.eps, row.n, of_budget


def shown(run: Run, selected: Collection[str], known: Mapping[str, AttackRow], detectors: Sequence[str]) -> Shown:
    """The selected adaptive files of `known`, and the headline's for a detector that they leave out."""
    of = adaptive(known)
    rows = {a: of[a] for a in selected if a in of and of[a].attack != REJECTION}
    left_out = {d: headline(of, d) for d in differentiable(detectors) if headline(rows, d) is None}
    rows |= {name: of[name] for name in left_out.values() if name is not None}
    missing = [d for d, name in left_out.items() if name is None]
    in_order = dict(sorted(rows.items(), key=lambda item: order(*item)))
    return Shown(in_order, missing, closing(run, missing) if missing else None)


def beside(run: Run, rows: Sequence[VerifyRow]) -> Shown:
    """What stands beside these verify rows of a run."""
    known = attack_rows(run)
    selected = [a for a, r in known.items() if any(r.is_attack_of(row) and r.n == row.n_clean for row in rows)]
    return shown(run, selected, known, list(dict.fromkeys(r.detector for r in rows)))


def order(name: str, row: AdaptiveRow) -> tuple[Any, ...]:
    """The ensemble first, then by attack, detector, false-positive rate and eps."""
    return row.attack != AWARE, row.attack, row.detector, row.fpr or 0, row.eps, name


def closing(run: Run, detectors: Sequence[str]) -> Line:
    """The command line that attacks this model and these detectors with the ensemble."""
    calibration, n_test = (len(artifacts.read_part(run, part)) for part in ("calibration", "test"))
    fpr = usual_fpr(calibration) or least_fpr(calibration)
    settings = {"detector": ",".join(detectors), "fpr": fpr, "budget": COMMAND_BUDGET}
    used = {row.eps for row in attack_rows(run).values() if row.norm == "linf"} or {EPS}
    eps = EPS if EPS in used else max(used)
    return command(run, AWARE, settings, [eps], COMMAND_N if n_test > COMMAND_N else None)


def results(subjects: Sequence[ReportedModel], detectors: Sequence[str]) -> dict[str, Any]:
    """The headline table: a line per adaptive attack, eps, detector and rate, a cell per model; what was not run."""
    of = [shown(s.run, s.attacks.keys(), s.known, detectors) for s in subjects]
    first = {name: row for one in reversed(of) for name, row in one.rows.items()}
    lines = [
        {"attack": entry(row), "n": row.n, "aim": aim(row), "cells": [s.known.get(name) for s in subjects]}
        for name, row in sorted(first.items(), key=lambda item: order(*item))
    ]
    ran = {row.detector for row in first.values() if row.attack == AWARE}
    return {
        "lines": lines,
        "absent": [d for d in differentiable(detectors) if d not in ran],
        "members": _members(subjects, first),
        "commands": [one.command for one in of if one.missing],
    }


def beside_eers(subjects: Sequence[ReportedModel], detectors: Sequence[str]) -> list[dict[str, Any]]:
    """For each differentiable detector of an EER table, the ensemble's headline row of each model, or None."""
    of = [adaptive(s.known) for s in subjects]
    return [
        {"detector": d, "cells": [rows[name] if (name := headline(rows, d)) else None for rows in of]}
        for d in differentiable(detectors)
    ]


def entry(row: AdaptiveRow) -> str:
    """An adaptive row's attack, eps and settings, without what it is aimed at."""
    return replace(row, settings=row.own_settings).described


def aim(row: AdaptiveRow) -> str:
    """The detector an adaptive row is aimed at, and the false-positive rate of its threshold."""
    return "no detector" if row.fpr is None else f"{row.detector} at {100 * row.fpr:g}\u00a0% FPR"


def _members(subjects: Sequence[ReportedModel], rows: Mapping[str, AdaptiveRow]) -> dict[str, Any]:
    """A line per ensemble file and model, a column per member, those of the longest list in the order they run."""
    every = [(s, adaptive(s.known).get(name)) for name in rows for s in subjects]
    of = [(s, row) for s, row in every if row is not None and row.members]
    names = max((list(row.members) for _, row in of), key=len, default=[])
    names += [m for m in dict.fromkeys(m for _, row in of for m in row.members) if m not in names]
    shown = [(s.label, row, [row.members.get(m) for m in names]) for s, row in of]
    lines = [{"attack": entry(r), "aim": aim(r), "label": label, "n": r.n, "shares": own} for label, r, own in shown]
    return {"names": names, "lines": lines}


def calibrated(
    subjects: Sequence[ReportedModel], detectors: Sequence[str], fprs: Sequence[float]
) -> list[dict[str, Any]]:
    """A line per model, attack and detector: undetected errors at the threshold of each false-positive rate.

    A cell holds `rate`, `interval`, `rejected` (of the same clean images) and `aimed`: the attack knew this very
    threshold, its interval is the row's own; the others' are Wilson's. None where calibration is too small.
    """
    return [
        {"label": s.label, "row": row, "detector": detector, "cells": [_at(s, name, detector, f) for f in fprs]}
        for s in subjects
        for name, row in s.attacks.items()
        for detector in detectors
        if s.scored_by(detector)
    ]


def _at(s: ReportedModel, name: str, detector: str, fpr: float) -> dict[str, Any] | None:
    threshold = metrics.threshold_at(fpr, s.score(detector, "calibration"))
    if threshold is None:
        return None
    row = s.attacks[name]
    lost = s.wrong(detector, name) & (s.score(detector, name) <= threshold)
    aimed = isinstance(row, AdaptiveRow) and (row.detector, row.fpr) == (detector, fpr)
    interval = metrics.wilson(int(lost.sum()), len(lost))
    if isinstance(row, AdaptiveRow) and aimed:
        interval = metrics.Interval(row.undetected_error_low, row.undetected_error_high)
    rejected = metrics.rejected(s.score(detector, "test")[: row.n], threshold)
    return {"rate": float(lost.mean()), "interval": interval, "rejected": rejected, "aimed": aimed}
