"""Cells through Ray: what one process makes, whatever happens to an actor, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from advbench import runs
from advbench.errors import BadSetting, FailedCells
from advbench.grid import ray_cluster
from advbench.grid.cells import cells_of
from advbench.grid.queue import Tally, go_through
from advbench.grid.ray_cluster import address_of, connected
from advbench.grid.ray_engine import Performing, Ray
from advbench.grid.worker import Message
from advbench.progress import Quiet
from tests.helpers.ray import users_ray
from tests.helpers.studies import GRID, Heard, study, tensors

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with users_ray() as address:
        yield address
        with connected(address, cpus=1, gpus=False) as own:  # whoever worked on it has left it running
            assert not own


def gone(pid: int, *, within: float = 10) -> bool:
    """Whether a process ends soon."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return True
    end = time.monotonic() + within
    while ray_cluster.alive(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def kill_at_work(folder: Path, pids: list[int]) -> threading.Thread:
    """Kills the first of `pids` as soon as a cell is being performed."""

    def watch() -> None:
        while not list(folder.rglob(".lock*")):
            time.sleep(0.005)
        os.kill(pids[0], signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


# -- without Ray -------------------------------------------------------------------------------------------------


def test_without_ray_one_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadSetting, match=r"install advbench\[ray\]"):
        Ray(1, 1)


def test_a_ray_that_asks_for_no_token_is_not_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "__version__", "2.51.2")
    with pytest.raises(BadSetting, match=r"Ray 2\.51\.2 asks for no token, .*; install ray>=2\.52, or"):
        go_through(cells_of(study(tmp_path)), Ray(1, 1), Quiet())


@pytest.mark.parametrize("gpus", [-0.5, float("nan"), float("inf"), 1.5, 1e-5])
def test_gpus_that_ray_cannot_give_are_refused(gpus: float) -> None:
    with pytest.raises(BadSetting, match=r"gpus = .* must be 0, a part of one GPU .*, or a whole number"):
        Ray(1, 1, gpus=gpus)


@pytest.mark.parametrize("gpus", [0, 0.25, 1 / 3, 1, 2])
def test_a_part_of_one_gpu_or_whole_ones_can_be_asked_for(gpus: float) -> None:
    assert Ray(1, 1, gpus=gpus).gpus == gpus


