"""The page: runs and verify rows in, one HTML file out; nothing is computed here that a row already says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from advbench import artifacts, catalog, metrics
from advbench.report import figures
from advbench.runs import Run
from advbench.selection import Found, attack_rows
from advbench.settings import defaults
from advbench.types import Recipe, Training

Row = dict[str, Any]
PAPER_EPS = 0.3


@dataclass(frozen=True)
class Subject:
    """One model of the page: its run, label, attack rows by file name, verify rows, and scores."""

    run: Run
    label: str
    attacks: Mapping[str, Row]
    rows: Sequence[Row]
    scores: pd.DataFrame
    test: artifacts.Part

    def score(self, detector: str, source: str) -> metrics.Array:
        """Scores of a detector on `test` or an attack file, in image order."""
        table = self.scores
        chosen = table[(table.detector == detector) & (table.source == source)]
        values: metrics.Array = chosen.sort_values("index")["score"].to_numpy()
        return values


def render(name: str, found: Sequence[Found], rows: Sequence[Row]) -> str:
    """The page of these runs; `rows` are their verify rows."""
    by_dataset: dict[str, list[Subject]] = {}
    labels = _labels([f.run for f in found])
    for one in found:
        chosen = attack_rows(one.run)
        subject = Subject(
            run=one.run,
            label=labels[one.run.name],
            attacks={a: chosen[a] for a in one.attacks},
            rows=[r for r in rows if r["run"] == one.run.name],
            scores=artifacts.read_scores(one.run),
            test=artifacts.read_part(one.run, "test"),
        )
        by_dataset.setdefault(one.run.model["dataset"], []).append(subject)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("advbench.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "interval": interval, "count": "{:,}".format}
    template = environment.get_template("page.html.j2")
    return template.render(name=name, studies=[_study(dataset, subjects) for dataset, subjects in by_dataset.items()])


def percent(value: float | None, digits: int = 1) -> str:
    """A rate for people; undefined is n/a, never 0."""
    return "n/a" if value is None else f"{100 * value:.{digits}f} %"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """The two ends in per cent, without the sign; undefined is n/a."""
    return "n/a" if low is None or high is None else f"{100 * low:.{digits}f}, {100 * high:.{digits}f}"


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """Loss names, with as much of the settings as keeps two models apart."""
    plain = {r.name: r.model["loss"]["name"] for r in runs}
    if len(set(plain.values())) == len(runs):
        return plain
    full = {}
    for run in runs:
        loss = run.model["loss"]
        usual = defaults(catalog.load("loss", loss["name"]))
        unusual = [f"{k} {v}" for k, v in loss.items() if k != "name" and usual.get(k) != v]
        dim = ["2-D"] if run.model["feature_dim"] == 2 else []
        full[run.name] = ", ".join([loss["name"], *dim, *unusual, f"seed {run.model['seed']}"])
    if len(set(full.values())) == len(runs):
        return full
    return {r.name: r.name for r in runs}


def _study(dataset: str, subjects: Sequence[Subject]) -> dict[str, Any]:
    key = dataset.replace(" ", "-")
    names = sorted({a for s in subjects for a in s.attacks}, key=_attack_order(subjects))
    detectors = list(dict.fromkeys(r["detector"] for s in subjects for r in s.rows))
    return {
        "dataset": dataset,
        "subjects": [
            {
                "label": s.label,
                "name": s.run.name,
                "model": s.run.model,
                "environment": s.run.manifest["environment"],
                "seconds": s.run.steps["train"]["seconds"],
                "n_train": s.run.info("train")["n_train"],
                "validation_error": s.run.info("train")["validation_error"],
                "clean": _clean_error(s.test),
                "commands": commands(s.run, s.attacks),
            }
            for s in subjects
        ],
        "summary": _summary(subjects, names, detectors),
        "errors": _errors(subjects, names),
        "details": [r | {"label": s.label} for s in subjects for r in s.rows],
        "charts": _charts(key, subjects, names, detectors),
        "pictures": [p for s in subjects if (p := _pictures(s))],
    }


def _attack_order(subjects: Sequence[Subject]) -> Any:
    known = {a: r for s in subjects for a, r in s.attacks.items()}
    return lambda name: (known[name]["attack"], known[name]["eps"], name)


def _describe(row: Row) -> str:
    extra = [f"{k} {v}" for k, v in row["settings"].items()]
    return ", ".join([f"{row['attack']} eps {row['eps']:g}", *extra])


def _clean_error(test: artifacts.Part) -> dict[str, Any]:
    wrong = int((test.outputs.predictions != test.labels).sum())
    return {
        "wrong": wrong,
        "n": len(test),
        "rate": wrong / len(test),
        "interval": metrics.wilson(wrong, len(test)),
    }


def _summary(subjects: Sequence[Subject], names: Sequence[str], detectors: Sequence[str]) -> list[dict[str, Any]]:
    """A line per attack and detector, a cell per model: the `all` population, the paper's setting."""
    lines = []
    for name in names:
        for detector in detectors:
            cells, attack = [], None
            for s in subjects:
                attack = s.attacks.get(name, attack)
                row = None if name not in s.attacks else _find(s, name, detector, "all")
                cells.append(row)
            if attack is not None:
                lines.append({"attack": _describe(attack), "n": attack["n"], "detector": detector, "cells": cells})
    return lines


