"""Several recipes: what each trains with, one that diverges, a model under a wrong name, the order of EERs."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advbench.errors import BadRun
from advbench.grid.local import Local
from advbench.reproduce.experiment import Entry, Experiment, Line, Loss, Order, Recipe, Table, load
from advbench.reproduce.experiments import _wan2018
from advbench.reproduce.figures import clean_error, verified
from advbench.reproduce.models import Reproduction
from advbench.reproduce.page import write_page
from advbench.reproduce.records import PaperModel, Record, read, write
from advbench.reproduce.rows import rows
from advbench.reproduce.run import OnEngine
from advbench.reproduce.tables import by_key, ours
from advbench.runs.rows import VerifyRow
from advbench.study import train
from advbench.study.workspace import Workspace

MNIST = load("mnist")
HOME = Path(__file__).resolve().parents[2] / "reports" / "mnist"
WILD = {"epochs": 1, "learning_rate": 1e12, "max_gradient_norm": 0.0}
AT = ("fgsm", 0.3, {"clip": False})


class Digits(Experiment):
    """Two recipes, of which one diverges."""

    title = "Digits"
    dataset = "digits"
    losses = {name: Loss(name, name) for name in ("softmax", "lgm")}  # noqa: RUF012
    recipes = {  # noqa: RUF012
        "calm": Recipe("calm", {"training": {"epochs": 1}}, {"lgm": {"alpha": 0.3}}, {"lgm": {"head_rate": 0.5}}),
        "wild": Recipe("wild", {"training": WILD}),
    }
    models = [PaperModel(loss, 100, 0, "calm") for loss in ("softmax", "lgm")] + [PaperModel("lgm", 100, 0, "wild")]
    tables = [  # noqa: RUF012
        Table("errors", "Errors", ("lgm",), [
            Line("errors", figure=clean_error, recipe=recipe) for recipe in ("calm", "wild")
        ])
    ]  # fmt: skip
    order = Order(("lgm", "softmax"), "calm", AT)

    def attacks(self, model: PaperModel) -> Sequence[Entry]:
        """One, on 40 images."""
        return [{"name": "fgsm", "eps": 0.3, "clip": False}] if model.recipe == "calm" else []


def at(folder: Path) -> Reproduction:
    place = Workspace(runs_dir=folder / "runs", reports_dir=folder / "reports", device=torch.device("cpu"))
    return Reproduction(Digits(), place)


def test_a_recipe_gives_each_loss_its_settings_and_the_training_its_own() -> None:
    (model,) = Digits().spec(Digits.models[1]).models()
    assert (model.loss.settings["alpha"], model.training.epochs, model.training.head_rate) == (0.3, 1, 0.5)
    (model,) = MNIST.spec(PaperModel("lgm1.0", 100, 0, "wan2018-additive")).models()
    assert (model.network, model.training.learning_rate, model.training.head_rate) == ("lenet-plus", 0.03, 0.3)
    assert {k: model.loss.settings[k] for k in ("lam", "additive_margin", "rising")} == {
        "lam": 0.03, "additive_margin": 1.0, "rising": True,
    }  # fmt: skip
    assert {m.recipe for m in MNIST.models} == set(MNIST.recipes)


@pytest.mark.parametrize("on", ["here", "workers"])
def test_a_training_that_diverges_is_a_row_and_is_not_tried_again(
    tmp_path: Path, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, wild = at(tmp_path), Digits.models[2]
    if on == "here":
        book.finish(wild)
    else:
        OnEngine(book, Local(1), "cpu").train([wild])
    (record,) = book.diverged()
    assert (record.cell, record.epoch, record.model.training["learning_rate"]) == (wild, 1, 1e12)
    found = by_key(rows(book.experiment, [], (), [record]))
    assert ours(found["errors", "lgm", "100-D, wild"]) == "diverged"
    assert ours(found["errors", "lgm", "100-D, calm"]) == "not run"
    assert "diverged in epoch 1" in write_page(book, {}).read_text(encoding="utf-8")
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    shutil.rmtree(book.work)
    book.finish(wild)


def test_a_model_under_another_recipes_name_is_refused_with_what_differs(tmp_path: Path) -> None:
    book, (softmax, lgm, _) = at(tmp_path), Digits.models
    book.train(lgm)
    shutil.copy(book.weights(lgm), book.weights(softmax))
    with pytest.raises(BadRun, match=r"is not of calm-softmax-100d-seed0: its loss alpha is 0.3, not None"):
        book.finish(softmax)

    mine = Reproduction(MNIST, Workspace(tmp_path, tmp_path))
    tuned = read(Record, HOME / "cells" / "lgm1.0-100d-seed0.json")
    model = PaperModel("lgm1.0", 100, 0, "wan2018")
    write(mine.file("cells", model), replace(tuned, cell=model))
    with pytest.raises(BadRun, match=r"of wan2018-lgm1.0-100d-seed0: its network is mnist-cnn, not lenet-plus"):
        mine.records()


def test_records_of_an_order_keep_resampled_eers_and_rows_compare_them_in_pairs(tmp_path: Path) -> None:
    book = at(tmp_path)
    for model in Digits.models[:2]:
        book.finish(model)
    softmax, lgm = ({r.cell.loss: r for r in book.records()}[loss] for loss in ("softmax", "lgm"))
    assert softmax.resampled is not None
    assert lgm.resampled is not None
    for record in (softmax, lgm):
        found = verified(AT)(record)
        assert found is not None
        assert np.percentile(record.resampled or [], [2.5, 97.5]) == pytest.approx(found.interval, abs=1e-6)
        assert {row.population for row in record.verify} == {"all", "successful"}
        assert all(share.rounded_eer is not None for share in record.shares)
    row = by_key(rows(book.experiment, book.records()))[
        "order", "softmax", "100-D, calm, EER less that of lgm, seed 0"
    ]
    spread = np.array(softmax.resampled) - np.array(lgm.resampled)
    assert (row.low, row.high) == pytest.approx(tuple(np.percentile(spread, [2.5, 97.5])))
    assert spread.std() < np.hypot(np.std(softmax.resampled), np.std(lgm.resampled))  # the same images in both


def of(loss: str, seed: int, eer: float) -> Record:
    """A record of the paper's recipe with this EER, and little spread."""
    committed = read(Record, HOME / "cells" / "lgm1.0-100d-seed0.json")
    same: Any = [row for row in committed.verify if (row.attack, row.eps, row.settings) == AT]
    row: VerifyRow = replace(same[0], eer=eer, eer_low=eer - 0.002, eer_high=eer + 0.002)
    spread = np.linspace(-0.002, 0.002, 1000) * (-1 if loss == "center" else 1)
    resampled = tuple((eer + spread).tolist())
    cell = PaperModel(loss, 100, seed, _wan2018.PUBLISHED)
    return replace(committed, cell=cell, attacks=(), verify=(row,), shares=(), resampled=resampled)


@pytest.mark.parametrize(("center", "held"), [(0.05, 3), (0.0305, 2), (0.02, 2)])
def test_the_conclusion_on_the_order_counts_seeds_beyond_the_paired_intervals(center: float, held: int) -> None:
    eers = {"lgm1.0": (0.03, 0.031, 0.032), "center": (center, 0.05, 0.05), "softmax": (0.3, 0.3, 0.3)}
    records = [of(loss, seed, eer) for loss, each in eers.items() for seed, eer in enumerate(each)]
    found = rows(MNIST, records)
    first, *rest = MNIST.conclusions(by_key(found))
    assert f"comes out in {held} of 3 seeds" in first
    assert any("L-GM, alpha 1 (means of 3 seeds and their 95 % intervals)" in text and ": 3.1 % [2.9, 3.3]" in text
               and "paper 3.1 %" in text for text in rest)  # fmt: skip
    pair = by_key(found)["order", "softmax", "100-D, wan2018, EER less that of center, seed 2"]
    assert pair.mean == pytest.approx(0.25)
    assert json.dumps(pair.seeds) == "[2]"
