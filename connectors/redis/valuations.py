"""The hash `valuations`: what a position's valuation is there, and the sink that writes it.

One process writes it, in order, so the last write is the newest. Only what changed is
written, at once.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.redis.link import RedisLink, StoppedError, send
from state.exact import MONEY_PLACES, PLACES, to_text
from state.records import id_order
from state.valuation import Holding, Valuation

log = logging.getLogger("lotstream.valuation")

LOOK_EVERY_S = 2.0
_AT_ONCE = 1000

_PLACES: Mapping[str, int] = {
    **dict.fromkeys(("multiplier", "qty", "mark_price"), PLACES),
    **dict.fromkeys(
        ("cost_basis", "market_value", "unrealized_pnl", "realized_pnl", "net_realized_pnl",
         "total_pnl", "day_pnl"), MONEY_PLACES,
    ),
    "mark_timestamp": 0,
}  # fmt: skip
"""The members that are numbers, and how many places their unit has."""
_MAY_BE_NULL = {
    "account", "mark_price", "mark_timestamp", "market_value", "unrealized_pnl", "total_pnl",
    "day_pnl",
}  # fmt: skip


class Valued(NamedTuple):
    """A valuation that is to be shown."""

    key: str
    valuation: Valuation
    at: int
    """When it was made, milliseconds since 1970."""


def to_json(valuation: Valuation) -> str:
    """Write a valuation as the hash's value, numbers exact, in the contract's order."""
    of = valuation
    mark_timestamp = "null" if of.mark_timestamp is None else of.mark_timestamp
    return (
        f"{_instrument_json(of[:4])}, "
        f'"qty": {to_text(of.qty)}, "cost_basis": {_money(of.cost_basis)}, '
        f'"mark_price": {"null" if of.mark_price is None else to_text(of.mark_price)}, '
        f'"mark_timestamp": {mark_timestamp}, "market_value": {_money(of.market_value)}, '
        f'"unrealized_pnl": {_money(of.unrealized_pnl)}, '
        f'"realized_pnl": {_money(of.realized_pnl)}, '
        f'"net_realized_pnl": {_money(of.net_realized_pnl)}, '
        f'"total_pnl": {_money(of.total_pnl)}, "day_pnl": {_money(of.day_pnl)}, '
        f'"day": "{of.day}", "state": "{of.state}", "stream_id": {json.dumps(of.stream_id)}}}'
    )


def _money(amount: int | None) -> str:
    return "null" if amount is None else to_text(amount, MONEY_PLACES)


@lru_cache(maxsize=100_000)
def _instrument_json(says: tuple[str | None, str, str, int]) -> str:
    """Write the members with which all values of a key begin alike, once for all of them."""
    account, symbol, currency, multiplier = says
    return (
        f'{{"account": {json.dumps(account)}, "symbol": {json.dumps(symbol)}, '
        f'"currency": {json.dumps(currency)}, "multiplier": {to_text(multiplier)}'
    )


def read_valuation(text: bytes) -> Valuation:
    """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    members = _numbers_as_text(text)
    return Valuation(*(_unit(name, members[name]) for name in Valuation._fields))


def read_holding(text: bytes) -> Holding:
    """Read a value of the hash `positions`; raises as `read_valuation`."""
    members = _numbers_as_text(text)
    holding = Holding(*(_unit(name, members[name]) for name in Holding._fields))
    id_order(holding.stream_id)
    return holding


def _numbers_as_text(text: bytes) -> dict[str, Any]:
    members: Any = json.loads(text, parse_float=str, parse_int=str)
    if not isinstance(members, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - of the text, that is
    return members


def _unit(name: str, member: Any) -> Any:
    if member is None and name in _MAY_BE_NULL:
        return None
    if not isinstance(member, str):
        raise TypeError(f"expected {name} to be a text or a number, found {member!r:.50}")
    places = _PLACES.get(name)
    if places is None:
        return member
    whole, _, fraction = member.partition(".")
    if len(fraction) > places:
        raise ValueError(f"expected {name} with at most {places} places, found {member}")
    return int(whole + fraction.ljust(places, "0"))


class ValuationHashSink(FixedPartitionedSink[Valued, None]):
    """Keep a hash at the latest valuation of each key; items are keyed by the hash's name."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link, self._name = link, name

    def list_parts(self) -> list[str]:
        """Name the hash."""
        return [self._name]

    def part_fn(self, item_key: str) -> int:
        """Return 0: there is one part."""
        del item_key
        return 0

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> "_ValuationHashPartition":
        """Begin with nothing held."""
        del step_id, resume_state
        return _ValuationHashPartition(self._link, for_part)


class _ValuationHashPartition(StatefulSinkPartition[Valued, None]):
    def __init__(self, link: RedisLink, name: str) -> None:
        self._link, self._name = link, name
        self._latest: dict[str, str] = {}
        """By key, the one that has not changed for longest first."""
        self._look_at = 0.0
        link.after_outage.append(lambda: self._write(dict(self._latest)))
        link.while_alive.append(self._write_what_was_deleted)

    def write_batch(self, values: list[Valued]) -> None:
        texts = {valued.key: to_json(valued.valuation) for valued in values}
        for key in texts:
            self._latest.pop(key, None)
        self._latest.update(texts)
        self._write(texts)

    def snapshot(self) -> None:
        """Nothing to keep: a start begins with the hashes."""

    def _write(self, texts: dict[str, str]) -> None:
        pairs = list(texts.items())
        for start in range(0, len(pairs), _AT_ONCE):
            words = [word for pair in pairs[start : start + _AT_ONCE] for word in pair]

            def put(client: redis.Redis, words: list[str] = words) -> None:
                send(client, "HSET", self._name, *words)

            try:
                self._link.call(put)
            except StoppedError:
                return  # the next start writes them

    def _write_what_was_deleted(self) -> None:
        # What has changed since was written since; the one that has not for longest tells.
        key = next(iter(self._latest), None)
        if key is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        with suppress(StoppedError):
            if not self._link.call(lambda client: client.hexists(self._name, key)):
                log.warning("the hash %s was deleted or evicted: written again", self._name)
                self._write(dict(self._latest))
