"""Make a command's options out of a record's fields, and hand the command the record."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Annotated, Any, TypeVar

import typer

from advbench.errors import BadSetting
from advbench.settings import Told, flag_of, number, told, whole
from advbench.study.options import PANELS

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
    told: Told

    def parameter(self) -> inspect.Parameter:
        """As typer reads it."""
        told, optional, default = self.told, isinstance(self.hint, types.UnionType), self.default or None
        plain = next(h for h in typing.get_args(self.hint) if h is not types.NoneType) if optional else self.hint
        several = typing.get_origin(plain) is tuple
        hint: Any = list[str] | None if self.default == () else str | None if several else self.hint
        text = f"{told.text.removesuffix('.')} (default {told.usual})." if told.usual else told.text
        more: dict[str, Any] = {"help": text, "show_default": False}
        if told.argument:
            shown, default = typer.Argument(**more), None if optional else inspect.Parameter.empty
        else:
            read, metavar = KINDS.get(typing.get_args(plain)[0] if several else plain, (None, None))
            flag = f"--{self.name.replace('_', '-')}"
            if several and self.default is None:
                metavar = f"{metavar or 'NAME'},..."
                more["parser"] = lambda text: _words(text, flag, read, self.name, told.example)
            elif read is not None:
                more["parser"] = lambda text: read(text, self.name)
            more |= {"metavar": told.metavar or metavar, "envvar": told.env, "rich_help_panel": told.panel}
            both = f"{flag}/--no-{flag[2:]}" if plain is bool and optional else flag
            shown = typer.Option(both, hidden=told.hidden, **more)
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=default, annotation=Annotated[hint, shown])


def takes(function: Callable[[R], None]) -> Callable[..., None]:
    """A command with an option for every field of the record that is its only argument."""
    (record,) = (hint for name, hint in typing.get_type_hints(function).items() if name != "return")
    options = {f: list(_options(f, hint)) for f, hint in _declared(record)}

    def command(**given: Any) -> None:
        function(record(**{f.name: _value(f, own, given) for f, own in options.items()}))

    shown = sorted((o for own in options.values() for o in own), key=lambda o: PANELS.index(o.told.panel))
    parameters = [option.parameter() for option in shown]
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
    of = told(f).of
    if of is None:
        yield Option(flag_of(f), f.name, hint, f.default, told(f))
        unshown = replace(told(f), hidden=True)
        yield from (Option(name, f.name, str | None, None, unshown) for name in told(f).aliases)
        return
    hints = typing.get_type_hints(of)
    for one in fields(of):
        plain = str if typing.get_origin(hints[one.name]) is typing.Literal else hints[one.name]
        own = replace(told(one), panel=told(f).panel)
        yield Option(told(f).prefix + flag_of(one), one.name, plain | None, None, own)


def _value(f: Field[Any], options: Sequence[Option], given: Mapping[str, Any]) -> Any:
    """What a field is given by its options."""
    if told(f).of is not None:
        return {o.key: value for o in options if (value := given[o.name]) is not None} or None
    value = given[options[0].name]
    if f.default == ():
        old = {o.name: given[o.name] for o in options[1:]}
        return (*(value or ()), *(f"loss.{name}={text}" for name, text in old.items() if text is not None))
    return bool(value) if f.default is False else value


def _words(text: str, flag: str, read: Read | None, name: str, example: str) -> tuple[Any, ...]:
    """The values of an option that commas separate; raises BadSetting for an empty one."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise BadSetting(f"{name} = {text!r} has an empty entry; write for example {flag} {example}")
    return tuple(words if read is None else [read(word, name) for word in words])
