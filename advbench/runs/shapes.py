"""Shapes of values in stored JSON: types that carry a rule, which `json_records` holds values to."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Rule:
    """One value for which `holds` is true; `what` says what it is, for people."""

    what: str
    holds: Callable[[Any], bool]


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number in a range."""
    bounds = "" if low == -math.inf else f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
    return Rule(f"a finite number{bounds}", lambda v: type(v) in (int, float) and low <= v <= high and abs(v) < 1e300)


def whole(low: int = 0) -> Rule:
    """A whole number, at most 2^53."""
    return Rule(f"a whole number of at least {low}", lambda v: type(v) is int and low <= v <= 2**53)


def text(most: int = 200) -> Rule:
    """Text of so many characters at most, each of which UTF-8 can hold."""
    what = f"text of at most {most:,} characters"
    return Rule(what, lambda v: isinstance(v, str) and len(v) <= most and not re.search("[\ud800-\udfff]", v))


def named(pattern: str, what: str) -> Rule:
    """Text that matches as a whole."""
    return Rule(what, lambda v: isinstance(v, str) and len(v) <= 400 and re.fullmatch(pattern, v) is not None)


def choice(*values: Any) -> Rule:
    """One of these."""
    return Rule(f"one of {', '.join(map(repr, values))}", lambda v: type(v) in map(type, values) and v in values)


Number = Annotated[float, number()]
Rate = Annotated[float, number(0, 1)]
Seconds = Annotated[float, number(0)]
Count = Annotated[int, whole()]
Positive = Annotated[int, whole(1)]
Text = Annotated[str, text()]
Key = Annotated[str, text(400)]
Long = Annotated[str, text(10_000)]
Eps = Annotated[float, Rule("a number above 0", lambda v: type(v) in (int, float) and 0 < v < 1e6)]
Sha = Annotated[str, named("[0-9a-f]{64}", "a sha256 of 64 hex digits")]
NAME = named(r"[\w.+:-]*\w[\w.+:-]*", "a name of letters, digits and . _ + : -")
Name = Annotated[str, NAME]
Label = Annotated[str, named(r"[^/\0-\x1f]*[^/.\0-\x1f:][^/\0-\x1f]*", "a data set's name, without a path")]
# the settings of a plug-in, which it alone knows
Settings = Mapping[Key, Annotated[Any, Rule(
    "a number, text, true, false or null",
    lambda v: v is None or type(v) is bool or number().holds(v) or text(10_000).holds(v),
)]]  # fmt: skip
WHOLE = Rule("a whole number", lambda v: type(v) is int)
PLAIN = {bool: choice(True, False), int: WHOLE, float: number(), str: text(10**6)}
