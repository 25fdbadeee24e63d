"""A study as cells: plain data that say all that a model or an attack depends on."""

import json
from pathlib import Path
from typing import Any

import pytest

from advbench import catalog, runs
from advbench.errors import BadRun
from advbench.evasion import AdaptiveAttack
from advbench.grid.cells import SCORED, Cell, attack_table, cells_of, model_table
from advbench.grid.worker import Performer
from advbench.progress import Quiet
from advbench.report import write
from advbench.runs import locks
from advbench.study.parsing import USUAL, attack_choices, parse
from advbench.study.study import READY, Study
from advbench.study.verify import known
from tests.helpers import studies

TABLE: dict[str, Any] = {
    "losses": ["softmax", {"name": "lgm", "alpha": 0.3}],
    "attacks": [{"name": "fgsm", "eps": 0.1}, {"name": "transfer", "eps": 0.1, "source": "center"}],
    "n": 12,
}


def study(folder: Path, **table: Any) -> Study:
    return studies.study(folder, **{**TABLE, **table})


def entry(name: str) -> dict[str, Any]:
    adaptive = issubclass(catalog.load("attack", name), AdaptiveAttack)
    return {"name": name, "eps": 0.1, "n": 7} | ({"detector": ["none", "energy"], "fpr": 0.1} if adaptive else {})


@pytest.mark.parametrize("name", catalog.names("attack"))
def test_every_attack_is_read_back_from_the_entry_it_is_written_as(name: str) -> None:
    for choice in attack_choices(entry(name)):
        assert attack_choices(json.loads(json.dumps(attack_table(choice)))) == [choice]


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
def test_every_model_of_a_study_is_read_back_from_its_table(dataset: str) -> None:
    losses = [*(USUAL.losses or ()), {"name": "l-softmax", "margin": 2, "adversarial": {"steps": 3, "eps": 0.2}}]
    spec = parse({"dataset": dataset, "losses": losses, "seeds": [0, 7], "training": {"epochs": 2}})
    for model in spec.models():
        (again,) = parse(json.loads(json.dumps(model_table(spec, model)))).models()
        assert again.record("0") == model.record("0")
        assert again.run_name("0") == model.run_name("0")


def test_a_cell_sent_as_text_is_the_cell(tmp_path: Path) -> None:
    for cell in cells_of(study(tmp_path)):
        assert Cell.from_json(cell.to_json()) == cell


def test_a_model_comes_before_its_attacks_and_a_surrogate_before_its_own(tmp_path: Path) -> None:
    cells = cells_of(study(tmp_path))
    steps = [cell.step.partition("-eps")[0] for cell in cells]
    assert steps == [READY, READY, "attack fgsm", "attack transfer", READY, "attack fgsm", "attack transfer"]
    softmax, center, *_ = cells
    assert [cell.needs for cell in cells[:4]] == [(), (), (softmax.key,), (softmax.key, center.key)]
    assert cells[6].needs == (cells[4].key, center.key)  # one surrogate for both models
    assert len({cell.key for cell in cells}) == 7


def test_a_models_attacks_are_scored_when_all_of_them_are_there(tmp_path: Path) -> None:
    cells = cells_of(study(tmp_path), ["likelihood", "energy"])
    assert [cell.step for cell in cells].count(SCORED) == 2
    last = cells[-1]
    assert (last.step, last.needs) == (SCORED, tuple(cell.key for cell in cells[-3:-1]))
    performer = Performer(Quiet())
    for cell in cells[:5]:
        assert performer.perform(cell)
    (run,) = [run for run in runs.find(tmp_path / "runs") if "verify" in run.steps]
    assert {(row.attack, row.detector) for row in known(run)} == {
        (attack, detector) for attack in ("fgsm", "transfer") for detector in ("likelihood", "energy")
    }
    more = cells_of(study(tmp_path), ["likelihood", "max-posterior"])
    assert [cell.done for cell in cells[:5]] == [True] * 5
    assert [cell.done for cell in more[:5]] == [True] * 4 + [False]


def test_cells_make_what_the_study_makes(tmp_path: Path) -> None:
    whole, parted = study(tmp_path / "whole"), study(tmp_path / "parted")
    _, rows = write.run(whole)
    performer = Performer(Quiet())
    cells = [Cell.from_json(cell.to_json()) for cell in cells_of(parted, parted.spec.detectors)]
    assert not any(cell.done for cell in cells)
    assert all(performer.perform(cell) for cell in cells)
    assert all(cell.done for cell in cells)
    assert not any(performer.perform(cell) for cell in cells)
    _, again = write.run(parted)
    assert again == rows
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "parted" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_a_cell_whose_run_another_process_holds_is_refused(tmp_path: Path) -> None:
    cell = cells_of(study(tmp_path))[0]
    with locks.hold(tmp_path / "runs" / cell.run), pytest.raises(BadRun, match="in use"):
        Performer(Quiet()).perform(cell)
