"""Find the one class that a plug-in file defines, by the file's name.

A plug-in is a file in one of five folders; its class carries the file's name (`targeted_fgsm.py` holds
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

from advbench.errors import UnknownName

FOLDERS = {
    "attack": "advbench.attacks",
    "detector": "advbench.detectors",
    "loss": "advbench.losses",
    "network": "advbench.models",
    "data set": "advbench.data",
}
ELSEWHERE = {("attack", "art"): "advbench.art_attacks"}  # `art:NAME`: what other libraries offer, by their names


def _folders(kind: str) -> list[str]:
    spec = importlib.util.find_spec(FOLDERS[kind])  # does not import the package itself, only `advbench`
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(FOLDERS[kind])
    return list(spec.submodule_search_locations)


def names(kind: str) -> tuple[str, ...]:
    """The catalog names of a kind ("attack", "detector", "loss", "network", "data set"), sorted."""
    modules = pkgutil.iter_modules(_folders(kind))
    return tuple(sorted(m.name.replace("_", "-") for m in modules if not m.name.startswith("_")))


def summary(kind: str, name: str) -> str:
    """First line of the plug-in's module docstring; reads the file, imports nothing."""
    for folder in _folders(kind):
        path = Path(folder) / f"{name.replace('-', '_')}.py"
        if path.is_file():
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            return doc.partition("\n")[0]
    raise UnknownName(kind, name, names(kind))


def load(kind: str, name: str) -> Any:
    """The class of plug-in `name`; raises UnknownName with the nearest name, or TypeError for a broken file."""
    prefix, colon, rest = name.partition(":")
    if colon and (kind, prefix) in ELSEWHERE:
        return importlib.import_module(ELSEWHERE[kind, prefix]).load(rest)
    if name not in names(kind):
        raise UnknownName(kind, name, names(kind))
    stem = name.replace("-", "_")
    module = importlib.import_module(f"{FOLDERS[kind]}.{stem}")
    wanted = stem.replace("_", "")
    for label, member in vars(module).items():
        if inspect.isclass(member) and member.__module__ == module.__name__ and label.lower() == wanted:
            return member
    raise TypeError(f"{module.__name__} defines no class whose lower-case name is {wanted!r}")
