"""Splits, which change quantities and never cost."""

from itertools import permutations

import pytest

from state.book import Book
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
    money,
    net,
    played,
)


def cost_basis(*lines: str) -> str:
    return money(book_of(*lines).snapshot().cost_basis)


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


def test_a_book_read_back_shows_a_lot_that_was_split_at_the_same_price() -> None:
    book = book_of("BUY 1 @ 8", "SPLIT 2:1")
    assert lots(Book.from_state(book.to_state())) == lots(book) == "2 @ 4"


def test_the_price_that_is_shown_is_that_of_one_point_whatever_the_multiplier() -> None:
    assert lots(book_of("BUY 1 @ 10 x50", "SPLIT 4:1")) == "4 @ 2.5"


def test_a_match_of_a_lot_that_was_split_takes_cost_pro_rata_and_the_parts_add_up() -> None:
    _, did = played("BUY 1 @ 10", "SPLIT 3:1", "SELL 1 @ 4", "SELL 1 @ 4", "SELL 1 @ 4")
    assert [closed(each) for each in did[2:]] == [
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666667",
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666666",
        "LONG 1 @ 3.3333333333 -> 4 = 0.66666666666666666667",
    ]


def test_what_cost_is_gone_is_rounded_half_even_to_twenty_places() -> None:
    last_place, three = "0.0000000001 x0.0000000001", "0.0000000003 x0.0000000001"
    assert cost_basis(f"BUY 1 @ {last_place}", "SPLIT 2:1", "SELL 1 @ 1") == "0." + "0" * 19 + "1"
    assert cost_basis(f"BUY 1 @ {three}", "SPLIT 2:1", "SELL 1 @ 1") == "0." + "0" * 19 + "1"
    assert cost_basis(f"SELL 1 @ {three}", "SPLIT 2:1", "BUY 1 @ 1") == "-0." + "0" * 19 + "1"


def test_what_cost_is_gone_depends_on_how_many_units_are_and_on_nothing_else() -> None:
    lines = ("BUY 7 @ 10", "SPLIT 3:7")
    at_once = book_of(*lines, "SELL 2 @ 4")
    in_parts = book_of(*lines, "SELL 0.5 @ 4", "SELL 0.7 @ 4", "SELL 0.8 @ 4")
    assert costs(at_once) == costs(in_parts)
    assert gross(at_once) == gross(in_parts)


def test_a_charge_stays_with_the_lot_through_a_split() -> None:
    book = book_of("BUY 10 @ 4 fee 1 adj 1", "SPLIT 2:1", "SELL 5 @ 2")
    assert net(book) == "-0.5"


def test_what_is_left_of_a_charge_is_borne_evenly_by_the_units_after_the_split() -> None:
    # 1 of 3 is gone with 0.3333333333; what is left, 0.6666666667, is divided by 4.
    lines = ("BUY 3 @ 4 fee 1", "SELL 1 @ 4", "SPLIT 2:1")
    assert net(book_of(*lines, "SELL 1 @ 2")) == "-0.5"
    assert net(book_of(*lines, "SELL 3 @ 2")) == "-0.8333333333"
    assert net(book_of(*lines, "SELL 4 @ 2")) == "-1"


def test_a_report_after_the_split_is_as_one_before_it() -> None:
    lines = ("#1 BUY 3 @ 4 at 1", "#2 SELL 1 @ 4 at 2", "SPLIT 2:1 at 3", "#1 REPORT 1 at 9")
    for order in permutations(lines):
        assert net(book_of(*order)) == "-0.3333333333"
        assert fees(book_of(*order)) == "0.6666666667"


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


def test_splits_of_one_time_go_by_first_arrival_with_all_else() -> None:
    assert lots(book_of("BUY 1 @ 8 at 5", "SPLIT 2:1 at 5", "#9 BUY 1 @ 6 at 5")) == "2 @ 4, 1 @ 6"
    assert lots(book_of("SPLIT 2:1 at 5", "BUY 1 @ 8 at 5")) == "1 @ 8"
    corrected = ("#1 BUY 1 @ 8 at 5", "SPLIT 2:1 at 5", "#1.2 BUY 3 @ 8 at 5")
    assert lots(book_of(*corrected)) == "6 @ 4"
    tenth_first = ("BUY 1 @ 1 at 1", "#1 SPLIT 1:10 to 0 at 5", "#2 SPLIT 10:1 to 0 at 5")
    assert lots(book_of(*tenth_first)) == ""
    assert lots(book_of(*tenth_first[:1], *tenth_first[:0:-1])) == "1 @ 1"


def test_a_split_again_changes_nothing_and_other_figures_under_its_id_are_refused() -> None:
    book, did = played("BUY 10 @ 8 at 1", "SPLIT 2:1 at 5", "SPLIT 2:1 at 5")
    assert did[2] is None
    state = book.to_state()
    was = '{"ratio": "2:1", "places": 10} at 5000'
    for other, found in {
        "SPLIT 3:1 at 5": '{"ratio": "3:1", "places": 10} at 5000',
        "SPLIT 2:1 to 4 at 5": '{"ratio": "2:1", "places": 4} at 5000',
        "#5000 SPLIT 2:1 at 6": '{"ratio": "2:1", "places": 10} at 6000',
    }.items():
        with pytest.raises(RejectedError) as refused:
            book.apply(message(other))
        assert str(refused.value) == (
            f"exec_id: expected {was}, as the split '5000' had before, found {found}"
        )
        assert book.to_state() == state


