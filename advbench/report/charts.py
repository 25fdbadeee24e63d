"""The page's charts and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from advbench import metrics
from advbench.formatting import percent
from advbench.report import plots
from advbench.report.adaptive import EPS
from advbench.report.likelihood_axis import LOW, SURE, LikelihoodAxis
from advbench.report.model import ReportedModel
from advbench.runs import artifacts
from advbench.runs.manifest import OutputsInfo


def charts(
    key: str, subjects: Sequence[ReportedModel], names: Sequence[str], detectors: Sequence[str]
) -> list[dict[str, Any]]:
    """For each attack at the paper's eps (else its largest): p_max and likelihood histograms, ROC curves."""
    known = {a: r for s in subjects for a, r in s.attacks.items()}
    shown: dict[tuple[str, str], str] = {}
    for name in names:
        group = (known[name].attack, str(known[name].settings))
        if group not in shown or known[shown[group]].eps != EPS:
            shown[group] = name
    sections = []
    for name in shown.values():
        holders = [s for s in subjects if name in s.attacks]
        rocs = [_roc([s for s in holders if s.scored_by(d)], name, d, f"{key}-r-{name}-{d}") for d in detectors]
        attack, numbered = known[name].described, list(enumerate(holders))
        of_posterior = [(s, f"{key}-p-{name}-{i}") for i, s in numbered if s.scored_by("max-posterior")]
        of_likelihood = [(s, f"{key}-l-{name}-{i}") for i, s in numbered if s.scored_by("likelihood")]
        posteriors = [_posterior(s, name, f"{s.label}, {attack}", svg_key) for s, svg_key in of_posterior]
        likelihoods = [_likelihood(s, name, f"{s.label}, {attack}", svg_key) for s, svg_key in of_likelihood]
        sections.append({"attack": attack, "posteriors": posteriors, "likelihoods": likelihoods, "rocs": rocs})
    return sections


def _posterior(s: ReportedModel, name: str, about: str, key: str) -> dict[str, Any]:
    p_max = np.exp(-s.score("max-posterior", name))
    sure = float(np.mean(np.exp(-s.score("max-posterior", "test")) > SURE))
    label = f"Histogram of the largest posterior of adversarial images: {about}; median {np.median(p_max):.3f}"
    svg = plots.to_svg(plots.histogram(None, p_max, xlabel="p_max"), label, key)
    return {"title": s.label, "svg": svg, "note": f"clean images with p_max > {SURE}: {percent(sure)}"}


def _likelihood(s: ReportedModel, name: str, about: str, key: str) -> dict[str, Any]:
    axis = LikelihoodAxis.of_run(s.run, s.scores, name)
    clean, attacked, xlabel = axis.clean, axis.attacked, axis.label
    if axis.is_density:
        shares = percent((clean < LOW).mean()), percent((attacked < LOW).mean())
        note = f"likelihood under {LOW}: clean {shares[0]}, adversarial {shares[1]}"
    else:
        note = f"affinity, not a likelihood; {axis.non_positive} non-positive values stand in the first bin"
    medians = f"median clean {np.median(clean):.3f}, adversarial {np.median(attacked):.3f}"
    label = f"Histograms of the {xlabel}: {about}; {medians}"
    svg = plots.to_svg(plots.histogram(clean, attacked, xlabel=xlabel), label, key)
    return {"title": s.label, "svg": svg, "note": note}


def _roc(holders: Sequence[ReportedModel], name: str, detector: str, key: str) -> dict[str, Any]:
    scored = [(s, s.score(detector, name)) for s in holders]
    curves = [plots.Curve(s.label, metrics.roc(s.score(detector, "test")[: len(a)], a)) for s, a in scored]
    eers = ", ".join(f"{c.label} EER {percent(c.roc.eer)}" for c in curves)
    label = f"ROC curves of the {detector} detector: {eers}"
    return {"title": detector, "svg": plots.to_svg(plots.roc_chart(curves), label, key), "note": ""}


def pictures(s: ReportedModel) -> dict[str, Any] | None:
    """The first test images beside their strongest FGSM versions: no choosing."""
    name = max(s.attacks, key=lambda a: (s.attacks[a].attack == "fgsm", s.attacks[a].eps))
    made = artifacts.read_adversarials(s.run, name)
    if s.test.examples is None:
        return None
    m = min(len(s.test.examples), len(made.images))
    before, after = s.test.outputs.predictions[:m], made.outputs.predictions[:m]
    names = s.run.noted(OutputsInfo).classes or [str(k) for k in range(s.test.outputs.logits.shape[1])]
    pairs = [
        {"clean": plots.picture(s.test.examples[i].numpy()), "moved": plots.picture(made.images[i].numpy())}
        | {"label": names[made.labels[i]], "before": names[before[i]], "after": names[after[i]]}
        for i in range(m)
    ]
    return {"label": s.label, "attack": s.attacks[name].described, "pairs": pairs}
