"""The main job: executions from Redis Streams become positions.

    python -m bytewax.run flows.positions -r data/recovery -s 1 -b 0

The steps, as the README draws them: source, decode, dead letters aside, key,
position, hash and Parquet. Delivery inside is at least once; each sink passes over
what it has already, which makes it exactly once (see the sinks).
"""

import gc
import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import bytewax.operators as op
import bytewax.run as bytewax_run
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import BranchOut, StatefulBatchLogic
from bytewax.outputs import Sink

from connectors import metrics
from connectors.book_store import BookStores
from connectors.bulk import BlockEntries, EntryBlocks, first_id, ids_of, packed_ids
from connectors.codec import decode
from connectors.columns import KeyRun, decode_blocks
from connectors.dead_letters import DeadLetterSink
from connectors.file_lock import FileLock, LockedError
from connectors.parquet import DataDirError, ParquetSink, StreamFiles
from connectors.partitions import agree
from connectors.redis_hash import PositionHashSink
from connectors.redis_link import RedisLink, RedisRefusedError, StoppedError
from connectors.redis_stream import Read, RedisStreamSource
from flows import exporter, recovery
from flows.logs import Progress, log_exceptions, log_exceptions_of_parts, set_up_logging
from flows.settings import Settings, load_settings, partition_names
from state.book import Book
from state.keys import partition_of, position_key
from state.messages import Execution, Message, RejectedError
from state.records import (
    FIRST_ID,
    Changes,
    Entry,
    RawEntry,
    Rejected,
    RunUpdates,
    Update,
    id_order,
    last_id,
    pack_ids,
)
from state.run import Run
from state.snapshot import PositionSnapshot

log = logging.getLogger("lotstream.flow")

_BLOCK_ALONE_MS, _BLOCK_TOGETHER_MS = 10, 1
"""Longest wait in a read: a worker that waits serves no peer meanwhile."""


class Messages(NamedTuple):
    """What one read brought for one key, in order of arrival."""

    stream: str
    key: str
    symbol: str
    account: str | None
    entries: list[RawEntry] | BlockEntries
    messages: Sequence[Message] | Run
    """As many as there are entries."""
    live: bool


def build_flow(
    source: Source[Read],
    *,
    dead_letters: Sink[tuple[str, Rejected]],
    position_hash: Sink[tuple[str, Changes]],
    parquet: Sink[tuple[str, Changes]],
    stores: BookStores | None = None,
    partitions: Sequence[str] = (),
    progress: Progress | None = None,
) -> Dataflow:
    """Wire the parts. Recovery hangs on the names of flow and steps: never rename them.

    partitions: the streams that keys are divided among; none if there is but one.
    """
    progress = progress or Progress()
    flow = Dataflow("positions")
    reads = op.input("executions", flow, source)  # Read
    # Rejected | Messages
    decode_logged = log_exceptions(partial(decode_read, progress=progress))
    decoded = op.flat_map("decode", reads, lambda read: at_home(decode_logged(read), partitions))
    checked: BranchOut[Rejected, Messages]
    checked = op.branch("check", decoded, _is_rejected)  # type: ignore[assignment]
    keyed = op.key_on("key", checked.falses, lambda messages: messages.key)  # (key, Messages)
    booked = op.stateful_batch(
        "position", keyed, lambda state: PositionLogic(state, stores, progress)
    )
    # (key, Rejected | Changes); the sinks want (stream, ...)
    results = op.map("by_stream", booked, lambda item: (item[1].stream, item[1]))
    applied: BranchOut[tuple[str, Rejected], tuple[str, Changes]]
    applied = op.branch("book_check", results, _holds_rejected)  # type: ignore[assignment]
    refused = op.key_on("refused_by_stream", checked.trues, lambda rejected: rejected.stream)
    rejected = op.merge("rejected", refused, applied.trues)  # (stream, Rejected)
    op.output("dead_letters", rejected, log_exceptions_of_parts(dead_letters))
    op.output("hash", applied.falses, log_exceptions_of_parts(position_hash))
    told = (DataDirError, LockedError, OSError)
    op.output("parquet", applied.falses, log_exceptions_of_parts(parquet, *told))
    return flow


