"""A stranger's runs folder: none of its text is a command, no link leads out of it, nothing foreign is deleted."""

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from advbench import cli, runs
from advbench.cli import audit
from advbench.errors import BadRun, BadSetting
from advbench.runs import Run, digest, locks
from advbench.study.workspace import Workspace
from tests.helpers.records import forge, manifest_of

SOFTMAX, SUPPLIED = "digits-softmax-seed0-1612b01f", "digits-m.py-build-fd8d400c"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The run with a manifest changed and sealed again, named as its model then is."""
    manifest = manifest_of(folder)
    change(manifest)
    manifest["name"] = f"{manifest['name'].rpartition('-')[0]}-{digest(manifest['model'])}"
    forge(folder, manifest)
    return folder.rename(folder.with_name(manifest["name"]))


def refusal(words: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What a command says last, in one line."""
    assert cli.main(words.split()) == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("advbench: ")
    return said[-1]


def supplied_alone(here: Path) -> Run:
    """The supplied model's run, which is scored, and no other."""
    for path in (here / "runs").iterdir():
        if path.name != SUPPLIED:
            shutil.rmtree(path)
    return runs.load(here / "runs" / SUPPLIED)


@pytest.mark.parametrize(
    "source",
    [
        "x && advbench  evaluate --model evil.py:build && y",
        "x' && advbench attack --loss evil; touch EXECUTED #",
        "--model\nadvbench selftest",
        "$(touch EXECUTED)",
    ],
)
def test_a_recorded_source_runs_nothing(here: Path, source: str) -> None:
    (here / "evil.py").write_text("open('EXECUTED', 'w')")
    run = edited(here / "runs" / SUPPLIED, lambda m: m["model"]["supplied"].update(source=source))
    tried: list[Sequence[str]] = []

    def noted(words: Sequence[str]) -> None:
        tried.append(words)
        raise BadSetting("not here")

    audit.complete(run.name, Workspace(), noted)
    assert {words[0] for words in tried} == {"attack", "selftest"}
    assert not [
        word for words in tried for word in words if "evil" in word or "EXECUTED" in word or word == "--model"
    ]
    assert not (here / "EXECUTED").exists()


@pytest.mark.parametrize(
    "name", ["attacks", "outputs", "manifest.json", ".lock", ".lock.writing", "model.safetensors"]
)
@pytest.mark.parametrize("command", ["attack --epochs 3 --eps 0.1 --n 30", "list runs", "audit RUN", "doctor --mend"])
def test_a_run_with_a_link_in_it_is_refused_and_what_the_link_leads_to_stays(
    here: Path,
    name: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outside = here / "home"
    outside.mkdir()
    (outside / "thesis.txt").write_text("precious")
    shutil.copytree(here / "runs" / SOFTMAX / "attacks", outside, dirs_exist_ok=True)
    path = here / "runs" / SOFTMAX / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside if name in ("attacks", "outputs") else outside / "thesis.txt")
    before = {p: p.read_bytes() for p in outside.iterdir()}
    code = cli.main([*command.replace("RUN", SOFTMAX).split(), "--json"])
    assert code == (1 if "doctor" in command else 0 if "list" in command else 2)  # others are listed
    said = capsys.readouterr()
    assert f"{name} is a link" in " ".join((said.out + said.err).split())
    assert {p: p.read_bytes() for p in outside.iterdir()} == before
    assert path.is_symlink()


def test_the_run_s_own_folder_may_be_a_link(here: Path) -> None:
    (here / "runs" / SOFTMAX).rename(here / "elsewhere")
    (here / "runs" / SOFTMAX).symlink_to(here / "elsewhere")
    assert runs.load(here / "runs" / SOFTMAX).has("train")
    assert cli.main(["doctor", "--mend"]) == 0


