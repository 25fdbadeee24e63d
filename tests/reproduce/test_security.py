"""The reproduction's attacks that know a detector: probes, kept answers, rows, curves and the verdict."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench.reproduce import security
from advbench.reproduce.charts import security_drawings
from advbench.reproduce.experiment import MARKS, Probe
from advbench.reproduce.experiments.mnist import CONTROLS, HEADLINE, MNIST, SHOWN
from advbench.reproduce.records import Answer, Aware, Curve, PaperModel, ReproductionRow, SecurityRecord, read
from advbench.reproduce.rows import REJECTED, lost_or_rejected, rows
from advbench.reproduce.tables import by_key
from advbench.reproduce.verdict import verdict
from advbench.runs.rows import AdaptiveRow
from advbench.types import Adversarials, Outputs

Share = Callable[[Probe], float]
LOST_OR_REJECTED = lost_or_rejected(HEADLINE)
EXPERIMENT = MNIST()
COMMITTED = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "security" / "lgm1.0-100d-seed0.json"
RECORD = read(SecurityRecord, COMMITTED)


def answer(probe: Probe, lost: float) -> Answer:
    """An answer in which the first images are lost; FGSM loses none, and a tenth of the clean ones is rejected."""

    def digits(share: float) -> str:
        return "1" * round(share * probe.asked.n) + "0" * (probe.asked.n - round(share * probe.asked.n))

    ends = {"undetected_error_low": max(0.0, lost - 0.05), "undetected_error_high": min(1.0, lost + 0.05)}
    own: dict[str, Any] = dict.fromkeys(("error_rate", "undetected_error_rate"), lost) | ends
    own |= {"clean_error_rate": 0.0, "fgsm_undetected_error_rate": 0.0, "clean_rejected": 0.1, "n": probe.asked.n}
    assert isinstance(RECORD.rows[0].row, AdaptiveRow)
    row = replace(RECORD.rows[0].row, members={"clean": 0.0, "apgd-ce": lost}, **own)
    found = replace(RECORD.rows[0], part=probe.part, asked=probe.asked, row=row, clean_rejected=digits(0.1))
    curve = Curve(MARKS, tuple(lost * mark / MARKS[-1] for mark in MARKS))
    rounded = {"undetected_error_rate": lost / 2}
    return replace(found, lost=digits(lost), rejected=digits(lost)[::-1], found=curve, eight_bit=rounded)


def made(lost: Share, *losses: str) -> list[SecurityRecord]:
    """Security records in which every probe of these losses is answered."""
    found: dict[PaperModel, list[Answer]] = {}
    for probe in EXPERIMENT.probes:
        if probe.model.loss in losses:
            found.setdefault(probe.model, []).append(answer(probe, lost(probe)))
    return [replace(RECORD, cell=model, rows=tuple(answers)) for model, answers in found.items()]


def rows_of(answered: list[SecurityRecord]) -> list[ReproductionRow]:
    return [row for row in rows(EXPERIMENT, [], answered) if isinstance(row.more, Aware)]


def find(found: list[ReproductionRow], loss: str, setting: str) -> ReproductionRow:
    (row,) = [r for r in found if (r.loss, r.setting) == (loss, f"100-D, {setting}")]
    return row


def test_the_plan_asks_for_the_headline_of_lgm_first_and_nothing_twice() -> None:
    probes = EXPERIMENT.probes
    assert (probes[0].model.loss, probes[0].asked.n, probes[0].asked.settings["budget"]) == (
        "lgm1.0",
        1000,
        "standard",
    )
    assert len({repr((p.model, p.asked)) for p in probes}) == len(probes)
    assert {p.model.loss for p in probes} == {*SHOWN, *CONTROLS}


def test_every_probe_of_a_standard_model_is_an_attack_that_a_spec_accepts() -> None:
    for probe in EXPERIMENT.probes:
        if probe.model.loss not in CONTROLS:
            (choice,) = EXPERIMENT.spec(probe.model, [probe.entry]).attacks
            assert (choice.n, choice.attack.eps) == (probe.asked.n, probe.asked.eps)
            assert choice.detector == (None if probe.blind else probe.asked.detector)


def test_a_row_says_what_its_answer_says() -> None:
    found = rows_of(made(lambda p: 0.75, "lgm1.0"))
    where = "likelihood at 5 % FPR, eps 0.3"
    row = find(found, "lgm1.0", f"undetected error, detector-aware (standard), {where}")
    assert (row.mean, row.low, row.high, row.n) == (0.75, 0.7, 0.8, 1000)
    assert find(found, "lgm1.0", f"undetected error, FGSM, {where}").mean == 0.0
    rounded = f"undetected error after rounding to 8 bits, detector-aware (standard), {where}"
    assert find(found, "lgm1.0", rounded).mean == 0.375
    within = find(found, "lgm1.0", f"undetected error within 1000 gradients, detector-aware (standard), {where}")
    assert within.mean == pytest.approx(0.75 * 1000 / 5000)
    assert find(found, "softmax", f"undetected error, detector-aware (standard), {where}").mean is None


def test_the_cost_of_rejection_counts_an_image_that_a_smaller_perturbation_gets_rejected() -> None:
    # of 200 images 20 are rejected as they are; 50 are lost; a rejection is found for the last 40, 80, ... of them
    share = {0.075: 0.2, 0.15: 0.4, 0.225: 0.1, 0.3: 0.6}
    lost = made(lambda p: share[p.asked.eps] if p.part == "rejection" else 0.25, "softmax")

    def cost(answered: list[SecurityRecord], what: str) -> list[float | None]:
        found = [r for r in rows_of(answered) if r.loss == "softmax"]
        return [r.mean for r in found if isinstance(r.more, Aware) and r.more.what == what]

    # what was found at 0.15 is within 0.225 too, though the attack found less there
    assert cost(lost, LOST_OR_REJECTED) == pytest.approx([0.25, 0.45, 0.65, 0.65, 0.85])
    assert cost(lost, REJECTED) == pytest.approx([0.1, 0.3, 0.5, 0.5, 0.7])
    fewer = [replace(lost[0], rows=tuple(row for row in lost[0].rows if row.asked.eps != 0.15))]
    assert [mean is None for mean in cost(fewer, REJECTED)] == [False, False, True, True, True]


def test_a_curve_counts_the_images_lost_within_so_many_gradients() -> None:
    spent, none = torch.tensor([0, 7, 180, -1]), torch.zeros(4)  # clean, by gradients, by search after them, never
    images, outputs = torch.zeros(4, 1, 2, 2), Outputs(torch.zeros(4, 2), torch.zeros(4, 2))
    own: dict[str, Any] = {
        "targets": None,
        "outputs": outputs,
        "zero_gradients": none.bool(),
        "saturated": none.bool(),
    }
    result = Adversarials(images=images, index=torch.arange(4), labels=none.long(), first_success=spent, **own)
    found = security.curve_of(result)
    share = dict(zip(found.within, found.share, strict=True))
    assert (share[0], share[5], share[10], share[100], share[200], share[5000]) == (0.25, 0.25, 0.5, 0.5, 0.75, 0.75)


def said(lost: Share) -> list[str]:
    return verdict(EXPERIMENT, by_key(rows_of(made(lost, *SHOWN, *CONTROLS))))


def test_the_verdict_says_that_no_detector_beats_adversarial_training_where_all_lose_more() -> None:
    lines = [s for s in said(lambda p: 0.1 if p.model.loss in CONTROLS else 0.9) if s.startswith("Eps")]
    assert len(lines) == 3
    assert all("that lose fewer, by 95 % intervals: none; more: softmax, center, L-GM, alpha 1" in s for s in lines)


def test_the_verdict_names_a_detector_that_does_and_one_that_cannot_be_told_apart() -> None:
    share = {"center": 0.1, "lgm1.0": 0.5, "softmax-adv": 0.5, "lgm1.0-adv": 0.6}
    lines = [s for s in said(lambda p: share.get(p.model.loss, 0.9)) if s.startswith("Eps")]
    assert all("intervals: center; more: softmax, L-Softmax; not told apart: L-GM, alpha 1." in s for s in lines)
    assert all("softmax, adversarially trained without detector loses 50.0 %" in s for s in lines)


def test_agreement_is_within_half_a_point_or_beyond_it() -> None:
    lines = said(lambda p: 0.105 if p.asked.attack == "autoattack" else 0.1)
    assert sum("a difference of +0.5 points, within 0.5." in s for s in lines) == 4
    lines = said(lambda p: 0.11 if p.asked.attack == "autoattack" else 0.1)
    assert sum("a difference of +1.0 points, beyond 0.5." in s for s in lines) == 4
    plus = said(lambda p: 0.11 if p.asked.settings.get("version") == "plus" else 0.1)
    assert sum("published autoattack (plus), a difference of +1.0 points" in s for s in plus) == 2
    assert sum("published autoattack, a difference of +0.0 points" in s for s in plus) == 2


def test_what_has_not_run_is_said_to_be_so() -> None:
    lines = verdict(EXPERIMENT, by_key(rows_of([])))
    assert lines
    assert all(line.endswith("not run.") for line in lines)


def test_curves_are_drawn_from_rows_and_say_where_they_begin_and_end() -> None:
    found = {
        d.key: d for d in security_drawings(EXPERIMENT, rows_of(made(lambda p: min(1.0, 2 * p.asked.eps), "lgm1.0")))
    }
    assert list(found) == ["security-eps", "security-gradients", "security-queries", "rejection-cost"]
    assert "L-GM, alpha 1 10.0 % at 0.05 to 80.0 % at 0.4 eps" in found["security-eps"].label
    assert list(security_drawings(EXPERIMENT, rows_of([]))) == []