def _is_rejected(item: Messages | Rejected) -> bool:
    return isinstance(item, Rejected)


def _holds_rejected(item: tuple[str, Changes | Rejected]) -> bool:
    return isinstance(item[1], Rejected)


def decode_read(read: Read, progress: Progress) -> Iterable[Messages | Rejected]:
    """Sort a read's entries into messages by key, and entries that cannot be used."""
    if isinstance(read.entries, EntryBlocks):
        runs = decode_blocks(read.entries)
        if runs is not None:
            progress.read(len(read.entries), live=read.live)
            return [_messages_of(read, of_key) for of_key in runs]
        if len(read.entries.blocks) > 1:
            # Few entries are unusual: only the blocks that have some take long.
            return [
                item
                for block in read.entries.blocks
                for item in decode_read(read._replace(entries=EntryBlocks([block])), progress)
            ]
    by_key: dict[str, Messages] = {}
    rejected: list[Messages | Rejected] = []
    for raw in read.entries:
        try:
            symbol, account, message = decode(raw[1])
        except RejectedError as error:
            rejected.append(Rejected(read.stream, Entry.of(raw), str(error)))
            continue
        key = position_key(symbol, account)
        if key not in by_key:
            by_key[key] = Messages(read.stream, key, symbol, account, [], [], read.live)
        by_key[key].entries.append(raw)  # type: ignore[union-attr]
        by_key[key].messages.append(message)  # type: ignore[union-attr]
    progress.read(len(read.entries), len(rejected), live=read.live)
    return rejected + list(by_key.values())


def _messages_of(read: Read, of_key: KeyRun) -> Messages:
    heading, run, entries = of_key
    symbol, account, _ = heading
    key = position_key(symbol, account)
    return Messages(read.stream, key, symbol, account, entries, run, read.live)


def at_home(
    items: Iterable[Messages | Rejected], partitions: Sequence[str]
) -> Iterator[Messages | Rejected]:
    """Refuse messages in a partition where their key does not live: it would get two books."""
    for item in items:
        home = item.stream
        if isinstance(item, Messages) and partitions:
            home = partitions[partition_of(item.key, len(partitions))]
        if isinstance(item, Rejected) or home == item.stream:
            yield item
            continue
        reason = (
            f"symbol: expected a key of stream {item.stream!r}, found {item.key!r}, which lives "
            f"in {home!r}"
        )
        yield from (Rejected(item.stream, Entry.of(raw), reason) for raw in item.entries)


_STATE_VERSION = 2


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
        self._progress = progress
        self._book: Book | None = None
        self._name: tuple[str, str, str, str | None] | None = None
        """Stream, key, symbol, account."""
        self._last_id = self._shown_id = FIRST_ID
        self._shown: PositionSnapshot | None = None
        if resume_state is not None:
            version, *name, self._last_id, self._shown_id, shown = resume_state
            if version != _STATE_VERSION:
                raise ValueError(
                    f"expected a snapshot of version {_STATE_VERSION}, found {version}"
                )
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
        return (_STATE_VERSION, *self._name, self._last_id, self._shown_id, shown)

    def _take(self, messages: Messages) -> list[Changes | Rejected]:
        book = self._book_of(messages)
        if isinstance(messages.messages, Run):
            update = book.apply_run(messages.messages)
            if update is not None:
                ids = packed_ids(messages.entries)
                self._remember(messages, book, ids, messages.messages)
                metrics.EXECUTIONS_BOOKED.inc(len(messages.entries))
                updates = RunUpdates(ids, update)
                return [self._changes(messages, last_id(ids), book.snapshot(), updates)]
            messages = messages._replace(messages=messages.messages.executions())
        return self._take_one_by_one(book, messages)

    def _take_one_by_one(self, book: Book, messages: Messages) -> list[Changes | Rejected]:
        assert not isinstance(messages.messages, Run)
        results: list[Changes | Rejected] = []
        updates: list[Update] = []
        ids: list[bytes] = []
        taken: list[Message] = []
        all_ids = ids_of(messages.entries)
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
                updates.append(Update(entry_id.decode(), message, applied, book.snapshot()))
        if taken:
            self._remember(messages, book, pack_ids(ids), taken)
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
            if self._store is not None and self._last_id != FIRST_ID:
                self._book = self._store.load(*self._name[1:], self._last_id)
            else:
                self._book = Book(messages.symbol, messages.account)
        first = first_id(messages.entries)
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


