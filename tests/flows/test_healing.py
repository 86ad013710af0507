"""A contract whose money per point nobody knows: from TWS to the position, by the runbook."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from typer.testing import CliRunner

from flows.replay import app
from tests.support.flow_process import FlowProcess, read_hash, read_rows, read_stream
from tests.support.router_process import START_S, Router
from tests.support.tws_double import Fill, Instrument, TwsDouble, wait_until

BOND = Instrument(15960420, "US-T", "BOND", local_symbol="US-T 4 1/4 2035")
KEY = "U1:US-T 4 1/4 2035"
FIRST, SECOND = "0000e0d5.00000001.01.01", "0000e0d5.00000002.01.01"


@pytest.fixture
def tws() -> Iterator[TwsDouble]:
    with TwsDouble() as double:
        yield double


@pytest.mark.parametrize("still_listed", [True, False], ids=["today", "after a week"])
def test_a_bond_is_booked_once_somebody_says_what_a_point_is_worth(
    tws: TwsDouble, redis: redis_py.Redis, redis_url: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, still_listed: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("REDIS_URL", redis_url)
    router = Router(tws, redis_url, tmp_path / "router.log")
    with FlowProcess(tmp_path, redis_url) as flow:
        with router:
            tws.fill(Fill(FIRST, BOND, shares=5.0, price=99.5, commission="2.5"))
            wait_until(lambda: redis.xlen("executions:dead") == 1, START_S)
        assert not redis.hexists("positions", KEY)
        if not still_listed:
            tws.listed.clear()
        say_what_a_point_is_worth(redis)
        with router:
            put_back(redis)
            tws.fill(Fill(SECOND, BOND, side="SLD", shares=2.0, price=100.5, commission="1"))
            charged = Decimal("3.5")
            wait_until(lambda: read_hash(redis).get(KEY, {}).get("commission") == charged, START_S)
            flow.until_committed(redis)
    position = read_hash(redis)[KEY]
    # 5 at 99.5 × 10, of which 2 went at 100.5: 2 × 1 × 10, and charges of 2/5 × 2.5 + 1.
    figures = ("qty", "multiplier", "cost_basis", "executions", "realized_pnl", "net_realized_pnl")
    assert [position[name] for name in figures] == [3, 10, 2985, 2, 20, 18]
    assert redis.xlen("executions:dead") == 0
    rows = [row for row in read_rows(flow.data_dir, "positions") if row["type"] == "execution"]
    assert [row["exec_id"] for row in rows] == [FIRST, SECOND]


def say_what_a_point_is_worth(redis: redis_py.Redis) -> None:
    """Do the first thing that the runbook says."""
    found: Any = redis.hget("instruments", str(BOND.con_id))
    known = json.loads(found)
    assert known["multiplier"] is None
    redis.hset("instruments", str(BOND.con_id), json.dumps({**known, "multiplier": "10"}))


def put_back(redis: redis_py.Redis) -> None:
    """Do the second."""
    [(letter, _)] = read_stream(redis, "executions:dead")
    done = CliRunner().invoke(app, ["put-back", letter, "--set", "multiplier=10"])
    assert done.exit_code == 0, done.output
