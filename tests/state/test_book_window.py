"""How much a book remembers, and what becomes of what is older than that."""

import pickle
import re

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from state import book as book_module
from state.book import REMEMBERED, Book
from state.messages import Instrument, Message, Opening, RejectedError
from tests.support.notation import (
    average,
    book_of,
    closed,
    exec_id,
    execution,
    fees,
    lots,
    message,
    net,
)
from tests.support.oracle import check_agrees, check_step, told
from tests.support.strategies import SETTINGS, sessions

MANY = 3000
"""Executions, enough for the oldest to be forgotten."""

FORGOTTEN = r"^timestamp: expected a time after \d+, .* found \d+; .* told from a duplicate"


def filled(number: int, first: int = 1) -> Book:
    """Return a book of so many purchases, one a second, the n-th at second n."""
    book = Book("XYZ")
    for n in range(first, first + number):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    return book


def in_order(*lines: str) -> Book:
    book = Book("XYZ")
    for line in lines:
        assert book.apply(message(line))
    return book


def refuse(book: Book, line: str, reason: str = FORGOTTEN) -> None:
    """Check that a message is refused with a reason and leaves no trace."""
    state = book.to_state()
    with pytest.raises(RejectedError, match=reason):
        book.apply(message(line))
    assert book.to_state() == state


def test_at_least_the_last_two_thousand_executions_can_be_corrected_at_any_time() -> None:
    book = filled(2000)
    for n in range(2001, 5200):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
        oldest = n - 1999
        again = f"#{oldest} BUY 1 @ {oldest} at {oldest}"
        assert book.apply(message(again)) is None
        if n % 400 == 0:
            assert book.apply(message(f"#{oldest}.2 BUY 1 @ {oldest} at {oldest}"))


@pytest.mark.long
def test_splits_do_not_shorten_the_memory_of_executions() -> None:
    book = Book("XYZ")
    for n in range(1, MANY + 1):
        book.apply(message(f"#{n} BUY 1 @ 5 at {n}"))
        if n % 50 == 0:
            book.apply(message(f"SPLIT 1:1 at {n}"))
        if n >= 2000:
            assert book.apply(message(f"#{n - 1999} BUY 1 @ 5 at {n - 1999}")) is None


@pytest.mark.long
def test_memory_is_bounded_however_many_executions_there_are() -> None:
    book = Book("XYZ")
    sizes = []
    for n in range(1, 12_001):
        book.apply(message(f"#{n} REPORT 1 at {n}"))
        book.apply(message(f"#{n} {'BUY' if n % 2 else 'SELL'} 1 @ 5 at {n}"))
        if n % 500 == 0:
            sizes.append(len(pickle.dumps(book.to_state())))
    early, late = sizes[6:12], sizes[12:]
    assert max(late) < 1.05 * max(early), "what is kept does not grow"


@pytest.mark.parametrize(
    "line",
    [
        "#1 BUY 1 @ 1 at 1",  # a duplicate
        "#1.2 BUY 2 @ 1 at 1",  # a correction
        "#1.2 BUST at 1",
        "#5000 BUY 1 @ 1 at 1",  # a new one, but nobody can tell
        "#1 REPORT 1 at 1",
        "SPLIT 2:1 at 1",
        "COST 1 at 1",
        "OUT 5 at 1",
        "IN 5 @ 1 of 1 at 1",
    ],
)
def test_what_is_older_than_the_memory_is_refused_with_a_reason(line: str) -> None:
    refuse(filled(MANY), line)


def test_a_lot_opened_before_all_that_was_forgotten_may_come_within_the_memory() -> None:
    assert filled(MANY).apply(message(f"IN 5 @ 1 of 1 at {MANY}"))


@pytest.mark.parametrize("opening", ["OPENING 5 @ 1 at 1", f"OPENING 5 @ 1 at {MANY}"])
def test_a_new_opening_is_refused_once_the_beginning_is_forgotten(opening: str) -> None:
    refuse(filled(MANY), opening, r"^exec_id: expected no opening .* found 'opening' with qty 5$")


def test_an_opening_from_before_what_was_forgotten_changes_nothing() -> None:
    book = Book("XYZ")
    book.apply(message("OPENING 5 @ 1 at 1"))
    for n in range(1, MANY):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    before = book.snapshot(), book.open_lots(), book.to_state()
    assert book.apply(message("OPENING 5 @ 1 at 1")) is None
    assert (book.snapshot(), book.open_lots(), book.to_state()) == before
    refuse(book, "OPENING 6 @ 1 at 1", "^exec_id: expected .* at 1000, as the opening")
    refuse(book, "OPENING 0 at 1", "^exec_id: expected no opening to be added or removed")


