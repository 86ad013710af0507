"""The feed, and what it asks, against a TWS double through the real library."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from connectors.ibkr import feed as ibkr
from connectors.ibkr.account import (
    Accounts,
    Positions,
    account_figures,
    ask_account,
    open_orders,
)
from connectors.ibkr.feed import ExecutionFeed
from connectors.ibkr.instruments import Record
from connectors.ibkr.messages import Letter, Message
from connectors.ibkr.session import (
    ClientIdTakenError,
    ReadingIB,
    Tws,
    TwsError,
    connect,
    waits,
)
from tests.support.tws_double import (
    CHANGES_ORDERS,
    DEADLINE_S,
    Fill,
    Holding,
    Instrument,
    Order,
    TwsDouble,
)

NEW_YORK = ZoneInfo("America/New_York")
AAPL = Instrument(265598, "AAPL")
CALL = Instrument(
    495512552, "AAPL", "OPT", local_symbol="AAPL  260717C00200000",
    expiry="20260717", strike=200.0, right="C", multiplier="100",
)  # fmt: skip
SPREAD = Instrument(28812380, "AAPL", "BAG")


def exec_id(number: int, leg: int = 1, revision: int = 1) -> str:
    return f"0000e0d5.{number:08x}.{leg:02}.{revision:02}"


class MemoryRegister:
    """Remembers contracts as the one in Redis does, for as long as the test."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.names: dict[str, int] = {}

    async def known(self) -> dict[int, Record]:
        return dict(self.records)

    async def claim(self, con_id: int, names: Sequence[str], record: Record | None) -> Record:
        own = [name for name, owner in self.names.items() if owner == con_id]
        name = (own or [name for name in names if name not in self.names])[0]
        self.names[name] = con_id
        if record is None:
            return {"name": name}
        return self.records.setdefault(con_id, {**record, "name": name})


# --- the feed --------------------------------------------------------------------------


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        yield double


class Received(list[Message]):
    """What a feed has handed on."""

    feed: ExecutionFeed
    running: asyncio.Task[None]

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[Letter] = []
        self.register = MemoryRegister()

    def ids(self, kind: str = "execution") -> list[str]:
        return [each["exec_id"] for each in self if each.get("type", "execution") == kind]


@asynccontextmanager
async def following(
    double: TwsDouble,
    *,
    zone: str = "UTC",
    answer_s: float = 5.0,
    pause_s: float = 60.0,
    accounts: Sequence[str] = (),
) -> AsyncIterator[Received]:
    received = Received()
    address = Tws("127.0.0.1", double.port, 1, ZoneInfo(zone), answer_s)
    feed = ExecutionFeed(
        address, received.extend, received.refused.append, received.register,
        accounts=Accounts(accounts), pause_s=pause_s,
    )  # fmt: skip
    received.feed = feed
    received.running = running = asyncio.create_task(feed.run())
    try:
        yield received
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)  # lets the socket close


async def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  # conditions of many kinds
            await asyncio.sleep(0.01)


async def connected(double: TwsDouble) -> None:
    """Wait until the first list of executions was asked for, so that what follows is live."""
    await asyncio.to_thread(double.wait_for_client)
    await until(lambda: 7 in double.requests)


async def happen(action: Callable[..., None], *arguments: Any) -> None:
    await asyncio.to_thread(action, *arguments)


def test_a_backlog_comes_in_order_of_time_and_then_of_arrival(tws: TwsDouble) -> None:
    times = ["14:30:06", "14:30:05", "14:30:06", "14:30:05", "14:30:04"]
    tws.fill(*(Fill(exec_id(9 - n), AAPL, time=f"20260706-{at}") for n, at in enumerate(times)))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 10)
        assert received.ids() == [exec_id(number) for number in (5, 8, 6, 9, 7)]
        assert received.ids("commission") == received.ids()

    asyncio.run(scenario())


