"""Values from outside: what becomes a setting, and what is refused."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from advbench.errors import BadSetting, UnknownName
from advbench.settings import at_least, convert, defaults, fill, number, parameters


@dataclass(frozen=True, kw_only=True)
class Kettle:
    """Something with settings of every type."""

    litres: float
    cups: int = 4
    whistle: bool = True
    colour: Literal["red", "blue"] = "red"
    label: str = ""
    limit: float | None = None


class Pot:
    """Settings are keyword-only; positional parameters are none."""

    def __init__(self, size: int, *, lid: bool = False) -> None:
        self.size, self.lid = size, lid


# -- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("0.3", 0.3),
        (" 0.3 ", 0.3),
        ("8/255", 8 / 255),
        (" 8/255 ", 8 / 255),
        ("-1/4", -0.25),
        ("1e-3", 0.001),
        (3, 3.0),
        (0.5, 0.5),
        ("-0", 0.0),
    ],
)
def test_a_number_is_read_from_text_fractions_and_numbers(value: object, meant: float) -> None:
    read = number(value, "eps")
    assert isinstance(read, float)
    assert read == meant


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_fraction_is_the_quotient_rounded_once(above: int, below: int) -> None:
    assert number(f"{above}/{below}", "eps") == above / below


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_survives_being_written_and_read(value: float) -> None:
    assert number(repr(value), "eps") == value


@pytest.mark.parametrize(
    "value",
    ["", " ", "abc", "1/0", "1/", "/2", "1//2", "8/x", "nan", "inf", "-inf", "nan/1", "1e400", "0.1,0.2",
     float("nan"), float("inf"), 10**400, True, False, None, [0.1], {"eps": 0.1}, b"0.3"],
)  # fmt: skip
def test_what_is_no_finite_number_is_refused_with_its_name_and_value(value: object) -> None:
    with pytest.raises(BadSetting, match="eps") as caught:
        number(value, "eps")
    text = str(caught.value)
    assert repr(value)[:10] in text
    assert "\n" not in text


def test_a_bound_is_allowed_unless_it_is_excluded() -> None:
    at_least("x", 0.0, 0)
    at_least("x", 1, 1)
    at_least("x", 1e-300, 0, above=True)
    for value, above in ((-1e-300, False), (0.0, True), (-1.0, True)):
        with pytest.raises(BadSetting, match=f"x = {value}"):
            at_least("x", value, 0, above=above)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_setting_is_finite(value: float) -> None:
    with pytest.raises(BadSetting, match="finite"):
        at_least("x", value, 0)


# -- records -----------------------------------------------------------------------------------------------------


def test_settings_are_the_keyword_only_parameters() -> None:
    assert list(parameters(Kettle)) == ["litres", "cups", "whistle", "colour", "label", "limit"]
    assert list(parameters(Pot)) == ["lid"]
    assert defaults(Pot) == {"lid": False}
    assert "litres" not in defaults(Kettle)


def test_what_is_left_out_takes_its_default() -> None:
    assert fill(Kettle, {"litres": "1/2", "colour": "blue"}, "kettle") == {
        "litres": 0.5,
        "cups": 4,
        "whistle": True,
        "colour": "blue",
        "label": "",
        "limit": None,
    }
    assert fill(Pot, {"lid": True}, "pot") == {"lid": True}


def test_what_has_no_default_must_be_given() -> None:
    with pytest.raises(BadSetting, match=r"kettle.*litres"):
        fill(Kettle, {"cups": 2}, "kettle")


def test_an_unknown_setting_is_refused_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UnknownName) as caught:
        fill(Kettle, {"litres": 1, "colr": "red"}, "kettle")
    text = str(caught.value)
    assert "Did you mean 'colour'?" in text
    assert all(name in text for name in parameters(Kettle))


def test_a_positional_parameter_is_no_setting() -> None:
    with pytest.raises(UnknownName):
        fill(Pot, {"size": 3}, "pot")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("litres", "much"),
        ("litres", True),
        ("cups", "4"),
        ("cups", 4.5),
        ("cups", True),
        ("cups", float("inf")),
        ("cups", float("nan")),
        ("cups", [4]),
        ("whistle", 1),
        ("whistle", "true"),
        ("colour", "green"),
        ("colour", 1),
        ("colour", ["red"]),
        ("label", 5),
        ("label", True),
        ("limit", "none"),
        ("limit", float("nan")),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_where_and_what(key: str, value: object) -> None:
    with pytest.raises(BadSetting) as caught:
        fill(Kettle, {"litres": 1, key: value}, "kettle")
    text = str(caught.value)
    assert "kettle" in text
    assert key in text
    assert "\n" not in text


def test_a_whole_float_is_a_whole_number() -> None:
    cups = convert(4.0, int, "cups")
    assert (cups, type(cups)) == (4, int)


def test_an_optional_number_may_be_none_or_a_number() -> None:
    assert convert(None, float | None, "limit") is None
    assert convert("1/4", float | None, "limit") == 0.25


def test_a_name_in_capitals_gets_the_suggestion_in_small_letters() -> None:
    assert "Did you mean 'lgm'?" in str(UnknownName("loss", "LGM", ["softmax", "lgm"]))


def test_a_name_far_from_all_known_ones_gets_no_suggestion() -> None:
    text = str(UnknownName("attack", "zzzzzz", ["pgd", "fgsm"]))
    assert "Did you mean" not in text
    assert text.index("fgsm") < text.index("pgd")  # sorted
    assert "none" in str(UnknownName("attack", "x", []))
