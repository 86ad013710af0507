"""What step the rows of a corporate action are, and what belongs to it."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from connectors.flex.actions import (
    LeftOutStep,
    MoveStep,
    RenameStep,
    SaleStep,
    SplitStep,
    Step,
    steps,
)
from connectors.flex.contents import Problem
from connectors.flex.lots import exact_text
from tests.support.flex_files import action, con_id, contents, flex, trade

WHEN = "20240103;202500"


def found_steps(
    directory: Path, *rows: str, ratios: dict[str, Fraction] | None = None
) -> tuple[list[Step], list[Problem]]:
    parent = trade("P", 1, 1, "20240102;100000", isin="IP")
    read = contents(directory, flex([parent], rows))
    assert read.problems == []
    [known] = read.trades.values()
    contracts = {"IP": known.contract, "P": known.contract}
    return steps(read.actions.values(), ratios or {}, contracts)


def shown(step: Step, *names: str) -> tuple[object, ...]:
    return tuple(getattr(step, name) for name in names)


def shares(step: MoveStep) -> list[tuple[str, object]]:
    return [(row.contract.symbol, share) for row, share in step.targets]


def only(directory: Path, *rows: str, ratios: dict[str, Fraction] | None = None) -> Any:
    [step], problems = found_steps(directory, *rows, ratios=ratios)
    assert problems == []
    return step


@pytest.mark.parametrize(
    ("text", "said", "kind"),
    [
        ("X(I1) split 2 for 1 (X, X, I1)", {}, SplitStep),
        ("X(I1) FORWARD 2 FOR 1 (X, X, I1)", {"type": "FS"}, SplitStep),
        ("X(I1) REVERSE 2 FOR 1 (X, X, I1)", {"type": "RS"}, SplitStep),
        ("X(I1) SPLITTING 2 FOR 1 (X, X, I1)", {}, LeftOutStep),
        ("X(I1) STOCK DIVIDEND 1 FOR 2 (X, X, I1)", {"isin": "I1"}, SplitStep),
        ("X(I1) DIVIDEND IN SHARES 1 FOR 2 (X, X, I1)", {"isin": "I1", "type": "SD"}, SplitStep),
        ("STOCK DIVIDEND 1 FOR 2", {"type": "SD"}, SplitStep),
        *[("X(I1) STOCK DIVIDEND 1 FOR 2 (X, X, I1)", {"type": code}, LeftOutStep)
          for code in ("HI", "CH", "CD")],
        ("P(IP) SPIN-OFF 1 FOR 2 (X, X, I1)", {}, MoveStep),
        ("P(IP) SPINOFF 1 FOR 2 (X, X, I1)", {}, MoveStep),
        ("P(IP) 1 FOR 2 (X, X, I1)", {"type": "SO"}, MoveStep),
        ("P (I0) RIGHTS 1 FOR 2 (X, X, I1)", {"type": "RI"}, MoveStep),
        ("P(IP) RIGHTS ISSUE 1 FOR 2 (X, X, I1)", {}, MoveStep),
        ("Q(I0) RIGHTS ISSUE 1 FOR 2 (X, X, I1)", {}, SaleStep),
        ("RIGHTS ISSUE 1 FOR 2", {}, SaleStep),
        ("X(I1) EXPIRE DIVIDEND RIGHT (X, X, I1)", {"qty": -2}, SaleStep),
        ("X(I1) ENDS (X, X, I1)", {"qty": -2, "type": "ED"}, SaleStep),
        # A name may be of any words.
        *[(f"X(I1) ENDS (X, {name}, I1)", {"qty": -2}, LeftOutStep)
          for name in ("SPLIT 1 FOR 2 CORP", "WORTHLESS (A)", "STOCK DIVIDEND 1 FOR 2")],
        ("X(I1) STOCK DIVIDEND 1 FOR 2 (X, A 1 FOR 4 SPLIT CORP, I1)", {"isin": "I1"}, SplitStep),
        ("P(IP) SPINOFF 1 FOR 2 (X, BOND MERGER CORP (A), I1)", {}, MoveStep),
        ("X(I1) ENDS (X, X, I1)", {"qty": -2, "proceeds": "10"}, SaleStep),
        ("X(I1) ENDS (X, X, I1)", {"qty": -2, "type": "DW"}, SaleStep),
        ("X(I1) is worthless (X, X, I1)", {"qty": -2}, SaleStep),
        ("X(I1) delisted (X, X, I1)", {"qty": -2}, SaleStep),
        ("X(I1) ENDS (X, X, I1)", {"qty": -2, "type": "BM"}, LeftOutStep),
        ("X(I1) ENDS (X, X, I1)", {"qty": -2, "proceeds": "-10"}, LeftOutStep),
    ],
)  # fmt: skip
def test_an_action_of_one_row_is_known_by_its_text_or_its_type(
    tmp_path: Path, text: str, said: dict[str, object], kind: type[Step]
) -> None:
    more = dict(said)
    row = action("X", more.pop("qty", 2), text, WHEN, **more)
    step = only(tmp_path, row, ratios={"X": Fraction(1, 4)})
    assert isinstance(step, kind)
    if isinstance(step, SaleStep):
        assert shown(step, "qty", "price") == (said.get("qty", 2), 5 if "proceeds" in said else 0)
    if isinstance(step, SplitStep) and "DIVIDEND" in text:
        assert step.ratio == "3:2"
    if isinstance(step, MoveStep):
        share = 0 if "RIGHTS" in text else Fraction(1, 4)
        assert (step.source.symbol, step.called, step.leaves) == ("P", "P", None)
        assert shares(step) == [("X", share)]


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("X(I1) ENDS ({}, X, I1)", "IC", RenameStep),
        ("X(I1) CUSIP/ISIN CHANGE ({}, X, I1)", "", RenameStep),
        ("X(I1) BECOMES ({}, X, I1)", "TC", MoveStep), ("X(I1) ENDS ({}, X, I1)", "TO", MoveStep),
        ("X(I1) BECOMES ({}, X, I1)", "TI", MoveStep), ("X(I1) ENDS ({}, X, I1)", "BC", MoveStep),
        ("X(I1) MERGED ({}, X, I1)", "", MoveStep), ("X(I1) TENDERED ({}, X, I1)", "", MoveStep),
        ("X(I1) BECOMES ({}, X, I1)", "ZZ", LeftOutStep),
    ],
)  # fmt: skip
def test_an_action_of_two_rows_is_known_by_its_text_or_its_type(
    tmp_path: Path, text: str, code: str, kind: type[Step]
) -> None:
    rows = [action(symbol, qty, text.format(symbol), WHEN, type=code, isin=isin, proceeds=paid)
            for symbol, qty, isin, paid in (("Y", 4, "I2", 0),
                                            ("X", -4, "I1", 8 * (kind is MoveStep)))]  # fmt: skip
    step = only(tmp_path, *rows)
    assert isinstance(step, kind)
    if isinstance(step, RenameStep):
        assert (step.old.symbol, step.new.symbol) == ("X", "Y")
    if isinstance(step, MoveStep):
        assert (step.source.symbol, step.note[:10]) == ("X", "8 paid in ")
        assert (shown(step, "leaves"), shares(step)) == ((-4,), [("Y", 1)])
    if isinstance(step, LeftOutStep):
        assert {each.symbol for each in step.touched} == {"X", "Y"}


def test_what_an_action_that_is_left_out_names_first_is_touched_too(tmp_path: Path) -> None:
    step = only(tmp_path, action("X", 2, "P(IP) SPINOFF 1 FOR 2 (X, X, I1)", WHEN))
    assert {each.symbol for each in step.touched} == {"X", "P"}
    assert "--ratio" in step.reason


# --- which rows are one action -------------------------------------------------------------------

SPLIT = "X(I1) SPLIT 2 FOR 1 (X, X, I1)"


@pytest.mark.parametrize(
    ("change", "actions"),
    [
        ({}, 1), ({"when": "20240103;202501"}, 2), ({"type": "FS"}, 2), ({"accountId": "U2"}, 2),
        ({"text": "X(I1) SPLIT 3 FOR 1 (X, X, I2)"}, 2),
        ({"text": "X(I1) SPLIT 2 FOR 1 (X.OLD, X, I2)"}, 1),
        ({"text": "X(I1) SPLIT 2 FOR 1 (X.OLD, X (CLASS A), I2)"}, 1),
        ({"text": "X(I1) SPLIT 2 FOR 1"}, 1), ({"text": "X(I1) SPLIT 2 FOR 1 (X.OLD,X,I2) "}, 1),
        ({"actionID": "7"}, 2), ({"actionID": "5", "first": "5", "type": "FS"}, 1),
        ({"actionID": "5", "first": "5", "accountId": "U2"}, 2),
        ({"actionID": "5", "first": "6"}, 2),
    ],
)  # fmt: skip
def test_rows_are_one_action_by_its_number_or_by_what_their_texts_begin_with(
    tmp_path: Path, change: dict[str, Any], actions: int
) -> None:
    more = {"text": SPLIT, "when": WHEN, **change}
    rows = [action("X", 10, SPLIT, WHEN, actionID=more.pop("first", None)),
            action("X", -5, more.pop("text"), more.pop("when"), conid="9", **more)]  # fmt: skip
    assert len(found_steps(tmp_path, *rows)[0]) == actions


def test_a_text_without_brackets_is_all_that_it_begins_with(tmp_path: Path) -> None:
    rows = [action("X", qty, f"X {ratio} FOR 1", WHEN, type="FS", conid=qty)
            for qty, ratio in ((10, 2), (20, 3))]  # fmt: skip
    assert len(found_steps(tmp_path, *rows)[0]) == 2


def test_steps_go_by_time_and_have_the_id_of_the_first_transaction(tmp_path: Path) -> None:
    rows = [
        action("X", 10, SPLIT, "20240104", transactionID="100"),
        action("X", -5, SPLIT, "20240104", transactionID="99", conid="9"),
        action("Y", 1, "Y(I2) SPLIT 2 FOR 1 (Y, Y, I2)", "20240103", transactionID="200"),
        action("B", 1, "B(I3) SPLIT 2 FOR 1 (B, B, I3)", "20240104", transactionID="", actionID=1),
        action("A", 1, "A(I4) SPLIT 2 FOR 1 (A, A, I4)", "20240104", transactionID=""),
    ]
    found, _ = found_steps(tmp_path, *rows)
    end = found[1].time
    assert [step.id for step in found] == [
        "flex-200", "flex-1", "flex-99", f"flex-{con_id('A')}-{end}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cancel", "steps_left", "listed"),
    [
        ({}, 1, 0), ({"qty": -11}, 2, 1), ({"qty": 10}, 2, 1), ({"conid": "9"}, 2, 1),
        ({"code": ""}, 3, 0),
    ],
)  # fmt: skip
def test_a_cancellation_takes_the_one_row_that_it_is_of(
    tmp_path: Path, cancel: dict[str, Any], steps_left: int, listed: int
) -> None:
    more = {"qty": -10, "code": "Ca", **cancel}
    rows = [action("X", 10, SPLIT, WHEN, transactionID=number) for number in (1, 2)]
    rows.append(action("X", more.pop("qty"), SPLIT, WHEN, **more))
    found, problems = found_steps(tmp_path, *rows)
    assert sum(len(step.rows) for step in found) == steps_left
    assert len(problems) == listed


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, 1), ({"text": SPLIT.replace("2 ", "3 ")}, 2), ({"conid": "9"}, 2),
        # Of two accounts, and of a day of which no hour is told; of another day.
        ({"qty": 11}, 1), ({"accountId": "-"}, 1), ({"when": "20240103"}, 1),
        ({"when": "20240105"}, 2), ({"when": "20240101"}, 2),
    ],
)  # fmt: skip
def test_a_sum_of_rows_that_stand_there_does_not_count(
    tmp_path: Path, change: dict[str, Any], rows: int
) -> None:
    more = {"qty": 10, "text": SPLIT, "levelOfDetail": "SUMMARY", **change}
    summed = action("X", more.pop("qty"), more.pop("text"), more.pop("when", WHEN), **more)
    found, _ = found_steps(tmp_path, action("X", 10, SPLIT, WHEN), summed)
    assert sum(len(step.rows) for step in found) == rows


def test_what_was_cancelled_is_told_by_its_numbers(tmp_path: Path) -> None:
    rows = [action("X", qty, SPLIT, WHEN, transactionID=number, code=code)
            for qty, number, code in ((10, 1, ""), (-10, 2, "Ca"), (20, 3, ""))]  # fmt: skip
    assert only(tmp_path, *rows).cancelled == ("flex-1",)
    nothing = only(tmp_path, *rows[:2])
    assert (type(nothing), nothing.cancelled) == (Step, ("flex-1",))
    assert only(tmp_path, rows[2]).cancelled == ()
    nameless = [action("X", qty, SPLIT, WHEN, transactionID="", code=code, reportDate=day)
                for qty, code, day in ((10, "", 1), (-10, "Ca", 2), (10, "", 2))]  # fmt: skip
    assert only(tmp_path, *nameless).cancelled == ()


@pytest.mark.parametrize("money", [{"proceeds": "5"}, {"fifoPnlRealized": "-1"}])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        (SPLIT, "FS"), ("X(I1) STOCK DIVIDEND 1 FOR 2 (X, X, I1)", "SD"),
        ("P(IP) SPINOFF 1 FOR 2 (X, X, I1)", "SO"), ("P(IP) RIGHTS ISSUE 1 FOR 2 (X, X, I1)", "RI"),
    ],
)  # fmt: skip
def test_money_beside_what_changes_no_cost_is_not_passed_over(
    tmp_path: Path, text: str, code: str, money: dict[str, str]
) -> None:
    row = action("X", 10, text, WHEN, type=code, **money)
    assert isinstance(only(tmp_path, row, ratios={"X": Fraction(0)}), LeftOutStep)


@pytest.mark.parametrize(
    "money", [{"proceeds": "-5"}, {"fifoPnlRealized": "1"}, {"proceeds": "0", "value": "9"}]
)
def test_money_in_a_row_of_its_own_is_not_passed_over(
    tmp_path: Path, money: dict[str, str]
) -> None:
    rows = [action("X", 10, SPLIT, WHEN), action("X", 0, SPLIT, WHEN, **money)]
    assert isinstance(only(tmp_path, *rows), SplitStep if "value" in money else LeftOutStep)


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "quantities", "ratio", "places"),
    [
        ("2.5 FOR  1", [-4, 10], "5:2", None), ("5  for 2", [10, -4], "5:2", None),
        ("1 FOR 3", [-10, "3.3333"], "1:3", 4), ("1 FOR 3", [-10, "3.333333"], "1:3", 6),
        ("1 FOR 3", [-10, 3], "1:3", 0), ("1 FOR 3", [-10, "3.33"], "1:3", 2),
        ("1 FOR 3", [-10, "3.3333333333"], "1:3", 10),
        ("1 FOR 3", ["-9.99003", "3.33"], "1:3", 4),  # 3.3300, as the broker rounds
        ("1 FOR 3", [-10, "3.33333333333"], "", None), ("1 FOR 3", [-10, "3.34"], "", None),
        # Only what comes is told.
        ("2 FOR 1", [10], "2:1", None), ("1 FOR 3", [-2], "1:3", None),
        ("1 FOR 3", ["-6.6667"], "1:3", 4), ("1 FOR 3", [-7], "1:3", 0),
        ("3 FOR 2", ["0.00000005"], "3:2", None), ("1 FOR 1", [5], "", None),
        ("999999999 FOR 1000000", [-1000000, 999999999], "999999999:1000000", None),
        ("1000000 FOR 999999999", [-999999999, 1000000], "1000000:999999999", None),
    ],
)  # fmt: skip
def test_a_splits_ratio_and_places_follow_from_its_text_and_its_rows(
    tmp_path: Path, text: str, quantities: list[object], ratio: str, places: int | None
) -> None:
    rows = [action("X", qty, f"X(I1) SPLIT {text} (X, X, I1)", WHEN, conid=place)
            for place, qty in enumerate(quantities, start=1)]  # fmt: skip
    step = only(tmp_path, *rows)
    if not ratio:
        assert isinstance(step, LeftOutStep)
        return
    assert (step.ratio, step.places) == (ratio, places)
    if len(rows) == 2:
        assert [row.qty < 0 for row in step.rows if row.contract == step.old] == [True]


@pytest.mark.parametrize(
    ("old", "new", "places", "fits"),
    [
        ("999999999", "1000000000", 9, True),
        ("10000000000", "10196232339", 6, True), ("30000000001", "23456789012", 4, True),
        # Nothing is near enough, as it is nearly 1:1, 3:1 and 0:1, or it is too large itself.
        ("10000000000", "10000000001", 6, False), ("10000000000", "30000000001", 6, False),
        ("10000000000000", "1", 0, False), ("1", "10000000000", 0, False),
    ],
)  # fmt: skip
def test_a_ratio_of_large_numbers_is_the_nearest_that_the_stream_takes(
    tmp_path: Path, old: str, new: str, places: int, *, fits: bool
) -> None:
    comes = exact_text(Fraction(new) / Fraction(old) * 7, places)
    rows = [action("X", qty, f"X(I1) SPLIT {new} FOR {old} (X, X, I1)", WHEN, conid=place)
            for place, qty in ((1, -7), (2, comes))]  # fmt: skip
    step = only(tmp_path, *rows)
    assert isinstance(step, SplitStep) == fits
    if fits:
        up, down = map(int, step.ratio.split(":"))
        assert max(up, down) < 10**9
        assert abs(Fraction(up, down) * Fraction(old) / Fraction(new) - 1) < Fraction(1, 10**15)
        assert step.places == places


@pytest.mark.parametrize(
    ("options", "ratios"),
    [
        ({"A": -1}, ["2:1"]), ({"A": -1, "B": -3}, ["2:1", "2:1"]), ({"A": 2, "B": -1}, ["2:1"]),
        # One that goes and one that comes, or both are added to.
        ({"A": 1, "B": -1}, []), ({"A": 2, "B": -1, "C": -1}, []),
    ],
)  # fmt: skip
def test_the_options_on_a_share_are_split_with_it_each_for_itself(
    tmp_path: Path, options: dict[str, int], ratios: list[str]
) -> None:
    text = "X(I1) SPLIT 2 FOR 1 ({0}, {0}, )"
    rows = [action("X", 100, text.format("X"), WHEN, actionID="5", isin="I1")]
    rows += [action(name, qty, text.format(name), WHEN, actionID="5", assetCategory="OPT")
             for name, qty in options.items()]  # fmt: skip
    share, *others = found_steps(tmp_path, *rows)[0]
    assert shown(share, "ratio", "called") == ("2:1", "X")
    split = [step for step in others if isinstance(step, SplitStep)]
    assert [step.ratio for step in split] == ratios
    assert {step.called for step in split} <= set(options)
    assert len(others) == max(len(ratios), 1)


@pytest.mark.parametrize(
    ("text", "code", "comes"),
    [
        ("X(I1) SPLIT 1 FOR 10 ({0}, {0}, )", "RS", "X1    240621C00005000"),
        ("X(I1) SPLIT 3 FOR 2 ({0}, {0}, )", "FS", "X     240621C00003330"),
        ("X(I1) STOCK DIVIDEND I1 1 FOR 10 ({0}, {0}, )", "SD", "X1    240621C00005000"),
        ("X(I1) SPINOFF  1 FOR 5 ({0}, {0}, )", "SO", "X1    240621C00005000"),
        ("X(I1) CASH DIVIDEND USD 2 PER SHARE ({0}, {0}, )", "CD", "X     240621C00003000"),
    ],
)
def test_as_many_options_of_other_terms_come_for_those_that_go(
    tmp_path: Path, text: str, code: str, comes: str
) -> None:
    goes = "X     240621C00005000"
    said = {"type": code, "assetCategory": "OPT", "multiplier": "100", "actionID": "1"}
    rows = [action(symbol, qty, text.format(symbol), WHEN, **said)
            for symbol, qty in ((goes, -3), (comes, 3))]  # fmt: skip
    step = only(tmp_path, *rows)
    assert isinstance(step, RenameStep)
    assert (step.old.symbol, step.new.symbol) == (goes, comes)


def test_a_cfd_is_split_for_itself_under_its_own_name(tmp_path: Path) -> None:
    text = "X(I1) SPLIT 3 FOR 1 ({0}, {0}, I1)"
    rows = [action(name, qty, text.format(name), WHEN, actionID="5", assetCategory=kind)
            for name, qty, kind in (("X", 20, "STK"), ("Xn", -2, "CFD"))]  # fmt: skip
    found, _ = found_steps(tmp_path, *rows)
    assert [shown(step, "ratio", "called") for step in found] == [("3:1", "X"), ("3:1", "Xn")]


OPTIONS_OF_X = [("X 220617C00200000", 1), ("Y 220617C00200000", -1), ("X 220617P00150000", -2),
                ("Y 220617P00150000", 2)]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code", "share", "kind"),
    [
        ("X(I1) CUSIP/ISIN CHANGE TO (I2) ({0}, {0}, )", "IC", [("X", -5), ("Y", 5)], RenameStep),
        ("X(I1) MERGED WITH I2 1 FOR 1 ({0}, {0}, )", "TC", [("X", -5), ("Y", 5)], MoveStep),
        ("X(I1) MERGED FOR USD 2.00 PER SHARE ({0}, {0}, )", "TC", [("X", -5)], SaleStep),
        ("X(I1) MERGED FOR USD 2.00 PER SHARE ({0}, {0}, )", "TC", [], None),
    ],
)  # fmt: skip
def test_options_on_a_share_go_over_each_for_itself(
    tmp_path: Path, text: str, code: str, share: list[tuple[str, int]], kind: type[Step] | None
) -> None:
    rows = [action(name, qty, text.format(name), WHEN, type=code, conid=f"{name}-{qty}",
                   assetCategory="OPT" if " " in name else "STK",
                   proceeds="10" if kind is SaleStep and name == "X" else "0")
            for name, qty in [*share, *OPTIONS_OF_X]]  # fmt: skip
    *shares_step, call, put = found_steps(tmp_path, *rows)[0]
    assert [type(step) for step in shares_step] == ([kind] if kind else [])
    for step, names in ((call, OPTIONS_OF_X[:2]), (put, OPTIONS_OF_X[2:])):
        went = step.old if isinstance(step, RenameStep) else step.source  # type: ignore[attr-defined]
        assert went.symbol == names[0][0]


@pytest.mark.parametrize(
    ("text", "per_unit"),
    [
        ("P(IP) SPINOFF 1 FOR 5 (X, X, I1)", Fraction(1, 5)), ("P(IP) SPINOFF (X, X, I1)", None),
        ("P(IP) SPINOFF 1 FOR 5, I2 1 FOR 3 (X, X, I1)", None),
        ("P(IP) RIGHTS ISSUE 1 FOR 5 (X, X, I1)", None),
    ],
)  # fmt: skip
def test_for_what_a_spin_off_comes_stands_in_its_text(
    tmp_path: Path, text: str, per_unit: Fraction | None
) -> None:
    step = only(tmp_path, action("X", 2, text, WHEN, type="SO"), ratios={"X": Fraction(1, 4)})
    assert step.per_unit == per_unit


def test_rows_that_go_for_money_are_sales_each_for_itself(tmp_path: Path) -> None:
    rows = [action(name, qty, "X(I1) PARTIAL CALL (X, X, I1)", WHEN, proceeds=paid, type="PC")
            for name, qty, paid in (("X", -10, 20), ("X", -40, 90), ("Y", 5, -5))]  # fmt: skip
    found, _ = found_steps(tmp_path, *rows)
    assert [shown(step, "qty", "price") for step in found] == [
        (-10, 2), (-40, Fraction(9, 4)), (5, 1),
    ]  # fmt: skip
    found, _ = found_steps(tmp_path, *rows, action("X", 1, "X(I1) PARTIAL CALL (X, X, I1)", WHEN,
                                                   type="PC"))  # fmt: skip
    assert [type(step) for step in found] == [LeftOutStep]


def test_of_what_goes_a_part_for_money_and_a_part_for_shares_each_is_for_itself(
    tmp_path: Path,
) -> None:
    text = "X(I1) MERGED(Voluntary Offer Allocation) WITH I2 1 FOR 1 ({0}, {0}, I1)"
    rows = [
        action(symbol, qty, text.format(symbol), WHEN, type="TC", actionID="1", **more)
        for symbol, qty, more in (("X", -6, {}), ("Y", 6, {}), ("X", -4, {"proceeds": "48"}))
    ]
    [moved, sold], problems = found_steps(tmp_path, *rows)
    assert problems == []
    assert shown(sold, "qty", "price") == (-4, 12)
    assert isinstance(moved, MoveStep)
    assert moved.leaves == -6
    assert shares(moved) == [("Y", 1)]


def test_parts_of_an_action_without_numbers_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = [action(name, qty, "X(I1) SPLIT 2 FOR 1 (X, X, I1)", WHEN, actionID="5",
                   transactionID="", assetCategory=kind)
            for name, qty, kind in (("X", 100, "STK"), ("A", -1, "OPT"),
                                    ("B", -1, "OPT"))]  # fmt: skip
    assert [step.id for step in found_steps(tmp_path, *rows)[0]] == [
        "flex-5", "flex-5-1", "flex-5-2",
    ]  # fmt: skip


def test_of_an_option_only_whole_contracts_are_added(tmp_path: Path) -> None:
    row = action("A", -1, "X(I1) SPLIT 1 FOR 10 (A, A, )", WHEN, assetCategory="OPT")
    assert isinstance(only(tmp_path, row), LeftOutStep)
    assert isinstance(only(tmp_path, row.replace("-1", "-9")), SplitStep)


def test_a_stock_dividend_adds_to_what_there_is(tmp_path: Path) -> None:
    text = "X(I1) STOCK DIVIDEND 1 FOR 2 (X, X, I1)"
    assert only(tmp_path, action("X", 5, text, WHEN, isin="I1")).ratio == "3:2"
    by_symbol = only(tmp_path, action("X", 5, text, WHEN))
    assert (by_symbol.ratio, by_symbol.called) == ("3:2", "X")


@pytest.mark.parametrize(
    ("text", "called"),
    [("  OLD  (I1) SPLIT 2 FOR 1 (N, N, I1)", "OLD"), ("OLD.OLD(I1) SPLIT 2 FOR 1", "OLD"),
     ("SPLIT 2 FOR 1", "N")],
)  # fmt: skip
def test_a_key_is_called_by_the_ticker_that_the_text_begins_with(
    tmp_path: Path, text: str, called: str
) -> None:
    assert only(tmp_path, action("N", 5, text, WHEN)).called == called


# --- which is old, which goes, and who gets which share ------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("symbols", "isins", "goes"),
    [
        # What was sold short goes the other way.
        (("X.OLD", "Y"), ("", ""), -4), (("X.OLD", "Y"), ("", ""), 4),
        (("X", "Y"), ("I1", "I2"), -4), (("X", "Y"), ("I1", "I2"), 4),
        (("X", "Y"), ("", ""), -4), (("X.OLD", "Y.OLD"), ("", ""), -4),
    ],
)  # fmt: skip
def test_the_row_that_is_old_says_so_or_else_goes(
    tmp_path: Path, symbols: tuple[str, str], isins: tuple[str, str], goes: int, *, turned: bool
) -> None:
    texts = ["X(I1) CUSIP/ISIN CHANGE (X, X, I1)"]
    texts += ["X(I1) SPLIT 1 FOR 1 (X, X, I1)"] if symbols[1] == "Y" and any(isins) else []
    for text in texts:
        rows = [action(symbol, qty, text, WHEN, isin=isin)
                for symbol, isin, qty
                in zip(symbols, isins, (goes, -goes), strict=True)]  # fmt: skip
        step = only(tmp_path, *(rows[::-1] if turned else rows))
        assert (step.old.symbol, step.new.symbol, step.called) == (*symbols, "X")


@pytest.mark.parametrize(
    ("qtys", "said", "source"),
    [
        # Named first: X. Long, short; of two that come one goes whatever is named.
        ([("X", -4), ("Y", 4)], {}, "X"), ([("X", 4), ("Y", -4)], {}, "X"),
        ([("Z", 4), ("Y", -4)], {}, "Y"), ([("Z", -4), ("Y", 2), ("W", 2)], {}, "Z"),
        ([("Z", 4), ("Y", -2), ("W", -2)], {}, "Z"), ([("Z", 4), ("Y", 4)], {}, ""),
        ([("Z", -4)], {}, ""), ([("X", -4), ("Y", 4)], {"proceeds": "5", "fifoPnlRealized": "1"},
                                "X"),
        # More P&L than was paid.
        ([("X", -4), ("Y", 4)], {"fifoPnlRealized": "1"}, ""),
        ([("X", -4), ("Y", 4)], {"proceeds": "5", "fifoPnlRealized": "6"}, ""),
        # Money that is paid for what comes.
        ([("X", -4), ("Y", 4)], {"proceeds": "-5"}, ""),
        ([("X", 4), ("Y", -4)], {"proceeds": "5"}, ""),
        ([("X", 4), ("Y", -4)], {"proceeds": "-5"}, "X"),
    ],
)  # fmt: skip
def test_what_goes_in_a_merger_is_the_one_row_of_its_sign_or_what_is_named_first(
    tmp_path: Path, qtys: list[tuple[str, int]], said: dict[str, str], source: str
) -> None:
    rows = [action(symbol, qty, "X(I1) MERGED (X, X, I1)", WHEN, **(said if symbol == "X" else {}))
            for symbol, qty in qtys]  # fmt: skip
    step = only(tmp_path, *rows, ratios={"Y": Fraction(1, 4)})
    if not source:
        assert isinstance(step, LeftOutStep)
        return
    assert step.source.symbol == source
    others = [symbol for symbol, _ in qtys if symbol != source]
    whole = {others[0]: 1} if len(others) == 1 else {"Y": Fraction(1, 4), "W": Fraction(3, 4)}
    assert (dict(shares(step)), bool(step.note)) == (whole, bool(said))


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"Y": "1/4"}, False), ({"Y": "1/4", "W": "3/4"}, True), ({"Y": "1/4", "W": "1/4"}, True),
        ({"Y": "1/4", "W": "4/4"}, False), ({"7001": "1/4", str(con_id("W")): "0"}, True),
    ],
)  # fmt: skip
def test_each_row_of_a_spin_off_wants_its_share(
    tmp_path: Path, given: dict[str, str], *, fits: bool
) -> None:
    rows = [action(symbol, 2, "P(IP) SPINOFF 1 FOR 2 (P, P, IP)", WHEN, transactionID=number)
            for symbol, number in (("Y", 7001), ("W", 7002))]  # fmt: skip
    step = only(tmp_path, *rows, ratios={name: Fraction(text) for name, text in given.items()})
    assert isinstance(step, MoveStep) == fits
