"""What an import publishes, and that the book then comes to the broker's own figures.

Figures are those of statements that their owners published, or made up where a test
says so; rows are the tests' own.
"""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from connectors.flex.draft import Asked, Draft, Plan
from connectors.flex.known import Known, KnownEvent, KnownExecution, Names
from connectors.flex.plan import Planner
from connectors.flex.times import read_time
from tests.support.flex_files import (
    ACCOUNT,
    NEW_YORK,
    action,
    booked,
    booked_nets,
    con_id,
    contents,
    element,
    flex,
    option,
    plan,
    trade,
)

CLOSE = Decimal("0.0001")
OPTION_AT_0 = {"tradePrice": "0", "ibExecID": "", "assetCategory": "OPT"}


def _fields(made: Plan, kind: str = "execution") -> list[dict[str, str]]:
    return [
        message.fields
        for message in made.messages
        if message.fields.get("type", "execution") == kind
    ]


def _realizes(made: Plan, exec_id: str, figure: str) -> None:
    assert abs(booked_nets(made)[exec_id] - Decimal(figure)) <= CLOSE


# --- trades ------------------------------------------------------------------------------


def test_a_trade_becomes_an_execution_under_the_brokers_id(tmp_path: Path) -> None:
    row = trade("ZETA", -21, "14.162", "20250711;120835", ibCommission="-0.35", taxes="-0.01",
                ibExecID="0000d5d6.68715b42.01.01", ibOrderID="77", orderReference="mine",
                tradeID="5")  # fmt: skip
    made = plan(tmp_path, flex([row]))
    assert made.problems == []
    [message] = made.messages
    assert message.once_id == f"{ACCOUNT}:0000d5d6.68715b42.01.01"
    assert message.fields == {
        "symbol": "ZETA", "account": ACCOUNT, "side": "SELL", "fill_qty": "21",
        "fill_price": "14.162", "order_id": "77", "exec_id": "0000d5d6.68715b42.01.01",
        "timestamp": "1752250115000", "con_id": str(con_id("ZETA")), "sec_type": "STK",
        "currency": "USD", "exchange": "ISLAND", "order_ref": "mine", "commission": "0.36",
    }  # fmt: skip


def test_without_an_execution_id_the_transaction_names_it(tmp_path: Path) -> None:
    made = plan(tmp_path, flex([trade("A", 1, 1, "20240102", ibExecID="", transactionID="88")]))
    assert [message.fields["exec_id"] for message in made.messages] == ["flex-88"]


def test_a_trade_confirmation_is_the_same_execution(tmp_path: Path) -> None:
    row = trade("A", 5, "10.5", "20240102;100000", ibExecID="0000aaaa.0000bbbb.01.01",
                ibCommission="-1", transactionID="9", tradeID="3")  # fmt: skip
    confirmed = element(
        "TradeConfirm", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="A",
        conid=con_id("A"), tradeID="3", execID="0000aaaa.0000bbbb.01.01", buySell="BUY",
        quantity="5", price="10.5", commission="-1", commissionCurrency="USD", tax="0",
        dateTime="20240102;100000", orderID="4", levelOfDetail="EXECUTION",
    )  # fmt: skip
    alone = plan(tmp_path, flex([confirmed], section="TradeConfirms"))
    both = plan(tmp_path, flex([row]), flex([confirmed], section="TradeConfirms"))
    for made in (alone, both):
        [fields] = _fields(made)
        assert (fields["exec_id"], fields["commission"]) == ("0000aaaa.0000bbbb.01.01", "1")
    corrected = confirmed.replace("01.01", "01.02").replace('commission="-1"', 'commission="-2"')
    both = plan(tmp_path, flex([row]), flex([corrected], section="TradeConfirms"))
    [fields] = _fields(both)
    assert (fields["exec_id"], fields["commission"]) == ("0000aaaa.0000bbbb.01.02", "3")


def test_rows_of_equal_time_go_in_order_of_their_trade_ids(tmp_path: Path) -> None:
    rows = [trade("A", 1, price, "20240102;100000", tradeID=number)
            for price, number in ((3, 30), (1, 9), (2, 11))]  # fmt: skip
    made = plan(tmp_path, flex(rows[:2]), flex(rows[2:]))
    assert [fields["fill_price"] for fields in _fields(made)] == ["1", "2", "3"]


def test_overlapping_files_give_each_row_once(tmp_path: Path) -> None:
    rows = [trade("A", 1, price, f"2024010{price};100000") for price in (1, 2, 3)]
    made = plan(tmp_path, flex(rows[:2]), flex(rows[1:]), flex(rows))
    assert [fields["fill_price"] for fields in _fields(made)] == ["1", "2", "3"]


def test_of_two_charges_the_one_of_the_later_statement_counts(tmp_path: Path) -> None:
    said = {"ibExecID": "0000aaaa.0000bbbb.01.01", "transactionID": "9"}
    old, new = (trade("A", 1, 1, "20240102", ibCommission=charge, **said) for charge in (-1, 0))
    texts = [flex([new], generated="20240301;000000"), flex([old], generated="20240201;000000")]
    for files in (texts, texts[::-1]):
        assert [fields["commission"] for fields in _fields(plan(tmp_path, *files))] == ["0"]


def test_a_charge_that_only_one_of_two_rows_says_counts(tmp_path: Path) -> None:
    said = {"ibExecID": "0000aaaa.0000bbbb.01.01", "transactionID": "9"}
    texts = [
        flex([trade("A", 1, 1, "20240102", ibCommission=charge, **said)], generated=generated)
        for charge, generated in ((-1, "20240201;000000"), (None, "20240301;000000"))
    ]
    for files in (texts, texts[::-1]):
        assert [f["commission"] for f in _fields(plan(tmp_path, *files))] == ["1"]


@pytest.mark.parametrize("change", [{"quantity": "2"}, {"tradePrice": "2"}])
def test_a_row_that_contradicts_another_of_its_ids_is_listed(
    tmp_path: Path, change: dict[str, str]
) -> None:
    said = {"ibExecID": "0000aaaa.0000bbbb.01.01", "transactionID": "9"}
    rows = [trade("A", 1, 1, "20240102", **said), trade("A", 1, 1, "20240102", **said, **change)]
    made = plan(tmp_path, flex(rows[:1]), flex(rows[1:]))
    assert [(f["fill_qty"], f["fill_price"]) for f in _fields(made)] == [("1", "1")]
    assert "as another row with its ids says" in made.problems[0].reason
    said = {"ibExecID": "0000aaaa.0000bbbb.01.01", "transactionID": "10"}
    made = plan(tmp_path, flex([rows[0], trade("A", 1, 1, "20240102", **said, **change)]))
    assert (made.messages, len(made.problems)) == ([], 2)
    assert "rows of one execution id to agree" in made.problems[0].reason


def test_a_commission_in_another_currency_says_so(tmp_path: Path) -> None:
    row = trade("EUR.USD", -11900.31, "1.08", "20240102;100000", assetCategory="CASH",
                ibCommission="-1.92624", ibCommissionCurrency="EUR")  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex([row])))
    assert (fields["symbol"], fields["commission_currency"]) == ("EUR.USD", "EUR")


def test_what_a_row_does_not_say_is_left_out(tmp_path: Path) -> None:
    row = trade("A", 1, 1, "20240102;100000", ibCommission=None, ibCommissionCurrency="EUR",
                ibOrderID="4f-2")  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex([row])))
    assert not {"commission", "commission_currency"} & set(fields)
    assert fields["order_id"] == "0"  # that of the row is no number


def test_a_bond_is_priced_in_per_cent(tmp_path: Path) -> None:
    row = trade("X 6 1/4 03/15/26", 2000, "63.709", "20240102;100000", assetCategory="BOND",
                ibCommission="-2")  # fmt: skip
    call = action("X 6 1/4 03/15/26", -2000, "(US9) FULL CALL FOR USD 0.7 PER BOND (X, X, US9)",
                  "20240601;202500", type="BM", assetCategory="BOND", proceeds="1400",
                  transactionID="31")  # fmt: skip
    made = plan(tmp_path, flex([row], [call]))
    assert [fields["multiplier"] for fields in _fields(made)] == ["0.01", "0.01"]
    _realizes(made, "flex-31", "123.82")


def test_a_return_of_capital_is_told_per_point_of_price(tmp_path: Path) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), multiplier="10", dateTime="20201203;202000", amount="50",
        type="Dividends", description="USD 0.5 PER SHARE (Return of Capital)",
    )  # fmt: skip
    rows = [trade("MAC", 100, 2, "20200102;100000", multiplier="10"),
            trade("MAC", -100, 2, "20210102;100000", multiplier="10", ibExecID="",
                  transactionID="61")]  # fmt: skip
    made = plan(tmp_path, flex(rows, CashTransactions=[paid]))
    assert _fields(made, "cost")[0]["per_unit"] == "-0.05"
    _realizes(made, "flex-61", "50")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"tradePrice": "1O"}, "tradePrice: expected a number"),
        ({"quantity": ""}, "quantity: expected a number, found none"),
        ({"dateTime": "05/06/2024;100000"}, "day and month"),
        ({"dateTime": "20240102;100000 CST"}, "no time zone is known by the name 'CST'"),
        ({"buySell": "SELL"}, "expected quantity to be signed like buySell"),
        ({"assetCategory": "SWAP"}, "assetCategory"),
        ({"levelOfDetail": "GALAXY"}, "levelOfDetail"),
        ({"ibExecID": "", "transactionID": "", "tradeID": ""}, "to know it again by"),
        ({"ibExecID": "", "transactionType": "Magic"}, "transactionType"),
        ({"ibExecID": "", "transactionType": "TradeCorrect"}, "a corrected trade to have an ib"),
        ({"symbol": ""}, "expected symbol and currency"),
        ({"currency": ""}, "expected symbol and currency"),
        ({"assetCategory": "OPT", "multiplier": ""}, "multiplier"),
        ({"assetCategory": "FUT", "multiplier": "5000", "tradeMoney": "100"}, "tradeMoney"),
        ({"assetCategory": "BOND", "tradePrice": "98", "tradeMoney": "1.63"}, "tradeMoney"),
        *[({"transactionType": kind, **OPTION_AT_0}, "Notes/Codes") for kind in ("BookTrade", "")],
        (
            {
                "transactionType": "BookTrade",
                "tradePrice": "0",
                "cost": "5",
                "fifoPnlRealized": "4.98",
            },
            "to realize its cost",
        ),
    ],
)
def test_a_row_that_cannot_be_used_loses_no_other(
    tmp_path: Path, said: dict[str, str], reason: str
) -> None:
    rows = [trade("A", 1, 1, "20240102;100000"), trade("A", 2, 1, "20240103;100000", **said),
            trade("A", 3, 1, "20240104;100000")]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert [fields["fill_qty"] for fields in _fields(made)] == ["1", "3"]
    [problem] = made.problems
    assert reason in problem.reason
    assert {"A", str(con_id("A"))} & {*problem.row.values()}


@pytest.mark.parametrize(
    "said",
    [
        {"transactionType": "Magic"},
        {"transactionType": "TradeCorrect"},
        {"quantity": "2,000"},
        {"transactionType": "BookTrade", "tradePrice": "0", "cost": "5", "fifoPnlRealized": "5.01"},
        {"tradePrice": "0", "cost": "5", "fifoPnlRealized": "4"},
        {"assetCategory": "FUT", "multiplier": "50", "tradeMoney": "-100"},
        {"assetCategory": "BOND", "tradePrice": "98", "tradeMoney": "1.96"},
        {"transactionType": "BookTrade", "notes": "Ep", **OPTION_AT_0},
        {"buySell": ""},
        {"transactionID": "", "tradeID": ""},
        {"ibExecID": "", "transactionID": ""},
    ],
)
def test_a_row_that_can_be_used_is(tmp_path: Path, said: dict[str, str]) -> None:
    made = plan(tmp_path, flex([trade("A", 2, 1, "20240102;100000", **said)]))
    assert (len(made.messages), made.problems) == (1, [])


def test_sums_and_lots_are_no_executions(tmp_path: Path) -> None:
    row = trade("A", 1, 1, "20240102;100000", ibOrderID="4")
    others = [
        trade("A", 1, 1, "20240102;100000", levelOfDetail="ORDER", ibOrderID="4", ibExecID=""),
        trade("A", -1, 1, "20240102;100000", levelOfDetail="CLOSED_LOT", cost="1",
              openDateTime="20240101;100000"),
        element("SymbolSummary", symbol="A", quantity="1", levelOfDetail="SYMBOL_SUMMARY"),
        element("WashSale", symbol="A", quantity="1", levelOfDetail="WASH_SALE"),
    ]  # fmt: skip
    made = plan(tmp_path, flex([row, *others]))
    assert (len(made.messages), made.problems) == (1, [])


def test_an_order_without_its_executions_is_listed(tmp_path: Path) -> None:
    row = trade("A", 1, 1, "20240102;100000", levelOfDetail="ORDER", ibExecID="", ibOrderID="4")
    made = plan(tmp_path, flex([row]))
    assert made.messages == []
    [problem] = made.problems
    assert "level of detail Execution" in problem.reason
    assert plan(tmp_path, flex([row]), asked=Asked(until=1704207600000)).problems == []
    for other, listed in (
        ({"ibOrderID": "4"}, 0), ({}, 0), ({"dateTime": "20240102;100001"}, 1),
        ({"accountId": "U2", "ibOrderID": "4"}, 1),
    ):  # fmt: skip
        more = trade("A", 1, 1, "20240102;100000", **other)
        assert len(plan(tmp_path, flex([row, more])).problems) == listed


def test_days_outside_what_is_asked_for_are_passed_over(tmp_path: Path) -> None:
    rows = [trade("A", day, 1, f"2024010{day};100000") for day in (1, 2, 3)]
    asked = Asked(since=1704171600000, until=1704258000000)  # 2 January in New York
    assert [fields["fill_qty"] for fields in _fields(plan(tmp_path, flex(rows), asked=asked))] == [
        "2"
    ]
    splits = [action("A", 1, "A(I1) SPLIT 2 FOR 1 (A, A, I1)", f"2024010{day};000000", type="FS",
                     transactionID=day) for day in (1, 2, 3)]  # fmt: skip
    refunds = [_refund(dateTime=f"2024010{day}", transactionID=day) for day in (1, 2, 3)]
    made = plan(tmp_path, flex([], splits, CashTransactions=refunds), asked=asked)
    assert [fields["exec_id"] for fields in _fields(made, "split")] == ["flex-2"]
    assert len(made.problems) == 1  # of the one refund


# --- corrected and cancelled -----------------------------------------------------------------


def test_a_correction_costs_what_all_its_rows_come_to(tmp_path: Path) -> None:
    cz, when = "CZR   260821C00030000", "20260701;100000"
    rows = [
        option(cz, 2, "0.73", when, tradeID="17", ibExecID="0001938c.6a59af42.01.01",
               ibCommission="-1.3666"),
        option(cz, -2, "0.73", when, tradeID="", origTradeID="17", ibExecID="",
               transactionType="TradeCancel", buySell="BUY (Ca.)", transactionID=""),
        option(cz, 1, "0.73", when, tradeID="17", ibExecID="0001938c.6a59af42.01.02",
               ibCommission="0.3333"),
    ]  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex(rows)))
    assert (fields["exec_id"][-2:], fields["fill_qty"], fields["commission"]) == (
        "02", "1", "1.0333",
    )  # fmt: skip


