"""The demo as a user runs it: a process of its own, on its own server or on a user's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
import redis as redis_py

from flows.demo.balance import balances, before_last_day, paid_in
from flows.demo.market import INSTRUMENTS, LAST_DAY
from flows.demo.sample import history
from flows.demo.statements import Comparison, compare, load_statements
from tests.support.servers import free_port

ROOT = Path(__file__).parents[3]
DEMO = [sys.executable, "-m", "flows.demo"]
KEYS = ["lotstream-demo:executions", "lotstream-demo:positions", "lotstream-demo:anything"]


class Demo:
    """Runs the demo with a temporary directory of its own, where it can leave nothing unseen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = {**os.environ, "TMPDIR": str(directory), "COLUMNS": "80"}
        for name in ("REDIS_URL", "STREAM_PARTITIONS"):
            self._environment.pop(name, None)

    def run(
        self, *options: str, cwd: Path = ROOT, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DEMO, *options],
            cwd=cwd,
            env={**self._environment, **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            DEMO,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def processes(self) -> list[str]:
        """List the command lines of the demo and of what it has started, as they run now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended, or is another user's
                # Valkey overwrites its environment with its title, but lives in its directory.
                environment = (process / "environ").read_bytes().split(b"\0")
                directory = (process / "cwd").readlink()
                mark = f"TMPDIR={self.directory}".encode()
                if mark in environment or directory.is_relative_to(self.directory):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Run the demo; in the end, nothing of it may be left."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    demo = Demo(directory)
    yield demo
    assert list(directory.iterdir()) == []
    assert demo.processes() == []


def test_it_shows_the_sample_and_the_brokers_own_figures(demo: Demo) -> None:
    done = demo.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"Account +Symbol +Quantity +Avg price +Realized +Net", done.stdout)
    assert re.search(r"DU1000002 ESU5 .* USD$", done.stdout, re.MULTILINE)
    assert re.search(r"Contract +Closes +lotstream net +broker's statement +Diff", done.stdout)
    assert re.search(r"ZETA +3 +512\.930755 +512\.930757 +-0\.000002", done.stdout)
    assert "All 59 closes have the broker's figure" in done.stdout
    assert "dead letter: fill_qty: expected a decimal, found '1O0'" in done.stdout
    assert done.stdout.count("dead letter:") == 1
    assert "python -m flows run  " in done.stdout
    assert re.search(r"unrealized -?[\d,.]+ EUR, -?[\d,.]+ GBP, -?[\d,.]+ USD; 2 pos", done.stdout)
    assert "paid in, over the last day:\nexact for 9 of 9 positions\n" in done.stdout


def test_it_imports_and_audits_a_flex_statement(demo: Demo) -> None:
    done = demo.run("--days", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "flows.flex import flows/demo/flex.xml: 8 executions, 1 split, 1 transfer" in done.stdout
    assert done.stdout.count("left out: ACATS IN 25 INTX: expected a row of what goes") == 1
    assert re.search(r"closes +4 +0 *\nclosed lots +1 +0 *\nopen lots +1 +0", done.stdout)
    assert "EUR.USD: not compared: FX rows have no P&L in Flex" in done.stdout


def test_no_figure_is_cut_off_at_80_columns(demo: Demo) -> None:
    assert "…" not in demo.run().stdout


def test_it_fails_if_a_figure_is_not_the_brokers(demo: Demo, tmp_path: Path) -> None:
    for part in ("state", "connectors", "flows"):
        shutil.copytree(ROOT / part, tmp_path / "copy" / part)
    statements = tmp_path / "copy" / "flows" / "demo" / "statements.json"
    statements.write_text(statements.read_text().replace('"-28.74"', '"-28.7401"'))
    done = demo.run("--days", "1", cwd=tmp_path / "copy")
    assert done.returncode == 1
    assert "NOT all 59 closes have the broker's figure" in done.stdout


def test_it_fails_if_what_was_made_is_not_what_holdings_gained(demo: Demo, tmp_path: Path) -> None:
    for part in ("state", "connectors", "flows"):
        shutil.copytree(ROOT / part, tmp_path / "copy" / part)
    valuation = tmp_path / "copy" / "state" / "valuation.py"
    right = "else worth - holding.cost_basis\n"
    assert right in valuation.read_text()
    wrong = right.replace("worth", "worth + worth // 10**19")
    valuation.write_text(valuation.read_text().replace(right, wrong))
    done = demo.run("--days", "2", cwd=tmp_path / "copy")
    assert done.returncode == 1
    assert re.search(r"^NOT so for \d of \d positions$", done.stdout, re.MULTILINE)


def test_what_was_paid_in_is_told_by_the_messages_alone() -> None:
    fill = {"account": "U1", "symbol": "A", "side": "BUY", "fill_qty": "10", "fill_price": "1.1"}
    sold = {**fill, "side": "SELL", "multiplier": "100"}
    messages = [
        {"type": "opening", "account": "U1", "symbol": "A", "qty": "-3", "avg_price": "2"},
        {**fill, "exec_id": "a.01.02", "fill_price": "1.3"},
        {**fill, "exec_id": "a.01.01"},
        {**fill, "exec_id": "a.02.01"},
        {**fill, "exec_id": "a.02.01"},
        {"type": "commission", "account": "U1", "symbol": "A", "exec_id": "a.02.01"},
        {**sold, "symbol": "B", "exec_id": "b.01.01"},
        {**sold, "symbol": "C", "exec_id": "c.01.01"},
        {**sold, "symbol": "C", "exec_id": "c.01.02", "fill_qty": "0"},
    ]
    assert paid_in(messages) == {"U1:A": 18, "U1:B": -1100, "U1:C": 0}


def test_a_balance_holds_to_the_last_digit_or_not() -> None:
    before = {
        "U1:A": {"currency": "USD", "realized_pnl": 1, "unrealized_pnl": 2, "market_value": 8}
    }
    after = {
        "U1:A": {"currency": "USD", "realized_pnl": 4, "unrealized_pnl": 0, "market_value": 3},
        "U1:B": {"currency": "EUR", "realized_pnl": 0, "unrealized_pnl": 5, "market_value": 25},
    }  # fmt: skip
    day = {"account": "U1", "symbol": "A", "side": "SELL", "fill_qty": "1", "fill_price": "6"}
    earlier = {
        **day,
        "side": "BUY",
        "fill_price": "5",
        "exec_id": "a.01.01",
        "timestamp": "86399999",
    }
    later = [
        {**day, "exec_id": "b.01.01", "timestamp": "86400000"},
        {**day, "symbol": "B", "side": "BUY", "fill_qty": "4", "fill_price": "5",
         "exec_id": "c.01.01", "timestamp": "86400001"},
    ]  # fmt: skip
    assert before_last_day([earlier, *later]) == 1
    both = balances(before, after, [earlier], later)
    assert [(each.key, each.currency, int(each.paid), each.holds) for each in both] == [
        ("U1:A", "USD", -6, True), ("U1:B", "EUR", 20, True),
    ]  # fmt: skip
    after["U1:B"]["unrealized_pnl"] = Fraction(5) + Fraction(1, 10**20)
    assert [each.holds for each in balances(before, after, [earlier], later)] == [True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_all_that_it_started(demo: Demo, number: signal.Signals) -> None:
    with demo.start() as running:
        while not any("flows.positions" in command for command in demo.processes()):
            assert running.poll() is None
            time.sleep(0.02)
        assert any("valkey-server" in command for command in demo.processes())
        assert list(demo.directory.iterdir()) != []
        # As a terminal does: to the whole process group.
        os.killpg(running.pid, number)
        assert running.wait(20) == 128 + number


def test_on_a_users_server_it_uses_keys_of_its_own_and_removes_them(
    demo: Demo, redis: redis_py.Redis, redis_url: str
) -> None:
    redis.hset("positions", "AAPL", "theirs")
    redis.xadd("executions", {"symbol": "theirs"})
    before = _content(redis)
    done = demo.run("--days", "1", REDIS_URL=redis_url, STREAM_PARTITIONS="2", OWN_PARTITIONS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the Redis at REDIS_URL" in done.stdout
    assert not any("valkey-server" in command for command in demo.processes())
    assert _content(redis) == before


@pytest.mark.parametrize("key", KEYS)
def test_it_refuses_keys_that_are_there_already(
    demo: Demo, redis: redis_py.Redis, redis_url: str, key: str
) -> None:
    redis.set(key, "theirs")
    done = demo.run(REDIS_URL=redis_url)
    assert done.returncode == 1
    assert done.stderr.startswith("lotstream: expected no key lotstream-demo:*")
    assert key in done.stderr
    assert redis.get(key) == b"theirs"


def test_it_says_so_if_the_users_server_does_not_answer(demo: Demo) -> None:
    done = demo.run(REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    assert done.stderr.startswith("lotstream: REDIS_URL: expected a Redis that answers")
    assert "secret" not in done.stderr + done.stdout


def test_keep_leaves_a_history_that_adds_up(demo: Demo, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = demo.run("--keep", str(kept), "--days", "25")
    assert (done.returncode, done.stderr) == (0, "")
    positions, lots = pl.read_parquet(kept / "positions"), pl.read_parquet(kept / "closed_lots")
    assert positions["account"].n_unique() == 4
    assert set(positions["currency"]) == {"USD", "EUR", "GBP"}
    assert positions["symbol"].n_unique() > 10
    assert set(positions["type"]) == {"execution", "commission", "opening", "split", "transfer"}
    assert _sums(positions, "realized_pnl_change") == _sums(lots, "realized_pnl")
    assert {lot > 0 for lot in lots["realized_pnl"]} == {True, False}
    valued = pl.read_parquet(kept / "valuations").sort("time")
    assert valued["time"].n_unique() >= 25
    assert valued.select("time", "account", "symbol").is_unique().all()
    last = valued.filter(pl.col("time") == pl.col("time").max())
    open_ones = last.filter(pl.col("qty") != 0)
    assert open_ones["unrealized_pnl"].null_count() == 0
    assert _sums(last, "realized_pnl") == _sums(positions, "realized_pnl_change")


def test_keep_refuses_a_directory_that_holds_something(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "theirs.txt").touch()
    done = demo.run("--keep", str(tmp_path / "kept"))
    assert done.returncode == 1
    assert done.stderr.startswith("lotstream: --keep: expected a new or empty directory")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["theirs.txt"]


# --- the sample ---------------------------------------------------------------------------


def test_the_history_is_the_same_each_time() -> None:
    assert history(5) == history(5)
    assert history(5) != history(6)


def test_the_whole_history_is_worth_looking_at() -> None:
    sample = history()
    executions = [message for message in sample.messages if "side" in message]
    days = {_time(message).date() for message in executions}
    assert 5_000 <= sample.counts["execution"] <= 10_000
    assert sample.counts["commission"] == sample.counts["execution"]
    assert min(sample.counts["correction"], sample.counts["bust"], sample.late) > 10
    assert len({message["symbol"] for message in executions}) >= 20
    assert {message["sec_type"] for message in executions} == {"STK", "OPT", "FUT", "CASH"}
    assert len(days) > 100
    assert max(days) == LAST_DAY


def test_all_is_traded_in_its_markets_hours_and_before_it_expires() -> None:
    instruments = {instrument.symbol: instrument for instrument in INSTRUMENTS}
    for message in history().messages:
        if "side" not in message:
            continue
        instrument, when = instruments[message["symbol"]], _time(message)
        there = when.astimezone(instrument.market.zone)
        assert instrument.market.opens <= there.time() < instrument.market.closes, message
        assert there.weekday() < 5, message
        assert instrument.first <= there.date() <= instrument.last, message


# --- the statements -------------------------------------------------------------------------


def test_the_brokers_own_figures_agree_with_themselves() -> None:
    for statement in load_statements():
        assert compare(statement, statement.closes()).agrees


@pytest.mark.parametrize("off", ["0.0001", "-0.0001"])
def test_a_figure_that_is_off_by_a_ten_thousandth_does_not_agree(off: str) -> None:
    assert not _zeta(Decimal(off)).agrees
    assert _zeta(Decimal(off) / 2).agrees


def test_errors_of_two_closes_do_not_make_up_for_each_other() -> None:
    both = _zeta(Decimal(1), Decimal(-1))
    assert both.ours == both.brokers
    assert not both.agrees


def test_a_close_that_is_missing_or_too_many_does_not_agree() -> None:
    [statement] = [one for one in load_statements() if one.symbol == "MESU5"]
    assert not compare(statement, {}).agrees
    assert not compare(statement, {**statement.closes(), "another": Decimal(1)}).agrees


def _zeta(*off: Decimal) -> Comparison:
    """Compare a statement of several closes with figures that are off by so much each."""
    [statement] = [one for one in load_statements() if one.symbol == "ZETA"]
    ours = statement.closes()
    for exec_id, difference in zip(list(ours), off, strict=False):
        ours[exec_id] += difference
    return compare(statement, ours)


# --- helpers -----------------------------------------------------------------------------


def _content(redis: redis_py.Redis) -> dict[bytes, bytes | None]:
    return {key: redis.dump(key) for key in redis.scan_iter()}


def _sums(frame: pl.DataFrame, column: str) -> dict[tuple[str, str], Decimal]:
    sums = frame.group_by("account", "symbol").agg(pl.col(column).sum())
    return {(account, symbol): total for account, symbol, total in sums.rows() if total}


def _time(message: dict[str, str]) -> datetime:
    return datetime.fromtimestamp(int(message["timestamp"]) / 1000, UTC)
