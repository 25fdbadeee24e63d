"""`advbench.losses` in somebody else's training script: the page that shows it, run as it stands."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advbench import catalog, losses

pytestmark = pytest.mark.long
PAGE = Path(__file__).resolve().parents[2] / "docs" / "losses.md"
SCRIPT, GROUPS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def accuracy(code: str, capsys: pytest.CaptureFixture[str]) -> float:
    """What a script says its accuracy is."""
    with torch.random.fork_rng(devices=[]):
        exec(code, {"__name__": "script"})
    return float(re.findall(r"accuracy (\S+)", capsys.readouterr().out)[0])


@pytest.mark.parametrize("loss", ["LGM", "Center", "LSoftmax", "Softmax"])
def test_the_pages_script_trains_with_each_loss(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"LGM": "LGM(16, 10, alpha=0.3, lam=0.1)", "LSoftmax": "LSoftmax(16, 10, margin=2)"}
    code = SCRIPT.replace(own["LGM"], own.get(loss, f"{loss}(16, 10)")).replace("import LGM", f"import {loss}")
    assert accuracy(code, capsys) > (0.8 if loss == "LSoftmax" else 0.9)


def test_the_pages_optimiser_groups_train_too(capsys: pytest.CaptureFixture[str]) -> None:
    code = SCRIPT.replace("alpha=0.3, lam=0.1", 'alpha=0.3, covariance="diagonal"')
    start = code.index("optimizer = ")
    assert accuracy(code[:start] + GROUPS + code[code.index("\n", start) :], capsys) > 0.8


@pytest.mark.parametrize("name", catalog.names("loss"))
def test_every_loss_of_the_catalog_can_be_imported_from_the_package(name: str) -> None:
    cls = catalog.load("loss", name)
    assert getattr(losses, cls.__name__) is cls
    assert cls.__name__ in dir(losses)
    assert cls.__name__ in PAGE.read_text(encoding="utf-8")


def test_a_name_that_is_no_loss_is_an_ordinary_import_error() -> None:
    with pytest.raises(ImportError, match="Nothing"):
        exec("from advbench.losses import Nothing")
    assert not hasattr(losses, "Nothing")


def test_the_page_names_every_member_that_a_script_calls() -> None:
    members = re.findall(r"^\| `(\w+)\(", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"loss", "forward", "log_likelihood", "parameter_groups", "prepare", "after_step"} == set(members)
    assert all(hasattr(losses.Head, member) for member in members)


def test_importing_the_losses_loads_none_of_them() -> None:
    code = "import sys, advbench.losses; print([m for m in sys.modules if m.startswith('advbench.losses.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert importlib.import_module("advbench.losses.lgm").LGM is losses.LGM