def _rebooked(revision: int, qty: object, charge: object) -> list[str]:
    said = {"tradeID": "17", "ibExecID": "0000aaaa.0000bbbb.01.01"}
    more = {**said, "ibExecID": f"0000aaaa.0000bbbb.01.{revision:02d}", "transactionID": "3"}
    return [
        trade("A", 5, "10.5", "20260701;100000", ibCommission="-1", transactionID="1", **said),
        trade("A", -5, "10.5", "20260701;100000", ibCommission="1", transactionID="2", tradeID="",
              origTradeID="17", ibExecID="", transactionType="TradeCancel", buySell="BUY (Ca.)"),
        trade("A", qty, "10.5", "20260701;100000", ibCommission=charge, **more),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("revision", "qty", "charge", "commission"), [(1, 5, -1, "1"), (2, 4, "-0.8", "0.8")]
)
def test_a_trade_that_is_cancelled_and_booked_again_stands_and_costs_what_was_not_given_back(
    tmp_path: Path, revision: int, qty: int, charge: object, commission: str
) -> None:
    rows = _rebooked(revision, qty, charge)
    [fields] = _fields(plan(tmp_path, flex(rows)))
    assert (fields["exec_id"][-2:], fields["fill_qty"]) == (f"{revision:02d}", f"{qty}")
    assert fields["commission"] == commission
    # The file that has the first row came before, and the same file comes again.
    made = plan(tmp_path, flex(rows[1:]), known=_known())
    assert [fields.get("commission") for fields in _fields(made)] == [commission] * (revision - 1)
    known = _known(exec_id=fields["exec_id"], qty=Decimal(qty), commission=Decimal(commission))
    for some in (rows, rows[1:]):
        assert plan(tmp_path, flex(some), known=known).messages == []


def test_a_correction_alone_costs_what_its_own_row_says(tmp_path: Path) -> None:
    rows = _rebooked(2, 4, "-0.8")[1:]
    assert [fields["commission"] for fields in _fields(plan(tmp_path, flex(rows)))] == ["0.8"]
    for unlike in ({"commission": None}, {"commission_currency": "EUR"}):
        [fields] = _fields(plan(tmp_path, flex(rows), known=_known(**unlike)))
        assert "commission" not in fields


def test_a_cancelled_trade_is_busted_by_the_next_revision(tmp_path: Path) -> None:
    first = trade("SSRAP", -100, "16.2", "20150914;100000", tradeID="1389766089",
                  ibExecID="00015070.55f176d9.01.01", ibCommission="-0.28696525")  # fmt: skip
    cancel = trade("SSRAP", 100, "16.2", "20150914;100000", tradeID="", transactionID="",
                   origTradeID="1389766089", ibExecID="", transactionType="TradeCancel",
                   buySell="SELL (Ca.)", ibCommission="0.28696525")  # fmt: skip
    made = plan(tmp_path, flex([cancel, first]))
    assert [(f["exec_id"], f["fill_qty"]) for f in _fields(made)] == [
        ("00015070.55f176d9.01.01", "100"), ("00015070.55f176d9.01.02", "0"),
    ]  # fmt: skip
    assert [f.get("commission") for f in _fields(made)] == ["0.28696525", None]
    execution = KnownExecution("SSRAP", "00015070.55f176d9.01.02", Decimal(0), Decimal("16.2"), 1)
    known = Known({(ACCOUNT, "00015070.55f176d9.01.01"): execution})
    assert plan(tmp_path, flex([cancel, first]), known=known).messages == []


def test_a_cancellation_without_its_trade_is_listed(tmp_path: Path) -> None:
    cancel = trade("A", 100, "16.2", "20150914;100000", tradeID="", origTradeID="5", ibExecID="",
                   transactionType="TradeCancel", buySell="SELL (Ca.)")  # fmt: skip
    made = plan(tmp_path, flex([cancel]))
    assert (made.messages, len(made.problems)) == ([], 1)


@pytest.mark.parametrize(
    ("change", "is_busted"),
    [
        ({}, True),
        ({"quantity": "-1"}, False),
        ({"tradePrice": "0.74"}, False),
        ({"origTradeID": "", "tradeID": "17"}, True),
        ({"accountId": "U2"}, False),
        ({"origTradeID": "16"}, False),
    ],
)
def test_only_what_a_cancellation_names_is_busted(
    tmp_path: Path, change: dict[str, str], is_busted: bool
) -> None:
    when = "20260701;100000"
    first = trade("A", 2, "0.73", when, tradeID="17", ibExecID="0001938c.6a59af42.01.01")
    other = trade("A", 2, "0.73", when, tradeID="17", ibExecID="", transactionID="5")
    said = {"tradeID": "", "origTradeID": "17", "ibExecID": "", "transactionID": "",
            "transactionType": "TradeCancel", "buySell": "BUY (Ca.)", **change}  # fmt: skip
    cancel = trade("A", -2, "0.73", when, **said)
    made = plan(tmp_path, flex([first, cancel]))
    assert [fields["fill_qty"] for fields in _fields(made)] == (["2", "0"] if is_busted else ["2"])
    assert len(made.problems) == (not is_busted)
    made = plan(tmp_path, flex([other, cancel]))  # of an id without a revision
    assert (len(made.messages), len(made.problems)) == (not is_busted, not is_busted)


def test_each_revision_wants_a_cancellation_of_its_own(tmp_path: Path) -> None:
    when = "20260701;100000"
    ids = [f"0001938c.6a59af42.01.{number:02d}" for number in (1, 2)]
    rows = [trade("A", 2, 5, when, ibExecID=ids[0], tradeID="17"),
            trade("A", 3, 5, when, ibExecID=ids[1], tradeID="17")]  # fmt: skip
    cancels = [
        trade("A", qty, 5, when, tradeID="", origTradeID="17", ibExecID="", transactionID="",
              transactionType="TradeCancel", buySell="BUY (Ca.)") for qty in (-2, -3)
    ]  # fmt: skip
    one = plan(tmp_path, flex([*rows, cancels[0]]))
    assert ([f["fill_qty"] for f in _fields(one)], one.problems) == (["3"], [])
    early = plan(tmp_path, flex([rows[1], cancels[0]]))
    assert ([f["fill_qty"] for f in _fields(early)], early.problems) == (["3"], [])
    both = plan(tmp_path, flex([*rows, *cancels]))
    assert [f["fill_qty"] for f in _fields(both)] == ["3", "0"]
    assert _fields(both)[1]["exec_id"] == "0001938c.6a59af42.01.03"
    # The second revision alone: whether the first or the second was cancelled is not clear.
    assert [f["fill_qty"] for f in _fields(plan(tmp_path, flex([rows[1], cancels[1]])))] == ["3"]


def test_a_remembered_cancellation_counts_once_beside_its_own_row(tmp_path: Path) -> None:
    when = "20260701;100000"
    first = trade("A", 2, "0.73", when, tradeID="17", ibExecID="0001938c.6a59af42.01.01")
    again = trade("A", 2, "0.73", when, tradeID="17", ibExecID="0001938c.6a59af42.01.02")
    cancel = trade("A", -2, "0.73", when, tradeID="", origTradeID="17", ibExecID="",
                   transactionType="TradeCancel", buySell="BUY (Ca.)",
                   transactionID="")  # fmt: skip
    remembered = Draft(contents(tmp_path, flex([cancel])), Asked()).unmatched
    assert len(remembered) == 1

    def busted(*rows: str) -> list[bool]:
        draft = Draft(contents(tmp_path, flex(rows)), Asked(), cancelled=remembered)
        assert draft.plan.problems == []
        return [fill.busted for fill in draft.fills]

    assert busted(first) == [True]
    assert busted(trade("B", 2, "0.73", when, tradeID="18")) == [False]  # and nothing is listed
    # It cancels the first revision only, in whatever file it stands.
    assert busted(first, again) == busted(first, cancel, again) == [False]


def test_a_cancelled_cash_in_lieu_is_booked_as_the_opposite_trade(tmp_path: Path) -> None:
    said = {"ibExecID": "", "exchange": "--", "tradeID": ""}
    rows = [
        trade("B", "0.777", "170", "20190301;100000"),
        trade("B", "-0.777", "169.15", "20190325;202500", transactionType="FracShare",
              transactionID="1", **said),
        trade("B", "0.777", "169.15", "20190325;202500", transactionType="FracShareCancel",
              transactionID="2", notes="Ca", buySell="SELL (Ca.)", **said),
        trade("B", "-0.777", "168.37", "20190325;202500", transactionType="FracShare",
              transactionID="3", **said),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert [(f["side"], f["fill_price"]) for f in _fields(made)] == [
        ("BUY", "170"), ("SELL", "169.15"), ("BUY", "169.15"), ("SELL", "168.37"),
    ]  # fmt: skip
    _realizes(made, "flex-3", "-0.60606")


# --- known already -----------------------------------------------------------------------------

ID = "0000aaaa.0000bbbb.01.01"


def _known(**said: object) -> Known:
    facts = {"symbol": "A", "exec_id": ID, "qty": Decimal(5), "price": Decimal("10.5"),
             "time": 1704207600000, "commission": Decimal(1), "commission_currency": "USD",
             **said}  # fmt: skip
    return Known({(ACCOUNT, ID): KnownExecution(**facts)})  # type: ignore[arg-type]


def _row(**said: object) -> str:
    facts = {"ibExecID": ID, "ibCommission": "-1", "dateTime": "20240102;100000", **said}
    qty, price = facts.pop("qty", 5), facts.pop("price", "10.5")
    return trade("A", qty, price, str(facts.pop("dateTime")), **facts)


def test_what_is_known_is_passed_over(tmp_path: Path) -> None:
    made = plan(tmp_path, flex([_row()]), known=_known())
    assert (made.messages, made.problems, made.known) == ([], [], 1)


def test_what_is_known_without_an_account_is_the_same_execution(tmp_path: Path) -> None:
    known = Known({("", ID): next(iter(_known().executions.values()))})
    assert plan(tmp_path, flex([_row()]), known=known).messages == []


@pytest.mark.parametrize("said", [{"qty": -5}, {"qty": 6}, {"price": "10.6"}])
def test_other_figures_under_a_known_id_are_listed(tmp_path: Path, said: dict[str, object]) -> None:
    made = plan(tmp_path, flex([_row(**said)]), known=_known())
    assert (made.messages, len(made.problems)) == ([], 1)


def test_an_execution_that_is_known_under_another_name_keeps_it(tmp_path: Path) -> None:
    made = plan(tmp_path, flex([_row()]), known=_known(symbol="OLD", commission=None))
    assert [message.fields["symbol"] for message in made.messages] == ["OLD"]
    corrected = plan(tmp_path, flex([_row(ibExecID=ID[:-1] + "2")]), known=_known(symbol="OLD"))
    assert [fields["symbol"] for fields in _fields(corrected)] == ["OLD"]


def test_times_that_differ_from_what_is_known_are_told(tmp_path: Path) -> None:
    assert plan(tmp_path, flex([_row()]), known=_known()).notes == []
    [note] = plan(tmp_path, flex([_row()]), known=_known(time=1704189600000)).notes
    assert note.startswith("1 executions are known with another time")


def test_figures_are_compared_as_they_went_to_the_stream(tmp_path: Path) -> None:
    row = _row(qty="5.00000000004", price="10.49999999996")
    assert plan(tmp_path, flex([row]), known=_known()).problems == []


def test_a_known_execution_whose_row_says_no_charge_keeps_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, flex([_row(ibCommission=None)]), known=_known())
    assert (made.messages, made.problems, made.known) == ([], [], 1)


@pytest.mark.parametrize(
    ("known", "instead"),
    [
        ({"commission": None, "commission_currency": ""}, "None "),
        ({"commission": Decimal(2)}, "2 USD"), ({"commission_currency": "EUR"}, "1 EUR"),
        # Of reports of equal time the last to arrive counts.
        ({"commission": Decimal(2), "commission_time": 1704207600000}, "2 USD"),
    ],
)  # fmt: skip
def test_another_commission_goes_as_a_report(
    tmp_path: Path, known: dict[str, object], instead: str
) -> None:
    made = plan(tmp_path, flex([_row()]), known=_known(**known))
    [message] = made.messages
    assert message.once_id != f"commission:{ACCOUNT}:{ID}"  # that one is the router's
    assert message.version == f"1 USD for {instead}"
    assert message.fields == {
        "type": "commission", "symbol": "A", "account": ACCOUNT, "timestamp": "1704207600000",
        "exec_id": ID, "commission": "1", "currency": "USD",
    }  # fmt: skip


def test_a_report_that_is_later_than_the_row_stands(tmp_path: Path) -> None:
    known = _known(commission=Decimal(0), commission_time=1704999999999)
    assert plan(tmp_path, flex([_row()]), known=known).messages == []


def test_a_correction_of_what_is_known_goes_out(tmp_path: Path) -> None:
    made = plan(tmp_path, flex([_row(ibExecID=ID[:-1] + "2", qty=4)]), known=_known())
    assert [fields["exec_id"] for fields in _fields(made)] == [ID[:-1] + "2"]
    old = plan(tmp_path, flex([_row(qty=6)]), known=_known(exec_id=ID[:-1] + "2"))
    assert (old.messages, old.problems, old.known) == ([], [], 1)


def test_a_known_trade_that_is_cancelled_is_busted_behind_what_is_known(tmp_path: Path) -> None:
    cancel = _row(qty=-5, tradeID="", origTradeID="7", ibExecID="", transactionID="",
                  transactionType="TradeCancel", buySell="BUY (Ca.)")  # fmt: skip
    rows = flex([_row(tradeID="7"), cancel])
    made = plan(tmp_path, rows, known=_known(exec_id=ID[:-1] + "3"))
    assert [(f["exec_id"], f["fill_qty"]) for f in _fields(made)] == [(ID[:-1] + "4", "0")]
    done = plan(tmp_path, rows, known=_known(exec_id=ID[:-1] + "4", qty=Decimal(0)))
    assert (done.messages, done.problems, done.known) == ([], [], 1)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_cancelled_trade_whose_id_has_no_revision(tmp_path: Path, *, is_known: bool) -> None:
    first = _row(tradeID="7", ibExecID="", transactionID="9")
    cancel = _row(qty=-5, tradeID="", origTradeID="7", ibExecID="", transactionID="",
                  transactionType="TradeCancel", buySell="BUY (Ca.)")  # fmt: skip
    execution = KnownExecution("A", "flex-9", Decimal(5), Decimal("10.5"), 1704207600000)
    known = Known({(ACCOUNT, "flex-9"): execution} if is_known else {})
    made = plan(tmp_path, flex([first, cancel]), known=known)
    assert (made.messages, len(made.problems), len(made.notes)) == ([], is_known, not is_known)


