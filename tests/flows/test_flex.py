"""`flows.flex` as a user runs it: real files, the real stream, the real flow, its Parquet."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis as redis_py

from tests.support.cases import statements
from tests.support.commands import run_apart
from tests.support.flex_files import (
    ACCOUNT,
    action,
    booked,
    con_id,
    element,
    flex,
    option,
    trade,
)
from tests.support.flex_statements import StatementRows
from tests.support.flow_process import ROOT, FlowProcess, add, read_hash, until

CALL = "XOM   220121C00042500"


class Desk:
    """A user's place: a stream, a flow, and files."""

    def __init__(self, directory: Path, redis: redis_py.Redis, url: str, flow: FlowProcess) -> None:
        self.directory, self.redis, self._url, self.flow = directory, redis, url, flow

    def file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def run(self, *words: str | Path, **settings: str) -> "subprocess.CompletedProcess[str]":
        own = {"REDIS_URL": self._url, "IBKR_TIMEZONE": "UTC",
               "DATA_DIR": str(self.flow.data_dir)}  # fmt: skip
        return run_apart("flex", *words, **(own | settings))

    def start(self, *words: str | Path) -> "subprocess.Popen[bytes]":
        environment = {"PATH": os.environ["PATH"], "REDIS_URL": self._url,
                       "DATA_DIR": str(self.flow.data_dir)}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "flows.flex", *map(str, words)], cwd=ROOT, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def take(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Import, and let the flow book it."""
        done = self.run("import", *words)
        self.flow.until_committed(self.redis, "executions")
        return done

    def audit(self, *words: str | Path) -> Any:
        done = self.run("audit", "--json", *words)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def desk(tmp_path: Path, redis: redis_py.Redis, redis_url: str) -> Iterator[Desk]:
    with ExitStack() as running:
        flow = running.enter_context(FlowProcess(tmp_path / "flow", redis_url))
        yield Desk(tmp_path, redis, redis_url, flow)


# --- a year of statements ------------------------------------------------------------------------


def test_every_close_of_the_published_statements_is_equal(desk: Desk) -> None:
    rows = StatementRows()
    for number, statement in enumerate(statements(), start=100):
        rows.add(number, statement)
    half, years = len(rows.trades) // 2, ("20190101", "20251231")
    files = [
        desk.file("before.xml", flex(OpenPositions=rows.lots, account="-",
                                     days=("20181231", "20181231"))),
        desk.file("a.xml", flex(rows.trades[: half + 50], rows.actions, days=years,
                                CashTransactions=rows.cash)),
        desk.file("b.xml", flex(rows.trades[half:], days=years)),
    ]  # fmt: skip
    done = desk.take("--openings", *files)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-3000:]
    assert not desk.redis.exists("executions:dead")
    found = desk.audit(*files)
    assert found["differences"] == []
    assert found["equal"]["closes"] == rows.closes > 100
    assert found["equal"]["closed lots"] >= 9
    again = desk.run("import", "--openings", *files)
    assert again.returncode == 0
    assert "published 0 of nothing new" in again.stdout


# --- each once -----------------------------------------------------------------------------------

ID, OTHER = "0000aaaa.0000bbbb.01.01", "0000aaaa.0000cccc.01.01"


def _two() -> list[str]:
    return [
        trade("A", 10, 100, "20240102;143000", ibExecID=ID, ibCommission="-1", transactionID="1",
              ibOrderID="7", tradeID="1"),
        trade("A", -10, 101, "20240103;143000", ibCommission="-1", fifoPnlRealized="8",
              transactionID="2", tradeID="2", ibExecID=OTHER),
    ]  # fmt: skip


LIVE = {
    "account": ACCOUNT, "symbol": "A", "side": "BUY", "fill_qty": "10", "fill_price": "100",
    "order_id": "7", "exec_id": ID, "timestamp": "1704205800000", "sec_type": "STK",
    "con_id": str(con_id("A")), "currency": "USD",
}  # fmt: skip


@pytest.mark.parametrize("booked_before", [True, False])
def test_a_live_execution_is_not_taken_again_but_gets_its_commission(
    desk: Desk, booked_before: bool
) -> None:
    add(desk.redis, LIVE)
    if booked_before:
        desk.flow.until_committed(desk.redis, "executions")
    file = desk.file("a.xml", flex(_two()))
    done = desk.take(file)
    assert done.returncode == 0, done.stdout
    assert "1 commission, 1 execution; 1 row known before" in done.stdout
    assert not desk.redis.exists("executions:dead")
    value = read_hash(desk.redis)[f"{ACCOUNT}:A"]
    assert (value["executions"], value["net_realized_pnl"]) == (2, 8)


@pytest.mark.parametrize("trade_first", [True, False])
def test_a_cancellation_in_a_file_of_its_own_keeps_its_trade_out(
    desk: Desk, trade_first: bool
) -> None:
    when = "20240103;100000"
    kept, gone = (trade("A", 4, 10, when, tradeID=number) for number in ("5", "17"))
    cancel = trade("A", -4, 10, when, tradeID="", origTradeID="17", ibExecID="",
                   buySell="BUY (Ca.)", transactionType="TradeCancel",
                   transactionID="")  # fmt: skip
    trades, cancels = desk.file("t.xml", flex([kept, gone])), desk.file("c.xml", flex([cancel]))
    for file in (trades, cancels, trades) if trade_first else (cancels, cancels, trades):
        done = desk.run("import", file)
        told = (done.returncode, "when its file is imported" in done.stdout)
        assert told == ((1, True) if file == cancels else (0, False))
    desk.flow.until_committed(desk.redis)
    value = read_hash(desk.redis)[f"{ACCOUNT}:A"]
    assert (value["qty"], value["executions"]) == (4, 1)
    assert "published 0 of nothing new" in desk.run("import", trades).stdout
    assert not desk.redis.exists("executions:dead")


def test_what_was_booked_long_ago_is_known_from_the_history(desk: Desk) -> None:
    file = desk.file("a.xml", flex(_two()))
    desk.take(file)
    # As after ten days: the server's memory of ids is gone, and the stream was trimmed.
    desk.redis.delete("{executions}:published", "{executions}:published:times")
    desk.redis.xtrim("executions", maxlen=1, approximate=False)
    length = desk.redis.xlen("executions")
    done = desk.run("import", file)
    assert "published 0 of nothing new; 2 rows known before" in done.stdout
    assert desk.redis.xlen("executions") == length


def test_a_dry_run_shows_all_and_changes_nothing(desk: Desk) -> None:
    rows = [*_two(), trade("A", 1, "x", "20240104;143000")]
    done = desk.run("import", "--dry-run", desk.file("a.xml", flex(rows)))
    assert done.returncode == 1
    assert f"exec_id={ID}" in done.stdout
    assert "would publish 2 executions; 0 rows known before; 1 left out" in done.stdout
    assert not desk.redis.exists("executions", "instruments")


def test_a_file_that_is_not_whole_is_not_used(desk: Desk) -> None:
    text = flex(_two())
    files = {
        "cut.xml": text[: len(text) // 2],
        "page.xml": "<html><body>502</body></html>",
        "bomb.xml": '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>' + text,
        "empty.xml": "",
    }
    for name, broken in files.items():
        done = desk.run("import", desk.file("whole.xml", text), desk.file(name, broken))
        assert (done.returncode, done.stdout) == (2, ""), name
        assert name in done.stderr
        assert not desk.redis.exists("executions", "instruments")


def test_two_accounts_and_days_and_json(desk: Desk) -> None:
    rows = [trade("A", 1, 1, f"2024010{day};100000", accountId=f"U{day}") for day in (1, 2, 3)]
    file = desk.file("a.xml", flex([*rows, trade("A", 1, "?", "20240102")]))
    done = desk.run("import", "--json", "--dry-run", "--since", "2024-01-02", "--until",
                    "2024-01-02", "--timezone", "America/New_York", file)  # fmt: skip
    told = json.loads(done.stdout)
    assert [message["account"] for message in told["messages"]] == ["U2"]
    assert told["messages"][0]["timestamp"] == "1704207600000"
    assert told["left_out"][0]["row"]["symbol"] == "A"


def test_an_import_that_was_killed_is_completed_by_the_next(desk: Desk) -> None:
    rows = [
        trade("A", 1, 1 + number % 7, f"20240102;10{number // 60:02d}{number % 60:02d}")
        for number in range(3600)
    ]
    file = desk.file("a.xml", flex(rows))
    killed = desk.start("import", file)
    until(lambda: desk.redis.xlen("executions") or killed.poll() is not None, "a message")
    killed.kill()
    killed.wait()
    assert desk.take(file).returncode == 0
    assert read_hash(desk.redis)[f"{ACCOUNT}:A"]["executions"] == len(rows)
    assert desk.redis.xlen("executions") == len(rows)
    entries: Any = desk.redis.xrange("executions")
    prices = [fields[b"fill_price"] for _, fields in entries]
    assert len(set(prices)) == 7


# --- the audit -----------------------------------------------------------------------------------


def _assignment() -> list[str]:
    return [
        trade("XOM", 100, "37.05792", "20200901;100000", ibCommission="-1"),
        option(CALL, -1, "5.2", "20201204;152925", ibCommission="-0.667292"),
        trade("XOM", -100, "42.5", "20210511;162000", ibCommission="-0.033575",
              transactionID="61", **booked("A", cost="-3706.792", fifoPnlRealized="1062.507133")),
        option(CALL, 1, 0, "20210511;162000", transactionID="62",
               **booked("A", cost="519.332708", fifoPnlRealized="0")),
    ]  # fmt: skip


def test_an_assignment_in_two_partitions_is_equal(
    tmp_path: Path, redis: redis_py.Redis, redis_url: str
) -> None:
    settings = {"STREAM_PARTITIONS": "8"}
    with FlowProcess(tmp_path / "flow", redis_url, STREAM_PARTITIONS="8") as flow:
        desk = Desk(tmp_path, redis, redis_url, flow)
        file = desk.file("a.xml", flex(_assignment()))
        assert desk.run("import", file, **settings).returncode == 0
        flow.until_committed(redis, *(f"executions:{part}" for part in range(8)
                                      if redis.exists(f"executions:{part}")))  # fmt: skip
        done = desk.run("audit", file, **settings)
        assert done.returncode == 0, done.stdout
        assert "2 of 2 closes equal" in done.stdout
        assert desk.run("import", file, **settings).stdout.startswith("published 0 of nothing new")


def test_what_is_not_imported_or_differs_is_a_difference(desk: Desk) -> None:
    rows = _two()
    desk.take(desk.file("a.xml", flex(rows[:1])))
    more = desk.file("b.xml", flex(rows))
    done = desk.run("audit", more)
    assert done.returncode == 1
    assert "0 of 1 closes equal" in done.stdout
    assert "not in the book: import the file" in done.stdout
    desk.take(more)
    assert desk.run("audit", more).returncode == 0
    other = [rows[0], rows[1].replace('fifoPnlRealized="8"', 'fifoPnlRealized="8.0002"')]
    [found] = desk.audit(desk.file("c.xml", flex(other)))["differences"]
    assert (found["ours"], found["broker"], found["difference"]) == ("8", "8.0002", "-0.0002")


def test_charges_are_the_books_not_the_files(desk: Desk) -> None:
    rows = _two()
    desk.take(desk.file("a.xml", flex(rows)))
    desk.redis.xadd("executions", {
        "type": "commission", "symbol": "A", "account": ACCOUNT, "exec_id": ID,
        "commission": "1.5", "timestamp": "1704205800001",
    })  # fmt: skip
    desk.flow.until_committed(desk.redis, "executions")
    [found] = desk.audit(desk.file("a.xml", flex(rows)))["differences"]
    assert (found["ours"], found["broker"]) == ("7.5", "8")


def test_lots_are_compared_one_by_one(desk: Desk) -> None:
    def lot(qty: int, cost: str) -> str:
        return element("OpenPosition", accountId=ACCOUNT, symbol="A", conid=con_id("A"),
                       assetCategory="STK", currency="USD", position=qty, costBasisMoney=cost,
                       openDateTime="20240102;143000", reportDate="20240102",
                       levelOfDetail="LOT")  # fmt: skip

    closed = trade("A", -10, 101, "20240103;143000", levelOfDetail="CLOSED_LOT", cost="1001",
                   openDateTime="20240102;143000", fifoPnlRealized="8", ibExecID="")  # fmt: skip
    file = desk.file("a.xml", flex([*_two(), closed], OpenPositions=[lot(10, "1001")]))
    desk.take(file)
    assert desk.audit(file)["equal"] == {"closes": 1, "closed lots": 1, "open lots": 1}
    wrong = closed.replace('openDateTime="20240102;143000"', 'openDateTime="20240101;143000"')
    worse = desk.file("b.xml", flex([*_two(), wrong], OpenPositions=[lot(10, "1000.5")]))
    found = desk.audit(worse)["differences"]
    assert [each["what"] for each in found] == ["closed lot", "closed lot", "open lot"]


def test_what_explains_itself_is_told_apart(desk: Desk) -> None:
    rows = [
        *_two(),
        trade("B", 10, 1, "20240102;100000"), trade("B", 10, 2, "20240103;100000"),
        trade("B", -10, 3, "20240104;100000", fifoPnlRealized="10", notes="ML;P"),
        trade("EUR.USD", 10, 1, "20240102;100000", assetCategory="CASH", fifoPnlRealized="0"),
        trade("C", -5, 3, "20240104;100000", fifoPnlRealized="10", levelOfDetail="ORDER"),
        trade("D", 10, 1, "20240102;100000", ibCommission="-1"),
        # Its opening commission was lowered by 0.01 in between, which no row says.
        trade("D", -10, 2, "20240103;100000", cost="-10.99", fifoPnlRealized="9.01"),
    ]  # fmt: skip
    file = desk.file("a.xml", flex(rows))
    desk.take(file)
    found = desk.audit(file)
    assert (found["differences"], found["equal"]["closes"]) == ([], 1)
    why = {each["symbol"]: each["why"] for each in found["explained"]}
    assert set(why) == {"B", "C", "D", "EUR.USD"}
    assert "ML" in why["B"]


def test_a_spin_off_with_its_share_is_equal(desk: Desk) -> None:
    text = "NTRP(US1) SPINOFF  1 FOR 5 (SNPX, S, US2)"
    spun = action("SNPX", 22, text, "20201126;202500", type="SO", transactionID="801")
    rows = [
        trade("NTRP", 110, "4.74", "20200904;122344", isin="US1"),
        trade("SNPX", -22, 4, "20201216;202500", fifoPnlRealized="1.1"),
    ]  # fmt: skip
    file = desk.file("a.xml", flex(rows, [spun]))
    missing = desk.take(file)
    assert missing.returncode == 1
    assert "--ratio 801=SHARE" in missing.stdout
    assert desk.run("audit", file).returncode == 1
    assert desk.take("--ratio", "801=1/6", file).returncode == 0
    done = desk.run("audit", file)
    assert done.returncode == 0, done.stdout
    assert "1 of 1 closes equal" in done.stdout
    assert not desk.redis.exists("executions:dead")


def test_rows_of_the_history_name_what_was_imported(desk: Desk) -> None:
    desk.take(desk.file("a.xml", flex(_assignment())))
    rows = pl.read_parquet(desk.flow.data_dir / "positions")
    assert sorted(rows["type"].unique()) == ["execution", "transfer"]
    assert Decimal("-519.332708") in rows["basis_adjustment"].to_list()
    names = {json.loads(value)["name"] for value in desk.redis.hvals("instruments")}
    assert names == {"XOM", CALL}
