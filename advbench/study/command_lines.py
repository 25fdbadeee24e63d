"""The command lines that make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from advbench.data.sources import option, recipe_of
from advbench.formatting import as_text
from advbench.recipes import AdversarialTraining, Training
from advbench.runs import SUPPLIED, Row, Run, artifacts
from advbench.settings import flag_of
from advbench.study.options import OLD, Aimed, AttackSettings, LossSettings
from advbench.study.spec import Model

OF_LOSSES = {*(f.name for f in fields(LossSettings)), *OLD}
OF_ATTACKS = {flag_of(f) for group in (AttackSettings, Aimed) for f in fields(group)}


@dataclass(frozen=True)
class Line:
    """Commands of advbench to be given one after the other, as the words of each after `advbench`.

    As text it can be pasted into a shell. advbench itself runs the words and never parses text.
    """

    commands: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, *words: str) -> Line:
        """One command."""
        return cls((words,))

    @classmethod
    def joined(cls, lines: Iterable[Line]) -> Line:
        """The commands of all, in their order."""
        return cls(tuple(words for line in lines for words in line.commands))

    def __str__(self) -> str:
        return " && ".join(shlex.join(["advbench", *words]) for words in self.commands)


def attacking(run: Run) -> list[str]:
    """The command and the options that name this run's model; what it is attacked with comes after them."""
    if SUPPLIED in run.model:
        return ["evaluate", *_supplied_words(run.model)]
    return ["attack", *_trained_words(run.model)]


def _supplied_words(model: Mapping[str, Any]) -> list[str]:
    """As it was named, less the folders that its files lay in; its weights by their file's name."""
    own = model[SUPPLIED]
    words = [*_data_words(model["dataset"], model.get("image_size")), "--model", own["source"]]
    for key in ("weights", "features", "mean", "std"):
        if (value := own.get(key)) is not None:
            words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def _trained_words(record: Mapping[str, Any]) -> list[str]:
    model = Model.from_record(record)
    recipe = recipe_of(model.dataset)
    usual = Training(**recipe.training_of(model.adversarial))
    words = [*_data_words(model.dataset, model.image_size), "--loss", model.loss.name, "--seed", str(model.seed)]
    words += [] if model.network == recipe.network else ["--network", model.network]
    words += [] if model.feature_dim == 100 else ["--feature-dim", str(model.feature_dim)]
    words += setting_words(model.loss.unusual("loss"), OF_LOSSES)
    recorded = {f: getattr(model.training, f.name) for f in fields(Training)}
    unusual = {f: value for f, value in recorded.items() if value != getattr(usual, f.name)}
    words += _options({flag_of(f): value for f, value in unusual.items()})
    return words + _options(regime_options(record.get("adversarial"), recipe.adversarial))


def _data_words(dataset: str, image_size: int | None) -> list[str]:
    """The options that name a model's data set; where a path belongs, all that was not recorded of it is PATH."""
    return ["--dataset", option(dataset), *([] if image_size is None else ["--image-size", str(image_size)])]


def commands(run: Run, attacks: Mapping[str, Row]) -> list[Line]:
    """Commands that make this run again: one for each attack and its settings."""
    words = attacking(run)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in attacks.values():
        groups.setdefault((row["attack"], str(row["settings"]), row["n"]), []).append(row)
    n_test = len(artifacts.read_part(run, "test"))
    lines = []
    for rows in groups.values():
        eps = ",".join(as_text(r["eps"]) for r in sorted(rows, key=lambda r: r["eps"]))
        own = ["--attack", rows[0]["attack"], "--eps", eps, *attack_options(rows[0]["settings"])]
        own += ["--n", str(rows[0]["n"])] if rows[0]["n"] != n_test else []
        lines.append(Line.of(*words, *own))
    return lines


def attack_options(settings: Mapping[str, Any]) -> list[str]:
    """Those with an option of their own by it, the rest by --set."""
    return setting_words(settings, OF_ATTACKS)


def setting_words(settings: Mapping[str, Any], own: Collection[str]) -> list[str]:
    """Settings as options: those of `own` by theirs, the rest by --set."""
    words = _options({k: v for k, v in settings.items() if k in own})
    for key, value in settings.items():
        if key not in own:
            words += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return words


def _options(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def regime_options(record: Mapping[str, Any] | None, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's options, by name, that give a model's record its `adversarial`; none where it has none."""
    if record is None:
        return {}
    expected = AdversarialTraining(**usual).record()
    unusual = {k: v for k, v in record.items() if k != "step" and v != expected[k]}
    if AdversarialTraining(**{**usual, **unusual}).step_size != record["step"]:
        unusual["step"] = record["step"]
    return {"adversarial": True} | {f"adversarial_{k}": v for k, v in unusual.items()}
