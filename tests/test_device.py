"""Everything runs on the device that ADVBENCH_TEST_DEVICE names (default cpu) and finds what it finds on the CPU.

`make gpu` runs this file on a GPU, by both of its names.
"""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import advbench
from advbench import catalog, cli, metrics, settings
from advbench.detection import Guard
from advbench.device import CPU, resolve_device
from advbench.errors import BadSetting
from advbench.evasion import AdaptiveAttack, Attack, FromSurrogate
from advbench.recipes import Training
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Perturbed, Splits
from advbench.victim import Composed, Victim, build

NAME = os.environ.get("ADVBENCH_TEST_DEVICE", "cpu")
DEVICE = resolve_device(NAME)
LIGHT: dict[str, Any] = {"steps": 5, "queries": 60, "budget": "quick"}
ATTACKS = (*catalog.names("attack"), "art:DeepFool", "art:SquareAttack")
N = 12
Run = Callable[..., list[dict[str, Any]]]


def on(device: torch.device, victim: Victim) -> Victim:
    """The same model there."""
    return Victim(copy.deepcopy(victim.model), shape=victim.shape, classes=victim.classes, device=device)


def guard_of(victim: Victim, digits: Splits, name: str) -> Guard:
    detector = catalog.load("detector", name)()
    fitted = detector.fit(victim.head_in_float64(), victim.outputs(digits.train.load_all()), digits.train.labels)
    clean = victim.outputs(digits.calibration.load_all())
    threshold = metrics.threshold_at(0.05, fitted.score(clean).numpy())
    assert threshold is not None
    return Guard(name, fitted, threshold, detector.differentiable, clean, digits.calibration.labels)


def test_a_device_has_an_index_or_is_the_cpu() -> None:
    for device in (DEVICE, resolve_device(None)):
        assert (device.type, device.index) == (("cpu", None) if device.type == "cpu" else ("cuda", device.index or 0))
    for name in ("cuda:99", "gpu", "cpu:0", "mps:3"):
        with pytest.raises(BadSetting, match="usable: cpu"):
            resolve_device(name)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_comes_back_on_the_cpu_with_the_successes_that_it_has_there(
    name: str, victims: dict[str, Victim], digits: Splits
) -> None:
    cls, images = catalog.load("attack", name), digits.test.take(slice(N))
    light = {k: v for k, v in LIGHT.items() if k in settings.defaults(cls)}
    attack, seeds = cls(**light, eps=0.3), torch.arange(N)

    def made(device: torch.device) -> Perturbed:
        victim = on(device, victims["lgm"])
        batch = victim, images.load_all(), images.labels, seeds
        if isinstance(attack, AdaptiveAttack):
            return attack.perturb(*batch, guard_of(victim, digits, "likelihood"))
        if isinstance(attack, FromSurrogate):
            return attack.perturb(*batch, on(device, victims["softmax"]))
        assert isinstance(attack, Attack)
        return attack.perturb(*batch)

    here, there = made(CPU), made(DEVICE)
    assert there.images.device == there.gradients.device == CPU
    assert (
        (there.images - images.load_all()).flatten(1).norm(dim=1, p=float("inf" if attack.norm == "linf" else 2))
        <= 0.3 + 1e-6
    ).all()
    wrong = [victims["lgm"].outputs(p.images).predictions != images.labels for p in (here, there)]
    assert (wrong[0] != wrong[1]).sum() <= 2  # a hair's breadth may decide otherwise