def test_a_multiplier_that_is_not_the_remembered_one_is_listed(tmp_path: Path) -> None:
    rows = [trade("ESU6", 1, 5000, "20240102;100000", assetCategory="FUT", multiplier=worth)
            for worth in ("50", "5")]  # fmt: skip
    sale = action("ESU6", -1, "ESU6(I1) (DELISTED) (ESU6, E, I1)", "20240103;100000", type="DW",
                  assetCategory="FUT", multiplier="5")  # fmt: skip
    made = plan(tmp_path, flex(rows, [sale]), multipliers={str(con_id("ESU6")): Decimal(50)})
    assert [fields["multiplier"] for fields in _fields(made)] == ["50"]
    assert [problem.reason[:23] for problem in made.problems] == ["multiplier: expected 50"] * 2


# --- how options end ----------------------------------------------------------------------------


@pytest.mark.parametrize("join", ["facts", "action"])
@pytest.mark.parametrize("underlying", ["con_id", "symbol", "neither"])
def test_an_assignments_premium_moves_to_the_shares(
    tmp_path: Path, join: str, underlying: str
) -> None:
    call = "XOM   220121C00042500"
    said: dict[str, object] = {
        "underlyingConid": con_id("XOM") if underlying == "con_id" else None,
        "underlyingSymbol": "XOM" if underlying == "symbol" else None,
    }
    ids = {"positionActionID": "900"} if join == "action" else {}
    rows = [
        trade("XOM", 100, "37.05792", "20200901;100000", ibCommission="-1"),
        option(call, -1, "5.2", "20201204;152925", ibCommission="-0.667292"),
        trade("XOM", -100, "42.5", "20210511;162000", ibCommission="-0.033575",
              transactionID="61", **booked("A", cost="-3706.792", **ids)),
        option(call, 1, 0, "20210511;162000", transactionID="62",
               **booked("A", cost="519.332708", fifoPnlRealized="0", **ids, **said)),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert made.problems == []
    assert _fields(made, "transfer") == [{
        "type": "transfer", "symbol": call, "account": ACCOUNT, "timestamp": "1620764400000",
        "exec_id": "flex-62", "direction": "OUT", "qty": "1",
    }]  # fmt: skip
    assert _fields(made)[-1]["basis_adjustment"] == "-519.332708"
    _realizes(made, "flex-61", "1062.507133")
    _realizes(made, "flex-62", "0")


@pytest.mark.parametrize("code", ["Ex", "AEx", "MEx", "GEA"])
def test_an_exercise_costs_what_was_paid_for_the_option(tmp_path: Path, code: str) -> None:
    call = "OPEN  250919C00003000"
    rows = [
        option(call, 4, "1.53", "20250801;100000", ibCommission="-3.078814"),
        trade("OPEN", 400, 3, "20250919;162000", transactionID="61", **booked(f"{code};O")),
        option(call, -4, 0, "20250919;162000",
               **booked(f"{code};C", cost="-615.078814", fifoPnlRealized="0")),
        trade("OPEN", -400, 5, "20250922;100000", ibExecID="", transactionID="63"),
    ]  # fmt: skip
    _realizes(plan(tmp_path, flex(rows)), "flex-63", "184.921186")


def test_a_premium_is_shared_by_several_share_rows(tmp_path: Path) -> None:
    call = "XOM   220121C00042500"
    rows = [
        option(call, 3, 0, "20210511;162000", **booked("A", cost="100", fifoPnlRealized="0")),
        trade("XOM", -100, "42.5", "20210511;162000", **booked("A")),
        trade("XOM", -200, "42.5", "20210511;162000", **booked("A")),
    ]  # fmt: skip
    parts = [fields["basis_adjustment"] for fields in _fields(plan(tmp_path, flex(rows)))]
    assert parts == ["-33.3333333333", "-66.6666666667"]


def test_an_assignment_that_is_cancelled_leaves_the_option_and_the_shares(tmp_path: Path) -> None:
    """Its figures are made up."""
    call, ended = "XOM   220121C00042500", "20210511;162000"
    said = {"tradeID": "", "ibExecID": "", "transactionType": "TradeCancel"}
    legs = [
        option(call, 1, 0, ended, **booked("A", tradeID="11", transactionID="11", cost="519.332708",
                                           fifoPnlRealized="0")),
        trade("XOM", -100, "42.5", ended, **booked("A", tradeID="12", transactionID="12")),
        option(call, -1, 0, ended, origTradeID="11", buySell="BUY (Ca.)", **said),
        trade("XOM", 100, "42.5", ended, origTradeID="12", buySell="SELL (Ca.)", **said),
    ]  # fmt: skip
    made = plan(tmp_path, flex(legs))
    assert (made.messages, made.problems, len(made.notes)) == ([], [], 2)
    known = Known(others=frozenset({("transfer", ACCOUNT, "flex-11")}))
    made = plan(tmp_path, flex(legs), known=known)
    assert (made.messages, [each.row["transaction_id"] for each in made.problems]) == ([], ["11"])


@pytest.mark.parametrize("kept", [0, 1])
def test_one_leg_alone_is_left_out(tmp_path: Path, kept: int) -> None:
    rows = [
        option("XOM   220121C00042500", 1, 0, "20210511;162000",
               **booked("A", cost="100", fifoPnlRealized="0")),
        trade("XOM", -100, "42.5", "20210511;162000", **booked("A")),
    ]  # fmt: skip
    made = plan(tmp_path, flex([rows[kept]]))
    assert (made.messages, len(made.problems)) == ([], 1)


def test_legs_of_other_quantities_are_both_left_out(tmp_path: Path) -> None:
    rows = [
        option("XOM   220121C00042500", 2, 0, "20210511;162000",
               **booked("A", cost="100", fifoPnlRealized="0")),
        trade("XOM", -100, "42.5", "20210511;162000", **booked("A")),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert (made.messages, len(made.problems)) == ([], 2)


@pytest.mark.parametrize(
    ("option_says", "shares_say", "joined"),
    [
        ({}, {}, True), ({"accountId": "U2"}, {}, False),
        ({"dateTime": "20210511;162001"}, {}, False),
        ({}, {"tradePrice": "42"}, False), ({"strike": ""}, {}, True), ({"putCall": ""}, {}, True),
        ({"underlyingConid": "7"}, {}, False), ({"underlyingConid": "7"}, {"conid": ""}, True),
        ({"underlyingConid": "", "underlyingSymbol": "CVX"}, {}, False),
        ({"putCall": "P"}, {}, False), ({"strike": "42.50"}, {}, True),
        ({"strike": "?"}, {}, False),
        # The file joins the rows itself: an adjusted contract may stand for another number.
        ({"positionActionID": "9", "multiplier": "150"}, {"positionActionID": "9"}, True),
        ({"positionActionID": "9"}, {"positionActionID": "8"}, True),
        ({"positionActionID": "9", "multiplier": "150"}, {"positionActionID": "8"}, False),
        ({"multiplier": "150"}, {}, False), ({"assetCategory": "FOP"}, {}, False),
        ({"assetCategory": "FOP"}, {"quantity": "-1"}, True),
        ({"notes": "ex"}, {"notes": "Ex;O"}, True), ({"notes": "GEA"}, {"notes": "GEA"}, True),
        ({"fifoPnlRealized": None}, {}, False), ({"cost": None}, {}, False),
        ({"fifoPnlRealized": "100.5"}, {}, False),  # a settlement below 0
    ],
)  # fmt: skip
def test_the_legs_of_an_assignment_belong_together_by_all_that_is_said(
    tmp_path: Path, option_says: dict[str, object], shares_say: dict[str, object], joined: bool
) -> None:
    call, when = "XOM   220121C00042500", "20210511;162000"
    rows = [
        option(call, 1, 0, when, **{**booked("A", cost="100", fifoPnlRealized="0"), **option_says}),
        trade("XOM", -100, "42.5", when, **{**booked("A"), **shares_say}),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert [f["basis_adjustment"] for f in _fields(made)] == (["-100"] if joined else [])
    assert len(_fields(made, "transfer")) == joined
    assert len(made.problems) == (0 if joined else 2)


def test_an_option_whose_strike_nobody_knows_loses_no_other(tmp_path: Path) -> None:
    ended = option("XOM   220121C00042500", 1, 0, "20210511;162000",
                   **booked("A", cost="100", fifoPnlRealized="0"))  # fmt: skip
    odd = ended.replace('symbol="XOM   220121C00042500"', 'symbol="XOMC"')
    odd = odd.replace('strike="42.5"', 'strike=""')
    made = plan(tmp_path, flex([odd, trade("A", 1, 1, "20240102;100000")]))
    assert (len(_fields(made)), len(made.problems)) == (1, 1)


def test_a_put_that_is_assigned_buys(tmp_path: Path) -> None:
    put, when = "XOM   220121P00042500", "20210511;162000"
    rows = [option(put, 1, 0, when, **booked("A", cost="100", fifoPnlRealized="0")),
            trade("XOM", 100, "42.5", when, **booked("A"))]  # fmt: skip
    assert [f["side"] for f in _fields(plan(tmp_path, flex(rows)))] == ["BUY"]
    long = [option(put, -1, 0, when, **booked("Ex", cost="-100", fifoPnlRealized="0")),
            trade("XOM", -100, "42.5", when, **booked("Ex"))]  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex(long)))
    assert (fields["side"], fields["basis_adjustment"]) == ("SELL", "100")


@pytest.mark.parametrize(
    ("price", "pnl", "found", "commission"),
    [
        # What a settlement in cash is charged is not in its figure; a price that is told is one.
        (0, "-1430.819067", "9.36", None), ("9.36", "-1431.019067", "9.36", "0.2"),
        (0, "441.18", "0.0000046650", None),
        (0, "441.185", "0", None), ("9.36", "0", "9.36", "0.2"),
    ],
)  # fmt: skip
def test_what_is_settled_in_cash_is_a_close(
    tmp_path: Path, price: object, pnl: str, found: str, commission: str | None
) -> None:
    row = option("SPXW  250919C06655000", 2, price, "20250919;162000", ibCommission="-0.20",
                 **booked("A", cost="441.180933", fifoPnlRealized=pnl))  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex([row])))
    assert Decimal(fields["fill_price"]) == Decimal(found)
    assert fields.get("commission") == commission


def test_an_expiration_has_its_charge(tmp_path: Path) -> None:
    row = option("MSTR  250214C00500000", 1, 0, "20250214;162000", ibCommission="-0.5",
                 **booked("Ep", cost="7", fifoPnlRealized="7"))  # fmt: skip
    [fields] = _fields(plan(tmp_path, flex([row])))
    assert (fields["fill_price"], fields["commission"]) == ("0", "0.5")


def test_shares_known_without_the_premium_are_completed(tmp_path: Path) -> None:
    rows = [
        option("XOM   220121C00042500", 1, 0, "20210511;162000",
               **booked("A", cost="100", fifoPnlRealized="0")),
        trade("XOM", -100, "42.5", "20210511;162000", transactionID="61",
              ibCommissionCurrency="EUR", **booked("A")),
    ]  # fmt: skip
    execution = KnownExecution("XOM", "flex-61", Decimal(-100), Decimal("42.5"), 1620764400001,
                               Decimal(0), "EUR")  # fmt: skip

    def known(adjustment: int) -> Plan:
        said = {(ACCOUNT, "flex-61"): execution._replace(adjustment=Decimal(adjustment))}
        return plan(tmp_path, flex(rows), known=Known(said))

    [fields] = _fields(known(0))
    assert (fields["exec_id"], fields["basis_adjustment"]) == ("flex-61", "-100")
    # The id is remembered as published: only under another one, with its version, does it go out.
    [completed] = [each for each in known(0).messages if each.fields == fields]
    assert (completed.once_id, completed.version) == (f"{ACCOUNT}:flex-61 by flex", "-100")
    # All else is as it is known: the same id with other figures would be a dead letter.
    assert fields["timestamp"] == "1620764400001"
    assert not {"commission", "commission_currency"} & set(fields)
    assert (_fields(known(-100)), known(-100).problems) == ([], [])
    other = known(-90)
    assert (_fields(other), len(other.problems)) == ([], 1)
    assert "expected an adjustment of -90" in other.problems[0].reason


def test_a_cash_settlements_price_follows_from_its_figures(tmp_path: Path) -> None:
    index = "SPXW  250919C06655000"
    rows = [
        option(index, -2, "2.205904665", "20250918;100000"),
        option(index, 2, 0, "20250919;162000", transactionID="61", ibCommission="-0.20",
               **booked("A", cost="441.180933", fifoPnlRealized="-1430.819067")),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    assert _fields(made)[-1]["fill_price"] == "9.36"
    _realizes(made, "flex-61", "-1430.819067")


def test_an_expiration_is_a_close_at_0(tmp_path: Path) -> None:
    put = "MSTR  250214C00500000"
    rows = [
        option(put, -1, "7.68", "20250101;100000", ibCommission="-0.8926904"),
        option(put, 1, 0, "20250214;162000", transactionID="61",
               **booked("Ep", cost="767.1073096", fifoPnlRealized="767.1073096")),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows))
    _realizes(made, "flex-61", "767.1073096")


# --- actions of one key ------------------------------------------------------------------------


def test_a_split_of_one_row(tmp_path: Path) -> None:
    text = "TSLA(US88160R1014) SPLIT 5 FOR 1 (TSLA, TESLA INC, US88160R1014)"
    rows = [
        trade("TSLA", 1, "350.59", "20191114;143812", ibCommission="-1"),
        trade("TSLA", 3, "336.45", "20191203;115030", ibCommission="-1"),
        trade("TSLA", 1, "349", "20191210;122223", ibCommission="-1"),
        trade("TSLA", 1, "341.9", "20200908;143705", ibCommission="-1"),
        trade("TSLA", -6, "454.825", "20200916;103108", ibCommission="-1.061023795",
              ibExecID="", transactionID="61"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows, [action("TSLA", 20, text, "20200828;202500", type="FS")]))
    [split] = _fields(made, "split")
    assert (split["ratio"], split.get("places")) == ("5:1", None)
    assert _fields(made, "instrument") == []  # it has the number that it had
    _realizes(made, "flex-61", "2308.94231")


def test_a_short_call_is_split_with_its_share(tmp_path: Path) -> None:
    text, call = "XLE(US8) SPLIT 2 FOR 1 ({0}, {0}, )", {"conid": "829150632"}
    old, new = "XLE 251226C00093500", "XLE 251226C00046750"
    rows = [
        trade("XLE", 100, 90, "20251103;100000", isin="US8", ibCommission="-1"),
        option(old, -1, "1.85", "20251111;115516", ibCommission="-0.62869", **call),
        option(new, 2, 0, "20251226;162000", **booked("Ep", transactionID="61", **call)),
    ]  # fmt: skip
    actions = [
        action("XLE", 100, text.format("XLE"), "20251204;202500", type="FS", actionID="16"),
        action(new, -1, text.format(new), "20251204;202500", type="FS", actionID="16",
               assetCategory="OPT", multiplier="100", **call),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows, actions))
    assert made.problems == []
    assert [(f["symbol"], f["ratio"]) for f in _fields(made, "split")] == [
        ("XLE", "2:1"), (old, "2:1"),
    ]  # fmt: skip
    _realizes(made, "flex-61", "184.37131")