def _find(subject: Subject, name: str, detector: str, population: str) -> Row | None:
    attack = subject.attacks[name]
    for row in subject.rows:
        same = all(row[k] == attack[k] for k in ("attack", "settings", "eps"))
        if same and row["detector"] == detector and row["population"] == population and row["n_clean"] == attack["n"]:
            return row
    return None


def _errors(subjects: Sequence[Subject], names: Sequence[str]) -> list[dict[str, Any]]:
    """A line per attack, a cell per model (Table 6 of the paper)."""
    lines = []
    for name in names:
        cells = []
        for s in subjects:
            row = s.attacks.get(name)
            if row is not None:
                wrong = round(row["error_rate"] * row["n"])
                row = row | {"wrong": wrong, "interval": metrics.wilson(wrong, row["n"])}
            cells.append(row)
        lines.append({"attack": _describe(next(c for c in cells if c)), "cells": cells})
    return lines


def _charts(
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
            "attack": _describe(known[name]),
            "posteriors": [],
            "likelihoods": [],
            "rocs": [],
        }
        for i, s in enumerate(holders):
            about = f"{s.label}, {_describe(known[name])}"
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


def _pictures(s: Subject) -> dict[str, Any] | None:
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
    return {"label": s.label, "attack": _describe(s.attacks[name]), "pairs": pairs}


def commands(run: Run, attacks: Mapping[str, Row]) -> list[str]:
    """Command lines that make this run again: one for each attack and its settings."""
    model = run.model
    words = ["--dataset", model["dataset"], "--loss", model["loss"]["name"], "--seed", str(model["seed"])]
    recipe: Recipe = catalog.load("data set", model["dataset"]).recipe
    usual_loss = defaults(catalog.load("loss", model["loss"]["name"]))
    usual_training = defaults(Training) | recipe.training
    if model["network"] != recipe.network:
        words += ["--network", model["network"]]
    if model["feature_dim"] != 100:
        words += ["--feature-dim", str(model["feature_dim"])]
    words += _options({k: v for k, v in model["loss"].items() if k != "name" and usual_loss.get(k) != v})
    training = {k: v for k, v in model["training"].items() if usual_training[k] != v}
    if "batch_size" in training:
        training["train_batch_size"] = training.pop("batch_size")
    words += _options(training)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in attacks.values():
        groups.setdefault((row["attack"], str(row["settings"]), row["n"]), []).append(row)
    n_test = len(artifacts.read_part(run, "test"))
    lines = []
    for rows in groups.values():
        eps = ",".join(str(r["eps"]) for r in sorted(rows, key=lambda r: r["eps"]))
        own = ["--attack", rows[0]["attack"], "--eps", eps, *_options(rows[0]["settings"])]
        own += ["--n", str(rows[0]["n"])] if rows[0]["n"] != n_test else []
        lines.append(shlex.join(["advbench", "attack", *words, *own]))
    return lines


def _options(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words
