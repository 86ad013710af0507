"""What `watch`, `board` and the metrics show, read from Redis without changing anything.

One look is two round trips: the positions, and for each stream how far the flow is.
How far it is says the consumer group that the flow keeps; that it lives, the group's
consumer, which the flow makes itself heard as. Times are the server's, so that clocks
need not agree. A look never waits for an absent server: whoever looks wants to say so.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from functools import reduce
from types import MappingProxyType
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from connectors.redis.base_totals import BaseTotals, totals_key
from connectors.redis.broker_state import (
    NO_BROKER,
    STATE,
    BrokerView,
    account_key,
    breaks_key,
    broker_view,
)
from connectors.redis.exact_json import from_json
from connectors.redis.link import NotOursError, can_pass, explain, send
from connectors.redis.names import CONSUMER, GROUP
from connectors.redis.partitions import disagreement, recorded
from connectors.redis.worth import Valuations, Worth
from state.records import FIRST_ID
from state.valuation import STALE

SILENT_S = 5.0
"""A flow that was not heard of for longer is away; it makes itself heard every second."""

WAITING_S = 10.0
"""Of a flow that was never heard of, an entry that waits longer says the same."""

_ANSWER_S = 2.0
_EXACT = Context(prec=100)
_ABSENT = re.compile("^NOGROUP|no such key")


class RedisAwayError(Exception):
    """Redis does not answer; the text says why."""


class Position(NamedTuple):
    """One position, in the contract's words and order; figures are exact."""

    account: str | None
    symbol: str
    currency: str
    multiplier: Decimal
    sec_type: str | None
    con_id: int | None
    qty: Decimal
    avg_price: Decimal | None
    cost_basis: Decimal
    realized_pnl: Decimal
    commission: Decimal
    other_commissions: Mapping[str, Decimal] | None
    """In other currencies than the position's."""
    basis_adjustment: Decimal
    net_realized_pnl: Decimal
    open_lots: int
    executions: int
    last_exec_id: str | None
    last_price: Decimal | None
    timestamp: int | None
    stream_id: str

    @property
    def changed_at(self) -> int:
        """When the entry came that caused this: milliseconds since 1970."""
        return _milliseconds(self.stream_id)


class Total(NamedTuple):
    """The sums of one currency's positions, exact."""

    currency: str
    open: int
    """Positions that are not flat."""
    flat: int
    cost_basis: Decimal
    realized_pnl: Decimal
    commission: Decimal
    net_realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    """Of the open positions that are valued; None if none of them is."""
    day_pnl: Decimal | None
    """Of the positions of which it is known; None if it is of none."""
    total_pnl: Decimal | None
    """Likewise."""
    unvalued: int
    """Positions that the unrealized and the total P&L leave out, as nobody knows theirs."""
    day_unknown: int
    """Those that the day's P&L leaves out."""
    stale: int
    """Open positions whose mark is stale; they are counted in."""


class StreamState(NamedTuple):
    """How far the flow is on one stream."""

    stream: str
    entries: int
    newest_id: str | None
    committed_id: str | None
    """The last entry whose results are durable; None before the first."""
    committed_age_s: float | None
    """How long ago that entry was added to the stream."""
    lag: int | None
    """Entries behind it; None if the server cannot tell (Redis before 7)."""
    lag_s: float
    """How long the oldest entry behind it has waited; 0 if there is none."""
    flow_silent_s: float | None
    """How long ago the flow made itself heard; None if it never did."""

    @property
    def flow(self) -> str:
        """`running`, `away`, or `unknown` while nothing tells."""
        if self.flow_silent_s is None:
            return "away" if self.lag_s > WAITING_S else "unknown"
        return "away" if self.flow_silent_s > SILENT_S else "running"


class Overview(NamedTuple):
    """All that one look has found."""

    at_ms: int
    """The server's clock."""
    positions: Mapping[str, Position]
    """By key. One that has not changed since the last look is the same object."""
    streams: Sequence[StreamState]
    dead_letters: int
    """Those that still wait for a person."""
    broker: BrokerView = NO_BROKER
    worth: Mapping[str, Worth] = MappingProxyType({})
    """By key, of every position; empty if nobody values positions."""
    base: BaseTotals | None = None
    """The sums over all currencies; None if the valuation is away or has no BASE_CURRENCY."""

    @property
    def totals(self) -> list[Total]:
        """The sums per currency, in order of its name."""
        by_currency: dict[str, list[_Held]] = {}
        for key, position in self.positions.items():
            held = (position, self.worth.get(key))
            by_currency.setdefault(position.currency, []).append(held)
        return [_total(currency, by_currency[currency]) for currency in sorted(by_currency)]

    @property
    def executions(self) -> int:
        """How many executions all positions have booked."""
        return sum(position.executions for position in self.positions.values())


