"""What executions cost: pro rata over lots, and the broker's later reports."""

from itertools import permutations

import pytest

from state.book import REMEMBERED
from state.exact import ONE, to_text
from state.messages import CommissionReport, RejectedError
from tests.support.notation import (
    book_of,
    execution,
    fees,
    gross,
    lots,
    message,
    money,
    net,
    played,
)


def cost(*lines: str) -> str:
    """Return the commission so far."""
    return to_text(book_of(*lines).snapshot().commission)


# --- pro rata -------------------------------------------------------------------------


def test_an_opening_commission_waits_in_its_lot_and_a_closing_one_is_due_at_once() -> None:
    book, did = played("BUY 100 @ 10 fee 1", "SELL 40 @ 11 fee 0.5")
    assert (gross(book), net(book), fees(book)) == ("40", "39.1", "0.6")
    assert [money(each.net_change) for each in did if each] == ["0", "39.1"]


def test_a_flip_divides_its_commission_between_what_it_closes_and_what_it_opens() -> None:
    book = book_of("SELL 100 @ 10 fee 2", "BUY 150 @ 9 fee 3")
    assert (net(book), lots(book), fees(book)) == ("96", "50 @ 9", "1")


def test_the_parts_of_a_commission_add_up_to_the_whole() -> None:
    lines = ["BUY 3 @ 10 fee 1"] + ["SELL 1 @ 10"] * 3
    book, did = played(*lines)
    assert [money(each.net_change) for each in did if each] == [
        "0", "-0.3333333333", "-0.3333333334", "-0.3333333333",
    ]  # fmt: skip
    assert net(book) == "-1"


@pytest.mark.parametrize(
    ("fee", "half"), [("0.0000000001", "0"), ("0.0000000003", "-0.0000000002")]
)
def test_parts_are_rounded_half_even_to_ten_places(fee: str, half: str) -> None:
    assert net(book_of(f"BUY 2 @ 1 fee {fee}", "SELL 1 @ 1")) == half
    assert net(book_of(f"BUY 2 @ 1 fee {fee}", "SELL 1 @ 1", "SELL 1 @ 1")) == f"-{fee}"


def test_what_fell_due_depends_on_how_many_units_are_gone_and_on_nothing_else() -> None:
    # A third, two thirds and all of it, rounded: not thirds, each of them rounded.
    bought = "BUY 3 @ 10 fee 0.0000000005"
    assert net(book_of(bought, "SELL 1 @ 10")) == "-0.0000000002"
    assert net(book_of(bought, "SELL 1 @ 10", "SELL 1 @ 10")) == "-0.0000000003"
    assert net(book_of(bought, "SELL 2 @ 10")) == "-0.0000000003"


def test_a_flip_is_gone_as_closer_first_and_then_as_opener() -> None:
    # 2 of 7 close, 5 open: of those 1 more makes 3 of 7.
    lines = ("SELL 2 @ 10", "BUY 7 @ 10 fee 1")
    assert net(book_of(*lines)) == "-0.2857142857"
    assert net(book_of(*lines, "SELL 1 @ 10")) == "-0.4285714286"
    assert net(book_of(*lines, "SELL 5 @ 10")) == "-1"


def test_a_rebate_adds_to_the_net_figure() -> None:
    book = book_of("BUY 10 @ 1 fee -0.5", "SELL 10 @ 1 fee 0.2")
    assert (net(book), cost("BUY 10 @ 1 fee -0.5")) == ("0.3", "-0.5")


def test_gross_figures_know_nothing_of_commissions() -> None:
    assert gross(book_of("BUY 10 @ 1 fee 5", "SELL 10 @ 2 fee 5")) == "10"


# --- reports ---------------------------------------------------------------------------

ROUND_TRIP = ("#1 BUY 10 @ 1 at 1", "#2 SELL 10 @ 2 at 2")


def test_a_report_that_comes_first_makes_no_change_of_its_own_and_then_counts() -> None:
    book, did = played("#1 REPORT 1.5 at 1", *ROUND_TRIP)
    assert did[0] is None
    assert net(book) == "8.5"


def test_a_report_after_its_execution_changes_the_net_figure() -> None:
    book, did = played(*ROUND_TRIP, "#2 REPORT 1.5 at 2")
    assert did[2] is not None
    assert (did[2].closed, did[2].realized_change, money(did[2].net_change)) == ([], 0, "-1.5")
    assert (net(book), gross(book)) == ("8.5", "10")


def test_a_report_long_after_the_lot_was_closed_and_opened_anew_counts_where_it_belongs() -> None:
    book = book_of(*ROUND_TRIP, "BUY 5 @ 3", "SELL 20 @ 4 fee 4", "#1 REPORT 2 at 90")
    assert (net(book), lots(book), fees(book)) == ("12", "-15 @ 4", "3")


def test_a_report_for_an_open_lot_waits_in_the_lot() -> None:
    book = book_of("#1 BUY 10 @ 1 at 1", "#1 REPORT 1 at 1", "SELL 4 @ 1")
    assert (net(book), fees(book), to_text(book.snapshot().commission)) == ("-0.4", "0.6", "1")


