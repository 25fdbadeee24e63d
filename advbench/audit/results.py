"""One attack's result as the checks read it, and its figures in words."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from advbench import catalog, metrics
from advbench.detection import NO_DETECTOR, Guard, undetected_errors
from advbench.errors import AdvbenchError
from advbench.formatting import percent
from advbench.metrics import Mask
from advbench.runs import AdaptiveRow, AttackRow
from advbench.settings import defaults
from advbench.study.parsing import attack_choices
from advbench.study.spec import AttackChoice
from advbench.types import Adversarials

ENSEMBLE = "detector-aware"
ITERATIVE = ("pgd", "mim", "apgd")  # white-box and on the classifier alone
NOISE = ("uniform-noise", "gaussian-noise")
NOT_ATTACKS = (*NOISE, "force-rejection")  # controls: they do not try to get an image wrong and past a detector


@dataclass(frozen=True)
class Result:
    """One attack on the first n test images: its row, and what it did to each image, read when asked for.

    name   its file's name in a run; None for one that was never stored
    """

    row: AttackRow
    load: Callable[[], Adversarials]
    name: str | None = None

    @cached_property
    def made(self) -> Adversarials:
        """Images and outputs."""
        return self.load()

    @cached_property
    def wrong(self) -> Mask:
        """Bool [n]: misclassified; for an ensemble, by one of its members."""
        wrong: Mask = (self.made.outputs.predictions != self.made.labels).numpy()
        return wrong if self.made.misclassified is None else wrong | self.made.misclassified.numpy()

    @property
    def attack(self) -> str:
        """Its catalog name."""
        return self.row.attack

    @property
    def n(self) -> int:
        """How many images."""
        return self.row.n

    @property
    def ball(self) -> tuple[str, float]:
        """Norm and eps."""
        return self.row.norm, self.row.eps

    @property
    def detector(self) -> str | None:
        """The detector that an adaptive attack knows; None for another attack, and for one that was told of none."""
        known = self.row.detector if isinstance(self.row, AdaptiveRow) else NO_DETECTOR
        return None if known == NO_DETECTOR else known

    @property
    def adaptive(self) -> AdaptiveRow:
        """The row of an adaptive attack."""
        assert isinstance(self.row, AdaptiveRow)
        return self.row

    def setting(self, key: str) -> Any:
        """A setting, the default where its row does not name it; None where it, or the attack, is not known."""
        given = self.row.settings
        return given[key] if key in given else _usual(self.attack).get(key)

    @property
    def label(self) -> str:
        """Name and unusual settings, for a sentence."""
        return " ".join([self.attack, *(f"{k}={v}" for k, v in self.row.settings.items() if k != "fpr")])

    def lost(self, guard: Guard) -> Mask:
        """Bool [n]: misclassified, and not rejected by the guard."""
        return undetected_errors(self.made.outputs, self.made.labels, guard).numpy()

    def flagged(self, guard: Guard) -> Mask:
        """Bool [n]: rejected by the guard."""
        return guard.rejects(self.made.outputs).numpy()

    @property
    def choice(self) -> AttackChoice:
        """The attack that its row describes; raises BadSetting where that makes none."""
        row = self.row
        entry = {"name": self.attack, "eps": row.eps, "n": self.n, **row.own_settings}
        if not isinstance(row, AdaptiveRow):
            (choice,) = attack_choices(entry)
            return choice
        (choice,) = attack_choices(entry | {"detector": NO_DETECTOR})
        return replace(choice, detector=row.detector, fpr=row.fpr)


@cache
def _usual(attack: str) -> dict[str, Any]:
    try:
        return defaults(catalog.load("attack", attack))
    except AdvbenchError:
        return {}


def count(mask: Mask) -> str:
    """A share with its interval and the number of images it is of."""
    spread = metrics.wilson(int(mask.sum()), len(mask))
    if spread is None:
        return "n/a of 0"
    return f"{percent(float(mask.mean()))} [{100 * spread.low:.1f}, {100 * spread.high:.1f}] of {len(mask)}"


def common(*results: Result) -> int:
    """How many images all of these attacked: the first so many."""
    return min(len(r.wrong) for r in results)


def worst(results: list[Result], n: int) -> Mask:
    """Bool [n]: made wrong by one of these attacks."""
    some: Mask = np.logical_or.reduce([r.wrong[:n] for r in results])
    return some
