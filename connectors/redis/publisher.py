"""Messages onto the streams that the flow reads: each key into its partition, once.

A key lives in partition crc32(key) mod N, key being `symbol` or `account:symbol`.
A producer of your own needs no more than

    Publisher(RedisLink(url, Event()), ["executions"]).publish({"symbol": "AAPL", ...})

Once: the server itself decides whether a message is new, in one script together with
adding it, so neither a lost reply nor a second producer can double it. It remembers
ids in a hash and, for forgetting them, in a sorted set of its own times, beside each
stream. Their names hold the stream's in braces, so that Redis Cluster keeps all three
in one slot. Whoever moves keys to other streams must copy these along.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import redis

from connectors.redis.link import RedisLink
from connectors.redis.names import once_keys
from connectors.redis.partitions import agree
from state.keys import partition_of, position_key

T = TypeVar("T")

REMEMBERED_MS = 10 * 24 * 3600 * 1000
"""How long an id is remembered after it was last offered; TWS lists at most 7 days."""
BATCH = 500
"""Messages per round trip."""

# KEYS: stream, versions (id -> version), times (id -> ms).
# ARGV: ms to remember, id, version, then the entry's fields and values.
# An id that is offered again stays remembered; its time is renewed once a day, which
# spares most offers a write. Each new entry forgets up to two old ids: they never pile up.
_ADD_ONCE = """
local keep, id, version = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HGET', KEYS[2], id) == version then
  if now - (tonumber(redis.call('ZSCORE', KEYS[3], id)) or 0) > 86400000 then
    redis.call('ZADD', KEYS[3], now, id)
  end
  return 0
end
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], id, version)
redis.call('ZADD', KEYS[3], now, id)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - keep, 'LIMIT', 0, 2)) do
  redis.call('HDEL', KEYS[2], old)
  redis.call('ZREM', KEYS[3], old)
end
return 1
"""
_ADD_ONCE_SHA = hashlib.sha1(_ADD_ONCE.encode(), usedforsecurity=False).hexdigest()


class Once(NamedTuple):
    """A message that must not be on its stream twice."""

    once_id: str
    """What the server remembers."""
    fields: Mapping[str, str]
    version: str = ""
    """The id is published again when this differs from the last one published."""


class Publisher:
    """Puts messages onto their streams, waiting as long as Redis is away.

    Raises PartitionsError, a RedisRefusedError, with the first message, if the streams
    have another number of partitions.

    streams: all partitions in order, as in `Settings.streams`, also those that this
    process does not read.
    """

    def __init__(self, link: RedisLink, streams: Sequence[str]) -> None:
        self._link = link
        self._streams = streams
        self._agreed = False

    def stream_of(self, fields: Mapping[str, str]) -> str:
        """Return the stream where the message's key lives."""
        key = position_key(fields["symbol"], fields.get("account") or None)
        return self._streams[partition_of(key, len(self._streams))]

    def publish(self, *messages: Mapping[str, str]) -> None:
        """Add the messages in their order, at least once each.

        After a reply lost in an outage one can be there twice. The flow ignores an
        execution or commission it knows; a split or an opening needs `publish_once`.
        """
        self._agree()
        for batch in _batches(messages):
            self._link.call(partial(self._add, batch))

    def publish_once(self, *messages: Once) -> list[bool]:
        """Add, in their order, the messages that are new; tell for each whether it was.

        Safe to repeat, also after a crash at any instant.
        """
        self._agree()
        added: list[bool] = []
        for batch in _batches(messages):
            added += self._link.call(partial(self._add_once, batch))
        return added

    def _agree(self) -> None:
        if not self._agreed:
            agree(self._link, self._streams)
            self._agreed = True

    def _add(self, batch: list[Mapping[str, str]], client: redis.Redis) -> None:
        pipeline = client.pipeline(transaction=False)
        for fields in batch:
            pipeline.xadd(self.stream_of(fields), dict(fields.items()))
        pipeline.execute()

    def _add_once(self, batch: list[Once], client: redis.Redis) -> list[bool]:
        pipeline = client.pipeline(transaction=False)
        # Loaded each time: a server that was started anew no longer knows the script.
        pipeline.script_load(_ADD_ONCE)
        for once_id, fields, version in batch:
            keys = once_keys(self.stream_of(fields))
            words = chain.from_iterable(fields.items())
            pipeline.evalsha(
                _ADD_ONCE_SHA, len(keys), *keys, REMEMBERED_MS, once_id, version, *words
            )
        return [added == 1 for added in pipeline.execute()[1:]]


def _batches(messages: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(messages)
    while batch := list(islice(rest, BATCH)):
        yield batch
