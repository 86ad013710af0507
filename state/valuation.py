"""What a position is worth by a mark, and what it made since the day began.

The units are those of `exact`. A figure that needs a mark and has none is None, never 0;
a flat position needs none. The day's P&L needs to know the total that the day began with.
"""

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from state.exact import (
    LIMIT,
    MONEY,
    MONEY_PLACES,
    ONE,
    PLACES,
    divide_half_even,
    milliseconds,
)

LIVE, STALE, NO_MARK = "live", "stale", "no mark"

_MONEY_OF_PRODUCT: int = 10 ** (3 * PLACES - MONEY_PLACES)


class Mark(NamedTuple):
    """A price to value a symbol by."""

    price: int
    timestamp: int
    """Of the price itself, in milliseconds since 1970."""


class Holding(NamedTuple):
    """What a valuation takes from a position."""

    account: str | None
    symbol: str
    currency: str
    multiplier: int
    qty: int
    """Signed."""
    cost_basis: int
    realized_pnl: int
    """Money, gross."""
    net_realized_pnl: int
    stream_id: str
    """The entry that caused the position."""


class Day(NamedTuple):
    """A day, and the total that it began with."""

    day: str
    """The date, as in 2026-11-27."""
    total: int | None
    """Money; None if nobody knows."""


class Calendar:
    """Tells which day it is in a time zone."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._day, self.begins, self.ends = "", 0, 0

    def day(self, now: int) -> str:
        """Return the date at a time, milliseconds since 1970; `begins`, `ends` are the day's."""
        if not self.begins <= now < self.ends:
            date = datetime.fromtimestamp(now / 1000, self._zone).date()
            self.begins, self.ends = (
                milliseconds(datetime.combine(day, time(), self._zone))
                for day in (date, date + timedelta(days=1))
            )
            self._day = date.isoformat()
        return self._day


class Valuation(NamedTuple):
    """A position by a mark: the members of the hash's value, in their order."""

    account: str | None
    symbol: str
    currency: str
    multiplier: int
    qty: int
    cost_basis: int
    mark_price: int | None
    mark_timestamp: int | None
    market_value: int | None
    """Money: qty x mark x multiplier, signed as the quantity."""
    unrealized_pnl: int | None
    """Money: market value less cost basis."""
    realized_pnl: int
    net_realized_pnl: int
    total_pnl: int | None
    """Money: net realized and unrealized."""
    day_pnl: int | None
    """Money: total now less total when the day began."""
    day: str
    state: str
    """LIVE, STALE or NO_MARK."""
    stream_id: str


def later(known: Mark | None, new: Mark) -> Mark:
    """Return the mark that counts: the later, of equally late ones the one that came last.

    >>> later(Mark(5, 1000), Mark(6, 999)).price, later(Mark(5, 1000), Mark(6, 1000)).price
    (5, 6)
    """
    return known if known is not None and known.timestamp > new.timestamp else new


def value(holding: Holding, mark: Mark | None, day: Day, now: int, stale_ms: int) -> Valuation:
    """Value a position.

    day: today. now: milliseconds since 1970; a mark more than stale_ms older is stale.
    A market value that needs more than 20 places is rounded half-even to them.
    """
    worth = market_value(holding.qty, holding.multiplier, mark)
    unrealized = None if worth is None else worth - holding.cost_basis
    total = None if unrealized is None else holding.net_realized_pnl + unrealized
    return Valuation(
        holding.account, holding.symbol, holding.currency, holding.multiplier, holding.qty,
        holding.cost_basis, mark and mark.price, mark and mark.timestamp, worth, unrealized,
        holding.realized_pnl, holding.net_realized_pnl, total,
        None if total is None or day.total is None else total - day.total,
        day.day, state_of(mark, now, stale_ms), holding.stream_id,
    )  # fmt: skip


def market_value(qty: int, multiplier: int, mark: Mark | None) -> int | None:
    """Return qty x mark x multiplier as money; 0 if flat, else None without a mark.

    None also for a mark that takes it to what no figure may reach.

    >>> market_value(-2 * ONE, 100 * ONE, Mark(3 * ONE // 2, 0)) // 10**MONEY_PLACES
    -300
    """
    if not qty:
        return 0
    if mark is None:
        return None
    worth = divide_half_even(qty * mark.price * multiplier, _MONEY_OF_PRODUCT)
    return worth if abs(worth) < LIMIT * MONEY else None


def state_of(mark: Mark | None, now: int, stale_ms: int) -> str:
    """Tell how old a mark is: LIVE, STALE or NO_MARK."""
    if mark is None:
        return NO_MARK
    return STALE if now - mark.timestamp > stale_ms else LIVE


class Rate(NamedTuple):
    """A mark that exchanges one currency into another."""

    pair: str
    """Its symbol: `EUR.USD` is what one euro costs in dollars."""
    mark: Mark
    inverse: bool
    """True if the pair goes from the other currency to this one."""

    def exchange(self, amount: int) -> int:
        """Exchange an amount of money, rounded half-even to 20 places.

        >>> Rate("EUR.USD", Mark(12 * ONE // 10, 0), inverse=False).exchange(10)
        12
        >>> Rate("USD.EUR", Mark(ONE // 2, 0), inverse=True).exchange(10)
        20
        """
        if self.inverse:
            return divide_half_even(amount * ONE, self.mark.price)
        return divide_half_even(amount * self.mark.price, ONE)


def rate_to(base: str, currency: str, marks: Mapping[str, Mark]) -> Rate | None:
    """Find what exchanges a currency into the base: a pair serves both ways, the direct first.

    marks: by symbol; a price that is not above 0 is no rate.

    >>> rate_to("USD", "EUR", {"EUR.USD": Mark(ONE, 0)}).pair
    'EUR.USD'
    >>> rate_to("USD", "EUR", {"EUR.GBP": Mark(ONE, 0)}) is None
    True
    """
    for pair, inverse in ((f"{currency}.{base}", False), (f"{base}.{currency}", True)):
        mark = marks.get(pair)
        if mark is not None and mark.price > 0:
            return Rate(pair, mark, inverse)
    return None
