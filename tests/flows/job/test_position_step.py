"""The step that books, driven as the engine drives it, with a real store of books."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bytewax.operators import StatefulBatchLogic
from prometheus_client import REGISTRY

from connectors.book_store import BookStoreError, BookStores
from connectors.kept import unseal_values
from connectors.redis.source import Read
from flows.common.logs import Progress
from flows.job.decode_step import Messages, decode_read
from flows.job.names import POSITION_VERSION
from flows.job.position_step import PositionLogic
from state.exact import ONE
from state.records import Changes, RawEntry, Rejected, RunUpdates
from state.run import Run
from tests.support.resp import flat, replies_of

BUY = {
    "symbol": "A", "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
    "timestamp": "1700000000000",
}  # fmt: skip


def entry(number: int, **fields: str) -> RawEntry:
    return [b"%d-0" % number, flat({**BUY, "exec_id": f"e{number}", **fields})]


def messages(*entries: RawEntry, live: bool = True, bulk: bool = False) -> list[Messages]:
    found = replies_of(entries) if bulk else list(entries)
    decoded = list(decode_read(Read("executions", found, live), Progress()))
    kept = [item for item in decoded if isinstance(item, Messages)]
    assert len(kept) == len(decoded)
    return kept


def changes(items: Sequence[Changes | Rejected]) -> list[tuple[str, int, int]]:
    """Return of all that is no rejected entry the entry, the quantity, and how many updates."""
    return [
        (item.stream_id, item.position.qty // ONE, item.size)
        for item in items
        if isinstance(item, Changes)
    ]


def book(logic: PositionLogic, items: list[Messages]) -> list[Changes | Rejected]:
    found, discard = logic.on_batch(items)
    assert discard == StatefulBatchLogic.RETAIN
    return list(found)


@pytest.fixture
def logic() -> PositionLogic:
    """A key's, without a recovery store."""
    return PositionLogic(None, None, Progress())


def test_what_a_read_changed_is_one_item_with_an_update_for_each_message(
    logic: PositionLogic,
) -> None:
    items = book(logic, messages(entry(1), entry(2), entry(2), entry(3, side="SELL")))
    assert changes(items) == [("3-0", 1, 3)]
    assert book(logic, messages(entry(3, side="SELL"))) == []
    assert changes(book(logic, [*messages(entry(4)), *messages(entry(5))])) == [
        ("4-0", 2, 1),
        ("5-0", 3, 1),
    ]


def test_a_run_is_booked_whole_and_one_that_cannot_be_message_by_message(
    logic: PositionLogic,
) -> None:
    run = messages(*[entry(n) for n in range(1, 9)], bulk=True)
    assert isinstance(run[0].messages, Run)
    [change] = book(logic, run)
    assert isinstance(change, Changes)
    assert isinstance(change.updates, RunUpdates)
    assert (change.stream_id, change.position.qty, change.size) == ("8-0", 8 * ONE, 8)
    again = [entry(n, exec_id=f"e{n - 8}") for n in range(9, 13)] + [entry(n) for n in (13, 14)]
    late = messages(*again, bulk=True)
    assert isinstance(late[0].messages, Run)
    assert changes(book(logic, late)) == [("14-0", 10, 2)]


def test_a_message_that_the_book_refuses_is_rejected_and_the_others_are_booked(
    logic: PositionLogic,
) -> None:
    entries = [entry(1), entry(2, currency="EUR"), entry(3)]
    items = book(logic, messages(*entries))
    [rejected] = [item for item in items if isinstance(item, Rejected)]
    assert (rejected.stream, rejected.entry.id, rejected.entry.fields) == (
        "executions", "2-0", entries[1][1],
    )  # fmt: skip
    assert rejected.reason.startswith("currency: expected 'USD'")
    assert changes(items) == [("3-0", 2, 2)]
    assert changes(book(logic, messages(entry(4, currency="EUR")))) == []


def test_what_the_book_refuses_is_told_among_the_errors() -> None:
    progress = Progress()
    progress.read(2, live=False)
    items = messages(entry(1), entry(2, currency="EUR"), live=False)
    book(PositionLogic(None, None, progress), items)
    assert (progress._entries, progress._errors) == (2, 1)


