"""What the rows of a data directory tell, read in process."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from connectors.parquet.tables import tables
from flows.common.rows import (
    Problem,
    Shown,
    has_rows,
    keys_by_strategy,
    last_executions,
    open_lots,
)
from state.book import Book
from state.records import Changes, Update
from tests.support.notation import messages
from tests.support.rows import write_rows

NOW = datetime(1970, 1, 2, tzinfo=UTC)


def write_under(data_dir: Path, entries: Sequence[str], *lines: str) -> None:
    """Write a row for each message, caused by an entry each."""
    book, updates = Book("A", None), []
    for entry, each in zip(entries, messages(*lines), strict=True):
        applied = book.apply(each)
        assert applied is not None
        updates.append(Update(entry, each, applied, book.snapshot()))
    changes = Changes("s", "A", entries[-1], book.snapshot(), updates, live=False)
    [rows] = [table for table in tables([changes]) if table.data_set == "positions"]
    directory = data_dir / "positions" / "date=1970-01-01"
    directory.mkdir(parents=True)
    in_disorder = [*range(1, len(entries), 2), *range(0, len(entries), 2)]
    pq.write_table(rows.rows.take(in_disorder), directory / "part.parquet")


def quantities(data_dir: Path, known_at: datetime | None = None) -> list[int]:
    lots = list(open_lots(data_dir, now=NOW, known_at=known_at))
    return [int(each.qty) for each in lots if isinstance(each, Shown)]


def test_rows_count_in_order_of_their_entries_as_numbers(tmp_path: Path) -> None:
    largest = 2**64 - 1
    entries = ["999-9", "1000-9", "1000-10", f"1000-{largest}", f"{largest}-0"]
    lines = [f"BUY {qty} @ 1" for qty in (1, 2, 3, 4, 5)]
    write_under(tmp_path, entries, *lines)
    assert quantities(tmp_path) == [1, 2, 3, 4, 5]
    told = last_executions(tmp_path, "A", 4)
    assert [each["fill_qty"] for each in told] == ["5", "4", "3", "2"]
    assert quantities(tmp_path, known_at=datetime.fromtimestamp(0.999, UTC)) == [1]
    assert quantities(tmp_path, known_at=datetime.fromtimestamp(1, UTC)) == [1, 2, 3, 4]


def test_a_directory_may_be_named_with_signs_that_a_pattern_gives_a_meaning(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "[a]*", "U1", "A", ["BUY 1 @ 2"], "trend")
    assert quantities(tmp_path / "[a]*") == [1]
    assert has_rows(tmp_path / "[a]*", "U1:A")
    assert not has_rows(tmp_path / "[a]*", "A")


def test_files_with_fewer_or_more_columns_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path, None, "A", ["BUY 1 @ 2"])
    write_rows(tmp_path, None, "B", ["BUY 2 @ 2"])
    [path] = (tmp_path / "positions").glob("*/A*")
    table = pq.read_table(path, partitioning=None).drop_columns(["order_ref", "message_terms"])
    pq.write_table(table.append_column("newer", [["x"]]), path)
    assert quantities(tmp_path) == [1, 2]


def test_a_key_whose_rows_do_not_tell_all_is_named_and_the_others_are_shown(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, None, "A", ["BUY 1 @ 2", "BUY 1 @ 3"])
    write_rows(tmp_path, None, "B", ["BUY 2 @ 2"])
    [path] = (tmp_path / "positions").glob("*/A*")
    pq.write_table(pq.read_table(path, partitioning=None)[1:], path)
    problem, lot = open_lots(tmp_path, now=NOW)
    assert isinstance(problem, Problem)
    assert problem.key == "A"
    assert isinstance(lot, Shown)
    assert (lot.symbol, lot.age_s, str(lot.multiplier)) == ("B", 86_399, "1")


def test_nobody_knows_the_age_of_an_opening_but_of_one_from_a_statement(tmp_path: Path) -> None:
    write_rows(tmp_path, None, "A", ["OPENING 1 @ 2", "BUY 1 @ 3"])
    ages = [each.age_s for each in open_lots(tmp_path, now=NOW) if isinstance(each, Shown)]
    assert ages == [None, 86_398]
    [path] = (tmp_path / "positions").glob("*/A*")
    table = pq.read_table(path, partitioning=None)
    names = ["flex-open-1", *table["exec_id"].to_pylist()[1:]]
    at = table.schema.get_field_index("exec_id")
    pq.write_table(table.set_column(at, table.schema.field(at), [names]), path)
    ages = [each.age_s for each in open_lots(tmp_path, now=NOW) if isinstance(each, Shown)]
    assert ages == [86_399, 86_398]


def test_commissions_are_no_executions_and_what_names_no_strategy_is_of_none(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, None, "A", ["#1 BUY 1 @ 2", "BUY 1 @ 3", "#1 REPORT 1.30"], "b", "")
    assert [each["type"] for each in last_executions(tmp_path, "A", 9)] == ["execution"] * 2
    write_rows(tmp_path, None, "B", ["BUY 1 @ 2"], "a")
    assert keys_by_strategy(tmp_path) == {"a": ["B"], "b": ["A"]}
    assert keys_by_strategy(tmp_path, "b") == {"b": ["A"]}
    assert keys_by_strategy(tmp_path, "c") == {}


@pytest.mark.parametrize("name", ["nowhere", "positions"])
def test_where_there_are_no_files_there_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "positions").mkdir()
    assert list(open_lots(tmp_path / name, now=NOW)) == []
    assert last_executions(tmp_path / name, "A", 5) == []
