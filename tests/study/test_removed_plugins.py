"""A plug-in that is gone, changed or broken costs what needs it, which is named, and stops nothing else."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_line import Result, advbench

PLUGINS = {
    "detectors/margin": "from advbench.detectors.max_logit import MaxLogit\nclass Margin(MaxLogit): pass",
    "attacks/one_step": "from dataclasses import dataclass\nfrom advbench.attacks.fgsm import FGSM\n"
    "@dataclass(frozen=True, kw_only=True)\nclass OneStep(FGSM): alpha: float = 1.0",
    "losses/plain": "from advbench.losses.softmax import Softmax\nclass Plain(Softmax): pass",
    "networks/tiny": "from tests.conftest import Dense\nclass Tiny(Dense): pass",
}
FEW = ("--network", "tiny", "--epochs", "1", "--eps", "0.1", "--n", "20")
Row = dict[str, Any]


@dataclass
class Lab:
    """A study that needs plug-ins of its own, and their folder."""

    folder: Path

    def change(self, name: str, text: str | None) -> None:
        """Write a plug-in's file anew, or delete it, and forget what was imported of it."""
        file = self.folder / f"{name}.py"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(f"advbench.{name.replace('/', '.')}", None)

    def __call__(self, command: str, *words: str | Path) -> Result:
        """A command on its runs."""
        return advbench(command, *words, "--runs-dir", self.folder / "runs")

    def run(self, loss: str) -> str:
        """The name of its run with that loss."""
        return next((self.folder / "runs").glob(f"digits-{loss}-*")).name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[Row]]]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        for name, text in PLUGINS.items():
            (folder := (lab.folder / name).parent).mkdir()
            importlib.import_module(f"advbench.{folder.name}").__path__.append(str(folder))
            lab.change(name, text)
        for words in (["--loss", "plain"], ["--attack", "one-step", "--set", "alpha=2"], ["--attack", "joint"]):
            words += ["--detector", "margin"] if "joint" in words else []
            assert lab("attack", *words, *FEW).code == 0
        yield lab, lab("verify", "--detector", "margin,max-posterior", "--json").rows
        for name in PLUGINS:
            sys.modules[f"advbench.{name.partition('/')[0]}"].__path__.pop()
            lab.change(name, None)


@pytest.fixture
def lab(made: tuple[Lab, list[Row]]) -> Iterator[Lab]:
    yield made[0]
    for name, text in PLUGINS.items():
        made[0].change(name, text)


def aimed(row: Row) -> bool:
    return "margin" in (row["detector"], row["settings"].get("detector"))


@pytest.mark.parametrize(
    ("name", "text", "said", "lost"),
    [
        ("detectors/margin", None, "'margin' is not here; left out: attack joint-eps0.1-", aimed),
        ("detectors/margin", "def (", "'margin' is broken: SyntaxError: ", aimed),
        ("detectors/margin", "raise OSError('boom')", "'margin' is broken: OSError: boom; left out", aimed),
        ("detectors/margin", "class Other: pass", "'margin' is broken: advbench.detectors.margin defines no", aimed),
        ("detectors/margin", "class Margin:\n  def __init__(self, k): ...", "'margin' is not what it was (", aimed),
        ("attacks/one_step", "from advbench.attacks.fgsm import FGSM\nclass OneStep(FGSM): pass", "named 'alpha'",
         lambda row: row["attack"] == "one-step"),
        ("losses/plain", None, "'plain' is not here; left out: the whole run;", lambda row: row["loss"] == "plain"),
    ],
)  # fmt: skip
def test_what_needs_it_is_named_and_left_out_and_the_rest_verified(
    made: tuple[Lab, list[Row]], lab: Lab, name: str, text: str | None, said: str, lost: Callable[[Row], bool]
) -> None:
    lab.change(name, text)
    result = lab("verify", "--json")
    assert result.rows == [row for row in made[1] if not lost(row)]
    assert said in result.err


def test_a_removed_detector_stops_no_run_and_no_audit_and_damages_no_file(lab: Lab, tmp_path: Path) -> None:
    lab.change("detectors/margin", None)
    assert "no detector named 'margin'" in lab("verify", "--detector", "margin").err
    words = ("--attack", "fgsm", "--detector", "max-posterior", *FEW, "--reports-dir", tmp_path)
    for command in (("run", "--loss", "softmax", *words), ("audit", lab.run("softmax"))):
        result = lab(*command, "--json")
        assert (result.code, "detector 'margin' is not here" in result.err) == (0, True)
    for row in lab("doctor", "--json").rows:
        assert (row["state"], row["needs"][0][:29]) == ("whole", "detector 'margin' is not here")


def test_where_nothing_is_left_one_sentence_says_why(lab: Lab) -> None:
    lab.change("networks/tiny", None)
    result = lab("verify", "--json")
    assert (result.code, result.out) == (2, "")
    assert "a plug-in of every model that matches is missing; digits-plain" in result.err.splitlines()[-1]
    assert lab("audit", lab.run("plain")).err.startswith(f"advbench: {lab.run('plain')}: network 'tiny' is not here")


def test_a_network_that_its_weights_do_not_fit_leaves_out_the_checks_that_run_it(lab: Lab) -> None:
    deeper = ":\n  def __init__(self, *a):\n    super().__init__(*a)\n    self.layers.append(self.layers[1])"
    lab.change("networks/tiny", PLUGINS["networks/tiny"].replace(": pass", deeper))
    rows = {row["name"]: row for row in lab("audit", lab.run("softmax"), "--json").rows}
    assert rows["eight-bit"]["state"] == "not run"
    assert "does not fit the model" in rows["eight-bit"]["evidence"]


def test_the_list_of_plug_ins_names_the_broken_one_beside_the_others(lab: Lab) -> None:
    lab.change("detectors/margin", "def (")
    listed = {row["name"]: row["summary"] for row in advbench("list", "detectors", "--json").rows}
    assert listed["margin"] == "broken: SyntaxError: invalid syntax (margin.py, line 1)"
    assert listed["energy"].startswith("The free energy")