def test_a_reverse_split_gives_the_key_its_new_number(tmp_path: Path) -> None:
    text = "ACB(CA05156X8843) SPLIT 1 FOR 12 ({}, AURORA CANNABIS INC, {})"
    when = "20200508;202500"
    rows = [
        action("ACB.OLD", -150, text.format("ACB.OLD", "CA05156X8843"), when, type="RS",
               conid=con_id("ACB"), transactionID="71"),
        action("ACB", "12.5", text.format("ACB", "CA05156X1088"), when, type="RS", conid="77",
               transactionID="72"),
    ]  # fmt: skip
    trades = [trade("ACB", 150, 1, "20200102;100000"),
              trade("ACB", "-0.5", 9, "20200511;100000", conid="77")]  # fmt: skip
    made = plan(tmp_path, flex(trades, rows))
    [split], [number] = _fields(made, "split"), _fields(made, "instrument")
    assert (split["ratio"], split["exec_id"]) == ("1:12", "flex-71")
    assert (number["symbol"], number["con_id"]) == ("ACB", "77")
    assert {fields["symbol"] for fields in _fields(made)} == {"ACB"}
    # Where the new number has a name already, the lots go there, as many as the row says.
    made = plan(tmp_path, flex(trades, rows), names={"77": "ACB@TSE"})
    assert (_fields(made, "split"), _fields(made, "instrument"), made.problems) == ([], [], [])
    out, into = _fields(made, "transfer")
    assert (out["symbol"], out["qty"]) == ("ACB", "150")
    assert (into["symbol"], into["qty"], into["cost_basis"]) == ("ACB@TSE", "12.5", "150")
    # Where nothing of it is known yet, it gets both: what an earlier file tells has the old one.
    made = plan(tmp_path, flex(trades[1:], rows))
    numbers = [number["con_id"] for number in _fields(made, "instrument")]
    assert numbers == [str(con_id("ACB")), "77"]


@pytest.mark.parametrize(("held", "goes"), [("150.0009", True), ("150.001", False)])
@pytest.mark.parametrize("text", ["SPLIT 1 FOR 1", "CUSIP/ISIN CHANGE TO (I2)"])
def test_a_split_and_a_new_name_take_all_there_is(
    tmp_path: Path, held: str, text: str, *, goes: bool
) -> None:
    said, when = f"A(I1) {text} ({{}}, X, I)", "20200508;202500"
    rows = [action("A.OLD", -150, said.format("A.OLD"), when, conid=con_id("A")),
            action("B", 150, said.format("B"), when)]  # fmt: skip
    names = {str(con_id("A")): "A", str(con_id("B")): "B"}
    made = plan(tmp_path, flex([trade("A", held, 1, "20200102;100000")], rows), names=names)
    assert bool(_fields(made, "transfer")) == goes
    reason = "expected to hold the 150 that go, found"
    assert [each.reason.startswith(reason) for each in made.problems] == [True] * 2 * (not goes)


@pytest.mark.parametrize(
    ("held", "after", "ratio", "places"),
    [(1000, "333.3333", "1 FOR 3", "4"), (-17000, "-4250", "1 FOR 4", None),
     (17, "3.4", "1 FOR 5", None), (111, "22", "1 FOR 5", "0")],
)  # fmt: skip
def test_a_split_is_rounded_as_the_broker_rounds(
    tmp_path: Path, held: int, after: str, ratio: str, places: str | None
) -> None:
    text = f"X(I1) SPLIT {ratio} (X, X INC, I{{}})"
    when = "20200508;202500"
    rows = [action("X", -held, text.format(1), when, type="RS", isin="I1"),
            action("X", after, text.format(2), when, type="RS", conid="7")]  # fmt: skip
    two = plan(tmp_path, flex([trade("X", held, 1, "20200102;100000")], rows))
    assert _fields(two, "split")[0].get("places") == places
    one = action("X", Decimal(after) - held, text, "20200508;202500", type="RS")
    alone = plan(tmp_path, flex([trade("X", held, 1, "20200102;100000")], [one]))
    assert _fields(alone, "split")[0].get("places") == places


@pytest.mark.parametrize(
    ("held", "ratio", "comes", "places"),
    [
        # Of 312 it would be 45 with whole shares; of 176.696 there was nothing to round.
        ("311.5", "1 FOR 7", -267, None), ("312", "1 FOR 7", -267, "0"),
        ("-176.695", "21 FOR 20", "-8.8348", "4"), ("100", "1 FOR 3", -67, "0"),
        ("100.5", "1 FOR 3", -67, None),
        # Some of what was held is not known.
        ("7", "1 FOR 7", -267, "0"), (None, "1 FOR 7", -267, "0"),
    ],
)  # fmt: skip
def test_what_is_held_tells_how_a_split_that_says_only_what_comes_was_rounded(
    tmp_path: Path, held: str | None, ratio: str, comes: object, places: str | None
) -> None:
    rows = [trade("A", held, 5, "20240102;100000")] if held else []
    split = action("A", comes, f"A(I1) SPLIT {ratio} (A, A, I1)", "20240103;202500", type="FS")
    [fields] = _fields(plan(tmp_path, flex(rows, [split])), "split")
    assert fields.get("places") == places


def test_a_split_that_does_not_fit_its_quantities_is_left_out(tmp_path: Path) -> None:
    text = "X(I1) SPLIT 1 FOR 3 (X, X INC, I1)"
    rows = [action("X", -1000, text, "20200508;202500", type="RS"),
            action("X", 330, text, "20200508;202500", type="RS", conid="7")]  # fmt: skip
    made = plan(tmp_path, flex([], rows))
    assert (made.messages, len(made.problems)) == ([], 2)


def test_a_stock_dividend_is_a_split(tmp_path: Path) -> None:
    text = "VUG(US9) STOCK DIVIDEND US9 {} FOR {} (VUG, VUG, US9)"
    plain = action("VUG", 10, text.format(1, 11), "20200508;202500", type="SD", isin="US9")
    [split] = _fields(plan(tmp_path, flex([], [plain])), "split")
    assert split["ratio"] == "12:11"
    long = action("VUG", "5.887", text.format(196232339, 10**10), "20200508;202500", type="SD",
                  isin="US9")  # fmt: skip
    made = plan(tmp_path, flex([trade("VUG", 300, 1, "20200102;100000")], [long]))
    [split] = _fields(made, "split")
    new, old = map(int, split["ratio"].split(":"))
    assert max(new, old) < 10**9
    assert round(Fraction(300 * new, old), int(split["places"])) == Fraction("305.887")
    booked_nets(made)  # the book takes it


def test_what_a_chosen_dividend_costs_is_not_guessed(tmp_path: Path) -> None:
    text = "TEF (US9) STOCK DIVIDEND US9 416666667 FOR 10000000000 (TEF, TELEFONICA, US9)"
    made = plan(tmp_path, flex([], [action("TEF", 3, text, "20200717;202000", type="HI")]))
    assert (made.messages, len(made.problems)) == ([], 1)


def test_a_return_of_capital_lowers_the_cost_of_what_was_held(tmp_path: Path) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), dateTime="20201203;202000", amount="11.68", type="Dividends",
        description="MAC(US5543821012) CASH DIVIDEND USD 0.1407 PER SHARE (Return of Capital)",
        transactionID="81", levelOfDetail="DETAIL",
    )  # fmt: skip
    rows = [
        trade("MAC", 41, "7.295", "20201016;154822", ibCommission="-1"),
        trade("MAC", 42, "7.03", "20201104;112557", ibCommission="-1"),
        trade("MAC", 47, "11.775", "20210112;121046", ibCommission="-1"),
        trade("MAC", -130, "13.064", "20210224;100756", ibCommission="-1.024131432", ibExecID="",
              transactionID="61"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows, CashTransactions=[paid]))
    assert _fields(made, "cost")[0]["per_unit"] == "-0.1407"
    _realizes(made, "flex-61", "558.193969")
    late = plan(tmp_path, flex(rows[1:], CashTransactions=[paid]))
    assert _fields(late, "cost") == []
    assert "expected to hold the 83" in late.problems[0].reason


def test_a_refunded_commission_is_reported(tmp_path: Path) -> None:
    refund = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", symbol="", dateTime="20211004",
        amount="1", type="Commission Adjustments", transactionID="82", levelOfDetail="DETAIL",
        description="Refund (KWEB, 24, 2021-09-02)",
    )  # fmt: skip
    rows = [trade("KWEB", 24, 50, "20210902;100000", ibCommission="-1"),
            trade("KWEB", -24, "41.84", "20211005;100000", ibExecID="",
                  transactionID="61")]  # fmt: skip
    made = plan(tmp_path, flex(rows, CashTransactions=[refund]))
    [report] = _fields(made, "commission")
    assert (report["commission"], report["timestamp"]) == ("0", "1633320000000")
    _realizes(made, "flex-61", "-195.84")


@pytest.mark.parametrize(("ex_date", "day"), [("20201120", "20201120"), (None, "20201203")])
def test_a_return_of_capital_belongs_to_the_ex_date(
    tmp_path: Path, ex_date: str | None, day: str
) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), dateTime="20201203", exDate=ex_date, amount="10", type="Dividends",
        description="USD 0.1 PER SHARE (Return of Capital)", levelOfDetail="DETAIL",
    )  # fmt: skip
    rows = [trade("MAC", 100, 7, "20201016;154822"), trade("MAC", 50, 7, f"{day};000000"),
            trade("MAC", -150, 8, "20201204;000000")]  # fmt: skip
    made = plan(tmp_path, flex(rows, CashTransactions=[paid]))
    assert made.problems == []
    [cost] = _fields(made, "cost")
    assert cost["timestamp"] == str(read_time(day, NEW_YORK))


def _refund(**said: object) -> str:
    facts = {"accountId": ACCOUNT, "currency": "USD", "symbol": "", "dateTime": "20211004",
             "amount": "0.4", "type": "Commission Adjustments", "levelOfDetail": "DETAIL",
             "description": "Refund (KWEB, 1,024, 2021-09-02)", **said}  # fmt: skip
    return element("CashTransaction", **facts)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({}, "0.6"), ({"description": "Refund (KWEB, 1024, 2021-09-03)"}, "0.6"),
        ({"description": "Refund (KWEB, 1024, 2021-09-04)"}, ""),
        ({"description": "Refund (KWEB, 24, 2021-09-02)"}, ""),
        ({"description": "Refund (KWEB, -1024, 2021-09-02)"}, ""),
        ({"description": "Refund (FXI, 1024, 2021-09-02)"}, ""),
        ({"symbol": "FXI"}, ""), ({"symbol": "KWEB"}, "0.6"),
        ({"description": "Refund"}, ""), ({"accountId": "U2"}, ""),
    ],
)  # fmt: skip
def test_a_refund_goes_to_the_one_execution_that_it_names(
    tmp_path: Path, change: dict[str, str], left: str
) -> None:
    row = trade("KWEB", 1024, 50, "20210902;100000", ibCommission="-1")
    made = plan(tmp_path, flex([row], CashTransactions=[_refund(transactionID="1", **change)]))
    reports = [fields["commission"] for fields in _fields(made, "commission")]
    assert (reports, len(made.problems)) == ([left] if left else [], not left)


@pytest.mark.parametrize(
    ("rows", "left"), [([{}], "0.2"), ([{}, {}], ""), ([{"ibCommission": None}], "")]
)
def test_refunds_add_up_and_are_not_guessed(
    tmp_path: Path, rows: list[dict[str, str]], left: str
) -> None:
    trades = [trade("KWEB", 1024, 50, "20210902;100000", **{"ibCommission": "-1", **row})
              for row in rows]  # fmt: skip
    cash = [_refund(transactionID=number) for number in (1, 2)]
    made = plan(tmp_path, flex(trades, CashTransactions=cash))
    reports = [fields["commission"] for fields in _fields(made, "commission")]
    assert (reports, len(made.problems)) == ([left] if left else [], 0 if left else 2)


def test_a_refund_of_what_is_known_is_all_that_is_reported(tmp_path: Path) -> None:
    refund = _refund(dateTime="20240105", description="Refund (A, 5, 2024-01-02)")
    rows = flex([_row()], CashTransactions=[refund])
    made = plan(tmp_path, rows, known=_known(commission=None))
    assert [fields["commission"] for fields in _fields(made, "commission")] == ["0.6"]
    told = _known(commission=Decimal("0.6"), commission_time=1704430800000)
    assert plan(tmp_path, rows, known=told).messages == []


@pytest.mark.parametrize(
    ("held", "amount", "text", "per_unit"),
    [
        (83, "11.68", "cash dividend USD 0.1407 per share (Return of Capital)", "-0.1407"),
        (83, "-11.68", "USD 0.1407 PER SHARE (Return of Capital) REVERSAL", "0.1407"),
        (-83, "-11.68", "USD 0.1407 PER SHARE (Return of Capital)", "-0.1407"),
        (84, "11.68", "USD 0.1407 PER SHARE (Return of Capital)", ""),
        (82, "11.68", "USD 0.1407 PER SHARE (Return of Capital)", ""),
        (83, "11.69", "USD 0.1407 PER SHARE (Return of Capital)", ""),
        (83, "11.68", "CASH DIVIDEND 0.14070000 USD PER SHARE (Return of Capital)", "-0.1407"),
        (83, "11.68", "MAC 2.0 (US5) CASH DIVIDEND USD 0.14070000 (Return of Capital)", "-0.1407"),
        (0, "0", "USD 0.1407 PER SHARE (Return of Capital)", ""),
        (83, "11.68", "CASH DIVIDEND (Return of Capital)", ""),
        (83, "11.68", "USD 0 PER SHARE (Return of Capital)", ""),
    ],
)
def test_a_return_of_capital_is_what_the_row_says_of_what_was_held(
    tmp_path: Path, held: int, amount: str, text: str, per_unit: str
) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), dateTime="20201203;202000", amount=amount, type="Dividends",
        description=text, transactionID="81", levelOfDetail="DETAIL",
    )  # fmt: skip
    trades = [trade("MAC", held, 7, "20201016;154822")] if held else []
    made = plan(tmp_path, flex(trades, CashTransactions=[paid]))
    costs = [fields["per_unit"] for fields in _fields(made, "cost")]
    assert (costs, len(made.problems)) == ([per_unit] if per_unit else [], not per_unit)


@pytest.mark.parametrize("known", [None, {str(con_id("MAC")): "CAD"}])
def test_a_return_of_capital_in_another_currency_is_listed(
    tmp_path: Path, known: dict[str, str] | None
) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), dateTime="20201203;202000", amount="10", type="Dividends",
        description="USD 0.1 PER SHARE (Return of Capital)", transactionID="81",
    )  # fmt: skip
    currency = "USD" if known else "CAD"
    rows = [trade("MAC", 100, 7, "20201016;154822", currency=currency)]
    made = plan(tmp_path, flex(rows, CashTransactions=[paid]), currencies=known)
    assert (_fields(made, "cost"), len(made.problems)) == ([], 1)
    assert "expected a return in CAD" in made.problems[0].reason


