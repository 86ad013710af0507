"""The FIFO rule on paper: what each fill does to the lots, long and short.

Each row is a scenario as a trader would check it: lots held, the fill, lots left, closed.
"""

import decimal
from decimal import Decimal

import pytest

from state.book import Book
from state.exact import ONE, from_text, to_text
from state.messages import Instrument, RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    execution,
    gross,
    lots,
    message,
    money,
    played,
)

LONG = ("BUY 100 @ 10", "BUY 50 @ 11", "BUY 25 @ 12")
SHORT = ("SELL 100 @ 10", "SELL 50 @ 9", "SELL 25 @ 8")

GRID = {
    "no match, increases": (LONG, "BUY 5 @ 13", "100 @ 10, 50 @ 11, 25 @ 12, 5 @ 13", ""),
    "partial first lot": (
        LONG, "SELL 40 @ 12", "60 @ 10, 50 @ 11, 25 @ 12", "LONG 40 @ 10 -> 12 = 80",
    ),
    "complete first lot": (
        LONG, "SELL 100 @ 12", "50 @ 11, 25 @ 12", "LONG 100 @ 10 -> 12 = 200",
    ),
    "partial first two": (
        LONG, "SELL 120 @ 12", "30 @ 11, 25 @ 12",
        "LONG 100 @ 10 -> 12 = 200, LONG 20 @ 11 -> 12 = 20",
    ),
    "complete first two": (
        LONG, "SELL 150 @ 12", "25 @ 12", "LONG 100 @ 10 -> 12 = 200, LONG 50 @ 11 -> 12 = 50",
    ),
    "all, at a loss on some": (
        LONG, "SELL 175 @ 11.5", "",
        "LONG 100 @ 10 -> 11.5 = 150, LONG 50 @ 11 -> 11.5 = 25, LONG 25 @ 12 -> 11.5 = -12.5",
    ),
    "more than available, flips": (
        LONG, "SELL 200 @ 9", "-25 @ 9",
        "LONG 100 @ 10 -> 9 = -100, LONG 50 @ 11 -> 9 = -100, LONG 25 @ 12 -> 9 = -75",
    ),
    "short: no match, increases": (
        SHORT, "SELL 5 @ 7", "-100 @ 10, -50 @ 9, -25 @ 8, -5 @ 7", "",
    ),
    "short: partial first lot": (
        SHORT, "BUY 40 @ 8", "-60 @ 10, -50 @ 9, -25 @ 8", "SHORT 40 @ 10 -> 8 = 80",
    ),
    "short: complete first lot": (
        SHORT, "BUY 100 @ 8", "-50 @ 9, -25 @ 8", "SHORT 100 @ 10 -> 8 = 200",
    ),
    "short: partial first two": (
        SHORT, "BUY 120 @ 8", "-30 @ 9, -25 @ 8",
        "SHORT 100 @ 10 -> 8 = 200, SHORT 20 @ 9 -> 8 = 20",
    ),
    "short: complete first two": (
        SHORT, "BUY 150 @ 8", "-25 @ 8", "SHORT 100 @ 10 -> 8 = 200, SHORT 50 @ 9 -> 8 = 50",
    ),
    "short: all, at a loss on some": (
        SHORT, "BUY 175 @ 8.5", "",
        "SHORT 100 @ 10 -> 8.5 = 150, SHORT 50 @ 9 -> 8.5 = 25, SHORT 25 @ 8 -> 8.5 = -12.5",
    ),
    "short: more than available, flips": (
        SHORT, "BUY 200 @ 11", "25 @ 11",
        "SHORT 100 @ 10 -> 11 = -100, SHORT 50 @ 9 -> 11 = -100, SHORT 25 @ 8 -> 11 = -75",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("held", "fill", "left", "matched"), GRID.values(), ids=GRID)
def test_a_fill_closes_the_oldest_lots_first(
    held: tuple[str, ...], fill: str, left: str, matched: str
) -> None:
    book, did = played(*held, fill)
    assert lots(book) == left
    assert closed(did[-1]) == matched


def test_a_position_that_was_flat_opens_again_and_keeps_what_it_realized() -> None:
    book = book_of("BUY 10 @ 100", "SELL 10 @ 110", "BUY 10 @ 200")
    assert (lots(book), gross(book)) == ("10 @ 200", "100")
    book.apply(message("SELL 10 @ 190", 4))
    assert (lots(book), gross(book), average(book)) == ("", "0", "flat")


def test_a_flip_there_and_back_realizes_each_side_once() -> None:
    book = book_of("BUY 10 @ 100", "SELL 30 @ 110", "BUY 25 @ 105")
    assert lots(book) == "5 @ 105"
    assert gross(book) == "200"  # 10 x 10 long, then 20 x 5 short


def test_a_snapshot_of_a_position_tells_all_its_figures() -> None:
    book = Book("ESZ5", "U1234567")
    said = Instrument("USD", 50 * ONE, 495512563, "FUT")
    for number, line in enumerate(["SELL 2 @ 5000.25 fee 4", "BUY 1 @ 4990.25 fee 2 adj 0.5"], 1):
        book.apply(execution(line, number)._replace(instrument=said))
    told = book.snapshot()
    assert (told.account, told.symbol, told.currency) == ("U1234567", "ESZ5", "USD")
    assert [to_text(v) for v in (told.multiplier, told.qty, told.commission)] == ["50", "-1", "6"]
    assert (told.sec_type, told.con_id) == ("FUT", 495512563)
    assert (told.other_commissions, to_text(told.basis_adjustment)) == ((), "0.5")
    assert average(book) == "5000.25"
    assert money(told.cost_basis) == "-250012.5"
    assert (money(told.realized_pnl), money(told.net_realized_pnl)) == ("500", "495.5")
    assert (told.open_lots, told.executions) == (1, 2)
    assert (told.last_exec_id, told.timestamp) == ("00000002.00000002.01.01", 2000)
    assert told.last_price == from_text("4990.25")


def test_a_book_without_executions_tells_that_there_is_none() -> None:
    told = Book("XYZ").snapshot()
    assert (told.qty, told.cost_basis, told.realized_pnl, told.executions) == (0, 0, 0, 0)
    assert (told.avg_price, told.last_exec_id, told.last_price, told.timestamp) == (None,) * 4
    assert (told.account, told.currency, to_text(told.multiplier)) == (None, "USD", "1")
    assert (told.sec_type, told.con_id, told.other_commissions) == (None, None, ())


def test_only_the_average_price_is_rounded_half_even_to_ten_places() -> None:
    book = book_of("BUY 1 @ 1", "BUY 2 @ 2")
    assert average(book) == "1.6666666667"
    assert money(book.snapshot().cost_basis) == "5"
    assert average(book_of("BUY 1 @ 0.0000000001", "BUY 1 @ 0.0000000002")) == "0.0000000002"
    assert average(book_of("BUY 1 @ 0.0000000002", "BUY 1 @ 0.0000000003")) == "0.0000000002"
    assert average(book_of("SELL 1 @ 0.0000000002", "SELL 1 @ 0.0000000003")) == "0.0000000002"


def test_figures_of_ten_places_stay_exact() -> None:
    book, did = played(
        "BUY 0.0000000003 @ 0.0000000007", "SELL 0.0000000001 @ 123456789.9876543219"
    )
    assert money(book.snapshot().cost_basis) == "0.00000000000000000014"
    assert closed(did[1]) == (
        "LONG 0.0000000001 @ 0.0000000007 -> 123456789.9876543219 = 0.01234567899876543212"
    )


def test_the_largest_figures_stay_exact() -> None:
    book = book_of("BUY 99999999.9999999999 @ 999999999.9999999999", "SELL 0.0000000001 @ 1")
    with_fractions = Decimal("99999999.9999999999") - Decimal("0.0000000001")
    with decimal.localcontext(prec=60):
        expected = with_fractions * Decimal("999999999.9999999999")
    assert Decimal(money(book.snapshot().cost_basis)) == expected


@pytest.mark.parametrize(
    ("lines", "realized"),
    [
        (("BUY 2 @ 10 x100", "SELL 2 @ 9.5 x100"), "-100"),
        (("SELL 1 @ 5 x0.1", "BUY 1 @ 3 x0.1"), "0.2"),
        (("SELL 1 @ 2 x1000", "BUY 1 @ -37.63 x1000"), "39630"),  # oil, April 2020
        (("BUY 1 @ -1.5 x100", "SELL 1 @ 0 x100"), "150"),
    ],
)
def test_the_multiplier_and_prices_around_zero_count(lines: tuple[str, ...], realized: str) -> None:
    book = book_of(*lines)
    assert (gross(book), lots(book)) == (realized, "")


def test_thousands_of_small_fills_carry_no_rounding_error() -> None:
    book = Book("XYZ")
    for number in range(1, 3001):
        book.apply(message("BUY 0.1 @ 0.1" if number % 2 else "SELL 0.1 @ 0.3", number))
    assert (gross(book), lots(book)) == ("30", "")


def test_the_decimal_context_of_the_thread_does_not_matter() -> None:
    lines = ("BUY 7 @ 1.2345678901 fee 0.11", "SPLIT 3:1", "SELL 5 @ 2.3456789012 fee 0.07")
    expected = book_of(*lines).to_state()
    with decimal.localcontext(prec=1, rounding=decimal.ROUND_UP) as context:
        for signal in context.traps:
            context.traps[signal] = True
        assert book_of(*lines).to_state() == expected


# --- where a figure ends ----------------------------------------------------------------


def test_a_position_just_below_the_limit_is_taken() -> None:
    book = book_of("BUY 100000000 @ 999999999", "BUY 0.99 @ 100000000")
    assert money(book.snapshot().cost_basis) == "99999999999000000"


@pytest.mark.parametrize(
    ("before", "too_much", "figure"),
    [
        ("BUY 100000000 @ 999999999", "BUY 1 @ 100000000", "cost_basis"),
        ("SELL 100000000 @ 999999999", "SELL 1 @ 100000000", "cost_basis"),
        ("SELL 99000000 @ 1", "BUY 999000000 @ 999999999", "cost_basis"),
        ("BUY 1 @ 1 x999999999", "BUY 999999999 @ 1 x999999999", "cost_basis"),
        ("BUY 100000000 @ 1 x10", "SELL 100000000 @ 900000000 x10", "realized_pnl"),
        ("SELL 100000000 @ 1 x10", "BUY 100000000 @ 900000000 x10", "realized_pnl"),
        # To the very limit; the charge takes net below it.
        ("BUY 200000000 @ 100000000 fee 1", "SELL 200000000 @ 600000000", "realized_pnl"),
        ("BUY 500000000 @ 1", "COST 200000000", "charges"),
        ("BUY 500000000 @ 1", "SPLIT 200000000:1", "qty"),
        ("BUY 900000000 @ 1", "SPLIT 999999999:1", "qty"),
        ("BUY 100000000 @ 900000000", "OPENING 100000000 @ 900000000", "cost_basis"),
        ("IN 1 @ 1 of 1 at 5", "BUY 1 @ 900000000 x900000000 at 1", "cost_basis"),
    ],
)
def test_what_takes_a_figure_to_the_limit_is_refused_and_leaves_no_trace(
    before: str, too_much: str, figure: str
) -> None:
    book = book_of(before)
    state = book.to_state()
    with pytest.raises(RejectedError, match=rf"^{figure}: expected to stay below 1e17, found -?\d"):
        book.apply(message(too_much, 10))
    assert book.to_state() == state


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ((), "#2 REPORT 999999999"),
        (("#2 REPORT 1",), "#2 REPORT 999999999 at 9"),
        ((), "#2.2 BUY 100000000 @ 999999999 fee 200000000"),
    ],
)
def test_a_commission_that_takes_the_net_figure_to_the_limit_is_refused_and_leaves_no_trace(
    before: tuple[str, ...], line: str
) -> None:
    book = book_of("SELL 100000000 @ 1", "BUY 100000000 @ 999999999", *before)
    state = book.to_state()
    with pytest.raises(RejectedError, match=r"^net_realized_pnl: expected to stay below 1e17"):
        book.apply(message(line, 2))
    assert book.to_state() == state
    assert book.apply(message("BUY 1 @ 1 fee 999999999", 3)), "an open lot's is not due yet"


