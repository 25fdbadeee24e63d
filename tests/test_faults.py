"""After every fault the next call completes, and what it leaves is what an undisturbed call leaves."""

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import runs
from advbench.artifacts import unpack
from advbench.cells import Cell, Performer, cells_of
from advbench.engines import go_through
from advbench.engines.local import Local
from advbench.engines.queue import Tally
from advbench.errors import BadRun, BadSetting, FailedCells
from advbench.progress import Quiet
from advbench.runs import Run
from tests.storm import killed_at_write, storm, study, tensors

ONE: dict[str, Any] = {"losses": "softmax", "attacks": [{"name": "fgsm", "eps": 0.1}], "training": {"epochs": 3}}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed call leaves."""
    folder = tmp_path_factory.mktemp("calm")
    study(folder, **ONE).attack()
    return tensors(folder)


def cells(folder: Path) -> list[Cell]:
    return cells_of(study(folder, **ONE))


def only_run(folder: Path) -> Run:
    (run,) = runs.find(folder / "runs")
    return run


def test_twenty_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    counts = storm(tmp_path, 20)
    print(counts)
    assert (counts.faults, counts.lost) == (20, 0)
    assert counts.files


@pytest.mark.parametrize("last", [0, 4, 10, 12])  # in training: first and second epoch; the model; the outputs
def test_a_process_killed_in_mid_write_costs_its_cell_alone(
    calm: dict[str, bytes], tmp_path: Path, last: int
) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed_at_write, args=(cells(tmp_path)[0].to_json(), last))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.part"))
    study(tmp_path, **ONE).attack()
    assert tensors(tmp_path) == calm
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_fails_its_cell_in_one_sentence_and_space_mends_it(
    calm: dict[str, bytes], tmp_path: Path
) -> None:
    def narrow(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    with pytest.raises(FailedCells, match=r"cannot write .*free space.*0 of 2 cells are done") as caught:
        go_through(cells(tmp_path), Local(1, started=narrow), Quiet())
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not list(tmp_path.rglob("*.part"))
    assert go_through(cells(tmp_path), Local(1), Quiet()) == Tally(done=2)
    assert tensors(tmp_path) == calm


def test_a_second_process_on_a_run_is_refused_and_the_first_goes_on(calm: dict[str, bytes], tmp_path: Path) -> None:
    ready, attack = cells(tmp_path)
    with runs.hold(tmp_path / "runs" / ready.run):
        with pytest.raises(FailedCells, match=r"in use by another advbench process.*0 of 2") as caught:
            go_through([ready, attack], Local(1), Quiet())
        assert caught.value.exit_code == 2
    assert go_through([ready, attack], Local(1), Quiet()) == Tally(done=2)
    assert tensors(tmp_path) == calm


def test_a_training_that_diverges_stops_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    # the decay flips and doubles every weight in every step, so that the second epoch overflows
    training = {"epochs": 6, "learning_rate": 1e-3, "momentum": 0.0, "weight_decay": 2130.0, "warmup": 0}
    wild = {**ONE, "training": {**training, "max_gradient_norm": 1e30}}
    for _ in range(2):
        with pytest.raises(BadSetting, match="training diverged in epoch 2"):
            study(tmp_path, **wild).attack()
        run = only_run(tmp_path)
        assert list(run.steps) == ["checkpoint"]
        assert [row["epoch"] for row in run.info("checkpoint")["epochs"]] == [1]
        kept = unpack(run, "checkpoint-0001.safetensors")
        assert all(value.isfinite().all() for key, value in kept.items() if key.startswith("network."))


def test_a_truncated_checkpoint_is_named_and_training_begins_anew_without_it(
    calm: dict[str, bytes], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed_at_write, args=(cells(tmp_path)[0].to_json(), 4))
    process.start()
    process.join()
    (path,) = tmp_path.rglob("checkpoint-0001.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadRun, match=re.escape(str(path))):
        Performer(Quiet()).perform(cells(tmp_path)[0])
    from advbench.doctor import examine

    assert examine(tmp_path / "runs", mend=True)[0]["mended"]
    study(tmp_path, **ONE).attack()
    assert tensors(tmp_path) == calm


def command(folder: Path) -> list[str]:
    words = ["--loss", "softmax", "--attack", "fgsm", "--eps", "0.1", "--n", "20", "--epochs", "3", "--jobs", "1"]
    places = ["--runs-dir", str(folder / "runs"), "--reports-dir", str(folder / "reports"), "--device", "cpu"]
    return [sys.executable, "-m", "advbench", "run", "--on", "local", *words, *places]


def children(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(task.parent.name)} | children(int(task.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("fault", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_command_leaves_no_worker_and_goes_on(
    calm: dict[str, bytes], tmp_path: Path, fault: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        command(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any("training 3 epochs" in line for line in lines)
        below = children(process.pid)
        assert len(below) >= 2
        if fault == signal.SIGINT:
            os.killpg(process.pid, fault)  # as a terminal does
        else:
            process.kill()
        said = list(lines)
        assert process.wait() == code
    assert not [line for line in said if "Traceback" in line]
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert go_through(cells(tmp_path), Local(1), Quiet()).failed == 0
    assert torch.get_num_threads() == 1
    assert tensors(tmp_path) == calm
