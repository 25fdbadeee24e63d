"""The transfer attack: what it asks of the surrogate, nothing of the victim, and how a study feeds it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import catalog, cli, runs
from advbench.errors import BadSetting, UnknownName
from advbench.evasion import FromSurrogate
from advbench.report import write
from advbench.runs import released
from advbench.study.parsing import parse
from advbench.study.spec import Model, surrogate_of
from advbench.types import ImageSet, Splits
from advbench.victim import Victim
from tests.helpers.studies import study


def transfer(**options: Any) -> FromSurrogate:
    made: FromSurrogate = catalog.load("attack", "transfer")(**options)
    return made


def wrong(victim: Victim, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (victim.outputs(images).predictions != labels).double().mean().item()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_momentum_method_on_the_surrogate_and_never_asks_the_victim(
    norm: str, victims: dict[str, Victim], few: ImageSet
) -> None:
    asked: list[int] = []
    hook = victims["lgm"].network.register_forward_hook(lambda *given: asked.append(1))
    seeds = torch.arange(len(few))
    which = transfer(eps=0.2, norm=norm, steps=7)
    made = which.perturb(victims["lgm"], few.load_all(), few.labels, seeds, victims["softmax"])
    hook.remove()
    assert asked == []
    mim = catalog.load("attack", "mim")(eps=0.2, norm=norm, steps=7)
    on_surrogate = mim.perturb(victims["softmax"], few.load_all(), few.labels, seeds)
    assert torch.equal(made.images, on_surrogate.images)
    assert torch.equal(made.gradients, on_surrogate.gradients)
    assert torch.equal(made.forwards, on_surrogate.forwards)
    assert (made.first_success == -1).all()


@pytest.mark.parametrize("loss", ["center", "lgm"])
def test_it_fools_another_model_more_often_than_noise_and_no_more_often_than_the_same_attack_on_that_model(
    loss: str, victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images, labels = victims[loss], digits.test.load_all(), digits.test.labels
    seeds, eps = torch.arange(len(labels)), 0.12
    there = transfer(eps=eps).perturb(victim, images, labels, seeds, victims["softmax"]).images
    here = catalog.load("attack", "mim")(eps=eps, steps=20).perturb(victim, images, labels, seeds).images
    noise = catalog.load("attack", "uniform-noise")(eps=eps).perturb(victim, images, labels, seeds).images
    assert wrong(victim, noise, labels) + 0.2 < wrong(victim, there, labels) <= wrong(victim, here, labels)


ATTACK = {"name": "transfer", "eps": 0.2, "steps": 5}


def test_a_study_trains_the_surrogate_beside_its_models_once(tmp_path: Path) -> None:
    (row,) = study(tmp_path, losses="lgm", attacks=ATTACK, seeds=1).attack()
    assert (row.attack, row.settings) == ("transfer", {"steps": 5})
    surrogate, victim = runs.find(tmp_path / "runs")[::-1]
    assert (victim.trained.loss_name, victim.trained.seed) == ("lgm", 1)
    assert surrogate.model == replace(victim.trained, loss={"name": "softmax"}, seed=0)
    (step,) = (s for s in victim.steps if s.startswith("attack transfer-eps0.2"))
    assert victim.info(step)["surrogate"] == surrogate.name
    written = (surrogate.folder / "model.safetensors").stat().st_mtime_ns
    study(tmp_path, losses="lgm", attacks=ATTACK | {"eps": 0.1}, seeds=1).attack()
    assert (surrogate.folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_study_hands_over_the_surrogate_of_the_named_loss(tmp_path: Path) -> None:
    rows = study(tmp_path, losses="softmax", attacks=[ATTACK | {"source": "center"}]).attack()
    assert rows[0].settings == {"steps": 5, "source": "center"}
    assert {r.trained.loss_name for r in runs.find(tmp_path / "runs")} == {"softmax", "center"}


def test_the_page_of_a_study_holds_a_transfer_row(tmp_path: Path) -> None:
    page, rows = write.run(study(tmp_path, losses="lgm", attacks=ATTACK, detectors="max-posterior"))
    assert {r.attack for r in rows} == {"transfer"}
    assert "--attack transfer --eps 0.2 --set steps=5" in page.read_text()


def test_a_model_is_no_surrogate_of_itself_and_nothing_is_trained_to_find_that_out(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"source = 'softmax' is the very model under attack.*--set source=lgm"):
        study(tmp_path, losses=["lgm", "softmax"], attacks=ATTACK).attack()
    assert runs.find(tmp_path / "runs") == []
    (other_seed,) = study(tmp_path, losses="softmax", attacks=ATTACK, seeds=1).spec.models()
    assert surrogate_of(other_seed, "softmax").seed == 0


def mnist_model(loss: dict[str, Any], **training: Any) -> Model:
    (model,) = parse({"dataset": "mnist", "losses": loss, "attacks": ATTACK, "detectors": "max-posterior",
                      "training": training}).models()  # fmt: skip
    return model


@pytest.mark.parametrize("source", ["softmax", "lgm"])
def test_the_surrogate_of_an_adversarially_trained_model_is_the_released_one_of_standard_training(
    source: str,
) -> None:
    hardened, usual = mnist_model({"name": source, "adversarial": True}), mnist_model({"name": source})
    assert hardened.training != usual.training
    surrogate = surrogate_of(hardened, source)
    assert surrogate == usual == surrogate_of(mnist_model({"name": "center"}), source)
    folder = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "weights"
    stem = {"softmax": "softmax", "lgm": "lgm1.0"}[source]
    record = released.read(folder / f"{stem}-100d-seed0.safetensors").model
    assert released.find([folder], surrogate.record(record.data_sha256)) is not None


def test_a_surrogate_keeps_the_training_settings_that_the_victim_was_given() -> None:
    hardened = mnist_model({"name": "softmax", "adversarial": True}, epochs=3, learning_rate=0.01)
    surrogate = surrogate_of(hardened, "softmax")
    assert surrogate.training == hardened.training
    assert surrogate.regime == "standard"


def test_an_unknown_source_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownName, match=r"no loss named 'sofmax'. Did you mean 'softmax'"):
        transfer(source="sofmax")
    assert cli.main(["attack", "--loss", "lgm", "--attack", "transfer", "--set", "source=lgn"]) == 2
    assert "Did you mean 'lgm'" in capsys.readouterr().err


def test_a_setting_outside_its_range_is_refused_by_name() -> None:
    with pytest.raises(BadSetting, match="steps"):
        transfer(steps=0)
