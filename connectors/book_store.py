"""What recovery needs of the books, kept beside Bytewax's recovery store.

Bytewax stores a key's whole state at the end of each epoch in which the key was
awake. A book remembers thousands of messages, so its recovery snapshot is a mere
token (key, last entry id), and the book itself is kept here: now and then whole, and
in between the messages since, so that an epoch costs in proportion to what changed.

All that is kept is true for ever: a book after an entry depends only on the entries
up to it. So what a run wrote that died before its epoch was durable does no harm:
loading a book as of an entry leaves the later messages out.

What stands in a row is under a checksum, and says behind which entry it belongs: so a
row that was damaged, or that is missing among others, is noticed.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from threading import local
from time import perf_counter
from typing import Any

from connectors.disk import made_whole
from connectors.kept import DamagedError, check_pages, dumps, loads, read_only, seal, unseal
from state.book import Book
from state.messages import Message, message_from_state, message_to_state
from state.records import FIRST_ID, id_order, last_id
from state.run import Run, unpack_texts

# With row ids, what an epoch brings is added at the end, in few pages.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS books (
    key TEXT, ms INTEGER, seq INTEGER, whole INTEGER, data BLOB,
    PRIMARY KEY (key, ms, seq, whole)
)
"""

_PATIENCE = 4
"""A book may be written whole again after as many messages as it holds things, when
there is time, and must be after so many times as many."""

_SMALLEST = 500
"""Things in a book; a smaller one is taken for one of this size."""

_TIME_FOR_WHOLE_S = 0.002
"""At the end of an epoch, for books that may be written but need not."""

_Row = tuple[int, int, int, bytes]
"""Last entry id (milliseconds, sequence), whether it is a whole book, sealed data.

That is the state of a whole book; else the entry that the book had before, and batches
of messages, one behind the other.
"""

_Taken = tuple[Any, ...] | list[tuple[Any, ...]]
"""Messages as plain values: a run, or a list."""

_Batch = tuple[int, bytes, _Taken]
"""Version, entry ids, packed, and as many messages."""

_BATCH_VERSION = 1

_BYTES_FROM = 2**63

_REBUILD = "start with an empty recovery directory: it is rebuilt from the stream"


class BookStoreError(Exception):
    """The recovery directory lacks a book that Bytewax's store refers to, or has no room."""


