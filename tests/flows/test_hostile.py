"""What whoever may write to the stream, the hash or the files can do, and what stops it.

docs/threats.md lists what is tried here.
"""

import pickle
import socketserver
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis as redis_py

from flows.job.names import POSITION_ID, SOURCE_ID
from tests.support.flow_process import FlowProcess, add, read_hash, read_stream
from tests.support.router_process import START_S, Router
from tests.support.tws_double import wait_until

GOOD = {
    "symbol": "A", "side": "BUY", "fill_qty": "1", "fill_price": "4", "order_id": "1",
    "exec_id": "p1", "timestamp": "1750000000000",
}  # fmt: skip


def test_entries_of_any_size_are_booked_or_dead_letters_and_stop_nothing(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    megabytes = "y" * 5_000_000
    with FlowProcess(tmp_path, redis_url) as flow:
        add(redis, {**GOOD, "note": megabytes})
        refused = [
            add(redis, {**GOOD, "symbol": megabytes}),
            add(redis, {**GOOD, "side": megabytes, "exec_id": "p2"}),
            add(redis, {**GOOD, megabytes: "1", "side": "HOLD", "exec_id": "p3"}),
        ]
        for count in (3_000, 4_000, 100_000):
            many = {f"f{n}": "" for n in range(count)}
            add(redis, {**GOOD, **many, "exec_id": f"q{count}"})
            refused.append(add(redis, {**GOOD, **many, "exec_id": f"r{count}", "side": "HOLD"}))
        long = {"account": megabytes, "sec_type": megabytes, "currency": megabytes}
        add(redis, {**GOOD, **long})
        add(redis, {**GOOD, "exec_id": "last"})
        flow.until_committed(redis)
        positions = read_hash(redis)
        assert positions["A"]["executions"] == 5
        assert positions[f"{megabytes}:A"]["currency"] == megabytes
        letters = dict(read_stream(redis, "executions:dead"))
        assert [*letters] == refused
        entries = dict(read_stream(redis, "executions"))
        for entry_id, fields in letters.items():
            assert fields[:-6] == entries[entry_id]
        assert max(map(len, flow.log.splitlines())) < 1_000


def test_marks_of_any_size_are_marks_or_counted_and_stop_nothing(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with (
        FlowProcess(tmp_path, redis_url) as flow,
        FlowProcess(
            tmp_path / "valuation", redis_url, recovery=False, flow="flows.valuation"
        ) as valuation,
    ):
        add(redis, GOOD)
        flow.until_committed(redis)
        now = str(time.time_ns() // 1_000_000)
        for mark in (
            {"symbol": "y" * 5_000_000, "price": "1", "timestamp": now},
            {"symbol": "A", "price": "9" * 5_000_000, "timestamp": now},
            {"symbol": "A", "price": "1e-999999999", "timestamp": now},
            {"symbol": "A", "price": "7", "timestamp": "9" * 100_000},
            {f"f{n}": "" for n in range(100_000)},
            {"symbol": "A", "price": "5", "timestamp": now, **{f"f{n}": "" for n in range(50_000)}},
        ):
            add(redis, mark, stream="marks")
        valuation.until(lambda: "A" in read_hash(redis, "valuations"), "a valuation")
        priced = "the mark that is one"
        valuation.until(lambda: read_hash(redis, "valuations")["A"]["mark_price"] == 5, priced)
        assert list(read_hash(redis, "valuations")) == ["A"]
        assert max(map(len, valuation.log.splitlines())) < 1_000


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("step", [SOURCE_ID, POSITION_ID, "positions.other"])
def test_a_recovery_directory_from_elsewhere_runs_nothing(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, step: str
) -> None:
    touched = tmp_path / "touched"
    flow = FlowProcess(tmp_path, redis_url)
    with flow:
        add(redis, GOOD)
        flow.until_committed(redis)
        flow.stop()
    [store] = flow.recovery_dir.glob("part-*.sqlite3")
    with closing(sqlite3.connect(store)) as db, db:
        db.execute(
            "INSERT OR REPLACE INTO snaps (step_id, state_key, ser_change, snap_epoch) "
            "VALUES (?, 'executions', ?, 0)", (step, pickle.dumps(Evil(touched))),
        )  # fmt: skip
    with flow:
        assert flow.wait(20) == 1
        assert "expected plain values, found" in flow.log
    assert not touched.exists()


# --- what answers in the place of Redis or TWS ----------------------------------------------


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Answer whatever comes on a port with the same bytes; give the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while self.request.recv(1 << 16):
                    self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff" * 100, b"$-5\r\n", b"*1\r\n" * 10_000,
        b":one\r\n",
    ],
)  # fmt: skip
def test_what_is_no_redis_stops_the_flow_in_one_line_with_nothing_written(
    tmp_path: Path, answer: bytes
) -> None:
    with answering(answer) as port:
        flow = FlowProcess(tmp_path, f"redis://user:hush-hush@127.0.0.1:{port}")
        with flow:
            assert flow.wait() == 1
    assert "does not answer as Redis does" in flow.log.splitlines()[-1]
    assert "Traceback" not in flow.log
    assert "hush-hush" not in flow.log
    assert not [*flow.data_dir.glob("*/date=*/*")]


@pytest.mark.parametrize("answer", [b"$99999999999999\r\n", b"*1000000000\r\n"])
def test_a_length_that_is_never_sent_takes_no_memory_and_no_patience(
    tmp_path: Path, answer: bytes
) -> None:
    with (
        answering(answer) as port,
        FlowProcess(tmp_path, f"redis://127.0.0.1:{port}?socket_timeout=1") as flow,
    ):
        flow.until(lambda: "Redis is away" in flow.log, "the outage")
        peak = Path(f"/proc/{flow.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        assert int(peak) < 1_000_000, "kB"


def test_what_is_no_tws_is_waited_for(redis_url: str, tmp_path: Path) -> None:
    for number, answer in enumerate((b"\xff" * 1000, b"HTTP/1.1 400 Bad Request\r\n\r\n")):
        with answering(answer) as port:
            log = tmp_path / f"router-{number}.log"
            with Router(port, redis_url, log) as router:
                wait_until(router.saw("TWS"), START_S)
                assert router.terminate()[0] == 0


# --- what is shown --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_name_can_draw_on_the_terminal_that_shows_the_log(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, form: str
) -> None:
    evil = "A\x1b[2J\r\nlevel=critical\x07"
    with FlowProcess(tmp_path, redis_url, LOG_FORMAT=form) as flow:
        add(redis, {**GOOD, "symbol": evil})
        add(redis, {**GOOD, "side": evil, "exec_id": evil})
        flow.until_committed(redis)
        flow.until(lambda: "dead letter" in flow.log, "the letter's line")
        assert "Position updated" in flow.log
        assert all(c.isprintable() or c == "\n" for c in flow.log)
        assert not [line for line in flow.log.splitlines() if line.startswith("level=critical")]
