"""Records to rows: every figure of the page once, with its seeds, spread, interval and the paper's number."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advbench import metrics
from advbench.reproduce import paper
from advbench.reproduce.cells import EPS, GREY, HEADLINE, LOSSES, SEEDS, SHOWN, reading
from advbench.reproduce.records import Record
from advbench.runs import Row

Interval = tuple[float, float] | None
READINGS = [(clip, scale) for scale in (1.0, GREY) for clip in (True, False)]


def rows(records: Sequence[Record]) -> list[Row]:
    """All rows of results.json: `table, loss, setting, seeds, mean, std, n, paper`, and `low, high` (95 %).

    Rates and `paper` are fractions. `seeds` lists those that ran: none of them = not run, its figures null. `std`
    (n - 1) needs two seeds. The interval is over images: of one seed its own, of several the mean of theirs.
    """
    by_cell = {(r["cell"]["loss"], r["cell"]["dim"], r["cell"]["seed"]): r for r in records}
    return [row for part in (_table1, _table6, _eer, _targeted, _figures) for row in part(by_cell)]


Cells = Mapping[tuple[str, int, int], Record]
Figure = Callable[[Record], tuple[float | None, Interval, int] | None]


def _row(
    table: str, loss: str, setting: str, cells: Cells, figure: Figure, published: float | None = None, **more: Any
) -> Row:
    dim = int(setting.split("-")[0])
    found = {s: figure(cells[loss, dim, s]) for s in SEEDS if (loss, dim, s) in cells}
    known = {s: f for s, f in found.items() if f is not None and f[0] is not None}
    values = np.array([f[0] for f in known.values()], dtype=float)
    intervals = [f[1] for f in known.values() if f[1] is not None]
    ends = np.mean(intervals, axis=0).tolist() if intervals and len(intervals) == len(known) else [None, None]
    mean = float(values.mean()) if len(values) else None
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    figures = {"std": std, "low": ends[0], "high": ends[1], "n": next(iter(known.values()))[2] if known else None}
    return row_of(table, loss, setting, list(known), mean, **figures, paper=published, **more)


def row_of(table: str, loss: str, setting: str, seeds: Sequence[int], mean: float | None, **more: Any) -> Row:
    """A row of results.json; figures that are not given are null."""
    figures = {"mean": mean, **dict.fromkeys(("std", "low", "high", "n", "paper"))}
    return {"table": table, "loss": loss, "setting": setting, "seeds": seeds, **figures, **more}


def _rate(share: float, n: int) -> tuple[float, Interval, int]:
    around = metrics.wilson(round(share * n), n)
    return share, None if around is None else (around.low, around.high), n


def _clean_error(record: Record) -> tuple[float, Interval, int]:
    return _rate(len(record["wrong"]) / record["n"], record["n"])


def _table1(cells: Cells) -> Iterator[Row]:
    for dim in (2, 100):
        for loss in LOSSES:
            mean, std = paper.TABLE1[loss, dim]
            yield _row("table1", loss, f"{dim}-D", cells, _clean_error, mean, paper_std=std)


def _found(rows: list[Row], attack: str, eps: float, *, clip: bool = True, exact: bool = False) -> Row | None:
    """The first of these rows that is of this attack."""
    settings = ({} if clip else {"clip": False}) | ({"exact_gradient": True} if exact else {})
    found = (r for r in rows if r["attack"] == attack and abs(r["eps"] - eps) < 1e-9 and r["settings"] == settings)
    return next(found, None)


def _attack(attack: str, eps: float, *, key: str, **options: bool) -> Figure:
    def figure(record: Record) -> tuple[float, Interval, int] | None:
        row = _found(record["attacks"], attack, eps, **options)
        if row is None:
            return None
        if key in ("zero_gradients", "saturated"):
            return row[key] / row["n"], None, row["n"]
        # a target is reached from the clean-correct images
        among = row["n"] - (round(row["clean_error_rate"] * row["n"]) if key == "target_rate" else 0)
        return _rate(row[key], among)

    return figure


def _verify(attack: str, eps: float, detector: str, *, key: str, **options: bool) -> Figure:
    def figure(record: Record) -> tuple[float, Interval, int] | None:
        row = _found([r for r in record["verify"] if r["detector"] == detector], attack, eps, **options)
        return None if row is None else (row[key], (row[f"{key}_low"], row[f"{key}_high"]), row["n_attacked"])

    return figure


def fgsm_eer(record: Record) -> tuple[float, tuple[float, float], int] | None:
    """A model's EER of the likelihood under FGSM at the paper's eps, its interval, and the images attacked."""
    found = _verify("fgsm", HEADLINE, "likelihood", key="eer")(record)
    return None if found is None or found[0] is None or found[1] is None else (found[0], found[1], found[2])


def _share(attack: str, key: str) -> Figure:
    def figure(record: Record) -> tuple[float, Interval, int] | None:
        row = _found(record["shares"], attack, HEADLINE)
        return None if row is None else _rate(row[key], row["n"])

    return figure


def name_of(eps: float, *, clip: bool, exact: bool) -> str:
    """Such as `eps 0.3, clipped, [0,1] units`: the eps as the paper would print it, and how it is read."""
    stated, unit, clipping = reading({"clip": clip}, eps)
    return f"eps {stated:g}, {clipping}, {unit}" + (", exact gradient" if exact else "")


def _variants(*epses: float) -> Iterator[tuple[float, dict[str, bool]]]:
    """(eps, options) of each reading of the paper's eps, then with exact gradients."""
    for clip, scale in READINGS:
        yield from ((eps * scale, {"clip": clip, "exact": False}) for eps in epses)
    yield from ((eps, {"clip": True, "exact": True}) for eps in epses)


