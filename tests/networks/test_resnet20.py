"""ResNet-20: the paper's layers and size; what batch normalisation asks of training, files and evaluation."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench import runs
from advbench.data.digits import Digits
from advbench.errors import BadSetting
from advbench.networks.resnet20 import Block, ResNet20
from advbench.recipes import AdversarialTraining, Recipe, Training
from advbench.runs import artifacts, released, write_whole
from advbench.study.command_lines import attacking
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.train import victim_of
from advbench.study.workspace import Workspace
from advbench.training.loop import Trainer
from advbench.types import Splits
from advbench.victim import build
from tests.helpers.resuming import run_and_resume

CPU = torch.device("cpu")
SPEC = {
    "network": "resnet20",
    "losses": ["lgm"],
    "attacks": [{"name": "fgsm", "eps": 0.1}],
    "training": {"epochs": 1, "augmentation": "mirror-crop"},
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_it_has_twenty_layers_and_the_papers_quarter_of_a_million_weights() -> None:
    network = ResNet20((3, 32, 32), 100)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert (len(convolutions), len(linear)) == (19, 1)
    # with the paper's classifier, 64 to 10, in the place of our last two layers: 0.27 M (He et al. 2016, table 6)
    ours = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)] + linear
    assert count(network) - sum(map(count, ours)) + 64 * 10 + 10 == 269_722
    assert count(network) == 269_072 + 2 * 64 + 64 * 100 + 100


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 33, 47), (4, 1, 1)])
@pytest.mark.parametrize("feature_dim", [2, 100])
def test_images_of_any_size_become_features(shape: tuple[int, int, int], feature_dim: int) -> None:
    assert ResNet20(shape, feature_dim).eval()(torch.rand(3, *shape)).shape == (3, feature_dim)


def test_its_stages_see_32_16_and_8_pixels() -> None:
    network, seen = ResNet20((3, 32, 32), 100), []
    for module in network.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out.shape[1:])))
    network(torch.rand(2, 3, 32, 32))
    assert seen == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 8)])
def test_a_block_adds_its_residual_to_a_shortcut_without_parameters(inputs: int, outputs: int) -> None:
    block, x = Block(inputs, outputs), torch.randn(5, inputs, 7, 7)
    shortcut = torch.zeros(5, outputs, *(x if inputs == outputs else x[:, :, ::2, ::2]).shape[2:])
    shortcut[:, :inputs] = x if inputs == outputs else x[:, :, ::2, ::2]
    before = x.clone()
    expected = F.relu(block.residual(x) + shortcut)
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)
    nn.init.zeros_(block.residual[-1].weight)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), F.relu(shortcut))


def test_a_single_training_image_is_refused() -> None:
    network = ResNet20((3, 8, 8), 100)
    with pytest.raises(BadSetting, match=r"batch of 1 image.*--train-batch-size"):
        network(torch.rand(1, 3, 8, 8))
    assert network.eval()(torch.rand(1, 3, 8, 8)).shape == (1, 100)


def test_its_gradient_is_that_of_finite_differences() -> None:
    network = ResNet20((2, 4, 4), 2).double().eval()
    images = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (images,))


# -- training ----------------------------------------------------------------------------------------------------


def trainer_of(digits: Splits, adversarial: AdversarialTraining | None = None, epochs: int = 3) -> Trainer:
    network, head = build("resnet20", 100, "center", {}, shape=(1, 8, 8), classes=10, seed=0)
    settings = Training(epochs=epochs, batch_size=32, augmentation="mirror-crop")
    train, validation = digits.train.take(slice(0, 64)), digits.validation.take(slice(0, 40))
    return Trainer(network, head, train, validation, settings, seed=0, device=CPU, adversarial=adversarial)


@pytest.mark.parametrize(
    "adversarial", [None, AdversarialTraining(eps=0.1, steps=2)], ids=["standard", "adversarial"]
)
def test_a_resumed_training_with_statistics_and_augmentation_ends_in_the_same_bits(
    digits: Splits, adversarial: AdversarialTraining | None
) -> None:
    whole, resumed = trainer_of(digits, adversarial), trainer_of(digits, adversarial)
    run_and_resume(whole, resumed, 1)
    first, second = whole.checkpoint().tensors, resumed.checkpoint().tensors
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    tracked = [name for name in first if name.endswith("num_batches_tracked")]
    assert len(tracked) == 20
    assert all(first[name].dtype == torch.int64 and int(first[name]) == 6 for name in tracked)


def test_attacks_of_adversarial_training_do_not_count_in_the_statistics(digits: Splits) -> None:
    running = trainer_of(digits, AdversarialTraining(eps=0.1, steps=3))
    running.network.train()
    before = {k: v.clone() for k, v in running.network.state_dict().items()}
    running._batch(torch.arange(32), 0)
    assert all(torch.equal(before[k], v) for k, v in running.network.state_dict().items())
    assert all(module.training for module in running.network.modules())


def test_an_attacked_training_image_does_not_depend_on_those_beside_it(digits: Splits) -> None:
    def moved(n: int) -> Tensor:
        running = trainer_of(digits, AdversarialTraining(eps=0.1, steps=1))
        running.network.train()
        running.settings = Training()
        return running._batch(torch.arange(n), 10**6)[0][:4]

    torch.testing.assert_close(moved(8), moved(24))


# -- files and evaluation ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained digits model under `runs` and its released weights under `reports`."""
    folder = tmp_path_factory.mktemp("resnet20")
    Study(parse(SPEC), Workspace(folder / "runs", device=CPU), weights=[]).train()
    (run,) = runs.find(folder / "runs")
    write_whole(folder / "reports" / "digits" / "weights" / "lgm.safetensors", released.pack(run))
    return folder


