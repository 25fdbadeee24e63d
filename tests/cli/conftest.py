"""A small finished study, and no folders out of the environment."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.command_line import SMALL, Small, advbench


@pytest.fixture(autouse=True)
def _no_folders_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADVBENCH_DATA", raising=False)
    monkeypatch.delenv("ADVBENCH_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)  # a default folder would be made here, never in the checkout


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("cli")
    words = ("--loss", "softmax,lgm", "--attack", "fgsm", "--eps", "0.1,8/255", *SMALL)
    places = ("--runs-dir", str(folder / "runs"), "--reports-dir", str(folder / "reports"))
    result = advbench("run", *words, *places, "--json")
    assert result.code == 0, result.err
    return Small(folder, words, result)


@pytest.fixture
def copy(small: Small, tmp_path: Path) -> Small:
    """The study again, in a folder that may be damaged."""
    shutil.copytree(small.folder, tmp_path / "study")
    return Small(tmp_path / "study", small.words, small.result)
