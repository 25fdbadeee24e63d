"""The runs folder: whole files, hashes that are checked, and what an interruption costs."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from advbench import runs
from advbench.errors import BadRun, BadSetting, Damaged
from advbench.runs import Run, as_json, locks, sealed_json, write_whole
from advbench.runs.growing.journal import HEAD, JOURNAL
from advbench.runs.run import MOST_FORGOTTEN
from tests.helpers.damage import largest_file, stop_at_write
from tests.helpers.records import EPOCH, MADE_WITH, MODEL, TRAINED, forge, manifest_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two done steps."""
    made = runs.open_or_new(tmp_path, "one", MODEL, MADE_WITH)
    files = {"model.safetensors": b"weights", "outputs/test.safetensors": b"log"}
    made.write("train", files, seconds=1.5, info=TRAINED)
    made.write("verify", {"scores.parquet": b"scores"})
    return made


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but for locks."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".lock")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


# -- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_below_new_folders_and_leaves_no_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "file.bin", b"first")
    write_whole(tmp_path / "a" / "b" / "file.bin", b"second")
    assert files(tmp_path) == {"a/b/file.bin": b"second"}


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with largest_file(1000), pytest.raises(BadSetting, match="file") as caught:
        write_whole(tmp_path / "file", bytes(5000))
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {"file": b"old"}


def test_ctrl_c_within_a_write_leaves_the_old_file_and_no_half_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", b"old")

    def interrupted(handle: int) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert files(tmp_path) == {"file": b"old"}


def test_a_folder_that_cannot_be_made_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(BadSetting, match=r"file/inner\.bin"):
        write_whole(tmp_path / "file" / "inner.bin", b"data")
    with pytest.raises(BadSetting, match="--runs-dir"), locks.hold(tmp_path / "file" / "run"):
        pass
    assert files(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_what_is_not_json_is_never_written(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        sealed_json.to_json(value)
    with pytest.raises(ValueError, match="JSON"):
        sealed_json.digest(value)


def test_a_digest_changes_with_a_value_and_not_with_the_order_of_keys() -> None:
    one = sealed_json.digest({"a": 1, "b": [1.0, None]})
    assert one == sealed_json.digest({"b": [1.0, None], "a": 1})
    others = [{"a": 1, "b": [1.0, False]}, {"a": 1}, {"a": 2, "b": [1.0, None]}, {"a": 1, "b": [None, 1.0]}]
    assert len({one, *map(sealed_json.digest, others)}) == 5
    assert len(one) == 8
    assert int(one, 16) >= 0


# -- the manifest ------------------------------------------------------------------------------------------------


def test_the_journal_holds_the_hash_and_size_of_every_file(run: Run) -> None:
    manifest = manifest_of(run.folder)
    listed = {name: note for step in manifest["steps"].values() for name, note in step["files"].items()}
    on_disk = files(run.folder)
    del on_disk["manifest.json"], on_disk[JOURNAL]
    assert listed == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in on_disk.items()
    }
    assert manifest["schema"] == 1
    assert manifest["name"] == "one"


def test_a_run_read_again_is_the_run_written(run: Run) -> None:
    again = runs.load(run.folder)
    assert again.manifest == run.manifest
    assert (again.name, again.model) == ("one", MODEL)
    assert list(again.steps) == ["train", "verify"]
    assert again.info("train") == TRAINED
    assert again.steps["train"].seconds == 1.5
    assert again.read("outputs/test.safetensors") == b"log"


def test_a_run_that_exists_is_opened_and_not_begun_again(run: Run) -> None:
    again = runs.open_or_new(run.folder.parent, "one", replace(MODEL, seed=1), MADE_WITH)
    assert again.model == MODEL
    assert again.has("train")


def test_a_new_run_is_on_disk_only_after_its_first_step(tmp_path: Path) -> None:
    new = runs.open_or_new(tmp_path, "new", MODEL, MADE_WITH)
    assert not new.has("train")
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_is_named_with_the_hash_found_and_the_hash_expected(run: Run) -> None:
    (run.folder / "outputs" / "test.safetensors").write_bytes(b"lot")
    for attempt in (lambda: run.read("outputs/test.safetensors"), lambda: run.has("train")):
        with pytest.raises(BadRun, match="altered") as caught:
            attempt()
        text = str(caught.value)
        assert str(run.folder / "outputs" / "test.safetensors") in text
        found, expected = (
            text.index(hashlib.sha256(b"lot").hexdigest()[:12]),
            text.index(hashlib.sha256(b"log").hexdigest()[:12]),
        )
        assert text.index("found", found) < expected < text.index("expected")
    assert run.has("verify")
    assert run.read("model.safetensors") == b"weights"


def test_a_missing_file_is_named(run: Run) -> None:
    (run.folder / "model.safetensors").unlink()
    with pytest.raises(BadRun, match=r"one/model\.safetensors"):
        run.has("train")


def test_a_file_that_no_step_lists_is_not_read(run: Run) -> None:
    (run.folder / "stranger.bin").write_bytes(b"stranger")
    with pytest.raises(BadRun, match=r"stranger\.bin"):
        run.read("stranger.bin")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 1, "model": {}, "environment": {}}',
        b'{"schema": 1, "model": {}, "environment": {}, "steps": []}',
        b'{"schema": 1, "model": [], "environment": {}, "steps": {}}',
        b'{"schema": 1, "model": {}, "environment": {}, "steps": {"train": {}}}',
        b'{"schema": 1, "model": {}, "environment": {}, "steps": {"train": []}}',
        b'{"schema": 1, "model": {}, "environment": {}, "steps": {"train": {"files": [], "info": {}}}}',
    ],
)
def test_a_manifest_that_is_none_is_named_and_not_replaced(run: Run, manifest: bytes) -> None:
    path = run.folder / "manifest.json"
    path.write_bytes(manifest)
    with pytest.raises(BadRun, match=r"one/manifest\.json") as caught:
        runs.open_or_new(run.folder.parent, "one", MODEL, MADE_WITH)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == manifest


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_a_manifest_of_another_schema_is_refused_with_both_numbers(run: Run, schema: object) -> None:
    manifest = as_json(run.manifest) | {"schema": schema}
    forge(run.folder, manifest)
    with pytest.raises(BadRun, match=rf"{schema!r}.* 1\b"):
        runs.load(run.folder)


