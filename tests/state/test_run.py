"""Runs come to what `Book.apply` does with their messages one by one."""

import pickle
import random
from collections.abc import Sequence

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from state import book as book_module
from state.book import Book
from state.exact import LIMIT, MONEY, ONE
from state.keys import parse_exec_id
from state.messages import CommissionReport, Execution, Instrument, Message, RejectedError
from state.run import (
    LOT_WIDTH,
    NO_COMMISSION,
    Run,
    RunUpdate,
    unpack_rows,
    unpack_texts,
)
from tests.support.notation import exec_id, message, messages
from tests.support.runs import fit_together, plain_sessions, reads, run_of, state_of
from tests.support.strategies import SETTINGS, sessions


def one_by_one(book: Book, taken: Sequence[Message]) -> None:
    for each in taken:
        try:
            book.apply(each)
        except RejectedError:
            continue


def check_update(update: RunUpdate, run: Run) -> None:
    """Hold the targets of a run's reports against what they name."""
    lot_ids, in_run = unpack_texts(update.lot_ids), unpack_texts(run.exec_ids)
    assert len(unpack_rows(update.lots, LOT_WIDTH)[0]) == len(lot_ids)
    for target, named in zip(update.targets, unpack_texts(run.report_ids), strict=True):
        assert parse_exec_id((in_run if target >= 0 else lot_ids)[target]).identity == named


def in_runs(book: Book, taken: Sequence[Message]) -> bool:
    """Apply messages as a run if the book takes them so, else singly; tell which."""
    if not fit_together(taken):
        one_by_one(book, taken)
        return False
    run, before, state = run_of(taken), book.snapshot(), book.to_state()
    assert run.messages() == list(taken)
    update = book.apply_run(run)
    if update is None:
        assert book.to_state() == state
        assert book.snapshot() == before
        one_by_one(book, taken)
        return False
    assert update.run == run
    # The first of all settles these.
    assert update.before == before._replace(currency=book.currency, multiplier=book.multiplier)
    check_update(update, run)
    return True


def check_same(fast: Book, slow: Book) -> None:
    assert fast.snapshot() == slow.snapshot()
    assert state_of(fast) == state_of(slow)
    assert fast.size == slow.size


def again(book: Book) -> Book:
    """Return a book as it comes back from where it was kept."""
    return Book.from_state(pickle.loads(pickle.dumps(book.to_state())))  # noqa: S301  # our own


