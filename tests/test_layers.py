"""Imports run one way, plug-ins stand alone, files are opened in few places, and the command line starts light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import advbench

ROOT = Path(advbench.__file__).parent
# A module may import from its own layer and from those before it.
LAYERS = (
    {"printable", "errors", "limits", "settings", "seals"},
    {"disk", "locks", "process", "isolation"},
    {"streaming", "findings", "meter"},
    {"types", "recipes", "checkpoints", "prelu", "objectives", "geometry", "moments"},
    {"augmentation", "hardening", "regimes"},
    {"metrics", "data", "models", "losses", "catalog", "runs", "environment", "progress", "arrays", "official"},
    {"sources"},
    {"art_losses", "artifacts", "mending"},
    {"victim", "art_classifier", "training"},
    {"usercode", "weights"},
    {"answers"},
    {"supplied", "features"},
    {"agreement", "condition"},
    {"door"},
    {"contracts"},
    {"goals", "art_attacks"},
    {"search"},
    {"ascent", "square_search"},
    {"evasion", "noise"},
    {"attacks", "detectors"},
    {"guards", "perturbation"},
    {"needs", "scoring", "spec", "parsing", "selection", "report", "checks", "audit"},
    {"attacking", "surrogates", "place", "released"},
    {"fitting", "reporting"},
    {"pipeline"},
    {"cells"},
    {"performer"},
    {"shards"},
    {"doctor"},
    {"engines"},
    {"reproduce", "canaries", "evaluation"},
    {"api", "handed"},
    {
        "cli_takes",
        "cli_options",
        "cli_parse",
        "cli_place",
        "cli_emit",
        "cli_tables",
        "cli_audit",
        "cli_evaluate",
        "cli_grid",
        "cli_reproduce",
        "cli_shards",
        "cli",
    },
    {"__main__"},
)
PLUGINS = ("attacks", "detectors", "losses", "models", "data")
OPENERS = {"open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "save_file", "load_file"}
MAY_OPEN = {"disk", "locks", "runs", "parsing", "catalog", "environment", "released", "weights", "supplied"}
MAY_OPEN |= {"sources.files", "sources.array_file"}
MAY_OPEN |= {f"reproduce.{name}" for name in ("grid", "page", "records", "tuning")}  # under reports/
HEAVY = ("torch", "torchvision", "art", "sklearn", "pandas", "matplotlib")


def module_name(file: Path) -> str:
    """`losses.lgm` for advbench/losses/lgm.py, `losses` for its __init__, the empty name for advbench's own."""
    words = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


FILES = {module_name(file): file for pattern in ("*.py", "*/*.py") for file in sorted(ROOT.glob(pattern))}
NAMES = sorted(FILES)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def dotted(name: str, node: ast.stmt | ast.expr) -> Iterator[str]:
    """What an import statement anywhere in module `name` may bind, as full dotted names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = (
                ["advbench", *name.split(".")]
                if FILES[name].name == "__init__.py"
                else f"advbench.{name}".split(".")[:-1]
            )
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, *([base] if base else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of this package that a module imports, now or later, its own excepted."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for full in dotted(name, node):
                inside = full.removeprefix("advbench.")
                if full.startswith("advbench.") and inside in FILES:
                    found.add(inside)
    return frozenset(found - {name})


def layer(name: str) -> int:
    first = name.partition(".")[0]
    return next(i for i, members in enumerate(LAYERS) if first in members)


def test_the_walk_sees_every_module_and_its_imports() -> None:
    assert {"cli", "losses.lgm", "attacks.fgsm", "detectors.likelihood", "report.page", "data.mnist"} <= FILES.keys()
    assert {"contracts", "art_losses", "types", "victim", "art_classifier"} <= imports("attacks.fgsm")
    assert {"artifacts", "guards", "metrics"} <= imports("scoring")


def test_every_module_has_a_place_in_the_layers() -> None:
    assert {name.partition(".")[0] for name in NAMES} - {""} == set().union(*LAYERS)


@pytest.mark.parametrize("name", [n for n in NAMES if n])
def test_a_module_imports_nothing_above_it(name: str) -> None:
    assert [other for other in sorted(imports(name)) if layer(other) > layer(name)] == []


def test_the_package_itself_imports_none_of_its_modules_until_a_name_is_asked_for() -> None:
    assert imports("") == {"api", "errors"}  # for type checkers
    code = "import sys, advbench; print([m for m in sys.modules if m.startswith('advbench.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_imports_itself_by_a_detour() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(imports(name)):
                walk(other, (*path, name))
            done.add(name)

    for name in NAMES:
        walk(name, ())


@pytest.mark.parametrize("name", [n for n in NAMES if n.partition(".")[0] in PLUGINS and "." in n])
def test_a_plug_in_imports_no_other_plug_in(name: str) -> None:
    own = name.partition(".")[0]
    others = [o for o in imports(name) if "." in o and o.partition(".")[0] in PLUGINS]
    assert others == []
    if own in ("attacks", "detectors"):
        assert not imports(name) & {"attacks", "detectors"}


@pytest.mark.parametrize("name", NAMES)
def test_packages_are_imported_by_their_full_name(name: str) -> None:
    relative = [n for n in ast.walk(tree(name)) if isinstance(n, ast.ImportFrom) and n.level]
    assert relative == []


def calls(name: str) -> Iterator[tuple[str, int]]:
    """(last word of the called name, line) of every call in a module."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node.lineno
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, node.lineno


@pytest.mark.parametrize("name", [n for n in NAMES if n not in MAY_OPEN and n.partition(".")[0] != "data"])
def test_only_the_modules_meant_for_it_open_files(name: str) -> None:
    assert [call for call in calls(name) if call[0] in OPENERS] == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_pickled(name: str) -> None:
    banned = ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    found = {
        full.partition(".")[0]
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for full in dotted(name, node)
    }
    assert found.isdisjoint(banned)
    unsafe = [
        ast.unparse(node)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save", "eval", "exec")
    ]
    data = "torch.load(file, map_location='cpu', weights_only=True)"  # tensors and containers, and nothing else
    assert unsafe == ([data] if name == "weights" else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_can_hold_code_is_opened_only_behind_trust(name: str) -> None:
    calls = {ast.unparse(n.func) for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
    opened = {call for call in calls if call in ("torch.export.load", "torch.jit.load", "torch.hub.load")}
    assert opened == ({"torch.export.load"} if name == "supplied" else set())


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = f"import sys, advbench.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