@pytest.mark.parametrize("line", [f"#8000.2 BUY 1 @ 1 at {MANY}", f"#8000.2 BUST at {MANY}"])
def test_a_revision_of_what_is_not_known_is_refused_once_anything_is_forgotten(line: str) -> None:
    # Its original may be booked and forgotten: then it would count twice.
    assert filled(100).apply(message(line))
    refuse(filled(MANY), line, r"^exec_id: expected .* known, or revision 1, .*; found '00008000")


def test_actions_take_no_room_from_executions_and_as_many_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book_module, "REMEMBERED", 20)
    monkeypatch.setattr(book_module, "FORGET_AT_ONCE", 5)
    book = Book("XYZ")
    for n in range(1, 200):
        assert book.apply(message(f"#{n} BUY 1 @ 1 at {n}"))
        if n % 2:
            assert book.apply(message(f"COST 1 at {n}"))
        for known in range(max(1, n - 19), n):
            assert book.apply(message(f"#{known} BUY 1 @ 1 at {known}")) is None
    refuse(book, "#170 BUY 1 @ 1 at 170")
    for n in range(200, 300):  # and nothing but actions does not fill the memory
        assert book.apply(message(f"COST 1 at {n}"))
    assert book.apply(message("COST 1 at 281")) is None
    refuse(book, "COST 1 at 270")


def test_a_revision_of_what_is_known_is_taken_also_then() -> None:
    book = filled(MANY)
    assert book.apply(message(f"#{MANY}.3 BUY 2 @ 1 at {MANY}"))
    assert book.apply(message(f"#{MANY - 1}.2 BUST at {MANY}"))


@pytest.mark.parametrize("time", [5000, 2000.5])
def test_the_same_is_forgotten_whether_the_last_one_came_late_or_in_order(time: float) -> None:
    book = filled(REMEMBERED + 499)
    assert book.apply(message("#1 BUY 1 @ 1 at 1")) is None
    assert book.apply(message(f"#5000 BUY 1 @ 1 at {time}"))
    refuse(book, "#500 BUY 1 @ 500 at 500")
    assert book.apply(message("#501 BUY 1 @ 501 at 501")) is None


def test_the_reason_tells_since_when_messages_are_remembered() -> None:
    with pytest.raises(RejectedError) as refused:
        filled(MANY).apply(message("#1 BUY 1 @ 1 at 1"))
    told = re.search(
        r"expected a time after (\d+), .*since which the last (\d+)", str(refused.value)
    )
    assert told is not None
    horizon, remembered = int(told[1]), int(told[2])
    assert horizon == (MANY - remembered) * 1000
    assert remembered >= 2000
    assert filled(MANY).apply(message(f"#8000 BUY 1 @ 1 at {horizon // 1000 + 1}"))


def test_what_was_forgotten_goes_on_counting() -> None:
    book = filled(MANY)
    book.apply(message(f"#9000 SELL {MANY} @ 1 at 9000"))
    told = book.snapshot()
    assert (told.executions, told.qty) == (MANY + 1, 0)
    assert told.realized_pnl == sum(1 - n for n in range(1, MANY + 1)) * 10**20


def test_what_was_closed_and_forgotten_leaves_the_oldest_open_lot_the_next() -> None:
    book = book_of("BUY 1 @ 1", "SELL 1 @ 2", "BUY 9 @ 3", "SELL 1 @ 4")
    for n in range(5, MANY):
        book.apply(message(f"#{n} BUY 1 @ 5 at {n}"))
    assert closed(book.apply(message("SELL 1 @ 6", MANY))) == "LONG 1 @ 3 -> 6 = 3"
    assert book.snapshot().open_lots == len(book.open_lots()) == MANY - 4
    assert Book.from_state(book.to_state()).snapshot() == book.snapshot()


def test_the_first_one_behind_what_was_closed_and_forgotten_is_booked_there() -> None:
    lines = [f"#{n} {'BUY' if n % 2 else 'SELL'} 2 @ {n % 7} at {n}" for n in range(1, MANY)]
    lines[0] = "#1 BUY 3 @ 9 at 1"  # so there is always one open
    first = f"#{MANY} SELL 1 @ 9 at 500.5"
    refuse(in_order(*lines), f"#{MANY} SELL 1 @ 9 at 499.5")
    late, in_time = in_order(*lines), in_order(*lines[:500], first, *lines[500:])
    applied = late.apply(message(first))
    assert applied is not None
    assert applied.realized_change == sum(lot.realized_pnl for lot in applied.closed)
    assert late.snapshot() == in_time.snapshot()
    assert late.open_lots() == in_time.open_lots()