@pytest.mark.parametrize("name", ["../outside.txt", "{absolute}"])
def test_a_manifest_cannot_reach_outside_its_folder(run: Run, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"mine")
    listed = {"sha256": hashlib.sha256(b"mine").hexdigest(), "bytes": 4}
    manifest = manifest_of(run.folder)
    manifest["steps"]["train"]["files"][name.format(absolute=outside)] = listed
    forge(run.folder, manifest)
    with pytest.raises(BadRun):
        runs.load(run.folder).drop("train")
    assert outside.read_bytes() == b"mine"


def lines(run: Run) -> list[bytes]:
    return (run.folder / JOURNAL).read_bytes()[HEAD:].splitlines(keepends=True)


@pytest.mark.parametrize("harm", ["changed", "first removed", "last removed", "swapped", "of another run", "no file"])
def test_a_line_of_a_journal_that_is_not_as_it_was_sealed_is_noticed(run: Run, tmp_path: Path, harm: str) -> None:
    other = runs.open_or_new(tmp_path, "other", MODEL, MADE_WITH)
    other.write("verify", {"scores.parquet": b"scores"})
    path, (one, two) = run.folder / JOURNAL, lines(run)
    head = path.read_bytes()[:HEAD]
    kept = {
        "changed": one.replace(b'"seconds": 1.5', b'"seconds": 1.4') + two, "first removed": two, "last removed": one,
        "swapped": two + one, "of another run": one + lines(other)[0], "no file": b"",
    }  # fmt: skip
    assert kept[harm] != one + two
    path.write_bytes(head + kept[harm]) if harm != "no file" else path.unlink()
    with pytest.raises(Damaged, match=rf"one/{JOURNAL} (was altered|is missing).*call what made it"):
        runs.load(run.folder)


def test_a_record_cut_short_is_written_over_and_one_before_its_head_counts(run: Run) -> None:
    path = run.folder / JOURNAL
    head, whole = path.read_bytes()[:HEAD], path.read_bytes()
    run.write("step a", {"outputs/a.safetensors": b"a"})
    path.write_bytes(head + path.read_bytes()[HEAD:] + b"0" * 70)  # killed before the head, and in the next line
    assert list(runs.load(run.folder).steps) == ["train", "verify", "step a"]
    runs.load(run.folder).write("step b", {"outputs/b.safetensors": b"b"})
    assert list(runs.load(run.folder).steps) == ["train", "verify", "step a", "step b"]
    assert path.read_bytes()[HEAD:].startswith(whole[HEAD:])


def test_a_journal_of_forgotten_steps_is_begun_anew_and_others_go_on_with_it(run: Run) -> None:
    other = runs.load(run.folder)
    for i in range(MOST_FORGOTTEN):
        run.write("step a", {"outputs/a.safetensors": bytes(i)})
    run.drop("step a")
    assert len(lines(run)) == 0
    other.write("step b", {"outputs/b.safetensors": b"b"})
    for again in (other, runs.load(run.folder)):
        assert list(again.steps) == ["train", "verify", "step b"]
        assert again.read("outputs/b.safetensors") == b"b"


# -- steps -------------------------------------------------------------------------------------------------------


def test_a_replaced_step_keeps_only_its_new_files(run: Run) -> None:
    run.write("train", {"model.safetensors": b"better", "training.jsonl": b"new"}, seconds=1.0, info=TRAINED)
    on_disk = files(run.folder)
    assert set(on_disk) == {"model.safetensors", "training.jsonl", "scores.parquet", "manifest.json", JOURNAL}
    assert runs.load(run.folder).read("model.safetensors") == b"better"
    assert runs.load(run.folder).info("train") == TRAINED


