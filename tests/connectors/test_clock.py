"""A clock that is set back is noticed; one that is set forward, or by little, does no harm."""

import time

import pytest

from connectors.clock import Clock, ClockError, now_ms


class Ahead:
    """Sets the system's clock ahead of what is right, as this process sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, right = 0.0, time.time
        monkeypatch.setattr(time, "time", lambda: right() + self.seconds)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    return Ahead(monkeypatch)


@pytest.mark.parametrize("seconds", [-9, 0, 86_400])
def test_a_clock_that_is_right_or_set_forward_or_back_a_little_is_none_to_stop_for(
    ahead: Ahead, seconds: float
) -> None:
    clock = Clock()
    ahead.seconds = seconds
    clock.check()


@pytest.mark.parametrize("begun", [0, 7200])
def test_a_clock_that_is_set_back_says_by_how_much_until_an_epoch_begins(
    ahead: Ahead, begun: float
) -> None:
    """Also if it was set forward in the same epoch: by then the engine counts from there."""
    clock = Clock()
    ahead.seconds = begun
    clock.check()
    ahead.seconds = begun - 3600
    for _ in range(2):
        with pytest.raises(ClockError, match=r"set back by 3[56]\d\d s"):
            clock.check()
    clock.begin()
    clock.check()


def test_the_time_is_in_milliseconds() -> None:
    assert abs(now_ms() - time.time() * 1000) < 60_000
