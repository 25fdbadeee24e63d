"""Adversarial training: its batches stay in their ball, it resumes bit for bit, and it makes models robust."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advbench import catalog, runs
from advbench.errors import BadSetting, UnknownName
from advbench.losses import Head
from advbench.networks import Network
from advbench.recipes import AdversarialTraining, Training
from advbench.runs import as_json, released, sealed_json, write_whole
from advbench.study.command_lines import regime_options
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from advbench.training.adversarial import attacked, frozen
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Splits
from advbench.victim import Composed, Victim
from tests.helpers.resuming import run_and_resume

CPU = torch.device("cpu")
CELLS = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "cells"
SETTINGS = [
    AdversarialTraining(eps=0.3),
    AdversarialTraining(eps=0.1, steps=5),
    AdversarialTraining(eps=1.0, steps=3, step=0.7),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attack(
    victim: Victim, images: ImageSet, settings: AdversarialTraining, *, eps: float | None = None, seed: int = 0
) -> Tensor:
    """The images as one training step on them would see them."""
    eps = settings.eps if eps is None else eps
    return attacked(victim.model, images.load_all(), images.labels, settings, eps=eps, rng=rng(seed))


# -- one batch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_an_attacked_batch_stays_in_its_ball_and_in_the_pixel_range(
    victim: Victim, few: ImageSet, settings: AdversarialTraining, share: float
) -> None:
    eps = share * settings.eps
    moved = attack(victim, few, settings, eps=eps)
    assert moved.shape == few.load_all().shape
    assert float((moved - few.load_all()).abs().max()) <= eps + 1e-7
    assert torch.equal(moved, moved.clamp(0, 1))
    assert torch.equal(attack(victim, few, settings, eps=0.0), few.load_all())


def test_a_step_across_the_ball_ends_in_the_corner_that_a_linear_model_fears_most(
    linear_victim: Callable[..., Victim],
) -> None:
    generator = rng(3)
    weight = torch.randn(2, 16, generator=generator)
    images = 0.4 + 0.2 * torch.rand(6, 1, 4, 4, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    few = ImageSet("made", images, labels, ("0", "1"))
    away = (weight[1 - labels] - weight[labels]).sign().view_as(images)  # raises the other class over the label
    corner = images + 0.3 * away
    victim = linear_victim(weight, height=4)
    whole = attack(victim, few, AdversarialTraining(eps=0.3, step=0.6))
    assert torch.allclose(whole, corner, atol=1e-6)
    # 1.25 eps from anywhere in the ball: at least a quarter of eps beyond the centre, on the corner's side
    usual = ((attack(victim, few, AdversarialTraining(eps=0.3)) - images) * away) / 0.3
    assert 0.25 - 1e-5 <= float(usual.min()) < 0.5 < float(usual.max()) <= 1 + 1e-5


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_attack_raises_the_cross_entropy(victim: Victim, few: ImageSet, settings: AdversarialTraining) -> None:
    moved = attack(victim, few, settings)
    noise = settings.eps * (2 * torch.rand(few.load_all().shape, generator=rng()) - 1)
    noisy = (few.load_all() + noise).clamp(0, 1)
    before, after = (F.cross_entropy(victim.model(x), few.labels).item() for x in (noisy, moved))
    assert after > before


def test_the_start_is_drawn_from_the_generator_alone(victim: Victim, few: ImageSet) -> None:
    settings = AdversarialTraining(eps=0.2)
    first = attack(victim, few, settings, seed=1)
    torch.rand(3)
    assert torch.equal(attack(victim, few, settings, seed=1), first)
    assert not torch.equal(attack(victim, few, settings, seed=2), first)


def test_the_attack_knows_no_margin() -> None:
    features = torch.rand(8, 1, 2, 8, generator=rng(5))
    labels = torch.arange(8) % 4
    moved = []
    for alpha in (0.0, 5.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            head: Head = catalog.load("loss", "lgm")(16, 4, alpha=alpha)
        trainer = trainer_of(Flat(), head, ImageSet("made", features, labels, tuple("abcd")), SETTINGS[1])
        moved.append(trainer._batch(torch.arange(8), 0)[0])
    assert torch.equal(moved[0], moved[1])


def test_frozen_parameters_ask_for_no_gradient_until_they_are_let_go() -> None:
    trained, fixed = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    with frozen([trained, fixed]):
        assert not trained.requires_grad
        assert not fixed.requires_grad
    assert trained.requires_grad
    assert not fixed.requires_grad


# -- training ----------------------------------------------------------------------------------------------------


class Flat(Network):
    """The pixels as features; has one weight, so that there is something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 16
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.scale


