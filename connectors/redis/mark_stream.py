"""The stream of marks, as the router writes it, and what is held, as it asks for marks.

A mark that is newer replaces an older one of the same symbol, so what cannot be written
in time is left out rather than kept: a stream of prices owes nobody each of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from connectors.redis.exact_json import from_json
from connectors.redis.link import RedisLink


class MarkStream:
    """Adds marks to a stream of which about the last `kept` entries stay; waits for Redis."""

    def __init__(self, link: RedisLink, name: str, kept: int) -> None:
        self._link, self._name, self._kept = link, name, kept

    def write(self, marks: Iterable[Mapping[str, str]]) -> None:
        """Add marks, each as its fields, in their order."""
        entries = [dict(mark) for mark in marks]

        def add(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            for fields in entries:
                pipe.xadd(self._name, fields, maxlen=self._kept, approximate=True)
            pipe.execute()

        self._link.call(add)


class HeldContracts:
    """Reads from the hash `positions` which contracts are held; waits for Redis."""

    def __init__(self, link: RedisLink, positions_hash: str) -> None:
        self._link, self._hash = link, positions_hash
        self._seen: dict[bytes, tuple[bytes, tuple[int, str] | None]] = {}

    def read(self) -> dict[int, frozenset[str]]:
        """Return the symbols of each con_id that is held; what names none is left out."""
        values: Any = self._link.call(lambda client: client.hgetall(self._hash))
        seen = self._seen
        self._seen = {
            key: kept if (kept := seen.get(key)) and kept[0] == value else (value, _held(value))
            for key, value in values.items()
        }
        found: dict[int, set[str]] = {}
        for _, held in self._seen.values():
            if held is not None:
                found.setdefault(held[0], set()).add(held[1])
        return {con_id: frozenset(symbols) for con_id, symbols in found.items()}


def _held(value: bytes) -> tuple[int, str] | None:
    try:
        members = from_json(value)
        if members["qty"] and members["con_id"] is not None:
            return int(members["con_id"]), str(members["symbol"])
    except (ValueError, KeyError, TypeError):
        return None  # who compares positions says so
    return None
