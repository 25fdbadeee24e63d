"""How a model is trained: on clean images, or on attacked ones as a loss's entry in a spec says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advbench.errors import BadSetting
from advbench.recipes import AdversarialTraining
from advbench.settings import fill

STANDARD, ADVERSARIAL = "standard", "adversarial"
REGIMES = (STANDARD, ADVERSARIAL)


def adversarial_training(given: object, usual: Mapping[str, Any]) -> AdversarialTraining | None:
    """From `true`, `false`, or a table of settings; those left out are `usual`, the data set's own.

    Raises BadSetting or UnknownName.
    """
    if given is False or given is None:
        return None
    if given is not True and not isinstance(given, Mapping):
        raise BadSetting(
            f"adversarial = {given!r} is of the wrong type; it must be true, false, or a table such as "
            "{ eps = 0.3, steps = 1 }"
        )
    table = {} if given is True else given
    return AdversarialTraining(**fill(AdversarialTraining, {**usual, **table}, "adversarial training"))


def regime_options(record: Mapping[str, Any] | None, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's options, by name, that give a model's record its `adversarial`; none where it has none."""
    if record is None:
        return {}
    expected = AdversarialTraining(**usual).record()
    unusual = {k: v for k, v in record.items() if k != "step" and v != expected[k]}
    if AdversarialTraining(**{**usual, **unusual}).step_size != record["step"]:
        unusual["step"] = record["step"]
    return {"adversarial": True} | {f"adversarial_{k}": v for k, v in unusual.items()}


def words(regime: str) -> list[str]:
    """What tells an adversarially trained model from a standard one in a label."""
    return [] if regime == STANDARD else [regime]
