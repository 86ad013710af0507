"""The book store over real files: a book as of an entry, whatever was written since."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from connectors.book_store import BookStore, BookStoreError, BookStores
from state.book import Book
from state.exact import ONE
from state.messages import Execution


def execution(number: int) -> Execution:
    return Execution(f"e{number}", f"e{number}", 1, number, (-1) ** number * ONE, number * ONE)


class Run:
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


def test_a_book_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Run(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(7)
    loaded = BookStore(tmp_path).load("S", "S", None, "7-0")
    assert loaded.to_state() == run.book.to_state()


def test_a_book_is_loaded_as_of_an_entry_without_what_came_later(tmp_path: Path) -> None:
    run = Run(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(7)
    assert BookStore(tmp_path).load("S", "S", None, "3-0").to_state() == book_upto(3).to_state()


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    run = Run(BookStore(tmp_path))
    run.epoch(3)
    run.epoch(5, commit=False)
    with pytest.raises(BookStoreError, match=r"'S' up to entry 5-0, found it up to 3-0"):
        BookStore(tmp_path).load("S", "S", None, "5-0")


def test_epochs_that_a_crash_cut_off_and_others_replaced_do_no_harm(tmp_path: Path) -> None:
    first = Run(BookStore(tmp_path))
    first.epoch(3)
    first.epoch(9)
    second = Run(BookStore(tmp_path), since=3)
    second.epoch(5)
    second.epoch(7)
    for upto in (3, 5, 7, 9):
        loaded = BookStore(tmp_path).load("S", "S", None, f"{upto}-0")
        assert loaded.to_state() == book_upto(upto).to_state()


def test_a_book_that_began_with_another_worker_is_found(tmp_path: Path) -> None:
    Run(BookStore(tmp_path, process=1)).epoch(4)
    with_another = Run(BookStore(tmp_path, worker=1), since=4)
    with_another.epoch(6)
    Run(BookStore(tmp_path), since=6).epoch(8)
    loaded = BookStore(tmp_path).load("S", "S", None, "8-0")
    assert loaded.to_state() == book_upto(8).to_state()


def test_a_long_history_takes_little_room_and_loads_from_a_whole_book(tmp_path: Path) -> None:
    run = Run(BookStore(tmp_path))
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


@pytest.mark.long
def test_what_the_last_durable_epoch_needs_is_kept_when_a_whole_book_is_written(
    tmp_path: Path,
) -> None:
    run = Run(BookStore(tmp_path))
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
