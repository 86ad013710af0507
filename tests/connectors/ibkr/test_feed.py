"""IBKR's objects as messages, and the feed against a TWS double through the real library."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ib_insync import CommissionReport, Contract, Execution, Position
from ib_insync import Fill as LibraryFill

from connectors.ibkr import feed as ibkr
from connectors.ibkr.feed import (
    ClientIdTakenError,
    ExecutionFeed,
    Message,
    ReadingIB,
    Tws,
    TwsError,
    ask_account,
    commission_message,
    connect,
    decimal_text,
    execution_message,
    execution_time,
    held,
    instrument,
    opening_message,
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

UNSET = 1.7976931348623157e308
NEW_YORK = ZoneInfo("America/New_York")
AAPL = Instrument(265598, "AAPL")
CALL = Instrument(
    495512552, "AAPL", "OPT", local_symbol="AAPL  260717C00200000",
    expiry="20260717", strike=200.0, right="C", multiplier="100",
)  # fmt: skip
SPREAD = Instrument(28812380, "AAPL", "BAG")


def exec_id(number: int, leg: int = 1, revision: int = 1) -> str:
    return f"0000e0d5.{number:08x}.{leg:02}.{revision:02}"


def library_fill(
    contract: Contract | None = None, report: CommissionReport | None = None, **execution: Any
) -> LibraryFill:
    figures: dict[str, Any] = {
        "execId": exec_id(1), "time": datetime(2026, 7, 6, 14, 30, 5, tzinfo=UTC),
        "acctNumber": "U1", "exchange": "ISLAND", "side": "BOT", "shares": 100.0, "price": 187.25,
        "permId": 5, "orderId": 7, "cumQty": 100.0, "avgPrice": 187.25,
    } | execution  # fmt: skip
    contract = contract or Contract(conId=265598, symbol="AAPL", secType="STK", currency="USD")
    done = Execution(**figures)
    return LibraryFill(contract, done, report or CommissionReport(), done.time)


# --- numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (100.0, "100"), (0.1, "0.1"), (0.1 + 0.2, "0.3"), (187.25, "187.25"), (-37.63, "-37.63"),
        (1e-7, "0.0000001"), (1e-11, "0"), (-1e-11, "0"), (0.0, "0"), (-0.0, "0"),
        (1e15, "1000000000000000"),
        (1e22, "10000000000000000000000"), (150.33333333333334, "150.3333333333"),
        (0.00000000005, "0"), (0.00000000015, "0.0000000002"), (0.00000000025, "0.0000000002"),
        (123456789.01234567, "123456789.01234567"), ("100", "100"), ("0.10", "0.1"),
        (Decimal("2.50"), "2.5"), (UNSET, ""), (-UNSET, ""), (math.inf, ""), (math.nan, ""),
        ("ten", "ten"),
    ],
)  # fmt: skip
def test_a_number_is_written_plainly_to_ten_places(value: float | str, text: str) -> None:
    assert decimal_text(value) == text


# --- times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("20260706 10:30:05 US/Eastern", "UTC", "2026-07-06T14:30:05"),
        ("20260106 10:30:05 US/Eastern", "UTC", "2026-01-06T15:30:05"),
        ("20260706 16:30:05 MET", "UTC", "2026-07-06T14:30:05"),
        ("20260706 14:30:05 UTC", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706  10:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706 10:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706  14:30:05", "UTC", "2026-07-06T14:30:05"),
        ("20260706-14:30:05", "America/New_York", "2026-07-06T14:30:05"),
        ("20260706-14:30:05", "UTC", "2026-07-06T14:30:05"),
        ("20260706-10:30:05 US/Eastern", "UTC", "2026-07-06T14:30:05"),
        ("2026-07-06 14:30:05.0", "UTC", "2026-07-06T14:30:05"),
        ("20260706 10:30:05 EDT", "UTC", "2026-07-06T14:30:05"),
        ("20260106 10:30:05 EST", "UTC", "2026-01-06T15:30:05"),
        ("20260706 16:30:05 CEST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 15:30:05 BST", "UTC", "2026-07-06T14:30:05"),
        ("20260706 23:30:05 JST", "UTC", "2026-07-06T14:30:05"),
        # Clear only with the user's zone:
        ("20260106 08:30:05 CST", "America/Chicago", "2026-01-06T14:30:05"),
        ("20260106 22:30:05 CST", "Asia/Shanghai", "2026-01-06T14:30:05"),
        # The hour that comes twice: a short name tells which, a zone does not.
        ("20261101 01:30:00 EDT", "America/New_York", "2026-11-01T05:30:00"),
        ("20261101 01:30:00 EST", "America/New_York", "2026-11-01T06:30:00"),
        ("20261101 01:30:00 US/Eastern", "UTC", "2026-11-01T05:30:00"),
    ],
)
def test_a_time_is_read_as_tws_means_it(text: str, zone: str, utc: str) -> None:
    assert execution_time(text, ZoneInfo(zone)) == datetime.fromisoformat(f"{utc}+00:00")


@pytest.mark.parametrize(
    "zone", ["CST", "Eastern Standard Time", "Nowhere/Else", "US", "../../etc/passwd"]
)
def test_a_zone_that_nobody_can_tell_is_refused_with_what_to_do(zone: str) -> None:
    with pytest.raises(ValueError, match=r"UTC format.*IBKR_TIMEZONE"):
        execution_time(f"20260706 10:30:05 {zone}", UTC)


@pytest.mark.parametrize("text", ["", "20260706", "10:30:05", "20261306 10:30:05 UTC", "soon"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the calendar's own text will do
        execution_time(text, UTC)


# --- messages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "name"),
    [
        (Contract(symbol="AAPL", localSymbol="AAPL", secType="STK"), "AAPL"),
        (Contract(symbol="BRK B", secType="STK"), "BRK B"),
        (Contract(symbol="ES", localSymbol="ESU6", secType="FUT"), "ESU6"),
        (Contract(symbol="SPY", localSymbol="SPY  260717P00500000", secType="OPT"),
         "SPY  260717P00500000"),
        (Contract(symbol="EUR", localSymbol="EUR.USD", secType="CASH", currency="USD"), "EUR.USD"),
        (Contract(symbol="EUR", secType="CASH", currency="USD"), "EUR.USD"),
        (Contract(symbol="ES", conId=495512563, secType="FUT"), "ES#495512563"),
        (Contract(conId=495512563, secType="STK"), "#495512563"),
    ],
)  # fmt: skip
def test_an_instrument_has_a_name_of_its_own(contract: Contract, name: str) -> None:
    assert instrument(contract) == name


def test_a_stock_execution_becomes_a_message() -> None:
    assert execution_message(library_fill(orderRef="grid-1", cumQty=150.0), ordered=200.0) == {
        "symbol": "AAPL", "account": "U1", "side": "BUY", "fill_qty": "100",
        "fill_price": "187.25", "order_id": "7", "exec_id": exec_id(1),
        "timestamp": "1783348205000", "remaining": "50", "avg_fill_price": "187.25",
        "sec_type": "STK", "con_id": "265598", "currency": "USD", "exchange": "ISLAND",
        "order_ref": "grid-1",
    }  # fmt: skip


def test_a_derivative_has_its_multiplier_and_local_symbol() -> None:
    option = Contract(
        conId=9, symbol="AAPL", localSymbol="AAPL  260717C00200000", secType="OPT",
        currency="USD", multiplier="100", exchange="SMART",
    )  # fmt: skip
    message = execution_message(library_fill(option, side="SLD", price=-0.05))
    assert message is not None
    assert message["symbol"] == "AAPL  260717C00200000"
    assert (message["multiplier"], message["side"], message["fill_price"]) == (
        "100", "SELL", "-0.05",
    )  # fmt: skip


def test_what_the_order_has_left_is_told_only_if_the_total_is_known() -> None:
    for ordered in (0.0, 99.0, UNSET, math.nan):  # unknown, or of another unit
        message = execution_message(library_fill(cumQty=100.0), ordered)
        assert message is not None
        assert "remaining" not in message


def test_unset_figures_are_left_out() -> None:
    message = execution_message(library_fill(price=UNSET, avgPrice=UNSET))
    assert message is not None
    assert not {"fill_price", "avg_fill_price"} & set(message)


def test_a_combo_becomes_no_message() -> None:
    fill = library_fill(
        Contract(conId=28812380, symbol="AAPL", secType="BAG"),
        CommissionReport(execId=exec_id(1), commission=1.0, currency="USD"),
    )
    assert execution_message(fill) is None
    assert commission_message(fill) is None


def test_a_bust_is_a_message_of_quantity_0() -> None:
    message = execution_message(library_fill(execId=exec_id(1, revision=2), shares=0.0))
    assert message is not None
    assert message["fill_qty"] == "0"


@pytest.mark.parametrize(("figure", "text"), [(1.0, "1"), (-0.25, "-0.25"), (0.0, "0")])
def test_a_commission_report_becomes_a_message(figure: float, text: str) -> None:
    report = CommissionReport(execId=exec_id(1), commission=figure, currency="USD")
    assert commission_message(library_fill(report=report)) == {
        "type": "commission", "symbol": "AAPL", "account": "U1", "exec_id": exec_id(1),
        "timestamp": "1783348205000", "commission": text, "currency": "USD",
    }  # fmt: skip


@pytest.mark.parametrize(
    "report",
    [
        CommissionReport(),
        CommissionReport(execId="", commission=1.0, currency="USD"),
        CommissionReport(execId=exec_id(1), commission=UNSET, currency="USD"),
        CommissionReport(execId=exec_id(1), commission=0.0, currency=""),
        CommissionReport(execId=exec_id(1), commission=math.nan, currency="USD"),
    ],
)
def test_a_placeholder_is_no_free_trade(report: CommissionReport) -> None:
    assert commission_message(library_fill(report=report)) is None


def test_an_opening_has_the_price_without_the_multiplier() -> None:
    option = Contract(
        conId=9, symbol="AAPL", localSymbol="AAPL C", secType="OPT", currency="USD", multiplier="3",
    )  # fmt: skip
    assert opening_message(held(Position("U1", option, -2.0, 100.0)), 1783348205000) == {
        "type": "opening", "symbol": "AAPL C", "account": "U1", "timestamp": "1783348205000",
        "qty": "-2", "avg_price": "33.3333333333", "sec_type": "OPT", "con_id": "9",
        "currency": "USD", "multiplier": "3",
    }  # fmt: skip


# --- the feed --------------------------------------------------------------------------


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        yield double


class Received(list[Message]):
    """What a feed has handed on."""

    def ids(self, kind: str = "execution") -> list[str]:
        return [each["exec_id"] for each in self if each.get("type", "execution") == kind]


@asynccontextmanager
async def following(
    double: TwsDouble, *, zone: str = "UTC", answer_s: float = 5.0, pause_s: float = 60.0
) -> AsyncIterator[Received]:
    received = Received()
    address = Tws("127.0.0.1", double.port, 1, ZoneInfo(zone), answer_s)
    feed = ExecutionFeed(address, received.extend, pause_s=pause_s)
    running = asyncio.create_task(feed.run())
    try:
        yield received
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)  # lets the socket close


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
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
            tws.silent = True
            await until(lambda: "it has not answered" in caplog.text)
            await asyncio.to_thread(lambda: tws.fill(Fill(exec_id(1), AAPL), live=False))
            tws.silent = False
            await until(lambda: exec_id(1) in received.ids())

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
            await until(lambda: received.ids().count(exec_id(2)) > 3)

    asyncio.run(scenario())
    assert caplog.text.count("does not end its list") == 1
    assert "no connection" not in caplog.text


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
            await until(lambda: received.ids().count(exec_id(2)) > 2)
        assert exec_id(1) not in received.ids()

    asyncio.run(scenario())
    told = [record for record in caplog.records if exec_id(1) in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert "IBKR_TIMEZONE" in told[0].getMessage()


def test_a_fill_that_makes_no_message_is_told_and_stops_no_other(
    tws: TwsDouble, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tws.fill(Fill(exec_id(1), AAPL), Fill(exec_id(2), AAPL))
    real = ibkr.execution_message

    def fails_on_the_first(fill: LibraryFill, ordered: float) -> Message | None:
        if fill.execution.execId == exec_id(1):
            raise ArithmeticError("unheard of")
        return real(fill, ordered)

    monkeypatch.setattr(ibkr, "execution_message", fails_on_the_first)

    async def scenario() -> None:
        async with following(tws) as received:
            await until(lambda: exec_id(2) in received.ids())

    asyncio.run(scenario())
    assert f"execution {exec_id(1)} is not published" in caplog.text


def test_positions_come_with_the_keys_that_were_traded_today(tws: TwsDouble) -> None:
    tws.holdings = [Holding("U1", CALL, -2.0, 255.0)]
    tws.fill(Fill(exec_id(1), SPREAD), Fill(exec_id(1, leg=2), CALL))
    tws.taken_client_ids = {1, 2}
    account = asyncio.run(ask_account(Tws("127.0.0.1", tws.port, 1, UTC), spare_ids=2))
    assert [(each.account, each.symbol, each.qty) for each in account.positions] == [
        ("U1", CALL.local_symbol, "-2")
    ]
    assert account.traded == {f"U1:{CALL.local_symbol}"}


def test_nothing_is_ever_asked_that_changes_an_order(tws: TwsDouble) -> None:
    async def scenario() -> None:
        async with following(tws, pause_s=0.05) as received:
            await connected(tws)
            await happen(tws.order, Order(8, 1002, AAPL, 300.0))
            await happen(tws.fill, Fill(exec_id(1), AAPL, order_id=8, perm_id=1002))
            await happen(tws.error, 1102, "restored")
            await until(lambda: received.ids().count(exec_id(1)) > 3)

    asyncio.run(scenario())
    assert not CHANGES_ORDERS & set(tws.requests)


# --- connecting ------------------------------------------------------------------------


def refusal(double: TwsDouble, answer_s: float = 5.0) -> TwsError:
    async def attempt() -> None:
        ib = ReadingIB(UTC)
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


def test_a_client_id_in_use_is_told_at_once(tws: TwsDouble) -> None:
    tws.taken_client_ids = {1}
    error = refusal(tws, answer_s=DEADLINE_S)
    assert isinstance(error, ClientIdTakenError)
    assert "client id 1 is in use" in str(error)


def test_a_gateway_that_hangs_up_at_once_is_told_at_once(tws: TwsDouble) -> None:
    tws.closes_at_once = True
    # On a busy machine it may hang up before the library listens, which then waits.
    told = [str(refusal(tws, answer_s=1.0)) for _ in range(5)]
    assert any("closed the connection" in text for text in told), told


def test_a_port_where_nobody_listens_is_told(tws: TwsDouble) -> None:
    tws.close()
    assert "nothing listens" in str(refusal(tws))


def test_a_tws_that_does_not_answer_is_told(tws: TwsDouble) -> None:
    tws.silent = True
    assert "no answer" in str(refusal(tws, answer_s=0.2))


def test_positions_that_do_not_come_are_not_taken_for_none(tws: TwsDouble) -> None:
    tws.ends_positions = False
    with pytest.raises(TwsError, match="did not list its positions"):
        asyncio.run(ask_account(Tws("127.0.0.1", tws.port, 1, UTC, answer_s=0.2), 0))


def test_waits_grow_from_a_tenth_of_a_second_to_five() -> None:
    waits = [wait for wait, _ in zip(ibkr._waits(), range(12), strict=False)]
    assert 0.1 <= waits[0] <= 0.2
    assert 0.4 <= waits[2] <= 0.5
    assert all(5.0 <= wait <= 5.1 for wait in waits[6:])
    assert len(set(waits[6:])) > 1