TINY = ("BUY 1 @ 1 x0.000001 at 0", "SELL 1 @ 1 x0.000001 at 0")
"""They make the key's multiplier one of six places."""


def test_an_execution_of_more_than_twenty_places_is_refused_and_leaves_no_trace() -> None:
    book = book_of(*TINY)
    state = book.to_state()
    for said in ("", " x0.000001"):  # not said again, and as the one before said it
        with pytest.raises(
            RejectedError, match=r"^fill_price: expected .* at most 20 decimal places"
        ):
            book.apply(message(f"BUY 0.00001 @ 1.0000000001{said}", 10))
        assert book.to_state() == state
    assert book.apply(message("BUY 0.0001 @ 1.0000000001", 10))


@pytest.mark.parametrize(
    "before",
    [
        # The whole quantity at that price has 16 places, the part of the first lot 21.
        ("BUY 0.00001 @ 1 at 1", "BUY 1 @ 1 at 2"),
        # Each of three parts has, and would be rounded down.
        ("BUY 0.00003 @ 1 at 1", "BUY 0.00003 @ 1 at 2", "BUY 1 @ 1 at 3"),
        # What is left for the new lot has 21.
        ("BUY 0.00001 @ 1 at 1",),
        # What of it meets the rest of a split has 22.
        ("BUY 1 @ 1 at 1", "SPLIT 1:3 to 6 at 2"),
    ],
)
def test_a_match_that_does_not_divide_is_rounded_and_the_parts_add_up(
    before: tuple[str, ...],
) -> None:
    lines = (*before, "SELL 1 @ 1.0000000001 at 9", "BUY 2 @ 3 at 10")
    book, did = played(*TINY, *lines)
    fills = [execution(line) for line in lines if not line.startswith("SPLIT")]
    cash = -sum(fill.qty * fill.price for fill in fills) // 10**6  # times the multiplier
    assert gross(book) == money(cash + book.snapshot().cost_basis)
    assert gross(book) == money(
        sum(lot.realized_pnl for each in did if each for lot in each.closed)
    )