def test_live_fills_of_known_and_unknown_orders_come_alike(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await happen(tws.fill, Fill(exec_id(1), AAPL))
            await happen(tws.order, Order(8, 1002, AAPL, 300.0))
            await happen(tws.fill, Fill(exec_id(2), AAPL, order_id=8, perm_id=1002))
            await until(lambda: len(received) == 4)
        assert [each.get("remaining") for each in received if "type" not in each] == [None, "200"]

    asyncio.run(scenario())


def test_a_leg_is_not_measured_by_the_combo_that_was_ordered(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await happen(tws.order, Order(8, 1002, SPREAD, 300.0, legs=(AAPL, CALL)))
            combo = Fill(exec_id(1), SPREAD, order_id=8, perm_id=1002)
            legs = (
                replace(combo, exec_id=exec_id(1, leg=2), instrument=AAPL),
                replace(combo, exec_id=exec_id(1, leg=3), instrument=CALL, side="SLD"),
            )
            await happen(tws.fill, combo, *legs)
            await until(lambda: len(received) == 4)
        assert received.ids() == [leg.exec_id for leg in legs]
        assert not [each for each in received if "remaining" in each]

    asyncio.run(scenario())


def test_a_commission_that_comes_before_its_execution_is_handed_on_behind_it(
    tws: TwsDouble,
) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await until(lambda: received.feed.listed)
            await happen(tws.report, Fill(exec_id(1), AAPL, commission="2.5"))
            await happen(tws.fill, Fill(exec_id(1), AAPL, commission=None))
            await until(lambda: len(received) == 2)
        assert [each.get("commission") for each in received] == [None, "2.5"]

    asyncio.run(scenario())


def test_a_list_has_newer_commissions_than_those_that_came_before_it(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
            await happen(tws.report, Fill(exec_id(1), AAPL, commission="2.5"))
            await happen(tws.fill, Fill(exec_id(2), AAPL, commission=None))
            await until(lambda: len(received) == 1)  # and so the report was read
            fill = Fill(exec_id(1), AAPL, commission="3.0")
            await asyncio.to_thread(lambda: tws.fill(fill, live=False))
            received.feed.fetch()
            await until(lambda: received.ids("commission"))
        assert [each["commission"] for each in received if "commission" in each] == ["3"]

    asyncio.run(scenario())


def test_what_is_wished_once_is_listed_once(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
            asked = tws.requests.count(7)
            received.feed.fetch()
            await until(lambda: tws.requests.count(7) > asked)
            await asyncio.sleep(0.2)
            assert tws.requests.count(7) == asked + 1

    asyncio.run(scenario())


def test_a_commission_that_comes_late_or_changes_is_handed_on(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await happen(tws.fill, Fill(exec_id(1), AAPL, commission=None))
            await until(lambda: len(received) == 1)
            for count, figure in enumerate(("1.0", "2.5", "1.0"), start=2):
                for report in ("", figure, figure):  # an empty one says nothing
                    await happen(tws.commission, exec_id(1), report)
                await until(partial(lambda count: len(received) == count, count))
        assert [each["commission"] for each in received[1:]] == ["1", "2.5", "1"]

    asyncio.run(scenario())


def test_the_slow_timer_finds_what_is_sent_to_nobody(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws, pause_s=0.2) as received:
            await connected(tws)
            await asyncio.to_thread(lambda: tws.fill(Fill(exec_id(1), AAPL), live=False))
            await until(lambda: exec_id(1) in received.ids())

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [1101, 1102])
def test_executions_are_asked_for_when_ibkr_is_back(tws: TwsDouble, code: int) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await happen(tws.error, 1100, "lost")
            await asyncio.to_thread(lambda: tws.fill(Fill(exec_id(1), AAPL), live=False))
            await happen(tws.error, code, "restored")
            await until(lambda: exec_id(1) in received.ids())

    asyncio.run(scenario())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_lost_connection_is_made_again(tws: TwsDouble, reset: bool) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await asyncio.to_thread(lambda: tws.drop(reset=reset))
            await asyncio.to_thread(lambda: tws.fill(Fill(exec_id(1), AAPL), live=False))
            await until(lambda: exec_id(1) in received.ids())

    asyncio.run(scenario())


def test_a_tws_that_hangs_is_left_and_found_again(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with following(tws, answer_s=0.3, pause_s=0.1) as received:
            await connected(tws)
            positions = received.feed.positions
            await until(lambda: positions.known and received.feed.listed)
            tws.silent = True
            await until(lambda: "it has not answered" in caplog.text)
            await until(lambda: not positions.known and received.feed.listed is None)
            await asyncio.to_thread(lambda: tws.fill(Fill(exec_id(1), AAPL), live=False))
            tws.silent = False
            await until(lambda: exec_id(1) in received.ids())

    asyncio.run(scenario())


def test_what_was_held_when_the_connection_broke_is_handed_on(tws: TwsDouble) -> None:
    tws.ends_executions = False  # so that the list is being waited for
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws, answer_s=30.0) as received:
            await until(lambda: tws.asked_details)
            assert not received
            tws.listed.clear()  # as over midnight: it will not be told again
            await happen(tws.drop)
            await until(lambda: exec_id(1) in received.ids())

    asyncio.run(scenario())


def test_between_attempts_it_waits_longer_and_longer_until_one_lasts(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Iterator[float]] = []

    def told() -> Iterator[float]:
        began.append(iter([0.01, 0.01, 1000.0]))
        return began[-1]

    monkeypatch.setattr(ibkr, "waits", told)
    tws.taken_client_ids = {1}

    async def scenario() -> None:
        async with following(tws):
            await until(lambda: tws.requests.count(71) == 3)
            await until(lambda: next(began[0], None) is None)  # it waits for long
            await asyncio.sleep(0.1)
        assert (len(began), tws.requests.count(71)) == (1, 3)
        tws.taken_client_ids = set()
        monkeypatch.setattr(ibkr, "LONGEST_WAIT_S", 0.0)  # any connection has lasted
        async with following(tws):
            for count in range(4, 9):
                await until(partial(lambda count: tws.requests.count(71) >= count, count))
                await happen(tws.drop)

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(5))
def test_it_ends_when_told_to_also_while_it_wakes(tws: TwsDouble, turns: int) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
            await asyncio.sleep(0.01)  # and now it waits
            received.feed.fetch()
            for _ in range(turns):
                await asyncio.sleep(0)
            received.running.cancel()
            ended, _ = await asyncio.wait({received.running}, timeout=DEADLINE_S)
            assert ended

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", [True, False])
def test_what_a_receiver_has_lost_is_offered_again(tws: TwsDouble, *, lost: bool) -> None:
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 2)
            await until(lambda: received.feed.listed)
            await happen(tws.fill, Fill(exec_id(2), AAPL))
            await until(lambda: len(received) == 4)
            register = received.register
            before = dict(register.records)
            if lost:
                register.records.clear()
                register.names.clear()
            received.feed.offer_again()
            await until(lambda: len(received) == 8)
            assert received.ids() == [exec_id(1), exec_id(2)] * 2
            assert register.records == before

    asyncio.run(scenario())
    assert tws.asked_details == [AAPL.con_id]


def test_what_a_list_does_not_have_is_forgotten(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
            # The last of each list is new, and tells that the list was read.
            for last, *numbers in ((10, 1), (11, 1), (12,), (13, 1)):
                fills = [Fill(exec_id(n), AAPL, commission=None) for n in (*numbers, last)]
                tws.listed = {(each.account, each.exec_id): each for each in fills}
                tws.instruments[AAPL.con_id] = AAPL
                received.feed.fetch()
                await until(partial(lambda last: exec_id(last) in received.ids(), last))
            assert received.ids().count(exec_id(1)) == 2

    asyncio.run(scenario())


def test_a_list_that_never_ends_holds_nothing_back(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    tws.ends_executions = False
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws, answer_s=0.3, pause_s=0.1) as received:
            await until(lambda: exec_id(1) in received.ids())
            await happen(tws.fill, Fill(exec_id(2), AAPL))
            await until(lambda: exec_id(2) in received.ids() and tws.requests.count(7) > 3)

    asyncio.run(scenario())
    assert caplog.text.count("does not end its list") == 1
    assert "no connection" not in caplog.text


def test_a_list_that_never_ends_is_no_longer_for_what_else_tws_says(tws: TwsDouble) -> None:
    tws.ends_executions = False
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async def chatter() -> None:
            while True:
                await happen(tws.error, 2106, "data farm connection is OK")
                await asyncio.sleep(0.02)

        async with following(tws, answer_s=0.3, pause_s=0.1) as received:
            await connected(tws)
            chattering = asyncio.create_task(chatter())
            await until(lambda: exec_id(1) in received.ids() and tws.requests.count(7) > 2)
            chattering.cancel()

    asyncio.run(scenario())


def test_an_empty_list_that_never_ends_is_no_dead_connection(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    tws.ends_executions = False

    async def scenario() -> None:
        async with following(tws, answer_s=0.2, pause_s=0.05):
            await until(lambda: "does not end its list" in caplog.text)
            await until(lambda: tws.requests.count(7) > 2)

    asyncio.run(scenario())
    assert tws.requests.count(71) == 1
    assert "it has not answered" not in caplog.text


def test_a_tws_that_hangs_long_before_its_next_list_is_noticed(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_LISTS_APART", 1e9)

    async def scenario() -> None:
        async with following(tws, answer_s=0.2, pause_s=0.05) as received:
            await until(lambda: received.feed.listed)
            tws.silent = True
            await until(lambda: received.feed.listed is None)
            assert tws.requests.count(7) == 1

    asyncio.run(scenario())


def test_a_fill_during_the_connect_waits_for_its_elders(tws: TwsDouble) -> None:
    tws.fill(Fill(exec_id(1), AAPL, time="20260706-14:30:05"))
    tws.ends_positions = False  # keeps the library's connect busy

    async def scenario() -> None:
        async with following(tws, answer_s=0.5) as received:
            await asyncio.to_thread(tws.wait_for_client)
            await happen(tws.fill, Fill(exec_id(2), AAPL, time="20260706-14:30:06"))
            await until(lambda: exec_id(2) in received.ids())
        assert list(dict.fromkeys(received.ids())) == [exec_id(1), exec_id(2)]

    asyncio.run(scenario())


def test_every_way_that_tws_writes_a_time_arrives(tws: TwsDouble) -> None:
    texts = [
        "20260706 10:30:05 US/Eastern", "20260706-14:30:05", "20260706  10:30:05",
        "20260706 10:30:05 EDT", "20260706 16:30:05 CEST", "20260706 16:30:05 MET",
    ]  # fmt: skip
    tws.fill(*(Fill(exec_id(n), AAPL, time=text) for n, text in enumerate(texts)))

    async def scenario() -> None:
        async with following(tws, zone="America/New_York") as received:
            await until(lambda: len(received) == 2 * len(texts))
        assert {each["timestamp"] for each in received} == {"1783348205000"}

    asyncio.run(scenario())


def test_an_execution_whose_zone_is_unknown_is_told_once_and_stops_no_other(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    tws.fill(
        Fill(exec_id(1), AAPL, time="20260706 10:30:05 Eastern Standard Time"),
        Fill(exec_id(2), AAPL),
    )

    async def scenario() -> None:
        async with following(tws, pause_s=0.05) as received:
            await until(lambda: exec_id(2) in received.ids() and tws.requests.count(7) > 2)
        assert exec_id(1) not in received.ids()
        assert {each.exec_id for each in received.refused} == {exec_id(1)}
        refused = received.refused[0]
        assert "Eastern Standard Time" in refused.fields["tws_time"]
        assert (refused.fields["fill_qty"], refused.account) == ("100.0", "U1")

    asyncio.run(scenario())
    told = [record for record in caplog.records if exec_id(1) in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert "IBKR_TIMEZONE" in told[0].getMessage()


def test_what_would_not_be_published_is_not_refused_either(tws: TwsDouble) -> None:
    block = Fill(exec_id(1), AAPL, time="20260706 10:30:05 XYZ", account="F1")
    tws.fill(block, replace(block, instrument=SPREAD, account="U1"))
    tws.fill(replace(block, account="U1", exec_id=exec_id(2)))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
        assert [(each.account, each.exec_id) for each in received.refused] == [("U1", exec_id(2))]

    asyncio.run(scenario())


def test_an_execution_without_an_id_is_refused_and_stops_no_other(tws: TwsDouble) -> None:
    tws.fill(Fill("", AAPL, commission=None), Fill(exec_id(2), AAPL))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: exec_id(2) in received.ids())
        assert [each.reason for each in received.refused] == [
            "exec_id: expected a value, found none"
        ]

    asyncio.run(scenario())


# --- what a contract is called, and what its points are worth ---------------------------


WHEAT = Instrument(
    532_513, "ZW", "FUT", local_symbol="ZWN6", multiplier="5000", price_magnifier=100,
    primary_exchange="CBOT",
)  # fmt: skip


def test_money_per_point_is_the_multiplier_over_the_magnifier(tws: TwsDouble) -> None:
    tws.fill(Fill(exec_id(1), WHEAT, price=1088.5))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 2)
        assert (received[0]["symbol"], received[0]["multiplier"]) == ("ZWN6", "50")

    asyncio.run(scenario())
    assert tws.asked_details == [WHEAT.con_id]


@pytest.mark.parametrize(
    "instrument",
    [
        Instrument(7, "US-T", "BOND", local_symbol="US-T 4 1/4 2035"),
        Instrument(8, "YT", "FUT", local_symbol="YTU6", ev_rule="aussieBond:YearsToExpiration=3"),
    ],
    ids=["bond", "evRule"],
)
def test_what_is_not_known_to_be_linear_is_refused_with_all_that_is_known(
    tws: TwsDouble, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    tws.fill(Fill(exec_id(1), instrument, price=99.5))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.refused)
        [refused] = received.refused
        assert refused.reason.startswith("multiplier: expected")
        assert refused.fields["fill_price"] == "99.5"
        assert refused.fields["timestamp"] == "1783348205000"
        assert not received.ids()

    asyncio.run(scenario())
    assert "its executions become dead letters" in caplog.text


def test_a_rule_that_only_the_execution_names_counts(tws: TwsDouble) -> None:
    tws.fill(Fill(exec_id(1), WHEAT, ev_rule="aussieBond"))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.refused)
        assert "'aussieBond'" in received.refused[0].reason

    asyncio.run(scenario())


def test_an_execution_whose_details_do_not_come_is_refused_and_published_when_they_do(
    tws: TwsDouble,
) -> None:
    tws.silent_details = {AAPL.con_id}
    tws.fill(Fill(exec_id(1), AAPL), Fill(exec_id(2), WHEAT))

    async def scenario() -> None:
        async with following(tws, answer_s=0.3, pause_s=0.2) as received:
            await until(lambda: received.refused and exec_id(2) in received.ids())
            assert "details" in received.refused[0].reason
            assert exec_id(1) not in received.ids()
            tws.silent_details = set()
            await until(lambda: exec_id(1) in received.ids())
            lists = tws.requests.count(7)
            await until(lambda: tws.requests.count(7) > lists + 1)
        assert received.ids().count(exec_id(1)) == 1

    asyncio.run(scenario())


def test_details_that_a_broken_connection_took_away_are_asked_for_again(tws: TwsDouble) -> None:
    tws.silent_details = {AAPL.con_id}
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws, answer_s=30.0) as received:
            await until(lambda: tws.asked_details)
            tws.silent_details = set()
            await happen(tws.drop)
            await until(lambda: exec_id(1) in received.ids())
            assert received.refused == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("instrument", "name", "multiplier"),
    [
        (Instrument(3, "ES", "FUT", local_symbol="ESU6", multiplier="50"), "ESU6", "50"),
        (Instrument(4, "VOD", price_magnifier=100), "VOD", "0.01"),
        (Instrument(5, "AAPL", primary_exchange="", exchange="LSE"), "AAPL@LSE", None),
        (Instrument(6, "AAPL", primary_exchange="", exchange=""), "AAPL#6", None),
    ],
)
def test_a_contract_has_its_name_and_its_money_per_point_everywhere(
    tws: TwsDouble, instrument: Instrument, name: str, multiplier: str | None
) -> None:
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 2)
            await happen(tws.fill, Fill(exec_id(2), instrument))
            await until(lambda: len(received) == 4)
            assert {each["symbol"] for each in received[2:]} == {name}
            assert received[2].get("multiplier") == multiplier
            assert received.register.records[instrument.con_id]["multiplier"] == (multiplier or "1")

    asyncio.run(scenario())


def test_a_contract_that_tws_does_not_know_is_refused(tws: TwsDouble) -> None:
    tws.unknown_details = {AAPL.con_id}
    tws.fill(Fill(exec_id(1), AAPL))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.refused)
            assert received.register.names == {
                "AAPL": AAPL.con_id
            }  # its name is taken all the same

    asyncio.run(scenario())


