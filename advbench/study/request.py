"""Options to the table of a study, as a TOML file would hold it."""

from collections.abc import Iterable, Mapping, Sequence
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
from advbench.study.options import Entry, Table
from advbench.study.parsing import USUAL, named

Settings = dict[str, Any]
Asked = tuple[str, Settings]  # a loss or an attack: its name, and what is set

# of an evaluation
EPS = 8 / 255  # unless an attack is given another: the usual one of colour pictures
FEW = 200  # images of the ensemble that knows the detector
DETECTORS = ("max-posterior", "energy", "mahalanobis")


class Text(str):
    """A value of --set, still to be read as its setting's type asks."""


def model_table(options: records.Train) -> Table:
    """One loss, one seed, and of `advbench attack` the attacks on that model.

    Of `advbench train` none is made, and the built-in ones want 200 test images.
    """
    losses: list[Asked] = [("softmax" if options.loss is None else options.loss, {})]
    wanted = (options.attacks or ("fgsm",)) if isinstance(options, records.Attack) else ()
    attacks = [named(one, "attack") for one in wanted]
    of_losses, of_attacks = _set_by(options, losses, attacks)
    asked = options.given(records.Data) | options.given(records.Recipe)
    losses_asked = _losses(losses, options.given(records.LossSettings) | of_losses, options.hardening)
    seeds = (0 if options.seed is None else options.seed,)
    table = Table(**asked, losses=losses_asked, seeds=seeds, attacks=("fgsm",))
    if not isinstance(options, records.Attack):
        return table
    asked = {"detector": options.detectors, "fpr": options.fpr}
    aim = {key: value for key, value in asked.items() if value is not None}
    if aim and not any(_is_adaptive(name) for name, _ in attacks):
        known = ", ".join(name for name, _ in attacks)
        raise BadSetting(f"{known} knows nothing of a detector; leave --{next(iter(aim))} out, or take joint")
    attacks = [(a, own | aim if _is_adaptive(a) else own) for a, own in _attacks(options, attacks, of_attacks)]
    return replace(table, attacks=_entries(attacks), n=options.n)


def study_table(options: records.Run, spec: Table) -> Table:
    """The study of a spec, as options alter it: an option that is given replaces the key that it is named after."""
    losses = [named(one, "loss") for one in options.losses or spec.losses or USUAL.losses or ()]
    attacks = [named(one, "attack") for one in options.attacks or spec.attacks or USUAL.attacks or ()]
    of_losses, of_attacks = _set_by(options, losses, attacks)
    of_losses = options.given(records.LossSettings) | of_losses
    asked = options.given(Table) | {"training": {**(spec.training or {}), **(options.training or {})}}
    table = replace(spec, **asked)
    if of_losses or options.hardening is not None:
        table = replace(table, losses=_losses(losses, of_losses, options.hardening))
    ours = options.attacks is not None or spec.attacks is None
    altered = of_attacks or options.given(records.AttackSettings) or options.given(records.Attacked)
    if not altered and not (ours and options.detectors):
        return table
    attacks = _attacks(options, attacks, of_attacks)
    for name, own in attacks:
        if options.n is not None:
            own.pop("n", None)
        if ours and _is_adaptive(name):  # at --detector's, or, where it has none yet, at the study's
            own.setdefault("detector", spec.detectors or USUAL.detectors)
            own |= {} if options.detectors is None else {"detector": options.detectors}
    return replace(table, attacks=_entries(attacks))


def evaluation_table(options: records.Evaluate) -> Table:
    """--detector names what scores, and what an adaptive attack is aimed at; an attack's table has the last word."""
    detectors, attacks = options.detectors or DETECTORS, []
    # where none is named: a careless attacker and a careful one
    careful = {"name": "detector-aware", "budget": options.budget or "quick", "n": FEW}
    for entry in options.attacks or ("fgsm", careful):
        name, own = named(entry, "attack")
        aim = {"detector": detectors, "fpr": options.fpr or DEFAULT_FPR} if _is_adaptive(name) else {}
        attacks.append((name, {"eps": options.eps or EPS, **aim, **own}))
    attacks = _attacks(replace(options, eps=None), attacks, _set_by(options, [], attacks)[1])
    scoring = tuple(d for d in detectors if d != NO_DETECTOR) or DETECTORS
    model = Path(options.model or "").name.replace(".py:", "-")[:30]
    # of the page: `m-build-folder-cats` for m.py:build on folder:cats
    name = slug(f"{model}-{label(options.dataset or 'digits')}").lstrip(".")
    return replace(Table(**{"name": name, **options.given(Table)}), attacks=_entries(attacks), detectors=scoring)


