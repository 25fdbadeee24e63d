"""Run code that the user named on the command line; errors in it become one sentence."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from advbench.errors import AdvbenchError, BadSetting, UnknownName

PRIVATE = "advbench_user_"  # a user's file becomes a module of this prefix, so that it hides no other


@contextlib.contextmanager
def contained(folder: Path | None) -> Iterator[None]:
    """Where the user's code runs: `folder` importable, prints on stderr, torch's global state restored afterwards.

    Random weights come from seed 0, so that a model without weights is the same one tomorrow. No bytecode is left
    in the user's folder, and modules imported from it are forgotten, so that another model's `utils` is its own.
    """
    before, bytecode, dtype = set(sys.modules), sys.dont_write_bytecode, torch.get_default_dtype()
    path = list(sys.path)
    if folder is not None:
        sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]), torch.set_grad_enabled(True):
            torch.manual_seed(0)
            yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        torch.set_default_dtype(dtype)
        if folder is not None:
            forget(set(sys.modules) - before, before, folder)


def forget(names: Iterable[str], before: Collection[str], folder: Path) -> None:
    """Drop those modules that came with a top-level module or package lying in `folder` and new there."""
    tops = {name.partition(".")[0] for name in names} - set(before)
    files = {top: sys.modules[top].__file__ for top in tops if hasattr(sys.modules.get(top), "__file__")}
    local = {top for top, file in files.items() if file and folder in (Path(file).parent, Path(file).parent.parent)}
    for name in names:
        if name.partition(".")[0] in local:
            del sys.modules[name]


@contextlib.contextmanager
def explained(what: str, folder: Path | None) -> Iterator[None]:
    """Any error of the user's code as a BadSetting that names the last of the user's lines it came through."""
    try:
        yield
    except AdvbenchError:
        raise
    except SyntaxError as error:
        name = Path(error.filename or what).name
        raise BadSetting(f"{name}, line {error.lineno}: SyntaxError: {error.msg}; mend the file") from error
    except SystemExit as error:
        raise BadSetting(
            f"{located(what, error, folder)} calls sys.exit({error.code!r}); a file that builds a model must only "
            'define it: put the rest under if __name__ == "__main__"'
        ) from error
    except Exception as error:
        raise BadSetting(f"{located(what, error, folder)} raised {in_words(error)}; mend it there") from error


def located(what: str, error: BaseException, folder: Path | None) -> str:
    """Where an error of `what` came from, its name said once."""
    place = place_of(error, folder)
    return place if place.startswith(f"{what}, ") else f"{what}: {place}"


def in_words(error: BaseException) -> str:
    """An exception's type and the first line of its text, at most 200 characters."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def place_of(error: BaseException, folder: Path | None) -> str:
    """`file, line n` of the user's last frame, or of the last frame of all; the file's name only.

    The user's are the frames below `folder` (None = anywhere), without installed packages and this one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    here = Path(__file__).parents[1]

    def is_users(file: Path) -> bool:
        return (
            "site-packages" not in file.parts and here not in file.parents and (folder or file.parent) in file.parents
        )

    frame = ([f for f in frames if is_users(Path(f.filename))] or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def run_file(path: Path) -> ModuleType:
    """The module that a file defines, executed afresh; call it inside `contained`."""
    name = PRIVATE + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadSetting(f"{path.name} is no Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def import_module(name: str) -> ModuleType:
    """An installed module; raises BadSetting where there is none of that name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # an import inside the module fails: the module's own matter
        raise BadSetting(
            f"no module {name!r} can be imported; install its package, or name a file: path/to/file.py:build"
        ) from None


def member(module: ModuleType, name: str, where: str) -> Any:
    """The attribute `name` of a module; raises UnknownName with those it defines itself."""
    if hasattr(module, name):
        return getattr(module, name)
    own = [
        label
        for label, value in vars(module).items()
        if not label.startswith("_") and (not hasattr(value, "__module__") or value.__module__ == module.__name__)
        if not inspect.ismodule(value)
    ]
    raise UnknownName(f"function, class or model in {where}", name, own)


def call(build: Callable[..., Any], offered: Mapping[str, object], what: str) -> Any:
    """Call `build` with those of the `offered` keywords that it names as parameters.

    Raises BadSetting where it has other parameters without a default.
    """
    try:
        given = inspect.signature(build).parameters
    except ValueError:  # some classes written in C have none
        return build()
    positional = [p.name for p in given.values() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    needed = positional + [
        p.name
        for p in given.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in offered
    ]
    if needed:
        raise BadSetting(
            f"{what} needs arguments ({', '.join(needed)}), and it is called with none but {' or '.join(offered)}; "
            "write a function without arguments that returns the model"
        )
    return build(**{key: value for key, value in offered.items() if key in given})
