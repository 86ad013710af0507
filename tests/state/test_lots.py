"""Taking from the oldest lots, and putting back."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from state.lots import Lot, divide, put_back, take
from tests.support.strategies import SETTINGS


@st.composite
def lot_queues(draw: st.DrawFn) -> deque[Lot]:
    """Draw lots of one sign."""
    sign = draw(st.sampled_from([1, -1]))
    whole = st.integers(1, 50)
    found: deque[Lot] = deque()
    for place in range(draw(st.integers(0, 6))):
        qty, was_split = sign * draw(whole), draw(st.booleans())
        cost = draw(st.integers(-(10**12), 10**12)) if was_split else qty * draw(whole)
        commission = draw(st.integers(-100, 100))
        found.append(Lot(place, f"e{place}", place, 1, qty, cost, commission, was_split))
    return found


@SETTINGS
@given(lot_queues(), st.integers(1, 400))
def test_what_is_taken_and_what_is_left_add_up_and_can_be_put_back(
    lots: deque[Lot], wanted: int
) -> None:
    before = list(lots)
    qty = -wanted if not before or before[0].qty > 0 else wanted
    parts, rest = take(lots, qty)
    assert sum(part.qty for part in parts) == rest - qty
    assert rest == 0 or not lots
    for figure in ("qty", "cost", "commission"):
        total = sum(getattr(lot, figure) for lot in [*parts, *lots])
        assert total == sum(getattr(lot, figure) for lot in before)
    assert [part.place for part in parts] == sorted(part.place for part in parts)
    assert all(lot.qty for lot in [*parts, *lots])
    put_back(lots, parts)
    assert list(lots) == before


def test_taking_nothing_takes_nothing() -> None:
    lots = deque([Lot(0, "e", 0, 1, 10, 10, 0)])
    assert take(lots, 0) == ([], 0)
    assert take(deque(), 5) == ([], 5)


def test_a_part_of_a_lot_that_was_not_split_has_its_exact_cost() -> None:
    part, rest = divide(Lot(0, "e", 0, 7, 10, 70, 3), 3)
    assert (part.qty, part.cost, part.commission) == (3, 21, 1)
    assert (rest.qty, rest.cost, rest.commission) == (7, 49, 2)
