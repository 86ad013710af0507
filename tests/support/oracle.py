"""A naive FIFO to hold the book against, and what must be true of any book.

`position_of` starts afresh for each set of messages: it picks those that count, puts
them in booking order, and walks through every fill share by share with a queue of
single shares. It shares no code and no idea with `state.book`: no lots, no undoing, no
scaled integers, no rounding. So after a split, and net of commission, where the book
rounds to 10 places per match, it agrees only as nearly as that.
"""

from collections import Counter, deque
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from state.book import Book
from state.exact import MONEY, ONE
from state.messages import CommissionReport, Execution, Message, Opening, Split
from state.snapshot import ClosedLot

SHARE = Fraction(1, 2)
"""The size of a single share in the queue."""


class Counting(NamedTuple):
    """A message that counts, and what it costs."""

    message: Execution | Opening | Split
    commission: int


class Share(NamedTuple):
    """A share, or what a split made of one; all figures signed as the position."""

    exec_id: str | None
    size: Fraction
    cost: Fraction
    commission: Fraction


class Position(NamedTuple):
    """What the oracle makes of a set of messages."""

    qty: Fraction
    cost: Fraction
    gross: Fraction
    net: Fraction
    commission: Fraction
    lots: list[tuple[str | None, Fraction]]
    matches: dict[tuple[str | None, str], Fraction]
    """Quantity by opening and closing execution, above 0."""
    executions: int
    last: tuple[str, int] | None
    """Id and time of the last execution."""


def counting(arrived: Sequence[Message]) -> list[Counting]:
    """Return the messages that count, in booking order."""
    first: dict[object, int] = {}
    best: dict[object, Execution | Opening | Split] = {}
    for n, message in enumerate(arrived):
        if isinstance(message, CommissionReport):
            continue
        who = _who(message)
        first.setdefault(who, n)
        old = best.setdefault(who, message)
        if isinstance(message, Execution) and isinstance(old, Execution):
            newer = message.revision > old.revision
            tells_more = message.revision == old.revision and old.commission is None
            best[who] = message if newer or tells_more else old
    in_order = sorted(best, key=lambda who: (_time(best[who]), first[who]))
    return [Counting(best[who], _cost(best[who], arrived)) for who in in_order]


def position_of(arrived: Sequence[Message], multiplier: int = ONE) -> Position:
    """Book all messages share by share."""
    queue: deque[Share] = deque()
    matches: Counter[tuple[str | None, str]] = Counter()
    gross = net = Fraction(0)
    events = counting(arrived)
    for event, commission in events:
        if isinstance(event, Split):
            ratio = Fraction(event.new, event.old)
            queue = deque(share._replace(size=share.size * ratio) for share in queue)
            continue
        name = event.exec_id if isinstance(event, Execution) else None
        for share in _shares(event, name, commission, multiplier):
            left = share
            while left.size and queue and queue[0].size * left.size < 0:
                match, left = _meet(queue, left)
                matches[match.exec_id, str(name)] += abs(match.size)  # type: ignore[assignment]
                closing = _part(share, abs(match.size / share.size))
                gross -= match.cost + closing.cost
                net -= match.cost + closing.cost + match.commission + closing.commission
            if left.size:
                queue.append(left)
    fills = [e.message for e in events if isinstance(e.message, Execution) and e.message.qty]
    return Position(
        sum((share.size for share in queue), Fraction(0)),
        sum((share.cost for share in queue), Fraction(0)),
        gross,
        net,
        Fraction(sum(event.commission for event in events), ONE),
        _lots(queue),
        {pair: Fraction(qty) for pair, qty in matches.items()},
        len(fills),
        (fills[-1].exec_id, fills[-1].timestamp) if fills else None,
    )


def check_agrees(book: Book, arrived: Sequence[Message]) -> None:
    """Check that a book has the figures of the oracle."""
    told, expected = book.snapshot(), position_of(arrived, book.multiplier)
    rounded = Fraction(len(arrived) + 1, ONE)  # of each match, in the tenth place
    was_split = any(isinstance(message, Split) for message in arrived)
    exact_unless_split = rounded if was_split else Fraction(0)
    assert Fraction(told.qty, ONE) == expected.qty
    assert abs(Fraction(told.cost_basis, MONEY) - expected.cost) <= exact_unless_split
    assert abs(Fraction(told.realized_pnl, MONEY) - expected.gross) <= exact_unless_split
    assert abs(Fraction(told.net_realized_pnl, MONEY) - expected.net) <= rounded * 2
    assert Fraction(told.commission, ONE) == expected.commission
    assert [(lot.exec_id, Fraction(lot.qty, ONE)) for lot in book.lots] == expected.lots
    assert told.executions == expected.executions
    assert (told.last_exec_id, told.timestamp) == (expected.last or (None, None))
    assert (told.avg_price is None) == (expected.qty == 0)
    if told.avg_price is not None:
        average = Fraction(told.cost_basis, MONEY) / expected.qty / Fraction(book.multiplier, ONE)
        assert told.avg_price == round(average * ONE)


