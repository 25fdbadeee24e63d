"""The tables about attackers who know the detector."""

from collections.abc import Iterator

from advbench.reproduce.arranged import Rows, Table
from advbench.reproduce.cells import CONTROLS, EPS, HEADLINE, SHOWN
from advbench.reproduce.paper import LABELS
from advbench.reproduce.probes import CURVE, FPR, LIKELIHOOD, REJECTION
from advbench.reproduce.security import MARKS
from advbench.reproduce.security_rows import EER, LOST_OR_REJECTED, REJECTED, TABLE, guard

ALL = (*SHOWN, *CONTROLS)
STANDARD, QUICK = "detector-aware (standard)", "detector-aware (quick)"
# later versions of the ensemble differ where there is no detector
LATER = tuple(f"detector-aware (standard, {version})" for version in ("v2", "v3"))
PUBLISHED = ("autoattack", "autoattack (plus)")
GUARD = guard(LIKELIHOOD, FPR)
_AT_HEADLINE = (
    f"error, {STANDARD}, no detector",
    *(f"error, {later}, no detector" for later in LATER),
    *(f"error, {published}, no detector" for published in PUBLISHED),
    f"undetected error, {STANDARD}, {GUARD}",
)
AWARE = f"100-D, undetected error, {STANDARD}, {GUARD}, eps {HEADLINE:g}"


def security_tables(r: Rows) -> Iterator[Table]:
    """The tables about attackers who know the detector."""
    where = f"eps {HEADLINE:g}"
    eers = [*r.line("eer", EER)[1], *r.line(TABLE, EER, tuple(CONTROLS))[1]]
    yield Table(
        "security",
        "What an attacker who knows the detector leaves of it",
        f"100-D features, seed 0, {where}, shares of the first n test images in %. Undetected error: misclassified "
        "and accepted at a threshold fixed on clean calibration images; its interval resamples calibration and test "
        "images. First line: EER under FGSM on all test images, the paper's figure beside it.",
        [LABELS[loss] for loss in ALL],
        [
            (f"EER, {EER.removeprefix('100-D, ')}", eers),
            r.aware(f"undetected error, FGSM, {GUARD}, {where}", ALL),
            r.line(TABLE, AWARE, ALL),
            r.aware(f"undetected error after rounding to 8 bits, {STANDARD}, {GUARD}, {where}", ALL),
            r.aware(f"error, {STANDARD}, {GUARD}, {where}", ALL),
            r.aware("clean error of the attacked images", ALL),
            r.aware(f"clean images rejected, {GUARD}", ALL),
        ],
    )
    yield Table(
        "security-thresholds",
        "Other thresholds, and the largest posterior as detector",
        f"100-D features, {where}, budget quick (200 gradients): lower bounds. Shares of the images in %.",
        [LABELS[loss] for loss in SHOWN],
        [
            r.aware(text, SHOWN)
            for guarded in (guard(LIKELIHOOD, 0.01), guard(LIKELIHOOD, 0.1), guard("max-posterior", FPR))
            for text in (
                f"undetected error, {QUICK}, {guarded}, {where}",
                f"undetected error, FGSM, {guarded}, {where}",
                f"clean images rejected, {guarded}",
            )
        ],
    )
    members = [key[2] for key in r.by_key if key[0] == TABLE and "found by" in key[2]]
    yield Table(
        "security-members",
        "Which attack found it",
        f"100-D features, {where}, budget standard: share of the images in % that each member of the ensemble was "
        "the first to have misclassified and accepted. They work in this order; a lost image leaves at once.",
        [LABELS[loss] for loss in ALL],
        [r.line(TABLE, setting, ALL) for setting in dict.fromkeys(members)],
    )
    yield Table(
        "security-curve",
        "Undetected error over eps",
        "100-D features, budget quick (200 gradients): lower bounds. Share of the images in %; FGSM's beside it.",
        [LABELS[loss] for loss in SHOWN],
        [
            r.aware(text, SHOWN)
            for eps in CURVE
            for text in (
                f"undetected error, {QUICK}, {GUARD}, eps {eps:g}",
                f"undetected error, FGSM, {GUARD}, eps {eps:g}, first 200",
                f"error, {QUICK}, {GUARD}, eps {eps:g}",
            )
        ],
    )
    yield Table(
        "security-spent",
        "Undetected error over gradients and over queries",
        f"100-D features, {where}. Share of the images in % that are lost within so many gradients (white box) or "
        "forward passes (detector-square: the attacker sees logits and score alone).",
        [LABELS[loss] for loss in SHOWN],
        [
            r.aware(f"undetected error within {m} gradients, {STANDARD}, {GUARD}, {where}")
            for m in MARKS
            if 0 < m <= 2000
        ]
        + [r.aware(f"undetected error within {m} queries, detector-square, {GUARD}, {where}") for m in MARKS if m],
    )
    yield Table(
        "security-controls",
        "Adversarial training at equal eps",
        "100-D features. Shares of the images in %. Without detector: the classifier alone, under the same ensemble "
        "and under the AutoAttack that its authors publish. Standard models have budget quick where a line says so.",
        [LABELS[loss] for loss in ALL],
        [
            r.aware(f"{text}, eps {eps:g}", ALL)
            for eps in EPS
            for text in (
                *(_AT_HEADLINE if eps == HEADLINE else (f"error, {QUICK}, no detector",)),
                f"undetected error, {QUICK}, {GUARD}",
            )
        ],
    )
    yield Table(
        "security-noise",
        "Noise and forced rejection",
        f"100-D features, shares of the images in %. Noise of the same {where} is no attack: a detector that flags "
        "it as often as attacks detects noise. Below: the images that a perturbation within a fraction of eps makes "
        "the detector reject are counted as lost too.",
        [LABELS[loss] for loss in SHOWN],
        [
            r.aware(f"images rejected, {noise}, {guard(detector, FPR)}, {where}")
            for noise in ("uniform-noise", "gaussian-noise")
            for detector in (LIKELIHOOD, "max-posterior")
        ]
        + [
            r.aware(f"{what} within eps {eps:g}, {GUARD}")
            for what in (REJECTED, LOST_OR_REJECTED)
            for eps in (0.0, *REJECTION)
        ],
    )
