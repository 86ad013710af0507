"""The Redis users of the runbook: each program does its whole job as its own, and no more.

The lines are taken from the page as they stand, set on a server, and the server's own log
of what it refused tells what a program lacked.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.conftest import OwnServer
from tests.support.flex_files import flex, trade
from tests.support.flow_process import ROOT, FlowProcess, add, read_hash
from tests.support.follower import follow
from tests.support.router_process import START_S, Router
from tests.support.servers import RedisServer, free_port, tied
from tests.support.tws_double import Fill, Holding, Instrument, TwsDouble, wait_until

_LINES = re.compile(r"(?m)^ACL SETUSER (\w+) +(.+)$")
_PAGE = (ROOT / "docs" / "runbook.md").read_text()
_USERS = dict(_LINES.findall(_PAGE))
PASSWORD = "correct-horse"

_OWN_WORDS = {"client|setinfo", "client|maint_notifications"}
"""What redis-py tries for itself and does without."""

AAPL = Instrument(265598, "AAPL")
BOND = Instrument(15960420, "US-T", "BOND", ev_rule="aggregatedGroup")
NEW = Instrument(76792991, "TSLA")


@pytest.fixture
def server(own_server: OwnServer) -> RedisServer:
    """A server with the runbook's users."""
    server = own_server()
    with server.client() as operator:
        for user, rules in _USERS.items():
            words = rules.replace("PASSWORD", PASSWORD).split()
            operator.execute_command("ACL", "SETUSER", user, *words)
    return server


def url_of(server: RedisServer, user: str) -> str:
    return f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/0"


def client_of(server: RedisServer, user: str, *, text: bool = False) -> redis_py.Redis:
    return redis_py.Redis.from_url(url_of(server, user), decode_responses=text)


def refused(operator: redis_py.Redis) -> list[tuple[str, str, str]]:
    """Return user, kind and object of each thing that the server has refused so far."""
    found: Any = operator.acl_log()
    said = ((one["username"], one["reason"], one["object"]) for one in found)
    return [one for one in said if one[2] not in _OWN_WORDS]


