"""The rows of a key tell its open lots: as the book that wrote them has them."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import retold
from state.book import Book
from state.exact import MONEY, MONEY_PLACES, ONE, to_text
from state.messages import (
    TYPE_NAMES,
    ContractNumber,
    Execution,
    Message,
    Opening,
    RejectedError,
    TransferOut,
    terms,
)
from state.retold import Told, laid_on_matches, retell
from state.snapshot import OpenLot
from tests.support.notation import message, messages
from tests.support.strategies import SETTINGS, Arrivals, arrivals, sessions, unruly


def told(book: Book, taken: Sequence[Message]) -> list[Told]:
    """Book messages; return the row of each that is taken."""
    rows = []
    for each in taken:
        try:
            applied = book.apply(each)
        except RejectedError:
            continue
        if applied is None:
            continue
        now = book.snapshot()
        fill = each if isinstance(each, Execution) else None
        side = fill and ("BUY" if fill.qty > 0 else "SELL")
        rows.append(
            Told(
                TYPE_NAMES[type(each)], getattr(each, "exec_id", None), each.timestamp,
                side, fill and to_text(abs(fill.qty)), fill and to_text(fill.price),
                terms(each), to_text(now.multiplier), to_text(now.qty),
                to_text(now.cost_basis, MONEY_PLACES), now.open_lots,
            )
        )  # fmt: skip
    return rows


def without_charges(lots: Sequence[OpenLot]) -> list[OpenLot]:
    return [lot._replace(charge=0) for lot in lots]


FEWER = settings(SETTINGS, max_examples=60)
"""The books themselves are held against oracles elsewhere."""


@pytest.mark.long
@FEWER
@given(st.one_of(sessions(), unruly()))
def test_the_rows_tell_the_lots_of_the_book(taken: list[Message]) -> None:
    book = Book("K")
    assert retell(told(book, taken), "K") == without_charges(book.open_lots())


@pytest.mark.long
@FEWER
@given(arrivals(), st.integers(0, 8))
def test_the_lots_of_a_moment_are_those_of_a_book_told_nothing_later(
    arrived: Arrivals, second: int
) -> None:
    taken = arrived.messages
    book = Book("K")
    rows = told(book, taken)
    assert retell(rows, "K") == without_charges(book.open_lots())
    last = {
        each.identity: each.timestamp
        for each in sorted(
            (each for each in taken if isinstance(each, Execution)), key=lambda e: e.revision
        )
    }
    until = second * 1000
    early = Book("K")
    for each in taken:
        happened = last[each.identity] if isinstance(each, Execution) else each.timestamp
        if isinstance(each, Opening | ContractNumber) or happened <= until:
            early.apply(each)
    assert retell(rows, "K", until) == without_charges(early.open_lots())


@pytest.mark.long
@FEWER
@given(arrivals())
def test_matches_bear_all_that_fell_due_of_what_costs_laid(arrived: Arrivals) -> None:
    rows = told(Book("K"), arrived.messages)
    book = Book("K")  # of executions that cost nothing themselves
    for row in rows:
        retold._tell(book, row, "K")
    now, borne = book.snapshot(), [due for _, _, due in laid_on_matches(rows, "K")]
    assert now.realized_pnl - now.net_realized_pnl == sum(borne) * MONEY // ONE


def test_a_cost_lets_the_rest_of_a_lot_s_cost_be_shared_anew() -> None:
    """Which shows in its last places only, where it does not divide."""
    lines = ["OPENING 3 cost 1", "SELL 0.5 @ 5", "COST 0", "SELL 0.5 @ 5"]
    book = Book("K")
    assert retell(told(book, messages(*lines)), "K") == without_charges(book.open_lots())


def test_a_short_opening_of_which_the_cost_is_known_is_told_without_its_charge() -> None:
    book = Book("K")
    rows = told(book, messages("OPENING -3 cost -1", "COST 2"))
    assert [(lot.cost, lot.charge) for lot in book.open_lots()] == [(-MONEY, -6 * ONE)]
    assert retell(rows, "K") == without_charges(book.open_lots())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("OPENING -5 @ 10.5", '{"qty": -5, "avg_price": 10.5}'),
        ("OPENING 5 cost 0.1", '{"qty": 5, "cost_basis": 0.1}'), ("OPENING 0", '{"qty": 0}'),
        ("SPLIT 1:3 to 4", '{"ratio": "1:3", "places": 4}'),
        ("COST -0.14", '{"per_unit": -0.14}'), ("OUT 50", '{"direction": "OUT", "qty": 50}'),
        ("IN 2 @ 3 of 1.5",
         '{"direction": "IN", "qty": 2, "avg_price": 3, "opened": 1500}'),
        ("IN 2 cost 6 of 1",
         '{"direction": "IN", "qty": 2, "cost_basis": 6, "opened": 1000}'),
        ("BUY 1 @ 2", None), ("#1 REPORT 2", None), ("NUMBER 8", None),
    ],
)  # fmt: skip
def test_what_a_message_says_besides_is_its_terms(line: str, expected: str | None) -> None:
    assert terms(message(line)) == expected


def test_what_the_rows_lack_is_said() -> None:
    rows = told(Book("K"), messages("BUY 10 @ 100", "SPLIT 2:1"))
    assert [lot.qty for lot in retell(iter(rows), "K")] == [20 * ONE]
    with pytest.raises(ValueError, match=r"K: expected the terms of split '.*'.*earlier version"):
        retell([row._replace(message_terms=None) for row in rows], "K")
    with pytest.raises(ValueError, match=r"K: expected lots of 20 .*, found 0 .*rows are missing"):
        retell(rows[1:], "K")
    assert Decimal(rows[-1].cost_basis) == Decimal(1000)
    for other in ({"qty": "19"}, {"cost_basis": "999"}, {"open_lots": 2}):
        with pytest.raises(ValueError, match=r"K: expected lots of .*, found 20 that cost 1000: "):
            retell([rows[0], rows[1]._replace(**other)], "K")


def test_rows_that_contradict_each_other_are_no_rows_of_a_key() -> None:
    rows = told(Book("K"), messages("BUY 10 @ 100"))
    with pytest.raises(ValueError, match=r"K: expected rows that go together, found: exec_id: "):
        retell([*rows, rows[0]._replace(fill_qty="9")], "K")


def test_an_execution_may_have_an_id_of_any_shape() -> None:
    rows = told(Book("K"), messages("BUY 10 @ 100", "SELL 4 @ 101"))
    mine = [row._replace(exec_id=name) for row, name in zip(rows, ("mine", "2"), strict=True)]
    [lot] = retell(mine, "K")
    assert (lot.exec_id, lot.qty) == ("mine", 6 * ONE)
    assert [lot.qty for lot in retell(mine, "K", 1000)] == [10 * ONE]


def test_two_actions_are_no_revisions_of_each_other_whatever_their_ids() -> None:
    ids = ["0000e0d5.6596b0d2.01.01", "0000e0d5.6596b0d2.01.02"]
    out = [TransferOut(name, 1000 * n, ONE) for n, name in enumerate(ids, 2)]
    rows = told(Book("K"), [message("BUY 9 @ 1"), *out])
    assert [lot.qty for lot in retell(rows, "K", 2000)] == [8 * ONE]


def test_no_rows_tell_no_lots() -> None:
    assert retell([], "K") == []