@pytest.mark.parametrize("name", catalog.names("detector"))
def test_a_detector_scores_outputs_of_the_device_as_those_of_the_cpu(
    name: str, victims: dict[str, Victim], digits: Splits
) -> None:
    guard, images = guard_of(on(DEVICE, victims["lgm"]), digits, name), digits.test.take(slice(N)).load_all()
    here, there = (guard.score(on(device, victims["lgm"]).outputs(images)) for device in (CPU, DEVICE))
    assert torch.allclose(here, there, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", catalog.names("loss"))
def test_a_loss_trains_and_its_checkpoint_goes_on(loss: str, digits: Splits) -> None:
    easy = {"l-softmax": {"margin": 1}}.get(loss, {})

    def trainer() -> Trainer:
        parts = build("digits-cnn", 16, loss, easy, shape=(1, 8, 8), classes=10, seed=0)
        chosen = Training(epochs=3, batch_size=50, learning_rate=0.05)
        return Trainer(*parts, digits.train, digits.validation, chosen, seed=0, device=DEVICE)

    first, second = trainer(), trainer()
    first.run()
    second.restore(first.checkpoint())
    assert second.validation_error() == first.validation_error() < 0.8
    assert next(second.network.parameters()).device == DEVICE


@pytest.mark.parametrize("network", catalog.names("network"))
def test_a_network_gives_the_features_that_it_gives_on_the_cpu(network: str) -> None:
    shape = {"digits-cnn": (1, 8, 8), "mnist-cnn": (1, 28, 28)}.get(network, (3, 32, 32))
    parts = build(network, 100, "softmax", {}, shape=shape, classes=10, seed=0)
    victim = Victim(Composed(*parts), shape=shape, classes=10, device=CPU)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    here, there = victim.outputs(images), on(DEVICE, victim).outputs(images)
    assert torch.allclose(here.features, there.features, rtol=1e-2, atol=1e-3)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The rows of a command in a folder of its own, with the device named, or left to the default."""
    monkeypatch.chdir(tmp_path)

    def rows(words: str, *, device: bool = True) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert cli.main([*words.split(), "--json", *(["--device", NAME] if device else [])]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return found

    return rows


def test_the_commands_on_models_that_are_trained_here(run: Run, tmp_path: Path) -> None:
    (row,) = run("attack --loss lgm --epochs 2 --eps 0.3 --n 30")
    assert row["error_rate"] > row["clean_error_rate"]
    assert run("attack --loss lgm --epochs 2 --eps 0.3 --n 30", device=False) == [row]
    assert run("train --loss lgm --epochs 2")[0]["run"] == row["run"]
    assert {r["run"] for r in run("verify --detector energy", device=False)} == {row["run"]}
    assert len(run("report --detector energy", device=False)) == 3
    assert {r["state"] for r in run(f"audit {row['run']}")} >= {"met"}
    aimed = "--attack detector-aware --detector likelihood --budget quick --eps 0.2"
    whole = run(f"attack --loss lgm --epochs 2 {aimed} --fpr 0.1 --n 10")
    parts = [f"attack --loss lgm --epochs 2 {aimed} --fpr 0.1 --n 8 --batch-size 4 --shard {i}/2" for i in (1, 2)]
    assert [len(run(part)) for part in parts] == [0, 1]
    assert whole[0]["n"] == 10
    study = "run --loss softmax,center --epochs 1 --attack fgsm,targeted-fgsm,pgd --eps 0.3 --n 20 --detector energy"
    assert len(run(study)) == 2 * 3 * 3
    assert {r["state"] for r in run("doctor", device=False)} == {"whole"}
    environments = [json.loads(p.read_text())["environment"]["device"] for p in tmp_path.glob("runs/*/manifest.json")]
    assert set(environments) <= {str(DEVICE), str(resolve_device(None))}


@pytest.mark.skipif(DEVICE == CPU, reason="tests/grid/test_engine.py does this on the CPU")
def test_a_study_on_processes_of_this_machine(run: Run) -> None:
    rows = run("run --loss softmax --epochs 1 --attack fgsm --eps 0.3 --n 20 --detector energy --on local --jobs 1")
    assert len(rows) == 3


SOURCE = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""


def test_evaluate_on_the_command_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    rows = run("evaluate --model m.py:build --attack fgsm,detector-aware --eps 0.1 --fpr 0.1 --budget quick --n 10")
    assert {r["detector"] for r in rows} == {"max-posterior", "energy", "mahalanobis"}


@pytest.mark.parametrize("home", sorted({"cpu", DEVICE.type}))
def test_evaluate_in_python_leaves_the_model_where_it_is(home: str, digits: Splits, few: ImageSet) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    steps = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        steps.zero_grad()
        nn.functional.cross_entropy(model(digits.train.load_all()), digits.train.labels).backward()  # type: ignore[no-untyped-call]
        steps.step()
    here = resolve_device(home)
    model.to(here)
    test, calibration = ((p.load_all().to(here), p.labels.to(here)) for p in (few, digits.calibration))
    given: dict[str, Any] = {"attacks": ["fgsm", "pgd"], "detectors": ["energy", "knn"], "eps": 0.1}
    given |= {"calibration": calibration, "train": (digits.train.load_all(), digits.train.labels)}
    found = [advbench.evaluate(model, *test, **given, device=device) for device in (None, NAME, "cpu")]
    assert {p.device for p in model.parameters()} == {here}
    errors = torch.tensor([[row.error_rate for row in one.attacks.values()] for one in found])
    assert (errors - errors[0]).abs().max() <= 1 / len(few) + 1e-6
