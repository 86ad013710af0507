"""No kind of message costs more, the more of them there are.

The work for N messages and for 2N is counted in Python's instructions, never in time: so
the ratio is the same on any machine. Twice the messages may cost 2.6 times the work, which
leaves room for what is done once in a while; a cost of N squared would be 4 times.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import pytest

from state import book as book_module
from state.book import Book
from state.messages import Message
from tests.support.notation import message, messages

FEW, TWICE, MOST = 150, 300, 2.6


class Work(NamedTuple):
    """What comes before, and what is counted."""

    before: Sequence[str]
    counted: Sequence[str]


def instructions(do: Callable[[], object]) -> int:
    """Count the instructions that Python executes in a call, and in all that it calls."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(old)
    return count


def take(book: Book, taken: Iterable[Message]) -> None:
    """Do what the flow does for each message."""
    for each in taken:
        if book.apply(each) is not None:
            book.snapshot()


def cost_of(work: Work) -> int:
    """Return how many instructions the counted messages take."""
    book = Book("XYZ")
    take(book, messages(*work.before))
    counted = [message(line, number) for number, line in enumerate(work.counted, 10_000)]
    return instructions(lambda: take(book, counted))


# --- each kind, n of them -------------------------------------------------------------------


def trades(first: int, last: int) -> list[str]:
    """Lots are closed, in part too, and no more is open the longer it goes on."""
    quantities = ("BUY 2", "SELL 1.5", "BUY 1", "SELL 1.5")
    return [f"#{n} {quantities[n % 4]} @ {n % 7 + 1} fee 1 at {n}" for n in range(first, last + 1)]


def purchases(n: int) -> list[str]:
    return [f"#{each} BUY 1 @ {each % 7 + 1} at {each}" for each in range(1, n + 1)]


def in_order(n: int) -> Work:
    return Work([], trades(1, n))


def in_order_and_all_stays_open(n: int) -> Work:
    return Work([], purchases(n))


def closed_by_one(n: int) -> Work:
    return Work(purchases(n), [f"SELL {n} @ 9 at 9000"])


def late_by_one(n: int) -> Work:
    return Work(["#9000 BUY 1 @ 1 at 9000"], trades(1, n))


def late_by_a_thousand(n: int) -> Work:
    n //= 30  # each costs a thousand rows
    return Work(trades(1000, 2000), [f"#{each} BUY 1 @ 1 at 999" for each in range(1, n + 1)])


def reports_behind_their_executions(n: int) -> Work:
    each = [line for k in range(1, n + 1) for line in (*trades(k, k), f"#{k} REPORT 2 at {k}")]
    return Work([], each)


def reports_after_all_executions(n: int) -> Work:
    return Work(trades(1, n), [f"#{k} REPORT 2 at {k}" for k in range(1, n + 1)])


def reports_after_all_executions_the_last_first(n: int) -> Work:
    return Work(trades(1, n), [f"#{k} REPORT 2 at {k}" for k in range(n, 0, -1)])


def reports_before_all_executions(n: int) -> Work:
    return Work([f"#{k} REPORT 2 at {k}" for k in range(1, n + 1)], trades(1, n))


def reports_in_another_currency(n: int) -> Work:
    return Work(trades(1, n), [f"#{k} REPORT 2 EUR at {k}" for k in range(1, n + 1)])


def corrections_soon_after(n: int) -> Work:
    pairs = [(line, line.replace(" ", ".2 ", 1).replace("fee 1", "fee 3")) for line in trades(1, n)]
    return Work([], [line for pair in pairs for line in pair])


def corrections_while_all_stays_open(n: int) -> Work:
    pairs = [(line, line.replace(" ", ".2 ", 1).replace("BUY 1", "BUY 2")) for line in purchases(n)]
    return Work([], [line for pair in pairs for line in pair])


def corrections_of_one_over_and_over(n: int) -> Work:
    n //= 4  # two digits have room for no more
    return Work(trades(1, 50), [f"#50.{k} BUY {k} @ 4 at 50" for k in range(2, n + 2)])


def busts_the_last_first(n: int) -> Work:
    return Work(trades(1, n), [f"#{k}.2 BUST at {k}" for k in range(n, 0, -1)])


