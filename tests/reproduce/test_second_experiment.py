"""A second experiment is one file: Fashion-MNIST's shape, on made images, from the file to page and check."""

import sys
from pathlib import Path

import numpy as np
import pytest

from advbench.errors import BrokenPlugin
from advbench.reproduce import experiments
from advbench.reproduce.experiment import load
from advbench.reproduce.records import Record, read
from tests.helpers.command_line import advbench

FILE = '''"""Clothes, made up."""

from advbench.reproduce.experiment import Experiment, Line, Loss, Recipe, Table
from advbench.reproduce.figures import attacked, clean_error, error, verified
from advbench.reproduce.records import PaperModel

AT = ("fgsm", 0.3, {})
LOSSES = {"softmax": Loss("softmax", "softmax"), "lgm": Loss("L-GM", {"name": "lgm", "alpha": 0.3})}


class Clothes(Experiment):
    title = "Clothes, reproduced"
    dataset = "npz:clothes.npz"
    losses = LOSSES
    recipes = {None: Recipe(spec={"network": "digits-cnn", "training": {"epochs": 1}})}
    models = [PaperModel("softmax", 100, 0), PaperModel("softmax", 100, 1), PaperModel("lgm", 100, 0)]
    tables = [
        Table("errors", "Errors", tuple(LOSSES), [
            Line("errors", "clean", figure=clean_error, paper={"softmax": 0.08, "lgm": 0.07}),
            Line("errors", "FGSM", figure=attacked(AT, error)),
        ]),
        Table("eers", "EERs", ("lgm",), [Line("eers", "likelihood", figure=verified(AT))]),
    ]

    def attacks(self, model):
        return [{"name": "fgsm", "eps": 0.3}]
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the file and its data; what is in it can be loaded as an experiment."""
    rng, labels = np.random.default_rng(0), np.arange(560) % 10
    images = rng.random((560, 1, 28, 28), dtype=np.float32) / 4
    images[np.arange(560), 0, 2 * labels + 4] += 0.7
    np.savez(tmp_path / "clothes.npz", images=images, labels=labels)
    (tmp_path / "clothes.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    folders = [*experiments.__path__, str(tmp_path)]
    monkeypatch.setattr(experiments, "__path__", folders)
    monkeypatch.setattr(experiments.__spec__, "submodule_search_locations", folders)
    monkeypatch.delitem(sys.modules, "advbench.reproduce.experiments.clothes", raising=False)
    return tmp_path


def test_one_file_is_trained_attacked_tabulated_and_checked(here: Path) -> None:
    made, home = advbench("reproduce", "clothes", "--threads", 1, "--json"), here / "reports" / "clothes"
    assert made.code == 0, made.err
    rows = {(row["table"], row["loss"], row["setting"]): row for row in made.rows}
    assert len(rows) == 5
    row = rows["errors", "softmax", "100-D, clean"]
    shares = [read(Record, home / "cells" / f"softmax-100d-seed{seed}.json").clean_error for seed in (0, 1)]
    assert (row["seeds"], row["paper"]) == ([0, 1], 0.08)
    assert (row["mean"], row["std"]) == pytest.approx((np.mean(shares), np.std(shares, ddof=1)))
    assert row["low"] <= row["mean"] <= row["high"]
    assert rows["eers", "lgm", "100-D, likelihood"]["seeds"] == [0]
    page = (home / "index.html").read_text(encoding="utf-8")
    for text in ("<title>Clothes, reproduced - advbench</title>", "paper 8.00 %", "<h3>EERs</h3>", "3 of 3 models"):
        assert text in page
    checked = advbench("reproduce", "clothes", "--check", "--threads", 1, "--json")
    assert checked.code == 0, checked.err
    assert [row["met"] for row in checked.rows] == [True] * 12


BROKEN = {
    "no tables": (FILE[FILE.index("    tables") : FILE.index("\n    def attacks")], "", "declares no tables"),
    "two tables of a key": ('Table("eers"', 'Table("errors"', "declares table 'errors' twice"),
    "two rows of a setting": ('"FGSM"', '"clean"', "declares row ('errors', 'softmax', '100-D, clean') twice"),
    "a figure of no row": (
        '"lgm": 0.07',
        '"gm": 0.07',
        "the paper's figure of 'gm' in table 'errors', '100-D, clean'",
    ),
    "a column of no loss": ('("lgm",)', '("gm",)', "row '100-D, likelihood' is of 'gm', which is none of its losses"),
    "a recipe of no name": ('("lgm", 100, 0)', '("lgm", 100, 0, "x")', "is of recipe 'x', which it does not declare"),
    "two experiments": ("\nAT", "\nclass Two(Experiment):\n    pass\n\nAT", "declares 2 experiments; it must be one"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_reproduced_is_refused_in_one_sentence(here: Path, case: str) -> None:
    old, new, said = BROKEN[case]
    assert FILE.count(old) == 1
    (here / "clothes.py").write_text(FILE.replace(old, new))
    with pytest.raises(BrokenPlugin) as refused:
        load("clothes")
    assert str(refused.value).startswith("experiment 'clothes' is broken: ")
    assert said in str(refused.value)
