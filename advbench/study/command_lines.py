"""The command lines that make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from advbench.data.sources import option, recipe_of
from advbench.formatting import as_text
from advbench.recipes import AdversarialTraining, Training
from advbench.runs import AttackRow, Run, SuppliedRecord, artifacts
from advbench.settings import flag_of
from advbench.study.options import OLD, Aimed, AttackSettings, LossSettings
from advbench.study.spec import Choice

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
    """The command and the options that name this run's model; what it is attacked with comes after them.

    A supplied one as it was named, less the folders that its files lay in; where a path belongs in the name of its
    data, all that was not recorded of it is PATH.
    """
    record = run.model
    words = ["--dataset", option(record.dataset)]
    words += [] if record.image_size is None else ["--image-size", str(record.image_size)]
    if isinstance(record, SuppliedRecord):
        named = record.supplied
        given = {"weights": named.weights, "features": named.features, "mean": named.mean, "std": named.std}
        told = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in given.items() if v is not None}
        return ["evaluate", *words, "--model", named.source, *_options(told)]
    recipe = recipe_of(record.dataset)
    own, usual = Training(**record.training), Training(**recipe.training_of(record.adversarial))
    words += ["--loss", record.loss_name, "--seed", str(record.seed)]
    words += [] if record.network == recipe.network else ["--network", record.network]
    words += [] if record.feature_dim == 100 else ["--feature-dim", str(record.feature_dim)]
    words += _settings(Choice(record.loss_name, record.loss_settings).unusual("loss"), OF_LOSSES)
    asked = {flag_of(f): (getattr(own, f.name), getattr(usual, f.name)) for f in fields(Training)}
    words += _options({flag: value for flag, (value, usually) in asked.items() if value != usually})
    return ["attack", *words, *_options(regime_options(record.adversarial, recipe.adversarial))]


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
    return _settings(settings, OF_ATTACKS)


def _settings(settings: Mapping[str, Any], own: Collection[str]) -> list[str]:
    words = _options({k: v for k, v in settings.items() if k in own})
    for key, value in settings.items():
        words += [] if key in own else ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return words


def _options(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in settings.items():
        flag = key.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def regime_options(record: Mapping[str, Any] | None, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's options, by name, that give a model's record its `adversarial`; none where it has none."""
    if record is None:
        return {}
    own, expected = AdversarialTraining(**record), AdversarialTraining(**usual)
    unusual = {k: v for k, v in record.items() if k != "step" and v != getattr(expected, k)}
    if replace(expected, **unusual).step_size != own.step_size:
        unusual["step"] = own.step_size
    return {"adversarial": True} | {f"adversarial_{k}": v for k, v in unusual.items()}
