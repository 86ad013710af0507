"""Messages, lots and closed lots as a trader writes them, for tests that can be reviewed.

One line is one message; what a line leaves out follows from its number n in the list:

    BUY 100 @ 10.00                  id #n, time n (seconds since 1970), no commission
    #7 SELL 50 @ 11 fee 1.25 at 90   what the execution itself says of its commission
    #7 SELL 50 @ 11 fee 2 EUR adj -3 a commission in another currency, and an adjustment
    #7.2 SELL 40 @ 11 at 90          a correction: revision 2 of #7
    #7.3 BUST at 90                  a bust: revision 3, quantity 0
    #7 REPORT 1.30 EUR at 95         a commission report that names #7
    OPENING -50 @ 20.5               a position held before, known as "opening"
    #7 OPENING 50 cost 1000          another, known as "7", of which the cost is known
    #7 OPENING 0                     removes it
    SPLIT 4:1                        four for one
    SPLIT 1:3 to 4                   one for three, to four decimal places
    COST -0.14                       laid on each open unit; paid back, as it is below 0
    OUT 50                           a transfer out, known as n; OUT alone: all there is
    IN 50 @ 10 of 3                  a lot that comes, first opened at 3; or IN 50 cost 500 of 3
    NUMBER 8                         the key also has this contract number

After a price, `x50` gives the multiplier. Ids of executions are of IBKR's shape: #7.2 is
revision 02. Splits and costs without an id are known by their time, as on the stream.
"""

import re
from collections.abc import Iterable
from fractions import Fraction

from state.book import Applied, Book
from state.exact import MONEY, MONEY_PLACES, from_text, to_text
from state.keys import parse_exec_id
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    Split,
    TransferIn,
    TransferOut,
)
from state.snapshot import ClosedLot, OpenLot

_LINE = re.compile(
    r"(?:#(?P<id>\d+)(?:\.(?P<revision>\d+))? )?"
    r"(?P<verb>BUY|SELL|BUST|REPORT|OPENING|SPLIT|COST|OUT|IN|NUMBER)"
    r"(?: (?P<figure>[-\d.:]+))?(?: (?P<currency>[A-Z]{3}))?"
    r"(?: @ (?P<price>[-\d.]+))?(?: cost (?P<cost>[-\de.]+))?(?: x(?P<multiplier>[\d.]+))?"
    r"(?: fee (?P<fee>[-\d.]+)(?: (?P<fee_currency>[A-Z]{3}))?)?(?: adj (?P<adj>[-\d.]+))?"
    r"(?: to (?P<places>\d+))?(?: of (?P<opened>[\d.]+))?(?: at (?P<time>[\d.]+))?"
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
    time = _milliseconds(given["time"] or str(number))
    if given["verb"] in {"BUY", "SELL", "BUST", "REPORT"}:
        return _of_execution(given, time, number)
    return _of_position(given, time, number)


def _of_execution(given: dict[str, str], time: int, number: int) -> Execution | CommissionReport:
    name = exec_id(int(given["id"] or number), int(given["revision"] or 1))
    identity, parsed = parse_exec_id(name)
    revision, figure = parsed or 1, from_text(given["figure"] or "0")
    if given["verb"] == "REPORT":
        return CommissionReport(name, identity, revision, time, figure, given["currency"])
    sold = given["verb"] == "SELL"
    return Execution(
        name, identity, revision, time, -figure if sold else figure,
        from_text(given["price"] or "1"), _decimal(given["fee"]), int(given["id"] or number),
        "SELL" if sold else "BUY", Instrument(multiplier=_decimal(given["multiplier"])), None,
        given["fee_currency"], _decimal(given["adj"]),
    )  # fmt: skip


def _of_position(given: dict[str, str], time: int, number: int) -> Message:
    figure, price = given["figure"], _decimal(given["price"])
    cost = round(Fraction(given["cost"]) * MONEY) if given["cost"] else None
    match given["verb"]:
        case "OPENING":
            instrument = Instrument(multiplier=_decimal(given["multiplier"]))
            name = given["id"] or "opening"
            return Opening(name, time, from_text(figure), price, cost, instrument)
        case "SPLIT":
            new, old = figure.split(":")
            places = int(given["places"] or 10)
            return Split(given["id"] or str(time), time, int(new), int(old), places)
        case "COST":
            return Cost(given["id"] or str(time), time, from_text(figure))
        case "OUT":
            return TransferOut(given["id"] or str(number), time, _decimal(figure))
        case "IN":
            name, opened = given["id"] or str(number), _milliseconds(given["opened"])
            return TransferIn(name, time, from_text(figure), price, cost, opened)
        case _:
            return ContractNumber(time, int(figure))


def _decimal(text: str | None) -> int | None:
    return from_text(text) if text else None


def _milliseconds(seconds: str) -> int:
    return round(float(seconds) * 1000)


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
    return written(book.open_lots())


def written(open_lots: Iterable[OpenLot]) -> str:
    """Write open lots as `lots` does."""
    return ", ".join(f"{to_text(lot.qty)} @ {to_text(lot.price)}" for lot in open_lots)


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
    """Write the realized P&L before charges."""
    return money(book.snapshot().realized_pnl)


def net(book: Book) -> str:
    """Write the realized P&L after charges."""
    return money(book.snapshot().net_realized_pnl)


def average(book: Book) -> str:
    """Write the average price of the open lots, "flat" if there are none."""
    price = book.snapshot().avg_price
    return "flat" if price is None else to_text(price)


def fees(book: Book) -> str:
    """Write what is left of each open lot's charge."""
    return ", ".join(to_text(lot.charge) for lot in book.open_lots())


def costs(book: Book) -> str:
    """Write what is left of each open lot's cost."""
    return ", ".join(money(lot.cost) for lot in book.open_lots())
