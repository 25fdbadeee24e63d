"""Plug-ins are found by their files' names, listed without being imported, and keep their kinds' contracts."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advbench import catalog, settings
from advbench.data import DataSource
from advbench.detection import Detector
from advbench.errors import BrokenPlugin, UnknownName
from advbench.evasion.base import AttackSettings
from advbench.losses import Head
from advbench.networks import Network
from advbench.recipes import Recipe, Training
from advbench.reproduce.experiment import Experiment

CONTRACTS = {"attack": AttackSettings, "detector": Detector, "loss": Head, "network": Network, "data set": DataSource}
CONTRACTS["experiment"] = Experiment
PLUGINS = [(kind, name) for kind in catalog.FOLDERS for name in catalog.names(kind)]
SHAPES = {"digits-cnn": (1, 8, 8), "mnist-cnn": (1, 28, 28), "resnet20": (3, 32, 32)}


def test_the_catalog_names_the_plug_ins_of_each_kind_in_order() -> None:
    assert {"fgsm", "targeted-fgsm"} <= set(catalog.names("attack"))
    assert {"likelihood", "max-posterior"} <= set(catalog.names("detector"))
    assert {"softmax", "center", "lgm"} <= set(catalog.names("loss"))
    assert {"digits-cnn", "mnist-cnn"} <= set(catalog.names("network"))
    assert {"digits", "mnist"} <= set(catalog.names("data set"))
    for kind in catalog.FOLDERS:
        assert list(catalog.names(kind)) == sorted(catalog.names(kind))


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plug_in_keeps_the_contract_of_its_kind(kind: str, name: str) -> None:
    cls = catalog.load(kind, name)
    assert issubclass(cls, CONTRACTS[kind])
    assert not inspect.isabstract(cls)
    assert cls.__name__.lower() == name.replace("-", "")
    assert cls.__module__ == f"{catalog.FOLDERS[kind]}.{name.replace('-', '_')}"


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plug_in_says_in_one_line_what_it_is(kind: str, name: str) -> None:
    line = catalog.summary(kind, name)
    module = sys.modules[catalog.load(kind, name).__module__]
    assert line == (module.__doc__ or "").splitlines()[0]
    assert 10 < len(line) < 120


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_setting_of_a_plug_in_has_a_default_that_its_own_type_admits(kind: str, name: str) -> None:
    cls = catalog.load(kind, name)
    defaults = settings.defaults(cls)
    assert set(defaults) == set(settings.parameters(cls))
    assert settings.fill(cls, defaults, name) == defaults


@pytest.mark.parametrize("name", catalog.names("data set"))
def test_every_data_set_comes_with_a_recipe_that_can_be_trained(name: str) -> None:
    recipe: Recipe = catalog.load("data set", name).recipe
    assert recipe.network in {*catalog.names("network"), "resnet20"}
    assert isinstance(Training(**recipe.training), Training)


OURS = [name for name in catalog.names("network") if not name.startswith("lenet-plus")]  # those are as published


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("feature_dim", [2, 100])
def test_networks_rectify_features_unless_they_are_for_a_scatter_plot(name: str, feature_dim: int) -> None:
    network = catalog.load("network", name)(SHAPES[name], feature_dim)
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.fill_(-100)
        features = network(torch.rand(5, *SHAPES[name]))
    assert features.shape == (5, feature_dim)
    assert network.feature_dim == feature_dim
    assert ((features < -50) if feature_dim == 2 else (features == 0)).all()


@pytest.mark.parametrize("name", OURS)
def test_networks_scale_pixels_from_minus_one_to_one_themselves(name: str) -> None:
    network = catalog.load("network", name)(SHAPES[name], 2)
    images = torch.rand(2, *SHAPES[name])
    torch.testing.assert_close(network(images), network.layers((images - 0.5) / 0.5))


def test_the_mnist_network_is_the_papers_six_convolutions() -> None:
    network = catalog.load("network", "mnist-cnn")((1, 28, 28), 100)
    shapes = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert shapes == [
        (32, 1, 5, 5),
        (32, 32, 5, 5),
        (64, 32, 5, 5),
        (64, 64, 5, 5),
        (128, 64, 5, 5),
        (128, 128, 5, 5),
    ]
    assert sum(isinstance(m, torch.nn.PReLU) for m in network.modules()) == 6
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in network.modules()) == 3


@pytest.mark.parametrize("ask", [catalog.load, catalog.summary])
def test_an_unknown_name_is_refused_with_the_nearest_one_and_all_known_ones(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UnknownName, match=r"no attack named 'fgms'. Did you mean 'fgsm'\? Known: .*targeted-fgsm"):
        ask("attack", "fgms")


@pytest.mark.parametrize("name", ["targeted_fgsm", "TargetedFGSM", "__init__", "", "../fgsm"])
def test_only_the_catalog_spelling_of_a_name_is_known(name: str) -> None:
    with pytest.raises(UnknownName):
        catalog.load("attack", name)


def test_listing_and_summaries_import_neither_plug_ins_nor_torch() -> None:
    code = """
import sys
from advbench import catalog
for kind in catalog.FOLDERS:
    for name in catalog.names(kind):
        assert catalog.summary(kind, name)
print(sorted(m for m in sys.modules if m.split(".")[0] in ("torch", "numpy", "art")
             or m.startswith(tuple(f"{folder}." for folder in catalog.FOLDERS.values()))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty plug-in package that stands in for the attacks."""
    package = tmp_path / f"plugins_of_{request.node.name[:40]}"
    package.mkdir()
    (package / "__init__.py").write_text('"""Plug-ins."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(catalog.FOLDERS, "attack", package.name)
    return package


def test_a_new_file_is_a_plug_in_and_one_that_starts_with_an_underscore_is_not(folder: Path) -> None:
    (folder / "two_step.py").write_text(
        '"""Two steps."""\n\nfrom pathlib import Path\n\n\nclass TwoStep:\n    pass\n'
    )
    (folder / "_shared.py").write_text('"""Not one."""\n')
    assert catalog.names("attack") == ("two-step",)
    assert catalog.summary("attack", "two-step") == "Two steps."
    assert catalog.load("attack", "two-step").__name__ == "TwoStep"


@pytest.mark.parametrize(
    "text",
    [
        "class Other:\n    pass\n",
        "from pathlib import Path as TwoStep\n",  # imported, not defined here
        "def two_step():\n    pass\n",
        "TwoStep = 3\n",
    ],
)
def test_a_file_without_the_class_of_its_name_is_a_broken_plug_in(folder: Path, text: str) -> None:
    (folder / "two_step.py").write_text(text)
    with pytest.raises(BrokenPlugin, match="two_step defines no class whose lower-case name is 'twostep'"):
        catalog.load("attack", "two-step")
    assert catalog.summary("attack", "two-step") == "broken: it defines no class of its name"
