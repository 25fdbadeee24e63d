"""The reproduction's grid, rows and tables, on records made by hand."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.errors import BadRun, UnknownName
from advbench.reproduce import paper, records, tables
from advbench.reproduce.cells import LOSSES, SEEDS, Cell, chosen, grid, reading
from advbench.reproduce.grid import compare
from advbench.reproduce.rows import boundary, rows

N = 1000


def record(loss: str, dim: int, seed: int, wrong: list[int], **more: Any) -> dict[str, Any]:
    empty = {"attacks": [], "verify": [], "shares": [], "within_variance": 0.1}
    model = {"training": {"full_train": False}}
    history = [{"epoch": 1, "validation_error": 0.01}]
    cell = {"loss": loss, "dim": dim, "seed": seed}
    return {"schema": 1, "cell": cell, "n": N, "wrong": wrong, "model": model, "history": history} | empty | more


def attacked(eps: float = 0.3, error: float = 0.8, **settings: Any) -> dict[str, Any]:
    row = {"attack": "fgsm", "eps": eps, "settings": settings, "n": N, "error_rate": error, "target_rate": None}
    return row | {"zero_gradients": 10, "saturated": 500, "clean_error_rate": 0.0}


def verified(eer: float, detector: str = "likelihood") -> dict[str, Any]:
    row = {"attack": "fgsm", "eps": 0.3, "settings": {}, "detector": detector, "n_attacked": N}
    return (
        row
        | {"eer": eer, "eer_low": eer - 0.01, "eer_high": eer + 0.02, "auroc": 0.9}
        | {"auroc_low": 0.8, "auroc_high": 0.95}
    )


def find(found: list[dict[str, Any]], table: str, loss: str, setting: str) -> dict[str, Any]:
    (row,) = [r for r in found if (r["table"], r["loss"], r["setting"]) == (table, loss, setting)]
    return row


def test_the_grid_is_every_loss_dimension_and_seed_of_table_1() -> None:
    names = [cell.name for cell in grid()]
    assert len(names) == len(set(names)) == len(paper.TABLE1) * len(SEEDS) == 36
    assert {(c.loss, c.dim) for c in grid()} == set(paper.TABLE1)


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"lgm1\.0-100d-seed0"):
        chosen(["lgm1-100d-seed0"])


def test_seed_0_meets_all_four_readings_and_exact_gradients() -> None:
    entries = Cell("lgm1.0", 100, 0).attacks()
    choices = Cell("lgm1.0", 100, 0).spec({}, entries).attacks
    fgsm = {(c.choice.settings["eps"], c.choice.settings["clip"]) for c in choices if c.choice.name == "fgsm"}
    assert {(e, c) for e, c in fgsm if e in (0.1, 0.2, 0.3)} == {
        (e, c) for e in (0.1, 0.2, 0.3) for c in (True, False)
    }
    grey = sorted({e for e, _ in fgsm} - {0.1, 0.2, 0.3})
    assert grey == pytest.approx([e * 128 / 255 for e in (0.1, 0.2, 0.3)])
    assert sum(c.choice.settings["exact_gradient"] for c in choices) == 4
    assert len({c.file_name for c in choices}) == len(choices) == 20


def test_an_eps_is_read_back_as_the_paper_would_state_it() -> None:
    assert reading({}, 0.3) == (0.3, "[0,1] units", "clipped")
    assert reading({"clip": False}, 0.2 * 128 / 255) == (0.2, "(x-127.5)/128 units", "unclipped")


def test_a_row_is_the_mean_and_sample_deviation_over_the_seeds_that_ran() -> None:
    found = rows([record("softmax", 100, s, list(range(k))) for s, k in ((0, 5), (1, 7), (2, 12))])
    row = find(found, "table1", "softmax", "100-D")
    assert row["seeds"] == [0, 1, 2]
    assert row["mean"] == pytest.approx(np.mean([0.005, 0.007, 0.012]))
    assert row["std"] == pytest.approx(np.std([0.005, 0.007, 0.012], ddof=1))
    assert (row["n"], row["paper"]) == (N, 0.0068)


def test_one_seed_has_no_deviation_and_its_own_interval() -> None:
    found = rows([record("lgm1.0", 100, 0, [], attacks=[attacked()], verify=[verified(0.04)])])
    row = find(found, "eer", "lgm1.0", "100-D, likelihood, FGSM eps 0.3, clipped, [0,1] units")
    assert (row["mean"], row["std"], row["paper"]) == (0.04, None, 0.031)
    assert (row["low"], row["high"]) == pytest.approx((0.03, 0.06))
    row = find(found, "table6", "lgm1.0", "100-D, FGSM eps 0.3, clipped, [0,1] units")
    assert (row["mean"], row["zero_gradients"], row["saturated"]) == (0.8, 0.01, 0.5)


def test_what_has_not_run_has_no_figures_and_no_seeds() -> None:
    for row in rows([]):
        if row["table"] != "fig2":
            assert row["seeds"] == []
            assert {row[k] for k in ("mean", "std", "low", "high", "n")} == {None}


def test_rows_have_the_promised_fields_tables_and_settings() -> None:
    found = rows([])
    assert {"table", "loss", "setting", "seeds", "mean", "std", "n", "paper"} <= set.intersection(*map(set, found))
    assert {r["table"] for r in found} == {"table1", "table6", "eer", "targeted", *(f"fig{i}" for i in range(1, 7))}
    assert all(r["setting"].startswith(("2-D", "100-D")) for r in found)
    assert {r["loss"] for r in found} == set(LOSSES)
    keys = [(r["table"], r["loss"], r["setting"]) for r in found]
    assert len(keys) == len(set(keys))


def test_every_number_of_the_paper_stands_in_a_row() -> None:
    printed = {(r["table"], r["loss"], r["paper"]) for r in rows([]) if r["paper"] is not None}
    assert {("table1", loss, mean) for (loss, _), (mean, _) in paper.TABLE1.items()} <= printed
    assert {("table6", loss, rate) for (loss, _), rate in paper.TABLE6.items()} <= printed
    assert {("eer", loss, rate) for loss, rate in paper.EER.items()} <= printed
    assert {("targeted", "lgm1.0", 0.8137), ("targeted", "lgm1.0", 0.043)} <= printed


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_boundary_solves_the_equation_it_is_drawn_from(alpha: float) -> None:
    x = boundary(alpha)
    assert (1 + alpha) * x**2 == pytest.approx((1 - x) ** 2)


def test_best_needs_a_lead_beyond_the_paired_interval() -> None:
    ahead = [record("softmax", 100, 0, list(range(40))), record("lgm1.0", 100, 0, list(range(10)))]
    level = [record("softmax", 100, 0, list(range(12))), record("lgm1.0", 100, 0, list(range(2, 12)))]
    assert tables.best(ahead, 100) == "lgm1.0"
    assert tables.best(level, 100) is None  # two images more: the interval holds 0
    assert tables.best(ahead[:1], 100) is None
    assert tables.best([ahead[0], record("lgm1.0", 100, 1, [])], 100) is None  # no seed in common


@pytest.mark.parametrize(
    ("dim", "mean", "expected"),
    [
        (100, 0.0080, "+0.12"),
        (100, 0.0084, "+0.16, beyond 0.15"),
        (2, 0.0221, "+0.39"),
        (2, 0.0141, "-0.41, beyond 0.40"),
    ],
)
def test_a_miss_of_table_1_is_named(dim: int, mean: float, expected: str) -> None:
    row = {"table": "table1", "setting": f"{dim}-D", "mean": mean, "paper": paper.TABLE1["softmax", dim][0]}
    assert tables.remark(row) == expected


def test_csv_holds_every_cell_and_latex_every_mean() -> None:
    made = [record("softmax", 100, s, list(range(5 + s))) for s in (0, 1)]
    table = tables.tables(rows(made), made)["table1"]
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(table).decode())))
    assert len(lines) == 12
    (line,) = [r for r in lines if (r["loss"], r["setting"]) == ("softmax", "100-D")]
    assert line["seeds"] == "0 1"
    assert float(line["mean"]) == pytest.approx(0.0055)
    text = tables.to_latex(table).decode()
    assert "0.55 $\\pm$ 0.07 (0.68)" in text
    assert text.count("not run") == 11
    assert text.count(" & ") == 3 * 6


def test_a_record_of_another_cell_or_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "softmax-100d-seed0.json"
    path.write_text(json.dumps(record("softmax", 100, 1, [])))
    with pytest.raises(BadRun, match=r"softmax-100d-seed0\.json is no record"):
        records.read(path)
    path.write_text("{")
    with pytest.raises(BadRun, match="cannot be read"):
        records.read(path)


def test_a_check_allows_five_images_and_a_tenth_of_a_point_of_eer() -> None:
    old = record("lgm1.0", 100, 0, [1], attacks=[attacked()], verify=[verified(0.04)])
    near = record("lgm1.0", 100, 0, [1, 2], attacks=[attacked(error=0.805)], verify=[verified(0.0409)])
    far = record("lgm1.0", 100, 0, list(range(7)), attacks=[attacked(error=0.806)], verify=[verified(0.0411)])
    assert [row["met"] for row in compare([old], [near])] == [True] * 3
    assert [row["met"] for row in compare([old], [far])] == [False] * 3