def test_the_executions_of_a_contract_wait_for_its_details_in_order(tws: TwsDouble) -> None:
    tws.silent_details = {AAPL.con_id}

    async def scenario() -> None:
        async with following(tws, answer_s=1.0, pause_s=60.0) as received:
            await connected(tws)
            for number in range(5):
                await happen(tws.fill, Fill(exec_id(number), AAPL, time="20260706-14:30:05"))
            await happen(tws.fill, Fill(exec_id(9), CALL))  # another contract does not wait
            await until(lambda: exec_id(9) in received.ids())
            assert received.ids() == [exec_id(9)]
            tws.silent_details = set()
            received.feed.fetch()
            await until(lambda: len(received.ids()) + len(received.refused) >= 6)
            received.feed.fetch()
            await until(lambda: len(received.ids()) == 6)
        assert received.ids()[1:] == [exec_id(number) for number in range(5)]

    asyncio.run(scenario())


def test_a_share_that_is_listed_twice_has_two_names_and_a_new_ticker_none(tws: TwsDouble) -> None:
    tws.fill(
        Fill(exec_id(1), Instrument(1, "SHOP", primary_exchange="NYSE")),
        Fill(exec_id(2), Instrument(2, "SHOP", currency="CAD", primary_exchange="TSE")),
        Fill(exec_id(3), Instrument(3, "SHOP", currency="EUR", primary_exchange="TSE")),
    )

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received.ids()) == 3)
            await happen(tws.fill, Fill(exec_id(4), Instrument(1, "SHPY")))
            await until(lambda: len(received.ids()) == 4)
        names = [each["symbol"] for each in received if "type" not in each]
        assert names == ["SHOP", "SHOP@TSE", "SHOP#3", "SHOP"]

    asyncio.run(scenario())


