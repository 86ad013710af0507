"""Splits, which change quantities and never cost, and openings, which come first."""

import pytest

from state.messages import RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    gross,
    lots,
    message,
    money,
    net,
    played,
)


def cost_basis(*lines: str) -> str:
    return money(book_of(*lines).snapshot().cost_basis)


# --- splits -----------------------------------------------------------------------------


def test_a_split_changes_quantities_and_prices_but_not_the_cost() -> None:
    lines = ("BUY 100 @ 40", "BUY 10 @ 44", "SPLIT 4:1")
    assert lots(book_of(*lines)) == "400 @ 10, 40 @ 11"
    assert cost_basis(*lines) == "4440"


def test_a_reverse_split_works_alike_and_so_do_short_positions() -> None:
    assert lots(book_of("BUY 100 @ 4", "SPLIT 1:10")) == "10 @ 40"
    assert lots(book_of("SELL 100 @ 4", "SPLIT 1:8")) == "-12.5 @ 32"
    assert lots(book_of("SELL 100 @ 4", "SPLIT 3:2")) == "-150 @ 2.6666666667"


def test_a_split_tells_that_it_was_applied_and_realizes_nothing() -> None:
    book, did = played("BUY 100 @ 4 fee 2", "SPLIT 1:10")
    assert did[1] is not None
    assert (did[1].closed, did[1].realized_change, did[1].net_change) == ([], 0, 0)
    assert book.snapshot().executions == 1


def test_a_lot_that_was_split_keeps_its_cost_exactly_and_shows_a_rounded_price() -> None:
    lines = ("BUY 1 @ 10", "SPLIT 3:1")
    assert lots(book_of(*lines)) == "3 @ 3.3333333333"
    assert (cost_basis(*lines), average(book_of(*lines))) == ("10", "3.3333333333")
    assert gross(book_of(*lines, "SELL 3 @ 4")) == "2"


def test_a_match_of_a_lot_that_was_split_takes_cost_pro_rata_and_the_parts_add_up() -> None:
    _, did = played("BUY 1 @ 10", "SPLIT 3:1", "SELL 1 @ 4", "SELL 1 @ 4", "SELL 1 @ 4")
    assert [closed(each) for each in did[2:]] == [
        "LONG 1 @ 3.3333333333 -> 4 = 0.6666666667",
        "LONG 1 @ 3.3333333333 -> 4 = 0.6666666666",
        "LONG 1 @ 3.3333333333 -> 4 = 0.6666666667",
    ]


def test_the_cost_of_a_part_is_rounded_half_even() -> None:
    assert cost_basis("BUY 1 @ 0.0000000001", "SPLIT 2:1", "SELL 1 @ 1") == "0.0000000001"
    assert cost_basis("BUY 1 @ 0.0000000003", "SPLIT 2:1", "SELL 1 @ 1") == "0.0000000001"
    assert cost_basis("SELL 1 @ 0.0000000003", "SPLIT 2:1", "BUY 1 @ 1") == "-0.0000000001"


def test_a_commission_stays_with_the_lot_through_a_split() -> None:
    book = book_of("BUY 10 @ 4 fee 1", "SPLIT 2:1", "SELL 5 @ 2")
    assert net(book) == "-0.25"


def test_a_lot_bought_after_the_split_is_not_split() -> None:
    assert lots(book_of("BUY 1 @ 8", "SPLIT 2:1", "BUY 1 @ 5")) == "2 @ 4, 1 @ 5"


def test_two_splits_follow_one_another() -> None:
    assert lots(book_of("BUY 5 @ 8", "SPLIT 4:1", "SPLIT 1:10")) == "2 @ 20"
    assert lots(book_of("BUY 1 @ 10", "SPLIT 3:1", "SPLIT 1:3")) == "1 @ 10"


def test_a_split_of_nothing_is_fine() -> None:
    book, did = played("SPLIT 2:1", "BUY 1 @ 8")
    assert did[0] is not None
    assert lots(book) == "1 @ 8"


def test_a_late_split_splits_what_was_open_at_its_time() -> None:
    lines = ("BUY 10 @ 8 at 1", "SELL 5 @ 5 at 9", "BUY 1 @ 5 at 10", "SPLIT 2:1 at 5")
    book, did = played(*lines)
    assert closed(did[3]) == "LONG -5 @ 8 -> 5 = 15, LONG 5 @ 4 -> 5 = 5"
    assert lots(book) == "15 @ 4, 1 @ 5"


