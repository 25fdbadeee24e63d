"""Processes that an engine starts import nothing from the current folder, whatever lies there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from advbench import runs
from advbench.grid.import_path import without_current_folder
from tests.helpers.ray import users_ray
from tests.helpers.slurm import COMMANDS, SRUN, command_file

SPEC = """
losses = "lgm"
n = 20
attacks = { name = "fgsm", eps = 0.3 }
training.epochs = 1
"""
NAMES = (
    *("multiprocessing", "subprocess", "socket", "selectors", "signal", "select", "queue", "tempfile", "pickle"),
    *("json", "random", "logging", "typing", "sitecustomize"),
    *("submitit", "cloudpickle", "ray", "psutil", "numpy", "torch", "sklearn", "pyarrow", "art", "advbench"),
)
# What pip makes of [project.scripts]: a program in a folder of its own.
PROGRAM = """
from advbench.__main__ import main
if __name__ == "__main__":
    main()
"""
# A Slurm whose jobs inherit no variable of Python's, as with sbatch's --export=NONE.
WITHOUT = SRUN.replace('exec "$@"', 'exec env -u PYTHONSAFEPATH "$@"')


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """A folder with a spec and 24 modules, each of which leaves a mark where it is imported."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "spec.toml").write_text(SPEC)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'mark-')!r} + {name!r}, 'w').close()\n")
    assert len(NAMES) == 24
    return folder


def check(folder: Path, start: list[str], words: str, **variables: str) -> None:
    """Run the study in the folder: it is done, and nothing there was imported."""
    words = f"run spec.toml --jobs 1 {words}"
    command, environment = [sys.executable, *start, *words.split()], os.environ | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not [path.name for path in folder.parent.glob("mark-*")]
    assert done.returncode == 0, done.stderr
    assert "cells: 0 done before, 3 done, 0 retried, 0 failed" in done.stderr
    (run,) = runs.find(folder / "runs")
    assert any(step.startswith("attack fgsm") for step in run.steps)


@pytest.mark.long
@pytest.mark.parametrize("words", ["--on local", "--on slurm --slurm cluster=local", "--on slurm", "--on ray"])
def test_an_engine_imports_nothing_from_the_current_folder(words: str, shadows: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "advbench"
    for name, text in (COMMANDS | {"srun": WITHOUT}).items():
        command_file(tmp_path / "bin", name, text)
    program.write_text(PROGRAM)
    (tmp_path / "jobs").mkdir()
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    check(shadows, [str(program)], words, PATH=path, JOBS=str(tmp_path / "jobs"))


@pytest.mark.long
def test_nor_do_the_workers_of_a_users_ray(shadows: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_text(PROGRAM)
    with users_ray() as address:
        check(shadows, [str(tmp_path / "program")], f"--on ray --address {address}")


@pytest.mark.long
def test_nor_does_python_m_advbench(shadows: Path) -> None:
    for name in ("advbench", "random", "select", "selectors", "socket", "tempfile", "typing"):
        (shadows / f"{name}.py").unlink()  # Python's -m imports these before advbench is asked
    check(shadows, ["-m", "advbench"], "--on local")


def test_a_named_folder_stays_and_all_is_as_it_was_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "wanted.py").touch()
    (tmp_path / "unwanted.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}named{os.pathsep}")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    before = dict(os.environ), list(sys.path)

    def imports(name: str) -> bool:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False)
        return done.returncode == 0

    assert imports("unwanted")
    with without_current_folder():
        assert (imports("wanted"), imports("unwanted"), "" in sys.path) == (True, False, False)
    assert (dict(os.environ), list(sys.path)) == before
