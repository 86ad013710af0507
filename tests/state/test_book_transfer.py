"""Transfers: quantity that leaves or comes at its own cost, without profit or loss."""

from itertools import permutations

import pytest

from state.messages import RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    costs,
    fees,
    gross,
    lots,
    message,
    net,
    played,
)

# --- out ------------------------------------------------------------------------------------


def test_the_oldest_lots_leave_at_their_own_cost() -> None:
    lines = ("BUY 10 @ 5 fee 1", "BUY 10 @ 6 fee 2", "OUT 15")
    book, did = played(*lines)
    assert did[2] == ([], 0, 0)
    assert (lots(book), costs(book), fees(book)) == ("5 @ 6", "30", "1")
    assert (gross(book), net(book)) == ("0", "0")


def test_without_a_quantity_all_leaves_and_no_more_than_there_is() -> None:
    assert lots(book_of("SELL 10 @ 5", "SELL 10 @ 6", "OUT")) == ""
    assert lots(book_of("BUY 10 @ 5", "OUT 15", "SELL 1 @ 7")) == "-1 @ 7"
    assert lots(book_of("SELL 10 @ 5", "OUT 4")) == "-6 @ 5"


def test_a_transfer_of_nothing_makes_a_row_and_changes_nothing() -> None:
    book, did = played("OUT 5", "OUT")
    assert did == [([], 0, 0)] * 2
    assert average(book) == "flat"


def test_what_leaves_takes_its_charge_along() -> None:
    # An option that is assigned: no P&L, gross or net; what it cost moves elsewhere.
    book = book_of("SELL 1 @ 5.2 x100 fee 0.667292", "OUT")
    assert (gross(book), net(book), book.snapshot().commission) == ("0", "0", 6672920000)


def test_units_that_left_are_gone_as_those_that_were_closed() -> None:
    # After 1 of 3 left, the second takes what makes two thirds, the third the rest.
    lines = ("BUY 3 @ 10 fee 1", "OUT 1")
    assert net(book_of(*lines, "SELL 1 @ 10")) == "-0.3333333334"
    assert net(book_of(*lines, "SELL 2 @ 10")) == "-0.6666666667"
    assert costs(book_of("OPENING 3 cost 10 at 1", "OUT 1")) == "6.66666666666666666667"


def test_a_late_transfer_takes_back_what_it_changes() -> None:
    book, did = played("BUY 10 @ 5 at 1", "BUY 10 @ 6 at 2", "SELL 10 @ 9 at 9", "OUT 10 at 5")
    assert closed(did[3]) == "LONG -10 @ 5 -> 9 = -40, LONG 10 @ 6 -> 9 = 30"
    assert (lots(book), gross(book)) == ("", "30")


def test_a_report_counts_for_what_left_only_as_far_as_it_stayed() -> None:
    lines = ("#1 BUY 4 @ 5 at 1", "#8 OUT 1 at 2", "#2 SELL 2 @ 5 at 3", "#1 REPORT 1 at 9")
    for order in permutations(lines):
        assert (net(book_of(*order)), fees(book_of(*order))) == ("-0.5", "0.25")


# --- in -------------------------------------------------------------------------------------


def test_a_lot_comes_at_its_own_cost_and_keeps_its_opening_time() -> None:
    book, did = played("IN 10 @ 5 of 1 at 3", "SELL 4 @ 7 at 4")
    assert did[0] == ([], 0, 0)
    assert did[1] is not None
    assert (lots(book), gross(book)) == ("6 @ 5", "8")
    lot = did[1].closed[0]
    assert (lot.open_exec_id, lot.open_timestamp) == ("1", 1000)
    told = book_of("IN 10 @ 5 of 1 at 3").snapshot()
    assert (told.executions, told.last_exec_id, told.timestamp) == (0, None, None)


def test_a_lot_may_come_with_a_cost_that_does_not_divide() -> None:
    book = book_of("IN -3 cost -10 of 1 at 2", "BUY 1 @ 3")
    assert (lots(book), costs(book)) == ("-2 @ 3.3333333333", "-6.66666666666666666667")