# --- any messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [book_module.REMEMBERED, 6, 3])
@SETTINGS
@given(taken=sessions(), data=st.data())
def test_runs_do_what_single_messages_do(
    taken: list[Message], data: st.DataObject, remembered: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_module, "REMEMBERED", remembered)
        patch.setattr(book_module, "FORGET_AT_ONCE", max(1, remembered // 2))
        fast, slow = Book("XYZ", "U1"), Book("XYZ", "U1")
        for read in reads(data, taken):
            event("run taken" if in_runs(fast, read) else "taken singly")
            one_by_one(slow, read)
            if data.draw(st.integers(0, 5)) == 0:
                fast = again(fast)
            check_same(fast, slow)


# --- plain messages -----------------------------------------------------------------------------


@SETTINGS
@given(taken=plain_sessions(), data=st.data())
def test_plain_messages_are_all_taken_in_runs_wherever_they_are_cut(
    taken: list[Message], data: st.DataObject
) -> None:
    fast, slow = Book("XYZ", "U1"), Book("XYZ", "U1")
    for read in reads(data, taken):
        assert in_runs(fast, read)
        one_by_one(slow, read)
        check_same(fast, slow)
        if data.draw(st.integers(0, 5)) == 0:
            fast = again(fast)
    reports = [each for each in taken if isinstance(each, CommissionReport)]
    event(f"{min(len(reports), 3)} reports or more")


def plain_messages(seed: int, count: int) -> list[Message]:
    """Make executions in order, each with a report some messages later."""
    rng = random.Random(seed)
    found: list[Message] = []
    waiting: list[Message] = []
    for number in range(1, count + 1):
        verb = rng.choice(["BUY", "SELL"])
        fill = message(f"{verb} {rng.randint(1, 7)} @ {rng.randint(1, 11)}", number)
        assert isinstance(fill, Execution)
        found.append(fill)
        waiting.append(
            CommissionReport(
                fill.exec_id, fill.identity, 1, fill.timestamp, rng.randint(1, 10**10), "USD"
            )
        )
        while waiting and rng.random() < 0.6:
            found.append(waiting.pop(rng.randrange(max(0, len(waiting) - 50), len(waiting))))
    return found


@pytest.mark.long
def test_long_runs_are_taken_and_forget_like_single_messages() -> None:
    taken = plain_messages(1, 8000)
    fast, slow = Book("XYZ"), Book("XYZ")
    done, sizes = 0, [1, 50, 1000, 3000, 2949, 2000, 5000]
    for size in sizes:
        assert in_runs(fast, taken[done : done + size])
        one_by_one(slow, taken[done : done + size])
        check_same(fast, slow)
        done += size
    assert fast.size < len(taken) / 2


@pytest.mark.parametrize("seed", range(5))
def test_most_runs_of_a_busy_key_are_taken_whatever_happens_in_between(seed: int) -> None:
    rng = random.Random(seed)
    taken = plain_messages(seed, 600)
    fast, slow = Book("XYZ"), Book("XYZ")
    runs = refused = 0
    while taken:
        size = rng.randint(1, 20)
        refused += not in_runs(fast, taken[:size])
        one_by_one(slow, taken[:size])
        last = next((each for each in reversed(taken[:size]) if isinstance(each, Execution)), None)
        taken, runs = taken[size:], runs + 1
        if last is not None and rng.random() < 0.2:
            other = rng.choice(
                [
                    last._replace(exec_id=last.identity[:-1] + "2", revision=2, price=5 * ONE),
                    last,
                    message(f"COST 0.5 at {last.timestamp / 1000}"),
                    message(f"BUY 1 @ 3 at {(last.timestamp - 5) / 1000}", 9000 + runs),
                ]
            )
            one_by_one(fast, [other])
            one_by_one(slow, [other])
        check_same(fast, slow)
    assert refused < runs / 4


# --- what a run is ------------------------------------------------------------------------------


def test_a_run_keeps_its_messages_and_their_order() -> None:
    taken = messages(
        "BUY 3 @ 5 fee 1", "#1 REPORT 2 EUR at 9", "SELL 4 @ 6", "#3 REPORT -0.5 EUR", "BUY 2 @ 7",
    )  # fmt: skip
    taken[4] = taken[4]._replace(order_ref="mine", instrument=Instrument())  # type: ignore[call-arg]
    run = run_of(taken)
    assert run.messages() == taken
    assert (len(run), run.executions, run.currency) == (5, 3, "EUR")
    assert Run.from_state(pickle.loads(pickle.dumps(run.to_state()))) == run  # noqa: S301
    fills = [each for each in taken if isinstance(each, Execution)]
    assert [fill.commission for fill in fills] == [ONE, None, None]
    assert run.columns().fees == [ONE, NO_COMMISSION, NO_COMMISSION]
    assert [run.kept(7).execution(7 + at, fill.exec_id) for at, fill in enumerate(fills)] == fills
    for some in (taken[:1], taken[1:2], taken[::2], taken[1::2], []):
        assert run_of(some).messages() == some
    assert run_of(taken[:1]).order_refs == b""


def test_what_takes_more_than_64_bits_is_not_packed() -> None:
    fill = message("BUY 1 @ 5")
    assert isinstance(fill, Execution)
    assert run_of([fill._replace(order_id=2**63 - 1)]).messages()[0] == fill._replace(
        order_id=2**63 - 1
    )
    with pytest.raises(OverflowError):
        run_of([fill._replace(order_id=2**63)])


# --- what is refused ----------------------------------------------------------------------------

REFUSED: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("BUY 1 @ 5 at 2", "BUY 1 @ 5 at 1")),  # not in order
    (("BUY 1 @ 5 at 9",), ("#2 BUY 1 @ 5 at 8",)),  # late
    (("#1 BUY 1 @ 5 at 1",), ("#1 BUY 1 @ 5 at 1",)),  # a duplicate
    ((), ("#1 BUY 1 @ 5 at 1", "#1 BUY 1 @ 5 at 1")),  # of one run
    (("#1.2 BUST at 1",), ("#1 BUY 1 @ 5 at 1",)),
    (("#1 REPORT 1 at 1",), ("#1 BUY 1 @ 5 at 1",)),  # its commission is known
    (("BUY 1 @ 5", "SPLIT 1:3"), ("#3 SELL 0.1 @ 5 at 9",)),  # a lot of which the price is rounded
    (("OPENING 3 cost 10",), ("#3 SELL 1 @ 5 at 9",)),
    (("BUY 1 @ 5", "SPLIT 2:1 at 9"), ("#3 BUY 1 @ 5 at 8",)),
    (("BUY 1 @ 5",), ("#3 BUY 1 @ 5 x2 at 9",)),  # another multiplier
    (("BUY 1 @ 5 x0.5",), ("#3 BUY 1 @ 5 at 9",)),
    (("IN 5 @ 10 of 1",), ("#2 BUY 1 @ 5 x50 at 9",)),  # what came is worth more by it
    (("BUY 100000000 @ 900000000",), ("#3 BUY 100000000 @ 900000000 at 9",)),  # the limit
    (("BUY 900000000 @ 1",), ("#3 BUY 900000000 @ 1 at 9",)),  # beyond 64 bits
    (("BUY 900000000 @ 1",), ("#3 SELL 1 @ 1 at 9",)),
    (("BUY 1 @ 1 fee 950000000",), ("#3 SELL 1 @ 1 at 9",)),
    (("BUY 1 @ 1 fee 950000000", "SELL 1 @ 1"), ("#3 BUY 1 @ 1 at 9",)),
    (("BUY 1 @ 1 x100",), ("#3 SELL 90000000 @ 1 x100 at 9",)),
    (("BUY 1 @ 1 x100",), ("#3 BUY 4000000 @ 900000000 x100 at 9",)),  # the limit again
    (
        ("BUY 100000000 @ 900000000", "SELL 100000000 @ 1", "BUY 20000000 @ 900000000"),
        ("#4 SELL 20000000 @ 1 at 9",),
    ),
    # Reports.
    ((), ("#1 REPORT 1", "#1 BUY 1 @ 5 at 1")),  # comes first
    ((), ("#7 REPORT 1",)),  # names nobody
    ((), ("#1 BUY 1 @ 5", "#1 REPORT 1", "#1 REPORT 2")),  # the second
    ((), ("#1 BUY 1 @ 5", "#1 REPORT 0")),  # changes nothing, and so makes no row
    (("#1 BUY 1 @ 5", "#1 REPORT 1"), ("#1 REPORT 2 at 9",)),
    (("#1 BUY 1 @ 5 fee 1",), ("#1 REPORT 1 at 9",)),  # it says so itself
    ((), ("#1 BUY 1 @ 5 fee 1", "#1 REPORT 1 at 9")),
    (("#1 BUY 1 @ 5",), ("#1 REPORT 1 EUR at 9",)),  # in another currency
    (("#1 BUY 1 @ 5 adj 3",), ("#1 REPORT 1 at 9",)),  # bears something else
    (("#1 BUY 1 @ 5", "#1.2 BUST at 1"), ("#1 REPORT 1 at 9",)),
    (("#1 BUY 1 @ 5", "SPLIT 2:1"), ("#1 REPORT 1 at 9",)),  # before an action
    (("#1 BUY 1 @ 5",), ("#1 REPORT 300000000", "#2 BUY 1 @ 1 fee 300000000 at 9")),  # 64 bits
    (("BUY 1 @ 950000000",), ("#2 SELL 1 @ 5 at 9",)),  # so are these: a lot's price
    (("BUY 10 @ 95000000", "SPLIT 1:10"), ("#3 SELL 1 @ 5 at 9",)),
    (("BUY 1 @ -300000000",), ("#2 SELL 1 @ 900000000 at 9",)),  # how far a price rose
    (("BUY 300000000 @ 1", "SELL 300000000 @ 1") * 2, ("#1 REPORT 1 at 9",)),  # how long ago
    (
        ("BUY 5000000 @ 1", "COST 400", "BUY 5000000 @ 1", "COST -200"),
        ("#5 SELL 10000000 @ 1 at 9",),  # charges that come to nothing together
    ),
]
"""What a book has taken in, and a run that it refuses then."""


