"""The source of the valuation: marks and changes of positions, conflated by symbol.

It begins with the hashes and what is kept of the marks, and then reads both streams in
one round trip. Of a symbol it hands on one piece of news a read, with its last mark and
the last change of each position, so that however many marks come, none waits behind
others of its symbol. What is no mark is counted and logged, and changes nothing.

Changes are followed as docs/reference.md says: the stream's last id first, then the hash.
Who fell behind what is kept begins so again.

Time is news too: that a mark has become stale, or that a new day has begun. The engine's
own timers would do for some symbols, but it looks at all of them whenever anything comes.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from threading import Event
from typing import Any, NamedTuple

import redis
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors import metrics
from connectors.clock import AT_ONCE, Clock, ClockError, now_ms
from connectors.codec import FIRST_TIMESTAMP, LONGEST_NAME
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError, newest_id, send_all
from connectors.redis.valuations import read_holding, read_valuation
from state.exact import from_text
from state.records import FIRST_ID, RawEntry
from state.valuation import Calendar, Holding, Mark, Valuation, later

log = logging.getLogger("lotstream.valuation")

_AHEAD_MS = 60_000
_COUNT = 5_000
_BLOCK_MS = 5
_LOOK_EVERY_MS = 200
_PAIR = 7
_DIGITS = 15


class News(NamedTuple):
    """What is new of one symbol; nothing if only time has passed."""

    mark: Mark | None
    holdings: dict[str, Holding]
    """By key."""
    kept: dict[str, Valuation]
    """By key, what a start finds in the hash `valuations`."""
    begins: bool
    """True of what a start finds: it may be older than this process."""


class NewsSource(FixedPartitionedSource[tuple[str, News], None]):
    """Read news as (symbol, News).

    positions, valuations: the hashes. changes: the streams of changes. marks: their stream.
    passing: tells what time alone changes.
    """

    def __init__(
        self,
        link: RedisLink,
        stop: Event,
        *,
        positions: str,
        valuations: str,
        changes: Sequence[str],
        marks: str,
        passing: "Passing",
    ) -> None:
        self._link, self._stop, self._passing = link, stop, passing
        self._hashes, self._changes, self._marks = (positions, valuations), changes, marks
        self.rates: dict[str, Mark] = {}
        """The marks that count of symbols that look like a currency pair, such as `EUR.USD`."""

    def list_parts(self) -> list[str]:
        """Name the stream of marks."""
        return [self._marks]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_NewsPartition":
        """Begin with the hashes, whatever was before."""
        del step_id, resume_state
        reader = _Reader(self._link, self._hashes, self._changes, for_part, self.rates)
        return _NewsPartition(reader, self._link, self._stop, self._passing)


class _NewsPartition(StatefulSourcePartition[tuple[str, News], None]):
    def __init__(self, reader: "_Reader", link: RedisLink, stop: Event, passing: "Passing") -> None:
        self._reader, self._link, self._stop, self._passing = reader, link, stop, passing
        self._clock = Clock()

    def next_batch(self) -> Iterable[tuple[str, News]]:
        if self._stop.is_set():
            raise StopIteration
        try:
            self._clock.check()
            for act in self._link.while_alive:
                act()
            news = self._reader.read()
        except StoppedError:
            raise StopIteration from None
        except (RedisRefusedError, ClockError) as error:
            log.critical("stopped: %s", error)
            raise
        now = now_ms()
        self._passing.take(news, now)
        for symbol in self._passing.due(now):
            _of(news, symbol, begins=False)
        return list(news.items())

    def next_awake(self) -> datetime | None:
        """Ask to be called again at once: the read itself waits."""
        return AT_ONCE

    def snapshot(self) -> None:
        """Keep nothing: a start begins with the hashes."""
        self._clock.begin()


class Passing:
    """Tells which symbols time alone makes news of: a mark became stale, or a day began."""

    def __init__(self, calendar: Calendar, stale_ms: int) -> None:
        self._calendar, self._stale_ms = calendar, stale_ms
        self._live: dict[str, int] = {}
        """By symbol the time of its latest mark, until that is stale."""
        self._held: set[str] = set()
        self._day, self._look_at = "", 0

    def take(self, news: Mapping[str, News], now: int) -> None:
        """Note what is handed on. now: milliseconds since 1970."""
        for symbol, (mark, holdings, kept, _) in news.items():
            said = [mark and mark.timestamp, *(one.mark_timestamp for one in kept.values())]
            times = [at for at in said if at is not None]
            # What is stale when it comes is shown so at once; time changes nothing of it.
            if times and now - max(times) <= self._stale_ms:
                self._live[symbol] = max(*times, self._live.get(symbol, 0))
            if holdings:
                self._held.add(symbol)

    def due(self, now: int) -> list[str]:
        """Return the symbols to look at again, each once. now: milliseconds since 1970."""
        if now < self._look_at:
            return []
        self._look_at = now + _LOOK_EVERY_MS
        before, self._day = self._day, self._calendar.day(now)
        if before not in {"", self._day}:
            return list(self._held)
        old = [symbol for symbol, at in self._live.items() if now - at > self._stale_ms]
        for symbol in old:
            del self._live[symbol]
        return old


class _Reader:
    def __init__(
        self,
        link: RedisLink,
        hashes: tuple[str, str],
        changes: Sequence[str],
        marks: str,
        rates: dict[str, Mark],
    ) -> None:
        self._link, (self._positions, self._valuations) = link, hashes
        self._marks, self._rates = marks, rates
        self._last: dict[str, str | None] = {**dict.fromkeys(changes), marks: FIRST_ID}
        """By stream, the last entry read; None of changes before the hash was read."""
        self._started = False

    def read(self) -> dict[str, News]:
        """Return what is new, by symbol, after waiting a moment if there is nothing."""
        if not self._started:
            self._started = True
            return self._begin()
        if None in self._last.values():
            return self._all_holdings(begins=False)
        news: dict[str, News] = {}
        for stream, entries in self._link.call(self._ask).items():
            if stream == self._marks:
                self._take_marks(entries, news)
            else:
                for _, (_, key, _, position) in entries:
                    _take_holding(key, position, news, begins=False)
        return news

    def _begin(self) -> dict[str, News]:
        news = self._all_holdings(begins=True)
        kept: Any = self._link.call(lambda client: client.hgetall(self._valuations))
        for key, text in kept.items():
            try:
                name, valuation = key.decode(), read_valuation(text)
            except (ValueError, KeyError, TypeError):
                continue  # what is no valuation is written anew
            _of(news, valuation.symbol, begins=True).kept[name] = valuation
        while entries := self._link.call(self._page_of_marks):
            self._take_marks(entries, news, begins=True)
        return news

    def _page_of_marks(self, client: redis.Redis) -> list[RawEntry]:
        [page] = send_all(client, ("XRANGE", self._marks, f"({self._last[self._marks]}", "+",
                                   "COUNT", _COUNT))  # fmt: skip
        return list(_checked(page))

    def _all_holdings(self, *, begins: bool) -> dict[str, News]:
        """Take the streams' last ids first, then the hash: nothing falls between the two."""
        for stream, last in self._last.items():
            if last is None:
                self._last[stream] = self._link.call(lambda client: newest_id(client, stream))  # noqa: B023
        news: dict[str, News] = {}
        found: Any = self._link.call(lambda client: client.hgetall(self._positions))
        for key, text in found.items():
            _take_holding(key, text, news, begins=begins)
        return news

    def _ask(self, client: redis.Redis) -> dict[str, list[RawEntry]]:
        """Return the new entries of each stream, and note how far they go."""
        last = {stream: entry_id or FIRST_ID for stream, entry_id in self._last.items()}
        reply, *there = send_all(
            client,
            ("XREAD", "COUNT", _COUNT, "BLOCK", _BLOCK_MS, "STREAMS", *last, *last.values()),
            *(("XRANGE", stream, at, at) for stream, at in last.items() if stream != self._marks),
        )
        pairs = _checked(reply) or ()
        found = {
            stream.decode(): list(entries)
            for stream, entries in (pairs.items() if isinstance(pairs, dict) else pairs)
        }
        kept = dict(zip((stream for stream in last if stream != self._marks), there, strict=True))
        for stream, entries in found.items():
            lost = stream != self._marks and not _checked(kept[stream])
            self._last[stream] = None if lost else entries[-1][0].decode()
        return found

    def _take_marks(
        self, entries: list[RawEntry], news: dict[str, News], *, begins: bool = False
    ) -> None:
        marks: dict[str, Mark] = {}
        bad: list[tuple[str, str]] = []
        for entry_id, fields in entries:
            try:
                symbol, mark = read_mark(entry_id, fields)
            except ValueError as error:
                bad.append((entry_id.decode(), str(error)))
                continue
            marks[symbol] = later(marks.get(symbol), mark)
        for symbol, mark in marks.items():
            if len(symbol) == _PAIR and symbol[3] == ".":
                self._rates[symbol] = later(self._rates.get(symbol), mark)
            _of(news, symbol, begins=begins)
            news[symbol] = news[symbol]._replace(mark=later(news[symbol].mark, mark))
        if entries:
            self._last[self._marks] = entries[-1][0].decode()
            metrics.MARKS_READ.inc(len(entries))
        if bad:
            metrics.MARKS_REFUSED.inc(len(bad))
            # What is found there may be megabytes.
            log.warning("%d entries of %s are no marks, the last %s: %.300s",
                        len(bad), self._marks, *bad[-1])  # fmt: skip


