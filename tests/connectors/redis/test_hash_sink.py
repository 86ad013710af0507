"""The hash against a real server, written by the flow: it never goes back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.conftest import OwnServer
from tests.support.flow_process import FlowProcess, add, read_hash
from tests.support.servers import RedisServer

EXECUTION = {
    "side": "BUY",
    "fill_qty": "1",
    "fill_price": "1",
    "order_id": "1",
    "timestamp": "1700000000000",
}


def value(stream_id: str, **members: object) -> str:
    return json.dumps({**members, "stream_id": stream_id})


# What a key's field holds when the flow comes to write an entry of 10-10 to 10-99.
STAYS = {
    "newer": value("11-0"), "newer in the same millisecond": value("10-100"),
    "much newer": value("100-1"), "newest": value("18446744073709551614-18446744073709551615"),
}  # fmt: skip
IS_REPLACED = {
    "older": value("9-99"), "older in the same millisecond": value("10-9"),
    "no JSON": "something else", "without id": "{}",
    "an id in a text": value("1-1", last_exec_id='"stream_id": "99-9"}'),
}  # fmt: skip


@pytest.fixture(scope="module")
def shown(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the fields hold after the flow has run."""
    with redis_server.client() as client:
        client.flushall()
        client.hset("positions", mapping=STAYS | IS_REPLACED)
        for number, symbol in enumerate(STAYS | IS_REPLACED, 10):
            fields = {**EXECUTION, "symbol": symbol, "exec_id": "e"}
            add(client, fields, entry=f"10-{number}")
        with FlowProcess(tmp_path_factory.mktemp("flow"), redis_server.url) as flow:
            flow.until_committed(client)
            assert flow.stop() == 0
        yield {key.decode(): text.decode() for key, text in client.hgetall("positions").items()}


@pytest.mark.parametrize("symbol", STAYS)
def test_a_newer_position_of_another_writer_stays(shown: dict[str, str], symbol: str) -> None:
    assert shown[symbol] == STAYS[symbol]


@pytest.mark.parametrize("symbol", IS_REPLACED)
def test_an_older_position_and_what_is_none_are_replaced(
    shown: dict[str, str], symbol: str
) -> None:
    assert json.loads(shown[symbol])["symbol"] == symbol


def test_a_position_that_was_deleted_is_shown_again_by_the_next_start(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    flow = FlowProcess(tmp_path, redis_url)
    for number, symbol in enumerate(("A", "B", "A"), 1):
        add(redis, {**EXECUTION, "symbol": symbol, "exec_id": f"e{number}"})
    with flow:
        flow.until_committed(redis)
        before = read_hash(redis)
        assert flow.stop() == 0
    redis.delete("positions")
    with flow:
        flow.until(lambda: read_hash(redis) == before, "the positions shown again")
        assert flow.stop() == 0
    assert before["A"]["executions"] == 2


def test_a_position_that_is_kept_under_another_name_can_be_shown_there(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    add(redis, {**EXECUTION, "symbol": "A", "exec_id": "e"})
    for name in ("positions", "other"):
        with FlowProcess(tmp_path, redis_url, POSITIONS_HASH=name) as flow:
            flow.until(lambda: redis.hlen(name), f"the position in {name}")  # noqa: B023
            flow.until_committed(redis)
            assert flow.stop() == 0
    assert read_hash(redis, "other") == read_hash(redis)


def test_a_hash_that_is_deleted_under_a_running_flow_is_written_again_and_told(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    for number, symbol in enumerate(("A", "B", "C"), 1):
        add(redis, {**EXECUTION, "symbol": symbol, "exec_id": f"e{number}"})
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until(lambda: len(read_hash(redis)) == 3, "the positions")
        before = read_hash(redis)
        redis.delete("positions")
        flow.until(lambda: read_hash(redis) == before, "the positions again")
        assert flow.log.count("was deleted or evicted: written again") == 1
        redis.delete("positions")
        # Also if a key is written before anyone has looked.
        add(redis, {**EXECUTION, "symbol": "A", "exec_id": "e4"})
        flow.until(lambda: len(read_hash(redis)) == 3, "all positions again")
        assert read_hash(redis)["A"]["executions"] == 2
        assert flow.stop() == 0


def test_a_server_that_may_evict_is_warned_of_at_the_start(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(maxmemory_policy="allkeys-lru")
    with FlowProcess(tmp_path, server.url) as flow:
        flow.until(lambda: "maxmemory-policy allkeys-lru" in flow.log, "the warning")
