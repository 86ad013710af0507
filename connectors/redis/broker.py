"""The hash `broker`: what the broker holds, and whether that is known at the moment.

A field is a key, its value a JSON object. The field `:state` says for which accounts
the positions are known, and when the router said so last, by the server's clock. The
breaks that the router has found and the account's own figures stand beside it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import redis

from connectors.redis.broker_state import (
    STALE_S,
    STATE,
    account_key,
    breaks_key,
    known_accounts,
)
from connectors.redis.exact_json import from_json
from connectors.redis.link import NotOursError, RedisLink
from connectors.redis.overview import lags
from state.breaks import Difference, Side
from state.keys import position_key, split_key

# KEYS: the hash. ARGV: how many accounts, the accounts, then keys and values in turn.
_WRITE = """
local own, new = {}, {}
local accounts = tonumber(ARGV[1])
for i = 2, 1 + accounts do own[ARGV[i]] = true end
for i = 2 + accounts, #ARGV, 2 do
  new[ARGV[i]] = true
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for _, key in ipairs(redis.call('HKEYS', KEYS[1])) do
  local account = string.match(key, '^([^:]+):')
  if account and own[account] and not new[key] then redis.call('HDEL', KEYS[1], key) end
end
"""

# KEYS: the hash. ARGV: 1 if known, after how many ms it is stale, the accounts.
_SHOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local old, accounts = redis.call('HGET', KEYS[1], ':state'), {}
if old then
  for account, at in pairs(cjson.decode(old)['accounts'] or {}) do
    if now - at <= tonumber(ARGV[2]) then accounts[account] = at end
  end
end
for i = 3, #ARGV do accounts[ARGV[i]] = ARGV[1] == '1' and now or nil end
local known = next(accounts) ~= nil and 'true' or 'false'
redis.call('HSET', KEYS[1], ':state', string.format(
  '{"known": %s, "as_of": %.0f, "accounts": %s}', known, now, cjson.encode(accounts)))
"""


class BrokerPosition(NamedTuple):
    """A position as the hash has it; figures are decimal texts."""

    account: str
    symbol: str
    qty: str
    avg_price: str
    """"" if what a point is worth is not known."""
    con_id: str
    as_of: int
    """When it was heard of, in milliseconds since 1970."""


class BrokerHash:
    """What a router writes of the broker's side; its calls wait for Redis."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link, self._name = link, name
        self._write = link.client.register_script(_WRITE)
        self._show = link.client.register_script(_SHOW)

    def write(self, positions: Iterable[BrokerPosition], accounts: Sequence[str]) -> None:
        """Make these the positions of the accounts, all at once."""
        fields = {position_key(each.symbol, each.account): _json(each) for each in positions}
        args: list[str | int] = [len(accounts), *accounts, *chain.from_iterable(fields.items())]
        self._link.call(lambda _: self._write([self._name], args))

    def show(self, accounts: Sequence[str], *, known: bool) -> None:
        """Say whether the positions of the accounts are known."""
        args: list[str | int] = [int(known), int(STALE_S * 1000), *accounts]
        self._link.call(lambda _: self._show([self._name], args))

    def breaks(self) -> list[str]:
        """Return the keys that have a break, as was written last."""
        keys: Any = self._link.call(lambda client: client.hkeys(breaks_key(self._name)))
        return [key.decode() for key in keys]

    def write_breaks(self, breaks: Mapping[str, str], ended: Iterable[str]) -> None:
        """Write breaks as JSON, by key, and remove those that have ended."""
        self._hset(breaks_key(self._name), breaks, list(ended))

    def write_account(self, accounts: Mapping[str, str]) -> None:
        """Write the accounts' own figures as JSON, by account."""
        self._hset(account_key(self._name), accounts, [])

    def _hset(self, name: str, fields: Mapping[str, str], gone: list[str]) -> None:
        def write(client: redis.Redis) -> None:
            pipe = client.pipeline(transaction=True)
            if fields:
                pipe.hset(name, items=[*chain.from_iterable(fields.items())])
            if gone:
                pipe.hdel(name, *gone)
            pipe.execute()

        self._link.call(write)


class BothSides(NamedTuple):
    """Our positions and the broker's, read at once."""

    ours: Mapping[str, Side]
    broker: Mapping[str, Side]
    accounts: Sequence[str]
    """Those whose positions at the broker are known at the moment."""
    booked: bool
    """Whether all entries of the streams are booked."""


class BothSidesReader:
    """Reads both hashes; what has not changed since is not read again."""

    def __init__(
        self, link: RedisLink, *, positions_hash: str, broker_hash: str, streams: Sequence[str]
    ) -> None:
        self._link, self._streams = link, streams
        self._hashes = (positions_hash, broker_hash)
        # redis-py makes a dict of it that depends on the server's version.
        link.client.set_response_callback("XINFO STREAM", lambda reply, **_: reply)
        self._sides: tuple[dict[bytes, tuple[bytes, Side]], ...] = ({}, {})

    def read(self) -> BothSides:
        """Look. Raises ValueError, naming the key, if a value is no position."""
        ours, broker, accounts, booked = self._link.call(self._ask)
        return BothSides(self._take(0, ours), self._take(1, broker), accounts, booked)

    def _ask(self, client: redis.Redis) -> tuple[Any, Any, list[str], bool]:
        # The lag first: what is booked by then is in the hash that is read after it.
        booked = not any(lag != 0 for lag in lags(client, self._streams))
        pipe = client.pipeline(transaction=False)
        for name in self._hashes:
            pipe.hgetall(name)
        pipe.time()
        ours, broker, (seconds, micros) = pipe.execute()
        state = broker.pop(STATE.encode(), None)
        return ours, broker, known_accounts(state, seconds * 1000 + micros // 1000), booked

    def _take(self, index: int, values: Mapping[bytes, bytes]) -> dict[str, Side]:
        before = self._sides[index]
        now = {}
        for key, value in values.items():
            kept = before.get(key)
            now[key] = kept if kept and kept[0] == value else (value, _side(key, value))
        before.clear()
        before.update(now)
        return {key.decode(): side for key, (_, side) in now.items()}


def difference_json(difference: Difference, since_ms: int) -> str:
    """Write a break as its hash has it; since_ms: when it was found."""
    members: dict[str, Any] = difference._asdict()
    figures = ", ".join(
        f'"{name}": {members[name]:f}' if isinstance(members[name], Decimal)
        else f'"{name}": {json.dumps(members[name])}'
        for name in members
    )  # fmt: skip
    return f'{{{figures}, "since": {since_ms}}}'


def _json(position: BrokerPosition) -> str:
    return (
        f'{{"qty": {position.qty}, "avg_price": {position.avg_price or "null"}, '
        f'"con_id": {position.con_id or "null"}, "as_of": {position.as_of}}}'
    )


def _side(key: bytes, value: bytes) -> Side:
    """Read a position of ours, or of the broker, whose values do not repeat their key."""
    try:
        members = from_json(value)
        account, symbol = split_key(key.decode())
        con_id = members.get("con_id")
        return Side(
            members.get("account", account) or None,
            members.get("symbol", symbol),
            members["qty"],
            members["avg_price"],
            None if con_id is None else str(con_id),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotOursError(
            f"position {key.decode(errors='backslashreplace')!r}: expected a JSON object with "
            f"qty and avg_price, found {value[:80]!r}"
        ) from error