# --- accounts ------------------------------------------------------------------------------


def test_the_block_of_an_fa_master_is_not_handed_on_its_allocations_are(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    block = Fill(exec_id(1), AAPL, account="DF1000000", shares=300.0, commission="3.0")
    parts = [
        replace(block, account=account, shares=shares, commission=commission)
        for account, shares, commission in (("DU1", 100.0, "1.0"), ("DU2", 200.0, "2.0"))
    ]

    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await happen(tws.fill, block, *parts)
            await until(lambda: len(received) == 4)
        figures = [(e["account"], e.get("fill_qty"), e.get("commission")) for e in received]
        assert sorted(figures, key=str) == [
            ("DU1", "100", None), ("DU1", None, "1"), ("DU2", "200", None), ("DU2", None, "2"),
        ]  # fmt: skip

    asyncio.run(scenario())
    assert caplog.text.count("account DF1000000 are not published") == 1


@pytest.mark.parametrize("with_block", [True, False])
def test_reports_of_one_id_in_several_accounts_go_in_the_order_of_the_list(
    tws: TwsDouble, with_block: bool
) -> None:
    def listed(first: str, second: str) -> None:
        block = Fill(exec_id(1), AAPL, account="DF1000000", commission="9.0")
        one = replace(block, account="DU1", commission=first)
        two = replace(block, account="DU2", commission=second)
        tws.fill(*[block] * with_block, one, two, live=False)

    listed("1.0", "2.0")

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 4)
            await happen(tws.report, Fill(exec_id(1), AAPL, commission="7.0"))  # whose is it?
            listed("1.0", "2.5")
            received.feed.fetch()
            await until(lambda: len(received) == 5)
            assert (received[4]["account"], received[4]["commission"]) == ("DU2", "2.5")

    asyncio.run(scenario())


