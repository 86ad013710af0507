"""Reconciling as a process: our hash on a real server against a TWS double's positions."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from typer.testing import CliRunner

from connectors.codec import decode
from connectors.ibkr.account import Account
from connectors.ibkr.messages import Held
from connectors.redis.link import RedisLink
from flows import reconcile
from flows.broker.healing import split_ratio
from flows.reconcile import Book, compare, read_books
from state.breaks import Difference, Kind
from tests.support.commands import run_apart
from tests.support.servers import free_port
from tests.support.tws_double import CHANGES_ORDERS, Fill, Holding, Instrument, TwsDouble

AAPL = Instrument(265598, "AAPL")
CALL = Instrument(
    495512552, "AAPL", "OPT", local_symbol="AAPL  260717C00200000",
    expiry="20260717", strike=200.0, right="C", multiplier="100",
)  # fmt: skip
CALL_NAME = "AAPL  260717C00200000"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble(accounts=("U1", "U2")) as double:
        yield double


@pytest.fixture
def run(tws: TwsDouble, redis_url: str) -> Run:
    """Run the command; settings as keyword arguments."""

    def start(*options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        both = {"REDIS_URL": redis_url, "IBKR_PORT": str(tws.port)}
        return run_apart("reconcile", *options, **(both | settings))

    return start


def book(
    redis: redis_py.Redis, symbol: str, qty: str, account: str | None = "U1", price: str = "10.5"
) -> None:
    """Write what the flow would, as far as it is read here."""
    value = (
        f'{{"account": {json.dumps(account)}, "symbol": "{symbol}", "qty": {qty}, '
        f'"avg_price": {price}}}'
    )
    redis.hset("positions", f"{account}:{symbol}" if account else symbol, value)


def openings(redis: redis_py.Redis) -> list[dict[str, str]]:
    found: Any = redis.xrange("executions")
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]


def test_equal_positions_are_no_break(tws: TwsDouble, redis: redis_py.Redis, run: Run) -> None:
    tws.holdings = [Holding("U1", AAPL, 100.5, 10.5), Holding("U1", CALL, -2.0, 255.0)]
    book(redis, "AAPL", "100.5")
    book(redis, CALL_NAME, "-2", price="2.5")
    book(redis, "MSFT", "0", price="null")  # flat, and unknown to the broker
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "BREAK" not in done.stdout
    assert "2.55" in done.stdout  # IBKR's average cost without the multiplier


def test_a_different_quantity_is_a_break(tws: TwsDouble, redis: redis_py.Redis, run: Run) -> None:
    tws.holdings = [Holding("U1", AAPL, 99.0, 10.0), Holding("U1", CALL, -2.0, 255.0)]
    book(redis, "AAPL", "100")
    book(redis, CALL_NAME, "-2", price="2.5")
    done = run()
    assert done.returncode == 1
    assert done.stdout.count("BREAK") == 1


def test_json_says_it_with_exact_numbers(tws: TwsDouble, redis: redis_py.Redis, run: Run) -> None:
    tws.holdings = [Holding("U1", AAPL, 100.0, 10.0), Holding("U2", CALL, -2.0, 255.0)]
    book(redis, "AAPL", "100.0000000001", price="123456789.0123456789")
    done = run("--json")
    assert done.returncode == 1
    assert json.loads(done.stdout, parse_float=Decimal) == [
        {
            "account": "U1", "symbol": "AAPL", "ours": Decimal("100.0000000001"), "broker": 100,
            "our_avg_price": Decimal("123456789.0123456789"), "broker_avg_price": 10,
            "break": True, "adopted": False,
        },
        {
            "account": "U2", "symbol": CALL_NAME, "ours": None, "broker": -2,
            "our_avg_price": None, "broker_avg_price": Decimal("2.55"),
            "break": True, "adopted": False,
        },
    ]  # fmt: skip


def test_adopting_opens_a_book_for_each_position_that_has_none(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    tws.holdings = [
        Holding("U1", AAPL, 100.0, 10.0), Holding("U2", AAPL, -5.5, 31.0000000000333),
        Holding("U2", CALL, -2.0, 255.0),
    ]  # fmt: skip
    book(redis, "AAPL", "100")
    before = time.time_ns() // 1_000_000
    done = run("--adopt")
    assert (done.returncode, done.stdout.count("adopted")) == (0, 2)
    stock, option = openings(redis)
    assert before <= int(stock.pop("timestamp")) <= time.time_ns() // 1_000_000
    assert stock == {
        "type": "opening", "symbol": "AAPL", "account": "U2", "qty": "-5.5", "avg_price": "31",
        "sec_type": "STK", "con_id": "265598", "currency": "USD",
    }  # fmt: skip
    assert (option["avg_price"], option["multiplier"]) == ("2.55", "100")
    for opening in (stock | {"timestamp": "1700000000000"}, option):  # the flow takes them
        decode([part.encode() for pair in opening.items() for part in pair])


def test_adopting_twice_opens_one_book(tws: TwsDouble, redis: redis_py.Redis, run: Run) -> None:
    tws.holdings = [Holding("U1", AAPL, 100.0, 10.0)]
    assert run("--adopt").returncode == 0
    again = run("--adopt")  # while the flow is down
    assert (again.returncode, len(openings(redis))) == (1, 1)
    assert "U1:AAPL: adopted before, but there is no book yet" in again.stderr


def test_what_was_traded_today_is_not_adopted(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    """The router publishes the execution, so that the opening would count it twice."""
    tws.holdings = [Holding("U1", AAPL, 100.0, 10.0)]
    tws.fill(Fill("0000e0d5.00000001.01.01", AAPL, account="U1"))
    done = run("--adopt")
    assert (done.returncode, openings(redis)) == (1, [])
    assert "U1:AAPL: not adopted" in done.stderr


def test_it_works_beside_a_router_and_other_clients(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    tws.taken_client_ids = {1, 2, 3}
    assert run().returncode == 0
    assert not CHANGES_ORDERS & {*tws.requests}


def test_all_client_ids_in_use_is_told(tws: TwsDouble, run: Run) -> None:
    tws.taken_client_ids = set(range(100))
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "is in use" in done.stderr


def test_a_tws_that_cannot_be_reached_is_told(tws: TwsDouble, run: Run) -> None:
    tws.close()
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"nothing listens at 127.0.0.1:{tws.port}" in done.stderr


def test_a_redis_that_cannot_be_reached_is_told(tws: TwsDouble, run: Run) -> None:
    done = run(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Redis is away" in done.stderr


def test_a_wrong_setting_is_no_break(run: Run) -> None:
    done = run(IBKR_PORT="99999")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "IBKR_PORT" in done.stderr


# --- who is compared with whom -----------------------------------------------------------


def our(symbol: str, qty: int, account: str | None = None) -> Book:
    return Book(account, symbol, Decimal(qty), None)


def their(symbol: str, qty: int, account: str, con_id: str = "1") -> Held:
    return Held(account, symbol, str(qty), "10", "STK", con_id, "USD", "")


def verdicts(books: list[Book], positions: list[Held]) -> dict[str, tuple[int, int]]:
    return {pair.key: (int(pair.ours), int(pair.theirs)) for pair in compare(books, positions)}


@pytest.mark.parametrize(
    ("ours", "theirs", "is_break"),
    [("100", "100", False), ("100", "99", True), ("-1", "1", True), ("0.3", "0.4", True)],
)
def test_only_the_quantity_makes_a_break(ours: str, theirs: str, is_break: bool) -> None:
    book = Book("U1", "AAPL", Decimal(ours), Decimal("9.5"))
    held = Held("U1", "AAPL", theirs, "10", "STK", "1", "USD", "")
    (pair,) = compare([book], [held])
    assert pair.is_break == is_break


def test_what_only_one_side_has_is_a_break_unless_it_is_flat() -> None:
    (ours,) = compare([our("AAPL", 5, "U1"), our("MSFT", 0, "U1")], [])
    (theirs,) = compare([], [their("AAPL", 5, "U1")])
    assert ours.is_break
    assert theirs.is_break


def test_a_book_without_account_is_compared_with_the_sum_over_accounts() -> None:
    positions = [their("AAPL", 10, "U1"), their("AAPL", 5, "U2")]
    assert verdicts([our("AAPL", 15)], positions) == {"AAPL": (15, 15)}


def test_accounts_with_a_book_of_their_own_are_not_in_the_sum() -> None:
    positions = [their("AAPL", 10, "U1"), their("AAPL", 5, "U2")]
    books = [our("AAPL", 5), our("AAPL", 10, "U1")]
    assert verdicts(books, positions) == {"AAPL": (5, 5), "U1:AAPL": (10, 10)}


def test_each_account_is_compared_for_itself() -> None:
    positions = [their("AAPL", 10, "U1"), their("AAPL", 5, "U2")]
    books = [our("AAPL", 10, "U1"), our("AAPL", 6, "U2"), our("AAPL", 1, "U3")]
    assert verdicts(books, positions) == {
        "U1:AAPL": (10, 10), "U2:AAPL": (6, 5), "U3:AAPL": (1, 0),
    }  # fmt: skip


def test_contracts_that_share_a_name_are_summed_and_have_no_price() -> None:
    one = their("RY", 10, "U1", con_id="1")._replace(avg_price="1000")
    positions = [one, their("RY", 5, "U1", con_id="2")]
    assert verdicts([our("RY", 10, "U1")], positions) == {"U1:RY": (10, 15)}
    [equal] = compare([Book("U1", "RY", Decimal(15), Decimal(10))], positions)
    assert not equal.is_break


def test_a_contract_under_two_names_is_told_by_its_number(
    redis: redis_py.Redis, redis_url: str
) -> None:
    value = '{"account": "U1", "symbol": "FB", "qty": 5, "avg_price": 10, "con_id": 107113386}'
    redis.hset("positions", "U1:FB", value)
    books = read_books(RedisLink(redis_url, Event()), "positions")
    pairs = compare(books, [their("META", 5, "U1", con_id="107113386")])
    kinds = {pair.key: pair.difference.kind for pair in pairs if pair.difference}
    assert kinds == {"U1:FB": Kind.TWO_NAMES, "U1:META": Kind.TWO_NAMES}


# --- prices and names ----------------------------------------------------------------------


def test_prices_that_are_a_hundred_times_apart_are_a_break(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    wheat = Instrument(
        532_513, "ZW", "FUT", local_symbol="ZWN6", multiplier="5000", price_magnifier=100
    )
    tws.holdings = [Holding("U1", wheat, 1.0, 54425.0)]
    book(redis, "ZWN6", "1", price="10.885")  # booked with 5000
    done = run()
    assert done.returncode == 1
    assert "U1:ZWN6: a price factor: our average price is about 1/100 times" in done.stdout
    book(redis, "ZWN6", "1", price="1088.5")
    assert run().returncode == 0


def test_names_are_those_of_the_router(tws: TwsDouble, redis: redis_py.Redis, run: Run) -> None:
    toronto = Instrument(2, "SHOP", currency="CAD", primary_exchange="TSE")
    tws.holdings = [
        Holding("U1", Instrument(1, "SHOP"), 3.0, 10.0), Holding("U1", toronto, 4.0, 10.0),
        Holding("U1", Instrument(7, "META"), 5.0, 10.0),
    ]  # fmt: skip
    redis.hset("instruments", "7", json.dumps({"name": "FB", "multiplier": "1"}))
    book(redis, "SHOP", "3")
    book(redis, "SHOP@TSE", "4")
    book(redis, "FB", "5")
    done = run()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_split_that_was_not_told_is_named_with_its_message(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    tws.holdings = [Holding("U1", AAPL, 400.0, 10.0)]
    book(redis, "AAPL", "100", price="40")
    done = run("--adopt")
    assert (done.returncode, openings(redis)) == (1, [])
    assert "type split symbol AAPL account U1 ratio 4:1" in done.stdout
    assert "not adopted, as it looks like a split" in done.stderr


def test_a_contract_that_got_a_new_number_is_named_with_how_to_move_it(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    redis.hset("instruments", "1", json.dumps({"name": "AMTD", "multiplier": "1"}))
    redis.hset("{instruments}:names", mapping={"AMTD": "1", ":1": "AMTD"})
    tws.holdings = [Holding("U1", Instrument(2, "AMTD"), 333.0, 3.0)]
    book(redis, "AMTD", "333", price="3")
    done = run()
    assert done.returncode == 1
    for key in ("U1:AMTD", "U1:AMTD@NASDAQ"):
        assert f"{key}: U1:AMTD under a new contract number" in done.stdout


def test_what_is_not_known_to_be_linear_is_not_adopted(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    tws.holdings = [Holding("U1", Instrument(7, "US-T", "BOND"), 10.0, 995.0)]
    done = run("--adopt")
    assert (done.returncode, openings(redis)) == (1, [])
    assert "U1:US-T: not adopted, as what a point is worth is not known" in done.stderr


def test_a_master_and_the_accounts_that_are_left_out_are_not_compared(
    redis: redis_py.Redis, run: Run, tws: TwsDouble
) -> None:
    tws.holdings = [Holding(account, AAPL, 3.0, 10.0) for account in ("U1", "F2", "U3")]
    book(redis, "AAPL", "3")
    assert run(IBKR_ACCOUNTS="U1").returncode == 0
    done = run()
    assert (done.returncode, done.stdout.count("BREAK")) == (1, 1)  # U3's


def test_the_books_of_another_logins_accounts_are_not_compared_and_that_is_said(
    redis: redis_py.Redis, run: Run, tws: TwsDouble
) -> None:
    tws.holdings = [Holding("U1", AAPL, 3.0, 10.0)]
    book(redis, "AAPL", "3")
    book(redis, "AAPL", "9", account="U9")
    book(redis, "MSFT", "9", account="U9")
    done = run("--adopt")
    assert (done.returncode, "U9" in done.stdout) == (0, False)
    assert "account U9: 2 positions not compared, as this TWS does not have" in done.stderr
    none = run(IBKR_ACCOUNTS="U9")
    assert (none.returncode, none.stdout) == (2, "")
    assert "expected an account that is followed (see IBKR_ACCOUNTS), found U1, U2" in none.stderr


@pytest.mark.parametrize("code", [1100, 2110])
def test_what_a_tws_without_servers_holds_is_not_compared(
    redis: redis_py.Redis, run: Run, tws: TwsDouble, code: int
) -> None:
    tws.cut_code = code
    book(redis, "AAPL", "3")
    done = run("--adopt")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert f"it has lost IBKR's servers ({code})" in done.stderr


# --- adopting beside a book ------------------------------------------------------------------


def execution(redis: redis_py.Redis, number: int, side: str, qty: str, price: str) -> None:
    """Put an execution on the stream, as one that the flow has booked."""
    fields: dict[Any, Any] = {
        "symbol": "AAPL", "account": "U1", "side": side, "fill_qty": qty, "fill_price": price,
        "order_id": "1", "exec_id": f"0000e0d5.{number:08x}.01.01", "timestamp": "1700000000000",
    }  # fmt: skip
    redis.xadd("executions", fields)
    if redis.exists("executions") and not redis.xinfo_groups("executions"):
        redis.xgroup_create("executions", "positions", "$")
    redis.execute_command("XGROUP", "SETID", "executions", "positions", "$")  # type: ignore[no-untyped-call]


def adopted(redis: redis_py.Redis) -> list[dict[str, str]]:
    return [entry for entry in openings(redis) if entry.get("type") == "opening"]


@pytest.mark.parametrize(
    ("executions", "booked", "held", "qty", "price"),
    [
        # Short before, partly bought back today: what is left is the opening's.
        ([("BUY", "4", "9")], "4", (-1.0, 12.0), "-5", "12"),
        # Long before, more bought: both are open, the average is over both.
        ([("BUY", "10", "20")], "10", (30.0, 15.0), "20", "12.5"),
        # Long before, some sold since: the opening's were sold first.
        ([("BUY", "10", "20"), ("SELL", "5", "30")], "5", (25.0, 16.0), "20", "13.3333333333"),
        ([("SELL", "25", "30")], "-25", (5.0, 7.0), "30", "7"),
    ],
)
def test_an_opening_for_a_key_that_has_a_book_makes_the_broker_s_figures_come_out(
    tws: TwsDouble,
    redis: redis_py.Redis,
    run: Run,
    executions: list[tuple[str, str, str]],
    booked: str,
    held: tuple[float, float],
    qty: str,
    price: str,
) -> None:
    for number, each in enumerate(executions):
        execution(redis, number, *each)
        tws.fill(Fill(f"0000e0d5.{number:08x}.01.01", AAPL))
    tws.holdings = [Holding("U1", AAPL, *held)]
    book(redis, "AAPL", booked)
    done = run("--adopt")
    assert done.returncode == 0, done.stderr
    [opening] = adopted(redis)
    assert (opening["qty"], opening["avg_price"]) == (qty, price)
    assert opening["exec_id"].startswith("adopted-")
    assert run("--adopt").returncode == 1  # not booked yet, so not again
    assert len(adopted(redis)) == 1


def test_a_price_that_no_longer_shows_in_the_broker_s_average_has_to_be_given(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    execution(redis, 1, "SELL", "25", "30")
    book(redis, "AAPL", "-25")
    done = run("--adopt")
    assert (done.returncode, adopted(redis)) == (1, [])
    assert "give it: --price U1:AAPL=" in done.stderr
    assert run("--adopt", "--price", "U1:AAPL=12.5").returncode == 0
    [opening] = adopted(redis)
    assert (opening["qty"], opening["avg_price"]) == ("25", "12.5")
    assert run("--price", "cheap").returncode == 2


def test_one_price_never_opens_several_positions_and_one_for_nothing_is_said(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    tws.holdings = [Holding("U1", AAPL, 4.0, 10.0), Holding("U2", AAPL, 5.0, 20.0)]
    alone = run("--adopt", "--price", "12.5")
    assert (alone.returncode, adopted(redis)) == (2, [])
    assert "expected KEY=PRICE, as several positions differ (U1:AAPL, U2:AAPL)" in alone.stderr
    other = run("--adopt", "--price", "U3:AAPL=12.5")
    assert (other.returncode, adopted(redis)) == (2, [])
    assert "expected a position that differs (U1:AAPL, U2:AAPL), found U3:AAPL" in other.stderr
    assert run("--adopt", "--price", "U1:AAPL=12.5").returncode == 0
    assert [each["avg_price"] for each in adopted(redis)] == ["12.5", "20"]


def test_a_fill_that_is_not_on_the_stream_is_never_made_up_for(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    execution(redis, 1, "BUY", "4", "9")
    tws.fill(Fill("0000e0d5.00000009.01.01", AAPL))
    tws.holdings = [Holding("U1", AAPL, 104.0, 10.0)]
    book(redis, "AAPL", "4")
    done = run("--adopt")
    assert (done.returncode, adopted(redis)) == (1, [])
    assert "a fill is missing: TWS lists execution 0000e0d5.00000009.01.01" in done.stderr


def test_what_is_not_booked_yet_is_waited_for_and_never_made_up_for(
    tws: TwsDouble, redis: redis_py.Redis, run: Run
) -> None:
    execution(redis, 1, "BUY", "4", "9")
    redis.execute_command("XGROUP", "SETID", "executions", "positions", "0-0")  # type: ignore[no-untyped-call]
    tws.holdings = [Holding("U1", AAPL, 9.0, 10.0)]
    book(redis, "AAPL", "4")
    done = run("--adopt")
    assert (done.returncode, adopted(redis)) == (1, [])
    assert "the flow has 1 entry to book yet" in done.stderr


HELD = their("AAPL", 5, "U1")
ASKED = Account([HELD], {}, ["U1"])


@pytest.mark.parametrize(
    ("asked_again", "adopted_now"),
    [
        (ASKED, True), (ASKED._replace(positions=[HELD._replace(doubt="for a moment")]), True),
        (ASKED._replace(positions=[HELD._replace(qty="6")]), False),
        (ASKED._replace(traded={"U1:MSFT": ["0000e0d5.00000009.01.01"]}), False),
    ],
)  # fmt: skip
def test_nothing_is_adopted_while_something_happens_at_the_broker(
    redis: redis_py.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch,
    asked_again: Account, adopted_now: bool,
) -> None:  # fmt: skip
    answers = iter([ASKED, asked_again])
    monkeypatch.setattr(reconcile, "ask_tws", lambda *_: next(answers))
    monkeypatch.setenv("REDIS_URL", redis_url)
    done = CliRunner().invoke(reconcile.app, ["--adopt"])
    assert len(openings(redis)) == adopted_now
    said = "nothing adopted, as something happened meanwhile: try again" in done.output
    assert (done.exit_code, said) == ((0, False) if adopted_now else (1, True))
    assert not redis.exists("executions:partitions") or adopted_now  # it only looks


# --- which ratio is a split ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "our_price", "their_price", "ratio"),
    [
        ("100", "400", "40", "10", "4:1"), ("1000", "100", "1", "10", "1:10"),
        ("1000", "333.3333", "1", "3.0000003", "1:3"), ("2", "3", "30", "20", "3:2"),
        ("-100", "-200", "10", "5", "2:1"), ("100", "101", "10", "9.9", None),
        ("100", "400", "40", "40", None), ("100", "-400", "40", "10", None),
        ("100", "200", None, "5", None), ("100", "200", "10", "0", None),
        ("100", "400", "40", "10.15", "4:1"), ("100", "400", "40", "10.5", None),
        ("1000", "4009", "40", "9.9776", None), ("10", "1010", "1010", "10", None),
        ("100", "100.01", "10", "10", None), ("1000", "1", "1", "1000", None),
    ],
)  # fmt: skip
def test_only_what_keeps_the_cost_looks_like_a_split(
    ours: str, theirs: str, our_price: str | None, their_price: str, ratio: str | None
) -> None:
    difference = Difference(Kind.QUANTITY, Decimal(ours), Decimal(theirs))
    price = None if our_price is None else Decimal(our_price)
    assert split_ratio(difference, price, Decimal(their_price)) == ratio