def _counts(cells: Cells, loss: str, attack: str, eps: float, options: dict[str, bool]) -> dict[str, float | None]:
    figures = {key: _attack(attack, eps, key=key, **options) for key in ("zero_gradients", "saturated")}
    return {key: _row("", loss, "100-D", cells, figure)["mean"] for key, figure in figures.items()}


def _table6(cells: Cells) -> Iterator[Row]:
    for loss in SHOWN:
        yield _row("table6", loss, "100-D, eps 0", cells, _clean_error, paper.TABLE6.get((loss, 0.0)))
        for eps, options in _variants(*EPS):
            stated = reading({"clip": options["clip"]}, eps)[0]
            setting = f"100-D, FGSM {name_of(eps, **options)}"
            figure = _attack("fgsm", eps, key="error_rate", **options)
            published = None if options["exact"] else paper.TABLE6.get((loss, round(stated, 6)))
            counts = _counts(cells, loss, "fgsm", eps, options)
            yield _row("table6", loss, setting, cells, figure, published, **counts)


def _eer(cells: Cells) -> Iterator[Row]:
    for loss in SHOWN:
        for eps, options in _variants(*EPS):
            for detector in ("likelihood", "max-posterior"):
                headline = reading({"clip": options["clip"]}, eps)[0] == HEADLINE and not options["exact"]
                published = paper.EER.get(loss) if headline and detector == "likelihood" else None
                setting = f"100-D, {detector}, FGSM {name_of(eps, **options)}"
                figure = _verify("fgsm", eps, detector, key="eer", **options)
                yield _row("eer", loss, setting, cells, figure, published)


def _targeted(cells: Cells) -> Iterator[Row]:
    attack = "targeted-fgsm"
    for loss in SHOWN:
        for eps, options in _variants(HEADLINE):
            where, plain = name_of(eps, **options), not options["exact"]
            for what, figure, published in (
                ("error", _attack(attack, eps, key="error_rate", **options), paper.TARGETED_ERROR),
                ("target reached", _attack(attack, eps, key="target_rate", **options), {}),
                ("EER, likelihood", _verify(attack, eps, "likelihood", key="eer", **options), paper.TARGETED_EER),
                ("EER, max-posterior", _verify(attack, eps, "max-posterior", key="eer", **options), {}),
            ):
                printed = published.get(loss) if plain else None
                more = _counts(cells, loss, attack, eps, options) if what == "error" else {}
                yield _row("targeted", loss, f"100-D, {what}, {where}", cells, figure, printed, **more)


def _figures(cells: Cells) -> Iterator[Row]:
    default = name_of(HEADLINE, clip=True, exact=False)
    for loss in LOSSES:
        setting = "2-D, share of the training features' variance that lies within classes"
        yield _row("fig1", loss, setting, cells, lambda r: (r["within_variance"], None, len_train(r)))
    for who in ("clean", "attacked"):
        setting = f"2-D, {who} images with likelihood under 0.2, FGSM {default}"
        yield _row("fig1", "lgm1.0", setting, cells, _share("fgsm", f"low_{who}"))
    for loss, alpha in (("lgm0.0", 0.0), ("lgm0.3", 0.3), ("lgm1.0", 1.0)):
        setting = "2-D, distance of a class's training boundary from its mean over that of the means (formula)"
        yield row_of("fig2", loss, setting, [], boundary(alpha))
    for loss in SHOWN:
        for who, published in (("clean", paper.SURE_SHARE.get(loss)), ("attacked", None)):
            setting = f"100-D, {who} images with p_max > 0.98, FGSM {default}"
            yield _row("fig3", loss, setting, cells, _share("fgsm", f"sure_{who}"), published)
        for who in ("clean", "attacked"):
            setting = f"100-D, {who} images with likelihood under 0.2, FGSM {default}"
            yield _row("fig4", loss, setting, cells, _share("fgsm", f"low_{who}"))
        figure = _verify("fgsm", HEADLINE, "likelihood", key="auroc")
        yield _row("fig5", loss, f"100-D, AUROC, likelihood, FGSM {default}", cells, figure)
    for who in ("clean", "attacked"):
        setting = f"100-D, {who} images with likelihood under 0.2, targeted FGSM {default}"
        yield _row("fig6", "lgm1.0", setting, cells, _share("targeted-fgsm", f"low_{who}"))


def len_train(record: Record) -> int:
    """Images the model was trained on."""
    return 55_000 if record["model"]["training"]["full_train"] else 50_000


def boundary(alpha: float) -> float:
    """On the line between two means, where `(1 + alpha) d_1 = d_2`: the distance from mean 1 over that of the means.

    Half without a margin: the margin asks a feature to lie nearer to its own mean (Wan et al. 2018, Fig. 2).
    """
    return 1 / (1 + math.sqrt(1 + alpha))
