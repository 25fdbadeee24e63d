"""Records to rows: every figure of the page once, with its seeds, spread, interval and the paper's number."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from advbench import metrics
from advbench.reproduce.experiment import LIKELIHOOD, MARKS, Experiment, Figure, Line, Measured, Order, Probe, guard
from advbench.reproduce.figures import mask, rate, verified
from advbench.reproduce.records import (
    Answer,
    Aware,
    Counted,
    DivergedRecord,
    More,
    PaperModel,
    Record,
    ReproductionRow,
    SecurityRecord,
)
from advbench.runs.rows import AdaptiveRow

REJECTED = "images that can be made rejected"
Held = Mapping[PaperModel, Record]
Share = float | Measured | None
Of = Callable[[Answer], Share]


def rows(
    experiment: Experiment,
    records: Sequence[Record],
    answered: Sequence[SecurityRecord] = (),
    diverged: Sequence[DivergedRecord] = (),
) -> list[ReproductionRow]:
    """All rows of results.json: those of the paper's experiments, then those of table `security`.

    A rate's interval is Wilson's, but that of an undetected error at a threshold resamples calibration and test
    images. Probes without an answer give rows without figures; what an ensemble's members found is then left out.
    """
    held, about = {record.cell: record for record in records}, {record.cell: record for record in answered}
    ended = [record.cell for record in diverged]
    found = [_row(line, loss, held, ended) for losses, lines in experiment.rows for loss in losses for line in lines]
    found += [] if experiment.order is None else _in_order(experiment, experiment.order, held)
    for probe in experiment.probes:
        found += _of_probe(probe, answer_to(probe, about.get(probe.model)), experiment.eps)
    for model in dict.fromkeys(p.model for p in experiment.probes if p.part == "rejection"):
        found += _rejection(model, experiment, about.get(model))
    for model in dict.fromkeys(p.model for p in experiment.probes if p.model.loss in experiment.controls):
        if (line := experiment.eer) is not None:
            asked = Aware("EER", "fgsm", None, LIKELIHOOD, None, experiment.eps)
            found.append(_security_row(model, line.what, line.figure(held[model]) if model in held else None, asked))
    return found


def _row(line: Line, loss: str, held: Held, ended: Iterable[PaperModel]) -> ReproductionRow:
    about = loss, line.dim, line.recipe
    own = {m.seed: r for m, r in held.items() if (m.loss, m.dim, m.recipe) == about}
    diverged = tuple(sorted(m.seed for m in ended if (m.loss, m.dim, m.recipe) == about)) or None

    def over_seeds(figure: Figure) -> ReproductionRow:
        return _over_seeds(line.table, loss, line.setting, {seed: figure(own[seed]) for seed in sorted(own)})

    row, counted = over_seeds(line.figure), [over_seeds(count).mean for count in line.counts]
    mean, more = line.formula.get(loss, row.mean), Counted(*counted) if counted else More()
    row = replace(row, mean=mean, diverged=diverged, more=more)
    return replace(row, paper=line.paper.get(loss), paper_std=line.paper_std.get(loss))


def _in_order(experiment: Experiment, order: Order, held: Held) -> Iterator[ReproductionRow]:
    """Of neighbours in an order, how far the EER of the second lies above the first's, seed by seed.

    The interval is over images, drawn together for both.
    """
    models = [model for model in experiment.models if (model.recipe, model.dim) == (order.recipe, 100)]
    for seed, (below, above) in itertools.product(sorted({m.seed for m in models}), itertools.pairwise(order.losses)):
        both = [held.get(PaperModel(loss, 100, seed, order.recipe)) for loss in (below, above)]
        eers = [None if record is None else verified(order.attack)(record) for record in both]
        found = None
        if (first := eers[0]) is not None and (second := eers[1]) is not None:
            resampled = [np.array(record.resampled) for record in both if record is not None]
            low, high = np.percentile(resampled[1] - resampled[0], [2.5, 97.5]).tolist()
            found = Measured(second.value - first.value, (low, high), second.n)
        name = f"100-D, {order.recipe}, EER less that of {experiment.losses[below].label}, seed {seed}"
        yield _over_seeds("order", above, name, {seed: found})


def _over_seeds(table: str, loss: str, setting: str, found: Mapping[int, Measured | None]) -> ReproductionRow:
    known = {seed: one for seed, one in found.items() if one is not None}
    if not known:
        return ReproductionRow(table, loss, setting, (), None, None, None, None, None, None)
    values = np.array([one.value for one in known.values()])
    intervals = [one.interval for one in known.values() if one.interval is not None]
    low, high = np.mean(intervals, axis=0).tolist() if len(intervals) == len(known) else (None, None)
    std, n = float(values.std(ddof=1)) if len(known) > 1 else None, next(iter(known.values())).n
    return ReproductionRow(table, loss, setting, tuple(known), float(values.mean()), std, low, high, n, None)


def answer_to(probe: Probe, record: SecurityRecord | None) -> Answer | None:
    """The answer to a probe, or None."""
    return next((row for row in record.rows if row.asked == probe.asked), None) if record is not None else None


def lost_or_rejected(eps: float) -> str:
    """What the cost of rejection counts, beside `REJECTED`."""
    return f"undetected error at eps {eps:g}, or made rejected"


def _security_row(model: PaperModel, name: str, found: Measured | None, asked: Aware) -> ReproductionRow:
    return replace(_over_seeds("security", model.loss, f"{model.dim}-D, {name}", {model.seed: found}), more=asked)


def _of_probe(probe: Probe, answer: Answer | None, headline: float) -> Iterator[ReproductionRow]:
    """The rows of a probe; one of part `rejection` has none, as several of them make a row."""
    part, asked, guarded = probe.part, probe.asked, guard(probe.asked.detector, probe.asked.fpr)
    own = Aware("", asked.attack, asked.settings.get("budget"), asked.detector, asked.fpr, asked.eps)
    fgsm, neither = replace(own, attack="fgsm", budget=None), replace(own, attack=None, budget=None)
    usual = f"{{}}, {probe.by}, {guarded}, eps {asked.eps:g}"
    by_fgsm = f"{{}}, FGSM, {guarded}, eps {asked.eps:g}" + (f", first {asked.n}" if part == "curve" else "")

    def one(what: str, of: Of, name: str = usual, more: Aware = own) -> ReproductionRow:
        share = None if answer is None else of(answer)
        found = rate(share, asked.n) if isinstance(share, (int, float)) else share
        return _security_row(probe.model, name.format(what), found, replace(more, what=what))

    def aware(of: Callable[[AdaptiveRow], Share]) -> Of:
        return lambda found: of(found.row) if isinstance(found.row, AdaptiveRow) else None

    def spent(most: int, unit: str) -> Iterator[ReproductionRow]:
        for at, within in enumerate(MARKS):
            if 0 < within <= most:
                what, more = f"undetected error within {within} {unit}", replace(own, within=within)
                yield one(what, lambda found: found.found.share[at] if found.found else None, more=more)  # noqa: B023

    if part == "noise":
        yield one("images rejected", lambda found: float(mask(found.rejected).mean()))
    if part in ("noise", "rejection"):
        return
    if asked.fpr is None:
        yield one("error", lambda found: found.row.error_rate)
        return
    yield one("undetected error", aware(_undetected))
    if part == "queries":
        yield from spent(int(asked.settings["queries"]), "queries")
        return
    yield one("undetected error", aware(lambda row: row.fgsm_undetected_error_rate), by_fgsm, fgsm)
    yield one("error", lambda found: found.row.error_rate)
    if part == "curve" or (part == "control" and asked.eps != headline):
        return
    yield one("clean images rejected", aware(lambda row: row.clean_rejected), f"{{}}, {guarded}", neither)
    if part in ("headline", "control"):
        yield one("clean error", lambda found: found.row.clean_error_rate, "{} of the attacked images", neither)
        rounded = "undetected error after rounding to 8 bits"
        yield one(rounded, lambda found: (found.eight_bit or {}).get("undetected_error_rate"))
        yield from spent(2000, "gradients")
        for member, share in (answer.row.members if answer and isinstance(answer.row, AdaptiveRow) else {}).items():
            yield one(f"undetected error found by {member}", lambda found: share)  # noqa: B023


def _undetected(row: AdaptiveRow) -> Measured:
    return Measured(row.undetected_error_rate, (row.undetected_error_low, row.undetected_error_high), row.n)


def _rejection(model: PaperModel, experiment: Experiment, record: SecurityRecord | None) -> Iterator[ReproductionRow]:
    """Rejected after a perturbation of at most so much; and that or lost at the headline's eps (Chen et al. 2023)."""
    own = [p for p in experiment.probes if p.model == model]
    head, steps = next(p for p in own if p.part == "headline"), [p for p in own if p.part == "rejection"]
    lost, n, detector, fpr = (
        answer_to(head, record),
        min(p.asked.n for p in (head, *steps)),
        head.asked.detector,
        head.asked.fpr,
    )
    so_far: metrics.Mask | None = None if lost is None else mask(lost.clean_rejected)[:n]
    for probe in (None, *steps):
        eps, share, forced = 0.0 if probe is None else probe.asked.eps, None, None
        if probe is not None and so_far is not None:
            # a rejection found nearer is one within every larger eps too; an answer that is missing ends the curve
            answer = answer_to(probe, record)
            so_far = None if answer is None else so_far | mask(answer.rejected)[:n]
        if lost is not None and so_far is not None:
            forced = rate(float(np.mean(so_far)), n)
            share = rate(float(np.mean(mask(lost.lost)[:n] | so_far)), n)
        for what, found in ((REJECTED, forced), (lost_or_rejected(experiment.eps), share)):
            asked = Aware(what, "force-rejection", None, detector, fpr, eps)
            yield _security_row(model, f"{what} within eps {eps:g}, {guard(detector, fpr)}", found, asked)