def test_a_late_execution_within_the_memory_closes_a_lot_of_a_forgotten_one() -> None:
    book = filled(MANY)
    applied = book.apply(message(f"#9000 SELL 1 @ 5 at {MANY - 500}"))
    assert applied is not None
    assert [lot.open_exec_id for lot in applied.closed] == [exec_id(1)]
    assert book.apply(message(f"#9000.2 BUST at {MANY - 500}"))
    assert lots(book).startswith("1 @ 1, 1 @ 2, ")


@pytest.mark.long
@pytest.mark.long
def test_the_last_execution_is_known_even_if_it_was_forgotten() -> None:
    book = filled(6)
    for n in range(10_000, 12_600):
        book.apply(message(f"#{n} SPLIT 1:1 at {n}"))
    refuse(book, "#6 BUY 1 @ 6 at 6")
    assert book.snapshot().last_exec_id == exec_id(6)


def test_a_correction_cannot_move_an_execution_to_before_what_was_forgotten() -> None:
    # Booked at the edge of the memory it would close, or be closed by, the wrong lots.
    book = filled(MANY)
    refuse(book, f"#{MANY}.2 SELL 1 @ 5 at 2")
    assert book.apply(message(f"#{MANY}.2 BUST at 2")), "a bust moves nothing"
    assert average(book) == "1500"  # 1 to 2999


@pytest.mark.long
@pytest.mark.long
def test_a_correction_cannot_move_an_execution_before_a_forgotten_one_of_the_same_time() -> None:
    book = Book("XYZ")
    book.apply(message("#1 BUY 1 @ 7 at 90"))
    for n in range(2, MANY):
        book.apply(message(f"#{n} BUY 1 @ 7 at 5"))
    # It arrived before those at second 5 that are forgotten, so it would come before them.
    refuse(book, "#1.2 SELL 1 @ 8 at 5")
    assert book.apply(message("#1.2 SELL 1 @ 8 at 6"))


@pytest.mark.long
@pytest.mark.long
def test_what_was_forgotten_stays_so_also_when_busts_of_an_earlier_time_are_forgotten() -> None:
    book = filled(MANY)
    for n in range(MANY - 600, MANY):
        book.apply(message(f"#{n}.2 BUST at 2"))
    for n in range(MANY + 1, MANY + 501):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    refuse(book, "#400 BUY 1 @ 400 at 400")


# --- many executions of one time ------------------------------------------------------------


def test_new_executions_of_one_time_are_taken_however_many_there_are() -> None:
    book = Book("XYZ")
    for n in range(1, MANY + 1):
        assert book.apply(message(f"#{n} BUY 1 @ {n} at 5"))
    assert book.snapshot().executions == MANY
    assert lots(book).startswith("1 @ 1, 1 @ 2, ")


@pytest.mark.parametrize("line", ["#1 BUY 1 @ 1 at 5", "#7.2 BUY 1 @ 9 at 5", "#7 REPORT 1 at 90"])
def test_one_that_was_forgotten_of_that_time_is_told_from_a_new_one(line: str) -> None:
    book = Book("XYZ")
    for n in range(1, MANY + 200):  # so some are forgotten twice
        book.apply(message(f"#{n} BUY 1 @ {n} at 5"))
    refuse(book, line)
    refuse(Book.from_state(book.to_state()), line)


def test_a_split_that_was_forgotten_is_told_from_a_new_one() -> None:
    book = Book("XYZ")
    book.apply(message("SPLIT 2:1 at 5"))
    for n in range(1, MANY + 1):
        book.apply(message(f"#{n} BUY 1 @ {n} at 5"))
    refuse(book, "SPLIT 2:1 at 5")


# --- reports ------------------------------------------------------------------------------------


def test_a_report_that_comes_first_is_kept_as_long_as_late_executions_are() -> None:
    book, late = filled(1), "#9000 BUY 1 @ 1 fee 9 at 900"
    book.apply(message("#9000 REPORT 1 at 900"))
    for n in range(2, MANY + 1):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    in_time, too_late = Book.from_state(book.to_state()), Book.from_state(book.to_state())
    assert in_time.apply(message(late))
    assert in_time.snapshot().commission == 10**10
    for n in range(MANY + 1, MANY + 600):
        too_late.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    refuse(too_late, late)


