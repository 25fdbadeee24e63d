"""Parse a table, of TOML or of command-line options, into a checked spec."""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from advbench import catalog
from advbench.data.sources import label, recipe_of, slug, source
from advbench.detection import DEFAULT_FPR, NO_DETECTOR
from advbench.errors import BadSetting, UnknownName
from advbench.evasion import AdaptiveAttack
from advbench.recipes import Recipe, Training, adversarial_training
from advbench.settings import convert, defaults, fill, number
from advbench.study.options import Entry, Table
from advbench.study.spec import AttackChoice, Choice, Spec, TrainedLoss

DETECTORS = ("likelihood", "max-posterior")
USUAL = Table(
    dataset="digits",
    feature_dim=100,
    losses=("softmax", "center", "lgm", *({"name": name, "adversarial": True} for name in ("softmax", "lgm"))),
    seeds=(0,),
    attacks=(
        {"name": "fgsm", "eps": [0.1, 0.2, 0.3]},
        {"name": "targeted-fgsm", "eps": 0.3},
        {"name": "detector-aware", "eps": [0.1, 0.3], "detector": DETECTORS, "budget": "quick", "n": 200},
    ),
    detectors=DETECTORS,
    training={},
)


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a spec file; raises BadSetting where it is missing or not TOML."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        repr(table)  # a message can say everything in it: no 5,000 digits in hexadecimal, no depth of 1,000 tables
        return table
    except OSError as error:
        raise BadSetting(f"spec {path}: {error.strerror}; name an existing TOML file") from error
    except (ValueError, RecursionError) as error:
        raise BadSetting(f"spec {path} is not valid TOML: {error}") from error


def read(table: Mapping[str, object]) -> Table:
    """What a table of TOML or JSON asks for; raises UnknownName or BadSetting."""
    hints = get_type_hints(Table)
    readers: dict[str, Callable[[Any], object]] = {
        "losses": lambda value: tuple(entry(one, "loss") for one in listed(value, "losses")),
        "attacks": lambda value: tuple(entry(one, "attack") for one in listed(value, "attacks")),
        "seeds": lambda value: tuple(convert(one, int, "seed") for one in listed(value, "seeds")),
        "detectors": lambda value: tuple(text(one, "detectors") for one in listed(value, "detectors")),
        "training": training_overrides,
    }
    asked: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise UnknownName("key of a spec", key, hints)
        asked[key] = readers[key](value) if key in readers else convert(value, hints[key], key)
    return Table(**asked)


def parse(table: Table | Mapping[str, object]) -> Spec:
    """A checked spec; what is left out is USUAL's.

    Raises UnknownName for an unknown key, plug-in or choice, BadSetting for a bad value.
    """
    asked = table if isinstance(table, Table) else read(table)
    asked = replace(USUAL, **asked.given(Table))
    dataset, n = asked.dataset or "", count_of_images(asked.n)
    source(dataset, asked.image_size)
    recipe = recipe_of(dataset)
    if asked.network is not None:
        catalog.load("network", asked.network)
    if asked.feature_dim not in (2, 100):
        raise BadSetting(f"feature_dim = {asked.feature_dim!r} is not offered; write 2 or 100")
    for name in asked.detectors or ():
        catalog.load("detector", name)
    return Spec(
        name=folder_name(f"{slug(label(dataset)).lstrip('.')}-study" if asked.name is None else asked.name),
        title=asked.title,
        dataset=dataset,
        image_size=asked.image_size,
        network=asked.network,
        feature_dim=asked.feature_dim,
        losses=unique(trained_loss(entry, recipe) for entry in asked.losses or ()),
        seeds=unique(seed(value) for value in asked.seeds or ()),
        attacks=unique(
            choice if choice.n is not None and (n is None or choice.n < n) else replace(choice, n=n)
            for entry in asked.attacks or ()
            for choice in attack_choices(entry)
        ),
        detectors=unique(asked.detectors),
        training=training_overrides(asked.training),
    )


def loss_choice(entry: object) -> Choice:
    """A loss from a name, or from a table with `name` and settings; its constructor checks the ranges."""
    name, given = named(entry, "loss")
    cls = catalog.load("loss", name)
    settings = fill(cls, given, f"loss {name}")
    cls(2, 2, **settings)
    return Choice(name, settings)


def trained_loss(entry: object, recipe: Recipe) -> TrainedLoss:
    """A loss's entry with `adversarial` beside its settings: true, or a table of what differs from the recipe."""
    name, given = named(entry, "loss")
    adversarial = adversarial_training(given.pop("adversarial", None), recipe.adversarial)
    return TrainedLoss(**vars(loss_choice({"name": name, **given})), adversarial=adversarial)


