"""The main job as its users run it: entries in; hash, Parquet and dead letters out.

One run takes all kinds of entries, good and bad, and the tests look at what it left.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_py

from connectors.redis.link import send
from state.keys import partition_of
from tests.conftest import OwnServer
from tests.support import naive
from tests.support.flow_process import (
    FlowProcess,
    Outcome,
    add,
    outcome,
    parts,
    read_hash,
    read_stream,
)
from tests.support.servers import RedisServer

_GOOD = """
1-1 symbol AAPL side BUY fill_qty 10 fill_price 150.25 order_id 1 exec_id a1
    timestamp 1784073599000 account DU1 commission 1
1-2 exec_id a2 timestamp 1784073599000 account DU1 symbol AAPL side sell fill_qty 4.0
    fill_price 1.51E2 order_id 2 commission 0.5 remaining what avg_fill_price ever
1-3 symbol AAPL side Sell fill_qty 8 fill_price 149 order_id 3 exec_id a3
    timestamp 1784073600001 account DU1 currency USD con_id 265598 sec_type STK
1-4 symbol ES side BUY fill_qty 2 fill_price -0.25 order_id -7 exec_id b1
    timestamp 31536000000 sec_type FUT multiplier 50 currency USD colour green colour blue
1-5 type commission symbol ES exec_id b1 commission 4.26 currency USD timestamp 31536000005
1-6 type opening symbol MSFT qty -3 avg_price 400 timestamp 1784073600000
1-7 type split symbol MSFT ratio 2:1 timestamp 1784073600500
1-8 symbol BTC side BUY fill_qty 0.0000000001 fill_price 99999.99 order_id 1
    exec_id 0000e0d5.6596b0d2.01.01 timestamp 1784073600000
1-9 symbol BTC side BUY fill_qty 3 fill_price 1 order_id 1
    exec_id 0000e0d5.6596b0d2.01.02 timestamp 1784073600000
1-10 symbol ÄÖ side BUY fill_qty 99999999 fill_price 999999999.9999999999 order_id 1
    exec_id x timestamp 253402300799999 order_ref EMPTY
1-11 type opening symbol GE exec_id bought qty 10 cost_basis 1000 timestamp 1784073500000
1-12 symbol GE side BUY fill_qty 5 fill_price 110 order_id 1 exec_id g1
    timestamp 1784073600000 con_id 7 order_ref mine commission 3 commission_currency EUR
    basis_adjustment 2
1-13 type split symbol GE ratio 1:4 places 0 timestamp 1784073600001
1-14 type cost symbol GE per_unit -0.25 timestamp 1784073600002
1-15 type transfer symbol GE exec_id away qty 1 timestamp 1784073600003
1-16 type transfer symbol GE direction IN exec_id here qty 2 avg_price 300
    opened 1700000000000 timestamp 1784073600004
1-17 type instrument symbol GE con_id 8 timestamp 1784073600005
1-18 symbol GE side SELL fill_qty 1 fill_price 400 order_id 2 exec_id g2
    timestamp 1784073600006 con_id 8 sec_type STK
