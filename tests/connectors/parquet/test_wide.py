"""Columns of 128 bits against Python's whole numbers."""

from decimal import Decimal
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from connectors.parquet.wide import Ints, Wide, quotients
from state.exact import divide_half_even
from tests.support.strategies import SETTINGS

LEAST, MOST = -(2**63), 2**63 - 1
WIDEST = 2**127
WHOLE, MONEY = pa.decimal128(38, 0), pa.decimal128(38, 20)
EDGES = [
    0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, -(2**32), 2**53 + 1, MOST, LEAST, LEAST + 1,
]  # fmt: skip
WIDE_EDGES = [*EDGES, 2**63, 2**64 - 1, 2**64, -(2**64), -(2**64) - 1, WIDEST - 1, -WIDEST]

narrow = st.sampled_from(EDGES) | st.integers(LEAST, MOST)
wide = st.sampled_from(WIDE_EDGES) | st.integers(-WIDEST, WIDEST - 1)
pairs = st.lists(st.tuples(narrow, narrow), max_size=20)
wide_pairs = st.lists(st.tuples(wide, wide), max_size=20)


def column(numbers: list[int]) -> Ints:
    return np.array(numbers, np.int64)


def ints(numbers: Wide) -> list[int]:
    highs, lows = numbers.high.tolist(), numbers.low.tolist()
    return [high * 2**64 + low for high, low in zip(highs, lows, strict=True)]


def wrapped(number: int) -> int:
    return (number + WIDEST) % (2 * WIDEST) - WIDEST


def of_pairs(found: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [a for a, _ in found], [b for _, b in found]


@SETTINGS
@given(st.lists(wide, max_size=20))
def test_numbers_of_128_bits_stay_as_they_are(numbers: list[int]) -> None:
    assert ints(Wide.of_ints(numbers)) == numbers


@SETTINGS
@given(st.lists(narrow, max_size=20))
def test_numbers_of_64_bits_are_widened_and_narrowed(numbers: list[int]) -> None:
    widened = Wide.of(column(numbers))
    assert ints(widened) == numbers
    assert widened.narrow().tolist() == numbers


@SETTINGS
@given(pairs)
def test_products_are_exact(found: list[tuple[int, int]]) -> None:
    a, b = of_pairs(found)
    assert ints(Wide.product(column(a), column(b))) == [x * y for x, y in found]


def test_products_are_exact_at_every_pair_of_edges() -> None:
    a, b = of_pairs([(x, y) for x in EDGES for y in EDGES])
    assert ints(Wide.product(column(a), column(b))) == [x * y for x, y in zip(a, b, strict=True)]


@SETTINGS
@given(wide_pairs)
def test_sums_and_differences_of_columns_wrap_around(found: list[tuple[int, int]]) -> None:
    a, b = of_pairs(found)
    assert ints(Wide.of_ints(a) + Wide.of_ints(b)) == [wrapped(x + y) for x, y in found]
    assert ints(Wide.of_ints(a) - Wide.of_ints(b)) == [wrapped(x - y) for x, y in found]


@SETTINGS
@given(wide, wide)
def test_a_result_that_fits_is_exact_whatever_happens_on_the_way(a: int, b: int) -> None:
    first, second = Wide.of_ints([a]), Wide.of_ints([b])
    assert ints(first + second - second) == [a]
    assert ints(first - second + second) == [a]


@SETTINGS
@given(st.lists(wide, max_size=30))
def test_running_sums_begin_with_0_and_wrap_around(numbers: list[int]) -> None:
    expected = [wrapped(total) for total in accumulate(numbers, initial=0)]
    assert ints(Wide.of_ints(numbers).sums()) == expected


def test_a_running_sum_that_leaves_128_bits_and_comes_back_is_exact() -> None:
    numbers = [WIDEST - 1, WIDEST - 1, 5, -WIDEST, -WIDEST, 7]
    assert ints(Wide.of_ints(numbers).sums())[-1] == sum(numbers) == 10


def test_a_long_running_sum_carries_between_its_parts() -> None:
    numbers = [2**64 - 1] * 5000 + [-(2**96) - 1] * 5000
    assert ints(Wide.of_ints(numbers).sums()) == list(accumulate(numbers, initial=0))


@SETTINGS
@given(st.lists(wide, min_size=1, max_size=20), st.data())
def test_numbers_are_taken_by_their_places(numbers: list[int], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=20))
    taken = Wide.of_ints(numbers).take(column(places))
    assert ints(taken) == [numbers[place] for place in places]


@SETTINGS
@given(st.lists(st.integers(-(10**38) + 1, 10**38 - 1), max_size=20))
def test_decimals_count_the_types_smallest_unit(numbers: list[int]) -> None:
    column = Wide.of_ints(numbers)
    assert [int(value) for value in column.to_decimals(WHOLE).to_pylist()] == numbers
    scaled = column.to_decimals(MONEY)
    scaled.validate(full=True)
    assert [value.as_tuple() for value in scaled.to_pylist()] == [
        Decimal((number < 0, tuple(map(int, str(abs(number)))), -20)).as_tuple()
        for number in numbers
    ]


