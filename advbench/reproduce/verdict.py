"""What the rows about known detectors say, in sentences computed from them."""

import itertools
from collections.abc import Collection, Iterator
from typing import NamedTuple

from advbench.detection import DEFAULT_FPR
from advbench.reproduce.experiment import Experiment, guard
from advbench.reproduce.tables import Rows

AGREEMENT = 0.005  # between the ensemble's and the published AutoAttack's robust accuracy
STANDARD, QUICK = "detector-aware (standard)", "detector-aware (quick)"
# later versions of the ensemble differ where there is no detector
LATER = tuple(f"detector-aware (standard, {version})" for version in ("v2", "v3"))
PUBLISHED = ("autoattack", "autoattack (plus)")
AWARE = f"undetected error, {STANDARD}, {guard()}"


class Known(NamedTuple):
    """A figure that is there, with its interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def verdict(experiment: Experiment, rows: Rows) -> list[str]:
    """What the rows say, a sentence each; what has not run is said to be so."""
    return [s for part in (_headlines, _adversarial_training, _agreement) for s in part(rows, experiment)]


def _known(r: Rows, loss: str, what: str) -> Known | None:
    row = r.get(("security", loss, f"100-D, {what}"))
    if row is None or row.mean is None or row.low is None or row.high is None or row.n is None:
        return None
    return Known(row.mean, row.low, row.high, row.n)


def _strongest(r: Rows, loss: str, what: str, where: str) -> Known | None:
    """At the larger budget and in the later version, where these were run."""
    found = (_known(r, loss, f"{what}, {by}, {where}") for by in (*reversed(LATER), STANDARD, QUICK))
    return next(filter(None, found), None)


def _headlines(r: Rows, asked: Experiment) -> Iterator[str]:
    for loss in asked.guarded:
        name, found = asked.losses[loss].label, _known(r, loss, f"{AWARE}, eps {asked.eps:g}")
        fgsm = _known(r, loss, f"undetected error, FGSM, {guard()}, eps {asked.eps:g}")
        if found is None or fgsm is None:
            yield f"{name}: detector-aware attack not run."
            continue
        yield (
            f"{name}: at eps {asked.eps:g} and {100 * DEFAULT_FPR:g} % false positives FGSM leaves "
            f"{100 * fgsm.mean:.1f} % of {fgsm.n:,} images misclassified and accepted, an attack that knows "
            f"the detector {found}."
        )


def _adversarial_training(r: Rows, asked: Experiment) -> Iterator[str]:
    """Whether a detector on a standard model loses fewer images than an adversarially trained model without one."""
    for eps in asked.epses:
        none, guarded = f"no detector, eps {eps:g}", f"{guard()}, eps {eps:g}"
        trained = {c: row for c in asked.controls if (row := _strongest(r, c, "error", none))}
        held = {loss: row for loss in asked.guarded if (row := _strongest(r, loss, "undetected error", guarded))}
        if not trained or not held:
            yield f"Eps {eps:g}: detectors against adversarial training not run."
            continue
        rival, best = min(trained.items(), key=lambda item: item[1].mean)
        better = [loss for loss, row in held.items() if row.high < best.low]
        worse = [loss for loss, row in held.items() if row.low > best.high]
        missing = {*asked.guarded, *asked.controls} - trained.keys() - held.keys()

        def named(losses: Collection[str]) -> str:
            known = (loss for loss in (*asked.guarded, *asked.controls) if loss in losses)
            return ", ".join(asked.losses[loss].label for loss in known) or "none"

        yield (
            f"Eps {eps:g}: {named([rival])} without detector loses {best}. Detectors on a standard model that lose "
            f"fewer, by 95 % intervals: {named(better)}; more: {named(worse)}; not told apart: "
            f"{named(held.keys() - {*better, *worse})}." + (f" Not run: {named(missing)}." if missing else "")
        )


def _agreement(r: Rows, asked: Experiment) -> Iterator[str]:
    for loss, published in itertools.product(asked.controls, PUBLISHED):
        ours = _strongest(r, loss, "error", f"no detector, eps {asked.eps:g}")
        theirs = _known(r, loss, f"error, {published}, no detector, eps {asked.eps:g}")
        if ours is None or theirs is None:
            yield f"{asked.losses[loss].label}: agreement with the published {published} not run."
            continue
        gap = theirs.mean - ours.mean
        within = "within" if abs(gap) <= AGREEMENT + 1e-9 else "beyond"
        yield (
            f"{asked.losses[loss].label}, eps {asked.eps:g}, no detector, first {ours.n} images: robust accuracy "
            f"{100 * (1 - ours.mean):.1f} % under the ensemble, {100 * (1 - theirs.mean):.1f} % under the "
            f"published {published}, a difference of {100 * gap:+.1f} points, {within} {100 * AGREEMENT:g}."
        )
