"""Several flows on one stream's partitions: what goes in, and what must come out.

A `Ledger` publishes made-up entries, each key to its partition, and remembers them,
whatever becomes of the streams. What must come out of all of it is worked out by
`tests.support.naive`, entry by entry; it does not depend on which process booked what.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from flows.common.settings import partition_names
from state.keys import partition_of
from tests.support import naive
from tests.support.chaos import Trader
from tests.support.flow_process import FlowProcess, Outcome, Row, outcome, read_stream

KEYS = 12


class Seen(NamedTuple):
    """An outcome in a form that does not tell which stream an entry was in."""

    hash: dict[str, Row]
    positions: list[Row]
    closed_lots: list[Row]
    dead: list[Any]


class Ledger:
    """Publishes, and knows all that it has published."""

    def __init__(self, client: redis.Redis, seed: int, *, wild: bool = True) -> None:
        self._client = client
        self._trader = Trader(random.Random(seed), KEYS, wild=wild)
        self.entries: list[tuple[str, list[bytes]]] = []

    def publish(self, count: int, partitions: int, stream: str = "executions") -> None:
        """Add entries to the partitions of a stream."""
        streams = partition_names(stream, partitions)
        made = [self._trader.next()[0] for _ in range(count)]
        with self._client.pipeline(transaction=False) as pipe:
            for fields in made:
                pipe.xadd(streams[home(fields, partitions)], fields)  # type: ignore[arg-type]
            ids = pipe.execute()
        for entry_id, fields in zip(ids, made, strict=True):
            pairs = [word.encode() for pair in fields.items() for word in pair]
            self.entries.append((entry_id.decode(), pairs))

    def expected(self) -> Seen:
        """Work out what all of it leads to."""
        by_key: dict[bytes, list[tuple[str, list[bytes]]]] = {}
        for entry_id, pairs in self.entries:
            said = dict(zip(pairs[::2], pairs[1::2], strict=True))
            key = said.get(b"account", b"") + b":" + said[b"symbol"]
            by_key.setdefault(key, []).append((entry_id, pairs))
        outcomes = [naive.by_book("", entries) for entries in by_key.values()]
        # Before they are put together: there, two letters of one id would be one.
        dead = [letter for of_key in outcomes for letter in of_key.dead.items()]
        return _seen(naive.both(outcomes), dead)


def home(fields: dict[str, str], partitions: int) -> int:
    """Return the partition where the key of these fields lives."""
    account = f"{fields['account']}:" if "account" in fields else ""
    return partition_of(account + fields["symbol"], partitions)


def found(
    client: redis.Redis,
    data_dir: Path,
    partitions: int,
    *,
    stream: str = "executions",
    name: str = "positions",
) -> Seen:
    """Read back all that the flows of a stream have written; name: their hash."""
    boxes = partition_names(f"{stream}:dead", partitions)
    dead = [letter for box in boxes for letter in read_stream(client, box)]
    return _seen(outcome(client, data_dir, name=name), dead)


def _seen(of: Outcome, dead: Sequence[tuple[str, list[bytes]]]) -> Seen:
    # Two streams may use the same id, so ids alone are no order.
    def order(row: Row) -> tuple[Any, ...]:
        return (row["symbol"], row["account"] or "")

    letters = sorted((entry_id, fields[:-4], fields[-2:]) for entry_id, fields in dead)
    return Seen(
        of.hash, sorted(of.positions, key=order), sorted(of.closed_lots, key=order), letters
    )


def flow_of(directory: Path, redis_url: str, partition: int, partitions: int) -> FlowProcess:
    """Return a flow of one partition, with a recovery directory of its own and shared data."""
    return FlowProcess(
        directory / f"flow-{partition}",
        redis_url,
        STREAM_PARTITIONS=str(partitions),
        OWN_PARTITIONS=str(partition),
        DATA_DIR=str(directory / "data"),
    )
