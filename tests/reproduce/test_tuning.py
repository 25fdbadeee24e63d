"""The reproduction's trials: rows that are kept are not made again, and each new one is kept at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from advbench.reproduce.tuning import Trial, bring_on

COMMITTED = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "tuning.json"
ROWS: list[dict[str, Any]] = json.loads(COMMITTED.read_bytes())["rows"]


def refuse(trial: Trial, part: str) -> dict[str, Any]:
    raise AssertionError(f"{part}: {trial} was made again")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text(json.dumps({"schema": 1, "rows": rows}), encoding="utf-8")


def test_the_committed_trials_are_complete_and_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    file.write_bytes(COMMITTED.read_bytes())
    assert bring_on(file, refuse) == ROWS
    assert file.read_bytes() == COMMITTED.read_bytes()


@pytest.mark.parametrize("missing", [0, 5, len(ROWS) - 1])
def test_exactly_the_missing_trial_is_made_and_takes_its_old_place(tmp_path: Path, missing: int) -> None:
    file = tmp_path / "tuning.json"
    write(file, ROWS[:missing] + ROWS[missing + 1 :])
    made = []

    def make(trial: Trial, part: str) -> dict[str, Any]:
        assert trial.made(ROWS[missing])
        assert part == ROWS[missing]["part"]
        made.append(trial)
        return ROWS[missing]

    assert bring_on(file, make) == ROWS
    assert len(made) == 1
    assert file.read_bytes() == COMMITTED.read_bytes()


def test_a_trial_that_breaks_off_leaves_the_rows_made_before_it(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    write(file, ROWS[3:])
    left = [ROWS[0], ROWS[1]]

    def make(_: Trial, part: str) -> dict[str, Any]:
        assert part == "search"
        if not left:
            raise KeyboardInterrupt
        return left.pop(0)

    with pytest.raises(KeyboardInterrupt):
        bring_on(file, make)
    assert json.loads(file.read_bytes())["rows"] == [*ROWS[3:], ROWS[0], ROWS[1]]


def test_a_row_of_other_settings_is_no_longer_kept(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    other = {**ROWS[0], "training": {"epochs": 1, "learning_rate": 0.05}}
    write(file, [other, *ROWS])
    assert bring_on(file, refuse) == ROWS
    assert file.read_bytes() == COMMITTED.read_bytes()
