"""The canaries: each is seen through, and no check can be left out or made to nod without its being noticed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from advbench.audit import Check, Verdict, protocol
from advbench.audit.canaries import Canary, selftest
from advbench.audit.evidence import Evidence
from advbench.audit.protocol import CHECKS
from tests.helpers.command_line import advbench

BROKEN_DEFENCES = {"masked gradients", "noise detector", "constant", "random score", "oracle"}


@pytest.fixture(scope="module")
def canaries() -> list[Canary]:
    return selftest.hatch()


def test_every_canary_is_seen_through_and_every_check_has_one(canaries: list[Canary]) -> None:
    rows = selftest.compare(canaries)
    assert [r for r in rows if not r.met] == []
    assert {r.canary for r in rows} >= BROKEN_DEFENCES | {"honest", "careless", "forged"}


def test_the_five_canaries_have_the_findings_that_the_protocol_asks_of_them(canaries: list[Canary]) -> None:
    named = {c.name: c for c in canaries}
    assert named["masked gradients"].findings["gradient-free"] == "not met"
    assert named["noise detector"].findings["noise"] == "not met"
    assert {f.expected for f in named["constant"].figures} == {"EER 50 %", "TPR 0"}
    assert {f.expected for f in named["random score"].figures} == {"AUROC's interval holds 0.5"}
    assert named["oracle"].findings["sees-the-clean-image"] == "not met"
    assert [f.found for f in named["oracle"].figures] == ["0.0 % of 60"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name)
def test_the_selftest_fails_without_any_one_check(
    check: Check, canaries: list[Canary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CHECKS", tuple(c for c in CHECKS if c is not check))
    missed = [r for r in selftest.compare(canaries) if not r.met]
    assert missed
    assert {r.expected.partition(":")[0] for r in missed} == {check.name}
    assert {r.found for r in missed} == {"no such check"}


@pytest.mark.parametrize("state", ["met", "not met", "not run"])
def test_the_selftest_fails_where_a_check_always_says_the_same(
    state: str, canaries: list[Canary], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nod(evidence: Evidence) -> Verdict:  # noqa: ARG001
        return Verdict(state, "nodded", None)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "CHECKS", tuple(replace(c, judge=nod) for c in CHECKS))
    missed = {r.expected.partition(":")[0] for r in selftest.compare(canaries) if not r.met}
    assert {c.name for c in CHECKS} <= missed


def test_a_check_that_no_canary_expects_anything_of_is_missed(
    canaries: list[Canary], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = replace(CHECKS[0], name="new")
    monkeypatch.setattr(protocol, "CHECKS", (*CHECKS, new))
    assert [r.expected for r in selftest.compare(canaries) if not r.met] == ["a canary for new"]


@pytest.fixture
def hatched(canaries: list[Canary], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "hatch", lambda progress: canaries)


@pytest.mark.usefixtures("hatched")
def test_the_command_prints_canary_expectation_finding_and_verdict_and_notes_them(tmp_path: Path) -> None:
    done = advbench("selftest", "--json", "--runs-dir", tmp_path)
    assert done.code == 0
    assert {frozenset(r) for r in done.rows} == {frozenset({"canary", "expected", "found", "met", "evidence"})}
    assert json.loads((tmp_path / "selftest.json").read_text())["rows"] == done.rows
    table_ = advbench("selftest", "--runs-dir", tmp_path).out
    assert "oracle" in table_
    assert "MISSED" not in table_


@pytest.mark.usefixtures("hatched")
def test_a_missed_expectation_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CHECKS", tuple(c for c in CHECKS if c.name != "noise"))
    done = advbench("selftest", "--runs-dir", tmp_path)
    assert done.code == 1
    assert "MISSED" in done.out
    assert "trust no audit" in done.err
    assert not all(r["met"] for r in json.loads((tmp_path / "selftest.json").read_text())["rows"])
