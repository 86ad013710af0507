"""What an import knows: from what the flow has booked, from what it has not, from both."""

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis as redis_py

from connectors.flex.known import KnownEvent
from connectors.flex.records import read_contract
from connectors.redis.instruments import InstrumentHash
from connectors.redis.link import RedisLink
from flows.flex.history import History, Match, remembered
from state.keys import partition_of
from tests.support import notation
from tests.support.flow_process import add, read_stream
from tests.support.rows import write_booked, write_rows

ID = "0000aaaa.0000bbbb.01.01"
SECOND, THIRD = ID[:-1] + "2", ID[:-1] + "3"
KEY = ("U1", "A")


class Stream:
    def __init__(self, redis: redis_py.Redis, url: str, directory: Path) -> None:
        self._redis, self.url, self._directory = redis, url, directory

    def add(self, **change: str) -> None:
        said = {"symbol": "A", "account": "U1", "exec_id": ID, "timestamp": "1000", **change}
        if "type" not in said:
            said = {"side": "BUY", "fill_qty": "5", "fill_price": "10", **said}
        fields: dict[Any, Any] = {name: value for name, value in said.items() if value}
        self._redis.xadd("executions", fields)

    @property
    def history(self) -> History:
        return History(RedisLink(self.url, Event()), ["executions"], self._directory)

    def executions(self, exec_id: str = ID) -> Any:
        return self.history.known({("U1", exec_id)}, set()).executions

    def events(self) -> list[KnownEvent]:
        return list(self.history.known(set(), {KEY}).events[KEY])


@pytest.fixture
def stream(redis: redis_py.Redis, redis_url: str, tmp_path: Path) -> Stream:
    return Stream(redis, redis_url, tmp_path)


def test_the_last_revision_counts_and_takes_over_nothing(stream: Stream) -> None:
    stream.add(exec_id=SECOND, side="sell", fill_qty="4", timestamp="2000")
    stream.add(commission="1", basis_adjustment="7")
    stream.add(account="U2", commission="9")
    known = stream.executions()
    assert set(known) == {("U1", ID), ("U2", ID)}
    found = known["U1", ID]
    assert (found.exec_id, found.qty, found.price, found.time) == (SECOND, -4, 10, 2000)
    assert (found.commission, found.adjustment) == (None, 0)
    stream.add(exec_id=THIRD, fill_qty="0")
    assert stream.executions()["U1", ID].qty == 0
    assert stream.executions("other") == {}


def test_what_the_first_leaves_out_the_same_again_completes(stream: Stream) -> None:
    stream.add()
    stream.add(commission="2", basis_adjustment="8", fill_qty="6")  # refused, as it is another
    stream.add(commission="1", commission_currency="EUR", basis_adjustment="7")
    found = stream.executions()["U1", ID]
    assert (found.qty, found.commission, found.commission_currency) == (5, 1, "EUR")
    assert (found.adjustment, found.commission_time) == (7, 0)


@pytest.mark.parametrize(
    ("reports", "counts"),
    [
        # The highest revision, of these the latest time, of equal ones the last to arrive.
        ([(ID, "3", 3), (ID, "2", 2)], ("3", 3)), ([(ID, "3", 3), (ID, "4", 3)], ("4", 3)),
        ([(SECOND, "3", 3), (ID, "4", 9)], ("3", 3)), ([], ("1", 0)),
    ],
)  # fmt: skip
def test_the_report_that_counts_goes_before_what_the_execution_says(
    stream: Stream, reports: list[tuple[str, str, int]], counts: tuple[str, int]
) -> None:
    stream.add(commission="1")
    for exec_id, commission, time in reports:
        stream.add(type="commission", exec_id=exec_id, commission=commission, timestamp=str(time))
    found = stream.executions()["U1", ID]
    assert (found.commission, found.commission_time) == (Decimal(counts[0]), counts[1])
    assert found.commission_currency == "USD"


