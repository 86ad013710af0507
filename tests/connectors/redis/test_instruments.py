"""The hash of instruments: no two contracts share a name, and each keeps its own."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from redis.crc import key_slot

from connectors.redis.instruments import InstrumentHash, names_key
from connectors.redis.link import NotOursError, RedisLink, RedisRefusedError

RECORD: dict[str, str | None] = {"symbol": "SHOP", "multiplier": "1"}


@pytest.fixture
def instruments(link: RedisLink) -> InstrumentHash:
    return InstrumentHash(link, "instruments", "positions")


def test_the_first_of_the_names_that_no_other_has_is_given(instruments: InstrumentHash) -> None:
    names = ["SHOP", "SHOP@TSE", "SHOP#{}"]
    given = [
        instruments.claim(n, [name.format(n) for name in names], RECORD)["name"] for n in range(4)
    ]
    assert given == ["SHOP", "SHOP@TSE", "SHOP#2", "SHOP#3"]


def test_what_is_remembered_comes_back_whatever_is_asked_for_then(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    first = instruments.claim(1, ["FB"], RECORD)
    assert first == {**RECORD, "name": "FB"}
    assert instruments.claim(1, ["META"], {"symbol": "META"}) == first
    assert instruments.known() == {1: first}
    stored: Any = redis.hget("instruments", "1")
    assert json.loads(stored) == first


def test_a_name_that_was_given_without_details_is_kept_when_they_come(
    instruments: InstrumentHash,
) -> None:
    assert instruments.claim(1, ["A"], RECORD)["name"] == "A"
    assert instruments.claim(2, ["A", "A#2"], None) == {"name": "A#2"}
    assert instruments.claim(2, ["A", "A@X", "A#2"], RECORD)["name"] == "A#2"


def test_a_contract_that_is_booked_keeps_the_name_it_is_booked_under(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    redis.hset("positions", "U1:FB", json.dumps({"symbol": "FB", "con_id": 7}))
    redis.hset("positions", "U1:OLD", json.dumps({"symbol": "OLD"}))
    assert instruments.known() == {}
    assert instruments.claim(8, ["FB", "FB#8"], RECORD)["name"] == "FB#8"
    assert instruments.claim(7, ["META"], RECORD)["name"] == "FB"


def test_a_contract_that_is_booked_without_its_number_reserves_nothing(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    redis.hset("positions", "OLD", json.dumps({"symbol": "OLD", "con_id": None}))
    assert instruments.known() == {}
    assert not redis.exists(names_key("instruments"))


def test_a_contract_that_got_a_new_number_shares_its_name_unless_it_has_one(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    first = instruments.claim(1, ["FB"], RECORD)
    assert instruments.share(2, ["FB"], {"symbol": "META"}) == {"symbol": "META", "name": "FB"}
    assert instruments.share(2, ["X"], RECORD) == {"symbol": "META", "name": "FB"}
    assert instruments.claim(2, ["META"], None)["name"] == "FB"
    assert instruments.known() == {1: first, 2: {"symbol": "META", "name": "FB"}}
    assert redis.hgetall(names_key("instruments")) == {b":1": b"FB", b"FB": b"1", b":2": b"FB"}
    # Also if only the name is left of it.
    redis.hdel("instruments", "2")
    assert instruments.claim(2, ["META"], RECORD)["name"] == "FB"


def test_a_contract_for_which_no_name_is_left_is_refused(instruments: InstrumentHash) -> None:
    instruments.claim(1, ["A"], RECORD)
    with pytest.raises(RedisRefusedError, match="no name is left for 2"):
        instruments.claim(2, ["A"], RECORD)
    assert instruments.known().keys() == {1}


def test_a_name_stands_once_in_what_is_remembered(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    found = instruments.claim(1, ["A"], {"name": "wrong", "symbol": None})
    assert found == {"name": "A", "symbol": None}
    assert redis.hget("instruments", "1") == b'{"symbol": null, "name": "A"}'


def test_the_names_are_in_the_slot_of_the_instruments() -> None:
    for name in ("instruments", "{mine}:instruments"):
        assert key_slot(names_key(name).encode()) == key_slot(name.encode())


def test_of_many_that_name_contracts_at_once_no_two_get_one_name(
    redis: redis_py.Redis, redis_url: str
) -> None:
    def claim(con_id: int) -> str | None:
        link = RedisLink(redis_url, Event())
        found = InstrumentHash(link, "instruments", "positions").claim(
            con_id, ["A", f"A#{con_id}"], RECORD
        )
        link.client.close()
        return found["name"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(claim, range(16)))) == 16
    assert redis.hlen(names_key("instruments")) == 32


@pytest.mark.parametrize("value", ["FB", "[]", "7"])
def test_what_is_no_record_is_told_with_the_contract(
    instruments: InstrumentHash, redis: redis_py.Redis, value: str
) -> None:
    redis.hset("instruments", "7", value)
    with pytest.raises(NotOursError, match="instrument 7: expected a JSON object"):
        instruments.known()


@pytest.mark.parametrize("multiplier", ["ten", "1,000", "0", "-5", "NaN", "inf"])
def test_what_is_no_money_per_point_is_told_with_the_contract(
    instruments: InstrumentHash, redis: redis_py.Redis, multiplier: str
) -> None:
    redis.hset("instruments", "7", json.dumps({"name": "FB", "multiplier": multiplier}))
    with pytest.raises(NotOursError, match=f"instrument 7: multiplier: .*, found '{multiplier}'"):
        instruments.known()


def test_what_is_no_contracts_number_is_told(
    instruments: InstrumentHash, redis: redis_py.Redis
) -> None:
    redis.hset("instruments", "FB", "{}")
    with pytest.raises(NotOursError, match="instrument b'FB': expected a con_id"):
        instruments.known()


@pytest.mark.parametrize("value", ["FB", "[]", "7", "{}", b"\xff"])
def test_what_is_no_position_is_told(
    instruments: InstrumentHash, redis: redis_py.Redis, value: str | bytes
) -> None:
    redis.hset("positions", "U1:FB", value)
    with pytest.raises(NotOursError, match="the hash of positions: expected JSON objects"):
        instruments.known()
