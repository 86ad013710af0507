"""The sink of current positions: a Redis hash, one field a key, its value one JSON object.

A field never goes back: the server compares entry ids before it writes, so that
neither a replay nor a second writer can show an older position than one that was
seen. While the flow catches up, only the last position of each key is written, about
once a second; once it is live, each one at once.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha1
from itertools import chain
from json import dumps

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from redis.exceptions import NoScriptError

from connectors.redis.changes_stream import ChangesStream, Shown
from connectors.redis.link import RedisLink, StoppedError, send_all
from state.exact import MONEY_PLACES, to_text
from state.records import Changes
from state.snapshot import PositionSnapshot

log = logging.getLogger("lotstream.positions")

WRITE_EVERY_S = 1.0
"""While catching up."""

LOOK_EVERY_S = 2.0
"""How often to look whether the hash is still there."""

_AT_ONCE = 1000

_Latest = tuple[str, PositionSnapshot]
"""A position, behind the entry that caused it."""

# The stream_id is the value's last member. An id is two whole numbers, so of two
# the longer is the larger, and of equally long ones the later in text order. With
# the longest id it takes 57 characters: no need to look at what precedes the last 60.
_WRITE_NEWER = """
local function newer(a, b)
    if #a ~= #b then return #a > #b end
    return a > b
end
for i = 1, #ARGV, 4 do
    local key, ms, seq, value = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local old = redis.call('HGET', KEYS[1], key)
    local old_ms, old_seq
    if old then old_ms, old_seq = string.match(old, '"stream_id": ?"(%d+)%-(%d+)"}$', -60) end
    if not old_ms or newer(ms, old_ms) or (ms == old_ms and newer(seq, old_seq)) then
        redis.call('HSET', KEYS[1], key, value)
    end
