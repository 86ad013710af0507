"""How many partitions a stream has: one number that all its users agree on.

The number decides which stream a key lives in, so two numbers at once would split a
key's book in silence. Redis keeps it beside the streams, in the key that is named as
the stream with `:partitions` behind: who starts first writes it, all others compare,
and only `flows.rescale` changes it, in one step with the streams themselves.
"""

from collections.abc import Sequence
from functools import partial

import redis

from connectors.redis.link import NotOursError, RedisLink, RedisRefusedError
from connectors.redis.names import count_key


class PartitionsError(RedisRefusedError):
    """The streams have another number of partitions than the caller takes them to have."""


def agree(link: RedisLink, streams: Sequence[str], *, record: bool = True) -> None:
    """Record how many partitions there are; if that is recorded already, compare.

    streams: all partitions in order, as in `Settings.streams`. record: False for who only looks.
    Raises PartitionsError if the numbers differ.
    """
    stream = streams[0] if len(streams) == 1 else streams[0].removesuffix(":0")
    ask = partial(_record, partitions=len(streams)) if record else recorded
    has = link.call(lambda client: ask(client, stream))
    if has is not None and has != len(streams):
        raise PartitionsError(disagreement(stream, has, len(streams)))


def disagreement(stream: str, has: int, found: int) -> str:
    """Say that a stream has another number of partitions than was found."""
    return (
        f"STREAM_PARTITIONS: expected {has}, as stream {stream!r} has had so far, found {found}; "
        f"to change it, stop all that writes and reads the stream and run flows.rescale"
    )


def recorded(client: redis.Redis, stream: str) -> int | None:
    """Return how many partitions a stream has, None if nobody has said yet.

    Raises NotOursError if something else stands there.
    """
    number = client.get(count_key(stream))
    if number is not None and not number.isdigit():
        raise NotOursError(f"{count_key(stream)}: expected a number of partitions, found "
                           f"{number[:80]!r}")  # fmt: skip
    return None if number is None else int(number)


def _record(client: redis.Redis, stream: str, partitions: int) -> int:
    # Asked first: a Redis that is out of memory takes no SET, and waits for the flow to trim.
    if recorded(client, stream) is None:
        client.set(count_key(stream), partitions, nx=True)
    return recorded(client, stream) or partitions