@pytest.mark.parametrize(
    ("text", "code", "proceeds", "figure"),
    [
        ("NABIF(US1) (DELISTED) (NABIF, NABIS, US1)", "DW", "0", "-88.88"),
        ("NABIF(US1) MERGED(Acquisition) FOR USD 0.01 PER SHARE (NABIF, N, US1)", "TC", "200",
         "111.12"),
        ("NABIF(US1) TENDERED TO US2 (NABIF, N, US1)", "TO", "200", "111.12"),
    ],
)  # fmt: skip
def test_what_goes_for_money_or_nothing_is_a_sale(
    tmp_path: Path, text: str, code: str, proceeds: str, figure: str
) -> None:
    row = action("NABIF", -20000, text, "20201203;202500", type=code, proceeds=proceeds,
                 transactionID="71")  # fmt: skip
    buy = trade("NABIF", 20000, "0.004444", "20200102;100000")
    _realizes(plan(tmp_path, flex([buy], [row])), "flex-71", figure)


def test_a_sale_is_known_by_its_id_and_goes_before_what_follows(tmp_path: Path) -> None:
    text = "PEIX(US69423U3059) TENDERED TO US2 FOR USD 3 PER SHARE (PEIX, P, US69423U3059)"
    row = action("PEIX", -40, text, "20201203;202500", type="TO", proceeds="120",
                 transactionID="70")  # fmt: skip
    rows = flex([trade("PEIX", 40, 5, "20200102;100000"),
                 trade("PEIX", 100, 2, "20200103;100000")], [row, *_renamed()])  # fmt: skip

    def made(qty: int, price: int) -> Plan:
        sale = KnownExecution("PEIX", "flex-70", Decimal(qty), Decimal(price), 1)
        return plan(tmp_path, rows, known=Known({(ACCOUNT, "flex-70"): sale} if qty else {}))

    assert [f["fill_price"] for f in _fields(made(0, 0))] == ["5", "2", "3"]
    again = made(-40, 3)
    assert (len(_fields(again)), again.problems, again.known) == (2, [], 1)
    for each in (made(0, 0), again):
        assert [f["qty"] for f in _fields(each, "transfer")] == ["100", "100"]
        assert _fields(each, "transfer")[1]["cost_basis"] == "200"
    for other in (made(-40, 4), made(-50, 3)):
        assert len(_fields(other)) == 2
        assert "as it is known" in other.problems[0].reason


def test_what_was_sold_short_and_ends_for_money_is_bought(tmp_path: Path) -> None:
    text = "NABIF(US1) MERGED(Acquisition) FOR USD 0.01 PER SHARE (NABIF, N, US1)"
    row = action("NABIF", 200, text, "20201203;202500", type="TC", proceeds="-2")
    [_, sale] = _fields(plan(tmp_path, flex([trade("NABIF", -200, 1, "20200102")], [row])))
    assert (sale["side"], sale["fill_price"]) == ("BUY", "0.01")
    wrong = action("NABIF", 200, text, "20201203;202500", type="TC", proceeds="2")
    assert "expected money for what goes" in plan(tmp_path, flex([], [wrong])).problems[0].reason


# --- actions of two keys -----------------------------------------------------------------------


