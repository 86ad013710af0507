"""How a row's texts become a record: signs, names, numbers, what is left out."""

from decimal import Decimal
from pathlib import Path

import pytest

from connectors.flex.records import Action, Cancel, Cash, FlexLot, Trade, plain
from connectors.flex.times import read_time
from tests.support.flex_files import ACCOUNT, NEW_YORK, action, contents, element, flex, trade

WHEN = "20240102;100000"
DAY = 24 * 3600 * 1000


def _trade(directory: Path, /, qty: object = 2, **more: object) -> Trade:
    found = contents(directory, flex([trade("A", qty, 5, WHEN, **more)]))
    assert found.problems == []
    [read] = found.trades.values()
    return read


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.5", "1234.5"), ("1,234,567", "1234567"), ("+2", "2"), (".5", "0.5"), ("5.", "5"),
        ("-1e3", "-1000"), ("2E-2", "0.02"), ("N/A", None), ("", None), ("--", None),
        ("1,23", "?"), ("1,2345", "?"), ("1e999", "?"), ("NaN", "?"), ("1 2", "?"), ("٣", "?"),
        ("0x1", "?"), ("1_0", "?"),
    ],
)  # fmt: skip
def test_a_number_is_one_in_all_forms_that_files_have_and_in_no_other(
    tmp_path: Path, text: str, number: str | None
) -> None:
    found = contents(tmp_path, flex([trade("A", 1, 1, WHEN, fifoPnlRealized=text)]))
    if number == "?":
        assert "fifoPnlRealized: expected a number" in found.problems[0].reason
    else:
        [read] = found.trades.values()
        assert read.pnl == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("said", "charge"),
    [
        ({"ibCommission": "-1", "taxes": "-0.2"}, "1.2"), ({"ibCommission": "-1"}, "1"),
        ({"ibCommission": "0.3"}, "-0.3"), ({"taxes": "-0.2"}, None), ({}, None),
        ({"commission": "-1", "tax": "-0.2"}, "1.2"),
    ],
)  # fmt: skip
def test_a_charge_is_commission_and_taxes_if_there_is_a_commission(
    tmp_path: Path, said: dict[str, str], charge: str | None
) -> None:
    read = _trade(tmp_path, **{"ibCommission": None, "taxes": None, **said})
    assert read.charge == (None if charge is None else Decimal(charge))


@pytest.mark.parametrize(
    ("activity", "confirmation"),
    [
        ("tradePrice", "price"), ("ibCommissionCurrency", "commissionCurrency"),
        ("ibExecID", "execID"), ("ibOrderID", "orderID"), ("notes", "code"),
        ("assetCategory", "assetClass"), ("isin", "securityID"), ("accountId", "clientAccountID"),
    ],
)  # fmt: skip
def test_a_confirmation_says_the_same_by_other_names(
    tmp_path: Path, activity: str, confirmation: str
) -> None:
    value = {"tradePrice": "7.25", "assetCategory": "FUT"}.get(activity, "xyz")
    said = {"tradeID": "1", "transactionID": "2", "ibExecID": "3", "ibOrderID": "4",
            "notes": "5"}  # fmt: skip
    first = _trade(tmp_path, **{**said, activity: value})
    second = _trade(tmp_path, **{**said, activity: None, confirmation: value})
    assert repr(first) == repr(second)
    assert value in repr(first)


def test_a_row_with_a_commission_that_names_no_currency_is_of_the_contracts(
    tmp_path: Path,
) -> None:
    read = _trade(tmp_path, currency="EUR", ibCommissionCurrency=None)
    assert read.charge_currency == "EUR"


@pytest.mark.parametrize(
    ("said", "cancels"),
    [
        ({"buySell": "BUY"}, False), ({"buySell": "buy"}, False), ({"buySell": ""}, False),
        ({"buySell": "SELL (Ca.)"}, True),
        ({"buySell": "SELL", "transactionType": "TradeCancel"}, True),
    ],
)  # fmt: skip
def test_what_cancels_says_so_by_its_side_or_its_type(
    tmp_path: Path, said: dict[str, str], *, cancels: bool
) -> None:
    assert _trade(tmp_path, **said).cancels == cancels


