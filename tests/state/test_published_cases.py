"""The book against figures that others published: FIFO tests and broker statements."""

from fractions import Fraction

import pytest

from state.book import Applied, Book
from state.exact import MONEY, ONE, from_text, to_text
from tests.support.cases import FifoCase, Statement, StatementFill, fifo_cases, statements
from tests.support.notation import average, closed_lot, gross, lots, messages

FIFO, STATEMENTS = fifo_cases(), statements()

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
    assert to_text(book.qty) == case.qty
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


# --- statements -------------------------------------------------------------------------------


def name_of(statement: Statement) -> str:
    return f"{statement.source.partition(' ')[0]} {statement.symbol}"


@pytest.mark.parametrize("statement", STATEMENTS, ids=map(name_of, STATEMENTS))
def test_net_figures_are_the_brokers_own(statement: Statement) -> None:
    book = Book(statement.symbol)
    total = Fraction(0)
    for fill in statement.fills:
        applied = book.apply(fill.execution)
        assert applied is not None
        net = Fraction(applied.net_change, MONEY)
        assert abs(net - Fraction(fill.net, ONE)) <= CENT_OF_A_CENT, fill.execution
        total += Fraction(fill.net, ONE)
        if fill.lots is not None:
            check_lots(statement, fill, applied)
    assert abs(Fraction(book.net, MONEY) - total) <= CENT_OF_A_CENT * len(statement.fills)
    signed = sum(fill.execution.qty for fill in statement.fills)
    assert (book.qty, sum(lot.qty for lot in book.lots)) == (signed, signed)


def check_lots(statement: Statement, fill: StatementFill, applied: Applied) -> None:
    """Check that a fill closed the lots that the statement lists, at their cost."""
    assert fill.lots is not None
    shown = [(lot.qty, lot.open_timestamp) for lot in applied.closed]
    assert shown == [(lot.qty, lot.opened) for lot in fill.lots]
    by_id = {each.execution.exec_id: each.execution for each in statement.fills}
    for lot, stated in zip(applied.closed, fill.lots, strict=True):
        opener = by_id[str(lot.open_exec_id)]
        fee = Fraction((opener.commission or 0) * lot.qty, abs(opener.qty) * ONE)
        cost = Fraction(lot.qty * lot.open_price, ONE**2) + fee
        assert abs(cost - Fraction(stated.cost, ONE)) <= CENT_OF_A_CENT


def test_executions_of_one_second_sorted_by_their_ids_would_give_other_figures() -> None:
    # Why ties keep their order of arrival: the broker's statement tells it so.
    differs = []
    for statement in STATEMENTS:
        book = Book(statement.symbol)
        fills = sorted(
            statement.fills, key=lambda fill: (fill.execution.timestamp, fill.execution.exec_id)
        )
        for fill in fills:
            applied = book.apply(fill.execution)
            assert applied is not None
            net = Fraction(applied.net_change, MONEY)
            if abs(net - Fraction(fill.net, ONE)) > CENT_OF_A_CENT:
                differs.append(statement.symbol)
    assert differs


def test_all_statements_are_there() -> None:
    assert len(STATEMENTS) == 18
    assert sum(len(statement.fills) for statement in STATEMENTS) == 153
    assert from_text("76.778786") in [f.net for s in STATEMENTS for f in s.fills]
