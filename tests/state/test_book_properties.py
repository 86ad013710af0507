"""A position is a function of the set of its messages, whatever way they came.

Every property holds the book against the naive oracle or against a book that was fed
only what counts, in booking order.
"""

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import event, given

from state.book import Book
from state.exact import ONE
from state.messages import CommissionReport, Execution, Message, RejectedError
from state.snapshot import ClosedLot
from tests.support.notation import book_of, messages
from tests.support.oracle import check_agrees, check_invariants, check_matches, counting
from tests.support.strategies import SETTINGS, Arrivals, arrivals, unruly


def resumed(book: Book) -> Book:
    """Return the book as it comes back from where it was kept."""
    return Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301


def canonical(arrived: Sequence[Message]) -> tuple[Book, list[ClosedLot]]:
    """Return a book that was fed only what counts, in booking order, with its closed lots."""
    book, closed = Book("XYZ"), []
    for each, commission in counting(arrived):
        if isinstance(each, Execution):
            each = each._replace(commission=commission)  # noqa: PLW2901
        applied = book.apply(each)
        assert applied is not None
        closed += applied.closed
    return book, closed


def figures(book: Book) -> tuple[Any, ...]:
    """Return all that can be seen of a book; the places only order what it holds."""
    return book.snapshot(), [lot._replace(place=0) for lot in book.lots]


def net_sum(closed: Iterable[ClosedLot]) -> dict[ClosedLot, tuple[int, int]]:
    """Return what the rows of closed lots leave once those taken back are off."""
    qty: Counter[ClosedLot] = Counter()
    pnl: Counter[ClosedLot] = Counter()
    for lot in closed:
        match = lot._replace(qty=0, realized_pnl=0)
        qty[match] += lot.qty
        pnl[match] += lot.realized_pnl
    return {match: (qty[match], pnl[match]) for match in qty if qty[match] or pnl[match]}


@SETTINGS
@given(arrivals())
def test_a_book_agrees_with_the_oracle_however_its_messages_arrive(arrived: Arrivals) -> None:
    book, closed = Book("XYZ"), []
    for n, each in enumerate(arrived.messages, 1):
        applied = book.apply(each)
        closed += applied.closed if applied else []
        check_invariants(book, arrived.messages[:n], closed)
    check_agrees(book, arrived.messages)
    check_matches(closed, arrived.messages, book)


@SETTINGS
@given(arrivals())
def test_any_arrival_gives_the_state_of_the_ordered_final_set(arrived: Arrivals) -> None:
    book, closed = Book("XYZ"), []
    for each in arrived.messages:
        applied = book.apply(each)
        closed += applied.closed if applied else []
    expected, expected_closed = canonical(arrived.messages)
    assert figures(book) == figures(expected)
    assert net_sum(closed) == net_sum(expected_closed)


@SETTINGS
@given(arrivals())
def test_a_book_that_was_stopped_and_resumed_anywhere_is_the_same(arrived: Arrivals) -> None:
    straight, cut = Book("XYZ"), Book("XYZ")
    for n, each in enumerate(arrived.messages):
        if n in arrived.cuts:
            cut = resumed(cut)
        assert cut.apply(each) == straight.apply(each)
    assert cut.to_state() == straight.to_state() == resumed(straight).to_state()


@SETTINGS
@given(arrivals())
def test_what_is_delivered_again_changes_nothing(arrived: Arrivals) -> None:
    book = Book("XYZ")
    for each in arrived.messages:
        book.apply(each)
    shown, state = figures(book), book.to_state()
    for each in arrived.messages:
        if not isinstance(each, CommissionReport):
            assert book.apply(each) is None
    assert figures(book) == shown
    assert book.to_state() == state


@SETTINGS
@given(arrivals(unruly()))
def test_a_refused_message_leaves_no_trace_and_the_others_count(arrived: Arrivals) -> None:
    book, closed = Book("XYZ"), []
    taken: list[Message] = []
    for n, each in enumerate(arrived.messages):
        if n in arrived.cuts:
            book = resumed(book)
        state = book.to_state()
        try:
            applied = book.apply(each)
        except RejectedError as error:
            event("refused: " + str(error).partition(":")[0])
            assert book.to_state() == state
            continue
        taken.append(each)
        closed += applied.closed if applied else []
        check_invariants(book, taken, closed)
    if taken:
        expected, expected_closed = canonical(taken)
        assert figures(book) == figures(expected)
        assert net_sum(closed) == net_sum(expected_closed)


def test_a_state_that_another_version_wrote_is_not_read() -> None:
    state = book_of("BUY 3 @ 10 fee 1").to_state()
    with pytest.raises(ValueError, match="expected a book of version 2, found 1"):
        Book.from_state((1, *state[1:]))


# --- small sets, in every order -----------------------------------------------------------