def check_matches(closed: Sequence[ClosedLot], arrived: Sequence[Message], book: Book) -> None:
    """Check that closed lots, with those taken back, leave the oracle's matches."""
    left: Counter[tuple[str | None, str]] = Counter()
    for lot in closed:
        left[lot.open_exec_id, lot.close_exec_id] += lot.qty
    expected = position_of(arrived, book.multiplier).matches
    assert {pair: Fraction(qty, ONE) for pair, qty in left.items() if qty} == expected


def check_invariants(book: Book, arrived: Sequence[Message], closed: Sequence[ClosedLot]) -> None:
    """Check what is true of every book after every message.

    arrived: all messages that the book took. closed: all that it said was closed, or
    taken back.
    """
    fills = counting(arrived)
    held = Fraction(0)
    cash = 0
    for fill in fills:
        if isinstance(fill.message, Split):
            held *= Fraction(fill.message.new, fill.message.old)
        else:
            held += fill.message.qty
            cash -= fill.message.qty * fill.message.price * book.multiplier // ONE
    assert all(lot.qty for lot in book.lots), "no lot is empty"
    assert len({lot.qty > 0 for lot in book.lots}) <= 1, "all lots are of one side"
    assert sum(lot.qty for lot in book.lots) == held, "lots add up to the signed fills"
    assert book.qty == held, "the quantity is that of the signed fills"
    assert sum(lot.cost for lot in book.lots) == book.cost, "lots add up to the cost basis"
    assert book.realized == cash + book.cost, "realized is net cash and what is still held"
    assert sum(lot.realized_pnl for lot in closed) == book.realized, "closed lots add up to it"
    assert book.commission == sum(fill.commission for fill in fills), "commissions add up"
    waiting = sum(lot.commission for lot in book.lots)
    due = (book.commission - waiting) * ONE
    assert book.net == book.realized - due, "what is due and what waits is the whole commission"


def _who(message: Execution | Opening | Split) -> object:
    if isinstance(message, Execution):
        return message.identity
    return ("split", message.timestamp) if isinstance(message, Split) else ("opening",)


def _time(message: Execution | Opening | Split) -> int:
    return -1 if isinstance(message, Opening) else message.timestamp


def _cost(message: Execution | Opening | Split, arrived: Sequence[Message]) -> int:
    if not isinstance(message, Execution) or not message.qty:
        return 0
    reports = [
        (report.revision, report.timestamp, n, report.commission)
        for n, report in enumerate(arrived)
        if isinstance(report, CommissionReport) and report.identity == message.identity
    ]
    return max(reports)[3] if reports else message.commission or 0


def _shares(
    fill: Execution | Opening, name: str | None, commission: int, multiplier: int
) -> list[Share]:
    if not fill.qty:
        return []
    number = abs(Fraction(fill.qty, ONE)) / SHARE
    assert number.denominator == 1, "the strategies deal in whole shares"
    size = Fraction(fill.qty, ONE) / number
    cost = size * Fraction(fill.price, ONE) * Fraction(multiplier, ONE)
    return [Share(name, size, cost, Fraction(commission, ONE) / number)] * int(number)


def _meet(queue: deque[Share], left: Share) -> tuple[Share, Share]:
    """Match the oldest share, or as much of it as there is on the other side."""
    oldest = queue.popleft()
    part = min(Fraction(1), abs(left.size / oldest.size))
    match, rest = _part(oldest, part), _part(oldest, 1 - part)
    if rest.size:
        queue.appendleft(rest)
    return match, _part(left, 1 - abs(match.size / left.size))


def _part(share: Share, part: Fraction) -> Share:
    name, *figures = share
    return Share(name, *(figure * part for figure in figures))


def _lots(queue: deque[Share]) -> list[tuple[str | None, Fraction]]:
    sizes: dict[str | None, Fraction] = {}
    for share in queue:
        sizes[share.exec_id] = sizes.get(share.exec_id, Fraction(0)) + share.size
    return list(sizes.items())