def test_the_accounts_that_are_chosen_are_followed_and_no_others(tws: TwsDouble) -> None:
    tws.fill(*(Fill(exec_id(n), AAPL, account=a) for n, a in enumerate(("U1", "U2", "F3"))))

    async def scenario() -> None:
        async with following(tws, accounts=("U2", "F3")) as received:
            await until(lambda: len(received) == 4)
        assert {each["account"] for each in received} == {"U2", "F3"}

    asyncio.run(scenario())


def test_an_account_that_tws_does_not_have_is_told_of(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with following(tws, accounts=("U1", "U12")) as received:
            await until(lambda: received.feed.listed)

    asyncio.run(scenario())
    assert "IBKR_ACCOUNTS names U12, which this TWS does not have: it has U1" in caplog.text


def test_a_model_is_told_of_once(tws: TwsDouble, caplog: pytest.LogCaptureFixture) -> None:
    tws.fill(*(Fill(exec_id(n), AAPL, model_code=code) for n, code in enumerate(("", "m", "m"))))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 6)

    asyncio.run(scenario())
    assert caplog.text.count("account U1 has executions of model m") == 1


# --- times that are not plain --------------------------------------------------------------


def test_in_the_hour_that_comes_twice_the_order_of_arrival_decides(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = ["00:59:00", "01:50:00", "01:10:00", "01:20:00", "02:01:00"]

    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            for number, clock in enumerate(clocks):
                time = f"20261101 {clock} US/Eastern"
                await happen(tws.fill, Fill(exec_id(number), AAPL, time=time, commission=None))
            await until(lambda: len(received) == 5)
        minutes = [
            (int(e["timestamp"]) - int(received[0]["timestamp"])) // 60_000 for e in received
        ]
        assert minutes == [0, 51, 71, 81, 122]

    asyncio.run(scenario())
    assert caplog.text.count("its time comes twice") == 1
    assert f"execution {exec_id(1)}: its time comes twice" in caplog.text


@pytest.mark.parametrize(
    ("before", "hour", "warnings"),
    [
        (("03:00:00", "02:30:00"), 5, 1), (("02:30:02", "02:30:01"), 6, 0),
        (("01:30:00", "01:30:01"), 5, 3),
    ],
)  # fmt: skip
def test_only_what_came_in_order_but_for_a_moment_tells_the_hour(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture, before: tuple[str, str], hour: int,
    warnings: int,
) -> None:  # fmt: skip
    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            await until(lambda: received.feed.listed)
            for number, clock in enumerate((*before, "01:30:00")):
                time = f"20261101 {clock} US/Eastern"
                await happen(tws.fill, Fill(exec_id(number), AAPL, time=time, commission=None))
            await until(lambda: len(received) == 3)
        assert int(received[2]["timestamp"]) == 1793511000000 + (hour - 5) * 3_600_000

    asyncio.run(scenario())
    assert caplog.text.count("its time comes twice") == warnings


@pytest.mark.parametrize(
    ("live", "now", "hour", "warnings"),
    [
        (True, "05:30:02", 5, 0), (True, "05:59:59", 5, 0), (True, "06:30:02", 6, 0),
        (True, "05:29:59", 5, 0), (True, "05:29:50", 5, 1), (True, "07:30:00", 5, 1),
        (True, "07:00:00", 6, 0), (True, "06:10:00", 6, 0), (False, "06:30:02", 5, 1),
    ],
)  # fmt: skip
def test_of_what_happens_now_the_clock_tells_which_hour_it_is(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    live: bool, now: str, hour: int, warnings: int,
) -> None:  # fmt: skip
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromisoformat(f"2026-11-01T{now}").replace(tzinfo=tz)

    monkeypatch.setattr(ibkr, "datetime", Clock)

    async def scenario() -> None:
        async with following(tws) as received:
            await connected(tws)
            fill = Fill(exec_id(1), AAPL, time="20261101 01:30:00 US/Eastern", commission=None)
            await asyncio.to_thread(lambda: tws.fill(fill, live=live))
            received.feed.fetch()
            await until(lambda: received)
            assert int(received[0]["timestamp"]) == 1793511000000 + (hour - 5) * 3_600_000

    asyncio.run(scenario())
    assert caplog.text.count("its time comes twice") == warnings


@pytest.mark.parametrize("also", ["02:30:00", "00:59:00"])
def test_another_list_says_nothing_of_the_order_of_this_one(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture, also: str
) -> None:
    def fill(number: int, clock: str) -> Fill:
        time = f"20261101 {clock} US/Eastern"
        return Fill(exec_id(number), AAPL, time=time, commission=None)

    tws.fill(fill(1, "02:30:00"), fill(2, also))

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: len(received) == 2)
            await asyncio.to_thread(lambda: tws.fill(fill(3, "01:30:00"), live=False))
            received.feed.fetch()
            await until(lambda: len(received) == 3)
            assert received[2]["timestamp"] == "1793511000000"  # the first

    asyncio.run(scenario())
    assert caplog.text.count("its time comes twice") == 1


