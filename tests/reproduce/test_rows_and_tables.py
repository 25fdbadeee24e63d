"""Records, rows and tables of MNIST's experiment, on records made by hand."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.errors import BadRun, UnknownName
from advbench.reproduce.experiment import load
from advbench.reproduce.experiments._mnist_figures import boundary
from advbench.reproduce.experiments.mnist import LOSSES, TABLE1
from advbench.reproduce.records import Counted, PaperModel, Record, ReproductionRow, read, write
from advbench.reproduce.rows import rows
from advbench.reproduce.run import compare
from advbench.reproduce.tables import arrange, best, to_csv, to_latex
from advbench.runs.json_records import as_json
from advbench.runs.rows import AttackRow, VerifyRow

N = 1000
MNIST = load("mnist")
CELLS = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "cells"
COMMITTED = read(Record, CELLS / "lgm1.0-100d-seed0.json")


def record(loss: str, dim: int, seed: int, wrong: list[int], **more: Any) -> Record:
    empty: dict[str, Any] = dict.fromkeys(("attacks", "verify", "shares"), ())
    cell = PaperModel(loss, dim, seed)
    return replace(COMMITTED, cell=cell, n=N, wrong=tuple(wrong), **(empty | more))


def attacked(error: float = 0.8) -> AttackRow:
    (row,) = [r for r in COMMITTED.attacks if (r.attack, r.eps, r.settings) == ("fgsm", 0.3, {})]
    return replace(row, n=N, error_rate=error, zero_gradients=10, saturated=500)


def verified(eer: float) -> VerifyRow:
    rows = [r for r in COMMITTED.verify if (r.attack, r.eps, r.settings) == ("fgsm", 0.3, {})]
    return replace(rows[0], n_attacked=N, eer=eer, eer_low=eer - 0.01, eer_high=eer + 0.02)


def find(found: list[ReproductionRow], table: str, loss: str, setting: str) -> Any:
    (row,) = [r for r in found if (r.table, r.loss, r.setting) == (table, loss, setting)]
    return row


def test_the_grid_is_every_loss_dimension_and_seed_of_table_1_and_its_controls() -> None:
    tuned = [model for model in MNIST.models if model.recipe is None]
    models = [model for model in tuned if model.loss not in MNIST.controls]
    assert len(models) == len(set(models)) == 36 == len(tuned) - 2
    assert {(m.loss, m.dim) for m in models} == {(loss, dim) for dim in TABLE1 for loss in TABLE1[dim]}
    assert [m.name for m in MNIST.chosen(["lgm1.0-adv-100d-seed0"])] == ["lgm1.0-adv-100d-seed0"]


def test_an_unknown_model_or_experiment_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"lgm1\.0-100d-seed0"):
        MNIST.chosen(["lgm1-100d-seed0"])
    with pytest.raises(UnknownName, match=r"no experiment named 'mnits'. Did you mean 'mnist'\?"):
        load("mnits")


def test_seed_0_meets_all_four_readings_and_exact_gradients() -> None:
    model = PaperModel("lgm1.0", 100, 0)
    choices = MNIST.spec(model, MNIST.attacks(model)).attacks
    fgsm = {(c.choice.settings["eps"], c.choice.settings["clip"]) for c in choices if c.choice.name == "fgsm"}
    assert {(e, c) for e, c in fgsm if e in (0.1, 0.2, 0.3)} == {
        (e, c) for e in (0.1, 0.2, 0.3) for c in (True, False)
    }
    grey = sorted({e for e, _ in fgsm} - {0.1, 0.2, 0.3})
    assert grey == pytest.approx([e * 128 / 255 for e in (0.1, 0.2, 0.3)])
    assert sum(c.choice.settings["exact_gradient"] for c in choices) == 4
    assert len({c.file_name for c in choices}) == len(choices) == 20


def test_a_row_is_the_mean_and_sample_deviation_over_the_seeds_that_ran() -> None:
    found = rows(MNIST, [record("softmax", 100, s, list(range(k))) for s, k in ((0, 5), (1, 7), (2, 12))])
    row = find(found, "table1", "softmax", "100-D")
    assert row.seeds == (0, 1, 2)
    assert row.mean == pytest.approx(np.mean([0.005, 0.007, 0.012]))
    assert row.std == pytest.approx(np.std([0.005, 0.007, 0.012], ddof=1))
    assert (row.n, row.paper) == (N, 0.0068)


def test_one_seed_has_no_deviation_and_its_own_interval() -> None:
    found = rows(MNIST, [record("lgm1.0", 100, 0, [], attacks=(attacked(),), verify=(verified(0.04),))])
    row = find(found, "eer", "lgm1.0", "100-D, likelihood, FGSM eps 0.3, clipped, [0,1] units")
    assert (row.mean, row.std, row.paper) == (0.04, None, 0.031)
    assert (row.low, row.high) == pytest.approx((0.03, 0.06))
    row = find(found, "table6", "lgm1.0", "100-D, FGSM eps 0.3, clipped, [0,1] units")
    assert (row.mean, row.more) == (0.8, Counted(0.01, 0.5))


def test_what_has_not_run_has_no_figures_and_no_seeds() -> None:
    for row in rows(MNIST, []):
        if row.table != "fig2":
            assert (row.seeds, row.mean, row.std, row.low, row.high, row.n) == ((), None, None, None, None, None)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_boundary_solves_the_equation_it_is_drawn_from(alpha: float) -> None:
    x = boundary(alpha)
    assert (1 + alpha) * x**2 == pytest.approx((1 - x) ** 2)


def test_best_needs_a_lead_beyond_the_paired_interval() -> None:
    (table,) = (table for table in MNIST.tables if table.key == "table1")
    line = table.lines[1]

    def of(loss: str, wrong: range, seeds: range = range(3)) -> list[Record]:
        return [record(loss, 100, seed, list(wrong)) for seed in seeds]

    ahead, least = of("softmax", range(40)), of("lgm1.0", range(10))
    assert best(ahead + least, line, list(LOSSES)) == "lgm1.0"
    assert best(of("softmax", range(12)) + of("lgm1.0", range(2, 12)), line, list(LOSSES)) is None  # holds 0
    assert best(ahead, line, list(LOSSES)) is None
    assert best(ahead + least[:2], line, list(LOSSES)) is None  # two seeds
    assert best(ahead + of("lgm1.0", range(10), range(1, 4)), line, list(LOSSES)) is None  # two in common


REMARKS = [(100, 0.0080, "+0.12"), (100, 0.0084, "+0.16, beyond 0.15"), (2, 0.0141, "-0.41, beyond 0.40")]


@pytest.mark.parametrize(("dim", "mean", "expected"), REMARKS)
def test_a_miss_of_table_1_is_named(dim: int, mean: float, expected: str) -> None:
    row = find(rows(MNIST, []), "table1", "softmax", f"{dim}-D")
    assert MNIST.remark(replace(row, mean=mean)) == expected


def test_csv_holds_every_cell_and_latex_every_mean() -> None:
    made = [record("softmax", 100, s, list(range(5 + s))) for s in (0, 1)]
    (table,) = (one for one in arrange(MNIST.tables, rows(MNIST, made), made) if one.table.key == "table1")
    lines = list(csv.DictReader(io.StringIO(to_csv(table).decode())))
    assert len(lines) == 12
    (line,) = [r for r in lines if (r["loss"], r["setting"]) == ("softmax", "100-D")]
    assert line["seeds"] == "0 1"
    assert float(line["mean"]) == pytest.approx(0.0055)
    text = to_latex(table, MNIST).decode()
    assert "0.55 $\\pm$ 0.07 (0.68)" in text
    assert text.count("not run") == 11
    assert text.count(" & ") == 3 * 6


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "cell": (lambda r: r["cell"].update(seed=1), "cell is softmax-100d-seed1"),
    "schema": (lambda r: r.update(schema=2), "schema is not 1"),
    "too many": (lambda r: r["weights"].update(size=3), "record.weights.size is a key too many"),
    "too few": (lambda r: r.pop("wrong"), "record.wrong is missing"),
    "another type": (lambda r: r["attacks"][0].update(eps="0.3"), "record.attacks.0.eps = '0.3' is not a number"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_record_of_another_shape_is_refused_in_a_sentence_with_key_and_file(tmp_path: Path, case: str) -> None:
    path, sound = tmp_path / "softmax-100d-seed0.json", record("softmax", 100, 0, [3], attacks=(attacked(),))
    write(path, sound)
    assert read(Record, path) == sound
    value = {"schema": 1, **as_json(sound)}
    CHANGES[case][0](value)
    path.write_text(json.dumps(value))
    with pytest.raises(BadRun) as refused:
        read(Record, path)
    assert str(refused.value).startswith(f"{path} cannot be read as a record ({CHANGES[case][1]}")


@pytest.mark.parametrize("saturated", [0, 500])
def test_a_check_allows_two_images_and_one_in_a_hundred_saturated_ones(saturated: int) -> None:
    def one(wrong: list[int], error: float, eer: float) -> Record:
        row = replace(attacked(error), saturated=saturated)
        return record("lgm1.0", 100, 0, wrong, attacks=(row,), verify=(verified(eer),))

    more = saturated / 100 / N
    old, near = one([1], 0.8, 0.04), one([1, 2, 3], 0.802 + more, 0.042 + more)
    far = one(list(range(4)), 0.803 + more, 0.0421 + more)
    assert [row.met for row in compare(old, near)] == [True] * 3
    assert [row.met for row in compare(old, far)] == [False] * 3