SMALL_SETS = [
    ("#1 BUY 2 @ 1 fee 1 at 1", "#2 SELL 3 @ 2 at 2", "#2.2 SELL 3 @ 2 at 0", "#3 BUY 1 @ 9 at 2"),
    ("#1 BUY 2 @ 10 at 1", "#1.2 SELL 2 @ 10 at 3", "#1.3 BUST at 2", "#2 BUY 1 @ 9 fee 0.1 at 2"),
    ("#1 BUY 2 @ 1 at 1", "#2 SELL 2 @ 2 at 1", "#3 SELL 1 @ 3 at 1", "#4 BUY 2 @ 4 fee 1 at 1"),
    ("#1 BUY 3 @ 10 fee 1 at 1", "SPLIT 5:1 at 2", "#2 SELL 4 @ 3 at 2", "#1 COST 2 at 3"),
    ("SPLIT 1:2 at 1", "SPLIT 3:2 at 2", "#1 BUY 3 @ 10 fee 1 at 1", "#2 SELL 2.5 @ 30 at 2"),
    ("#1 BUY 2 @ 1 at 1", "#1 COST 1 at 1", "#1.2 COST 2 at 1", "#2 SELL 1 @ 9 at 1",
     "#1.2 BUST at 1"),
]  # fmt: skip


@pytest.mark.parametrize("lines", SMALL_SETS, ids=range(len(SMALL_SETS)))
def test_every_order_of_a_small_set_agrees_with_the_oracle(lines: tuple[str, ...]) -> None:
    for order in permutations(messages(*lines)):
        # Everything twice, once late: as after a producer's retry.
        arrived = [*order, *order[:2]]
        book, closed = Book("XYZ"), []
        for n, each in enumerate(arrived, 1):
            applied = book.apply(each)
            closed += applied.closed if applied else []
            check_invariants(book, arrived[:n], closed)
        check_agrees(book, arrived)
        check_matches(closed, arrived, book)
        expected, expected_closed = canonical(arrived)
        assert figures(book) == figures(expected)
        assert net_sum(closed) == net_sum(expected_closed)


# --- the checks themselves ------------------------------------------------------------------


def _empty_lot(book: Book) -> None:
    book.lots.append(book.lots[0]._replace(qty=0, cost=0, commission=0))


def _other_side(book: Book) -> None:
    lot = book.lots[0]
    book.lots.append(lot._replace(qty=lot.qty * 2, cost=0, commission=0))
    book.lots.append(lot._replace(qty=-lot.qty * 2, cost=0, commission=0))


def _lost_lot(book: Book) -> None:
    book.lots.pop()


def _cheaper_lot(book: Book) -> None:
    book.lots[0] = book.lots[0]._replace(cost=book.lots[0].cost - 1)


def _lost_commission(book: Book) -> None:
    book.lots[0] = book.lots[0]._replace(commission=book.lots[0].commission - 1)


def _add_to(name: str) -> Callable[[Book], None]:
    return lambda book: setattr(book, name, getattr(book, name) + 1)


FAULTS = {
    "no lot is empty": _empty_lot,
    "all lots are of one side": _other_side,
    "lots add up to the signed fills": _lost_lot,
    "lots add up to the cost basis": _cheaper_lot,
    "what is due and what waits is the whole commission": _lost_commission,
    "the quantity is that of the signed fills": _add_to("qty"),
    "realized is net cash": _add_to("realized"),
    "commissions add up": _add_to("commission"),
}


def _sound() -> tuple[Book, list[Message], list[ClosedLot]]:
    arrived = messages("BUY 3 @ 10 fee 1", "SELL 2 @ 12 fee 1", "BUY 2 @ 11")
    book, closed = Book("XYZ"), []
    for each in arrived:
        applied = book.apply(each)
        closed += applied.closed if applied else []
    check_invariants(book, arrived, closed)
    return book, arrived, closed


@pytest.mark.parametrize(("broken", "fault"), FAULTS.items(), ids=FAULTS)
def test_the_invariants_find_a_broken_book(broken: str, fault: Callable[[Book], None]) -> None:
    book, arrived, closed = _sound()
    fault(book)
    with pytest.raises(AssertionError, match=broken):
        check_invariants(book, arrived, closed)


def test_the_invariants_find_a_closed_lot_that_was_not_told() -> None:
    book, arrived, closed = _sound()
    with pytest.raises(AssertionError, match="closed lots add up"):
        check_invariants(book, arrived, closed[:-1])


@pytest.mark.parametrize("figure", ["qty", "cost", "realized", "net", "commission", "executions"])
def test_the_oracle_finds_a_wrong_figure(figure: str) -> None:
    book, arrived, _ = _sound()
    check_agrees(book, arrived)
    setattr(book, figure, getattr(book, figure) + ONE**2)
    with pytest.raises(AssertionError):
        check_agrees(book, arrived)


def test_the_oracle_finds_the_wrong_lot_closed() -> None:
    book, arrived, closed = _sound()
    check_matches(closed, arrived, book)
    with pytest.raises(AssertionError):
        check_matches([closed[0]._replace(open_exec_id="another")], arrived, book)
    assert figures(book) != figures(book_of("BUY 3 @ 10 fee 1"))
