"""The hash `instruments`: what each contract is called, and what was found out about it.

The field is the con_id, the value a JSON object. A person may correct one; it is read
when a program starts. Which names are taken, and by whom, stands beside it, so that two
programs that name contracts at once give no two the same name. The server decides, in
one script.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import redis

from connectors.redis.link import NotOursError, RedisLink

Record = dict[str, str | None]

# KEYS: the hash, the names. ARGV: con_id, JSON without the name ("" for none), names.
# Beside name -> con_id, the names have :con_id -> name.
_CLAIM = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return known end
local name = redis.call('HGET', KEYS[2], ':' .. ARGV[1])
for i = 3, #ARGV do
  if name then break end
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[1]) == 1 then name = ARGV[i] end
end
if not name then return redis.error_reply('ERR no name is left for ' .. ARGV[1]) end
redis.call('HSET', KEYS[2], ':' .. ARGV[1], name)
local named = '{"name": ' .. cjson.encode(name) .. '}'
if ARGV[2] == '' then return named end
named = string.sub(ARGV[2], 1, -2) .. ', ' .. string.sub(named, 2)
redis.call('HSET', KEYS[1], ARGV[1], named)
return named
"""

# KEYS: the names. ARGV: con_id, name. A contract keeps the name under which it is booked.
_RESERVE = """
if redis.call('HSETNX', KEYS[1], ':' .. ARGV[1], ARGV[2]) == 1 then
  redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[1])
end
"""


class InstrumentHash:
    """Remembers contracts and gives each a name of its own; its calls wait for Redis.

    name: the hash's. positions_hash: where contracts may be booked already, under a name
    that they then keep.
    """

    def __init__(self, link: RedisLink, name: str, positions_hash: str) -> None:
        self._link, self._name, self._positions = link, name, positions_hash
        self._names = names_key(name)
        self._claim = link.client.register_script(_CLAIM)
        self._reserve = link.client.register_script(_RESERVE)

    def known(self) -> dict[int, Record]:
        """Return all that is remembered, by con_id, and keep the names of what is booked."""
        for con_id, name in self._link.call(self._booked).items():
            self._link.call(partial(self._keep_name, con_id, name))
        values: Any = self._link.call(lambda client: client.hgetall(self._name))
        return {_number(con_id): _record(con_id, value) for con_id, value in values.items()}

    def claim(self, con_id: int, names: Sequence[str], record: Mapping[str, Any] | None) -> Record:
        """Give a contract the first of the names that no other has, unless it has one.

        record: what to remember beside the name, None for nothing. Returns what is
        remembered, or only the name.
        """
        members = {k: v for k, v in (record or {}).items() if k != "name"}
        args: list[str | int] = [con_id, json.dumps(members) if members else "", *names]
        value = self._link.call(lambda _: self._claim([self._name, self._names], args))
        return _record(str(con_id).encode(), value)

    def share(self, con_id: int, names: Sequence[str], record: Mapping[str, Any]) -> Record:
        """Give a contract the one name of another: a corporate action gave it a new number.

        Returns what is remembered, which is another name if it had one already.
        """
        [name] = names
        text = json.dumps({**record, "name": name})
        self._link.call(partial(self._keep_name, str(con_id), name))
        self._link.call(lambda client: client.hsetnx(self._name, str(con_id), text))
        value: Any = self._link.call(lambda client: client.hget(self._name, str(con_id)))
        return _record(str(con_id).encode(), value)

    def _keep_name(self, con_id: str, name: str, _client: redis.Redis) -> None:
        self._reserve([self._names], [con_id, name])

    def _booked(self, client: redis.Redis) -> dict[str, str]:
        """Return, by con_id, the symbol under which a contract is booked and not named yet."""
        values: Any = client.hvals(self._positions)
        named: Any = client.hgetall(self._names)
        booked: dict[str, str] = {}
        for value in values:
            con_id, symbol = _contract(value)
            if con_id is not None and f":{con_id}".encode() not in named:
                booked[str(con_id)] = symbol
        return booked


def names_key(name: str) -> str:
    """Name the key that holds who has which name, in the hash's slot of Redis Cluster."""
    return f"{name if '{' in name else f'{{{name}}}'}:names"


def _contract(value: bytes) -> tuple[int | None, str]:
    """Return which contract a position is of, and its symbol."""
    try:
        position = json.loads(value)
        return position.get("con_id"), position["symbol"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotOursError(
            f"the hash of positions: expected JSON objects with the members of a position, found "
            f"{value[:80]!r}"
        ) from error


def _number(con_id: bytes) -> int:
    if not con_id.isdigit():
        raise NotOursError(f"instrument {con_id!r}: expected a con_id, which is a number")
    return int(con_id)


def _record(con_id: bytes, value: bytes) -> Record:
    try:
        members = json.loads(value)
        texts = {name: None if text is None else str(text) for name, text in members.items()}
    except (ValueError, AttributeError) as error:
        raise NotOursError(
            f"instrument {con_id.decode()}: expected a JSON object such as "
            f'{{"name": "ZWN6", "multiplier": "50"}}, found {value[:80]!r}'
        ) from error
    if (multiplier := texts.get("multiplier")) and not _is_above_0(multiplier):
        raise NotOursError(
            f"instrument {con_id.decode()}: multiplier: expected money per point, a number above 0 "
            f"(or null, if it is not known), found {multiplier!r}"
        )
    return texts


def _is_above_0(text: str) -> bool:
    try:
        return 0 < Decimal(text) < Decimal("Infinity")
    except InvalidOperation:
        return False
