"""The words and the rate that the terminal, the page and the metrics share."""

import time

import pytest

from connectors.redis.overview import SILENT_S, StreamState
from flows.common.overview import Rate, age, flow_words

STATE = StreamState("executions", 5, "5-0", "4-0", 2.0, 0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (STATE, "flow running"),
        (STATE._replace(flow_silent_s=SILENT_S + 120), "flow AWAY or stuck, seen 2 min ago"),
        (STATE._replace(flow_silent_s=None), "flow not seen yet"),
        (STATE._replace(flow_silent_s=None, lag=3, lag_s=100.0), "flow AWAY or stuck"),
    ],
)
def test_the_flow_being_away_is_said_plainly(state: StreamState, words: str) -> None:
    assert flow_words(state) == words
    assert flow_words(state, "executions:1") == words.replace("flow", "flow on executions:1")


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