@pytest.mark.parametrize(("before", "taken"), REFUSED)
def test_a_run_that_is_not_plain_is_refused_and_leaves_no_trace(
    before: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    book = Book("XYZ")
    one_by_one(book, messages(*before))
    state, shown = book.to_state(), book.snapshot()
    assert book.apply_run(run_of(messages(*taken))) is None
    assert book.to_state() == state
    assert book.snapshot() == shown


TAKEN: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("BUY 1 @ 5 fee 1", "SELL 2 @ 6")),
    (("BUY 1 @ 5 fee 1 adj 2", "SELL 3 @ 5 fee 3 EUR"), ("#3 BUY 4 @ 5 at 9",)),
    (("BUY 1 @ 5", "SPLIT 2:1"), ("#3 SELL 1 @ 5 at 9",)),  # a lot of which the price is exact
    (("BUY 1 @ 5", "SPLIT 1:3", "OUT"), ("#4 SELL 1 @ 5 at 9", "#4 REPORT 1")),
    (("BUY 1 @ 5 fee 1", "COST 2"), ("#3 SELL 1 @ 5 at 9",)),
    (("OPENING -3 @ 10",), ("#3 BUY 1 @ 5 at 9", "#3 REPORT 1")),
    (("BUY 1 @ 0",), ("#3 SELL 1 @ 5 at 9",)),
    (("#9.2 BUST at 1", "#8 BUY 1 @ 5"), ("#8 REPORT 1 at 9", "#1 SELL 1 @ 5 at 9")),
    (("#1 BUY 5 @ 5", "#2 SELL 3 @ 6", "#3 SELL 3 @ 6"), ("#1 REPORT 1", "#3 REPORT 2 at 9")),
    (("#7 REPORT 3 at 1",), ("#1 BUY 1 @ 5", "#1 REPORT 1")),
]


