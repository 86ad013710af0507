"""The fast path does what `Book.apply` would, one by one."""

import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from state import book as book_module
from state.book import Book
from state.exact import ONE
from state.messages import Execution, Instrument, Message, RejectedError
from state.run import Run, RunUpdate
from state.snapshot import ClosedLot, PositionSnapshot
from tests.support.notation import exec_id, message, messages
from tests.support.strategies import SETTINGS, sessions

Step = tuple[PositionSnapshot, list[ClosedLot], int, int]
"""A position after a message, the lots it closed, and what it realized, gross and net."""


def run_of(fills: Sequence[Message]) -> Run:
    """Put executions into a run."""
    rows = [fill for fill in fills if isinstance(fill, Execution)]
    assert len(rows) == len(fills)
    return Run.of(rows)


def is_plain(message: Message) -> bool:
    """Tell whether the column decoder would put a message into a run."""
    plain = isinstance(message, Execution) and message.revision == 1 and message.price > 0
    return plain and bool(message.qty)  # type: ignore[union-attr]


def steps_of(update: RunUpdate) -> Iterator[Step]:
    """Work out from an update what `apply` and `snapshot` tell step by step."""
    factor = update.multiplier // ONE
    qty, cost, realized, net = update.qty, update.cost, update.realized, update.net
    commission = update.commission
    closed_lots = update.result.closed_lots(update.run, factor)
    effects = array("q", update.result.effects)
    for at, execution in enumerate(update.run.executions()):
        parts = [(part, gain) for closer, part, gain in closed_lots if closer == at]
        gained = sum(gain for _, gain in parts)
        due, open_lots = effects[2 * at : 2 * at + 2]
        net_gained = gained - (due + sum(part.commission for part, _ in parts)) * ONE
        qty += execution.qty
        cost += execution.qty * execution.price * factor + gained
        realized, net = realized + gained, net + net_gained
        commission += execution.commission or 0
        average = round_half_even(cost * ONE, qty * update.multiplier) if qty else None
        snapshot = PositionSnapshot(
            update.account, update.symbol, update.currency, update.multiplier, qty, average, cost,
            realized, commission, net, open_lots,
            update.executions + at + 1, execution.exec_id, execution.price, execution.timestamp,
        )  # fmt: skip
        closed = [
            ClosedLot(
                "LONG" if part.qty > 0 else "SHORT", abs(part.qty), part.exec_id, part.timestamp,
                part.price, execution.exec_id, execution.timestamp, execution.price, gain,
            )
            for part, gain in parts
        ]  # fmt: skip
        yield snapshot, closed, gained, net_gained


def round_half_even(top: int, bottom: int) -> int:
    """Divide as the snapshot's average is divided."""
    sign = -1 if (top < 0) != (bottom < 0) else 1
    quotient, rest = divmod(abs(top), abs(bottom))
    up = 2 * rest > abs(bottom) or (2 * rest == abs(bottom) and quotient % 2 == 1)
    return sign * (quotient + up)


def one_by_one(book: Book, taken: Iterable[Message]) -> list[Step | str | None]:
    """Apply messages singly; return the steps, reasons of refusal, None for no change."""
    did: list[Step | str | None] = []
    for each in taken:
        try:
            applied = book.apply(each)
        except RejectedError as error:
            did.append(str(error))
            continue
        did.append(applied and (book.snapshot(), *applied))
    return did


def in_runs(book: Book, taken: list[Message]) -> list[Step | str | None]:
    """Apply messages as a run if the book takes them so, else singly."""
    if all(map(is_plain, taken)):
        update = book.apply_run(run_of(taken))
        event("run taken" if update else "run refused")
        if update is not None:
            assert book.snapshot() == list(steps_of(update))[-1][0]
            return list(steps_of(update))
    return one_by_one(book, taken)


def unrolled(book: Book) -> tuple[Any, ...]:
    """Return the book's state with nothing in runs."""
    copy = Book.from_state(book.to_state())
    copy._unroll()
    return copy.to_state()


def chunks(draw: st.DataObject, taken: list[Message]) -> Iterator[list[Message]]:
    """Cut messages into reads: plain executions together, others alone."""
    while taken:
        plain = next((n for n, each in enumerate(taken) if not is_plain(each)), len(taken))
        size = draw.draw(st.integers(1, plain)) if plain else 1
        yield taken[:size]
        taken = taken[size:]


