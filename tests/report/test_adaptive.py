"""The page's figures of attacks that know a detector: headline, members, thresholds, curves, control, audit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advbench import metrics, runs
from advbench.audit import Finding
from advbench.detection import calibration, undetected_errors
from advbench.report import adaptive, control, page, plots, security
from advbench.runs import AdaptiveRow, VerifyRow, artifacts, as_json, from_json
from advbench.study import selection
from advbench.study.command_lines import Line
from advbench.study.options import Selected
from advbench.study.verify import counts
from advbench.types import Adversarials, Outputs
from tests.helpers.page_reader import (
    Page,
    Reader,
    advbench,
    assert_loads_nothing,
    assert_well_formed,
    ends,
    outside_audits,
    per_cent,
)
from tests.helpers.records import AWARE, MODEL_ROW, adversarials_of, forge, manifest_of

Row = dict[str, Any]
EVIL = "'><script>x<img src=y onerror=z>"
MODEL = ("--feature-dim", "2", "--epochs", "2", "--train-batch-size", "100", "--learning-rate", "0.02")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """L-GM attacked in full, softmax by the ensemble against one detector, and both without any."""
    folder = tmp_path_factory.mktemp("adaptive")
    machine = ("--runs-dir", str(folder / "runs"), "--threads", "1")
    aware = ("--attack", "detector-aware", "--budget", "quick", "--n", "30")
    lgm = ("attack", "--loss", "lgm", *MODEL, *machine)
    softmax = ("attack", "--loss", "softmax", *MODEL, *machine)
    advbench(*lgm, *aware, "--detector", "likelihood,max-posterior", "--eps", "0.05,0.1,0.3")
    advbench(*lgm, *aware, "--detector", "none", "--eps", "0.1")
    advbench(*lgm, "--attack", "detector-square", "--detector", "likelihood", "--set", "queries=40", "--n", "20")
    advbench(*lgm, "--attack", "force-rejection", "--detector", "likelihood", "--eps", "0.05,0.15", "--n", "30")
    advbench(*lgm, "--eps", "0.1,0.3")
    advbench(*softmax, *aware, "--detector", "likelihood", "--eps", "0.05,0.3")
    advbench(*softmax, "--eps", "0.3")
    rows = advbench("report", "--name", "known", *machine[:2], "--reports-dir", folder / "reports")
    source = (folder / "reports" / "known" / "index.html").read_text(encoding="utf-8")
    return Page(folder, rows, source, Reader(source).root)


def stored(known: Page, loss: str) -> tuple[runs.Run, dict[str, AdaptiveRow]]:
    (run,) = (r for r in runs.find(known.folder / "runs") if r.trained.loss_name == loss)
    return run, adaptive.adaptive(selection.attack_rows(run))


def headline_row(known: Page, row: AdaptiveRow) -> list[str]:
    aim = "no detector" if row.fpr is None else f"{row.detector} at {100 * row.fpr:g} % FPR"
    (line,) = (
        line
        for line in known.table("Undetected errors")
        if line[1] == aim and line[0].startswith(f"{row.attack} eps {row.eps:g}, ")
    )
    return line


# -- headline ----------------------------------------------------------------------------------------------------


def test_each_attack_that_knows_a_detector_has_its_line_and_the_figures_of_its_row(known: Page) -> None:
    head, *lines = known.table("Undetected errors")
    expected = set()
    for loss in ("lgm", "softmax"):
        for name, row in stored(known, loss)[1].items():
            if row.attack == "force-rejection":
                continue
            expected.add(name)
            cell = headline_row(known, row)[head.index(loss)]
            limits = ends(row.undetected_error_low, row.undetected_error_high)
            assert cell.startswith(f"{per_cent(row.undetected_error_rate)} {limits}")
            assert f"error {per_cent(row.error_rate)} " in cell
            assert f"FGSM {per_cent(row.fgsm_undetected_error_rate)} " in cell
            assert cell.endswith(f"clean {per_cent(row.clean_error_rate)}, {per_cent(row.clean_rejected)}")
    assert len(lines) == len(expected)
    assert "zero-knowledge attack" in known.tree.text


def test_what_a_model_lacks_is_not_run_and_its_command_runs_it(known: Page) -> None:
    head, *lines = known.table("Undetected errors")
    cells = [line[head.index("softmax")] for line in lines if line[1].startswith("max-posterior")]
    assert cells == ["not run"] * 3
    (missing,) = (e for e in known.tree.all("ul") if e["class"] == "commands")
    (command,) = (li.text for li in missing.all("li"))
    assert "--loss softmax" in command
    assert "--detector max-posterior" in command
    assert "--budget quick" in command


def test_the_eer_table_holds_zero_knowledge_attacks_and_the_ensemble_beside_them(known: Page) -> None:
    head, *lines = known.table("EER")
    assert [line[0].partition(" eps")[0] for line in lines[:-2]] == ["fgsm"] * 4
    beside = {line[1]: line for line in lines[-2:]}
    assert list(beside) == ["likelihood", "max-posterior"]
    assert beside["max-posterior"][head.index("softmax")] == "not run"
    rows = stored(known, "lgm")[1].values()
    (row,) = (r for r in rows if r.attack == "detector-aware" and r.eps == 0.3 and r.detector == "likelihood")
    cell = beside["likelihood"][head.index("lgm")]
    assert cell.startswith(per_cent(row.undetected_error_rate))
    assert cell.endswith("eps 0.3, n 30 5 % FPR")


def test_a_row_that_was_not_selected_still_stands_beside_the_eers(known: Page, tmp_path: Path) -> None:
    which = ("--attack", "fgsm", "--eps", "0.3", "--loss", "lgm")
    advbench("report", *which, "--runs-dir", known.folder / "runs", "--reports-dir", tmp_path)
    tree = Reader((tmp_path / "digits-study" / "index.html").read_text()).root
    few = Page(tmp_path, [], "", tree)
    assert [line[1] for line in few.table("Undetected errors")[1:]] == [
        "likelihood at 5 % FPR",
        "max-posterior at 5 % FPR",
    ]
    assert not any("not run" in line.text for line in outside_audits(tree))


def test_the_headline_is_at_five_per_cent_and_eps_three_tenths_where_there_is_such_a_row() -> None:
    def row(eps: float, fpr: float, **settings: str) -> AdaptiveRow:
        return replace(AWARE, eps=eps, fpr=fpr, settings=settings)

    rows = {"a": row(0.3, 0.01), "b": row(0.4, 0.05), "c": row(0.3, 0.05, budget="quick"), "d": row(0.3, 0.05)}
    assert adaptive.headline(rows, "d") == "d"
    assert adaptive.headline({k: rows[k] for k in "abc"}, "d") == "c"
    assert adaptive.headline({k: rows[k] for k in "ab"}, "d") == "b"
    assert adaptive.headline(rows, "other") is None


def test_the_page_with_adaptive_rows_loads_nothing_and_repeats_no_id(known: Page) -> None:
    assert_loads_nothing(known.tree)
    assert_well_formed(known.tree)


# -- members and thresholds --------------------------------------------------------------------------------------


def test_the_shares_of_the_members_are_those_of_the_row(known: Page) -> None:
    head, *lines = known.table("Share of all n images that each member")
    members = head[3:]
    assert members[0] == "clean"
    found = 0
    for loss in ("lgm", "softmax"):
        for row in (r for r in stored(known, loss)[1].values() if r.members):
            aim = "no detector" if row.fpr is None else f"{row.detector} at 5 % FPR"
            (line,) = (
                li for li in lines if li[1:3] == [aim, loss] and li[0].startswith(f"detector-aware eps {row.eps:g},")
            )
            shares = [row.members.get(m) for m in members]
            assert line[3:] == ["" if share is None else per_cent(share) for share in shares]
            found += 1
    assert found == len(lines) == 3 * 2 + 1 + 2


def test_undetected_errors_at_each_threshold_are_counted_from_scores_and_labels(known: Page) -> None:
    _, *lines = known.table("Share of all attacked images that are wrong")
    run, _ = stored(known, "lgm")
    guard = calibration.guard(run, "likelihood", 0.05)
    made = artifacts.read_adversarials(run, "fgsm-eps0.3")
    lost = undetected_errors(made.outputs, made.labels, guard).numpy()
    bounds = metrics.wilson(int(lost.sum()), len(lost))
    assert bounds is not None
    (line,) = (li for li in lines if li[:3] == ["lgm", "fgsm eps 0.3", "likelihood"])
    assert line[3] == "300"
    assert line[4] == "n/a"  # 297 calibration images fix no threshold for 1 %
    assert line[5].startswith(f"{per_cent(lost.mean())} {ends(bounds.low, bounds.high)} clean rejected ")
    assert float(line[6].partition(" ")[0]) <= float(line[5].partition(" ")[0])


def test_an_attack_shows_the_figure_of_its_row_at_the_threshold_it_was_aimed_at(known: Page) -> None:
    (table,) = (t for t in known.tree.all("table") if "Share of all attacked images" in t.text)
    bold = [line for line in table.all("tr") if line.all("strong")]
    aimed = [r for loss in ("lgm", "softmax") for r in stored(known, loss)[1].values() if r.detector != "none"]
    assert len(bold) == len(aimed)
    for row in aimed:
        limits = ends(row.undetected_error_low, row.undetected_error_high)
        assert any(f"{per_cent(row.undetected_error_rate)} {limits}" in line.text for line in bold)


# -- curves ------------------------------------------------------------------------------------------------------


def labels_of(known: Page, start: str) -> list[str]:
    return [e["aria-label"] for e in known.tree.all("svg") if e["aria-label"].startswith(start)]


def test_the_curve_over_eps_begins_at_the_clean_images_and_says_each_row(known: Page) -> None:
    rows = [r for r in stored(known, "lgm")[1].values() if r.detector == "likelihood" and r.members]
    (label,) = (text for text in labels_of(known, "undetected errors over eps") if "likelihood" in text)
    points = [f"0: {per_cent(rows[0].members['clean'])}"]
    points += [f"{r.eps:g}: {per_cent(r.undetected_error_rate)}" for r in sorted(rows, key=lambda r: r.eps)]
    assert f"lgm {', '.join(points)}" in label
    assert "softmax 0: " in label


def test_one_eps_is_no_curve(known: Page) -> None:
    assert not any("no detector" in text for text in labels_of(known, "undetected errors over eps"))


def test_the_curve_over_gradients_ends_at_the_rate_of_the_row(known: Page) -> None:
    (row,) = (r for r in stored(known, "softmax")[1].values() if r.attack == "detector-aware" and r.eps == 0.3)
    (label,) = (text for text in labels_of(known, "undetected errors over gradients") if "likelihood" in text)
    assert f"200: {per_cent(row.undetected_error_rate)}" in label.partition("softmax ")[2]


def test_the_curve_over_queries_is_drawn_from_the_random_search(known: Page) -> None:
    (label,) = labels_of(known, "undetected errors over queries")
    (row,) = (r for r in stored(known, "lgm")[1].values() if r.attack == "detector-square")
    assert label.endswith(f"40: {per_cent(row.undetected_error_rate)}")


def lost_at(first: list[int], member: list[int], gradients: list[int]) -> Adversarials:
    n = len(first)
    none = torch.zeros(n)
    return Adversarials(
        images=torch.zeros(n, 1, 1, 1), index=torch.arange(n), labels=none, targets=None,
        outputs=Outputs(torch.zeros(n, 1), torch.zeros(n, 2)), zero_gradients=none, saturated=none,
        gradients=torch.tensor(gradients), first_success=torch.tensor(first), member=torch.tensor(member),
    )  # fmt: skip


def test_effort_is_what_each_lost_image_had_cost_when_it_was_lost() -> None:
    made = lost_at(first=[7, 0, 180, -1], member=[1, 0, 2, 2], gradients=[8, 0, 180, 180])
    assert security.effort(made).tolist() == [0, 7, 180]


def test_a_curve_over_effort_counts_what_was_lost_by_then_of_all_images() -> None:
    line = security.within("m", np.array([0.0, 7, 7, 180]), n=8, most=200)
    assert line.x.tolist() == [1, 7, 180, 200]
    assert line.y.tolist() == [1 / 8, 3 / 8, 4 / 8, 4 / 8]
    none = security.within("m", np.array([]), n=8, most=200)
    assert (none.x.tolist(), none.y.tolist()) == ([1, 200], [0, 0])


def test_bars_that_do_not_hold_their_point_are_drawn_all_the_same() -> None:
    low, high = np.array([0.2, 0.9]), np.array([0.4, 0.95])
    line = plots.Line("<b>", np.array([0.1, 0.2]), np.array([0.1, 1.0]), low, high)
    source = plots.to_svg(plots.line_chart([line], xlabel="eps"), "bars", "k")
    assert Reader(source).root.all("svg")[0]["aria-label"] == "bars"
    assert "<b>" not in source


# -- the cost of rejection ---------------------------------------------------------------------------------------


def test_rejection_costs_the_union_of_the_lost_and_of_those_rejected_so_far() -> None:
    lost = np.array([True, False, False, False, False])
    rejected = {
        0.2: np.array([True, False, True, False, False]),  # the image rejected at 0.1 was missed here
        0.0: np.array([False, False, False, False, False]),
        0.1: np.array([False, True, False, False, False]),
    }
    curve = security.costs(lost, rejected, eps=0.2)
    assert [(c.alpha, c.errors, c.rejected) for c in curve] == [(0.0, 1, 0), (0.5, 2, 1), (1.0, 3, 3)]
    assert [c.rate for c in curve] == [0.2, 0.4, 0.6]
    bounds = curve[1].interval
    assert bounds == metrics.wilson(2, 5)


def test_the_curve_of_rejection_begins_at_the_lost_and_the_clean_rejected(known: Page) -> None:
    (label,) = labels_of(known, "Error with rejections")
    run, rows = stored(known, "lgm")
    guard = calibration.guard(run, "likelihood", 0.05)
    (name,) = (
        a for a, r in rows.items() if r.attack == "detector-aware" and (r.detector, r.eps) == ("likelihood", 0.3)
    )
    made = artifacts.read_adversarials(run, name)
    lost = undetected_errors(made.outputs, made.labels, guard).numpy()
    clean = artifacts.read_part(run, "test").outputs.take(slice(30))
    at_zero = lost | (guard.slack(clean) < 0).numpy()
    assert f"lgm 0: {per_cent(at_zero.mean())}, 0.166667: " in label
    assert "softmax" not in label
    note = next(f.text for f in known.tree.all("figure") if "Rejected within alpha eps" in f.text)
    shares = {r.eps: r.rejected_rate for r in rows.values() if r.attack == "force-rejection"}
    assert f"{per_cent(shares[0.15])} at 0.5" in note


# -- the positive control ----------------------------------------------------------------------------------------


def aware(
    training: str, detector: str, rate: float, *, eps: float = 0.3, error: float | None = None, run: str = ""
) -> AdaptiveRow:
    model = replace(MODEL_ROW, training=training, run=run or f"{training}-run")
    fpr, low, high = None if detector == "none" else 0.05, rate - 0.05, rate + 0.05
    row = replace(AWARE, model=model, detector=detector, fpr=fpr, n=200, eps=eps, error_rate=error or rate)
    return replace(row, undetected_error_rate=rate, undetected_error_low=low, undetected_error_high=high)


@pytest.mark.parametrize(
    ("detector", "rival", "outcome"),
    [(0.9, 0.4, "does not beat"), (0.2, 0.4, "beats"), (0.4, 0.4, "cannot be told from")],
)
def test_a_detector_beats_adversarial_training_only_where_their_intervals_lie_apart(
    detector: float, rival: float, outcome: str
) -> None:
    rows = [("a", aware("standard", "likelihood", detector)), ("b", aware("adversarial", "none", rival))]
    (found,) = control.compare(rows)
    assert found.outcome == outcome
    assert (found.eps, found.detector.model, found.adversarial.model) == (0.3, "a", "b")
    assert found.adversarial.low < rival < found.adversarial.high


def test_the_best_of_either_side_is_compared_and_an_adversarial_model_by_its_worst_row() -> None:
    rows = [
        ("a", aware("standard", "likelihood", 0.9)),
        ("a", aware("standard", "max-posterior", 0.7)),
        ("a", aware("standard", "none", 0.1)),  # without a detector: no competitor
        ("b", aware("adversarial", "none", 0.3)),
        ("b", aware("adversarial", "likelihood", 0.2, error=0.45)),
        ("c", aware("adversarial", "none", 0.8, run="another")),
        ("a", aware("standard", "likelihood", 0.1, eps=0.2)),  # nothing at equal eps
        ("a", replace(AWARE, attack="fgsm")),
    ]
    (found,) = control.compare(rows)
    assert (found.detector.rate, found.adversarial.model, found.adversarial.rate) == (0.7, "b", 0.45)


def test_without_an_adversarially_trained_model_the_comparison_is_not_run(known: Page) -> None:
    assert "Not run: it takes a standard model with a detector and an adversarially trained model" in known.tree.text


def rendered(known: Page, **more: Any) -> Page:
    found = selection.find(known.folder / "runs", Selected(loss=("lgm",)))
    rows = [from_json(VerifyRow, row, "row") for row in known.rows if row["loss"] == "lgm"]
    source = page.render("again", found, rows, **more)
    return Page(known.folder, known.rows, source, Reader(source).root)


def test_the_page_says_the_outcome_in_a_sentence(known: Page, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(known.folder / "runs", tmp_path / "runs")
    (folder,) = (r.folder for r in runs.find(tmp_path / "runs") if r.trained.loss_name == "softmax")
    manifest = manifest_of(folder)
    folder = folder.rename(folder.with_name("adversarial"))
    manifest["model"]["regime"], manifest["name"] = "adversarial", "adversarial"
    forge(folder, manifest)
    run = runs.load(folder)
    for name, row in selection.attack_rows(run).items():
        tensors = artifacts.unpack(run, f"attacks/{name}.safetensors")
        tensors["logits"] = 9 * torch.nn.functional.one_hot(tensors["labels"], 10).float()
        tensors |= {"misclassified": torch.zeros(len(tensors["labels"]), dtype=torch.bool)}
        data = artifacts.pack(tensors)
        clean = artifacts.read_part(run, "test").outputs.take(slice(row.n))
        made = vars(row) | vars(counts(row, adversarials_of(tmp_path, data), clean))
        own = {"row": as_json(type(row)(**made), whole=False)}
        run.write(f"attack {name}", {f"attacks/{name}.safetensors": data}, seconds=1.0, info=own)
    advbench("report", "--name", "two", "--runs-dir", tmp_path / "runs", "--reports-dir", tmp_path)
    text = Reader((tmp_path / "two" / "index.html").read_text()).root.text
    assert "At eps 0.3, no detector on a standard model beats adversarial training" in text
    assert "adversarial softmax, without a detector, is wrong on 0.0 % [0.0, 11.4] (n 30)" in text


# -- the audit ---------------------------------------------------------------------------------------------------


def test_the_audit_is_said_not_to_have_run_where_it_has_not(known: Page) -> None:
    tree = rendered(known).tree
    run, _ = stored(known, "lgm")
    assert any(code.text == f"advbench audit {run.name}" for code in tree.all("code"))


def test_each_finding_stands_with_its_state_evidence_and_command_as_text(known: Page) -> None:
    run, _ = stored(known, "lgm")
    made = [
        Finding("R1", "name", "threat model", "met", "eps 0.3, full knowledge", None),
        Finding("R9", "name", EVIL, "not met", EVIL, Line.of("attack", EVIL)),
        Finding("R22", "name", "cost of rejection", "not run", "", Line.of("attack", "--attack", "force-rejection")),
    ]
    again = rendered(known, audits={run.name: made})
    head, *lines = again.table("What makes a detection result believable")
    assert head == ["requirement", "state", "evidence"]
    assert lines == [
        ["R1 threat model", "met", "eps 0.3, full knowledge"],
        [f"R9 {EVIL}", "not met", f"{EVIL} {made[1].command}"],
        ["R22 cost of rejection", "not run", "advbench attack --attack force-rejection"],
    ]
    assert "met 1, not met 1, not run 1" in again.tree.text
    assert_loads_nothing(again.tree)
    assert "<script" not in again.source
