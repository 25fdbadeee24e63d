"""The command line: what it prints, what it refuses, and what it leaves on disk."""

import hashlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from advbench import cli
from advbench.cli.output import pasteable
from advbench.errors import BadRun
from advbench.runs import locks
from advbench.runs.sealed_json import sealed
from advbench.study.command_lines import Line
from advbench.study.parsing import parse, read_toml
from advbench.study.spec import Spec
from advbench.study.study import Study

MODEL_FIELDS = {"dataset", "loss", "alpha", "lam", "covariance", "seed", "training", "run"}
ATTACK_FIELDS = MODEL_FIELDS | {
    "attack", "settings", "norm", "eps", "n", "clean_error_rate", "error_rate", "success_rate", "target_rate",
    "zero_gradients", "saturated", "implementation", "eight_bit_error_rate",
}  # fmt: skip
VERIFY_FIELDS = MODEL_FIELDS | {
    "attack", "settings", "norm", "eps", "detector", "population", "n_clean", "n_attacked", "n_nonfinite",
    "eer", "eer_low", "eer_high", "auroc", "auroc_low", "auroc_high",
    "tpr_at_fpr01", "tpr_at_fpr05", "tpr_at_fpr10", "fpr05_realised",
}  # fmt: skip
SMALL = ("--epochs", "2", "--threads", "1")


@dataclass(frozen=True)
class Result:
    """Exit status and both streams of one command line."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of `--json`; NaN and Infinity are refused."""

        def refuse(word: str) -> NoReturn:
            raise AssertionError(f"{word} on stdout")

        rows: list[dict[str, Any]] = json.loads(self.out, parse_constant=refuse)["rows"]
        return rows


def advbench(*words: str | Path) -> Result:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder but for locks, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def assert_refused(result: Result, *, after_progress: bool = False) -> None:
    """Exit 2, nothing on stdout, one sentence on stderr (the last line, where work had begun)."""
    assert (result.code, result.out) == (2, ""), result
    assert result.err.endswith("\n")
    *before, last = result.err.splitlines()
    assert last.startswith("advbench: "), result.err
    assert after_progress or not before, result.err
    assert not [line for line in before if line.startswith(("advbench:", "Traceback"))], result.err


