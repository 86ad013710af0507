"""Publishing against a real server: the right partition, exactly once, bounded memory."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py
from redis.crc import key_slot

from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.partitions import PartitionsError
from connectors.redis.publisher import BATCH, REMEMBERED_MS, Once, Publisher
from state.keys import partition_of
from tests.conftest import OwnServer
from tests.support.servers import RedisServer

DAY_MS = 24 * 3600 * 1000
TIMES = "{executions}:published:times"
VERSIONS = "{executions}:published"


def message(number: int, symbol: str = "AAPL", **more: str) -> dict[str, str]:
    return {"symbol": symbol, "exec_id": str(number), **more}


def entries(redis: redis_py.Redis, stream: str = "executions") -> list[dict[str, str]]:
    found: Any = redis.xrange(stream)
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def publisher(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Publisher]:
    link = RedisLink(f"{redis_url}?protocol={request.param}", threading.Event())
    with link.client:
        yield Publisher(link, ["executions"])


@contextmanager
def publishing(url: str, *streams: str) -> Iterator[Publisher]:
    link = RedisLink(url, threading.Event())
    with link.client:
        yield Publisher(link, streams or ["executions"])


def test_messages_keep_their_order(publisher: Publisher, redis: redis_py.Redis) -> None:
    messages = [message(number) for number in range(2 * BATCH + 1)]
    publisher.publish(*messages)
    assert entries(redis) == messages


def test_each_key_is_in_the_partition_that_its_crc_names(
    redis: redis_py.Redis, redis_url: str
) -> None:
    streams = [f"executions:{part}" for part in range(4)]
    keys = [("AAPL", ""), ("AAPL", "U1"), ("AAPL", "U2"), ("EUR.USD", "U1")]
    messages = [message(0, symbol, account=account) for symbol, account in keys]
    with publishing(redis_url, *streams) as publisher:
        publisher.publish(*messages)
        publisher.publish_once(*(Once(str(n), each) for n, each in enumerate(messages)))
    for (symbol, account), each in zip(keys, messages, strict=True):
        key = f"{account}:{symbol}" if account else symbol
        assert entries(redis, f"executions:{partition_of(key, 4)}").count(each) == 2


def test_a_message_is_added_once_however_often_it_is_offered(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    batch = [Once(str(number), message(number)) for number in range(BATCH + 7)]
    assert publisher.publish_once(*batch) == [True] * len(batch)
    assert publisher.publish_once(*batch) == [False] * len(batch)
    assert publisher.publish_once(batch[0], Once("new", message(9)), batch[1]) == [
        False,
        True,
        False,
    ]
    assert entries(redis) == [message(number) for number in range(BATCH + 7)] + [message(9)]


def test_a_message_offered_twice_in_one_batch_is_added_once(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    assert publisher.publish_once(Once("1", message(1)), Once("1", message(1))) == [True, False]
    assert entries(redis) == [message(1)]


def test_a_version_is_added_again_when_it_differs_from_the_last_one(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    figures = ["1", "1", "2", "2", "1", "1"]
    for figure in figures:
        publisher.publish_once(Once("commission:1", message(1, commission=figure), figure))
    assert [entry["commission"] for entry in entries(redis)] == ["1", "2", "1"]


def test_an_empty_version_counts_as_published(publisher: Publisher) -> None:
    assert publisher.publish_once(Once("1", message(1), "")) == [True]
    assert publisher.publish_once(Once("1", message(1), "")) == [False]


def test_producers_that_race_add_a_message_once(redis: redis_py.Redis, redis_url: str) -> None:
    batch = [Once(str(number), message(number)) for number in range(200)]
    start = threading.Barrier(4)

    def race(_number: int) -> int:
        with publishing(redis_url) as publisher:
            start.wait()
            return sum(publisher.publish_once(*batch))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(race, range(4))) == 200
    assert sorted(int(entry["exec_id"]) for entry in entries(redis)) == list(range(200))


def test_a_reply_lost_on_its_way_doubles_nothing(
    redis: redis_py.Redis, redis_server: RedisServer
) -> None:
    batch = [Once(str(number), message(number)) for number in range(20)]
    with (
        losing_replies(redis_server.port, times=2) as (port, lost),
        publishing(f"redis://127.0.0.1:{port}/0") as publisher,
    ):
        publisher.publish_once(*batch)
        assert lost == [True, True]
    assert entries(redis) == [message(number) for number in range(20)]


def test_ids_not_offered_for_a_long_time_are_forgotten(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    publisher.publish_once(*(Once(str(number), message(number)) for number in range(10)))
    age(redis, REMEMBERED_MS + 1)
    publisher.publish_once(*(Once(f"later-{number}", message(number)) for number in range(6)))
    assert redis.zcard(TIMES) == redis.hlen(VERSIONS) == 6


def test_ids_are_remembered_for_eight_days(publisher: Publisher, redis: redis_py.Redis) -> None:
    publisher.publish_once(*(Once(str(number), message(number)) for number in range(5)))
    age(redis, 8 * DAY_MS)
    publisher.publish_once(*(Once(f"later-{number}", message(number)) for number in range(20)))
    assert publisher.publish_once(Once("4", message(4))) == [False]


def test_an_id_that_is_offered_now_and_then_is_never_forgotten(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    for number in range(3):
        publisher.publish_once(Once(f"new-{number}", message(number)), Once("1", message(9)))
        age(redis, 6 * DAY_MS)
    publisher.publish_once(Once("2", message(2)), Once("1", message(9)))
    assert entries(redis).count(message(9)) == 1


def test_being_offered_again_within_a_day_writes_nothing(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    publisher.publish_once(Once("1", message(1)))
    before = redis.zscore(TIMES, "1")
    time.sleep(0.005)
    publisher.publish_once(Once("1", message(1)))
    assert redis.zscore(TIMES, "1") == before


def test_a_server_that_forgot_the_script_gets_it_again(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    publisher.publish_once(Once("1", message(1)))
    redis.script_flush()
    assert publisher.publish_once(Once("2", message(2))) == [True]


def test_memory_and_stream_outlast_a_crash_of_the_server_together(own_server: OwnServer) -> None:
    server = own_server(appendonly=True)
    batch = [Once(str(number), message(number)) for number in range(100)]
    with publishing(server.url) as publisher, server.client() as client:
        publisher.publish_once(*batch)
        server.kill()
        server.start()
        assert publisher.publish_once(*batch) == [False] * 100
        assert len(entries(client)) == 100


def test_a_full_server_is_waited_for_and_nothing_is_doubled(own_server: OwnServer) -> None:
    server = own_server(maxmemory="8mb", maxmemory_policy="noeviction")
    batch = [Once(str(number), message(number)) for number in range(10)]
    with publishing(server.url) as publisher, server.client() as client:
        publisher.publish_once(*batch[:5])
        client.config_set("maxmemory", "1")
        timer = threading.Timer(0.4, lambda: client.config_set("maxmemory", "0"))
        timer.start()
        assert publisher.publish_once(*batch) == [False] * 5 + [True] * 5
        timer.join()
        assert len(entries(client)) == 10


def test_a_key_of_another_type_is_refused_in_words(redis: redis_py.Redis, redis_url: str) -> None:
    redis.set("executions", "no stream")
    with publishing(redis_url) as publisher, pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        publisher.publish_once(Once("1", message(1)))


def test_another_number_of_partitions_is_refused_each_time(
    redis: redis_py.Redis, redis_url: str
) -> None:
    redis.set("executions:partitions", 4)
    with publishing(redis_url) as publisher:
        for _ in range(2):
            with pytest.raises(PartitionsError, match="expected 4"):
                publisher.publish_once(Once("1", message(1)))
            with pytest.raises(PartitionsError, match="expected 4"):
                publisher.publish(message(1))
    assert redis.keys() == [b"executions:partitions"]


def test_an_id_whose_time_was_lost_is_remembered_all_the_same(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    publisher.publish_once(Once("1", message(1)))
    redis.delete(TIMES)
    assert publisher.publish_once(Once("1", message(1))) == [False]
    assert redis.zcard(TIMES) == 1


def test_all_keys_of_a_stream_share_a_slot_of_redis_cluster(
    publisher: Publisher, redis: redis_py.Redis
) -> None:
    publisher.publish_once(Once("1", message(1)))
    keys = set(redis.scan_iter()) - {b"executions:partitions"}  # that one is asked for alone
    slots = {key_slot(key) for key in keys}
    assert len(keys) == 3
    assert len(slots) == 1


def age(redis: redis_py.Redis, by_ms: int) -> None:
    """Make all remembered ids older, as the server's clock cannot be moved."""
    remembered: Any = redis.zrange(TIMES, 0, -1)
    for once_id in remembered:
        redis.zincrby(TIMES, -by_ms, once_id)


@contextmanager
def losing_replies(port: int, times: int) -> Iterator[tuple[int, list[bool]]]:
    """Stand between client and server, and lose the reply to the first scripts."""
    lost: list[bool] = []

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                while data := self.request.recv(1 << 20):
                    server.sendall(data)
                    reply = server.recv(1 << 20)
                    if b"EVALSHA" in data and len(lost) < times:
                        lost.append(True)
                        return
                    self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        relay.daemon_threads = True
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay.server_address[1], lost
        relay.shutdown()