def test_a_rename_moves_lots_with_their_cost_and_time(tmp_path: Path) -> None:
    text = "PEIX(US69423U3059) CUSIP/ISIN CHANGE TO (US02155X1063) ({}, ALTO, {})"
    when = "20210112;202500"
    rows = [
        action("PEIX.OLD", -140, text.format("PEIX.OLD", "US69423U3059"), when, type="IC",
               conid=con_id("PEIX"), isin="US69423U3059", transactionID="71"),
        action("ALTO", 140, text.format("ALTO", "US02155X1063"), when, type="IC",
               isin="US02155X1063", transactionID="72"),
    ]  # fmt: skip
    trades = [
        trade("PEIX", 70, "6.0704179571", "20200102;100000", ibCommission="-1"),
        trade("PEIX", 70, 7, "20200103;100000", ibCommission="-1"),
        trade("ALTO", -70, "7.71", "20210122;100000", ibCommission="-0.23751462", ibExecID="",
              transactionID="61"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(trades, rows))
    out, *into = _fields(made, "transfer")
    assert (out["symbol"], out["direction"], out["qty"]) == ("PEIX", "OUT", "140")
    assert [(f["symbol"], f["qty"], f["opened"]) for f in into] == [
        ("ALTO", "70", "1577977200000"), ("ALTO", "70", "1578063600000"),
    ]  # fmt: skip
    _realizes(made, "flex-61", "113.533228")


def test_a_new_number_under_the_same_ticker_moves_nothing(tmp_path: Path) -> None:
    text = "PEIX(US69423U3059) CUSIP/ISIN CHANGE TO (US02155X1063) ({}, P, {})"
    rows = [
        action("PEIX.OLD", -140, text.format("PEIX.OLD", "US69423U3059"), "20210112;202500",
               type="IC", conid=con_id("PEIX"), isin="US69423U3059", transactionID="71"),
        action("PEIX", 140, text.format("PEIX", "US02155X1063"), "20210112;202500", type="IC",
               conid="77", isin="US02155X1063", transactionID="72"),
    ]  # fmt: skip
    trades = [trade("PEIX", 140, 6, "20200102;100000"),
              trade("PEIX", -40, 7, "20210122;100000", conid="77")]  # fmt: skip
    made = plan(tmp_path, flex(trades, rows))
    assert (made.problems, _fields(made, "transfer")) == ([], [])
    [number] = _fields(made, "instrument")
    assert (number["symbol"], number["con_id"]) == ("PEIX", "77")
    assert {fields["symbol"] for fields in _fields(made)} == {"PEIX"}


def _renamed(when: str = "20210112;202500") -> list[str]:
    text = "PEIX(US69423U3059) CUSIP/ISIN CHANGE TO (US02155X1063) ({}, ALTO, {})"
    return [
        action("PEIX.OLD", -100, text.format("PEIX.OLD", "US69423U3059"), when, type="IC",
               conid=con_id("PEIX"), isin="US69423U3059", transactionID="71"),
        action("ALTO", 100, text.format("ALTO", "US02155X1063"), when, type="IC",
               isin="US02155X1063", transactionID="72"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "events",
    [
        # An opening is booked first, whatever its time, and what comes later is not moved.
        [KnownEvent(1604000000000, "execution", "x", 30, 30),
         KnownEvent(1904000000000, "opening", "opening", 70, 140),
         KnownEvent(1904000000000, "execution", "y", 500, 500)],
        # What this call tells itself is booked along once.
        [KnownEvent(1604000000000, "execution", ID, 30, 30),
         KnownEvent(1504000000000, "opening", "opening", 70, 140)],
        [KnownEvent(1504000000000, "opening", "opening", 100, 200, 10),
         KnownEvent(1604000000000, "out", "flex-9", 40),
         KnownEvent(1604000000001, "in", "gift", 40, 44, opened=1)],
        [KnownEvent(1504000000000, "opening", "opening", 50, 240),
         KnownEvent(1604000000000, "split", "s", 2, opened=10),
         KnownEvent(1604000000001, "cost", "c", value=Fraction(-7, 10))],
    ],
)  # fmt: skip
def test_what_is_known_of_a_key_moves_with_what_a_file_tells(
    tmp_path: Path, events: list[KnownEvent]
) -> None:
    told = [trade("PEIX", 30, 1, "20201029;193320", ibExecID=ID)] if len(events) == 2 else []
    known = Known(events={(ACCOUNT, "PEIX"): events})
    made = plan(tmp_path, flex(told, _renamed()), known=known)
    assert made.problems == []
    out, *into = _fields(made, "transfer")
    assert out["qty"] == "100"
    assert sum(Decimal(fields["cost_basis"]) for fields in into) == 170


def test_a_cost_and_an_assignment_that_this_call_tells_are_booked_along_once(
    tmp_path: Path,
) -> None:
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="PEIX",
        conid=con_id("PEIX"), dateTime="20201203;202000", amount="50", type="Dividends",
        description="PEIX CASH DIVIDEND USD 0.5 PER SHARE (Return of Capital)",
        transactionID="81", levelOfDetail="DETAIL",
    )  # fmt: skip
    rows = flex([trade("PEIX", 100, 2, "20200102;100000", ibExecID=ID)], _renamed(),
                CashTransactions=[paid])  # fmt: skip
    events = [KnownEvent(1577977200000, "execution", ID, 100, 200),
              KnownEvent(1606971600000, "cost", "flex-81", value=Fraction(-1, 2))]  # fmt: skip
    for known in (Known(), Known(events={(ACCOUNT, "PEIX"): events})):
        _, into = _fields(plan(tmp_path, rows, known=known), "transfer")
        assert into["cost_basis"] == "150"


def test_what_moves_bears_what_was_charged_in_its_currency_and_what_an_option_left(
    tmp_path: Path,
) -> None:
    when, put = "20200117;162000", "PEIX  200117P00002000"
    end = option(put, 1, 0, when, **booked("A", cost="100", fifoPnlRealized="0"))
    for rows, cost in (
        ([trade("PEIX", 100, 2, when, ibCommission="-3")], "203"),
        ([trade("PEIX", 100, 2, when, ibCommission="-3", ibCommissionCurrency="EUR")], "200"),
        ([trade("PEIX", 100, 2, when, **booked("A")), end], "100"),
    ):
        moved = _fields(plan(tmp_path, flex(rows, _renamed())), "transfer")
        assert [f["cost_basis"] for f in moved if f["symbol"] == "ALTO"] == [cost]


def test_of_an_option_that_is_renumbered_what_was_assigned_stays_away(tmp_path: Path) -> None:
    call, new = "XOM   220121C00042500", "XOM1  220121C00042500"
    text = f"XOM(US1) CUSIP/ISIN CHANGE TO (US2) ({call}, X, US1)"
    rows = [
        option(call, -1, "5", "20201204;152925"), option(call, -2, "6", "20201205;152925"),
        trade("XOM", -100, "42.5", "20210511;162000", **booked("A")),
        option(call, 1, 0, "20210511;162000", **booked("A", cost="500", fifoPnlRealized="0")),
    ]  # fmt: skip
    moves = [
        action(call, 2, text, "20210601;202500", type="IC", assetCategory="OPT", multiplier="100",
               isin="US1"),
        action(new, -2, text, "20210601;202500", type="IC", assetCategory="OPT", multiplier="100",
               isin="US2"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows, moves))
    assert made.problems == []
    [into] = [fields for fields in _fields(made, "transfer") if fields["symbol"] == new]
    assert (into["qty"], into["cost_basis"]) == ("-2", "-1200")


def _pharma() -> tuple[list[str], list[str]]:
    text = "NTRP(US64129T2078) {} ({}, {}, {})"
    merger = "MERGED(Acquisition) WITH US71678J1007 1 FOR 5"
    trades = [
        trade("NTRP", 100, "4.74", "20200904;122344", ibCommission="-1", isin="US64129T2078"),
        trade("NTRP", 10, "4.74", "20200904;122345"),
        trade("PTPI", "-0.2", "4.111", "20201216;202500", transactionType="FracShare",
              ibExecID="", tradeID="", transactionID="61"),
        trade("SNPX", "-0.5", "6.24", "20210517;202500", transactionType="FracShare",
              ibExecID="", tradeID="", transactionID="62"),
    ]  # fmt: skip
    actions = [
        action("SNPX", 22, text.format("SPINOFF  1 FOR 5", "SNPX", "S", "US87167T1025"),
               "20201126;202500", type="SO", isin="US87167T1025", transactionID="801"),
        action("NTRP", -110, text.format(merger, "NTRP", "N", "US64129T2078"), "20201201;202500",
               type="TC", isin="US64129T2078"),
        action("PTPI", 22, text.format(merger, "PTPI", "P", "US71678J1007"), "20201201;202500",
               type="TC", isin="US71678J1007"),
        action("PTPI", "-19.8", "PTPI(US71678J1007) SPLIT 1 FOR 10 (PTPI, P, US71678J1007)",
               "20201216;202500", type="RS"),
        action("SNPX", "-16.5", "SNPX(US87167T1025) SPLIT 1 FOR 4 (SNPX, S, US87167T1025)",
               "20210517;202500", type="RS"),
    ]  # fmt: skip
    return trades, actions


@pytest.mark.parametrize("name", ["801", "SNPX", str(con_id("SNPX"))])
def test_a_spin_off_a_merger_and_splits_come_to_the_brokers_figures(
    tmp_path: Path, name: str
) -> None:
    made = plan(tmp_path, flex(*_pharma()), asked=Asked(ratios={name: Fraction(1, 6)}))
    assert (made.problems, made.notes) == ([], [])
    _realizes(made, "flex-61", "-38.761133")
    _realizes(made, "flex-62", "-4.796667")


@pytest.mark.parametrize("name", ["NTRP", "NTRP@NASDAQ"])
def test_a_spin_off_without_its_share_asks_for_it_and_stops_what_follows(
    tmp_path: Path, name: str
) -> None:
    made = plan(tmp_path, flex(*_pharma()), names={str(con_id("NTRP")): name})
    assert _fields(made, "transfer") == []
    assert "--ratio 801=SHARE" in made.problems[0].reason
    assert {problem.row["symbol"] for problem in made.problems[1:]} == {"NTRP", "PTPI"}


def test_a_merger_into_two_divides_each_lot_alike(tmp_path: Path) -> None:
    text = ("SRNGU(G8354H100) CASH and STOCK MERGER (Acquisition) DNA WS 1 FOR 5, US37611X1000 "
            "1 FOR 1 AND USD 1.23 ({}, GINKGO, {})")  # fmt: skip
    when = "20210916;202500"
    actions = [
        action("DNA", 111, text.format("DNA", "US37611X1000"), when, type="TC"),
        action("SRNGU", -111, text.format("SRNGU", "KYG8354H1002"), when, type="TC",
               proceeds="136.53"),
        action("DNA WS", 22, text.format("DNA WS", "US37611X1182"), when, type="TC",
               assetCategory="WAR"),
    ]  # fmt: skip
    trades = [
        trade("SRNGU", 61, "10.388", "20210907;095803", ibCommission="-0.36245725"),
        trade("SRNGU", 50, "9.86", "20210913;115905", ibCommission="-0.36025725"),
        trade("DNA", -60, "10.05", "20211006;151535", ibCommission="-0.20447255", ibExecID="",
              transactionID="61"),
        trade("DNA", -51, "14.35", "20211019;145039", ibCommission="-0.309058685", ibExecID="",
              transactionID="62"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(trades, actions),
                asked=Asked(ratios={"DNA WS": Fraction("0.0423800")}))  # fmt: skip
    assert made.problems == []
    assert [note.partition(": ")[2][:19] for note in made.notes] == ["136.53 paid in cash"]
    nets = booked_nets(made)
    # The share is known to six places, so are the figures of 1,127 money units.
    assert abs(nets["flex-61"] - Decimal("5.589079")) < Decimal("0.001")
    assert abs(nets["flex-62"] - Decimal("249.136129")) < Decimal("0.001")


# --- the same of what was sold short: what is owed goes the other way -----------------------------


def test_a_short_position_is_renamed_with_its_proceeds_and_time(tmp_path: Path) -> None:
    text = "PEIX(US69423U3059) CUSIP/ISIN CHANGE TO (US02155X1063) ({}, ALTO, {})"
    when = "20210112;202500"
    rows = [
        action("PEIX.OLD", 140, text.format("PEIX.OLD", "US69423U3059"), when, type="IC",
               conid=con_id("PEIX"), isin="US69423U3059", transactionID="71"),
        action("ALTO", -140, text.format("ALTO", "US02155X1063"), when, type="IC",
               isin="US02155X1063", transactionID="72"),
    ]  # fmt: skip
    trades = [
        trade("PEIX", -70, 8, "20200102;100000", ibCommission="-1"),
        trade("PEIX", -70, 9, "20200103;100000", ibCommission="-2"),
        trade("ALTO", 105, 6, "20210122;100000", ibCommission="-0.3", ibExecID="",
              transactionID="61"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(trades, rows))
    assert made.problems == []
    _, *into = _fields(made, "transfer")
    assert [(f["symbol"], f["qty"], f["opened"]) for f in into] == [
        ("ALTO", "-70", "1577977200000"), ("ALTO", "-70", "1578063600000"),
    ]  # fmt: skip
    # 70 × (8 - 6) - 1, and of the second lot half: 35 × (9 - 6) - 1, less 0.3.
    _realizes(made, "flex-61", "242.7")


def test_a_short_position_whose_rows_do_not_say_which_is_old_is_left_out(tmp_path: Path) -> None:
    text = "CUSIP/ISIN CHANGE TO (US02155X1063)"
    rows = [
        action("PEIX", 70, text, "20210112;202500", type="IC", transactionID="71"),
        action("ALTO", -70, text, "20210112;202500", type="IC", transactionID="72"),
    ]
    made = plan(tmp_path, flex([trade("PEIX", -70, 8, "20200102;100000")], rows))
    assert {problem.row["symbol"] for problem in made.problems} == {"PEIX", "ALTO"}
    assert _fields(made, "transfer") == []


def _short_pharma(*, isins: bool = True) -> tuple[list[str], list[str]]:
    ids = ("US64129T2078", "US71678J1007", "US87167T1025") if isins else ("", "", "")
    trades = [
        trade("NTRP", -100, "4.74", "20200904;122344", ibCommission="-1", isin=ids[0]),
        trade("NTRP", -10, "4.74", "20200904;122345"),
        trade("SNPX", 22, 3, "20201127;100000", ibExecID="", tradeID="", transactionID="61"),
        trade("PTPI", 22, 20, "20201216;100000", ibExecID="", tradeID="", transactionID="62"),
    ]  # fmt: skip
    text = "NTRP(US64129T2078) {} ({}, {}, {})"
    merger = "MERGED(Acquisition) WITH US71678J1007 1 FOR 5"
    actions = [
        action("SNPX", -22, text.format("SPINOFF  1 FOR 5", "SNPX", "S", "US87167T1025"),
               "20201126;202500", type="SO", isin=ids[2], transactionID="801"),
        action("NTRP", 110, text.format(merger, "NTRP", "N", "US64129T2078"), "20201201;202500",
               type="TC", isin=ids[0]),
        action("PTPI", -22, text.format(merger, "PTPI", "P", "US71678J1007"), "20201201;202500",
               type="TC", isin=ids[1]),
    ]  # fmt: skip
    return trades, actions


@pytest.mark.parametrize("isins", [True, False])
def test_a_short_position_goes_through_a_spin_off_and_a_merger(
    tmp_path: Path, *, isins: bool
) -> None:
    asked = Asked(ratios={"801": Fraction(1, 6)})
    made = plan(tmp_path, flex(*_short_pharma(isins=isins)), asked=asked)
    assert made.problems == []
    # Sold for 110 × 4.74 - 1 = 520.4. A sixth of it is owed in SNPX, bought back for 22 × 3;
    # five sixths in PTPI, bought back for 22 × 20.
    _realizes(made, "flex-61", "20.733333")
    _realizes(made, "flex-62", "-6.333333")


def test_a_short_position_is_split_as_a_long_one(tmp_path: Path) -> None:
    trades = [
        trade("B", -100, 90, "20200102;100000", ibCommission="-1"),
        trade("B", 150, 25, "20200110;100000", ibExecID="", transactionID="61"),
    ]
    split = action("B", -200, "B(US1234567890) SPLIT 3 FOR 1 (B, B, US1234567890)",
                   "20200105;202500", type="FS")  # fmt: skip
    made = plan(tmp_path, flex(trades, [split]))
    assert made.problems == []
    _realizes(made, "flex-61", "749.5")  # 150 × (30 - 25) - half of 1


@pytest.mark.parametrize(
    ("lots", "pnl", "costs"),
    [
        ([10], "42.4", ["10"]), ([10], "40", ["7.6"]), ([10], "-7.6", []), ([4, 6], "42.4",
                                                                            ["4", "6"]),
        # How the P&L is divided, what stays of a part, what a gain without cash is: in no row.
        ([4, 6], "40", []), ([10, 1], "42.4", []), ([10], "50", []),
    ],
)  # fmt: skip
def test_a_merger_sells_for_cash_the_cost_that_its_pnl_tells(
    tmp_path: Path, lots: list[int], pnl: str, costs: list[str]
) -> None:
    text = "LVGO(US1) CASH and STOCK MERGER US2 592 FOR 1000 AND USD 4.24 ({}, X, US1)"
    actions = [
        action("LVGO", -10, text.format("LVGO"), "20201030;202500", type="TC", proceeds="42.4",
               fifoPnlRealized=pnl, transactionID="70"),
        action("TDOC", "5.92", text.format("TDOC"), "20201030;202500", type="TC"),
    ]  # fmt: skip
    rows = [trade("LVGO", qty, 1, f"2020010{day};100000") for day, qty in enumerate(lots, start=1)]
    made = plan(tmp_path, flex(rows, actions))
    came = [f["cost_basis"] for f in _fields(made, "transfer") if f["symbol"] == "TDOC"]
    assert (came, len(made.problems)) == (costs, 0 if costs else 2)
    if costs:
        _realizes(made, "flex-70-paid", pnl)


def test_cost_does_not_go_over_into_another_currency(tmp_path: Path) -> None:
    text = "A(US1) MERGED(Acquisition)  WITH B 1 FOR 1 ({}, A, US1)"
    rows = [action("A", -10, text.format("A"), "20201030;202500", type="TC"),
            action("B", 10, text.format("B"), "20201030;202500", type="TC",
                   currency="EUR")]  # fmt: skip
    made = plan(tmp_path, flex([trade("A", 10, 1, "20200102;100000")], rows))
    assert (_fields(made, "transfer"), len(made.problems)) == ([], 2)
    assert "EUR" in made.problems[0].reason


@pytest.mark.parametrize(("held", "fits"), [(100, True), (104, True), (96, True), (105, False),
                                            (95, False), (50, False), (-100, False)])  # fmt: skip
def test_a_spin_off_is_for_what_is_held(tmp_path: Path, held: int, *, fits: bool) -> None:
    row = action("B", 20, "A(US1) SPINOFF  1 FOR 5 (B, B, US2)", "20240601;202500", type="SO")
    rows = [trade("A", held, 10, "20200102;100000", isin="US1")]
    made = plan(tmp_path, flex(rows, [row]), asked=Asked(ratios={"B": Fraction(1, 5)}))
    assert (len(_fields(made, "transfer")), len(made.problems)) == ((3, 0) if fits else (0, 1))


def test_a_lot_that_cost_more_to_open_than_it_brought_does_not_go_over(tmp_path: Path) -> None:
    """A transfer's cost is signed like its quantity: half of the move would be refused."""
    text = "A(US1) CUSIP/ISIN CHANGE TO (US2) ({0}, {0}, US1)"
    actions = [action("A.OLD", 1, text.format("A.OLD"), "20240601;202500", type="IC",
                      conid=con_id("A")),
               action("B", -1, text.format("B"), "20240601;202500", type="IC")]  # fmt: skip
    for charge, fits in (("-0.5", True), ("-1", True), ("-1.05", False)):
        rows = [trade("A", -1, 1, "20240102;100000", ibCommission=charge)]
        made = plan(tmp_path, flex(rows, actions))
        assert (len(_fields(made, "transfer")), len(made.problems)) == ((2, 0) if fits else (0, 2))


def test_a_spin_off_that_takes_the_whole_cost_leaves_the_units(tmp_path: Path) -> None:
    row = action("B", 20, "A(US1) SPINOFF  1 FOR 5 (B, B, US2)", "20240601;202500", type="SO")
    rows = [trade("A", 100, 10, "20200102;100000", isin="US1")]
    made = plan(tmp_path, flex(rows, [row]), asked=Asked(ratios={"B": Fraction(1)}))
    into = [(f["symbol"], f["qty"], f["cost_basis"]) for f in _fields(made, "transfer")[1:]]
    assert into == [("A", "100", "0"), ("B", "20", "1000")]


def test_a_spin_off_is_from_the_listing_of_its_currency(tmp_path: Path) -> None:
    rows = [trade("A", 100, 10, "20200102;100000", isin="CA1", conid=conid, currency=currency)
            for conid, currency in (("7", "USD"), ("8", "CAD"))]  # fmt: skip
    for text in ("A(CA1) SPINOFF  1 FOR 5 (B, B, CA2)", "A(X9) SPINOFF  1 FOR 5 (B, B, CA2)"):
        row = action("B", 20, text, "20240601;202500", type="SO", currency="CAD")
        made = plan(tmp_path, flex(rows, [row]), asked=Asked(ratios={"B": Fraction(1, 5)}))
        assert made.problems == []
        assert [f["symbol"] for f in _fields(made, "transfer")] == ["A#8", "A#8", "B"]


def test_a_short_option_goes_over_with_its_share(tmp_path: Path) -> None:
    old, new = "FB 220617C00200000", "META 220617C00200000"
    text = "FB(US3) CUSIP/ISIN CHANGE TO (US4) ({0}, {0}, )"
    rows = [action(symbol, qty, text.format(symbol), "20220608;202500", type="IC", isin=isin,
                   conid=con_id(symbol.removesuffix(".OLD")), assetCategory=kind)
            for symbol, qty, kind, isin in (("FB.OLD", -100, "STK", "US3"),
                                            ("META", 100, "STK", "US4"),
                                            (old, 1, "OPT", ""), (new, -1, "OPT", ""))]  # fmt: skip
    trades = [
        trade("FB", 100, 200, "20220102;100000", isin="US3"),
        option(old, -1, 5, "20220102;100000", ibCommission="-1"),
        option(new, 1, 3, "20220610;100000", ibExecID="", transactionID="61"),
    ]
    made = plan(tmp_path, flex(trades, rows))
    assert made.problems == []
    assert [f["symbol"] for f in _fields(made, "transfer")] == ["FB", "META", old, new]
    _realizes(made, "flex-61", "199")


def test_the_parent_of_a_spin_off_may_stand_in_the_open_positions_only(tmp_path: Path) -> None:
    lot = element("OpenPosition", accountId=ACCOUNT, symbol="A", conid=con_id("A"), isin="US1",
                  assetCategory="STK", currency="USD", multiplier="1", position="100",
                  costBasisMoney="1000", openDateTime="20200101;000000", reportDate="20231231",
                  levelOfDetail="LOT")  # fmt: skip
    row = action("B", 20, "A(US1) SPINOFF  1 FOR 5 (B, B, US2)", "20240601;202500", type="SO")
    asked = Asked(ratios={"B": Fraction(1, 5)})
    made = plan(tmp_path, flex((), [row], OpenPositions=[lot]), asked=asked, openings=True)
    assert made.problems == []
    assert [f["cost_basis"] for f in _fields(made, "transfer")[1:]] == ["800", "200"]


@pytest.mark.parametrize(
    "known",
    [
        Known(others=frozenset({("split", ACCOUNT, "flex-1")})),
        Known(others=frozenset({("transfer", ACCOUNT, "flex-1-in0-1")})),
        Known({(ACCOUNT, "flex-1"): KnownExecution("A", "flex-1", Decimal(-5), Decimal(1), 1)}),
    ],
)
@pytest.mark.parametrize("again", [True, False])
def test_an_action_that_is_cancelled_after_it_was_published_is_listed(
    tmp_path: Path, known: Known, *, again: bool
) -> None:
    text = "A(US1) SPLIT 2 FOR 1 (A, A, US1)"
    rows = [action("A", qty, text, "20240601;202500", type="FS", transactionID=number, code=code)
            for qty, number, code in ((10, 1, ""), (-10, 2, "Ca"), (20, 3, ""))]  # fmt: skip
    texts = [flex((), rows if again else rows[:2])]
    assert len(plan(tmp_path, *texts).messages) == again
    made = plan(tmp_path, *texts, known=known)
    assert (made.messages, len(made.problems)) == ([], 1)
    assert "flex-1:" in made.problems[0].reason
    elsewhere = Known(others=frozenset({("split", "U2", "flex-1"), ("split", ACCOUNT, "flex-12")}))
    assert plan(tmp_path, *texts, known=elsewhere).problems == []


def _rights(*held: str, known: Known | None = None, directory: Path) -> Plan:
    text = "IAG(ES1) SUBSCRIBABLE RIGHTS ISSUE  1 FOR 1 (IAGN, IAG RIGHTS, ES2)"
    row = action("IAGN", 103, text, "20200910;202500", type="RI", transactionID="7")
    end = action("IAGN", -103, "(ES2) DELISTED (IAGN, IAG RIGHTS, ES2)", "20201010;202500",
                 type="DW", transactionID="8")  # fmt: skip
    return plan(directory, flex(held, [row, end]), known=known)


def test_rights_without_the_shares_that_they_are_for_are_bought_at_0(tmp_path: Path) -> None:
    shares = trade("IAG", 103, 1, "20200102;100000", isin="ES1")
    sold = trade("IAG", -103, 2, "20200103;100000", isin="ES1")
    for held in ([], [shares, sold]):
        made = _rights(*held, directory=tmp_path)
        assert (made.problems, _fields(made, "transfer")) == ([], [])
        of_rights = [f for f in _fields(made) if f["symbol"] == "IAGN"]
        assert [(f["side"], f["fill_qty"], f["fill_price"]) for f in of_rights] == [
            ("BUY", "103", "0"), ("SELL", "103", "0"),
        ]  # fmt: skip


def test_rights_come_once_with_or_without_the_shares_that_they_are_for(tmp_path: Path) -> None:
    shares = trade("IAG", 103, 1, "20200102;100000", isin="ES1")
    bought = KnownExecution("IAGN", "flex-7", Decimal(103), Decimal(0), 1599783900000)
    alone = Known({(ACCOUNT, "flex-7"): bought})
    came = Known(others=frozenset({("transfer", ACCOUNT, "flex-7-in0-1")}))
    for held, known in (([shares], alone), ([], came), ([], alone), ([shares], came)):
        made = _rights(*held, known=known, directory=tmp_path)
        assert made.problems == []
        assert [f["side"] for f in _fields(made) if f["symbol"] == "IAGN"] == ["SELL"]
        assert (_fields(made, "transfer"), made.known) == ([], 1)


def test_rights_come_at_no_cost(tmp_path: Path) -> None:
    text = "IAG(ES1) SUBSCRIBABLE RIGHTS ISSUE  1 FOR 1 (IAGN, IAG RIGHTS, ES2)"
    rows = [trade("IAG", 103, 1, "20200102;100000", isin="ES1", currency="EUR")]
    made = plan(tmp_path, flex(rows, [action("IAGN", 103, text, "20200910;202500", type="RI")]))
    [into] = _fields(made, "transfer")
    assert (into["symbol"], into["direction"], into["cost_basis"]) == ("IAGN", "IN", "0")


def test_a_move_of_more_than_is_held_is_left_out(tmp_path: Path) -> None:
    text = "A(I1) MERGED(Acquisition) WITH I2 1 FOR 1 ({}, X, I1)"
    rows = [action("A", -140, text.format("A"), "20210112;202500", type="TC"),
            action("B", 140, text.format("B"), "20210112;202500", type="TC")]  # fmt: skip
    made = plan(tmp_path, flex([trade("A", 70, 1, "20200102;100000")], rows))
    assert (_fields(made, "transfer"), len(made.problems)) == ([], 2)
    more = plan(tmp_path, flex([trade("A", 200, 1, "20200102;100000")], rows))
    assert [f["qty"] for f in _fields(more, "transfer")] == ["140", "140"]
    before = KnownEvent(1, "execution", "x", Decimal(70), Decimal(70), Decimal(1))
    known = Known(events={(ACCOUNT, "A"): [before]})
    made = plan(tmp_path, flex([trade("A", 70, 1, "20200102;100000")], rows), known=known)
    assert [f["cost_basis"] for f in _fields(made, "transfer")[1:]] == ["71", "70"]


def test_what_a_call_tells_again_is_not_booked_twice_along(tmp_path: Path) -> None:
    trades, actions = _pharma()
    asked = Asked(ratios={"801": Fraction(1, 6)})
    first = plan(tmp_path, flex(trades, actions), asked=asked)
    known = Known(
        events={
            (ACCOUNT, "NTRP"): [
                KnownEvent(1, "out", "flex-801", 110),
                KnownEvent(1, "in", "flex-801-kept-1", 100, 1, opened=1),
                KnownEvent(1, "in", "flex-801-kept-2", 10, 1, opened=2),
            ],
            (ACCOUNT, "SNPX"): [KnownEvent(1, "in", "flex-801-in0-1", 20, 1, opened=1)],
        }
    )
    again = plan(tmp_path, flex(trades, actions), asked=asked, known=known)
    assert again.messages == first.messages


def test_what_lots_have_had_laid_on_them_or_moved_is_passed_over(tmp_path: Path) -> None:
    trades, actions = _pharma()
    paid = element(
        "CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK", symbol="MAC",
        conid=con_id("MAC"), dateTime="20201203;202000", amount="50", type="Dividends",
        description="USD 0.5 PER SHARE (Return of Capital)", transactionID="81",
    )  # fmt: skip
    lots = [_open_lot("A", 10, "101", "20190105;100000", "20200831")]
    text = flex([*trades, trade("MAC", 100, 2, "20200902;100000")], actions, OpenPositions=lots,
                CashTransactions=[paid], days=("20200901", "20211231"))  # fmt: skip
    asked = Asked(ratios={"801": Fraction(1, 6)})
    first = plan(tmp_path, text, asked=asked, openings=True)
    kinds = ("opening", "split", "cost", "transfer")
    told = [each for each in first.messages if each.fields.get("type") in kinds]
    assert {each.fields["type"] for each in told} == set(kinds)
    for each in told:
        assert each.once_id == ":".join(each.fields[name] for name in
                                        ("type", "account", "exec_id"))  # fmt: skip
    others = frozenset((each.fields["type"], ACCOUNT, each.fields["exec_id"]) for each in told)
    again = plan(tmp_path, text, asked=asked, openings=True, known=Known(others=others))
    assert again.messages == [each for each in first.messages if each not in told]
    assert (again.known, again.problems) == (len(told), first.problems)


def test_a_cancelled_action_and_its_cancellation_do_nothing(tmp_path: Path) -> None:
    text = "BAM(CA1) SPLIT 2 FOR 1 (BAM, X, CA1)"
    rows = [action("BAM", qty, text, "20210726;202500", type="FS", code=code)
            for qty, code in ((55, ""), (-55, "Ca"), (60, ""))]  # fmt: skip
    [split] = _fields(plan(tmp_path, flex([], rows)), "split")
    assert split["ratio"] == "2:1"


@pytest.mark.parametrize(
    ("change", "listed"),
    [({}, 1), ({"quantity": "-0.5"}, 1), ({"assetCategory": "CASH"}, 0), ({"quantity": "0.00"}, 0),
     ({"quantity": None}, 0)],
)  # fmt: skip
def test_shares_that_came_from_elsewhere_are_listed(
    tmp_path: Path, change: dict[str, object], listed: int
) -> None:
    said = {"quantity": "25", "assetCategory": "STK", **change}
    came = element("Transfer", accountId=ACCOUNT, symbol="A", type="ACATS", direction="IN",
                   date="20240507", **said)  # fmt: skip
    made = plan(tmp_path, flex([], Transfers=[came]))
    assert (made.messages, len(made.problems)) == ([], listed)


def _transferred(direction: str, qty: object, **more: object) -> str:
    said = {"accountId": ACCOUNT, "currency": "USD", "assetCategory": "STK", "symbol": "A",
            "conid": con_id("A"), "dateTime": "20240507;202500", "type": "ACATS",
            "pnlAmount": "0", "transactionID": "71", "levelOfDetail": "TRANSFER"}  # fmt: skip
    return element("Transfer", **{**said, "direction": direction, "quantity": qty, **more})


@pytest.mark.parametrize(
    ("held", "rows", "left"),
    [
        ([10, 10], [_transferred("OUT", -12)], "12"), ([-10], [_transferred("OUT", 10)], "10"),
        ([10], [_transferred("OUT", -2, accountId="-", levelOfDetail="SUMMARY", transactionID=""),
                _transferred("OUT", -2)], "2"),
        ([10], [_transferred("OUT", qty, transactionID="") for qty in (-2, -3)], "2 3"),
        ([10, 10], [_transferred("OUT", -6), _transferred("OUT", -6, transactionID="72")], "6 6"),
        ([10], [_transferred("OUT", 10), _transferred("OUT", 10, levelOfDetail="LOT")], "10"),
        ([10], [_transferred("OUT", -11)], ""), ([10], [_transferred("OUT", -9, pnlAmount=1)], ""),
        ([10], [_transferred("", -9)], ""), ([10], [_transferred("OUT", 9, levelOfDetail="Lot")],
                                             ""),
    ],
)  # fmt: skip
def test_what_goes_to_another_broker_leaves_the_oldest_first(
    tmp_path: Path, held: list[int], rows: list[str], left: str
) -> None:
    trades = [trade("A", qty, 5, f"2024010{day};100000") for day, qty in enumerate(held, start=1)]
    made = plan(tmp_path, flex(trades, Transfers=rows))
    told = [(f["direction"], f["qty"]) for f in _fields(made, "transfer")]
    assert told == [("OUT", qty) for qty in left.split()]
    assert len(made.problems) == (0 if left else 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_goes_between_accounts_of_one_owner_keeps_its_lots(tmp_path: Path, sign: int) -> None:
    other = {"accountId": "U2", "account": ACCOUNT, "type": "INTERNAL", "transactionID": "9"}
    went = _transferred("OUT", sign * -12, type="INTERNAL", account="U2")
    came = _transferred("IN", sign * 12, **other)
    trades = [trade("A", sign * 10, 5, f"2024010{day};100000", ibCommission="-1") for day in (1, 2)]
    ends = trade("A", sign * -12, 7, "20240601;100000", accountId="U2", transactionID="61",
                 ibExecID="")  # fmt: skip
    made = plan(tmp_path, flex([*trades, ends], Transfers=[came, went]))
    assert made.problems == []
    told = [(f["account"], f["direction"], f["qty"]) for f in _fields(made, "transfer")]
    assert told == [(ACCOUNT, "OUT", "12"), ("U2", "IN", f"{sign * 10}"),
                    ("U2", "IN", f"{sign * 2}")]  # fmt: skip
    _realizes(made, "flex-61", f"{sign * 24 - Decimal('1.2')}")
    alone = plan(tmp_path, flex([ends], Transfers=[came]))
    assert (_fields(alone, "transfer"), len(alone.problems)) == ([], 1)


def test_openings_do_not_follow_from_a_last_day_behind_a_transfer(tmp_path: Path) -> None:
    lot = _open_lot("A", 8, "40", "20230105;100000", "20241231")
    made = plan(tmp_path, flex([], Transfers=[_transferred("OUT", -12)], OpenPositions=[lot]),
                openings=True)  # fmt: skip
    assert (made.messages, len(made.problems)) == ([], 2)


@pytest.mark.parametrize("number", ["71", ""])
def test_actions_and_cash_that_several_files_tell_are_taken_once(
    tmp_path: Path, number: str
) -> None:
    said = {"type": "SD", "isin": "US9", "transactionID": number}
    text = "VUG(US9) STOCK DIVIDEND US9 1 FOR 10 (VUG, VUG, US9)"
    rows = [action("VUG", 10, text, "20200508;202500", **said),
            action("VUG", 11, text, "20200608;202500",
                   **{**said, "transactionID": number and "72"}),
            action("VUG", 10, text, "20200508;202500", levelOfDetail="SUMMARY",
                   **{**said, "transactionID": number and "73"})]  # fmt: skip
    paid = {"accountId": ACCOUNT, "currency": "USD", "assetCategory": "STK", "symbol": "VUG",
            "conid": con_id("VUG"), "dateTime": "20200401", "amount": "10", "type": "Dividends",
            "description": "USD 0.1 PER SHARE (Return of Capital)"}  # fmt: skip
    cash = [element("CashTransaction", transactionID=number, levelOfDetail="DETAIL", **paid),
            element("CashTransaction", levelOfDetail="SUMMARY", **paid)]  # fmt: skip
    trades = [trade("VUG", 100, 1, "20200102;100000")]
    made = plan(tmp_path, flex(trades, rows, CashTransactions=cash),
                flex([], rows[:1], CashTransactions=cash[:1]))  # fmt: skip
    assert made.problems == []
    assert dict(made.counts) == {"execution": 1, "split": 2, "cost": 1}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("B", -5, "X(I1) SPLIT 2 FOR 1 (X, X, I1)", {"code": "Ca"})], "action that this row can"),
        ([("X", 0, "X(I1) SPLIT 2 FOR 1 (X, X, I1)", {})], "a quantity other than 0"),
        ([("X", 5, "X(I1) SPLIT (X, X, I1)", {})], "one ratio such as"),
        ([("X", 5, "X(I1) SPLIT 2 FOR 1 OR 3 FOR 1 (X, X, I1)", {})], "one ratio such as"),
        ([("X", 5, "X(I1) SPLIT 0 FOR 1 (X, X, I1)", {})], "one ratio such as"),
        ([("X", 5, "X(I1) SPLIT 1 FOR 1 (X, X, I1)", {})], "ratio other than 1"),
        ([("X", q, "X(I1) SPLIT 2 FOR 1 (X, X, I1)", {}) for q in (1, 2, 3)], "one row or two"),
        ([("X", 10, "Y(I2) STOCK DIVIDEND I1 1 FOR 10 (X, X, I1)", {"type": "SD", "isin": "I1"})],
         "in its own shares"),
        ([("X", -10, "X(I1) CUSIP/ISIN CHANGE TO (I2) (X, X, I1)", {"type": "IC"}),
          ("Z", 9, "X(I1) CUSIP/ISIN CHANGE TO (I2) (Z, Z, I2)", {"type": "IC"})],
         "as much going as coming"),
        ([("X", -10, "X(I1) MERGED(Acquisition) (X, X, I1)", {"type": "TC"}),
          ("Z", -9, "X(I1) MERGED(Acquisition) (Z, Z, I2)", {"type": "TC"})], "one row that goes"),
        ([("X", 10, "Nobody(I9) SPINOFF 1 FOR 5 (X, X, I1)", {"type": "SO"})], "the parent's row"),
        ([("X", 10, "X(I1) SOMETHING (X, X, I1)", {"type": "ZZ"})], "found type 'ZZ'"),
    ],
)  # fmt: skip
def test_an_action_that_cannot_be_said_is_listed_with_each_of_its_rows(
    tmp_path: Path, rows: list[tuple[str, int, str, dict[str, object]]], reason: str
) -> None:
    actions = [action(symbol, qty, text, "20210726;202500", **said)
               for symbol, qty, text, said in rows]  # fmt: skip
    made = plan(tmp_path, flex([], actions))
    assert (made.messages, len(made.problems)) == ([], len(rows))
    assert reason in made.problems[0].reason


