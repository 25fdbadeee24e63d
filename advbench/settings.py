"""Turn values from a command line or a TOML file into a settings record, or refuse them in one sentence.

The settings of a plug-in are the keyword-only parameters of its class, with their types and defaults.
"""

import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeVar

from advbench.errors import BadSetting, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """What `--help` says of a setting, and how its option differs from the field.

    usual    the default in words, where it is not the field's
    flag     the option's name, where it is not the field's
    hidden   its option works, and --help does not show it
    younger  it came after the first stored records, which leave it out where it is the default
    aliases  options that are not shown: `--name value` is one more value `loss.name=value`
    of       a record whose settings are options of their own, `prefix` before their names; given ones are a mapping
    """

    text: str
    panel: str | None = None
    usual: str | None = None
    flag: str | None = None
    argument: bool = False
    example: str = "a,b"
    env: str | None = None
    metavar: str | None = None
    hidden: bool = False
    younger: bool = False
    aliases: tuple[str, ...] = ()
    of: type | None = None
    prefix: str = ""


def setting(default: T, text: str, **more: Any) -> T:
    """A field of a settings record: its default, and what is told of it."""
    return field(default=default, metadata={Told: Told(text, **more)})


def told(f: Field[Any]) -> Told:
    """What is told of a field that `setting` made."""
    found: Told = f.metadata[Told]
    return found


def flag_of(f: Field[Any]) -> str:
    """The name of a field's option."""
    return told(f).flag or f.name


def number(value: object, name: str) -> float:
    """A finite float from a number or from text such as `0.3` or `8/255`; raises BadSetting."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadSetting(f"{name} = {value!r} is not a number; write for example 0.3 or '8/255'")
    try:
        result = float(Fraction(value.strip())) if isinstance(value, str) and "/" in value else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadSetting(f"{name} = {value!r} is not a number; write for example 0.3 or 8/255") from None
    if not math.isfinite(result):
        raise BadSetting(f"{name} = {value!r} is not finite; write for example 0.3 or 8/255")
    return result


def whole(value: str, name: str) -> int:
    """A whole number from text; raises BadSetting."""
    try:
        return int(value)
    except ValueError:
        raise BadSetting(f"{name} = {value!r} is not a whole number; write for example 3") from None


def from_text(text: str, hint: Any, name: str) -> Any:
    """The value that command-line text stands for where a setting is of type `hint`; `none` where it may be None."""
    if isinstance(hint, types.UnionType):
        if text.lower() == "none":
            return None
        (hint,) = (h for h in typing.get_args(hint) if h is not types.NoneType)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise BadSetting(f"{name} = {text!r} is of the wrong type; it must be true or false")
        return text.lower() == "true"
    return whole(text, name) if hint is int else text


def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's settings."""
    return typing.get_type_hints(cls if hasattr(cls, "__dataclass_fields__") else cls.__init__)  # type: ignore[misc]


def at_least(name: str, value: float, low: float, *, above: bool = False) -> None:
    """Refuse a value below `low` (or equal to it, where `above`)."""
    if not low <= value <= sys.float_info.max or (above and value == low):
        rule = "greater than" if above else "at least"
        raise BadSetting(f"{name} = {value} is out of range; it must be finite and {rule} {low:g}")


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The settings of a class: its keyword-only constructor parameters, by name."""
    return {p.name: p for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY}


def defaults(cls: type) -> dict[str, Any]:
    """The default of every setting that has one."""
    return {name: p.default for name, p in parameters(cls).items() if p.default is not p.empty}


def fill(cls: type, given: Mapping[str, object], where: str) -> dict[str, Any]:
    """All settings of `cls`: those given, checked against their types, and the defaults for the rest.

    `where` names the place in messages ("loss lgm"). Raises UnknownName for a key that is no setting and
    BadSetting for a value of the wrong type; range checks are the constructor's.
    """
    known, hints, result = parameters(cls), hints_of(cls), defaults(cls)
    for key, value in given.items():
        if key not in known:
            raise UnknownName(f"setting of {where}", key, known)
        result[key] = convert(value, hints[key], f"{where}: {key}")
    if missing := [name for name in known if name not in result]:
        raise BadSetting(f"{where} needs a value for {', '.join(missing)}")
    return result


def convert(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` asks for: bool, int, float, str, Literal, or one of these or None."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (h for h in typing.get_args(hint) if h is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        raise UnknownName(f"choice for {name}", str(value), map(str, choices))
    if hint is float:
        return number(value, name)
    integral = hasattr(value, "__index__") or (isinstance(value, float) and value.is_integer())
    if hint is int and integral and not isinstance(value, bool):
        value = int(value)  # NumPy's whole numbers too
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = {bool: "true or false", int: "a whole number", str: "text in quotes"}.get(hint, hint.__name__)
    raise BadSetting(f"{name} = {value!r} is of the wrong type; it must be {wanted}")
