"""Cells as jobs: through submitit's local executor, which runs as processes here the jobs that Slurm would.

There is no Slurm here: of it, only the script that would be submitted is looked at.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench.cells import cells_of
from advbench.cli import main
from advbench.engines import go_through
from advbench.engines.on_slurm import Slurm, resources
from advbench.engines.queue import Tally
from advbench.errors import BadSetting, FailedCells, UnknownName
from advbench.parsing import parse
from advbench.pipeline import Study
from advbench.place import Place
from advbench.progress import Quiet

SMALL: dict[str, Any] = {
    "losses": ["softmax", "lgm"],
    "attacks": [{"name": "fgsm", "eps": [0.1, 0.2]}],
    "n": 20,
    "training": {"epochs": 1},
}
HERE = resources(["cluster=local"])


def study(folder: Path, **table: Any) -> Study:
    place = Place(folder / "runs", folder / "reports", device=torch.device("cpu"))
    return Study(parse({**SMALL, **table}), place, weights=[])


def tensors(folder: Path) -> dict[str, bytes]:
    found = sorted((folder / "runs").rglob("*.safetensors"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def slurm(folder: Path, **more: Any) -> Slurm:
    return Slurm(**{"jobs": 2, "threads": 1, "folder": folder / "jobs", "asked": HERE, "grace": 2.0, **more})


class Heard(Quiet):
    """Keeps lines; `act` is called with each."""

    def __init__(self, act: Any = lambda line: None) -> None:
        self.said: list[str] = []
        self.act = act

    def say(self, text: str) -> None:
        self.said.append(text)
        self.act(text)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    rows = study(folder).attack()
    return tensors(folder), rows


def test_jobs_make_the_bytes_and_rows_of_one_process(alone: Any, tmp_path: Path) -> None:
    heard = Heard()
    assert go_through(cells_of(study(tmp_path)), slurm(tmp_path, cells=2), heard) == Tally(done=6)
    assert tensors(tmp_path) == alone[0]
    assert study(tmp_path).attack() == alone[1]
    assert sum(line.startswith("job ") for line in heard.said) == 4  # of each model two cells, then the third
    assert any("training 1 epochs" in line for line in heard.said)


def running_below(folder: Path) -> list[int]:
    """Processes that perform the jobs of a folder: submitit's own, and one for each task."""
    found = []
    for task in Path("/proc").glob("[0-9]*"):
        try:
            words = (task / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(folder / "jobs") in words:
            found.append(int(task.name))
    return found


def test_a_killed_job_costs_one_retry_and_nothing_else(alone: Any, tmp_path: Path) -> None:
    killed: list[int] = []

    class Kills(Quiet):
        def say(self, text: str) -> None:
            if text.startswith("job ") and not killed:
                while not (found := running_below(tmp_path)):
                    time.sleep(0.05)
                killed.append(found[0])
                os.kill(found[0], signal.SIGKILL)

    tally = go_through(cells_of(study(tmp_path)), slurm(tmp_path), Kills())
    assert tally == Tally(done=6, retried=1)
    assert tensors(tmp_path) == alone[0]
    assert study(tmp_path).attack() == alone[1]


def test_what_a_lost_job_had_finished_is_not_done_again(tmp_path: Path) -> None:
    cells = cells_of(study(tmp_path, losses="softmax"))
    engine = slurm(tmp_path)

    class Lost:
        job_id, state = "7", "NODE_FAIL"

        class paths:  # noqa: N801
            result_pickle = tmp_path / "none"
            stderr = tmp_path / "7.err"

    study(tmp_path, losses="softmax").train()
    messages, _ = engine._messages(Lost(), cells)
    assert messages[0] == {"done": list(cells[0].key)}
    assert "NODE_FAIL" in messages[1]["lost"]
    assert len(messages) == 2


def test_a_refused_cell_takes_its_attacks_and_leaves_the_other_model(tmp_path: Path) -> None:
    bad = study(tmp_path, losses="lgm", training={"epochs": 1, "learning_rate": 1e30, "max_gradient_norm": 1e30})
    cells = cells_of(bad) + cells_of(study(tmp_path, losses="softmax"))
    with pytest.raises(FailedCells, match=r"training diverged.*3 of 6 cells are done") as caught:
        go_through(cells, slurm(tmp_path), Quiet())
    assert caught.value.exit_code == 2


def test_jobs_end_with_the_call_however_it_ends(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("job "):
            while not running_below(tmp_path):
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_through(cells_of(study(tmp_path)), slurm(tmp_path), Heard(stop))
    until = time.monotonic() + 10
    while running_below(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running_below(tmp_path)


def test_the_command_line_prints_rows_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--loss", "softmax", "--epochs", "1", "--attack", "fgsm", "--eps", "0.1", "--n", "20"]
    places = ["--runs-dir", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports"), "--json"]
    assert main([*words, *places, "--on", "slurm", "--slurm", "cluster=local", "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert {row["attack"] for row in json.loads(said.out)["rows"]} == {"fgsm"}
    assert "cells: 0 done before, 3 done, 0 retried, 0 failed" in said.err


# -- what Slurm would be given -----------------------------------------------------------------------------------


def test_the_script_asks_slurm_for_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = tmp_path / "bin" / "srun"  # submitit looks for it, and calls it only when it submits
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    asked = resources(["partition=gpu", "timeout_min=90", "mem_gb=16", "account=lab", "setup=module load cuda"])
    executor = Slurm(4, 3, gpus=2, folder=tmp_path / "jobs", asked=asked).executor()
    script = executor._executor._make_submission_file_text(f"{sys.executable} -m job", "x").splitlines()
    wanted = ["job-name=advbench", "partition=gpu", "time=90", "mem=16GB", "account=lab", "cpus-per-task=3"]
    for line in (*wanted, "gpus-per-node=2", "nodes=1", "ntasks-per-node=1"):
        assert f"#SBATCH --{line}" in script, line
    assert "module load cuda" in script
    assert script.index("module load cuda") < next(i for i, line in enumerate(script) if line.startswith("srun"))
    assert subprocess.run(["bash", "-n"], input="\n".join(script), text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("partition", "KEY=VALUE"),
        ("partition=", "KEY=VALUE"),
        ("partitoin=gpu", "'partition'"),
        ("timeout_min=soon", "soon"),
        ("timeout_min=0", "timeout_min"),
        ("timeout_min=1.5", "1.5"),
        ("mem_gb=nan", "mem_gb"),
        ("mem_gb=-1", "mem_gb"),
        ("cluster=mars", "slurm or local"),
    ],
)
def test_what_no_job_can_be_given_is_refused(text: str, match: str) -> None:
    with pytest.raises((BadSetting, UnknownName), match=match) as caught:
        resources([text])
    assert "\n" not in str(caught.value)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(BadSetting, match="twice"):
        resources(["partition=a", "partition=b"])


@pytest.mark.parametrize("more", [{"gpus": 0.5}, {"gpus": -1.0}, {"gpus": float("nan")}, {"cells": 0}])
def test_parts_of_gpus_and_empty_jobs_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"gpus_per_job|cells_per_job"):
        slurm(tmp_path, **more)


def test_without_slurm_or_submitit_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadSetting, match="cluster=local"):
        slurm(tmp_path, asked=resources(()))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BadSetting, match=r"advbench\[slurm\]"):
        slurm(tmp_path)