def trainer_of(
    network: Network, head: Head, train: ImageSet, adversarial: AdversarialTraining | None, **training: Any
) -> Trainer:
    settings = Training(**{"epochs": 4, "batch_size": 32} | training)
    return Trainer(
        network, head, train, train.take(slice(0, 50)), settings, seed=0, device=CPU, adversarial=adversarial
    )


@pytest.fixture
def trainer(digits: Splits, dense: type[Network]) -> Callable[..., Trainer]:
    """Makes a trainer of one loss on 120 digits."""

    def make(loss: str, adversarial: AdversarialTraining | None, **training: Any) -> Trainer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            head = catalog.load("loss", loss)(16, 10)
            network = dense((1, 8, 8), 16)
        return trainer_of(network, head, digits.train.take(slice(0, 120)), adversarial, **training)

    return make


@pytest.mark.parametrize("loss", ["softmax", "center", "lgm"])
@pytest.mark.parametrize(
    "settings", [AdversarialTraining(eps=0.1), AdversarialTraining(eps=0.1, steps=3, ramp=0.6)], ids=str
)
def test_a_resumed_adversarial_training_ends_in_the_same_bits(
    trainer: Callable[..., Trainer], loss: str, settings: AdversarialTraining
) -> None:
    whole, resumed = trainer(loss, settings), trainer(loss, settings)
    run_and_resume(whole, resumed, 2)
    first, second = whole.checkpoint().tensors, resumed.checkpoint().tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [e.loss for e in resumed.epochs] == [e.loss for e in whole.epochs]


def test_an_attack_leaves_parameters_gradients_and_statistics_as_they_are(trainer: Callable[..., Trainer]) -> None:
    running = trainer("center", SETTINGS[0])
    before = {k: v.clone() for k, v in running.checkpoint().tensors.items() if not k.startswith("rng")}
    images, labels, _ = running._batch(torch.arange(20), 0)
    assert not images.requires_grad
    assert torch.equal(labels, running.labels[:20])
    assert all(p.grad is None and p.requires_grad for p in running.parameters)
    assert all(torch.equal(before[k], v) for k, v in running.checkpoint().tensors.items() if k in before)


def test_eps_rises_over_its_share_of_the_training(trainer: Callable[..., Trainer]) -> None:
    running = trainer("softmax", AdversarialTraining(eps=0.2, ramp=0.5, step=0.4), epochs=5, batch_size=12)
    everything = torch.arange(120)
    reach = [
        float((running._batch(everything, s)[0] - running.images[:]).abs().max()) for s in (0, 4, 12, 24, 30, 49)
    ]
    assert reach == pytest.approx([0.2 * share for share in (1 / 25, 5 / 25, 13 / 25, 1, 1, 1)], abs=1e-5)


