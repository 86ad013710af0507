"""The step that values: one symbol's news in, the valuations that changed out.

At midnight the day begins anew with the total that was shown last. That it is midnight,
or that a mark has become stale, the source tells by news without anything in it. The step
keeps nothing for a restart: that begins with the hash `valuations`. A day's first total is
then what the hash says of today; if it says nothing of today, the flow did not run at
midnight, and nobody knows.
"""

from collections.abc import Callable, Iterable, Iterator

from bytewax.operators import StatefulBatchLogic

from connectors import metrics
from connectors.redis.news import News
from connectors.redis.valuations import Valued
from state.records import id_order
from state.valuation import Calendar, Day, Holding, Mark, Valuation, later, value


class ValueLogic(StatefulBatchLogic[News, Valued, None]):
    """Keep the valuations of one symbol's positions."""

    def __init__(self, calendar: Calendar, stale_ms: int, clock: Callable[[], int]) -> None:
        self._calendar, self._stale_ms, self._clock = calendar, stale_ms, clock
        self._mark: Mark | None = None
        self._holdings: dict[str, Holding] = {}
        self._days: dict[str, Day] = {}
        self._shown: dict[str, Valuation] = {}

    def on_batch(self, values: list[News]) -> tuple[Iterable[Valued], bool]:
        now = self._clock()
        self._begin_day(now)
        begins = False
        for news in values:
            self._take(news)
            begins = begins or news.begins
        return list(self._value(now, all_=begins)), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Valued], bool]:
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Nothing to keep: a start begins with the hashes."""

    def _begin_day(self, now: int) -> None:
        today = self._calendar.day(now)
        for key, day in self._days.items():
            if day.day != today:
                self._days[key] = Day(today, self._shown[key].total_pnl)

    def _take(self, news: News) -> None:
        today = self._calendar.day(self._clock())
        for key, kept in news.kept.items():
            self._shown[key] = kept
            known = kept.day == today and None not in (kept.total_pnl, kept.day_pnl)
            total = (kept.total_pnl or 0) - (kept.day_pnl or 0) if known else None
            self._days[key] = Day(today, total)
            if kept.mark_price is not None and kept.mark_timestamp is not None:
                self._mark = later(self._mark, Mark(kept.mark_price, kept.mark_timestamp))
        for key, holding in news.holdings.items():
            old = self._holdings.get(key)
            if old is None or id_order(holding.stream_id) > id_order(old.stream_id):
                self._holdings[key] = holding
            # What came since this flow and the day began had nothing when that did.
            is_new = not news.begins and id_order(holding.stream_id)[0] >= self._calendar.begins
            self._days.setdefault(key, Day(today, 0 if is_new else None))
        if news.mark is not None:
            self._mark = later(self._mark, news.mark)

    def _value(self, now: int, *, all_: bool = False) -> Iterator[Valued]:
        for key, holding in self._holdings.items():
            found = value(holding, self._mark, self._days[key], now, self._stale_ms)
            changed = found != self._shown.get(key)
            self._shown[key] = found
            if changed:
                metrics.VALUATIONS.inc()
            # The hash may be ahead of the rows, which lack the minute that the last run died in.
            if changed or all_:
                yield Valued(key, found, now)
