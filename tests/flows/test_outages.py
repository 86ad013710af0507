"""Redis away under a running flow: it waits for what can pass, and loses nothing."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.conftest import OwnServer
from tests.support import chaos, naive
from tests.support.chaos import Feed, Trader
from tests.support.flow_process import FlowProcess, add, outcome, read_hash, read_stream, until
from tests.support.servers import RedisServer

EXECUTION = {
    "symbol": "S", "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
    "timestamp": "1700000000000",
}  # fmt: skip


def said(flow: FlowProcess) -> tuple[list[str], list[str]]:
    """Return the lines that begin an outage, and those that end one."""
    away = [line for line in flow.messages("warning") if line.startswith("Redis is away")]
    return away, [line for line in flow.messages("info") if line.startswith("Redis is back")]


def persistence(client: redis_py.Redis) -> Any:
    return client.info("persistence")


def assert_exact(server: RedisServer, flow: FlowProcess) -> None:
    with server.client() as client:
        expected = naive.by_stream(client)
        assert outcome(client, flow.data_dir) == expected
        assert expected.positions


def test_a_server_that_is_absent_at_the_start_is_waited_for(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server()
    server.kill()
    with FlowProcess(tmp_path / "flow", server.url) as flow:
        flow.until(lambda: said(flow)[0], "a line about the outage")
        server.start()
        with server.client() as client:
            add(client, EXECUTION | {"exec_id": "1"})
            flow.until_committed(client)
        assert flow.stop() == 0
        away, back = said(flow)
        assert len(away) == len(back) == 1
        assert back[0].endswith("retries")
    assert_exact(server, flow)


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_server_that_dies_three_times_under_a_flow_costs_nothing(
    own_server: OwnServer, tmp_path: Path, partitions: int
) -> None:
    """With two partitions, two workers wait at once, and both write all again at the end."""
    server = own_server(appendonly=True, appendfsync="always")
    names = [f"executions:{n}" for n in range(partitions)] if partitions > 1 else ["executions"]
    feed = Feed(server, Trader(random.Random(partitions)), names, seed=partitions)
    settings: Any = {"STREAM_PARTITIONS": str(partitions)}
    flow = FlowProcess(tmp_path / "flow", server.url, arguments=("-w", str(partitions)), **settings)
    with flow, server.client() as client:
        for outages in (1, 2, 3):
            with feed.live():
                time.sleep(1)
            feed.publish(300)  # still to be read, or written, when the server dies
            server.kill()
            flow.until(lambda: len(said(flow)[0]) == outages, "an outage")  # noqa: B023
            time.sleep(0.3 * outages)
            server.start()
            flow.until(lambda: len(said(flow)[1]) == outages, "its end")  # noqa: B023
        entries = {name: read_stream(client, name) for name in names}
        expected = naive.both([naive.by_book(name, found) for name, found in entries.items()])
        chaos.settle(flow, client, names, expected)
        assert flow.stop() == 0
        chaos.compare(chaos.written(client, flow, names), expected)
        assert (len(said(flow)[0]), len(said(flow)[1])) == (3, 3)


def test_positions_that_a_server_lost_in_an_outage_are_written_again(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True, appendfsync="always")
    with FlowProcess(tmp_path / "flow", server.url) as flow, server.client() as client:
        for number in range(4):
            add(client, EXECUTION | {"symbol": f"S{number % 2}", "exec_id": str(number)})
        flow.until_committed(client)
        before = read_hash(client)
        server.kill()
        with RedisServer(server.directory, appendonly=True) as elsewhere:
            with elsewhere.client() as other:
                other.delete("positions")
            elsewhere.stop()
        server.start()
        flow.until(lambda: read_hash(client) == before, "the positions again")
        assert flow.stop() == 0
    assert len(before) == 2


def test_a_server_that_still_loads_its_data_is_waited_for(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True, appendfsync="always")
    with server.client() as client:
        add(client, EXECUTION | {"exec_id": "1"})
        for number in range(20):
            client.set(f"filler {number}", os.urandom(2000))
        client.bgrewriteaof()
        until(lambda: not persistence(client)["aof_rewrite_in_progress"], "a short file")
    server.kill()
    # It answers others after each kilobyte, and takes a tenth of a second for each key.
    slow = RedisServer(
        server.directory, appendonly=True, key_load_delay=100_000,
        loading_process_events_interval_bytes=1024,
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool, FlowProcess(tmp_path / "flow", slow.url) as flow:
        flow.until(lambda: said(flow)[0], "an outage")
        starting = pool.submit(slow.start)
        with starting.result(), slow.client() as client:
            commands: Any = client.info("commandstats")
            refused = {name for name, said in commands.items() if said["rejected_calls"]}
            assert refused - {"cmdstat_ping"}, "the flow met no server that was loading"
            flow.until_committed(client)
            assert flow.stop() == 0
    assert len(said(flow)[0]) == len(said(flow)[1]) == 1


def test_a_server_out_of_memory_is_waited_for(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    with server.client() as client, FlowProcess(tmp_path / "flow", server.url) as flow:
        for number in range(20):
            add(client, EXECUTION | {"exec_id": str(number)})
            add(client, {"symbol": "bad"})
        client.config_set("maxmemory", "1")
        flow.until(lambda: said(flow)[0], "a line about the outage")
        assert "maxmemory" in said(flow)[0][0]
        client.config_set("maxmemory", "0")
        flow.until_committed(client)
        assert flow.stop() == 0
        assert len(said(flow)[0]) == len(said(flow)[1]) == 1
    assert_exact(server, flow)


def test_a_replica_that_only_reads_is_waited_for_until_it_is_promoted(
    own_server: OwnServer, tmp_path: Path
) -> None:
    first = own_server()
    with first.client() as client:
        for number in range(20):
            add(client, EXECUTION | {"exec_id": str(number)})
    replica = own_server(replicaof=f"127.0.0.1 {first.port}")
    with replica.client() as client:
        until(lambda: client.exists("executions"), "the replica's copy")
        with FlowProcess(tmp_path / "flow", replica.url) as flow:
            flow.until(lambda: said(flow)[0], "a line about the outage")
            client.replicaof("NO", "ONE")
            flow.until_committed(client)
            assert flow.stop() == 0
            assert len(said(flow)[0]) == len(said(flow)[1]) == 1
    assert_exact(replica, flow)


def test_a_wrong_password_stops_it_with_one_line_that_does_not_tell_it(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(requirepass="right")
    for login in (":wr0ng@", ""):
        with FlowProcess(tmp_path / "flow", f"redis://{login}127.0.0.1:{server.port}") as flow:
            assert flow.wait() == 1
            [line] = flow.log.splitlines()
            assert "check user and password in REDIS_URL" in line
            assert "wr0ng" not in flow.log


def test_a_stop_while_redis_is_away_is_a_success_and_loses_nothing(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True, appendfsync="always")
    with server.client() as client, FlowProcess(tmp_path / "flow", server.url) as flow:
        for number in range(20):
            add(client, EXECUTION | {"exec_id": str(number)})
        flow.until(lambda: client.hlen("positions"), "a position")
        server.kill()
        flow.until(lambda: said(flow)[0], "a line about the outage")
        assert flow.stop() == 0
        assert "Traceback" not in flow.log
        server.start()
        add(client, EXECUTION | {"exec_id": "last"})
        flow.start()
        flow.until_committed(client)
        assert flow.stop() == 0
    assert_exact(server, flow)
