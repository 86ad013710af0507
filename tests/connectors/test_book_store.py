"""The book store over real files: a book as of an entry, whatever was written since."""

import marshal
import pickle
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.book_store import (
    BookStore,
    BookStoreError,
    BookStores,
    check_file,
    copy_books,
    first_entries,
    read_book,
    scrub_books,
)
from connectors.kept import dumps, seal
from state.book import Book
from state.exact import ONE
from state.messages import Execution, Message, message_to_state
from tests.support.notation import messages
from tests.support.runs import run_of, state_of
from tests.support.stores import damage_index
from tests.support.strategies import SETTINGS


def execution(number: int) -> Execution:
    return Execution(f"e{number}", f"e{number}", 1, number, (-1) ** number * ONE, number * ONE)


class Session:
    """A run of the flow for one key: entries `n-0` with execution n, in epochs."""

    def __init__(self, store: BookStore, since: int = 0) -> None:
        self.store = store
        self.book = store.load("S", "S", None, f"{since}-0") if since else Book("S")
        self.last = since

    def epoch(self, upto: int, *, commit: bool = True) -> None:
        for number in range(self.last + 1, upto + 1):
            message = execution(number)
            assert self.book.apply(message) is not None
            self.store.remember("S", self.book, b"%d-0\n" % number, [message])
        self.last = upto
        if commit:
            self.store.commit()


def book_upto(number: int) -> Book:
    book = Book("S")
    for n in range(1, number + 1):
        book.apply(execution(n))
    return book


def rows(directory: Path) -> list[tuple[int, int]]:
    """Return each row's entry and whether it is a whole book."""
    found = []
    for path in directory.glob("books-*.db"):
        with closing(sqlite3.connect(path)) as db:
            found += db.execute("SELECT ms, whole FROM books ORDER BY ms, whole").fetchall()
    return found


def execute(directory: Path, statement: str, *values: int) -> None:
    with closing(sqlite3.connect(directory / "books-0.db")) as db, db:
        db.execute(statement, values)


def test_a_book_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(7)
    loaded = BookStore(tmp_path).load("S", "S", None, "7-0")
    assert loaded.to_state() == run.book.to_state()


def test_entry_ids_may_be_as_large_as_redis_has_them(tmp_path: Path) -> None:
    ids = [f"{ms}-{seq}" for ms in (3, 2**63, 2**64 - 1) for seq in (2**63 - 1, 2**63, 2**64 - 1)]
    store, book = BookStore(tmp_path), Book("S")
    for number, entry in enumerate(ids):
        book.apply(execution(number))
        store.remember("S", book, f"{entry}\n".encode(), [execution(number)])
        store.commit()
    check_file(tmp_path / "books-0.db")
    assert first_entries(tmp_path) == {"S": (3, 2**63 - 1)}
    for number, entry in enumerate(ids):
        as_of, _ = read_book(tmp_path, "S", "S", None, entry, entry)
        assert as_of.snapshot().executions == number + 1
    scrub_books(tmp_path, lambda _: ids[4])
    assert BookStore(tmp_path).load("S", "S", None, ids[4]).snapshot().executions == 5


