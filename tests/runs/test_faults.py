"""After every fault the next call completes, and what it leaves is what an undisturbed call leaves."""

import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import runs
from advbench.errors import BadRun, BadSetting, Damaged, FailedCells
from advbench.grid.cells import Cell, cells_of
from advbench.grid.local import Local
from advbench.grid.queue import Tally, go_through
from advbench.grid.worker import Performer
from advbench.progress import Quiet
from advbench.runs import Run, locks, sealed_json
from advbench.runs.artifacts import unpack
from advbench.study import train
from tests.helpers.damage import cut, flip
from tests.helpers.records import forge, manifest_of
from tests.helpers.studies import Heard, only_run, tensors
from tests.tools.storm import killed_at_write, storm, study

ONE: dict[str, Any] = {"losses": "softmax", "attacks": [{"name": "fgsm", "eps": 0.1}], "training": {"epochs": 3}}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed call leaves."""
    folder = tmp_path_factory.mktemp("calm")
    study(folder, **ONE).attack()
    return tensors(folder)


def cells(folder: Path) -> list[Cell]:
    return cells_of(study(folder, **ONE))


@pytest.mark.long
def test_twenty_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    counts = storm(tmp_path, 20)
    print(counts)
    assert (counts.faults, counts.lost) == (20, 0)
    assert counts.files


@pytest.mark.parametrize("last", [0, 6, 11, 16])  # in training: first and second epoch; the model; the outputs
def test_a_process_killed_in_mid_write_costs_its_cell_alone(
    calm: dict[str, bytes], tmp_path: Path, last: int
) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed_at_write, args=(cells(tmp_path)[0].to_json(), last))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.part"))
    study(tmp_path, **ONE).attack()
    assert tensors(tmp_path) == calm
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_fails_its_cell_in_one_sentence_and_space_mends_it(
    calm: dict[str, bytes], tmp_path: Path
) -> None:
    def narrow(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    with pytest.raises(FailedCells, match=r"cannot write .*free space.*0 of 2 cells are done") as caught:
        go_through(cells(tmp_path), Local(1, started=narrow), Quiet())
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not list(tmp_path.rglob("*.part"))
    assert go_through(cells(tmp_path), Local(1), Quiet()) == Tally(done=2)
    assert tensors(tmp_path) == calm


def test_a_second_process_on_a_run_is_refused_and_the_first_goes_on(calm: dict[str, bytes], tmp_path: Path) -> None:
    ready, attack = cells(tmp_path)
    with locks.hold(tmp_path / "runs" / ready.run):
        with pytest.raises(FailedCells, match=r"in use by another advbench process.*0 of 2") as caught:
            go_through([ready, attack], Local(1), Quiet())
        assert caught.value.exit_code == 2
    assert go_through([ready, attack], Local(1), Quiet()) == Tally(done=2)
    assert tensors(tmp_path) == calm


def test_a_training_that_diverges_stops_with_its_last_good_checkpoint_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the decay flips and doubles every weight in every step, so that the second epoch overflows
    training = {"epochs": 6, "learning_rate": 1e-3, "momentum": 0.0, "weight_decay": 2130.0, "warmup": 0}
    wild = {**ONE, "training": {**training, "max_gradient_norm": 1e30}}
    for _ in range(2):
        with pytest.raises(BadSetting, match="training diverged in epoch 2"):
            study(tmp_path, **wild).attack()
        run = only_run(tmp_path)
        assert list(run.steps) == ["checkpoint", "diverged"]
        assert [row["epoch"] for row in run.info("checkpoint")["epochs"]] == [1]
        kept = unpack(run, "checkpoint-0001.safetensors")
        assert all(value.isfinite().all() for key, value in kept.items() if key.startswith("network."))
        monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))


def test_a_truncated_checkpoint_is_named_and_training_begins_anew_without_it(
    calm: dict[str, bytes], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed_at_write, args=(cells(tmp_path)[0].to_json(), 6))
    process.start()
    process.join()
    (path,) = tmp_path.rglob("checkpoint-0001.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    heard = Heard()
    Performer(heard).perform(cells(tmp_path)[0])
    (line,) = [line for line in heard.said if path.name in line]
    assert re.search(r"was truncated: 100 of \d+ bytes; checkpoint is made again$", line)
    assert [line for line in heard.said if "training 3 epochs" in line]
    study(tmp_path, **ONE).attack()
    assert tensors(tmp_path) == calm


# -- files that are damaged --------------------------------------------------------------------------------------


HARMS: dict[str, Callable[[Path], None]] = {"truncated": cut, "altered": flip, "missing": Path.unlink}
TRANSFER: dict[str, Any] = {**ONE, "attacks": [*ONE["attacks"], {"name": "transfer", "eps": 0.1, "source": "center"}]}
FILES = ["model.safetensors", "training.jsonl", "outputs/train.safetensors", "outputs/test.safetensors"]
FILES += ["attacks/fgsm-*.safetensors"]
SCORES = ("energy",)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two attacks, one of them from a surrogate, scored; do not write here."""
    folder = tmp_path_factory.mktemp("scored")
    go_through(cells_of(study(folder, **TRANSFER), SCORES), Local(1), Quiet())
    return folder


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored / "runs", tmp_path / "runs")
    return tmp_path


