"""The paper's figures, drawn from evaluated runs: each as a picture with a label that says what it shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from advbench import metrics
from advbench.report import plots
from advbench.report.likelihood_axis import LikelihoodAxis
from advbench.reproduce.cells import HEADLINE, LOSSES, SEEDS, SHOWN
from advbench.reproduce.paper import LABELS
from advbench.reproduce.rows import boundary
from advbench.runs import Run, artifacts
from advbench.victim import head_of

FGSM = f"fgsm-eps{HEADLINE:g}"
TARGETED = f"targeted-fgsm-eps{HEADLINE:g}"


@dataclass(frozen=True)
class Drawing:
    """A figure: `key` names its files, `label` says what it shows, below it and to a screen reader."""

    key: str
    label: str
    figure: Figure


def drawings(runs: Mapping[str, Run]) -> Iterator[Drawing]:
    """Every figure that the evaluated runs at hand can give (seed 0)."""
    yield _geometry()
    for loss in LOSSES:
        if (run := runs.get(f"{loss}-2d-seed{SEEDS[0]}")) is not None:
            yield _embedding(loss, run)
    if (run := runs.get(f"lgm1.0-2d-seed{SEEDS[0]}")) is not None:
        yield _heat_map(run)
    held = {loss: runs[name] for loss in SHOWN if (name := f"{loss}-100d-seed{SEEDS[0]}") in runs}
    for loss, run in held.items():
        yield _posterior(loss, run)
    for loss, run in held.items():
        yield _likelihood(loss, run, FGSM, "fig4")
    if held:
        yield _rocs(held)
    if "lgm1.0" in held:
        yield _likelihood("lgm1.0", held["lgm1.0"], TARGETED, "fig6")


def _embedding(loss: str, run: Run) -> Drawing:
    part = artifacts.read_part(run, "train")
    x, z = part.outputs.features.numpy(), part.labels.numpy()
    figure, axes = plots.canvas(3.4, 3.2)
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for k in range(10):
        axes.scatter(*x[z == k].T, s=0.5, color=colours[k], linewidths=0, rasterized=True)
        axes.annotate(str(k), x[z == k].mean(axis=0), ha="center", va="center", fontweight="bold")
    axes.set(xlabel="feature 1", ylabel="feature 2")
    axes.margins(0.02)
    label = f"Fig. 1: {LABELS[loss]}. 2-D features of {len(x):,} training images, a colour a class"
    return Drawing(f"fig1-{loss}", label, figure)


def _heat_map(run: Run) -> Drawing:
    head = head_of(run, 10).double()
    clean, made = artifacts.read_part(run, "test").outputs, artifacts.read_adversarials(run, FGSM)
    moved = made.outputs.features.double()
    centres = head.mu.detach()  # type: ignore[operator]
    low = torch.minimum(centres.min(dim=0).values, moved.quantile(0.01, dim=0)) - 2
    high = torch.maximum(centres.max(dim=0).values, moved.quantile(0.99, dim=0)) + 2
    ticks = [torch.linspace(float(a), float(b), 240, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    plane = torch.cartesian_prod(*ticks)
    with torch.no_grad():
        each = [head.log_likelihood(plane, torch.full((len(plane),), k)) for k in range(10)]
    likelihood = torch.stack(each).max(dim=0).values.exp().reshape(240, 240)
    figure, axes = plots.canvas(4.6, 3.8)
    edges = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    picture = axes.imshow(likelihood.T.numpy(), extent=edges, origin="lower", cmap="viridis", vmin=0, aspect="auto")
    axes.scatter(*moved[:2000].T.numpy(), s=3, color="#D55E00", linewidths=0, rasterized=True, label="adversarial")
    axes.scatter(*clean.features[:2000].T.numpy(), s=3, color="white", linewidths=0, rasterized=True, label="clean")
    axes.set(xlabel="feature 1", ylabel="feature 2", xlim=edges[:2], ylim=edges[2:])
    axes.legend(loc="upper right", fontsize=8, markerscale=3, facecolor="#888888")
    figure.colorbar(picture, ax=axes, label="likelihood, largest over classes")
    label = (
        "Fig. 1 (f): L-GM, alpha 1. Likelihood over the 2-D feature plane, with the first 2,000 clean and "
        "adversarial test images (FGSM eps 0.3)"
    )
    return Drawing("fig1-heatmap", label, figure)


def _geometry() -> Drawing:
    """Two classes with unit covariance: where the training boundary lies for each margin, exactly."""
    figure, axes = plots.canvas(5.4, 2.6)
    apart = 6.0
    for x, name in ((0.0, "class 1"), (apart, "class 2")):
        for radius in (0.5, 1.0, 1.5):
            axes.add_patch(Circle((x, 0), radius, fill=False, color="#888888", linewidth=0.8))
        axes.plot([x], [0], "k+")
        axes.annotate(name, (x, -2.05), ha="center")
    y = np.linspace(-1.7, 1.7, 200)
    for i, alpha in enumerate((0.0, 0.3, 1.0)):
        # (1 + alpha) (x^2 + y^2) = (x - D)^2 + y^2, solved for the x nearer to mean 1; mirrored for class 2
        near = _boundary_line(y, alpha, apart)
        style = {"color": plots.COLOURS[i], "linestyle": plots.DASHES[i]}
        share = boundary(alpha)
        axes.plot(near, y, label=f"alpha {alpha:g}: at {share:.3f} of the way", **style)
        axes.plot(apart - near, y, **style)
    axes.set(xlim=(-1.9, apart + 1.9), ylim=(-2.3, 2.6), aspect="equal", xlabel="feature 1", ylabel="feature 2")
    axes.legend(loc="upper center", fontsize=8, ncol=3, frameon=False)
    label = (
        "Fig. 2: what the margin asks for. Between the means of two classes a training image of class 1 counts as "
        "right only left of its line; with alpha 0 both lines are the same, with a margin a band lies between them"
    )
    return Drawing("fig2-geometry", label, figure)


def _boundary_line(y: np.ndarray[Any, Any], alpha: float, apart: float) -> np.ndarray[Any, Any]:
    if alpha == 0:
        return np.full_like(y, apart / 2)
    line: np.ndarray[Any, Any] = (np.sqrt(apart**2 * (1 + alpha) - alpha**2 * y**2) - apart) / alpha
    return line


def _posterior(loss: str, run: Run) -> Drawing:
    p_max = np.exp(-artifacts.scores_of(artifacts.read_scores(run), "max-posterior", FGSM))
    about = f"Histogram of p_max of adversarial images (FGSM eps 0.3), median {np.median(p_max):.3f}"
    label = f"Fig. 3: {LABELS[loss]}. {about}"
    return Drawing(f"fig3-{loss}", label, plots.histogram(None, p_max, xlabel="p_max"))


def _likelihood(loss: str, run: Run, attack: str, key: str) -> Drawing:
    axis = LikelihoodAxis.of_run(run, artifacts.read_scores(run), attack)
    kind = "targeted FGSM" if attack == TARGETED else "FGSM"
    label = (
        f"Fig. {key[-1]}: {LABELS[loss]}. Histograms of the {axis.label} under {kind} eps 0.3, "
        f"median clean {np.median(axis.clean):.3f}, adversarial {np.median(axis.attacked):.3f}"
    )
    return Drawing(f"{key}-{loss}", label, plots.histogram(axis.clean, axis.attacked, xlabel=axis.label))


def _rocs(held: Mapping[str, Run]) -> Drawing:
    curves = []
    for loss, run in held.items():
        table = artifacts.read_scores(run)
        both = (artifacts.scores_of(table, "likelihood", source) for source in ("test", FGSM))
        curves.append(plots.Curve(LABELS[loss], metrics.roc(*both)))
    eers = ", ".join(f"{c.label} {c.roc.eer:.1%}" for c in curves)
    label = f"Fig. 5: ROC of the likelihood, FGSM eps 0.3; EERs: {eers}"
    return Drawing("fig5-roc", label, plots.roc_chart(curves))
