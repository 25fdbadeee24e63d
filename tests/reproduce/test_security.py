"""The reproduction's attacks that know a detector: probes, kept answers, rows, curves and the verdict."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advbench.reproduce import records, security, tables
from advbench.reproduce.arranged import Rows
from advbench.reproduce.cells import CONTROLS, SHOWN, Cell, chosen
from advbench.reproduce.grid import Grid
from advbench.reproduce.page import all_rows
from advbench.reproduce.probes import Probe, plan
from advbench.reproduce.security_drawings import security_drawings
from advbench.reproduce.security_rows import LOST_OR_REJECTED, REJECTED, rows
from advbench.reproduce.verdict import verdict
from advbench.runs import to_json
from advbench.study.workspace import Workspace
from advbench.types import Adversarials, ImageSet, Outputs, Splits

Share = Callable[[Probe], float]


def digits(share: float, n: int) -> str:
    return "1" * round(share * n) + "0" * (n - round(share * n))


def answer(probe: Probe, lost: float) -> dict[str, Any]:
    """An answer in which the first images are lost; FGSM loses none, and a tenth of the clean ones is rejected."""
    ends = {"undetected_error_low": max(0.0, lost - 0.05), "undetected_error_high": min(1.0, lost + 0.05)}
    row: dict[str, Any] = {
        "n": probe.n,
        "error_rate": lost,
        "undetected_error_rate": lost,
        "fgsm_undetected_error_rate": 0.0,
    }
    row |= {"clean_error_rate": 0.0, "clean_rejected": 0.1, "members": {"clean": 0.0, "apgd-ce": lost}} | ends
    share = [lost * mark / security.MARKS[-1] for mark in security.MARKS]
    return {
        "part": probe.part,
        "asked": probe.asked,
        "settings": dict(probe.settings),
        "row": row,
        "lost": digits(lost, probe.n),
        "rejected": digits(lost, probe.n)[::-1],
        "clean_rejected": digits(0.1, probe.n),
        "found": {"within": list(security.MARKS), "share": share},
        "eight_bit": {"undetected_error_rate": lost / 2, "error_rate": lost},
    }


def made(lost: Share, *losses: str) -> dict[str, dict[str, Any]]:
    """Security records in which every probe of these losses is answered."""
    found: dict[str, dict[str, Any]] = {}
    for probe in plan():
        if probe.loss in losses:
            cell = {"loss": probe.loss, "dim": 100, "seed": 0}
            record = found.setdefault(probe.loss, {"schema": 1, "cell": cell, "rows": []})
            record["rows"].append(answer(probe, lost(probe)))
    return found


def find(found: list[dict[str, Any]], loss: str, setting: str) -> dict[str, Any]:
    (row,) = [r for r in found if (r["loss"], r["setting"]) == (loss, f"100-D, {setting}")]
    return row


def test_the_plan_asks_for_the_headline_of_lgm_first_and_nothing_twice() -> None:
    probes = list(plan())
    assert (probes[0].loss, probes[0].n, probes[0].settings["budget"]) == ("lgm1.0", 1000, "standard")
    asked = [json.dumps([p.loss, p.asked], sort_keys=True) for p in probes]
    assert len(asked) == len(set(asked))
    assert {p.loss for p in probes} == {*SHOWN, *CONTROLS}


def test_every_available_probe_of_a_standard_model_is_an_attack_that_a_spec_accepts() -> None:
    for probe in plan():
        if probe.available and probe.loss not in CONTROLS:
            choice = security.choice_of(probe)
            assert (choice.n, choice.attack.eps) == (probe.n, probe.eps)
            assert choice.detector == (None if probe.blind else probe.detector)


def test_the_controls_are_cells_that_can_be_named() -> None:
    assert [cell.loss for cell in chosen(["lgm1.0-adv-100d-seed0"])] == ["lgm1.0-adv"]


def test_rows_have_the_fields_of_all_rows_and_a_setting_of_their_own() -> None:
    for records_ in ({}, made(lambda p: 0.5, *SHOWN, *CONTROLS)):
        found = rows(records_, [])
        keys = [(r["loss"], r["setting"]) for r in found]
        assert len(keys) == len(set(keys))
        assert {"table", "loss", "setting", "seeds", "mean", "std", "low", "high", "n", "paper"} <= set(found[0])
        assert all(r["table"] == "security" and r["setting"].startswith("100-D, ") for r in found)


def test_what_has_not_run_has_no_figures() -> None:
    for row in rows({}, []):
        assert row["seeds"] == []
        assert {row[k] for k in ("mean", "std", "low", "high", "n")} == {None}


def test_a_row_says_what_its_answer_says() -> None:
    found = rows(made(lambda p: 0.75, "lgm1.0"), [])
    where = "likelihood at 5 % FPR, eps 0.3"
    row = find(found, "lgm1.0", f"undetected error, detector-aware (standard), {where}")
    assert (row["mean"], row["low"], row["high"], row["n"]) == (0.75, 0.7, 0.8, 1000)
    assert find(found, "lgm1.0", f"undetected error, FGSM, {where}")["mean"] == 0.0
    rounded = f"undetected error after rounding to 8 bits, detector-aware (standard), {where}"
    assert find(found, "lgm1.0", rounded)["mean"] == 0.375
    within = find(found, "lgm1.0", f"undetected error within 1000 gradients, detector-aware (standard), {where}")
    assert within["mean"] == pytest.approx(0.75 * 1000 / 5000)
    assert find(found, "softmax", f"undetected error, detector-aware (standard), {where}")["mean"] is None


def test_the_cost_of_rejection_counts_an_image_that_a_smaller_perturbation_gets_rejected() -> None:
    # of 200 images 20 are rejected as they are; 50 are lost; a rejection is found for the last 40, 80, ... of them
    share = {0.075: 0.2, 0.15: 0.4, 0.225: 0.1, 0.3: 0.6}
    lost = made(lambda p: share[p.eps] if p.part == "rejection" else 0.25, "softmax")
    found = [r for r in rows(lost, []) if r["loss"] == "softmax" and r["what"] == LOST_OR_REJECTED]
    # what was found at 0.15 is within 0.225 too, though the attack found less there
    assert [r["mean"] for r in found] == pytest.approx([0.25, 0.45, 0.65, 0.65, 0.85])
    assert [r["eps"] for r in found] == [0, 0.075, 0.15, 0.225, 0.3]
    alone = [r for r in rows(lost, []) if r["loss"] == "softmax" and r["what"] == REJECTED]
    assert [r["mean"] for r in alone] == pytest.approx([0.1, 0.3, 0.5, 0.5, 0.7])
    lost["softmax"]["rows"] = [r for r in lost["softmax"]["rows"] if r["asked"]["eps"] != 0.15]
    found = [r for r in rows(lost, []) if r["loss"] == "softmax" and r["what"] == REJECTED]
    assert [r["mean"] is None for r in found] == [False, False, True, True, True]


def test_a_curve_counts_the_images_lost_within_so_many_gradients() -> None:
    n = 4
    spent = torch.tensor([0, 7, 180, -1])  # clean, by gradients, by random search after them, never
    result = Adversarials(
        images=torch.zeros(n, 1, 2, 2),
        index=torch.arange(n),
        labels=torch.zeros(n, dtype=torch.long),
        targets=None,
        outputs=Outputs(torch.zeros(n, 2), torch.zeros(n, 2)),
        zero_gradients=torch.zeros(n, dtype=torch.bool),
        saturated=torch.zeros(n, dtype=torch.bool),
        gradients=torch.tensor([0, 8, 180, 180]),
        forwards=torch.tensor([1, 9, 901, 1100]),
        first_success=spent,
        member=torch.tensor([0, 1, 2, 0]),
    )
    found = security.curve(result)
    share = dict(zip(found["within"], found["share"], strict=True))
    assert (share[0], share[5], share[10], share[100], share[200], share[5000]) == (0.25, 0.25, 0.5, 0.5, 0.75, 0.75)


def test_a_table_of_eers_ends_with_the_detector_aware_figure() -> None:
    found = all_rows([], made(lambda p: 0.75, "softmax"))
    arranged = tables.tables(found, [])
    for key in ("eer", "targeted", "readings"):
        label, cells = arranged[key].lines[-1]
        assert label.startswith("100-D, undetected error, detector-aware (standard)")
        assert [tables.ours(cell) for cell in cells] == ["75.00", "not run", "not run", "not run"]


def test_every_line_of_the_security_tables_has_a_row_for_some_model() -> None:
    arranged = tables.tables(all_rows([], made(lambda p: 0.5, *SHOWN, *CONTROLS)), [])
    for key, table in arranged.items():
        if key.startswith("security"):
            for label, cells in table.lines:
                assert any(cell is not None for cell in cells), label


def said(lost: Share) -> list[str]:
    return verdict(Rows(rows(made(lost, *SHOWN, *CONTROLS), [])))


def test_the_verdict_says_that_no_detector_beats_adversarial_training_where_all_lose_more() -> None:
    lines = [s for s in said(lambda p: 0.1 if p.loss in CONTROLS else 0.9) if s.startswith("Eps")]
    assert len(lines) == 3
    assert all("that lose fewer, by 95 % intervals: none; more: softmax, center, L-GM, alpha 1" in s for s in lines)


def test_the_verdict_names_a_detector_that_does_and_one_that_cannot_be_told_apart() -> None:
    share = {"center": 0.1, "lgm1.0": 0.5, "softmax-adv": 0.5, "lgm1.0-adv": 0.6}
    lines = [s for s in said(lambda p: share.get(p.loss, 0.9)) if s.startswith("Eps")]
    assert all("intervals: center; more: softmax, L-Softmax; not told apart: L-GM, alpha 1." in s for s in lines)
    assert all("softmax, adversarially trained without detector loses 50.0 %" in s for s in lines)


def test_agreement_is_within_half_a_point_or_beyond_it() -> None:
    lines = said(lambda p: 0.105 if p.attack == "autoattack" else 0.1)
    assert sum("a difference of +0.5 points, within 0.5." in s for s in lines) == 4
    lines = said(lambda p: 0.11 if p.attack == "autoattack" else 0.1)
    assert sum("a difference of +1.0 points, beyond 0.5." in s for s in lines) == 4
    plus = said(lambda p: 0.11 if p.settings.get("version") == "plus" else 0.1)
    assert sum("published autoattack (plus), a difference of +1.0 points" in s for s in plus) == 2
    assert sum("published autoattack, a difference of +0.0 points" in s for s in plus) == 2


def test_what_has_not_run_is_said_to_be_so() -> None:
    lines = verdict(Rows(rows({}, [])))
    assert lines
    assert all(line.endswith("not run.") for line in lines)


def test_curves_are_drawn_from_rows_and_say_where_they_begin_and_end() -> None:
    found = {d.key: d for d in security_drawings(rows(made(lambda p: min(1.0, 2 * p.eps), "lgm1.0"), []))}
    assert list(found) == ["security-eps", "security-gradients", "security-queries", "rejection-cost"]
    assert "L-GM, alpha 1 10.0 % at 0.05 to 80.0 % at 0.4 eps" in found["security-eps"].label
    assert list(security_drawings(rows({}, []))) == []


# -- asking ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """A few noisy images in place of MNIST, and the softmax model trained on them."""
    rng = torch.Generator().manual_seed(0)

    def part(name: str, n: int) -> ImageSet:
        labels = torch.arange(n) % 10
        images = 0.3 * torch.rand((n, 1, 28, 28), generator=rng)
        images[torch.arange(n), 0, 2 * labels + 4] += 0.5
        return ImageSet(name, images, labels, tuple("0123456789"))

    grid = at(tmp_path_factory.mktemp("trained"))
    sizes = {"train": 64, "validation": 20, "calibration": 200, "test": 20}
    grid.splits = Splits(*(part(name, n) for name, n in sizes.items()))
    grid.train(Cell("softmax", 100, 0))
    return grid


def at(folder: Path) -> Grid:
    return Grid(Workspace(runs_dir=folder / "runs", reports_dir=folder / "reports", device=torch.device("cpu")))


@pytest.fixture
def grid(trained: Grid, tmp_path: Path) -> Grid:
    """The trained model at a place of its own, where nothing has been asked."""
    grid = at(tmp_path)
    grid.splits = trained.splits
    shutil.copytree(trained.home / "weights", grid.home / "weights")
    return grid


QUICK = Probe("curve", "softmax", "detector-aware", 0.3, 6, settings={"budget": "quick"})
FGSM = Probe("noise", "softmax", "fgsm", 0.3, 6, blind=True)


def test_an_answer_is_kept_at_once_and_asked_for_only_once(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "plan", lambda: iter((QUICK, FGSM, replace(QUICK, attack="no-such-attack"))))
    file, seen = grid.security_file(QUICK.cell), []
    security.ask(grid, None, lambda: seen.append(len(records.read(file)["rows"])))
    assert seen == [1, 2]
    record = records.read(file)
    one = security.find(record, QUICK)
    assert one is not None
    assert one["row"]["undetected_error_rate"] == np.mean(security.mask(one["lost"]))
    assert one["found"]["share"][-1] == one["row"]["undetected_error_rate"]
    assert one["row"]["clean_rejected"] == np.mean(security.mask(one["clean_rejected"]))

    # neither runs nor data are there: whatever is asked for again would fail
    elsewhere = Grid(replace(grid.place, runs_dir=grid.place.runs_dir / "none", data_dir=Path("nowhere")))
    before = file.read_bytes()
    security.ask(elsewhere, None, lambda: pytest.fail("a kept answer was computed again"))
    assert file.read_bytes() == before

    record["rows"] = record["rows"][1:]
    file.write_bytes(to_json(record))
    security.ask(grid, None, lambda: seen.append(len(records.read(file)["rows"])))
    assert seen == [1, 2, 2]
    again = security.find(records.read(file), QUICK)
    assert again == one


def test_answers_about_other_weights_or_settings_do_not_count(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "plan", lambda: iter((FGSM,)))
    seen: list[int] = []
    for change in ("weights", "settings"):
        security.ask(grid, None, lambda: None)
        file = grid.security_file(FGSM.cell)
        record = records.read(file)
        if change == "weights":
            record["weights"]["sha256"] = "0" * 64
        else:
            record["rows"][0]["settings"]["clip"] = False
        file.write_bytes(to_json(record))
        security.ask(grid, None, lambda: seen.append(1))
        assert records.read(file)["weights"] == grid.weights_of(FGSM.cell)
        assert [row["settings"]["clip"] for row in records.read(file)["rows"]] == [True]
    assert seen == [1, 1]


def test_other_cells_than_those_named_are_not_asked(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "plan", lambda: iter((FGSM,)))
    security.ask(grid, ["lgm1.0-100d-seed0"], lambda: pytest.fail("another cell was asked"))
    assert not grid.security_file(FGSM.cell).exists()
