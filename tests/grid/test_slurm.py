"""The Slurm engine: jobs through submitit's local executor, its real batch scripts, and a Slurm of four commands."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import UncompletedJobError, cloudpickle_dump
from submitit.local.local import LocalJob

from advbench import runs
from advbench.cli.grid import device_of
from advbench.errors import BadSetting, FailedCells
from advbench.grid.cells import cells_of
from advbench.grid.queue import Tally, go_through
from advbench.grid.slurm.batch import Batch, perform
from advbench.grid.slurm.engine import Slurm, _Work, resources
from advbench.grid.slurm.watch import Processes
from advbench.grid.worker import Message
from advbench.progress import Quiet
from advbench.study.options import Grid
from tests.helpers.slurm import COMMANDS, SRUN, command_file
from tests.helpers.studies import Heard, study, tensors, two_models

# Each attack lasts long enough to be killed in the middle.
LONG: dict[str, Any] = {"losses": "lgm", "attacks": {"name": "pgd", "steps": 100, "eps": [0.1, 0.2]}}


def here(folder: Path, jobs: int = 1, **more: Any) -> Slurm:
    """Jobs as processes of this machine."""
    return Slurm(jobs, folder=folder / "there" / "runs" / ".slurm", asked=resources(["cluster=local"]), **more)


def output(folder: Path) -> str:
    """What jobs have said so far, where a person would look."""
    return "".join(path.read_text() for path in folder.glob("there/runs/.slurm/jobs-*/*_log.out"))


def once_in(folder: Path, words: str, then: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a job's output holds these words."""

    def wait() -> None:
        while words not in output(folder):
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def children(pid: int) -> list[int]:
    """Process ids of a process's own, on Linux."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs_still(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- jobs as processes of this machine -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("losses", "cells", "jobs"), [(["softmax", "lgm"], 8, 2), ("lgm", 2, 2)])
def test_jobs_make_the_bytes_and_rows_of_one_process(losses: Any, cells: int, jobs: int, tmp_path: Path) -> None:
    one, there = study(tmp_path / "here", losses=losses), study(tmp_path / "there", losses=losses)
    rows, heard, ids = one.attack(), Heard(), list[str]()
    found = cells_of(there)
    assert go_through(found, here(tmp_path, jobs, cells=cells, started=ids.append), heard) == Tally(done=len(found))
    assert len(set(ids)) == 2  # a model with all its attacks each, or one with its first attack and the second alone
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows
    assert sum("fgsm-eps" in line for line in heard.said) == len(found) - len(runs.find(tmp_path / "there" / "runs"))
    assert not list((tmp_path / "there" / "runs" / ".slurm").iterdir())
    assert go_through(found, here(tmp_path, started=ids.append), heard) == Tally(before=len(found))
    assert len(ids) == 2


def test_a_killed_job_costs_one_retry_and_nothing_else(tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(children(int(ids[0]))[0], signal.SIGKILL)

    ids: list[str] = []
    one, there = study(tmp_path / "here", **LONG), study(tmp_path / "there", **LONG)
    rows, heard = one.attack(), Heard()
    killer = once_in(tmp_path, "pgd-eps0.2", kill)
    assert go_through(cells_of(there), here(tmp_path, started=ids.append), heard) == Tally(done=3, retried=1)
    killer.join()
    (told,) = [line for line in heard.said if "try 2 of 3" in line]
    assert "pgd-eps0.2" in told
    assert f"its job {ids[0]} ended without a result" in told
    assert len(ids) == 2
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows
    assert "pgd-eps0.2" in output(tmp_path)  # the output of a call with a lost job is kept


def test_a_cell_that_is_refused_takes_its_attacks_with_it_and_leaves_the_others(tmp_path: Path) -> None:
    bad = study(tmp_path / "there", training={"epochs": 1, "learning_rate": 1e30, "max_gradient_norm": 1e30})
    cells = cells_of(bad)[3:] + cells_of(study(tmp_path / "there", losses="center"))
    with pytest.raises(FailedCells, match=r"training diverged in epoch 1.*3 of 6 cells are done") as caught:
        go_through(cells, here(tmp_path, 2), heard := Heard())
    assert caught.value.exit_code == 2
    assert heard.said[-1] == "cells: 0 done before, 3 done, 0 retried, 1 failed, 2 not tried"
    assert [run.trained.loss_name for run in runs.find(tmp_path / "there" / "runs") if "train" in run.steps] == [
        "center"
    ]


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_jobs_end_with_the_work_however_it_ends(number: int, ends: type[BaseException], tmp_path: Path) -> None:
    def stop() -> None:
        pids.extend([int(ids[0]), *children(int(ids[0]))])
        os.kill(os.getpid(), number)

    ids, pids = list[str](), list[int]()
    once_in(tmp_path, "training", stop)
    cells = cells_of(study(tmp_path / "there", losses="lgm", training={"epochs": 5000}))
    with pytest.raises(ends):
        go_through(cells, here(tmp_path, started=ids.append), Quiet())
    assert len(pids) == 2
    assert not any(map(runs_still, pids))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class UntilLast(StringIO):
    """A job's output; in the midst of the second attack it sends what Slurm sends a little before a job's end."""

    def write(self, text: str) -> int:
        if "pgd-eps0.2" in text and "images" in text:
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().write(text)


def test_a_job_whose_time_is_up_says_so_and_what_it_did_before(tmp_path: Path) -> None:
    def raised(*_: object) -> None:
        raise UncompletedJobError("Job not requeued because: timed-out and not checkpointable.")

    cells = cells_of(study(tmp_path, **LONG))
    before = {signal.SIGUSR2: signal.signal(signal.SIGUSR2, raised), signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        with redirect_stdout(UntilLast()):
            messages = list(map(Message.from_json, json.loads(perform([cell.to_json() for cell in cells], 1))))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [message.done for message in messages] == [True, True, False]
    assert messages[2].lost == "the time that its job had asked for was over; ask for more with --slurm timeout_min"


@pytest.mark.long
def test_the_command_line_prints_json_and_nothing_else(tmp_path: Path) -> None:
    spec = tmp_path / "grid.toml"
    spec.write_text('name = "g"\ndataset = "digits"\nlosses = "lgm"\nn = 20\nattacks = "fgsm"\ntraining.epochs = 1\n')
    words = f"run {spec} --on slurm --slurm cluster=local --jobs 2 --json --runs-dir runs --reports-dir reports"
    command = [sys.executable, "-m", "advbench", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["command"] == "run"
    assert "cells: 0 done before, 3 done, 0 retried, 0 failed" in done.stderr


# -- the batch script ------------------------------------------------------------------------------------------------


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    for name, text in texts.items():
        command_file(folder / "bin", name, text)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


NO_SLURM = dict.fromkeys(("sbatch", "srun", "squeue", "scancel"), "exit 1")


def script(folder: Path, *asked: str, **more: Any) -> list[str]:
    """The lines that submitit hands to sbatch."""
    executor = Slurm(1, asked=resources(asked), **more).executor(folder)._executor
    text: str = executor._make_submission_file_text("python -m job", "0")  # type: ignore[attr-defined]
    return text.splitlines()


def test_the_batch_script_asks_for_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, monkeypatch, **NO_SLURM)
    asked = ("partition=gpu", "account=me", "qos=long", "constraint=a100", "timeout_min=90", "mem_gb=24")
    lines = script(tmp_path, *asked, "exclude=n[1-3]", "reservation=r 1", threads=4, gpus=1.0)
    for option in (
        *("partition=gpu", "account=me", "qos=long", "constraint=a100", "time=90", "mem=24GB", "exclude='n[1-3]'"),
        *("reservation='r 1'", "cpus-per-task=4", "gpus-per-node=1", "nodes=1", "ntasks-per-node=1"),
        "job-name=advbench",
    ):
        assert lines.count(f"#SBATCH --{option}") == 1
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert " --cpus-per-task=4 python -m job" in srun


def test_a_batch_script_without_wishes_asks_for_four_hours_and_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch, **NO_SLURM)
    lines = script(tmp_path)
    assert {"#SBATCH --time=240", "#SBATCH --mem=8GB", "#SBATCH --cpus-per-task=1"} <= {*lines}
    assert not any("gpu" in line or "gres" in line or "partition" in line for line in lines)


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [((), None, "cpu"), ((), 1.0, "cuda"), (("gres=shard:2",), None, "cuda"), (("gres=tmp:2",), None, "cpu")],
)
def test_a_job_computes_on_the_gpu_that_it_asks_for(asked: tuple[str, ...], gpus: float | None, device: str) -> None:
    assert device_of(Grid(on="slurm", gpus_per_job=gpus, slurm=asked), "cpu") == device


# -- a Slurm of four commands: a job is a process group of this machine ----------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Slurm]:
    """Makes engines on a Slurm that takes one job at a time."""
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))

    def make(jobs: int, commands: dict[str, str] = COMMANDS, **more: Any) -> Slurm:
        put_on_path(tmp_path, monkeypatch, **commands)
        return Slurm(jobs, folder=tmp_path / "there" / "runs" / ".slurm", ask=0.3, **more)

    return make


def test_a_job_that_slurm_calls_over_costs_one_retry(slurm: Callable[..., Slurm], tmp_path: Path) -> None:
    def kill() -> None:
        os.killpg(int((tmp_path / "jobs" / "1.pid").read_text()), signal.SIGKILL)

    one, there = study(tmp_path / "here", **LONG), study(tmp_path / "there", **LONG)
    rows, heard = one.attack(), Heard()
    once_in(tmp_path, "pgd-eps0.1", kill)
    assert go_through(cells_of(there), slurm(2), heard) == Tally(done=3, retried=1)
    assert sum("its job 1 is over (NODE_FAIL) without a result" in line for line in heard.said) == 1
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows


def test_slurm_jobs_are_cancelled_with_the_work(slurm: Callable[..., Slurm], tmp_path: Path) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_through(cells_of(study(tmp_path / "there")), slurm(2, started=stop), Quiet())
    leader = int((tmp_path / "jobs" / "1.pid").read_text())
    until = time.monotonic() + 10
    while runs_still(leader) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs_still(leader)


def test_jobs_that_come_to_no_cell_end_the_work_and_more_than_slurm_takes_wait(
    slurm: Callable[..., Slurm], tmp_path: Path
) -> None:
    broken, heard = COMMANDS | {"srun": SRUN.replace('exec "$@"', "sleep 1; exec no-such-python")}, Heard()
    losses = ["softmax", "center", "lgm"]
    with pytest.raises(FailedCells, match=r"3 jobs in a row came to no cell, the last: its job 3.*no-such-python"):
        go_through(cells_of(study(tmp_path / "there", losses=losses)), slurm(2, broken), heard)
    assert sum("no other job for now: sbatch: error: QOSMaxSubmitJobs; " in line for line in heard.said) == 1


def test_a_job_that_slurm_refuses_at_once_is_the_users_to_change(slurm: Callable[..., Slurm], tmp_path: Path) -> None:
    refusing = COMMANDS | {"sbatch": "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1"}
    with pytest.raises(BadSetting, match=r"no job can be handed in: sbatch: error: invalid partition specified: x; "):
        go_through(cells_of(study(tmp_path / "there")), slurm(1, refusing), Quiet())


# -- what a job left behind ------------------------------------------------------------------------------------------


def left(folder: Path, value: object = None) -> Batch:
    """A job that left a result: a value as submitit writes it, or bytes that are none."""
    job: LocalJob[str] = LocalJob(folder, "1")
    if isinstance(value, bytes):
        job.paths.result_pickle.write_bytes(value)
    elif value is not None:
        cloudpickle_dump(value, job.paths.result_pickle)
    return Batch(job, ())


@pytest.mark.parametrize(
    "value",
    [None, b"no pickle", ("error", "a trace"), ("success", "no JSON"), ("success", "[1]"), ("success", "[{}]")],
)
def test_a_result_is_read_and_one_that_cannot_be_is_none(value: object, tmp_path: Path) -> None:
    assert left(tmp_path, value).messages() == []
    message = Message(said=("a line",), done=True)
    assert left(tmp_path, ("success", json.dumps([message.to_json()]))).messages() == [message]


class Says(Batch):
    """A job that returned, of two cells, that the first is done."""

    def messages(self) -> list[Message]:
        return [Message(done=True)]


def test_a_cell_that_the_runs_folder_does_not_show_is_not_done_whatever_its_job_says(tmp_path: Path) -> None:
    engine, heard = here(tmp_path), Heard()
    queue = two_models(tmp_path)
    queue._progress = heard
    work = _Work(engine, engine.executor(tmp_path), Processes(), queue, heard)
    batch = queue.take_some(2)
    work._settle(Says(left(tmp_path).job, batch), "ended")
    assert queue.tally == Tally(retried=1)
    assert f"{tmp_path} does not show it; all nodes are to share that folder; try 2 of 3" in heard.said[0]
    assert len(queue) == 6
    assert [len(queue.take_some(3)) for _ in range(3)] == [3, 3, 0]


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition", r"'partition' is not KEY=VALUE; the keys are account, .*timeout_min, wckey"),
        ("partitoin=gpu", r"no key of --slurm named 'partitoin'\. Did you mean 'partition'\?"),
        ("partition=", "not one line of text"),
        ("partition=gpu\nrm -r x", "not one line of text"),
        ("timeout_min=1.5", "not a whole number"),
        ("timeout_min=0", "at least 1"),
        ("mem_gb=much", "not a number"),
        ("mem_gb=0", "at least"),
        ("mem_gb=inf", "not finite"),
        ("partition=a|partition=b", "partition is given twice: a and b; leave one"),
        ("cluster=moon", r"no choice for --slurm cluster named 'moon'.*Known: local, slurm"),
    ],
)
def test_what_a_job_cannot_ask_for_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        resources(text.split("|"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gpus": 0.5}, "gres=shard:1"),
        ({"gpus": -1.0}, "at least 0"),
        ({"gpus": float("nan")}, "must be finite"),
        ({"cells": 0}, "cells per job = 0 is out of range"),
        ({"gpus": 1.0, "asked": {"cluster": "local", "gres": "gpu:1"}}, "ask for GPUs twice"),
    ],
)
def test_what_no_job_can_be_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=said):
        Slurm(1, **{"folder": tmp_path, "asked": {"cluster": "local"}, **more})


def test_a_machine_without_slurm_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadSetting, match=r"no sbatch.*login node, or --slurm cluster=local tries it here"):
        Slurm(1)


def test_without_submitit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BadSetting, match=r"install advbench\[slurm\]"):
        Slurm(1, asked={"cluster": "local"})


def test_a_runs_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = Slurm(1, folder=tmp_path / "file" / ".slurm", asked={"cluster": "local"})
    queue = two_models(tmp_path)
    with pytest.raises(BadSetting, match="it is a file"):
        engine.work(queue, Quiet())