def test_a_split_again_changes_nothing_and_another_of_its_time_is_refused() -> None:
    book, did = played("BUY 10 @ 8 at 1", "SPLIT 2:1 at 5", "SPLIT 2:1 at 5")
    assert did[2] is None
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^split: expected the ratio 2:1 .* found 3:1"):
        book.apply(message("SPLIT 3:1 at 5"))
    assert book.to_state() == state


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        (("BUY 1 @ 8",), "SPLIT 1:3"),
        (("BUY 0.0000000001 @ 8",), "SPLIT 1:2"),
        (("BUY 3 @ 8", "BUY 1 @ 8"), "SPLIT 1:3"),  # the second lot, after the first went
        (("BUY 1 @ 8", "SELL 1 @ 9 at 9"), "SPLIT 1:3"),
        (("BUY 3 @ 8", "SPLIT 1:3 at 5"), "BUY 1 @ 9 at 4"),  # a late one, before a split
        (("#7 BUY 3 @ 8 at 1", "SPLIT 1:3 at 5"), "#7.2 BUY 4 @ 8 at 1"),
    ],
)
def test_what_would_leave_more_than_ten_places_is_refused_and_leaves_no_trace(
    before: tuple[str, ...], refused: str
) -> None:
    book = book_of(*before)
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^split: expected lots of at most 10 decimal places"):
        book.apply(message(refused, 3))
    assert book.to_state() == state


def test_a_split_that_would_take_a_price_to_the_limit_is_refused() -> None:
    book = book_of("BUY 1 @ 900000000")
    state = book.to_state()
    with pytest.raises(
        RejectedError, match=r"^split: expected prices below 1e17 after it, found 9"
    ):
        book.apply(message("SPLIT 1:1000000000"))
    assert book.to_state() == state


# --- openings -----------------------------------------------------------------------------


def test_an_opening_is_a_lot_without_an_execution() -> None:
    book, did = played("OPENING 100 @ 10", "SELL 30 @ 12")
    assert did[1] is not None
    assert (lots(book), gross(book), book.snapshot().executions) == ("70 @ 10", "60", 1)
    assert [lot.open_exec_id for lot in did[1].closed] == [None]
    assert lots(book_of("OPENING -100 @ 10", "BUY 30 @ 12")) == "-70 @ 10"


def test_an_opening_alone_is_no_execution() -> None:
    told = book_of("OPENING 100 @ 10").snapshot()
    assert (told.open_lots, told.executions, told.last_exec_id, told.timestamp) == (
        1,
        0,
        None,
        None,
    )


def test_an_opening_comes_first_whatever_its_time() -> None:
    assert lots(book_of("OPENING 10 @ 5 at 90", "BUY 1 @ 6 at 1", "SELL 10 @ 7 at 2")) == "1 @ 6"
    assert lots(book_of("OPENING 10 @ 5 at 90", "SPLIT 2:1 at 1")) == "20 @ 2.5"


def test_an_opening_again_changes_nothing() -> None:
    _, did = played("OPENING 10 @ 5 at 1", "BUY 1 @ 6", "OPENING 10 @ 5 at 1")
    assert did[2] is None


@pytest.mark.parametrize(
    "before",
    [
        ("BUY 1 @ 6",),
        ("BUY 1 @ 6", "SELL 1 @ 6"),  # flat, but it has a past
        ("OPENING 10 @ 5 at 1",),
        ("OPENING 10 @ 5 at 1", "SELL 10 @ 6"),
    ],
)
def test_an_opening_is_refused_when_the_book_is_not_empty(before: tuple[str, ...]) -> None:
    book = book_of(*before)
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^opening: expected an empty book, found one of"):
        book.apply(message("OPENING 20 @ 5 at 1"))
    assert book.to_state() == state


@pytest.mark.parametrize(
    "before",
    [
        ("#1 COST 1 at 1",),
        ("#1.2 BUST at 1",),
        ("#1 BUY 5 @ 5 at 1", "#1.2 BUST at 1"),
        ("SPLIT 1:1 at 1",),
    ],
)
def test_a_book_of_no_execution_that_counts_is_empty(before: tuple[str, ...]) -> None:
    assert lots(book_of(*before, "OPENING 20 @ 5 at 9")) == "20 @ 5"


def test_an_opening_comes_before_a_split_that_arrived_before_it() -> None:
    assert lots(book_of("SPLIT 2:1 at 1", "OPENING 20 @ 5 at 9")) == "40 @ 2.5"
