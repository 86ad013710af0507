"""The router as a process between a TWS double and a real server, with all that can fail.

Whatever happens to TWS, Redis or the router: each execution is on the stream once,
and each commission once.
"""

import asyncio
import itertools
import os
import random
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.ibkr.messages import Letter
from connectors.redis.link import RedisLink
from flows.router import Outbox
from tests.conftest import OwnServer
from tests.support.router_process import START_S, Router
from tests.support.servers import RedisServer, free_port
from tests.support.tws_double import CHANGES_ORDERS, Fill, Instrument, TwsDouble, wait_until

STOP_S = 5.0  # it takes 1 to 2; a hang takes 10

AAPL = Instrument(265598, "AAPL")
CALL = Instrument(
    495512552, "AAPL", "OPT", local_symbol="AAPL  260717C00200000",
    expiry="20260717", strike=200.0, right="C", multiplier="100",
)  # fmt: skip
EURUSD = Instrument(12087792, "EUR", "CASH", local_symbol="EUR.USD")
SPREAD = Instrument(28812380, "AAPL", "BAG")


def exec_id(number: int, leg: int = 1, revision: int = 1) -> str:
    return f"0000e0d5.{number:08x}.{leg:02}.{revision:02}"


def fill(number: int, instrument: Instrument = AAPL, **more: Any) -> Fill:
    clock = f"{14 + number // 3600 % 8:02}:{number // 60 % 60:02}:{number % 60:02}"
    figures = {"price": 100 + number / 8, "commission": f"{1 + number / 100}"}
    return Fill(exec_id(number), instrument, time=f"20260706-{clock}", **{**figures, **more})


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        yield double


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "router.log"


@pytest.fixture
def router(tws: TwsDouble, redis_url: str, log: Path) -> Iterator[Router]:
    with Router(tws, redis_url, log) as process:
        yield process


def entries(redis: redis_py.Redis, stream: str = "executions") -> list[dict[str, str]]:
    found: Any = redis.xrange(stream)
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in found]


def published(redis: redis_py.Redis, kind: str = "execution") -> list[str]:
    """Return the execution ids on the stream, in its order."""
    return [entry["exec_id"] for entry in entries(redis) if entry.get("type", "execution") == kind]


def has_length(redis: redis_py.Redis, length: int, stream: str = "executions") -> bool:
    return len(entries(redis, stream)) >= length


def settle(redis: redis_py.Redis, expected: list[str]) -> None:
    """Wait until these executions and a commission of each are there, each once."""

    def all_there() -> bool:
        return {*expected} <= {*published(redis)} & {*published(redis, "commission")}

    try:
        wait_until(all_there)
    except TimeoutError:
        assert sorted(published(redis)) == sorted(expected)
        assert sorted(published(redis, "commission")) == sorted(expected)
        raise
    assert sorted(published(redis)) == sorted(expected)
    assert sorted(published(redis, "commission")) == sorted(expected)


def live(tws: TwsDouble, router: Router) -> None:
    """Wait until the router has read its first list, so that what follows is live."""
    wait_until(router.saw("connected to TWS"), START_S)
    wait_until(lambda: 7 in tws.requests)


# --- fills, however they come --------------------------------------------------------------


