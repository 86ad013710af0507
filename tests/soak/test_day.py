"""A day's entries in minutes, with faults all along: all of it once, and memory flat.

LOTSTREAM_SOAK_DAY says how many entries.
"""

import os
import pickle
import random
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import redis as redis_py

from tests.conftest import OwnServer
from tests.support import chaos, naive
from tests.support.flow_process import (
    FlowProcess,
    Row,
    group,
    info,
    parse,
    parts,
    read_hash,
    read_stream,
)
from tests.support.servers import RedisServer

ENTRIES = int(os.environ.get("LOTSTREAM_SOAK_DAY", "1000000"))
_HOURS, _AT_ONCE, _KEYS = 24, 500, 40
_FAULTS = 10
"""An hour, at most."""
STREAM = "executions"

_Entry = tuple[str, list[bytes]]
_Sum = tuple[int, int]
"""How many rows there are, and the sum of their digests."""


class Sample(NamedTuple):
    """At the end of an hour, when all is committed."""

    memory_mb: int
    recovery_mb: float


class Day:
    """A flow, a server and a feed, with whatever befalls them."""

    def __init__(
        self, flow: FlowProcess, server: RedisServer, rng: random.Random, directory: Path
    ) -> None:
        """directory: takes the entries, since there may be more than memory holds."""
        self._flow, self._server, self._rng = flow, server, rng
        self._trader = chaos.Trader(rng, _KEYS)
        self._directory = directory
        directory.mkdir()
        self._published: dict[str, list[_Entry]] = {}
        self.faults = 0

    def hour(self) -> Sample:
        """Publish an hour's entries with faults between; the flow is killed at its end."""
        times = ENTRIES // _HOURS // _AT_ONCE
        with_fault = self._rng.sample(range(times), min(_FAULTS, times // 4))
        for number in range(times):
            self._publish()
            if number in with_fault:
                self.faults += 1
                self._rng.choice((self._server_dies, self._flow_dies, self._flow_stands_still))()
        with self._server.client() as client:
            self._flow.until(lambda: _is_committed(client), "all committed", 600)
        self._put_away()
        return self._sample()

    def end(self) -> None:
        """Kill the flow and start it."""
        self._flow.kill()
        self._flow.start()

    def _publish(self) -> None:
        made = [self._trader.next()[0] for _ in range(_AT_ONCE)]
        with self._server.client() as client, client.pipeline(transaction=False) as pipe:
            for fields in made:
                pipe.xadd(STREAM, fields)
            ids = pipe.execute()
        for entry_id, fields in zip(ids, made, strict=True):
            pairs = [word.encode() for pair in fields.items() for word in pair]
            key = f"{fields['account']}:{fields['symbol']}"
            self._published.setdefault(key, []).append((entry_id.decode(), pairs))

    def _put_away(self) -> None:
        """Add to each key's file what was published of it."""
        published, self._published = self._published, {}
        for key, entries in published.items():
            with (self._directory / key.encode().hex()).open("ab") as file:
                pickle.dump(entries, file)

    def published(self) -> list[Path]:
        """Return a file for each key."""
        return sorted(self._directory.iterdir())

    def _server_dies(self) -> None:
        self._server.kill()
        time.sleep(self._rng.random())
        self._server.start()

    def _flow_dies(self) -> None:
        chaos.kill_somewhere(self._flow, self._rng)
        self._flow.start()

    def _flow_stands_still(self) -> None:
        self._flow.send(signal.SIGSTOP)
        self._publish()
        time.sleep(self._rng.random())
        self._flow.send(signal.SIGCONT)

    def _sample(self) -> Sample:
        status = Path(f"/proc/{self._flow.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s*(\d+) kB", status)
        assert resident
        sizes = [path.stat().st_size for path in self._flow.recovery_dir.iterdir()]
        return Sample(int(resident[1]) // 1024, sum(sizes) / 1e6)


def _is_committed(client: redis_py.Redis) -> bool:
    with suppress(redis_py.RedisError):
        return bool(group(client) == info(client)["last-generated-id"].decode())
    return False


def _digest(row: Row) -> int:
    """Return a number for a row; the sum of all does not depend on their order."""
    said = {name: _plain(value) for name, value in row.items() if name != "date"}
    return int.from_bytes(blake2b(_plain(said).encode(), digest_size=8).digest(), "big")


def _plain(value: object) -> str:
    """Write equal values alike."""
    match value:
        case Decimal():
            return str(value.as_integer_ratio())
        case datetime():
            return value.isoformat()
        case dict():
            return repr(sorted((name, _plain(one)) for name, one in value.items()))
        case _:
            return repr(value)


def _summed(rows: Iterable[Row]) -> _Sum:
    count = total = 0
    for row in rows:
        count, total = count + 1, total + _digest(row)
    return count, total


def _rows_of(part: Path) -> Iterator[Row]:
    for row in pq.ParquetFile(part).read().to_pylist():
        if others := row.get("other_commissions"):
            row["other_commissions"] = parse(others)
        yield row


def _written(part: Path) -> _Sum:
    """Sum up a file's rows."""
    return _summed(_rows_of(part))


def _entries_of(path: Path) -> Iterator[_Entry]:
    with path.open("rb") as file, suppress(EOFError):
        while True:
            yield from pickle.load(file)  # noqa: S301  # the test's own


def _expected(path: Path) -> tuple[dict[str, Row], int, _Sum, _Sum]:
    """Return a key's hash value, how many dead letters it has, and its rows, summed up."""
    found = naive.by_book(STREAM, _entries_of(path))
    return found.hash, len(found.dead), _summed(found.positions), _summed(found.closed_lots)


def compare(flow: FlowProcess, server: RedisServer, day: Day) -> tuple[int, int]:
    """Assert that all is as the naive book has it; return how many rows and letters there are."""
    with ProcessPoolExecutor() as pool:
        written = [
            _total(pool.map(_written, parts(flow.data_dir, name), chunksize=50))
            for name in ("positions", "closed_lots")
        ]
        hashes, dead, *wanted = zip(*pool.map(_expected, day.published()), strict=True)
    assert written == list(map(_total, wanted))
    with server.client() as client:
        assert read_hash(client) == dict(chain.from_iterable(one.items() for one in hashes))
        assert len(read_stream(client, "executions:dead")) == sum(dead)
    return written[0][0], sum(dead)


def _total(sums: Iterable[_Sum]) -> _Sum:
    counts, totals = zip(*sums, strict=True)
    return sum(counts), sum(totals)


@pytest.mark.soak
@pytest.mark.timeout(8 * 3600)
def test_a_day_with_faults_all_along(
    own_server: OwnServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(chaos.new_seed())
    server = own_server(appendonly=True, appendfsync="no", aof_use_rdb_preamble="yes")
    began = time.monotonic()
    # Some minutes are kept, else the server's restarts would take longer and longer.
    with FlowProcess(tmp_path / "flow", server.url, STREAM_RETENTION_HOURS="0.05") as flow:
        day = Day(flow, server, rng, tmp_path / "published")
        samples = []
        for _ in range(_HOURS):
            samples.append(day.hour())
            day.end()
        assert flow.stop() == 0
    took = time.monotonic() - began
    rows, dead = compare(flow, server, day)
    memory = [sample.memory_mb for sample in samples]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{ENTRIES} entries in {took:.0f} s, {day.faults + _HOURS} faults, "
            f"{rows} rows, {dead} dead letters: 0 lost, 0 doubled, 0 wrong; "
            f"memory {memory} MB, recovery directory "
            f"{[round(sample.recovery_mb, 1) for sample in samples]} MB\n"
        )
    # In the first hours the books come to remember as much as they ever will.
    assert max(memory[18:]) < 1.3 * max(memory[6:12])
