"""What files prove of what was held before their first trade."""

from pathlib import Path

import pytest

from connectors.flex.openings import openings
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

BEGIN = read_time("20240101", NEW_YORK)
Found = tuple[list[tuple[str, int, str]], list[str]]


def opened(day: str) -> str:
    return f"{day};100000"


def lot(qty: int, since: str, day: str, symbol: str = "A", **more: object) -> str:
    said = {"accountId": ACCOUNT, "symbol": symbol, "conid": con_id(symbol),
            "openDateTime": opened(since), **more}  # fmt: skip
    return element("OpenPosition", position=qty, costBasisMoney=qty, reportDate=day,
                   levelOfDetail="LOT", **said)  # fmt: skip


def closed(qty: int, since: str, when: str) -> str:
    return trade("A", qty, 1, when, levelOfDetail="CLOSED_LOT", cost=1, openDateTime=opened(since),
                 ibExecID="")  # fmt: skip


def found(directory: Path, *texts: str, begin: int | None = BEGIN) -> Found:
    """Return the openings by symbol, quantity and id, and the symbols of what is not proven."""
    read = contents(directory, *texts)
    assert read.problems == []
    moments = {} if begin is None else {ACCOUNT: begin}
    proven, problems = openings(read, read.trades.values(), moments)
    return (
        [(each.contract.symbol, int(each.lot.qty), each.id) for each in proven],
        [problem.row.get("symbol") or problem.row["instrument"] for problem in problems],
    )


@pytest.mark.parametrize(("when", "known", "proven"), [
    ("20231231;180000", True, [1]), ("20231231;040000", True, [1]), ("20231231;180000", False, []),
])  # fmt: skip
def test_a_trade_from_before_the_first_day_belongs_to_it(
    tmp_path: Path, when: str, proven: list[int], *, known: bool
) -> None:
    text = flex([trade("A", 2, 1, when)], OpenPositions=[lot(1, "20230103", "20231231")])
    assert quantities(found(tmp_path, text, begin=BEGIN if known else None)) == proven


def test_what_an_action_or_a_later_row_calls_otherwise_is_the_same(tmp_path: Path) -> None:
    held, old = lot(60, "20230105", "20231231"), str(con_id("A"))
    split = [action("A.OLD", -60, "A(I1) SPLIT 1 FOR 12 (A.OLD, X, I1)", opened("20240205"),
                    conid=old),
             action("A", 5, "A(I1) SPLIT 1 FOR 12 (A, X, I2)", opened("20240205"),
                    conid="77")]  # fmt: skip
    after = lot(5, "20230105", "20241231", conid="77")
    made = found(tmp_path, flex([], split, OpenPositions=[held, after]))
    assert made == ([("A", 60, f"flex-open-{BEGIN}-1")], [])
    sale = trade("META", -60, 1, opened("20240205"), conid=old)
    made = found(tmp_path, flex([sale], OpenPositions=[held]))
    assert made == ([("A", 60, f"flex-open-{BEGIN}-1")], [])


@pytest.mark.parametrize(("with_lot", "proven"), [(False, []), (True, [60])])
@pytest.mark.parametrize("day", ["20231231", "20241231"])
def test_a_sum_of_what_was_held_proves_nothing(
    tmp_path: Path, day: str, proven: list[int], *, with_lot: bool
) -> None:
    rows = [lot(60, "20230105", day)] * with_lot
    rows += [lot(qty, "20230105", day, symbol=symbol).replace("LOT", "SUMMARY")
             for symbol, qty in (("A", 60), ("C", 7))]  # fmt: skip
    rows += [lot(5, "20230105", day, symbol="B", **who) for who in ({}, {"accountId": "-"})]
    rows[-1] = rows[-1].replace("LOT", "SUMMARY")
    made = found(tmp_path, flex([trade("A", 1, 1, "20240105;100000")] * (day < "2024"),
                                OpenPositions=rows, days=(day, day)))  # fmt: skip
    assert quantities(made) == [*proven, 5]
    assert (len(made[1]), made[1][0][:3]) == (2 - with_lot, "100")


def ids(count: int, since: int = BEGIN) -> list[str]:
    return [f"flex-open-{since}-{number}" for number in range(1, count + 1)]


def quantities(made: Found) -> list[int]:
    return [qty for _, qty, _ in made[0]]


@pytest.mark.parametrize(
    ("lots", "held"),
    [
        # Of the last day before the first trade, the oldest first.
        ([lot(1, "20230103", "20231229"), lot(2, "20230102", "20231229"),
          lot(4, "20230101", "20231228")], [2, 1]),
        ([lot(1, "20230103", "20231231")], [1]), ([lot(1, "20230103", "20240101")], [1]),
        ([lot(1, "20240102", "20240102")], None),
    ],
)  # fmt: skip
def test_lots_of_the_last_day_before_are_what_was_held(
    tmp_path: Path, lots: list[str], held: list[int] | None
) -> None:
    sale = trade("A", -3, 1, "20240103;100000")
    made = found(tmp_path, flex([sale], OpenPositions=lots))
    assert (quantities(made), made[1]) == (held or [], [] if held else ["A"])
    assert [id_ for _, _, id_ in made[0]] == ids(len(held or []))


def test_what_happened_first_is_the_first_day_of_the_files_or_the_first_trade(
    tmp_path: Path,
) -> None:
    rows = flex([trade("A", -1, 1, "20240103;100000"), trade("A", -1, 1, "20231201;100000")],
                OpenPositions=[lot(1, "20230103", "20231129")])  # fmt: skip
    first = read_time("20231201;100000", NEW_YORK)
    for begin, since in ((BEGIN, first), (None, first), (first - 1, first - 1)):
        assert found(tmp_path, rows, begin=begin)[0] == [("A", 1, ids(1, since)[0])]