def test_fills_from_before_the_connect_come_in_the_order_of_their_times(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    numbers = [5, 3, 9, 1, 7]
    tws.fill(*map(fill, numbers))
    settle(redis, [exec_id(number) for number in numbers])
    assert published(redis) == [exec_id(number) for number in sorted(numbers)]


def test_a_message_says_all_that_the_contract_asks(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    tws.fill(fill(1, CALL, price=2.55, order_ref="covered"), fill(2, EURUSD, shares=20000.0))
    settle(redis, [exec_id(1), exec_id(2)])
    option, commission, pair, _ = entries(redis)
    assert option == {
        "symbol": "AAPL  260717C00200000", "account": "U1", "side": "BUY", "fill_qty": "100",
        "fill_price": "2.55", "order_id": "7", "exec_id": exec_id(1),
        "timestamp": "1783346401000", "avg_fill_price": "10", "sec_type": "OPT",
        "con_id": "495512552", "currency": "USD", "exchange": "ISLAND", "multiplier": "100",
        "order_ref": "covered",
    }  # fmt: skip
    assert commission == {
        "type": "commission", "symbol": "AAPL  260717C00200000", "account": "U1",
        "exec_id": exec_id(1), "timestamp": "1783346401000", "commission": "1.01",
        "currency": "USD",
    }  # fmt: skip
    assert (pair["symbol"], pair["sec_type"], "multiplier" in pair) == ("EUR.USD", "CASH", False)


def test_live_fills_of_orders_it_never_saw_come(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    for number in range(5):
        tws.fill(fill(number, perm_id=9000 + number))
    settle(redis, [exec_id(number) for number in range(5)])
    assert f"published U1:AAPL: BUY 100 at 100.5 ({exec_id(4)})" in router.log


def test_the_legs_of_a_combo_come_and_the_combo_does_not(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    combo = fill(1, SPREAD)
    legs = [
        replace(combo, exec_id=exec_id(1, leg), instrument=instrument)
        for leg, instrument in ((2, AAPL), (3, CALL))
    ]
    tws.fill(combo, *legs)
    settle(redis, [exec_id(1, leg=2), exec_id(1, leg=3)])


def test_a_correction_comes_as_another_revision(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    tws.fill(fill(1))
    corrected = replace(fill(1), exec_id=exec_id(1, revision=2), price=99.0)
    tws.fill(corrected, corrected)
    settle(redis, [exec_id(1), exec_id(1, revision=2)])


def test_a_commission_comes_again_only_when_it_changes(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    tws.fill(fill(1, commission=None))
    for count, figure in enumerate(("1.5", "2.0", "1.5"), start=1):
        for _ in range(3):
            tws.commission(exec_id(1), figure)
        wait_until(partial(has_length, redis, count + 1))
    router.kill()
    tws.requests.clear()
    router.start()
    live(tws, router)
    tws.fill(fill(2))
    wait_until(lambda: published(redis, "commission")[-1] == exec_id(2))
    figures = [entry["commission"] for entry in entries(redis) if "type" in entry]
    assert figures == ["1.5", "2", "1.5", "1.02"]


def test_accounts_are_kept_apart_and_each_key_is_in_its_partition(
    redis: redis_py.Redis, redis_url: str, log: Path
) -> None:
    accounts = ("U1", "U2", "U3")
    with (
        TwsDouble(accounts=accounts) as tws,
        Router(tws, redis_url, log, STREAM_PARTITIONS="3") as router,
    ):
        live(tws, router)
        tws.fill(*(fill(number, account=account) for number, account in enumerate(accounts)))
        homes = {a: f"executions:{zlib.crc32(f'{a}:AAPL'.encode()) % 3}" for a in accounts}
        assert len(set(homes.values())) > 1
        for account, stream in homes.items():
            wait_until(partial(has_length, redis, 2, stream))
            assert {entry["account"] for entry in entries(redis, stream)} == {account}


# --- while TWS is away ---------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_fills_made_while_the_socket_was_down_come(
    tws: TwsDouble, router: Router, redis: redis_py.Redis, reset: bool
) -> None:
    live(tws, router)
    tws.fill(fill(1))
    tws.drop(reset=reset)
    tws.fill(fill(2), live=False)
    settle(redis, [exec_id(1), exec_id(2)])


@pytest.mark.parametrize("code", [1101, 1102])
def test_fills_made_while_tws_had_no_servers_come(
    tws: TwsDouble, router: Router, redis: redis_py.Redis, code: int
) -> None:
    live(tws, router)
    tws.error(1100, "Connectivity between IBKR and TWS has been lost")
    tws.fill(fill(1), fill(2), live=False)
    tws.error(code, "Connectivity between IBKR and TWS has been restored")
    settle(redis, [exec_id(1), exec_id(2)])
    assert router.log.count("(1100)") == router.log.count(f"({code})") == 1


def test_it_waits_for_a_tws_that_is_restarted_at_night(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    tws.fill(fill(1))
    tws.close()
    tws.fill(fill(2), live=False)
    wait_until(router.saw("nothing listens"))
    time.sleep(1.5)  # several attempts
    tws.open()
    settle(redis, [exec_id(1), exec_id(2)])
    assert router.log.count("nothing listens") == 1
    assert router.log.count("connected to TWS") == 2


def test_it_waits_for_a_client_id_that_is_in_use(
    redis: redis_py.Redis, redis_url: str, log: Path
) -> None:
    with TwsDouble(taken_client_ids={1}) as tws, Router(tws, redis_url, log) as router:
        tws.fill(fill(1))
        wait_until(lambda: tws.requests.count(71) >= 3, START_S)
        tws.taken_client_ids = set()
        settle(redis, [exec_id(1)])
    assert router.log.count("client id 1 is in use by another program; set IBKR_CLIENT_ID") == 1


def test_a_list_of_executions_that_never_ends_holds_nothing_back(
    redis: redis_py.Redis, redis_url: str, log: Path
) -> None:
    with TwsDouble(ends_executions=False) as tws, Router(tws, redis_url, log):
        tws.fill(fill(1))
        settle(redis, [exec_id(1)])
        tws.fill(fill(2))
        settle(redis, [exec_id(1), exec_id(2)])


def test_it_never_touches_an_order(tws: TwsDouble, router: Router, redis: redis_py.Redis) -> None:
    live(tws, router)
    tws.fill(fill(1))
    tws.drop()
    settle(redis, [exec_id(1)])
    wait_until(router.saw("connected to TWS", 2))
    assert router.terminate()[0] == 0
    assert not CHANGES_ORDERS & {*tws.requests}
    assert not {5, 99} & {*tws.requests}  # nor asks for any: it connects for reading only


# --- while Redis is away -------------------------------------------------------------------


def test_fills_made_while_redis_was_down_come(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    server = own_server(appendonly=True)
    with Router(tws, server.url, log) as router, server.client() as redis:
        live(tws, router)
        tws.fill(fill(1))
        settle(redis, [exec_id(1)])
        server.kill()
        tws.fill(fill(2))
        wait_until(router.saw("Redis is away"))
        tws.drop()  # and the library forgets them
        tws.fill(fill(3), live=False)
        server.start()
        settle(redis, [exec_id(1), exec_id(2), exec_id(3)])
        assert router.log.count("Redis is away") == router.log.count("Redis is back") == 1


def test_a_fill_that_tws_no_longer_lists_outlasts_the_outage(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    """As over midnight: TWS lists the executions of today only."""
    server = own_server(appendonly=True)
    with Router(tws, server.url, log) as router, server.client() as redis:
        live(tws, router)
        server.kill()
        tws.fill(fill(1))
        wait_until(router.saw("Redis is away"))
        tws.listed.clear()
        tws.drop()
        wait_until(router.saw("connected to TWS", 2))
        server.start()
        settle(redis, [exec_id(1)])


def test_a_redis_that_lost_its_data_gets_all_that_tws_lists_again(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    server = own_server()  # keeps nothing on disk
    with Router(tws, server.url, log) as router, server.client() as redis:
        live(tws, router)
        tws.fill(fill(1))
        settle(redis, [exec_id(1)])
        server.kill()
        tws.fill(fill(2))
        wait_until(router.saw("Redis is away"))
        server.start()
        settle(redis, [exec_id(1), exec_id(2)])


def test_what_comes_while_a_letter_is_written_is_published(
    redis: redis_py.Redis, redis_url: str
) -> None:
    message = {"symbol": "AAPL", "exec_id": exec_id(1), "side": "BUY"}

    async def both() -> None:
        stop = threading.Event()
        outbox = Outbox(RedisLink(redis_url, stop), {"executions": "executions:dead"})
        writing = asyncio.create_task(outbox.run())
        redis.client_pause(1000)
        outbox.refuse(Letter(exec_id(2), "U1", {"tws": "?"}, "cannot be read"))
        await asyncio.sleep(0.1)
        outbox.put([message])
        await asyncio.wait_for(outbox.emptied(), START_S)
        assert outbox.size == 0
        stop.set()
        writing.cancel()

    asyncio.run(both())
    assert has_length(redis, 1)
    assert has_length(redis, 1, "executions:dead")


def test_a_commission_that_changes_while_it_is_being_published_comes_too(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    server = own_server()
    assert server.pid is not None
    with Router(tws, server.url, log) as router, server.client() as redis:
        live(tws, router)
        tws.fill(fill(1, commission=None))
        wait_until(partial(has_length, redis, 1))
        os.kill(server.pid, signal.SIGSTOP)
        for figure in ("1.5", "2.0"):
            tws.commission(exec_id(1), figure)
            time.sleep(0.3)  # the first is on its way, and waits for the reply
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: entries(redis)[-1].get("commission") == "2")


# --- while the router is dead --------------------------------------------------------------


def test_fills_made_while_the_router_was_dead_come(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    live(tws, router)
    tws.fill(fill(1))
    settle(redis, [exec_id(1)])
    router.kill()
    tws.fill(fill(2), fill(3, commission=None))
    router.start()
    wait_until(lambda: exec_id(3) in published(redis), START_S)
    tws.commission(exec_id(3), "1.5")
    settle(redis, [exec_id(1), exec_id(2), exec_id(3)])


def test_kills_amid_a_backlog_leave_each_execution_once(
    tws: TwsDouble, router: Router, redis: redis_py.Redis
) -> None:
    tws.fill(*map(fill, range(2000)))
    for share in (0, 0.3, 0.6):
        wait_until(partial(has_length, redis, int(4000 * share) + 1), START_S)
        router.kill()
        router.start()
    settle(redis, [exec_id(number) for number in range(2000)])


def test_two_routers_publish_each_execution_once(
    tws: TwsDouble, router: Router, redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with Router(tws, redis_url, tmp_path / "second.log", IBKR_CLIENT_ID="2"):
        tws.wait_for_client(2)
        tws.fill(*map(fill, range(50)))
        settle(redis, [exec_id(number) for number in range(50)])


# --- ending --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(tws: TwsDouble, router: Router, number: signal.Signals) -> None:
    live(tws, router)
    code, seconds = router.terminate(number)
    assert (code, seconds < STOP_S) == (0, True)
    assert "Traceback" not in router.log


def test_a_signal_ends_it_while_neither_side_answers(redis_url: str, log: Path) -> None:
    with TwsDouble() as tws, Router(tws, f"redis://127.0.0.1:{free_port()}/0", log) as router:
        tws.fill(fill(1))
        wait_until(router.saw("Redis is away"), START_S)
        tws.close()
        wait_until(router.saw("nothing listens"))
        code, seconds = router.terminate()
    assert (code, seconds < STOP_S) == (0, True)
    assert "Traceback" not in router.log


def test_a_signal_ends_it_while_redis_hangs(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    server = own_server()
    assert server.pid is not None
    with Router(tws, server.url, log) as router:
        live(tws, router)
        os.kill(server.pid, signal.SIGSTOP)
        tws.fill(fill(1))
        time.sleep(0.3)  # until it waits for the reply
        code, seconds = router.terminate()
        os.kill(server.pid, signal.SIGCONT)
    assert (code, seconds < STOP_S) == (0, True)


def test_a_redis_that_refuses_ends_it_with_one_line(
    tws: TwsDouble, own_server: OwnServer, log: Path
) -> None:
    server = own_server(requirepass="secret")
    tws.fill(fill(1))
    with Router(tws, f"redis://:wrong@127.0.0.1:{server.port}/0", log) as router:
        assert router.wait() == 1
    assert "Traceback" not in router.log
    assert "check user and password in REDIS_URL" in router.log.splitlines()[-1]


def test_a_wrong_setting_ends_it_with_one_line(tws: TwsDouble, redis_url: str, log: Path) -> None:
    with Router(tws, redis_url, log, IBKR_TIMEZONE="Mars") as router:
        assert router.wait() == 1
    assert len(router.log.splitlines()) == 1
    assert "IBKR_TIMEZONE" in router.log


# --- all of it -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_fails_each_execution_and_commission_comes_once(
    own_server: OwnServer, log: Path, seed: int
) -> None:
    chance = random.Random(seed)
    server = own_server(appendonly=True)
    numbers = itertools.count()
    with (
        TwsDouble() as tws,
        Router(tws, server.url, log) as router,
        server.client() as redis,
    ):
        faults = _faults(tws, server, router)
        for _ in range(10):
            tws.fill(*(fill(next(numbers)) for _ in range(chance.randrange(4))))
            chance.choice(faults)()
            tws.fill(fill(next(numbers)), live=chance.random() < 0.7)
            time.sleep(chance.random() * 0.3)
        expected = [exec_id(number) for number in range(next(numbers))]
        tws.error(1102, "restored")  # those not sent live are found at the next fetch
        settle(redis, expected)
        assert max(Counter(published(redis)).values()) == 1


def _faults(tws: TwsDouble, server: RedisServer, router: Router) -> list[Callable[[], None]]:
    def restart_redis() -> None:
        server.kill()
        threading.Event().wait(0.2)
        server.start()

    def restart_router() -> None:
        router.kill()
        router.start()

    def restart_tws() -> None:
        tws.close()
        threading.Event().wait(0.2)
        tws.open()

    return [restart_redis, restart_router, restart_tws, tws.drop, lambda: tws.drop(reset=True)]