def test_an_adversarially_trained_model_withstands_what_a_standard_one_does_not(
    digits: Splits, dense: type[Network], victims: dict[str, Victim]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network, head = dense((1, 8, 8), 16), catalog.load("loss", "softmax")(16, 10)
    settings = AdversarialTraining(eps=0.1)
    trainer_of(network, head, digits.train, settings, epochs=20, batch_size=50, learning_rate=0.1).run()
    hardened = Victim(Composed(network, head), shape=(1, 8, 8), classes=10, device=CPU)
    images = digits.test
    pgd = catalog.load("attack", "pgd")(eps=0.1, steps=20)
    errors, clean = [], []
    for victim in (victims["softmax"], hardened):
        moved = pgd.perturb(victim, images.load_all(), images.labels, torch.arange(len(images))).images
        errors.append(float((victim.outputs(moved).predictions != images.labels).float().mean()))
        clean.append(float((victim.outputs(images.load_all()).predictions != images.labels).float().mean()))
    assert errors[1] < errors[0] - 0.3, (errors, clean)
    assert clean[1] < 0.1


# -- settings and records ----------------------------------------------------------------------------------------


def model(losses: object, dataset: str = "digits") -> Any:
    (made,) = parse({"dataset": dataset, "losses": losses}).models()
    return made


@pytest.mark.parametrize(
    ("settings", "step"),
    [({"eps": 0.2}, 0.25), ({"eps": 0.2, "steps": 10}, 0.05), ({"eps": 0.2, "steps": 10, "step": 0.01}, 0.01)],
)
def test_a_step_has_a_usual_size(settings: dict[str, Any], step: float) -> None:
    assert AdversarialTraining(**settings).record() == {
        "eps": 0.2, "steps": settings.get("steps", 1), "step": pytest.approx(step), "ramp": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        {"eps": 0}, {"eps": 1.5}, {"eps": float("nan")}, {"steps": 0}, {"step": 0}, {"step": -1}, {"ramp": -0.1},
        {"ramp": 2},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=f"adversarial {next(iter(bad))}"):
        AdversarialTraining(**bad)


@pytest.mark.parametrize("given", [1, "yes", [0.1], {"epz": 0.1}, {"eps": "much"}, {"steps": 1.5}])
def test_an_entry_that_says_adversarial_wrongly_is_refused(given: object) -> None:
    with pytest.raises((BadSetting, UnknownName), match="adversarial"):
        parse({"losses": [{"name": "softmax", "adversarial": given}]})


def test_a_standard_record_is_what_the_released_weights_were_found_by() -> None:
    committed = json.loads((CELLS / "lgm1.0-100d-seed0.json").read_text(encoding="utf-8"))["model"]
    standard = model("lgm", "mnist")
    assert list(as_json(standard.record(committed["data_sha256"])).items()) == list(committed.items())
    assert (
        standard.run_name(committed["data_sha256"]).rpartition("-")[2] == sealed_json.digest(committed) == "cb18d95f"
    )
    assert model([{"name": "lgm", "adversarial": False}], "mnist") == standard


def test_an_adversarial_record_says_so_with_every_setting() -> None:
    record = model([{"name": "softmax", "adversarial": {"steps": 4}}]).record("")
    assert record.regime == "adversarial"
    assert record.adversarial == {"eps": 0.1, "steps": 4, "step": pytest.approx(0.0625), "ramp": 0.0}
    assert (
        model([{"name": "softmax", "adversarial": True}]).run_name("").startswith("digits-softmax-adversarial-seed0-")
    )


def test_each_setting_of_the_attack_has_a_folder_of_its_own() -> None:
    tables: list[object] = [False, True, {"eps": 0.2}, {"steps": 2}, {"step": 0.05}, {"ramp": 0.5}]
    assert len({model([{"name": "lgm", "adversarial": t}]).run_name("") for t in tables}) == len(tables)
    usual = {"eps": 0.1, "steps": 1, "step": 0.125, "ramp": 0}
    names = {model([{"name": "lgm", "adversarial": t}]).run_name("") for t in (True, {}, usual)}
    assert len(names) == 1


@pytest.mark.parametrize(
    "given",
    [{}, {"eps": 0.2}, {"steps": 7, "ramp": 0.25}, {"step": 0.03}, {"eps": 8 / 255, "steps": 2, "step": 0.01}],
)
def test_options_lead_back_to_their_record(given: dict[str, Any]) -> None:
    usual = {"eps": 0.3, "ramp": 0.3}
    record = AdversarialTraining(**{**usual, **given}).record()
    options = regime_options(record, usual)
    assert options.pop("adversarial") is True
    assert options == {f"adversarial_{k}": v for k, v in given.items()}
    assert regime_options(None, usual) == {}


def test_released_adversarial_weights_are_adopted_by_their_record_alone(tmp_path: Path) -> None:
    def study(adversarial: object, place: str) -> Study:
        spec = parse({"losses": [{"name": "lgm", "adversarial": adversarial}], "training": {"epochs": 1}})
        return Study(spec, Workspace(tmp_path / place, tmp_path / "reports"))

    study(True, "first").train()
    (run,) = runs.find(tmp_path / "first")
    write_whole(tmp_path / "reports" / "digits" / "weights" / "lgm.safetensors", released.pack(run))
    for given, adopted in ((True, True), ({"eps": 0.2}, False), (False, False)):
        place = f"with {given}"
        study(given, place).train()
        (other,) = runs.find(tmp_path / place)
        assert ("released" in other.info("train")) is adopted
