"""Runs made by an earlier version (bbba2f9) are read by this one, and every figure keeps its value.

kept_runs.tar.xz holds `runs/` (digits, softmax and lgm of three epochs, six attacks each on 30 images; a supplied
model with three), what made them (spec.toml, m.py, w.safetensors) and `expected/`, what that version printed.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from advbench import cli

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
AWARE = "--attack detector-aware --eps 0.1 --fpr 0.1 --budget quick"
ATTACKS = (
    "--attack fgsm --eps 0.1,0.3",
    "--attack targeted-fgsm --eps 0.3",
    "--attack pgd --eps 0.1 --set steps=5",
    f"{AWARE} --detector likelihood,max-posterior",
)


def printed(capsys: pytest.CaptureFixture[str], command: str) -> Any:
    capsys.readouterr()
    assert cli.main([*command.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where a value of `old` is not in `new`; numbers, also within texts, may differ by 1e-9 of themselves."""
    if isinstance(old, dict):
        return [d for k, v in old.items() for d in differences(v, new.get(k, "no such key"), f"{at}.{k}")]
    if isinstance(old, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{at}[{i}]")]
    if isinstance(old, float):
        same = isinstance(new, (int, float)) and math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-9)
    elif isinstance(old, str) and isinstance(new, str):
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (old, new)]
        same = NUMBER.sub("#", old) == NUMBER.sub("#", new) and numbers[1] == pytest.approx(numbers[0], rel=1e-9)
    else:
        same = old == new
    return [] if same else [f"{at}: {old!r} is now {new!r}"]


def test_what_a_comparison_lets_pass_is_a_new_key_and_a_rounding_and_nothing_else() -> None:
    old = {"a": [0.5, {"b": "rate 0.25 of 4"}], "c": None}
    assert differences(old, {"a": [0.5 + 1e-12, {"b": "rate 0.25 of 4"}], "c": None, "new": 1}) == []
    for new in ({"a": [0.5, {"b": "rate 0.26 of 4"}], "c": None}, {"a": [0.5, {"b": "rate 0.25 of 4"}]}):
        assert len(differences(old, new)) == 1


def test_attack_finds_the_kept_attacks_and_prints_their_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        printed(capsys, f"attack --loss {loss} --epochs 3 --n 30 {attack}")
        for loss in ("softmax", "lgm")
        for attack in ATTACKS
    ]
    assert differences(lines(here / "expected" / "attack.jsonl"), rows) == []


def test_a_supplied_model_goes_on_from_its_kept_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the archive is older than the rule that unequal outputs are another model: equal ones must be found equal
    attack = AWARE.replace("detector-aware", "fgsm,detector-aware")
    command = f"evaluate --model m.py:build --weights w.safetensors --dataset digits {attack} --n 30"
    rows = printed(capsys, f"{command} --detector energy,mahalanobis")
    assert differences(json.loads((here / "expected" / "evaluate.json").read_text()), rows) == []
    assert len(list((here / "runs").glob("digits-m.py*"))) == 1


def test_verify_and_audit_compute_the_kept_runs_figures_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "verify --detector likelihood,max-posterior,energy,mahalanobis")
    assert differences(json.loads((here / "expected" / "verify.json").read_text()), rows) == []
    audits = [printed(capsys, f"audit {run.name}") for run in sorted((here / "runs").iterdir())]
    assert differences(lines(here / "expected" / "audit.jsonl"), audits) == []


def test_the_kept_spec_finds_its_runs_and_prints_their_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*.safetensors")}
    rows = printed(capsys, "run spec.toml")
    assert differences(json.loads((here / "expected" / "run.json").read_text()), rows) == []
    assert {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*.safetensors")} == files
