"""Security curves, drawn from rows: undetected error over eps, gradients and queries, and what rejection costs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from advbench.detection import DEFAULT_FPR
from advbench.report import plots
from advbench.reproduce.experiment import LIKELIHOOD, Drawing, Experiment
from advbench.reproduce.records import Aware, ReproductionRow
from advbench.reproduce.rows import REJECTED, lost_or_rejected

Chosen = Callable[[ReproductionRow, Aware], bool]


def security_drawings(experiment: Experiment, rows: Sequence[ReproductionRow]) -> Iterator[Drawing]:
    """The curves that rows at hand can give."""
    of_guard = [(row, row.more) for row in rows if isinstance(row.more, Aware) and row.mean is not None]
    known = [(row, asked) for row, asked in of_guard if (asked.detector, asked.fpr) == (LIKELIHOOD, DEFAULT_FPR)]

    def lines(chosen: Chosen, label: str = "", *, thin: bool = False) -> list[plots.Line]:
        """A line for each loss; a `thin` one, a control, has no interval."""
        found = []
        for style, loss in enumerate(experiment.guarded):
            own = [(asked.within or asked.eps or 0, r) for r, asked in known if r.loss == loss and chosen(r, asked)]
            if len(own) > 1:
                own.sort(key=lambda point: point[0])
                x, y, low, high = np.array([(x, r.mean, r.low, r.high) for x, r in own], float).T
                line = plots.Line(experiment.losses[loss].label + label, x, y, style=style)
                found.append(line if thin else replace(line, low=low, high=high))
        return found

    def over_eps(attack: str, budget: str | None, ending: str = "") -> Chosen:
        return lambda r, asked: (
            (asked.what, asked.attack, asked.budget) == ("undetected error", attack, budget)
            and r.setting.endswith(f"eps {asked.eps:g}{ending}")
        )

    if quick := lines(over_eps("detector-aware", "quick")):
        fgsm = lines(over_eps("fgsm", None, ", first 200"), label=", FGSM", thin=True)
        yield Drawing(
            "security-eps",
            "Undetected error over eps: share of images misclassified and accepted by the likelihood at 5 % false "
            f"positives, attack that knows it (budget quick), and FGSM, which does not; {_ends(quick, 'eps')}",
            _chart([*quick, *fgsm], "eps"),
        )
    for attack, unit in (("detector-aware", "gradients"), ("detector-square", "queries")):
        if found := lines(lambda r, asked: asked.attack == attack and asked.within is not None):  # noqa: B023
            yield Drawing(
                f"security-{unit}",
                f"Undetected error over {unit} an image, eps {experiment.eps:g}, likelihood at 5 % false positives, "
                f"{attack}; {_ends(found, unit)}",
                _chart(found, f"{unit} an image", log=True),
            )
    if cost := lines(lambda r, asked: asked.what == lost_or_rejected(experiment.eps)):
        alone = lines(lambda r, asked: asked.what == REJECTED, label=", rejected", thin=True)
        yield Drawing(
            "rejection-cost",
            f"Cost of rejection: share of images that are lost at eps {experiment.eps:g}, or that a perturbation "
            "within the eps on the axis makes the likelihood reject at 5 % false positives; thin, with crosses: the "
            f"rejected alone; {_ends(cost, 'eps')}; {_ends(alone, 'eps')}",
            _chart([*cost, *alone], "eps within which a rejection counts as an error"),
        )


def _ends(lines: Sequence[plots.Line], unit: str) -> str:
    """First and last value of each line in words."""
    return "; ".join(
        f"{line.label} {100 * line.y[0]:.1f} % at {line.x[0]:g} to {100 * line.y[-1]:.1f} % at {line.x[-1]:g} {unit}"
        for line in lines
    )


def _chart(lines: Sequence[plots.Line], xlabel: str, *, log: bool = False) -> Figure:
    figure, axes = plots.canvas(5.0, 3.4)
    for line in lines:
        style = {"linestyle": plots.DASHES[line.style], "color": plots.COLOURS[line.style], "label": line.label}
        if line.low is None:
            axes.plot(line.x, line.y, linewidth=0.8, marker="x", markersize=4, **style)
        else:
            axes.plot(line.x, line.y, marker="o", markersize=3, **style)
            axes.fill_between(line.x, line.low, line.high, color=plots.COLOURS[line.style], alpha=0.12, linewidth=0)
    if log:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel="share of images", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8, loc="best")
    return figure
