"""Security records to rows: what each model and detector is worth against attackers who know both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advbench import metrics
from advbench.detection import NO_DETECTOR
from advbench.reproduce.cells import CONTROLS, HEADLINE
from advbench.reproduce.probes import FIRST, FPR, LIKELIHOOD, REJECTION, Probe, plan
from advbench.reproduce.records import Record
from advbench.reproduce.rows import fgsm_eer, name_of, row_of
from advbench.reproduce.security import MARKS, Answer, find, mask
from advbench.runs import Row

TABLE = "security"
REJECTED = "images that can be made rejected"
LOST_OR_REJECTED = f"undetected error at eps {HEADLINE:g}, or made rejected"
Figure = tuple[float, float | None, float | None, int]
Records = Mapping[str, Record]
EER = f"100-D, {LIKELIHOOD}, FGSM {name_of(HEADLINE, clip=True, exact=False)}"


def rows(security: Records, cells: Sequence[Record]) -> list[Row]:
    """The rows of table `security`, with the fields of all rows and what tells their attack apart.

    Further fields: `what, attack, budget, detector, fpr, eps, within` (null where they say nothing). A rate's
    interval is Wilson's, but that of an undetected error at a threshold resamples calibration and test images.
    Probes without an answer give rows without figures and seeds; what an ensemble's members found is then left out.
    """
    found = [row for probe in plan() for row in _of_probe(probe, find(security.get(probe.loss), probe))]
    found += [row for loss in FIRST for row in _rejection(loss, security)]
    return found + list(_zero_knowledge(cells))


def setting(what: str, probe: Probe) -> str:
    """Such as `100-D, undetected error, detector-aware (standard), likelihood at 5 % FPR, eps 0.3`."""
    return f"100-D, {what}, {probe.by}, {guard(probe.detector, probe.fpr)}, eps {probe.eps:g}"


def guard(detector: str, fpr: float) -> str:
    """A detector and its threshold in words."""
    return "no detector" if detector == NO_DETECTOR else f"{detector} at {100 * fpr:g} % FPR"


def row(loss: str, name: str, figure: Figure | None, **more: Any) -> Row:
    """A row of one seed, or of none."""
    mean, low, high, n = figure or (None, None, None, None)
    known = dict.fromkeys(("what", "attack", "budget", "detector", "fpr", "eps", "within")) | more
    return row_of(TABLE, loss, name, [] if figure is None else [0], mean, low=low, high=high, n=n, **known)


def rate(share: float, n: int) -> Figure:
    """A share of n images with Wilson's interval."""
    around = metrics.wilson(round(share * n), n)
    assert around is not None
    return share, around.low, around.high, n


def _of_probe(probe: Probe, answer: Answer | None) -> Iterator[Row]:
    known = {k: probe.asked[k] for k in ("attack", "detector", "fpr", "eps")}
    known["budget"] = probe.settings.get("budget")

    def one(what: str, figure: Figure | None, name: str | None = None, **more: Any) -> Row:
        return row(probe.loss, name or setting(what, probe), figure, **{**known, "what": what, **more})

    found = None if answer is None else answer["row"]

    def of(key: str) -> Figure | None:
        return None if found is None else rate(found[key], probe.n)

    guarded = guard(probe.detector, probe.fpr)
    if probe.part == "noise":
        share = None if answer is None else rate(float(mask(answer["rejected"]).mean()), probe.n)
        yield one("images rejected", share)
        return
    if probe.part == "rejection":  # several of them make a row
        return
    if probe.detector == NO_DETECTOR:
        yield one("error", of("error_rate"))
        return
    yield one("undetected error", None if found is None else _undetected(found))
    if probe.part == "queries":
        yield from _spent(one, answer, probe, int(probe.settings["queries"]), "queries")
        return
    name = f"100-D, undetected error, FGSM, {guarded}, eps {probe.eps:g}"
    if probe.part == "curve":
        name += f", first {probe.n}"
    yield one("undetected error", of("fgsm_undetected_error_rate"), name, attack="fgsm", budget=None)
    yield one("error", of("error_rate"))
    if probe.part == "curve" or (probe.part == "control" and probe.eps != HEADLINE):
        return
    name, neither = f"100-D, clean images rejected, {guarded}", {"attack": None, "budget": None}
    yield one("clean images rejected", of("clean_rejected"), name, **neither)
    if probe.part in ("headline", "control"):
        name = "100-D, clean error of the attacked images"
        yield one("clean error", of("clean_error_rate"), name, **neither)
        share = None if answer is None else answer["eight_bit"]["undetected_error_rate"]
        yield one("undetected error after rounding to 8 bits", None if share is None else rate(share, probe.n))
        yield from _spent(one, answer, probe, 2000, "gradients")
        for member, share in (found["members"] if found else {}).items():
            yield one(f"undetected error found by {member}", rate(share, probe.n))


def _undetected(row_of: Mapping[str, Any]) -> Figure:
    around = (row_of[f"undetected_error_{end}"] for end in ("low", "high"))
    return row_of["undetected_error_rate"], *around, row_of["n"]


def _spent(one: Any, answer: Answer | None, probe: Probe, most: int, unit: str) -> Iterator[Row]:
    """The undetected error within so many gradients or queries an image."""
    for at, within in enumerate(MARKS):
        if 0 < within <= most:
            share = None if answer is None else rate(answer["found"]["share"][at], probe.n)
            yield one(f"undetected error within {within} {unit}", share, within=within)


def _rejection(loss: str, security: Records) -> Iterator[Row]:
    """Rejected after a perturbation of at most so much; and that or lost at the headline's eps (Chen et al. 2023)."""
    record = security.get(loss)
    probes = [p for p in plan() if p.loss == loss and p.part in ("headline", "rejection")]
    head, steps = probes[0], probes[1:]
    answers = [find(record, probe) for probe in steps]
    lost = find(record, head)
    so_far = None
    for eps, answer in zip((0.0, *REJECTION), (lost, *answers), strict=True):
        share = forced = None
        # a rejection found nearer is one within every larger eps too; an answer that is missing ends the curve
        if lost is not None and answer is not None and (eps == 0 or so_far is not None):
            n = min(p.n for p in (head, *steps))
            rejected = mask(lost["clean_rejected"] if eps == 0 else answer["rejected"])[:n]
            so_far = rejected if so_far is None else so_far | rejected
            forced = rate(float(np.mean(so_far)), n)
            share = rate(float(np.mean(mask(lost["lost"])[:n] | so_far)), n)
        else:
            so_far = None
        known = {"attack": "force-rejection", "detector": LIKELIHOOD, "fpr": FPR, "eps": eps}
        for what, figure in ((REJECTED, forced), (LOST_OR_REJECTED, share)):
            name = f"100-D, {what} within eps {eps:g}, {guard(LIKELIHOOD, FPR)}"
            yield row(loss, name, figure, what=what, **known)


def _zero_knowledge(cells: Sequence[Record]) -> Iterator[Row]:
    """The controls' EER under FGSM, which the grid's own table has for its losses."""
    held = {record["cell"]["loss"]: record for record in cells}
    for loss in CONTROLS:
        found = fgsm_eer(held[loss]) if loss in held else None
        figure = None if found is None else (found[0], *found[1], found[2])
        yield row(loss, EER, figure, what="EER", attack="fgsm", detector=LIKELIHOOD, eps=HEADLINE)
