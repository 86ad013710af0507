"""A symbol's valuations through a day and the next, with a clock that the test sets."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from connectors.metrics import VALUATIONS
from connectors.redis.news import News, Passing
from connectors.redis.valuations import Valued, read_valuation, to_json
from flows.valuing.value_step import ValueLogic
from state.exact import MONEY, ONE
from state.valuation import Calendar, Holding, Mark, Valuation

STALE_MS = 60_000
NOON = round(datetime(2026, 11, 27, 17, tzinfo=UTC).timestamp() * 1000)  # in New York
HOUR = 3_600_000
MIDNIGHT = NOON - 12 * HOUR


class Clock:
    now = NOON


class Symbol:
    """One symbol's step, and what it shows."""

    def __init__(self, kept: dict[str, Valuation] | None = None, **held: Holding) -> None:
        self.clock = Clock()
        self.shown: dict[str, Valuation] = {}
        calendar = Calendar("America/New_York")
        self.passing = Passing(calendar, STALE_MS)
        self.passing.due(self.clock.now)
        self.logic = ValueLogic(calendar, STALE_MS, lambda: self.clock.now)
        self.tell(News(None, held, kept or {}, begins=True))

    def tell(self, *news: News) -> list[Valued]:
        for one in news:
            self.passing.take({"A": one}, self.clock.now)
        return self._note(self.logic.on_batch(list(news))[0])

    def wait_until(self, now: int) -> None:
        """Let the time pass, and the source look at it often, as it does."""
        for moment in (now - 500, now):
            self.clock.now = max(self.clock.now, moment)
            if self.passing.due(self.clock.now):
                self.tell(News(None, {}, {}, begins=False))

    def mark(self, price: int, at: int | None = None) -> list[Valued]:
        return self.tell(News(Mark(price * ONE, at or self.clock.now), {}, {}, begins=False))

    def hold(self, key: str, held: Holding) -> list[Valued]:
        return self.tell(News(None, {key: held}, {}, begins=False))

    def _note(self, valued: Iterable[Valued]) -> list[Valued]:
        made = list(valued)
        self.shown |= {one.key: one.valuation for one in made}
        return made

    def day_pnl(self, key: str = "A") -> int | None:
        found = self.shown[key].day_pnl
        return None if found is None else found // MONEY


def held(qty: int = 1, cost: int = 10, stream_id: str = "1-0", net: int = 0) -> Holding:
    return Holding(None, "A", "USD", ONE, qty * ONE, cost * MONEY, net * MONEY, net * MONEY,
                   stream_id)  # fmt: skip


def test_a_mark_becomes_stale_by_itself_and_live_by_the_next() -> None:
    symbol = Symbol(A=held())
    assert symbol.shown["A"].state == "no mark"
    symbol.mark(12)
    assert symbol.shown["A"].state == "live"
    symbol.wait_until(NOON + STALE_MS)
    assert symbol.shown["A"].state == "live"
    symbol.wait_until(NOON + STALE_MS + 1000)
    assert (symbol.shown["A"].state, symbol.shown["A"].unrealized_pnl) == ("stale", 2 * MONEY)
    symbol.mark(13)
    assert symbol.shown["A"].state == "live"


def test_marks_of_the_past_and_positions_that_are_older_change_nothing() -> None:
    symbol = Symbol(A=held(stream_id="10-0"))
    assert symbol.mark(12)
    assert symbol.mark(99, at=NOON - 1) == []
    assert symbol.hold("A", held(qty=5, stream_id="9-9")) == []
    assert symbol.mark(13)[0].valuation.market_value == 13 * MONEY


def test_the_days_pnl_begins_at_midnight_with_the_last_total() -> None:
    symbol = Symbol(A=held())
    symbol.mark(12)
    assert symbol.day_pnl() is None  # the flow did not run at midnight
    symbol.hold("B", held(qty=2, cost=20, stream_id=f"{MIDNIGHT}-0"))
    assert symbol.day_pnl("B") == 4  # came today, so it began with nothing
    symbol.hold("C", held(stream_id=f"{MIDNIGHT - 1}-0"))
    assert symbol.day_pnl("C") is None  # shown today, but it came before
    symbol.wait_until(NOON + 14 * HOUR)
    assert symbol.shown["A"].day == "2026-11-28"
    assert (symbol.day_pnl(), symbol.day_pnl("B")) == (0, 0)
    symbol.mark(15)
    assert (symbol.day_pnl(), symbol.day_pnl("B")) == (3, 6)
    symbol.hold("A", held(qty=0, cost=0, net=7, stream_id="2-0"))
    assert symbol.day_pnl() == 5


def test_the_day_is_kept_over_a_restart_and_unknown_after_a_missed_midnight() -> None:
    symbol = Symbol(A=held())
    symbol.mark(12)
    symbol.wait_until(NOON + 14 * HOUR)
    symbol.mark(15)
    kept = {"A": read_valuation(to_json(symbol.shown["A"]).encode())}
    assert kept == symbol.shown
    again = Symbol()
    again.clock.now = NOON + 15 * HOUR
    [first] = again.tell(News(None, {"A": held()}, kept, begins=True))
    assert first.valuation.mark_price == 15 * ONE
    assert again.day_pnl() == 3
    missed = Symbol()
    missed.clock.now = NOON + 40 * HOUR
    missed.tell(News(None, {"A": held()}, kept, begins=True))
    assert missed.day_pnl() is None


def test_of_the_marks_that_a_start_finds_the_latest_counts() -> None:
    symbol = Symbol(A=held(), B=held())
    symbol.mark(5)
    newer = symbol.shown["A"]
    older = symbol.shown["B"]._replace(mark_price=4 * ONE, mark_timestamp=NOON - 1)
    news = News(None, {"A": held(), "B": held()}, {"A": newer, "B": older}, begins=True)
    again = Symbol()
    again.tell(news, News(None, {}, {}, begins=False))
    assert {one.mark_price for one in again.shown.values()} == {5 * ONE}
    assert set(again.shown) == {"A", "B"}, "all is shown, whatever comes with the start"


@pytest.mark.parametrize("price", [5, -5])
def test_a_start_shows_all_as_the_rows_may_lack_it_and_counts_what_changed(price: int) -> None:
    symbol = Symbol(A=held())
    symbol.mark(price)
    news = News(None, {"A": held()}, dict(symbol.shown), begins=True)
    counted = VALUATIONS._value.get()
    [shown] = Symbol().tell(news)
    assert (shown.valuation, VALUATIONS._value.get()) == (symbol.shown["A"], counted)
    changed = news._replace(holdings={"A": held(net=1, stream_id="2-0")})
    assert len(Symbol().tell(changed)) == 1
    assert VALUATIONS._value.get() == counted + 1
