"""The plain FIFO of an import and an audit: what lots cost, and where it goes."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from operator import attrgetter

import pytest

from connectors.flex.known import Known, KnownEvent, KnownExecution, Names, book
from connectors.flex.lots import Held, Holding, exact_text, moved, rounded, spread
from connectors.flex.records import Contract
from tests.support.flex_files import con_id

Row = tuple[object, ...]


def lots(holding: Holding) -> list[Row]:
    return [(lot.id, lot.opened, lot.qty, lot.cost, lot.charge) for lot in holding.lots]


def figures(found: Iterable[object], *names: str) -> list[Row]:
    """Return what some things say, by the names of their attributes."""
    return [attrgetter(*names)(each) for each in found]


def held(*given: tuple[str, int, object, object, object]) -> Holding:
    holding = Holding()
    for id_, opened, qty, cost, charge in given:
        holding.lots.append(
            Held(id_, opened, Fraction(str(qty)), Fraction(str(cost)), Fraction(str(charge)))
        )
    return holding


@pytest.mark.parametrize("sign", [1, -1])
def test_the_oldest_lot_is_closed_first_and_each_part_bears_its_charge(sign: int) -> None:
    last = ("z", 3, sign, 30 * sign, 0)
    holding = held(("a", 1, 4 * sign, 40 * sign, 2), ("b", 2, 4 * sign, 80 * sign, 4), last)
    closed = holding.trade("c", 3, -6 * sign, -180 * sign, 3)
    assert figures(closed, "lot.id", "lot.qty", "realized", "charge") == [
        ("a", 4 * sign, 80 * sign, 4), ("b", 2 * sign, 20 * sign, 3),
    ]  # fmt: skip
    assert lots(holding) == [("b", 2, 2 * sign, 40 * sign, 2), last]
    assert holding.trade("d", 4, -7 * sign, -70 * sign, 7)[0].charge == 4
    assert lots(holding) == [("d", 4, -4 * sign, -40 * sign, 4)]
    assert holding.qty == -4 * sign
    assert holding.trade("e", 5, -1 * sign, -10 * sign, 0) == []
    assert holding.qty == -5 * sign


def test_a_split_rounds_the_running_total_and_loses_no_cost() -> None:
    holding = held(("a", 1, 1, 3, 1), ("b", 2, 1, 5, 2), ("c", 3, 2, 7, 4))
    holding.split(Fraction(1, 3), 0)
    # 1/3, 2/3, 4/3: the first comes to nothing and leaves its cost to the next, as the last does.
    assert lots(holding) == [("b", 2, 1, 15, 7)]
    holding = held(("a", 1, 1, 3, 1), ("b", 2, 1, 5, 2))
    holding.split(Fraction(1, 3))
    assert [lot.qty for lot in holding.lots] == [
        Fraction("0.3333333333"), Fraction("0.3333333334"),
    ]  # fmt: skip
    holding.split(Fraction(1, 100), 0)
    assert lots(holding) == []


def test_money_is_laid_on_units_as_they_are_signed() -> None:
    holding = held(("a", 1, 4, 40, 2), ("b", 2, 2, 10, 0))
    holding.lay(Fraction(-1, 2))
    assert [lot.charge for lot in holding.lots] == [0, -1]
    short = held(("a", 1, -4, -40, 2))
    short.lay(Fraction(-1, 2))
    assert figures(short.lots, "charge", "net_cost") == [(4, -36)]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_oldest_leave_first(sign: int) -> None:
    def full() -> Holding:
        return held(("a", 1, 4 * sign, 40 * sign, 2), ("b", 2, 4 * sign, 80 * sign, 4))

    holding = full()
    assert figures(holding.leave(5), "id", "qty", "cost", "charge") == [
        ("a", 4 * sign, 40 * sign, 2), ("b", sign, 20 * sign, 1),
    ]  # fmt: skip
    assert lots(holding) == [("b", 2, 3 * sign, 60 * sign, 3)]
    holding = full()
    holding.leave(1)
    assert [lot.id for lot in holding.lots] == ["a", "b"]
    for much in (None, 100):
        holding = full()
        assert [lot.qty for lot in holding.leave(much)] == [4 * sign] * 2
        assert not holding.lots
    assert (full().leave(0), holding.leave()) == ([], [])


def test_a_lot_that_comes_stands_behind_those_that_were_opened_by_then() -> None:
    holding = held(("a", 1, 4, 40, 2), ("b", 3, 4, 80, 4))
    for id_, opened in (("c", 3), ("d", 2), ("e", 0)):
        holding.join(Held(id_, opened, Fraction(1), Fraction(1)))
    assert [lot.id for lot in holding.lots] == ["e", "a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("qty", "left"),
    [(-3, [("a", 1, 1, 10, 0)]), (-4, []), (-6, [("x", 9, -2, -20, 0)])],
)
def test_of_a_lot_of_the_other_sign_as_much_leaves_and_the_rest_joins(
    qty: int, left: list[Row]
) -> None:
    holding = held(("a", 1, 4, 40, 0))
    holding.join(Held("x", 9, Fraction(qty), Fraction(10 * qty)))
    assert lots(holding) == left


def test_parts_add_up_to_the_whole() -> None:
    thirds = spread(Fraction(100), [Fraction(1)] * 3, 2)
    assert thirds == [Fraction("33.33"), Fraction("33.34"), Fraction("33.33")]
    assert spread(Fraction(1, 3), [Fraction(1), Fraction(2)], 2)[-1] == Fraction(1, 3) - Fraction(
        "0.11"
    )
    assert rounded(Fraction("0.125"), 2) == Fraction("0.12")
    assert rounded(Fraction("-0.135"), 2) == Fraction("-0.14")


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [("1/3", 4, "0.3333"), ("-5", 4, "-5"), ("100", 0, "100"), ("5/2", 0, "2"), ("7/2", 0, "4"),
     ("-1/100000", 4, "0"), ("1/2", 10, "0.5"),
     ("123456789012345678901234567890123.0000000001", 10,
      "123456789012345678901234567890123.0000000001")],
)  # fmt: skip
def test_a_fraction_is_written_plainly(value: str, places: int, text: str) -> None:
    assert exact_text(Fraction(value), places) == text


@pytest.mark.parametrize("sign", [1, -1])
def test_what_moves_keeps_its_order_and_its_net_cost(sign: int) -> None:
    given = held(("a", 1, 2 * sign, 10 * sign, 1), ("b", 2, sign, 20 * sign, 2)).lots
    come = moved(list(given), None, Fraction(1, 2))
    assert figures(come, "id", "opened", "qty", "cost", "charge") == [
        ("a", 1, 2 * sign, Fraction(10 * sign + 1, 2), 0),
        ("b", 2, sign, Fraction(20 * sign + 2, 2), 0),
    ]  # fmt: skip
    thirds = moved(list(given), None, Fraction(1, 3))
    assert sum(lot.cost for lot in thirds) == 10 * sign + 1
    assert thirds[0].cost == rounded(Fraction(10 * sign + 1, 3), 10)
    come = moved(list(given), Fraction(sign), Fraction(1))
    assert [lot.qty for lot in come] == [
        sign * Fraction("0.6666666667"), sign * Fraction("0.3333333333"),
    ]  # fmt: skip
    assert sum(lot.cost for lot in come) == 30 * sign + 3


def test_what_comes_to_no_unit_leaves_its_cost_to_the_next_or_of_the_last_to_the_one_before() -> (
    None
):
    tiny = "0.00000000001"
    given = held(("a", 1, tiny, 3, 0), ("b", 2, 1, 5, 0), ("c", 3, tiny, 7, 0)).lots
    come = moved(list(given), Fraction(1), Fraction(1))
    assert figures(come, "id", "qty", "cost") == [("b", 1, 15)]
    two = held(("a", 1, tiny, 3, 0), ("b", 2, 1, 5, 0), ("c", 3, 1, 7, 0)).lots
    come = moved(list(two), Fraction(2), Fraction(1))
    assert figures(come, "id", "qty", "cost") == [("b", 1, 8), ("c", 1, 7)]


# --- what was known before ------------------------------------------------------------------------


def test_each_kind_of_event_does_its_own() -> None:
    holding = Holding()
    for event in (
        KnownEvent(5, "opening", "o", 4, 40, 1), KnownEvent(6, "execution", "x", 2, 30, 1),
        KnownEvent(7, "split", "s", Fraction(1, 4), opened=0),
        KnownEvent(8, "cost", "c", value=2), KnownEvent(9, "in", "i", 1, 7, opened=3),
    ):  # fmt: skip
        book(holding, event)
    assert lots(holding) == [("i", 3, 1, 7, 0), ("o", 5, 1, 40, 3), ("x", 6, 1, 30, 3)]
    book(holding, KnownEvent(10, "out", "t", -2))
    assert [lot.id for lot in holding.lots] == ["x"]
    book(holding, KnownEvent(11, "gone", "1-0"))
    assert (holding.unclear, [lot.id for lot in holding.lots]) == ("1-0", ["x"])


def test_an_execution_of_the_account_goes_before_one_without_account() -> None:
    one, other = (KnownExecution(name, "x", Fraction(1), Fraction(1), 1) for name in "AB")  # type: ignore[arg-type]
    known = Known({("", "x"): one, ("U1", "x"): other, ("", "y"): one})
    assert known.execution("U1", "x") is other
    assert known.execution("U1", "y") is one
    assert known.execution("U1", "z") is None


def _contract(symbol: str, number: str | None = None, exchange: str = "") -> Contract:
    number = str(con_id(symbol)) if number is None else number
    return Contract(number, symbol, "STK", "USD", Fraction(1), exchange, "", "", "", "", "")  # type: ignore[arg-type]


def test_a_name_is_given_once_and_is_no_others() -> None:
    names = Names({"1": "A", "2": "B"})
    assert names.of(_contract("X", "1")) == "A"  # as it is remembered
    assert names.of(_contract("A", "3", "NYSE")) == "A@NYSE"
    assert names.of(_contract("A", "4")) == "A#4"
    assert names.of(_contract("?", "5"), "C") == "C"  # by the ticker before the action
    assert names.of(_contract("C", "6")) == "C#6"
    assert names.of(_contract("D", "")) == "D"
    ended = replace(_contract("?", "9"), sec_type="OPT")
    assert names.of(ended, "XOM   220121C00042500") == "XOM   220121C00042500"
    names.share(_contract("E", "7"), "B")
    assert (names.of(_contract("E", "7")), names.known("7"), names.known("8")) == ("B", "B", None)
    assert {number: (named.names[0], named.shared) for number, named in names.new.items()} == {
        "3": ("A@NYSE", False), "4": ("A#4", False), "5": ("C", False), "6": ("C#6", False),
        "7": ("B", True), "9": ("XOM   220121C00042500", False),
    }  # fmt: skip
    assert names.new["7"].names == ["B"]