def run_of(folder: Path, loss: str) -> Run:
    return runs.load(next((folder / "runs").glob(f"digits-{loss}-*")))


def harmed(folder: Path, pattern: str, harm: str, loss: str = "softmax") -> Path:
    """The file that was damaged."""
    (path,) = run_of(folder, loss).folder.glob(pattern)
    HARMS[harm](path)
    return path


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("pattern", FILES)
def test_a_study_makes_a_damaged_file_again_and_says_so_in_one_line(
    scored: Path, copy: Path, pattern: str, harm: str
) -> None:
    path, heard = harmed(copy, pattern, harm), Heard()
    rows = study(copy, progress=heard, **TRANSFER).attack()
    assert rows == study(scored, **TRANSFER).attack()
    assert tensors(copy) == tensors(scored)
    (line,) = [line for line in heard.said if path.name in line and harm in line]
    assert "made again" in line
    assert ("attack fgsm" in line) == (pattern in FILES[:2] + FILES[4:])
    quiet = Heard()
    study(copy, progress=quiet, **TRANSFER).attack()
    assert quiet.said == []


@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_a_study_begins_a_run_anew_where_its_manifest_is_damaged(scored: Path, copy: Path, harm: str) -> None:
    path, heard = harmed(copy, runs.MANIFEST, harm), Heard()
    with pytest.raises(Damaged, match=re.escape(str(path))):
        runs.load(path.parent)
    rows = study(copy, progress=heard, **TRANSFER).attack()
    assert rows == study(scored, **TRANSFER).attack()
    assert tensors(copy) == tensors(scored)
    (line,) = [line for line in heard.said if runs.MANIFEST in line]
    assert line.endswith("the run is begun anew")


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("pattern", ["model.safetensors", "outputs/test.safetensors", runs.MANIFEST])
def test_a_damaged_surrogate_is_made_again_before_it_is_used(
    scored: Path, copy: Path, pattern: str, harm: str
) -> None:
    path, heard = harmed(copy, pattern, harm, "center"), Heard()
    run_of(copy, "softmax").drop(next(step for step in run_of(copy, "softmax").steps if "transfer" in step))
    go_through(cells_of(study(copy, progress=heard, **TRANSFER), SCORES), Local(1), heard)
    assert tensors(copy) == tensors(scored)
    if (pattern, harm) != (runs.MANIFEST, "missing"):
        assert len([line for line in heard.said if path.name in line]) == 1


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("pattern", [*FILES, "metrics.json", "scores.parquet", runs.MANIFEST])
def test_an_engine_makes_again_what_the_cells_that_are_left_need(
    scored: Path, copy: Path, pattern: str, harm: str
) -> None:
    path, heard = harmed(copy, pattern, harm), Heard()
    if pattern != runs.MANIFEST:
        run = run_of(copy, "softmax")
        dropped = manifest_of(run.folder)
        dropped["steps"].pop("verify" if pattern in FILES else f"attack {fgsm(run)}")
        forge(run.folder, dropped)
    go_through(cells_of(study(copy, progress=heard, **TRANSFER), SCORES), Local(1), heard)
    assert tensors(copy) == tensors(scored)
    assert run_of(copy, "softmax").read("metrics.json") == run_of(scored, "softmax").read("metrics.json")
    assert run_of(copy, "softmax").read("scores.parquet") == run_of(scored, "softmax").read("scores.parquet")
    if (pattern, harm) != (runs.MANIFEST, "missing"):
        assert len([line for line in heard.said if path.name in line]) == 1


