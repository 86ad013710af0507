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
    assert type(worth.mark_timestamp) is int
    [total] = reader.read().totals
    assert total.unrealized_pnl == Decimal(exact)


def test_a_mark_that_became_old_since_is_stale_also_if_nobody_says_so(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"))
    put(redis, position("flat", qty=0))
    old = {"mark_timestamp": now_ms() - STALE_MS - 5000}
    value(redis, valuation("A", **old), valuation("flat", qty=0, **old))
    overview = reader.read()
    assert overview.worth["A"].state == "stale"
    assert overview.worth["A"].unrealized_pnl == Decimal("7.5")
    assert overview.worth["flat"].state == "stale"
    assert overview.totals[0].stale == 1, "a flat position needs no mark"


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


def test_a_mark_and_a_day_end_to_the_millisecond_in_the_days_zone() -> None:
    known = Valuations("valuations", STALE_MS, "Asia/Tokyo")
    midnight = round(datetime(2026, 11, 27, 15, tzinfo=UTC).timestamp() * 1000)

    def at(now: int) -> tuple[str, bool]:
        worth = known.worth({"A": ("1700000000500-0", 0)}, now)["A"]
        return worth.state, worth.day_pnl is not None

    last = valuation("A", day="2026-11-27", mark_timestamp=midnight - STALE_MS)
    known.take({b"A": last.encode()})
    assert [at(midnight + ms) for ms in (-1, 0, 1)] == [
        ("live", True), ("live", False), ("stale", False),
    ]  # fmt: skip
    known.take({b"A": last.replace("2026-11-27", "2026-11-28").encode()})
    assert at(midnight) == ("live", True)


def test_what_came_and_went_while_a_value_was_no_valuation_is_not_shown() -> None:
    known = Valuations("valuations", STALE_MS, "UTC")
    one = valuation("A").encode()
    known.take({b"A": one, b"B": one})
    with pytest.raises(ValueError, match="valuation 'Z'"):
        known.take({b"B": one, b"C": one, b"Z": b"none"})
    known.take({b"B": one})
    worth = known.worth(dict.fromkeys("ABC", ("1700000000500-0", 0)), now_ms())
    assert [key for key, each in worth.items() if each != UNKNOWN] == ["B"]


def test_a_key_that_is_no_text_is_shown_so_that_it_can_be_told(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    redis.hset("positions", b"\xff", position("A"))
    redis.hset("valuations", b"\xff", valuation("A"))
    assert reader.read().worth[r"\xff"].state == "live"
    redis.delete("valuations")
    assert reader.read().worth == {}


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
