"""The order of arrival does not matter: late executions, duplicates, corrections, busts."""

from itertools import permutations

import pytest

from state.book import Book
from state.keys import parse_exec_id
from state.messages import RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    exec_id,
    execution,
    fees,
    gross,
    lots,
    message,
    messages,
    money,
    played,
)

# --- late executions ----------------------------------------------------------------------


def test_a_late_execution_is_booked_where_its_time_puts_it() -> None:
    book, did = played("BUY 10 @ 100 at 10", "SELL 10 @ 120 at 30", "BUY 10 @ 110 at 5")
    assert closed(did[2]) == "LONG -10 @ 100 -> 120 = -200, LONG 10 @ 110 -> 120 = 100"
    assert (lots(book), gross(book)) == ("10 @ 100", "100")
    assert did[2] is not None
    assert money(did[2].realized_change) == "-100"


def test_a_late_execution_that_changes_no_match_takes_nothing_back() -> None:
    book, did = played("BUY 10 @ 100 at 10", "SELL 5 @ 120 at 30", "BUY 10 @ 110 at 20")
    assert closed(did[2]) == ""
    assert lots(book) == "5 @ 100, 10 @ 110"


def test_after_a_late_execution_the_next_one_closes_what_is_now_the_oldest_lot() -> None:
    lines = ("BUY 9 @ 1 at 2", "SELL 4 @ 5 at 3", "BUY 2 @ 3 at 1", "SELL 1 @ 5 at 4")
    _, did = played(*lines)
    assert closed(did[3]) == "LONG 1 @ 1 -> 5 = 4"


def test_a_late_execution_can_turn_the_sides_of_all_that_follows() -> None:
    book, did = played("BUY 10 @ 100 at 10", "SELL 10 @ 90 at 20", "SELL 10 @ 110 at 5")
    assert closed(did[2]) == "LONG -10 @ 100 -> 90 = 100, SHORT 10 @ 110 -> 100 = 100"
    assert lots(book) == "-10 @ 90"


def test_executions_of_one_time_are_booked_in_order_of_arrival_whatever_their_ids() -> None:
    first, second, sale = "#9 BUY 1 @ 9 at 5", "#3 BUY 1 @ 3 at 5", "#5 SELL 1 @ 9 at 5"
    assert lots(book_of(first, second, sale)) == "1 @ 3"
    assert lots(book_of(second, first, sale)) == "1 @ 9"


def test_the_last_execution_is_the_one_last_in_booking_order() -> None:
    told = book_of("#1 BUY 1 @ 10 at 9", "#2 BUY 1 @ 11 at 5", "#3 BUY 1 @ 12 at 9").snapshot()
    assert (told.last_exec_id, told.timestamp) == (exec_id(3), 9000)
    told = book_of("#1 BUY 1 @ 10 at 9", "#2 BUY 1 @ 11 at 5").snapshot()
    assert (told.last_exec_id, told.timestamp) == (exec_id(1), 9000)


# --- duplicates -----------------------------------------------------------------------------


