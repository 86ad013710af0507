"""The hash `valuations`: exact in both directions, and whole again whatever Redis forgets."""

from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest
import redis as redis_py

from connectors.redis.link import RedisLink
from connectors.redis.valuations import (
    ValuationHashSink,
    Valued,
    read_holding,
    read_valuation,
    to_json,
)
from state.exact import MONEY, ONE
from state.valuation import Valuation
from tests.conftest import OwnServer
from tests.support.flow_process import until
from tests.support.hash_values import position, valuation

EXACT = 12345678901234567 * MONEY + 1
FIRST = Valuation(
    "U1", 'A"', "USD", 100 * ONE, -3 * ONE // 2, -EXACT, 5, 1700000000000, EXACT, 1, -2, 3, EXACT,
    -1, "2026-11-27", "live", "5-1",
)  # fmt: skip
UNKNOWN = FIRST._replace(
    account=None, mark_price=None, mark_timestamp=None, market_value=None, unrealized_pnl=None,
    total_pnl=None, day_pnl=None, state="no mark",
)  # fmt: skip


@pytest.mark.parametrize("known", [FIRST, UNKNOWN])
def test_what_is_written_is_read_back_exactly(known: Valuation) -> None:
    assert read_valuation(to_json(known).encode()) == known


def test_a_value_is_written_as_the_contract_says() -> None:
    assert to_json(FIRST) == (
        r'{"account": "U1", "symbol": "A\"", "currency": "USD", "multiplier": 100, "qty": -1.5, '
        '"cost_basis": -12345678901234567.00000000000000000001, "mark_price": 0.0000000005, '
        '"mark_timestamp": 1700000000000, '
        '"market_value": 12345678901234567.00000000000000000001, '
        '"unrealized_pnl": 0.00000000000000000001, "realized_pnl": -0.00000000000000000002, '
        '"net_realized_pnl": 0.00000000000000000003, '
        '"total_pnl": 12345678901234567.00000000000000000001, '
        '"day_pnl": -0.00000000000000000001, "day": "2026-11-27", "state": "live", '
        '"stream_id": "5-1"}'
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{}", position("A", qty="0.00000000001"), position("A", qty="1e3"),
     position("A", qty="[1]"), position("A", qty=None), position("A", cost_basis=None),
     position("A").replace('"A"', '["A"]'), position("A", currency=None),
     position("A", stream_id="soon")],
)  # fmt: skip
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_holding(text.encode())


def test_a_valuation_with_more_places_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="expected day_pnl with at most 20 places, found 0"):
        read_valuation(valuation("A", day_pnl=f"0.{'0' * 20}1").encode())


# --- the sink ------------------------------------------------------------------------------


class Sink:
    """The sink as the engine has it, and its link."""

    def __init__(self, url: str) -> None:
        self.stop = Event()
        self.link = RedisLink(url, self.stop)
        sink = ValuationHashSink(self.link, "valuations")
        assert sink.list_parts() == ["valuations"]
        self._part = sink.build_part("hash", "valuations", None)

    def write(self, *keys: str, number: int = 0) -> None:
        found = FIRST._replace(realized_pnl=number)
        self._part.write_batch([Valued(key, found, 0) for key in keys])

    def let_live(self) -> None:
        for act in self.link.while_alive:
            act()


@pytest.fixture
def sink(redis_url: str) -> Iterator[Sink]:
    sink = Sink(redis_url)
    yield sink
    sink.link.client.close()


def read(client: redis_py.Redis) -> dict[str, int]:
    found: Any = client.hgetall("valuations")
    return {key.decode(): read_valuation(text).realized_pnl for key, text in found.items()}


def test_the_last_valuation_of_each_key_is_shown(sink: Sink, redis: redis_py.Redis) -> None:
    keys = [f"K{number}" for number in range(2001)]
    sink.write(*keys)
    sink.write("K7", number=7)
    assert read(redis) == dict.fromkeys(keys, 0) | {"K7": 7}


def test_a_hash_that_was_deleted_is_written_again(
    sink: Sink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    sink.let_live()
    assert not redis.exists("valuations"), "there is nothing to write yet"
    sink.write("A", "B")
    sink.write("A", number=1)
    redis.delete("valuations")
    sink.let_live()
    assert read(redis) == {"A": 1, "B": 0}
    assert caplog.messages == ["the hash valuations was deleted or evicted: written again"]


def test_a_hash_that_is_there_is_left_alone(sink: Sink, redis: redis_py.Redis) -> None:
    sink.write("A", "B")
    redis.hdel("valuations", "B")
    sink.let_live()
    assert read(redis) == {"A": 0}


def test_a_redis_that_came_back_empty_between_two_writes_has_all_again(
    own_server: OwnServer,
) -> None:
    server = own_server()
    sink = Sink(server.url)
    sink.write("A", "B")
    server.kill()
    server.start()
    sink.write("A", number=1)
    sink.let_live()
    with server.client() as client:
        assert read(client) == {"A": 1, "B": 0}
    sink.link.client.close()


def test_a_redis_that_was_away_has_all_again_at_once(own_server: OwnServer) -> None:
    server = own_server()
    sink = Sink(server.url)
    sink.write("A", "B")
    server.kill()
    writing = Thread(target=sink.write, args=("A",), kwargs={"number": 1})
    writing.start()
    until(lambda: sink.link.retries, "the outage to be seen")
    server.start()
    writing.join()
    with server.client() as client:
        assert read(client) == {"A": 1, "B": 0}
    sink.link.client.close()


def test_told_to_end_while_redis_is_away_it_leaves_the_rest_to_the_next_start(
    own_server: OwnServer,
) -> None:
    server = own_server()
    sink = Sink(server.url)
    sink.write("A")
    server.kill()
    sink.stop.set()
    sink.write("A", number=1)
    sink.let_live()
