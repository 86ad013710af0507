"""Marks onto their stream, and which contracts are held."""

import json

import pytest
import redis as redis_py

from connectors.redis.link import RedisLink
from connectors.redis.mark_stream import HeldContracts, MarkStream
from tests.support.flow_process import read_stream


def hold(redis: redis_py.Redis, key: str, symbol: str, qty: int, con_id: int | None) -> None:
    redis.hset("positions", key, json.dumps({"symbol": symbol, "qty": qty, "con_id": con_id}))


def test_marks_keep_their_order_and_about_as_many_are_kept_as_is_told(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    stream = MarkStream(link, "marks", 100)
    stream.write([{"symbol": "A", "price": "1"}, {"symbol": "B", "price": "2"}])
    assert [fields for _, fields in read_stream(redis, "marks")] == [
        [b"symbol", b"A", b"price", b"1"],
        [b"symbol", b"B", b"price", b"2"],
    ]
    stream.write({"symbol": "A", "price": str(number)} for number in range(1000))
    assert 100 <= redis.xlen("marks") <= 300
    stream.write([])


def test_a_contract_is_held_under_each_symbol_that_has_a_quantity(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    hold(redis, "U1:A", "A", 1, 7)
    hold(redis, "U2:A", "A", -2, 7)
    hold(redis, "U2:A.OLD", "A.OLD", 3, 7)
    hold(redis, "U1:B", "B", 0, 8)
    hold(redis, "U1:C", "C", 5, None)
    held = HeldContracts(link, "positions")
    assert held.read() == {7: {"A", "A.OLD"}}
    hold(redis, "U1:B", "B", 1, 8)
    redis.hdel("positions", "U2:A.OLD")
    assert held.read() == {7: {"A"}, 8: {"B"}}


@pytest.mark.parametrize(
    "value", ["no JSON", "[1]", '"text"', "{}", '{"qty": 1}', '{"qty": 1, "con_id": "x"}',
              '{"qty": 1, "con_id": 7}', '{"qty": 1, "con_id": []}'],
)  # fmt: skip
def test_what_is_no_position_is_passed_over(
    link: RedisLink, redis: redis_py.Redis, value: str
) -> None:
    redis.hset("positions", "U1:X", value)
    hold(redis, "U1:A", "A", 1, 9)
    assert HeldContracts(link, "positions").read() == {9: {"A"}}