@pytest.mark.parametrize("remembered", [book_module.REMEMBERED, 6, 3])
@SETTINGS
@given(taken=sessions(), data=st.data())
def test_runs_do_what_single_executions_do(
    taken: list[Message], data: st.DataObject, remembered: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_module, "REMEMBERED", remembered)
        patch.setattr(book_module, "_FORGET_AT_ONCE", max(1, remembered // 2))
        fast, slow = Book("XYZ", "U1"), Book("XYZ", "U1")
        for read in chunks(data, taken):
            assert in_runs(fast, read) == one_by_one(slow, read)
            if data.draw(st.integers(0, 5)) == 0:
                fast = Book.from_state(pickle.loads(pickle.dumps(fast.to_state())))  # noqa: S301
            assert fast.snapshot() == slow.snapshot()
            assert fast.size == slow.size
        assert unrolled(fast) == unrolled(slow)


def test_a_long_run_of_plain_executions_is_taken_and_forgets_like_single_ones() -> None:
    fills = [
        message(f"{'BUY' if n % 3 else 'SELL'} {n % 7 + 1} @ {n % 11 + 1} fee 0.{n % 10}", n)
        for n in range(1, 6001)
    ]
    fast, slow = Book("XYZ"), Book("XYZ")
    done = 0
    for size in (1, 50, 1000, 2949, 2000):
        update = fast.apply_run(run_of(fills[done : done + size]))
        assert update is not None
        assert list(steps_of(update)) == one_by_one(slow, fills[done : done + size])
        done += size
    assert done == len(fills)
    assert unrolled(fast) == unrolled(slow)


def test_the_rest_of_a_run_is_that_of_the_later_executions() -> None:
    run = run_of(messages("BUY 3 @ 5 fee 1", "SELL 4 @ 6 fee 2", "BUY 2 @ 7", "SELL 3 @ 8"))
    assert run.executions()[2].commission is None
    for start in range(4):
        assert run.rest(start).executions() == run.executions()[start:]


@pytest.mark.parametrize(
    ("before", "fills"),
    [
        ((), ("BUY 1 @ 5 at 2", "BUY 1 @ 5 at 1")),  # not in order
        (("BUY 1 @ 5 at 9",), ("#2 BUY 1 @ 5 at 8",)),  # late
        (("#1 BUY 1 @ 5 at 1",), ("#1 BUY 1 @ 5 at 1",)),  # a duplicate
        ((), ("#1 BUY 1 @ 5 at 1", "#1 BUY 1 @ 5 at 1")),  # of one run
        (("#1.2 BUST at 1",), ("#1 BUY 1 @ 5 at 1",)),
        (("#1 COST 1 at 1",), ("#1 BUY 1 @ 5 at 1",)),  # its commission is known
        (("BUY 1 @ 5", "SPLIT 2:1"), ("#3 SELL 1 @ 5 at 9",)),  # a lot that was split
        (("BUY 1 @ 0",), ("#3 SELL 1 @ 5 at 9",)),
        (("BUY 1 @ 5",), ("#3 SELL 1 @ -5 at 9",)),
        (("BUY 1 @ 5",), ("#3 BUY 1 @ 5 x2 at 9",)),  # another multiplier
        (("BUY 1 @ 5 x0.5",), ("#3 BUY 1 @ 5 at 9",)),
        (("BUY 100000000 @ 900000000",), ("#3 BUY 100000000 @ 900000000 at 9",)),  # the limit
        (("BUY 900000000 @ 1",), ("#3 BUY 900000000 @ 1 at 9",)),  # beyond 64 bits
        (("BUY 1 @ 1 fee 950000000",), ("#3 SELL 1 @ 1 at 9",)),
        (("BUY 1 @ 950000000",), ("#3 SELL 1 @ 1 at 9",)),
        (("BUY 1 @ 1 x100",), ("#3 SELL 90000000 @ 1 x100 at 9",)),
        (("BUY 0.001 @ 1 x950000000",), ("#3 SELL 0.001 @ 1 x950000000 at 9",)),
    ],
)
def test_a_run_that_is_not_plain_is_refused_and_leaves_no_trace(
    before: tuple[str, ...], fills: tuple[str, ...]
) -> None:
    book = Book("XYZ")
    one_by_one(book, messages(*before))
    state = book.to_state()
    assert book.apply_run(run_of(messages(*fills))) is None
    assert book.to_state() == state


def test_an_id_of_two_lines_is_not_packed() -> None:
    book = Book("XYZ")
    plain = message("BUY 1 @ 5", 1)
    assert isinstance(plain, Execution)
    assert book.apply(plain._replace(exec_id="a\nb", identity="a\nb"))
    assert book.apply_run(run_of([message("SELL 1 @ 6", 2)])) is None
    assert book.apply(message("SELL 1 @ 6", 2))
    assert book.apply_run(run_of([message("BUY 1 @ 6", 3)])) is None


def test_a_run_does_not_take_a_net_figure_to_the_limit_by_commissions_that_waited() -> None:
    book = Book("XYZ")
    lines = ("SELL 100000000 @ 1", "BUY 100000000 @ 999999999", "BUY 1 @ 1 fee 999999999")
    one_by_one(book, messages(*lines))
    closing = message("#4 SELL 1 @ 1 at 9")
    with pytest.raises(RejectedError, match=r"^net_realized_pnl: expected to stay below 1e17"):
        book.apply(closing)
    assert book.apply_run(run_of([closing])) is None


def test_a_book_remembers_what_came_in_runs() -> None:
    book = Book("XYZ")
    assert book.apply_run(run_of(messages("BUY 3 @ 5", "SELL 1 @ 6")))
    book = Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301
    assert book.apply(message("BUY 3 @ 5", 1)) is None
    with pytest.raises(RejectedError, match=f"as '{exec_id(1)}' had before"):
        book.apply(message("BUY 4 @ 5", 1))
    assert book.apply(message("#1.2 BUY 4 @ 5 at 1"))
    assert [lot.qty for lot in book.lots] == [3 * ONE]


def test_a_run_makes_the_instrument_known() -> None:
    book = Book("XYZ")
    fills = [message("BUY 1 @ 5", 1)._replace(instrument=Instrument("EUR", 50 * ONE, 7))]
    update = book.apply_run(run_of(fills))
    assert update is not None
    assert (update.currency, update.multiplier) == ("EUR", 50 * ONE)
    with pytest.raises(RejectedError, match="con_id: expected 7, as before, found 8"):
        book.apply(message("BUY 1 @ 5", 2)._replace(instrument=Instrument(con_id=8)))
