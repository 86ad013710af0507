"""Redis comes back without its last second, as `appendfsync everysec` lets it after a power cut.

The flow stops and says so, the router publishes again what its memory (which went back with
the stream) does not have, and the way on is the one that the log's line and docs/runbook.md
tell. The outcome is that of all entries that ever were.
"""

import random
import re
import signal
from pathlib import Path
from threading import Event

import pytest
import redis as redis_py

from connectors.redis.link import RedisLink, send
from connectors.redis.publisher import Once, Publisher
from tests.conftest import OwnServer
from tests.support import chaos, follower, naive
from tests.support.flow_process import FlowProcess, order, read_stream
from tests.support.servers import RedisServer

STREAM = "executions"


class Router:
    """Offers again all that it has published, as the router does with what TWS lists."""

    def __init__(self, server: RedisServer, trader: chaos.Trader) -> None:
        self._publisher = Publisher(RedisLink(server.url, Event()), [STREAM])
        self._trader = trader
        self._made: list[Once] = []

    def publish(self, count: int, *more: chaos.Fields) -> None:
        made = [self._trader.next()[0] for _ in range(count)] + list(more)
        start = len(self._made)
        self._made += [Once(f"{start + at}", fields) for at, fields in enumerate(made)]
        assert all(self._publisher.publish_once(*self._made[start:]))

    def publish_again(self) -> int:
        return sum(self._publisher.publish_once(*self._made))


def append_only_file(server: RedisServer) -> Path:
    [path] = server.directory.glob("**/*.incr.aof")
    return path


def come_back(server: RedisServer, size: int) -> None:
    """Crash, and start with no more of the file than that."""
    server.kill()
    with append_only_file(server).open("r+b") as file:
        file.truncate(size)
    server.start()


@pytest.mark.parametrize("router", ["publishes before the flow looks", "publishes later"])
@pytest.mark.parametrize("flow_is", ["running", "killed too"])
def test_a_server_without_its_last_second_is_noticed_and_the_runbooks_way_on_ends_right(
    own_server: OwnServer, tmp_path: Path, flow_is: str, router: str
) -> None:
    rng = random.Random(chaos.new_seed())
    server = own_server(appendonly=True, appendfsync="no")
    feed = Router(server, chaos.Trader(rng, wild=False))
    flow = FlowProcess(tmp_path / "flow", server.url)
    with flow, server.client() as client:
        sizes = []
        for count in (300, 40, 40):
            sizes.append(append_only_file(server).stat().st_size)
            feed.publish(count)
            flow.until_committed(client)
        entries = dict(read_stream(client, STREAM))
        flow.send(signal.SIGKILL if flow_is == "killed too" else signal.SIGSTOP)
        come_back(server, rng.randint(*sizes[1:]))
        if router == "publishes before the flow looks":
            assert feed.publish_again() >= 40
        if flow_is == "killed too":
            flow.wait()
            flow.start()
        flow.send(signal.SIGCONT)
        with go_on_as_told(flow, server) as accepting:
            feed.publish_again()
            feed.publish(5)
            entries |= dict(read_stream(client, STREAM))
            assert_all_is_there(accepting, client, entries)


def go_on_as_told(flow: FlowProcess, server: RedisServer) -> FlowProcess:
    """Do what the line says with which the flow has stopped, as the runbook's "Gaps" has it."""
    assert flow.wait() == 1
    [line] = flow.messages("critical")
    assert re.match(r"stopped: stream 'executions': entry \d+-\d+, which was read before, is", line)
    if raise_to := re.search(r"raise its newest id by XSETID to (\d+-\d+)", line):
        with server.client() as client:
            send(client, "XSETID", STREAM, raise_to[1])
    [told] = re.findall(r"set ACCEPT_GAP=(\d+-\d+)\. See 'Gaps' in docs/runbook\.md", line)
    return FlowProcess(flow.data_dir.parent, server.url, ACCEPT_GAP=told)


def assert_all_is_there(
    flow: FlowProcess, client: redis_py.Redis, entries: dict[str, list[bytes]]
) -> None:
    expected = naive.by_book(STREAM, sorted(entries.items(), key=lambda one: order(one[0])))
    chaos.settle(flow, client, [STREAM], expected)
    assert flow.stop() == 0
    chaos.compare(chaos.written(client, flow, [STREAM]), expected)
    assert follower.newest(client, "positions:changes") == expected.hash


def test_what_followed_from_entries_that_redis_kept_is_there_again_after_a_restart(
    own_server: OwnServer, tmp_path: Path
) -> None:
    """Their positions, changes and letters were in the second that it lost."""
    server = own_server(appendonly=True, appendfsync="no")
    feed = Router(server, chaos.Trader(random.Random(chaos.new_seed()), wild=False))
    with FlowProcess(tmp_path / "flow", server.url) as flow, server.client() as client:
        feed.publish(100)
        flow.until_committed(client)
        flow.send(signal.SIGSTOP)
        feed.publish(150, *({"symbol": "S1", "side": f"HOLD {n}"} for n in range(3)))
        kept = append_only_file(server).stat().st_size
        flow.send(signal.SIGCONT)
        flow.until_committed(client)
        assert client.xlen("executions:dead") >= 3
        flow.kill()
        come_back(server, kept)
        flow.start()
        assert_all_is_there(flow, client, dict(read_stream(client, STREAM)))