def test_a_dropped_step_is_forgotten_and_its_files_deleted(run: Run) -> None:
    run.drop("train")
    run.drop("never done")
    assert not runs.load(run.folder).has("train")
    assert set(files(run.folder)) == {"scores.parquet", "manifest.json", JOURNAL}
    assert runs.load(run.folder).has("verify")


class Stop(Exception):
    """The process ends here."""


@pytest.mark.parametrize("last", range(3))
def test_a_replacement_cut_short_costs_its_own_step_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    stop_at_write(monkeypatch, last, Stop)
    new = {"model.safetensors": b"better", "outputs/test.safetensors": b"longer"}
    try:
        run.write("train", new, seconds=1.0, info=TRAINED)
    except Stop:
        assert last < 2
    else:
        assert last == 2
    monkeypatch.undo()
    again = runs.load(run.folder)
    assert again.has("verify")
    if again.has("train"):  # hashes hold: either all is old or all is new
        expected = new if last == 2 else {"model.safetensors": b"weights", "outputs/test.safetensors": b"log"}
        assert {name: again.read(name) for name in new} == expected
    again.write("train", new, seconds=1.0, info=TRAINED)
    assert runs.load(run.folder).read("outputs/test.safetensors") == b"longer"


@pytest.mark.parametrize("last", range(2))
def test_a_checkpoint_cut_short_leaves_the_one_before(run: Run, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    run.write("checkpoint", {"checkpoint-0001.safetensors": b"one"}, info={"epochs": [EPOCH]})
    stop_at_write(monkeypatch, last, Stop)
    try:
        run.write("checkpoint", {"checkpoint-0002.safetensors": b"two"}, info={"epochs": [EPOCH, EPOCH]})
    except Stop:
        assert last < 1
    monkeypatch.undo()
    again = runs.load(run.folder)
    assert again.has("checkpoint")
    name = "checkpoint-0002.safetensors" if last == 1 else "checkpoint-0001.safetensors"
    assert list(again.steps["checkpoint"].files) == [name]
    assert len(again.info("checkpoint")["epochs"]) == (2 if last == 1 else 1)
    assert (run.folder / "checkpoint-0001.safetensors").exists() == (last < 1)


def test_a_full_disk_leaves_a_run_as_it_was(run: Run) -> None:
    before = files(run.folder)
    with largest_file(3000), pytest.raises(BadSetting, match="attack"):
        run.write("step x", {"metrics.json": b"fits", "attacks/x.safetensors": bytes(9000)})
    on_disk = files(run.folder)
    assert {name: on_disk[name] for name in before} == before
    assert not [name for name in on_disk if name.endswith(".part")]
    again = runs.load(run.folder)
    assert not again.has("step x")
    again.write("step x", {"metrics.json": b"fits", "attacks/x.safetensors": bytes(9000)})
    assert runs.load(run.folder).has("step x")


# -- two at once, and none ---------------------------------------------------------------------------------------


def test_a_run_that_is_held_is_refused_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with locks.hold(folder):
        with pytest.raises(BadRun, match="runs/one"), locks.hold(folder):
            pass
        with locks.hold(tmp_path / "runs" / "two"):
            pass
    with locks.hold(folder):
        pass


def test_a_run_is_free_again_after_its_process_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from advbench.runs import locks\n"
        "with locks.hold(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "one")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BadRun, match="in use"), locks.hold(tmp_path / "one"):
            pass
        process.kill()
        process.wait()
    with locks.hold(tmp_path / "one"):
        pass


def test_an_error_lets_go_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stop), locks.hold(tmp_path / "one"):
        raise Stop
    with locks.hold(tmp_path / "one"):
        pass


def test_runs_are_found_in_the_order_of_their_names_and_only_where_there_is_a_manifest(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        runs.open_or_new(tmp_path, name, MODEL, MADE_WITH).write("verify", {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert [run.name for run in runs.find(tmp_path)] == ["a", "b", "c"]
    assert runs.find(tmp_path / "none") == []


# -- several processes -------------------------------------------------------------------------------------------


def test_steps_are_held_side_by_side_and_a_run_alone(tmp_path: Path) -> None:
    def refused(step: str | None) -> bool:
        try:
            with locks.hold(tmp_path, step=step):
                return False
        except BadRun:
            return True

    with locks.hold(tmp_path, step="step a"), locks.hold(tmp_path, step="step b"):
        assert locks.is_held(tmp_path)
        assert [refused(step) for step in ("step a", "step b", "step c", None)] == [True, True, False, True]
    with locks.hold(tmp_path):
        assert [refused(step) for step in ("step a", None)] == [True, True]
    assert not locks.is_held(tmp_path)


def test_what_two_processes_write_to_one_journal_is_all_there(run: Run) -> None:
    one, other = runs.load(run.folder), runs.load(run.folder)
    one.write("step a", {"outputs/a.safetensors": b"a"})
    other.write("step b", {"outputs/b.safetensors": b"b"})
    one.drop("verify")
    other.write("step c", {"outputs/c.safetensors": b"c"})
    assert list(runs.load(run.folder).steps) == ["train", "step a", "step b", "step c"]
    assert list(other.steps) == ["train", "step a", "step b", "step c"]
