"""Released weights: rounded, found by what they were trained as, and used instead of a training."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from advbench import runs
from advbench.errors import BadRun, FailedCheck
from advbench.runs import artifacts, as_json, released, write_whole
from advbench.study.parsing import parse
from advbench.study.spec import Spec
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from tests.helpers.records import MODEL

SPEC = {"losses": ["lgm"], "attacks": [{"name": "fgsm", "eps": 0.3}], "training": {"epochs": 1}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained digits model under `runs` and its released weights under `reports`."""
    folder = tmp_path_factory.mktemp("released")
    Study(parse(SPEC), Workspace(folder / "runs"), weights=[]).train()
    (run,) = runs.find(folder / "runs")
    write_whole(folder / "reports" / "digits" / "weights" / "lgm.safetensors", released.pack(run))
    return folder


def study(home: Path, folder: Path, spec: Spec) -> Study:
    return Study(spec, Workspace(folder / "runs", home / "reports"))


def test_floating_point_weights_are_rounded_to_16_bits_and_read_as_float32(home: Path) -> None:
    (run,) = runs.find(home / "runs")
    whole = artifacts.unpack(run, artifacts.MODEL)
    path = home / "reports/digits/weights/lgm.safetensors"
    read = released.read(path)
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    for name, tensor in whole.items():
        assert read.tensors[name].dtype == torch.float32
        assert torch.equal(read.tensors[name], tensor.half().float())
    assert (read.model, as_json(read.info), read.environment) == (run.model, run.info("train"), run.environment)


def test_a_model_of_the_same_record_is_not_trained_again(home: Path, tmp_path: Path) -> None:
    row = study(home, tmp_path, parse(SPEC)).attack()[0]
    (run,) = runs.find(tmp_path / "runs")
    assert run.info("train")["released"]["file"] == "lgm.safetensors"
    tensors = artifacts.unpack(run, artifacts.MODEL)
    kept = released.read(home / "reports/digits/weights/lgm.safetensors").tensors
    assert all(torch.equal(tensors[k], v) for k, v in kept.items())
    assert row.n == 300
    assert len(run.read("training.jsonl").splitlines()) == 1


@pytest.mark.parametrize(
    "change", [{"seeds": [1]}, {"training": {"epochs": 2}}, {"losses": [{"name": "lgm", "alpha": 0.5}]}]
)
def test_another_record_is_trained_as_ever(home: Path, tmp_path: Path, change: dict[str, object]) -> None:
    study(home, tmp_path, parse(SPEC | change)).train()
    (run,) = runs.find(tmp_path / "runs")
    assert "released" not in run.info("train")


def test_a_damaged_file_is_named(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "digits" / "weights"
    shutil.copytree(home / "reports/digits/weights", folder)
    path = folder / "lgm.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadRun, match=r"lgm\.safetensors cannot be read"):
        Study(parse(SPEC), Workspace(tmp_path / "runs", tmp_path / "reports")).train()


def test_weights_beyond_16_bits_are_refused(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs", tmp_path / "runs")
    (run,) = runs.find(tmp_path / "runs")
    tensors = artifacts.unpack(run, artifacts.MODEL)
    tensors["head.mu"] = tensors["head.mu"] + 1e6
    step = run.steps["train"]
    files = {artifacts.MODEL: artifacts.pack(tensors), "training.jsonl": run.read("training.jsonl")}
    run.write("train", files, seconds=step.seconds, info=step.info)
    with pytest.raises(FailedCheck, match=r"head\.mu does not fit into 16 bits"):
        released.pack(run)


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert released.find([tmp_path / "nowhere"], MODEL) is None