def test_a_time_without_zone_is_warned_of_once_if_nobody_said_which(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture
) -> None:
    tws.fill(*(Fill(exec_id(n), AAPL, time="20260706  10:30:05") for n in range(3)))

    async def scenario() -> None:
        feed = ExecutionFeed(
            Tws("127.0.0.1", tws.port, 1, UTC), lambda _: done.set(), lambda _: None,
            MemoryRegister(), warn_of_zone=True,
        )  # fmt: skip
        done = asyncio.Event()
        running = asyncio.create_task(feed.run())
        async with asyncio.timeout(DEADLINE_S):
            await done.wait()
        running.cancel()

    asyncio.run(scenario())
    assert caplog.text.count("times without a zone") == 1


# --- large days ------------------------------------------------------------------------------


class Counted:
    """A function, and how often it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls = 0
        self._real: Any = getattr(ibkr, name)
        monkeypatch.setattr(ibkr, name, self)

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._real(*arguments)


def test_work_for_a_packet_does_not_grow_with_what_is_listed(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: how many executions are looked at for one that is live."""
    count = 50_000
    tws.fill(*(Fill(exec_id(n), AAPL, commission=None) for n in range(count)), live=False)
    read = Counted(monkeypatch, "read_execution")
    made = Counted(monkeypatch, "execution_message")

    async def scenario() -> None:
        async with following(tws, answer_s=30.0) as received:
            await until(lambda: len(received) == count, deadline_s=120)
            for number in range(count, count + 20):
                await happen(tws.fill, Fill(exec_id(number), AAPL, commission=None))
            await until(lambda: len(received) == count + 20)
            assert read.calls == made.calls == count + 20
            asked = tws.requests.count(7)
            received.feed.fetch()  # and the whole list again brings nothing new
            await until(lambda: tws.requests.count(7) > asked, deadline_s=120)
            await happen(tws.fill, Fill(exec_id(count + 20), AAPL, commission=None))
            await until(lambda: len(received) == count + 21, deadline_s=120)
            assert read.calls == made.calls == count + 21

    asyncio.run(scenario())


# --- the broker's side -----------------------------------------------------------------------


def test_positions_are_known_from_the_end_of_the_list_until_the_connection_is_lost(
    tws: TwsDouble,
) -> None:
    tws.holdings = [Holding("U1", AAPL, 3.0, 10.0)]

    async def scenario() -> None:
        async with following(tws, pause_s=0.1) as received:
            positions = received.feed.positions
            assert not positions.known
            await until(lambda: positions.known)
            assert [each.qty for each in positions.held] == ["3"]
            await happen(tws.hold, Holding("U1", CALL, -1.0, 5.0), Holding("U1", AAPL, 0.0, 0.0))
            await until(lambda: [each.qty for each in positions.held] == ["-1"])
            await happen(tws.error, 1100, "lost")
            await until(lambda: not positions.known)
            await asyncio.sleep(0.3)  # lists are asked for meanwhile, and say nothing
            assert not positions.known
            assert received.feed.listed is None
            await happen(tws.error, 1102, "restored")
            await until(lambda: positions.known)
            tws.ends_positions = False
            await happen(tws.drop)
            await until(lambda: not positions.known)
            await until(lambda: tws.requests.count(71) >= 2)
            assert not positions.known
            assert [each.qty for each in positions.held] == ["-1"]

    asyncio.run(scenario())