@pytest.mark.parametrize(("share", "other", "fits"), [("0.4", "0.6", True), ("0.4", "0.5", False)])
def test_shares_of_a_merger_add_up(tmp_path: Path, share: str, other: str, fits: bool) -> None:
    text = "A(I1) MERGED(Acquisition) WITH I2 1 FOR 1 ({}, X, I1)"
    rows = [action(symbol, qty, text.format(symbol), "20210112;202500", type="TC")
            for symbol, qty in (("A", -10), ("B", 10), ("C", 10))]  # fmt: skip
    asked = Asked(ratios={"B": Fraction(share), "C": Fraction(other)})
    made = plan(tmp_path, flex([trade("A", 10, 10, "20200102;100000")], rows), asked=asked)
    costs = [f["cost_basis"] for f in _fields(made, "transfer") if f["direction"] == "IN"]
    assert costs == (["40", "60"] if fits else [])
    assert len(made.problems) == (0 if fits else 3)


@pytest.mark.parametrize(("share", "fits"), [("1", True), ("1.01", False)])
def test_a_spin_off_takes_no_more_than_the_whole_cost(
    tmp_path: Path, share: str, *, fits: bool
) -> None:
    asked = Asked(ratios={"801": Fraction(share)})
    made = plan(tmp_path, flex(*_pharma()), asked=asked)
    assert any("add up" in problem.reason for problem in made.problems) != fits


# --- openings ------------------------------------------------------------------------------------


def _open_lot(symbol: str, qty: int, cost: str, opened: str, day: str) -> str:
    return element("OpenPosition", accountId=ACCOUNT, symbol=symbol, conid=con_id(symbol),
                   assetCategory="STK", currency="USD", position=qty, costBasisMoney=cost,
                   openDateTime=opened, reportDate=day, levelOfDetail="LOT")  # fmt: skip


