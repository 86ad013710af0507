"""Entries that are missing: the flow stops and names them, or goes on when it is told to.

The source has a test for each way to lose entries; here is what their user sees.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.redis.link import send
from tests.conftest import OwnServer
from tests.support import naive
from tests.support.flow_process import (
    FlowProcess,
    add,
    group,
    outcome,
    read_hash,
    read_rows,
    read_stream,
    until,
)

EXECUTION: dict[Any, Any] = {
    "symbol": "S", "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
    "timestamp": "1700000000000",
}  # fmt: skip


def publish(client: redis_py.Redis, *ids: str) -> None:
    for entry in ids:
        client.xadd("executions", {**EXECUTION, "exec_id": entry}, id=entry)


def trimmed(client: redis_py.Redis) -> None:
    # At once: a flow that waits in a read is given new entries, if only for a moment.
    pipe = client.pipeline(transaction=True)
    publish(pipe, "6-1", "7-1", "8-1")
    pipe.xtrim("executions", minid="7-1", approximate=False)
    pipe.execute()


def flushed(client: redis_py.Redis) -> None:
    client.flushall()


def flushed_with_new_ids_above(client: redis_py.Redis) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.flushall()
    publish(pipe, "6-1")
    pipe.execute()


def went_back(client: redis_py.Redis) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.flushall()
    publish(pipe, "1-1", "2-1")
    pipe.execute()


def assert_stopped(flow: FlowProcess, *words: str) -> None:
    """Assert that it has ended with one line that holds the words."""
    assert flow.wait() == 1
    [line] = flow.messages("critical")
    assert line.startswith("stopped: stream 'executions': ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("when", "lose"),
    [
        ("running", trimmed), ("running", flushed_with_new_ids_above),
        ("at start", flushed), ("at start", went_back),
    ],
)  # fmt: skip
def test_a_gap_stops_the_flow_with_one_line_that_says_what_to_do(
    redis_url: str,
    redis: redis_py.Redis,
    tmp_path: Path,
    when: str,
    lose: Callable[[redis_py.Redis], None],
) -> None:
    publish(redis, "1-1", "2-1", "5-1")
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        if when == "at start":
            assert flow.stop() == 0
        lose(redis)
        if when == "at start":
            flow.start()
        assert_stopped(flow, " 5-1", "ACCEPT_GAP=5-1")
        rows = [row["stream_id"] for row in read_rows(flow.data_dir, "positions")]
        assert rows == ["1-1", "2-1", "5-1"]
        flow.start()
        assert_stopped(flow, " 5-1")


def test_a_server_that_came_back_with_an_old_copy_stops_the_running_flow(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True, appendfsync="always")
    with server.client() as client, FlowProcess(tmp_path / "flow", server.url) as flow:
        publish(client, "1-1", "2-1")
        flow.until_committed(client)
        server.stop()
        copy = shutil.copytree(server.directory, tmp_path / "copy")
        server.start()
        publish(client, "5-1")
        flow.until_committed(client)
        server.kill()
        shutil.rmtree(server.directory)
        shutil.move(copy, server.directory)
        server.start()
        assert_stopped(flow, " 5-1", "newest id 2-1", "XSETID to 5-1")


@pytest.mark.parametrize("counts", [True, False])
def test_a_rebuild_from_a_stream_that_no_longer_begins_at_its_beginning_stops(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, counts: bool
) -> None:
    publish(redis, "1-1", "2-1", "5-1")
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
    redis.xtrim("executions", minid="2-1", approximate=False)
    if not counts:  # as Redis 6.2, which does not know how many entries there ever were
        send(redis, "XSETID", "executions", "5-1", "ENTRIESADDED", 2, "MAXDELETEDID", "0-0")
    shutil.rmtree(flow.recovery_dir)
    with FlowProcess(tmp_path, redis_url) as rebuild:
        assert_stopped(rebuild, "gone", "first entry is now 2-1")
    assert read_hash(redis)["S"]["executions"] == 3
    with flow:
        assert_stopped(flow, "ACCEPT_GAP=0-0")


def test_a_rebuild_on_a_server_that_lost_what_was_written_stops(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    publish(redis, "1-1", "2-1", "5-1")
    with FlowProcess(tmp_path, redis_url, recovery=False) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
        flushed_with_new_ids_above(redis)
        flow.start()
        assert_stopped(flow, "which was read before, is gone", "has read up to 5-1")


def test_an_accepted_gap_is_passed_and_the_positions_go_on(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    publish(redis, "1-1", "2-1", "5-1")
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
    read = read_stream(redis, "executions")
    trimmed(redis)
    settings: Any = {"ACCEPT_GAP": "5-1"}
    with FlowProcess(tmp_path, redis_url, **settings) as accepting:
        accepting.until_committed(redis)
        assert "going on after 5-1" in accepting.messages("warning")[0]
        publish(redis, "9-1")
        accepting.until_committed(redis)
        assert accepting.stop() == 0
    expected = naive.by_book("executions", read + read_stream(redis, "executions"))
    assert outcome(redis, flow.data_dir) == expected
    assert expected.hash["S"]["executions"] == 6
    with flow:
        flow.until_committed(redis)
        assert flow.stop() == 0


def test_retention_trims_what_is_committed_and_the_flow_resumes(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    publish(redis, *[f"{n}-1" for n in range(1, 51)])
    settings: Any = {"STREAM_RETENTION_HOURS": "1"}
    with FlowProcess(tmp_path, redis_url, **settings) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
        young = add(redis, EXECUTION | {"exec_id": "young"})
        flow.start()
        until(lambda: redis.xlen("executions") == 2, "a trimmed stream")
        assert [entry for entry, _ in read_stream(redis, "executions")] == ["50-1", young]
        flow.until_committed(redis)
        assert group(redis) == young
        assert flow.stop() == 0
    assert read_hash(redis)["S"]["executions"] == 51
    assert len(read_rows(flow.data_dir, "positions")) == 51
    with FlowProcess(tmp_path, redis_url, recovery=False) as rebuild:
        assert_stopped(rebuild, "first entry is now 50-1")
