"""A position is a function of the set of its messages, whatever way they came.

Every property holds the book against the naive oracle, to the last digit: after every
message its figures, its open lots, and what it said that the message did.
"""

import pickle
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import event, given

from state.book import Applied, Book
from state.exact import LIMIT, MONEY, ONE
from state.messages import CommissionReport, Message, RejectedError
from state.snapshot import ClosedLot, OpenLot, PositionSnapshot
from tests.support.notation import book_of, messages
from tests.support.oracle import (
    Told,
    Verdict,
    check_agrees,
    check_charges,
    check_invariants,
    check_matches,
    check_step,
    told,
)
from tests.support.strategies import SETTINGS, Arrivals, arrivals, plain_arrivals, unruly


def resumed(book: Book) -> Book:
    """Return the book as it comes back from where it was kept."""
    return Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301


def seen(book: Book) -> tuple[Any, ...]:
    """Return all that a book shows and keeps."""
    return book.snapshot(), book.open_lots(), book.to_state()


class Watched:
    """A book that is held against the oracle at every step."""

    def __init__(self) -> None:
        self.book = Book("XYZ", "U1")
        self.taken: list[Message] = []
        self.closed: list[ClosedLot] = []
        self.told = self._told([])

    def take(self, message: Message) -> None:
        """Apply a message that nothing is wrong with."""
        self._did(message, self.book.apply(message))

    def offer(self, message: Message) -> str | None:
        """Apply a message that may have to be refused; return the reason if it is."""
        before = seen(self.book)
        try:
            applied = self.book.apply(message)
        except RejectedError as error:
            assert seen(self.book) == before, "a refused message leaves no trace"
            return str(error)
        self._did(message, applied)
        return None

    def would_be(self, message: Message) -> Told:
        """Return what the oracle would make of a message."""
        return self._told([*self.taken, message])

    def _did(self, message: Message, applied: Applied | None) -> None:
        self.taken.append(message)
        self.closed += applied.closed if applied else []
        before, self.told = self.told, self._told(self.taken)
        check_step(applied, before, self.told)
        assert self.book.snapshot() == self.told.snapshot
        assert self.book.open_lots() == self.told.open_lots
        check_invariants(self.book, self.closed)

    def _told(self, arrived: Sequence[Message]) -> Told:
        return told(arrived, self.book.symbol, self.book.account)


def reaches_the_limit(shown: PositionSnapshot) -> bool:
    money = (shown.cost_basis, shown.realized_pnl, shown.net_realized_pnl)
    plain = (shown.qty, shown.commission, shown.basis_adjustment)
    return any(abs(each) >= LIMIT * MONEY for each in money) or any(
        abs(each) >= LIMIT * ONE for each in plain
    )


@SETTINGS
@given(arrivals())
def test_a_book_agrees_with_the_oracle_after_every_message_however_they_arrive(
    arrived: Arrivals,
) -> None:
    watched = Watched()
    for each in arrived.messages:
        watched.take(each)
    check_matches(watched.closed, arrived.messages)


@SETTINGS
@given(arrivals())
def test_a_book_that_was_stopped_and_resumed_anywhere_is_the_same(arrived: Arrivals) -> None:
    straight, cut = Book("XYZ"), Book("XYZ")
    for n, each in enumerate(arrived.messages):
        if n in arrived.cuts:
            cut = resumed(cut)
        assert cut.apply(each) == straight.apply(each)
        assert cut.snapshot() == straight.snapshot()
    assert seen(cut) == seen(straight) == seen(resumed(straight))
    check_agrees(cut, arrived.messages)


@SETTINGS
@given(arrivals())
def test_what_is_delivered_again_changes_nothing(arrived: Arrivals) -> None:
    book = Book("XYZ")
    for each in arrived.messages:
        book.apply(each)
    shown = seen(book)
    for each in arrived.messages:
        if not isinstance(each, CommissionReport):  # of equal ones the last to arrive counts
            assert book.apply(each) is None
    assert seen(book) == shown


