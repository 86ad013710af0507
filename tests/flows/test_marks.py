"""The router's marks, through the real router between a TWS double and a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from tests.support.flow_process import read_stream
from tests.support.router_process import START_S, Router
from tests.support.tws_double import CHANGES_ORDERS, Fill, Instrument, TwsDouble, wait_until

AAPL = Instrument(265598, "AAPL")
WHEAT = Instrument(532_513, "ZW", "FUT", local_symbol="ZWN6", exchange="CBOT", multiplier="5000")
SAP = Instrument(14204, "SAP", currency="EUR")
THIRD = Instrument(3, "MSFT")
BID, ASK, LAST, CLOSE = 1, 2, 4, 9
MARKET_DATA = 1


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        double.instruments = {each.con_id: each for each in (AAPL, WHEAT, SAP, THIRD)}
        yield double


def hold(redis: redis_py.Redis, instrument: Instrument, qty: str, key: str = "") -> None:
    name = instrument.local_symbol or instrument.symbol
    value = f'{{"symbol": {json.dumps(name)}, "qty": {qty}, "con_id": {instrument.con_id}}}'
    redis.hset("positions", key or f"U1:{name}", value)


def marks(redis: redis_py.Redis) -> list[tuple[str, str, str]]:
    """Return symbol, price and source of each mark so far."""
    found = []
    for entry_id, fields in read_stream(redis, "marks"):
        mark = dict(zip(fields[::2], fields[1::2], strict=True))
        assert abs(int(mark[b"timestamp"]) - int(entry_id.partition("-")[0])) < START_S * 1000
        symbol, price, source = (mark[name].decode() for name in (b"symbol", b"price", b"source"))
        found.append((symbol, price, source))
    return found


def last(redis: redis_py.Redis, symbol: str) -> tuple[str, str]:
    return next(((m[1], m[2]) for m in reversed(marks(redis)) if m[0] == symbol), ("", ""))


def test_marks_of_what_is_held_and_of_nothing_else(
    tws: TwsDouble, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    tws.not_subscribed = {SAP.con_id}
    tws.quotes = {
        AAPL.con_id: {BID: "191", ASK: "191.05", LAST: "-1.0", CLOSE: "189.5"},
        SAP.con_id: {BID: "-1", CLOSE: "250.125"},
        WHEAT.con_id: {LAST: "1088.5", CLOSE: "1080"},
        THIRD.con_id: {LAST: "400"},
    }
    hold(redis, AAPL, "10")
    hold(redis, AAPL, "-3", "U2:AAPL")
    hold(redis, SAP, "1")
    hold(redis, THIRD, "0")
    redis.hset("positions", "XYZ", '{"symbol": "XYZ", "qty": 1, "con_id": null}')
    settings = {"IBKR_MARKS": "delayed", "MARKS_KEPT": "100000"}
    with Router(tws, redis_url, tmp_path / "router.log", **settings):
        wait_until(lambda: last(redis, "AAPL") == ("191.025", "ibkr mid"), START_S)
        wait_until(lambda: last(redis, "SAP") == ("250.125", "ibkr delayed close"), START_S)
        tws.quote(AAPL.con_id, LAST, "191.04")
        wait_until(lambda: last(redis, "AAPL") == ("191.04", "ibkr last"))
        count = len(marks(redis))
        for price in ("NaN", "-1", "1.7976931348623157E308"):
            tws.quote(SAP.con_id, LAST, price)
            tws.quote(AAPL.con_id, BID, price)
        hold(redis, WHEAT, "2")  # as soon as it is held
        wait_until(lambda: last(redis, "ZWN6") == ("1088.5", "ibkr last"), START_S)
        assert len(marks(redis)) == count + 1
        assert tws.watched == sorted([AAPL.con_id, SAP.con_id, WHEAT.con_id])
        hold(redis, AAPL, "0")  # another account still holds it
        hold(redis, SAP, "0")
        wait_until(lambda: tws.watched == [AAPL.con_id, WHEAT.con_id], START_S)


def test_lines_and_subscriptions_that_the_account_lacks(
    tws: TwsDouble, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    tws.lines, tws.not_subscribed = 1, {SAP.con_id}
    tws.quotes = {each.con_id: {LAST: "5"} for each in (AAPL, THIRD, SAP)}
    hold(redis, SAP, "1")
    with Router(tws, redis_url, tmp_path / "router.log", IBKR_MARKS="live") as router:
        wait_until(router.saw("no marks of SAP (354)"), START_S)
        assert tws.watched == []
        hold(redis, AAPL, "1")
        wait_until(lambda: last(redis, "AAPL")[0] == "5", START_S)
        hold(redis, THIRD, "1")
        wait_until(router.saw("1 contracts have marks, more have no market data line"), START_S)
        assert tws.watched == [AAPL.con_id]
        hold(redis, AAPL, "0")  # its line is free for the next
        wait_until(lambda: last(redis, "MSFT") == ("5", "ibkr last"), START_S)
        assert tws.watched == [THIRD.con_id]
        assert last(redis, "SAP") == ("", "")
        # Asked for once, and not each second.
        assert tws.requests.count(MARKET_DATA) == 4


def test_a_connection_and_servers_that_are_lost(
    tws: TwsDouble, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    tws.quotes = {WHEAT.con_id: {LAST: "1088.5"}, AAPL.con_id: {LAST: "191"}}
    both = [AAPL.con_id, WHEAT.con_id]
    hold(redis, WHEAT, "2")
    hold(redis, AAPL, "2")
    with Router(tws, redis_url, tmp_path / "router.log", IBKR_MARKS="live") as router:
        wait_until(lambda: tws.watched == both, START_S)
        tws.drop()
        wait_until(router.saw("connected to TWS", 2), START_S)
        wait_until(lambda: tws.watched == both, START_S)
        asked = tws.requests.count(MARKET_DATA)
        tws.error(1100)
        wait_until(router.saw("has lost IBKR's servers"), START_S)
        tws.error(1101)
        # Asked for anew, and each still once.
        wait_until(lambda: tws.requests.count(MARKET_DATA) == asked + len(both), START_S)
        wait_until(lambda: tws.watched == both, START_S)
        tws.quote(WHEAT.con_id, LAST, "1090.25")
        wait_until(lambda: last(redis, "ZWN6") == ("1090.25", "ibkr last"), START_S)
        # Executions come as ever, and no order is touched.
        tws.fill(Fill("0000e0d5.00000001.01.01", AAPL, commission=None))
        wait_until(lambda: redis.xlen("executions") == 1, START_S)
        assert "TWS says" not in router.log
        assert not CHANGES_ORDERS & set(tws.requests)