def test_it_takes_its_place_by_its_opening_time_behind_equal_ones() -> None:
    held = ("BUY 1 @ 1 at 1", "BUY 1 @ 2 at 3", "BUY 1 @ 3 at 5")
    assert lots(book_of(*held, "IN 1 @ 9 of 0 at 6")) == "1 @ 9, 1 @ 1, 1 @ 2, 1 @ 3"
    assert lots(book_of(*held, "IN 1 @ 9 of 3 at 6")) == "1 @ 1, 1 @ 2, 1 @ 9, 1 @ 3"
    assert lots(book_of(*held, "IN 1 @ 9 of 5 at 6")) == "1 @ 1, 1 @ 2, 1 @ 3, 1 @ 9"


def test_what_was_closed_before_it_came_is_not_touched() -> None:
    book, did = played("BUY 1 @ 5 at 3", "SELL 1 @ 6 at 4", "IN 1 @ 2 of 1 at 5", "SELL 1 @ 7 at 6")
    assert did[2] == ([], 0, 0)
    assert closed(did[3]) == "LONG 1 @ 2 -> 7 = 5"
    assert gross(book) == "6"


def test_against_lots_of_the_other_side_as_much_leaves_as_comes() -> None:
    held = ("SELL 3 @ 5 fee 3 at 1", "SELL 2 @ 6 at 2")
    assert lots(book_of(*held, "IN 4 @ 9 of 1 at 3")) == "-1 @ 6"
    assert lots(book_of(*held, "IN 5 @ 9 of 1 at 3")) == ""
    book, did = played(*held, "IN 7 @ 9 of 1 at 3")
    assert did[2] == ([], 0, 0)
    assert (lots(book), costs(book), net(book)) == ("2 @ 9", "18", "0")


def test_the_rest_of_a_lot_that_met_the_other_side_has_what_is_left_of_its_cost() -> None:
    book = book_of("SELL 1 @ 5 at 1", "IN 3 cost 10 of 1 at 3")
    assert (lots(book), costs(book)) == ("2 @ 3.3333333333", "6.66666666666666666667")
    assert gross(book) == "0"


def test_a_split_and_a_cost_work_on_a_lot_that_came() -> None:
    book = book_of("IN 10 @ 6 of 1 at 2", "SPLIT 2:1 at 3", "COST 0.5 at 4")
    assert (lots(book), fees(book)) == ("20 @ 3", "10")


def test_the_lots_that_stay_are_not_begun_anew() -> None:
    # 1 of 3 was closed before the other lot came, the second after it.
    lines = ("BUY 3 @ 4 fee 1 at 1", "SELL 1 @ 4 at 2", "IN 1 @ 4 of 9 at 3", "SELL 1 @ 4 at 4")
    assert fees(book_of(*lines)) == "0.3333333333, 0"


def test_a_lot_that_came_before_the_multiplier_was_known_is_counted_with_it() -> None:
    lines = ("#8 IN 2 @ 5 of 1 at 1", "#1 BUY 1 @ 6 x100 at 2")
    for order in permutations(lines):
        assert costs(book_of(*order)) == "1000, 600"


# --- again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("#7 OUT 5 at 3", ("#7 OUT 6 at 3", "#7 OUT at 3", "#7 OUT 5 at 4")),
        (
            "#7 IN 5 @ 2 of 1 at 3",
            ("#7 IN 6 @ 2 of 1 at 3", "#7 IN 5 @ 3 of 1 at 3", "#7 IN 5 @ 2 of 2 at 3",
             "#7 IN 5 cost 11 of 1 at 3", "#7 IN 5 @ 2 of 1 at 4"),
        ),
        ("#7 OUT 5 at 3", ("#7 IN 5 @ 2 of 1 at 3",)),
    ],
)  # fmt: skip
def test_a_transfer_again_changes_nothing_and_other_figures_under_its_id_are_refused(
    first: str, others: tuple[str, ...]
) -> None:
    book, did = played("BUY 20 @ 8 at 1", first, first)
    assert did[2] is None
    state = book.to_state()
    for other in others:
        with pytest.raises(RejectedError, match=r"^exec_id: expected .* '7' had before"):
            book.apply(message(other))
        assert book.to_state() == state