def test_a_row_without_a_quantity_is_no_trade(tmp_path: Path) -> None:
    found = contents(tmp_path, flex([trade("A", 0, 1, WHEN, buySell="")]))
    assert [problem.reason for problem in found.problems] == ["expected a quantity other than 0"]


NAMELESS = {"ibExecID": "", "transactionID": "", "tradeID": "", "transactionType": "TradeCancel"}


@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        # By execution id; revisions and what is paid later have a transaction of their own.
        ({}, {}, 1), ({}, {"transactionID": "9"}, 2), ({}, {"accountId": "U2"}, 2),
        ({}, {"ibExecID": "y"}, 2), ({}, {"transactionType": "BookTrade", "tradeID": "7"}, 1),
        # Without one by the transaction, or by the trade.
        ({"ibExecID": ""}, {"ibExecID": "", "tradeID": "7"}, 1),
        ({"ibExecID": ""}, {"ibExecID": "", "accountId": "U2"}, 2),
        ({"ibExecID": ""}, {"ibExecID": "", "transactionType": "BookTrade"}, 2),
        ({"ibExecID": "", "transactionID": ""}, {"ibExecID": "", "transactionID": ""}, 1),
        ({"ibExecID": "", "transactionID": ""},
         {"ibExecID": "", "transactionID": "", "tradeID": "7"}, 2),
        # A cancellation that names nothing of its own: by all that it says.
        (NAMELESS, NAMELESS, 1), (NAMELESS, {**NAMELESS, "accountId": "U2"}, 2),
        (NAMELESS, {**NAMELESS, "tradeID": "7"}, 1), (NAMELESS, {**NAMELESS, "quantity": 3}, 2),
        (NAMELESS, {**NAMELESS, "tradePrice": 6}, 2), (NAMELESS, {**NAMELESS, "conid": 6}, 2),
        (NAMELESS, {**NAMELESS, "origTradeID": "7"}, 2),
        (NAMELESS, {**NAMELESS, "transactionType": "FracShareCancel"}, 2),
        (NAMELESS, {**NAMELESS, "dateTime": "20240102;100001"}, 2),
    ],
)  # fmt: skip
def test_a_row_is_the_same_in_every_file_by_what_names_it(
    tmp_path: Path, first: dict[str, object], second: dict[str, object], rows: int
) -> None:
    own = {"ibExecID": "x", "transactionID": "8", "tradeID": "6"}
    files = [flex([trade("A", 2, 5, WHEN, **{**own, **more})]) for more in (first, second)]
    assert len(contents(tmp_path, *files).trades) == rows


def test_equal_times_go_by_trade_then_by_transaction_and_what_has_no_number_last(
    tmp_path: Path,
) -> None:
    said = [("9", "1"), ("10", "2"), ("10", "11"), ("", "3"), ("²", "4")]
    read = [_trade(tmp_path, tradeID=one, transactionID=other) for one, other in said[::-1]]
    in_order = sorted(read, key=lambda each: each.order)
    assert [(each.trade_id, each.transaction_id) for each in in_order] == said


def test_without_an_execution_id_the_transaction_names_it_else_the_trade(tmp_path: Path) -> None:
    ids = [_trade(tmp_path, ibExecID="", tradeID="6", transactionID=other).id
           for other in ("8", "")]  # fmt: skip
    assert ids == ["flex-8", "flex-6"]


@pytest.mark.parametrize(
    ("change", "ids", "is_same"),
    [
        ({}, ("7", "6"), True), ({"origTradeID": "0"}, ("6",), False),
        ({"tradeID": ""}, ("7",), False), ({"quantity": 3}, ("7", "6"), False),
        ({"tradePrice": 6}, ("7", "6"), False), ({"accountId": "U2"}, ("7", "6"), False),
        ({"dateTime": "20240102;100001"}, ("7", "6"), False),
    ],
)  # fmt: skip
def test_a_cancellation_names_what_it_cancels_first(
    tmp_path: Path, change: dict[str, object], ids: tuple[str, ...], *, is_same: bool
) -> None:
    said: dict[str, object] = {"tradeID": "6", "origTradeID": "7", "buySell": "BUY (Ca.)"}
    first, second = (Cancel.of(_trade(tmp_path, **{**said, **more})) for more in ({}, change))
    assert (second.trade_ids, first.key == second.key) == (ids, is_same)