@pytest.mark.parametrize(("before", "taken"), TAKEN)
def test_a_plain_run_is_taken_whatever_came_before(
    before: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    fast, slow = Book("XYZ"), Book("XYZ")
    for book in (fast, slow):
        one_by_one(book, messages(*before))
    assert in_runs(fast, messages(*taken))
    one_by_one(slow, messages(*taken))
    check_same(fast, slow)


def test_a_run_that_closes_what_has_an_id_of_two_lines_is_refused() -> None:
    book = Book("XYZ")
    plain = message("BUY 1 @ 5", 1)
    assert isinstance(plain, Execution)
    assert book.apply(plain._replace(exec_id="a\nb", identity="a\nb"))
    assert book.apply_run(run_of([message("SELL 1 @ 6", 2)])) is None  # it could not name it
    assert book.apply(message("SELL 1 @ 6", 2))
    assert book.apply_run(run_of([message("BUY 1 @ 6", 3)]))


def test_runs_take_no_figure_to_the_limit() -> None:
    book, taken = Book("XYZ"), 0
    for number in range(1, 21):
        taken += book.apply_run(run_of([message("BUY 20000000 @ 450000000", number)])) is not None
    assert 0 < taken < 20
    assert book.snapshot().cost_basis < LIMIT * MONEY


AT_THE_LIMIT: list[tuple[tuple[str, ...], str, str]] = [
    *(  # charges that waited
        (("SELL 100000000 @ 1", "BUY 100000000 @ 999999999", f"BUY 1 @ 1 {charge} 220000000"),
         "#4 SELL 1 @ 1 at 9", "net_realized_pnl")
        for charge in ("fee", "adj")
    ),
    # charges that were laid on lots
    (("BUY 100000000 @ 1", "COST 999999999", "SELL 100000000 @ 500000000"),
     "#4 BUY 1 @ 1 fee 100000000 at 9", "charges"),
    # lots that cost little together
    (("BUY 200000000 @ 1", "SELL 200000000 @ 400000000", "BUY 100000000 @ -400000000",
      "BUY 100000000 @ 400000000"), "#5 SELL 100000000 @ 1 at 9", "realized_pnl"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "line", "figure"), AT_THE_LIMIT)
def test_a_run_takes_no_figure_to_the_limit_with_what_came_before(
    before: tuple[str, ...], line: str, figure: str
) -> None:
    book, last = Book("XYZ"), message(line)
    one_by_one(book, messages(*before))
    with pytest.raises(RejectedError, match=rf"^{figure}: expected to stay below 1e17"):
        book.apply(last)
    assert book.apply_run(run_of([last])) is None


def test_a_report_is_not_taken_behind_what_may_have_forgotten_its_execution() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_module, "REMEMBERED", 4)
        patch.setattr(book_module, "FORGET_AT_ONCE", 1)
        fills = [message("BUY 1 @ 5", number) for number in range(1, 10)]
        report = message("#1 REPORT 1 at 1")
        for known in (0, 1, 3):
            book = Book("XYZ")
            one_by_one(book, fills[:known])
            assert book.apply_run(run_of([*fills[known : known + 5], report])) is None
        assert Book("XYZ").apply_run(run_of([*fills[:2], report, *fills[2:]]))


