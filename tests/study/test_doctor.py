"""What the doctor finds in a runs folder, and that what it mends is made again as it was."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from advbench import cli, runs
from advbench.errors import BadSetting, Damaged, Unreadable
from advbench.grid.shards import attack
from advbench.runs import locks
from advbench.runs.rows import DoctorRow
from advbench.runs.shards import Shard
from advbench.study.doctor import examine
from tests.helpers import studies
from tests.helpers.damage import cut, flip
from tests.helpers.studies import only_run, tensors

study = partial(studies.study, losses="softmax")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    study(folder).attack()
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def found(folder: Path, *, mend: bool = False) -> DoctorRow:
    (row,) = examine(folder / "runs", mend=mend)
    return row


def test_a_finished_run_is_whole_and_untouched(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    row = found(finished)
    assert (row.state, row.broken, row.redone, row.left) == ("whole", [], [], [])
    assert row.steps == list(only_run(finished).steps)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_what_the_system_does_not_let_be_read_is_named_and_not_mended(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, opened = tensors(copy), os.open

    def refuse(path: Path, *given: Any) -> int:
        if Path(path).name == "model.safetensors":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *given)

    monkeypatch.setattr("advbench.runs.files.os.open", refuse)
    row = found(copy, mend=True)
    assert (row.state, row.broken, row.redone, row.mended) == ("unread", [], [], False)
    assert row.needs == [
        f"{only_run(copy).folder}/model.safetensors cannot be read (Too many open files); mend that and try again"
    ]
    assert cli.main(["doctor", "--mend", "--runs-dir", str(copy / "runs")]) == 1
    assert "Too many open files" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(Unreadable, match="Too many open files"):
        study(copy).attack()
    monkeypatch.undo()
    assert (found(copy).state, tensors(copy)) == ("whole", before)


@pytest.mark.parametrize(("harm", "why"), [(cut, "truncated"), (flip, "altered"), (Path.unlink, "missing")])
@pytest.mark.parametrize("pattern", ["model.safetensors", "outputs/test.safetensors", "attacks/*0.2*.safetensors"])
def test_a_damaged_file_is_named_and_after_mending_made_again(
    finished: Path, copy: Path, pattern: str, harm: Callable[[Path], None], why: str
) -> None:
    (path,) = only_run(copy).folder.glob(pattern)
    harm(path)
    row = found(copy)
    (fault,) = row.broken
    assert row.state == "broken"
    assert path.match(fault.file)
    assert fault.why.startswith(why)
    wanted = {"model.safetensors": 4, "outputs/test.safetensors": 1}.get(pattern, 1)
    assert len(row.redone) == wanted
    with pytest.raises(Damaged, match="doctor --mend"):
        only_run(copy).read(fault.file)
    assert found(copy, mend=True).mended
    assert not set(row.redone) & only_run(copy).steps.keys()
    assert study(copy).attack() == study(finished).attack()
    assert tensors(copy) == tensors(finished)
    assert found(copy).state == "whole"


def test_a_manifest_that_cannot_be_read_hides_no_other_run(copy: Path) -> None:
    first = only_run(copy).folder
    shutil.copytree(first, first.parent / "deeper" / first.name)
    shutil.copytree(first, first.parent / "z-run")
    (first / runs.MANIFEST).write_bytes(b"{")
    deeper, broken, renamed = examine(copy / "runs")
    assert broken.state == "broken"
    assert broken.broken[0].file == runs.MANIFEST
    assert (deeper.run, deeper.state) == (f"deeper/{first.name}", "whole")
    assert (renamed.run, renamed.state) == ("z-run", "skipped")
    assert first.name in renamed.needs[0]


def test_a_manifest_of_another_schema_is_named_and_never_deleted(copy: Path) -> None:
    path = only_run(copy).folder / runs.MANIFEST
    path.write_text('{"schema": 2}')
    row = found(copy, mend=True)
    assert (row.state, row.mended) == ("broken", False)
    assert path.read_text() == '{"schema": 2}'


def test_what_an_interrupted_write_left_is_listed_and_swept(finished: Path, copy: Path) -> None:
    folder = only_run(copy).folder
    (folder / "shards" / "a").mkdir(parents=True)
    left = [".model.safetensors.x.part", "attacks/.a.part", "attacks/b.safetensors", "checkpoint-0001.safetensors",
            "shards/a/.1-of-2.json.x.part"]  # fmt: skip
    for name in left:
        (folder / name).write_bytes(b"half")
    row = found(copy)
    assert (row.state, row.left) == ("whole", left)
    study(copy).attack()
    assert found(copy).left == ["attacks/b.safetensors"]
    found(copy, mend=True)
    assert tensors(copy) == tensors(finished)


def test_a_run_at_work_is_left_alone(copy: Path) -> None:
    with locks.hold(only_run(copy).folder):
        assert found(copy, mend=True).state == "in use"


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    attack(study(tmp_path, batch_size=5), Shard(1, 2))
    assert found(tmp_path).state == "unfinished"
    flip(next(tmp_path.rglob("1-of-2.safetensors")))
    row = found(tmp_path)
    assert row.state == "broken"
    assert len(row.redone) == 1
    found(tmp_path, mend=True)
    assert found(tmp_path).broken == []


def test_the_command_exits_1_where_something_is_broken(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--runs-dir", str(copy / "runs")]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["state"] == "whole"
    cut(only_run(copy).folder / "model.safetensors")
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "truncated" in said.out
    assert said.err.count("\n") == 1
    assert cli.main([*words, "--mend"]) == 0
    assert cli.main(words) == 0


def test_no_folder_is_no_run_and_a_file_is_refused(tmp_path: Path) -> None:
    assert examine(tmp_path / "none") == []
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match="is a file"):
        examine(tmp_path / "file")
