"""One attack's result as the checks read it, and its figures in words."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from advbench import metrics
from advbench.detection import NO_DETECTOR, Guard, undetected_errors
from advbench.formatting import percent
from advbench.metrics import Mask
from advbench.runs import AdaptiveRow, AttackRow
from advbench.types import Adversarials

ENSEMBLE = "detector-aware"
ITERATIVE = ("pgd", "mim", "apgd")  # white-box and on the classifier alone
NOISE = ("uniform-noise", "gaussian-noise")
NOT_ATTACKS = (*NOISE, "force-rejection")  # controls: they do not try to get an image wrong and past a detector


@dataclass(frozen=True, eq=False)
class Result:
    """One attack on the first n test images: its row, and what it did to each image, read when asked for."""

    row: AttackRow
    load: Callable[[], Adversarials]
    name: str | None = None  # its file's; None for one that was never stored

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
    def detector(self) -> str | None:
        """The detector that an adaptive attack knows; None for another attack, and for one that was told of none."""
        known = self.row.detector if isinstance(self.row, AdaptiveRow) else NO_DETECTOR
        return None if known == NO_DETECTOR else known

    @property
    def adaptive(self) -> AdaptiveRow:
        """The row of an adaptive attack."""
        assert isinstance(self.row, AdaptiveRow)
        return self.row

    @property
    def label(self) -> str:
        """Name and unusual settings, for a sentence."""
        return " ".join([self.row.attack, *(f"{k}={v}" for k, v in self.row.settings.items() if k != "fpr")])

    def lost(self, guard: Guard) -> Mask:
        """Bool [n]: misclassified, and not rejected by the guard."""
        return undetected_errors(self.made.outputs, self.made.labels, guard).numpy()

    def flagged(self, guard: Guard) -> Mask:
        """Bool [n]: rejected by the guard."""
        return guard.rejects(self.made.outputs).numpy()


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