def test_a_report_alone_is_no_execution(stream: Stream) -> None:
    stream.add(type="commission", commission="1")
    assert stream.executions() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"fill_qty": "many"}, {"symbol": ""}, {"timestamp": ""}, {"timestamp": "now"},
        {"side": ""}, {"side": "SOLD"}, {"fill_price": "Infinity"}, {"commission": "NaN"},
        {"type": "split"}, {"type": "split", "ratio": "2"}, {"type": "split", "ratio": "2:0"},
        {"type": "split", "ratio": "2:1", "places": "few"}, {"type": "cost"},
        {"type": "cost", "per_unit": "nan"}, {"type": "opening", "qty": "2"},
        {"type": "transfer", "direction": "THERE"}, {"type": "transfer", "qty": "some"},
        {"type": "transfer", "direction": "IN", "qty": "2", "avg_price": "1"},
        {"type": "transfer", "direction": "IN", "qty": "2", "opened": "1"},
    ],
)  # fmt: skip
def test_what_becomes_a_dead_letter_is_not_known(stream: Stream, wrong: dict[str, str]) -> None:
    stream.add(**wrong)
    assert (stream.executions(), stream.events()) == ({}, [])
    assert stream.history.known(set(), set()).others == frozenset()
    stream.add()
    assert (len(stream.executions()), len(stream.events())) == (1, 1)


def test_all_that_changes_the_lots_of_a_key_is_known_in_order(stream: Stream) -> None:
    stream.add(timestamp="50", multiplier="2", commission="1", commission_currency="EUR")
    stream.add(exec_id=SECOND, side="SELL", timestamp="60", multiplier="2", commission="0.5")
    stream.add(timestamp="55", fill_qty="9")  # replaced, though it came later
    stream.add(exec_id="b", fill_qty="0", timestamp="65")
    stream.add(exec_id="", type="opening", qty="-3", avg_price="4", multiplier="2", timestamp="9")
    stream.add(exec_id="o", type="opening", qty="3", cost_basis="7", avg_price="1", timestamp="8")
    stream.add(exec_id="", type="split", ratio="3:2", timestamp="20")
    stream.add(exec_id="s", type="split", ratio="1:10", places="4", timestamp="10")
    stream.add(exec_id="c", type="cost", per_unit="-0.5", timestamp="30")
    stream.add(exec_id="t", type="transfer", timestamp="41")
    stream.add(exec_id="q", type="transfer", qty="2", direction="out", timestamp="42")
    stream.add(exec_id="i", type="transfer", qty="2", direction="in", avg_price="6", opened="1",
               timestamp="43")  # fmt: skip
    stream.add(symbol="B", exec_id="other")
    stream.add(type="instrument", con_id="7", exec_id="")
    stream.add(type="commission", commission="0.25", timestamp="70")
    assert stream.events() == [
        KnownEvent(8, "opening", "o", 3, 7), KnownEvent(9, "opening", "opening", -3, -24),
        KnownEvent(10, "split", "s", Fraction(1, 10), opened=4),
        KnownEvent(20, "split", "20", Fraction(3, 2), opened=10),
        KnownEvent(30, "cost", "c", value=Fraction(-1)),
        KnownEvent(41, "out", "t", 10**17), KnownEvent(42, "out", "q", 2),
        KnownEvent(43, "in", "i", 2, 24, opened=1),
        KnownEvent(60, "execution", ID, -5, -100, Decimal("0.25")),
    ]  # fmt: skip
    others = stream.history.known(set(), set()).others
    assert {("opening", "U1", "opening"), ("split", "U1", "20"), ("transfer", "U1", "i")} <= others
    assert len(others) == 8


