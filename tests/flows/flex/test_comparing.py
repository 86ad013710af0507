"""What an audit compares, and what it finds: rows as the flow writes them, files as Flex does.

What our side did is in the notation of the tests; times are seconds since 1970.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis as redis_py

from connectors.flex.draft import Asked, Draft
from connectors.flex.known import Names
from connectors.redis.link import RedisLink
from flows.flex.comparing import Books, Comparer, Comparison, Finding
from flows.flex.history import History
from tests.support.flex_files import (
    ACCOUNT,
    action,
    booked,
    con_id,
    contents,
    element,
    flex,
    option,
    trade,
)
from tests.support.flow_process import add
from tests.support.notation import exec_id
from tests.support.rows import write_booked, write_rows


class Audit:
    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory

    def book(self, symbol: str, *lines: str, account: str | None = ACCOUNT) -> None:
        write_rows(self._directory, account, symbol, lines)

    def book_entries(self, *told: Mapping[str, str]) -> None:
        entries = []
        for number, said in enumerate(told, start=1):
            fields = {"symbol": "A", "account": ACCOUNT, "order_id": "1", "side": "BUY",
                      "sec_type": "STK", "timestamp": str(number * 10**12), **said}  # fmt: skip
            pairs = [word.encode() for pair in fields.items() for word in pair]
            entries.append((f"{number * 1000}-0", pairs))
        write_booked(self._directory, entries)

    def forget_terms(self) -> None:
        """Leave rows as an earlier version wrote them."""
        for path in (self._directory / "positions").glob("*/*"):
            table = pq.read_table(path, partitioning=None)
            pq.write_table(table.drop_columns(["message_terms"]), path)

    def compare(self, *texts: str) -> Comparison:
        link = RedisLink(self._url, Event())
        history = History(link, ["executions"], self._directory, booked=True)
        draft = Draft(contents(self._directory, *texts), Asked())
        return Comparer(draft, Books(draft, history, Names({}))).compare()


@pytest.fixture
def audit(redis_url: str, tmp_path: Path) -> Audit:
    return Audit(redis_url, tmp_path)


def at(second: int) -> str:
    """Return a time as a file writes it."""
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%d;%H%M%S} UTC"


def row(number: int, qty: object, price: object, pnl: object = None, /, **more: object) -> str:
    """Return the row of the execution that the notation calls by a number."""
    said = {"ibExecID": exec_id(number), "fifoPnlRealized": pnl, "tradeID": number, **more}
    symbol = str(said.pop("symbol", "A"))
    return trade(symbol, qty, price, str(said.pop("dateTime", at(number))), **said)


def lot(qty: object, cost: object, opened: str, day: str = "19700102", **more: object) -> str:
    """Return an open lot."""
    said = {"symbol": "A", "conid": con_id("A"), "assetCategory": "STK", "currency": "USD",
            "levelOfDetail": "LOT", "accountId": ACCOUNT, **more}  # fmt: skip
    return element("OpenPosition", position=qty, costBasisMoney=cost, openDateTime=opened,
                   reportDate=day, **said)  # fmt: skip


def closed(qty: object, cost: object, pnl: object, opened: str, second: int, **more: object) -> str:
    """Return a closed lot."""
    return trade("A", qty, 1, at(second), levelOfDetail="CLOSED_LOT", cost=cost, ibExecID="",
                 openDateTime=opened, fifoPnlRealized=pnl, **more)  # fmt: skip


def counts(found: Comparison) -> tuple[dict[str, int], int, int]:
    return dict(found.equal), len(found.differences), len(found.explained)


CLOSE: dict[str, int] = {"close": 1}
LINES = ["BUY 10 @ 5 fee 1", "SELL 10 @ 7 fee 2"]  # 17 net


# --- closes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pnl", "found"),
    [
        ("17", (CLOSE, 0, 0)), ("17.0001", (CLOSE, 0, 0)), ("16.9999", (CLOSE, 0, 0)),
        ("17.00011", ({}, 1, 0)), ("16.99989", ({}, 1, 0)),
        # Without a figure there is nothing to compare.
        (None, ({}, 0, 1)), ("0", ({}, 1, 0)),
    ],
)  # fmt: skip
def test_a_close_is_equal_to_a_ten_thousandth(
    audit: Audit, pnl: object, found: tuple[dict[str, int], int, int]
) -> None:
    audit.book("A", *LINES)
    assert counts(audit.compare(flex([row(2, -10, 7, pnl)]))) == found


def test_what_closes_nothing_on_either_side_is_not_compared(audit: Audit) -> None:
    audit.book("A", *LINES)
    for pnl in (None, "0"):
        assert counts(audit.compare(flex([row(1, 10, 5, pnl)]))) == ({}, 0, 0)
    # What closes nothing with us, and did with the broker.
    [finding] = audit.compare(flex([row(1, 10, 5, "3", cost="50")])).differences
    assert (finding.ours, finding.brokers) == (Fraction(0), Fraction(3))


def test_a_close_tells_what_to_look_for(audit: Audit) -> None:
    audit.book("A", *LINES)
    assert audit.compare(flex([row(2, -10, 7, 18)])).differences == [
        Finding("close", ACCOUNT, "A", exec_id(2), 2000, Fraction(17), Fraction(18),
                "charge 2 in the book, 0 in the file: import the file"),
    ]  # fmt: skip
    for charge, why in (("-2", "differs"), ("-2.00009", "differs"), (None, "differs"),
                        ("-2.0002", "charge 2 in the book, 2.0002 in the file")):  # fmt: skip
        [finding] = audit.compare(flex([row(2, -10, 7, 18, ibCommission=charge)])).differences
        assert finding.why.startswith(why)


def test_what_is_not_booked_is_a_difference_and_what_was_busted_is_none(audit: Audit) -> None:
    audit.book("A", *LINES)
    cancel = row(3, 10, 7, "5", tradeID="", origTradeID="3", ibExecID="", transactionID="",
                 transactionType="TradeCancel", buySell="SELL (Ca.)")  # fmt: skip
    [finding] = audit.compare(flex([row(3, -10, 7, "5")])).differences
    assert (finding.id, finding.why) == (exec_id(3), "not in the book: import the file")
    assert counts(audit.compare(flex([row(3, -10, 7, "5"), cancel]))) == ({}, 0, 0)


def test_what_the_broker_cancelled_and_the_book_has_is_a_difference(audit: Audit) -> None:
    audit.book("A", *LINES, "OUT 1")
    said = {"ibExecID": "", "transactionID": "", "transactionType": "TradeCancel", "tradeID": ""}
    cancel = row(3, 10, 7, buySell="SELL (Ca.)", origTradeID="2", **said)
    [found] = audit.compare(flex([row(2, -10, 7, 17), cancel])).differences
    assert (found.ours, found.brokers, found.id) == (Fraction(17), None, exec_id(2))
    assert found.why.startswith("the broker cancelled it, the book has it")
    ended = booked("A", tradeID="9", transactionID="", cost="5", fifoPnlRealized="0")
    rows = [trade("A", 1, 0, at(3), **{**ended, "ibExecID": "3"}),
            row(5, -1, 0, buySell="BUY (Ca.)", origTradeID="9", **said)]  # fmt: skip
    [found] = audit.compare(flex(rows)).differences
    assert (found.ours, found.id) == (Fraction(0), "3")


def test_what_was_left_out_with_a_figure_is_told(audit: Audit) -> None:
    audit.book("A", "BUY 10 @ 5")
    text = "A(I1) MERGED(Acquisition) FOR B 1 FOR 1 AND USD 10 ({0}, {0}, I)"
    rows = [
        action("A", -10, text.format("A"), at(9), type="TC", proceeds="100", fifoPnlRealized="200"),
        action("B", 10, text.format("B"), at(9), type="TC"),
    ]
    found = audit.compare(flex([], rows))
    assert counts(found) == ({}, 0, 1)
    [told] = found.explained
    assert (told.symbol, told.ours, told.brokers) == ("A", None, Fraction(200))
    assert told.why.startswith("left out: expected a P&L of no more than")


def test_a_commission_in_another_currency_explains_money_but_no_quantity(audit: Audit) -> None:
    paid = {"commission": "1", "commission_currency": "EUR"}
    audit.book_entries(
        {"fill_qty": "10", "fill_price": "5", "exec_id": exec_id(1), **paid},
        {"side": "SELL", "fill_qty": "4", "fill_price": "7", "exec_id": exec_id(2), **paid},
    )
    euros = {"ibCommission": "-1", "ibCommissionCurrency": "EUR", "dateTime": at(2 * 10**9)}
    closes = [row(2, -4, 7, "6.46", **euros)]
    lots = [lot(6, "30.66", at(10**9), "20330519")]
    found = audit.compare(flex(closes, OpenPositions=lots))
    assert counts(found) == ({}, 0, 2)
    assert all("leaves out commissions in EUR" in each.why for each in found.explained)
    more = [lot(7, "35.66", at(10**9), "20330519")]
    assert counts(audit.compare(flex(closes, OpenPositions=more))) == ({}, 1, 1)


def test_what_was_booked_without_an_account_is_compared_too(audit: Audit) -> None:
    audit.book("A", *LINES, account=None)
    assert counts(audit.compare(flex([row(2, -10, 7, 17)]))) == (CLOSE, 0, 0)
    assert counts(audit.compare(flex([row(2, -10, 7, 16)]))) == ({}, 1, 0)


def test_what_ended_for_money_is_compared_as_a_close(audit: Audit) -> None:
    text = "A(US1) (DELISTED) (A, A, US1)"

    def gone(pnl: str) -> str:
        row = action("A", -10, text, at(3), type="DW", fifoPnlRealized=pnl, transactionID="71")
        return flex([], [row])

    [finding] = audit.compare(gone("-51")).differences
    assert finding.why == "not in the book: import the file"
    audit.book_entries(
        {"exec_id": "a", "fill_qty": "10", "fill_price": "5", "commission": "1"},
        {"exec_id": "flex-71", "side": "SELL", "fill_qty": "10", "fill_price": "0"},
    )
    assert counts(audit.compare(gone("-51"))) == (CLOSE, 0, 0)
    [finding] = audit.compare(gone("-50")).differences
    assert (finding.ours, finding.why) == (Fraction(-51), "differs")


def test_what_a_merger_pays_in_cash_is_compared_as_a_close(audit: Audit) -> None:
    text = "A(US1) CASH and STOCK MERGER B 1 FOR 2 AND USD 4 ({0}, {0}, US1)"
    moved = {"type": "transfer", "timestamp": str(10**12)}
    audit.book_entries(
        {"exec_id": "a", "fill_qty": "10", "fill_price": "5", "commission": "1"},
        {**moved, "exec_id": "flex-71"},
        {**moved, "exec_id": "flex-71-kept-1", "direction": "IN", "qty": "10", "cost_basis": "21",
         "opened": str(10**12)},
        {"exec_id": "flex-71-paid", "side": "SELL", "fill_qty": "10", "fill_price": "4"},
    )  # fmt: skip
    for pnl, equal in (("19", 1), ("20", 0)):
        rows = [action("A", -10, text.format("A"), at(10**9), type="TC", fifoPnlRealized=pnl,
                       proceeds="40", transactionID="71"),
                action("B", 5, text.format("B"), at(10**9), type="TC")]  # fmt: skip
        found = audit.compare(flex([], rows))
        assert (found.equal["close"], len(found.differences)) == (equal, 1 - equal)


@pytest.mark.parametrize(("lines", "equal"), [(["SELL 1 @ 5", "OUT 1"], 1), (["SELL 1 @ 5"], 0)])
def test_an_option_that_left_is_equal_if_its_transfer_is_booked(
    audit: Audit, lines: Sequence[str], equal: int
) -> None:
    call = "XOM   220121C00042500"
    audit.book(call, *lines)
    said = booked("A", cost="500", fifoPnlRealized="0", transactionID="2")
    shares = booked("A", transactionID="3", fifoPnlRealized=None)
    left = option(call, 1, 0, at(2), **{**said, "ibExecID": "2"})
    rows = [left, trade("XOM", -100, "42.5", at(2), **shares)]
    # The shares are not booked, and have no figure.
    assert counts(audit.compare(flex(rows))) == ({"close": 1} if equal else {}, 1 - equal, 1)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"assetCategory": "CASH"}, ({}, 0, 1)), ({"notes": "P;ML"}, ({}, 0, 1)),
        ({"notes": "P"}, ({}, 1, 0)), ({"levelOfDetail": "ORDER"}, ({}, 0, 1)),
        ({"levelOfDetail": "ORDER", "fifoPnlRealized": "0"}, ({}, 0, 0)),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told_apart(
    audit: Audit, more: Mapping[str, Any], found: tuple[dict[str, int], int, int]
) -> None:
    audit.book("A", *LINES)
    assert counts(audit.compare(flex([row(2, -10, 7, 18, **more)]))) == found


@pytest.mark.parametrize(
    ("cost", "pnl", "fee", "explained"),
    [
        # The broker lowered the 1 that the opening cost by 0.4, which its row does not say.
        ("-50.6", "17.4", "-1", True), ("-50.6", "17.40009", "-1", True),
        ("50.6", "17.4", "-1", True),
        ("-50.6", "17.5", "-1", False),  # the file contradicts itself
        ("-48.9", "19.1", "-1", False),  # by more than was charged
        ("-49", "19", "-1", False), ("-50", "18", "-1", True),
        ("-50.6", "17.4", "-0.6", False),  # its row says so: the book is to be put right
        ("-50.6", "17.4", None, False), (None, "17.4", "-1", False),
    ],
)  # fmt: skip
def test_a_commission_that_was_changed_after_its_row_is_explained(
    audit: Audit, cost: object, pnl: str, fee: object, *, explained: bool
) -> None:
    audit.book("A", *LINES)
    rows = [row(1, 10, 5, ibCommission=fee), row(2, -10, 7, pnl, cost=cost, ibCommission="-2")]
    found = audit.compare(flex(rows))
    assert counts(found) == ({}, not explained, explained)


def test_what_was_returned_of_the_capital_is_no_such_commission(audit: Audit) -> None:
    audit.book("A", "BUY 10 @ 5 fee 1", "COST -0.5", "#2 SELL 10 @ 7 fee 2")  # 17 + 5
    rows = [row(1, 10, 5, ibCommission="-1"),
            row(2, -10, 7, "17", cost="-51", ibCommission="-2")]  # fmt: skip
    assert counts(audit.compare(flex(rows))) == ({}, 1, 0)


def test_such_a_commission_of_what_was_sold_short_is_explained_too(audit: Audit) -> None:
    audit.book("A", "SELL 10 @ 7 fee 1", "BUY 5 @ 5 fee 2")  # 10 - 0.5 - 2
    rows = [row(1, -10, 7, ibCommission="-1"),
            row(2, 5, 5, "7.7", cost="34.7", ibCommission="-2")]  # fmt: skip
    assert counts(audit.compare(flex(rows))) == ({}, 0, 1)


def test_of_a_close_that_turns_a_position_over_the_closing_part_bears_its_share(
    audit: Audit,
) -> None:
    audit.book("A", "BUY 5 @ 5 fee 1", "SELL 10 @ 7 fee 2", "BUY 2 @ 6 fee 1")
    rows = [row(2, -10, 7, "8"), row(3, 2, 6, "0.6")]  # 10 - 1 - 1; 2 - 2/5 - 1
    assert counts(audit.compare(flex(rows))) == ({"close": 2}, 0, 0)
    rows = [row(1, 5, 5, ibCommission="-1"), row(2, -10, 7, "8.3", cost="-25.7", ibCommission="-2")]
    assert counts(audit.compare(flex(rows))) == ({}, 0, 1)


# --- lots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lots", "found"),
    [
        ([closed(-10, 51, 17, at(1), 2)], ({"closed lot": 1}, 0, 0)),
        # Rows of one opening are one; a file may name days, or no figure.
        ([closed(-4, 20.4, "6.8", at(1), 2), closed(-6, 30.6, "10.2", at(1), 2)],
         ({"closed lot": 1}, 0, 0)),
        ([closed(-10, 51, 17, "19691231", 2)], ({"closed lot": 1}, 0, 0)),
        ([closed(-10, 51, None, at(1), 2)], ({"closed lot": 1}, 0, 0)),
        ([closed(-10, 51, "17.0001", at(1), 2)], ({"closed lot": 1}, 0, 0)),
        ([closed(-10, 51, "17.0002", at(1), 2)], ({}, 1, 0)),
        ([closed(-9, 51, 17, at(1), 2)], ({}, 1, 0)),
        ([closed(10, 51, 17, at(1), 2)], ({}, 1, 0)),
        ([closed(-10, 51, 17, at(1), 3)], ({}, 1, 0)),  # closed at another time
        ([closed(-10, 51, 17, at(0), 2)], ({}, 2, 0)),  # opened at another time
        ([closed(-9, 51, 17, at(1), 2, notes="P;ML")], ({}, 0, 1)),
        ([closed(-9, 51, 17, at(1), 2, notes="P")], ({}, 1, 0)),
        ([closed(-9, 51, 17, at(1), 2, assetCategory="CASH")], ({}, 0, 0)),
        ([closed(-10, 51, 17, at(1), 2, symbol="B", conid="7")], ({}, 1, 0)),
        ([closed(-10, 51, 17, at(1), 2, accountId="U2")], ({}, 1, 0)),
    ],
)  # fmt: skip
def test_closed_lots_are_compared_by_when_they_were_opened(
    audit: Audit, lots: list[str], found: tuple[dict[str, int], int, int]
) -> None:
    audit.book("A", *LINES)
    equal, differences, explained = counts(audit.compare(flex([row(2, -10, 7, 17), *lots])))
    assert (equal, differences, explained) == ({"close": 1, **found[0]}, *found[1:])


@pytest.mark.parametrize(
    ("lots", "found"),
    [
        ([lot(6, "30.6", at(1)), lot(5, 40, at(3))], ({"open lot": 2}, 0, 0)),
        ([lot(6, "30.6", at(1)), lot(5, "40.0002", at(3))], ({"open lot": 1}, 1, 0)),
        ([lot(6, "30.6", at(1)), lot(4, 40, at(3))], ({"open lot": 1}, 1, 0)),
        ([lot(6, "30.6", at(1))], ({"open lot": 1}, 1, 0)),  # we hold more
        ([lot(11, "70.6", "19691231")], ({"open lot": 1}, 0, 0)),  # days only, in New York
        ([lot(6, "30.6", at(1)), lot(5, 40, at(3)), lot(1, 1, at(1), "19700101")],
         ({"open lot": 2}, 0, 0)),  # of an earlier day
        ([lot(11, 1, at(1), code="ML")], ({}, 0, 2)),
        ([lot(11, 1, at(1), assetCategory="CASH")], ({}, 0, 0)),
    ],
)  # fmt: skip
def test_open_lots_of_the_last_day_are_compared(
    audit: Audit, lots: list[str], found: tuple[dict[str, int], int, int]
) -> None:
    audit.book("A", "BUY 10 @ 5 fee 1", "SELL 4 @ 7 fee 2", "BUY 5 @ 8", "BUY 1 @ 8 at 900000")
    assert counts(audit.compare(flex([], OpenPositions=lots))) == found


def test_what_an_assignment_adds_is_a_charge_of_the_file_too(audit: Audit) -> None:
    audit.book("XOM", "BUY 100 @ 40", "SELL 100 @ 42.5 adj -100")
    ends = option("XOM   220121C00042500", 1, 0, at(2),
                  **booked("A", cost="100", fifoPnlRealized="0"))  # fmt: skip
    shares = row(2, -100, "42.5", "999", symbol="XOM", **{**booked("A"), "ibExecID": exec_id(2)})
    found = audit.compare(flex([shares, ends])).differences
    assert [each.why for each in found if each.symbol == "XOM"] == ["differs"]


def test_lots_are_told_apart_by_the_second(audit: Audit) -> None:
    audit.book("A", "BUY 1 @ 5 at 18000", "BUY 2 @ 5 at 18060.25")  # midnight in New York
    lots = [lot(1, 5, at(18000)), lot(2, 10, at(18060))]
    assert counts(audit.compare(flex(OpenPositions=lots))) == ({"open lot": 2}, 0, 0)


def test_the_lots_of_an_option_that_left_are_closed_lots_without_a_figure(audit: Audit) -> None:
    call = "XOM   220121C00042500"
    audit.book(call, "SELL 1 @ 5", "SELL 2 @ 6", "OUT 2")
    ended = {**booked("A", cost="11", fifoPnlRealized="0"), "ibExecID": "3"}
    shares = {**booked("A", fifoPnlRealized=None), "transactionID": "4"}
    lots = [
        option(call, 1, 0, at(3), levelOfDetail="CLOSED_LOT", openDateTime=at(second), cost=cost,
               ibExecID="", fifoPnlRealized="0")
        for second, cost in ((1, 5), (2, 6))
    ]  # fmt: skip
    rows = [option(call, 2, 0, at(3), **ended), trade("XOM", -200, "42.5", at(3), **shares)]
    found = audit.compare(flex([*rows, *lots]))
    assert counts(found) == ({"close": 1, "closed lot": 2}, 0, 1)
    found = audit.compare(flex([*rows, lots[0], lots[0]]))
    assert [each.what for each in found.differences] == ["closed lot"] * 2


def test_closed_lots_are_compared_also_where_no_execution_is_told(audit: Audit) -> None:
    audit.book("A", *LINES)
    found = audit.compare(flex([closed(-10, 51, 17, at(1), 2)]))
    assert counts(found) == ({"closed lot": 1}, 0, 0)


def test_what_has_a_new_number_is_the_same_key(audit: Audit, redis: redis_py.Redis) -> None:
    audit.book("ACB", "BUY 24 @ 1", "SPLIT 1:12")
    add(redis, {"type": "split", "symbol": "ACB", "account": ACCOUNT, "ratio": "1:12",
                "timestamp": "2000"}, entry="2000-0")  # fmt: skip
    text = "ACB(I1) SPLIT 1 FOR 12 ({}, X, {})"
    splits = [
        action("ACB.OLD", -24, text.format("ACB.OLD", "I1"), at(2), type="RS", conid=con_id("ACB")),
        action("ACB", 2, text.format("ACB", "I2"), at(2), type="RS", conid="77"),
    ]
    opened = lot(2, 24, at(1), symbol="ACB", conid="77")
    rows = [row(1, 24, 1, symbol="ACB", conid=con_id("ACB"))]
    found = audit.compare(flex(rows, splits, OpenPositions=[opened]))
    assert counts(found) == ({"open lot": 1}, 0, 0)


def test_what_we_hold_of_what_was_traded_and_the_file_does_not_is_a_difference(
    audit: Audit,
) -> None:
    audit.book("A", "BUY 10 @ 5")
    audit.book("B", "#5 BUY 10 @ 5")
    rows = [row(1, 10, 5), row(5, 10, 5, symbol="B")]
    found = audit.compare(flex(rows, OpenPositions=[lot(10, 50, at(1))]))
    assert dict(found.equal) == {"open lot": 1}
    assert [(each.symbol, each.ours, each.brokers) for each in found.differences] == [
        ("B", Fraction(50), Fraction(0)),
    ]
    # Also of what is not booked yet.
    gone = action("B", -10, "B(I1) (DELISTED) (B, B, I1)", at(9), type="DW", fifoPnlRealized=None)
    for told in (flex([row(9, 1, 5, symbol="B")], OpenPositions=[lot(10, 50, at(1))]),
                 flex([], [gone], OpenPositions=[lot(10, 50, at(1))])):  # fmt: skip
        assert [each.symbol for each in audit.compare(told).differences] == ["B"]
    fx = [rows[0], row(5, 10, 5, symbol="B", assetCategory="CASH")]
    assert audit.compare(flex(fx, OpenPositions=[lot(10, 50, at(1))])).differences == []
    # Without open positions, and of an account that is not told of, nothing is missing.
    assert counts(audit.compare(flex(rows))) == ({}, 0, 0)
    other = flex(rows, OpenPositions=[lot(10, 50, at(1), accountId="U2")])
    assert [each.account for each in audit.compare(other).differences] == ["U2"]


def test_what_we_hold_where_the_broker_holds_nothing_is_a_difference(audit: Audit) -> None:
    bought = {"fill_qty": "10", "fill_price": "5"}
    audit.book_entries(
        {**bought, "exec_id": exec_id(1)},
        {**bought, "exec_id": exec_id(2), "symbol": "B"},
        {**bought, "exec_id": exec_id(3), "symbol": "E", "sec_type": "CASH"},
        {**bought, "exec_id": exec_id(4), "symbol": "F", "account": "U2", "timestamp": str(10**12)},
    )
    days = ("20330501", "20330531")
    flat = flex([row(1, 10, 5, 0)], OpenPositions=[""], days=days)
    assert [each.symbol for each in audit.compare(flat).differences] == ["A", "B"]
    other = flex(OpenPositions=[lot(10, 50, at(10**9), "20330531")], days=days)
    assert [each.symbol for each in audit.compare(other).differences] == ["B"]
    # What it holds was bought later, or is told without its lots.
    before = flex([row(1, 10, 5, 0)], OpenPositions=[""], days=("20000101", "20000131"))
    assert counts(audit.compare(before)) == ({}, 0, 0)
    sums = [lot(9, 45, "", "20330531", symbol=each, conid="", levelOfDetail="SUMMARY")
            for each in "AB"]  # fmt: skip
    found = audit.compare(flex(OpenPositions=sums, days=days))
    assert [each.symbol for each in found.explained] == ["A", "B"]
    assert "let the query give the level of detail Lot" in found.explained[0].why
    assert counts(found) == ({}, 0, 2)
    over_accounts = flex([row(1, 10, 5, 0), row(4, 10, 5, 0, symbol="F", accountId="U2")],
                         OpenPositions=[each.replace(ACCOUNT, "-") for each in sums],
                         account="-", days=days)  # fmt: skip
    found = audit.compare(over_accounts)
    assert [each.symbol for each in found.explained] == ["A", "B"]
    assert [(each.account, each.symbol) for each in found.differences] == [("U2", "F")]


@pytest.mark.parametrize(
    ("hour", "told", "equal"),
    [("18:00", [], True), ("16:59", [], False), ("18:00", [3], False), ("18:00", [2], True)],
)
def test_what_is_traded_in_the_evening_may_be_the_next_days(
    audit: Audit, hour: str, told: list[int], *, equal: bool
) -> None:
    noon, evening = (
        int(datetime.fromisoformat(f"2024-01-02 {each}-05:00").timestamp())
        for each in ("12:00", hour)
    )
    audit.book("A", f"BUY 4 @ 5 at {noon}", f"BUY 1 @ 6 at {evening}", f"SELL 2 @ 7 at {evening}")
    rows = [row(each, 1, 6, dateTime=at(evening)) for each in told]
    found = audit.compare(flex(rows, OpenPositions=[
        lot(4, 20, at(noon), "20240102"), *[lot(1, 6, at(evening), "20240102")] * (2 in told),
    ]))  # fmt: skip
    assert (not found.differences) == equal


OPENED = ["BUY 2 @ 5 at 190799", "BUY 4 @ 6 at 190800", "OPENING 1 @ 5 at 777600"]
"""Bought at the end of 2 January in New York, and a second later."""


def test_an_opening_is_held_before_all_else_and_what_is_later_is_not_yet(
    audit: Audit, redis: redis_py.Redis
) -> None:
    audit.book("A", *OPENED)
    add(redis, {"type": "opening", "symbol": "A", "account": ACCOUNT, "qty": "1",
                "avg_price": "5", "timestamp": "777600000"}, entry="3000-0")  # fmt: skip
    lots = [lot(1, 5, at(777600)), lot(2, 10, at(190799))]
    assert counts(audit.compare(flex([], OpenPositions=lots))) == ({"open lot": 2}, 0, 0)
    later = [lot(1, 5, at(777600), "19700103"), *lots[:1],
             lot(2, 10, at(190799), "19700103"),
             lot(4, 24, at(190800), "19700103")]  # fmt: skip
    assert counts(audit.compare(flex([], OpenPositions=later))) == ({"open lot": 3}, 0, 0)


def test_a_key_of_which_an_entry_is_gone_is_told_apart(audit: Audit) -> None:
    audit.book("A", *OPENED, "SELL 3 @ 9 at 190801")
    audit.forget_terms()
    lots = [lot(3, 15, at(190799)), closed(-3, 15, 12, at(1), 190801)]
    found = audit.compare(flex([row(4, -3, 9, 12, dateTime=at(190801)), lots[1]],
                               OpenPositions=lots[:1]))  # fmt: skip
    assert counts(found) == ({}, 0, 3)
    assert {each.why for each in found.explained} == {
        "the entry of opening is no longer on the stream"
    }
