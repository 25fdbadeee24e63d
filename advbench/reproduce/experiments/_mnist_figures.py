"""The paper's figures on MNIST, drawn from evaluated runs."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from matplotlib.patches import Circle

from advbench import metrics
from advbench.report import plots
from advbench.report.likelihood_axis import LikelihoodAxis
from advbench.reproduce.experiment import Drawing
from advbench.reproduce.records import PaperModel, ReproductionRow
from advbench.runs import Run, artifacts
from advbench.victim import head_of

FGSM, TARGETED, LGM = "fgsm-eps0.3", "targeted-fgsm-eps0.3", "lgm1.0"


def drawings(runs: Mapping[PaperModel, Run], labels: Mapping[str, str], shown: Sequence[str]) -> Iterator[Drawing]:
    """Every figure that the evaluated runs at hand can give (seed 0); `shown` are the losses that are attacked."""
    yield _geometry()
    for loss, label in labels.items():
        if (run := runs.get(PaperModel(loss, 2, 0))) is not None:
            yield _embedding(loss, label, run)
    if (run := runs.get(PaperModel(LGM, 2, 0))) is not None:
        yield _heat_map(run)
    held = {loss: runs[model] for loss in shown if (model := PaperModel(loss, 100, 0)) in runs}
    yield from (_posterior(loss, labels[loss], run) for loss, run in held.items())
    yield from (_likelihood("fig4", loss, labels[loss], run, FGSM) for loss, run in held.items())
    if held:
        yield _rocs({labels[loss]: run for loss, run in held.items()})
    if LGM in held:
        yield _likelihood("fig6", LGM, labels[LGM], held[LGM], TARGETED)


def boundary(alpha: float) -> float:
    """On the line between two means, where `(1 + alpha) d_1 = d_2`: the distance from mean 1 over that of the means.

    Half without a margin: the margin asks a feature to lie nearer to its own mean (Wan et al. 2018, Fig. 2).
    """
    return 1 / (1 + math.sqrt(1 + alpha))


def over_recipes(
    key: str, what: str, under: str, found: Mapping[str, Mapping[str, ReproductionRow]], labels: Mapping[str, str]
) -> Iterator[Drawing]:
    """A line a loss, by recipe; bars are 95 % intervals, dotted lines the paper's figures."""
    figure, axes = plots.canvas(4.4, 3.2)
    names, said = list(dict.fromkeys(name for rows in found.values() for name in rows)), []
    for style, (loss, rows) in enumerate(found.items()):
        y = np.array([(row.mean, *(row.over_seeds or (row.low, row.high))) for row in rows.values()], float)
        look = {"color": plots.COLOURS[style], "linestyle": plots.DASHES[style], "label": labels[loss]}
        reach = np.abs(y[:, 1:].T - y[:, 0])
        axes.errorbar([names.index(name) for name in rows], y[:, 0], reach, marker="o", capsize=2, **look)
        for paper in {row.paper for row in rows.values() if row.paper is not None}:
            axes.axhline(paper, linewidth=0.8, color=plots.COLOURS[style], linestyle=":")
        each = ", ".join(f"{name} {100 * value:.1f} %" for name, value in zip(rows, y[:, 0], strict=True))
        said.append(f"{labels[loss]}: {each}")
    if said:
        axes.set(xticks=range(len(names)), xticklabels=names, ylabel=what, ylim=(0, None))
        axes.legend(fontsize=8)
        yield Drawing(key, f"{what}, {under}, by recipe (dotted: the paper). {'; '.join(said)}", figure)


def _embedding(loss: str, name: str, run: Run) -> Drawing:
    part = artifacts.read_part(run, "train")
    x, z = part.outputs.features.numpy(), part.labels.numpy()
    figure, axes = plots.canvas(3.4, 3.2)
    for k in range(10):
        axes.scatter(*x[z == k].T, s=0.5, color=f"C{k}", linewidths=0, rasterized=True)
        axes.annotate(str(k), x[z == k].mean(axis=0), ha="center", va="center", fontweight="bold")
    axes.set(xlabel="feature 1", ylabel="feature 2")
    axes.margins(0.02)
    label = f"Fig. 1: {name}. 2-D features of {len(x):,} training images, a colour a class"
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
        root = np.sqrt(apart**2 * (1 + alpha) - alpha**2 * y**2)
        near = (root - apart) / alpha if alpha else np.full_like(y, apart / 2)
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


def _posterior(loss: str, name: str, run: Run) -> Drawing:
    p_max = np.exp(-artifacts.scores_of(artifacts.by_source(artifacts.read_scores(run)), "max-posterior", FGSM))
    label = f"Fig. 3: {name}. Histogram of p_max of adversarial images (FGSM eps 0.3), median {np.median(p_max):.3f}"
    return Drawing(f"fig3-{loss}", label, plots.histogram(None, p_max, xlabel="p_max"))


def _likelihood(key: str, loss: str, name: str, run: Run, attack: str) -> Drawing:
    axis = LikelihoodAxis.of_run(run, artifacts.by_source(artifacts.read_scores(run)), attack)
    kind = "targeted FGSM" if attack == TARGETED else "FGSM"
    label = (
        f"Fig. {key[-1]}: {name}. Histograms of the {axis.label} under {kind} eps 0.3, "
        f"median clean {np.median(axis.clean):.3f}, adversarial {np.median(axis.attacked):.3f}"
    )
    return Drawing(f"{key}-{loss}", label, plots.histogram(axis.clean, axis.attacked, xlabel=axis.label))


def _rocs(held: Mapping[str, Run]) -> Drawing:
    curves = []
    for name, run in held.items():
        table = artifacts.by_source(artifacts.read_scores(run))
        both = (artifacts.scores_of(table, "likelihood", source) for source in ("test", FGSM))
        curves.append(plots.Curve(name, metrics.roc(*both)))
    eers = ", ".join(f"{c.label} {c.roc.eer:.1%}" for c in curves)
    label = f"Fig. 5: ROC of the likelihood, FGSM eps 0.3; EERs: {eers}"
    return Drawing("fig5-roc", label, plots.roc_chart(curves))
