"""Options to the table of a study, as a TOML file would hold it."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from advbench import catalog
from advbench.data.sources import label, slug
from advbench.detection import DEFAULT_FPR, NO_DETECTOR
from advbench.errors import BadSetting, UnknownName
from advbench.evasion import AdaptiveAttack
from advbench.settings import from_text, hints_of, parameters
from advbench.study import options as records
from advbench.study.brought import Bringing, EvaluatedModel
from advbench.study.evaluation import DETECTORS, EPS, Leeway, evaluating, usual_attacks
from advbench.study.options import Entry, Table
from advbench.study.parsing import USUAL, named, parse
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from advbench.types import Splits

Settings = dict[str, Any]


class Text(str):
    """A value of --set, still to be read as its setting's type asks."""


def training_table(options: records.Train, attacks: Iterable[Entry] = ()) -> Table:
    """One loss, one seed; no attack on it is made, and the built-in ones want 200 test images."""
    losses: tuple[Entry, ...] = ("softmax" if options.loss is None else options.loss,)
    own = options.given(records.LossSettings) | _set_by(options, losses, attacks)["loss"]
    losses = _hardened(_with_settings("loss", losses, own), options)
    seed = 0 if options.seed is None else options.seed
    asked = options.given(records.Data) | options.given(records.Recipe)
    return Table(**asked, losses=losses, seeds=(seed,), attacks=("fgsm",))


def attacking_table(options: records.Attack) -> Table:
    """One model and the attacks on it."""
    asked = {"detector": options.detectors, "fpr": options.fpr}
    aim = {key: value for key, value in asked.items() if value is not None}
    names = options.attacks or ("fgsm",)
    table = training_table(options, names)
    attacks = _altered(options, names, _set_by(options, table.losses or (), names)["attack"])
    adaptive = [_is_adaptive(entry["name"]) for entry in attacks]
    if aim and not any(adaptive):
        known = ", ".join(entry["name"] for entry in attacks)
        raise BadSetting(f"{known} knows nothing of a detector; leave --{next(iter(aim))} out, or take joint")
    attacks = tuple(entry | aim if knows else entry for entry, knows in zip(attacks, adaptive, strict=True))
    return replace(table, attacks=attacks, n=options.n)


def study_table(options: records.Run, spec: Table) -> Table:
    """The study of a spec, as options alter it: an option that is given replaces the key that it is named after."""
    asked = {**options.given(Table), "training": {**(spec.training or {}), **(options.training or {})}}
    losses = options.losses or spec.losses or USUAL.losses or ()
    attacks = options.attacks or spec.attacks or USUAL.attacks or ()
    own = _set_by(options, losses, attacks)
    if settings := options.given(records.LossSettings) | own["loss"]:
        asked["losses"] = losses = _with_settings("loss", losses, settings)
    if options.hardening is not None:
        asked["losses"] = _hardened(losses, options)
    ours = options.attacks is not None or spec.attacks is None
    if (
        options.given(records.Attacked)
        or options.given(records.AttackSettings)
        or own["attack"]
        or (ours and options.detectors)
    ):
        asked["attacks"] = altered = _altered(options, attacks, own["attack"])
        for entry in altered:
            if options.n is not None:
                entry.pop("n", None)
            if ours and _is_adaptive(entry["name"]):
                # at the detectors that --detector names, or, where it has none yet, at the study's
                usual = entry.get("detector", spec.detectors or USUAL.detectors)
                entry["detector"] = usual if options.detectors is None else options.detectors
    return replace(spec, **asked)


def evaluation_table(options: records.Evaluate) -> Table:
    """--detector names what scores, and what an adaptive attack is aimed at; an attack's table has the last word."""
    detectors = options.detectors or DETECTORS
    attacks = []
    for entry in options.attacks or usual_attacks(options.budget or "quick"):
        name, own = named(entry, "attack")
        aim = {"detector": detectors, "fpr": options.fpr or DEFAULT_FPR} if _is_adaptive(name) else {}
        attacks.append({"name": name, "eps": options.eps or EPS, **aim, **own})
    asked = {"name": _page_name(options), **options.given(Table)}
    own = _set_by(options, attacks=attacks)["attack"]
    asked["attacks"] = _altered(replace(options, eps=None), attacks, own)
    asked["detectors"] = tuple(d for d in detectors if d != NO_DETECTOR) or DETECTORS
    return Table(**asked)