def test_each_change_of_quantity_is_told_while_live_and_no_other(
    logic: PositionLogic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lotstream.flow")
    book(logic, messages(entry(1), live=False))
    book(logic, messages(entry(2)))
    report = {"type": "commission", "exec_id": "e1", "commission": "1", "currency": "USD"}
    book(logic, messages(entry(3, **report)))
    book(PositionLogic(None, None, Progress()), messages(entry(4)))
    assert caplog.messages == [
        "Position updated: A = 2 @ 1 (change: +1)", "Position updated: A = 1 @ 1 (change: +1)",
    ]  # fmt: skip


def counted() -> dict[str, float]:
    names = ("booked", "duplicate", "corrected", "late")
    found = {n: REGISTRY.get_sample_value(f"lotstream_executions_{n}_total") for n in names}
    return {name: value or 0 for name, value in found.items()}


def test_what_became_of_executions_is_counted(logic: PositionLogic) -> None:
    before, ibkr = counted(), "0000e0d5.6596b0d2.01.0"
    report = {"type": "commission", "exec_id": "e1", "commission": "1", "currency": "USD"}
    book(logic, messages(*[entry(n) for n in range(1, 9)], bulk=True))
    book(
        logic,
        messages(
            entry(9, exec_id=f"{ibkr}1", timestamp="1700000009000"),
            entry(10, exec_id=f"{ibkr}2", timestamp="1700000005000"),  # corrects it
            entry(11, exec_id=f"{ibkr}1", timestamp="1700000009000"),  # superseded
            entry(12, timestamp="1700000001000"),  # late
            entry(13, timestamp="1700000003000"),  # late
            entry(14, **report),
        ),
    )
    book(logic, messages(entry(15, timestamp="1700000003000")))  # late, of another read
    book(logic, messages(entry(16, timestamp="1700000005000")))  # at the time of the latest
    after = counted()
    assert {name: after[name] - before[name] for name in after} == {
        "booked": 8 + 6, "duplicate": 1, "corrected": 1, "late": 3,
    }  # fmt: skip


def test_the_end_of_input_shows_nothing_and_ends_no_position(logic: PositionLogic) -> None:
    book(logic, messages(entry(1)))
    assert logic.on_eof() == ([], StatefulBatchLogic.RETAIN)
    assert logic.notify_at() is None


# --- over a restart --------------------------------------------------------------------------


@pytest.fixture
def stores(tmp_path: Path) -> BookStores:
    return BookStores(tmp_path)


def resumed(state: Any, directory: Path, upto: str) -> PositionLogic:
    return PositionLogic(state, BookStores(directory, 1, {"executions": upto}), Progress())


def test_a_snapshot_says_where_the_book_is_and_what_was_shown_last(stores: BookStores) -> None:
    logic = PositionLogic(None, stores, Progress())
    book(logic, messages(entry(1), entry(2), entry(2)))
    book(logic, messages(entry(3, exec_id="e2")))  # taken, and changes nothing
    version, *state = unseal_values("A", logic.snapshot())
    assert (version, *state[:-1]) == (POSITION_VERSION, "executions", "A", "A", None, "3-0", "2-0")
    assert state[-1][6] == 2 * ONE


def test_after_a_restart_the_position_is_shown_once_more_and_the_book_goes_on(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1), entry(2)))
    logic = resumed(first.snapshot(), tmp_path, "2-0")
    due = logic.notify_at()
    assert due is not None
    # Not before now, or the engine would ask before the sinks have their snapshots.
    assert 0 <= (datetime.now(UTC) - due).total_seconds() < 60
    [shown], discard = logic.on_notify()
    assert discard == StatefulBatchLogic.RETAIN
    assert changes([shown]) == [("2-0", 2, 0)]
    assert isinstance(shown, Changes)
    assert shown.live
    assert logic.notify_at() is None
    assert changes(book(logic, messages(entry(3), entry(4, exec_id="e1")))) == [("3-0", 3, 1)]


def test_a_key_of_an_account_is_shown_and_kept_under_its_own_name(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1, account="U1")))
    state = first.snapshot()
    assert unseal_values("U1:A", state)[1:5] == ("executions", "U1:A", "A", "U1")
    logic = resumed(state, tmp_path, "1-0")
    [shown], _ = logic.on_notify()
    assert isinstance(shown, Changes)
    assert (shown.stream, shown.key) == ("executions", "U1:A")
    assert (shown.position.symbol, shown.position.account) == ("A", "U1")
    assert logic.snapshot() == state
    assert changes(book(logic, messages(entry(2, account="U1")))) == [("2-0", 2, 1)]


def test_a_read_of_which_the_book_takes_nothing_leaves_it_where_it_was(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1)))
    before = first.snapshot()
    assert changes(book(first, messages(entry(2, currency="EUR")))) == []
    assert first.snapshot() == before
    assert changes(book(resumed(before, tmp_path, "2-0"), messages(entry(3)))) == [("3-0", 2, 1)]


def test_without_a_recovery_store_a_snapshot_says_what_was_shown(logic: PositionLogic) -> None:
    book(logic, messages(entry(1)))
    assert unseal_values("A", logic.snapshot())[1:7] == (
        "executions", "A", "A", None, "0-0", "1-0",
    )  # fmt: skip


def test_a_book_goes_on_although_nobody_knows_how_far_its_stream_was(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1)))
    logic = PositionLogic(first.snapshot(), BookStores(tmp_path, 1), Progress())
    assert changes(book(logic, messages(entry(2)))) == [("2-0", 2, 1)]


def test_a_key_that_has_shown_nothing_yet_shows_nothing_after_a_restart(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1, type="instrument", con_id="7")))
    logic = resumed(first.snapshot(), tmp_path, "1-0")
    assert logic.notify_at() is None
    assert changes(book(logic, messages(entry(2, con_id="7")))) == [("2-0", 1, 1)]


def test_entries_that_the_book_has_already_stop_the_flow(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(9), entry(10)))
    with pytest.raises(RuntimeError, match=r"'A': expected entries after 10-0, .* found 10-0"):
        book(first, messages(entry(10)))
    with pytest.raises(RuntimeError, match="the recovery store is ahead of the source"):
        book(resumed(first.snapshot(), tmp_path, "10-0"), messages(entry(9)))


def test_a_book_without_its_snapshot_stops_the_flow(stores: BookStores, tmp_path: Path) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(entry(1)))
    first.snapshot()
    with pytest.raises(BookStoreError, match="found none"):
        book(resumed(None, tmp_path, "1-0"), messages(entry(2)))


def test_what_was_taken_is_durable_when_the_snapshot_is_made(
    stores: BookStores, tmp_path: Path
) -> None:
    first = PositionLogic(None, stores, Progress())
    book(first, messages(*[entry(n) for n in range(1, 9)], bulk=True))
    book(first, messages(entry(9), entry(10, currency="EUR")))
    state = first.snapshot()
    logic = resumed(state, tmp_path, "10-0")
    assert changes(book(logic, messages(entry(11)))) == [("11-0", 10, 1)]
