"""Security curves: undetected errors over eps, over gradients, over queries, and the cost of rejection."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advbench import metrics
from advbench.attacks.detector_aware import GRADIENTS
from advbench.detection import NO_DETECTOR, calibration, undetected_errors
from advbench.formatting import as_text, percent
from advbench.metrics import Array, Mask
from advbench.report import plots
from advbench.report.adaptive import AWARE, EPS, REJECTION, adaptive, aim, order
from advbench.report.model import ReportedModel
from advbench.runs import AdaptiveRow, artifacts
from advbench.types import Adversarials

SQUARE = "detector-square"
Group = tuple[str, ...]
SHARE = "undetected errors"


def security(key: str, subjects: Sequence[ReportedModel]) -> list[dict[str, Any]]:
    """Sections of charts, each with a title and a sentence; those without data are left out."""
    sections = [
        {
            "title": "Undetected errors over eps",
            "note": "Share of images that are wrong and pass the detector, by how far they may be moved; eps 0 is "
            "the clean images, bars are 95 % intervals. It must not fall as eps grows.",
            "charts": list(_over_eps(key, subjects)),
        },
        {
            "title": "Undetected errors over gradients",
            "note": "Share of images lost within so many backward passes each. A curve that still rises at its end "
            "says that more effort would find more.",
            "charts": list(_over_effort(key, subjects, AWARE, "gradients an image")),
        },
        {
            "title": "Undetected errors over queries",
            "note": "The same for an attack that only asks for the model's outputs and the score: forward passes.",
            "charts": list(_over_effort(key, subjects, SQUARE, "queries an image")),
        },
        {
            "title": "The cost of rejection",
            "note": "Error when rejecting a perturbation of at most alpha times eps counts as an error as well "
            "(Chen et al. 2023, arXiv:2305.01139). At 0 rejected clean images are counted; a steep curve is a "
            "detector that small perturbations set off. Bars are 95 % intervals (Wilson).",
            "charts": list(_rejection_cost(key, subjects)),
        },
    ]
    return [section for section in sections if all(section.values())]


def _groups(subjects: Sequence[ReportedModel], attack: str) -> dict[Group, dict[int, list[str]]]:
    """Files of an attack with equal settings (and n) but eps: by place of the subject, in order of eps."""
    groups: dict[Group, dict[int, list[str]]] = {}
    for i, s in enumerate(subjects):
        own = [(name, row) for name, row in adaptive(s.attacks).items() if row.attack == attack]
        for name, row in sorted(own, key=lambda item: order(*item)):
            groups.setdefault((str(row.settings), str(row.n)), {}).setdefault(i, []).append(name)
    return groups


def _over_eps(key: str, subjects: Sequence[ReportedModel]) -> Iterator[dict[str, Any]]:
    for number, holders in enumerate(_groups(subjects, AWARE).values()):
        lines = []
        for i, names in holders.items():
            attacks = adaptive(subjects[i].attacks)
            rows = [attacks[name] for name in names]
            if len(rows) > 1:
                clean = rows[0].clean_lost
                y = np.array([clean, *(r.undetected_error_rate for r in rows)])
                low = np.array([clean, *(r.undetected_error_low for r in rows)])
                high = np.array([clean, *(r.undetected_error_high for r in rows)])
                x = np.array([0, *(r.eps for r in rows)])
                lines.append(plots.Line(subjects[i].label, x, y, low, high, i))
        if lines:
            about = _about(rows[0])
            label = f"{SHARE} over eps, {about}: {'; '.join(map(_said, lines))}"
            drawn = plots.line_chart(lines, xlabel="eps (L-inf)" if rows[0].norm == "linf" else "eps (L2)")
            yield {"title": about, "svg": plots.to_svg(drawn, label, f"{key}-s-{number}"), "note": ""}


def _over_effort(key: str, subjects: Sequence[ReportedModel], attack: str, xlabel: str) -> Iterator[dict[str, Any]]:
    for number, holders in enumerate(_groups(subjects, attack).values()):
        eps = _standing_for({subjects[i].attacks[a].eps for i, names in holders.items() for a in names})
        lines, about = [], ""
        for i, names in holders.items():
            attacks = adaptive(subjects[i].attacks)
            for name, row in ((a, attacks[a]) for a in names if attacks[a].eps == eps):
                about = f"eps {as_text(eps)}, {_about(row)}"
                made = artifacts.read_adversarials(subjects[i].run, name)
                if made.first_success is not None:
                    line = within(subjects[i].label, effort(made), row.n, most(row))
                    lines.append(replace(line, style=i))
        if lines:
            label = f"{SHARE} over {xlabel}, {about}: {'; '.join(map(_said, lines))}"
            drawn = plots.line_chart(lines, xlabel=xlabel, steps=True)
            svg = plots.to_svg(drawn, label, f"{key}-e-{attack}-{number}")
            yield {"title": about, "svg": svg, "note": ""}


def effort(made: Adversarials) -> Array:
    """What each lost image had cost when it was lost, sorted; images never lost are left out."""
    assert made.first_success is not None
    cost = made.first_success
    found: Array = np.sort(cost[cost >= 0].numpy()).astype(np.float64)
    return found


def within(label: str, cost: Array, n: int, most: int) -> plots.Line:
    """Share of n images lost at a cost of at most x, from x = 1 to `most`; what is lost at no cost counts at 1."""
    x = np.unique(np.clip(cost, 1, None))
    y = np.searchsorted(cost, x, side="right") / n
    start = float((cost < 1).sum()) / n
    if not len(x) or x[0] > 1:
        x, y = np.concatenate([[1.0], x]), np.concatenate([[start], y])
    return plots.Line(label, np.append(x, max(most, x[-1])), np.append(y, y[-1]))


def most(row: AdaptiveRow) -> int:
    """What the attack of a row may spend on an image: gradients, or a random search's queries."""
    return GRADIENTS[row.setting("budget")] if row.attack == AWARE else int(row.setting("queries"))


