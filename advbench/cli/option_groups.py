"""Declare options once, and hand them to a command as one mapping."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

import typer

from advbench.settings import number, whole

Options = Mapping[str, Any]
Group = dict[str, Any]
# kinds of options beside str, int and float, which are None where they are not given
FLAG, SWITCH, MANY, FOLDER = "a flag", "on or off", "KEY=VALUE, repeated", "a folder"
_DEFAULTS = {"runs_dir": "runs", "reports_dir": "reports"}
_VARIABLES = {"data_dir": "ADVBENCH_DATA", "runs_dir": "ADVBENCH_RUNS"}
_TYPES: dict[Any, Any] = {FLAG: bool, SWITCH: bool | None, MANY: list[str] | None, FOLDER: str}


def options(panel: str | None, **given: tuple[Any, str]) -> Group:
    """An option for each name, `--a-name` for `a_name`: its kind, and what --help says in that panel."""
    return {name: _option(name, kind, panel, text) for name, (kind, text) in given.items()}


def _option(name: str, kind: Any, panel: str | None, text: str) -> Any:
    flag = f"--{name.replace('_', '-')}"
    flag += f"/--no-{flag[2:]}" if kind is SWITCH else ""
    more: dict[str, Any] = {"show_default": kind in (FLAG, FOLDER), "envvar": _VARIABLES.get(name)}
    more |= {"metavar": "KEY=VALUE"} if kind is MANY else {}
    read = {int: whole, float: number}.get(kind)
    if read is not None:  # our own words for what is no number
        more |= {"parser": lambda text: read(text, name), "metavar": "N" if kind is int else "X"}
    shown = typer.Option(flag, help=text, rich_help_panel=panel, **more)
    return Annotated[_TYPES.get(kind, kind | None if isinstance(kind, type) else None), shown]


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every option of these groups, handed over as one mapping; None = not given.

    Parameters that the command names itself (arguments) stay its own.
    """
    options = {name: kind for group in groups for name, kind in group.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        usual = {n: False if get_args(k)[0] is bool else _DEFAULTS.get(n) for n, k in options.items()}
        added = [inspect.Parameter(n, keyword, default=usual[n], annotation=k) for n, k in options.items()]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            function({n: given[n] for n in options}, **{p.name: given[p.name] for p in own})

        own = [p.replace(kind=keyword) for p in own]
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        del command.__wrapped__
        return command

    return decorate
