"""The command lines that make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from advbench.data.sources import option, recipe_of
from advbench.formatting import as_text
from advbench.recipes import AdversarialTraining, Training
from advbench.runs import AttackRow, ModelRecord, Run, SuppliedRecord, TrainedRecord, artifacts
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
    model = run.model
    if isinstance(model, SuppliedRecord):
        return ["evaluate", *_supplied_words(model)]
    return ["attack", *_trained_words(model)]


def _supplied_words(model: SuppliedRecord) -> list[str]:
    """As it was named, less the folders that its files lay in; its weights by their file's name."""
    own = model.supplied
    words = [*_data_words(model), "--model", own.source]
    options = {"weights": own.weights, "features": own.features, "mean": own.mean, "std": own.std}
    for key, value in options.items():
        if value is not None:
            words += [f"--{key}", value if isinstance(value, str) else ",".join(map(str, value))]
    return words


def _trained_words(record: TrainedRecord) -> list[str]:
    model = Model.from_record(record)
    recipe = recipe_of(model.dataset)
    usual = Training(**recipe.training_of(model.adversarial))
    words = [*_data_words(record), "--loss", model.loss.name, "--seed", str(model.seed)]
    words += [] if model.network == recipe.network else ["--network", model.network]
    words += [] if model.feature_dim == 100 else ["--feature-dim", str(model.feature_dim)]
    words += setting_words(model.loss.unusual("loss"), OF_LOSSES)
    recorded = {f: getattr(model.training, f.name) for f in fields(Training)}
    unusual = {f: value for f, value in recorded.items() if value != getattr(usual, f.name)}
    words += _options({flag_of(f): value for f, value in unusual.items()})
    return words + _options(regime_options(record.adversarial, recipe.adversarial))


def _data_words(model: ModelRecord) -> list[str]:
    """The options that name a model's data set; where a path belongs, all that was not recorded of it is PATH."""
    size = [] if model.image_size is None else ["--image-size", str(model.image_size)]
    return ["--dataset", option(model.dataset), *size]


def commands(run: Run, attacks: Iterable[AttackRow]) -> list[Line]:
    """Commands that make this run again: one for each attack and its settings."""
    groups: dict[tuple[str, str, int], list[AttackRow]] = {}
    for row in attacks:
        groups.setdefault((row.attack, str(row.settings), row.n), []).append(row)
    n_test = len(artifacts.read_part(run, "test"))
    return [
        command(run, name, rows[0].settings, sorted(row.eps for row in rows), None if n == n_test else n)
        for (name, _, n), rows in groups.items()
    ]


def command(run: Run, attack: str, settings: Mapping[str, Any], eps: Iterable[float], n: int | None) -> Line:
    """The command of an attack on this run's model at each eps, on the first `n` test images (None: on all)."""
    words = ["--attack", attack, "--eps", ",".join(map(as_text, eps)), *attack_options(settings)]
    return Line.of(*attacking(run), *words, *([] if n is None else ["--n", str(n)]))


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