@pytest.mark.parametrize("address", ["", "local", "head", "head:", "head:0", "head:70000", "http://head:1", ":6379"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(BadSetting, match="write auto, HOST:PORT or ray://HOST:PORT"):
        Ray(1, 1, address=address)


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (address_of(None), address_of("auto")) == (None, "auto")
    monkeypatch.setenv("RAY_ADDRESS", "[::1]:6379")
    assert (address_of(None), address_of("auto")) == (None, "[::1]:6379")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    with pytest.raises(BadSetting, match="'somewhere'"):
        address_of("auto")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens_there_is_no_cluster(tmp_path: Path, scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BadSetting, match=f"no Ray cluster answers at {address}"):
        go_through(cells_of(study(tmp_path)), Ray(1, 1, address=address), Quiet())


def test_a_study_that_is_done_starts_no_ray(tmp_path: Path) -> None:
    there = study(tmp_path, losses="lgm")
    there.attack()
    assert go_through(cells_of(there), Ray(2, 1), Quiet()) == Tally(before=3)
    assert not ray.is_initialized()


def test_an_actors_answer_holds_what_was_said_and_the_lines_of_an_error(tmp_path: Path) -> None:
    there, performing = study(tmp_path, losses="lgm"), Performing(1)
    first, *_ = cells_of(there)
    message = Message.from_json(performing.perform(first.to_json()))
    assert message.done
    assert any(first.run in line for line in message.said)
    (tmp_path / "file").touch()
    other = json.loads(first.to_json())
    other["table"]["losses"] = [{"name": "softmax"}]
    other["place"]["runs_dir"] = "\0"  # not a path: no study says so
    message = Message.from_json(performing.perform(json.dumps(other)))
    assert message.lost.startswith("ValueError: ")
    assert message.said[-1] == message.lost


# -- on a cluster ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_ray_makes_the_bytes_of_one_process_on_the_digits_grid(cluster: str, tmp_path: Path) -> None:
    here, there = study(tmp_path / "here", **GRID), study(tmp_path / "there", **GRID)
    rows, heard, pids = here.attack(), Heard(), list[int]()
    assert go_through(cells_of(there), Ray(2, 1, address=cluster, started=pids.append), heard) == Tally(done=54)
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows
    assert heard.notes[-1] == (54, "0 running, 0 retried, 0 failed")
    assert max(int(note.split()[0]) for _, note in heard.notes) == 2
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert not ray.is_initialized()


def test_a_killed_actor_costs_one_retry_and_nothing_else(cluster: str, tmp_path: Path) -> None:
    here, there = (study(tmp_path / name, losses="lgm", training={"epochs": 20}) for name in ("here", "there"))
    rows, heard, pids = here.attack(), Heard(), list[int]()
    thread = kill_at_work(tmp_path / "there", pids)
    tally = go_through(cells_of(there), Ray(1, 1, address=cluster, started=pids.append), heard)
    thread.join()
    assert tally == Tally(done=3, retried=1)
    assert len(pids) == 2
    assert sum("its worker was killed; try 2 of 3" in line for line in heard.said) == 1
    assert tensors(tmp_path / "there") == tensors(tmp_path / "here")
    assert there.attack() == rows


def test_a_cell_that_is_refused_leaves_the_others_to_be_done(cluster: str, tmp_path: Path) -> None:
    bad = study(tmp_path, losses="lgm", training={"epochs": 1, "learning_rate": 1e30, "max_gradient_norm": 1e30})
    cells = cells_of(study(tmp_path, losses="center")) + cells_of(bad)
    with pytest.raises(FailedCells, match=r"training diverged in epoch 1.*3 of 6 cells are done") as caught:
        go_through(cells, Ray(1, 1, address=cluster), Quiet())
    assert caught.value.exit_code == 2
    assert [run.trained.loss_name for run in runs.find(tmp_path / "runs") if "train" in run.steps] == ["center"]


def test_actors_end_with_the_work_and_a_ray_that_was_there_stays(cluster: str, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if "training" in line:
            raise KeyboardInterrupt

    pids: list[int] = []
    with connected(cluster, cpus=1, gpus=False):
        with pytest.raises(KeyboardInterrupt):
            go_through(cells_of(study(tmp_path)), Ray(1, 1, started=pids.append), Heard(stop))
        assert len(pids) == 1
        assert gone(pids[0])
        assert ray.is_initialized()


def test_a_worker_larger_than_every_node_is_refused_at_once(cluster: str, tmp_path: Path) -> None:
    for engine in (Ray(1, 3, address=cluster), Ray(1, 1, gpus=0.5, address=cluster)):
        with pytest.raises(BadSetting, match=r"no node of Ray has as many \(2 CPUs and 0 GPUs\); ask for fewer"):
            go_through(cells_of(study(tmp_path)), engine, Quiet())


def test_a_full_cluster_is_said_to_be_once_and_waited_for(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holds:
        def ready(self) -> bool:
            return True

    class StartedError(Exception):
        pass

    def stop(_pid: int) -> None:
        raise StartedError

    monkeypatch.setattr("advbench.grid.ray_engine.PATIENCE", 0.3)
    with connected(cluster, cpus=2, gpus=False):
        holder = ray.remote(Holds).options(num_cpus=2).remote()
        assert ray.get(holder.ready.remote())
        heard = Heard(lambda line: ray.kill(holder))
        with pytest.raises(StartedError):
            go_through(cells_of(study(tmp_path)), Ray(1, 2, started=stop), heard)
    assert heard.said == [
        "waiting for the cluster: a job asks for 2 CPUs and 0 GPUs; "
        "it has 2 CPUs and 0 GPUs, of which 0 CPUs and 0 GPUs are free"
    ]


def test_ray_counts_no_usage_shows_no_dashboard_and_leaves_the_process_as_it_was(cluster: str) -> None:
    from ray._common.usage import usage_lib

    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with connected(cluster, cpus=1, gpus=False):
        assert not usage_lib.usage_stats_enabled()
        assert not ray._private.worker.global_worker.node.webui_url
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) == handler


def test_what_a_ray_of_our_own_has_started_is_gone_with_it() -> None:
    with connected(None, cpus=1, gpus=False):
        actor = ray.remote(Performing).remote(1)
        pid = ray.get(actor.pid.remote())
        started = [worker.pid for worker in ray_cluster.started()]
        assert pid in started
    assert all(gone(one, within=0) for one in started)


STRANGER = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info()))
"""


@pytest.mark.long
def test_a_ray_of_our_own_listens_on_the_loopback_alone_and_wants_a_token_that_nobody_else_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stranger(address: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | variables
        words = [sys.executable, "-c", STRANGER, address]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    me = psutil.Process()
    others = me.children(recursive=True)
    with connected(None, cpus=1, gpus=False):
        actor = ray.remote(Performing).remote(1)
        assert ray.get(actor.pid.remote())
        address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
        listening = {}
        for process in [me, *(child for child in me.children(recursive=True) if child not in others)]:
            for socket_of in process.net_connections("tcp"):
                if socket_of.status == psutil.CONN_LISTEN:
                    listening[socket_of.laddr.port] = socket_of.laddr.ip.removeprefix("::ffff:")
        refused = [stranger(address), stranger(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)]
        assert stranger(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token).stdout == "1\n"
    assert len(listening) >= 5  # the GCS, the raylet, its agent, this process, the actor
    assert set(listening.values()) <= {"127.0.0.1", "::1"}
    assert all("InvalidAuthToken" in one.stderr and one.returncode == 1 for one in refused)
    assert not (tmp_path / ".ray").exists()
    assert ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.DISABLED


def test_a_process_that_cannot_end_by_itself_is_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        ray_cluster.end([psutil.Process(process.pid)])
        assert gone(process.pid, within=0)


# -- the command line --------------------------------------------------------------------------------------------


def command(folder: Path, *more: str) -> list[str]:
    study_of_one = ["--loss", "lgm", "--epochs", "1", "--n", "20", "--attack", "fgsm", "--eps", "0.1"]
    folders = ["--runs-dir", str(folder / "runs"), "--reports-dir", str(folder / "reports")]
    return [sys.executable, "-m", "advbench", "run", *study_of_one, *folders, "--on", "ray", "--jobs", "2", *more]


def left_by(session: int) -> list[str]:
    """The processes of a session, Ray's among them; those that have ended and wait for their parent do not count."""
    lines = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    fields = (line.split(maxsplit=2) for line in lines.splitlines())
    return [args for sid, state, args in fields if int(sid) == session and "Z" not in state]


@contextmanager
def running(words: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A command in a session of its own, as a terminal gives it one."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        yield process


@pytest.mark.long
def test_the_command_prints_json_alone_and_leaves_no_process(tmp_path: Path) -> None:
    with running(command(tmp_path, "--json")) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    answer = json.loads(out)
    assert answer["command"] == "run"
    assert {row["attack"] for row in answer["rows"]} == {"fgsm"}
    assert "cells: 0 done before, 3 done, 0 retried, 0 failed" in err
    assert "ray" not in err.lower()
    assert left_by(process.pid) == []


def test_ctrl_c_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    with running(command(tmp_path, "--epochs", "2000", "--jobs", "1")) as process:
        while not list(tmp_path.rglob(".lock*")):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out == ""
    assert left_by(process.pid) == []