def _rejection_cost(key: str, subjects: Sequence[ReportedModel]) -> Iterator[dict[str, Any]]:
    aims = dict.fromkeys(
        (r.detector, r.fpr) for s in subjects for r in adaptive(s.attacks).values() if r.attack == REJECTION
    )
    for number, (detector, fpr) in enumerate(aims):
        lines, notes, about, own = [], [], "", (detector, fpr, "linf")
        for i, s in enumerate(subjects):
            aimed = {a: r for a, r in adaptive(s.attacks).items() if (r.detector, r.fpr, r.norm) == own}
            ensemble = {a: r for a, r in aimed.items() if r.attack == AWARE}
            if detector == NO_DETECTOR or not ensemble:
                continue
            eps = _standing_for({r.eps for r in ensemble.values()})
            name = max((a for a in ensemble if ensemble[a].eps == eps), key=lambda a: ensemble[a].n)
            radii = {r.eps: a for a, r in aimed.items() if r.attack == REJECTION and r.eps <= eps}
            if radii:
                curve = _costs(s, name, ensemble[name], radii)
                about = f"eps {as_text(eps)}, {aim(ensemble[name])}, n {curve[0].n:,}"
                ends = [point.interval for point in curve]
                x, y = np.array([point.alpha for point in curve]), np.array([point.rate for point in curve])
                low, high = np.array([end.low for end in ends]), np.array([end.high for end in ends])
                lines.append(plots.Line(s.label, x, y, low, high, i))
                shares = ", ".join(f"{percent(p.rejected / p.n)} at {p.alpha:.2g}" for p in curve)
                notes.append(f"{s.label} {shares}")
        if lines:
            label = f"Error with rejections up to alpha x eps counted, {about}: {'; '.join(map(_said, lines))}"
            drawn = plots.line_chart(lines, xlabel="alpha", ylabel="error with rejections", width=1)
            svg = plots.to_svg(drawn, label, f"{key}-c-{number}")
            yield {"title": about, "svg": svg, "note": f"Rejected within alpha eps: {'; '.join(notes)}."}


@dataclass(frozen=True)
class Cost:
    """Of n images, `errors` are wrong and undetected within eps, or rejected within alpha * eps."""

    alpha: float
    errors: int
    rejected: int  # of all n, within alpha * eps
    n: int

    @property
    def rate(self) -> float:
        """The share of errors."""
        return self.errors / self.n

    @property
    def interval(self) -> metrics.Interval:
        """Wilson's, with the threshold taken as it is."""
        found = metrics.wilson(self.errors, self.n)
        assert found is not None
        return found


def costs(lost: Mask, rejected: Mapping[float, Mask], eps: float) -> list[Cost]:
    """The curve over alpha, a point for each radius (Chen et al. 2023, arXiv:2305.01139).

    lost [n]: misclassified and undetected within eps. rejected: by radius of at most eps, whether an image [n] was
    made to be rejected within it; radius 0 = the clean images. An image rejected within a radius is within every
    larger one, so that the curve never falls. Both are found by attacks: the curve is a lower bound.
    """
    ever = np.zeros_like(lost)
    curve = []
    for radius in sorted(rejected):
        ever = ever | rejected[radius]
        curve.append(Cost(radius / eps, int((lost | ever).sum()), int(ever.sum()), len(lost)))
    return curve


def _costs(s: ReportedModel, name: str, row: AdaptiveRow, radii: Mapping[float, str]) -> list[Cost]:
    guard = calibration.guard(s.run, row.detector, row.fpr)
    n = min(s.attacks[a].n for a in (name, *radii.values()))
    worst = artifacts.read_adversarials(s.run, name)
    lost: Mask = undetected_errors(worst.outputs, worst.labels, guard).numpy()
    rejected = {0.0: guard.rejects(s.test.outputs.take(slice(n))).numpy()}
    for radius, file in radii.items():
        made = artifacts.read_adversarials(s.run, file)
        rejected[radius] = guard.rejects(made.outputs).numpy()[:n]
    return costs(lost[:n], rejected, row.eps)


def _standing_for(eps: Collection[float]) -> float:
    """The paper's where it is among them, else the largest."""
    return EPS if EPS in eps else max(eps)


def _about(row: AdaptiveRow) -> str:
    return ", ".join([aim(row), *(f"{k} {v}" for k, v in row.own_settings.items()), f"n {row.n:,}"])


def _said(line: plots.Line) -> str:
    """A line's points in words, at most eight of them, for those who do not see the chart."""
    chosen = np.unique(np.linspace(0, len(line.x) - 1, 8).round().astype(int))
    return f"{line.label} " + ", ".join(f"{line.x[i]:g}: {percent(float(line.y[i]))}" for i in chosen)
