"""Files that are damaged, or cannot be written: named, and made again."""

import hashlib
import json
from pathlib import Path

import pytest

from advbench.runs import sealed
from tests.helpers.command_line import SMALL, Small, advbench, assert_refused, contents
from tests.helpers.damage import largest_file
from tests.helpers.records import forge, manifest_of


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.jsonl", "outputs/test.safetensors", "attacks/fgsm-eps0.1.safetensors"]
)
@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_file_is_named_and_made_again(small: Small, copy: Small, name: str, damage: str) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    result = advbench("run", *copy.words, *copy.places, "--json")
    assert (result.code, result.rows) == (0, copy.result.rows)
    (line,) = [line for line in result.err.splitlines() if name in line]
    assert {"missing": "is missing", "cut": "was truncated", "altered": "was altered"}[damage] in line
    assert "made again" in line
    assert tensors(copy) == tensors(small)


def tensors(study: Small) -> dict[str, str]:
    return {name: found for name, found in contents(study.folder).items() if name.endswith(".safetensors")}


def test_damaged_scores_are_made_again_by_run_on_workers_and_by_verify_that_names_detectors(copy: Small) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / "metrics.json"
    whole = path.read_bytes()
    detectors = sorted({row["detector"] for row in copy.result.rows})
    for words in (
        ("run", *copy.words, *copy.places, "--on", "local", "--jobs", "1"),
        ("verify", "--loss", "lgm", "--detector", ",".join(detectors), *copy.places[:2]),
    ):
        path.write_bytes(whole[:-1])
        result = advbench(*words, "--json")
        assert result.code == 0, result.err
        assert path.name in result.err
        assert cells_in(path.read_bytes()) == cells_in(whole)


def cells_in(metrics: bytes) -> list[str]:
    return sorted(json.dumps(cell) for cell in json.loads(metrics)["cells"])


@pytest.mark.parametrize(
    "name",
    [
        "scores.parquet",
        "metrics.json",
        "model.safetensors",
        "outputs/test.safetensors",
        "attacks/fgsm-eps0.1.safetensors",
    ],
)
@pytest.mark.parametrize("command", ["verify", "report"])
def test_damaged_results_are_named_by_verify_and_report(copy: Small, command: str, name: str) -> None:
    path = next(copy.runs.glob("digits-lgm-*")) / name
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(copy.folder)
    places = copy.places if command == "report" else copy.places[:2]
    result = advbench(command, *places, "--json")
    assert_refused(result, after_progress=True)
    assert str(path) in result.err
    assert contents(copy.folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "\x00\x01"])
def test_a_damaged_manifest_is_named_by_every_command_and_run_begins_anew(
    small: Small, copy: Small, text: str
) -> None:
    path = next(copy.runs.glob("digits-softmax-*")) / "manifest.json"
    path.write_text(text)
    before = contents(copy.runs)
    for words in (("verify", *copy.places[:2]), ("report", *copy.places), ("list", "runs", *copy.places[:2])):
        result = advbench(*words, "--json")
        assert (result.code, {row["run"] for row in result.rows} & {path.parent.name}) == (0, set())
        assert str(path) in result.err
        assert "advbench run" in result.err
    assert contents(copy.runs) == before
    engine = ("--on", "local", "--jobs", "1") if text == "{" else ()
    result = advbench("run", *copy.words, *copy.places, *engine, "--json")
    assert (result.code, result.rows) == (0, copy.result.rows)
    assert len([line for line in result.err.splitlines() if "manifest.json" in line]) == 1
    assert tensors(copy) == tensors(small)


@pytest.mark.parametrize("change", [{}, {"seed": 7}, {"loss": 3}])
def test_a_manifest_that_describes_another_model_is_named_by_every_command(
    copy: Small, change: dict[str, object]
) -> None:
    path = next(copy.runs.glob("digits-softmax-*")) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] = manifest["model"] | change if change else {}
    path.write_text(json.dumps(sealed(manifest)))  # by somebody who meant it
    before = contents(copy.runs)
    for words in (
        ("verify", *copy.places[:2]),
        ("list", "runs", *copy.places[:2]),
        ("run", *copy.words, *copy.places),
    ):
        result = advbench(*words, "--json")
        if words[0] == "run":
            assert_refused(result, after_progress=True)
        else:
            assert (result.code, {row["run"] for row in result.rows} & {path.parent.name}) == (0, set())
        assert str(path) in result.err
    assert contents(copy.runs) == before


def test_a_reports_folder_that_is_a_file_is_refused_before_anything_is_computed(copy: Small, tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    assert advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places).code == 0
    before = contents(copy.folder)
    assert str(file) in assert_refused(advbench("report", *copy.places[:2], "--reports-dir", file, "--json"))
    assert (contents(copy.folder), file.read_text()) == (before, "mine")


@pytest.mark.parametrize("option", ["--runs-dir", "--reports-dir"])
def test_an_empty_folder_name_is_not_taken_for_the_current_folder(tmp_path: Path, option: str) -> None:
    result = advbench("run", option, "", *SMALL)
    assert_refused(result)
    assert option.strip("-").replace("-", "_") in result.err
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_are_refused_in_one_line_even_where_their_hash_is_listed(copy: Small) -> None:
    softmax, lgm = (next(copy.runs.glob(f"digits-{loss}-*")) for loss in ("softmax", "lgm"))
    stranger = (softmax / "model.safetensors").read_bytes()
    (lgm / "model.safetensors").write_bytes(stranger)
    manifest = manifest_of(lgm)
    listed = {"sha256": hashlib.sha256(stranger).hexdigest(), "bytes": len(stranger)}
    manifest["steps"]["train"]["files"]["model.safetensors"] = listed
    forge(lgm, manifest)
    result = advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places)
    assert_refused(result, after_progress=True)
    assert str(lgm / "model.safetensors") in result.err


def test_a_full_disk_is_one_sentence_and_harms_nothing(copy: Small) -> None:
    before = contents(copy.folder)
    with largest_file(100_000):  # less than one model, less than one attack
        for words in (("train", "--loss", "center"), ("attack", "--loss", "lgm", "--eps", "0.2")):
            result = advbench(*words, *SMALL, *copy.places, "--json")
            assert_refused(result, after_progress=True)
            assert "space" in result.err
    after = contents(copy.folder)
    assert {name: after[name] for name in before} == before
    assert list(copy.folder.rglob("*.part")) == []
    assert advbench("verify", *copy.places[:2], "--json").code == 0


def test_a_full_disk_during_verify_costs_no_result(copy: Small) -> None:
    assert advbench("attack", "--loss", "lgm", "--eps", "0.2", *SMALL, *copy.places, "--json").code == 0
    with largest_file(20_000):  # enough for a manifest
        assert_refused(advbench("verify", "--loss", "lgm", *copy.places[:2], "--json"), after_progress=True)
    again = advbench("verify", *copy.places[:2], "--json").rows
    assert [row for row in again if row["eps"] == 0.2]
    kept = sorted(json.dumps(row) for row in again if row["eps"] != 0.2)
    assert kept == sorted(json.dumps(row) for row in copy.result.rows)
