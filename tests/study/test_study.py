"""The order of steps: what is done, what is done only once, and what an interruption leaves."""

import getpass
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import catalog, runs
from advbench.detection import calibration
from advbench.errors import BadRun, BadSetting, TooFewImages
from advbench.progress import Advance, Quiet
from advbench.report import write
from advbench.runs import AdaptiveRow, artifacts, locks
from advbench.study.selection import Found
from advbench.study.study import Study
from advbench.study.verify import verify, verify_found
from advbench.study.workspace import Workspace
from advbench.types import Splits
from tests.helpers import studies
from tests.helpers.command_line import contents
from tests.helpers.damage import largest_file, stop_at_write
from tests.helpers.studies import only_run

CPU = torch.device("cpu")
USUAL: dict[str, Any] = {
    "losses": "lgm",
    "attacks": {"name": "fgsm", "eps": 0.1},
    "detectors": "max-posterior",
    "n": None,
}


class Stopper(Quiet):
    """Ctrl-C as soon as a note begins with these words."""

    def __init__(self, words: str) -> None:
        self.words = words

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        def advance(done: float, note: str) -> None:  # noqa: ARG001
            if note.startswith(self.words):
                raise KeyboardInterrupt

        yield advance


class Notes(Quiet):
    """Keeps what is said, and how far the bars came."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: list[tuple[str, int, list[float]]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        ticks: list[float] = []
        self.bars.append((label, total, ticks))
        yield lambda done, note: ticks.append(done)


def study(folder: Path, *, progress: Quiet | None = None, batch_size: int = 256, **table: Any) -> Study:
    """A study of one epoch below a folder."""
    return studies.study(folder, progress=progress, batch_size=batch_size, **{**USUAL, **table})


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was written."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".lock")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study run to its end; do not write here."""
    folder = tmp_path_factory.mktemp("finished")
    write.run(study(folder))
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished study, in a folder that may change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


# -- what a run holds --------------------------------------------------------------------------------------------


def test_a_finished_run_holds_its_model_outputs_attacks_and_scores(finished: Path) -> None:
    assert set(contents(only_run(finished).folder)) == {
        "manifest.json",
        "steps.journal",
        "model.safetensors",
        "training.jsonl",
        "outputs/train.safetensors",
        "outputs/calibration.safetensors",
        "outputs/test.safetensors",
        "attacks/fgsm-eps0.1.safetensors",
        "scores.parquet",
        "metrics.json",
    }
    assert (finished / "reports" / "digits-study" / "index.html").is_file()


def test_every_file_is_listed_in_the_manifest_with_its_hash(finished: Path) -> None:
    run = only_run(finished)
    listed, own = {name: file.sha256 for name, file in run.files.items()}, ("manifest.json", "steps.journal")
    assert listed == {name: found for name, found in contents(run.folder).items() if name not in own}


def test_a_manifest_names_no_host_no_user_and_no_absolute_path(finished: Path) -> None:
    text = "".join((only_run(finished).folder / name).read_text() for name in ("manifest.json", "steps.journal"))
    strings = re.findall(r'"([^"]*)"', text)
    assert not [s for s in strings if s.startswith(("/", "~", "file:")) or ":\\" in s]
    for path in (finished, Path.home(), Path.cwd()):
        assert str(path) not in text
    for name in (socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"\b{re.escape(name)}\b", text)


def test_a_manifest_says_what_was_trained_and_with_what(finished: Path) -> None:
    run = only_run(finished)
    assert run.trained.loss_name == "lgm"
    assert run.trained.training["epochs"] == 1
    assert set(run.trained.training) == {
        "epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "warmup", "precision", "full_train",
        "max_gradient_norm",
    }  # fmt: skip
    assert run.environment.versions["torch"] == torch.__version__.partition("+")[0]
    assert run.environment.device == "cpu"


