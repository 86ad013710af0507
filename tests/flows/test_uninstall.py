"""After a whole day, the runbook's section on uninstalling leaves nothing behind."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis as redis_py

from tests.support.commands import run
from tests.support.flex_files import flex, trade
from tests.support.flow_process import ROOT, FlowProcess, add, until
from tests.support.router_process import Router
from tests.support.tws_double import Fill, Holding, Instrument, TwsDouble

SECTION = (ROOT / "docs" / "runbook.md").read_text().split("\n## Uninstall\n")[1]
KEYS_SAID = (ROOT / "docs" / "reference.md").read_text().split("\n## Redis keys\n")[1]
LAST = 4
AAPL, SAP = Instrument(265598, "AAPL"), Instrument(14204, "SAP", currency="EUR")
BOND = Instrument(99, "IBCID99", sec_type="BOND", ev_rule="aggNo")
FLEX = ROOT / "flows" / "demo" / "flex.xml"


def blocks(command: str) -> list[str]:
    """Return the section's shell blocks in which a command stands."""
    found = re.findall(r"(?ms)^   ```sh\n(.*?)^   ```", SECTION)
    return [block for block in found if command in block]


def delete_keys(redis: redis_py.Redis, directory: Path) -> None:
    """Do what the section says, with a shell; its `redis-cli` writes down what it is told."""
    told, cli = directory / "told", directory / "redis-cli"
    cli.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word" >> {told}; done\n')
    cli.chmod(0o755)
    for block in blocks("redis-cli DEL"):
        path = f"{directory}:{os.environ['PATH']}"
        subprocess.run(["sh", "-e", "-c", block], check=True, env={"PATH": path})
    redis.delete(*(set(told.read_text().splitlines()) - {"DEL"}))


def a_day(redis: redis_py.Redis, url: str, tws: TwsDouble, flow: FlowProcess, home: Path) -> None:
    """Let everything run that writes anything; all has ended when this returns."""
    settings = {**flow.settings, "IBKR_PORT": str(tws.port), "IBKR_TIMEZONE": "UTC"}
    valuation = FlowProcess(home / "valuation", url, recovery=False, flow="flows.valuation",
                            DATA_DIR=str(flow.data_dir), BASE_CURRENCY="USD")  # fmt: skip
    with flow, valuation:
        bad = {"symbol": "AAPL", "side": "BUX", "timestamp": "1750000000000"}
        letters = [add(redis, bad), add(redis, bad)]
        run("reconcile --adopt", **settings)
        flow.until(lambda: redis.hexists("positions", "U1:AAPL"), "adopted")
        with Router(tws, url, home / "router.log", IBKR_MARKS="live") as router:
            valued = ("marks", "valuations", "valuations:totals")
            until(lambda: redis.exists(*valued) == len(valued), "marks and valuations")
            tws.fill(Fill("0000e0d5.6596b0d2.01.01", SAP, commission_currency="EUR"))
            tws.fill(Fill("0000e0d5.6596b0d2.02.01", BOND))
            wanted = ("broker:breaks", "broker:account", "{executions:dead}:others")
            until(lambda: redis.exists(*wanted) == len(wanted), "what the router writes")
            assert router.terminate()[0] == 0
        cancel = trade("A", -4, 10, "20240103;100000", tradeID="", origTradeID="17", ibExecID="",
                       buySell="BUY (Ca.)", transactionType="TradeCancel",
                       transactionID="")  # fmt: skip
        (home / "cancel.xml").write_text(flex([cancel]))
        run(f"flex import {FLEX} {home / 'cancel.xml'}", **settings)
        (home / "cancel.xml").unlink()
        run(f"replay drop {letters[0]}", **settings)
        flow.until_committed(redis)
        for each in (flow, valuation):
            assert each.stop() == 0
    until(lambda: not redis.exists("valuations:totals"), "what goes by itself gone")


def known_keys() -> set[str]:
    return set(re.findall(r"`([^` ]+)`", "".join(re.findall(r"(?m)^\| (.*?) \|", KEYS_SAID))))


def test_after_a_whole_day_uninstalling_leaves_nothing(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    flow = FlowProcess(home, redis_url)
    with TwsDouble() as tws:
        tws.instruments = {each.con_id: each for each in (AAPL, SAP, BOND)}
        tws.holdings = [Holding("U1", AAPL, 100.0, 10.5)]
        tws.figures = [("U1", "NetLiquidation", "1000", "USD")]
        tws.quotes = {AAPL.con_id: {LAST: "191"}}
        a_day(redis, redis_url, tws, flow, home)
    keys: list[bytes] = redis.keys("*")  # type: ignore[assignment]
    there = {key.decode() for key in keys}
    assert there <= known_keys()  # docs/reference.md names them all
    listed = set(shlex.split(blocks("redis-cli DEL executions ")[0].replace("\\\n", "")))
    assert listed - {"redis-cli", "DEL"} == there  # and none is deleted that is not made
    # In a process of its own, with whose end its locks go.
    rescale = f"rescale --to 2 --from {flow.recovery_dir} --into {home / 'new'}"
    subprocess.run(
        [sys.executable, "-m", "flows", *shlex.split(rescale)], cwd=ROOT, check=True,
        env={"PATH": os.environ["PATH"], **flow.settings}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    parted = FlowProcess(
        home / "parted", redis_url, recovery=False, arguments=["-r", f"{home}/new", "-b", "0"],
        DATA_DIR=str(flow.data_dir), STREAM_PARTITIONS="2",
    )  # fmt: skip
    with parted:
        run(f"flex import {FLEX}", **parted.settings)
        parted.until_committed(redis, "executions:0", "executions:1")
        assert parted.stop() == 0
    delete_keys(redis, tmp_path)
    assert redis.keys("*") == []
    for directory in (flow.data_dir, flow.recovery_dir, home / "new"):
        shutil.rmtree(directory)
    left = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".log"]
    assert left == []  # the logs are the test's own


@pytest.mark.parametrize("place", ["/var/lib/lotstream", "/etc/lotstream", "/opt/lotstream"])
def test_what_the_service_was_installed_to_is_named(place: str) -> None:
    installs = (ROOT / "docs" / "first-day.md").read_text().split("## 6. As a service")[1]
    assert place in installs
    [removes] = blocks("userdel lotstream")
    assert place in removes
