"""What is said of a break, and which openings are published, without a TWS."""

from collections.abc import Sequence
from decimal import Decimal
from threading import Event
from typing import Any

import pytest
import redis as redis_py

from connectors.ibkr.messages import Held
from connectors.redis.link import RedisLink
from connectors.redis.publisher import Publisher
from flows.broker.healing import Adopter, Booked, likely
from state.breaks import Difference, Kind

KEY = "U1:AAPL"


def difference(kind: Kind, ours: str, broker: str, detail: str = "") -> Difference:
    return Difference(kind, Decimal(ours), Decimal(broker), detail)


def holding(qty: str = "10", price: str = "10", con_id: str = "1", doubt: str = "") -> Held:
    return Held("U1", "AAPL", qty, price, "STK", con_id, "USD", "", doubt)


ONLY_OURS, ONLY_BROKER, QUANTITY = Kind.ONLY_OURS, Kind.ONLY_BROKER, Kind.QUANTITY


# --- what is said --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "held", "said"),
    [
        (difference(ONLY_BROKER, "0", "10"), [holding(doubt="who knows")], "(who knows)"),
        (difference(Kind.TWO_NAMES, "1", "1", "U1:B"), [holding()],
         "U1:B. If it was renamed: XADD executions * type transfer symbol AAPL account U1 exec_id"),
        (difference(Kind.PRICE_FACTOR, "1", "1", "1/100"), [holding()],
         "about 1/100 times the broker's"),
        (difference(QUANTITY, "10", "40"), [holding("40", "2.5")], "ratio 4:1"),
        # Of several contracts there is no one price that would show a split.
        (difference(QUANTITY, "10", "40"), [holding("20", "2.5"), holding("20", "2.5")],
         "--adopt publishes +30"),
        (difference(QUANTITY, "10", "40"), [holding("40", "")], "--adopt publishes +30"),
        (difference(QUANTITY, "10", "4"), [holding("4")], "--adopt publishes -6"),
        (difference(ONLY_OURS, "-2.50", "0"), [], "-2.50 left the account without an execution"),
        (difference(ONLY_BROKER, "0", "3"), [holding("3")], "--adopt publishes +3"),
    ],
)  # fmt: skip
def test_a_break_is_said_to_be_what_it_most_likely_is(
    found: Difference, held: Sequence[Held], said: str
) -> None:
    assert said in likely(KEY, found, held, Decimal(10), {})


def test_a_message_is_of_the_account_before_the_first_colon() -> None:
    said = likely("U1:US:AAPL", difference(ONLY_OURS, "1", "0"), [], None, {})
    assert "symbol US:AAPL account U1 exec_id" in said


@pytest.mark.parametrize(
    ("key", "others", "is_renumbered"),
    [
        ("U1:AAPL@TSE", {KEY: ONLY_OURS}, True), ("U1:AAPL#7", {KEY: ONLY_OURS}, True),
        ("U1:AAPL@TSE", {KEY: QUANTITY}, False), ("U1:AAPL@TSE", {"U2:AAPL": ONLY_OURS}, False),
        ("U1:AAPL@TSE", {}, False), ("U1:MSFT@TSE", {KEY: ONLY_OURS}, False),
    ],
)  # fmt: skip
def test_what_we_have_under_one_name_and_the_broker_under_the_next_was_renumbered(
    key: str, others: dict[str, Kind], is_renumbered: bool
) -> None:
    breaks = {name: difference(kind, "3", "0") for name, kind in others.items()}
    said = likely(key, difference(ONLY_BROKER, "0", "3"), [holding("3")], None, breaks)
    assert ("under a new contract number" in said) == is_renumbered


def test_a_key_is_told_that_it_is_the_old_name_too() -> None:
    others = {"U1:AAPL@TSE": difference(ONLY_BROKER, "0", "3")}
    said = likely(KEY, difference(ONLY_OURS, "3", "0"), [], None, others)
    assert said.startswith("U1:AAPL under a new contract number")


@pytest.mark.parametrize(
    ("key", "said"), [("U1:BRK B", "symbol 'BRK B' account U1 "), ("BRK", "symbol BRK exec_id ")]
)
def test_a_word_with_a_space_is_quoted_and_no_account_is_no_word(key: str, said: str) -> None:
    assert said in likely(key, difference(ONLY_OURS, "1", "0"), [], None, {})


# --- what is published ---------------------------------------------------------------------


