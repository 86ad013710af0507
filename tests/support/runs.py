"""Messages that make runs, and how a read may cut them."""

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from state.book import Book
from state.exact import ONE
from state.messages import CommissionReport, Execution, Instrument, Message
from state.run import NO_COMMISSION, Kept, Run, pack, pack_texts, said_from_state
from tests.support.notation import exec_id


def is_plain(message: Message) -> bool:
    """Tell whether the column decoder would put a message into a run."""
    if isinstance(message, CommissionReport):
        return message.exec_id == message.identity
    return (
        isinstance(message, Execution)
        and message.exec_id == message.identity
        and message.price > 0
        and message.qty != 0
        and message.commission_currency is None
        and message.adjustment is None
    )


def fit_together(taken: Sequence[Message]) -> bool:
    """Tell whether messages can be one run."""
    instruments = {each.instrument for each in taken if isinstance(each, Execution)}
    currencies = {each.currency for each in taken if isinstance(each, CommissionReport)}
    return all(map(is_plain, taken)) and len(instruments) <= 1 and len(currencies) <= 1


def reads(data: st.DataObject, taken: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Cut messages into reads: what can be one run together, other messages alone."""
    while taken:
        most = 1
        while most < len(taken) and fit_together(taken[: most + 1]):
            most += 1
        size = data.draw(st.integers(1, most))
        yield taken[:size]
        taken = taken[size:]


@st.composite
def plain_sessions(draw: st.DrawFn, most: int = 40) -> list[Message]:
    """Draw executions in order of time, and first reports of what they cost, in any order."""
    instrument = Instrument(
        draw(st.sampled_from([None, "EUR"])), draw(st.sampled_from([None, ONE, 100 * ONE])), None,
        draw(st.sampled_from([None, "STK"])),
    )  # fmt: skip
    currency = draw(st.sampled_from([None, instrument.currency or "USD"]))
    found: list[Message] = []
    waiting: list[Execution] = []
    time = 10**12
    for number in range(1, draw(st.integers(1, most)) + 1):
        time += draw(st.sampled_from([0, 0, 1000, 50_000_000]))
        qty = draw(st.sampled_from([ONE, ONE, 3 * ONE, 7 * ONE, ONE // 3, 1]))
        qty *= draw(st.sampled_from([1, -1]))
        fee = draw(st.sampled_from([None, None, None, 0, ONE // 3, -5]))
        fill = Execution(
            exec_id(number), exec_id(number), 1, time, qty, draw(st.integers(1, 10**13)), fee,
            number, "BUY" if qty > 0 else "SELL", instrument,
            draw(st.sampled_from([None, None, "mine", "é"])),
        )  # fmt: skip
        found.append(fill)
        if fee is None and draw(st.integers(0, 4)):
            waiting.append(fill)
        while bool(waiting) and draw(st.booleans()):
            named = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            amount = draw(st.integers(-10, 10**11).filter(bool))
            found.append(
                CommissionReport(named.exec_id, named.identity, 1, time + 5, amount, currency)
            )
    return found


def state_of(book: Book) -> list[Any]:
    """Return a book's state, with each execution alone whether it came so or in a run."""
    state: list[Any] = list(book.to_state())
    for at, (*part, (columns, said, *lots)) in enumerate(state[3]):
        exec_ids, places = columns[0], columns[3]
        rows = zip(said_from_state(said, places), places, exec_ids, strict=True)
        executions = [
            one.execution(place, exec_id) if isinstance(one, Kept) else one
            for one, place, exec_id in rows
        ]
        state[3][at] = (*part, (columns, executions, *lots))
    return state


def run_of(messages: Sequence[Message]) -> Run:
    """Pack messages that all have first revisions. Raises OverflowError beyond 64 bits."""
    executions = [m for m in messages if isinstance(m, Execution)]
    reports = [(at, m) for at, m in enumerate(messages) if isinstance(m, CommissionReport)]
    numbers: list[int] = []
    for each in executions:
        fee = NO_COMMISSION if each.commission is None else each.commission
        numbers += (each.timestamp, each.qty, each.price, fee, each.order_id)
    rows = [number for at, m in reports for number in (at, m.timestamp, m.commission)]
    refs = [each.order_ref or "" for each in executions]
    return Run(
        pack(numbers), pack_texts(each.exec_id for each in executions),
        pack_texts(refs) if any(refs) else b"",
        executions[0].instrument if executions else Instrument(),
        pack(rows), pack_texts(m.exec_id for _, m in reports) if reports else b"",
        reports[0][1].currency if reports else None,
    )  # fmt: skip
