"""Make a command's options out of a record's fields, and hand the command the record."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Annotated, Any, TypeVar

import typer

from advbench.errors import BadSetting
from advbench.settings import number, whole

R = TypeVar("R")
Read = Callable[[str, str], Any]
KINDS: dict[Any, tuple[Read, str]] = {int: (whole, "N"), float: (number, "X")}  # our own words for what is no number


@dataclass(frozen=True)
class Option:
    """One option: its name as Python's, its key in the record, its type and default, and what is said of it."""

    name: str
    key: str
    hint: Any
    default: Any
    told: Mapping[str, Any]

    def parameter(self) -> inspect.Parameter:
        """As typer reads it."""
        told, optional = self.told, isinstance(self.hint, types.UnionType)
        plain = next(h for h in typing.get_args(self.hint) if h is not types.NoneType) if optional else self.hint
        usual = f" (default {told['usual']})." if told.get("usual") else ""
        text = told["help"].removesuffix(".") + usual if usual else told["help"]
        more: dict[str, Any] = {"help": text, "show_default": False}
        keyword = inspect.Parameter.KEYWORD_ONLY
        several = typing.get_origin(plain) is tuple
        hint: Any = list[str] | None if self.default == () else str | None if several else self.hint
        if told.get("argument"):
            default = None if optional else inspect.Parameter.empty
            shown: Any = typer.Argument(**more)
            return inspect.Parameter(self.name, keyword, default=default, annotation=Annotated[hint, shown])
        flag = f"--{self.name.replace('_', '-')}"
        flag += f"/--no-{flag[2:]}" if plain is bool and optional else ""
        read, metavar = KINDS.get(typing.get_args(plain)[0] if several else plain, (None, None))
        if several and self.default is None:
            metavar = f"{metavar or 'NAME'},..."
            more["parser"] = lambda text: _words(text, flag, read, self.name, told.get("example", "a,b"))
        elif read is not None:
            more["parser"] = lambda text: read(text, self.name)
        more |= {"metavar": told.get("metavar", metavar), "rich_help_panel": told.get("panel")}
        shown = typer.Option(flag, envvar=told.get("env"), hidden=told.get("hidden", False), **more)
        return inspect.Parameter(self.name, keyword, default=self.default or None, annotation=Annotated[hint, shown])


def takes(function: Callable[[R], None]) -> Callable[..., None]:
    """A command with an option for every field of the record that is its only argument."""
    (record,) = (hint for name, hint in typing.get_type_hints(function).items() if name != "return")
    options = {f: list(_options(f, hint)) for f, hint in _declared(record)}

    def command(**given: Any) -> None:
        function(record(**{f.name: _value(f, own, given) for f, own in options.items()}))

    parameters = [option.parameter() for own in options.values() for option in own]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _declared(record: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Its fields and their types in the order of its bases, each where it was declared first."""
    hints, own = typing.get_type_hints(record), {f.name: f for f in fields(record)}
    declared = [list(inspect.get_annotations(base)) for base in record.__mro__]
    for i, names in enumerate(declared):
        yield from ((own[name], hints[name]) for name in names if not any(name in more for more in declared[i + 1 :]))


def _options(f: Field[Any], hint: Any) -> Iterator[Option]:
    """The option of a field; of one that maps the settings of a record, an option for each of them."""
    if "of" not in f.metadata:
        yield Option(f.metadata.get("flag", f.name), f.name, hint, f.default, f.metadata)
        return
    hints = typing.get_type_hints(f.metadata["of"])
    for one in fields(f.metadata["of"]):
        name = f.metadata.get("prefix", "") + one.metadata.get("flag", one.name)
        plain = str if typing.get_origin(hints[one.name]) is typing.Literal else hints[one.name]
        yield Option(name, one.name, plain | None, None, {**one.metadata, "panel": f.metadata["panel"]})


def _value(f: Field[Any], options: Sequence[Option], given: Mapping[str, Any]) -> Any:
    """What a field is given by its options."""
    if "of" in f.metadata:
        return {o.key: given[o.name] for o in options if given[o.name] is not None} or None
    value = given[options[0].name]
    return tuple(value or ()) if f.default == () else bool(value) if f.default is False else value


def _words(text: str, flag: str, read: Read | None, name: str, example: str) -> tuple[Any, ...]:
    """The values of an option that commas separate; raises BadSetting for an empty one."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise BadSetting(f"{name} = {text!r} has an empty entry; write for example {flag} {example}")
    return tuple(words if read is None else [read(word, name) for word in words])