def evaluation_of(
    options: records.Evaluate,
    workspace: Workspace,
    model: Bringing,
    *,
    data: Splits | None = None,
    classes_open: bool = False,
) -> AbstractContextManager[Study]:
    """The study of a supplied model: on `data`, or on the data set that options name."""
    asked = EvaluatedModel(model, options.features, mean=options.mean, std=options.std)
    leeway = Leeway(attacks=options.attacks is None, fpr=options.fpr is None, classes=classes_open)
    return evaluating(parse(evaluation_table(options)), workspace, asked, leeway, data)


def _page_name(options: records.Evaluate) -> str:
    """Of the model and the data: `m-build-folder-cats` for m.py:build on folder:cats."""
    model = Path(options.model or "").name.replace(".py:", "-")
    return slug(f"{model[:30]}-{label(options.dataset or 'digits')}").lstrip(".")


def _altered(options: records.AttackSettings, attacks: Iterable[Entry], own: Settings) -> tuple[Settings, ...]:
    """The attacks with the settings that options give, those of --set too."""
    settings = options.given(records.AttackSettings) | own
    if isinstance(options, records.Aimed) and options.budget is not None:
        settings["budget"] = options.budget
    return _with_settings("attack", attacks, settings)


def _is_adaptive(name: str) -> bool:
    return issubclass(catalog.load("attack", name), AdaptiveAttack)


def _with_settings(kind: str, listed: Iterable[Entry], settings: Settings) -> tuple[Settings, ...]:
    """Give each loss or attack those of `settings` it has; a setting that none has is refused."""
    found = [named(entry, kind) for entry in listed]
    unused = set(settings)
    result = []
    for name, own in found:
        cls = catalog.load(kind, name)
        hints = hints_of(cls)
        keys = [key for key in settings if key in parameters(cls)]
        read = {k: from_text(v, hints[k], k) if isinstance(v := settings[k], Text) else v for k in keys}
        result.append({"name": name, **own, **read})
        unused -= set(keys)
    if unused:
        known = {key for name, _ in found for key in parameters(catalog.load(kind, name))}
        raise UnknownName(f"setting of {', '.join(dict.fromkeys(name for name, _ in found))}", min(unused), known)
    return tuple(result)


def _hardened(listed: Iterable[Entry], options: records.Hardening) -> tuple[Settings, ...]:
    """Give each loss what options say of adversarial training; a table keeps what they leave open."""
    asked = options.hardening
    result = []
    for entry in listed:
        name, own = named(entry, "loss")
        before = own.get("adversarial")
        if isinstance(before, Mapping) and asked is not False and asked is not None:
            own |= {"adversarial": {**before, **(asked if isinstance(asked, Mapping) else {})}}
        elif asked is not None:
            own |= {"adversarial": asked}
        result.append({"name": name, **own})
    return tuple(result)


def _set_by(options: records.Set, losses: Iterable[Entry] = (), attacks: Iterable[Entry] = ()) -> dict[str, Settings]:
    """What --set KEY=VALUE gives the losses and the attacks, as text: all of them that have that setting.

    A setting of both kinds is refused; `loss.KEY` and `attack.KEY` say which is meant.
    """
    plugins = {"loss": losses, "attack": attacks}
    known: dict[str, dict[str, Collection[str]]] = {kind: {} for kind in plugins}
    for kind, listed in plugins.items():
        for name, _ in (named(one, kind) for one in listed):
            known[kind][name] = parameters(catalog.load(kind, name))
    settings: dict[str, Settings] = {kind: {} for kind in plugins}
    for word in options.set:
        key, equals, value = word.partition("=")
        kind, _, name = key.strip().replace("-", "_").rpartition(".")
        if not name or not equals or kind not in ("", *plugins):
            raise BadSetting(f"--set {word!r} is no setting; write for example --set steps=40 or loss.alpha=0.3")
        asked = {k: own for k, own in known.items() if kind in ("", k)}
        having = [k for k, own in asked.items() if any(name in keys for keys in own.values())]
        whose = ", ".join(plugin for own in asked.values() for plugin in own) or f"any {kind} here"
        if not having:
            every = {key for own in asked.values() for keys in own.values() for key in keys}
            raise UnknownName(f"setting of {whose}", name, every)
        if len(having) > 1:
            ways = f"--set loss.{name}=... or --set attack.{name}=..."
            raise BadSetting(f"{name} is a setting of the loss and of an attack among {whose}; write {ways}")
        settings[having[0]][name] = Text(value.strip())
    return settings