@SETTINGS
@given(st.lists(wide, max_size=10), st.data())
def test_numbers_are_scattered_to_their_places(numbers: list[int], data: st.DataObject) -> None:
    length = len(numbers) + data.draw(st.integers(0, 5))
    places = sorted(data.draw(st.permutations(range(length)))[: len(numbers)])
    found = ints(Wide.of_ints(numbers).scattered(column(places), length))
    assert [found[place] for place in places] == numbers
    assert [found[place] for place in set(range(length)) - set(places)] == [0] * (
        length - len(numbers)
    )


def test_what_is_not_known_is_null() -> None:
    known = np.array([True, False, True])
    assert Wide.of(column([1, 2, 3])).to_decimals(WHOLE, known).to_pylist() == [1, None, 3]


def test_columns_may_be_empty() -> None:
    none = Wide.of_ints([])
    for empty in (none + none, none - none, none.take(column([])), Wide.of(column([]))):
        assert ints(empty) == []
    assert ints(Wide.product(column([]), column([]))) == []
    assert ints(none.sums()) == [0]
    assert none.to_decimals(WHOLE).to_pylist() == []
    assert ints(quotients(none, column([]))) == []


# --- quotients ------------------------------------------------------------------------------


def check_quotients(numerators: list[int], denominators: list[int]) -> None:
    found = quotients(Wide.of_ints(numerators), column(denominators))
    assert ints(found) == [
        0 if by == 0 else divide_half_even(number, by)
        for number, by in zip(numerators, denominators, strict=True)
    ]


signs = st.sampled_from([1, -1])


@st.composite
def divisions(draw: st.DrawFn, bits: int) -> tuple[int, int]:
    """Draw a numerator and a denominator whose quotient has at most so many bits."""
    by = draw(st.integers(1, 2 ** draw(st.integers(1, 63)) - 1)) * draw(signs)
    whole = draw(st.integers(0, 2 ** draw(st.integers(1, bits)) - 2)) * draw(signs)
    rest = draw(st.integers(-(abs(by) // 2) - 1, abs(by) // 2 + 1))
    number = whole * by + rest
    assume(-WIDEST <= number < WIDEST)
    return number, by


@SETTINGS
@given(st.lists(divisions(63), max_size=10))
@example([(2**62 * 3, 3)])
@example([(2**100, 3), (-(2**100), 1)])
@example([(-5, 1), (-1024, 1), (2**64 - 3, 2), (-(2**64) + 1, 2)])
def test_quotients_are_rounded_half_even(found: list[tuple[int, int]]) -> None:
    check_quotients(*of_pairs(found))


@SETTINGS
@given(
    st.lists(
        st.tuples(st.integers(-(2**40), 2**40), st.integers(1, 2**20), signs),
        min_size=1,
        max_size=20,
    )
)
def test_ties_go_to_the_even_one(found: list[tuple[int, int, int]]) -> None:
    numerators = [(2 * half + 1) * by for half, by, _ in found]
    denominators = [2 * by * sign for _, by, sign in found]
    check_quotients(numerators, denominators)
    check_quotients([number + 1 for number in numerators], denominators)
    check_quotients([number - 1 for number in numerators], denominators)


def test_ties_are_exact_far_beyond_what_a_float_tells() -> None:
    numerators = [(2 * half + 1) * 3**20 for half in range(2**58, 2**58 + 6)]
    for by in (2 * 3**20, -2 * 3**20):
        for off in (-1, 0, 1):
            check_quotients([number + off for number in numerators], [by] * 6)


@SETTINGS
@given(st.lists(divisions(40), min_size=1, max_size=10), st.integers(0, 9))
def test_a_quotient_by_0_is_0(found: list[tuple[int, int]], at: int) -> None:
    numerators, denominators = of_pairs(found)
    denominators[at % len(found)], numerators[at % len(found)] = 0, 0
    check_quotients(numerators, denominators)
    check_quotients([0] * 9, [0] * 9)


def test_a_small_numerator_over_0_gives_0() -> None:
    check_quotients([5, 2**62, -(2**63), 7], [0, 0, 0, 2])


@pytest.mark.parametrize("number", [2**100, -(2**100), 2**63])
def test_a_large_numerator_over_0_gives_0(number: int) -> None:
    check_quotients([number, 7], [0, 2])
    check_quotients([number, MOST * MOST], [0, MOST])  # of which a float tells too little


@pytest.mark.parametrize(
    ("number", "by"),
    [
        (MOST, 1), (LEAST, 1), (LEAST, LEAST), (MOST, LEAST), (LEAST, MOST), (0, LEAST),
        (MOST * MOST, MOST), (LEAST * LEAST + LEAST, LEAST), (LEAST * MOST, LEAST),
        (2**62, LEAST), (3 * 2**62, LEAST), (2**62 - 1, LEAST), (-(2**62), LEAST),
        (2**124 + 1, 2**62), (-(2**124) - 2**61, 2**62), (2**122 + 2**60, 2**61),
        # A float is wrong by more of these than 64 bits tell.
        ((2**61 + 12345) * (2**61 - 1) + 7, 2**61 - 1), ((2**60 - 99) * (7 - 2**61), 7 - 2**61),
        ((2**58 + 95) * (2**60 - 1) + 7, 2**60 - 1), ((-(2**58) - 95) * (2**60 - 7), 2**60 - 7),
        (2**64 + 5, 2**60 + 1), (-(2**65) - 5, 2**60 + 1),
    ],
)  # fmt: skip
def test_the_largest_magnitudes_are_divided_exactly(number: int, by: int) -> None:
    check_quotients([number], [by])
    check_quotients([1, number, -3], [2, by, -2])
