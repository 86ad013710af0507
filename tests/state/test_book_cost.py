"""Costs: money laid on each open unit, or paid back, and borne when units are closed."""

from itertools import permutations

import pytest

from state.exact import to_text
from state.messages import RejectedError
from tests.support.notation import book_of, costs, fees, lots, message, net, played


def test_a_cost_waits_in_the_open_lots_and_falls_due_with_their_units() -> None:
    lines = ("BUY 10 @ 5", "BUY 30 @ 6", "COST 0.5")
    book, did = played(*lines)
    assert did[2] == ([], 0, 0)
    assert (fees(book), lots(book), costs(book)) == ("5, 15", "10 @ 5, 30 @ 6", "50, 180")
    assert net(book_of(*lines, "SELL 4 @ 5")) == "-2"
    assert net(book_of(*lines, "SELL 40 @ 6")) == "-10"  # 10 realized less 20


def test_a_return_of_capital_is_a_gain_to_a_long_position_and_a_cost_to_a_short_one() -> None:
    assert net(book_of("BUY 83 @ 7 at 1", "COST -0.1407 at 2", "SELL 83 @ 7 at 3")) == "11.6781"
    assert net(book_of("SELL 83 @ 7 at 1", "COST -0.1407 at 2", "BUY 83 @ 7 at 3")) == "-11.6781"


def test_a_cost_is_an_adjustment_and_neither_a_commission_nor_part_of_the_cost_basis() -> None:
    told = book_of("BUY 10 @ 5 x100 fee 1 adj 2", "COST 0.5").snapshot()
    assert (to_text(told.basis_adjustment), to_text(told.commission)) == ("502", "1")
    assert told.cost_basis == 5000 * 10**20
    assert told.realized_pnl == 0


def test_what_is_laid_is_money_the_multiplier_counts() -> None:
    assert fees(book_of("BUY 2 @ 5 x50", "COST 0.1")) == "10"


def test_it_is_rounded_half_even_to_ten_places_for_each_lot() -> None:
    lines = ("BUY 0.5 @ 1", "BUY 1.5 @ 1", "SPLIT 1:1", "COST 0.0000000001")
    assert fees(book_of(*lines)) == "0, 0.0000000002"
    assert to_text(book_of(*lines).snapshot().basis_adjustment) == "0.0000000002"


def test_what_is_left_of_a_charge_and_what_is_laid_on_it_are_one_from_then_on() -> None:
    # 1 of 3 is gone with 0.3333333333; 0.6666666667 and 0.2 are borne by the 2 that are left.
    lines = ("BUY 3 @ 4 fee 1", "SELL 1 @ 4", "COST 0.1")
    assert fees(book_of(*lines)) == "0.8666666667"
    assert net(book_of(*lines, "SELL 1 @ 4")) == "-0.7666666667"
    assert net(book_of(*lines, "SELL 2 @ 4")) == "-1.2"


def test_what_is_left_of_a_cost_is_divided_by_the_units_that_are_left() -> None:
    # Of 10 of the last place 1 goes with 1 of 7. With 3 more, 6 of 10 by 7, or 4 of 9 by 6.
    opened, first, second = "OPENING 7 cost 1e-19", "SELL 1 @ 1 at 1", "SELL 3 @ 1 at 3"
    last_place = "0." + "0" * 19
    assert costs(book_of(opened, first, second)) == last_place + "4"
    assert costs(book_of(opened, first, "COST 0 at 2", second)) == last_place + "5"


def test_on_what_is_not_open_a_cost_does_nothing() -> None:
    book, did = played("COST 5 at 1", "BUY 1 @ 5 at 2", "SELL 1 @ 5 at 3", "COST 5 at 4")
    assert did[0] == did[3] == ([], 0, 0)
    assert (net(book), book.snapshot().basis_adjustment) == ("0", 0)


def test_a_late_cost_is_laid_on_what_was_open_at_its_time() -> None:
    lines = ("#1 BUY 10 @ 5 at 1", "#2 SELL 4 @ 5 at 5", "#3 BUY 2 @ 5 at 6", "COST 1 at 3")
    for order in permutations(lines):
        assert (net(book_of(*order)), fees(book_of(*order))) == ("-4", "6, 0")


def test_a_late_execution_changes_what_a_cost_was_laid_on() -> None:
    book, did = played("BUY 10 @ 5 at 1", "COST 1 at 5", "SELL 4 @ 5 at 3")
    assert fees(book) == "6"
    assert did[2] is not None
    assert did[2].net_change == 0


def test_a_report_after_a_cost_counts_from_the_opening_on() -> None:
    lines = ("#1 BUY 3 @ 4 at 1", "#2 SELL 1 @ 4 at 2", "COST 0.1 at 3", "#1 REPORT 1 at 9")
    for order in permutations(lines):
        assert fees(book_of(*order)) == "0.8666666667"
        assert net(book_of(*order)) == "-0.3333333333"


def test_a_cost_again_changes_nothing_and_other_figures_under_its_id_are_refused() -> None:
    book, did = played("BUY 10 @ 8 at 1", "COST 2 at 5", "COST 2 at 5")
    assert did[2] is None
    state = book.to_state()
    for other in ("COST 3 at 5", "#5000 COST 2 at 6"):
        with pytest.raises(RejectedError, match=r"^exec_id: expected .* '5000' had before"):
            book.apply(message(other))
        assert book.to_state() == state
    assert book.apply(message("#7 COST 2 at 5")), "another of that time has an id of its own"
    assert book.apply(message("#5000 SPLIT 2:1 at 5")), "and so has each type"
