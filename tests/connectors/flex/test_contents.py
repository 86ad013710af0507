"""Which rows of files count, how often, and what is told of those that do not."""

from pathlib import Path

import pytest

from connectors.flex.contents import Contents
from connectors.flex.draft import Asked, Draft
from connectors.flex.times import read_time
from tests.support.flex_files import (
    ACCOUNT,
    NEW_YORK,
    action,
    con_id,
    contents,
    element,
    flex,
    trade,
)


def counts(found: Contents) -> tuple[int, int, int, int]:
    """Return how many executions, orders, closed lots and problems there are."""
    lots = found.closed_lots.total()
    return len(found.trades), len(found.orders), lots, len(found.problems)


def row(tag: str = "Trade", **more: object) -> str:
    said = {"cost": "5", "openDateTime": "20240101;100000", **more}
    return trade("A", 1, 1, "20240102;100000", **said).replace("<Trade ", f"<{tag} ")


@pytest.mark.parametrize(
    ("trades", "alone"),
    [
        ([row(levelOfDetail="SYMBOL_SUMMARY")], 1), ([row(levelOfDetail="CLOSED_LOT")] * 2, 1),
        ([row(levelOfDetail="ASSET_SUMMARY", conid="", symbol="")], 1),
        ([row(levelOfDetail="SYMBOL_SUMMARY", conid=""), row()], 0),
        ([row(levelOfDetail="ASSET_SUMMARY", conid="", symbol=""), row(levelOfDetail="ORDER")], 0),
        ([row(levelOfDetail="SYMBOL_SUMMARY", conid="7", symbol="B"), row()], 1),
        ([row(levelOfDetail="WASH_SALE")], 0),
    ],
)  # fmt: skip
def test_sums_of_trades_that_are_told_in_no_other_way_are_listed(
    tmp_path: Path, trades: list[str], alone: int
) -> None:
    found = contents(tmp_path, flex(trades))
    assert (found.problems, len(found.sums_alone())) == ([], alone)
    assert len(Draft(found, Asked()).plan.problems) >= alone


def test_what_a_corporate_action_closed_is_told_by_it(tmp_path: Path) -> None:
    ends = action("A", -1, "A(I) ENDS (A, A, I)", "20240102")
    assert contents(tmp_path, flex([row(levelOfDetail="CLOSED_LOT")], [ends])).sums_alone() == []


def test_a_sum_of_a_return_of_capital_alone_is_listed(tmp_path: Path) -> None:
    rows = [_cash(symbol="A", levelOfDetail=level) for level in ("Summary", "Detail")]
    for told, alone in ((rows[:1], 1), (rows, 0)):
        found = contents(tmp_path, flex(CashTransactions=told))
        assert (found.problems, len(found.sums_alone())) == ([], alone)


@pytest.mark.parametrize("section", ["StockGrantActivities", "TradeTransfers"])
def test_what_comes_or_goes_in_another_way_is_listed(tmp_path: Path, section: str) -> None:
    came = element("Row", accountId=ACCOUNT, symbol="A", conid=con_id("A"), quantity="0.677")
    text = flex([], Section=[came]).replace("Section>", f"{section}>")
    found = contents(tmp_path, text)
    assert (len(found.problems), dict(found.passed_over)) == (1, {})
    assert section in found.problems[0].reason


@pytest.mark.parametrize(
    ("text", "counted", "passed_over"),
    [
        (row(), (1, 0, 0, 0), {}), (row(levelOfDetail="execution"), (1, 0, 0, 0), {}),
        (row("TradeConfirm", levelOfDetail=None), (1, 0, 0, 0), {}),
        (row("TradeConfirmation", levelOfDetail=None), (1, 0, 0, 0), {}),
        (row(levelOfDetail=None), (1, 0, 0, 0), {}),
        (row("Order", levelOfDetail=None), (0, 1, 0, 0), {}),
        (row(levelOfDetail="Order"), (0, 1, 0, 0), {}),
        (row("Lot", levelOfDetail=None), (0, 0, 1, 0), {}),
        (row(levelOfDetail="LOT"), (0, 0, 1, 0), {}),
        (row(levelOfDetail="ClosedLot"), (0, 0, 1, 0), {}),
        (row(levelOfDetail="CLOSED_LOT"), (0, 0, 1, 0), {}),
        *[
            (row(levelOfDetail=level), (0, 0, 0, 0), {f"Trades ({level.lower()})": 1})
            for level in ("SYMBOL_SUMMARY", "ASSET_SUMMARY", "WASH_SALE", "SUMMARY")
        ],
        *[
            (row(tag, levelOfDetail=None), (0, 0, 0, 0), {f"Trades ({tag.lower()})": 1})
            for tag in ("SymbolSummary", "AssetSummary", "WashSale")
        ],
        (row("Galaxy", levelOfDetail=None), (0, 0, 0, 1), {}),
    ],
)  # fmt: skip
def test_a_row_of_trades_is_what_its_level_of_detail_says_or_its_name(
    tmp_path: Path, text: str, counted: tuple[int, ...], passed_over: dict[str, int]
) -> None:
    found = contents(tmp_path, flex([text]))
    assert (counts(found), dict(found.passed_over)) == (counted, passed_over)