end
"""
_WRITE_NEWER_SHA = sha1(_WRITE_NEWER.encode(), usedforsecurity=False).hexdigest()


class PositionHashSink(FixedPartitionedSink[Changes, None]):
    """Keep a hash at the latest position of each key.

    Items are keyed by their source stream. Repeating a write changes nothing, and what
    a replay repeats the server passes over.

    changes: the stream of changes of each source stream, if there are any. changes_kept:
    about how many entries each keeps, 0 for no such streams. together: whether several
    workers or processes run. resumes: whether a restart shows positions again.
    """

    def __init__(
        self,
        link: RedisLink,
        streams: list[str],
        name: str,
        *,
        changes: Mapping[str, str] | None = None,
        changes_kept: int = 0,
        together: bool = False,
        resumes: bool = False,
    ) -> None:
        self._link, self._parts, self._name = link, sorted(streams), name
        self._changes = changes or {}
        self._changes_kept, self._together, self._resumes = changes_kept, together, resumes

    def list_parts(self) -> list[str]:
        """Name the source streams."""
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Return the place of a source stream in the sorted list of parts."""
        return self._parts.index(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> "_PositionHashPartition":
        """Begin with nothing held."""
        del step_id, resume_state
        changes = None
        if self._changes_kept:
            changes = ChangesStream(self._link, self._changes[for_part], self._changes_kept)
        return _PositionHashPartition(
            self._link,
            self._name,
            changes,
            holds_first=self._together or self._resumes,
            holds=self._together,
        )


class _PositionHashPartition(StatefulSinkPartition[Changes, None]):
    """Writes the positions of one stream's keys.

    holds, holds_first: whether changes wait for the end of the epoch, always and in the
    first one.
    """

    def __init__(
        self,
        link: RedisLink,
        name: str,
        changes: ChangesStream | None,
        *,
        holds: bool,
        holds_first: bool,
    ) -> None:
        self._link, self._name, self._changes = link, name, changes
        self._holds, self._holds_now = holds, holds_first
        self._held: dict[str, _Latest] = {}
        self._untold: dict[str, Shown] = {}
        """Of each key, what is in the hash and not yet among the changes."""
        self._latest: dict[str, _Latest] = {}
        """Of each key, held or written, the one that has not changed for longest first."""
        self._write_at = self._look_at = 0.0
        link.after_outage.append(self._write_all_again)
        link.while_alive.append(self._write_what_was_deleted)

    def write_batch(self, values: list[Changes]) -> None:
        by_key = {changes.key: (changes.stream_id, changes.position) for changes in values}
        self._held.update(by_key)
        for key in by_key:
            self._latest.pop(key, None)
        self._latest.update(by_key)
        if values[-1].live or time.monotonic() >= self._write_at:
            self._write_held()
            if not self._holds_now:
                self._write_changes()

    def snapshot(self) -> None:
        self._write_held()
        self._write_changes()
        self._holds_now = self._holds

    def _write_held(self) -> None:
        held, self._held = self._held, {}
        shown = self._write(held.items())
        if self._changes is not None:
            self._untold.update((one[0], one) for one in shown)
        self._write_at = time.monotonic() + WRITE_EVERY_S

    def _write_changes(self) -> None:
        if self._changes is None or not self._untold:
            return
        untold, self._untold = self._untold, {}
        try:
            self._changes.write(list(untold.values()))
        except StoppedError:
            log.warning("changes not written, as Redis is away: the next start writes them")

    def _write_all_again(self) -> None:
        # A server that was away may have come back without its last writes, though it
        # has the entries that caused them. Another part's thread may call this at any
        # time; no lock, since two that wait for each other's would wait for ever, and
        # the server takes what is written twice or late for what it is.
        self._write(list(self._latest.items()))
        self._check_changes()

    def _check_changes(self) -> None:
        if self._changes is not None:
            with suppress(StoppedError):  # the next start writes them
                self._changes.check()

    def _write_what_was_deleted(self) -> None:
        """Write all again if the hash was deleted, or evicted; so with the changes."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        self._check_changes()
        # What has changed since was written since; the one that has not for longest tells.
        with suppress(RuntimeError):  # another thread changes it at this moment: next time
            key = next(iter(self._latest), None)
            if key is not None and key not in self._held and not self._is_there(key):
                log.warning("the hash %s was deleted or evicted: written again", self._name)
                self._write_all_again()

    def _is_there(self, key: str) -> bool:
        return bool(self._link.call(lambda client: client.hexists(self._name, key)))

    def _write(self, latest: Iterable[tuple[str, _Latest]]) -> list[Shown]:
        """Write positions to the hash; return what it holds now, or something newer."""
        shown = [
            (key, stream_id, to_json(position, stream_id)) for key, (stream_id, position) in latest
        ]
        for start in range(0, len(shown), _AT_ONCE):
            args = list(chain.from_iterable(map(_script_args, shown[start : start + _AT_ONCE])))
            try:
                self._link.call(partial(self._run_script, args))
            except StoppedError:
                log.warning("positions not written, as Redis is away: the next start writes them")
                return []
        return shown

    def _run_script(self, args: list[str], client: redis.Redis) -> None:
        [answer] = send_all(client, ("EVALSHA", _WRITE_NEWER_SHA, 1, self._name, *args))
        if isinstance(answer, NoScriptError):  # until the server has seen it whole
            [answer] = send_all(client, ("EVAL", _WRITE_NEWER, 1, self._name, *args))
        if isinstance(answer, Exception):
            raise answer


def _script_args(shown: Shown) -> list[str]:
    key, stream_id, text = shown
    return [key, *stream_id.split("-"), text]


def to_json(position: PositionSnapshot, stream_id: str) -> str:
    """Write a position as the hash's value: numbers exact, in the contract's order.

    stream_id: the entry that caused it; the last member, where the server looks for it.
    """
    avg_price = "null" if position.avg_price is None else to_text(position.avg_price)
    last_price = "null" if position.last_price is None else to_text(position.last_price)
    timestamp = "null" if position.timestamp is None else position.timestamp
    return (
        f"{_instrument_json(position[:6])}, "
        f'"qty": {to_text(position.qty)}, "avg_price": {avg_price}, '
        f'"cost_basis": {to_text(position.cost_basis, MONEY_PLACES)}, '
        f'"realized_pnl": {to_text(position.realized_pnl, MONEY_PLACES)}, '
        f'"commission": {to_text(position.commission)}, '
        f'"other_commissions": {_others_json(position.other_commissions)}, '
        f'"basis_adjustment": {to_text(position.basis_adjustment)}, '
        f'"net_realized_pnl": {to_text(position.net_realized_pnl, MONEY_PLACES)}, '
        f'"open_lots": {position.open_lots}, "executions": {position.executions}, '
        f'"last_exec_id": {dumps(position.last_exec_id)}, "last_price": {last_price}, '
        f'"timestamp": {timestamp}, "stream_id": "{stream_id}"}}'
    )


def _others_json(others: tuple[tuple[str, int], ...]) -> str:
    if not others:
        return "null"
    return "{" + ", ".join(f"{dumps(name)}: {to_text(amount)}" for name, amount in others) + "}"


@lru_cache(maxsize=100_000)
def _instrument_json(says: tuple[str | None, str, str, int, str | None, int | None]) -> str:
    """Write the members with which all values of a key begin alike, once for all of them."""
    account, symbol, currency, multiplier, sec_type, con_id = says
    return (
        f'{{"account": {dumps(account)}, "symbol": {dumps(symbol)}, '
        f'"currency": {dumps(currency)}, "multiplier": {to_text(multiplier)}, '
        f'"sec_type": {dumps(sec_type)}, "con_id": {dumps(con_id)}'
    )