def duplicates(n: int) -> Work:
    return Work(trades(1, n), trades(1, n))


def splits(n: int) -> Work:
    pairs = [(*trades(k, k), f"#{k} SPLIT 1:1 to 4 at {k}") for k in range(1, n)]
    return Work([], [line for pair in pairs for line in pair])


def costs(n: int) -> Work:
    # A purchase and the sale of all of it, so that no more is open the longer it goes on.
    rounds = [
        (f"#{2 * k} BUY 2 @ 5 at {k}", f"COST 0.1 at {k}", f"#{2 * k + 1} SELL 2 @ 6 at {k}")
        for k in range(1, n // 2)
    ]
    return Work([], [line for each in rounds for line in each])


def transfers_out(n: int) -> Work:
    return Work([], [f"#{k} {'OUT 1' if k % 2 else 'BUY 1 @ 5'} at {k}" for k in range(1, n + 1)])


def transfers_out_of_many_lots(n: int) -> Work:
    return Work(purchases(n), [f"#{k} OUT 1 at 9000" for k in range(1, n + 1)])


def transfers_in(n: int) -> Work:
    rounds = [(f"#{k} IN 1 @ 5 of {k} at {k}", f"#{k} SELL 1 @ 5 at {k}") for k in range(1, n)]
    return Work([], [line for each in rounds for line in each])


def openings(n: int) -> Work:
    return Work([], [f"#{k} OPENING 1 @ {k % 7 + 1} at {k}" for k in range(1, n + 1)])


def openings_below_trades(n: int) -> Work:
    return Work(trades(1, 100), [f"#{k} OPENING 1 @ 5 at {k}" for k in range(1, n // 2 + 1)])


KINDS = [
    in_order, in_order_and_all_stays_open, closed_by_one, late_by_one, late_by_a_thousand,
    reports_behind_their_executions, reports_after_all_executions,
    reports_after_all_executions_the_last_first, reports_before_all_executions,
    reports_in_another_currency, corrections_soon_after,
    corrections_of_one_over_and_over,
    duplicates, splits, costs, transfers_out,
    transfers_in, openings_below_trades,
]  # fmt: skip

OVER_ALL_LOTS = [
    corrections_while_all_stays_open, busts_the_last_first, transfers_out_of_many_lots, openings,
]  # fmt: skip
"""Each of them goes over all that is open, or booked behind it: as many as the book
remembers at the most, which bounds it."""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_twice_the_messages_cost_twice_the_work(kind: Callable[[int], Work]) -> None:
    ratio = cost_of(kind(TWICE)) / cost_of(kind(FEW))
    assert ratio < MOST, f"{ratio:.2f}"


@pytest.mark.long
@pytest.mark.parametrize("kind", OVER_ALL_LOTS, ids=lambda kind: kind.__name__)
def test_what_goes_over_all_lots_does_so_once_a_message(kind: Callable[[int], Work]) -> None:
    ratio = cost_of(kind(TWICE)) / cost_of(kind(FEW))
    assert ratio < 2 * MOST, f"{ratio:.2f}"


@pytest.mark.parametrize("kind", [in_order, reports_behind_their_executions, splits, transfers_in])
def test_it_is_so_also_while_the_oldest_are_forgotten(
    kind: Callable[[int], Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "REMEMBERED", 40)
    monkeypatch.setattr(book_module, "FORGET_AT_ONCE", 20)
    assert cost_of(kind(2 * TWICE)) / cost_of(kind(TWICE)) < MOST


def test_reading_back_costs_what_is_kept() -> None:
    def cost(n: int) -> int:
        book = Book("XYZ")
        take(book, messages(*trades(1, n)))
        state = book.to_state()
        return instructions(lambda: Book.from_state(state).snapshot())

    assert cost(TWICE) / cost(FEW) < MOST


def test_the_count_finds_a_cost_that_grows_with_the_square() -> None:
    def squared(n: int) -> int:
        return instructions(lambda: [[0 for _ in range(n)] for _ in range(n)])

    def linear(n: int) -> int:
        return instructions(lambda: [0 for _ in range(n)])

    assert squared(200) / squared(100) > 3.5
    assert 1.9 < linear(200) / linear(100) < 2.1