def test_what_is_booked_is_known_without_its_entry(
    stream: Stream, redis: redis_py.Redis, tmp_path: Path
) -> None:
    said: list[dict[str, str]] = [
        {"type": "opening", "exec_id": "o", "qty": "3", "cost_basis": "7"},
        {"exec_id": "x", "timestamp": str(10**12), "order_id": "1"},
        {"type": "split", "exec_id": "s", "ratio": "1:10", "places": "4"},
        {"type": "cost", "exec_id": "c", "per_unit": "-0.5"},
        {"type": "transfer", "exec_id": "q", "qty": "0.2"},
        {"type": "transfer", "exec_id": "i", "qty": "2", "direction": "IN", "avg_price": "6",
         "opened": str(10**12)},
        {"type": "transfer", "exec_id": "t"},
    ]  # fmt: skip
    for each in said:
        stream.add(**{"timestamp": str(15 * 10**11), **each})
    told = stream.events()
    write_booked(tmp_path, read_stream(redis, "executions"))
    redis.delete("executions")
    assert stream.events() == told
    assert len(told) == len(said)


def test_money_per_point_is_the_keys_also_where_a_message_leaves_it_out(stream: Stream) -> None:
    stream.add(exec_id="c", type="cost", per_unit="3", timestamp="1")
    stream.add(multiplier="100", timestamp="2")
    stream.add(exec_id=SECOND[:-4] + "2.01", timestamp="3")
    stream.add(exec_id="in", type="transfer", direction="IN", qty="2", avg_price="4", opened="1",
               timestamp="4")  # fmt: skip
    assert [event.value for event in stream.events()] == [300, 5000, 5000, 800]


def test_of_equal_times_the_execution_that_came_first_goes_first(stream: Stream) -> None:
    stream.add(type="commission", exec_id="b", commission="1")
    for exec_id in ("a", "b", "c"):
        stream.add(exec_id=exec_id)
    assert [(event.id, event.charge) for event in stream.events()] == [
        ("a", 0), ("b", 1), ("c", 0),
    ]  # fmt: skip


def test_an_imported_opening_tells_since_when(stream: Stream) -> None:
    stream.add(type="opening", exec_id="flex-open-1234-2", qty="1", cost_basis="1")
    stream.add(type="opening", symbol="B", exec_id="flex-open", qty="1", cost_basis="1")
    assert stream.history.known(set(), set()).opened_since == {KEY: 1234}


def test_a_contract_is_called_as_it_is_remembered_else_as_last_used(stream: Stream) -> None:
    stream.add(con_id="1")
    stream.add(con_id="1", symbol="LATER")
    stream.add(con_id="2", symbol="USED")
    stream.add(con_id="3", symbol="C", type="instrument")
    assert stream.history.names({"2": "KEPT"}) == {"1": "LATER", "2": "KEPT"}


