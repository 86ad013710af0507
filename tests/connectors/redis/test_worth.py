"""What a look makes of valuations: what is old, of another position or unknown is said so."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import redis as redis_py

from connectors.redis.overview import OverviewReader
from connectors.redis.worth import CATCHES_UP_MS, NOT_VALUED, UNKNOWN, Valuations, Worth
from tests.support.hash_values import NOT_KNOWN, position, put, valuation

STALE_MS = 60_000


@pytest.fixture
def reader(redis_url: str) -> Iterator[OverviewReader]:
    reader = OverviewReader(
        redis_url, streams=("executions",), letters=["executions:dead"],
        positions_hash="positions", valuations=Valuations("valuations", STALE_MS, "UTC"),
    )  # fmt: skip
    yield reader
    reader.close()


def value(client: redis_py.Redis, *values: str) -> None:
    put(client, *values, name="valuations")


def now_ms() -> int:
    return time.time_ns() // 10**6


def test_nothing_is_said_of_worth_where_nothing_was_ever_valued(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    overview = reader.read()
    assert overview.worth == {}
    [total] = overview.totals
    assert (total.unrealized_pnl, total.total_pnl, total.day_pnl) == (None, None, None)
    assert (total.unvalued, total.day_unknown, total.stale) == (0, 0, 0)


def test_a_valuation_is_shown_exactly(reader: OverviewReader, redis: redis_py.Redis) -> None:
    exact = "12345678901234567.00000000000000000001"
    put(redis, position("A", account="U1"))
    value(redis, valuation("A", account="U1", unrealized_pnl=exact, mark_timestamp=now_ms()))
    [(key, worth)] = reader.read().worth.items()
    assert (key, worth.state, worth.unrealized_pnl) == ("U1:A", "live", Decimal(exact))
    [total] = reader.read().totals
    assert total.unrealized_pnl == Decimal(exact)


def test_a_mark_that_became_old_since_is_stale_also_if_nobody_says_so(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    value(redis, valuation("A", mark_timestamp=now_ms() - STALE_MS - 5000))
    overview = reader.read()
    assert overview.worth["A"].state == "stale"
    assert overview.worth["A"].unrealized_pnl == Decimal("7.5")
    assert overview.totals[0].stale == 1


def test_the_pnl_of_yesterday_is_not_shown_as_that_of_today(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    value(redis, valuation("A", day=f"{datetime.now(UTC) - timedelta(1):%Y-%m-%d}"))
    overview = reader.read()
    assert overview.worth["A"].day_pnl is None
    assert overview.worth["A"].total_pnl == Decimal("6.5")
    [total] = overview.totals
    assert (total.day_pnl, total.day_unknown, total.unvalued) == (None, 1, 0)


def test_a_valuation_of_what_the_position_was_long_ago_is_none(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    long_ago, just_now = now_ms() - CATCHES_UP_MS - 60_000, now_ms() + 60_000
    put(redis, position("A", stream_id=f"{long_ago}-1"), position("B", stream_id=f"{just_now}-1"))
    value(redis, valuation("A", stream_id=f"{long_ago}-0"), valuation("B", stream_id="5-0"))
    worth = reader.read().worth
    assert worth["A"] == UNKNOWN
    assert worth["A"].state == NOT_VALUED
    assert worth["B"].state == "live", "the flow that values is about to"


def test_a_total_over_some_unknown_says_of_how_many(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, *map(position, "ABC"), position("D", qty=0, net_realized_pnl=5))
    value(
        redis,
        valuation("A"),
        valuation("B", **NOT_KNOWN, state="no mark"),
        valuation("D", qty=0, state="no mark",
                  **NOT_KNOWN | {"unrealized_pnl": 0, "day_pnl": 0, "total_pnl": 5}),
    )  # fmt: skip
    overview = reader.read()
    assert overview.worth["B"] == Worth(None, None, None, None, None, None, "no mark")
    assert overview.worth["C"] == UNKNOWN
    [total] = overview.totals
    assert (total.unrealized_pnl, total.total_pnl, total.day_pnl) == (
        Decimal("7.5"), Decimal("11.5"), Decimal("2.25"),
    )  # fmt: skip
    assert (total.unvalued, total.day_unknown) == (2, 2)


def test_a_flat_position_makes_no_unknown_sum_a_0(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    flat = valuation("D", **NOT_KNOWN | {"unrealized_pnl": 0}, qty=0, state="no mark")
    put(redis, position("D", qty=0))
    value(redis, flat)
    assert reader.read().totals[0].unrealized_pnl == 0, "all is flat"
    put(redis, position("A"))
    assert reader.read().totals[0].unrealized_pnl is None


def test_what_is_gone_is_forgotten_and_what_is_no_valuation_is_named(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    value(redis, valuation("A"), valuation("of no position"))
    assert list(reader.read().worth) == ["A"]
    redis.delete("valuations")
    assert reader.read().worth == {}
    for text in ("no JSON", "[]", "{}", valuation("A", mark_price='"151"'),
                 valuation("A", state="good")):  # fmt: skip
        redis.hset("valuations", "A", text)
        with pytest.raises(ValueError, match=r"^valuation 'A': expected a JSON object"):
            reader.read()