def test_a_list_of_positions_that_was_cut_off_makes_nothing_known() -> None:
    told: list[bool] = []
    positions = Positions(Accounts(), lambda: told.append(positions.known))
    positions.list_begins()
    positions.lost()
    positions.read_end([])
    assert not positions.known
    positions.list_begins()
    positions.read_end([])
    positions.read_end([])  # as the library's own request has it
    assert told == [False, True]


def test_a_list_of_positions_that_is_on_its_way_is_not_begun_anew() -> None:
    positions = Positions(Accounts(), lambda: None)
    positions.list_begins()
    positions.read([str(field) for field in Holding("U1", AAPL, 3.0, 10.0).fields()])
    positions.list_begins()  # it takes long, so it is asked for once more
    positions.read_end([])
    assert [each.qty for each in positions.held] == ["3"]


def test_since_when_it_is_connected_is_not_since_the_last_list(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws, pause_s=0.05) as received:
            await until(lambda: received.feed.listed and received.feed.positions.known)
            listed, lists = received.feed.listed, tws.requests.count(7)
            asked = tws.requests.count(61)
            await until(lambda: tws.requests.count(7) > lists + 1)
            assert received.feed.listed == listed
            assert tws.requests.count(61) == asked  # for positions, which are known

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [1100, 2110])
def test_a_new_connection_is_one_to_ibkrs_servers_too(tws: TwsDouble, code: int) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed)
            await happen(tws.error, code, "lost")
            await until(lambda: not received.feed.positions.known)
            await happen(tws.drop)
            await until(lambda: received.feed.listed and received.feed.positions.known)

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [1100, 2110])
def test_a_tws_that_has_no_servers_when_it_is_connected_to_knows_nothing(
    tws: TwsDouble, code: int
) -> None:
    tws.cut_code = code

    async def scenario() -> None:
        async with following(tws, pause_s=0.05) as received:
            await until(lambda: tws.requests.count(7) >= 3)
            assert received.feed.listed is None
            assert not received.feed.positions.known
            await happen(tws.error, 1102, "restored")
            await until(lambda: received.feed.listed and received.feed.positions.known)

    asyncio.run(scenario())


@pytest.mark.parametrize("told", [(1101,), (1100, 1101)])
def test_what_a_tws_that_lost_its_data_no_longer_tells_is_asked_for_again(
    tws: TwsDouble, told: Sequence[int]
) -> None:
    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: received.feed.listed and received.feed.positions.known)
            await asyncio.to_thread(lambda: tws.hold(Holding("U1", AAPL, 3.0, 10.0), live=False))
            for code in told:
                await happen(tws.error, code, "its data are lost")
            await until(lambda: received.feed.positions.held)
            assert tws.requests.count(76) == 2  # for the accounts' figures too

    asyncio.run(scenario())


def test_what_comes_while_positions_are_listed_is_not_lost(tws: TwsDouble) -> None:
    tws.ends_positions = False
    tws.holdings = [Holding("U1", AAPL, 3.0, 10.0), Holding("F1", AAPL, 3.0, 10.0)]
    spread = Holding("U1", SPREAD, 1.0, 10.0)

    async def scenario() -> None:
        async with following(tws, answer_s=0.3, pause_s=0.05) as received:
            positions = received.feed.positions
            await until(lambda: tws.requests.count(61) >= 2)
            tws.ends_positions = True
            await until(lambda: positions.known)
            await happen(tws.hold, Holding("U1", AAPL, 4.0, 10.0), spread)
            await happen(tws.hold, Holding("U1", CALL, 1.0, 10.0), Holding("F1", CALL, 1.0, 1.0))
            await until(lambda: len(positions.held) == 2)
            assert sorted(each.qty for each in positions.held) == ["1", "4"]

    asyncio.run(scenario())


@pytest.mark.parametrize("free", [2, 3])
def test_positions_come_with_the_keys_that_were_traded_today(tws: TwsDouble, free: int) -> None:
    tws.accounts = ("U1", "F2")
    tws.holdings = [Holding("U1", CALL, -2.0, 255.0)]
    tws.fill(
        Fill(exec_id(1), SPREAD), Fill(exec_id(1, leg=2), CALL),
        Fill(exec_id(3), CALL, account="F2"),
        Fill(exec_id(4), CALL, time="20260706 10:30:05 Eastern Standard Time"),
    )  # fmt: skip
    tws.taken_client_ids = set(range(-9, 9)) - {free}
    account = asyncio.run(
        ask_account(Tws("127.0.0.1", tws.port, 1, UTC), 2, MemoryRegister(), Accounts())
    )
    assert [(each.account, each.symbol, each.qty) for each in account.positions] == [
        ("U1", CALL.local_symbol, "-2")
    ]
    assert account.traded == {f"U1:{CALL.local_symbol}": [exec_id(1, leg=2)]}


def test_a_connection_that_breaks_while_contracts_are_named_is_told(tws: TwsDouble) -> None:
    tws.holdings = [Holding("U1", AAPL, 3.0, 10.0)]
    tws.silent_details = {AAPL.con_id}
    address = Tws("127.0.0.1", tws.port, 1, UTC, answer_s=DEADLINE_S)

    async def scenario() -> None:
        asking = asyncio.create_task(ask_account(address, 0, MemoryRegister(), Accounts()))
        await until(lambda: tws.asked_details)
        await happen(tws.drop)
        async with asyncio.timeout(DEADLINE_S / 2):
            with pytest.raises(TwsError, match="closed the connection"):
                await asking

    asyncio.run(scenario())


