"""The book against figures that others published: FIFO tests and broker statements."""

from collections import Counter
from fractions import Fraction

import pytest

from state.book import Applied, Book
from state.exact import MONEY, ONE, from_text, to_text
from state.messages import Execution
from tests.support.cases import (
    ActionCase,
    FifoCase,
    Statement,
    StatementFill,
    action_cases,
    fifo_cases,
    statements,
)
from tests.support.notation import average, book_of, closed_lot, costs, fees, gross, lots, messages

FIFO, ACTIONS, STATEMENTS = fifo_cases(), action_cases(), statements()

CENT_OF_A_CENT = Fraction(1, 10_000)


def booked(case: FifoCase) -> tuple[Book, list[Applied]]:
    book = Book("XYZ")
    did = [book.apply(fill) for fill in messages(*case.fills)]
    return book, [each for each in did if each is not None]


def agrees(shown: str, stated: str) -> bool:
    """Tell whether a closed lot is as stated, as far as it is: `?` is anything."""
    return all(
        word in ("?", other)
        for word, other in zip(stated.split(), shown.split(), strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("case", FIFO, ids=[case.source for case in FIFO])
def test_a_book_has_the_figures_that_another_project_published(case: FifoCase) -> None:
    book, did = booked(case)
    assert len(did) == len(case.fills)
    assert to_text(book.snapshot().qty) == case.qty
    assert case.average in (None, average(book))
    assert case.gross in (None, gross(book))
    assert case.lots in (None, lots(book))
    if case.closed is not None:
        shown = [closed_lot(lot) for each in did for lot in each.closed]
        assert len(shown) == len(case.closed)
        assert all(map(agrees, shown, case.closed)), (shown, case.closed)


def test_what_is_not_stated_is_no_excuse() -> None:
    assert len(FIFO) == 48
    assert all(case.lots or case.closed or case.gross or case.average or case.qty for case in FIFO)
    assert agrees("LONG 2 @ 100 -> 1 = -198", "LONG 2 @ 100 -> ? = ?")
    assert not agrees("LONG 2 @ 100 -> 1 = -198", "LONG 2 @ 101 -> ? = ?")


# --- actions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ACTIONS, ids=[case.what.partition(":")[0] for case in ACTIONS])
def test_what_a_broker_did_to_a_position_comes_to_the_brokers_own_figures(
    case: ActionCase,
) -> None:
    book = book_of(*case.lines)
    told = book.snapshot()
    assert to_text(told.qty) == case.qty
    assert case.lots in (None, lots(book))
    assert case.costs in (None, costs(book))
    assert case.charges in (None, fees(book))
    if case.net is not None:
        off = Fraction(told.net_realized_pnl, MONEY) - Fraction(case.net)
        assert abs(off) <= Fraction(case.tolerance), off


def test_all_actions_are_there() -> None:
    assert len(ACTIONS) == 36
    assert sum(case.net is not None for case in ACTIONS) >= 25


# --- statements -------------------------------------------------------------------------------


def name_of(statement: Statement) -> str:
    return f"{statement.source.partition(' ')[0]} {statement.symbol}"


@pytest.mark.parametrize("statement", STATEMENTS, ids=map(name_of, STATEMENTS))
def test_net_figures_are_the_brokers_own(statement: Statement) -> None:
    book = Book(statement.symbol)
    for fill in statement.fills:
        applied = book.apply(fill.message)
        assert applied is not None
        if fill.net is not None:
            net = Fraction(applied.net_change, MONEY)
            assert abs(net - Fraction(fill.net, ONE)) <= CENT_OF_A_CENT, fill.message
        if fill.lots is not None:
            check_closed(statement, fill, applied)
    check_open(statement, book)


def check_closed(statement: Statement, fill: StatementFill, applied: Applied) -> None:
    """Check that a fill closed the lots that the statement lists, at their cost."""
    assert fill.lots is not None
    shown = [(lot.qty, lot.open_timestamp) for lot in applied.closed]
    assert shown == [(lot.qty, lot.opened) for lot in fill.lots]
    fills = [each.message for each in statement.fills if isinstance(each.message, Execution)]
    by_id = {each.exec_id: each for each in fills}
    for lot, stated in zip(applied.closed, fill.lots, strict=True):
        opener = by_id[lot.open_exec_id]
        fee = Fraction((opener.commission or 0) * lot.qty, abs(opener.qty) * ONE)
        cost = Fraction(lot.qty * lot.open_price, ONE**2) + fee
        assert abs(cost - Fraction(stated.cost, ONE)) <= CENT_OF_A_CENT


def check_open(statement: Statement, book: Book) -> None:
    """Check that what is open is what the statement lists, at its cost with what it bears."""
    if statement.open_lots is None:
        return
    shown = Counter(
        (lot.qty, lot.opened, round(Fraction(lot.cost, MONEY) + Fraction(lot.charge, ONE), 4))
        for lot in book.open_lots()
    )
    stated = Counter(
        (lot.qty, lot.opened, round(Fraction(lot.cost, ONE), 4)) for lot in statement.open_lots
    )
    assert shown == stated


def test_executions_of_one_second_sorted_by_their_ids_would_give_other_figures() -> None:
    # Why ties keep their order of arrival: the broker's statement tells it so.
    differs = []
    for statement in STATEMENTS[:18]:
        book = Book(statement.symbol)
        fills = [(each.message, each.net) for each in statement.fills]
        for fill, stated in sorted(fills, key=by_time_and_id):
            applied = book.apply(fill)
            assert applied is not None
            assert stated is not None
            net = Fraction(applied.net_change, MONEY)
            if abs(net - Fraction(stated, ONE)) > CENT_OF_A_CENT:
                differs.append(statement.symbol)
    assert differs


def by_time_and_id(fill: tuple[object, int | None]) -> tuple[int, str]:
    message = fill[0]
    assert isinstance(message, Execution)
    return message.timestamp, message.exec_id


def test_all_statements_are_there() -> None:
    assert len(STATEMENTS) == 39
    fills = [fill for statement in STATEMENTS for fill in statement.fills]
    assert sum(isinstance(fill.message, Execution) for fill in fills) == 153 + 223
    assert sum(fill.net is not None for fill in fills) >= 370
    assert from_text("76.778786") in [fill.net for fill in fills]
    assert sum(len(statement.open_lots or []) for statement in STATEMENTS) > 50
