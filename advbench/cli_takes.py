"""How options are declared, and given to a command as one mapping."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from advbench.settings import number, whole

Options = Mapping[str, Any]
Group = dict[str, Any]


def option(kind: type, *names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002
    """An option that is None where it is not given."""
    read = {int: whole, float: number}.get(kind)
    if read is not None:  # our own words for what is no number
        more |= {
            "parser": lambda text: read(text, names[0].strip("-").replace("-", "_")),
            "metavar": "N" if kind is int else "X",
        }
    return Annotated[kind | None, typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)]


_DEFAULTS = {"runs_dir": "runs", "reports_dir": "reports", "json": False}
_DEFAULTS |= dict.fromkeys(("check", "no_train", "security", "complete", "trust", "mend", "overwrite"), False)


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every option of these groups, handed over as one mapping; None = not given.

    Parameters that the command names itself (arguments) stay its own.
    """
    options = {name: kind for group in groups for name, kind in group.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]
        added = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(n), annotation=k)
            for n, k in options.items()
        ]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            function({n: given[n] for n in options}, **{p.name: given[p.name] for p in own})

        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        del command.__wrapped__
        return command

    return decorate
