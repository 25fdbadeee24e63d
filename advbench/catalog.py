"""Find the one class that a plug-in file defines, by the file's name.

A plug-in is a file in one of six folders; its class carries the file's name (`targeted_fgsm.py` holds
`TargetedFGSM`), and everywhere else it is called by that name with hyphens (`targeted-fgsm`).
Listing reads the files' text only; a module is imported when it is asked for.
"""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from advbench.errors import BrokenPlugin, MissingLibrary, UnknownName

FOLDERS = {
    "attack": "advbench.attacks",
    "detector": "advbench.detectors",
    "loss": "advbench.losses",
    "network": "advbench.networks",
    "data set": "advbench.data",
    "experiment": "advbench.reproduce.experiments",
}
ELSEWHERE = {
    ("attack", "art"): "advbench.evasion.art_attacks"
}  # `art:NAME`: what other libraries offer, by their names


def _folders(kind: str) -> list[str]:
    spec = importlib.util.find_spec(FOLDERS[kind])  # does not import the package itself, only `advbench`
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(FOLDERS[kind])
    return list(spec.submodule_search_locations)


def names(kind: str) -> tuple[str, ...]:
    """The catalog names of a kind ("attack", "detector", "loss", "network", "data set"), sorted."""
    modules = pkgutil.iter_modules(_folders(kind))
    return tuple(sorted(m.name.replace("_", "-") for m in modules if not m.ispkg and not m.name.startswith("_")))


def summary(kind: str, name: str) -> str:
    """First line of the plug-in's module docstring, or why it is broken; reads the file, imports nothing."""
    if name not in names(kind):
        raise UnknownName(kind, name, names(kind))
    stem = name.replace("-", "_")
    paths = [Path(folder) / end for folder in _folders(kind) for end in (f"{stem}.py", f"{stem}/__init__.py")]
    try:
        tree = ast.parse(next(filter(Path.exists, paths), paths[0]).read_bytes(), f"{stem}.py")
    except (OSError, SyntaxError, ValueError) as error:
        return f"broken: {type(error).__name__}: {error}"
    if not any(isinstance(n, ast.ClassDef) and n.name.lower() == stem.replace("_", "") for n in ast.walk(tree)):
        return "broken: it defines no class of its name"
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def load(kind: str, name: str) -> Any:
    """The class of plug-in `name`; raises UnknownName with the nearest name, or BrokenPlugin or MissingLibrary."""
    prefix, colon, rest = name.partition(":")
    if colon and (kind, prefix) in ELSEWHERE:
        return importlib.import_module(ELSEWHERE[kind, prefix]).load(rest)
    if name not in names(kind):
        raise UnknownName(kind, name, names(kind))
    stem = name.replace("-", "_")
    wanted = stem.replace("_", "")
    try:
        module = importlib.import_module(f"{FOLDERS[kind]}.{stem}")
    except MissingLibrary:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        raise BrokenPlugin(kind, name, f"{type(error).__name__}: {error}") from error
    for label, member in vars(module).items():
        if inspect.isclass(member) and member.__module__ == module.__name__ and label.lower() == wanted:
            return member
    raise BrokenPlugin(kind, name, f"{module.__name__} defines no class whose lower-case name is {wanted!r}")
