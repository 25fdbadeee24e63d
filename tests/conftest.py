"""What the tests share: one thread, a seeded generator, digits, small trained models, the real MNIST's folder."""

import os
import shutil
import signal
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advbench import catalog
from advbench.losses.softmax import Softmax
from advbench.networks import Network
from advbench.recipes import Training
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Splits
from advbench.victim import Composed, Victim
from tests.helpers.models import Dense, Pixels

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and tests send it

CPU = torch.device("cpu")
HEADS: dict[str, tuple[str, dict[str, object]]] = {
    "softmax": ("softmax", {}),
    "center": ("center", {}),
    "lgm": ("lgm", {"alpha": 0.3}),
    "lgm-diagonal": ("lgm", {"alpha": 0.3, "covariance": "diagonal"}),
}


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded afresh for each test."""
    return np.random.default_rng(20180618)


@pytest.fixture(scope="session")
def digits() -> Splits:
    """The four parts of scikit-learn's digits."""
    splits: Splits = catalog.load("data set", "digits")().load(None)
    return splits


@pytest.fixture(scope="session")
def few(digits: Splits) -> ImageSet:
    """The first 24 test images."""
    return digits.test.take(slice(0, 24))


@pytest.fixture(scope="session")
def dense() -> type[Network]:
    """A network that trains in a fraction of a second."""
    return Dense


@pytest.fixture(scope="session")
def victims(digits: Splits) -> dict[str, Victim]:
    """A trained model for each loss: softmax, center, lgm, lgm-diagonal. Their weights are everybody's."""
    made = {}
    for name, (loss, settings) in HEADS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = Dense((1, 8, 8), 16)
            head = catalog.load("loss", loss)(16, 10, **settings)
        rate = 0.05 if loss == "lgm" else 0.1
        training = Training(epochs=8, batch_size=50, learning_rate=rate)
        Trainer(network, head, digits.train, digits.validation, training, seed=1, device=CPU).run()
        made[name] = Victim(Composed(network, head), shape=(1, 8, 8), classes=10, device=CPU)
    return made


@pytest.fixture(params=list(HEADS))
def victim(request: pytest.FixtureRequest, victims: dict[str, Victim]) -> Victim:
    """Each of the trained models in turn."""
    return victims[request.param]


@pytest.fixture(scope="session")
def linear_victim() -> Callable[..., Victim]:
    """Makes a softmax model that is linear in its pixels: weight [k, h*w], bias [k], images [1 h w]."""

    def make(weight: Tensor, bias: Tensor | None = None, *, height: int = 1) -> Victim:
        classes, pixels = weight.shape
        head = Softmax(pixels, classes)
        head.linear.weight.data = weight.float()
        head.linear.bias.data = torch.zeros(classes) if bias is None else bias.float()
        shape = (1, height, pixels // height)
        return Victim(Composed(Pixels(shape, pixels), head), shape=shape, classes=classes, device=CPU)

    return make


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The data folder with the real MNIST; skips where there is none."""
    folder = Path(os.environ.get("ADVBENCH_DATA", ""))
    if "ADVBENCH_DATA" not in os.environ or not (folder / "MNIST" / "raw").is_dir():
        pytest.skip("ADVBENCH_DATA names no folder with MNIST/raw")
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that an earlier version made, see test_kept_runs."""
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(Path(__file__).with_name("kept_runs.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def here(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs and of what made them, as the current folder."""
    shutil.copytree(kept, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    return tmp_path / "kept"
