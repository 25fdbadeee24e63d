"""What the commands print, and a second time."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from advbench import cli
from advbench.cli.output import pasteable
from advbench.study.command_lines import Line
from advbench.study.options import Evaluate, Verify
from tests.helpers.command_line import MODEL_FIELDS, SMALL, VERIFY_FIELDS, Result, Small, advbench, contents
from tests.helpers.records import AWARE, forge, manifest_of

ATTACK_FIELDS = MODEL_FIELDS | {
    "attack", "settings", "norm", "eps", "n", "clean_error_rate", "error_rate", "success_rate", "target_rate",
    "zero_gradients", "saturated", "implementation", "eight_bit_error_rate",
}  # fmt: skip


def test_json_is_one_object_with_schema_command_and_rows(small: Small) -> None:
    document = json.loads(small.result.out)
    assert set(document) == {"schema", "command", "rows"}
    assert (document["schema"], document["command"]) == (1, "run")
    assert small.result.out.count("\n") == 1


def test_progress_goes_to_stderr(small: Small) -> None:
    assert "training 2 epochs" in small.result.err
    assert "index.html" in small.result.err


def test_verify_rows_have_exactly_the_defined_fields(small: Small) -> None:
    assert len(small.result.rows) == 2 * 2 * 2 * 3  # losses, eps, detectors, populations
    assert all(set(row) == VERIFY_FIELDS for row in small.result.rows)


def test_run_verify_and_report_give_the_same_rows(small: Small) -> None:
    def ordered(result: Result) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in result.rows)

    verified = advbench("verify", "--runs-dir", small.runs, "--json")
    reported = advbench("report", *small.places, "--json")
    assert json.loads(verified.out)["command"] == "verify"
    assert json.loads(reported.out)["command"] == "report"
    assert ordered(small.result) == ordered(verified) == ordered(reported)


def test_attack_rows_have_exactly_the_defined_fields(small: Small) -> None:
    result = advbench("attack", "--loss", "lgm", "--eps", "0.1", *SMALL, *small.places, "--json")
    (row,) = result.rows
    assert json.loads(result.out)["command"] == "attack"
    assert set(row) == ATTACK_FIELDS
    assert (row["loss"], row["alpha"], row["lam"], row["covariance"]) == ("lgm", 1.0, 0.1, "identity")
    assert (row["attack"], row["settings"], row["norm"], row["eps"]) == ("fgsm", {}, "linf", 0.1)
    assert (row["training"], row["n"]) == ("standard", 300)


def test_what_a_loss_does_not_have_is_null(small: Small) -> None:
    softmax = [row for row in small.result.rows if row["loss"] == "softmax"]
    assert {(row["alpha"], row["lam"], row["covariance"]) for row in softmax} == {(None, None, None)}


def test_train_rows_say_which_model_and_how_well_it_does(small: Small) -> None:
    (row,) = advbench("train", "--loss", "softmax", *SMALL, *small.places, "--json").rows
    assert set(row) > MODEL_FIELDS
    assert (row["n"], row["n_train"], row["epochs"]) == (300, 1000, 2)
    assert (small.runs / row["run"] / "model.safetensors").is_file()


@pytest.mark.parametrize("what", ["losses", "attacks", "detectors", "networks", "datasets"])
def test_list_names_what_there_is(what: str) -> None:
    known = {"losses": "lgm", "attacks": "targeted-fgsm", "detectors": "max-posterior", "networks": "digits-cnn"}
    names = [row["name"] for row in advbench("list", what, "--json").rows]
    assert known.get(what, "mnist") in names
    assert names == sorted(names)


def test_list_runs_names_each_run_and_its_attacks(small: Small) -> None:
    rows = advbench("list", "runs", "--runs-dir", small.runs, "--json").rows
    assert [row["run"] for row in rows] == sorted(path.name for path in small.runs.iterdir())
    assert all(row["trained"] for row in rows)
    assert all(len(row["attacks"]) == 2 and "fgsm-eps0.1" in row["attacks"] for row in rows)


def test_list_runs_of_an_empty_folder_is_an_empty_list(tmp_path: Path) -> None:
    result = advbench("list", "runs", "--runs-dir", tmp_path / "none", "--json")
    assert (result.code, result.rows) == (0, [])
    assert advbench("list", "runs", "--runs-dir", tmp_path / "none").code == 0


def test_a_table_shows_rates_in_per_cent_and_undefined_as_not_available(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    table = advbench("verify", "--runs-dir", small.runs, "--loss", "lgm", "--eps", "0.1", "--attack", "fgsm")
    row = next(
        r
        for r in small.result.rows
        if (r["loss"], r["attack"], r["eps"], r["detector"], r["population"])
        == ("lgm", "fgsm", 0.1, "max-posterior", "all")
    )
    assert table.code == 0
    shown = next(line for line in table.out.splitlines() if "max-posterior" in line)
    for field in ("eer", "eer_low", "eer_high", "auroc", "tpr_at_fpr05"):
        assert f"{100 * row[field]:.1f}" in shown
    assert "300+300" in table.out
    assert "nan" not in table.out.lower()
    assert "None" not in table.out


def test_beside_the_eers_stands_what_an_attack_that_knows_the_detector_does(
    copy: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = advbench("verify", "--runs-dir", copy.runs, "--loss", "lgm", "--eps", "0.1")
    (line,) = (line for line in before.out.splitlines() if line.startswith("detector-aware: not run"))
    against, _, command = line.partition("; ")
    assert against == "detector-aware: not run against likelihood, max-posterior"
    words = command.replace("likelihood,max-posterior", "likelihood").split()[1:]
    made = advbench(*words, "--n", "30", "--threads", "1", "--runs-dir", copy.runs, "--json")
    (row,) = made.rows
    after = advbench("verify", "--runs-dir", copy.runs, "--loss", "lgm", "--eps", "0.1")
    lines = after.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("detector-aware  "))
    share, error = (f"{100 * row[key]:.1f}" for key in ("undetected_error_rate", "error_rate"))
    assert lines[at].split()[1:4] == ["likelihood", "30", share]
    assert lines[at].split()[5] == error
    ends = [f"{100 * row[f'undetected_error_{end}']:.1f}" for end in ("low", "high")]
    assert f"[{ends[0]}, {ends[1]}]" in lines[at + 1]
    assert any(line.startswith("detector-aware: not run against max-posterior; advbench attack") for line in lines)
    assert max(map(len, (line for line in lines if "advbench attack" not in line and "lgm-" not in line))) <= 80
    rows = advbench("verify", "--runs-dir", copy.runs, "--loss", "lgm", "--eps", "0.1", "--json").rows
    assert all(set(r) == VERIFY_FIELDS for r in rows)


def test_the_widest_figures_of_an_evasion_are_not_cut_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from advbench.cli.tables import show

    monkeypatch.setenv("COLUMNS", "80")
    settings = {"budget": "thorough", "detector": "max-posterior", "fpr": 0.05}
    row = replace(AWARE, settings=settings, eps=0.05, n=10000, clean_error_rate=1.0, clean_rejected=1.0)
    row = replace(row, undetected_error_rate=1.0, undetected_error_low=1.0, undetected_error_high=1.0)
    show([replace(row, fgsm_undetected_error_rate=1.0)])
    out = capsys.readouterr().out
    assert "[100.0, 100.0]" in out
    assert "100.0/100.0" in out
    assert out.count("100.0") == 7


def test_the_last_line_is_the_page(small: Small, tmp_path: Path) -> None:
    words = ("--loss", "softmax", "--detector", "max-posterior", "--runs-dir", small.runs)
    result = advbench("report", *words, "--reports-dir", tmp_path / "reports", "--name", "of mine")
    page = Path(result.out.splitlines()[-1])
    assert page == tmp_path / "reports" / "of mine" / "index.html"
    assert page.is_file()
    assert (small.folder / "reports" / "digits-study" / "index.html").is_file()


def test_a_record_s_command_holds_what_this_command_line_named() -> None:
    words = ("evaluate", "--dataset", "folder:PATH/cats", "--model", "m.py:build", "--weights", "w.pt")
    line = Line.of(*words)
    given = Evaluate(dataset="folder:/my, data/cats", model="a/m.py:build", weights="b/w.pt", runs_dir="r")
    whole = "advbench evaluate --dataset 'folder:/my, data/cats' --model a/m.py:build --weights b/w.pt --runs-dir r"
    assert pasteable(Line((words, words)), given) == f"{whole} && {whole}"
    assert pasteable(line, Verify(dataset=("digits", "folder:x/cats"))).endswith(" these lie: m.py:build, w.pt")


def test_a_terminal_without_utf_8_shows_names_whole(copy: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(copy.runs.iterdir())
    manifest = manifest_of(run) | {"name": f"\u00f1{'x' * 90}"}
    forge(run, manifest)
    run.rename(run.with_name(manifest["name"]))
    monkeypatch.setattr(sys, "stdout", stream := io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert cli.main(["list", "runs", "--runs-dir", str(copy.runs)]) == 0
    stream.flush()
    assert f"\\xf1{'x' * 90}\n".encode() in stream.buffer.getvalue()


def test_a_runs_folder_that_cannot_be_written_is_read_where_nothing_need_be_written(copy: Small) -> None:
    before = advbench("verify", "--runs-dir", copy.runs, "--json").out
    for lock in copy.runs.glob("*/.lock"):
        lock.unlink()
        lock.mkdir()
    assert advbench("verify", "--runs-dir", copy.runs, "--json").out == before
    refused = advbench("verify", "--runs-dir", copy.runs, "--detector", "energy")
    assert (refused.code, "cannot write" in refused.err) == (2, True)


def test_fractions_mean_the_same_in_every_command(small: Small) -> None:
    before = contents(small.runs)
    for eps in ("8/255", repr(8 / 255), " 16/510 "):
        attacked = advbench("attack", "--loss", "lgm", "--eps", eps, *SMALL, *small.places, "--json")
        verified = advbench("verify", "--runs-dir", small.runs, "--eps", eps, "--json")
        assert [r["eps"] for r in attacked.rows] == [8 / 255]
        assert {r["eps"] for r in verified.rows} == {8 / 255}
    which = ("--loss", "softmax", "--detector", "max-posterior", "--name", "fraction")
    reported = advbench("report", *small.places, *which, "--eps", "8/255", "--json")
    assert {r["eps"] for r in reported.rows} == {8 / 255}
    assert contents(small.runs) == before


@pytest.mark.parametrize(
    ("words", "field", "values"),
    [
        (("--loss", "lgm"), "loss", {"lgm"}),
        (("--loss", "lgm,softmax"), "loss", {"lgm", "softmax"}),
        (("--attack", "fgsm,targeted-fgsm"), "attack", {"fgsm"}),
        (("--eps", "0.1"), "eps", {0.1}),
        (("--eps", "0.1, 8/255"), "eps", {0.1, 8 / 255}),
        (("--detector", "likelihood"), "detector", {"likelihood"}),
        (("--alpha", "1"), "loss", {"lgm"}),
        (("--lam", "0.1"), "loss", {"lgm"}),
        (("--covariance", "identity"), "loss", {"lgm"}),
        (("--seed", "0"), "seed", {0}),
        (("--dataset", "digits"), "dataset", {"digits"}),
        (("--training", "standard"), "training", {"standard"}),
    ],
)
def test_verify_is_about_what_is_selected(
    small: Small, words: tuple[str, ...], field: str, values: set[object]
) -> None:
    result = advbench("verify", "--runs-dir", small.runs, *words, "--json")
    assert {row[field] for row in result.rows} == values
