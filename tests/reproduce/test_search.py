"""The reproduction's trials: rows that are kept are not made again, and each new one is kept at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from advbench.reproduce.experiment import Search, load
from advbench.reproduce.records import Trial, TrialRow, Trials, read, write
from advbench.reproduce.search import bring_on

COMMITTED = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "tuning.json"
ROWS = list(read(Trials, COMMITTED).rows)
SEARCH = load("mnist").search or Search((), lambda rate: (), (), 0)


def refuse(trial: Trial, part: str) -> TrialRow:
    raise AssertionError(f"{part}: {trial} was made again")


def test_the_committed_trials_are_complete_and_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    file.write_bytes(COMMITTED.read_bytes())
    assert bring_on(SEARCH, file, refuse) == ROWS
    assert file.read_bytes() == COMMITTED.read_bytes()


@pytest.mark.parametrize("missing", [0, 5, len(ROWS) - 1])
def test_exactly_the_missing_trial_is_made_and_takes_its_old_place(tmp_path: Path, missing: int) -> None:
    file = tmp_path / "tuning.json"
    write(file, Trials((*ROWS[:missing], *ROWS[missing + 1 :])))
    made = []

    def make(trial: Trial, part: str) -> TrialRow:
        assert trial == ROWS[missing].trial
        assert part == ROWS[missing].part
        made.append(trial)
        return ROWS[missing]

    assert bring_on(SEARCH, file, make) == ROWS
    assert len(made) == 1
    assert file.read_bytes() == COMMITTED.read_bytes()


def test_a_trial_that_breaks_off_leaves_the_rows_made_before_it(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    write(file, Trials(tuple(ROWS[3:])))
    left = [ROWS[0], ROWS[1]]

    def make(_: Trial, part: str) -> TrialRow:
        assert part == "search"
        if not left:
            raise KeyboardInterrupt
        return left.pop(0)

    with pytest.raises(KeyboardInterrupt):
        bring_on(SEARCH, file, make)
    assert read(Trials, file).rows == (*ROWS[3:], ROWS[0], ROWS[1])


def test_a_row_of_other_settings_is_no_longer_kept(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    trial = replace(ROWS[0].trial, training={"epochs": 1, "learning_rate": 0.05})
    other = replace(ROWS[0], trial=trial)
    write(file, Trials((other, *ROWS)))
    assert bring_on(SEARCH, file, refuse) == ROWS
    assert file.read_bytes() == COMMITTED.read_bytes()
