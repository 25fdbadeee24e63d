"""Options of `advbench evaluate` to an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from advbench import catalog
from advbench.cli.context import workspace_of
from advbench.cli.option_groups import Options
from advbench.cli.spec_table import attack_entries, words
from advbench.data.sources import label, slug
from advbench.errors import BadSetting
from advbench.settings import number

if TYPE_CHECKING:
    from advbench.study.evaluation import EvaluatedModel, Evaluation


def evaluation_of(options: Options) -> Evaluation:
    """The evaluation that options ask for; raises BadSetting where they name no model."""
    from advbench.study.evaluation import Evaluation
    from advbench.study.parsing import parse

    subject = subject_of(options)
    spec, workspace = parse(table_of(options)), workspace_of(options)
    usual, usual_fpr = options["attack"] is None, options["fpr"] is None
    return Evaluation(spec, workspace, subject, usual=usual, usual_fpr=usual_fpr)


def subject_of(options: Options) -> EvaluatedModel:
    """The model and how it takes its images."""
    from advbench.study.evaluation import EvaluatedModel, Named

    if options["model"] is None:
        raise BadSetting(
            "no model is named; write for example --model m.py:build, where build() in m.py returns a torch.nn.Module"
        )
    weights = None if options["weights"] is None else Path(options["weights"])
    model = Named(options["model"], weights, options["trust"])
    return EvaluatedModel(model, options["features"], mean=_numbers(options, "mean"), std=_numbers(options, "std"))


def _numbers(options: Options, name: str) -> list[float] | None:
    values = words(options[name], name)
    return None if values is None else [number(value, name) for value in values]


def _page_name(options: Options) -> str:
    """Of the model and the data: `m-build-folder-cats` for m.py:build on folder:cats."""
    model = Path(options["model"]).name.replace(".py:", "-")
    return slug(f"{model[:30]}-{label(options['dataset'] or 'digits')}").lstrip(".")


def table_of(options: Options) -> dict[str, Any]:
    """The spec: --detector names what scores, and what an adaptive attack is aimed at."""
    from advbench.detection import DEFAULT_FPR, NO_DETECTOR
    from advbench.evasion import AdaptiveAttack
    from advbench.study.evaluation import DETECTORS, EPS, usual_attacks

    detectors = words(options["detector"], "detector") or list(DETECTORS)
    alone = {**options, "detector": None, "fpr": None}
    entries = attack_entries(alone, usual_attacks(options["budget"] or "quick"))
    for entry in entries:
        entry.setdefault("eps", EPS)
        if issubclass(catalog.load("attack", entry["name"]), AdaptiveAttack):
            entry |= {"detector": detectors, "fpr": words(options["fpr"], "fpr") or DEFAULT_FPR}
    own = {key: options[key] for key in ("dataset", "image_size", "title", "n") if options[key] is not None}
    name = _page_name(options) if options["name"] is None else options["name"]
    scoring = [d for d in detectors if d != NO_DETECTOR] or list(DETECTORS)
    return {**own, "name": name, "detectors": scoring, "attacks": entries}
