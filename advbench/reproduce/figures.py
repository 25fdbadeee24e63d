"""Figures that a line can have: what a model's record says of its clean images, of an attack, of a detector."""

from collections.abc import Callable

import numpy as np

from advbench import metrics
from advbench.reproduce.experiment import LIKELIHOOD, At, Figure, Measured
from advbench.reproduce.records import Record, Shares, of_attack
from advbench.runs.rows import AttackRow, VerifyRow


def rate(share: float, n: int) -> Measured:
    """A share of n images with Wilson's interval."""
    around = metrics.wilson(round(share * n), n)
    return Measured(share, None if around is None else (around.low, around.high), n)


def mask(digits: str) -> metrics.Mask:
    """Bool [n] from a digit an image."""
    return np.array([one == "1" for one in digits], dtype=bool)


def clean_error(record: Record) -> Measured:
    """Misclassified, of all test images."""
    return rate(record.clean_error, record.n)


def attacked(at: At, of: Callable[[AttackRow], Measured | None]) -> Figure:
    """Of an attack's row."""
    return lambda record: None if (row := of_attack(record.attacks, *at)) is None else of(row)


def error(row: AttackRow) -> Measured:
    """Misclassified, of all n."""
    return rate(row.error_rate, row.n)


def target_reached(row: AttackRow) -> Measured | None:
    """Of the images that were classified rightly before."""
    among = row.n - round(row.clean_error_rate * row.n)
    return None if row.target_rate is None else rate(row.target_rate, among)


def counts(at: At) -> tuple[Figure, Figure]:
    """Shares of images with an all-zero gradient and with a saturated posterior, without intervals."""

    def of(count: int | None, n: int) -> Measured | None:
        return None if count is None else Measured(count / n, None, n)

    return attacked(at, lambda row: of(row.zero_gradients, row.n)), attacked(at, lambda row: of(row.saturated, row.n))


def verified(
    at: At,
    detector: str = LIKELIHOOD,
    of: Callable[[VerifyRow], tuple[float | None, ...]] = lambda row: (row.eer, row.eer_low, row.eer_high),
    population: str = "all",
) -> Figure:
    """Of a detector's row on a population of the attacked images: by default the EER and its interval's ends."""

    def figure(record: Record) -> Measured | None:
        about = (r for r in record.verify if (r.detector, r.population) == (detector, population))
        row = of_attack(about, *at)
        value, low, high = (None, None, None) if row is None else of(row)
        if row is None or value is None:
            return None
        return Measured(value, None if low is None or high is None else (low, high), row.n_attacked)

    return figure


def share(at: At, of: Callable[[Shares], float]) -> Figure:
    """A share of the images, clean or attacked."""
    return lambda record: None if (row := of_attack(record.shares, *at)) is None else rate(of(row), row.n)


def rounded_eer(at: At) -> Figure:
    """The EER of likelihoods, not their logarithms, in float32: those that fall to 0 are ties."""

    def figure(record: Record) -> Measured | None:
        row = of_attack(record.shares, *at)
        return None if row is None or row.rounded_eer is None else Measured(row.rounded_eer, None, row.n)

    return figure
