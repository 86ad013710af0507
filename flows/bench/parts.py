"""Where the time goes: the flow's own parts, one after the other, on one thread.

The same entries pass through the functions that the flow calls, with a stopwatch at
each. What Bytewax adds is not in it, nor that the flow writes its files in a thread:
the sum is what one core would need for the rest.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Event
from time import perf_counter

from connectors.book_store import BookStores
from connectors.columns.messages import Piece, decode_replies
from connectors.columns.replies import BulkConnection, Replies, Reply
from connectors.disk import sync
from connectors.parquet.files import PartFile
from connectors.parquet.tables import tables
from connectors.redis.hash_sink import PositionHashSink
from connectors.redis.link import RedisLink
from flows.bench.report import Figure
from flows.bench.rig import STREAM, Rig, no_collection, set_up
from flows.bench.sizes import Sizes
from state.book import Book
from state.keys import position_key
from state.records import FIRST_ID, Changes, RunUpdates, last_id
from state.run import Run

TITLE = "Where the time goes, per execution, 100 symbols"
STEPS = 2

_PARTS = {
    "read": "read: XREAD",
    "parse": "parse: text to columns",
    "book": "book: match lots",
    "recovery": "recovery: what the books took in",
    "hash": "hash: JSON, script",
    "rows": "rows: Arrow tables",
    "files": "files: Parquet on disk",
}

_READ_COUNT, _AT_ONCE, _ROWS_AT_ONCE = 2_500, 100_000, 10_000
"""Entries a read, entries handed on together, and rows made together: as in the flow."""

_WARM_UP = 1
_EPOCH_S = 1.0


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Pass executions through the parts."""
    with set_up() as rig:
        step(f"parts: publish {sizes.parts:,}")
        rig.fill(sizes.parts)
        step("parts: pass them through")
        with no_collection():
            _Pass(rig, "warm-up").run(_WARM_UP)
            spent = _Pass(rig, "measured").run()
    us = {name: spent[name] / sizes.parts * 1e6 for name in _PARTS}
    total = sum(us.values())
    return [
        *(Figure(f"parts.{name}", what, us[name], "µs", total, "all parts")
          for name, what in _PARTS.items()),
        Figure("parts.all", "all parts", total, "µs"),
    ]  # fmt: skip


class _Pass:
    """The parts, wired by hand; name: of their directory and their hash."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig = rig
        self._directory = rig.directory / name
        self._directory.mkdir()
        link = RedisLink(rig.url, Event())
        self._hash = PositionHashSink(link, [STREAM], name).build_part("", STREAM, None)
        self._store = BookStores(self._directory).mine()
        self._books: dict[str, Book] = {}
        self._files: dict[tuple[str, int], PartFile] = {}
        self._held: list[Changes] = []
        self._spent: defaultdict[str, float] = defaultdict(float)

    def run(self, most: int | None = None) -> dict[str, float]:
        """Pass the stream through, or as much as is handed on so often; return the seconds."""
        epoch_ends = perf_counter() + _EPOCH_S
        for replies in islice(self._handed_on(), most):
            with self._timed("parse"):
                pieces, refused = decode_replies(Replies(replies))
            assert not refused  # all that the rig publishes is plain
            with self._timed("book"):
                changes = [self._book(piece) for piece in pieces]
            with self._timed("recovery"):
                self._note(changes)
            with self._timed("hash"):
                self._hash.write_batch(changes)
            for change in changes:
                self._held.append(change)
                if sum(one.size for one in self._held) >= _ROWS_AT_ONCE:
                    self._write_rows()
            if perf_counter() > epoch_ends:
                self._commit()
                epoch_ends = perf_counter() + _EPOCH_S
        self._commit()
        return self._spent

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self._spent[part] += perf_counter() - start

    def _handed_on(self) -> Iterator[list[Reply]]:
        replies: list[Reply] = []
        for reply in self._reads():
            replies.append(reply)
            if sum(map(len, replies)) >= _AT_ONCE:
                yield replies
                replies = []
        if replies:
            yield replies

    def _reads(self) -> Iterator[Reply]:
        last, read, added = FIRST_ID, 0, self._rig.client.xlen(STREAM)
        bulk = BulkConnection(self._rig.client)
        while read < added:
            with self._timed("read"):
                bulk.ask(("XREAD", "COUNT", _READ_COUNT, "STREAMS", STREAM, last))
                reply = bulk.answer()
            with self._timed("parse"):
                entries = Reply.of(reply)
            assert entries is not None  # see above
            yield entries
            last, read = entries[-1][0].decode(), read + len(entries)
        bulk.close()

    def _book(self, piece: Piece) -> Changes:
        key = position_key(piece.symbol, piece.account)
        if key not in self._books:
            self._books[key] = Book(piece.symbol, piece.account)
        book = self._books[key]
        assert isinstance(piece.messages, Run)  # plain, see above
        update = book.apply_run(piece.messages)
        assert update is not None
        updates = RunUpdates(piece.ids, update)
        return Changes(STREAM, key, last_id(piece.ids), book.snapshot(), updates, live=False)

    def _note(self, changes: list[Changes]) -> None:
        for change in changes:
            assert isinstance(change.updates, RunUpdates)
            run, book = change.updates.update.run, self._books[change.key]
            self._store.remember(change.key, book, change.updates.ids, run)

    def _write_rows(self) -> None:
        with self._timed("rows"):
            built = list(tables(self._held))
        with self._timed("files"):
            for data_set, day, rows in built:
                if (data_set, day) not in self._files:
                    path = Path(self._directory, f"{data_set}.{day}.parquet")
                    self._files[data_set, day] = PartFile(path, rows.schema)
                self._files[data_set, day].add(rows)
        self._held = []

    def _commit(self) -> None:
        if self._held:
            self._write_rows()
        with self._timed("files"):
            for file in self._files.values():
                file.finish()
                sync(file.path)
        self._files = {}
        with self._timed("hash"):
            self._hash.snapshot()
        with self._timed("recovery"):
            self._store.commit()
