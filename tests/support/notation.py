"""Executions, lots and closed lots as a trader writes them, for tests that can be reviewed.

One line is one message; what a line leaves out follows from its number n in the list:

    BUY 100 @ 10.00                  id #n, time n (seconds since 1970), no commission
    #7 SELL 50 @ 11 fee 1.25 at 90   what the execution itself says of its commission
    #7.2 SELL 40 @ 11 at 90          a correction: revision 2 of #7
    #7.3 BUST at 90                  a bust: revision 3, quantity 0
    #7 COST 1.30 at 95               a commission report that names #7
    OPENING -50 @ 20.5               a position held before
    SPLIT 4:1                        four for one

After a price, `x50` gives the multiplier. Ids are of IBKR's shape: #7.2 is revision 02.
"""

import re
from collections.abc import Iterable

from state.book import Applied, Book
from state.exact import MONEY_PLACES, from_text, to_text
from state.keys import parse_exec_id
from state.lots import Lot
from state.messages import CommissionReport, Execution, Instrument, Message, Opening, Split
from state.snapshot import ClosedLot

_LINE = re.compile(
    r"(?:#(?P<id>\d+)(?:\.(?P<revision>\d+))? )?"
    r"(?P<verb>BUY|SELL|BUST|COST|OPENING|SPLIT)"
    r"(?: (?P<figure>[-\d.:]+))?(?: @ (?P<price>[-\d.]+))?(?: x(?P<multiplier>[\d.]+))?"
    r"(?: fee (?P<fee>[-\d.]+))?(?: at (?P<time>[\d.]+))?"
)


def exec_id(number: int, revision: int = 1) -> str:
    """Return the execution id that `#number.revision` stands for.

    >>> exec_id(7, 2)
    '00000007.00000007.01.02'
    """
    return f"{number:08}.{number:08}.01.{revision:02}"


def message(line: str, number: int = 1) -> Message:
    """Read one line.

    >>> message("SELL 50 @ 11").qty
    -500000000000
    """
    match = _LINE.fullmatch(line)
    assert match is not None, f"not in the notation: {line!r}"
    given = match.groupdict()
    time = round(float(given["time"] or number) * 1000)
    name = exec_id(int(given["id"] or number), int(given["revision"] or 1))
    identity, revision = parse_exec_id(name)
    figure, price = given["figure"] or "0", from_text(given["price"] or "1")
    multiplier = given["multiplier"] and from_text(given["multiplier"])
    instrument = Instrument(multiplier=multiplier or None)
    match given["verb"]:
        case "COST":
            return CommissionReport(
                name, identity, revision or 1, time, from_text(figure), instrument
            )
        case "OPENING":
            return Opening(time, from_text(figure), price, instrument)
        case "SPLIT":
            new, old = figure.split(":")
            return Split(time, int(new), int(old), instrument)
    qty = -from_text(figure) if given["verb"] == "SELL" else from_text(figure)
    fee = from_text(given["fee"]) if given["fee"] else None
    side = "SELL" if given["verb"] == "SELL" else "BUY"
    return Execution(
        name, identity, revision or 1, time, qty, price, fee, int(given["id"] or number), side,
        instrument,
    )  # fmt: skip


def execution(line: str, number: int = 1) -> Execution:
    """Read one line that is an execution."""
    found = message(line, number)
    assert isinstance(found, Execution), line
    return found


def messages(*lines: str) -> list[Message]:
    """Read lines, the first of which is number 1."""
    return [message(line, number) for number, line in enumerate(lines, 1)]


def book_of(*lines: str) -> Book:
    """Return a book that took in the lines.

    >>> lots(book_of("BUY 100 @ 10.00", "SELL 40 @ 11"))
    '60 @ 10'
    """
    book, _ = played(*lines)
    return book


def played(*lines: str) -> tuple[Book, list[Applied | None]]:
    """Return a book that took in the lines, and what each of them did."""
    book = Book("XYZ")
    return book, [book.apply(each) for each in messages(*lines)]


# --- what came of it ------------------------------------------------------------------


def lots(book: Book) -> str:
    """Write the open lots, the oldest first; those of a short position are below 0.

    >>> lots(book_of("SELL 100 @ 10", "SELL 50.5 @ 11"))
    '-100 @ 10, -50.5 @ 11'
    """
    return ", ".join(f"{to_text(lot.qty)} @ {to_text(lot.price)}" for lot in book.lots)


def closed(applied: Applied | None) -> str:
    """Write the closed lots; those below 0 take one back.

    >>> _, did = played("BUY 100 @ 10", "SELL 40 @ 11.5")
    >>> closed(did[1])
    'LONG 40 @ 10 -> 11.5 = 60'
    """
    assert applied is not None, "the message changed nothing"
    return ", ".join(map(closed_lot, applied.closed))


def closed_lot(lot: ClosedLot) -> str:
    """Write one closed lot."""
    return (
        f"{lot.direction} {to_text(lot.qty)} @ {to_text(lot.open_price)} -> "
        f"{to_text(lot.close_price)} = {money(lot.realized_pnl)}"
    )


def money(amount: int) -> str:
    """Write an amount of money.

    >>> money(-12_50000000000000000000)
    '-12.5'
    """
    return to_text(amount, MONEY_PLACES)


def gross(book: Book) -> str:
    """Write the realized P&L before commissions."""
    return money(book.snapshot().realized_pnl)


def net(book: Book) -> str:
    """Write the realized P&L after commissions."""
    return money(book.snapshot().net_realized_pnl)


def average(book: Book) -> str:
    """Write the average price of the open lots, "flat" if there are none."""
    price = book.snapshot().avg_price
    return "flat" if price is None else to_text(price)


def fees(of: Iterable[Lot]) -> str:
    """Write what is left of each lot's commission."""
    return ", ".join(to_text(lot.commission) for lot in of)