class _Changed:
    """A book and the messages it took in since the last commit."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.messages = 0
        self.ids = b""
        """Of the last batch."""
        self.batches: list[bytes] = []
        """Pickled."""

    def add(self, batch: _Batch) -> None:
        # Packed at once, since all of it together would delay the commit.
        self.batches.append(dumps(batch))
        _, self.ids, _ = batch
        self.messages += self.ids.count(b"\n")


class BookStores:
    """A store for each of a process's workers, which are threads.

    A worker's commit writes its own books only: those of another may be in the middle
    of a message, or of an epoch.
    """

    def __init__(
        self, directory: Path, process: int = 0, resumed_at: Mapping[str, str] | None = None
    ) -> None:
        """resumed_at: of each stream, the entry up to which all was durable at the start."""
        self._directory, self._process = directory, process
        self.resumed_at = resumed_at or {}
        self._numbers = count()
        self._of_thread = local()

    def mine(self) -> "BookStore":
        """Return the store of the worker that asks."""
        if not hasattr(self._of_thread, "store"):
            number = next(self._numbers)
            self._of_thread.store = BookStore(self._directory, self._process, number)
        store: BookStore = self._of_thread.store
        return store


class BookStore:
    """The books of one worker, in a SQLite file of its own in the recovery directory.

    Other workers' files are read, never written: after a rescaling, a key's book may
    have begun with another worker.
    """

    def __init__(self, directory: Path, process: int = 0, worker: int = 0) -> None:
        self._directory = directory
        name = f"books-{process}.{worker}.db" if worker else f"books-{process}.db"
        if not (directory / name).exists():
            _make(directory, name)
        # One thread at a time: a commit waits for the checkpoint.
        self._db = sqlite3.connect(directory / name, isolation_level=None, check_same_thread=False)
        # An epoch is durable only if its books are.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="books")
        self._checkpoint: Future[object] | None = None
        self._changed: dict[str, _Changed] = {}
        self._since_whole: dict[str, int] = {}
        self._committed: dict[str, tuple[int, int]] = {}

    def remember(self, key: str, book: Book, ids: bytes, taken: Sequence[Message] | Run) -> None:
        """Note messages that the book of a key has taken in; `commit` writes them.

        ids: of the entries that brought them, as many, packed.
        """
        if self._checkpoint is None:
            # Between two commits, as it would delay one; it needs no Python.
            self._checkpoint = self._thread.submit(self._write_back)
        changed = self._changed.get(key)
        if changed is None:
            changed = self._changed[key] = _Changed(book)
        if isinstance(taken, Run):
            changed.add((_BATCH_VERSION, ids, taken.to_state()))
        else:
            changed.add((_BATCH_VERSION, ids, list(map(message_to_state, taken))))

    def commit(self) -> None:
        """Make all that was noted durable; does nothing if nothing was.

        Raises BookStoreError if it cannot be written.
        """
        if not self._changed:
            return
        try:
            if self._checkpoint is not None:
                self._checkpoint.result()
            self._db.execute("BEGIN")
            self._write()
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise BookStoreError(
                f"cannot write to the recovery directory {self._directory}: {error}"
            ) from error
        self._changed, self._checkpoint = {}, None

    def load(
        self, key: str, symbol: str, account: str | None, entry_id: str, resumed_at: str = FIRST_ID
    ) -> Book:
        """Return the book of a key as it was after an entry, as `read_book` does."""
        book, since = read_book(self._directory, key, symbol, account, entry_id, resumed_at)
        self._since_whole[key], self._committed[key] = since, id_order(entry_id)
        return book

    def _write_back(self) -> None:
        """Move what is committed from the log to where it stays, for the log not to grow."""
        self._db.execute("PRAGMA wal_checkpoint").fetchall()

    def _write(self) -> None:
        """Write what changed: messages, but some books whole, so that none needs many to load."""
        start, rows = perf_counter(), []
        for key, changed in self._changed.items():
            last = id_order(last_id(changed.ids))
            since = self._since_whole.get(key, 0) + changed.messages
            if since > _SMALLEST and since > (size := max(changed.book.size, _SMALLEST)):
                in_time = perf_counter() - start < _TIME_FOR_WHOLE_S
                if in_time or since > _PATIENCE * size:
                    self._write_whole(key, changed.book, last)
                    since = 0
            if since:
                before = self._committed.get(key, id_order(FIRST_ID))
                data = b"".join([dumps(before), *changed.batches])
                rows.append((key, *_to_sql(last), seal(data, (key, *last, 0))))
            self._committed[key], self._since_whole[key] = last, since
        self._db.executemany("INSERT OR REPLACE INTO books VALUES (?, ?, ?, 0, ?)", rows)

    def _write_whole(self, key: str, book: Book, last: tuple[int, int]) -> None:
        data = seal(dumps(book.to_state()), (key, *last, 1))
        row = (key, *_to_sql(last), data)
        self._db.execute("INSERT OR REPLACE INTO books VALUES (?, ?, ?, 1, ?)", row)
        self._forget_before(key)

    def _forget_before(self, key: str) -> None:
        """Delete what precedes a whole book that is durable, as its epoch is over."""
        durable = self._committed.get(key, (-1, -1))
        whole = self._db.execute(
            "SELECT ms, seq FROM books WHERE key = ? AND whole = 1 AND (ms, seq) <= (?, ?) "
            "ORDER BY ms DESC, seq DESC LIMIT 1", (key, *_to_sql(durable)),
        ).fetchone()  # fmt: skip
        if whole:
            self._db.execute(
                "DELETE FROM books WHERE key = ? AND (ms, seq) < (?, ?)", (key, *whole)
            )


def _to_sql(entry: tuple[int, int]) -> tuple[int | bytes, ...]:
    """Return an entry id as SQLite takes and sorts it: its numbers have 63 bits, bytes follow."""
    return tuple(half if half < _BYTES_FROM else half.to_bytes(8) for half in entry)


def _of_sql(*entry: int | bytes) -> tuple[int, int]:
    ms, seq = (int.from_bytes(half) if isinstance(half, bytes) else half for half in entry)
    return ms, seq


def _make(directory: Path, name: str) -> None:
    with made_whole(directory, name) as new, closing(sqlite3.connect(new / name)) as db, db:
        # What is written is large: whole books, and all that a read brought of a key.
        db.execute("PRAGMA page_size = 32768")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(_SCHEMA)


def read_book(  # noqa: PLR0917 - what names a book, and the entries it is between
    directory: Path, key: str, symbol: str, account: str | None, entry_id: str, resumed_at: str
) -> tuple[Book, int]:
    """Return the book of a key as it was after an entry.

    resumed_at: the entry up to which all is durable. Returns also how many messages were
    taken in again on top of what was kept whole. Raises BookStoreError if what is kept is
    damaged, or does not reach just that entry.
    """
    upto = id_order(entry_id)
    rows = sorted(_rows(directory, key, max(upto, id_order(resumed_at))))
    if rows and rows[-1][:2] > upto:
        raise BookStoreError(
            f"{directory}: expected the snapshot of {key!r} after entry {rows[-1][0]}-"
            f"{rows[-1][1]}, which its book has, found "
            f"{'none' if entry_id == FIRST_ID else f'that after {entry_id}'}; {_REBUILD}"
        )
    book, last, since = Book(symbol, account), id_order(FIRST_ID), 0
    start = max((n for n, row in enumerate(rows) if row[2]), default=-1)
    try:
        if start >= 0:
            book, last = Book.from_state(next(loads(rows[start][3]))), rows[start][:2]
        for *_, data in rows[start + 1 :]:
            last, taken = _take_in(book, data, last)
            since += taken
    except Exception as error:  # another version's data, taken for this one's
        raise BookStoreError(
            f"{directory}: expected a book or messages as this version of lotstream keeps them, "
            f"found what cannot be read: {error}; {_REBUILD}"
        ) from error
    if last != upto:
        raise BookStoreError(
            f"{directory}: expected the book of {key!r} up to entry {entry_id}, found it up to "
            f"{last[0]}-{last[1]}; {_REBUILD}"
        )
    return book, since


def first_entries(directory: Path) -> dict[str, tuple[int, int]]:
    """Return each key of which anything is kept, with the first entry of that."""
    found: dict[str, tuple[int, int]] = {}
    for path in store_files(directory):
        with read_only(path) as db:
            for key, ms, seq in db.execute("SELECT key, ms, seq FROM books"):
                entry = _of_sql(ms, seq)
                found[key] = min(entry, found.get(key, entry))
    return found


def _rows(directory: Path, key: str, upto: tuple[int, int]) -> list[_Row]:
    """Return what any process has written of a book, as far as an entry."""
    rows: list[_Row] = []
    for path in store_files(directory):
        try:
            with read_only(path) as db:
                found = db.execute(
                    "SELECT ms, seq, whole, data FROM books "
                    "WHERE key = ? AND (ms, seq) <= (?, ?)", (key, *_to_sql(upto))
                ).fetchall()  # fmt: skip
            for ms, seq, whole, data in found:
                of = (*_of_sql(ms, seq), whole)
                rows.append((*of, unseal(data, (key, *of))))
        except (sqlite3.DatabaseError, DamagedError) as error:
            raise BookStoreError(f"{path} is damaged: {error}; {_REBUILD}") from error
    return rows


def _take_in(book: Book, data: bytes, last: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Let a book take in again what batches bring after an entry.

    Returns the last entry then, and how many messages there were.
    """
    taken = 0
    before, *batches = loads(data)
    if before > last:
        raise ValueError(f"expected messages after entry {last[0]}-{last[1]}, found some missing")
    for version, ids, kept in batches:
        if version != _BATCH_VERSION:
            raise ValueError(f"expected messages of version {_BATCH_VERSION}, found {version}")
        listed, messages = unpack_texts(ids), _messages(kept)
        if len(messages) != len(listed):
            raise ValueError(f"expected {len(listed)} messages, found {len(messages)}")
        # Rows overlap where a run wrote some, died, and its successor replayed.
        start = bisect_right(listed, last, key=id_order)
        if start < len(listed):
            _apply(book, messages, start)
            last = id_order(listed[-1])
            taken += len(listed) - start
    return last, taken