def test_what_is_no_run_is_passed_over_and_one_under_another_name_is_named(
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for i in range(1000):
        (here / "runs" / f"app{i}").mkdir()
        (here / "runs" / f"app{i}" / "manifest.json").write_text('{"name": "My app", "version": 3}')
    (here / "runs" / "venv").mkdir()
    for name in (".lock", "pyvenv.cfg", "checkpoint-1.safetensors"):
        (here / "runs" / "venv" / name).touch()
    shutil.copytree(here / "runs" / SOFTMAX, here / "runs" / "copy")
    (here / "runs" / "digits-killed-0123abcd").mkdir()
    (here / "runs" / "digits-killed-0123abcd" / ".lock").touch()
    (here / "runs" / "digits-killed-0123abcd" / ".model.safetensors.x.part").touch()
    before = {p for p in (here / "runs").rglob("*") if p.suffix != ".part"}
    assert cli.main(["doctor", "--mend", "--json"]) == 0
    rows = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert len(rows) == 5
    assert (rows["copy"], rows["digits-killed-0123abcd"]) == ("skipped", "empty")
    assert set((here / "runs").rglob("*")) >= before
    assert not list((here / "runs").rglob("*.part"))
    assert cli.main(["list", "runs", "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["rows"]) == 3
    assert f"copy holds the run {SOFTMAX} under another name" in " ".join(said.err.split())


def test_one_unreadable_run_is_named_and_hides_no_other(
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "runs" / SOFTMAX / "manifest.json").write_text("[" * 100_000)
    for command in ("list runs", "verify", "report"):
        assert cli.main([*command.split(), "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["rows"]
        assert f"left out: runs/{SOFTMAX}/manifest.json cannot be read" in " ".join(said.err.split())


@pytest.mark.parametrize("key", ["error_rate", "success_rate", "clean_error_rate", "saturated", "zero_gradients"])
def test_a_row_that_its_outputs_do_not_bear_out_is_refused(
    here: Path,
    key: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = manifest_of(here / "runs" / SOFTMAX)
    (name,) = [name for name in manifest["steps"] if name.startswith("attack fgsm-eps0.3")]
    manifest["steps"][name]["info"]["row"][key] = 1 - manifest["steps"][name]["info"]["row"][key]
    forge(here / "runs" / SOFTMAX, manifest)
    for command in ("verify --loss softmax", "report --loss softmax", f"audit {SOFTMAX}"):
        assert f"{key} is " in refusal(command, capsys)


def test_an_eer_that_its_scores_do_not_bear_out_is_refused(
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = supplied_alone(here)
    metrics = json.loads(run.read("metrics.json"))
    metrics["cells"][0]["rows"][0]["eer"] = 0.0
    files = {"scores.parquet": run.read("scores.parquet"), "metrics.json": json.dumps(metrics).encode()}
    run.write("verify", files, info=run.info("verify"))
    assert "eer is 0.0, and " in refusal("verify --detector energy,mahalanobis", capsys)


@pytest.mark.parametrize("thing", ["fifo", "folder", "/dev/zero"])
@pytest.mark.parametrize("name", ["manifest.json", "scores.parquet", ".lock"])
def test_what_is_no_file_is_neither_waited_for_nor_read(
    here: Path,
    name: str,
    thing: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = supplied_alone(here).folder / name
    path.unlink(missing_ok=True)
    if thing == "fifo":
        os.mkfifo(path)
    elif thing == "folder":
        path.mkdir()
    else:
        path.symlink_to(thing)
    if name != ".lock" or thing == "/dev/zero":
        assert path.name in refusal("verify --detector energy", capsys)
    assert cli.main(["doctor"]) == (1 if name != ".lock" or thing == "/dev/zero" else 0)


# -- locks -------------------------------------------------------------------------------------------------------


def as_nfs4(file: Any, operation: int) -> None:
    """flock as Linux's NFSv4 client has it: shared locks want a descriptor to read by, exclusive ones to write by."""
    mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if (operation & fcntl.LOCK_SH and mode == os.O_WRONLY) or (operation & fcntl.LOCK_EX and mode == os.O_RDONLY):
        raise OSError(errno.EBADF, "Bad file descriptor")
    FLOCK(file, operation)


FLOCK = fcntl.flock


def test_runs_and_steps_are_held_on_nfs4_and_seen_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", as_nfs4)
    with locks.hold(tmp_path / "run", step="attack a"):
        assert locks.is_held(tmp_path / "run")
        with locks.hold(tmp_path / "run", step="attack b"):
            pass
        with pytest.raises(BadRun, match="in use"), locks.hold(tmp_path / "run"):
            pass
    with locks.hold(tmp_path / "run"):
        assert locks.is_held(tmp_path / "run")
    assert not locks.is_held(tmp_path / "run")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_and_no_locks_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def without(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", without)
    monkeypatch.setattr(locks, "in_use", True)
    words = "attack --epochs 3 --eps 0.1 --n 30"
    assert "knows no locks" in refusal(words, capsys)
    assert "--no-locks" in refusal(words, capsys)
    assert cli.main(["doctor", "--json"]) == 0
    assert "in use" not in capsys.readouterr().out
    assert cli.main([*words.split(), "--no-locks"]) == 0


def test_a_look_at_a_run_never_keeps_another_from_it(tmp_path: Path) -> None:
    with locks.hold(tmp_path / "run"):
        pass
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            locks.is_held(tmp_path / "run")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(100):
            with locks.hold(tmp_path / "run"):
                pass
            with locks.hold(tmp_path / "run", step="attack a"):
                pass
    finally:
        stop.set()
        looking.join()


def test_a_lock_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("kept")
    with locks.hold(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "kept"


@pytest.mark.usefixtures("here")
def test_a_bug_is_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Run, "read", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify"])