def test_the_same_execution_again_changes_nothing() -> None:
    lines = (
        "BUY 10 @ 100 fee 1 adj 3 at 1",
        "SELL 4 @ 110 at 2",
        "SPLIT 2:1 at 3",
        "#2 REPORT 1 at 2",
        "COST 1 at 3",
        "#9 OUT 1 at 3",
        "#8 IN 3 @ 5 of 1 at 4",
        "OPENING 5 @ 2 at 1",
        "#7 OPENING 0 at 1",
        "NUMBER 4",
    )
    book = book_of(*lines)
    state = book.to_state()
    assert [book.apply(again) for again in messages(*lines)] == [None] * len(lines)
    assert book.to_state() == state


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        ("BUY 11 @ 100 fee 1 at 1", "expected quantity 10, as '{id}' had before, found 11"),
        ("SELL 10 @ 100 fee 1 at 1", "expected quantity 10, as '{id}' had before, found -10"),
        ("BUY 10 @ 100.5 fee 1 at 1", "expected price 100, as '{id}' had before, found 100.5"),
        ("BUY 10 @ 100 fee 1 at 2", "expected timestamp 1000, as '{id}' had before, found 2000"),
        ("BUY 10 @ 100 fee 2 at 1", "expected commission 1, as '{id}' had before, found 2"),
        ("BUY 10 @ 100 fee 1 adj 3 at 1", "expected adjustment -2, as '{id}' had before, found 3"),
    ],
)
def test_the_same_id_with_other_figures_is_refused_and_leaves_no_trace(
    again: str, reason: str
) -> None:
    book = book_of("BUY 10 @ 100 fee 1 adj -2 at 1", "SELL 4 @ 110 at 2")
    state = book.to_state()
    with pytest.raises(RejectedError) as refused:
        book.apply(message(again, 1))
    assert str(refused.value) == f"exec_id: {reason.format(id=exec_id(1))}"
    assert book.to_state() == state


def test_another_commission_under_the_id_of_a_bust_is_refused_too() -> None:
    book = book_of("#1.2 BUST fee 1 at 1")
    with pytest.raises(RejectedError, match=r"expected commission 1, .* found 2"):
        book.apply(message("#1.2 BUST fee 2 at 1"))


def test_what_a_superseded_revision_says_contradicts_nothing() -> None:
    book = book_of("#1.2 BUY 10 @ 100 fee 1 at 1")
    assert book.apply(message("#1 BUY 10 @ 100 at 1")) is None
    assert book.apply(message("#1 SELL 3 @ 7 fee 9 at 5")) is None
    assert lots(book) == "10 @ 100"


def test_the_same_again_completes_what_the_first_left_out() -> None:
    lines = ("#1 BUY 4 @ 1 at 1", "#1 BUY 4 @ 1 fee 1 at 1", "#1 BUY 4 @ 1 adj 2 at 1")
    for order in permutations(lines):
        book = book_of(*order)
        assert fees(book) == "3"
        assert [book.apply(each) for each in messages(*order)] == [None] * 3


def test_what_completes_an_execution_makes_a_row_also_where_no_figure_changes() -> None:
    _, did = played("#1 BUY 4 @ 1 at 1", "#1 REPORT 1 at 2", "#1 BUY 4 @ 1 fee 9 at 1")
    assert did[2] == ([], 0, 0)
    _, did = played("#1 BUY 4 @ 1 at 1", "#1 BUY 4 @ 1 fee 0 at 1")
    assert did[1] == ([], 0, 0)


def test_the_other_side_of_a_busted_execution_is_no_other_figure() -> None:
    book = book_of("#1.2 BUST at 1")
    assert book.apply(execution("#1.2 BUST at 1")._replace(side="SELL")) is None


# --- corrections ------------------------------------------------------------------------------


def test_a_correction_replaces_quantity_price_side_and_is_not_counted_twice() -> None:
    book, did = played("#1 BUY 10 @ 100 at 1", "#1.2 SELL 8 @ 101 at 1")
    assert did[1] is not None
    assert (lots(book), book.snapshot().executions) == ("-8 @ 101", 1)
    assert book.snapshot().last_exec_id == exec_id(1, 2)


def test_a_correction_after_the_lot_closed_takes_the_match_back_and_makes_a_new_one() -> None:
    book, did = played("#1 BUY 10 @ 100 at 1", "#2 SELL 10 @ 110 at 2", "#1.2 BUY 10 @ 101 at 1")
    assert closed(did[2]) == "LONG -10 @ 100 -> 110 = -100, LONG 10 @ 101 -> 110 = 90"
    assert did[2] is not None
    assert [lot.open_exec_id for lot in did[2].closed] == [exec_id(1), exec_id(1, 2)]
    assert gross(book) == "90"