def test_a_run_with_one_that_was_forgotten_of_its_own_time_is_refused() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_module, "REMEMBERED", 4)
        patch.setattr(book_module, "FORGET_AT_ONCE", 1)
        fills = [message("BUY 1 @ 5 at 9", number) for number in range(1, 10)]
        book = Book("XYZ")
        one_by_one(book, fills)
        assert book.apply_run(run_of(fills[:1])) is None


def test_a_book_remembers_what_came_in_runs() -> None:
    book = Book("XYZ")
    assert book.apply_run(run_of(messages("BUY 3 @ 5", "SELL 1 @ 6", "#1 REPORT 2")))
    book = again(book)
    assert book.apply(message("BUY 3 @ 5", 1)) is None
    assert book.apply(message("#1 REPORT 2 at 3")) is None
    with pytest.raises(RejectedError, match=f"as '{exec_id(1)}' had before"):
        book.apply(message("BUY 4 @ 5", 1))
    assert book.apply(message("#1.2 BUY 4 @ 5 at 1"))
    assert [lot.qty for lot in book.open_lots()] == [3 * ONE]


def test_a_run_makes_the_instrument_known() -> None:
    book = Book("XYZ")
    assert book.snapshot().currency == "USD"
    said = Instrument("EUR", 50 * ONE, 7, "FUT")
    fill = message("BUY 1 @ 5", 1)
    assert isinstance(fill, Execution)
    update = book.apply_run(run_of([fill._replace(instrument=said)]))
    assert update is not None
    assert (update.before.currency, update.before.multiplier) == ("EUR", 50 * ONE)
    assert book.snapshot()[2:6] == ("EUR", 50 * ONE, "FUT", 7)
    with pytest.raises(RejectedError, match="con_id: expected 7, as before, found 8"):
        book.apply(fill._replace(exec_id="x", identity="x", instrument=Instrument(con_id=8)))
    assert book.apply_run(run_of([fill._replace(instrument=Instrument("USD"))])) is None


def test_an_update_has_the_lots_that_its_run_closed_and_no_others() -> None:
    book = Book("XYZ")
    one_by_one(book, messages("BUY 9 @ 1", "SELL 1 @ 2", "BUY 1 @ 3"))
    for line, closes in (("#4 BUY 1 @ 4 at 4", []), ("#5 SELL 9 @ 4 at 5", [1, 3])):
        update = book.apply_run(run_of([message(line)]))
        assert update is not None
        assert unpack_texts(update.lot_ids) == list(map(exec_id, closes))


def test_reports_alone_make_no_instrument_known() -> None:
    book = Book("XYZ")
    assert book.apply(message("BUY 1 @ 5", 1))
    state = book.to_state()
    assert book.apply_run(run_of([message("#1 REPORT 1")]))
    assert book.to_state()[1] == state[1]
