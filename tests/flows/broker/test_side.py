"""The broker's side in Redis, and the breaks, without a TWS: what a feed knows is given."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis as redis_py

from connectors.ibkr.account import Accounts
from connectors.ibkr.feed import ExecutionFeed
from connectors.redis.broker import BothSides, BothSidesReader, BrokerHash, BrokerPosition
from connectors.redis.link import RedisLink
from flows.broker import side
from flows.broker.side import AccountView, Comparison

DEADLINE_S = 20.0
LOOK_S = 0.005
LONG_AGO = -1e9
LOOKS = 30


@dataclass
class Listed:
    """What a comparison asks a feed's positions."""

    known: bool = True


@dataclass
class Feed:
    """What a comparison or a view asks a feed."""

    ib: Any = None
    listed: float | None = LONG_AGO
    waiting: int = 0
    positions: Listed = field(default_factory=Listed)


class Reader(BothSidesReader):
    """Reads both sides while something happens."""

    def happens(self) -> None:
        """Nothing, unless a test says otherwise."""

    def read(self) -> BothSides:
        self.happens()
        return super().read()


class Desk:
    """Both sides in Redis, and what a comparison of them has told."""

    def __init__(self, redis: redis_py.Redis, link: RedisLink) -> None:
        self.redis, self.feed = redis, Feed()
        self.on_their_way, self.flickers = 0, False
        self.broker = BrokerHash(link, "broker")
        self.reader = Reader(
            link, positions_hash="positions", broker_hash="broker", streams=["executions"]
        )
        self.holds(2)
        redis.hset(
            "positions", "U1:A", '{"account": "U1", "symbol": "A", "qty": 2, "avg_price": 1}'
        )

    def _on_their_way(self) -> int:  # asked once for each look
        if self.flickers:
            self.feed.positions.known = not self.feed.positions.known
        return self.on_their_way

    def holds(self, qty: int) -> bool:
        """Have the broker hold so many; True, so that it may be a step."""
        self.broker.write([BrokerPosition("U1", "A", str(qty), "1", "7", 1)], ["U1"])
        self.broker.show(["U1"], known=True)
        return True

    @property
    def breaks(self) -> dict[str, Any]:
        found: Any = self.redis.hgetall("broker:breaks")
        return {key.decode(): json.loads(value) for key, value in found.items()}

    def run(self, *steps: Callable[[], object]) -> None:
        """Compare, as a run does, until each step has been true once, one after the other."""
        self.comparison = Comparison(self.reader, self.broker, self._on_their_way)
        run(self.comparison.run(cast("ExecutionFeed", self.feed)), *steps)


def run(work: Coroutine[None, None, None], *steps: Callable[[], object]) -> None:
    """Do something until each step has been true once, one after the other."""

    async def both() -> None:
        running = asyncio.create_task(work)
        try:
            async with asyncio.timeout(DEADLINE_S):
                for step in steps:
                    while not running.done() and not await asyncio.to_thread(step):  # noqa: ASYNC110
                        await asyncio.sleep(LOOK_S)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(both())


@pytest.fixture
def desk(redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(side, "LOOK_EVERY_S", LOOK_S)
    monkeypatch.setattr(side, "AT_CONNECT_S", 10 * LOOK_S)
    monkeypatch.setattr(side, "LASTING_S", 20 * LOOK_S)
    link = RedisLink(redis_url, Event())
    with closing(link.client):
        yield Desk(redis, link)


def test_a_break_is_told_while_it_lasts(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="lotstream.router")
    desk.holds(5)
    desk.run(lambda: desk.breaks, lambda: desk.holds(2), lambda: not desk.breaks)
    assert caplog.messages == [
        "break: U1:A: ours 2, the broker's 5 (quantity), +3 missing",
        "no break any more: U1:A: ours 2, the broker's 5 (quantity), +3 missing",
    ]


def test_a_break_stands_with_the_figures_of_now_in_a_redis_that_lost_it_too(desk: Desk) -> None:
    since: list[int] = []

    def lost() -> bool:
        since.append(desk.breaks["U1:A"]["since"])
        desk.redis.delete("broker:breaks")
        desk.comparison.write_again()
        return True

    desk.holds(5)
    desk.run(
        lambda: desk.breaks, lambda: desk.holds(6), lambda: desk.breaks["U1:A"]["broker"] == 6,
        lost, lambda: desk.breaks,
    )  # fmt: skip
    assert since == [desk.breaks["U1:A"]["since"]]


@pytest.mark.parametrize(
    ("just_now", "left"), [(True, {"U1:A", "U1:OLD"}), (False, set())], ids=["at once", "later"]
)
def test_directly_after_a_connect_less_of_it_is_a_break_and_none_that_was_left_goes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, just_now: bool, left: set[str]
) -> None:
    monkeypatch.setattr(side, "LASTING_S", 1000.0)
    if just_now:
        desk.feed.listed = time.monotonic()  # the loop's clock
    desk.broker.write_breaks({"U1:OLD": "{}"}, [])
    desk.holds(5)
    looks = iter(range(LOOKS))
    desk.run(lambda: "U1:A" in desk.breaks if just_now else next(looks, None) is None)
    assert {*desk.breaks} == left