# --- what `python -m bytewax.run flows.positions` runs -----------------------------------


def flow() -> Dataflow:
    """Read the settings, prepare recovery, and wire the real parts.

    Bytewax's runner calls it, in the main thread, before it opens the recovery store.
    """
    settings = load_settings()
    set_up_logging(settings)
    # What is kept has no cycles. Looking for some, each time that some hundred objects
    # were made, would walk all that the books remember.
    gc.set_threshold(1_000_000, 20, 100)
    run = _run_options()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if settings.stream_retention_hours and run.recovery_directory is None:
        raise SystemExit(
            "lotstream: STREAM_RETENTION_HOURS: expected a recovery directory (-r) with it, "
            "since a trimmed stream cannot rebuild positions; found none"
        )
    stores = None
    if run.recovery_directory is not None:
        try:
            _locks.append(
                recovery.prepare(run.recovery_directory, run.process_id, run.processes, stop)
            )
        except LockedError as error:
            raise SystemExit(f"lotstream: the recovery directory is in use: {error}") from None
        except recovery.RecoveryError as error:
            raise SystemExit(f"lotstream: {error}") from None
        recovery.tell_of_full_disk(run.recovery_directory)
        stores = BookStores(run.recovery_directory, run.process_id or 0)
    return _wire(settings, stop, stores, together=run.processes * run.workers > 1)


_locks: list[FileLock] = []
"""Held as long as the process lives."""


def _agree_on_partitions(link: RedisLink, settings: Settings) -> None:
    try:
        agree(link, settings.streams)
    except RedisRefusedError as error:
        raise SystemExit(f"lotstream: {error}") from None
    except StoppedError:
        raise SystemExit(0) from None


def _wire(
    settings: Settings, stop: Event, stores: BookStores | None, *, together: bool
) -> Dataflow:
    link = RedisLink(settings.redis_url.get_secret_value(), stop)
    _agree_on_partitions(link, settings)
    streams, hours = settings.own_streams, settings.stream_retention_hours
    letters = partition_names(settings.dead_letter_stream, settings.stream_partitions)
    source = RedisStreamSource(
        link,
        streams,
        stop,
        written=lambda stream: StreamFiles(settings.data_dir, stream).written(),
        block_ms=_BLOCK_TOGETHER_MS if together else _BLOCK_ALONE_MS,
        retention_ms=None if hours is None else int(hours * 3_600_000),
        accept_gap=settings.accept_gap,
    )
    exporter.start(settings)
    return build_flow(
        source,
        dead_letters=DeadLetterSink(link, dict(zip(settings.streams, letters, strict=True))),
        position_hash=PositionHashSink(link, streams, settings.positions_hash),
        parquet=ParquetSink(settings.data_dir, streams),
        stores=stores,
        partitions=settings.streams if settings.stream_partitions > 1 else (),
        progress=Progress(source.to_go),
    )


class _RunOptions(NamedTuple):
    """What of Bytewax's own options matters here."""

    recovery_directory: Path | None = None
    process_id: int | None = None
    processes: int = 1
    workers: int = 1


def _run_options() -> _RunOptions:
    """Read the options of `python -m bytewax.run`, also those in its environment variables."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != "bytewax.run":
        return _RunOptions()
    # Bytewax has no public way to ask; its version is pinned.
    given = bytewax_run._parse_args()  # type: ignore[no-untyped-call]  # noqa: SLF001
    addresses = [address for address in (given.addresses or "").split(";") if address]
    directory = given.recovery_directory
    return _RunOptions(
        directory and Path(directory),
        None if given.process_id is None else int(given.process_id),
        max(1, len(addresses)),
        int(given.workers_per_process or 1),
    )