@pytest.fixture(autouse=True)
def _no_folders_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADVBENCH_DATA", raising=False)
    monkeypatch.delenv("ADVBENCH_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)  # a default folder would be made here, never in the checkout


@dataclass(frozen=True)
class Small:
    """A finished study of two models, one attack, two eps."""

    folder: Path
    words: tuple[str, ...]
    result: Result

    @property
    def runs(self) -> Path:
        """Its runs folder."""
        return self.folder / "runs"

    @property
    def places(self) -> tuple[str, ...]:
        """The options that name its folders."""
        return ("--runs-dir", str(self.runs), "--reports-dir", str(self.folder / "reports"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("cli")
    words = ("--loss", "softmax,lgm", "--attack", "fgsm", "--eps", "0.1,8/255", *SMALL)
    places = ("--runs-dir", str(folder / "runs"), "--reports-dir", str(folder / "reports"))
    result = advbench("run", *words, *places, "--json")
    assert result.code == 0, result.err
    return Small(folder, words, result)


@pytest.fixture
def copy(small: Small, tmp_path: Path) -> Small:
    """The study again, in a folder that may be damaged."""
    shutil.copytree(small.folder, tmp_path / "study")
    return Small(tmp_path / "study", small.words, small.result)


# -- what is printed ---------------------------------------------------------------------------------------------


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


def test_no_two_verify_rows_have_equal_keys(small: Small) -> None:
    keys = ["run", "attack", "settings", "eps", "detector", "population"]
    found = [json.dumps([row[k] for k in keys]) for row in small.result.rows]
    assert len(set(found)) == len(found)


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


def test_a_target_rate_is_null_only_for_untargeted_attacks(copy: Small) -> None:
    result = advbench("attack", "--attack", "fgsm,targeted-fgsm", "--eps", "0.1", *SMALL, *copy.places, "--json")
    untargeted, targeted = result.rows
    assert untargeted["target_rate"] is None
    assert 0 <= targeted["target_rate"] <= 1


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
    row = {
        "dataset": "digits", "loss": "lgm", "alpha": 1, "lam": 0.1, "covariance": "identity", "seed": 0, "run": "r",
        "training": "standard", "attack": "detector-aware", "eps": 0.05, "n": 10000, "undetected_error_rate": 1.0,
        "undetected_error_low": 1.0, "undetected_error_high": 1.0, "fgsm_undetected_error_rate": 1.0,
        "error_rate": 1.0, "clean_error_rate": 1.0, "clean_rejected": 1.0,
        "settings": {"budget": "thorough", "detector": "max-posterior", "fpr": 0.05},
    }  # fmt: skip
    show("attack", [row])
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
    given = {"dataset": "folder:/my, data/cats", "model": "a/m.py:build", "weights": "b/w.pt", "runs_dir": "r"}
    whole = "advbench evaluate --dataset 'folder:/my, data/cats' --model a/m.py:build --weights b/w.pt --runs-dir r"
    assert pasteable(Line((words, words)), given) == f"{whole} && {whole}"
    assert pasteable(line, {"dataset": "digits,folder:x/cats"}).endswith(" these lie: m.py:build, w.pt")


def test_a_terminal_without_utf_8_shows_names_whole(copy: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(copy.runs.iterdir())
    manifest = json.loads((run / "manifest.json").read_text()) | {"name": f"\u00f1{'x' * 90}"}
    (run / "manifest.json").write_text(json.dumps(sealed(manifest)))
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


# -- a second time -----------------------------------------------------------------------------------------------


def test_a_second_run_recomputes_nothing_and_prints_the_same_rows(small: Small) -> None:
    def times() -> dict[Path, int]:
        return {
            p: p.stat().st_mtime_ns for p in small.runs.rglob("*") if p.is_file() and not p.name.startswith(".lock")
        }

    before, stamps = contents(small.runs), times()
    again = advbench("run", *small.words, *small.places, "--json")
    assert again.out == small.result.out
    assert contents(small.runs) == before
    assert times() == stamps


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


# -- refusals ----------------------------------------------------------------------------------------------------

EPS = ["-0.1", "0", "1.01", "nan", "inf", "-inf", "1e400", "", " ", "abc", "0.1,,0.2", "0.1,", "1/0", "0/1", "2/1"]


@pytest.mark.parametrize("command", ["attack", "verify", "report", "run"])
@pytest.mark.parametrize("eps", EPS)
def test_an_eps_that_is_no_eps_is_refused(small: Small, command: str, eps: str) -> None:
    before = contents(small.folder)
    places = small.places[:2] if command == "verify" else small.places
    result = advbench(command, f"--eps={eps}", *places, "--json")
    assert_refused(result)
    assert "eps" in result.err
    assert contents(small.folder) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--loss", "lgm", "--alpha=-0.5"), "alpha"),
        (("train", "--loss", "lgm", "--alpha=nan"), "alpha"),
        (("train", "--loss", "lgm", "--alpha=inf"), "alpha"),
        (("train", "--loss", "lgm", "--lam=-1"), "lam"),
        (("train", "--loss", "lgm", "--log-var-floor=nan"), "log_var_floor"),
        (("train", "--loss", "center", "--weight=-1"), "weight"),
        (("train", "--loss", "center", "--centre-step=-1"), "centre_step"),
        (("train", "--loss", "softmax", "--alpha", "1"), "alpha"),
        (("attack", "--loss", "center", "--lam", "1"), "lam"),
        (("run", "--loss", "softmax,center", "--alpha", "1"), "alpha"),
        (("train", "--loss", ""), "loss"),
        (("run", "--loss", ""), "loss"),
        (("run", "--loss", "softmax,,lgm"), "loss"),
        (("train", "--epochs", "0"), "epochs"),
        (("train", "--epochs=-1"), "epochs"),
        (("train", "--train-batch-size", "0"), "batch_size"),
        (("train", "--learning-rate", "0"), "learning_rate"),
        (("train", "--learning-rate", "nan"), "learning_rate"),
        (("train", "--momentum=-0.1"), "momentum"),
        (("train", "--momentum", "1"), "momentum"),
        (("train", "--weight-decay=-0.1"), "weight_decay"),
        (("train", "--warmup=-1"), "warmup"),
        (("train", "--adversarial-eps", "0"), "adversarial eps"),
        (("attack", "--adversarial-eps", "1.1"), "adversarial eps"),
        (("run", "--adversarial-eps", "x"), "adversarial_eps"),
        (("train", "--adversarial-steps", "0"), "adversarial steps"),
        (("train", "--adversarial-steps", "1.5"), "adversarial_steps"),
        (("train", "--adversarial-step=-1"), "adversarial step"),
        (("train", "--adversarial-ramp", "2"), "adversarial ramp"),
        (("train", "--no-adversarial", "--adversarial-eps", "0.1"), "--no-adversarial"),
        (("verify", "--training", "robust"), "adversarial"),
        (("report", "--training", "standard,"), "training"),
        (("train", "--batch-size", "0"), "batch_size"),
        (("attack", "--batch-size=-4"), "batch_size"),
        (("run", "--batch-size", "0"), "batch_size"),
        (("train", "--threads", "0"), "threads"),
        (("run", "--threads=-1"), "threads"),
        (("train", "--threads", "1000000"), "at most 1024"),
        (("train", "--threads", "99999999999999999999"), "at most 1024"),
        (("attack", "--eps", ""), "--eps 0.1,0.2"),
        (("train", "--seed=-1"), "seed"),
        (("train", "--seed", "x"), "seed"),
        (("train", "--seed", "4294967296"), "seed"),
        (("train", "--seed", "0.5"), "seed"),
        (("attack", "--seed", "0,1"), "seed"),
        (("run", "--seed", "0,x"), "seed"),
        (("run", "--seed", "0,-1"), "seed"),
        (("run", "--seed", ""), "seed"),
        (("verify", "--seed", "x"), "seed"),
        (("verify", "--alpha", "x"), "alpha"),
        (("attack", "--n", "0"), "n = 0"),
        (("attack", "--n=-3"), "n = -3"),
        (("attack", "--n", "301"), "301"),
        (("run", "--n", "0"), "n = 0"),
        (("run", "--n", "301"), "300"),
        (("train", "--feature-dim", "3"), "feature_dim"),
        (("train", "--feature-dim", "x"), "feature_dim"),
        (("run", "--feature-dim", "1e2"), "feature_dim"),
        (("train", "--device", "gpu"), "cpu"),
        (("train", "--device", "cuda:63"), "cuda:63"),
        (("train", "--device", ""), "device"),
        (("train", "--dataset", ""), "data set"),
        (("train", "--network", ""), "network"),
        (("attack", "--attack", ""), "attack"),
        (("run", "--detector", ""), "detector"),
        (("list", "nothing"), "nothing"),
        (("list", "runz"), "'runs'"),
        (("run", "no-such-file.toml"), "no-such-file.toml"),
        (("run", "."), "spec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_value_is_refused_in_one_sentence(small: Small, words: tuple[str, ...], said: str) -> None:
    before = contents(small.folder)
    places = small.places[:2] if words[0] in ("list", "verify") else small.places
    result = advbench(*words, *places, "--json")
    assert_refused(result)
    assert said in result.err
    assert contents(small.folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--epochs", "x"),
        ("train", "--alpha", "abc"),
        ("attack", "--n", "1.5"),
        ("train", "--batch-size", "x"),
        ("train", "--no-such-option"),
        ("train", "surplus"),
        ("no-such-command",),
        ("verify", "--epochs", "2"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_parsed_is_refused_in_one_line(words: tuple[str, ...]) -> None:
    assert_refused(advbench(*words))


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("train", "--loss", "sofmax"), "softmax"),
        (("run", "--loss", "softmax,lgn"), "lgm"),
        (("attack", "--attack", "fgms"), "fgsm"),
        (("attack", "--attack", "targeted_fgsm"), "targeted-fgsm"),
        (("run", "--detector", "likelyhood"), "likelihood"),
        (("verify", "--detector", "max-posteriour"), "max-posterior"),
        (("verify", "--attack", "fgms"), "fgsm"),
        (("verify", "--loss", "lgn"), "lgm"),
        (("report", "--dataset", "digit"), "digits"),
        (("train", "--dataset", "minst"), "mnist"),
        (("train", "--loss", "lgm", "--covariance", "diagnal"), "diagonal"),
        (("train", "--precision", "fp23"), "fp32"),
        (("train", "--augmentation", "miror-crop"), "mirror-crop"),
        (("train", "--network", "digit-cnn"), "digits-cnn"),
        (("list", "atacks"), "attacks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(
    small: Small, words: tuple[str, ...], near: str
) -> None:
    before = contents(small.folder)
    places = small.places[:2] if words[0] in ("list", "verify") else small.places
    result = advbench(*words, *places, "--json")
    assert_refused(result)
    assert f"Did you mean {near!r}?" in result.err
    assert contents(small.folder) == before


@pytest.mark.parametrize("name", ["../x", "", " ", ".", "..", ".x", "a/b", "a\\b", "a\nb", "a\0b", "x" * 300, "x "])
@pytest.mark.parametrize("command", ["run", "report"])
def test_a_study_name_that_is_no_folder_name_is_refused(small: Small, command: str, name: str) -> None:
    before = contents(small.folder)
    result = advbench(command, f"--name={name}", *small.places)
    assert_refused(result)
    assert "name" in result.err
    assert len(result.err) < 400
    assert contents(small.folder) == before


@pytest.mark.parametrize("command", ["verify", "report"])
def test_nothing_to_verify_is_refused_with_a_command_that_makes_something(
    small: Small, tmp_path: Path, command: str
) -> None:
    for words in (
        ("--runs-dir", str(tmp_path / "none")),
        ("--runs-dir", str(small.runs), "--eps", "0.77"),
        ("--runs-dir", str(small.runs), "--seed", "9"),
        ("--runs-dir", str(small.runs), "--loss", "center"),
    ):
        result = advbench(command, *words, "--json")
        assert_refused(result)
        assert "advbench attack" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_runs_folder_that_is_a_file_is_refused_by_every_command(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for words in (("train", *SMALL), ("attack", *SMALL), ("run", *SMALL), ("verify",), ("report",), ("list", "runs")):
        result = advbench(*words, "--runs-dir", file, "--json")
        assert_refused(result)
        assert str(file) in result.err
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_folder_that_is_a_file_is_refused_and_kept(small: Small, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    before = contents(small.folder)
    result = advbench("report", "--runs-dir", small.runs, "--reports-dir", file, "--json")
    assert_refused(result, after_progress=True)
    assert str(file) in result.err
    assert file.read_text() == "mine"
    assert contents(small.folder) == before


def test_a_report_folder_that_is_a_file_is_refused_before_any_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    words = ("--loss", "softmax", "--attack", "fgsm", "--eps", "0.1", "--epochs", "1", "--threads", "1")
    assert_refused(advbench("run", *words, "--runs-dir", tmp_path / "runs", "--reports-dir", file))
    assert list(tmp_path.iterdir()) == [file]


# -- files that are damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.jsonl", "outputs/test.safetensors", "attacks/fgsm-eps0.1.safetensors"]
)
@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_file_is_named_and_made_again(small: Small, copy: Small, name: str, damage: str) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    result = advbench("run", *copy.words, *copy.places, "--json")
    assert (result.code, result.rows) == (0, copy.result.rows)
    (line,) = [line for line in result.err.splitlines() if name in line]
    assert {"missing": "is missing", "cut": "was truncated", "altered": "was altered"}[damage] in line
    assert "made again" in line
    assert tensors(copy) == tensors(small)


def tensors(study: Small) -> dict[str, str]:
    return {name: found for name, found in contents(study.folder).items() if name.endswith(".safetensors")}


def test_damaged_scores_are_made_again_by_run_on_workers_and_by_verify_that_names_detectors(copy: Small) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / "metrics.json"
    whole = path.read_bytes()
    detectors = sorted({row["detector"] for row in copy.result.rows})
    for words in (
        ("run", *copy.words, *copy.places, "--on", "local", "--jobs", "1"),
        ("verify", "--loss", "lgm", "--detector", ",".join(detectors), *copy.places[:2]),
    ):
        path.write_bytes(whole[:-1])
        result = advbench(*words, "--json")
        assert result.code == 0, result.err
        assert path.name in result.err
        assert cells_in(path.read_bytes()) == cells_in(whole)


def cells_in(metrics: bytes) -> list[str]:
    return sorted(json.dumps(cell) for cell in json.loads(metrics)["cells"])


@pytest.mark.parametrize(
    "name",
    [
        "scores.parquet",
        "metrics.json",
        "model.safetensors",
        "outputs/test.safetensors",
        "attacks/fgsm-eps0.1.safetensors",
    ],
)
@pytest.mark.parametrize("command", ["verify", "report"])
def test_damaged_results_are_named_by_verify_and_report(copy: Small, command: str, name: str) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / name
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(copy.folder)
    places = copy.places if command == "report" else copy.places[:2]
    result = advbench(command, *places, "--json")
    assert_refused(result, after_progress=True)
    assert str(path) in result.err
    assert contents(copy.folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "\x00\x01"])
def test_a_damaged_manifest_is_named_by_every_command_and_run_begins_anew(
    small: Small, copy: Small, text: str
) -> None:
    path = next(copy.runs.glob("digits-softmax-*")) / "manifest.json"
    path.write_text(text)
    before = contents(copy.runs)
    for words in (("verify", *copy.places[:2]), ("report", *copy.places), ("list", "runs", *copy.places[:2])):
        result = advbench(*words, "--json")
        assert (result.code, {row["run"] for row in result.rows} & {path.parent.name}) == (0, set())
        assert str(path) in result.err
        assert "advbench run" in result.err
    assert contents(copy.runs) == before
    engine = ("--on", "local", "--jobs", "1") if text == "{" else ()
    result = advbench("run", *copy.words, *copy.places, *engine, "--json")
    assert (result.code, result.rows) == (0, copy.result.rows)
    assert len([line for line in result.err.splitlines() if "manifest.json" in line]) == 1
    assert tensors(copy) == tensors(small)


@pytest.mark.parametrize("change", [{}, {"seed": 7}, {"loss": 3}])
def test_a_manifest_that_describes_another_model_is_named_by_every_command(
    copy: Small, change: dict[str, object]
) -> None:
    path = next(copy.runs.glob("digits-softmax-*")) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] = manifest["model"] | change if change else {}
    path.write_text(json.dumps(sealed(manifest)))  # by somebody who meant it
    before = contents(copy.runs)
    for words in (
        ("verify", *copy.places[:2]),
        ("list", "runs", *copy.places[:2]),
        ("run", *copy.words, *copy.places),
    ):
        result = advbench(*words, "--json")
        if words[0] == "run":
            assert_refused(result, after_progress=True)
        else:
            assert (result.code, {row["run"] for row in result.rows} & {path.parent.name}) == (0, set())
        assert str(path) in result.err
    assert contents(copy.runs) == before


def test_a_reports_folder_that_is_a_file_is_refused_before_anything_is_computed(copy: Small, tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    assert advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places).code == 0
    before = contents(copy.folder)
    result = advbench("report", *copy.places[:2], "--reports-dir", file, "--json")
    assert_refused(result)
    assert (contents(copy.folder), file.read_text()) == (before, "mine")


@pytest.mark.parametrize("option", ["--runs-dir", "--reports-dir"])
def test_an_empty_folder_name_is_not_taken_for_the_current_folder(tmp_path: Path, option: str) -> None:
    result = advbench("run", option, "", *SMALL)
    assert_refused(result)
    assert option.strip("-").replace("-", "_") in result.err
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_are_refused_in_one_line_even_where_their_hash_is_listed(copy: Small) -> None:
    softmax, lgm = (next(copy.runs.glob(f"digits-{loss}-*")) for loss in ("softmax", "lgm"))
    stranger = (softmax / "model.safetensors").read_bytes()
    (lgm / "model.safetensors").write_bytes(stranger)
    manifest = json.loads((lgm / "manifest.json").read_text())
    listed = {"sha256": hashlib.sha256(stranger).hexdigest(), "bytes": len(stranger)}
    manifest["steps"]["train"]["files"]["model.safetensors"] = listed
    (lgm / "manifest.json").write_text(json.dumps(sealed(manifest)))
    result = advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places)
    assert_refused(result, after_progress=True)
    assert str(lgm / "model.safetensors") in result.err


def test_a_full_disk_is_one_sentence_and_harms_nothing(copy: Small) -> None:
    before = contents(copy.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # less than one model, less than one attack
    try:
        for words in (("train", "--loss", "center"), ("attack", "--loss", "lgm", "--eps", "0.2")):
            result = advbench(*words, *SMALL, *copy.places, "--json")
            assert_refused(result, after_progress=True)
            assert "space" in result.err
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = contents(copy.folder)
    assert {name: after[name] for name in before} == before
    assert list(copy.folder.rglob("*.part")) == []
    assert advbench("verify", *copy.places[:2], "--json").code == 0


def test_a_full_disk_during_verify_costs_no_result(copy: Small) -> None:
    assert advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places, "--json").code == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # enough for a manifest
    try:
        assert_refused(advbench("verify", "--loss", "lgm", *copy.places[:2], "--json"), after_progress=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = advbench("verify", *copy.places[:2], "--json").rows
    assert [row for row in again if row["eps"] == 0.2]
    kept = sorted(json.dumps(row) for row in again if row["eps"] != 0.2)
    assert kept == sorted(json.dumps(row) for row in copy.result.rows)


# -- MNIST without its files -------------------------------------------------------------------------------------


def idx(magic: int, shape: tuple[int, ...], data: bytes) -> bytes:
    """An IDX file: magic number, sizes, bytes."""
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + data


def four(images: Callable[[int], bytes], labels: Callable[[int], bytes]) -> dict[str, bytes]:
    """The four files of MNIST, from the number of images in each part."""
    files = {}
    for prefix, n in (("train", 60_000), ("t10k", 10_000)):
        files[f"{prefix}-images-idx3-ubyte"] = images(n)
        files[f"{prefix}-labels-idx1-ubyte"] = labels(n)
    return files


def some_images(n: int) -> bytes:
    return idx(0x803, (n, 28, 28), bytes(28 * 28 * 10))


def some_labels(n: int) -> bytes:
    return idx(0x801, (n,), bytes(range(10)))


MNIST_FOLDERS: dict[str, dict[str, bytes]] = {
    "no files": {},
    "truncated": four(some_images, some_labels),
    "empty files": four(lambda _: b"", lambda _: b""),
    "text files": four(lambda _: b"<html>404 not found</html>", lambda _: b"<html>404 not found</html>"),
    "noise": four(lambda n: bytes((7 * i + n) % 256 for i in range(999)), lambda n: bytes([255, n % 256] * 50)),
    "ten images": four(lambda _: some_images(10), lambda _: some_labels(10)),
    "labels missing": {k: v for k, v in four(some_images, some_labels).items() if "images" in k},
}


@pytest.mark.parametrize("case", MNIST_FOLDERS)
def test_mnist_with_bad_files_is_refused_and_names_their_folder(tmp_path: Path, case: str) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in MNIST_FOLDERS[case].items():
        (raw / name).write_bytes(data)
    before = contents(tmp_path)
    result = advbench("train", "--dataset", "mnist", "--data-dir", tmp_path / "data", "--json")
    assert_refused(result)
    assert str(raw) in result.err
    assert "--download" in result.err or "original" in result.err
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_mnist_without_a_data_folder_says_how_to_name_one(tmp_path: Path) -> None:
    result = advbench("run", "--dataset", "mnist", "--json")
    assert_refused(result)
    assert "--data-dir" in result.err
    missing = advbench("run", "--dataset", "mnist", "--data-dir", tmp_path / "none", "--json")
    assert_refused(missing)
    assert str(tmp_path / "none") in missing.err
    assert list(tmp_path.iterdir()) == []


def test_the_data_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVBENCH_DATA", str(tmp_path / "from-the-environment"))
    result = advbench("train", "--dataset", "mnist")
    assert_refused(result)
    assert "from-the-environment" in result.err


def test_the_runs_folder_may_come_from_the_environment(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVBENCH_RUNS", str(small.runs))
    assert {"softmax", "lgm"} <= {row["loss"] for row in advbench("list", "runs", "--json").rows}


# -- TOML files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilon = 0.3", "epsilon"),
        ("attack = ['fgsm']", "'attacks'"),
        ("[training]\nepoch = 3", "'epochs'"),
        ("losses = [{ name = 'lgm', lambda = 0.1 }]", "'lambda'"),
        ("losses = [{ name = 'softmax', alpha = 1.0 }]", "alpha"),
        ("attacks = [{ name = 'fgsm', epz = 0.3 }]", "'eps'"),
        ("attacks = [{ name = 'fgsm', n = 0 }]", "n"),
        ("losses = ['lgm'", "TOML"),
        ("name = 'a'\nname = 'b'", "TOML"),
        ("name = 5", "name"),
        ("name = '../x'", "name"),
        ("dataset = 5", "dataset"),
        ("dataset = ['digits']", "dataset"),
        ("network = 5", "network"),
        ("feature_dim = '100'", "feature_dim"),
        ("feature_dim = true", "feature_dim"),
        ("feature_dim = [2]", "feature_dim"),
        ("feature_dim = 3", "feature_dim"),
        ("losses = 5", "loss"),
        ("losses = []", "losses"),
        ("losses = [true]", "loss"),
        ("losses = [{ alpha = 1.0 }]", "name"),
        ("losses = [{ name = 5 }]", "name"),
        ("losses = [{ name = 'lgm', alpha = 'much' }]", "alpha"),
        ("losses = [{ name = 'lgm', alpha = true }]", "alpha"),
        ("losses = [{ name = 'lgm', alpha = nan }]", "alpha"),
        ("losses = [{ name = 'lgm', alpha = [1.0] }]", "alpha"),
        ("losses = [{ name = 'lgm', covariance = 1 }]", "covariance"),
        ("losses = [{ name = 'lgm', adversarial = 1 }]", "adversarial"),
        ("losses = [{ name = 'lgm', adversarial = 'yes' }]", "adversarial"),
        ("losses = [{ name = 'lgm', adversarial = { epz = 0.1 } }]", "'eps'"),
        ("losses = [{ name = 'lgm', adversarial = { eps = 2 } }]", "adversarial eps"),
        ("seeds = 'x'", "seed"),
        ("seeds = ['0']", "seed"),
        ("seeds = [0.5]", "seed"),
        ("seeds = [true]", "seed"),
        ("seeds = [-1]", "seed"),
        ("seeds = []", "seeds"),
        ("attacks = 5", "attack"),
        ("attacks = []", "attacks"),
        ("attacks = [{ eps = 0.3 }]", "name"),
        ("attacks = [{ name = 'fgsm', eps = [] }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = true }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = [[0.1]] }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = 0 }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = inf }]", "eps"),
        ("attacks = [{ name = 'fgsm', clip = 1 }]", "clip"),
        ("attacks = [{ name = 'fgsm', exact_gradient = 'yes' }]", "exact_gradient"),
        ("detectors = 5", "detectors"),
        ("detectors = [5]", "detectors"),
        ("detectors = []", "detectors"),
        ("detectors = ['likelyhood']", "'likelihood'"),
        ("n = '5'", "n"),
        ("n = true", "n"),
        ("n = 0", "n"),
        ("n = 301", "301"),
        ("n = [5]", "n"),
        ("training = 5", "training"),
        ("training = ['epochs']", "training"),
        ("[training]\nepochs = '3'", "epochs"),
        ("[training]\nepochs = 2.5", "epochs"),
        ("[training]\nepochs = true", "epochs"),
        ("[training]\nepochs = 0", "epochs"),
        ("[training]\nbatch_size = 0", "batch_size"),
        ("[training]\nlearning_rate = 'x'", "learning_rate"),
        ("[training]\nlearning_rate = inf", "learning_rate"),
        ("[training]\nmomentum = [0.9]", "momentum"),
        ("[training]\nweight_decay = false", "weight_decay"),
        ("[training]\nwarmup = 'x'", "warmup"),
        ("[training]\nprecision = 16", "precision"),
        ("[training]\nprecision = 'fp23'", "'fp32'"),
        ("[training]\nfull_train = 1", "full_train"),
    ],
)
def test_a_bad_spec_is_refused_in_one_sentence(small: Small, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    before = contents(small.folder)
    result = advbench("run", path, *small.places, "--json")
    assert_refused(result)
    assert said in result.err
    assert contents(small.folder) == before


@pytest.mark.parametrize(
    "text",
    [
        "losses = 5",
        "losses = [5]",
        "losses = [{ alpha = 1.0 }]",
        "attacks = 5",
        "attacks = [5]",
        "attacks = [{ eps = 0.1 }]",
        "training = 5",
    ],
)
def test_a_bad_spec_stays_bad_when_options_override_parts_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert_refused(advbench("run", path, "--alpha", "1", "--eps", "0.1", "--epochs", "1"))


def test_a_spec_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00name")
    assert_refused(advbench("run", tmp_path / "noise.toml"))


# -- the command line's twin: TOML -------------------------------------------------------------------------------


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spec]:
    """The spec that a `run` command line means, without running it."""
    seen: list[Spec] = []

    def stop(study: Study) -> tuple[Path, list[Any]]:
        seen.append(study.spec)
        return Path("nowhere"), []

    monkeypatch.setattr("advbench.report.write.run", stop)

    def ask(*words: str | Path) -> Spec:
        result = advbench("run", *words, "--json")
        assert result.code == 0, result.err
        return seen.pop()

    return ask


TWIN = """
name = "twin"
dataset = "digits"
network = "digits-cnn"
feature_dim = 2
losses = ["softmax", { name = "lgm", alpha = 0.5, lam = 0.2, covariance = "diagonal", log_var_floor = -3 }]
seeds = [3, 4]
attacks = [
  { name = "fgsm", eps = ["8/255", 0.1], clip = false, exact_gradient = true },
  { name = "targeted-fgsm", eps = ["8/255", 0.1], clip = false, exact_gradient = true },
]
detectors = ["max-posterior"]
n = 40
[training]
epochs = 1
batch_size = 100
learning_rate = 0.01
momentum = 0.5
weight_decay = 0.001
warmup = 0.5
precision = "bf16"
augmentation = "mirror-crop"
full_train = true
"""
TWIN_WORDS = """
--name twin --dataset digits --network digits-cnn --feature-dim 2 --loss softmax,lgm --alpha 0.5 --lam 0.2
--covariance diagonal --log-var-floor -3 --seed 3,4 --attack fgsm,targeted-fgsm --eps 8/255,0.1 --no-clip
--exact-gradient --detector max-posterior --n 40 --epochs 1 --train-batch-size 100 --learning-rate 0.01
--momentum 0.5 --weight-decay 0.001 --warmup 0.5 --precision bf16 --augmentation mirror-crop --full-train
"""


def test_every_key_of_a_spec_has_an_option_that_means_the_same(tmp_path: Path, spec_of: Callable[..., Spec]) -> None:
    path = tmp_path / "twin.toml"
    path.write_text(TWIN)
    by_options = spec_of(*TWIN_WORDS.split())
    assert by_options == spec_of(path) == parse(read_toml(path))
    assert by_options != spec_of()
    assert by_options.training["precision"] == "bf16"
    assert by_options.training["augmentation"] == "mirror-crop"


def test_center_settings_have_options_too(spec_of: Callable[..., Spec]) -> None:
    table = {"losses": [{"name": "center", "weight": 0.3, "centre_step": 0.25}]}
    assert spec_of("--loss", "center", "--weight", "0.3", "--centre-step", "0.25") == parse(table)


def test_the_settings_of_adversarial_training_have_options_too(spec_of: Callable[..., Spec]) -> None:
    table = {"eps": "8/255", "steps": 3, "step": 0.01, "ramp": 0.5}
    words = "--adversarial-eps 8/255 --adversarial-steps 3 --adversarial-step 0.01 --adversarial-ramp 0.5"
    meant = parse({"losses": [{"name": "lgm", "adversarial": table}]})
    assert spec_of("--loss", "lgm", *words.split()) == meant
    assert spec_of("--loss", "lgm", "--adversarial", *words.split()) == meant


def test_a_run_without_options_is_the_digits_study(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of()
    assert spec == parse({})
    assert (spec.name, spec.dataset) == ("digits-study", "digits")


@pytest.mark.parametrize(
    ("toml", "words", "meant"),
    [
        ("seeds = [5, 6]", "--seed 1", "seeds = [1]"),
        ("name = 'a'", "--name b", "name = 'b'"),
        ("n = 5\nattacks = 'fgsm'", "--n 7", "n = 7\nattacks = 'fgsm'"),
        ("attacks = [{ name = 'fgsm', n = 5 }]", "--n 7", "n = 7\nattacks = 'fgsm'"),
        ("n = 5", "--n 7", "n = 7"),
        ("detectors = ['likelihood']\nattacks = 'fgsm'", "--detector max-posterior",
         "detectors = ['max-posterior']\nattacks = 'fgsm'"),
        ("losses = ['center']", "--loss lgm", "losses = ['lgm']"),
        ("losses = ['lgm']", "--alpha 0.5", "losses = [{ name = 'lgm', alpha = 0.5 }]"),
        ("losses = 'lgm'", "--alpha 0.5", "losses = [{ name = 'lgm', alpha = 0.5 }]"),
        ("losses = { name = 'lgm', lam = 0.3 }", "--alpha 0.5", "losses = [{ name='lgm', alpha=0.5, lam=0.3 }]"),
        ("losses = [{ name = 'lgm', alpha = 2, lam = 0.3 }]", "--alpha 0.5",
         "losses = [{ name = 'lgm', alpha = 0.5, lam = 0.3 }]"),
        ("losses = ['softmax', 'lgm']", "--alpha 0.5", "losses = ['softmax', { name = 'lgm', alpha = 0.5 }]"),
        ("losses = ['lgm']", "--adversarial", "losses = [{ name = 'lgm', adversarial = true }]"),
        ("losses = ['lgm']", "--adversarial-eps 0.2", "losses = [{ name = 'lgm', adversarial = { eps = 0.2 } }]"),
        ("losses = [{ name = 'lgm', adversarial = { steps = 4 } }]", "--adversarial",
         "losses = [{ name = 'lgm', adversarial = { steps = 4 } }]"),
        ("losses = [{ name = 'lgm', adversarial = { steps = 4 } }]", "--adversarial-eps 0.2",
         "losses = [{ name = 'lgm', adversarial = { eps = 0.2, steps = 4 } }]"),
        ("losses = ['lgm', { name = 'lgm', adversarial = true }]", "--no-adversarial", "losses = ['lgm']"),
        ("", "--no-adversarial", "losses = ['softmax', 'center', 'lgm']"),
        ("losses = [{ name = 'lgm', adversarial = true }]", "--alpha 0.5",
         "losses = [{ name = 'lgm', alpha = 0.5, adversarial = true }]"),
        ("[training]\nepochs = 9\nmomentum = 0.5", "--epochs 4", "[training]\nepochs = 4\nmomentum = 0.5"),
        ("attacks = ['targeted-fgsm']", "--eps 0.1", "attacks = [{ name = 'targeted-fgsm', eps = 0.1 }]"),
        ("attacks = 'targeted-fgsm'", "--eps 0.1", "attacks = [{ name = 'targeted-fgsm', eps = 0.1 }]"),
        ("attacks = [{ name = 'fgsm', eps = 0.1 }]", "--attack targeted-fgsm --eps 0.2",
         "attacks = [{ name = 'targeted-fgsm', eps = 0.2 }]"),
        ("attacks = [{ name = 'fgsm', eps = 0.1, exact_gradient = true }]", "--eps 0.2",
         "attacks = [{ name = 'fgsm', eps = 0.2, exact_gradient = true }]"),
        ("attacks = [{ name = 'fgsm', eps = [0.1, 0.2] }]", "--no-clip",
         "attacks = [{ name = 'fgsm', eps = [0.1, 0.2], clip = false }]"),
        ("", "--exact-gradient",
         "attacks = [{ name = 'fgsm', eps = [0.1, 0.2, 0.3], exact_gradient = true },"
         " { name = 'targeted-fgsm', eps = 0.3, exact_gradient = true },"
         " { name = 'detector-aware', eps = [0.1, 0.3], detector = ['likelihood', 'max-posterior'], budget = 'quick',"
         " n = 200 }]"),
    ],
    ids=lambda value: value if value.startswith("--") else "",
)  # fmt: skip
def test_an_option_overrides_its_key_and_no_other(
    tmp_path: Path, spec_of: Callable[..., Spec], toml: str, words: str, meant: str
) -> None:
    (tmp_path / "given.toml").write_text(toml)
    (tmp_path / "meant.toml").write_text(meant)
    assert spec_of(tmp_path / "given.toml", *words.split()) == parse(read_toml(tmp_path / "meant.toml"))


def aimed(spec: Spec) -> list[tuple[str, float, str | None, float | None, int | None]]:
    """The attacks of a study that know a detector: name, eps, detector, fpr, n."""
    found = [c for c in spec.attacks if c.detector is not None]
    return [(c.choice.name, c.choice.settings["eps"], c.detector, c.fpr, c.n) for c in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--eps 0.1",
         [("detector-aware", 0.1, "likelihood", 0.05, 200), ("detector-aware", 0.1, "max-posterior", 0.05, 200)]),
        ("--detector likelihood --eps 0.2", [("detector-aware", 0.2, "likelihood", 0.05, 200)]),
        ("--attack joint --detector likelihood --eps 0.1", [("joint", 0.1, "likelihood", 0.05, None)]),
        ("--attack joint --eps 0.1 --n 9",
         [("joint", 0.1, "likelihood", 0.05, 9), ("joint", 0.1, "max-posterior", 0.05, 9)]),
        ("--attack fgsm", []),
    ],
)  # fmt: skip
def test_a_study_aims_its_adaptive_attacks_at_its_detectors(
    spec_of: Callable[..., Spec], words: str, expected: list[Any]
) -> None:
    assert aimed(spec_of(*words.split())) == expected


def test_a_spec_file_keeps_the_detector_that_its_attack_names(tmp_path: Path, spec_of: Callable[..., Spec]) -> None:
    path = tmp_path / "study.toml"
    path.write_text("attacks = [{ name = 'joint', detector = 'likelihood', eps = 0.1 }]")
    assert aimed(spec_of(path, "--detector", "max-posterior")) == [("joint", 0.1, "likelihood", 0.05, None)]


def test_a_spec_finds_the_run_folders_that_options_made(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("""
losses = ["softmax", "lgm"]
attacks = [{ name = "fgsm", eps = [0.1, "8/255"] }]
[training]
epochs = 2
""")
    before = contents(small.runs)
    result = advbench("run", path, "--threads", "1", *small.places, "--json")
    assert result.out == small.result.out
    assert contents(small.runs) == before


# -- Ctrl-C ------------------------------------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", tuple[str, ...], Path]]:
    """A training in a process of its own, stood at its first checkpoint."""
    words = ("train", "--loss", "lgm", "--epochs", "8", "--threads", "1", "--json", "--runs-dir")
    command = [sys.executable, "-m", "advbench", *words, str(tmp_path / "stopped")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell that runs the tests in the background has them, and so this process, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 150
        # the checkpoint counts once the manifest lists it, which is a moment after its file appears
        while not list((tmp_path / "stopped").glob("*/manifest.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process, words, tmp_path / "stopped"
    finally:
        process.kill()
        process.communicate()


def test_a_training_stopped_by_ctrl_c_goes_on_to_the_very_same_bytes(
    training: tuple["subprocess.Popen[str]", tuple[str, ...], Path], tmp_path: Path
) -> None:
    process, words, folder = training
    (run,) = folder.iterdir()
    with pytest.raises(BadRun, match="in use"), locks.hold(run):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not (run / "model.safetensors").exists()
    assert list(run.rglob("*.part")) == []

    resumed = advbench(*words, folder)
    whole = advbench(*words, tmp_path / "whole")
    assert (resumed.code, whole.code) == (0, 0)
    assert "going on after epoch" in resumed.err
    assert "going on" not in whole.err
    model = (run / "model.safetensors").read_bytes()
    assert model == (tmp_path / "whole" / run.name / "model.safetensors").read_bytes()
    assert list(run.glob("checkpoint-*")) == []
    epochs = [json.loads(line)["epoch"] for line in (run / "training.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 9))
    assert err.splitlines()[-1].startswith("advbench: ")  # and says that it can go on


def test_help_of_every_command_names_its_options() -> None:
    for command in ("train", "attack", "verify", "report", "run", "list"):
        result = advbench(command, "--help")
        assert result.code == 0
        assert "--json" in result.out
        assert result.err == ""
