"""What users of other projects ran into, through the real router and the real flow."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.support.commands import run_apart
from tests.support.flow_process import FlowProcess, read_hash, read_stream
from tests.support.router_process import START_S, Router
from tests.support.tws_double import Fill, Holding, Instrument, TwsDouble, wait_until

AAPL = Instrument(265598, "AAPL")
WHEAT = Instrument(
    532_513, "ZW", "FUT", local_symbol="ZWN6", multiplier="5000", price_magnifier=100,
    primary_exchange="CBOT",
)  # fmt: skip
BOND = Instrument(7, "US-T", "BOND", local_symbol="US-T 4 1/4 2035")
AUSSIE = Instrument(
    8, "YT", "FUT", local_symbol="YTU6", multiplier="1", currency="AUD",
    ev_rule="aussieBond:YearsToExpiration=3",
)  # fmt: skip


def exec_id(number: int, leg: int = 1, revision: int = 1) -> str:
    return f"0000e0d5.{number:08x}.{leg:02}.{revision:02}"


def fill(number: int, instrument: Instrument, side: str, shares: float, price: float) -> Fill:
    time = f"20260706-14:30:{number:02}"
    return Fill(exec_id(number), instrument, side, shares, price, time=time, commission=None)


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        yield double


@pytest.fixture
def router(tws: TwsDouble, redis_url: str, tmp_path: Path) -> Iterator[Router]:
    with Router(tws, redis_url, tmp_path / "router.log") as process:
        yield process


@pytest.fixture
def flow(redis_url: str, tmp_path: Path) -> Iterator[FlowProcess]:
    with FlowProcess(tmp_path, redis_url) as process:
        yield process


def letters(redis: redis_py.Redis) -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in zip(f[::2], f[1::2], strict=True)}
        for _, f in read_stream(redis, "executions:dead")
    ]


def broker(redis: redis_py.Redis) -> dict[str, Any]:
    values: Any = redis.hgetall("broker")
    return {key.decode(): json.loads(value) for key, value in values.items()}


def instruments(redis: redis_py.Redis) -> dict[str, Any]:
    values: Any = redis.hgetall("instruments")
    return {key.decode(): json.loads(value) for key, value in values.items()}


def booked(redis: redis_py.Redis, key: str, executions: int) -> bool:
    return bool(read_hash(redis).get(key, {}).get("executions") == executions)


def test_a_future_that_is_quoted_in_cents(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis
) -> None:
    tws.fill(fill(1, WHEAT, "BOT", 1, 1088.5), fill(2, WHEAT, "SLD", 1, 1094))
    flow.until(lambda: booked(redis, "U1:ZWN6", 2), "both executions")
    position = read_hash(redis)["U1:ZWN6"]
    assert (position["realized_pnl"], position["multiplier"]) == (275, 50)
    assert instruments(redis)[str(WHEAT.con_id)] == {
        "symbol": "ZW", "sec_type": "FUT", "currency": "USD", "multiplier": "50",
        "local_symbol": "ZWN6", "primary_exchange": "CBOT", "name": "ZWN6",
    }  # fmt: skip


def test_a_share_that_is_listed_twice(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis, redis_url: str
) -> None:
    toronto = Instrument(2, "SHOP", currency="CAD", primary_exchange="TSE")
    tws.fill(
        fill(1, Instrument(1, "SHOP", primary_exchange="NYSE"), "BOT", 1, 100),
        fill(2, toronto, "BOT", 2, 130),
    )
    flow.until(lambda: booked(redis, "U1:SHOP@TSE", 1), "the second")
    flow.until(lambda: booked(redis, "U1:SHOP", 1), "the first")
    assert [read_hash(redis)[key]["currency"] for key in ("U1:SHOP", "U1:SHOP@TSE")] == [
        "USD", "CAD",
    ]  # fmt: skip
    assert letters(redis) == []
    # The names outlast the router, whatever comes first then.
    router.kill()
    tws.listed.clear()
    router.start()
    wait_until(router.saw("connected to TWS", 2), START_S)
    tws.fill(fill(3, toronto, "SLD", 2, 131))
    flow.until(lambda: booked(redis, "U1:SHOP@TSE", 2), "the sale")


def test_a_ticker_that_changes_between_a_purchase_and_its_sale(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis
) -> None:
    tws.fill(fill(1, Instrument(107113386, "FB"), "BOT", 10, 200))
    flow.until(lambda: booked(redis, "U1:FB", 1), "the purchase")
    redis.delete("instruments", "{instruments}:names")  # lost with its server, or never there
    router.kill()
    router.start()
    tws.fill(fill(2, Instrument(107113386, "META"), "SLD", 10, 210))
    flow.until(lambda: booked(redis, "U1:FB", 2), "the sale")
    assert read_hash(redis)["U1:FB"]["qty"] == 0
    assert [*read_hash(redis)] == ["U1:FB"]


def test_the_block_of_an_fa_master_and_its_allocations(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    accounts, shares = ("DF1000000", "DU1", "DU2"), (300, 100, 200)
    with (
        TwsDouble(accounts=accounts) as tws,
        Router(tws, redis_url, tmp_path / "router.log") as router,
    ):
        wait_until(router.saw("connected to TWS"), START_S)
        tws.fill(
            *(
                Fill(exec_id(number), AAPL, account=account, shares=quantity)
                for number, (account, quantity) in enumerate(zip(accounts, shares, strict=True))
            )
        )
        wait_until(lambda: redis.xlen("executions") == 4)
        found = [fields for _, fields in read_stream(redis, "executions")]
        assert not [fields for fields in found if b"DF1000000" in fields]
        tws.hold(Holding("DU1", AAPL, 100, 10), Holding("DF1000000", AAPL, 300, 10))
        wait_until(lambda: "DU1:AAPL" in broker(redis))
        assert "DF1000000:AAPL" not in broker(redis)


def test_a_fill_before_midnight_that_tws_no_longer_lists(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis
) -> None:
    tws.fill(fill(1, AAPL, "BOT", 2, 100))
    tws.hold(Holding("U1", AAPL, 2, 100))
    flow.until(lambda: booked(redis, "U1:AAPL", 1), "the first fill")
    router.kill()
    tws.fill(fill(2, AAPL, "BOT", 1, 101), live=False)
    tws.hold(Holding("U1", AAPL, 3, 100.33))
    tws.listed.clear()
    router.start()
    wait_until(router.saw("connected to TWS", 2), START_S)
    wait_until(router.saw("break: U1:AAPL: ours 2, the broker's 3"), 20)
    wait_until(lambda: redis.hlen("broker:breaks"), START_S)  # said first, then written
    found: Any = redis.hgetall("broker:breaks")
    assert {key: json.loads(value)["kind"] for key, value in found.items()} == {
        b"U1:AAPL": "quantity"
    }
    assert broker(redis)[":state"]["known"] is True
    # It ends when it is healed, and is then told no more.
    tws.hold(Holding("U1", AAPL, 2, 100))
    wait_until(router.saw("no break any more: U1:AAPL"), START_S)
    wait_until(lambda: redis.hlen("broker:breaks") == 0, START_S)


def test_fills_while_the_connection_is_lost_again_and_again_make_no_break(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis
) -> None:
    wait_until(router.saw("connected to TWS"), START_S)
    for number in range(1, 13):
        tws.hold(Holding("U1", AAPL, number, 100), live=number % 3 == 0)
        tws.fill(fill(number, AAPL, "BOT", 1, 100), live=number % 2 == 0)
        tws.drop(reset=number % 4 == 0)
        wait_until(router.saw("connected to TWS", number + 1), START_S)
    flow.until(lambda: booked(redis, "U1:AAPL", 12), "all of them")
    wait_until(lambda: broker(redis).get("U1:AAPL", {}).get("qty") == 12, START_S)
    assert "break: " not in router.log


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("20260706 15:30:05 WEST", 1783348205000), ("20260706 22:30:05 GMT+8", 1783348205000),
        ("20260706 15:30:05 UTC+1", 1783348205000), ("20260706 22:30:05 CST", None),
        ("20260706 20:00:05 IST", None),
    ],
)  # fmt: skip
def test_a_time_whose_zone_has_a_short_name(
    tws: TwsDouble, router: Router, redis: redis_py.Redis, text: str, timestamp: int | None
) -> None:
    tws.fill(Fill(exec_id(1), AAPL, time=text, commission=None))
    if timestamp is not None:
        wait_until(lambda: redis.xlen("executions"), START_S)
        [(_, fields)] = read_stream(redis, "executions")
        assert str(timestamp).encode() in fields
        return
    wait_until(lambda: letters(redis), START_S)
    [letter] = letters(redis)
    assert letter["tws_time"] == text
    assert json.loads(letter["tws"])["exec_id"] == letter["exec_id"] == exec_id(1)
    assert "IBKR_TIMEZONE" in letter["error"]
    assert (letter["source_stream"], letter["source_id"]) == ("executions", "0-0")


@pytest.mark.parametrize("instrument", [BOND, AUSSIE], ids=["bond", "evRule"])
def test_what_is_not_linear_is_marked_and_not_multiplied(
    tws: TwsDouble, router: Router, redis: redis_py.Redis, instrument: Instrument
) -> None:
    tws.fill(fill(1, instrument, "BOT", 10, 99.5), fill(2, instrument, "SLD", 10, 100))
    tws.hold(Holding("U1", instrument, 5, 995))
    wait_until(lambda: len(letters(redis)) == 2, START_S)
    assert all(each["error"].startswith("multiplier: expected") for each in letters(redis))
    assert redis.xlen("executions") == 0
    assert instruments(redis)[str(instrument.con_id)]["multiplier"] is None
    key = f"U1:{instrument.local_symbol}"
    wait_until(lambda: key in broker(redis))
    assert broker(redis)[key]["avg_price"] is None
    # Once, however often TWS lists it.
    router.kill()
    router.start()
    wait_until(router.saw("connected to TWS", 2), START_S)
    tws.fill(fill(3, AAPL, "BOT", 1, 1))
    wait_until(lambda: redis.xlen("executions") == 1, START_S)
    assert len(letters(redis)) == 2


def test_who_knows_what_a_point_is_worth_writes_it_down(
    tws: TwsDouble, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    record = {"name": "T 4 1/4 2035", "sec_type": "BOND", "currency": "USD", "multiplier": "0.01"}
    redis.hset("instruments", str(BOND.con_id), json.dumps(record))
    tws.fill(fill(1, BOND, "BOT", 1000, 99.5))
    with Router(tws, redis_url, tmp_path / "router.log"):
        wait_until(lambda: redis.xlen("executions"), START_S)
    [(_, fields)] = read_stream(redis, "executions")
    assert b"T 4 1/4 2035" in fields
    assert b"0.01" in fields
    assert letters(redis) == []


def test_the_same_execution_id_in_two_accounts(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    accounts = ("U1", "U2")
    with (
        TwsDouble(accounts=accounts) as tws,
        Router(tws, redis_url, tmp_path / "router.log") as router,
    ):
        wait_until(router.saw("connected to TWS"), START_S)
        tws.fill(
            *(
                Fill(exec_id(1), AAPL, account=account, commission=figure)
                for account, figure in zip(accounts, ("1.0", "2.0"), strict=True)
            )
        )
        wait_until(lambda: redis.xlen("executions") == 4)
        entries = [
            dict(zip(f[::2], f[1::2], strict=True)) for _, f in read_stream(redis, "executions")
        ]
    costs = {e[b"account"]: e[b"commission"] for e in entries if b"commission" in e}
    assert costs == {b"U1": b"1", b"U2": b"2"}
    assert {e[b"account"] for e in entries if b"side" in e} == {b"U1", b"U2"}


def test_the_broker_s_side_is_known_until_tws_is_lost_and_kept_as_it_was(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    tws.holdings = [Holding("U1", WHEAT, -3, 54425)]
    wait_until(lambda: broker(redis).get(":state", {}).get("known"), START_S)
    held = broker(redis)["U1:ZWN6"]
    as_of = held.pop("as_of")
    assert held == {"qty": -3, "avg_price": 1088.5, "con_id": WHEAT.con_id}
    assert as_of > 1_700_000_000_000
    tws.close()
    wait_until(lambda: not broker(redis)[":state"]["known"])
    assert "U1:ZWN6" in broker(redis)  # what is unknown is not empty
    tws.holdings = []
    tws.open()
    wait_until(lambda: broker(redis)[":state"]["known"], START_S)
    assert "U1:ZWN6" not in broker(redis)
    assert router.terminate()[0] == 0
    assert not broker(redis)[":state"]["known"]


def test_the_account_s_figures_are_the_broker_s(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    tws.figures = [
        ("U1", "NetLiquidation", "1234.5", "USD"), ("U1", "BuyingPower", "4000", "USD"),
        ("U1", "CashBalance", "-20.25", "EUR"), ("U1", "CashBalance", "100", "USD"),
        ("U1", "CashBalance", "79.75", "BASE"),
    ]  # fmt: skip
    tws.drop()  # so that it asks for these
    wait_until(lambda: redis.hlen("broker:account"), START_S)
    view = json.loads(redis.hget("broker:account", "U1"))  # type: ignore[arg-type]
    assert view["net_liquidation"] == {"USD": "1234.5"}
    assert view["buying_power"] == {"USD": "4000"}
    assert {c: Decimal(cash) for c, cash in view["cash"].items()} == {
        "EUR": Decimal("-20.25"), "USD": 100,
    }  # fmt: skip
    assert view["open_orders"] == []


# --- with what the book newly takes ------------------------------------------------------------


def reconcile(tws: TwsDouble, redis_url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run_apart("reconcile", *options, REDIS_URL=redis_url, IBKR_PORT=str(tws.port))


@pytest.mark.parametrize("first", ["executions", "reports"])
def test_commissions_in_another_currency_in_either_order(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis, first: str
) -> None:
    euros = Instrument(12087792, "EUR", "CASH", local_symbol="EUR.USD")
    fills = [
        Fill(
            exec_id(number), euros, side, 11900.31, price, commission="1.92624",
            commission_currency="EUR", time=f"20260706-14:30:{number:02}",
        )
        for number, side, price in ((1, "BOT", 1.1), (2, "SLD", 1.2))
    ]  # fmt: skip
    wait_until(router.saw("connected to TWS"), START_S)
    for each in fills:
        if first == "reports":
            tws.report(each)
            tws.fill(replace(each, commission=None))
        else:
            tws.fill(each)
    flow.until(lambda: booked(redis, "U1:EUR.USD", 2), "both executions")
    flow.until(
        lambda: read_hash(redis)["U1:EUR.USD"]["other_commissions"]
        == {"EUR": Decimal("3.85248")},
        "their reports",
    )  # fmt: skip
    position = read_hash(redis)["U1:EUR.USD"]
    assert (position["qty"], position["commission"]) == (0, 0)
    assert letters(redis) == []


def test_what_was_held_before_and_traded_today_is_adopted(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis, redis_url: str
) -> None:
    tws.fill(fill(1, AAPL, "BOT", 4, 9))
    tws.hold(Holding("U1", AAPL, -1, 12))
    flow.until(lambda: booked(redis, "U1:AAPL", 1), "the purchase")
    done = reconcile(tws, redis_url, "--adopt")
    assert done.returncode == 0, done.stderr
    flow.until(lambda: read_hash(redis)["U1:AAPL"]["qty"] == -1, "the opening")
    position = read_hash(redis)["U1:AAPL"]
    assert (position["avg_price"], position["realized_pnl"]) == (12, 12)
    assert reconcile(tws, redis_url).returncode == 0


def test_shares_that_came_by_transfer_and_were_sold(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis, redis_url: str
) -> None:
    tws.fill(fill(1, AAPL, "SLD", 25, 30))
    flow.until(lambda: booked(redis, "U1:AAPL", 1), "the sale")
    assert "--price U1:AAPL=" in reconcile(tws, redis_url, "--adopt").stderr
    assert reconcile(tws, redis_url, "--adopt", "--price", "10").returncode == 0
    flow.until(lambda: read_hash(redis)["U1:AAPL"]["qty"] == 0, "the opening")
    assert read_hash(redis)["U1:AAPL"]["realized_pnl"] == 500


def test_a_small_currency_trade_that_is_corrected(
    tws: TwsDouble, router: Router, flow: FlowProcess, redis: redis_py.Redis
) -> None:
    euros = Instrument(12087792, "EUR", "CASH", local_symbol="EUR.USD")
    original = replace(fill(1, euros, "BOT", 100, 1.1), exec_id="FXSMLCUS.6596b0d2.01.01")
    tws.fill(original, replace(original, exec_id="FXSMLCUS.6596b0d2.01.02", price=1.2))
    flow.until(lambda: read_hash(redis).get("U1:EUR.USD", {}).get("avg_price"), "a position")
    flow.until(
        lambda: read_hash(redis)["U1:EUR.USD"]["avg_price"] == Decimal("1.2"), "the correction"
    )
    position = read_hash(redis)["U1:EUR.USD"]
    assert (position["qty"], position["executions"]) == (100, 1)
