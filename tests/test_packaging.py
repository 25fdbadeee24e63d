"""What is installed, what is shipped, and what the repository's front door says."""

import importlib
import subprocess
import sys
from importlib.metadata import entry_points, requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import advbench
from advbench import catalog

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_below_advbench_is_listed(project: dict[str, Any]) -> None:
    found = [*(ROOT / "advbench").rglob("__init__.py"), *(ROOT / "advbench").glob("*/__init__.py")]  # links, too
    packages = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in found}
    assert set(project["tool"]["setuptools"]["packages"]) == packages
    assert {"advbench.attacks", "advbench.detectors"} <= packages


@pytest.mark.parametrize("package", ["attacks", "detectors"])
def test_attacks_and_detectors_live_in_folders_of_their_own_and_import_from_advbench(
    project: dict[str, Any], package: str
) -> None:
    assert project["tool"]["setuptools"]["package-dir"][f"advbench.{package}"] == package
    module = importlib.import_module(f"advbench.{package}")
    assert module.__file__
    assert Path(module.__file__).resolve() == ROOT / package / "__init__.py"
    assert (ROOT / "advbench" / package).resolve() == ROOT / package


def test_every_file_that_is_no_module_is_shipped_with_its_package(project: dict[str, Any]) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    for package in project["tool"]["setuptools"]["packages"]:
        folder = ROOT / package.replace(".", "/")
        beside = [*folder.iterdir(), *(folder / "templates").glob("*")]
        others = {p.name for p in beside if p.is_file() and p.suffix not in (".py", ".pyc")}
        shipped = {p.name for pattern in data.get(package, []) for p in folder.glob(pattern)}
        assert others == shipped, package


def test_every_plug_in_of_the_installed_package_loads() -> None:
    for kind in catalog.FOLDERS:
        assert catalog.names(kind)
        for name in catalog.names(kind):
            assert isinstance(catalog.load(kind, name), type)
            assert catalog.summary(kind, name).endswith(".")


def test_the_command_and_the_version_are_installed(project: dict[str, Any]) -> None:
    (script,) = entry_points(group="console_scripts", name="advbench")
    assert script.value == project["project"]["scripts"]["advbench"]
    assert callable(script.load())
    assert advbench.__version__ == version("advbench") == project["project"]["version"]


def test_whatever_is_imported_is_declared(project: dict[str, Any]) -> None:
    declared = {name.lower() for name in project["project"]["dependencies"]}
    for package in ("torch", "numpy", "adversarial-robustness-toolbox", "scikit-learn", "pandas", "safetensors",
                    "matplotlib", "jinja2", "typer", "rich", "pyarrow"):  # fmt: skip
        assert any(name.startswith(package) for name in declared), package
    installed = {Requirement(requirement).name for requirement in requires("advbench") or []}
    assert {"torch", "torchvision", "typer"} <= installed


# why a new major version of these is not refused: pyproject.toml says it beside each
UNBOUNDED = {"pillow", "pyarrow", "packaging", "rich"}


def test_a_new_major_version_of_a_library_is_refused_until_it_was_tried(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    needed = [Requirement(r) for r in (*project["project"]["dependencies"], *extras["models"], *extras["slurm"])]
    open_ended = {r.name for r in needed if r.specifier.contains("999999")}
    assert open_ended == UNBOUNDED
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in UNBOUNDED:
        assert [line for line in text.splitlines() if line.startswith(f'  "{name}>') and "no upper bound: " in line]


def test_what_the_tests_run_with_is_what_is_asked_for(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    needed = {Requirement(r) for r in (*project["project"]["dependencies"], *(r for e in extras.values() for r in e))}
    assert {str(r): version(r.name) for r in needed if Version(version(r.name)) not in r.specifier} == {}


def test_help_is_answered_without_loading_torch_or_matplotlib() -> None:
    script = (
        "import sys; from advbench import cli; code = cli.main(['run', '--help']);"
        "print([m for m in ('torch', 'matplotlib', 'art', 'sklearn', 'pandas') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_there_is_a_licence_and_it_is_the_declared_one(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["project"]["license"] == "MIT"
    assert "MIT License" in text
    assert "WITHOUT WARRANTY OF ANY KIND" in text


def test_the_readme_says_how_to_run_it_and_what_it_is_not() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "make run" in text
    assert "make test" in text
    assert "AdvBench" in text  # a set of harmful instructions for language models: another thing


def test_the_makefile_has_the_targets_that_the_readme_names() -> None:
    import re

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"run", "test", "check", "bench"} <= targets
    assert named <= targets


def test_no_pickle_is_ever_written_or_read() -> None:
    for path in [*ROOT.glob("advbench/**/*.py"), *ROOT.glob("attacks/*.py"), *ROOT.glob("detectors/*.py")]:
        source = path.read_text(encoding="utf-8")
        if path.name == "weights.py":  # the one place where torch reads a file, and as data alone
            assert source.count("torch.load(") == source.count("weights_only=True)") == 1
            source = source.replace("torch.load(", "")
        for word in ("import pickle", "torch.save(", "torch.load(", "allow_pickle=True", "joblib"):
            assert word not in source, (path.name, word)