@pytest.mark.parametrize(
    ("said", "category", "right", "worth"),
    [
        ({}, "STK", "", "1"), ({"assetCategory": "opt"}, "OPT", "", "1"),
        ({"assetCategory": "FSOPT", "putCall": "call"}, "OPT", "C", "1"),
        ({"assetCategory": "FSFOP", "putCall": "Put"}, "FOP", "P", "1"),
        ({"assetCategory": "OPT", "symbol": "A     240119P00100000"}, "OPT", "P", "1"),
        ({"assetCategory": "OPT", "symbol": "A     240119P00100000", "putCall": "C"}, "OPT", "C",
         "1"),
        ({"symbol": "A     240119P00100000"}, "STK", "", "1"), ({"assetCategory": ""}, "", "", "1"),
        ({"assetCategory": "FUND", "multiplier": ""}, "FUND", "", "1"),
        ({"assetCategory": "BOND", "multiplier": "10"}, "BOND", "", "0.1"),
        ({"assetCategory": "BILL", "multiplier": "1"}, "BILL", "", "0.01"),
    ],
)  # fmt: skip
def test_a_contract_is_read_with_what_a_point_is_worth(
    tmp_path: Path, said: dict[str, object], category: str, right: str, worth: str
) -> None:
    read = _trade(tmp_path, **said).contract
    assert (read.sec_type, read.right, read.multiplier) == (category, right, Decimal(worth))


def test_what_stands_for_nothing_is_none(tmp_path: Path) -> None:
    read = _trade(tmp_path, exchange="--", listingExchange="-", ibOrderID="N/A", accountId="-")
    assert (read.exchange, read.contract.exchange, read.order_id) == ("", "", "")
    assert (read.account, _trade(tmp_path, accountId="").account) == (ACCOUNT, ACCOUNT)
    found = contents(tmp_path, flex([trade("A", 1, 1, WHEN, accountId="-")], account="-"))
    assert [each.account for each in found.trades.values()] == [""]


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ({"dateTime": "20240103", "tradeDate": "20240104"}, "20240103"),
        ({"tradeDate": "20240104", "tradeTime": "100000"}, "20240104;100000"),
        ({"tradeDate": "20240104"}, "20240104;000000"),
    ],
)  # fmt: skip
def test_a_trades_time_stands_in_one_field_or_in_two(
    tmp_path: Path, said: dict[str, str], time: str
) -> None:
    assert _trade(tmp_path, **{"dateTime": None, **said}).time == read_time(time, NEW_YORK)


def test_codes_are_parted_in_both_ways(tmp_path: Path) -> None:
    assert _trade(tmp_path, notes="A; Ex,P;").notes == {"A", "Ex", "P"}


# --- lots ----------------------------------------------------------------------------------------


def _lot(directory: Path, text: str) -> FlexLot:
    found = contents(directory, text)
    assert found.problems == []
    [lot] = [*found.closed_lots, *found.open_lots]
    return lot


@pytest.mark.parametrize(
    ("said", "qty", "cost"),
    [
        # As it was: what was bought to close was short, whatever the signs.
        ({"buySell": "BUY", "quantity": "2"}, 2, 5), ({"buySell": "Buy (Ca.)"}, 2, 5),
        ({"buySell": "SELL"}, -2, -5), ({"buySell": "SELL", "cost": "-5"}, -2, -5),
        ({"buySell": "", "quantity": "2"}, -2, -5), ({"buySell": "", "quantity": "-2"}, 2, 5),
    ],
)  # fmt: skip
def test_a_closed_lot_is_signed_as_the_position_was(
    tmp_path: Path, said: dict[str, str], qty: int, cost: int
) -> None:
    more = {"quantity": "-2", "cost": "5", **said}
    row = trade("A", 2, 1, WHEN, levelOfDetail="CLOSED_LOT", openDateTime="20240101",
                fifoPnlRealized="3", code="ML", **{"notes": None, **more})  # fmt: skip
    lot = _lot(tmp_path, flex([row]))
    assert (lot.qty, lot.cost, lot.pnl) == (Decimal(-qty), Decimal(-cost), Decimal(3))
    assert (lot.is_closed, lot.notes) == (True, frozenset({"ML"}))
    assert lot.opened == read_time("20240101;000000", NEW_YORK)
    assert lot.time == read_time(WHEN, NEW_YORK)