def test_a_book_is_loaded_as_of_an_entry_without_what_came_later(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(7)
    assert BookStore(tmp_path).load("S", "S", None, "3-0").to_state() == book_upto(3).to_state()


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(5, commit=False)
    with pytest.raises(BookStoreError, match=r"'S' up to entry 5-0, found it up to 3-0"):
        BookStore(tmp_path).load("S", "S", None, "5-0")


def test_epochs_that_a_crash_cut_off_and_others_replaced_do_no_harm(tmp_path: Path) -> None:
    first = Session(BookStore(tmp_path))
    first.epoch(3)
    first.epoch(9)
    second = Session(BookStore(tmp_path), since=3)
    second.epoch(5)
    second.epoch(7)
    for upto in (3, 5, 7, 9):
        loaded = BookStore(tmp_path).load("S", "S", None, f"{upto}-0")
        assert loaded.to_state() == book_upto(upto).to_state()


def test_where_rows_overlap_each_entry_is_taken_in_once(tmp_path: Path) -> None:
    Session(BookStore(tmp_path)).epoch(9)
    second = Session(BookStore(tmp_path))
    second.epoch(5)
    second.epoch(7)
    book, taken = read_book(tmp_path, "S", "S", None, "9-0", "0-0")
    assert (book.to_state(), taken) == (book_upto(9).to_state(), 9)


@pytest.mark.parametrize("whole", [0, 1])
def test_an_epoch_that_is_replayed_replaces_what_a_crash_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    if whole:
        monkeypatch.setattr("connectors.book_store._SMALLEST", 0)
        monkeypatch.setattr(Book, "size", 0)
    Session(BookStore(tmp_path)).epoch(4)
    again = Session(BookStore(tmp_path))
    again.epoch(2)
    again.epoch(4)
    assert rows(tmp_path) == [(2, whole), (4, whole)]
    assert BookStore(tmp_path).load("S", "S", None, "4-0").to_state() == book_upto(4).to_state()


@pytest.mark.parametrize("lost", [2, 3, 5])
def test_a_row_that_is_missing_among_others_is_noticed(tmp_path: Path, lost: int) -> None:
    Session(BookStore(tmp_path)).epoch(2)
    run = Session(BookStore(tmp_path), since=2)
    for upto in (3, 5, 7):
        run.epoch(upto)
    execute(tmp_path, "DELETE FROM books WHERE ms = ?", lost)
    with pytest.raises(BookStoreError, match=r"messages after entry \d-0, found some missing"):
        BookStore(tmp_path).load("S", "S", None, "7-0")


@pytest.mark.parametrize(
    "damage",
    [
        "SET data = substr(data, 1, length(data) - 1)",
        "SET data = zeroblob(9)", "SET key = 'T'", "SET ms = 4",
    ],
)  # fmt: skip
def test_a_row_that_is_not_as_it_was_written_is_damage(tmp_path: Path, damage: str) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(5)
    path = tmp_path / "books-0.db"
    check_file(path)
    execute(tmp_path, "UPDATE books " + damage + " WHERE ms = 3")
    key = "T" if "key" in damage else "S"
    for read in (
        lambda: check_file(path),
        lambda: read_book(tmp_path, key, key, None, "5-0", "0-0"),
    ):
        with pytest.raises(BookStoreError, match=r"books-0\.db is damaged: its checksum is wrong"):
            read()


def test_a_damaged_index_is_noticed(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    del run
    damage_index(tmp_path / "books-0.db", "S")
    with pytest.raises(BookStoreError, match=r"books-0\.db is damaged: row 1 missing from index"):
        check_file(tmp_path / "books-0.db")


def test_a_book_without_its_snapshot_is_noticed_if_both_were_durable(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(7)
    for entry, found in (("3-0", "that after 3-0"), ("0-0", "none")):
        with pytest.raises(BookStoreError, match=f"'S' after entry 7-0, which .* found {found};"):
            read_book(tmp_path, "S", "S", None, entry, "9-0")
    assert (
        read_book(tmp_path, "S", "S", None, "3-0", "6-0")[0].to_state() == book_upto(3).to_state()
    )


def test_what_a_crash_cut_off_is_scrubbed_and_nothing_else(tmp_path: Path) -> None:
    for worker in (0, 1):
        run = Session(BookStore(tmp_path, worker=worker))
        for upto in (3, 5, 7):
            run.epoch(upto)
    scrub_books(tmp_path, {"S": "5-0"}.__getitem__)
    assert rows(tmp_path) == [(3, 0), (5, 0)] * 2
    assert first_entries(tmp_path) == {"S": (3, 0)}


def test_a_book_that_began_with_another_worker_is_found(tmp_path: Path) -> None:
    Session(BookStore(tmp_path, process=1)).epoch(4)
    with_another = Session(BookStore(tmp_path, worker=1), since=4)
    with_another.epoch(6)
    Session(BookStore(tmp_path), since=6).epoch(8)
    names = sorted(path.name for path in tmp_path.glob("*.db"))
    assert names == ["books-0.1.db", "books-0.db", "books-1.db"]
    loaded = BookStore(tmp_path).load("S", "S", None, "8-0")
    assert loaded.to_state() == book_upto(8).to_state()


def test_a_long_history_takes_little_room_and_loads_from_a_whole_book(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    for upto in range(100, 12_001, 100):
        run.epoch(upto)
    kept = rows(tmp_path)
    assert 1 <= sum(whole for _, whole in kept) <= 2
    assert kept[0][1] == 1
    assert len(kept) < 120
    # SQLite's log is written back as it goes, or it would hold all of it.
    log, store = tmp_path / "books-0.db-wal", tmp_path / "books-0.db"
    assert log.stat().st_size < store.stat().st_size
    loaded = BookStore(tmp_path).load("S", "S", None, "12000-0")
    assert loaded.to_state() == run.book.to_state()


def test_a_book_is_written_whole_in_the_end_also_without_time_and_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.book_store._TIME_FOR_WHOLE_S", 0.0)
    monkeypatch.setattr("connectors.book_store._SMALLEST", 10)
    monkeypatch.setattr(Book, "size", 10)
    for first in range(0, 60, 15):
        run = Session(BookStore(tmp_path), since=first)
        for upto in range(first + 1, first + 16):
            run.epoch(upto)
    assert [entry for entry, whole in rows(tmp_path) if whole] == [41]


def test_an_epoch_takes_the_room_of_what_it_brought(tmp_path: Path) -> None:
    run = Session(BookStore(tmp_path))
    for upto in range(1, 6):
        run.epoch(upto)
    run.store.commit()
    with closing(sqlite3.connect(tmp_path / "books-0.db")) as db:
        sizes = db.execute("SELECT length(data) FROM books").fetchall()
    assert len(sizes) == 5
    assert len(set(sizes[1:])) == 1


@pytest.mark.long
def test_what_the_last_durable_epoch_needs_is_kept_when_a_whole_book_is_written(
    tmp_path: Path,
) -> None:
    run = Session(BookStore(tmp_path))
    durable = book_upto(300)
    run.epoch(300)
    for before in range(300, 6_000, 300):
        run.epoch(before + 300)
        loaded = BookStore(tmp_path).load("S", "S", None, f"{before}-0")
        assert loaded.to_state() == durable.to_state()
        for number in range(before + 1, before + 301):
            durable.apply(execution(number))


def test_each_worker_has_a_store_of_its_own(tmp_path: Path) -> None:
    stores = BookStores(tmp_path)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = one.submit(stores.mine).result(), other.submit(stores.mine).result()
        assert first is not second
        assert one.submit(stores.mine).result() is first


# --- what is kept -----------------------------------------------------------------------------

EVERY_TYPE = messages(
    "#1 OPENING 5 cost 7.5 at 1", "BUY 3 @ 5 fee 1.5 EUR adj 2", "#2 REPORT 2 at 3",
    "SPLIT 1:3 to 4 at 4", "COST -0.5 at 5", "#9 OUT 1 at 6", "#8 IN 1 cost 3 of 2 at 7",
    "NUMBER 8 at 8", "#2.2 BUY 2 @ 5 at 2", "SELL 1 @ 2", "#99 REPORT 4 EUR at 11", "SELL 9 @ 3",
    "#10.2 BUST", "#1 OPENING 0 at 1", "BUY 2 @ 2",
)  # fmt: skip
PLAIN = messages(
    "BUY 3 @ 5", "#1 REPORT 1.5 at 2", "SELL 4 @ 6", "BUY 2 @ 7 fee 1", "#3 REPORT -1 USD",
    "SELL 2 @ 8",
)  # fmt: skip


def packed(first: int, count: int) -> bytes:
    return b"".join(b"%d-0\n" % number for number in range(first, first + count))


def kept(directory: Path, taken: Sequence[Message], cuts: Sequence[int], *, runs: bool) -> Book:
    """Book messages, n with entry n-0, in batches that end at the cuts, each an epoch."""
    store, book, start = BookStore(directory), Book("S", "U1"), 0
    for stop in [*cuts, len(taken)]:
        batch = taken[start:stop]
        if runs:
            assert book.apply_run(run_of(batch)) is not None
            store.remember("U1:S", book, packed(start + 1, len(batch)), run_of(batch))
        else:
            for each in batch:
                book.apply(each)
            store.remember("U1:S", book, packed(start + 1, len(batch)), batch)
        store.commit()
        start = stop
    return book


def loaded(directory: Path, upto: int) -> Book:
    return BookStore(directory).load("U1:S", "S", "U1", f"{upto}-0")


@pytest.mark.parametrize("cut", range(1, len(EVERY_TYPE)))
def test_messages_of_every_type_are_kept(tmp_path: Path, cut: int) -> None:
    book = kept(tmp_path, EVERY_TYPE, [cut], runs=False)
    assert loaded(tmp_path, len(EVERY_TYPE)).to_state() == book.to_state()
    before = Book("S", "U1")
    for each in EVERY_TYPE[:cut]:
        before.apply(each)
    assert loaded(tmp_path, cut).to_state() == before.to_state()


@pytest.mark.parametrize("cut", range(1, len(PLAIN)))
def test_runs_are_kept_with_their_reports(tmp_path: Path, cut: int) -> None:
    book = kept(tmp_path, PLAIN, [cut], runs=True)
    assert loaded(tmp_path, len(PLAIN)).to_state() == book.to_state()


@pytest.mark.parametrize("first", range(1, len(PLAIN)))
def test_runs_that_overlap_are_taken_once(tmp_path: Path, first: int) -> None:
    # A flow that died had committed as far as `first`; the next one reads other batches.
    kept(tmp_path, PLAIN[: first + 1], [first], runs=True)
    store = BookStore(tmp_path, process=1)
    book = store.load("U1:S", "S", "U1", f"{first}-0")
    rest = PLAIN[first:]
    assert book.apply_run(run_of(rest)) is not None
    store.remember("U1:S", book, packed(first + 1, len(rest)), run_of(rest))
    store.commit()
    assert state_of(loaded(tmp_path, len(PLAIN))) == state_of(book)


def test_a_whole_book_holds_all_that_the_book_knows(tmp_path: Path) -> None:
    book = Book("S", "U1")
    for each in EVERY_TYPE:
        book.apply(each)
    put(tmp_path, pickle.dumps(book.to_state(), 5), whole=True)
    found = loaded(tmp_path, 5)
    assert found.to_state() == book.to_state()
    assert found.snapshot() == book.snapshot()
    assert found.open_lots() == book.open_lots()


def test_copied_books_are_whole(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
    book = kept(old, PLAIN, [2, 4], runs=True)
    copy_books([old], new, lambda key: key == "U1:S")
    assert loaded(new, len(PLAIN)).to_state() == book.to_state()
    copy_books([old], tmp_path, lambda key: key != "U1:S")
    with pytest.raises(BookStoreError):
        loaded(tmp_path, len(PLAIN))


def test_copied_books_may_be_of_several_workers_who_had_the_same_entries(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
    for worker in (0, 1):
        Session(BookStore(old, worker=worker)).epoch(3)
    copy_books([old], new, lambda _: True)
    assert rows(new) == [(3, 0)] * 2
    assert BookStore(new).load("S", "S", None, "3-0").to_state() == book_upto(3).to_state()


# --- what cannot be read ------------------------------------------------------------------------


def put(directory: Path, data: bytes, *, whole: bool) -> None:
    """Write a row for entry 5-0, under a checksum that is right."""
    if not whole:
        data = dumps((0, 0)) + data
    BookStore(directory)
    with closing(sqlite3.connect(directory / "books-0.db")) as db, db:
        db.execute("DELETE FROM books")
        db.execute(
            "INSERT INTO books VALUES ('U1:S', 5, 0, ?, ?)",
            (whole, seal(data, ("U1:S", 5, 0, int(whole)))),
        )


def refused(directory: Path, data: bytes, *, whole: bool) -> str:
    put(directory, data, whole=whole)
    with pytest.raises(BookStoreError) as error:
        loaded(directory, 5)
    text = str(error.value)
    assert text.startswith(f"{directory}: expected ")
    assert ", found " in text
    assert text.endswith("start with an empty recovery directory: it is rebuilt from the stream")
    return text


class OfAClass:
    """Of which nothing may be made."""

    made = 0

    def __init__(self) -> None:
        OfAClass.made += 1

    def __reduce__(self) -> tuple[Callable[[], "OfAClass"], tuple[()]]:
        return (OfAClass, ())


OLD_BATCH = (
    b"5-0\n",
    [("Execution", "e", "e", 1, 5, ONE, ONE, None, 5, "BUY", (None, None, None))],
)
OLD_BOOK: tuple[Any, ...] = (
    2, ("S", "U1", ("USD", ONE, None)), [], (0, 0, 0, 0, 0, 0), [], [], (0, (-1, -1), []), None, [],
)  # fmt: skip
"""As version 0.1.0 marshalled them."""


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("old", [OLD_BATCH, OLD_BOOK])
def test_what_the_first_release_kept_is_refused_with_what_to_do(
    tmp_path: Path, old: tuple[Any, ...], whole: bool
) -> None:
    for version in (2, 4):
        refused(tmp_path, marshal.dumps(old, version), whole=whole)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "value", [None, 5, "text", [], (), {}, (1,), (7, b"5-0\n", []), (1, "5-0", []), (0, 1, 2, 3)]
)
def test_values_of_another_form_or_version_are_refused(
    tmp_path: Path, value: object, whole: bool
) -> None:
    refused(tmp_path, pickle.dumps(value), whole=whole)


ONE_MESSAGE, TWO = [list(map(message_to_state, PLAIN[:count])) for count in (1, 2)]
RUN = run_of(PLAIN[:2]).to_state()


@pytest.mark.parametrize(
    ("ids", "taken"),
    [
        (b"5-0\n", [("Dividend", 1)]), (b"5-0\n", [("Execution", 1)]), (b"5-0\n", ()),
        (b"5-0\n", 5), (b"x\n", ONE_MESSAGE), (b"4-0\n5-0\n", ONE_MESSAGE), (b"5-0\n", TWO),
        (b"5-0\n", []), (b"5-0\n", RUN), (b"3-0\n4-0\n5-0\n", RUN),
        (b"4-0\n5-0\n", (RUN[0][:-1], *RUN[1:])), (b"4-0\n5-0\n", (*RUN[:4], b"", *RUN[5:])),
    ],
)  # fmt: skip
def test_batches_of_other_messages_than_their_entries_brought_are_refused(
    tmp_path: Path, ids: bytes, taken: object
) -> None:
    refused(tmp_path, pickle.dumps((1, ids, taken)), whole=False)


def test_messages_of_another_version_are_refused_by_their_version(tmp_path: Path) -> None:
    put(tmp_path, pickle.dumps((1, b"5-0\n", ONE_MESSAGE)), whole=False)
    assert loaded(tmp_path, 5).snapshot().executions == 1
    text = refused(tmp_path, pickle.dumps((2, b"5-0\n", ONE_MESSAGE)), whole=False)
    assert "messages of version 1, found 2" in text


def test_a_book_of_another_version_is_refused_by_its_version(tmp_path: Path) -> None:
    state = Book("S").to_state()
    text = refused(tmp_path, pickle.dumps((state[0] + 1, *state[1:])), whole=True)
    assert f"a book of version {state[0]}, found {state[0] + 1}" in text


@pytest.mark.parametrize("whole", [False, True])
def test_a_pickle_that_names_a_class_is_refused(tmp_path: Path, whole: bool) -> None:
    for value in (OfAClass(), (1, b"5-0\n", [OfAClass()]), (1, b"5-0\n", [Execution])):
        made = OfAClass.made
        assert "expected plain values, found " in refused(
            tmp_path, pickle.dumps(value), whole=whole
        )
        assert OfAClass.made == made


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_cut_short_is_refused(tmp_path: Path, whole: bool) -> None:
    data = pickle.dumps(Book("S").to_state() if whole else (1, b"5-0\n", []), 5)
    for length in range(1, len(data)):
        refused(tmp_path, data[:length], whole=whole)


@SETTINGS
@given(data=st.binary(min_size=1, max_size=40), whole=st.booleans())
def test_any_other_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, whole: bool
) -> None:
    refused(tmp_path_factory.getbasetemp(), data, whole=whole)
