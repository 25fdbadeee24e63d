"""Options to the table of a study, as a TOML file would hold it."""

from collections.abc import Mapping
from typing import Any

from advbench import catalog
from advbench.cli.option_groups import Options
from advbench.cli.options import LOSS, REGIME, TRAINING
from advbench.errors import BadSetting
from advbench.settings import from_text, hints_of, parameters, whole

EXAMPLES = {"eps": "0.1,0.2", "alpha": "0.3,1", "lam": "0.1,1", "seed": "0,1", "training": "standard,adversarial"}


class Text(str):
    """A value of --set, still to be read as its setting's type asks."""


def model_table(options: Options) -> dict[str, Any]:
    """The part of a spec that `train` and `attack` state: one loss, one seed."""
    table = _training_table(options, {})
    name = "softmax" if options["loss"] is None else options["loss"]
    table["losses"] = _with_regime([{"name": name, **_loss_settings(options)}], options)
    table["seeds"] = [0 if options["seed"] is None else whole(options["seed"], "seed")]
    return {k: v for k, v in table.items() if v is not None}


def study_table(options: Options, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What `run`'s options say beyond its spec: lists where the spec has lists."""
    from advbench.study.parsing import DEFAULTS

    table = _training_table(options, spec)
    settings = _loss_settings(options)
    names = words(options["loss"], "loss")
    losses: Any = spec.get("losses", DEFAULTS["losses"]) if names is None else names
    if settings:
        losses = _with_settings("loss", losses, settings)
    if (regime := _regime(options)) is not None:
        losses = _with_regime(losses, options)
    table["losses"] = losses if names is not None or settings or regime is not None else None
    seeds = words(options["seed"], "seed")
    table["seeds"] = None if seeds is None else [whole(s, "seed") for s in seeds]
    table["attacks"] = _study_attacks(options, spec)
    table["detectors"] = words(options["detector"], "detector")
    return table | {key: options[key] for key in ("n", "name", "title")}


def _study_attacks(options: Options, spec: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The attacks of a study as options alter them; None where they leave them alone.

    An adaptive attack of theirs or of the built-in study is aimed at the detectors that --detector names, or, where
    it has none yet, at the study's.
    """
    from advbench.evasion import AdaptiveAttack
    from advbench.study.parsing import DEFAULTS

    altered = any(options[key] not in (None, []) for key in ("attack", "eps", "clip", "exact_gradient", "set", "n"))
    ours = options["attack"] is not None or "attacks" not in spec
    if not altered and not (ours and options["detector"] is not None):
        return None
    entries = attack_entries(options, spec.get("attacks", DEFAULTS["attacks"]))
    if options["n"] is not None:
        entries = [{k: v for k, v in entry.items() if k != "n"} for entry in entries]
    named = words(options["detector"], "detector")
    usual = spec.get("detectors", DEFAULTS["detectors"])
    for entry in entries:
        if ours and issubclass(catalog.load("attack", entry["name"]), AdaptiveAttack):
            entry["detector"] = named or entry.get("detector", usual)
    return entries


def _with_settings(kind: str, listed: object, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each loss or attack those of `settings` it has; a setting that none has is refused."""
    from advbench.study.parsing import entries

    found = entries(listed, kind)
    unused = set(settings)
    result = []
    for name, given in found:
        cls = catalog.load(kind, name)
        own = [key for key in settings if key in parameters(cls)]
        hints = hints_of(cls)
        read = {k: from_text(settings[k], hints[k], k) if isinstance(settings[k], Text) else settings[k] for k in own}
        result.append({"name": name, **given, **read})
        unused -= set(own)
    if unused:
        names = ", ".join(name for name, _ in found)
        raise BadSetting(
            f"{', '.join(sorted(unused))} is no setting of {names}; leave it out or name one that has it"
        )
    return result


def _loss_settings(options: Options) -> dict[str, Any]:
    return {k: options[k] for k in LOSS if options[k] is not None}


def _regime(options: Options) -> bool | dict[str, Any] | None:
    """`adversarial` of a loss's entry, as options say it; None where they say nothing."""
    own = {k.removeprefix("adversarial_"): options[k] for k in REGIME if options[k] is not None}
    wanted: bool | None = own.pop("adversarial", None)
    if own and wanted is False:
        raise BadSetting(
            f"--no-adversarial and --adversarial-{next(iter(own))} contradict each other; leave one of them out"
        )
    return own or wanted


def _with_regime(listed: object, options: Options) -> list[dict[str, Any]]:
    """Give each loss of a list what options say of adversarial training; a table keeps what they leave open."""
    from advbench.study.parsing import entries

    regime = _regime(options)
    result = []
    for name, given in entries(listed, "loss"):
        before = given.get("adversarial")
        if isinstance(before, Mapping) and regime is not False and regime is not None:
            given |= {"adversarial": {**before, **({} if regime is True else regime)}}
        elif regime is not None:
            given |= {"adversarial": regime}
        result.append({"name": name, **given})
    return result


def _training_table(options: Options, spec: Mapping[str, Any]) -> dict[str, Any]:
    training = {k: options[k] for k in TRAINING if options[k] is not None}
    if "train_batch_size" in training:
        training["batch_size"] = training.pop("train_batch_size")
    of_spec = spec.get("training", {})
    return {
        **{key: options[key] for key in ("dataset", "image_size", "network")},
        "feature_dim": None if options["feature_dim"] is None else whole(options["feature_dim"], "feature_dim"),
        "training": {**of_spec, **training} if training and isinstance(of_spec, Mapping) else spec.get("training"),
    }


def attack_entries(options: Options, usual: object) -> list[dict[str, Any]]:
    """The attacks that options name (default: `usual`), with the settings that options give."""
    shared = {k: options[k] for k in ("clip", "exact_gradient", "budget") if options.get(k) is not None}
    if options["eps"] is not None:
        shared["eps"] = words(options["eps"], "eps")
    names = words(options["attack"], "attack")
    entries = _with_settings("attack", usual if names is None else names, shared | _set_settings(options))
    return _with_detector(entries, options)


def _set_settings(options: Options) -> dict[str, Any]:
    """What --set KEY=VALUE gives, as text."""
    settings: dict[str, Any] = {}
    for word in options["set"] or ():
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise BadSetting(f"--set {word!r} is no setting; write for example --set steps=40")
        settings[key.strip().replace("-", "_")] = Text(value.strip())
    return settings


def _with_detector(entries: list[dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    """Give the detector-aware attacks the detector and fpr of `attack`'s options; refused where none is."""
    from advbench.evasion import AdaptiveAttack

    keys = [key for key in ("detector", "fpr") if "fpr" in options and options[key] is not None]
    given = {key: words(options[key], key) for key in keys}
    aware = [issubclass(catalog.load("attack", entry["name"]), AdaptiveAttack) for entry in entries]
    if given and not any(aware):
        names = ", ".join(entry["name"] for entry in entries)
        raise BadSetting(f"{names} knows nothing of a detector; leave --{next(iter(given))} out, or take joint")
    return [entry | given if knows else entry for entry, knows in zip(entries, aware, strict=True)]


def words(value: str | None, name: str) -> list[str] | None:
    """A comma-separated option as a list; None stays None, an empty entry is refused."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        example = EXAMPLES.get(name, "a,b")
        raise BadSetting(f"{name} = {value!r} has an empty entry; write for example --{name} {example}")
    return parts
