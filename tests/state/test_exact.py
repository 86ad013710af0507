"""Exact figures: reading, writing and the one rounding; times, too."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from state import exact
from state.exact import (
    ONE,
    PLACES,
    decimal_places,
    divide_half_even,
    from_text,
    milliseconds,
    to_text,
)
from tests.support.strategies import SETTINGS

TEN = Decimal(10) ** PLACES


@SETTINGS
@given(
    st.integers(-(10**19) + 1, 10**19 - 1),
    st.integers(-30, 30),
    st.sampled_from(["e", "E"]),
    st.booleans(),
)
def test_every_spelling_of_a_decimal_reads_as_its_value(
    value: int, shift: int, letter: str, plus: bool
) -> None:
    plain = to_text(value)
    assert from_text(plain) == value
    sign = "+" if plus and shift >= 0 else ""
    whole = f"{value}{letter}{sign}{shift}"
    expected = Fraction(value) * Fraction(10) ** (shift + PLACES)
    if expected.denominator == 1 and abs(expected) < 10**9 * ONE:
        assert from_text(whole) == expected
    else:
        with pytest.raises(ValueError, match=r"^a decimal (below 1e9|of at most 10)"):
            from_text(whole)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-0", 0), ("00", 0), ("0.0", 0), ("0e5", 0), ("0e-99", 0), ("0e999999999", 0),
        ("1", ONE), ("+1", ONE), ("-1", -ONE), ("007", 7 * ONE), ("1.", ONE), (".5", ONE // 2),
        ("1e0", ONE), ("1E+2", 100 * ONE), ("12e-1", 12 * ONE // 10),
        ("1e0000000000002", 100 * ONE), ("0.0000000001", 1), ("1e-10", 1),
        ("1.00000000000", ONE), ("10e-11", 1),
        ("999999999.9999999999", 10**19 - 1), ("0.05e10", 5 * 10**8 * ONE),
        ("0." + "0" * 400 + "1e401", ONE), ("1" + "0" * 400 + "e-400", ONE),
        ("1." + "0" * 400, ONE), ("0" * 400 + "1", ONE),
    ],
)  # fmt: skip
def test_plain_and_exponent_forms_are_read(text: str, value: int) -> None:
    assert from_text(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, "a decimal") for text in [
            "", " ", ".", "-", "+", "e5", ".e5", "1e", "1e+", "1e5.0", "abc", "NaN", "nan", "sNaN",
            "Infinity", "-inf", "1_000", "1,000", "1'000", "1 000", " 1", "1 ", "1\n", "\t1", "--1",
            "+-1", "1-", "0x10", "1.2.3", "１２", "١", "½", "1d", "1e５", "1\x00", "$1", "1%",
        ]),
        *((text, "a decimal below 1e9 in magnitude") for text in [
            "1000000000", "-1000000000", "1e9", "1e10", "0.1e10", "1e999999999", "-1e999999999",
            "1e99999999999999999999", "9" * 400, "0.1e" + "9" * 400,
        ]),
        *((text, "a decimal of at most 10 decimal places") for text in [
            "0.00000000001", "1.00000000001", "1e-11", "1.5e-10", "1e-999999999",
            "0." + "1" * 400, "1e-" + "9" * 400, "123456789.12345678901",
        ]),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        from_text(text)
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    "hostile",
    [
        "1e999999999", "-1e999999999", "1e-999999999", "0e999999999", "1e" + "9" * 100_000,
        "1e" + "0" * 100_000 + "x", "9" * 100_000, "0." + "0" * 100_000 + "1", "1" + "0" * 100_000,
        "1." + "0" * 100_000, "0" * 100_000 + "1", "1" + "0" * 100_000 + "e-100000",
        "1" * 500 + "e-490", "0." + "0" * 100_000 + "1e100001", "1.5" + "0" * 100_000 + "e1",
        "." * 100_000, "-" * 100_000,
    ],
)  # fmt: skip
def test_a_hostile_number_takes_no_more_arithmetic_than_a_plain_one(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_on: list[int] = []

    def counted(digits: str) -> int:
        worked_on.append(len(digits))
        return int(digits)

    monkeypatch.setattr(exact, "int", counted, raising=False)
    try:
        value = from_text(hostile)
    except ValueError:
        value = 0
    assert abs(value) < 10**19
    assert max(worked_on, default=0) <= 20
    assert len(worked_on) <= 2


@SETTINGS
@given(st.integers(-(10**30), 10**30), st.integers(-(10**15), 10**15).filter(bool))
def test_division_rounds_to_the_nearest_and_ties_to_the_even(top: int, bottom: int) -> None:
    assert divide_half_even(top, bottom) == round(Fraction(top, bottom))


def test_division_by_nothing_is_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        divide_half_even(1, 0)


@SETTINGS
@given(st.integers(-(10**40), 10**40), st.sampled_from([10, 20]))
def test_what_is_written_is_plain_and_reads_back_the_same(value: int, places: int) -> None:
    text = to_text(value, places)
    assert Fraction(text) == Fraction(value, 10**places)
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", "."))), "no zeros behind"


@SETTINGS
@given(st.integers(-(10**19), 10**19))
def test_decimal_places_are_those_that_the_value_needs(value: int) -> None:
    exponent = (Decimal(value) / TEN).normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    assert decimal_places(value) == max(0, -exponent)


@given(st.integers(-(10**12), 4 * 10**12))
@example(1_082_560_350_705)  # whose timestamp() is a little less
def test_no_millisecond_of_a_moment_is_lost(count: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=count)
    assert milliseconds(moment) == count
