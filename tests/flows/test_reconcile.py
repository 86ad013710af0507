"""Reconciling as a process: our hash on a real server against a TWS double's positions."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.codec import decode
from connectors.ibkr.messages import Held
from flows.reconcile import Book, compare
from tests.support.servers import free_port
from tests.support.tws_double import CHANGES_ORDERS, Fill, Holding, Instrument, TwsDouble

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60

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
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "IBKR_PORT": str(tws.port),
            **settings,
        }
        return subprocess.run(
            [sys.executable, "-m", "flows.reconcile", *options],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip

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
    for opening in (stock | {"timestamp": "0"}, option):  # the flow takes them
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
    assert "no answer from Redis" in done.stderr


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


def test_contracts_that_share_a_name_are_summed() -> None:
    positions = [their("RY", 10, "U1", con_id="1"), their("RY", 5, "U1", con_id="2")]
    assert verdicts([our("RY", 10, "U1")], positions) == {"U1:RY": (10, 15)}
