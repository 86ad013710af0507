"""The words and the rate that the terminal, the page and the metrics share."""

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import redis as redis_py

from connectors.redis.base_totals import read_totals
from connectors.redis.overview import SILENT_S, StreamState
from flows.common.overview import (
    Rate,
    age,
    base_words,
    flow_words,
    lacking_words,
    overview_reader,
)
from flows.common.settings import load_settings
from tests.support.hash_values import base_totals, currency_total, position, put, valuation

STATE = StreamState("executions", 5, "5-0", "4-0", 2.0, 0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (STATE, "flow running"),
        (STATE._replace(flow_silent_s=SILENT_S + 120), "flow AWAY or stuck, seen 2 min ago"),
        (STATE._replace(flow_silent_s=None), "flow not seen yet"),
        (STATE._replace(flow_silent_s=0.5, newest_id=None), "flow running"),
        (STATE._replace(flow_silent_s=None, lag=3, lag_s=100.0), "flow AWAY or stuck"),
    ],
)
def test_the_flow_being_away_is_said_plainly(state: StreamState, words: str) -> None:
    assert flow_words(state) == words
    assert flow_words(state, "executions:1") == words.replace("flow", "flow on executions:1")


def test_a_look_is_at_what_the_settings_name(
    redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "REDIS_URL": redis_url, "EXECUTIONS_STREAM": "fills", "STREAM_PARTITIONS": "3",
        "OWN_PARTITIONS": "0,2", "DEAD_LETTER_STREAM": "dead", "POSITIONS_HASH": "book",
        "BROKER_HASH": "ibkr", "VALUATIONS_HASH": "worth", "MARK_STALE_S": "3600",
        "DAY_ZONE": "Asia/Tokyo",
    }  # fmt: skip
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    put(redis, position("A"), name="book")
    now = datetime.now(UTC)
    known = valuation("A", mark_timestamp=int((now.timestamp() - 600) * 1000),
                      day=f"{now.astimezone(ZoneInfo('Asia/Tokyo')):%Y-%m-%d}")  # fmt: skip
    put(redis, known, name="worth")
    redis.hset("ibkr", ":state", '{"accounts": {}}')
    for part in range(3):
        redis.xadd(f"dead:{part}", {"a": "1"})
    settings = load_settings()
    reader = overview_reader(settings, valued=True)
    seen = reader.read()
    assert [state.stream for state in seen.streams] == ["fills:0", "fills:2"]
    assert (seen.dead_letters, list(seen.positions), seen.broker.known) == (3, ["A"], False)
    assert seen.worth["A"].state == "live"
    assert seen.worth["A"].day_pnl is not None
    redis.set("fills:partitions", 2)
    with pytest.raises(ValueError, match="STREAM_PARTITIONS: expected 2"):
        reader.read()
    reader.close()
    redis.set("fills:partitions", 3)
    without = overview_reader(settings)
    assert without.read().worth == {}
    without.close()


def test_what_a_total_lacks_is_said_without_counting_twice() -> None:
    assert lacking_words(0, 0, 0) == []
    assert lacking_words(2, 2, 0) == ["2 without a mark left out"]
    assert lacking_words(1, 3, 1) == [
        "1 without a mark left out", "2 more in no day's P&L", "1 at a stale mark",
    ]  # fmt: skip


def test_only_an_old_rate_is_said_with_its_age() -> None:
    rated = currency_total("EUR", pair="EUR.USD", rate="1.25", rate_timestamp=0, rate_state="live")
    text = base_totals(currencies=f"[{rated}]").encode()
    assert base_words(read_totals(text, 60_000, 60_000), 60_000) == []
    assert base_words(read_totals(text, 120_000, 60_000), 120_000) == ["rate EUR.USD stale, 2 min"]


def test_how_long_ago_is_said_in_the_largest_unit() -> None:
    assert [age(s) for s in (0, 59, 60, 3600, 86400)] == ["0 s", "59 s", "1 min", "1 h", "1 d"]


def test_the_rate_is_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_second is None
    rate.count(100)
    assert rate.per_second is None
    time.sleep(0.1)
    rate.count(110)
    assert rate.per_second is not None
    assert 20 < rate.per_second <= 100
    rate.reset()
    assert rate.per_second is None


def test_the_rate_forgets_what_is_long_ago_and_is_never_below_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = Rate()
    for now, count in ((100.0, 0), (105.0, 1000), (115.0, 1020)):  # noqa: B007
        rate.count(count)
    assert rate.per_second == 2
    now = 116.0
    rate.count(0)  # the hash was deleted
    assert rate.per_second == 0
