"""What the security rows say, in sentences computed from them."""

import itertools
from collections.abc import Iterator

from advbench.reproduce.arranged import Rows
from advbench.reproduce.cells import CONTROLS, EPS, HEADLINE, SHOWN
from advbench.reproduce.paper import LABELS
from advbench.reproduce.probes import FPR
from advbench.reproduce.security_rows import TABLE
from advbench.reproduce.security_tables import ALL, AWARE, GUARD, LATER, PUBLISHED, QUICK, STANDARD
from advbench.runs import Row

AGREEMENT = 0.005  # between the ensemble's and the published AutoAttack's robust accuracy


def verdict(r: Rows) -> list[str]:
    """What the rows say, a sentence each; what has not run is said to be so."""
    return [*_headlines(r), *_adversarial_training(r), *_agreement(r)]


def _figure(row: Row) -> str:
    return f"{100 * row['mean']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _known(r: Rows, loss: str, setting: str) -> Row | None:
    row = r.by_key.get((TABLE, loss, f"100-D, {setting}"))
    return None if row is None or row["mean"] is None else row


def _strongest(r: Rows, loss: str, what: str, where: str) -> Row | None:
    """At the larger budget and in the later version, where these were run."""
    found = (_known(r, loss, f"{what}, {by}, {where}") for by in (*reversed(LATER), STANDARD, QUICK))
    return next(filter(None, found), None)


def _headlines(r: Rows) -> Iterator[str]:
    for loss in SHOWN:
        found = _known(r, loss, AWARE.removeprefix("100-D, "))
        fgsm = _known(r, loss, f"undetected error, FGSM, {GUARD}, eps {HEADLINE:g}")
        if found is None or fgsm is None:
            yield f"{LABELS[loss]}: detector-aware attack not run."
            continue
        yield (
            f"{LABELS[loss]}: at eps {HEADLINE:g} and {100 * FPR:g} % false positives FGSM leaves "
            f"{100 * fgsm['mean']:.1f} % of {fgsm['n']:,} images misclassified and accepted, an attack that knows "
            f"the detector {_figure(found)}."
        )


def _adversarial_training(r: Rows) -> Iterator[str]:
    """Whether a detector on a standard model loses fewer images than an adversarially trained model without one."""
    for eps in EPS:
        trained = {c: row for c in CONTROLS if (row := _strongest(r, c, "error", f"no detector, eps {eps:g}"))}
        guarded = {
            loss: row for loss in SHOWN if (row := _strongest(r, loss, "undetected error", f"{GUARD}, eps {eps:g}"))
        }
        if not trained or not guarded:
            yield f"Eps {eps:g}: detectors against adversarial training not run."
            continue
        rival = min(trained, key=lambda c: float(trained[c]["mean"]))
        better = [LABELS[loss] for loss, row in guarded.items() if row["high"] < trained[rival]["low"]]
        worse = [LABELS[loss] for loss, row in guarded.items() if row["low"] > trained[rival]["high"]]
        open_ = [LABELS[loss] for loss in guarded if LABELS[loss] not in (*better, *worse)]
        said = [
            f"Eps {eps:g}: {LABELS[rival]} without detector loses {_figure(trained[rival])}.",
            f"Detectors on a standard model that lose fewer, by 95 % intervals: {', '.join(better) or 'none'};",
            f"more: {', '.join(worse) or 'none'}; not told apart: {', '.join(open_) or 'none'}.",
        ]
        missing = [LABELS[c] for c in ALL if c not in trained and c not in guarded]
        yield " ".join([*said, *([f"Not run: {', '.join(missing)}."] if missing else [])])


def _agreement(r: Rows) -> Iterator[str]:
    for loss, published in itertools.product(CONTROLS, PUBLISHED):
        ours = _strongest(r, loss, "error", f"no detector, eps {HEADLINE:g}")
        theirs = _known(r, loss, f"error, {published}, no detector, eps {HEADLINE:g}")
        if ours is None or theirs is None:
            yield f"{LABELS[loss]}: agreement with the published {published} not run."
            continue
        gap = theirs["mean"] - ours["mean"]
        within = "within" if abs(gap) <= AGREEMENT + 1e-9 else "beyond"
        yield (
            f"{LABELS[loss]}, eps {HEADLINE:g}, no detector, first {ours['n']} images: robust accuracy "
            f"{100 * (1 - ours['mean']):.1f} % under the ensemble, {100 * (1 - theirs['mean']):.1f} % under the "
            f"published {published}, a difference of {100 * gap:+.1f} points, {within} {100 * AGREEMENT:g}."
        )