def test_a_correction_of_the_closing_side_works_alike() -> None:
    book, did = played("#1 BUY 10 @ 100 at 1", "#2 SELL 10 @ 110 at 2", "#2.2 SELL 12 @ 110 at 2")
    assert closed(did[2]) == "LONG -10 @ 100 -> 110 = -100, LONG 10 @ 100 -> 110 = 100"
    assert lots(book) == "-2 @ 110"


def test_a_correction_corrected_again_counts_alone() -> None:
    lines = ("#1 BUY 10 @ 100 at 1", "#1.2 BUY 9 @ 99 at 1", "#1.7 BUY 8 @ 98 at 1")
    for order in permutations(lines):
        book = book_of(*order)
        assert (lots(book), book.snapshot().executions) == ("8 @ 98", 1)


def test_an_original_that_comes_after_its_correction_changes_nothing() -> None:
    book, did = played("#1.2 BUY 9 @ 99 at 1", "#1 BUY 10 @ 100 at 1")
    assert did[1] is None
    assert lots(book) == "9 @ 99"


def test_a_correction_can_move_an_execution_in_time_both_ways() -> None:
    lines = ("#1 BUY 1 @ 10 at 10", "#2 BUY 1 @ 20 at 20", "#3 SELL 1 @ 30 at 30")
    assert lots(book_of(*lines, "#1.2 BUY 1 @ 10 at 25")) == "1 @ 10"
    assert lots(book_of(*lines, "#2.2 BUY 1 @ 20 at 5")) == "1 @ 10"
    assert lots(book_of(*lines, "#1.2 BUY 1 @ 10 at 40")) == "1 @ 10"
    assert gross(book_of(*lines, "#3.2 SELL 1 @ 30 at 15")) == "20"
    assert gross(book_of(*lines, "#3.2 SELL 1 @ 30 at 5")) == "20"


def test_a_correction_to_a_later_time_takes_back_what_lies_between() -> None:
    lines = ("#1 BUY 1 @ 5 at 1", "SELL 1 @ 6 at 2", "BUY 1 @ 7 at 3", "#1.2 BUY 1 @ 5 at 9")
    _, did = played(*lines)
    assert closed(did[3]) == "LONG -1 @ 5 -> 6 = -1, SHORT 1 @ 6 -> 7 = -1"


def test_a_correction_keeps_the_place_of_the_first_arrival_among_equal_times() -> None:
    lines = ("#1 BUY 1 @ 10 at 5", "#2 BUY 1 @ 20 at 5", "#1.2 BUY 1 @ 11 at 5")
    assert lots(book_of(*lines)) == "1 @ 11, 1 @ 20"
    assert lots(book_of("#1.2 BUY 1 @ 11 at 5", *lines[1::-1])) == "1 @ 11, 1 @ 20"
    moved_there = ("#1 BUY 1 @ 10 at 9", "#2 BUY 1 @ 20 at 5", "#1.2 BUY 1 @ 11 at 5")
    assert lots(book_of(*moved_there)) == "1 @ 11, 1 @ 20"


def test_a_correction_takes_over_neither_commission_nor_adjustment() -> None:
    book = book_of("#1 BUY 10 @ 100 fee 1 adj 2 at 1", "#1.2 BUY 10 @ 100 at 1")
    told = book.snapshot()
    assert (fees(book), told.commission, told.basis_adjustment) == ("0", 0, 0)


def test_an_id_such_as_a_small_currency_trade_has_is_corrected_like_any_other() -> None:
    # One that is not of hexadecimal digits.
    book = Book("EUR.USD")
    for line, name in (("BUY 7 @ 1.1 at 1", "01"), ("BUY 5 @ 1.1 at 1", "02")):
        identity, revision = parse_exec_id(f"FXSMLCUS.6596b0d2.01.{name}")
        assert revision is not None
        fill = execution(line)._replace(identity=identity, revision=revision)
        book.apply(fill)
    assert lots(book) == "5 @ 1.1"


