"""Parquet files as the flow writes them: of messages in the tests' notation, of a stream."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from connectors.codec import decode
from connectors.parquet.tables import tables
from state.book import Book
from state.keys import position_key
from state.messages import Execution, RejectedError
from state.records import Changes, Update
from tests.support.notation import messages


def write_rows(
    data_dir: Path, account: str | None, symbol: str, lines: Sequence[str], *refs: str
) -> None:
    """Book messages that arrive a second apart; write their rows as the flow does.

    refs: the `order_ref` of each execution, as far as they go.
    """
    book, updates = Book(symbol, account), []
    for number, each in enumerate(messages(*lines), 1):
        if isinstance(each, Execution) and number <= len(refs):
            each = each._replace(order_ref=refs[number - 1])  # noqa: PLW2901
        applied = book.apply(each)
        assert applied is not None
        updates.append(Update(f"{number * 1000}-0", each, applied, book.snapshot()))
    _write(data_dir, symbol, book, updates)


def write_booked(data_dir: Path, entries: Sequence[tuple[str, list[bytes]]]) -> None:
    """Book a stream's entries; write their rows as the flow does."""
    books: dict[tuple[str, str | None], Book] = {}
    updates: dict[tuple[str, str | None], list[Update]] = defaultdict(list)
    for entry, pairs in entries:
        with suppress(RejectedError):
            symbol, account, message = decode(pairs)
            book = books.setdefault((symbol, account), Book(symbol, account))
            applied = book.apply(message)
            if applied is not None:
                updates[symbol, account].append(Update(entry, message, applied, book.snapshot()))
    for (symbol, account), those in updates.items():
        _write(data_dir, position_key(symbol, account), books[symbol, account], those)


def _write(data_dir: Path, name: str, book: Book, updates: list[Update]) -> None:
    changes = Changes("s", name, updates[-1].stream_id, book.snapshot(), updates, live=False)
    for table in tables([changes]):
        directory = data_dir / table.data_set / f"date=1970-01-{table.day + 1:02}"
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.rows, directory / f"{name}.{table.rows.num_rows}.parquet")