def test_released_weights_keep_statistics_and_counters(home: Path, tmp_path: Path) -> None:
    study = Study(parse(SPEC), Workspace(tmp_path / "runs", home / "reports", device=CPU))
    row = study.attack()[0]
    (run,) = runs.find(tmp_path / "runs")
    assert run.info("train")["released"]["file"] == "lgm.safetensors"
    (trained,) = runs.find(home / "runs")
    whole, rounded = artifacts.unpack(trained, artifacts.MODEL), artifacts.unpack(run, artifacts.MODEL)
    counters = [name for name in whole if name.endswith("num_batches_tracked")]
    assert counters
    assert all(torch.equal(rounded[name], whole[name]) for name in counters)
    assert rounded["network.layers.1.running_var"].dtype == torch.float32
    first, second = (artifacts.read_part(r, "test").outputs.predictions for r in (trained, run))
    assert float((first != second).float().mean()) < 0.01  # 16 bits: an image or two
    assert row.error_rate >= row.clean_error_rate


def test_its_command_line_names_network_and_augmentation(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = runs.find(home / "runs")
    words = " ".join(attacking(run)[1:])
    assert words == "--dataset digits --loss lgm --seed 0 --network resnet20 --epochs 1 --augmentation mirror-crop"
    augmented = Recipe("resnet20", {"epochs": 1, "augmentation": "mirror-crop"}, {"eps": 0.1})
    monkeypatch.setattr(Digits, "recipe", augmented)
    assert attacking(run) == ["attack", "--dataset", "digits", "--loss", "lgm", "--seed", "0"]
    plain = parse({"losses": ["lgm"], "training": {"augmentation": "none"}}).models()[0].record("")
    unusual = runs.Run(run.folder, plain, run.environment, run.steps)
    assert attacking(unusual)[-2:] == ["--augmentation", "none"]


def test_the_model_under_test_uses_its_statistics_and_leaves_them_alone(home: Path, digits: Splits) -> None:
    (run,) = runs.find(home / "runs")
    victim = victim_of(run, digits, Workspace(home / "runs", device=CPU))
    before = {k: v.clone() for k, v in victim.model.state_dict().items()}
    images = digits.test.load_all()[:20]
    together, alone = victim.outputs(images), victim.outputs(images[:1])
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-4, atol=1e-4)
    assert not victim.stochastic
    assert all(torch.equal(before[k], v) for k, v in victim.model.state_dict().items())
