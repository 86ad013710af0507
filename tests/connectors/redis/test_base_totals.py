"""The totals over all currencies in Redis: exact, written when they change, gone with the flow."""

import time
from collections.abc import Iterator
from decimal import Decimal
from threading import Event

import pytest
import redis as redis_py

from connectors.redis.base_totals import TERM_S, BaseTotals, CurrencyTotal, TotalsKey, read_totals
from connectors.redis.link import NotOursError, RedisLink
from connectors.redis.overview import OverviewReader
from connectors.redis.worth import Valuations
from tests.support.hash_values import base_totals, currency_total, position, put, valuation

KEY = "valuations:totals"
EXACT = Decimal("-12345678901234567.00000000000000000001")
EURO = CurrencyTotal(
    "EUR", 2, EXACT, None, EXACT, 0, 2, 1, "EUR.USD", Decimal("1.25"), 1700000000000, "live"
)
TOTALS = BaseTotals("USD", 1700000000500, EXACT, None, EXACT, 0, 2, 1, {"CHF.USD": 3}, [EURO])


@pytest.fixture
def key(redis_url: str) -> Iterator[TotalsKey]:
    link = RedisLink(redis_url, Event())
    yield TotalsKey(link, "valuations")
    link.client.close()


def stored(client: redis_py.Redis) -> bytes:
    value = client.get(KEY)
    assert isinstance(value, bytes)
    return value


def test_what_is_written_is_read_back_exactly(key: TotalsKey, redis: redis_py.Redis) -> None:
    key.show(TOTALS)
    found = read_totals(stored(redis), 1700000000000, 60_000)
    assert found == TOTALS
    assert type(found.as_of) is type(found.currencies[0].rate_timestamp) is int


def test_it_is_written_only_when_it_has_changed_or_is_gone(
    key: TotalsKey, redis: redis_py.Redis
) -> None:
    key.show(TOTALS)
    first = stored(redis)
    key.show(TOTALS._replace(as_of=1700000009999))
    assert stored(redis) == first
    redis.delete(KEY)
    key.show(TOTALS._replace(as_of=1700000009999))
    assert b"1700000009999" in stored(redis)
    key.show(TOTALS._replace(total_pnl=Decimal(1)))
    assert read_totals(stored(redis), 0, 1).total_pnl == 1


def test_each_look_of_the_flow_renews_its_term_and_without_it_goes(
    key: TotalsKey, redis: redis_py.Redis
) -> None:
    key.show(TOTALS)
    assert 0 < int(redis.ttl(KEY)) <= TERM_S
    redis.expire(KEY, 1000)
    key.show(TOTALS)
    assert 0 < int(redis.ttl(KEY)) <= TERM_S


def test_a_rate_that_became_old_since_is_stale_also_if_nobody_says_so() -> None:
    rated = currency_total("EUR", pair="EUR.USD", rate="1.25", rate_timestamp=10, rate_state="live")
    text = base_totals(currencies=f"[{rated}, {currency_total('USD')}]").encode()
    states = [
        [each.rate_state for each in read_totals(text, now, 60_000).currencies]
        for now in (60_010, 60_011)
    ]
    assert states == [["live", None], ["stale", None]]


@pytest.mark.parametrize(
    "value",
    ["", "[]", "{}", base_totals(no_rate="3"), base_totals(total_pnl='"much"'),
     base_totals(currencies="[7]"), base_totals(no_rate='{"EUR.USD": Infinity}'), "x" * 999],
)  # fmt: skip
def test_what_is_no_totals_is_named(redis: redis_py.Redis, redis_url: str, value: str) -> None:
    put(redis, position("A"))
    put(redis, valuation("A", mark_timestamp=time.time_ns() // 10**6), name="valuations")
    redis.set(KEY, value)
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=[], positions_hash="positions",
        valuations=Valuations("valuations", 60_000, "UTC"),
    )  # fmt: skip
    with pytest.raises(NotOursError, match="totals of the valuations: expected a JSON obj") as said:
        reader.read()
    assert len(str(said.value)) < 200
    reader.close()
