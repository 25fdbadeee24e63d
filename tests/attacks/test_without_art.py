"""Where ART or pyautoattack cannot be imported, what needs them says so, and all the rest goes on as with them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advbench.victim as package
from advbench import catalog
from advbench.audit import provenance
from advbench.device import CPU
from advbench.types import Perturbed, Splits
from advbench.victim import Victim, art_classifier
from tests.helpers.command_line import SMALL, advbench, assert_refused
from tests.helpers.evidence import evidence, result

TROUBLE = {
    "missing": 'raise ModuleNotFoundError("No module named {name!r}", name={name!r})',
    "made for another NumPy": "import numpy\nnumpy.product",
}
TENSORS = ("images", "targets", "gradients", "forwards", "zero_gradients", "first_success")


def block(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on ART cannot be imported in this process."""
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    monkeypatch.setattr(package, "art_classifier", art_classifier)  # what the next import binds is taken back
    monkeypatch.delitem(sys.modules, "advbench.victim.art_classifier")


def without_art(folder: Path, trouble: str, *words: str) -> tuple[list[dict[str, Any]], str]:
    """Rows and stderr of a command line in a process that imports an `art` of this kind."""
    (folder / "art.py").write_text(TROUBLE[trouble].format(name="art"))
    command = [sys.executable, "-m", "advbench", *words, "--runs-dir", str(folder / "runs"), "--json"]
    own = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=own, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["rows"], done.stderr


def alike(ours: Perturbed, theirs: Perturbed) -> bool:
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in TENSORS]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["fgsm", "targeted-fgsm"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_fast_gradient_step_without_art_is_arts_to_the_byte(
    name: str, exact: bool, victim: Victim, digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades = torch.rand(digits.test.load_all().shape, generator=torch.Generator().manual_seed(0))  # sums are rounded
    steps = [
        (catalog.load("attack", name)(eps=eps, clip=clip, exact_gradient=exact), images)
        for images in (digits.test.load_all(), shades)
        for eps in (8 / 255, 0.1, 1 / 3, 1.0)
        for clip in (True, False)
    ]
    theirs = [which.perturb(victim, images, digits.test.labels, torch.zeros(0)) for which, images in steps]
    block(monkeypatch)
    ours = [which.perturb(victim, images, digits.test.labels, torch.zeros(0)) for which, images in steps]
    assert all(map(alike, ours, theirs))
    assert {(a.implementation, b.implementation) for a, b in zip(ours, theirs, strict=True)} == {("advbench", "art")}


class Slopes(nn.Module):
    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        return (pixels * torch.tensor([1.0, torch.nan, -torch.inf, 0.0])).sum()


def test_a_slope_of_nan_moves_no_pixel_and_one_without_bound_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> Perturbed:
        from advbench.victim.art_classifier import fast_gradient_step, wrap

        half, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
        classifier = wrap(nn.Flatten(), Slopes(), shape=(1, 2, 2), classes=4, device=CPU, clip=True)
        return fast_gradient_step(classifier, half, label, 0.25, targeted=False)

    theirs = step()
    block(monkeypatch)
    assert step().images.flatten().tolist() == [0.75, 0.5, 0.25, 0.5]
    assert alike(step(), theirs)


def test_an_attack_without_art_finds_what_it_finds_with_it(tmp_path: Path) -> None:
    words = ("attack", "--attack", "fgsm,targeted-fgsm", "--eps", "0.1", "--n", "40", *SMALL)
    rows, said = without_art(tmp_path, "made for another NumPy", *words)
    assert said.count("ART cannot be imported (AttributeError: module 'numpy' has no attribute 'product'") == 1
    again = advbench(*words, "--runs-dir", tmp_path / "runs", "--json").rows  # with ART; what is stored is kept
    assert again == rows
    assert [row["implementation"] for row in rows] == ["advbench", "advbench"]
    with_art = advbench(*words, "--runs-dir", tmp_path / "others", "--json").rows
    assert with_art == [row | {"implementation": "art"} for row in rows]


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize(("attack", "library"), [("art:DeepFool", "ART"), ("autoattack", "pyautoattack")])
def test_an_attack_of_a_missing_library_is_refused_before_a_model_is_trained(
    attack: str, library: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyautoattack.py").write_text(TROUBLE[trouble].format(name="pyautoattack"))
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("pyautoattack", "advbench.attacks.autoattack"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    block(monkeypatch)
    refused = advbench("attack", "--attack", attack, "--eps", "0.1", *SMALL, "--runs-dir", tmp_path / "runs")
    assert_refused(refused)
    assert f"{attack} needs {library}, which cannot be imported (" in refused.err
    assert not (tmp_path / "runs").exists()


def test_stored_attacks_of_art_stay_readable_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = evidence(result("art:DeepFool"), result("pgd"), result(provenance.ART_PGD, max_iter=40))
    block(monkeypatch)
    assert provenance.parity(stored).state == "not run"
    assert [check(stored).state for check in (provenance.settings, provenance.rechecked)] == ["met", "met"]
    assert "not looked at: art:DeepFool, art:Projected" in provenance.settings(stored).evidence


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_studies_evaluations_audits_and_the_selftest_go_on_without_art(trouble: str, tmp_path: Path) -> None:
    pages, small = ("--reports-dir", "pages", "--overwrite"), ("--n", "30", "--eps", "0.1", *SMALL)
    aware = ("detector-aware", "--detector", "max-posterior", "--fpr", "0.1", "--budget", "quick")
    (row,) = without_art(tmp_path, trouble, "attack", "--attack", *aware, *small)[0]
    assert row["fgsm_undetected_error_rate"] > 0
    for engine in ((), ("--on", "local", "--jobs", "1")):
        assert without_art(tmp_path, trouble, "run", "--loss", "lgm", "--attack", "fgsm", *small, *engine, *pages)[0]
    net = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "m.py").write_text(net)
    given = ("evaluate", "--model", "m.py:build", "--dataset", "digits", "--n", "20")
    assert without_art(tmp_path, trouble, *given, *pages)[0]
    assert without_art(tmp_path, trouble, "report", *pages)[0]
    assert len(without_art(tmp_path, trouble, "audit", row["run"])[0]) > 30
    tried = without_art(tmp_path, trouble, "selftest")[0]
    assert {row["met"] for row in tried} == {True}
    assert {row["found"] for row in tried if row["found"].startswith("parity")} == {"parity: not run"}
