"""Charts by matplotlib, safe for colour blindness; as SVG text they are labelled for screen readers."""

import base64
import contextlib
import html
import io
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.metrics import Array, Roc

try:
    import matplotlib as mpl
except (OSError, ValueError):  # a matplotlibrc that cannot be read; in this folder lies the library's own
    for part in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[part]
    with contextlib.chdir(Path(str(find_spec("matplotlib").origin)).parent / "mpl-data"):  # type: ignore[union-attr]
        import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), each with a line style of its own so that colour is never the only sign
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
CLEAN, ATTACKED = COLOURS[0], COLOURS[1]
BINS = 20
RASTER_DPI = 150  # of scatters inside a vector figure
own_style = mpl.rc_context(mpl.rcParamsDefault)  # decorates what draws a page, which nobody's matplotlibrc changes


@dataclass(frozen=True)
class Curve:
    """A labelled ROC."""

    label: str
    roc: Roc


@dataclass(frozen=True)
class Line:
    """A labelled curve of rates y [m] over x [m], with the ends of their intervals where they have any."""

    label: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    style: int = 0  # number of its colour and dash, so that a model looks the same in every chart


def histogram(clean: Array | None, attacked: Array, *, xlabel: str) -> Figure:
    """Shares of images over [0, 1] in 20 bins; `clean` left out where None."""
    figure, axes = canvas(3.4, 2.5)
    edges = np.linspace(0, 1, BINS + 1)
    filled = {"color": CLEAN, "alpha": 0.55, "label": "clean"}
    hatched = {"color": ATTACKED, "histtype": "step", "hatch": "////", "linewidth": 1.5, "label": "adversarial"}
    for values, style in ((clean, filled), (attacked, hatched)):
        if values is not None:
            axes.hist(values, edges, weights=np.full(len(values), 1 / len(values)), **style)
    axes.set(xlabel=xlabel, ylabel="share of images", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper center", frameon=False)
    return figure


def roc_chart(curves: Sequence[Curve]) -> Figure:
    """True- over false-positive rate; a dot marks each EER, on the falling diagonal."""
    figure, axes = canvas(4.4, 4.0)
    axes.plot([0, 1], [1, 0], color="#888888", linewidth=0.8)
    for curve, colour, dash in zip(curves, cycle(COLOURS), cycle(DASHES), strict=False):
        # points enough for the eye: one for each half per cent of the way along the curve
        way = np.round((curve.roc.fpr + curve.roc.tpr) * 200)
        points = np.union1d(np.unique(way, return_index=True)[1], [len(way) - 1])
        name = f"{_named(curve.label)}: EER {curve.roc.eer:.1%}"
        axes.plot(curve.roc.fpr[points], curve.roc.tpr[points], color=colour, linestyle=dash, label=name)
        axes.plot([curve.roc.eer], [1 - curve.roc.eer], "o", color=colour, markersize=4)
    axes.set(xlabel="false-positive rate (clean rejected)", ylabel="true-positive rate (adversarial rejected)")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def line_chart(
    lines: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str = "undetected errors",
    width: float | None = None,
    steps: bool = False,
) -> Figure:
    """Rates over x, up to `width`: dots with bars; as `steps` what is reached by x, on a logarithmic axis from 1."""
    figure, axes = canvas(4.4, 3.4)
    end = max(float(line.x[-1]) for line in lines) if width is None else width
    for line in lines:
        colour, dash = COLOURS[line.style % len(COLOURS)], DASHES[line.style % len(DASHES)]
        name = f"{_named(line.label)}: {line.y[-1]:.1%}"
        if steps:
            axes.step(line.x, line.y, where="post", color=colour, linestyle=dash, label=name)
            continue
        if line.low is not None and line.high is not None:
            # percentiles of a bootstrap need not hold the figure itself
            bars = [np.maximum(line.y - line.low, 0), np.maximum(line.high - line.y, 0)]
            axes.errorbar(line.x, line.y, bars, color=colour, linestyle="none", linewidth=1, capsize=2)
        axes.plot(line.x, line.y, color=colour, linestyle=dash, marker="o", markersize=4, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    if steps:
        axes.set_xscale("log")
    axes.set_xlim(1 if steps else -0.02 * end, end if steps else 1.02 * end)
    axes.legend(loc="best", fontsize=8)
    return figure


def picture(image: NDArray[np.float32]) -> str:
    """An image [c h w] in [0, 1] as the address of an embedded PNG."""
    from matplotlib.image import imsave

    pixels = np.clip(image, 0, 1).transpose(1, 2, 0)
    buffer = io.BytesIO()
    imsave(buffer, pixels if pixels.shape[2] == 3 else pixels[..., 0], format="png", cmap="gray", vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def canvas(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of that many inches and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _named(label: str) -> str:
    """A label that has its place in a legend: one that begins with `_` is left out of it."""
    return f" {label}" if label.startswith("_") else label


def to_svg(figure: Figure, label: str, key: str, *, sized: bool = False) -> str:
    """An `<svg>` element that `label` describes; `key` makes its ids unique, `sized` keeps print units."""
    buffer = io.StringIO()
    for name in (text for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()):
        name.set_parse_math(False)  # a file's or a model's name is no formula
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),  # letters that only the browser's fonts have
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9}),
    ):
        dateless = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", metadata=dateless, transparent=True, dpi=RASTER_DPI)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, tail = text.split(">", 1)
    head = head if sized else re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(label)}"><title>{html.escape(label)}</title>{tail}'


def to_pdf(figure: Figure) -> bytes:
    """The figure for a paper; scatters are rasterised inside, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42, "font.size": 9}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None}, dpi=RASTER_DPI)
    return buffer.getvalue()
