"""The house: few files in a room, each room in the map of docs/architecture.md, and files opened in few places.

Which room may import which is checked by import-linter (`make check`), pickles and evaluated text by ruff.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import advbench

ROOT = Path(advbench.__file__).parent
FILES = {str(file.relative_to(ROOT)): file for file in sorted(ROOT.rglob("*.py"))}
FILES |= {f"{kind}/{file.name}": file for kind in ("attacks", "detectors") for file in (ROOT / kind).glob("*.py")}
ROOMS = {str(Path(name).parent) for name in FILES} - {"."}
PLUGINS = ("attacks", "detectors", "losses", "networks", "data")  # which grow by a file for each that is added
OPENERS = {"open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "save_file", "load_file"}
MAY_OPEN = {
    *(f"runs/{name}.py" for name in ("files", "locks", "run", "environment", "released", "artifacts")),
    *(f"runs/growing/{name}.py" for name in ("journal", "tensor_file")),
    *(
        "study/parsing.py",
        "catalog.py",
        "device.py",
        "supplied/weights.py",
        "supplied/loading.py",
    ),  # a user's spec, plug-ins, model
    *("data/sources/decoding.py", "data/sources/array_file.py", "data/_torchvision.py"),  # and data
    *(f"reproduce/{name}.py" for name in ("models", "page", "records")),  # under reports/
}
HEAVY = ("torch", "torchvision", "art", "sklearn", "pandas", "matplotlib")


def test_the_root_is_small_and_no_room_is_crowded() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12
    crowded = {
        room: sum(str(Path(name).parent) == room for name in FILES) for room in ROOMS - {"reproduce", *PLUGINS}
    }
    assert {room: n for room, n in crowded.items() if n > 15} == {}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_room_is_in_the_map_of_the_house(room: str, project: dict[str, Any]) -> None:
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"{room}/" in text
    assert f"advbench.{room.replace('/', '.')}" in project["tool"]["setuptools"]["packages"]


@pytest.mark.parametrize("name", sorted(FILES.keys() - MAY_OPEN))
def test_only_the_files_meant_for_it_open_files(name: str) -> None:
    calls = [n.func for n in ast.walk(ast.parse(FILES[name].read_bytes())) if isinstance(n, ast.Call)]
    called = {c.id if isinstance(c, ast.Name) else c.attr for c in calls if isinstance(c, (ast.Name, ast.Attribute))}
    assert called & OPENERS == set()


def test_the_package_itself_imports_none_of_its_modules_until_a_name_is_asked_for() -> None:
    code = "import sys, advbench; print([m for m in sys.modules if m.startswith('advbench.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = f"import sys, advbench.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