def _is_adaptive(name: str) -> bool:
    return issubclass(catalog.load("attack", name), AdaptiveAttack)


def _entries(asked: Iterable[Asked]) -> tuple[Entry, ...]:
    return tuple({"name": name, **own} for name, own in asked)


def _attacks(options: records.AttackSettings, attacks: Sequence[Asked], own: Settings) -> list[Asked]:
    """The attacks with the settings that options give, those of --set (`own`) too."""
    budget = options.budget if isinstance(options, records.Aimed) else None
    settings = options.given(records.AttackSettings) | own | ({} if budget is None else {"budget": budget})
    return _with_settings("attack", attacks, settings)


def _losses(losses: Sequence[Asked], own: Settings, hardening: object) -> tuple[Entry, ...]:
    """The losses with their settings, and adversarial training; a table keeps what options leave open of that."""
    asked = _with_settings("loss", losses, own)
    for _, settings in asked:
        before = settings.get("adversarial")
        if isinstance(before, Mapping) and hardening not in (None, False):
            settings |= {"adversarial": {**before, **(hardening if isinstance(hardening, Mapping) else {})}}
        elif hardening is not None:
            settings |= {"adversarial": hardening}
    return _entries(asked)


def _with_settings(kind: str, asked: Sequence[Asked], settings: Settings) -> list[Asked]:
    """Give each loss or attack those of `settings` it has; a setting that none has is refused."""
    result, known = [], set[str]()
    for name, own in asked:
        cls = catalog.load(kind, name)
        hints, keys = hints_of(cls), parameters(cls).keys()
        read = {k: from_text(v, hints[k], k) if isinstance(v, Text) else v for k, v in settings.items() if k in keys}
        result.append((name, {**own, **read}))
        known |= keys
    if unknown := sorted(settings.keys() - known):
        raise UnknownName(f"setting of {', '.join(dict.fromkeys(name for name, _ in asked))}", unknown[0], known)
    return result


def _set_by(options: records.Set, losses: Sequence[Asked], attacks: Sequence[Asked]) -> tuple[Settings, Settings]:
    """What --set KEY=VALUE gives the losses and the attacks, as text: all of them that have that setting.

    A setting of both kinds is refused; `loss.KEY` and `attack.KEY` say which is meant.
    """
    plugins = {"loss": [name for name, _ in losses], "attack": [name for name, _ in attacks]}
    known = {k: {key for one in ones for key in parameters(catalog.load(k, one))} for k, ones in plugins.items()}
    found: dict[str, Settings] = {kind: {} for kind in plugins}
    for word in options.set:
        key, equals, value = word.partition("=")
        kind, _, name = key.strip().replace("-", "_").rpartition(".")
        if not name or not equals or kind not in ("", *plugins):
            raise BadSetting(f"--set {word!r} is no setting; write for example --set steps=40 or loss.alpha=0.3")
        asked = [kind] if kind else list(plugins)
        whose = ", ".join(dict.fromkeys(one for k in asked for one in plugins[k])) or f"any {kind} here"
        having = [k for k in asked if name in known[k]]
        if not having:
            raise UnknownName(f"setting of {whose}", name, set[str]().union(*(known[k] for k in asked)))
        if len(having) > 1:
            ways = f"--set loss.{name}=... or --set attack.{name}=..."
            raise BadSetting(f"{name} is a setting of the loss and of an attack among {whose}; write {ways}")
        found[having[0]][name] = Text(value.strip())
    of_losses, of_attacks = found.values()
    return of_losses, of_attacks