# --- busts -----------------------------------------------------------------------------------


def test_a_bust_removes_its_execution() -> None:
    book, did = played("#1 BUY 10 @ 100 fee 1 at 1", "#2 SELL 4 @ 110 at 2", "#1.2 BUST at 1")
    assert closed(did[2]) == "LONG -4 @ 100 -> 110 = -40"
    told = book.snapshot()
    assert (lots(book), gross(book), told.commission, told.executions) == ("-4 @ 110", "0", 0, 1)


def test_a_bust_that_comes_before_its_original_is_remembered() -> None:
    book, did = played("#1.2 BUST at 1", "#1 BUY 10 @ 100 fee 1 at 1")
    assert did[0] is not None
    assert did[1] is None
    told = book.snapshot()
    assert (lots(book), told.commission, told.executions, told.last_exec_id) == ("", 0, 0, None)


def test_when_all_executions_are_busted_none_is_last() -> None:
    told = book_of("#1 BUY 10 @ 100 at 1", "#1.2 BUST at 1").snapshot()
    assert (told.last_exec_id, told.last_price, told.timestamp) == (None, None, None)


def test_a_busted_execution_is_not_the_last_one() -> None:
    told = book_of("#1 BUY 1 @ 10 at 1", "#2 BUY 1 @ 11 at 2", "#2.2 BUST at 3").snapshot()
    assert (told.last_exec_id, told.timestamp) == (exec_id(1), 1000)


def test_a_correction_of_a_bust_brings_the_execution_back() -> None:
    lines = ("#1 BUY 10 @ 100 at 1", "#1.2 BUST at 1", "#1.3 BUY 9 @ 100 at 1")
    for order in permutations(lines):
        assert lots(book_of(*order)) == "9 @ 100"


# --- small sets, in every order -----------------------------------------------------------

SETS = {
    "a late sale and a correction that moves it": (
        "#1 BUY 10 @ 10 fee 1 at 1", "#2 SELL 15 @ 12 fee 3 at 3", "#2.2 SELL 15 @ 12 fee 3 at 2",
        "#3 BUY 7 @ 11 at 4", "#1 REPORT 0.7 at 1",
    ),
    "a bust in the middle of a flip": (
        "#1 BUY 5 @ 10 at 1", "#2 SELL 9 @ 11 fee 0.9 at 2", "#2.2 BUST at 2",
        "#3 SELL 2 @ 12 at 3", "#4 BUY 3 @ 13 at 4",
    ),
    "a split between fills": (
        "#1 BUY 3 @ 10 fee 1 at 1", "#2 BUY 3 @ 12 at 2", "SPLIT 3:1 at 3", "#3 SELL 4 @ 5 at 4",
        "#3.2 SELL 10 @ 5 at 5",
    ),
    "a short side that is corrected to long": (
        "#1 SELL 6 @ 10 at 1", "#1.2 BUY 6 @ 10 at 1", "#2 BUY 2 @ 9 fee 1 at 2",
        "#3 SELL 9 @ 11 at 3", "#2.2 REPORT 2 at 2", "#2 REPORT 1 at 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lines", SETS.values(), ids=SETS)
def test_every_order_of_a_set_gives_the_same_position(lines: tuple[str, ...]) -> None:
    arrivals = list(permutations(lines))
    positions = {(lots(book), book.snapshot()) for book in (book_of(*a) for a in arrivals)}
    assert len(arrivals) >= 120
    assert len(positions) == 1


def test_corrections_back_and_forth_leave_an_average_without_a_trace() -> None:
    steps = [f"#1.{revision} BUY {revision} @ 1{revision} at 1" for revision in range(2, 60)]
    book = book_of("#1 BUY 1 @ 7 at 1", "#2 SELL 90 @ 5 fee 3 at 2", *steps, "#1.60 BUST at 1")
    assert (average(book), gross(book), lots(book)) == ("5", "0", "-90 @ 5")
