"""The tap at a supplied model's features: which layer it finds, what it reads there, and that it leaves no trace."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn

from advbench.errors import BadSetting
from advbench.losses.lgm import LGM
from advbench.supplied.features import tap
from advbench.supplied.loading import load_model

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3072, 24),
        nn.ReLU(inplace=True),
        nn.Linear(24, 12),
        nn.ReLU(inplace=True),
        nn.Linear(12, 10),
    ).eval()


class Twice(nn.Module):
    """One layer, called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3072, 10)
        self.again = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.again(self.again(self.first(images.flatten(1))))
        return logits


class Auxiliary(nn.Module):
    """A second head that runs last and does not reach the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3072, 6)
        self.head = nn.Linear(6, 10)
        self.aside = nn.Linear(3072, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images.flatten(1)))
        self.aside(images.flatten(1))
        return logits.div_(3.0)


class Functional(nn.Module):
    """Its last layer is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3072, 6)
        self.weight = nn.Parameter(torch.rand(6, 10))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images.flatten(1))) @ self.weight


@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [
        ("resnet18", "fc", 512),
        ("shufflenet_v2_x0_5", "fc", 1024),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("squeezenet1_1", "classifier.1", 512),
    ],
)
def test_tracing_finds_the_last_layer_of_torchvisions_networks(name: str, layer: str, width: int) -> None:
    model = tap(getattr(zoo, name)(num_classes=10).eval(), IMAGES)
    outputs = model.outputs(IMAGES)
    assert model.layer == layer
    assert outputs.features.shape == (2, width)
    assert outputs.logits.shape == (2, 10)


def test_tracing_finds_the_last_of_three_linear_layers() -> None:
    with torch.device("meta"):  # drawing 130 million weights would take seconds
        network = zoo.vgg11_bn(num_classes=10).to_empty(device="cpu").eval()
    model = tap(network, IMAGES)
    assert model.layer == "classifier.6"
    assert model.tapped(IMAGES).features.shape == (2, 4096)


@pytest.mark.parametrize(("name", "layer"), [("resnet10t", "fc"), ("mobilenetv3_small_050", "classifier")])
def test_tracing_finds_the_last_layer_of_timms_networks(name: str, layer: str) -> None:
    timm = pytest.importorskip("timm")
    model = tap(timm.create_model(name, num_classes=10).eval(), IMAGES)
    outputs = model.outputs(IMAGES)
    assert model.layer == layer
    assert torch.allclose(model.module.get_submodule(layer)(outputs.features), outputs.logits)


def test_the_features_are_what_the_last_layer_is_given() -> None:
    network = mlp()
    model = tap(network, IMAGES)
    outputs = model.outputs(IMAGES)
    assert model.layer == "5"
    assert torch.equal(outputs.features, network[:5](IMAGES))
    assert torch.equal(outputs.logits, network(IMAGES))
    assert torch.equal(model(IMAGES), network(IMAGES))


def test_a_head_that_is_no_linear_layer_is_found_too() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 6), LGM(6, 10)).eval()
    model = tap(network, IMAGES)
    assert model.layer == "2"
    assert torch.equal(model.outputs(IMAGES).features, network[:2](IMAGES))


def test_a_layer_whose_output_goes_nowhere_is_not_the_last() -> None:
    assert tap(Auxiliary(), IMAGES).layer == "head"


def test_of_a_layer_that_runs_twice_the_last_call_counts() -> None:
    network = Twice()
    model = tap(network, IMAGES)
    assert model.layer == "again"
    assert torch.equal(model.outputs(IMAGES).features, network.again(network.first(IMAGES.flatten(1))))


def test_a_named_layer_gives_its_own_output_whatever_runs_in_place_after_it() -> None:
    network = mlp()
    model = tap(network, IMAGES, features="3")
    features = model.outputs(IMAGES).features
    assert torch.equal(features, network[:4](IMAGES))
    assert (features < 0).any()


def test_a_named_map_is_averaged_over_its_positions_and_tokens_over_the_tokens() -> None:
    network = zoo.resnet18(num_classes=10).eval()
    by_name = tap(network, IMAGES, features="layer4").outputs(IMAGES)
    assert torch.allclose(by_name.features, tap(network, IMAGES).outputs(IMAGES).features, atol=1e-5)
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    vit = zoo.VisionTransformer(**sizes, num_classes=10).eval()
    assert tap(vit, IMAGES, features="encoder").outputs(IMAGES).features.shape == (2, 8)
    assert (traced := tap(vit, IMAGES)).layer == "heads.head"
    assert traced.outputs(IMAGES).features.shape == (2, 8)