1-19 type opening symbol T exec_id gone qty 0 timestamp 1784073600000
1-20 type opening symbol T exec_id gone qty 5 avg_price 20 timestamp 1784073600000
"""
GOOD = {
    words[0]: [word.encode() if word != "EMPTY" else b"" for word in words[1:]]
    for words in map(str.split, re.split(r"\n(?=\d)", _GOOD.strip()))
}
"""Fields in turn, by entry id."""

DUPLICATES = ["1-1", "1-3", "1-4", "1-9", "1-11", "1-13", "1-14", "1-15", "1-16"]
"""Delivered again, under new ids."""

_BASE = {
    "symbol": "BAD", "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
    "exec_id": "bad", "timestamp": "1784073600000",
}  # fmt: skip
_OPENING = {"type": "opening", "qty": "1", "avg_price": "1"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"symbol": None}, "symbol"), ({"symbol": ""}, "symbol"), ({"symbol": "x" * 65}, "symbol"),
    ({"symbol": "A:B"}, "symbol"), ({"symbol": b"\xff\xfe"}, "symbol"),
    ({"account": "DU:1"}, "account"), ({"account": b"\xc3\x28"}, "account"),
    ({"side": None}, "side"), ({"side": "BOT"}, "side"), ({"side": "BUY "}, "side"),
    ({"fill_qty": None}, "fill_qty"), ({"fill_qty": "0"}, "fill_qty"),
    ({"fill_qty": "-1"}, "fill_qty"), ({"fill_qty": "NaN"}, "fill_qty"),
    ({"fill_qty": "inf"}, "fill_qty"), ({"fill_qty": "1_000"}, "fill_qty"),
    ({"fill_qty": "1,000"}, "fill_qty"), ({"fill_qty": "1e999999999"}, "fill_qty"),
    ({"fill_qty": "9" * 400}, "fill_qty"), ({"fill_qty": "0.00000000001"}, "fill_qty"),
    ({"fill_qty": "1e9"}, "fill_qty"), ({"fill_qty": "\u0661"}, "fill_qty"),
    ({"fill_qty": " 1"}, "fill_qty"), ({"fill_qty": "0x10"}, "fill_qty"),
    ({"fill_price": None}, "fill_price"), ({"fill_price": "0"}, "fill_price"),
    ({"fill_price": "-1"}, "fill_price"), ({"fill_price": "-1", "sec_type": "STK"}, "fill_price"),
    ({"fill_price": "ten"}, "fill_price"), ({"fill_price": ""}, "fill_price"),
    ({"order_id": None}, "order_id"), ({"order_id": "1.0"}, "order_id"),
    ({"order_id": "9" * 30}, "order_id"), ({"exec_id": None}, "exec_id"),
    ({"exec_id": "x" * 65}, "exec_id"), ({"timestamp": None}, "timestamp"),
    ({"timestamp": "-1"}, "timestamp"), ({"timestamp": "1784073600.5"}, "timestamp"),
    ({"timestamp": "2026-07-15T00:00:00Z"}, "timestamp"),
    ({"timestamp": "1784073600"}, "timestamp"), ({"timestamp": "253402300800000"}, "timestamp"),
    ({"con_id": "x"}, "con_id"),
    ({"multiplier": "0"}, "multiplier"), ({"multiplier": "-5"}, "multiplier"),
    ({"multiplier": "x"}, "multiplier"), ({"commission": "free"}, "commission"),
    ({"type": "dividend"}, "type"), ({"type": "split", "ratio": "2"}, "ratio"),
    ({"type": "split", "ratio": "0:1"}, "ratio"),
    ({"type": "split", "ratio": "2:1", "places": "11"}, "places"),
    ({"type": "opening", "qty": "1"}, "avg_price"), ({"type": "opening", "qty": "many"}, "qty"),
    ({"type": "opening", "qty": "1", "avg_price": "-1"}, "avg_price"),
    ({"type": "opening", "qty": "1", "avg_price": "1", "cost_basis": "1"}, "cost_basis"),
    ({"type": "opening", "qty": "1", "cost_basis": "-1"}, "cost_basis"),
    ({"type": "commission"}, "commission"), ({"type": "cost"}, "per_unit"),
    ({"type": "transfer", "exec_id": None}, "exec_id"), ({"type": "transfer", "qty": "0"}, "qty"),
    ({"type": "transfer", "direction": "UP"}, "direction"),
    ({"type": "transfer", "direction": "IN", "qty": "1", "avg_price": "1"}, "opened"),
    ({"type": "instrument"}, "con_id"), ({"basis_adjustment": "some"}, "basis_adjustment"),
    ({"sec_type": b"\xff"}, "sec_type"), ({"fill_price": "-1", "sec_type": "CASH"}, "fill_price"),
    ({"fill_qty": "999999999", "fill_price": "999999999"}, "cost_basis"),
    ({"symbol": "AAPL", "account": "DU1", "exec_id": "a1"}, "exec_id"),
    ({"symbol": "ES", "sec_type": "FUT", "multiplier": "20"}, "multiplier"),
    ({"symbol": "AAPL", "account": "DU1", "currency": "EUR"}, "currency"),
    ({"symbol": "AAPL", "account": "DU1", "con_id": "5"}, "con_id"),
    ({**_OPENING, "symbol": "MSFT", "exec_id": "more"}, "qty"),
    ({**_OPENING, "symbol": "GE", "exec_id": "bought"}, "exec_id"),
    ({"type": "transfer", "symbol": "GE", "exec_id": "away", "qty": "2"}, "exec_id"),
]  # fmt: skip
"""What is wrong with an entry, and the field that its dead letter must name."""


class Ran(NamedTuple):
    """What the run has left."""

    published: list[tuple[str, list[bytes]]]
    raw_hash: dict[bytes, bytes]
    found: Outcome
    data_dir: Path
    log: str
    exit_code: int


def publish(client: redis_py.Redis) -> None:
    """Publish the good entries, the same again, and between them all the bad ones."""
    for entry, words in GOOD.items():
        send(client, "XADD", "executions", entry, *words)
    for entry in DUPLICATES:
        send(client, "xadd", "executions", f"2-{entry[2:]}", *GOOD[entry])
    for number, (wrong, _) in enumerate(BAD):
        fields = {name: value for name, value in {**_BASE, **wrong}.items() if value is not None}
        add(client, fields, entry=f"3-{number}")
    for sequence, timestamp in enumerate(("1700086400000", "1700086400001")):
        fields = {**_BASE, "exec_id": f"ahead {sequence}", "timestamp": timestamp}
        add(client, fields, entry=f"1700000000000-{sequence}")


@pytest.fixture(scope="module")
def ran(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    directory = tmp_path_factory.mktemp("flow")
    with redis_server.client() as client:
        client.flushall()
        publish(client)
        with FlowProcess(directory, f"{redis_server.url}?protocol=3") as flow:
            flow.until_committed(client)
            exit_code = flow.stop()
        raw: Any = client.hgetall("positions")
        yield Ran(
            read_stream(client, "executions"), raw, outcome(client, flow.data_dir),
            flow.data_dir, flow.log, exit_code,
        )  # fmt: skip


def number(text: str) -> Any:
    """A JSON number, told apart from a text."""
    return ("number", Decimal(text))


def in_full(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value, parse_int=number, parse_float=number)
    return found


# --- the hash -------------------------------------------------------------------------------


def test_a_position_has_the_contracts_members_as_exact_json_numbers(ran: Ran) -> None:
    expected = """{
        "account": "DU1", "symbol": "AAPL", "currency": "USD", "multiplier": 1,
        "sec_type": "STK", "con_id": 265598, "qty": -2, "avg_price": 149, "cost_basis": -298,
        "realized_pnl": -4.5, "commission": 1.5, "other_commissions": null,
        "basis_adjustment": 0, "net_realized_pnl": -6, "open_lots": 1, "executions": 3,
        "last_exec_id": "a3", "last_price": 149, "timestamp": 1784073600001, "stream_id": "1-3"}"""
    assert in_full(ran.raw_hash[b"DU1:AAPL"]) == in_full(expected.encode())


def test_a_position_of_large_and_fine_figures_is_exact(ran: Ran) -> None:
    value = in_full(ran.raw_hash["ÄÖ".encode()])
    assert value["symbol"] == "ÄÖ"
    assert value["cost_basis"] == number("99999998999999999.9900000001")
    assert b"e+" not in ran.raw_hash["ÄÖ".encode()].lower()


def test_a_report_an_opening_and_a_split_show_in_the_hash(ran: Ran) -> None:
    future, split = in_full(ran.raw_hash[b"ES"]), in_full(ran.raw_hash[b"MSFT"])
    assert (future["multiplier"], future["commission"]) == (number("50"), number("4.26"))
    assert (future["cost_basis"], future["stream_id"]) == (number("-25"), "1-5")
    assert (split["qty"], split["avg_price"]) == (number("-6"), number("200"))
    assert (split["account"], split["last_exec_id"], split["timestamp"]) == (None, None, None)


def test_what_lies_open_changes_by_splits_costs_and_transfers(ran: Ran) -> None:
    """10 at 100 and 5 at 110 become 2 at 500 and 2 at 275; one leaves, 2 come, 1 is sold."""
    value = in_full(ran.raw_hash[b"GE"])
    assert (value["qty"], value["cost_basis"]) == (number("4"), number("1350"))
    assert (value["realized_pnl"], value["open_lots"]) == (number("100"), number("3"))
    assert value["other_commissions"] == {"EUR": number("3")}
    assert value["basis_adjustment"] == number("1")
    assert (value["con_id"], value["sec_type"]) == (number("8"), "STK")
    [lot] = [row for row in ran.found.closed_lots if row["symbol"] == "GE"]
    assert (lot["open_exec_id"], lot["close_exec_id"]) == ("here", "g2")


def test_an_opening_that_was_removed_first_holds_nothing(ran: Ran) -> None:
    assert in_full(ran.raw_hash[b"T"])["qty"] == number("0")


def test_a_row_says_what_its_message_says_of_commission(ran: Ran) -> None:
    said = ("order_ref", "message_commission", "message_commission_currency")
    rows = {row["stream_id"]: tuple(row[name] for name in said) for row in ran.found.positions}
    assert rows["1-12"] == ("mine", Decimal(3), "EUR")
    assert rows["1-5"] == (None, Decimal("4.26"), "USD")
    assert rows["1-4"] == (None, None, None)


def test_a_time_more_than_a_day_ahead_of_the_entry_is_refused(ran: Ran) -> None:
    letter = ran.found.dead["1700000000000-1"]
    assert (
        b"timestamp: expected a time not more than a day after"
        in letter[letter.index(b"error") + 1]
    )
    assert "1700000000000-0" in {row["stream_id"] for row in ran.found.positions}


def test_a_duplicate_changes_nothing(ran: Ran) -> None:
    newest = {row["stream_id"] for row in ran.found.hash.values()}
    assert all(entry.startswith(("1-", "17")) for entry in newest)
    assert not [row for row in ran.found.positions if row["stream_id"].startswith("2-")]


def test_everything_is_as_the_book_has_it(ran: Ran) -> None:
    assert ran.found == naive.by_book("executions", ran.published)


def test_a_stop_is_a_success(ran: Ran) -> None:
    assert ran.exit_code == 0
    assert "Traceback" not in ran.log


# --- dead letters ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(BAD)), ids=lambda n: f"{n}-{BAD[n][1]}")
def test_a_bad_entry_becomes_a_dead_letter_that_names_the_field(ran: Ran, number: int) -> None:
    _, names = BAD[number]
    letter = ran.found.dead[f"3-{number}"]
    fields = dict(ran.published)[f"3-{number}"]
    assert letter[: len(fields)] == fields
    added = dict(zip(letter[len(fields) :: 2], letter[len(fields) + 1 :: 2], strict=True))
    assert added.keys() == {b"error", b"source_stream", b"source_id"}
    assert (added[b"source_stream"], added[b"source_id"]) == (b"executions", b"3-%d" % number)
    reason = added[b"error"].decode()
    assert reason.startswith(f"{names}: expected ")
    assert ", found " in reason
    assert len(reason) < 300
    assert f"3-{number} of executions: {names}" in ran.log


def test_only_bad_entries_become_dead_letters(ran: Ran) -> None:
    assert len(ran.found.dead) == len(BAD) + 1


# --- Parquet --------------------------------------------------------------------------------

QUANTITY, MONEY = pa.decimal128(38, 10), pa.decimal128(38, 20)
TIME = pa.timestamp("ms", tz="UTC")
TYPES = {
    "positions": {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "sec_type": pa.string(), "con_id": pa.int64(), "qty": QUANTITY,
        "avg_price": QUANTITY, "cost_basis": MONEY, "realized_pnl": MONEY, "commission": QUANTITY,
        "other_commissions": pa.string(), "basis_adjustment": QUANTITY, "net_realized_pnl": MONEY,
        "open_lots": pa.int64(), "executions": pa.int64(), "last_exec_id": pa.string(),
        "last_price": QUANTITY, "timestamp": TIME, "stream_id": pa.string(), "type": pa.string(),
        "message_timestamp": TIME, "side": pa.string(), "fill_qty": QUANTITY,
        "fill_price": QUANTITY, "exec_id": pa.string(), "order_id": pa.int64(),
        "order_ref": pa.string(), "message_commission": QUANTITY,
        "message_commission_currency": pa.string(), "realized_pnl_change": MONEY,
        "net_realized_pnl_change": MONEY, "message_terms": pa.string(),
    },
    "closed_lots": {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "direction": pa.string(), "qty": QUANTITY,
        "open_exec_id": pa.string(), "open_timestamp": TIME, "open_price": QUANTITY,
        "close_exec_id": pa.string(), "close_timestamp": TIME, "close_price": QUANTITY,
        "realized_pnl": MONEY, "stream_id": pa.string(),
    },
}  # fmt: skip


@pytest.mark.parametrize("data_set", TYPES)
def test_each_file_has_the_contracts_columns_and_is_packed_with_zstd(
    ran: Ran, data_set: str
) -> None:
    files = [pq.ParquetFile(path) for path in parts(ran.data_dir, data_set)]
    assert files
    for file in files:
        assert dict(zip(file.schema_arrow.names, file.schema_arrow.types)) == TYPES[data_set]  # noqa: B905
        group = file.metadata.row_group(0)
        assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}


def test_rows_stand_under_the_utc_date_of_their_execution(ran: Ran) -> None:
    for row in ran.found.positions:
        assert row["date"] == (row["timestamp"] or row["message_timestamp"]).date()
    for row in ran.found.closed_lots:
        assert row["date"] == row["close_timestamp"].date()
    days = {path.parent.name for path in parts(ran.data_dir, "positions")}
    assert days == {
        "date=1971-01-01", "date=2023-11-15", "date=2026-07-14", "date=2026-07-15",
        "date=9999-12-31",
    }  # fmt: skip


def test_closed_lots_add_up_to_what_was_realized(ran: Ran) -> None:
    assert [
        (str(row["qty"].normalize()), row["open_exec_id"], row["close_exec_id"])
        for row in ran.found.closed_lots
        if row["symbol"] == "AAPL"
    ] == [("4", "a1", "a2"), ("6", "a1", "a3")]
    total = sum(row["realized_pnl"] for row in ran.found.closed_lots)
    assert total == sum(row["realized_pnl"] for row in ran.found.hash.values()) == Decimal("95.5")


def test_polars_reads_it_with_no_help(ran: Ran) -> None:
    rows = pl.read_parquet(ran.data_dir / "positions")
    assert rows.height == len(ran.found.positions)
    assert rows.schema["timestamp"] == pl.Datetime("ms", "UTC")
    assert rows.schema["qty"] == pl.Decimal(38, 10)
    assert rows.schema["date"] == pl.Date
    last = rows.filter(pl.col("exec_id") == "a3").row(0, named=True)
    assert last["timestamp"] == datetime(2026, 7, 15, 0, 0, 0, 1000, tzinfo=UTC)
    assert (last["realized_pnl"], last["date"]) == (Decimal("-4.5"), date(2026, 7, 15))


def test_duckdb_reads_it_with_no_help(ran: Ran) -> None:
    query = f"SELECT sum(realized_pnl), min(date) FROM '{ran.data_dir}/closed_lots/*/*.parquet'"  # noqa: S608
    assert duckdb.execute(query).fetchall() == [(Decimal("95.5"), date(2026, 7, 14))]


def test_pandas_reads_it_with_no_help(ran: Ran) -> None:
    rows = pd.read_parquet(ran.data_dir / "closed_lots")
    assert rows["realized_pnl"].sum() == Decimal("95.5")
    assert set(rows["date"].astype(str)) == {"2026-07-14", "2026-07-15"}


# --- other ways to run it --------------------------------------------------------------------


def test_two_workers_on_a_unix_socket_do_the_same(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(unixsocket=str(tmp_path / "redis.sock"))
    url = f"unix://{tmp_path}/redis.sock?db=0"
    with (
        server.client() as client,
        FlowProcess(tmp_path / "flow", url, arguments=("-w", "2")) as flow,
    ):
        publish(client)
        flow.until_committed(client)
        assert flow.stop() == 0
        found = outcome(client, flow.data_dir)
        assert found == naive.by_stream(client)


def test_it_runs_without_a_recovery_directory_and_under_other_names(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    names: Any = {
        "EXECUTIONS_STREAM": "fills", "POSITIONS_HASH": "now", "DEAD_LETTER_STREAM": "rejected",
        "DATA_DIR": str(tmp_path / "deep" / "down"),
    }  # fmt: skip
    send(redis, "XADD", "fills", "5-1", *GOOD["1-1"])
    send(redis, "XADD", "fills", "5-2", "symbol", "AAPL")
    with FlowProcess(tmp_path, redis_url, recovery=False, **names) as flow:
        flow.until_committed(redis, "fills")
        assert flow.stop() == 0
    found = outcome(redis, flow.data_dir, name="now", dead=["rejected"])
    assert found == naive.by_stream(redis, "fills")
    assert found.positions
    assert found.dead
    assert not flow.recovery_dir.exists()


def test_partitions_are_shared_out_by_key_and_a_process_reads_only_its_own(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    accounts = {partition_of(f"{n}:BAD", 3): str(n) for n in range(9)}
    for part, account in accounts.items():
        add(redis, _BASE | {"account": account}, stream=f"executions:{part}")
    settings: Any = {"STREAM_PARTITIONS": "3", "OWN_PARTITIONS": "0,2"}
    with FlowProcess(tmp_path, redis_url, **settings) as flow:
        flow.until_committed(redis, "executions:0", "executions:2")
        assert flow.stop() == 0
    assert read_hash(redis).keys() == {f"{accounts[0]}:BAD", f"{accounts[2]}:BAD"}


def test_the_recovery_directory_may_be_named_by_its_variable_and_is_made(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    directory = tmp_path / "not" / "there yet"
    publish(redis)
    settings = {
        "BYTEWAX_RECOVERY_DIRECTORY": str(directory), "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
    }  # fmt: skip
    with FlowProcess(tmp_path, redis_url, recovery=False, **settings) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
    assert list(directory.glob("part-*.sqlite3"))


# --- what stops it at the start --------------------------------------------------------------

WRONG = {
    "REDIS_URL": "http://localhost", "STREAM_PARTITIONS": "none", "OWN_PARTITIONS": "7",
    "STREAM_RETENTION_HOURS": "-1", "METRICS_PORT": "0", "LOG_LEVEL": "LOUD",
    "ACCEPT_GAP": "yesterday",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_stops_it_with_one_line_that_names_the_variable(
    tmp_path: Path, name: str
) -> None:
    url = WRONG[name] if name == "REDIS_URL" else "redis://localhost:1"
    settings: Any = {} if name == "REDIS_URL" else {name: WRONG[name]}
    with FlowProcess(tmp_path, url, **settings) as flow:
        assert flow.wait() == 1
    [line] = flow.log.splitlines()
    assert line.startswith("lotstream: ")
    assert name in line


def test_retention_without_a_recovery_directory_stops_it(tmp_path: Path) -> None:
    settings: Any = {"STREAM_RETENTION_HOURS": "24"}
    with FlowProcess(tmp_path, "redis://localhost:1", recovery=False, **settings) as flow:
        assert flow.wait() == 1
    [line] = flow.log.splitlines()
    assert "STREAM_RETENTION_HOURS" in line
    assert "-r" in line
