"""The page's charts and pictures: which there are, and what each shows and says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from advbench import artifacts, catalog, metrics
from advbench.report import figures
from advbench.report.subject import Subject, describe, percent

PAPER_EPS = 0.3


def charts(
    key: str, subjects: Sequence[Subject], names: Sequence[str], detectors: Sequence[str]
) -> list[dict[str, Any]]:
    """For each attack at the paper's eps (else its largest): p_max and likelihood histograms, ROC curves."""
    known = {a: r for s in subjects for a, r in s.attacks.items()}
    shown: dict[tuple[str, str], str] = {}
    for name in names:
        group = (known[name]["attack"], str(known[name]["settings"]))
        if group not in shown or known[shown[group]]["eps"] != PAPER_EPS:
            shown[group] = name
    sections = []
    for name in shown.values():
        holders = [s for s in subjects if name in s.attacks]
        section: dict[str, Any] = {
            "attack": describe(known[name]),
            "posteriors": [],
            "likelihoods": [],
            "rocs": [],
        }
        for i, s in enumerate(holders):
            about = f"{s.label}, {describe(known[name])}"
            if "max-posterior" in detectors:
                section["posteriors"].append(_posterior(s, name, about, f"{key}-p-{name}-{i}"))
            if "likelihood" in detectors:
                section["likelihoods"].append(_likelihood(s, name, about, f"{key}-l-{name}-{i}"))
        for detector in detectors:
            section["rocs"].append(_roc(holders, name, detector, f"{key}-r-{name}-{detector}"))
        sections.append(section)
    return sections


def _index(subject: Subject, name: str) -> slice:
    return slice(subject.attacks[name]["n"])


def _posterior(s: Subject, name: str, about: str, key: str) -> dict[str, Any]:
    p_max = np.exp(-s.score("max-posterior", name))
    sure = float(np.mean(np.exp(-s.score("max-posterior", "test")) > 0.98))
    label = f"Histogram of the largest posterior of adversarial images: {about}; median {np.median(p_max):.3f}"
    svg = figures.histogram(None, p_max, xlabel="p_max", label=label, key=key)
    return {"title": s.label, "svg": svg, "note": f"clean images with p_max > 0.98: {percent(sure)}"}


def _likelihood(s: Subject, name: str, about: str, key: str) -> dict[str, Any]:
    clean, attacked = -s.score("likelihood", "test")[_index(s, name)], -s.score("likelihood", name)
    both = np.concatenate([clean, attacked])
    if catalog.load("loss", s.run.model["loss"]["name"]).is_density:
        top = max(0.0, float(both.max()))  # a learned covariance can give densities above 1
        clean, attacked = np.exp(clean - top), np.exp(attacked - top)
        xlabel = "likelihood" if top == 0 else "likelihood / its maximum"
        shares = percent((clean < 0.2).mean()), percent((attacked < 0.2).mean())
        note = f"likelihood under 0.2: clean {shares[0]}, adversarial {shares[1]}"
    else:
        top = float(both.max())
        below = int((both <= 0).sum())
        scale = top if top > 0 else 1.0
        clean, attacked = np.clip(clean / scale, 0, 1), np.clip(attacked / scale, 0, 1)
        xlabel = "affinity / its maximum"
        note = f"affinity, not a likelihood; {below} non-positive values stand in the first bin"
    label = (
        f"Histograms of the {xlabel}: {about}; median clean {np.median(clean):.3f}, "
        f"adversarial {np.median(attacked):.3f}"
    )
    svg = figures.histogram(clean, attacked, xlabel=xlabel, label=label, key=key)
    return {"title": s.label, "svg": svg, "note": note}


def _roc(holders: Sequence[Subject], name: str, detector: str, key: str) -> dict[str, Any]:
    curves = [
        figures.Curve(
            s.label,
            metrics.roc(s.score(detector, "test")[_index(s, name)], s.score(detector, name)),
        )
        for s in holders
    ]
    eers = ", ".join(f"{c.label} EER {percent(c.roc.eer)}" for c in curves)
    label = f"ROC curves of the {detector} detector: {eers}"
    return {"title": detector, "svg": figures.roc_chart(curves, label=label, key=key), "note": ""}


def pictures(s: Subject) -> dict[str, Any] | None:
    """The first test images beside their strongest FGSM versions: no choosing."""
    name = max(s.attacks, key=lambda a: (s.attacks[a]["attack"] == "fgsm", s.attacks[a]["eps"]))
    made = artifacts.read_adversarials(s.run, name)
    if s.test.examples is None:
        return None
    m = min(len(s.test.examples), len(made.images))
    before, after = s.test.outputs.predictions[:m], made.outputs.predictions[:m]
    pairs = [
        {
            "clean": figures.picture(s.test.examples[i].numpy()),
            "moved": figures.picture(made.images[i].numpy()),
            "label": int(made.labels[i]),
            "before": int(before[i]),
            "after": int(after[i]),
        }
        for i in range(m)
    ]
    return {"label": s.label, "attack": describe(s.attacks[name]), "pairs": pairs}