@pytest.mark.parametrize(
    ("said", "qty", "cost"),
    [({}, 2, 5), ({"position": "-2"}, -2, -5), ({"costBasisMoney": "-5"}, 2, 5),
     ({"position": "-2", "costBasisMoney": "0"}, -2, 0), ({"position": None, "quantity": "3"}, 3,
      5)],
)  # fmt: skip
@pytest.mark.parametrize("day", ["20240105", None])
def test_an_open_lot_is_told_of_the_end_of_its_day(
    tmp_path: Path, said: dict[str, str], qty: int, cost: int, day: str | None
) -> None:
    more = {"position": "2", "costBasisMoney": "5", "code": "ML", **said}
    row = element("OpenPosition", symbol="A", levelOfDetail="LOT", openDateTime="20240101",
                  reportDate=day, **more)  # fmt: skip
    lot = _lot(tmp_path, flex(OpenPositions=[row]))
    assert (lot.qty, lot.cost) == (Decimal(qty), Decimal(cost))
    assert (lot.is_closed, lot.notes) == (False, frozenset({"ML"}))
    assert lot.cost.is_signed() == (cost < 0)
    assert lot.opened == read_time("20240101;000000", NEW_YORK)
    assert lot.time == read_time(f"{day or '20241231'};235959", NEW_YORK)


# --- actions and cash ----------------------------------------------------------------------------


def _action(directory: Path, **more: object) -> Action:
    row = action("A", 1, "A(I1) SPLIT", "20240103", **more)
    [read] = contents(directory, flex((), [row])).actions.values()
    return read


def test_an_action_that_names_no_time_was_at_the_end_of_its_day(tmp_path: Path) -> None:
    end = read_time("20240103;235959", NEW_YORK)
    assert _action(tmp_path).time == end
    # It is reported on the day that begins with it.
    begin = read_time("20240104;000000", NEW_YORK)
    assert _action(tmp_path, dateTime=None, reportDate="20240104").time == begin
    assert _action(tmp_path, reportDate="20240104").time == end
    assert _action(tmp_path, dateTime="20240103;202500").time == read_time(
        "20240103;202500", NEW_YORK
    )


def test_an_action_says_what_it_is_in_any_letters(tmp_path: Path) -> None:
    read = _action(tmp_path, type="fs", code="P;ca", levelOfDetail="Summary", actionID="5")
    assert (read.code, read.cancelled, read.summary, read.action_id) == ("FS", True, True, "5")
    other = _action(tmp_path, actionDescription=None, description="B")
    assert (other.text, other.cancelled, other.summary) == ("B", False, False)


def _cash(directory: Path, **more: object) -> Cash:
    row = element("CashTransaction", symbol="A", type="Return of Capital",
                  **{"amount": "5", "dateTime": "20240103", **more})  # fmt: skip
    [read] = contents(directory, flex(CashTransactions=[row])).cash.values()
    return read


def test_cash_that_names_no_time_came_at_the_beginning_of_its_day(tmp_path: Path) -> None:
    begin = read_time("20240103;000000", NEW_YORK)
    for name in ("dateTime", "settleDate", "reportDate"):
        assert _cash(tmp_path, **{"dateTime": None, name: "20240103"}).time == begin
    assert _cash(tmp_path).ex_time is None
    assert _cash(tmp_path, exDate="20240101").ex_time == begin - 2 * DAY


def test_cash_without_a_number_is_known_by_its_time_and_amount(tmp_path: Path) -> None:
    begin = read_time("20240103;000000", NEW_YORK)
    assert _cash(tmp_path).id == f"flex-{begin}-5"
    assert _cash(tmp_path, transactionID="8").id == "flex-8"


@pytest.mark.parametrize(
    ("number", "text"),
    [("1.00000000005", "1"), ("1.00000000015", "1.0000000002"), ("-0.00000000001", "0"),
     ("100", "100"), ("1E+3", "1000"), ("-2.50", "-2.5"),
     ("123456789012345678901234567890.12", "123456789012345678901234567890.12")],
)  # fmt: skip
def test_a_number_goes_to_the_stream_with_ten_places(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text