def test_two_splits_of_one_time_need_ids_of_their_own() -> None:
    assert lots(book_of("BUY 1 @ 8 at 1", "#1 SPLIT 2:1 at 5", "#2 SPLIT 2:1 at 5")) == "4 @ 2"


# --- places ---------------------------------------------------------------------------------


def test_the_position_is_rounded_half_even_to_the_places_that_the_split_says() -> None:
    assert lots(book_of("BUY 1000 @ 3", "SPLIT 1:3 to 4")) == "333.3333 @ 9.0000009"
    assert lots(book_of("BUY 1 @ 3", "SPLIT 5:2 to 0")) == "2 @ 1.5"
    assert lots(book_of("BUY 3 @ 2", "SPLIT 5:2 to 0")) == "8 @ 0.75"
    assert lots(book_of("SELL 1 @ 3", "SPLIT 5:2 to 0")) == "-2 @ 1.5"
    assert lots(book_of("BUY 1 @ 3", "SPLIT 1:3")) == "0.3333333333 @ 9.0000000009"


def test_lots_are_the_differences_of_rounded_totals_so_that_they_add_up() -> None:
    # 133.33 and 333.33 of 400 and 600: the second lot is what makes the whole 333.33.
    book = book_of("BUY 400 @ 1", "BUY 600 @ 1", "SPLIT 1:3 to 2")
    assert lots(book) == "133.33 @ 3.0000750019, 200 @ 3"
    book = book_of("BUY 1 @ 1", "BUY 1 @ 1", "BUY 1 @ 1", "SPLIT 1:2 to 0")
    assert lots(book) == "1 @ 2, 1 @ 1", "0.5, 1 and 1.5 are rounded to 0, 1 and 2"


def test_a_lot_that_comes_to_nothing_leaves_cost_and_charge_to_the_next() -> None:
    book = book_of("BUY 1 @ 7 fee 0.5", "BUY 9 @ 1 fee 1", "SPLIT 1:4 to 0")
    assert (lots(book), costs(book), fees(book)) == ("2 @ 8", "16", "1.5")


def test_the_last_lot_that_comes_to_nothing_leaves_them_to_the_one_before() -> None:
    book = book_of(
        "BUY 9 @ 1 fee 1", "BUY 0.5 @ 6 fee 0.2", "BUY 0.1 @ 10 fee 0.1", "SPLIT 1:4 to 0"
    )
    assert (lots(book), costs(book), fees(book)) == ("2 @ 6.5", "13", "1.3")
    worthless = book_of("BUY 4 @ 1", "BUY 1 @ 0 fee 0.2", "SPLIT 1:4 to 0")
    assert (lots(worthless), costs(worthless), fees(worthless)) == ("1 @ 4", "4", "0.2")


def test_a_split_that_leaves_nothing_takes_the_position_away_at_its_own_cost() -> None:
    book, did = played("BUY 1 @ 7 fee 0.5", "SELL 0.5 @ 9 fee 0.1", "SPLIT 1:10 to 0")
    assert did[2] == ([], 0, 0)
    assert (lots(book), gross(book), net(book)) == ("", "1", "0.65")
    assert average(book) == "flat"
    assert lots(book_of("BUY 1 @ 7", "SPLIT 1:10 to 0", "SELL 1 @ 3")) == "-1 @ 3"


def test_a_split_of_one_for_one_rounds_a_fraction_off() -> None:
    assert (
        lots(book_of("BUY 12.2 @ 1", "BUY 10 @ 1", "SPLIT 1:1 to 0")) == "12 @ 1.0166666667, 10 @ 1"
    )


@pytest.mark.parametrize(
    ("before", "late", "left"),
    [
        (
            ("BUY 3 @ 8 at 1", "SPLIT 1:3 at 5"),
            "BUY 1 @ 9 at 4",
            "1 @ 8, 0.3333333333 @ 27.0000000027",
        ),
        (
            ("#7 BUY 3 @ 8 at 1", "SPLIT 1:3 at 5"),
            "#7.2 BUY 4 @ 8 at 1",
            "1.3333333333 @ 24.0000000006",
        ),
        (("BUY 1 @ 8 at 1", "SELL 1 @ 9 at 9"), "SPLIT 1:3 at 5", "-0.6666666667 @ 9"),
    ],
)
def test_no_quantity_is_refused_for_what_a_split_makes_of_it(
    before: tuple[str, ...], late: str, left: str
) -> None:
    book = book_of(*before)
    assert book.apply(message(late, 9))
    assert lots(book).replace("1 @ 24, ", "1 @ 8, ") == left


@pytest.mark.parametrize("price", ["900000000", "100000000", "-900000000"])
def test_a_split_that_would_take_a_price_to_the_limit_is_refused(price: str) -> None:
    book = book_of(f"BUY 1 @ {price}")
    state = book.to_state()
    with pytest.raises(
        RejectedError, match=rf"^avg_price: expected to stay below 1e17, found {price}0"
    ):
        book.apply(message("SPLIT 1:1000000000"))
    assert book.to_state() == state
