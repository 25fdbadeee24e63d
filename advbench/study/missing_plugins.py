"""Why the plug-ins at hand cannot read a stored model, attack or detector: missing, broken or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from advbench import catalog
from advbench.data.sources import recipe_of
from advbench.detection.base import Detector
from advbench.detection.guard import NO_DETECTOR
from advbench.errors import BrokenPlugin, MissingLibrary
from advbench.runs.run import SUPPLIED
from advbench.study.parsing import attack_choices, loss_choice


def of_model(model: Mapping[str, Any]) -> str | None:
    """What a run's own model lacks: its loss, network or data set; a supplied model brings its own. None: nothing."""
    if SUPPLIED in model or not isinstance(model.get("loss"), Mapping):
        return None
    loss, network, dataset = model["loss"], model.get("network"), str(model.get("dataset"))
    return (
        _lack("loss", str(loss.get("name")), lambda: loss_choice(loss))
        or (network and _lack("network", network, lambda: catalog.load("network", network)))
        or _lack("data set", dataset, lambda: recipe_of(dataset))
    )


def of_attack(row: Mapping[str, Any]) -> str | None:
    """What the attack of a row lacks: its plug-in with these settings, or the detector that it knows."""
    name, settings = row["attack"], row.get("settings", {})
    entry = {"name": name, "eps": row["eps"], **{k: v for k, v in settings.items() if k != "fpr"}}
    entry |= {"detector": NO_DETECTOR} if "detector" in settings else {}
    own = None if ":" in name else _lack("attack", name, lambda: attack_choices(entry))
    return own or of_detector(settings.get("detector", NO_DETECTOR))


def of_detector(name: str) -> str | None:
    """What the scores of a detector lack: its plug-in, which takes no settings."""
    if name == NO_DETECTOR:
        return None
    return _lack("detector", name, lambda: isinstance(catalog.load("detector", name)(), Detector))


def _lack(kind: str, name: str, make: Callable[[], object]) -> str | None:
    """A clause about a plug-in that is not there, or of which `make` makes nothing."""
    if ":" not in name and name not in catalog.names(kind):
        return f"{kind} {name!r} is not here"
    try:
        return None if make() else f"{kind} {name!r} is not what it was"
    except MissingLibrary:
        return None  # which makes such results, and is not needed to read them
    except BrokenPlugin as error:
        return str(error).partition("; ")[0]
    except Exception as error:  # whatever a changed plug-in raises
        return f"{kind} {name!r} is not what it was ({' '.join(str(error).split()).partition('. ')[0]})"
