"""`advbench list`: plug-ins by name; `--long` adds what each declares of itself."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advbench import catalog
from advbench.cli.output import filled_text
from advbench.errors import BrokenPlugin, MissingLibrary, UnknownName, printable
from advbench.formatting import as_text
from advbench.runs.json_records import ABSENT, Absent
from advbench.settings import defaults, parameters

KINDS = {
    "losses": "loss",
    "attacks": "attack",
    "detectors": "detector",
    "networks": "network",
    "datasets": "data set",
}
RUNS = "runs"
SOURCE = re.compile(r"[A-Z][\w-]+(?: et al\.| and [A-Z][\w-]+)? \d{4}(?:, arXiv:[\d.]+\d)?")


@dataclass(frozen=True, kw_only=True)
class PluginRow:
    """What can be listed; `--long` adds what it declares."""

    name: str
    summary: str
    norm: str | Absent = ABSENT  # of an attack
    knows: str | Absent = ABSENT  # what an attacker knows who makes it
    fitted_on: str | Absent = ABSENT  # of a detector: what of the model
    settings: Mapping[str, Any] | Absent = ABSENT  # with their defaults
    source: str | Absent | None = ABSENT  # where it is published; None: nowhere


def meant(what: str) -> str:
    """The word of KINDS or RUNS that is meant, in the singular too; raises UnknownName."""
    others = {"loss": "losses", "data-sets": "datasets", **{word[:-1]: word for word in (*KINDS, RUNS)}}
    found = others.get(what, what)
    if found not in (*KINDS, RUNS):
        raise UnknownName("list", what, [*KINDS, RUNS])
    return found


def rows_of(what: str, *, long: bool = False) -> list[PluginRow]:
    """A row for each plug-in of that word."""
    kind = KINDS[what]
    declared = _declared if long else lambda kind, name: {}
    return [PluginRow(name=n, summary=catalog.summary(kind, n), **declared(kind, n)) for n in catalog.names(kind)]


def kinds() -> list[PluginRow]:
    """What can be listed, and the names there are."""
    found = [PluginRow(name=word, summary=", ".join(catalog.names(kind))) for word, kind in KINDS.items()]
    return [*found, PluginRow(name=RUNS, summary="what lies under --runs-dir: trained and attacked models")]


def _declared(kind: str, name: str) -> dict[str, Any]:
    """Settings and source (None = unpublished); of an attack norm and knowledge too, of a detector what fits it."""
    try:
        cls = catalog.load(kind, name)
    except (BrokenPlugin, MissingLibrary):
        return {}
    doc = " ".join((inspect.getdoc(cls) or "").split()).replace(" (arXiv", ", arXiv")
    row = {"settings": defaults(cls), "source": "; ".join(dict.fromkeys(SOURCE.findall(doc))) or None}
    if kind == "attack":
        norm = "linf or l2" if "norm" in parameters(cls) else cls().norm
        return {"norm": norm, "knows": _known_to(cls), **row}
    return ({"fitted_on": cls.fitted_on} if kind == "detector" else {}) | row


def _known_to(cls: Any) -> str:
    """What an attacker knows who makes it."""
    from advbench.evasion import AdaptiveAttack, FromSurrogate, Noise

    if issubclass(cls, FromSurrogate):
        return "another model, trained on the same data"
    if issubclass(cls, Noise):
        return "nothing"
    model = "the model and its gradients" if cls.differentiates else "the model's outputs"
    return f"{model}, the detector and its threshold" if issubclass(cls, AdaptiveAttack) else model


def show(rows: Sequence[PluginRow]) -> None:
    """Print long rows for a terminal of 80 columns."""
    for row in rows:
        print(printable(row.name))
        settings = ", ".join(f"{k}={_text(v)}" for k, v in (row.settings or {}).items()) or "none"
        told = {"norm": row.norm, "knows": row.knows, "fitted on": row.fitted_on, "settings": settings}
        told = {} if row.settings is ABSENT else told | {"source": row.source or "-"}
        for text in (row.summary, *(f"{key}: {value}" for key, value in told.items() if value)):
            print(filled_text(text, "  ", "    "))


def _text(value: object) -> str:
    text = as_text(value) if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else text