def test_a_break_that_an_earlier_run_has_left_stands_until_both_sides_are_known_to_agree(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.broker.write_breaks({"U1:A": '{"since": 1}', "U1:OLD": '{"since": 1}'}, [])
    desk.holds(5)
    seen: list[set[str]] = []

    def found_anew() -> bool:
        seen.append({*desk.breaks})
        return bool(desk.breaks["U1:A"]["since"] != 1)

    desk.run(found_anew)
    assert all("U1:A" in keys for keys in seen)
    assert [*desk.breaks] == ["U1:A"]
    # Another run may find that it has ended before it has lasted.
    monkeypatch.setattr(side, "LASTING_S", 1000.0)
    desk.broker.write_breaks({"U1:OLD": "{}"}, [])
    desk.run(
        lambda: "U1:OLD" not in desk.breaks, lambda: desk.holds(2), lambda: not desk.breaks
    )  # fmt: skip


UNSURE: dict[str, Callable[[Desk, bool], object]] = {
    "on its way to Redis": lambda desk, so: setattr(desk, "on_their_way", int(so)),
    "waits for its contract": lambda desk, so: setattr(desk.feed, "waiting", int(so)),
    "not all listed": lambda desk, so: setattr(desk.feed, "listed", None if so else LONG_AGO),
    "positions not known": lambda desk, so: setattr(desk.feed.positions, "known", not so),
    "connected anew meanwhile": lambda desk, so: setattr(
        desk.reader, "happens", lambda: setattr(desk.feed, "listed", time.monotonic() * so)
    ),
    "no account known": lambda desk, so: desk.broker.show(["U1"], known=not so),
    "not booked": lambda desk, so: (
        desk.redis.xadd("executions", {"a": "b"}) if so else desk.redis.delete("executions")
    ),
    "not to be read": lambda desk, so: (
        desk.redis.hset("positions", "B", "?") if so else desk.redis.hdel("positions", "B")
    ),
}


@pytest.mark.parametrize("what", UNSURE)
def test_what_is_not_sure_is_no_break_and_no_end_of_one(desk: Desk, what: str) -> None:
    make = UNSURE[what]
    desk.broker.write_breaks({"U1:OLD": '{"since": 1}'}, [])
    desk.holds(5)
    make(desk, True)
    looks = iter(range(LOOKS))
    desk.run(lambda: next(looks, None) is None)
    assert [*desk.breaks] == ["U1:OLD"]
    make(desk, False)
    desk.run(lambda: [*desk.breaks] == ["U1:A"])


def test_positions_that_cannot_be_read_are_told_of_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[None] = []
    setattr(desk.reader, "happens", lambda: looks.append(None))  # noqa: B010

    def broken(so: bool) -> bool:
        UNSURE["not to be read"](desk, so)
        looks.clear()
        return True

    def looked() -> bool:
        return len(looks) > 2

    desk.run(
        lambda: broken(True), looked, lambda: broken(False), looked, lambda: broken(True), looked
    )
    assert caplog.text.count("positions are not compared: position 'B': expected") == 2


def test_what_differs_counts_anew_whenever_the_brokers_side_was_not_known(desk: Desk) -> None:
    desk.flickers = True
    desk.holds(5)
    looks = iter(range(2 * LOOKS))
    desk.run(lambda: next(looks, None) is None)
    assert not desk.breaks


class Library:
    """What an account's view asks the library."""

    asked, silent = 0, True

    def accountValues(self) -> list[SimpleNamespace]:  # noqa: N802
        value = {"tag": "NetLiquidation", "value": "5.0", "currency": "USD", "modelCode": ""}
        return [SimpleNamespace(account=account, **value) for account in ("U1", "F2")]

    async def reqAllOpenOrdersAsync(self) -> list[Any]:  # noqa: N802
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        return []


def test_orders_that_tws_does_not_tell_are_not_none_and_asked_for_when_it_is_back(
    redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOK_EVERY_S", "FIGURES_EVERY_S", "_ANSWER_S"):
        monkeypatch.setattr(side, name, LOOK_S)
    monkeypatch.setattr(side, "ORDERS_EVERY_S", 0.0)
    library = Library()
    feed, told, looks = Feed(ib=library), set[int](), iter(range(LOOKS))

    def account() -> dict[str, Any]:
        found: Any = redis.hgetall("broker:account")
        view: dict[str, Any] = json.loads(found.get(b"U1", "{}"))
        told.add(view.get("as_of", 0))
        return view

    def is_lost() -> bool:
        assert (account()["open_orders"], library.asked) == (None, 1)
        feed.listed, library.silent = None, False
        return True

    def is_back() -> bool:
        feed.listed = LONG_AGO
        return True

    def answers_no_more() -> bool:
        library.silent = True
        return True

    link = RedisLink(redis_url, Event())
    with closing(link.client):
        view = AccountView(BrokerHash(link, "broker"), Accounts())
        run(
            view.run(cast("ExecutionFeed", feed)),
            lambda: account() and len(told) > 3, is_lost, lambda: next(looks, None) is None,
            is_back, lambda: account()["open_orders"] == [] and library.asked > 2,
            answers_no_more, lambda: account()["open_orders"] is None,
        )  # fmt: skip
    assert redis.hkeys("broker:account") == [b"U1"]
