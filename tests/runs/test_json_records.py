"""Records as JSON and back: keys, types and ranges, what may be left out, and rows of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from advbench import runs
from advbench.errors import BadRun
from advbench.runs import AdaptiveRow, AttackRow, VerifyRow, as_json, from_json
from advbench.runs.json_records import ABSENT
from advbench.runs.rows import read_attack_row
from tests.helpers.records import AWARE, MADE_WITH, MODEL, ROW, TRAINED

CELLS = sorted((Path(__file__).resolve().parents[2] / "reports" / "mnist").glob("*/*-seed?.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon": 0.3}, "row.epsilon is a key too many"),
        ({"eps": None}, "row.eps = None is not a number above 0"),
        ({"n": 1.0}, "row.n = 1.0 is not a whole number of at least 1"),
        ({"saturated": True}, "row.saturated = True is not a whole number of at least 0"),
        ({"error_rate": 1.5}, "row.error_rate = 1.5 is not a finite number from 0 to 1"),
        ({"norm": "l1"}, "row.norm = 'l1' is not one of 'linf', 'l2'"),
        ({"settings": []}, "row.settings = [] is not a table"),
        ({"settings": {"steps": [1]}}, "row.settings.steps = [1] is not a number, text, true, false or null"),
        ({"members": {"joint": "x"}}, "row.members.joint = 'x' is not a finite number from 0 to 1"),
        ({"run": 7}, "row.run = 7 is not text of at most 200 characters"),
    ],
)
def test_a_key_too_many_and_a_value_of_another_type_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"^row") as caught:
        from_json(AdaptiveRow, as_json(AWARE) | change, "row")
    assert str(caught.value) == said


@pytest.mark.parametrize("key", ["dataset", "eps", "threshold"])
def test_a_key_too_few_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^row\.{key} is missing$"):
        from_json(AdaptiveRow, {k: v for k, v in as_json(AWARE).items() if k != key}, "row")


def test_in_a_manifest_the_sentence_has_path_key_and_way_out(tmp_path: Path) -> None:
    run = runs.open_or_new(tmp_path, "one", MODEL, MADE_WITH)
    run.write("train", {"model.safetensors": b"weights"}, seconds=1.0, info=TRAINED | {"epoch": 3})
    with pytest.raises(BadRun, match=r"one/steps.journal was altered: train: info.epoch is a key too many; restore"):
        runs.load(run.folder)


def test_what_may_be_left_out_stays_out_and_what_is_null_stays_null() -> None:
    old = as_json(AWARE.model) | ROW
    row = read_attack_row(old, "row")
    assert (type(row), row.implementation, row.eight_bit_error_rate) == (AttackRow, ABSENT, None)
    assert as_json(row) == old
    assert as_json(read_attack_row(old | {"implementation": None}, "row")) == old | {"implementation": None}


@pytest.mark.parametrize("path", CELLS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_rows_are_read_and_written_again_to_the_byte(path: Path) -> None:
    record = json.loads(path.read_text())
    attacks = record.get("attacks", []) + [one["row"] for one in record.get("rows", [])]
    found = [read_attack_row(row, "row") for row in attacks]
    found_too = [from_json(VerifyRow, row, "row") for row in record.get("verify", [])]
    assert json.dumps(as_json([found, found_too])) == json.dumps([attacks, record.get("verify", [])])
