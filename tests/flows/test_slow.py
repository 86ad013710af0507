"""A slow disk, a slow Redis, a log that nobody reads, a clock that jumps: late, never wrong.

A little of each here, much of it in `make soak`: that also sees that memory stays bounded.
"""

import os
import re
import socket
import socketserver
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
import redis as redis_py

from tests.support import needs
from tests.support.chaos import new_seed
from tests.support.flow_process import ROOT, FlowProcess
from tests.support.scaling import Ledger, found
from tests.support.system_calls import Call, Held

_MOST_KB = 600_000

sizes = pytest.mark.parametrize(
    ("entries", "delay_s"),
    [
        pytest.param(600, 0.01, id="a little"),
        pytest.param(20_000, 0.5, id="much", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)


@pytest.fixture
def ledger(redis: redis_py.Redis) -> Ledger:
    return Ledger(redis, new_seed())


def publish_in_parts(ledger: Ledger, entries: int) -> None:
    for _ in range(10):
        ledger.publish(entries // 10, 1)
        time.sleep(0.1)


def assert_it_comes_through(flow: FlowProcess, redis: redis_py.Redis, ledger: Ledger) -> None:
    """Assert that it catches up, has stayed small, stops, and has done all of it once."""
    flow.until(lambda: _committed(flow, redis), "all committed", 1200)
    status = Path(f"/proc/{flow.pid}/status")
    if status.exists():
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        assert peak
        assert int(peak[1]) < _MOST_KB
    assert flow.stop() == 0
    assert found(redis, flow.data_dir, 1) == ledger.expected()


def _committed(flow: FlowProcess, redis: redis_py.Redis) -> bool:
    [group] = redis.xinfo_groups("executions") or [{}]
    newest = redis.xinfo_stream("executions")["last-generated-id"]
    return bool(group.get("last-delivered-id") == newest)


@sizes
def test_a_slow_disk(
    redis: redis_py.Redis, redis_url: str, ledger: Ledger, tmp_path: Path,
    entries: int, delay_s: float,
) -> None:  # fmt: skip
    def look(call: Call) -> None:
        if call.kind in {"fsync", "fdatasync"}:
            time.sleep(delay_s)

    held = Held()
    flow = FlowProcess(tmp_path, redis_url, prefix=held.prefix)
    with held.watched(look), flow:
        publish_in_parts(ledger, entries)
        assert_it_comes_through(flow, redis, ledger)


@contextmanager
def slow_way(port: int, delay_s: float) -> Iterator[int]:
    """Give a port from which all goes to another, each piece after a while."""

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                answers = Thread(target=pump, args=(server, self.request))
                answers.start()
                pump(self.request, server)
                answers.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one of them has gone
            return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


@sizes
def test_a_slow_redis(
    redis: redis_py.Redis, redis_url: str, ledger: Ledger, tmp_path: Path,
    entries: int, delay_s: float,
) -> None:  # fmt: skip
    port = redis.connection_pool.connection_kwargs["port"]
    with (
        slow_way(port, delay_s) as slow_port,
        FlowProcess(tmp_path, f"redis://127.0.0.1:{slow_port}/0") as flow,
    ):
        publish_in_parts(ledger, entries)
        assert_it_comes_through(flow, redis, ledger)


@sizes
def test_a_log_that_nobody_reads_for_a_while(
    redis: redis_py.Redis, redis_url: str, ledger: Ledger, tmp_path: Path,
    entries: int, delay_s: float,
) -> None:  # fmt: skip
    """A full pipe stops the flow, as it does any program; it goes on when someone reads."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    to_pipe = ("sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", str(pipe))
    flow = FlowProcess(tmp_path / "flow", redis_url, prefix=to_pipe, LOG_LEVEL="DEBUG")
    with os.fdopen(reader, "rb") as log, flow:
        for _ in range(100):  # each dead letter is a line; the pipe has room for hundreds
            redis.xadd("executions", {"side": "x" * 1000})
        redis.delete("executions")
        publish_in_parts(ledger, entries)
        reading = Thread(target=lambda: [None for _ in iter(lambda: log.read(1 << 16), b"")])
        reading.start()
        assert_it_comes_through(flow, redis, ledger)
        reading.join()


_DAY = 86_400
_CLOCKS = (0, 400 * _DAY, -7200, -1000 * _DAY, 7300 * _DAY, 0, 0, 2, 0)
"""Seconds ahead of what is right; two seconds back are waited for."""


@sizes
def test_a_clock_that_jumps(
    redis: redis_py.Redis, redis_url: str, ledger: Ledger, tmp_path: Path,
    entries: int, delay_s: float,
) -> None:  # fmt: skip
    """Set back far, the flow says so and ends; whatever it says, only what is committed is
    trimmed. In between it is killed."""
    needs.need("gcc")
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    source = ROOT / "tests/support/clock.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", library, source], check=True)
    clock.write_text("0")
    flow = FlowProcess(
        tmp_path / "flow", redis_url, STREAM_RETENTION_HOURS="1", LD_PRELOAD=str(library),
        CLOCK_AHEAD=str(clock),
    )  # fmt: skip
    with flow:
        for before, ahead in pairwise(_CLOCKS):
            ledger.publish(entries // len(_CLOCKS), 1)
            flow.until_committed(redis)
            clock.write_text(str(ahead))
            if ahead < before - 10:
                assert flow.wait() == 1
                [line] = flow.messages("critical")
                assert re.match(r"stopped: the system's clock was set back by \d+ s", line)
                redis.delete("positions")
                flow.start()
            elif ahead == before:
                flow.kill()
                flow.start()
        assert_it_comes_through(flow, redis, ledger)
