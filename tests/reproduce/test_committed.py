"""The reproduction as it is committed: page, rows, records and weights agree, and the weights give the figures."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import catalog
from advbench.data import fingerprint
from advbench.reproduce.experiment import load
from advbench.reproduce.figures import mask
from advbench.reproduce.models import Reproduction
from advbench.reproduce.page import write_page
from advbench.reproduce.records import Record, SecurityRecord, read
from advbench.runs import released, sha256
from advbench.runs.artifacts import within
from advbench.runs.json_records import as_json
from advbench.runs.rows import AdaptiveRow
from advbench.study.parsing import parse, read_toml
from advbench.study.workspace import Workspace
from advbench.types import Splits
from advbench.victim import Composed, Victim, build

HOME = Path(__file__).resolve().parents[2] / "reports" / "mnist"
MNIST = load("mnist")
RECORDS = {path.stem: read(Record, path) for path in sorted((HOME / "cells").glob("*.json"))}
SECURITY = {path.stem: read(SecurityRecord, path) for path in sorted((HOME / "security").glob("*.json"))}
KEPT = [name for name, record in RECORDS.items() if record.weights.released]


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> Splits:
    splits: Splits = catalog.load("data set", "mnist")().load(mnist_dir)
    return splits


@pytest.mark.parametrize("kind", [Record, SecurityRecord])
def test_records_are_written_as_they_were_read(kind: type[Record] | type[SecurityRecord]) -> None:
    for path in (HOME / {Record: "cells", SecurityRecord: "security"}[kind]).glob("*.json"):
        assert json.loads(path.read_bytes()) == {"schema": 1, **as_json(read(kind, path))}


def test_page_and_tables_are_those_that_the_records_give(tmp_path: Path) -> None:
    made = tmp_path / "mnist"
    shutil.copytree(HOME, made, ignore=shutil.ignore_patterns("weights", "tables", "index.html"))
    write_page(Reproduction(MNIST, Workspace(tmp_path, tmp_path)), {})
    for path in (HOME / "results.json", HOME / "index.html", *(HOME / "tables").glob("*")):
        texts = (home.joinpath(path.relative_to(HOME)).read_text(encoding="utf-8") for home in (HOME, made))
        # less the versions of this installation, and what its matplotlib draws
        old, new = (re.sub("(?s)<svg.*?</svg>|<dt>with</dt>.*?\n", "", text) for text in texts)
        assert new == old, path.name
    page = (HOME / "index.html").read_text(encoding="utf-8")
    assert not [text for text in ("<script", "<link", 'src="http') if text in page]
    assert {path.stem for path in (made / "figures").glob("*.pdf")} == {p.stem for p in HOME.glob("figures/*.svg")}


@pytest.mark.parametrize("name", SECURITY)
def test_security_records_speak_of_the_kept_weights(name: str) -> None:
    path, record = HOME / "weights" / f"{name}.safetensors", SECURITY[name]
    assert sha256(path.read_bytes()) == record.weights.sha256


@pytest.mark.parametrize("name", SECURITY)
def test_rates_of_a_security_record_are_those_of_its_images(name: str) -> None:
    for answer in SECURITY[name].rows:
        assert {len(digits) for digits in (answer.lost, answer.rejected, answer.clean_rejected)} == {answer.asked.n}
        if isinstance(answer.row, AdaptiveRow):
            assert answer.row.undetected_error_rate == pytest.approx(mask(answer.lost).mean())
            assert answer.row.clean_rejected == pytest.approx(mask(answer.clean_rejected).mean())


@pytest.mark.parametrize("name", KEPT)
def test_kept_weights_are_the_ones_their_record_speaks_of(name: str) -> None:
    path, record = HOME / "weights" / f"{name}.safetensors", RECORDS[name]
    assert sha256(path.read_bytes()) == record.weights.sha256
    found = released.read(path)
    assert found.model == record.model


def test_all_kept_weights_take_less_than_45_megabytes() -> None:
    assert sum(path.stat().st_size for path in (HOME / "weights").glob("*.safetensors")) < 45e6


def victim_of(name: str) -> Victim:
    found = released.read(HOME / "weights" / f"{name}.safetensors")
    loss: dict[str, Any] = found.model.loss_settings
    dim = found.model.feature_dim
    network, head = build(
        found.model.network, dim, found.model.loss_name, loss, shape=(1, 28, 28), classes=10, seed=0
    )
    network.load_state_dict(within(found.tensors, "network"))
    head.load_state_dict(within(found.tensors, "head"))
    return Victim(Composed(network, head), shape=(1, 28, 28), classes=10, device=torch.device("cpu"))


@pytest.mark.mnist
@pytest.mark.parametrize("name", KEPT)
def test_kept_weights_misclassify_the_images_that_their_record_lists(name: str, mnist: Splits) -> None:
    n = 2000
    found = victim_of(name).outputs(mnist.test.load_all()[:n]).predictions != mnist.test.labels[:n]
    listed = {i for i in RECORDS[name].wrong if i < n}
    assert len(listed ^ set(found.nonzero().squeeze(1).tolist())) <= 1


@pytest.mark.mnist
def test_the_default_lgm_model_of_mnist_is_the_kept_one(mnist: Splits) -> None:
    (model,) = parse({"dataset": "mnist", "losses": ["lgm"]}).models()
    found = released.find([HOME / "weights"], model.record(fingerprint(mnist)))
    assert found is not None
    assert found.path.stem == "lgm1.0-100d-seed0"


def test_the_cifar_page_stands_under_its_studys_title_which_names_the_budget() -> None:
    home = Path(__file__).parents[2] / "reports" / "cifar10-jpeg"
    spec = parse(read_toml(home / "study.toml") | {"dataset": "folder:cifar10-jpeg"})
    assert spec.title is not None
    assert f"{spec.training['epochs']} epochs" in spec.title
    page = (home / "index.html").read_text(encoding="utf-8")
    assert f"<title>{spec.title} - advbench</title>" in page
    for model in spec.models():
        assert f"folder-cifar10-jpeg-{model.loss.name}" in page