def test_a_row_of_training_jsonl_for_each_epoch(tmp_path: Path) -> None:
    study(tmp_path, training={"epochs": 2}).train()
    lines = (only_run(tmp_path).folder / "training.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"epoch", "loss", "accuracy", "validation_error", "learning_rate", "seconds"}
    assert only_run(tmp_path).info("train")["validation_error"] == rows[-1]["validation_error"]


def test_stored_outputs_are_those_of_the_parts_in_their_order(finished: Path, digits: Splits) -> None:
    run = only_run(finished)
    for name, part in (("train", digits.train), ("calibration", digits.calibration), ("test", digits.test)):
        stored = artifacts.read_part(run, name)
        assert torch.equal(stored.labels, part.labels)
        assert stored.outputs.features.shape == (len(part), 100)
        assert stored.outputs.logits.shape == (len(part), 10)
    examples = artifacts.read_part(run, "test").examples
    assert examples is not None
    assert torch.equal(examples, digits.test.load_all()[:8])


def test_a_model_trained_on_all_parts_has_eers_and_no_threshold(tmp_path: Path, digits: Splits) -> None:
    one = study(tmp_path, training={"epochs": 1, "all_parts": True}, attacks=[{"name": "fgsm", "eps": 0.3}])
    (row,) = one.train()
    assert row.n_train == len(digits.train) + len(digits.validation) + len(digits.calibration)
    one.attack()
    run = one.opened(one.models()[0].model)
    rows = verify(run, ["fgsm-eps0.3"], ["likelihood"])
    assert all(row.eer is not None and row.tpr_at_fpr05 is row.fpr05_realised is None for row in rows[:1])
    with pytest.raises(TooFewImages, match="trained on all images that could fix one"):
        calibration.guard(run, "likelihood", 0.05)
    aware = [{"name": "joint", "eps": 0.3, "n": 4, "detector": "likelihood", "fpr": 0.05}]
    with pytest.raises(TooFewImages, match="take a model trained without all_parts"):
        study(tmp_path, training={"epochs": 1, "all_parts": True}, attacks=aware).attack()


def test_full_train_joins_validation_to_the_training_part(tmp_path: Path, digits: Splits) -> None:
    (row,) = study(tmp_path, training={"epochs": 1, "full_train": True}).train()
    assert row.n_train == len(digits.train) + len(digits.validation) == 1200
    assert len(artifacts.read_part(only_run(tmp_path), "train")) == 1200


def test_a_study_is_every_loss_with_every_seed(tmp_path: Path) -> None:
    rows = study(tmp_path, losses=["softmax", "center"], seeds=[0, 1]).train()
    assert [(row.model.loss, row.model.seed) for row in rows] == [
        ("softmax", 0), ("softmax", 1), ("center", 0), ("center", 1),
    ]  # fmt: skip
    weights = {(run.folder / "model.safetensors").read_bytes() for run in runs.find(tmp_path / "runs")}
    assert len(weights) == 4


def test_progress_counts_images_to_the_end_of_training_and_attack(tmp_path: Path) -> None:
    notes = Notes()
    study(tmp_path, progress=notes, training={"epochs": 2}, n=40, batch_size=16).attack()
    labels, totals, _ = zip(*notes.bars, strict=True)
    assert labels[:2] == (only_run(tmp_path).name, "outputs")
    assert labels[2].startswith("fgsm-eps0.1-")
    assert "outputs of 1,597 images, the parts train, calibration, test" in notes.said[-2]
    assert totals == (2 * (1000 + 200), 1000 + 297 + 300, 40)
    for _, total, ticks in notes.bars:
        assert ticks == sorted(ticks)
        assert ticks[-1] == total


# -- only once ---------------------------------------------------------------------------------------------------


def test_a_second_run_writes_nothing_but_the_page(copy: Path) -> None:
    before, stamps = contents(copy), times(copy / "runs")
    page, rows = write.run(study(copy))
    assert contents(copy) == before
    assert times(copy / "runs") == stamps
    assert page == copy / "reports" / "digits-study" / "index.html"
    assert len(rows) == 3


def test_the_same_settings_and_seed_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    write.run(study(tmp_path))
    one, other = only_run(finished), only_run(tmp_path)
    names = {"model.safetensors", "attacks/fgsm-eps0.1.safetensors", "scores.parquet", "metrics.json"}
    found, expected = contents(other.folder), contents(one.folder)
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_a_new_eps_adds_one_file_and_trains_nothing(copy: Path) -> None:
    before, stamps = contents(copy / "runs"), times(copy / "runs")
    steps = dict(only_run(copy).steps)
    notes = Notes()
    study(copy, progress=notes, attacks={"name": "fgsm", "eps": [0.1, 0.25]}).attack()
    after = contents(copy / "runs")
    added = set(after) - set(before)
    assert {Path(name).name for name in added} == {"fgsm-eps0.25.safetensors"}
    changed = {Path(name).name for name in before if after[name] != before[name]}
    assert changed == {"steps.journal"}
    assert {name for name, at in times(copy / "runs").items() if stamps.get(name) != at} == added | {
        f"{only_run(copy).name}/steps.journal"
    }
    assert {name: only_run(copy).steps[name] for name in steps} == steps
    assert [label for label, *_ in notes.bars] == ["fgsm-eps0.25"]


def test_n_and_settings_get_files_of_their_own_and_leave_the_others(copy: Path) -> None:
    before = contents(copy / "runs")
    study(copy, n=30).attack()
    study(copy, n=31).attack()
    study(copy, attacks={"name": "fgsm", "eps": 0.1, "clip": False}).attack()
    study(copy, attacks={"name": "fgsm", "eps": 0.1, "exact_gradient": True}, n=30).attack()
    names = sorted(path.name for path in (only_run(copy).folder / "attacks").iterdir())
    assert len(names) == 5
    assert names[-1] == "fgsm-eps0.1.safetensors"
    assert all(re.fullmatch(r"fgsm-eps0\.1-[0-9a-f]{8}\.safetensors", name) for name in names[:-1])
    after = contents(copy / "runs")
    assert {name for name in before if after[name] != before[name]} == {f"{only_run(copy).name}/steps.journal"}


def test_fgsms_figure_is_taken_once_for_an_eps_whatever_the_detectors_and_their_rates(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fgsm, made = catalog.load("attack", "fgsm"), []
    perturb = fgsm.perturb

    def counted(attack: Any, victim: Any, images: Any, *more: Any) -> Any:
        made.append((attack.eps, attack.clip, len(images)))
        return perturb(attack, victim, images, *more)

    monkeypatch.setattr(fgsm, "perturb", counted)
    guards = {"detector": ["likelihood", "max-posterior", "none"], "fpr": [0.05, 0.1], "eps": [0.05, 0.1]}
    attacks = [
        {"name": "feature-matching", "steps": 1, **guards},
        {"name": "detector-square", "queries": 2, **guards},
    ]
    rows = study(copy, attacks=attacks, n=20).attack()
    assert len(rows) == 20
    assert made == [(0.05, True, 20), (0.1, True, 20)]
    alone = study(copy, attacks={"name": "fgsm", "eps": [0.05, 0.1]}, n=20).attack()
    blind = [
        row.fgsm_undetected_error_rate for row in rows if isinstance(row, AdaptiveRow) and row.detector == "none"
    ]
    assert blind == 2 * [row.error_rate for row in alone]
    study(copy, attacks=[{**attacks[0], "eps": 0.5, "norm": "l2"}], n=20).attack()
    assert len(made) == 4


def test_the_first_n_images_are_attacked_as_among_all(copy: Path, digits: Splits) -> None:
    (row,) = study(copy, n=30).attack()
    run = only_run(copy)
    (name,) = (step.removeprefix("attack ") for step in run.steps if step.startswith("attack fgsm-eps0.1-"))
    some, every = artifacts.read_adversarials(run, name), artifacts.read_adversarials(run, "fgsm-eps0.1")
    assert row.n == len(some.labels) == 30
    assert torch.equal(some.labels, digits.test.labels[:30])
    assert torch.equal(some.index, torch.arange(30))
    assert torch.equal(every.index, torch.arange(300))
    # a gradient near 0 may change its sign with the size of the batch
    assert (some.images == every.images[:30]).double().mean() > 0.995


def test_naming_all_test_images_is_the_attack_without_n(copy: Path) -> None:
    before = contents(copy / "runs")
    study(copy, n=300).attack()
    assert contents(copy / "runs") == before


def test_other_training_settings_are_another_run(copy: Path) -> None:
    before = contents(copy / "runs")
    study(copy, training={"epochs": 1, "momentum": 0.5}).train()
    after = contents(copy / "runs")
    assert len(runs.find(copy / "runs")) == 2
    assert {name: after[name] for name in before} == before


def test_the_batch_size_of_evaluation_changes_no_result_beyond_noise(copy: Path, tmp_path: Path) -> None:
    study(tmp_path / "other", batch_size=7).attack()
    one, other = (artifacts.read_part(only_run(f), "test").outputs.logits for f in (copy, tmp_path / "other"))
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(BadSetting, match="batch_size = 0"):
        Workspace(batch_size=0, device=CPU)


def test_more_images_than_there_are_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for work in (study(tmp_path, n=301).attack, partial(write.run, study(tmp_path, n=301))):
        with pytest.raises(BadSetting, match=r"301.*300"):
            work()
    assert list(tmp_path.iterdir()) == []


# -- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["center", {"name": "lgm", "covariance": "diagonal", "alpha": 0.3}])
def test_a_stopped_training_goes_on_to_the_very_same_weights(tmp_path: Path, loss: Any) -> None:
    table = {"losses": loss, "training": {"epochs": 3}}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "stopped", progress=Stopper("epoch 2/"), **table).train()
    stopped = only_run(tmp_path / "stopped")
    assert list(stopped.steps) == ["checkpoint"]
    assert [row["epoch"] for row in stopped.info("checkpoint")["epochs"]] == [1]

    notes = Notes()
    study(tmp_path / "stopped", progress=notes, **table).train()
    study(tmp_path / "whole", **table).train()
    assert "after epoch 1 of 3" in notes.said[0]
    resumed, whole = (only_run(tmp_path / name).folder for name in ("stopped", "whole"))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert set(contents(resumed)) == set(contents(whole))


@pytest.mark.parametrize("last", [1, 3, 6, 7, 9])
def test_a_study_stopped_before_any_write_ends_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    stop_at_write(monkeypatch, last, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        write.run(study(tmp_path))
    monkeypatch.undo()
    write.run(study(tmp_path))
    found, expected = contents(tmp_path / "runs"), contents(finished / "runs")
    assert set(found) == set(expected)
    timed = ("steps.journal", "training.jsonl")  # these two hold seconds
    assert {k: v for k, v in found.items() if not k.endswith(timed)} == {
        k: v for k, v in expected.items() if not k.endswith(timed)
    }


@pytest.mark.parametrize("damage", [b"", bytes(100)], ids=["empty", "zeros"])
def test_a_damaged_checkpoint_is_named_and_training_begins_anew(tmp_path: Path, damage: bytes) -> None:
    table: dict[str, Any] = {"training": {"epochs": 3}}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, progress=Stopper("epoch 2/"), **table).train()
    (path,) = (tmp_path / "runs").glob("*/checkpoint-0001.safetensors")
    path.write_bytes(damage)
    notes = Notes()
    (row,) = study(tmp_path, progress=notes, **table).train()
    (line,) = [line for line in notes.said if path.name in line]
    assert f"was truncated: {len(damage)} of" in line
    assert not [line for line in notes.said if "going on after" in line]
    (undisturbed,) = study(tmp_path / "undisturbed", **table).train()
    assert replace(row, seconds=0) == replace(undisturbed, seconds=0)


def test_a_run_in_use_is_refused_and_untouched(copy: Path) -> None:
    before = contents(copy)
    with locks.hold(only_run(copy).folder):
        for work in (study(copy).train, study(copy).attack, partial(write.run, study(copy))):
            with pytest.raises(BadRun, match="in use"):
                work()
        with pytest.raises(BadRun, match="in use"):
            verify_found([Found(only_run(copy), ("fgsm-eps0.1",))], ["likelihood"], Quiet())
    assert contents(copy) == before


def test_a_full_disk_harms_nothing_that_is_done_and_the_same_study_goes_on(copy: Path) -> None:
    before = contents(copy)
    more = study(copy, attacks={"name": "fgsm", "eps": 0.2})
    with largest_file(100_000):  # less than the images of one attack
        with pytest.raises(BadSetting, match=r"fgsm-eps0\.2") as caught:
            more.attack()
        with pytest.raises(BadSetting):
            study(copy, losses="softmax").train()
    assert "\n" not in str(caught.value)
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert not list(copy.rglob("*.part"))
    assert [row.eps for row in more.attack()] == [0.2]