@SETTINGS
@given(plain_arrivals())
def test_what_fell_due_and_what_waits_is_all_there_was_to_pay(arrived: Arrivals) -> None:
    book = Book("XYZ")
    for each in arrived.messages:
        book.apply(each)
        check_charges(book)


@SETTINGS
@given(arrivals(unruly()))
def test_a_refused_message_leaves_no_trace_and_the_others_count(arrived: Arrivals) -> None:
    watched = Watched()
    for n, each in enumerate(arrived.messages):
        if n in arrived.cuts:
            watched.book = resumed(watched.book)
        would_be = watched.would_be(each)
        reason = watched.offer(each)
        if would_be.verdicts[-1] is Verdict.REFUSED:
            assert reason is not None
        else:
            too_large = reaches_the_limit(would_be.snapshot)
            assert ("expected to stay below 1e17" in reason if reason else False) == too_large
        event("refused: " + (reason or "not").partition(":")[0])


@SETTINGS
@given(arrivals(unruly()))
def test_a_book_that_refused_goes_on_as_one_that_never_heard_of_it(arrived: Arrivals) -> None:
    book, taken = Book("XYZ"), []
    for each in arrived.messages:
        try:
            book.apply(each)
        except RejectedError:
            continue
        taken.append(each)
    unaware = Book("XYZ")
    for each in taken:
        unaware.apply(each)
    assert seen(book) == seen(unaware)


# --- small sets, in every order -----------------------------------------------------------

SMALL_SETS = [
    ("#1 BUY 2 @ 1 fee 1 at 1", "#2 SELL 3 @ 2 at 2", "#2.2 SELL 3 @ 2 at 0", "#3 BUY 1 @ 9 at 2"),
    ("#1 BUY 2 @ 10 at 1", "#1.2 SELL 2 @ 10 at 3", "#1.3 BUST at 2", "#2 BUY 1 @ 9 fee 0.1 at 2"),
    ("#1 BUY 2 @ 1 at 1", "#2 SELL 2 @ 2 at 1", "#3 SELL 1 @ 3 at 1", "#4 BUY 2 @ 4 fee 1 at 1"),
    ("#1 BUY 3 @ 10 fee 1 at 1", "SPLIT 5:1 at 2", "#2 SELL 4 @ 3 at 2", "#1 REPORT 2 at 3"),
    ("SPLIT 1:2 at 1", "SPLIT 3:2 at 2", "#1 BUY 3 @ 10 fee 1 at 1", "#2 SELL 2.5 @ 30 at 2"),
    ("#1 BUY 2 @ 1 at 1", "#1 REPORT 1 at 1", "#1.2 REPORT 2 at 1", "#2 SELL 1 @ 9 at 1",
     "#1.2 BUST at 1"),
    ("#1 BUY 2 @ 1 fee 0.1 at 1", "#2 BUY 1 @ 2 at 1", "SPLIT 1:3 to 0 at 2", "#3 SELL 1 @ 9 at 3"),
    ("#1 BUY 7 @ 3 fee 1 at 1", "COST -0.3 at 2", "#2 SELL 5 @ 4 at 3", "#7 OPENING 2 cost 1 at 9"),
    ("#1 BUY 7 @ 3 fee 1 at 1", "#8 OUT 3 at 2", "#2 SELL 9 @ 4 fee 1 at 3", "#1 REPORT 0.7 at 9"),
    ("#1 SELL 2 @ 3 at 3", "#8 IN 5 cost 10 of 1 at 2", "#9 IN -1 @ 4 of 2 at 2", "#9 OUT 1 at 4",
     "COST 1 at 2"),
    ("#7 OPENING 3 @ 5 at 1", "#7 OPENING 0 at 2", "#8 OPENING 1 @ 6 at 0", "#1 SELL 2 @ 7 at 1"),
]  # fmt: skip


@pytest.mark.parametrize("lines", SMALL_SETS, ids=range(len(SMALL_SETS)))
def test_every_order_of_a_small_set_agrees_with_the_oracle(lines: tuple[str, ...]) -> None:
    for order in permutations(messages(*lines)):
        watched = Watched()
        for each in [*order, *order[:2]]:  # some twice, once late: as after a producer's retry
            watched.offer(each)
        check_matches(watched.closed, watched.taken)