def _messages(kept: _Taken) -> Run | list[Message]:
    if isinstance(kept, tuple):
        return Run.from_state(kept)
    return list(map(message_from_state, kept))


def _apply(book: Book, messages: Run | list[Message], start: int) -> None:
    """Let a book take in messages from one on."""
    if isinstance(messages, Run):
        if start == 0 and book.apply_run(messages) is not None:
            return
        messages = messages.messages()
    for message in messages[start:]:
        book.apply(message)


def store_files(directory: Path) -> list[Path]:
    """Return the files that hold books."""
    return sorted(directory.glob("books-*.db"))


def check_file(path: Path) -> None:
    """Read all that a file holds. Raises BookStoreError if anything in it is damaged."""
    try:
        with read_only(path) as db:
            check_pages(db)
            rows = db.execute("SELECT key, ms, seq, whole, data FROM books")
            for key, ms, seq, whole, data in rows:
                for _ in loads(unseal(data, (key, *_of_sql(ms, seq), whole))):
                    pass
    except (sqlite3.DatabaseError, DamagedError) as error:
        raise BookStoreError(f"{path} is damaged: {error}; {_REBUILD}") from error


def scrub_books(directory: Path, durable: Callable[[str], str]) -> None:
    """Delete what runs wrote that died before it was durable.

    durable: the entry up to which all that concerns a key is.
    """
    for path in store_files(directory):
        with closing(sqlite3.connect(path)) as db, db:
            for key, ms, seq in db.execute("SELECT key, ms, seq FROM books").fetchall():
                if _of_sql(ms, seq) > id_order(durable(key)):
                    db.execute(
                        "DELETE FROM books WHERE key = ? AND ms = ? AND seq = ?", (key, ms, seq)
                    )


def copy_books(directories: Iterable[Path], target: Path, wanted: Callable[[str], bool]) -> None:
    """Copy what any worker has written of the wanted keys' books to another directory.

    Each file becomes one of its own there: two may each have a part of the same book.
    """
    paths = [path for directory in directories for path in store_files(directory)]
    for number, path in enumerate(paths):
        with closing(sqlite3.connect(path)) as old, closing(
            sqlite3.connect(target / f"books-moved-{number}.db")
        ) as new, new:  # fmt: skip
            new.execute(_SCHEMA)
            for row in old.execute("SELECT key, ms, seq, whole, data FROM books"):
                if wanted(row[0]):
                    new.execute("INSERT INTO books VALUES (?, ?, ?, ?, ?)", row)