def attack_choices(entry: object) -> list[AttackChoice]:
    """An attack from a name, or from a table with `name` and settings; one for each eps, detector and fpr of a list.

    `n` is how many test images it is for, where those are fewer than the study's. An adaptive attack's table also has
    `detector`, and `fpr` (default 0.05).
    """
    name, given = named(entry, "attack")
    cls = catalog.load("attack", name)
    given = {"eps": defaults(cls)["eps"], **given}
    n = count_of_images(given.pop("n", None))
    guards: list[tuple[str | None, float | None]] = [(None, None)]
    if issubclass(cls, AdaptiveAttack):
        guards = list(against(name, given.pop("detector", None), given.pop("fpr", DEFAULT_FPR)))
    choices = []
    for eps in listed(given["eps"], "eps"):
        settings = fill(cls, {**given, "eps": number(eps, "eps")}, f"attack {name}")
        cls(**settings)
        choices += [AttackChoice(Choice(name, settings), n, detector, fpr) for detector, fpr in guards]
    return choices


def count_of_images(value: object) -> int | None:
    """How many test images, checked; None = all."""
    n: int | None = None if value is None else convert(value, int, "n")
    if n is not None and n < 1:
        raise BadSetting(f"n = {n} is out of range; it must be at least 1")
    return n


def against(name: str, detectors: object, fprs: object) -> Iterator[tuple[str, float | None]]:
    """The detectors and false-positive rates that an adaptive attack is given, checked: every pair of them."""
    if detectors is None:
        raise BadSetting(
            f"attack {name} needs to know a detector; write for example --detector likelihood --fpr 0.05, or "
            f"--detector {NO_DETECTOR} to attack the classifier alone"
        )
    for detector in listed(detectors, "detector"):
        if text(detector, "detector") == NO_DETECTOR:
            yield NO_DETECTOR, None
            continue
        catalog.load("detector", text(detector, "detector"))
        for fpr in listed(fprs, "fpr"):
            rate = number(fpr, "fpr")
            if not 0 < rate < 1:
                raise BadSetting(
                    f"fpr = {rate:g} is outside (0, 1); write for example 0.05 to reject 5 % of clean images"
                )
            yield text(detector, "detector"), rate


def training_overrides(given: object) -> dict[str, Any]:
    """The training settings that are given, checked; those left out are the data set's."""
    if not isinstance(given, Mapping):
        raise BadSetting(f"training = {given!r} is not a table; write for example [training] epochs = 15")
    filled = fill(Training, given, "training")
    Training(**filled)
    return {key: filled[key] for key in given}


def named(entry: object, kind: str) -> tuple[str, dict[str, Any]]:
    """(name, settings) of an entry such as "lgm" or {name = "lgm", alpha = 1.0}."""
    if isinstance(entry, Mapping):
        if "name" not in entry:
            raise BadSetting(f'{kind} {dict(entry)!r} has no name; write for example {{ name = "..." }}')
        return text(entry["name"], f"{kind} name"), {k: v for k, v in entry.items() if k != "name"}
    return text(entry, kind), {}


def entry(value: object, kind: str) -> Entry:
    """An entry as a table with its name."""
    name, settings = named(value, kind)
    return {"name": name, **settings}


def listed(value: object, name: str) -> list[object]:
    """A value or a list of values as a list; an empty one is refused."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise BadSetting(f"{name} is empty; name at least one")
    return values


def text(value: object, name: str) -> str:
    """Text, or BadSetting."""
    if isinstance(value, str):
        return value
    raise BadSetting(f"{name} = {value!r} is not text; write it in quotes")


def seed(value: object) -> int:
    """A seed: a whole number from 0 to 2^32 - 1."""
    result = convert(value, int, "seed")
    if not 0 <= result < 2**32:
        raise BadSetting(f"seed = {value!r} is out of range; it must be a whole number from 0 to 2^32 - 1")
    return int(result)


def folder_name(value: object) -> str:
    """A study's name, which is also its report's folder: no separators, no leading point, at most 100 characters."""
    name = text(value, "name")
    bad = not name.strip() or len(name.encode()) > 100 or name.startswith(".") or name != name.strip()
    if bad or any(c in '/\\:*?"|' or not c.isprintable() for c in name):
        raise BadSetting(
            f"name = {name[:60]!r} cannot name a folder; use up to 100 letters, digits, spaces and '-', "
            "not starting with a point"
        )
    return name


def unique(values: Any) -> tuple[Any, ...]:
    """In order, each once; records of the same settings are the same, though dicts within have no hash."""
    return tuple({repr(value): value for value in values}.values())
