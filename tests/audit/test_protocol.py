"""The audit of a run on disk: what it says of one attack and of many, what closes a gap, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench import runs
from advbench.audit import Finding
from advbench.audit.protocol import CHECKS, audit, evidence_of
from advbench.cli.audit import _images, _workspace_words, complete, findings_of, rows_of
from advbench.errors import BadRun, BadSetting, UnknownName
from advbench.progress import Quiet
from advbench.report import adaptive
from advbench.runs import Run, artifacts, digest, sealed_json, write_whole
from advbench.study import selection
from advbench.study.parsing import parse
from advbench.study.study import Study
from advbench.study.verify import verify_run
from advbench.study.workspace import Workspace
from tests.helpers.command_line import Result, advbench
from tests.helpers.records import forge, manifest_of

N = 40
SMALL = {"training": {"epochs": 2}, "dataset": "digits", "losses": ["lgm"], "n": N}


def study(workspace: Workspace, attacks: list[dict[str, Any]], **more: Any) -> Run:
    spec = {**SMALL, "attacks": attacks, **more}
    rows = Study(parse(spec), workspace, weights=()).attack()
    return runs.load(workspace.runs_dir / rows[0].model.run)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("audit")
    return Workspace(runs_dir=folder / "runs", reports_dir=folder / "reports", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def attacked(workspace: Workspace) -> Run:
    """A run with FGSM, noise, PGD and a quick ensemble, verified; another seed and a softmax model beside it."""
    against = {"detector": "likelihood", "budget": "quick"}
    run = study(
        workspace,
        [
            {"name": "fgsm", "eps": 0.3},
            {"name": "pgd", "eps": [0.1, 0.3]},
            {"name": "uniform-noise", "eps": ["1/255", 0.3]},
            {"name": "gaussian-noise", "eps": 0.3},
            {"name": "detector-aware", "eps": 0.3, **against},
        ],
    )
    study(workspace, [{"name": "detector-aware", "eps": 0.3, **against}], seeds=[1])
    study(workspace, [{"name": "pgd", "eps": 0.3}], losses=["softmax"])
    fgsm = [name for name in selection.attack_rows(run) if name.startswith("fgsm")]
    verify_run(run, fgsm, ["likelihood"], Quiet())
    return runs.load(run.folder)


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {f.name: f for f in found}


def others(run: Run) -> list[Run]:
    return runs.find(run.folder.parent)


def test_an_audit_answers_every_check_in_the_order_of_the_requirements(attacked: Run) -> None:
    found = audit(attacked, others(attacked))
    assert [(f.requirement, f.name) for f in found] == [(c.requirement, c.name) for c in CHECKS]
    assert {f.state for f in found} == {"met", "not met", "not run"} or {f.state for f in found} == {"met", "not run"}
    assert all((f.command is None) == (f.state == "met") for f in found)


def test_figures_of_an_audit_are_those_of_the_rows(attacked: Run) -> None:
    found = by_name(audit(attacked, others(attacked)))
    (row,) = adaptive.adaptive(selection.attack_rows(attacked)).values()
    assert found["headline"].state == "met"
    assert f"{100 * row.undetected_error_rate:.1f} % [" in found["headline"].evidence
    assert f"of {N} undetected and wrong" in found["headline"].evidence
    for name in ("threat-model", "threshold", "populations", "sign", "eer-definition", "settings", "rechecked"):
        assert found[name].state == "met", found[name]


def test_other_runs_are_the_controls(attacked: Run) -> None:
    alone, beside = by_name(audit(attacked)), by_name(audit(attacked, others(attacked)))
    assert alone["undefended"].state == "not run"
    assert "softmax" in beside["undefended"].evidence
    assert "seed 0" in beside["seeds"].evidence
    assert "seed 1" in beside["seeds"].evidence
    assert beside["seeds"].state == "not run"
    assert "--seed 2" in str(beside["seeds"].command)


def test_commands_name_the_model_of_the_run(attacked: Run) -> None:
    commands = [c for f in audit(attacked) if "advbench attack" in (c := str(f.command))]
    own = [c for c in commands if "--loss lgm" in c]
    assert len(own) > 5
    assert all("--epochs 2" in c and "--dataset digits" in c for c in own)


def test_the_selftest_beside_the_runs_is_read(attacked: Run) -> None:
    note = attacked.folder.parent / "selftest.json"
    assert by_name(audit(attacked))["canaries"].state == "not run"
    for good, state in ((True, "met"), (False, "not met")):
        row = {"canary": "constant", "expected": "x: met", "found": "x: met", "met": good, "evidence": ""}
        write_whole(note, sealed_json.to_json({"schema": 1, "advbench": "1", "rows": [row]}))
        assert by_name(audit(attacked))["canaries"].state == state
    note.write_text("{")
    with pytest.raises(BadRun, match="selftest"):
        audit(attacked)
    note.unlink()


def test_images_are_checked_against_all_clean_ones_where_the_data_are_at_hand(attacked: Run) -> None:
    found = findings_of(attacked.name, Workspace(runs_dir=attacked.folder.parent))
    text = by_name(found)["rechecked"].evidence
    attacks = selection.attack_rows(attacked)
    assert text.startswith(f"{len(attacks) * N} of {len(attacks) * N} stored images")
    few = by_name(audit(attacked))["rechecked"].evidence
    assert few.startswith(f"{len(attacks) * artifacts.EXAMPLES} of {len(attacks) * N} stored images")


def test_the_model_is_rebuilt_from_its_record_and_weights(attacked: Run) -> None:
    found = evidence_of(attacked)
    assert found.victim is not None
    ((result),) = found.of("fgsm")
    again = found.victim().outputs(result.made.images)
    torch.testing.assert_close(again.logits, result.made.outputs.logits, rtol=1e-4, atol=1e-4)


def test_runs_of_other_data_are_no_controls(attacked: Run, tmp_path: Path) -> None:
    (softmax,) = [r for r in others(attacked) if "softmax" in r.name]
    manifest = manifest_of(softmax.folder)
    manifest["model"]["data_sha256"] = "0" * 64
    manifest["name"] = f"digits-softmax-{digest(manifest['model'])}"
    copy = tmp_path / manifest["name"]
    shutil.copytree(softmax.folder, copy)
    forge(copy, manifest)
    assert by_name(audit(attacked, [runs.load(copy)]))["undefended"].state == "not run"


def test_complete_cuts_commands_that_name_no_number_of_images_or_a_large_one(workspace: Workspace) -> None:
    for given, images in (([], ["--n", "100"]), (["--n", "5000"], ["--n", "100"]), (["--n", "200"], [])):
        more = _workspace_words(workspace, ["attack", *given])
        assert more[4 : 4 + len(images)] == images
        assert ("--n" in more) == bool(images)


# The command line


def command(*words: str, workspace: Workspace) -> Result:
    return advbench("audit", *words, "--runs-dir", workspace.runs_dir, "--threads", "1")


def test_json_has_a_row_for_each_finding(attacked: Run, workspace: Workspace) -> None:
    done = command(attacked.name, "--json", workspace=workspace)
    assert done.code == 0
    assert json.loads(done.out)["command"] == "audit"
    assert [set(r) for r in done.rows] == [{"requirement", "name", "title", "state", "evidence", "command"}] * len(
        CHECKS
    )
    expected = audit(attacked, others(attacked), images=_images(attacked, workspace))
    assert done.rows == rows_of(expected)


def test_the_table_shows_state_evidence_and_the_whole_command(attacked: Run, workspace: Workspace) -> None:
    done = command(str(attacked.folder), workspace=workspace)
    assert done.code == 0
    lines = done.out.splitlines()
    for finding in audit(attacked, others(attacked)):
        assert any(line.startswith(finding.requirement) and line.endswith(finding.title) for line in lines)
        if finding.command:
            assert f"      $ {finding.command}" in lines
    assert lines[-1].startswith(f"{len(CHECKS)} checks: ")
    assert all(len(line) <= 80 for line in lines if "$ " not in line)


def test_a_run_that_does_not_exist_is_refused_with_those_there_are(attacked: Run, workspace: Workspace) -> None:
    done = command(attacked.name[:-1], "--json", workspace=workspace)
    assert (done.code, done.out) == (2, "")
    assert f"Did you mean '{attacked.name}'?" in done.err
    with pytest.raises(UnknownName, match="Known: none"):
        selection.by_name(workspace.reports_dir, "anything")


@pytest.fixture
def copied(attacked: Run, tmp_path: Path) -> Path:
    """The run in a place of its own, to be spoilt."""
    folder = tmp_path / "runs" / attacked.name
    shutil.copytree(attacked.folder, folder)
    return folder


def rename(folder: Path) -> None:
    """Another model, by its record."""
    manifest = manifest_of(folder)
    manifest["model"]["seed"] = 7
    forge(folder, manifest)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (rename, "was altered"),
        (lambda f: runs.load(f).drop("outputs"), "holds no trained model"),
        (lambda f: next(f.glob("attacks/pgd*")).write_bytes(b"something else"), "altered"),
        (lambda f: next(f.glob("attacks/pgd*")).unlink(), "is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "altered"),
        (lambda f: (f / "scores.parquet").write_bytes(b"") or (f / "metrics.json").write_bytes(b"{}"), "altered"),
    ],
)
def test_an_altered_run_is_refused_in_one_sentence(spoil: Any, word: str, copied: Path) -> None:
    spoil(copied)
    done = advbench("audit", copied.name, "--runs-dir", copied.parent, "--threads", "1", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("advbench: ")
    assert done.err.count("\n") == 1
    assert word in done.err


def test_complete_runs_the_missing_commands_here_and_goes_on_where_it_stopped(
    attacked: Run, workspace: Workspace
) -> None:
    tried: list[list[str]] = []

    def command_line(words: Any) -> None:
        tried.append(list(words))
        if "square" in words:
            raise BadSetting("not here")
        if "targeted-fgsm" in words:
            assert advbench(*words).code == 0

    before = by_name(audit(attacked, others(attacked)))
    complete(attacked.name, workspace, command_line)
    after = by_name(audit(runs.load(attacked.folder), others(attacked)))
    assert before["targeted"].state == "not run"
    assert after["targeted"].state == "met"
    assert len({" ".join(words) for words in tried}) == len(tried)
    assert all(str(workspace.runs_dir) in words for words in tried)
    # commands that name no number of images, or a large one, are cut; the ensemble's 40 stay
    assert {w[w.index("--n") + 1] for w in tried if w[0] == "attack" and "--loss lgm" in " ".join(w)} <= {"40", "100"}
    tried.clear()
    complete(attacked.name, workspace, command_line)
    assert not any("targeted-fgsm" in words for words in tried)