def test_figures_and_orders_are_those_of_the_accounts_that_are_followed(
    tws: TwsDouble,
) -> None:
    tws.accounts = ("U1", "F2")
    tws.figures = [
        ("U1", "NetLiquidation", "1234.50", "USD"), ("U1", "CashBalance", "5", "BASE"),
        ("U1", "CashBalance", "-20.25", "EUR"), ("U1", "DayTradesRemaining", "3", ""),
        ("F2", "NetLiquidation", "9", "USD"),
    ]  # fmt: skip
    tws.orders = [Order(8, 1002, AAPL, 300.0), Order(9, 1003, CALL, 2.0)]

    async def scenario() -> None:
        ib = ReadingIB(instead={})
        await connect(ib, Tws("127.0.0.1", tws.port, 1, UTC))
        await until(lambda: account_figures(ib, Accounts()))
        assert account_figures(ib, Accounts()) == {
            "U1": {"NetLiquidation": {"USD": "1234.5"}, "CashBalance": {"EUR": "-20.25"}}
        }
        assert account_figures(ib, Accounts(["U3"])) == {}
        found = await open_orders(ib, Accounts(), 5.0)
        figures = [(e.symbol, e.side, e.qty, e.limit_price, e.stop_price) for e in found]
        assert figures == [
            ("AAPL", "BUY", "300", "10", ""),
            (CALL.local_symbol, "BUY", "2", "10", ""),
        ]
        assert await open_orders(ib, Accounts(["U3"]), 5.0) == []
        ib.hang_up()
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_nothing_is_ever_asked_that_changes_an_order(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws, pause_s=0.05) as received:
            await connected(tws)
            await happen(tws.order, Order(8, 1002, AAPL, 300.0))
            await happen(tws.fill, Fill(exec_id(1), AAPL, order_id=8, perm_id=1002))
            await happen(tws.error, 1102, "restored")
            await until(lambda: exec_id(1) in received.ids() and tws.requests.count(7) > 3)

    asyncio.run(scenario())
    assert not CHANGES_ORDERS & set(tws.requests)


# --- connecting ------------------------------------------------------------------------


def refusal(double: TwsDouble, answer_s: float = 5.0) -> TwsError:
    async def attempt() -> None:
        ib = ReadingIB(instead={})
        try:
            await connect(ib, Tws("127.0.0.1", double.port, 1, UTC, answer_s))
        finally:
            ib.hang_up()
            await asyncio.sleep(0)

    began = time.monotonic()
    with pytest.raises(TwsError) as refused:
        asyncio.run(attempt())
    assert time.monotonic() - began < DEADLINE_S / 2  # not by a time-out
    return refused.value


def test_orders_given_by_hand_are_not_bound_to_client_0(tws: TwsDouble) -> None:
    async def scenario() -> None:
        ib = ReadingIB(instead={})
        await connect(ib, Tws("127.0.0.1", tws.port, 0, UTC))
        ib.hang_up()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert tws.binds_orders is False


def test_nothing_of_an_attempt_to_connect_is_left_behind(tws: TwsDouble) -> None:
    async def scenario() -> None:
        ib = ReadingIB(instead={})
        events = ib.errorEvent, ib.client.conn.disconnected
        before = [len(event) for event in events]
        await connect(ib, Tws("127.0.0.1", tws.port, 1, UTC))
        assert [len(event) for event in events] == before
        ib.hang_up()
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_client_id_in_use_is_told_at_once(tws: TwsDouble) -> None:
    tws.taken_client_ids = {1}
    error = refusal(tws, answer_s=DEADLINE_S)
    assert isinstance(error, ClientIdTakenError)
    assert "client id 1 is in use" in str(error)


def test_a_gateway_that_hangs_up_at_once_is_told_at_once(tws: TwsDouble) -> None:
    tws.closes_at_once = True
    # On a busy machine it may hang up before the library listens, which then waits.
    told: list[str] = []
    while len(told) < 30 and not any("closed the connection" in text for text in told):
        told.append(str(refusal(tws, answer_s=1.0)))
    assert "closed the connection" in told[-1], told


def test_a_port_where_nobody_listens_is_told(tws: TwsDouble) -> None:
    tws.close()
    assert "nothing listens" in str(refusal(tws))


def test_a_tws_that_does_not_answer_is_told(tws: TwsDouble) -> None:
    tws.silent = True
    assert "no answer" in str(refusal(tws, answer_s=0.2))


def test_positions_that_do_not_come_are_not_taken_for_none(tws: TwsDouble) -> None:
    tws.ends_positions = False
    address = Tws("127.0.0.1", tws.port, 1, UTC, answer_s=0.2)
    with pytest.raises(TwsError, match="did not list its positions"):
        asyncio.run(ask_account(address, 0, MemoryRegister(), Accounts()))


def test_waits_grow_from_a_tenth_of_a_second_to_five() -> None:
    first = [wait for wait, _ in zip(waits(), range(12), strict=False)]
    assert 0.1 <= first[0] <= 0.2
    assert 0.4 <= first[2] <= 0.5
    assert all(5.0 <= wait <= 5.1 for wait in first[6:])
    assert len(set(first[6:])) > 1
