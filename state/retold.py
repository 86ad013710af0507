"""Messages as the rows of the data set `positions` tell them, and the open lots that follow.

A row has an execution's figures in columns of their own. What another message said is its
terms: one text, from which the message can be made again. So a book that is told the rows
of a key, in their order, holds the lots that the flow's own book held. What an execution
cost is left out: it decides neither a lot's quantity nor its price or cost.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from state.book import Book
from state.exact import MONEY, MONEY_PLACES, from_text, to_text
from state.keys import parse_exec_id
from state.messages import (
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)
from state.snapshot import OpenLot


class Told(NamedTuple):
    """A row: a message, and the position after it. Figures are plain decimal texts."""

    type: str
    exec_id: str | None
    message_timestamp: int
    """Milliseconds since 1970, UTC."""
    side: str | None
    fill_qty: str | None
    """Unsigned; 0 for a bust."""
    fill_price: str | None
    message_terms: str | None
    multiplier: str
    qty: str
    """Signed, of the position."""
    cost_basis: str
    open_lots: int


def retell(rows: Iterable[Told], key: str, until: int | None = None) -> list[OpenLot]:
    """Return a key's open lots after its rows, in order of their stream ids; the oldest first.

    until: count only what happened up to a time (milliseconds), as it is known by the
    last row; openings count whenever they were told. Without it the lots are held against
    the last row's own position. Each lot's charge is 0.

    Raises ValueError, saying what is missing, if the rows do not tell all: those of an
    earlier version have no terms, and rows may have been deleted.
    """
    told = list(rows)
    book = Book(key)
    for row in told if until is None else _happened(told, until):
        _tell(book, row, key)
    lots = [lot._replace(charge=0) for lot in book.open_lots()]
    if until is None and told:
        _check(lots, told[-1], key)
    return lots


def laid(rows: Iterable[Told], key: str) -> Iterator[int]:
    """Yield, after each of a key's rows, what `cost` laid on the key by then (10^-10 of money).

    A row's `basis_adjustment` holds this too; the rest of it is of executions. Raises
    ValueError as `retell` does.
    """
    book = Book(key)
    for row in rows:
        _tell(book, row, key)
        yield book.snapshot().basis_adjustment


def laid_on_matches(rows: Iterable[Told], key: str) -> Iterator[tuple[str, str, int]]:
    """Yield for each match that bears some of what `cost` laid: opener, closer, how much.

    The two are ids of executions or of what else brought the lot; how much in 10^-10 of
    money. Raises ValueError as `retell` does.
    """
    book, told = Book(key), list(rows)
    # A bust of nothing settles the multiplier, as the execution that does may come last.
    book.apply(Execution("", "", 2, 0, 0, 0, instrument=_instrument(told[-1])))
    for row in _as_booked(told):
        before = book.open_lots()
        _tell(book, row, key, first=True)
        left = {lot.exec_id: lot.charge for lot in book.open_lots()}
        if row.type == "execution":
            for lot in before:
                if due := lot.charge - left.get(lot.exec_id, 0):
                    yield lot.exec_id, row.exec_id or "", due


def _as_booked(rows: Sequence[Told]) -> list[Told]:
    """Return the last row of each message that counts, in order of booking."""
    last = {_known_by(row): row for row in rows}  # in order of first arrival
    counts = [row for row in last.values() if row.type != "execution" or Decimal(row.fill_qty or 0)]
    return sorted(counts, key=lambda row: (row.type != "opening", row.message_timestamp))


def _tell(book: Book, row: Told, key: str, *, first: bool = False) -> None:
    """Tell a row; first: a correction as if it were the first revision."""
    message = _message(row, key)
    if message is None:
        return
    if first and isinstance(message, Execution):
        message = message._replace(revision=1)
    try:
        book.apply(message)
    except RejectedError as error:
        raise ValueError(f"{key}: expected rows that go together, found: {error}") from error


def _happened(rows: Sequence[Told], until: int) -> list[Told]:
    last = {_known_by(row): row.message_timestamp for row in rows}  # a revision's time counts
    return [row for row in rows if row.type == "opening" or last[_known_by(row)] <= until]


def _known_by(row: Told) -> tuple[str, str]:
    exec_id = row.exec_id or ""
    return row.type, parse_exec_id(exec_id).identity if row.type == "execution" else exec_id


def _message(row: Told, key: str) -> Message | None:
    if row.type == "execution":
        return _execution(row)
    if row.type not in ("opening", "split", "cost", "transfer"):
        return None
    if row.message_terms is None:
        raise ValueError(
            f"{key}: expected the terms of {row.type} {row.exec_id!r} in message_terms, found "
            f"none: its row was written by an earlier version"
        )
    return _of_terms(row, json.loads(row.message_terms, parse_float=str, parse_int=str))


def _execution(row: Told) -> Execution:
    exec_id = row.exec_id or ""
    identity, revision = parse_exec_id(exec_id)
    qty, price = from_text(row.fill_qty or "0"), from_text(row.fill_price or "0")
    signed = qty if row.side == "BUY" else -qty
    return Execution(
        exec_id, identity, revision or 1, row.message_timestamp, signed, price,
        instrument=_instrument(row),
    )  # fmt: skip


def _of_terms(row: Told, said: dict[str, Any]) -> Message:
    exec_id, timestamp = row.exec_id or "", row.message_timestamp
    match row.type, said.get("direction"):
        case "opening", _:
            qty, worth = from_text(said["qty"]), _priced(said)
            return Opening(exec_id, timestamp, qty, *worth, _instrument(row))
        case "split", _:
            new, _, old = said["ratio"].partition(":")
            return Split(exec_id, timestamp, int(new), int(old), int(said["places"]))
        case "cost", _:
            # From a cost on, a lot's cost is borne anew by the units that it has then.
            return Cost(exec_id, timestamp, from_text(said["per_unit"]))
        case _, "OUT":
            some = said["qty"]
            return TransferOut(exec_id, timestamp, None if some is None else from_text(some))
        case _:
            qty, opened = from_text(said["qty"]), int(said["opened"])
            return TransferIn(exec_id, timestamp, qty, *_priced(said), opened)


def _instrument(row: Told) -> Instrument:
    return Instrument(multiplier=from_text(row.multiplier))


def _check(lots: Sequence[OpenLot], last: Told, key: str) -> None:
    found = (sum(lot.qty for lot in lots), sum(lot.cost for lot in lots), len(lots))
    texts = (to_text(found[0]), to_text(found[1], MONEY_PLACES))
    held = (Decimal(last.qty), Decimal(last.cost_basis), last.open_lots)
    if (*map(Decimal, texts), found[2]) != held:
        raise ValueError(
            f"{key}: expected lots of {held[0].normalize():f} in all that cost "
            f"{held[1].normalize():f}, found {texts[0]} that cost {texts[1]}: rows are missing"
        )


def _priced(said: dict[str, Any]) -> tuple[int | None, int | None]:
    if "cost_basis" in said:
        return None, int(Fraction(said["cost_basis"]) * MONEY)
    return (from_text(said["avg_price"]) if "avg_price" in said else None), None