@pytest.mark.parametrize("section", ["Trades", "TradeConfirms", "TradeConfirmations"])
def test_executions_stand_in_sections_of_several_names(tmp_path: Path, section: str) -> None:
    assert counts(contents(tmp_path, flex([row()], section=section))) == (1, 0, 0, 0)


def _open_lot(**more: object) -> str:
    said = {"accountId": ACCOUNT, "symbol": "A", "conid": con_id("A"), "assetCategory": "STK",
            "position": 10, "costBasisMoney": 20, "openDateTime": "20230105;100000",
            "reportDate": "20231231", "levelOfDetail": "LOT", **more}  # fmt: skip
    return element("OpenPosition", **said)


def test_lots_that_are_alike_are_several_in_one_file_and_the_same_in_two(tmp_path: Path) -> None:
    closed, opened = row(levelOfDetail="LOT"), _open_lot()
    once = flex([closed], OpenPositions=[opened])
    twice = flex([closed] * 2, OpenPositions=[opened] * 2)
    for files in ([once, twice], [twice, once, twice]):
        found = contents(tmp_path, *files)
        assert (found.closed_lots.total(), found.open_lots.total()) == (2, 2)


def test_only_lots_of_open_positions_count(tmp_path: Path) -> None:
    rows = [_open_lot(levelOfDetail="Lot"), _open_lot(levelOfDetail="SUMMARY"), _open_lot(
        levelOfDetail=None)]  # fmt: skip
    found = contents(tmp_path, flex(OpenPositions=rows, days=("20231201", "20231231")))
    assert found.open_lots.total() == 1
    assert dict(found.passed_over) == {"OpenPositions (not lots)": 2}
    assert (found.first_days, found.lot_days) == (set(), {(ACCOUNT, "20231201")})


@pytest.mark.parametrize(("account", "of"), [("U1", "U1"), ("-", ""), ("", "")])
def test_of_which_day_the_open_positions_are_told_is_kept_also_where_there_is_none(
    tmp_path: Path, account: str, of: str
) -> None:
    told = flex([row(accountId="U5")], account=account, days=("20240101", "20240131"))
    assert contents(tmp_path, told).told_open == set()
    found = contents(tmp_path, told.replace("<Trades>", "<OpenPositions/><Trades>"))
    assert (found.told_open, found.first_days) == ({(of, "20240131")}, {("U5", "20240101")})


def test_a_day_of_which_positions_are_told_is_that_of_the_rows(tmp_path: Path) -> None:
    text = flex(OpenPositions=[_open_lot()], days=("20231201", "20240101"))
    assert contents(tmp_path, text).told_open == {(ACCOUNT, "20231231")}
    of_all = text.replace(f'FlexStatement accountId="{ACCOUNT}"', 'FlexStatement accountId="-"')
    assert contents(tmp_path, of_all).told_open == {("", "20231231")}


def test_a_statement_whose_days_have_two_readings_says_so_once(tmp_path: Path) -> None:
    text = flex([row(), row()], OpenPositions=[_open_lot()], days=("05/06/2024", "05/07/2024"))
    found = contents(tmp_path, text, text)
    assert [problem.row for problem in found.problems] == [{"section": "FlexStatement"}] * 2
    assert "day and month" in found.problems[0].reason
    assert (found.first_days, found.told_open) == ({(ACCOUNT, "")}, {(ACCOUNT, "20231231")})
    # What was held is then what was before the first trade.
    [opening] = Draft(found, Asked(), openings=True).openings
    assert opening.since == read_time("20240102;100000", NEW_YORK)


@pytest.mark.parametrize(
    ("times", "zoneless"),
    [(["20240102;100000 EST"], False), (["20240102;100000"], True),
     (["20240102;100000", "20240103;100000 EST"], True), ([], False)],
)  # fmt: skip
def test_whether_a_time_names_no_zone_is_told(
    tmp_path: Path, times: list[str], *, zoneless: bool
) -> None:
    assert contents(tmp_path, flex([row(dateTime=time) for time in times])).zoneless == zoneless


