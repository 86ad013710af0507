"""Valuations against fractions, and the invariant that every stretch of time must keep."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from state.book import Book
from state.exact import LIMIT, MONEY, ONE
from state.messages import Cost, Execution, Instrument
from state.valuation import Calendar, Day, Holding, Mark, later, market_value, rate_to, value

TODAY = Day("2026-11-27", 0)
QTY = st.integers(1, 10**6).map(lambda hundredths: hundredths * ONE // 100)
PRICE = st.integers(1, 10**8).map(lambda units: units * ONE // 10_000)


def holding(book: Book, stream_id: str = "1-0") -> Holding:
    shown = book.snapshot()
    return Holding(
        shown.account, shown.symbol, shown.currency, shown.multiplier, shown.qty,
        shown.cost_basis, shown.realized_pnl, shown.net_realized_pnl, stream_id,
    )  # fmt: skip


def test_without_a_mark_what_needs_one_is_unknown_and_a_flat_position_needs_none() -> None:
    held = Holding(None, "A", "USD", ONE, 3 * ONE, 30 * MONEY, 5 * MONEY, 4 * MONEY, "1-0")
    found = value(held, None, TODAY, 10, 5)
    assert (found.market_value, found.unrealized_pnl, found.total_pnl, found.day_pnl) == (
        None, None, None, None,
    )  # fmt: skip
    assert found.state == "no mark"
    flat = value(held._replace(qty=0, cost_basis=0), None, TODAY, 10, 5)
    assert (flat.market_value, flat.unrealized_pnl, flat.total_pnl, flat.day_pnl) == (
        0, 0, 4 * MONEY, 4 * MONEY,
    )  # fmt: skip
    assert value(held, Mark(ONE, 5), Day("d", None), 10, 5).day_pnl is None


def test_a_mark_is_stale_when_it_is_older_than_it_may_be() -> None:
    held = Holding(None, "A", "USD", ONE, ONE, MONEY, 0, 0, "1-0")
    assert [value(held, Mark(ONE, 100), TODAY, now, 50).state for now in (90, 150, 151)] == [
        "live", "live", "stale",
    ]  # fmt: skip


@given(qty=st.integers(-(10**15), 10**15), price=st.integers(-(10**15), 10**15),
       multiplier=st.sampled_from([ONE, 100 * ONE, ONE // 1000]))  # fmt: skip
def test_a_market_value_is_the_exact_product(qty: int, price: int, multiplier: int) -> None:
    found = market_value(qty, multiplier, Mark(price, 0))
    exact = Fraction(qty, ONE) * Fraction(price, ONE) * Fraction(multiplier, ONE)
    if found is None:
        assert abs(exact) >= LIMIT
    else:
        assert abs(Fraction(found, MONEY) - exact) * MONEY <= Fraction(1, 2)


def test_a_market_value_is_rounded_half_even_and_unknown_at_the_limit() -> None:
    assert [market_value(1, 1, Mark(half * ONE // 2, 0)) for half in (1, 3, -3)] == [0, 2, -2]
    for price, value_ in ((LIMIT - 1, LIMIT - 1), (LIMIT, None)):
        for sign in (1, -1):
            found = market_value(sign * ONE, ONE, Mark(price * ONE, 0))
            assert found == (None if value_ is None else sign * value_ * MONEY)


def test_a_day_goes_from_midnight_to_midnight_of_its_zone_whichever_is_asked_for() -> None:
    calendar = Calendar("America/New_York")
    begins = 1793505600000  # 2026-11-01, 00:00 in New York; it has 25 hours
    ends = begins + 25 * 3_600_000
    for at, day in (
        (begins, "2026-11-01"), (ends - 1, "2026-11-01"), (ends, "2026-11-02"),
        (begins, "2026-11-01"), (begins - 1, "2026-10-31"), (ends, "2026-11-02"),
    ):  # fmt: skip
        assert calendar.day(at) == day
        assert calendar.begins <= at < calendar.ends
    assert calendar.begins == ends


@given(
    steps=st.lists(st.tuples(st.booleans(), QTY, PRICE, PRICE), min_size=1, max_size=12),
    multiplier=st.sampled_from([ONE, 100 * ONE]),
)
def test_over_any_stretch_pnl_is_the_change_of_worth_less_what_was_paid_in(
    steps: list[tuple[bool, int, int, int]], multiplier: int
) -> None:
    """Realized + change of unrealized = change of market value - what was paid in."""
    book, now = Book("A", None), 1_700_000_000_000
    points = [(0, 0, 0, 0)]  # realized, unrealized, market value, paid in until then
    paid = 0
    for number, (buys, qty, price, mark) in enumerate(steps, 1):
        book.apply(
            Execution(
                f"e{number}", f"e{number}", 1, now + number * 1000, qty if buys else -qty, price,
                side="BUY" if buys else "SELL", instrument=Instrument(None, multiplier),
            )
        )  # fmt: skip
        paid += (qty if buys else -qty) * price * multiplier // ONE
        found = value(holding(book), Mark(mark, now), TODAY, now, 1)
        assert found.unrealized_pnl is not None
        assert found.market_value is not None
        points.append((found.realized_pnl, found.unrealized_pnl, found.market_value, paid))
    for first in range(len(points)):
        for last in range(first, len(points)):
            realized, unrealized, worth, paid_in = (
                b - a for a, b in zip(points[first], points[last], strict=True)
            )
            assert realized + unrealized == worth - paid_in


class Charges:
    """What has fallen due of all charges, worked out with fractions from who closed what."""

    def __init__(self) -> None:
        self.paid = self._settled = 0
        self._bearers: list[list[int]] = []
        """Charge, units, units gone."""
        self._lots: list[tuple[int, list[int]]] = []
        """Open units, signed, and who bears their charge; the oldest first."""

    def trade(self, qty: int, charge: int) -> None:
        self.paid += charge
        bearer = [charge, abs(qty), 0]
        self._bearers.append(bearer)
        while qty and self._lots and (self._lots[0][0] > 0) != (qty > 0):
            held, opener = self._lots.pop(0)
            units = min(abs(held), abs(qty))
            for gone in (opener, bearer):
                gone[2] += units
            sign = 1 if qty > 0 else -1
            qty -= sign * units
            if abs(held) > units:
                self._lots.insert(0, (held + sign * units, opener))
        if qty:
            self._lots.append((qty, bearer))

    def lay(self, per_unit: int, multiplier: int) -> None:
        lots, self._lots = self._lots, []
        for qty, opener in lots:
            laid = round(Fraction(qty * per_unit * multiplier, ONE * ONE))
            self.paid += laid
            self._settled += _due(opener)
            self._bearers.remove(opener)
            anew = [opener[0] - _due(opener) + laid, abs(qty), 0]
            self._bearers.append(anew)
            self._lots.append((qty, anew))

    @property
    def due(self) -> int:
        return self._settled + sum(map(_due, self._bearers))


def _due(bearer: list[int]) -> int:
    charge, units, gone = bearer
    return round(Fraction(charge * gone, units))


CHARGE = st.none() | st.integers(-(10**4), 10**6).map(lambda units: units * ONE // 10_000)
TRADES = st.tuples(st.booleans(), QTY, PRICE, CHARGE, CHARGE)
COSTS = st.integers(-(10**4), 10**4).map(lambda units: units * ONE // 1_000)


@given(
    steps=st.lists(st.tuples(TRADES | COSTS, PRICE), min_size=1, max_size=12),
    multiplier=st.sampled_from([ONE, 100 * ONE]),
)
def test_with_commissions_and_adjustments_it_is_so_too_but_for_what_open_units_still_bear(
    steps: list[tuple[tuple[bool, int, int, int | None, int | None] | int, int]], multiplier: int
) -> None:
    """Total P&L = market value - all that was paid in + charges that have not fallen due."""
    book, now, charges, paid = Book("A", None), 1_700_000_000_000, Charges(), 0
    for number, (step, mark) in enumerate(steps, 1):
        if isinstance(step, int):
            book.apply(Cost(f"c{number}", now + number * 1000, step))
            charges.lay(step, multiplier)
        else:
            buys, qty, price, commission, adjustment = step
            signed = qty if buys else -qty
            book.apply(
                Execution(
                    f"e{number}", f"e{number}", 1, now + number * 1000, signed, price, commission,
                    side="BUY" if buys else "SELL", instrument=Instrument(None, multiplier),
                    adjustment=adjustment,
                )
            )  # fmt: skip
            paid += signed * price * multiplier // ONE
            charges.trade(signed, (commission or 0) + (adjustment or 0))
        shown = book.snapshot()
        if not shown.executions:
            continue
        found = value(holding(book), Mark(mark, now), TODAY, now, 1)
        assert found.market_value is not None
        assert shown.commission + shown.basis_adjustment == charges.paid
        not_due = (charges.paid - charges.due) * (MONEY // ONE)
        paid_in = paid + charges.paid * (MONEY // ONE)
        assert found.total_pnl == found.market_value - paid_in + not_due
        if not shown.qty:
            assert not_due == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1))
def test_the_mark_that_counts_is_the_latest_of_equal_ones_the_last(
    arrived: list[tuple[int, int]],
) -> None:
    known = None
    for time, price in arrived:
        known = later(known, Mark(price, time))
    latest = max(time for time, _ in arrived)
    assert known == Mark([price for time, price in arrived if time == latest][-1], latest)


def test_a_pair_serves_both_ways_the_direct_one_first_and_a_missing_one_is_not_assumed() -> None:
    marks = {"EUR.USD": Mark(3 * ONE // 2, 5), "GBP.CHF": Mark(ONE, 5), "CHF.USD": Mark(0, 5)}
    there, back = rate_to("USD", "EUR", marks), rate_to("EUR", "USD", marks)
    assert there is not None
    assert back is not None
    assert (there.pair, there.exchange(-2 * MONEY)) == ("EUR.USD", -3 * MONEY)
    assert (back.pair, back.exchange(6 * MONEY)) == ("EUR.USD", 4 * MONEY)
    assert (there.exchange(1), back.exchange(1)) == (2, 1)  # 3/2, 2/3 of the smallest, rounded
    both = rate_to("USD", "EUR", marks | {"USD.EUR": Mark(ONE, 6)})
    assert both == there
    for currency in ("GBP", "JPY", "CHF"):  # over two pairs, none, and a price that is no rate
        assert rate_to("USD", currency, marks) is None
