"""Openings: quantity that was held before everything else, whenever the message comes."""

from itertools import permutations

import pytest

from state.book import Book
from state.exact import MONEY
from state.messages import RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    costs,
    gross,
    lots,
    message,
    played,
)
from tests.support.oracle import told


def test_an_opening_is_a_lot_without_an_execution() -> None:
    book, did = played("#7 OPENING 100 @ 10 at 1", "SELL 30 @ 12")
    assert did[1] is not None
    assert (lots(book), gross(book), book.snapshot().executions) == ("70 @ 10", "60", 1)
    lot = did[1].closed[0]
    assert (lot.open_exec_id, lot.open_timestamp) == ("7", 1000)
    assert lots(book_of("OPENING -100 @ 10", "BUY 30 @ 12")) == "-70 @ 10"


def test_an_opening_alone_is_no_execution() -> None:
    told = book_of("OPENING 100 @ 10").snapshot()
    assert (told.open_lots, told.executions, told.last_exec_id) == (1, 0, None)
    assert (told.last_price, told.timestamp) == (None, None)


def test_an_opening_comes_before_all_others_whatever_its_time() -> None:
    assert lots(book_of("OPENING 10 @ 5 at 90", "BUY 1 @ 6 at 1", "SELL 10 @ 7 at 2")) == "1 @ 6"
    assert lots(book_of("OPENING 10 @ 5 at 90", "SPLIT 2:1 at 1")) == "20 @ 2.5"


def test_an_opening_may_come_at_any_time() -> None:
    lines = (
        "OPENING 10 @ 5 at 90",
        "#1 BUY 1 @ 6 fee 1 at 1",
        "#2 SELL 10 @ 7 at 3",
        "COST 1 at 2",
    )
    shown = {(book_of(*order).snapshot(), lots(book_of(*order))) for order in permutations(lines)}
    assert len(shown) == 1


def test_a_late_opening_takes_back_what_it_changes() -> None:
    # Shares that came by a transfer, sold before anybody said what they cost.
    book, did = played("SELL 25 @ 40 at 5", "BUY 5 @ 41 at 6", "OPENING 25 @ 30 at 90")
    assert closed(did[1]) == "SHORT 5 @ 40 -> 41 = -5"
    assert closed(did[2]) == "SHORT -5 @ 40 -> 41 = 5, LONG 25 @ 30 -> 40 = 250"
    assert (lots(book), gross(book)) == ("5 @ 41", "250")


def test_several_openings_go_in_order_of_their_times_and_equal_ones_of_arrival() -> None:
    lines = ("#1 OPENING 1 @ 1 at 9", "#2 OPENING 2 @ 2 at 3", "#3 OPENING 3 @ 3 at 9")
    assert lots(book_of(*lines)) == "2 @ 2, 1 @ 1, 3 @ 3"
    assert lots(book_of(*lines[::-1])) == "2 @ 2, 3 @ 3, 1 @ 1"


def test_an_opening_may_say_what_it_cost_and_shows_a_rounded_price() -> None:
    book = book_of("OPENING 3 cost 10 at 1")
    assert (lots(book), costs(book), average(book)) == ("3 @ 3.3333333333", "10", "3.3333333333")
    assert lots(book_of("OPENING -3 cost -20 x2 at 1")) == "-3 @ 3.3333333333"


def test_the_parts_of_a_cost_that_does_not_divide_add_up_to_it() -> None:
    book, did = played("OPENING 3 cost 10 at 1", "SELL 1 @ 4", "SELL 1 @ 4", "SELL 1 @ 4")
    assert [closed(each) for each in did[1:]] == [
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666667",
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666666",
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666667",
    ]
    assert gross(book) == "2"


def test_an_opening_worth_nothing_is_one() -> None:
    assert gross(book_of("OPENING 3 @ 0 at 1", "SELL 3 @ 4")) == "12"
    assert gross(book_of("OPENING 3 cost 0 at 1", "SELL 3 @ 4")) == "12"


# --- again, and removed -------------------------------------------------------------------


def test_an_opening_again_changes_nothing() -> None:
    _, did = played("OPENING 10 @ 5 at 1", "BUY 1 @ 6", "OPENING 10 @ 5 at 1")
    assert did[2] is None


@pytest.mark.parametrize(
    "other",
    [
        "OPENING 11 @ 5 at 1",
        "OPENING -10 @ 5 at 1",
        "OPENING 10 @ 6 at 1",
        "OPENING 10 @ 5 at 2",
        "OPENING 10 cost 51 at 1",
        "OPENING 5 @ 10 at 1",  # of the same cost
    ],
)
def test_other_figures_under_the_same_id_are_refused_and_leave_no_trace(other: str) -> None:
    book = book_of("OPENING 10 @ 5 at 1", "SELL 10 @ 6")
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^exec_id: expected .* 'opening' had before"):
        book.apply(message(other))
    assert book.to_state() == state


@pytest.mark.parametrize(
    "before",
    [
        ("#1 OPENING 10 @ 5 at 1",),
        ("#1 OPENING 10 @ 5 at 1", "SELL 10 @ 6"),  # flat, but it has a past
        ("#1 OPENING 10 @ 5 at 1", "SELL 30 @ 6"),
    ],
)
def test_an_opening_of_the_other_side_is_refused_and_leaves_no_trace(
    before: tuple[str, ...],
) -> None:
    book = book_of(*before)
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^qty: expected .* sign|^qty: expected .* opening"):
        book.apply(message("#2 OPENING -5 @ 5 at 1"))
    assert book.to_state() == state


def test_quantity_0_removes_an_opening_for_good_whichever_comes_first() -> None:
    lines = ("#1 BUY 1 @ 6 at 1", "#7 OPENING 10 @ 5 at 1", "#7 OPENING 0 at 5")
    for order in permutations(lines):
        book, did = played(*order)
        assert lots(book) == "1 @ 6"
        assert book.apply(message("#7 OPENING 10 @ 5 at 1")) is None
        assert book.apply(message("#7 OPENING 3 @ 4 at 9")) is None
        removal = order.index(lines[2])
        assert did[removal] is not None, "it makes a row, also before what it removes"
        assert (did[order.index(lines[1])] is None) == (removal < order.index(lines[1]))
        assert book.apply(message(lines[2])) is None


def test_a_removed_opening_takes_its_matches_back() -> None:
    book, did = played("#7 OPENING 10 @ 5 at 1", "SELL 4 @ 6", "#7 OPENING 0 at 9")
    assert closed(did[2]) == "LONG -4 @ 5 -> 6 = -4"
    assert (lots(book), gross(book)) == ("-4 @ 6", "0")


def test_after_a_removal_openings_may_be_of_the_other_side() -> None:
    for was, comes in (("10", "-3"), ("-10", "3")):
        lines = (f"#7 OPENING {was} @ 5 at 1", "#7 OPENING 0 at 9", f"#8 OPENING {comes} @ 4 at 1")
        assert lots(book_of(*lines)) == f"{comes} @ 4"


def test_a_removed_opening_still_says_what_the_multiplier_is() -> None:
    messages = [
        message("#1 IN 5 @ 2 of 0 at 1"), message("#7 OPENING 0"), message("#7 OPENING 3 @ 1 x100"),
    ]  # fmt: skip
    book = Book("XYZ")
    for number, each in enumerate(messages, 1):
        book.apply(each)
        assert book.snapshot() == told(messages[:number], "XYZ").snapshot
    assert book.snapshot().cost_basis == 5 * 2 * 100 * MONEY