def fgsm(run: Run) -> str:
    return next(step.removeprefix("attack ") for step in run.steps if step.startswith("attack fgsm"))


@pytest.mark.parametrize("pattern", ["model.safetensors", "outputs/test.safetensors"])
def test_a_cell_by_itself_makes_its_model_again(calm: dict[str, bytes], tmp_path: Path, pattern: str) -> None:
    ready, attack = cells(tmp_path)
    Performer(Quiet()).perform(ready)
    path, heard = harmed(tmp_path, pattern, "altered"), Heard()
    Performer(heard).perform(attack)
    assert tensors(tmp_path) == calm
    assert len([line for line in heard.said if path.name in line]) == 1


def test_a_grid_that_is_done_is_not_read_by_the_queue(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(Run, "fault", no)
    tally = go_through(cells_of(study(copy, **TRANSFER)), Local(1), Quiet())
    assert (tally.done, tally.failed) == (0, 0)


def test_a_file_that_the_system_does_not_let_be_read_is_no_damage(copy: Path) -> None:
    path = run_of(copy, "softmax").folder / "model.safetensors"
    whole = path.read_bytes()
    path.unlink()
    path.mkdir()
    before = run_of(copy, "softmax").manifest
    with pytest.raises(BadRun, match="is no file; delete it") as caught:
        study(copy, **TRANSFER).attack()
    assert not isinstance(caught.value, Damaged)
    assert run_of(copy, "softmax").manifest == before
    path.rmdir()
    path.write_bytes(whole)
    study(copy, **TRANSFER).attack()


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen_or_changes_nothing(copy: Path) -> None:
    path = run_of(copy, "softmax").folder / runs.MANIFEST
    whole, before = path.read_bytes(), run_of(copy, "softmax").manifest
    seen, places = 0, [*range(40), *range(40, len(whole) - 100, 29), *range(len(whole) - 100, len(whole))]
    for i in places:  # the schema, all over, and the digest
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        try:
            assert runs.load(path.parent).manifest == before
        except Damaged:
            seen += 1
    assert seen > 0.6 * len(places)  # the others are white space


@pytest.mark.parametrize("text", ['{"schema": 2}', '{"schema": 2, "digest": "0"}'])
def test_a_manifest_of_a_later_advbench_is_refused_and_kept(copy: Path, text: str) -> None:
    path = run_of(copy, "softmax").folder / runs.MANIFEST
    path.write_text(text)
    with pytest.raises(BadRun, match="has schema 2"):
        study(copy, **TRANSFER).attack()
    with pytest.raises(FailedCells, match="has schema 2"):
        go_through(cells_of(study(copy, **TRANSFER)), Local(1), Quiet())
    assert path.read_text() == text


def test_a_manifest_without_its_digest_is_altered_and_not_old(scored: Path, copy: Path) -> None:
    path = run_of(copy, "softmax").folder / runs.MANIFEST
    path.write_bytes(sealed_json.to_json(run_of(copy, "softmax").manifest))
    heard = Heard()
    assert study(copy, progress=heard, **TRANSFER).attack() == study(scored, **TRANSFER).attack()
    assert "manifest.json was altered: it is not what its digest was taken of; the run is begun anew" in heard.said[0]


# -- commands that are stopped -----------------------------------------------------------------------------------


def command(folder: Path) -> list[str]:
    words = ["--loss", "softmax", "--attack", "fgsm", "--eps", "0.1", "--n", "20", "--epochs", "3", "--jobs", "1"]
    places = ["--runs-dir", str(folder / "runs"), "--reports-dir", str(folder / "reports"), "--device", "cpu"]
    return [sys.executable, "-m", "advbench", "run", "--on", "local", *words, *places]


def children(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(task.parent.name)} | children(int(task.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("fault", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_command_leaves_no_worker_and_goes_on(
    calm: dict[str, bytes], tmp_path: Path, fault: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        command(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any("training 3 epochs" in line for line in lines)
        below = children(process.pid)
        assert len(below) >= 2
        if fault == signal.SIGINT:
            os.killpg(process.pid, fault)  # as a terminal does
        else:
            process.kill()
        said = list(lines)
        assert process.wait() == code
    assert not [line for line in said if "Traceback" in line]
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert go_through(cells(tmp_path), Local(1), Quiet()).failed == 0
    assert torch.get_num_threads() == 1
    assert tensors(tmp_path) == calm