def test_reports_of_what_never_comes_do_not_pile_up() -> None:
    book = Book("XYZ")
    sizes = []
    for n in range(1, 9001):
        book.apply(message(f"#{n} {'BUY' if n % 2 else 'SELL'} 1 @ 5 at {n}"))
        book.apply(message(f"#{100_000 + n} REPORT 1 at {n}"))
        if n % 500 == 0:
            sizes.append(len(pickle.dumps(book.to_state())))
    assert max(sizes[12:]) < 1.05 * max(sizes[6:12]), "what is kept does not grow"


def test_a_report_of_the_very_time_that_was_last_forgotten_is_kept() -> None:
    book = filled(REMEMBERED + 499)
    book.apply(message("#9000 REPORT 1 at 500"))
    book.apply(message("#5000 BUY 1 @ 1 at 5000"))  # now 500 are forgotten, up to second 500
    refuse(book, "#9001 BUY 1 @ 1 at 499")
    assert book.apply(message("#9000 BUY 1 @ 1 fee 9 at 500"))
    assert book.snapshot().commission == 10**10


def test_a_report_of_an_execution_that_is_remembered_is_taken_whatever_its_time() -> None:
    book = filled(MANY)
    assert book.apply(message(f"#{MANY} REPORT 1 at 0"))
    assert net(book) == "0"
    assert fees(book).endswith(", 0, 1")


def test_a_report_of_a_remembered_execution_outlasts_what_is_forgotten_whatever_its_time() -> None:
    book = filled(MANY)
    assert book.apply(message(f"#{MANY} REPORT 5 at 0"))
    for n in range(MANY + 1, MANY + 601):
        book.apply(message(f"#{n} BUY 1 @ {n} at {n}"))
    assert book.apply(message(f"#{MANY}.2 BUY 1 @ 1 fee 9 at {MANY}"))
    assert book.snapshot().commission == 5 * 10**10


# --- what a forgetful book takes, it books as one that forgets nothing ---------------------------


@pytest.mark.parametrize(("remembered", "at_once"), [(3, 1), (5, 3), (8, 4)])
@SETTINGS
@given(taken=sessions(), cuts=st.sets(st.integers(0, 40)))
def test_what_a_book_does_not_refuse_it_books_where_it_belongs(
    taken: list[Message], cuts: set[int], remembered: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_module, "REMEMBERED", remembered)
        patch.setattr(book_module, "FORGET_AT_ONCE", at_once)
        book, heard, before = Book("XYZ"), list[Message](), told([])
        for n, each in enumerate(taken):
            if n in cuts:
                book = Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301
            try:
                applied = book.apply(each)
            except RejectedError as error:
                event("refused: " + str(error).partition(":")[0])
                continue
            heard.append(each)
            after = told(heard)
            check_step(applied, before, after)
            check_agrees(book, heard)
            before = after


def test_what_an_execution_names_outlasts_it_but_not_what_a_bust_names() -> None:
    book = Book("XYZ")
    for line, kind in (("#1 BUY 1 @ 1 at 1", "STK"), ("#2.2 BUST at 2", "OPT")):
        said = Instrument(sec_type=kind, con_id=7)
        assert book.apply(execution(line)._replace(instrument=said))
    for n in range(3, MANY):
        book.apply(message(f"#{n} BUY 1 @ 5 at {n}"))
    assert book.apply(message(f"#{MANY} BUY 1 @ 5 at {MANY - 5}"))  # late, so all is looked up
    assert (book.snapshot().sec_type, book.snapshot().con_id) == ("STK", 7)


def test_what_an_opening_names_outlasts_it_also_if_an_action_is_forgotten_first() -> None:
    book = Book("XYZ")
    opening = message("OPENING 5 @ 1")
    assert isinstance(opening, Opening)
    book.apply(opening._replace(instrument=Instrument(sec_type="STK", con_id=7)))
    book.apply(message("SPLIT 1:1 at 1"))
    for n in range(2, MANY):
        book.apply(message(f"#{n} BUY 1 @ 5 at {n}"))
    again = Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301  # our own
    assert again.snapshot() == book.snapshot()
    assert (again.snapshot().sec_type, again.snapshot().con_id) == ("STK", 7)