def test_of_rows_that_cannot_be_read_and_of_sections_nobody_knows_is_told(tmp_path: Path) -> None:
    found = contents(
        tmp_path,
        flex(
            [row(quantity="x")],
            OptionEAE=[element("OptionEAE", a="1")],
            Transfers=[element("Transfer", quantity="1", odd="2")],
        ),
    )
    assert dict(found.passed_over) == {"OptionEAE": 1}
    shown, other = (problem.row for problem in found.problems)
    assert {"section": "Trades", "symbol": "A", "quantity": "x"}.items() <= shown.items()
    assert "ibCommission" not in shown
    assert other == {"section": "Transfers", "quantity": "1"}
    unnamed = contents(tmp_path, flex([element("Trade", odd="2")]))
    assert unnamed.problems[0].row == {"section": "Trades", "odd": "2"}


def _action(**more: object) -> str:
    text = "A(I1) SPLIT 2 FOR 1 (A, A, I1)"
    said = {"qty": 1, "text": text, "when": "20240103", "transactionID": "", **more}
    return action("A", said.pop("qty"), str(said.pop("text")), str(said.pop("when")), **said)


def _cash(**more: object) -> str:
    said = {"accountId": ACCOUNT, "symbol": "A", "dateTime": "20240103", "amount": "1",
            "type": "Dividends", "description": "(Return of Capital)",
            "levelOfDetail": "DETAIL", **more}  # fmt: skip
    return element("CashTransaction", **said)


@pytest.mark.parametrize(
    ("change", "actions"),
    [
        ({}, 1), ({"transactionID": "8"}, 2), ({"accountId": "U2"}, 2), ({"qty": 2}, 2),
        ({"text": "A(I1) SPLIT 3 FOR 1 (A, A, I1)"}, 2), ({"when": "20240104"}, 2),
        ({"conid": "9"}, 2), ({"reportDate": "20240105"}, 2), ({"code": "Ca"}, 2),
    ],
)  # fmt: skip
def test_an_action_is_the_same_if_all_that_tells_it_is(
    tmp_path: Path, change: dict[str, object], actions: int
) -> None:
    found = contents(tmp_path, flex((), [_action()]), flex((), [_action(**change)]))
    assert len(found.actions) == actions


def test_of_an_action_with_a_number_the_number_tells(tmp_path: Path) -> None:
    rows = [_action(transactionID="8", qty=qty, accountId=account)
            for qty, account in ((1, "U1"), (2, "U1"), (1, "U2"))]  # fmt: skip
    assert len(contents(tmp_path, flex((), rows)).actions) == 2


@pytest.mark.parametrize(
    ("change", "cash"),
    [
        ({}, 1), ({"transactionID": "8"}, 2), ({"accountId": "U2"}, 2), ({"amount": "2"}, 2),
        ({"dateTime": "20240104"}, 2), ({"description": "another Return of Capital"}, 2),
        ({"levelOfDetail": "Summary"}, 1), ({"description": "(Ordinary Dividend)"}, 1),
        ({"description": "x", "type": "Return of Capital"}, 2),
        ({"description": "x", "type": "Commission Adjustments"}, 2),
        ({"description": "Commission Adjustments"}, 1), ({"type": "Withholding Tax"}, 1),
    ],
)  # fmt: skip
def test_cash_counts_if_it_changes_what_something_cost_and_once(
    tmp_path: Path, change: dict[str, object], cash: int
) -> None:
    files = [flex(CashTransactions=[_cash(**more)]) for more in ({}, change)]
    found = contents(tmp_path, *files)
    assert len(found.cash) == cash
    passed_over = found.passed_over["CashTransactions"]
    assert passed_over == (cash == 1 and bool(change))
    assert {each.time for each in found.cash.values()} >= {read_time("20240103", NEW_YORK)}


@pytest.mark.parametrize(
    ("change", "listed"),
    [({}, True), ({"quantity": "-0.5"}, True), ({"quantity": "-0.00"}, False),
     ({"quantity": "--"}, False), ({"assetCategory": "CASH"}, False)],
)  # fmt: skip
def test_a_transfer_of_units_is_listed_and_one_of_money_is_passed_over(
    tmp_path: Path, change: dict[str, object], *, listed: bool
) -> None:
    said = {"symbol": "A", "assetCategory": "STK", "quantity": "25", **change}
    found = contents(tmp_path, flex(Transfers=[element("Transfer", **said)]))
    assert (len(found.problems), found.passed_over["Transfers"]) == (listed, not listed)