class Desk:
    def __init__(self, redis: redis_py.Redis, url: str) -> None:
        self.redis, self._link = redis, RedisLink(url, Event())

    def add(self, **change: str) -> None:
        fields: dict[Any, Any] = {
            "symbol": "AAPL", "account": "U1", "side": "BUY", "fill_qty": "10",
            "fill_price": "20", "exec_id": "0000e0d5.00000001.01.01", "timestamp": "1", **change,
        }  # fmt: skip
        self.redis.xadd("executions", fields)

    def adopt(
        self, found: Difference, held: Sequence[Held], ours: str | None = "10", waiting: int = 0,
        stream_id: str = "5-0",
    ) -> str:  # fmt: skip
        adopter = Adopter(self._link, Publisher(self._link, ["executions"]), {}, waiting=waiting)
        booked = None if ours is None else Booked(Decimal(ours), None, stream_id)
        return adopter.adopt(KEY, found, booked, held, ["0000e0d5.00000001.01.01"] if ours else [])

    @property
    def openings(self) -> list[tuple[str, str, str]]:
        entries: Any = self.redis.xrange("executions")
        return [
            (fields[b"qty"].decode(), fields[b"avg_price"].decode(), fields[b"exec_id"].decode())
            for _, fields in entries
            if fields.get(b"type") == b"opening"
        ]


@pytest.fixture
def desk(redis: redis_py.Redis, redis_url: str) -> Desk:
    return Desk(redis, redis_url)


def test_the_price_follows_from_the_last_revisions_of_the_keys_own_executions(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.redis.link.PAGE", 1)
    desk.add(exec_id="0000e0d5.00000001.01.02", side="buy", type="execution")
    desk.add(fill_price="99")  # replaced, though it came later
    desk.add(exec_id="0000e0d5.00000001.01.02", fill_price="98")  # known already
    desk.add(exec_id="0000e0d5.00000002.01.01", fill_qty="7")
    desk.add(exec_id="0000e0d5.00000002.01.02", fill_qty="0")  # and busted
    desk.add(exec_id="0000e0d5.00000003.01.01", account="U2")
    desk.add(exec_id="0000e0d5.00000004.01.01", fill_qty="many")  # a dead letter
    desk.add(exec_id="0000e0d5.00000005.01.01", side="HOLD")
    desk.add(exec_id="0000e0d5.00000006.01.01", type="transfer")
    desk.redis.xadd("executions", {"what": "ever"})
    found = difference(QUANTITY, "10", "30")
    assert desk.adopt(found, [holding("30", "15")]) == ""
    assert desk.openings == [("20", "12.5", "adopted-5-0")]
    assert desk.adopt(found, [holding("30", "15")]) == "adopted before, but it is not booked yet"
    assert len(desk.openings) == 1
    # Of another state of the book it is another opening.
    assert desk.adopt(found, [holding("30", "15")], stream_id="6-0") == ""
    assert desk.openings[1:] == [("20", "12.5", "adopted-6-0")]


def test_an_opening_of_which_nothing_would_be_left_has_no_price(desk: Desk) -> None:
    desk.add(exec_id="0000e0d5.00000001.01.01", fill_qty="15")
    desk.add(exec_id="0000e0d5.00000002.01.01", fill_qty="5", side="SELL")
    said = desk.adopt(difference(QUANTITY, "10", "-5"), [holding("-5", "15")])
    assert said.startswith("not adopted, as the price of what was held before")
    assert desk.openings == []


@pytest.mark.parametrize(
    ("found", "held", "ours", "waiting", "why"),
    [
        (difference(Kind.TWO_NAMES, "10", "10"), [holding()], "10", 0, "as one contract has two"),
        (difference(Kind.PRICE_FACTOR, "10", "10"), [holding()], "10", 0, "as no quantity"),
        (difference(QUANTITY, "10", "30"), [holding("30", "", doubt="?")], "10", 0,
         "as what a point is worth"),
        (difference(QUANTITY, "10", "30"), [holding("10"), holding("20")], "10", 0,
         "as several contracts"),
        (difference(QUANTITY, "10", "30"), [holding("30")], "10", 1, "as the flow has 1 entry to"),
        # Not from executions alone: the stream has 10.
        (difference(QUANTITY, "11", "30"), [holding("30")], "11", 0, "as the price"),
        # The opening's average would be below 0.
        (difference(QUANTITY, "10", "30"), [holding("30", "6")], "10", 0, "as the price"),
        # What was sold short before is closed, and its price shows nowhere.
        (difference(QUANTITY, "10", "5"), [holding("5")], "10", 0, "as the price"),
        (difference(ONLY_OURS, "10", "0"), [], "10", 0, "as the price"),
        (difference(ONLY_BROKER, "0", "30"), [holding("30", "")], None, 0, "as the price"),
        # Bought below 0, which no opening says.
        (difference(ONLY_BROKER, "0", "30"), [holding("30", "-37.63")], None, 0, "as the price"),
    ],
)  # fmt: skip
def test_what_is_not_sure_is_not_adopted(
    desk: Desk, found: Difference, held: Sequence[Held], ours: str | None, waiting: int, why: str
) -> None:
    desk.add()
    said = desk.adopt(found, held, ours, waiting)
    assert said.startswith(f"not adopted, {why}")
    assert desk.openings == []
