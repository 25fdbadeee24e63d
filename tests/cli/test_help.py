"""What a user reads before anything is run: --version, --help with its examples, and what can be listed."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import advbench as package
from advbench.audit import Finding
from advbench.cli import commands
from advbench.cli.audit import show_audit
from advbench.study.options import Audit
from tests.helpers.command_line import advbench, assert_refused

COMMANDS = sorted(str(command.name or command.callback.__name__) for command in commands.app.registered_commands
                  if command.callback)  # fmt: skip
NAME = "digits-l-softmax-margin2-seed0-0123abcd"


def test_the_version_is_printed_alone() -> None:
    assert advbench("--version").out == f"advbench {package.__version__}\n"


def test_help_groups_commands_by_what_a_user_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = advbench("--help").out
    panels = re.findall("─ ([A-Z][a-z ,]+) ─", shown)
    assert panels == ["Options", commands.OWN, commands.MADE, commands.RESULTS, commands.CHECKS]
    assert all(re.search(f"│ {name} ", shown) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_help_stands_on_one_line_of_80_columns_and_parses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in advbench(name, "--help").out.partition("For example:")[2].splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line]
    assert {words[0] for words in examples} >= {name}
    group = typer.main.get_command(commands.app)
    for words in examples:
        command = group.get_command(typer.Context(group), words[0])  # type: ignore[attr-defined]
        command.make_context(words[0], words[1:])  # raises where an option or argument is none of its


def test_help_says_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = advbench("attack", "--help").out
    for default in ("(default digits)", "(default softmax)", "(default 0.05)", "(default 256)", "(default runs)"):
        assert default in shown
    assert "--centre-step" not in shown


def test_a_bare_list_says_what_can_be_listed() -> None:
    rows = {row["name"]: row["summary"] for row in advbench("list", "--json").rows}
    assert list(rows) == ["losses", "attacks", "detectors", "networks", "datasets", "runs"]
    assert "targeted-fgsm" in rows["attacks"]


@pytest.mark.parametrize(("word", "same"), [("attack", "attacks"), ("loss", "losses"), ("data-sets", "datasets")])
def test_a_word_of_list_may_be_singular(word: str, same: str) -> None:
    assert advbench("list", word, "--json").rows == advbench("list", same, "--json").rows


def test_a_long_list_says_what_a_plug_in_declares_of_itself() -> None:
    attacks = {row["name"]: row for row in advbench("list", "attacks", "--long", "--json").rows}
    assert attacks["pgd"]["settings"] == {
        "eps": 0.3, "clip": True, "norm": "linf", "steps": 40, "step": None, "restarts": 1, "random_start": True,
        "objective": "ce", "stop": False, "samples": 1,
    }  # fmt: skip
    assert attacks["pgd"]["source"] == "Madry et al. 2018, arXiv:1706.06083"
    assert (attacks["pgd"]["norm"], attacks["square"]["norm"]) == ("linf or l2", "linf")
    assert attacks["square"]["knows"] == "the model's outputs"
    assert attacks["joint"]["knows"] == "the model and its gradients, the detector and its threshold"
    losses = {row["name"]: row for row in advbench("list", "losses", "--long", "--json").rows}
    own = {"weight": 0.01, "centre_step": 0.5, "solver": False, "bias": True}
    assert losses["center"]["settings"] == own
    assert (
        "settings: weight=0.01, centre_step=0.5, solver=false, bias=true" in advbench("list", "losses", "--long").out
    )


def test_options_may_be_written_with_underscores(tmp_path: Path) -> None:
    assert advbench("list", "runs", "--runs_dir", tmp_path, "--json").rows == []
    assert "--los" in assert_refused(advbench("train", "--los", "lgm"))


def test_an_audit_never_breaks_the_name_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding("R1", "name", "title", "met", f"{'word ' * 9}{NAME} and more {NAME}", None)
    show_audit([found], Audit(run="r"))
    out = capsys.readouterr().out
    assert out.count(NAME) == 2
    assert max(map(len, out.splitlines())) <= 80