# --- the checks themselves ------------------------------------------------------------------

LINES = ("BUY 3 @ 10 fee 1", "SELL 2 @ 12 fee 1", "BUY 2 @ 11")


class Faulty(Book):
    """A book that shows something else than it holds."""

    snapshot_fault: Callable[[PositionSnapshot], PositionSnapshot] = staticmethod(lambda it: it)
    lots_fault: Callable[[list[OpenLot]], list[OpenLot]] = staticmethod(lambda it: it)

    def snapshot(self) -> PositionSnapshot:
        return self.snapshot_fault(super().snapshot())

    def open_lots(self) -> list[OpenLot]:
        return self.lots_fault(super().open_lots())


def faulty() -> tuple[Faulty, list[ClosedLot]]:
    book, closed = Faulty("XYZ"), []
    for each in messages(*LINES):
        applied = book.apply(each)
        closed += applied.closed if applied else []
    check_invariants(book, closed)
    check_charges(book)
    check_agrees(book, messages(*LINES))
    return book, closed


def other_side(lots: list[OpenLot]) -> list[OpenLot]:
    flipped = lots[0]._replace(qty=-2 * lots[0].qty, cost=0, charge=0)
    return [*lots, flipped, flipped._replace(qty=2 * lots[0].qty)]


LOT_FAULTS: dict[str, Callable[[list[OpenLot]], list[OpenLot]]] = {
    "no lot is empty": lambda lots: [*lots, lots[0]._replace(qty=0, cost=0)],
    "all lots are of one side": other_side,
    "lots add up to the quantity": lambda lots: lots[:-1],
    "lots add up to the cost basis": lambda lots: [lots[0]._replace(cost=1), *lots[1:]],
    "the parts of the charges add up": lambda lots: [lots[0]._replace(charge=1), *lots[1:]],
}


@pytest.mark.parametrize(("broken", "fault"), LOT_FAULTS.items(), ids=LOT_FAULTS)
def test_the_invariants_find_a_broken_lot(
    broken: str, fault: Callable[[list[OpenLot]], list[OpenLot]]
) -> None:
    book, closed = faulty()
    book.lots_fault = fault
    checks = (check_charges, lambda book: check_invariants(book, closed))
    found = []
    for check in checks:
        try:
            check(book)
        except AssertionError as error:
            found.append(str(error))
    assert any(broken in text for text in found)
    with pytest.raises(AssertionError):
        check_agrees(book, messages(*LINES))


@pytest.mark.parametrize("figure", PositionSnapshot._fields)
def test_the_oracle_finds_a_wrong_figure(figure: str) -> None:
    book, _ = faulty()
    wrong: Any = {figure: 12345}
    book.snapshot_fault = lambda shown: shown._replace(**wrong)
    with pytest.raises(AssertionError):
        check_agrees(book, messages(*LINES))


def test_the_invariants_find_a_closed_lot_that_was_not_told() -> None:
    book, closed = faulty()
    with pytest.raises(AssertionError, match="closed lots add up"):
        check_invariants(book, closed[:-1])


def test_the_oracle_finds_the_wrong_lot_closed() -> None:
    _, closed = faulty()
    check_matches(closed, messages(*LINES))
    with pytest.raises(AssertionError):
        check_matches([closed[0]._replace(open_exec_id="another")], messages(*LINES))


def test_the_oracle_finds_a_row_too_few_and_one_too_many() -> None:
    lines = messages(*LINES)
    done = Book("XYZ").apply(lines[0])
    check_step(done, told([]), told(lines[:1]))
    with pytest.raises(AssertionError):
        check_step(None, told([]), told(lines[:1]))
    with pytest.raises(AssertionError):
        check_step(done, told(lines[:1]), told([lines[0], lines[0]]))


def test_a_state_that_another_version_wrote_is_not_read() -> None:
    state = book_of("BUY 3 @ 10 fee 1").to_state()
    with pytest.raises(ValueError, match=rf"expected a book of version {state[0]}, found 1"):
        Book.from_state((1, *state[1:]))
