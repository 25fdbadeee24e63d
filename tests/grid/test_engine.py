"""Cells through an engine: the queue's rules, and worker processes that make what one process makes."""

import os
import signal
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from advbench import runs
from advbench.errors import FailedCells
from advbench.grid.cells import SCORED, Cell, cells_of
from advbench.grid.local import Local
from advbench.grid.queue import Queue, Tally, go_through
from advbench.progress import Quiet
from advbench.study.study import READY
from tests.helpers.studies import GRID, Heard, cell, place, study, tensors, two_models

# -- the queue ---------------------------------------------------------------------------------------------------


def taken(queue: Queue, run: str | None = None) -> Cell:
    found = queue.take(run)
    assert found is not None
    return found


def test_attacks_wait_for_their_model_and_then_go_side_by_side(tmp_path: Path) -> None:
    queue = two_models(tmp_path)
    first, second = taken(queue), taken(queue)
    assert (first.key, second.key) == (("a", READY), ("b", READY))
    assert queue.take() is None
    queue.finished(first)
    assert [taken(queue).key for _ in range(2)] == [("a", "attack x"), ("a", "attack y")]
    assert queue.take() is None
    assert len(queue) == 5


def test_a_worker_goes_on_with_the_model_that_it_has_and_another_takes_the_loneliest(tmp_path: Path) -> None:
    queue = two_models(tmp_path)
    for run in ("a", "b"):
        queue.finished(taken(queue, run))
    assert taken(queue, "b").run == "b"
    assert taken(queue).run == "a"
    assert taken(queue, "b").run == "b"
    assert taken(queue, "b").run == "a"
    assert queue.take() is None


def test_an_attack_waits_for_its_surrogate(tmp_path: Path) -> None:
    a, b, attack = (cell(tmp_path, "a", READY), cell(tmp_path, "b", READY), cell(tmp_path, "b", "attack x", "b", "a"))
    queue = Queue([a, b, attack], Quiet(), tries=3)
    for _ in range(2):
        assert queue.take("b") in (a, b)
    queue.finished(b)
    assert queue.take() is None
    queue.finished(a)
    assert queue.take() is attack


def test_some_cells_of_one_run_are_taken_together_the_model_first(tmp_path: Path) -> None:
    queue = two_models(tmp_path)
    batch = queue.take_some(2)
    assert [c.key for c in batch] == [("a", READY), ("a", "attack x")]
    assert [c.key for c in queue.take_some(9)] == [("b", READY), ("b", "attack x"), ("b", "attack y")]
    assert queue.take_some(9) == []
    queue.returned(batch[1])
    queue.lost(batch[0], "its job was lost")
    assert [c.key for c in queue.take_some(9)] == [("a", READY), ("a", "attack x"), ("a", "attack y")]
    for key in [("a", READY), ("a", "attack x"), ("a", "attack y")]:
        queue.finished(next(c for c in [*batch, cell(tmp_path, *key)] if c.key == key))
    assert queue.tally == Tally(done=3, retried=1)


def test_scoring_waits_for_the_last_attack_and_goes_when_one_fails(tmp_path: Path) -> None:
    def scored(queue_of: list[Cell]) -> Queue:
        return Queue([*queue_of, Cell("a", SCORED, {}, place(tmp_path), needs)], Quiet(), tries=1)

    attacks = [cell(tmp_path, "a", step, "a") for step in ("attack x", "attack y")]
    needs = tuple(attack.key for attack in attacks)
    queue = scored([cell(tmp_path, "a", READY), *attacks])
    queue.finished(taken(queue))
    first, second = taken(queue), taken(queue)
    queue.finished(second)
    assert queue.take() is None
    queue.finished(first)
    assert taken(queue).step == SCORED
    queue = scored([cell(tmp_path, "a", READY), *attacks])
    assert [c.step for c in queue.take_some(9)] == [READY, "attack x", "attack y", SCORED]
    queue = scored([cell(tmp_path, "a", READY), *attacks])
    queue.lost(taken(queue), "it was killed")
    assert queue.tally == Tally(failed=1, not_tried=3)
    assert not queue


