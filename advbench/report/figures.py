"""The page's charts, as SVG text: drawn by matplotlib, labelled for screen readers, safe for colour blindness."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from advbench.metrics import Array, Roc

# Okabe and Ito's palette (2008), each with a line style of its own so that colour is never the only sign
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
CLEAN, ATTACKED = COLOURS[0], COLOURS[1]
BINS = 20


@dataclass(frozen=True)
class Curve:
    """A labelled ROC."""

    label: str
    roc: Roc


def histogram(clean: Array | None, attacked: Array, *, xlabel: str, label: str, key: str) -> str:
    """Shares of images over [0, 1] in 20 bins; `clean` left out where None. `key` makes ids unique on a page."""
    figure, axes = _canvas(3.4, 2.5)
    edges = np.linspace(0, 1, BINS + 1)
    if clean is not None:
        axes.hist(clean, edges, weights=np.full(len(clean), 1 / len(clean)), color=CLEAN, alpha=0.55, label="clean")
    axes.hist(
        attacked,
        edges,
        weights=np.full(len(attacked), 1 / len(attacked)),
        histtype="step",
        hatch="////",
        linewidth=1.5,
        color=ATTACKED,
        label="adversarial",
    )
    axes.set(xlabel=xlabel, ylabel="share of images", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper center", frameon=False)
    return _svg(figure, label, key)


def roc_chart(curves: Sequence[Curve], *, label: str, key: str) -> str:
    """True- over false-positive rate; a dot marks each EER, on the falling diagonal."""
    figure, axes = _canvas(4.4, 4.0)
    axes.plot([0, 1], [1, 0], color="#888888", linewidth=0.8)
    for i, curve in enumerate(curves):
        points = _thin(curve.roc)
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        name = f"{curve.label}: EER {curve.roc.eer:.1%}"
        axes.plot(curve.roc.fpr[points], curve.roc.tpr[points], color=colour, linestyle=dash, label=name)
        axes.plot([curve.roc.eer], [1 - curve.roc.eer], "o", color=colour, markersize=4)
    axes.set(
        xlabel="false-positive rate (clean rejected)",
        ylabel="true-positive rate (adversarial rejected)",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    axes.legend(loc="lower right", fontsize=8)
    return _svg(figure, label, key)


def picture(image: NDArray[np.float32]) -> str:
    """An image [c h w] in [0, 1] as the address of an embedded PNG."""
    from matplotlib.image import imsave

    pixels = np.clip(image, 0, 1).transpose(1, 2, 0)
    buffer = io.BytesIO()
    imsave(buffer, pixels if pixels.shape[2] == 3 else pixels[..., 0], format="png", cmap="gray", vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _canvas(width: float, height: float):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _thin(roc: Roc) -> NDArray[np.int64]:
    """Points enough for the eye: one for each half per cent of the way along the curve."""
    way = np.round((roc.fpr + roc.tpr) * 200)
    return np.union1d(np.unique(way, return_index=True)[1], [len(roc.fpr) - 1])


def _svg(figure: Figure, label: str, key: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, tail = text.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(label)}"><title>{html.escape(label)}</title>{tail}'
