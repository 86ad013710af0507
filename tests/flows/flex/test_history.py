"""What an import knows from the stream, before any flow has booked it."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import redis as redis_py

from connectors.flex.known import KnownEvent
from connectors.redis.link import RedisLink
from flows.flex import history
from flows.flex.history import History

ID = "0000aaaa.0000bbbb.01.01"
SECOND, THIRD = ID[:-1] + "2", ID[:-1] + "3"
KEY = ("U1", "A")


class Stream:
    def __init__(self, redis: redis_py.Redis, url: str, directory: Path) -> None:
        self._redis, self._url, self._directory = redis, url, directory

    def add(self, **change: str) -> None:
        said = {"symbol": "A", "account": "U1", "exec_id": ID, "timestamp": "1000", **change}
        if "type" not in said:
            said = {"side": "BUY", "fill_qty": "5", "fill_price": "10", **said}
        fields: dict[Any, Any] = {name: value for name, value in said.items() if value}
        self._redis.xadd("executions", fields)

    @property
    def history(self) -> History:
        return History(RedisLink(self._url, Event()), ["executions"], self._directory)

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
    stream.add(commission="1", commission_currency="EUR", basis_adjustment="7", fill_qty="6")
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


def test_what_becomes_a_dead_letter_is_not_known(stream: Stream) -> None:
    stream.add(fill_qty="many")
    stream.add(symbol="")
    stream.add(timestamp="")
    stream.add(timestamp="now")
    assert stream.executions() == {}
    stream.add()
    assert len(stream.executions()) == 1


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
        KnownEvent(60, "execution", ID, -5, -100, Decimal("0.75")),
    ]  # fmt: skip
    others = stream.history.known(set(), set()).others
    assert {("opening", "U1", "opening"), ("split", "U1", "20"), ("transfer", "U1", "i")} <= others
    assert len(others) == 8


def test_money_per_point_is_the_keys_also_where_a_message_leaves_it_out(stream: Stream) -> None:
    stream.add(exec_id="c", type="cost", per_unit="3", timestamp="1")
    stream.add(multiplier="100", timestamp="2")
    stream.add(exec_id=SECOND[:-4] + "2.01", timestamp="3")
    stream.add(exec_id="in", type="transfer", direction="IN", qty="2", avg_price="4", opened="1",
               timestamp="4")  # fmt: skip
    assert [event.value for event in stream.events()] == [300, 5000, 5000, 800]


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


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_all_pages_are_read_once_and_a_group_without_files_says_nothing(
    stream: Stream, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(history, "PAGE", page)
    for number in range(4):
        stream.add(exec_id=f"x{number}", timestamp=str(number))
    redis.xgroup_create("executions", "positions", "$")
    assert [event.id for event in stream.events()] == ["x0", "x1", "x2", "x3"]
    assert stream.history.behind == 4