def test_a_report_for_a_lot_that_is_closed_in_part_falls_due_with_the_rest() -> None:
    lines = ("#1 BUY 10 @ 1", "SELL 4 @ 1", "#1 REPORT 10")
    assert net(book_of(*lines)) == "-4"
    assert net(book_of(*lines, "SELL 6 @ 1")) == "-10"


def test_a_report_overrides_what_the_execution_says_itself_in_any_order() -> None:
    lines = ("#1 BUY 10 @ 1 fee 9 at 1", "#1 REPORT 1 at 1", "#2 SELL 10 @ 2 at 2")
    for order in permutations(lines):
        assert net(book_of(*order)) == "9"


def test_a_report_that_confirms_what_is_known_changes_nothing() -> None:
    _, did = played("#1 BUY 10 @ 1 fee 1 at 1", "#1 REPORT 1 at 1", "#1 REPORT 1 at 1")
    assert did[1:] == [None, None]


@pytest.mark.parametrize(
    ("reports", "counts"),
    [
        (("#1 REPORT 1 at 5", "#1 REPORT 2 at 6"), "2"),  # the latest
        (("#1.2 REPORT 1 at 5", "#1 REPORT 2 at 6"), "1"),  # the highest revision
        (("#1.3 REPORT 3 at 1", "#1.2 REPORT 2 at 9", "#1 REPORT 1 at 9"), "3"),
        (("#1 REPORT 0 at 9", "#1 REPORT 2 at 8"), "0"),
        (("#1 REPORT -1 at 9", "#1 REPORT 2 at 8"), "-1"),
    ],
)
def test_the_report_of_the_highest_revision_counts_and_of_those_the_latest(
    reports: tuple[str, ...], counts: str
) -> None:
    lines = ("#1 BUY 10 @ 1 at 1", "#1.2 BUY 9 @ 1 at 1", *reports)
    for order in permutations(lines):
        assert cost(*order) == counts


def test_of_reports_of_one_time_the_one_that_comes_last_counts() -> None:
    # TWS gives a report no time, so the router's all carry their execution's.
    assert cost("#1 BUY 10 @ 1 at 1", "#1 REPORT 2 at 1", "#1 REPORT 1 at 1") == "1"
    assert cost("#1 REPORT 2 at 1", "#1 REPORT 1 at 1", "#1 BUY 10 @ 1 at 1") == "1"


def test_a_report_that_does_not_count_changes_nothing() -> None:
    _, did = played(
        "#1 BUY 10 @ 1 at 1", "#1.2 REPORT 2 at 1", "#1 REPORT 1 at 9", "#1.2 REPORT 3 at 0"
    )
    assert did[2:] == [None, None]


def test_a_correction_keeps_the_report_of_what_it_corrects() -> None:
    assert cost("#1 BUY 10 @ 1 at 1", "#1 REPORT 1 at 1", "#1.2 BUY 9 @ 1 at 1") == "1"
    assert cost("#1 BUY 10 @ 1 fee 5 at 1", "#1.2 BUY 9 @ 1 fee 6 at 1") == "6"
    assert cost("#1 BUY 10 @ 1 fee 5 at 1", "#1.2 BUY 9 @ 1 at 1") == "0"


def test_a_busted_execution_costs_nothing_whenever_its_report_comes() -> None:
    lines = ("#1 BUY 10 @ 1 fee 5 at 1", "#1.2 BUST at 1", "#1.2 REPORT 1 at 2")
    for order in permutations(lines):
        assert cost(*order) == "0"


def test_an_execution_that_comes_back_after_its_bust_costs_what_was_reported() -> None:
    lines = ("#1.2 BUST at 1", "#1 REPORT 1 at 2", "#1.3 BUY 5 @ 1 at 1")
    for order in permutations(lines):
        assert cost(*order) == "1"


def test_a_report_counts_for_one_leg_of_a_combo_only() -> None:
    book = book_of()
    legs = ("0000e0d5.6596b0d2.01.01", "0000e0d5.6596b0d2.02.01")
    for number, leg in enumerate(legs, 1):
        book.apply(execution("BUY 10 @ 1", number)._replace(exec_id=leg, identity=leg))
    book.apply(CommissionReport(legs[1], legs[1], 1, 0, ONE))
    assert fees(book) == "0, 1"


def test_the_same_execution_that_now_tells_its_commission_is_heard() -> None:
    # A producer that learns the commission later may send the execution once more.
    book, did = played("#1 BUY 10 @ 1 at 1", "#1 BUY 10 @ 1 fee 2 at 1", "#1 BUY 10 @ 1 at 1")
    assert (to_text(book.snapshot().commission), did[2]) == ("2", None)
    with pytest.raises(RejectedError, match=r"expected commission 2, as .* before, found 3"):
        book.apply(message("#1 BUY 10 @ 1 fee 3 at 1"))
    assert to_text(book.snapshot().commission) == "2"


def test_the_same_execution_without_its_commission_changes_nothing() -> None:
    for fee in ("2", "2 EUR"):
        book = book_of(f"#1 BUY 10 @ 1 fee {fee} at 1")
        assert book.apply(message("#1 BUY 10 @ 1 at 1")) is None


