"""A training that is stopped goes on; every command has help."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from advbench import runs
from advbench.errors import BadRun
from advbench.runs import locks
from tests.helpers.command_line import advbench


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", tuple[str, ...], Path]]:
    """A training in a process of its own, stood at its first checkpoint."""
    words = ("train", "--loss", "lgm", "--epochs", "8", "--threads", "1", "--json", "--runs-dir")
    command = [sys.executable, "-m", "advbench", *words, str(tmp_path / "stopped")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell that runs the tests in the background has them, and so this process, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 150
        # the checkpoint counts once the journal lists it, which is a moment after its file appears
        while not any("checkpoint" in run.steps for run in runs.find(tmp_path / "stopped")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process, words, tmp_path / "stopped"
    finally:
        process.kill()
        process.communicate()


def test_a_training_stopped_by_ctrl_c_goes_on_to_the_very_same_bytes(
    training: tuple["subprocess.Popen[str]", tuple[str, ...], Path], tmp_path: Path
) -> None:
    process, words, folder = training
    (run,) = folder.iterdir()
    with pytest.raises(BadRun, match="in use"), locks.hold(run):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not (run / "model.safetensors").exists()
    assert list(run.rglob("*.part")) == []

    resumed = advbench(*words, folder)
    whole = advbench(*words, tmp_path / "whole")
    assert (resumed.code, whole.code) == (0, 0)
    assert "going on after epoch" in resumed.err
    assert "going on" not in whole.err
    model = (run / "model.safetensors").read_bytes()
    assert model == (tmp_path / "whole" / run.name / "model.safetensors").read_bytes()
    assert list(run.glob("checkpoint-*")) == []
    epochs = [json.loads(line)["epoch"] for line in (run / "training.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 9))
    assert err.splitlines()[-1].startswith("advbench: ")  # and says that it can go on


def test_help_of_every_command_names_its_options() -> None:
    for command in ("train", "attack", "verify", "report", "run", "list"):
        result = advbench(command, "--help")
        assert result.code == 0
        assert "--json" in result.out
        assert result.err == ""
