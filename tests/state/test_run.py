"""Messages booked in runs come to what they come to one by one."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.book import FORGET_AT_ONCE, REMEMBERED, Book
from state.exact import LIMIT, ONE
from state.messages import CommissionReport, Cost, Execution, Instrument, Message, Opening, Split
from state.run import Run, run_of
from tests.support.strategies import SETTINGS

TIME = 1_700_000_000_000
USD = Instrument("USD", ONE, None, "STK")


def fill(number: int, qty: int = 1, price: int = 100, **says: Any) -> Execution:
    name = f"{number:08x}.6596b0d2.01.01"
    side = "BUY" if qty > 0 else "SELL"
    made = Execution(
        name, name, 1, TIME + 1000 * number, qty * ONE, price * ONE, None, number, side, USD
    )
    return made._replace(**says)


def report(of: Execution, commission: int = ONE, currency: str | None = "USD") -> CommissionReport:
    return CommissionReport(of.exec_id, of.identity, 1, of.timestamp, commission, currency)


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """Draw executions in order of time, and for some of them a report, soon or late."""
    own = draw(st.booleans())
    messages: list[Message] = []
    waiting: list[Execution] = []
    time = TIME
    for number in range(draw(st.integers(1, 25))):
        time += draw(st.sampled_from([0, 1000]))
        qty = draw(st.integers(1, 9)) * draw(st.sampled_from([1, -1, ONE, -ONE]))
        fee = draw(st.none() | st.integers(-5, 10**10)) if own else None
        one = fill(number)._replace(
            timestamp=time, qty=qty, side="BUY" if qty > 0 else "SELL",
            price=draw(st.integers(1, 10**13)), commission=fee,
            order_ref=draw(st.sampled_from([None, "trend"])),
        )  # fmt: skip
        messages.append(one)
        if fee is None:
            waiting.append(one)
        while len(waiting) > 0 and draw(st.booleans()):
            of = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            messages.append(report(of, draw(st.integers(-5, 10**10))))
    return messages


def in_runs(book: Book, messages: Sequence[Message], cuts: Sequence[int]) -> None:
    """Let a book take all of them in runs; none of these may be refused."""
    bounds = [0, *sorted(cuts), len(messages)]
    for start, stop in pairwise(bounds):
        if start < stop:
            assert book.apply_run(run_of(messages[start:stop])) is not None


@SETTINGS
@given(streams(), st.data())
def test_runs_come_to_what_single_messages_come_to(
    messages: list[Message], data: st.DataObject
) -> None:
    single, runs = Book("AAPL", "U1"), Book("AAPL", "U1")
    for message in messages:
        single.apply(message)
    in_runs(runs, messages, data.draw(st.lists(st.integers(0, len(messages)), max_size=4)))
    assert runs.snapshot() == single.snapshot()
    assert runs.open_lots() == single.open_lots()
    assert runs.to_state() == single.to_state()


@SETTINGS
@given(streams(), streams())
def test_single_messages_and_runs_may_take_turns(
    first: list[Message], second: list[Message]
) -> None:
    later: list[Message] = [
        message._replace(exec_id=f"x{message.exec_id}", identity=f"x{message.identity}",
                         timestamp=message.timestamp + 10**6)
        for message in second
        if isinstance(message, Execution | CommissionReport)
    ]  # fmt: skip
    split: list[Message] = [Split("s", TIME + 500_000, 2, 1), Cost("c", TIME + 600_000, ONE)]
    messages = [*first, *split, *later]
    single, mixed = Book("X"), Book("X")
    for message in messages:
        single.apply(message)
    in_runs(mixed, first, [])
    for message in split:
        mixed.apply(message)
    if mixed.apply_run(run_of(later)) is None:  # it closes lots of before, which are not plain
        for message in later:
            mixed.apply(message)
    assert mixed.to_state() == single.to_state()


@SETTINGS
@given(streams())
def test_a_run_is_kept_and_given_back_as_it_was(messages: list[Message]) -> None:
    run = run_of(messages)
    assert run.messages() == messages
    assert Run.from_state(run.to_state()) == run
    assert len(run) == len(messages)
    assert run.executions == sum(isinstance(message, Execution) for message in messages)


REFUSED: list[tuple[list[Message], list[Message]]] = [
    ([fill(2)], [fill(1)]),  # late
    ([fill(1)], [fill(1)]),  # known
    ([], [fill(1), fill(1)]),
    ([], [fill(2), fill(1)]),  # not in order
    ([report(fill(1))], [fill(1)]),  # its report waits
    ([fill(1)], [fill(2, instrument=Instrument("EUR", ONE))]),  # contradicts the key
    ([], [fill(1, instrument=Instrument("USD", ONE // 2))]),  # a multiplier with places
    ([], [report(fill(1))]),  # of nobody
    ([fill(1, commission=ONE)], [report(fill(1))]),  # instead of its own
    ([fill(1, adjustment=ONE)], [report(fill(1))]),
    ([fill(1), report(fill(1))], [report(fill(1), 2 * ONE)]),  # a second one
    ([fill(1)], [report(fill(1)), report(fill(1))]),
    ([fill(1)], [report(fill(1), ONE, "EUR")]),  # of another currency
    ([], [report(fill(1)), fill(1)]),  # before its execution
    ([fill(1), Split("s", TIME + 5000, 2, 1)], [report(fill(1))]),  # its lot was split
    ([fill(1), Split("s", TIME + 5000, 3, 1)], [fill(9, -1)]),  # closes a lot that was split
    ([Opening("o", TIME, ONE, None, 7)], [fill(1, -1)]),  # and one of a cost of its own
    ([], [fill(1)._replace(qty=5 * 10**18)]),  # too large
]


@pytest.mark.parametrize(("before", "messages"), REFUSED)
def test_a_run_that_is_not_plain_is_refused_and_leaves_no_trace(
    before: list[Message], messages: list[Message]
) -> None:
    book = Book("X")
    for message in before:
        book.apply(message)
    state = book.to_state()
    assert book.apply_run(run_of(messages)) is None
    assert book.to_state() == state


def test_what_is_forgotten_does_not_depend_on_how_it_came() -> None:
    messages: list[Message] = []
    for number in range(REMEMBERED + 3 * FORGET_AT_ONCE):
        messages += [one := fill(number, 1 + number % 3 if number % 2 else -2), report(one)]
    single, runs = Book("X"), Book("X")
    for message in messages:
        single.apply(message)
    in_runs(runs, messages, range(0, len(messages), 700))
    assert runs.to_state() == single.to_state()


def test_a_report_that_single_messages_would_find_forgotten_is_refused_in_a_run() -> None:
    first = fill(0)
    book = Book("X")
    book.apply(first)
    many: list[Message] = [fill(number) for number in range(1, REMEMBERED + FORGET_AT_ONCE + 5)]
    assert book.apply_run(run_of([*many, report(first)])) is None


def test_a_run_takes_no_figure_to_the_limit() -> None:
    book = Book("X")
    dear = [fill(n)._replace(qty=10**7 * ONE, price=9 * 10**8 * ONE) for n in range(20)]
    taken = 0
    for one in dear:
        taken += book.apply_run(run_of([one])) is not None
    assert 0 < taken < len(dear)
    assert book.snapshot().cost_basis < LIMIT * ONE * ONE


def test_a_run_makes_the_instrument_known() -> None:
    book = Book("X")
    says = Instrument("EUR", 100 * ONE, 7, "FUT")
    assert book.apply_run(run_of([fill(1, instrument=says)])) is not None
    shown = book.snapshot()
    assert (shown.currency, shown.multiplier, shown.con_id, shown.sec_type) == (
        "EUR", 100 * ONE, 7, "FUT",
    )  # fmt: skip