@pytest.mark.parametrize("account", [ACCOUNT, "-"])
def test_a_day_of_which_is_told_that_nothing_was_open_proves_that(
    tmp_path: Path, account: str
) -> None:
    told = flex(account=account, days=("20231231", "20231231"))
    told = told.replace("</FlexStatement>\n", "<OpenPositions></OpenPositions></FlexStatement>")
    traded = flex([trade("A", 1, 1, "20240103;100000")])
    assert found(tmp_path, told, traded) == ([], [])
    assert found(tmp_path, traded) == ([], ["A"])
    # The end of a day is not before what happened in it.
    late = told.replace('toDate="20231231"', 'toDate="20240103"')
    assert found(tmp_path, late, flex([trade("A", -1, 1, "20240103;235959")])) == ([], ["A"])
    undated = told.replace('toDate="20231231"', 'toDate=""')
    assert found(tmp_path, undated, traded) == ([], ["A"])


def test_what_was_never_traded_was_held_as_well_and_keys_go_in_order(tmp_path: Path) -> None:
    lots = [lot(1, "20230103", "20231231", symbol) for symbol in "CBA"]
    traded = flex([trade("B", 1, 1, "20240103;100000")], OpenPositions=lots)
    assert [symbol for symbol, _, _ in found(tmp_path, traded)[0]] == ["A", "B", "C"]


LAST = "20241231"


@pytest.mark.parametrize(
    ("rows", "lots", "held"),
    [
        # What stayed, and what went after the first trade, together as much as there must be.
        ([closed(-2, "20230102", "20240103;100000"), trade("A", -2, 1, "20240103;100000")],
         [lot(5, "20230101", LAST)], [5, 2]),
        ([closed(-2, "20230101", "20240103;100000"), trade("A", -2, 1, "20240103;100000")],
         [lot(5, "20230102", LAST)], [2, 5]),
        # What was opened in between was not held before.
        ([trade("A", 3, 1, "20240103;100000")],
         [lot(5, "20230102", LAST), lot(3, "20240103", LAST)], [5]),
        ([trade("A", 3, 1, "20240103;100000"), trade("A", -3, 1, "20240104;100000"),
          closed(-3, "20240103", "20240104;100000")], [lot(5, "20230102", LAST)], [5]),
        # What was closed before the first trade is of no account, but at it it is.
        ([closed(-2, "20230101", "20231231;100000"), trade("A", 3, 1, "20240103;100000")],
         [lot(5, "20230102", LAST), lot(3, "20240103", LAST)], [5]),
        ([closed(-2, "20230101", "20240101;000000"), trade("A", -2, 1, "20240101;000000")],
         [lot(5, "20230102", LAST)], [2, 5]),
        ([trade("A", 2, 1, "20240101;000000")],
         [lot(5, "20230102", LAST),
          lot(2, "20240101", LAST, openDateTime="20240101;000000")], [5]),
        ([trade("A", 3, 1, "20240101;000000"), trade("A", -3, 1, "20240104;100000"),
          closed(-3, "20240101", "20240104;100000").replace("1;100000", "1;000000")],
         [lot(5, "20230102", LAST)], [5]),
        # Of the last day that is told, and of trades until then.
        ([trade("A", 2, 1, "20240103;100000")],
         [lot(5, "20230102", LAST), lot(2, "20240103", LAST), lot(5, "20230102", "20240201")], [5]),
        ([trade("A", 2, 1, "20240103;100000"), trade("A", 9, 1, "20250101;000000")],
         [lot(5, "20230102", LAST), lot(2, "20240103", LAST)], [5]),
        ([trade("A", 2, 1, "20240103;100000"), trade("A", 9, 1, f"{LAST};235959")],
         [lot(5, "20230102", LAST), lot(11, "20240103", LAST)], [5]),
        # They do not come to that.
        ([trade("A", -2, 1, "20240103;100000")], [lot(5, "20230101", LAST)], None),
        ([trade("A", -2, 1, "20240103;100000"), closed(-1, "20230102", "20240103;100000")],
         [lot(5, "20230101", LAST)], None),
        ([trade("A", -10, 1, "20240103;100000")], [lot(-5, "20230101", LAST)], None),
    ],
)  # fmt: skip
def test_the_last_days_lots_and_those_that_went_are_what_was_held(
    tmp_path: Path, rows: list[str], lots: list[str], held: list[int] | None
) -> None:
    made = found(tmp_path, flex(rows, OpenPositions=lots))
    assert (quantities(made), made[1]) == (held or [], [] if held else ["A"])


def test_after_a_corporate_action_the_last_day_proves_nothing(tmp_path: Path) -> None:
    split = action("A", 5, "A(I1) SPLIT 2 FOR 1 (A, A, I1)", "20240301;000000", type="FS")
    rows = [trade("A", 2, 1, "20240103;100000")]
    for day, problems in ((LAST, ["A"]), ("20231231", [])):
        lots = [lot(5, "20230102", day), lot(2, "20240103", day)]
        assert found(tmp_path, flex(rows, OpenPositions=lots))[1] == []
        assert found(tmp_path, flex(rows, [split], OpenPositions=lots))[1] == problems
    of_another = [lot(5, "20230102", "20231231", "B")]  # so of A there was nothing
    assert found(tmp_path, flex(rows, [split], OpenPositions=of_another))[1] == []


def test_the_last_day_before_is_that_of_all_keys(tmp_path: Path) -> None:
    lots = [lot(5, "20230102", "20231231", "A"), lot(5, "20230102", "20231130", "B")]
    assert found(tmp_path, flex(OpenPositions=lots))[0] == [("A", 5, ids(1)[0])]
