"""`advbench.evaluate` in Python: the same figures as the command line's, and what is refused."""

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import advbench
from advbench import cli
from advbench.attacks.fgsm import FGSM
from advbench.data.sources.arrays import splits_of
from advbench.runs import as_json
from advbench.supplied.features import tap
from advbench.types import Splits
from advbench.victim import Victim
from tests.helpers.records import manifest_of
from tests.helpers.supplied import MODEL, Net, weights_of

Pair = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def model(train: Pair) -> nn.Module:
    net = Net()
    net.load_state_dict(weights_of(*train))
    return net


@pytest.fixture(scope="module")
def held(digits: Splits) -> Pair:
    """597 images and labels."""
    parts = (digits.test, digits.calibration)
    return torch.cat([part.load_all() for part in parts]), torch.cat([part.labels for part in parts])


@pytest.fixture(scope="module")
def train(digits: Splits) -> Pair:
    return digits.train.load_all(), digits.train.labels


@pytest.fixture(scope="module")
def result(model: nn.Module, held: Pair, train: Pair) -> advbench.Result:
    """A careless and a careful attack, on a detector of logits and one of features."""
    careful = {"name": "detector-aware", "budget": "quick", "n": 10}
    return advbench.evaluate(model, *held, ["fgsm", careful], ["energy", "mahalanobis"], train=train, eps=0.1)


def evaluated(model: nn.Module, held: tuple[Any, Any], **more: Any) -> advbench.Result:
    given = {"attacks": "fgsm", "detectors": "energy", "n": 20, **more}
    return advbench.evaluate(model, *held, **given)