def test_features_and_logits_carry_one_graph_twice_over() -> None:
    model = tap(mlp(), IMAGES)
    images = IMAGES.clone().requires_grad_()
    first, second = model.outputs(images), model.outputs(images * 0.5)
    loss = first.features.sum() + first.logits.sum() + second.features.sum() * 2
    (together,) = torch.autograd.grad(loss, images)
    apart = torch.zeros_like(images)
    for part in ("features", "logits", "half"):
        again = images.detach().clone().requires_grad_()
        if part == "half":
            value = model.outputs(again * 0.5).features.sum() * 2
        else:
            value = getattr(model.outputs(again), part).sum()
        apart += torch.autograd.grad(value, again)[0]
    assert together.abs().sum() > 0
    assert torch.allclose(together, apart, atol=1e-6)


def test_no_hook_stays_behind_even_after_an_error() -> None:
    model = tap(mlp(), IMAGES)
    model.outputs(IMAGES)
    with pytest.raises(BadSetting):
        model.outputs(torch.rand(2, 3, 4, 4))
    for part in model.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert torch.equal(copy.deepcopy(model).outputs(IMAGES).features, model.outputs(IMAGES).features)


def test_normalisation_lies_inside_so_that_pixels_stay_pixels() -> None:
    network, mean, std = mlp(), (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    model = tap(network, IMAGES, mean=mean, std=std)
    by_hand = torch.stack([(IMAGES[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(model(IMAGES), network(by_hand), atol=1e-6)
    assert torch.equal(tap(network, IMAGES, mean=[0.5], std=[0.2])(IMAGES), network((IMAGES - 0.5) / 0.2))


def test_an_unknown_layer_brings_the_list_of_names_nearest_first_and_capped() -> None:
    with pytest.raises(BadSetting) as caught:
        tap(zoo.resnet18(num_classes=10).eval(), IMAGES, features="layer4.1.conv3")
    listed = str(caught.value).partition("its layers: ")[2]
    assert listed.startswith("layer4.1.conv2, layer4.1.conv1")
    assert listed.endswith("more")
    assert listed.count(",") == 29


def test_where_tracing_finds_nothing_the_message_says_to_name_a_layer() -> None:
    with pytest.raises(BadSetting, match="name the layer whose output is the features by --features, one of: body"):
        tap(Functional(), IMAGES)
    assert tap(Functional(), IMAGES, features="body").outputs(IMAGES).features.shape == (2, 6)


def test_an_error_inside_a_forward_pass_names_the_line_of_the_users_file(tmp_path: Path) -> None:
    text = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.reshape(7, -1)\n"
    (tmp_path / "m.py").write_text(text, encoding="utf-8")
    model = load_model(f"{tmp_path / 'm.py'}:Net", classes=10, shape=(3, 32, 32))
    with pytest.raises(BadSetting, match=r"\[n 3 32 32\]: m.py, line 4 raised RuntimeError: shape '\[7, -1\]'"):
        tap(model, IMAGES)


def test_the_first_file_of_the_documentation_builds_a_network_with_features(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8")
    (tmp_path / "m.py").write_text(page.split("```python")[1].split("```")[0], encoding="utf-8")
    model = tap(load_model(f"{tmp_path / 'm.py'}:build", classes=7, shape=(3, 32, 32)), IMAGES)
    assert model.layer == "fc"
    assert model(IMAGES).shape == (2, 7)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused_in_a_sentence(tmp_path: Path) -> None:
    text = "import torch\nfrom torch import nn\ndef build():\n"
    text += "    return torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), torch.rand(2, 3, 32, 32))\n"
    (tmp_path / "m.py").write_text(text, encoding="utf-8")
    model = load_model(f"{tmp_path / 'm.py'}:build", classes=10, shape=(3, 32, 32))
    with pytest.raises(BadSetting, match="a TorchScript program, whose layers cannot be tapped"):
        tap(model, IMAGES)


def test_an_exported_archive_is_traced_by_the_names_of_its_modules() -> None:
    network = Auxiliary().eval()
    program = torch.export.export(network, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    model = tap(torch.export.unflatten(program), IMAGES)
    assert model.layer == "head"
    more = torch.rand(5, 3, 32, 32)
    assert torch.allclose(model.outputs(more).features, network.body(more.flatten(1)), atol=1e-6)
