"""The pages on adding an attack and a detector: their files and command lines, run as they stand."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from advbench import catalog
from tests.helpers.command_line import advbench

pytestmark = pytest.mark.long
DOCS = Path(__file__).resolve().parents[1] / "docs"
FEW = ["--epochs", "1", "--n", "20", "--threads", "1", "--device", "cpu"]


@pytest.mark.parametrize(("kind", "name"), [("attack", "step-towards-grey"), ("detector", "logit-gap")])
def test_the_pages_plug_in_is_found_and_its_command_lines_run(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / f"adding-an-{kind}.md" if kind == "attack" else DOCS / f"adding-a-{kind}.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    lines = re.findall(r"^advbench (.*)$", page, flags=re.MULTILINE)
    (tmp_path / f"{name.replace('-', '_')}.py").write_text(code, encoding="utf-8")
    folder = importlib.import_module(f"advbench.{kind}s")
    folder.__path__.append(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        assert catalog.summary(kind, name).endswith(".")
        for line in lines:
            words = shlex.split(line)
            done = advbench(*words, *(FEW if words[0] == "attack" else []), "--json")
            assert done.code == 0, done.err
            assert {row[kind] for row in done.rows if kind in row} == {name}
    finally:
        folder.__path__.pop()
        sys.modules.pop(f"advbench.{kind}s.{name.replace('-', '_')}", None)