def test_the_command_line_gives_the_same_figures(
    result: advbench.Result,
    model: nn.Module,
    held: Pair,
    train: Pair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "m.py").write_text(MODEL, encoding="utf-8")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, (*train, *held), strict=True)}
    np.savez(tmp_path / "d.npz", **arrays)
    where = ["--model", f"{tmp_path / 'm.py'}:build", "--weights", str(tmp_path / "w.safetensors")]
    where += ["--dataset", f"npz:{tmp_path / 'd.npz'}", "--detector", "energy,mahalanobis", "--eps", "0.1"]
    where += ["--runs-dir", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports"), "--json"]
    capsys.readouterr()
    rows: list[dict[str, Any]] = []
    for words in (["--attack", "fgsm"], ["--attack", "detector-aware", "--budget", "quick", "--n", "10"]):
        assert cli.main(["evaluate", *where, *words]) == 0
        rows += json.loads(capsys.readouterr().out)["rows"]
    own = ("run", "dataset")
    assert [{k: v for k, v in r.items() if k not in own} for r in rows] == [
        {k: v for k, v in as_json(r).items() if k not in own} for r in result.rows
    ]


def test_the_table_has_a_line_for_each_attack_and_detector_with_nan_for_what_is_undefined(
    result: advbench.Result,
) -> None:
    table = result.table()
    assert len(table) == 3 * 2
    assert set(table.detector) == {"energy", "mahalanobis"}
    blind = table[table.attack == "fgsm"]
    assert blind.undetected_error_rate.isna().all()
    aimed = table[(table.attack == "detector-aware") & (table.knows == table.detector)]
    assert len(aimed) == 2
    assert aimed.undetected_error_rate.between(aimed.undetected_error_low, aimed.undetected_error_high).all()
    assert (aimed.undetected_error_rate <= aimed.error_rate).all()
    assert {str(table[c].dtype) for c in ("eer", "tpr_at_fpr01", "error_rate", "undetected_error_rate")} == {
        "float64"
    }
    assert len(result.table("failed")) == 3 * 2


def test_the_roc_is_that_of_the_scores_of_the_attacked_and_the_clean_images(
    result: advbench.Result, model: nn.Module, held: Pair
) -> None:
    part = splits_of(*held, None, None, None, "data").test
    victim = Victim(tap(model, part.load_all()[:4]), shape=(1, 8, 8), classes=10, device=torch.device("cpu"))
    moved = FGSM(eps=0.1).perturb(victim, part.load_all(), part.labels, torch.arange(len(part))).images
    with torch.no_grad():
        clean, attacked = (-model(images).double().logsumexp(1).numpy() for images in (part.load_all(), moved))
    auroc = roc_auc_score([0] * len(clean) + [1] * len(attacked), np.concatenate([clean, attacked]))
    assert result.roc("fgsm", "energy").auroc == pytest.approx(auroc, abs=2e-3)
    with pytest.raises(advbench.BadSetting, match=r"fgsm-eps0\.1"):
        result.roc("nosuch", "energy")
    with pytest.raises(advbench.BadSetting, match="Known: energy, mahalanobis"):
        result.roc("fgsm", "knn")


def test_the_report_is_written_where_it_is_asked_for(result: advbench.Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "here")
    assert page == tmp_path / "here" / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "python:Net" in text
    assert str(tmp_path) not in text
    assert "advbench-" not in re.sub(r"base64,[\w+/=]+", "", text)  # the scratch folder's name
    assert result.report(tmp_path / "x.html") == tmp_path / "x.html"


def test_results_in_a_named_folder_are_gone_on_from(model: nn.Module, held: Pair, tmp_path: Path) -> None:
    first = evaluated(model, held, runs_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    before = manifest_of(folder)
    again = evaluated(model, held, runs_dir=tmp_path)
    assert manifest_of(folder) == before
    assert again.rows == first.rows


def test_results_in_no_folder_vanish_with_their_object(model: nn.Module, held: Pair) -> None:
    found = evaluated(model, held)
    folder = found._workspace.runs_dir
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


def test_without_a_training_part_the_detectors_are_those_of_the_logits(model: nn.Module, held: Pair) -> None:
    found = evaluated(model, held, detectors=None)
    assert {row.detector for row in found.rows} == {"max-posterior", "energy"}
    with pytest.raises(advbench.BadSetting, match=r"mahalanobis is fitted on training images.*train=\(images"):
        evaluated(model, held, detectors=["energy", "mahalanobis"])


def test_calibration_that_is_given_leaves_the_whole_test_part_to_attack(
    model: nn.Module, held: Pair, train: Pair
) -> None:
    few = (train[0][:5], train[1][:5])
    found = evaluated(model, held, calibration=few, n=None)
    assert {row.n_clean for row in found.rows} == {597}
    assert {row.tpr_at_fpr10 for row in found.rows} == {None}


def test_arrays_lists_of_one_and_numbers_are_understood(model: nn.Module, held: Pair) -> None:
    images, labels = (part.numpy() for part in held)
    assert (
        evaluated(model, (images, labels)).rows == evaluated(model, held, attacks=["fgsm"], detectors=["energy"]).rows
    )
    last = images.transpose(0, 2, 3, 1)
    with pytest.warns(UserWarning, match="channels last"):
        assert evaluated(model, (last, labels[:, None])).rows == evaluated(model, held).rows
    with pytest.warns(UserWarning, match="normalise by itself"):
        one, other = (evaluated(model, held, mean=value, std=value) for value in (0.5, [0.5]))
    assert [r.eer for r in one.rows] == [r.eer for r in other.rows]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x, nn.functional.one_hot(y)), "one-hot"),
        (lambda x, y: (x * 255, y), "divide by 255"),
        (lambda x, y: (x, y + 1), "subtract 1"),
        (lambda x, y: (x.expand(-1, 3, -1, -1), y), "takes 64 values and got 192"),
        (lambda x, y: (x, y[1:]), "one label for each"),
        (lambda x, y: (x * float("nan"), y), "NaN"),
        (lambda x, y: ([[1, 2], [3]], y), "no array"),
    ],
)
def test_one_mistake_in_the_data_has_its_own_message(
    change: Callable[[Tensor, Tensor], Any], said: str, model: nn.Module, held: Pair
) -> None:
    with pytest.raises(advbench.AdvbenchError, match=re.escape(said)):
        evaluated(model, change(*held))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"detectors": []}, "empty"),
        ({"attacks": []}, "empty"),
        ({"attacks": {"steps": 3}}, "has no name"),
        ({"attacks": "detector-aware", "fpr": 0.001}, "needs at least 10000 calibration images"),
        ({"mean": [float("nan")], "std": [1]}, "not finite"),
        ({"mean": ["a"], "std": [1]}, "not a number"),
        ({"eps": 2}, "outside"),
        ({"n": 300}, "more than the 299 test images of data"),
        ({"name": "../x"}, "cannot name a folder"),
        ({"train": torch.zeros(3, 1, 8, 8)}, "no pair"),
        ({"train": (torch.zeros(3, 1, 4, 8), torch.zeros(3, dtype=torch.long))}, "one shape"),
        ({"device": "cuda:99"}, "cannot be used"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(
    settings: dict[str, Any], said: str, model: nn.Module, held: Pair
) -> None:
    with pytest.raises(advbench.AdvbenchError, match=said) as caught:
        evaluated(model, held, **settings)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(advbench.BadSetting, match=r"NoneType; give a torch\.nn\.Module"):
        advbench.evaluate(None, torch.zeros(4, 1, 8, 8), torch.zeros(4))  # type: ignore[arg-type]


def test_the_package_offers_evaluate_and_no_other_name() -> None:
    assert {"evaluate", "Result", "AdvbenchError"} < set(dir(advbench))
    with pytest.raises(AttributeError, match="nosuch"):
        _ = advbench.nosuch
