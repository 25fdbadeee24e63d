"""Dataclasses as JSON and back: keys, types and ranges are checked as a record is read.

A field's type says what its value may be: a plain type, a `Literal`, `tuple[X, ...]` for a list, `Mapping[K, X]`,
another record, a union of these, or one of those in `shapes`. A field with a default is a key
that may be left out; it is where the value is its default None, ABSENT or `dict()`. The fields of a record in a FLAT
field stand among those of the record around it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from advbench.runs.shapes import PLAIN, Rule, choice

T = TypeVar("T")
FLAT = {"flat": True}  # metadata of a field


class Absent(Enum):
    """The default of a key that may be left out and may be null, two different things."""

    ABSENT = "absent"

    def __bool__(self) -> Literal[False]:
        return False


ABSENT = Absent.ABSENT


def parsed(data: bytes | str) -> Any:
    """What JSON says; raises ValueError for what is none, NaN and nesting without end among it."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def as_json(value: object, *, whole: bool = True) -> Any:
    """Of records, their fields in order, also inside of what holds them; not `whole`: without the flat fields."""
    if is_dataclass(value) and not isinstance(value, type):
        shown: dict[str, Any] = {}
        for one in fields(value):
            own = getattr(value, one.name)
            if one.metadata == FLAT:
                shown |= as_json(own) if whole else {}
            elif not (own is one.default and own in (None, ABSENT)) and (own or one.default_factory is not dict):
                shown[one.name] = as_json(own, whole=whole)
        return shown
    if isinstance(value, Mapping):
        return {key: as_json(one, whole=whole) for key, one in value.items()}
    return [as_json(one, whole=whole) for one in value] if isinstance(value, (list, tuple)) else value


def from_json(cls: type[T], value: object, at: str, **known: object) -> T:
    """The record that `as_json` made this of, which stands `at` a place.

    `known` are flat fields that the JSON does not say. Raises ValueError, a clause that names the key, for one that
    is missing, that is none of the record's, and for a value of another type or outside its range.
    """
    record: T = _read(cls, value, at, known)
    return record


def _read(hint: Any, value: Any, at: str, known: Mapping[str, object]) -> Any:
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind not in (NoneType, Absent))
        for kind in kinds[1:]:
            with suppress(ValueError):
                return _read(kind, value, at, known)
        return _read(kinds[0], value, at, known)
    if is_dataclass(hint) and isinstance(value, dict):
        return _record(hint, value, at, known)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(kinds[0], one, f"{at}.{i}", known) for i, one in enumerate(value))
    if hint is Any:
        return value
    rule = hint.__metadata__[0] if origin is Annotated else choice(*kinds) if origin is Literal else PLAIN.get(hint)
    rule = rule or Rule("a list" if origin is tuple else "a table", lambda v: origin is Mapping and type(v) is dict)
    if not rule.holds(value):
        said = ascii(value)
        raise ValueError(f"{at} = {said if len(said) <= 60 else f'{said[:57]}...'} is not {rule.what}")
    if origin is Annotated and get_origin(kinds[0]) is Mapping:
        origin, kinds = Mapping, get_args(kinds[0])
    if origin is not Mapping:
        return value
    of_key, of_one = kinds
    return {_read(of_key, k, f"{at}: key", {}): _read(of_one, one, f"{at}.{k}", known) for k, one in value.items()}


def _record(cls: Any, value: dict[str, Any], at: str, known: Mapping[str, object]) -> Any:
    own, left = {}, dict(value)
    for one, hint in _typed(cls):
        if one.metadata == FLAT:
            names = [inner.name for inner in fields(hint) if one.name not in known]
            said = {name: left.pop(name) for name in names if name in left}
            own[one.name] = known[one.name] if one.name in known else _record(hint, said, at, {})
        elif one.name in left:
            own[one.name] = _read(hint, left.pop(one.name), f"{at}.{one.name}", known)
        elif one.default is one.default_factory:  # it has neither
            raise ValueError(f"{at}.{one.name} is missing")
    if left:
        raise ValueError(f"{at}.{ascii(min(left, key=str))[1:-1][:60]} is a key too many")
    return cls(**own)


@cache
def _typed(cls: Any) -> list[tuple[Any, Any]]:
    """The fields of a record with their types."""
    hints = get_type_hints(cls, include_extras=True)
    return [(one, hints[one.name]) for one in fields(cls)]
