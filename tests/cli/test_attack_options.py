"""The command line of attacks: --set, --detector and --fpr, and the rows they lead to."""

import json
from pathlib import Path
from typing import Any

import pytest

from advbench import cli

BASE = ["attack", "--loss", "lgm", "--epochs", "2", "--threads", "1"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trained model for all of these."""
    return tmp_path_factory.mktemp("runs")


def attack(runs_dir: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Rows:
    assert cli.main([*BASE, "--runs-dir", str(runs_dir), "--json", *words]) == 0
    rows: Rows = json.loads(capsys.readouterr().out)["rows"]
    return rows


def refused(runs_dir: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main([*BASE, "--runs-dir", str(runs_dir), *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_settings_reach_the_attacks_that_have_them_and_stand_in_their_rows(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--attack", "pgd,fgsm", "--eps", "0.1", "--n", "20", "--set", "steps=3", "--set", "objective=margin"]
    pgd, fgsm = attack(runs_dir, capsys, *words, "--set", "stop=true", "--set", "step=none")
    assert pgd["settings"] == {"steps": 3, "objective": "margin", "stop": True}
    assert fgsm["settings"] == {}


def test_a_detector_aware_row_says_what_it_got_past_and_at_which_threshold(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--attack", "joint", "--eps", "0.3", "--n", "40", "--set", "steps=20", "--detector", "likelihood"]
    (row,) = attack(runs_dir, capsys, *words)
    assert row["settings"] == {"steps": 20, "detector": "likelihood", "fpr": 0.05}
    assert (row["detector"], row["fpr"]) == ("likelihood", 0.05)
    assert row["undetected_error_rate"] > 0.5
    assert row["undetected_error_rate"] <= row["error_rate"]
    assert row["clean_rejected"] < 0.25
    (other,) = attack(runs_dir, capsys, *words, "--fpr", "0.1")
    assert other["threshold"] < row["threshold"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--attack", "joint"], "needs to know a detector"),
        (["--attack", "joint", "--detector", "likelyhood"], "Did you mean 'likelihood'"),
        (["--attack", "joint", "--detector", "likelihood", "--fpr", "1.5"], "outside (0, 1)"),
        (["--attack", "joint", "--detector", "likelihood", "--fpr", "0.01"], "at least 1000 calibration images"),
        (["--attack", "pgd", "--detector", "likelihood"], "knows nothing of a detector"),
        (["--attack", "pgd", "--set", "stepz=3"], "Did you mean 'step'? Known: additive_margin, alpha, clip, "),
        (
            ["--attack", "pgd", "--set", "loss.steps=3"],
            "no setting of lgm named 'steps'. Known: additive_margin, alpha, ",
        ),
        (["--attack", "art:SignOPTAttack", "--set", "alpha=1"], "--set loss.alpha=... or --set attack.alpha=..."),
        (["--attack", "pgd", "--set", "steps"], "--set 'steps' is no setting"),
        (["--attack", "pgd", "--set", "steps=x"], "steps = 'x' is not a whole number"),
        (["--attack", "pgd", "--set", "stop=maybe"], "true or false"),
        (["--attack", "pgd", "--set", "norm=l2", "--eps", "9"], "outside (0, 8]"),
        (["--attack", "art:AutoAttack"], "not the published ensemble"),
        (["--attack", "art:DeepFol"], "Did you mean 'DeepFool'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    words: list[str], said: str, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(runs_dir, capsys, *words)
    assert said in err
    assert err.splitlines()[-1].startswith("advbench: ")


def test_an_attack_of_art_has_a_row_and_a_file_of_its_own(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--attack", "art:DeepFool", "--eps", "2", "--n", "4", "--set", "max_iter=5"]
    (row,) = attack(runs_dir, capsys, *words)
    assert (row["attack"], row["norm"], row["settings"]) == ("art:DeepFool", "l2", {"max_iter": 5})
    assert list(runs_dir.glob("*/attacks/art-DeepFool-eps2-*.safetensors"))
