"""The simulated grid: bounds that hold for any schedule, and the real queue's rules when workers are lost."""

import pytest

from tests.tools.simulation import ATTACKS, Costs, grid, main, simulate

SMALL = Costs(models=3, losses=0.0)


def test_a_models_cells_are_its_training_its_attacks_and_their_scoring() -> None:
    cells, seconds, written = grid(SMALL)
    assert len(cells) == len(seconds) == len(written) == 3 * 100
    assert sum(count for _, _, count in ATTACKS.values()) == 98


@pytest.mark.parametrize("gpus", [1, 7, 1000])
def test_all_cells_are_done_and_never_faster_than_the_bound(gpus: int) -> None:
    found = simulate(gpus, SMALL)
    assert (found.cells, found.retried, found.failed) == (300, 0, 0)
    assert found.hours > found.bound
    assert 0 < found.busy < 1


def test_one_gpu_is_never_idle_and_eight_are_almost_eight_times_as_fast() -> None:
    one, eight = (simulate(gpus, Costs(models=20, losses=0.0)) for gpus in (1, 8))
    assert one.busy > 0.99
    assert 6 < one.hours / eight.hours <= 8.01


def test_lost_workers_cost_retries_and_no_cell_until_the_third_try() -> None:
    few, many = simulate(8, Costs(models=3, losses=2.0)), simulate(8, Costs(models=3, losses=200.0))
    assert few.retried > 0
    assert (few.cells, few.failed) == (300, 0)
    assert many.failed > 0
    assert many.cells < 300


def test_it_prints_a_row_for_each_number_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "1", "--gpus", "1", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["GPUs", "---", "1", "2"]
