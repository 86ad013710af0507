"""The step that values: one symbol's news in, the valuations that changed out.

It has two timers in one: when the last mark becomes stale, and midnight, when the day
begins anew with the total that was shown last. It keeps nothing for a restart: that
begins with the hash `valuations`. A day's first total is then what the hash says of
today; if it says nothing of today, the flow did not run at midnight, and nobody knows.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

from bytewax.operators import StatefulBatchLogic

from connectors import metrics
from connectors.redis.news import News
from connectors.redis.valuations import Valued
from state.records import id_order
from state.valuation import LIVE, Day, Holding, Mark, Valuation, later, value


def now_ms() -> int:
    """Return the time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


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
                round(datetime.combine(day, time_of_day(), self._zone).timestamp() * 1000)
                for day in (date, date + timedelta(days=1))
            )
            self._day = date.isoformat()
        return self._day


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

    def on_notify(self) -> tuple[Iterable[Valued], bool]:
        now = self._clock()
        self._begin_day(now)
        return list(self._value(now)), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        if not self._holdings:
            return None
        due = self._calendar.ends
        if self._mark is not None and any(v.state == LIVE for v in self._shown.values()):
            due = min(due, self._mark.timestamp + self._stale_ms + 1)
        return datetime.fromtimestamp(due / 1000, UTC)

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
            # What came since this flow began had nothing when the day began.
            self._days.setdefault(key, Day(today, None if news.begins else 0))
        if news.mark is not None:
            self._mark = later(self._mark, news.mark)

    def _value(self, now: int, *, all_: bool = False) -> Iterator[Valued]:
        for key, holding in self._holdings.items():
            found = value(holding, self._mark, self._days[key], now, self._stale_ms)
            changed = found != self._shown.get(key)
            self._shown[key] = found
            if changed:
                metrics.VALUATIONS.inc()
            if changed or all_:
                yield Valued(key, found, now, changed)
