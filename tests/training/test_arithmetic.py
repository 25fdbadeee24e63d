"""bf16 means bf16 where the device has it and float32 elsewhere; records do not say which, manifests do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advbench import catalog, runs
from advbench.device import Arithmetic, arithmetic_of, computes_bf16
from advbench.networks import Network
from advbench.recipes import Training
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Splits
from tests.helpers.studies import Heard

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "native", "used"),
    [("fp32", True, "fp32"), ("fp32", False, "fp32"), ("bf16", True, "bf16"), ("bf16", False, "fp32")],
)
def test_bf16_is_used_where_it_is_asked_for_and_native(precision: Arithmetic, native: bool, used: str) -> None:
    assert arithmetic_of(precision, CPU, lambda device: native) == used


def test_a_cpu_whose_instructions_know_bf16_computes_it_natively() -> None:
    flags = torch.cpu.get_capabilities()
    known = any(flags.get(flag) for flag in ("avx512_bf16", "amx_bf16"))
    avx512 = all(flags.get(flag) for flag in ("avx512_bw", "avx512_vl", "avx512_dq"))
    if flags["architecture"] == "x86_64":
        assert known <= computes_bf16(CPU)
        assert computes_bf16(CPU) <= (known or avx512 or bool(flags.get("avx_ne_convert")))
    assert not computes_bf16(torch.device("meta"))


class Watched(Network):
    """Remembers the dtypes that its layer computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 16
        self.layer = nn.Linear(64, 16)
        self.seen: set[torch.dtype] = set()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer(images.flatten(1))
        self.seen.add(features.dtype)
        return features


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_training_and_validation_compute_in_what_the_device_has(
    digits: Splits, native: bool, dtype: torch.dtype
) -> None:
    network, train = Watched(), digits.train.take(slice(0, 64))
    head = catalog.load("loss", "softmax")(16, 10)
    settings = Training(epochs=1, precision="bf16")
    trainer = Trainer(network, head, train, train, settings, seed=0, device=CPU, native=lambda device: native)
    trainer.run()
    assert network.seen == {dtype}
    assert trainer.arithmetic == ("bf16" if native else "fp32")


def test_without_native_bf16_a_bf16_training_ends_in_the_bits_of_a_float32_one(
    digits: Splits, dense: type[Network]
) -> None:
    def weights(train: ImageSet, precision: Arithmetic) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, head = dense((1, 8, 8), 16), catalog.load("loss", "lgm")(16, 10)
        settings = Training(epochs=1, precision=precision)
        running = Trainer(network, head, train, train, settings, seed=0, device=CPU, native=lambda device: False)
        running.run()
        return dict(running.checkpoint().tensors)

    plain, asked = (weights(digits.train.take(slice(0, 128)), p) for p in ("fp32", "bf16"))
    assert all(torch.equal(plain[name], asked[name]) for name in plain)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_manifest_and_one_line_say_what_was_computed_in(tmp_path: Path, precision: Arithmetic) -> None:
    heard = Heard()
    spec = parse({"losses": ["softmax"], "training": {"epochs": 1, "precision": precision}})
    Study(spec, Workspace(tmp_path, progress=heard, device=CPU), weights=[]).train()
    (run,) = runs.find(tmp_path)
    used = arithmetic_of(precision, CPU)
    assert run.trained.training["precision"] == precision
    assert run.info("train")["arithmetic"] == used
    assert sum("in float32, because this cpu" in line for line in heard.said) == (used != precision)