class OverviewReader:
    """Takes looks; keeps what it has read, so that the next look costs less.

    url: as in REDIS_URL. streams: those whose progress is of interest. letters: the
    dead letter streams. positions_hash, broker_hash: the hashes' names. partitions: a
    stream and how many it is taken to have, which is compared with what Redis has.
    valuations: what is known of those; None for a look that does without.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: Sequence[str],
        letters: Sequence[str],
        positions_hash: str,
        broker_hash: str = "broker",
        partitions: tuple[str, int] | None = None,
        valuations: Valuations | None = None,
    ) -> None:
        self._client = redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_ANSWER_S,
            socket_timeout=_ANSWER_S,
        )
        # A stream's fields do not matter here, and redis-py's dict of them may fail.
        for command in ("XINFO STREAM", "XRANGE"):
            self._client.set_response_callback(command, lambda reply, **_: reply)
        self._streams, self._letters, self._hash = streams, letters, positions_hash
        self._broker_hash, self._partitions = broker_hash, partitions
        self._valuations = valuations
        self._raw: dict[bytes, bytes] = {}
        self._positions: dict[str, Position] = {}

    def read(self) -> Overview:
        """Look.

        Raises RedisAwayError, saying why, and ValueError, naming the key, if a value of
        the hash is no position, or if the streams have another number of partitions.
        """
        try:
            self._compare_partitions()
            (seconds, micros), values, (valued, base), broker, lengths, infos = self._ask()
            now_ms = seconds * 1000 + micros // 1000
            waiting = self._oldest_waiting(infos)
        except redis.RedisError as error:
            raise RedisAwayError(str(error) if can_pass(error) else explain(error)) from error
        self._take(values)
        streams = [
            _stream_state(name, info, oldest, now_ms)
            for name, info, oldest in zip(self._streams, infos, waiting, strict=True)
        ]
        view = broker_view(broker[0], broker[1], broker[2], now_ms)
        found = Overview(now_ms, dict(self._positions), streams, sum(lengths), view)
        if self._valuations is None:
            return found
        self._valuations.take(valued)
        changed = {key: (each.stream_id, each.changed_at) for key, each in self._positions.items()}
        return found._replace(
            worth=self._valuations.worth(changed, now_ms),
            base=self._valuations.in_base(base, now_ms),
        )

    def _compare_partitions(self) -> None:
        """Compare once; a number that is not recorded yet, at the next look."""
        if self._partitions is not None:
            stream, found = self._partitions
            if (has := recorded(self._client, stream)) is not None:
                if has != found:
                    raise ValueError(disagreement(stream, has, found))
                self._partitions = None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self) -> tuple[Any, Any, tuple[Any, Any], list[Any], list[int], list["_Info"]]:
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(self._hash)
        pipe.hget(self._broker_hash, STATE)
        pipe.hgetall(breaks_key(self._broker_hash))
        pipe.hgetall(account_key(self._broker_hash))
        for letters in self._letters:
            pipe.xlen(letters)
        for stream in self._streams:
            send(pipe, "XINFO STREAM", stream)
            pipe.xinfo_groups(stream)
            pipe.xinfo_consumers(stream, GROUP)
        # After what it is of, or a valuation would look older than it is.
        if self._valuations is not None:
            pipe.hgetall(self._valuations.hash)
            pipe.get(totals_key(self._valuations.hash))
        answers = [_answer(answer) for answer in pipe.execute(raise_on_error=False)]
        base, valued = (None, {}) if self._valuations is None else (answers.pop(), answers.pop())
        time, values, *rest = answers
        broker, rest = rest[:3], rest[3:]
        lengths, rest = rest[: len(self._letters)], rest[len(self._letters) :]
        infos = list(map(_info, rest[::3], rest[1::3], rest[2::3]))
        return time, values, (valued, base), broker, lengths, infos

    def _oldest_waiting(self, infos: Sequence["_Info"]) -> list[str | None]:
        """Return each stream's first entry that is not committed, None where there is none."""
        pipe = self._client.pipeline(transaction=False)
        for stream, info in zip(self._streams, infos, strict=True):
            send(pipe, "XRANGE", stream, f"({info.committed_id}", "+", "COUNT", 1)
        return [entries[0][0].decode() if entries else None for entries in pipe.execute()]

    def _take(self, values: dict[bytes, bytes]) -> None:
        # In step at any moment: a value may be no position.
        for key in self._raw.keys() - values.keys():
            del self._raw[key], self._positions[key.decode(errors="backslashreplace")]
        for key, value in values.items():
            if self._raw.get(key) != value:
                name = key.decode(errors="backslashreplace")
                self._positions[name] = _position(name, value)
                self._raw[key] = value


class _Info(NamedTuple):
    """What the server says of a stream and its group."""

    entries: int
    newest_id: str
    committed_id: str
    lag: int | None
    flow_silent_s: float | None


