"""Build the page from runs and verify rows."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import jinja2

from advbench import catalog, metrics
from advbench.audit import Finding, State
from advbench.data.sources import recipe_of
from advbench.errors import printable
from advbench.formatting import as_text, percent
from advbench.recipes import words
from advbench.report import adaptive
from advbench.report.charts import charts, pictures
from advbench.report.control import compare
from advbench.report.model import ReportedModel
from advbench.report.plots import own_style
from advbench.report.security import security
from advbench.runs import AttackRow, Run, SuppliedRecord, VerifyRow, artifacts, as_json
from advbench.runs.manifest import Inspection, OutputsInfo, TrainingInfo
from advbench.settings import defaults
from advbench.study.command_lines import commands, regime_options
from advbench.study.selection import Found, attack_rows
from advbench.study.verify import TABLE_FPRS


@own_style
def render(
    name: str,
    found: Sequence[Found],
    rows: Sequence[VerifyRow],
    audits: Mapping[str, Sequence[Finding]] | None = None,
) -> str:
    """The page of these runs; `rows` are their verify rows, `audits` the findings about each run by its name."""
    by_dataset: dict[str, list[ReportedModel]] = {}
    labels = _labels([f.run for f in found])
    for one in found:
        chosen = attack_rows(one.run)
        subject = ReportedModel(
            run=one.run,
            label=printable(labels[one.run.name]),
            attacks={a: chosen[a] for a in one.attacks},
            rows=[r for r in rows if r.model.run == one.run.name],
            scores=artifacts.by_source(artifacts.read_scores(one.run)),
            test=artifacts.read_part(one.run, "test"),
            known=chosen,
        )
        by_dataset.setdefault(one.run.model.dataset, []).append(subject)
    template = environment().get_template("page.html.j2")
    studies = [_study(dataset, subjects, audits or {}) for dataset, subjects in by_dataset.items()]
    return template.render(name=name, studies=studies, runs=[one.run.name for one in found])


def environment() -> jinja2.Environment:
    """The templates in `report/templates/`, autoescaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("advbench.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"percent": percent, "interval": interval, "count": "{:,}".format, "eps": as_text}
    return made


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """The two ends in per cent, without the sign; undefined is n/a."""
    return "n/a" if low is None or high is None else f"{100 * low:.{digits}f}, {100 * high:.{digits}f}"


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """Loss names, `adversarial` before that of a model trained so, with as much else as keeps two models apart."""
    plain = {r.name: _plain_label(r) for r in runs}
    if len(set(plain.values())) == len(runs):
        return plain
    full = {r.name: _full_label(r) for r in runs}
    return full if len(set(full.values())) == len(runs) else {r.name: r.name for r in runs}


def _plain_label(run: Run) -> str:
    if isinstance(run.model, SuppliedRecord):
        return run.model.supplied.source
    return " ".join([*words(run.model.regime), run.model.loss_name])


def _full_label(run: Run) -> str:
    model = run.model
    if isinstance(model, SuppliedRecord):
        return run.name
    usual, dim = defaults(catalog.load("loss", model.loss_name)), ["2-D"] if model.feature_dim == 2 else []
    unusual = [f"{k} {v}" for k, v in model.loss_settings.items() if usual.get(k) != v]
    attack = regime_options(model.adversarial, recipe_of(model.dataset).adversarial)
    unusual += [f"{k.replace('adversarial_', 'training ')} {v}" for k, v in attack.items() if v is not True]
    return ", ".join([_plain_label(run), *dim, *unusual, f"seed {model.seed}"])


def _study(
    dataset: str, subjects: Sequence[ReportedModel], audits: Mapping[str, Sequence[Finding]]
) -> dict[str, Any]:
    key = dataset.replace(" ", "-")
    found = {a: row for s in subjects for a, row in s.attacks.items()}
    known = dict(sorted(found.items(), key=lambda item: (item[1].attack, item[1].eps, item[0])))
    blind = {a: row for a, row in known.items() if not row.is_adaptive}
    detectors = list(dict.fromkeys(r.detector for s in subjects for r in s.rows))
    return {
        "dataset": dataset,
        "subjects": [
            {
                "label": s.label,
                "run": s.run,
                "model": as_json(s.run.model),
                "trained": s.run.noted(TrainingInfo) if "train" in s.run.steps else None,
                "door": s.run.noted(Inspection).findings,
                "excluded": s.run.noted(OutputsInfo).excluded,
                "classes": s.test.outputs.logits.shape[1],
                "clean": _clean_error(s.test),
                "commands": commands(s.run, s.attacks.values()),
            }
            for s in subjects
        ],
        "aware": adaptive.results(subjects, detectors),
        "control": compare((s.label, row) for s in subjects for row in s.known.values()),
        "security": security(key, subjects),
        "calibrated": adaptive.calibrated(subjects, detectors, TABLE_FPRS),
        "audits": [block(s.label, s.run.name, audits.get(s.run.name)) for s in subjects],
        "summary": [
            {"attack": row.described, "n": row.n, "detector": d, "cells": [_find(s, name, d) for s in subjects]}
            for name, row in blind.items()
            for d in detectors
        ],
        "beside_eers": adaptive.beside_eers(subjects, detectors),
        "errors": [
            {"attack": row.described, "cells": [_error(s.attacks.get(name)) for s in subjects]}
            for name, row in known.items()
        ],
        "details": [(s.label, r) for s in subjects for r in s.rows],
        "charts": charts(key, subjects, list(blind), detectors),
        "pictures": [p for s in subjects if (p := pictures(s))],
    }


def _clean_error(test: artifacts.Part) -> dict[str, Any]:
    wrong = int((test.outputs.predictions != test.labels).sum())
    return {"wrong": wrong, "n": len(test), "rate": wrong / len(test), "interval": metrics.wilson(wrong, len(test))}


def _find(subject: ReportedModel, name: str, detector: str) -> VerifyRow | None:
    """The row of all images: the paper's setting."""
    attack = subject.attacks.get(name)
    return None if attack is None else subject.whole.get((detector, attack.n, attack.identity))


def _error(row: AttackRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    wrong = round(row.error_rate * row.n)
    return {"row": row, "wrong": wrong, "interval": metrics.wilson(wrong, row.n)}


def block(label: str, run: str, findings: Sequence[Finding] | None) -> dict[str, Any]:
    """An audit's block of the page: counts by state, then the findings; None = the audit was not run."""
    counts = {state: sum(f.state == state for f in findings or ()) for state in get_args(State)}
    return {"label": label, "run": run, "findings": findings, "counts": counts}
