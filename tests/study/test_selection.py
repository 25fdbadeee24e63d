"""Which runs and attacks on disk are meant."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advbench import runs
from advbench.errors import BadRun, BadSetting
from advbench.study import selection
from advbench.study.options import Selected
from tests.helpers.records import EPOCH, MADE_WITH, MODEL, ROW, TRAINED

LGM = {"name": "lgm", "alpha": 1.0, "lam": 0.1, "covariance": "identity"}


def make(folder: Path, name: str, loss: dict[str, Any], *attacks: tuple[str, float], seed: int = 0) -> None:
    """A run with a trained model and the rows of some attacks."""
    run = runs.open_or_new(folder, name, replace(MODEL, loss=loss, seed=seed), MADE_WITH)
    run.write("train", {"model.safetensors": b"weights"}, seconds=1.0, info=TRAINED)
    for attack, eps in attacks:
        write_attack(run, ROW | {"attack": attack, "eps": eps}, f"{attack}-eps{eps:g}")


def write_attack(run: runs.Run, row: Any, name: str = "fgsm-eps0.1") -> None:
    run.write(f"attack {name}", {f"attacks/{name}.safetensors": b"images"}, seconds=1.0, info={"row": row})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path, "b-lgm", LGM, ("fgsm", 0.1), ("targeted-fgsm", 0.3))
    make(tmp_path, "a-softmax", {"name": "softmax"}, ("fgsm", 0.3), seed=1)
    make(tmp_path, "c-unattacked", LGM | {"alpha": 0.5})
    return tmp_path


def found(folder: Path, **wanted: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Names of the runs and attacks selected."""
    return [(one.run.name, one.attacks) for one in selection.find(folder, Selected(**wanted))]


def test_without_a_wish_all_attacked_models_are_meant_in_the_order_of_their_names(folder: Path) -> None:
    assert found(folder) == [("a-softmax", ("fgsm-eps0.3",)), ("b-lgm", ("fgsm-eps0.1", "targeted-fgsm-eps0.3"))]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"loss": ("lgm",)}, [("b-lgm", ("fgsm-eps0.1", "targeted-fgsm-eps0.3"))]),
        ({"eps": (0.3,)}, [("a-softmax", ("fgsm-eps0.3",)), ("b-lgm", ("targeted-fgsm-eps0.3",))]),
        ({"eps": (0.3,), "attack": ("fgsm",)}, [("a-softmax", ("fgsm-eps0.3",))]),
        ({"attack": ("fgsm", "pgd")}, [("a-softmax", ("fgsm-eps0.3",)), ("b-lgm", ("fgsm-eps0.1",))]),
        ({"seed": (1,)}, [("a-softmax", ("fgsm-eps0.3",))]),
        ({"alpha": (1.0,), "eps": (0.1,)}, [("b-lgm", ("fgsm-eps0.1",))]),
        ({"covariance": ("identity",), "eps": (0.1, 0.3)}, [("b-lgm", ("fgsm-eps0.1", "targeted-fgsm-eps0.3"))]),
    ],
)
def test_every_wish_must_be_met_and_any_of_its_values_meets_it(
    folder: Path, wanted: dict[str, Any], expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert found(folder, **wanted) == expected


@pytest.mark.parametrize("wanted", [{"alpha": (0.5,)}, {"eps": (0.30001,)}, {"loss": ("lgm",), "seed": (1,)}])
def test_where_nothing_matches_the_wish_is_repeated_with_a_way_out(folder: Path, wanted: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="nothing to verify") as caught:
        found(folder, **wanted)
    text = str(caught.value)
    assert all(f"{key} {values[0]}" in text for key, values in wanted.items())
    assert str(folder) in text
    assert "\n" not in text


def test_an_empty_or_missing_folder_holds_nothing_to_verify(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadSetting, match="nothing to verify"):
            found(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [None, 3, {}, {"attack": "fgsm"}])
def test_an_attack_whose_row_is_gone_from_the_manifest_is_named(tmp_path: Path, row: object) -> None:
    make(tmp_path, "one", LGM, ("fgsm", 0.1))
    run = runs.load(tmp_path / "one")
    write_attack(run, row)
    with pytest.raises(BadRun, match=r"steps.journal was altered: attack fgsm-eps0.1: row"):
        runs.load(run.folder)


def test_the_listing_has_every_run_attacked_or_not(folder: Path) -> None:
    rows = selection.listing(folder, print)
    assert [(row.model.run, row.model.loss, row.model.alpha, row.trained, row.attacks) for row in rows] == [
        ("a-softmax", "softmax", None, True, ["fgsm-eps0.3"]),
        ("b-lgm", "lgm", 1.0, True, ["fgsm-eps0.1", "targeted-fgsm-eps0.3"]),
        ("c-unattacked", "lgm", 0.5, True, []),
    ]


def test_a_run_stopped_in_training_is_listed_as_not_trained(tmp_path: Path) -> None:
    run = runs.open_or_new(tmp_path, "one", MODEL, MADE_WITH)
    run.write("checkpoint", {"checkpoint-0001.safetensors": b"state"}, info={"epochs": [EPOCH]})
    (row,) = selection.listing(tmp_path, print)
    assert (row.trained, row.attacks) == (False, [])
    with pytest.raises(BadSetting):
        found(tmp_path)