def _info(stream: Any, groups: Any, consumers: Any) -> _Info:
    if stream is None:
        return _Info(0, FIRST_ID, FIRST_ID, 0, None)
    about = (
        dict(zip(stream[::2], stream[1::2], strict=True)) if isinstance(stream, list) else stream
    )
    entries, newest_id = int(about[b"length"]), about[b"last-generated-id"].decode()
    group = next((g for g in groups or () if g["name"] == GROUP.encode()), None)
    committed_id = group["last-delivered-id"].decode() if group else FIRST_ID
    lag = group.get("lag") if group else None
    if committed_id == FIRST_ID:
        lag = entries
    elif committed_id == newest_id:
        lag = 0
    silent = [c["idle"] / 1000 for c in consumers or () if c["name"] == CONSUMER.encode()]
    return _Info(entries, newest_id, committed_id, lag, min(silent, default=None))


def _stream_state(stream: str, info: _Info, oldest: str | None, now_ms: int) -> StreamState:
    committed = None if info.committed_id == FIRST_ID else info.committed_id
    return StreamState(
        stream=stream,
        entries=info.entries,
        newest_id=None if info.newest_id == FIRST_ID else info.newest_id,
        committed_id=committed,
        committed_age_s=None if committed is None else _age_s(committed, now_ms),
        lag=info.lag if oldest else 0,
        lag_s=_age_s(oldest, now_ms) if oldest else 0.0,
        flow_silent_s=info.flow_silent_s,
    )


def _answer(answer: Any) -> Any:
    """Return an answer, None for what is not there; raise any other error."""
    if isinstance(answer, redis.ResponseError) and _ABSENT.search(str(answer)):
        return None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _age_s(entry_id: str, now_ms: int) -> float:
    return max(0, now_ms - _milliseconds(entry_id)) / 1000


def _milliseconds(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


# --- positions ------------------------------------------------------------------------

_DECIMALS = {name for name, kind in Position.__annotations__.items() if "Decimal" in str(kind)}

_NEWER = {
    "sec_type": None, "con_id": None, "other_commissions": None, "basis_adjustment": Decimal(0),
}  # fmt: skip
"""What a value lacks that version 0.1.0 wrote; it stays until its position changes."""


def _position(key: str, value: bytes) -> Position:
    try:
        members = _NEWER | from_json(value)
        return Position(*(_member(name, members[name]) for name in Position._fields))
    except (ValueError, KeyError, TypeError) as error:
        raise NotOursError(
            f"position {key!r}: expected a JSON object with the members of a position, "
            f"found {value[:80]!r}"
        ) from error


def _member(name: str, value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and name not in _DECIMALS else value


_Held = tuple[Position, Worth | None]


def _total(currency: str, held: list[_Held]) -> Total:
    positions = [position for position, _ in held]
    valued = [(position, worth) for position, worth in held if worth is not None]
    # A flat position is worth nothing, whoever looks: it makes no sum a known one.
    open_ones = [worth for position, worth in valued if position.qty]
    known = [worth.unrealized_pnl for worth in open_ones if worth.unrealized_pnl is not None]
    days, totals = (
        [getattr(worth, name) for _, worth in valued if getattr(worth, name) is not None]
        for name in ("day_pnl", "total_pnl")
    )
    cost_basis, realized_pnl, commission, net_realized_pnl = (
        _sum(getattr(position, name) for position in positions)
        for name in ("cost_basis", "realized_pnl", "commission", "net_realized_pnl")
    )
    count = sum(1 for position in positions if position.qty)
    return Total(
        currency=currency,
        open=count,
        flat=len(positions) - count,
        cost_basis=cost_basis,
        realized_pnl=realized_pnl,
        commission=commission,
        net_realized_pnl=net_realized_pnl,
        unrealized_pnl=_sum(known) if known or (valued and not open_ones) else None,
        day_pnl=_sum(days) if days else None,
        total_pnl=_sum(totals) if totals else None,
        unvalued=len(valued) - len(totals),
        day_unknown=len(valued) - len(days),
        stale=sum(worth.state == STALE for worth in open_ones),
    )


def _sum(values: Iterable[Decimal]) -> Decimal:
    # The thread's own context would round.
    return reduce(_EXACT.add, values, Decimal(0))


def lags(client: redis.Redis, streams: Sequence[str]) -> list[int | None]:
    """Count the entries of each stream that are not committed; None if nobody can tell."""
    pipe = client.pipeline(transaction=False)
    for stream in streams:
        send(pipe, "XINFO STREAM", stream)
        pipe.xinfo_groups(stream)
    answers = [_answer(answer) for answer in pipe.execute(raise_on_error=False)]
    return [
        _info(stream, groups, None).lag
        for stream, groups in zip(answers[::2], answers[1::2], strict=True)
    ]