def test_in_which_currency_a_contract_is_is_remembered(
    stream: Stream, redis: redis_py.Redis
) -> None:
    for con_id, record in (("1", {"name": "A", "currency": "CAD"}), ("2", {"name": "B"})):
        redis.hset("instruments", con_id, json.dumps(record))
    link = RedisLink(stream.url, Event())
    names = remembered(InstrumentHash(link, "instruments", "positions"), stream.history)
    paid = [read_contract({"conid": each, "currency": "USD"}) for each in ("1", "2", "3")]
    assert [names.other_currency(contract) for contract in paid] == ["CAD", "", ""]


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_all_pages_are_read_once_and_a_group_without_files_says_nothing(
    stream: Stream, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("connectors.redis.link.PAGE", page)
    for number in range(4):
        stream.add(exec_id=f"x{number}", timestamp=str(number))
    redis.xgroup_create("executions", "positions", "$")
    assert [event.id for event in stream.events()] == ["x0", "x1", "x2", "x3"]
    assert stream.history.behind == 4


# --- booked or not -------------------------------------------------------------------------------


def test_files_with_fewer_or_more_columns_are_read(tmp_path: Path, stream: Stream) -> None:
    for symbol in "AB":
        write_rows(tmp_path, "U1", symbol, ["BUY 1 @ 2"])
    [path] = (tmp_path / "positions").glob("*/A*")
    table = pq.read_table(path, partitioning=None).drop_columns(["order_ref", "message_terms"])
    pq.write_table(table.append_column("newer", [["x"]]), path)
    write_rows(tmp_path, None, "C", ["BUY 1 @ 2"])
    known = stream.history.known(set(), {("U1", "A"), ("U1", "B"), ("", "C")})
    assert [len(events) for events in known.events.values()] == [1, 1, 1]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_matches_that_stand_are_those_of_the_last_revision(
    stream: Stream, tmp_path: Path, sign: int
) -> None:
    buy, sell = ("BUY", "SELL")[::sign]
    write_rows(tmp_path, "U1", "A", [
        f"{buy} 2 @ 2 x10", f"{buy} 5 @ 3 x10", f"{sell} 6 @ 4 x10", f"{sell} 1 @ 5 x10",
        f"#3.2 {sell} 4 @ 4 x10 at 3",
    ])  # fmt: skip
    one, two, three = (notation.exec_id(number) for number in (1, 2, 3))
    known = stream.history
    assert known.matches({("U1", three)}) == [
        Match("U1", "A", three, 3000, one, 1000, Decimal(2 * sign), Decimal(40 * sign),
              Decimal(40)),
        Match("U1", "A", three, 3000, two, 2000, Decimal(2 * sign), Decimal(20 * sign),
              Decimal(40)),
    ]  # fmt: skip
    assert [each.point for each in known.matches({("U1", notation.exec_id(4))})] == [50]
    assert known.matches({("U1", one)}) == []


def test_of_what_is_booked_the_last_name_counts_and_only_the_rest_is_behind(
    stream: Stream, redis: redis_py.Redis, tmp_path: Path
) -> None:
    for symbol, number in (("A", "1"), ("LATER", "1"), ("B", "")):
        _add_later(stream, {"symbol": symbol, "con_id": number, "timestamp": "1"})
    _add_later(stream, {"symbol": "C", "con_id": "2", "timestamp": "1"})
    entries = read_stream(redis, "executions")
    write_booked(tmp_path, entries[:3])
    redis.xgroup_create("executions", "another", "$")
    redis.xgroup_create("executions", "positions", entries[2][0])
    assert stream.history.names({}) == {"1": "LATER", "2": "C"}
    link = RedisLink(stream.url, Event())
    booked = History(link, ["executions"], tmp_path, booked=True)
    assert (booked.names({}), booked.behind) == ({"1": "LATER"}, 1)


def test_the_entry_of_a_row_is_looked_for_in_its_partition(
    stream: Stream, redis: redis_py.Redis, tmp_path: Path
) -> None:
    streams = ["executions:0", "executions:1"]
    link = RedisLink(stream.url, Event())
    for symbol in "AD":  # of partition 0 and 1
        write_rows(tmp_path, "U1", symbol, ["OPENING 1 @ 5"])
        told = {"type": "opening", "symbol": symbol, "account": "U1", "qty": "1",
                "avg_price": "5", "timestamp": "1000"}  # fmt: skip
        partition = partition_of(f"U1:{symbol}", 2)
        add(redis, told, stream=streams[partition], entry="1000-0")
        history = History(link, streams, tmp_path, booked=True)
        [event] = history.known(set(), {("U1", symbol)}).events["U1", symbol]
        assert (event.kind, event.value) == ("opening", 5)


START = 1_700_000_000_000
_TIMES = {"timestamp", "opened"}


def _add_later(stream: Stream, *told: dict[str, str]) -> None:
    """Add entries as the codec takes them; times count from START."""
    for said in told:
        fields = {"order_id": "1", **said}
        fields |= {name: str(START + int(said[name])) for name in _TIMES & said.keys()}
        stream.add(**fields)


@pytest.mark.parametrize(
    "told",
    [
        [{}, {"type": "commission", "commission": "2"}, {"commission": "1", "timestamp": "0"}],
        [*[{"commission": "1", "timestamp": "0"}] * 2, {"exec_id": SECOND, "commission": "3"}],
        [{"commission": "1"}, {"exec_id": SECOND}],
        # In another currency: as it says itself, as a report says, and as a report takes back.
        [{"commission": "1", "commission_currency": "EUR"},
         {"type": "commission", "commission": "2", "currency": "EUR"},
         {"exec_id": "b", "commission": "4"},
         {"type": "commission", "exec_id": "b", "commission": "5", "currency": "EUR"}],
        [{"commission": "1", "commission_currency": "EUR"}, {"type": "commission",
          "commission": "2"}],
        # The key is of another currency than most.
        [{"currency": "EUR", "commission": "1"}, {"type": "commission", "commission": "2"},
         {"exec_id": "b", "commission": "3", "commission_currency": "EUR"},
         {"exec_id": "c", "commission": "4", "commission_currency": "USD"}],
        # The report came first, and has no row.
        [{"type": "commission", "commission": "2"}, {}, {"exec_id": "b"}],
        # Adjustments: completed, said again, taken back by a correction.
        [{}, *[{"basis_adjustment": "7", "timestamp": "0"}] * 2],
        [{"basis_adjustment": "7"}, {"exec_id": SECOND}],
        [{"basis_adjustment": "7"}, {"exec_id": SECOND, "basis_adjustment": "-4"}],
        # The same id in another account, and in another key.
        [{"basis_adjustment": "7", "timestamp": "5"}, {"account": "U2", "basis_adjustment": "3"},
         {"account": "U2", "symbol": "B", "basis_adjustment": "3"}],
        # What is laid on late ones is not theirs.
        [{"timestamp": "4"}, {"type": "cost", "exec_id": "k", "per_unit": "-2", "timestamp": "9"},
         {"exec_id": "b", "timestamp": "2", "basis_adjustment": "3"}, {"exec_id": "c", "side":
          "SELL", "fill_qty": "2", "timestamp": "6"}],
        # What changes lots, and the same again; an opening that is taken back.
        [{}, {"type": "split", "exec_id": "s", "ratio": "2:1"},
         {"type": "split", "exec_id": "s", "ratio": "2:1"},
         {"type": "transfer", "exec_id": "s", "qty": "2"}, {"type": "opening", "qty": "3",
          "exec_id": "", "avg_price": "4"}, {"type": "opening", "exec_id": "", "qty": "0"}],
        [{"type": "opening", "qty": "3", "exec_id": "o", "cost_basis": "4", "multiplier": "10"},
         {"multiplier": "10"}, {"type": "opening", "exec_id": "o", "qty": "0"},
         {"type": "transfer", "exec_id": "i", "qty": "2", "direction": "IN", "avg_price": "5",
          "opened": "1"}],
    ],
)  # fmt: skip
def test_what_is_known_is_the_same_however_much_of_it_is_booked(
    stream: Stream, redis: redis_py.Redis, tmp_path: Path, told: list[dict[str, str]]
) -> None:
    _add_later(stream, *({"timestamp": str(time), **said} for time, said in enumerate(told)))
    entries = read_stream(redis, "executions")
    asked = {("U1", name) for name in (ID, "b", "c")}
    known = []
    # In the end all is booked, but the group was asked before.
    for number, booked in enumerate([*range(len(entries) + 1), len(entries)]):
        directory = tmp_path / str(number)
        write_booked(directory, entries[:booked])
        redis.delete("executions")
        for entry, pairs in entries:
            add(redis, dict(zip(pairs[::2], pairs[1::2], strict=True)), entry=entry)
        last = entries[booked - 1][0] if 0 < booked == number else "0"
        redis.xgroup_create("executions", "positions", last)
        found = History(RedisLink(stream.url, Event()), ["executions"], directory)
        each, unwatched = found.known(asked, {KEY}), found.known(asked, set())
        assert (unwatched.executions, unwatched.others) == (each.executions, each.others)
        # When the report was made that came first, no row tells.
        executions = {
            name: one._replace(commission_time=0) for name, one in each.executions.items()
        }
        known.append(replace(each, executions=executions))
    assert known[0].executions
    for each in known[1:]:
        assert each == known[0]
