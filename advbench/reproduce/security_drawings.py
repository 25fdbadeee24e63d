"""Security curves, drawn from rows: undetected error over eps, gradients and queries, and what rejection costs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from advbench.report import plots
from advbench.reproduce.cells import SHOWN
from advbench.reproduce.drawings import Drawing
from advbench.reproduce.paper import LABELS
from advbench.reproduce.probes import FPR, LIKELIHOOD
from advbench.reproduce.security_rows import LOST_OR_REJECTED, REJECTED, TABLE
from advbench.runs import Row


@dataclass(frozen=True)
class Line:
    """A labelled line over x; rows give height and 95 % interval. `thin`: a control, without interval."""

    label: str
    loss: str
    x: Sequence[float]
    rows: Sequence[Row]
    thin: bool = False


def security_drawings(rows: Sequence[Row]) -> Iterator[Drawing]:
    """The curves that rows at hand can give."""
    known = [r for r in rows if r["table"] == TABLE and r["mean"] is not None]
    guarded = [r for r in known if r["detector"] == LIKELIHOOD and r["fpr"] == FPR]

    def lines(chosen: Callable[[Row], bool], x: str, label: str = "", *, thin: bool = False) -> list[Line]:
        found = []
        for loss in SHOWN:
            own = sorted((r for r in guarded if r["loss"] == loss and chosen(r)), key=lambda r: r[x])
            if len(own) > 1:
                found.append(Line(LABELS[loss] + label, loss, [r[x] for r in own], own, thin))
        return found

    def eps_curve(attack: str, budget: str | None) -> Callable[[Row], bool]:
        ending = ", first 200" if attack == "fgsm" else ""
        return lambda r: (
            (r["what"], r["attack"], r["budget"]) == ("undetected error", attack, budget)
            and r["setting"].endswith(f"eps {r['eps']:g}{ending}")
        )

    quick = lines(eps_curve("detector-aware", "quick"), "eps")
    fgsm = lines(eps_curve("fgsm", None), "eps", ", FGSM", thin=True)
    if quick:
        yield Drawing(
            "security-eps",
            "Undetected error over eps: share of images misclassified and accepted by the likelihood at 5 % false "
            f"positives, attack that knows it (budget quick), and FGSM, which does not; {_ends(quick, 'eps')}",
            _chart([*quick, *fgsm], "eps"),
        )
    for key, attack, unit in (
        ("security-gradients", "detector-aware", "gradients"),
        ("security-queries", "detector-square", "queries"),
    ):
        found = lines(lambda r: r["within"] is not None and r["attack"] == attack, "within")  # noqa: B023
        if found:
            yield Drawing(
                key,
                f"Undetected error over {unit} an image, eps 0.3, likelihood at 5 % false positives, {attack}; "
                f"{_ends(found, unit)}",
                _chart(found, f"{unit} an image", log=True),
            )
    cost = lines(lambda r: r["what"] == LOST_OR_REJECTED, "eps")
    alone = lines(lambda r: r["what"] == REJECTED, "eps", ", rejected", thin=True)
    if cost:
        yield Drawing(
            "rejection-cost",
            "Cost of rejection: share of images that are lost at eps 0.3, or that a perturbation within the eps on "
            f"the axis makes the likelihood reject at 5 % false positives; thin, with crosses: the rejected alone; "
            f"{_ends(cost, 'eps')}; {_ends(alone, 'eps')}",
            _chart([*cost, *alone], "eps within which a rejection counts as an error"),
        )


def _ends(lines: Sequence[Line], unit: str) -> str:
    """First and last value of each line in words."""
    return "; ".join(
        f"{line.label} {100 * line.rows[0]['mean']:.1f} % at {line.x[0]:g} to {100 * line.rows[-1]['mean']:.1f} % at "
        f"{line.x[-1]:g} {unit}"
        for line in lines
    )


def _chart(lines: Sequence[Line], xlabel: str, *, log: bool = False) -> Figure:
    figure, axes = plots.canvas(5.0, 3.4)
    for line in lines:
        i = SHOWN.index(line.loss)
        colour, heights = plots.COLOURS[i], [r["mean"] for r in line.rows]
        style = {"linestyle": plots.DASHES[i], "color": colour}
        if line.thin:
            axes.plot(line.x, heights, label=line.label, linewidth=0.8, marker="x", markersize=4, **style)
            continue
        axes.plot(line.x, heights, label=line.label, marker="o", markersize=3, **style)
        ends = ([r[end] for r in line.rows] for end in ("low", "high"))
        axes.fill_between(line.x, *ends, color=colour, alpha=0.12, linewidth=0)
    if log:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel="share of images", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8, loc="best")
    return figure