def run(server: RedisServer, user: str, *words: str, code: int = 0, **settings: str) -> str:
    """Run a command to its end as a user, and expect an exit code; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "REDIS_URL": url_of(server, user), **settings},
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def execution(number: int, **more: str) -> dict[str, str]:
    return {
        "symbol": "MSFT", "side": "BUY", "fill_qty": "1", "fill_price": "400", "order_id": "1",
        "exec_id": f"p{number}", "timestamp": "1750000000000", **more,
    }  # fmt: skip


def test_each_program_does_its_whole_job_as_its_own_user(
    server: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    flow = FlowProcess(
        tmp_path, url_of(server, "flow"), METRICS_PORT=str(port), LOG_LEVEL="DEBUG",
        STREAM_RETENTION_HOURS="1000000",
    )  # fmt: skip
    valuation = FlowProcess(
        tmp_path / "valuation", url_of(server, "valuation"), recovery=False,
        flow="flows.valuation", LOG_LEVEL="DEBUG", BASE_CURRENCY="EUR",
    )  # fmt: skip
    with (
        server.client() as operator, TwsDouble() as tws, flow, valuation,
        Router(tws, url_of(server, "router"), tmp_path / "router.log", IBKR_MARKS="live",
               LOG_LEVEL="DEBUG"),
    ):  # fmt: skip
        dead = trade_a_little(server, operator, tws)
        read_all(server, tmp_path)
        repair_all(server, dead)
        bring_from_elsewhere(server, tws, flow.data_dir)
        flow.until_committed(operator)
        assert {"MSFT", "U1:AAPL", "U1:TSLA"} <= read_hash(operator).keys()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as metrics:
            assert b"lotstream_redis_up 1.0" in metrics.read()
        operator.delete("positions", "positions:changes")
        flow.until(lambda: operator.hlen("positions") >= 3, "the deleted hash")
        flow.stop()
        flow.start()
        with client_of(server, "producer") as producer:
            add(producer, execution(9))
        flow.until_committed(operator)
        assert refused(operator) == []
    logs = [*tmp_path.rglob("*.log")]
    assert len(logs) >= 3
    assert not [log for log in logs if PASSWORD in log.read_text()]


def trade_a_little(server: RedisServer, operator: redis_py.Redis, tws: TwsDouble) -> list[str]:
    """Let all kinds of things happen; return the ids of the dead letters."""
    tws.quote(AAPL.con_id, 4, "11")
    tws.fill(Fill("0000e0d5.00000001.01.01", AAPL), Fill("0000e0d5.00000002.01.01", BOND))
    tws.hold(Holding("U1", AAPL, 100, 10.0), Holding("U1", NEW, 5, 200.0))
    tws.commission("0000e0d5.00000001.01.01", "1.5")
    with client_of(server, "producer") as producer:
        add(producer, execution(1))
        add(producer, execution(2, side="HOLD"))
        # More words than a script hands on.
        add(producer, execution(3, side="HOLD", **{f"n{n}": "1" for n in range(6000)}))
    wait_until(lambda: operator.xlen("executions:dead") == 3, START_S)
    wait_until(lambda: b'"live"' in (operator.hget("valuations", "U1:AAPL") or b""), START_S)
    wait_until(lambda: operator.exists("valuations:totals") == 1, START_S)
    wait_until(lambda: operator.hexists("broker:breaks", "U1:TSLA"), START_S)
    letters: Any = operator.xrange("executions:dead")
    return [entry.decode() for entry, fields in letters if fields[b"symbol"] == b"MSFT"]


def bring_from_elsewhere(server: RedisServer, tws: TwsDouble, data_dir: Path) -> None:
    """Open a book for what the broker holds, and import a file."""
    settings = {"IBKR_PORT": str(tws.port), "IBKR_CLIENT_ID": "7"}
    # Exit code 1, as MSFT, which a program of one's own published, is not at the broker.
    said = run(server, "reconcile", "flows.reconcile", "--adopt", code=1, **settings)
    assert "adopted" in said
    file = data_dir.with_name("flex.xml")
    file.write_text(flex([trade("F", 3, 20, "20240105;100000")]))
    run(server, "reconcile", "flows.flex", "import", str(file), DATA_DIR=str(data_dir))


def read_all(server: RedisServer, tmp_path: Path) -> None:
    """See what readers see, all as one user."""
    assert "U1:AAPL" in run(server, "reader", "flows.watch", "--once")
    seen = json.loads(run(server, "reader", "flows.watch", "--once", "--json"))
    assert seen["positions"]
    assert seen["base"]["no_rate"]
    run(server, "reader", "flows.verify", "-r", str(tmp_path / "recovery"),
        DATA_DIR=str(tmp_path / "data"))  # fmt: skip
    with client_of(server, "reader", text=True) as client:
        assert next(follow(client, "positions:changes"))
        assert client.hgetall("valuations")
    assert b"U1:AAPL" in see_board(url_of(server, "reader"))


def repair_all(server: RedisServer, dead: list[str]) -> None:
    """Do all that can be done with a dead letter."""
    assert "3 dead letters" in run(server, "replay", "flows.replay")
    run(server, "replay", "flows.replay", "show", dead[0])
    run(server, "replay", "flows.replay", "drop", dead[0], "--why", "a test")
    run(server, "replay", "flows.replay", "put-back", dead[1], "--set", "side=BUY")
    assert "a test" in run(server, "replay", "flows.replay", "handled")


KEYS = (
    "executions", "executions:partitions", "executions:dead", "executions:dead:handled",
    "{executions:dead}:flow", "{executions:dead}:others", "positions", "positions:changes",
    "valuations", "valuations:totals", "marks", "broker", "broker:breaks", "broker:account",
    "instruments",
    "{instruments}:names", "{executions}:published", "{executions}:published:times",
)  # fmt: skip
"""All that lotstream keeps."""

_WRITES = (
    ("SET", "{}", "1"), ("DEL", "{}"), ("HSET", "{}", "AAPL", "1"), ("XADD", "{}", "*", "a", "1"),
    ("XTRIM", "{}", "MAXLEN", "0"), ("XDEL", "{}", "1-1"), ("XGROUP", "CREATE", "{}", "g", "$"),
    ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "{}"), ("RENAME", "{}", "other"),
    ("EXPIRE", "{}", "1"),
)  # fmt: skip
"""Ways to change a key."""

_WHOLE_SERVER = (
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "LIST"), ("ACL", "SETUSER", "reader", "allcommands"), ("KEYS", "*"), ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", "1"), ("CLIENT", "KILL", "ID", "1"),
    ("MONITOR",), ("SAVE",), ("GET", "elsewhere"),
)  # fmt: skip


def may(client: redis_py.Redis, *words: str) -> bool:
    """Tell whether the server lets a user do something, whatever comes of it."""
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except redis_py.exceptions.NoPermissionError:
        return False
    except redis_py.ResponseError as error:
        # What a script calls is refused in words of the script's own.
        return "permission" not in str(error) and "NOPERM" not in str(error)
    return True


def test_a_reader_changes_nothing(server: RedisServer) -> None:
    with client_of(server, "reader") as client:
        for key in KEYS:
            done = [words for way in _WRITES if may(client, *(words := _of(way, key)))]
            assert done == []
        assert may(client, "HGETALL", "positions")


def test_no_user_has_the_server_or_keys_of_others(server: RedisServer) -> None:
    assert set(_USERS) == {
        "producer", "flow", "valuation", "router", "reconcile", "replay", "reader",
    }  # fmt: skip
    for user in _USERS:
        with client_of(server, user) as client:
            assert [words for words in _WHOLE_SERVER if may(client, *words)] == [], user


@pytest.mark.parametrize(
    ("user", "keys"),
    [
        ("producer", {"executions"}),
        (
            "valuation",
            {"executions:partitions", "valuations", "valuations:totals"},
        ),
        (
            "replay",
            {"executions", "executions:dead", "executions:dead:handled"},
        ),
    ],
)
def test_a_user_changes_its_own_keys_only(server: RedisServer, user: str, keys: set[str]) -> None:
    changed = set()
    with client_of(server, user) as client:
        for key in KEYS:
            if any(may(client, *_of(way, key)) for way in _WRITES):
                changed.add(key)
    assert changed == keys


@pytest.mark.parametrize("user", sorted({*_USERS} - {"flow"}))
def test_only_the_flow_writes_positions(server: RedisServer, user: str) -> None:
    with client_of(server, user) as client:
        for key in ("positions", "positions:changes"):
            assert not any(may(client, *_of(way, key)) for way in _WRITES)


def _of(way: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(word.replace("{}", key) for word in way)


def see_board(url: str) -> bytes:
    """Return the first that the page is told of a position; raises StopIteration if nothing is."""
    port = free_port()
    command = tied([sys.executable, "-m", "flows.board", "--port", str(port)])
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": url}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            wait_until(lambda: _answers(port), START_S)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=20) as events:
                found: bytes = next(line for line in events if b"U1:AAPL" in line)
                return found
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}"):
            return True
    except OSError:
        return False