def read_mark(entry_id: bytes, fields: list[bytes]) -> tuple[str, Mark]:
    """Read an entry as (symbol, mark). Raises ValueError, saying what was expected."""
    words = iter(fields)
    said = dict(zip(words, words, strict=True))
    symbol, at = said.get(b"symbol", b"").decode(), said.get(b"timestamp", b"")
    if not 0 < len(symbol) <= LONGEST_NAME:
        raise ValueError(f"symbol: expected 1 to {LONGEST_NAME} characters, found {symbol!r}")
    try:
        price = from_text(said.get(b"price", b"").decode())
    except ValueError as error:
        raise ValueError(f"price: expected {error}, found {said.get(b'price')!r}") from None
    arrived = int(entry_id.partition(b"-")[0])
    if not at.isdigit() or len(at) > _DIGITS or not int(at) >= FIRST_TIMESTAMP or (
        int(at) > arrived + _AHEAD_MS and arrived >= FIRST_TIMESTAMP
    ):  # fmt: skip
        raise ValueError(
            f"timestamp: expected milliseconds since 1970, not before 1971 and not more than "
            f"{_AHEAD_MS // 1000} s after the time in the entry's id, found {at!r}"
        )
    return symbol, Mark(price, int(at))


def _take_holding(key: bytes, text: bytes, news: dict[str, News], *, begins: bool) -> None:
    try:
        name, holding = key.decode(), read_holding(text)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the position %.90r cannot be read, so it is not valued: %.300s", key, error)
        return
    _of(news, holding.symbol, begins=begins).holdings[name] = holding


def _of(news: dict[str, News], symbol: str, *, begins: bool) -> News:
    if symbol not in news:
        news[symbol] = News(None, {}, {}, begins)
    return news[symbol]


def _checked(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer
