"""Marks from what TWS says of prices, through the real library."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC

import pytest

from connectors.ibkr import market_data
from connectors.ibkr.market_data import LIVE, Mark, MarketData, read_price
from connectors.ibkr.session import ReadingIB, Tws, connect
from tests.support.tws_double import DEADLINE_S, Instrument, TwsDouble

AAPL = Instrument(265598, "AAPL")
BID, ASK, LAST, CLOSE = 1, 2, 4, 9


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        double.instruments = {AAPL.con_id: AAPL}
        yield double


@asynccontextmanager
async def marking(
    tws: TwsDouble, receive: Callable[[Mark], None], *, answer_s: float = 5.0
) -> AsyncIterator[None]:
    """Have marks of all contracts while this lasts."""
    ib = ReadingIB(instead={})
    data = MarketData(ib, LIVE, answer_s, receive)
    data.hold({each.con_id: frozenset({each.symbol}) for each in tws.instruments.values()})
    await connect(ib, Tws("127.0.0.1", tws.port, 1, UTC))
    running = asyncio.create_task(data.run(lambda: 1.0))
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        ib.hang_up()
        await asyncio.sleep(0)  # lets the socket close


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # conditions of many kinds
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "text", "price"),
    [
        ("last", "191.20", "191.2"), ("last", "-37.63", "-37.63"), ("last", "-1", None),
        ("last", "-1.0", None), ("last", "0", None), ("ask", "0", None), ("bid", "0", "0"),
        ("bid", "-1", None), ("close", "", None), ("close", "NaN", None), ("close", "inf", None),
        ("close", "1.7976931348623157E308", None), ("close", "none", None),
    ],
)  # fmt: skip
def test_what_tws_sends_where_it_has_no_price_is_none(
    name: str, text: str, price: str | None
) -> None:
    read = read_price(name, text)
    assert (None if read is None else f"{read:f}") == price


@pytest.mark.parametrize(
    ("before", "changes", "marks"),
    [
        ({CLOSE: "9", BID: "10"}, [], ["9 close"]),
        ({CLOSE: "9", BID: "10", ASK: "10.5"}, [], ["9 close", "10.25 mid"]),
        ({LAST: "11", BID: "10", ASK: "10.5", CLOSE: "9"}, [], ["11 last"]),
        ({BID: "0", ASK: "0.05"}, [], ["0.025 mid"]),
        # The same price again is as of now; what does not decide the mark says nothing.
        ({LAST: "11"}, [(LAST, "11"), (BID, "10"), (CLOSE, "9")], ["11 last", "11 last"]),
        ({BID: "10", ASK: "11"}, [(BID, "10"), (ASK, "-1"), (ASK, "11")], ["10.5 mid"] * 3),
        # A price that is gone leaves what else there is, and says nothing if there is nothing.
        ({LAST: "11", CLOSE: "9"}, [(LAST, "-1"), (LAST, "-1")], ["11 last", "9 close"]),
        ({LAST: "11"}, [(LAST, "NaN"), (LAST, "12")], ["11 last", "12 last"]),
    ],
)
def test_a_mark_is_the_last_price_else_the_middle_else_the_last_close(
    tws: TwsDouble, before: dict[int, str], changes: list[tuple[int, str]], marks: list[str]
) -> None:
    tws.quotes = {AAPL.con_id: before}
    found: list[Mark] = []

    async def scenario() -> None:
        async with marking(tws, found.append):
            await until(lambda: tws.watched)
            for kind, price in [*changes, (LAST, "77")]:
                await asyncio.to_thread(tws.quote, AAPL.con_id, kind, price)
            await until(lambda: found and found[-1].price == "77")

    asyncio.run(scenario())
    told = [f"{mark.price} {mark.source.removeprefix('ibkr ')}" for mark in found]
    assert told == [*marks, "77 last"]
    assert {mark.symbol for mark in found} == {"AAPL"}


def test_what_tws_does_not_know_is_asked_for_again_later(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_data, "LOOK_EVERY_S", 0.01)
    tws.unknown_details = {AAPL.con_id}

    async def scenario() -> None:
        async with marking(tws, lambda _: None):
            await asyncio.sleep(0.2)
            assert len(tws.asked_details) == 1
        monkeypatch.setattr(market_data, "ASK_AGAIN_S", 0.02)
        async with marking(tws, lambda _: None):
            await until(lambda: len(tws.asked_details) > 3)

    asyncio.run(scenario())


def test_a_part_that_is_not_subscribed_to_leaves_the_other_prices(tws: TwsDouble) -> None:
    found: list[Mark] = []

    async def scenario() -> None:
        async with marking(tws, found.append):
            await until(lambda: tws.watched)
            await asyncio.to_thread(tws.error_of_market_data, 10091)
            await asyncio.to_thread(tws.quote, AAPL.con_id, LAST, "77")
            await until(lambda: found)

    asyncio.run(scenario())
    assert [mark.price for mark in found] == ["77"]


def test_a_contract_of_which_tws_says_nothing_holds_up_no_other(tws: TwsDouble) -> None:
    silent = Instrument(1, "XYZ")
    tws.instruments = {silent.con_id: silent, AAPL.con_id: AAPL}
    tws.silent_details = {silent.con_id}

    async def scenario() -> None:
        async with marking(tws, lambda _: None, answer_s=0.1):
            await until(lambda: tws.watched == [AAPL.con_id])

    asyncio.run(scenario())


def test_what_tws_gives_no_more_is_asked_for_anew_and_not_a_second_time(
    tws: TwsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_data, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(market_data, "ASK_AGAIN_S", 0.1)

    async def scenario() -> None:
        async with marking(tws, lambda _: None):
            await until(lambda: tws.watched)
            await asyncio.to_thread(tws.error_of_market_data, 10197)
            await until(lambda: tws.requests.count(1) == 2)
            await until(lambda: tws.watched == [AAPL.con_id])

    asyncio.run(scenario())