def test_lots_of_the_day_before_are_openings(tmp_path: Path) -> None:
    day_before = flex([], OpenPositions=[
        _open_lot("A", 10, "101", "20230105;100000", "20231231"),
        _open_lot("A", 5, "61", "20230205;100000", "20231231"),
    ])  # fmt: skip
    traded = flex([trade("A", -12, 20, "20240102;100000", ibExecID="", transactionID="61")])
    made = plan(tmp_path, traded, day_before, openings=True)
    assert made.problems == []
    assert [(f["qty"], f["cost_basis"], f["timestamp"]) for f in _fields(made, "opening")] == [
        ("10", "101", "1672930800000"), ("5", "61", "1675609200000"),
    ]  # fmt: skip
    _realizes(made, "flex-61", "114.6")


@pytest.mark.parametrize(("end", "opened"), [(6, ["10"]), (5, [])])
def test_a_statement_of_the_day_before_begins_no_year_and_what_follows_must_fit(
    tmp_path: Path, end: int, opened: list[str]
) -> None:
    before, after = (
        _open_lot("A", qty, "101", "20230105;100000", day)
        for qty, day in ((10, "20231231"), (end, "20241231"))
    )
    texts = [flex(OpenPositions=[before], days=("20231231", "20231231")),
             flex([trade("A", -4, 20, "20240102;100000")], OpenPositions=[after])]  # fmt: skip
    made = plan(tmp_path, *texts, openings=True)
    assert [f["qty"] for f in _fields(made, "opening")] == opened
    assert len(made.problems) == 1 - len(opened)


def test_lots_that_are_alike_are_several_and_files_that_are_alike_one(tmp_path: Path) -> None:
    lots = [_open_lot("A", 10, "101", "20230105;100000", "20231231")] * 2
    lots += [_open_lot("A", 3, "9", "20230106;100000", "20231130")]  # of an earlier day
    day_before = flex([], OpenPositions=lots)
    made = plan(tmp_path, day_before, day_before, flex([trade("A", -12, 20, "20240102;100000")]),
                openings=True)  # fmt: skip
    assert [(f["qty"], f["exec_id"][-2:]) for f in _fields(made, "opening")] == [
        ("10", "-1"), ("10", "-2"),
    ]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_openings_are_of_the_first_day_of_all_files(tmp_path: Path, *, turned: bool) -> None:
    lots = [_open_lot("A", 10, "101", "20230105;100000", "20231231")]
    files = [flex([trade("A", -1, 20, "20240102;100000")], OpenPositions=lots),
             flex([trade("A", -1, 20, "20240302;100000")],
                  days=("20240301", "20240331"))]  # fmt: skip
    made = plan(tmp_path, *(files[::-1] if turned else files), openings=True)
    assert [f["exec_id"] for f in _fields(made, "opening")] == ["flex-open-1704085200000-1"]


def test_what_was_busted_was_not_traded_since_an_opening(tmp_path: Path) -> None:
    lots = [_open_lot("A", 5, "61", "20230205;100000", "20241231")]
    rows = [
        trade("A", 9, 20, "20240102;100000", tradeID="7"),
        trade("A", -9, 20, "20240102;100000", tradeID="", origTradeID="7", ibExecID="",
              transactionID="", transactionType="TradeCancel", buySell="BUY (Ca.)"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows, OpenPositions=lots), openings=True)
    assert ([f["qty"] for f in _fields(made, "opening")], made.problems) == (["5"], [])


def test_openings_that_nothing_proves_are_listed(tmp_path: Path) -> None:
    rows = [trade("A", -10, 20, "20240102;100000")]
    nothing = plan(tmp_path, flex(rows), openings=True)
    assert "level of detail Lot" in nothing.problems[0].reason
    lots = [_open_lot("A", 5, "61", "20230205;100000", "20241231")]
    closed = trade("A", -10, "20", "20240102;100000", levelOfDetail="CLOSED_LOT", cost="101",
                   openDateTime="20230105;100000", ibExecID="")  # fmt: skip
    split = action("A", 5, "A(I1) SPLIT 2 FOR 1 (A, A, I1)", "20240301;000000", type="FS")
    acted = plan(tmp_path, flex([*rows, closed], [split], OpenPositions=lots), openings=True)
    assert _fields(acted, "opening") == []
    assert "no corporate action" in acted.problems[-1].reason


def test_the_last_days_lots_less_what_was_traded_are_openings(tmp_path: Path) -> None:
    closed = trade("A", -10, "20", "20240102;100000", levelOfDetail="CLOSED_LOT", cost="101",
                   openDateTime="20230105;100000", ibExecID="")  # fmt: skip
    rows = [trade("A", -10, 20, "20240102;100000"), closed]
    lots = [_open_lot("A", 5, "61", "20230205;100000", "20241231")]
    made = plan(tmp_path, flex(rows, OpenPositions=lots), openings=True)
    assert made.problems == []
    assert [f["qty"] for f in _fields(made, "opening")] == ["10", "5"]
    unproven = plan(tmp_path, flex(rows[:1], OpenPositions=lots), openings=True)
    assert (_fields(unproven, "opening"), len(unproven.problems)) == ([], 1)


@pytest.mark.parametrize(("traded", "places"), [(300, None), ("300.0001", "4")])
def test_what_a_split_leaves_moves_with_a_rename(
    tmp_path: Path, traded: object, places: str | None
) -> None:
    text = "PEIX(US69423U3059) SPLIT 1 FOR 3 (PEIX, P, US69423U3059)"
    split = action("PEIX", -200 if places is None else "-200.0001", text, "20200508;202500",
                   type="RS")  # fmt: skip
    rows = flex([trade("PEIX", traded, 1, "20200102;100000")], [split, *_renamed()])
    made = plan(tmp_path, rows)
    assert made.problems == []
    [told] = _fields(made, "split")
    assert told.get("places") == places
    _, into = _fields(made, "transfer")
    assert (into["qty"], into["cost_basis"]) == ("100", str(traded))


@pytest.mark.parametrize("again", [False, True])
def test_an_opening_moves_once_with_what_a_file_tells(tmp_path: Path, *, again: bool) -> None:
    lots = [_open_lot("PEIX", 100, "170", "20190105;100000", "20191231")]
    rows = flex([], _renamed(), OpenPositions=lots, days=("20200101", "20211231"))
    event = KnownEvent(1546700400000, "opening", "flex-open-1577854800000-1", 100, 170)
    known = Known(events={(ACCOUNT, "PEIX"): [event]} if again else {})
    made = plan(tmp_path, rows, known=known, openings=True)
    assert (len(_fields(made, "opening")), made.problems) == (1, [])
    assert [fields["qty"] for fields in _fields(made, "transfer")] == ["100", "100"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (KnownEvent(1704085199999, "execution", "x"), "nothing known of what was before"),
        (KnownEvent(1704085200000, "execution", "x", 1), ""),
        (KnownEvent(1, "opening", "opening", 1), "no opening that is known"),
        (KnownEvent(1, "opening", "opening", 0), ""),  # it was taken back
        (KnownEvent(1, "opening", "flex-open-1704085200000-1", 1), ""),
        (KnownEvent(1, "opening", "flex-open-1704085200001-1", 1), "no opening that is known"),
    ],
)
def test_openings_go_to_keys_of_which_nothing_from_before_is_known(
    tmp_path: Path, event: KnownEvent, reason: str
) -> None:
    rows = flex([trade("A", -5, 20, "20240102;100000")], OpenPositions=[
        _open_lot("A", 10, "101", "20230105;100000", "20231231")])  # fmt: skip
    known = Known(events={(ACCOUNT, "A"): [event]})
    made = plan(tmp_path, rows, known=known, openings=True)
    assert (len(_fields(made, "opening")), len(made.problems)) == (not reason, bool(reason))
    assert all(reason in problem.reason for problem in made.problems)


def test_what_an_opening_stands_for_is_not_taken_again(tmp_path: Path) -> None:
    rows = [trade("A", 1, 1, "20231230;100000"), trade("A", 2, 1, "20240101;000000"),
            _row(dateTime="20231230;100000")]  # fmt: skip
    since = {(ACCOUNT, "A"): 1704085200000}
    made = plan(tmp_path, flex(rows[:2]), known=Known(opened_since=since))
    assert [fields["fill_qty"] for fields in _fields(made)] == ["2"]
    assert len(made.problems) == 1
    # What was known itself, as a late execution, is no news.
    known = Known(_known(time=1703948400000).executions, opened_since=since)
    made = plan(tmp_path, flex(rows[2:]), known=known)
    assert (made.messages, made.problems, made.known) == ([], [], 1)


def test_an_action_from_before_the_openings_of_its_call_is_in_them(tmp_path: Path) -> None:
    lot = _open_lot("A", 20, "40", "20230105;100000", "20231231")
    paid = element("CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK",
                   symbol="A", conid=con_id("A"), dateTime="20230301", amount="2", type="Dividends",
                   description="USD 0.1 PER SHARE (Return of Capital)")  # fmt: skip
    split = action("A", 10, "A(US1) SPLIT 2 FOR 1 (A, A, US1)", "20240601;202500", type="FS")
    rows = [trade("A", -10, 5, "20240105;100000")]
    texts = [flex(CashTransactions=[paid], days=("20230101", "20231231")), flex(rows, [split]),
             flex(OpenPositions=[lot], days=("20231231", "20231231"))]  # fmt: skip
    made = plan(tmp_path, *texts, openings=True)
    assert dict(made.counts) == {"opening": 1, "execution": 1, "split": 1}
    assert [problem.row["kind"] for problem in made.problems] == ["Dividends"]


@pytest.mark.parametrize(
    ("symbol", "qty", "text", "kind"),
    [
        ("A", 10, "A(US1) SPLIT 2 FOR 1 (A, A, US1)", "split"),
        ("A", -10, "A(US1) (DELISTED) (A, A, US1)", ""),
        ("N", 2, "A(US1) SPINOFF  1 FOR 5 (N, N, US9)", "transfer"),
        ("A", -10, "", "transfer"), ("A", 1, "USD 0.1 PER SHARE (Return of Capital)", "cost"),
    ],
)  # fmt: skip
def test_actions_that_an_opening_stands_for_are_not_taken_again(
    tmp_path: Path, symbol: str, qty: int, text: str, kind: str
) -> None:
    held = KnownEvent(1, "opening", "flex-open-1-1", 10, 50)
    rows = [trade("A", 1, 1, "20260102;100000", isin="US1")]
    if kind == "cost":
        paid = element("CashTransaction", accountId=ACCOUNT, currency="USD", assetCategory="STK",
                       symbol="A", conid=con_id("A"), dateTime="20230301", amount=qty,
                       type="Dividends", description=text, transactionID="71")  # fmt: skip
        file = flex(rows, CashTransactions=[paid])
    elif text:
        acts = [action(symbol, qty, text, "20230301;202500", transactionID="71")]
        file = flex(rows, acts)
    else:
        file = flex(rows, Transfers=[_transferred("OUT", qty, dateTime="20230301")])
    for since, published, left_out in ((0, False, 0), (1, False, 1), (1, True, 0)):
        known = Known(
            {(ACCOUNT, "flex-71"): KnownExecution("A", "flex-71", Decimal(-10), Decimal(0), 1)}
            if published and not kind else {},
            frozenset({(kind, ACCOUNT, "flex-71")} if published else ()), {(ACCOUNT, "A"): [held]},
            {(ACCOUNT, "A"): since * 1704085200000},
        )  # fmt: skip
        made = plan(tmp_path, file, known=known, asked=Asked({"N": Fraction(1, 5)}))
        assert len(made.problems) == left_out
        assert len(made.messages) == 1 or not left_out


# --- names ---------------------------------------------------------------------------------------


def test_a_contract_keeps_its_name_and_takes_no_others(tmp_path: Path) -> None:
    rows = [
        trade("META", 1, 1, "20240102;100000", conid="107113386"),
        trade("SHOP", 1, 1, "20240102;100000", conid="1", listingExchange="NYSE"),
        trade("SHOP", 1, 1, "20240103;100000", conid="2", listingExchange="TSE"),
        trade("SHOP", 1, 1, "20240104;100000", conid="3"),
    ]  # fmt: skip
    made = plan(tmp_path, flex(rows), names={"107113386": "FB"})
    assert [f["symbol"] for f in _fields(made)] == ["FB", "SHOP", "SHOP@TSE", "SHOP#3"]


def test_the_first_in_time_gets_the_plain_name(tmp_path: Path) -> None:
    text = "A(I1) SUBSCRIBABLE RIGHTS ISSUE  1 FOR 1 (SHOP, X, I2)"
    rights = action("SHOP", 10, text, "20240201;000000", type="RI", conid="2")
    rows = [trade("A", 10, 1, "20240101;100000", isin="I1"),
            trade("SHOP", 1, 1, "20240102;100000", conid="1")]  # fmt: skip
    made = plan(tmp_path, flex(rows, [rights]))
    assert [f["symbol"] for f in _fields(made)] == ["A", "SHOP"]
    assert [f["symbol"] for f in _fields(made, "transfer")] == ["SHOP#2"]


def test_a_split_keeps_the_key_also_under_a_new_ticker(tmp_path: Path) -> None:
    text = "OLD(I1) SPLIT 1 FOR 10 ({}, X, {})"
    rows = [action("OLD", -100, text.format("OLD", "I1"), "20240201;000000", isin="I1"),
            action("NEW", 10, text.format("NEW", "I2"), "20240201;000000", isin="I2",
                   actionID="")]  # fmt: skip
    made = plan(tmp_path, flex([trade("OLD", 100, 1, "20240102")], rows))
    assert dict(made.counts) == {"execution": 1, "split": 1, "instrument": 1}
    assert {message.fields["symbol"] for message in made.messages} == {"OLD"}


def test_all_names_are_given_before_anything_is_planned(tmp_path: Path) -> None:
    trades, actions = _pharma()
    actions += [
        *_renamed(), action("GONE", -5, "GONE(I8) (DELISTED) (GONE, G, I8)", "20210101", type="DW"),
        action("HALF", 5, "HALF(I9) SPLIT 2 FOR 1 (HALF, H, I9)", "20210101", type="FS"),
    ]  # fmt: skip
    asked = Asked(ratios={"801": Fraction(1, 6)})
    draft, names = Draft(contents(tmp_path, flex(trades[:1], actions)), asked), Names({})
    watched = draft.watched(names)
    given = set(names.new)
    Planner(draft, Known(), names, watched).plan()
    assert set(names.new) == given  # as they are remembered before anything is published
    assert {named.names[0] for named in names.new.values()} == {
        "NTRP", "SNPX", "PTPI", "PEIX", "ALTO", "GONE", "HALF",
    }  # fmt: skip


def test_accounts_of_one_file_are_kept_apart(tmp_path: Path) -> None:
    rows = [trade("A", 1, 1, "20240102;100000", accountId=account) for account in ("U1", "-", "")]
    made = plan(tmp_path, flex(rows, account="U9"))
    assert sorted(f["account"] for f in _fields(made)) == ["U1", "U9", "U9"]
