"""Guards fitted for tests, and detectors made for them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from advbench import catalog, metrics
from advbench.detection import FittedDetector, Guard
from advbench.types import Outputs, Splits
from advbench.victim import Victim


def guard_of(victim: Victim, digits: Splits, name: str = "likelihood", fpr: float = 0.05) -> Guard:
    detector = catalog.load("detector", name)()
    fitted = detector.fit(victim.head, victim.outputs(digits.train.load_all()), digits.train.labels)
    clean = victim.outputs(digits.calibration.load_all())
    threshold = metrics.threshold_at(fpr, fitted.score(clean).numpy())
    assert threshold is not None
    return Guard(name, fitted, threshold, detector.differentiable, clean, digits.calibration.labels)


@dataclass(frozen=True)
class Made(FittedDetector):
    """A detector from a function, with a stand-in or none."""

    function: Callable[[Outputs], Tensor]
    surrogate: Callable[[Outputs], Tensor] | None = None

    def score(self, outputs: Outputs) -> Tensor:
        return self.function(outputs)

    def stand_in(self, outputs: Outputs) -> Tensor | None:
        return None if self.surrogate is None else self.surrogate(outputs)


def stepped(outputs: Outputs) -> Tensor:
    """Minus the largest logit in whole steps: no gradient."""
    return -(outputs.logits.detach().amax(dim=1) * 4).floor().double() / 4


def made_guard(victim: Victim, digits: Splits, detector: Made, *, differentiable: bool) -> Guard:
    clean = victim.outputs(digits.calibration.load_all())
    threshold = metrics.threshold_at(0.05, detector.score(clean).numpy())
    assert threshold is not None
    return Guard("made", detector, threshold, differentiable, clean, digits.calibration.labels)