def test_who_asked_is_told_of_every_cell_that_is_done(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    queue = two_models(tmp_path, on_done=lambda done: told.append(done.key))
    while (now := queue.take()) is not None:
        queue.finished(now)
    assert len(told) == len(set(told)) == 6
    assert not queue


def test_a_cell_is_tried_three_times_and_its_model_before_its_attacks(tmp_path: Path) -> None:
    queue = two_models(tmp_path)
    for _ in range(3):
        lost = taken(queue, "a")
        assert lost.key == ("a", READY)
        queue.lost(lost, "its worker was killed (SIGKILL)")
    assert queue.tally == Tally(retried=2, failed=1, not_tried=2)
    while (now := queue.take()) is not None:
        assert now.run == "b"
        queue.finished(now)
    assert not queue
    with pytest.raises(FailedCells, match=r"a: training failed 3 times.*SIGKILL.*3 of 6 cells are done") as caught:
        queue.check()
    assert caught.value.exit_code == 1


def test_what_is_refused_is_not_tried_again_and_said_once(tmp_path: Path) -> None:
    queue = two_models(tmp_path)
    for run in ("a", "b"):
        queue.refused(taken(queue, run), "the disk is full; free space", 2)
    assert not queue
    with pytest.raises(FailedCells) as caught:
        queue.check()
    assert str(caught.value).count("the disk is full") == 1
    assert caught.value.exit_code == 2


# -- worker processes --------------------------------------------------------------------------------------------


def test_workers_make_the_bytes_of_one_process_on_the_digits_grid(tmp_path: Path) -> None:
    here, there = study(tmp_path / "here", **GRID), study(tmp_path / "there", **GRID)
    rows, heard = here.attack(), Heard()
    assert go_through(cells_of(there), Local(2), heard) == Tally(done=54)
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows
    assert heard.notes[-1] == (54, "0 running, 0 retried, 0 failed")
    assert max(int(note.split()[0]) for _, note in heard.notes) == 2
    assert not active_children()
    assert go_through(cells_of(there), Local(2), heard) == Tally(before=54)


def test_attacks_on_one_model_go_side_by_side(tmp_path: Path) -> None:
    grid: dict[str, Any] = {
        "losses": "lgm",
        "attacks": {"name": "pgd", "steps": 20, "eps": [0.1, 0.2, 0.3]},
        "n": 200,
    }
    here, there = study(tmp_path / "here", **grid), study(tmp_path / "there", **grid)
    rows, heard = here.attack(), Heard()
    assert go_through(cells_of(there), Local(3), heard) == Tally(done=4)
    assert max(int(note.split()[0]) for _, note in heard.notes) == 3
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows
    assert not list((tmp_path / "there").rglob(".lock-*"))


def test_a_killed_worker_costs_one_retry_and_nothing_else(tmp_path: Path) -> None:
    def kill(line: str) -> None:
        if "fgsm-eps0.2" in line and len(killed) < 1:
            killed.append(active_children()[0].pid)
            os.kill(killed[0] or 0, signal.SIGKILL)

    killed: list[int | None] = []
    here, there = study(tmp_path / "here", losses="lgm"), study(tmp_path / "there", losses="lgm")
    rows, heard = here.attack(), Heard(kill)
    tally = go_through(cells_of(there), Local(1), heard)
    assert tally in (Tally(done=3, retried=1), Tally(done=3))  # none where the cell was done before the signal came
    assert len(killed) == 1
    assert tally.retried == sum("was killed (SIGKILL); try 2 of 3" in line for line in heard.said)
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows


def test_a_cell_that_is_refused_leaves_the_others_to_be_done(tmp_path: Path) -> None:
    bad = study(tmp_path, training={"epochs": 1, "learning_rate": 1e30, "max_gradient_norm": 1e30})
    cells = cells_of(study(tmp_path, losses="center")) + cells_of(bad)
    with pytest.raises(FailedCells, match=r"training diverged in epoch 1.*3 of 9 cells are done") as caught:
        go_through(cells, Local(1), Quiet())
    assert caught.value.exit_code == 2
    assert [run.trained.loss_name for run in runs.find(tmp_path / "runs") if "train" in run.steps] == ["center"]


def test_workers_end_with_the_work_however_it_ends(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if "fgsm" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_through(cells_of(study(tmp_path)), Local(1), Heard(stop))
    assert not active_children()
    assert go_through(cells_of(study(tmp_path)), Local(1), Quiet()).failed == 0
