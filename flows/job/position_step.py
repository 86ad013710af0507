"""The step that books: one key's messages in, its changed position out.

A book is loaded from the store when the key's first message comes, and what the book
has taken is given to the store, which makes it durable at the end of the epoch.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from bytewax.operators import StatefulBatchLogic

from connectors import metrics
from connectors.book_store import BookStores
from connectors.kept import seal_values
from flows.common.logs import Progress, log_exceptions
from flows.job.decode_step import Messages
from flows.job.names import POSITION_VERSION
from state.book import Book
from state.messages import Execution, Message, RejectedError
from state.records import (
    FIRST_ID,
    Changes,
    Entry,
    Rejected,
    RunUpdates,
    Update,
    id_at,
    id_order,
    last_id,
)
from state.run import Run, pack_texts, unpack_texts
from state.snapshot import PositionSnapshot


class PositionLogic(StatefulBatchLogic[Messages, Changes | Rejected, tuple[Any, ...]]):
    """Keep one key's book.

    Its recovery snapshot is small: where the book is in the store, and the position last
    shown. After a restart that is shown once more, since Redis may have come back without
    its last writes; the book is loaded when its next message comes.
    """

    def __init__(
        self, resume_state: tuple[Any, ...] | None, stores: BookStores | None, progress: Progress
    ) -> None:
        self._store = None if stores is None else stores.mine()
        self._resumed_at = {} if stores is None else stores.resumed_at
        self._progress = progress
        self._book: Book | None = None
        self._name: tuple[str, str, str, str | None] | None = None
        """Stream, key, symbol, account."""
        self._last_id = self._shown_id = FIRST_ID
        self._shown: PositionSnapshot | None = None
        if resume_state is not None:
            # Looked at by `recovery.check`, version and checksum, before the flow started.
            _, *name, self._last_id, self._shown_id, shown, _ = resume_state
            self._name = (name[0], name[1], name[2], name[3])
            self._shown = shown and PositionSnapshot(*shown)
        self._show_again = self._shown is not None

    @log_exceptions
    def on_batch(self, values: list[Messages]) -> tuple[Iterable[Changes | Rejected], bool]:
        results: list[Changes | Rejected] = []
        for messages in values:
            results += self._take(messages)
        return results, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[Changes | Rejected], bool]:
        self._show_again = False
        assert self._name is not None
        assert self._shown is not None
        stream, key, _, _ = self._name
        return [Changes(stream, key, self._shown_id, self._shown, [], live=True)], False

    def notify_at(self) -> datetime | None:
        # Not before now: what is due already is asked for while the engine still loads its
        # snapshots, and the sinks would begin with none of theirs.
        return datetime.now(UTC) if self._show_again else None

    def on_eof(self) -> tuple[Iterable[Changes | Rejected], bool]:
        # The end of input is a stop, not the end of the position.
        return [], StatefulBatchLogic.RETAIN

    @log_exceptions
    def snapshot(self) -> tuple[Any, ...]:
        # Bytewax asks each key that was awake once an epoch is over; by then the store
        # has been told of all of it, so the first to be asked makes it durable for all.
        if self._store is not None:
            self._store.commit()
        assert self._name is not None
        shown = self._shown and tuple(self._shown)
        values = (POSITION_VERSION, *self._name, self._last_id, self._shown_id, shown)
        return seal_values(self._name[1], values)

    def _take(self, messages: Messages) -> list[Changes | Rejected]:
        book = self._book_of(messages)
        if isinstance(messages.messages, Run):
            update = book.apply_run(messages.messages)
            if update is not None:
                self._remember(messages, book, messages.ids, messages.messages)
                metrics.EXECUTIONS_BOOKED.inc(messages.messages.executions)
                updates, last = RunUpdates(messages.ids, update), last_id(messages.ids)
                return [self._changes(messages, last, book.snapshot(), updates)]
            messages = messages._replace(messages=messages.messages.messages())
        return self._take_one_by_one(book, messages)

    def _take_one_by_one(self, book: Book, messages: Messages) -> list[Changes | Rejected]:
        assert not isinstance(messages.messages, Run)
        results: list[Changes | Rejected] = []
        updates: list[Update] = []
        ids: list[str] = []
        taken: list[Message] = []
        all_ids = unpack_texts(messages.ids)
        for at, (entry_id, message) in enumerate(zip(all_ids, messages.messages, strict=True)):
            try:
                applied = book.apply(message)
            except RejectedError as error:
                entry = Entry.of(messages.entries[at])
                results.append(Rejected(messages.stream, entry, str(error)))
                self._progress.read(0, 1, live=messages.live)
                continue
            ids.append(entry_id)
            taken.append(message)
            if applied is not None:
                updates.append(Update(entry_id, message, applied, book.snapshot()))
        if taken:
            self._remember(messages, book, pack_texts(ids), taken)
            _count(taken, updates, None if self._shown is None else self._shown.timestamp)
        if updates:
            last = updates[-1]
            results.append(self._changes(messages, last.stream_id, last.snapshot, updates))
        return results

    def _remember(
        self, messages: Messages, book: Book, ids: bytes, taken: Sequence[Message] | Run
    ) -> None:
        if self._store is not None:
            self._store.remember(messages.key, book, ids, taken)
            self._last_id = last_id(ids)

    def _changes(
        self,
        messages: Messages,
        stream_id: str,
        position: PositionSnapshot,
        updates: list[Update] | RunUpdates,
    ) -> Changes:
        change = position.qty - (0 if self._shown is None else self._shown.qty)
        if messages.live and change:
            self._progress.position_changed(messages.key, position.qty, position.avg_price, change)
        self._shown_id, self._shown = stream_id, position
        return Changes(messages.stream, messages.key, stream_id, position, updates, messages.live)

    def _book_of(self, messages: Messages) -> Book:
        if self._book is None:
            self._name = (messages.stream, messages.key, messages.symbol, messages.account)
            resumed_at = self._resumed_at.get(messages.stream, FIRST_ID)
            if self._store is not None and (resumed_at, self._last_id) != (FIRST_ID, FIRST_ID):
                self._book = self._store.load(*self._name[1:], self._last_id, resumed_at)
            else:
                self._book = Book(messages.symbol, messages.account)
        first = id_at(messages.ids, 0)
        if id_order(first) <= id_order(self._last_id):
            raise RuntimeError(
                f"{messages.key!r}: expected entries after {self._last_id}, which the book has, "
                f"found {first}; the recovery store is ahead of the source"
            )
        return self._book


def _count(taken: Sequence[Message], updates: list[Update], newest: int | None) -> None:
    """Count what became of the executions among messages; newest: the latest time before."""
    booked = corrected = late = 0
    for _, message, _, _ in updates:
        if isinstance(message, Execution):
            booked += 1
            corrected += message.revision > 1
            late += newest is not None and message.timestamp < newest and message.revision == 1
            newest = max(newest or 0, message.timestamp)
    executions = sum([isinstance(message, Execution) for message in taken])
    metrics.EXECUTIONS_BOOKED.inc(booked)
    # Nearly always 0, and a counter's lock has its price.
    if executions > booked:
        metrics.EXECUTIONS_DUPLICATE.inc(executions - booked)
    if corrected:
        metrics.EXECUTIONS_CORRECTED.inc(corrected)
    if late:
        metrics.EXECUTIONS_LATE.inc(late)