def test_reports_that_wait_for_an_execution_are_bounded() -> None:
    book = book_of("#1 BUY 10 @ 1 at 1")
    for number in range(2, 2 + 2 * REMEMBERED + 1):
        assert book.apply(message(f"#{number} REPORT 1 at 5")) is None
    with pytest.raises(RejectedError, match="since 4200 reports of others are kept already"):
        book.apply(message("#9000 REPORT 1 at 5"))
    assert book.apply(message("#1 REPORT 1 at 5")), "that of a known one is always taken"
    assert book.apply(message("#2 REPORT 2 at 6")) is None, "and a later one of those that wait"


# --- in another currency --------------------------------------------------------------------


def others(*lines: str) -> tuple[tuple[str, str], ...]:
    """Return the commissions in other currencies."""
    told = book_of(*lines).snapshot().other_commissions
    return tuple((currency, to_text(amount)) for currency, amount in told)


def test_a_commission_in_another_currency_is_kept_apart() -> None:
    lines = ("#1 BUY 10 @ 1 fee 2 at 1", "#2 SELL 10 @ 2 at 2", "#2 REPORT 1.92624 EUR at 3")
    assert others(*lines) == (("EUR", "1.92624"),)
    assert (cost(*lines), net(book_of(*lines))) == ("2", "8")
    assert others("BUY 10 @ 1 fee 2 GBP", "SELL 5 @ 1 fee 3 EUR", "SELL 5 @ 1 fee 4 EUR") == (
        ("EUR", "7"),
        ("GBP", "2"),
    )


def test_a_report_that_comes_first_in_another_currency_settles_nothing() -> None:
    lines = ("#1 REPORT 1.9 EUR at 1", "#1 BUY 10 @ 1 at 1", "#2 BUY 5 @ 1 fee 1 at 2")
    shown = {book_of(*order).snapshot() for order in permutations(lines)}
    assert len(shown) == 1
    assert others(*lines) == (("EUR", "1.9"),)
    assert cost(*lines) == "1"


def test_a_commission_that_names_the_keys_own_currency_is_one_in_it() -> None:
    assert cost("BUY 10 @ 1 fee 2 USD") == "2"
    assert others("BUY 10 @ 1 fee 2 USD", "#1 REPORT 3 USD at 9") == ()
    book = book_of("#1 REPORT 3 EUR at 9")
    in_euro = execution("BUY 10 @ 1")
    book.apply(in_euro._replace(instrument=in_euro.instrument._replace(currency="EUR")))
    assert (to_text(book.snapshot().commission), book.snapshot().other_commissions) == ("3", ())


def test_currencies_that_come_to_nothing_are_not_shown() -> None:
    assert others("#1 BUY 1 @ 1 fee 2 EUR at 1", "#2 SELL 1 @ 1 fee -2 EUR at 2") == ()
    assert others("#1 BUY 1 @ 1 fee 2 EUR at 1", "#1.2 BUST at 1") == ()
    assert others("#1 BUY 1 @ 1 fee 2 EUR at 1", "#1 REPORT 2 at 1") == ()


def test_the_same_amount_in_another_currency_is_another_commission() -> None:
    _, did = played("#1 BUY 1 @ 1 fee 2 at 1", "#1 REPORT 2 EUR at 1", "#1 REPORT 2 EUR at 2")
    assert [each is not None for each in did] == [True, True, False]
    book = book_of("#1 BUY 1 @ 1 fee 2 at 1")
    with pytest.raises(RejectedError, match="commission"):
        book.apply(message("#1 BUY 1 @ 1 fee 2 EUR at 1"))


# --- adjustments ----------------------------------------------------------------------------


def adjusted(*lines: str) -> str:
    """Return the adjustments so far."""
    return to_text(book_of(*lines).snapshot().basis_adjustment)


def test_an_adjustment_is_borne_like_a_commission_and_is_none() -> None:
    lines = ("BUY 100 @ 50 fee 1 adj -200", "SELL 50 @ 50 fee 2")
    assert (cost(*lines), adjusted(*lines)) == ("3", "-200")
    book = book_of(*lines)
    assert (gross(book), net(book), fees(book)) == ("0", "97.5", "-99.5")


def test_commission_and_adjustment_are_rounded_as_one_charge() -> None:
    # Each half would round to 0; half of the sum is 1 of the last digit.
    lines = ("BUY 2 @ 1 fee 0.0000000001 adj 0.0000000001", "SELL 1 @ 1")
    assert net(book_of(*lines)) == "-0.0000000001"


def test_a_report_replaces_the_commission_and_leaves_the_adjustment() -> None:
    lines = ("#1 BUY 2 @ 1 fee 5 adj 3 at 1", "#1 REPORT 1 at 2", "#2 SELL 2 @ 1 at 3")
    for order in permutations(lines):
        assert (cost(*order), adjusted(*order), net(book_of(*order))) == ("1", "3", "-4")


def test_a_busted_execution_has_no_adjustment() -> None:
    assert adjusted("#1 BUY 2 @ 1 adj 3 at 1", "#1.2 BUST at 1") == "0"
