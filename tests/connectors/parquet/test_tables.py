"""The two ways to rows, one by one and in runs, lead to the same tables."""

import random
from decimal import Decimal

import pytest

from connectors.parquet.tables import DATA_SETS, tables
from state.book import Book
from state.exact import ONE
from state.messages import Execution, Instrument
from state.records import Changes, RunUpdates, Update, last_id, pack_ids
from state.run import Run

DAY_MS = 86_400_000


def executions(rng: random.Random, count: int) -> list[Execution]:
    time, made = 1_700_000_000_000, []
    for number in range(count):
        time += rng.choice([0, 1000, DAY_MS // 3])
        qty = rng.choice([-1, 1]) * rng.choice([ONE, 7 * ONE, ONE // 2, 1])
        price = rng.randint(1, 10**13)
        commission = rng.choice([None, 0, ONE // 3, -5])
        made.append(
            Execution(
                f"e{number}",
                f"e{number}",
                1,
                time,
                qty,
                price,
                commission,
                number,
                "BUY" if qty > 0 else "SELL",
                Instrument("EUR", 100 * ONE, 7),
            )
        )
    return made


def one_by_one(book: Book, part: list[Execution], first: int) -> Changes:
    updates = []
    for number, execution in enumerate(part):
        applied = book.apply(execution)
        assert applied is not None
        updates.append(Update(f"5-{first + number}", execution, applied, book.snapshot()))
    return Changes("s", "k", updates[-1].stream_id, book.snapshot(), updates, live=False)


def in_a_run(book: Book, part: list[Execution], first: int) -> Changes:
    update = book.apply_run(Run.of(part))
    assert update is not None
    ids = pack_ids(f"5-{first + number}".encode() for number in range(len(part)))
    return Changes("s", "k", last_id(ids), book.snapshot(), RunUpdates(ids, update), live=False)


def rows(changes: list[Changes]) -> dict[str, list[dict[str, object]]]:
    """Return all rows of each data set, in order of entry, with the date they belong to."""
    found: dict[str, list[dict[str, object]]] = {name: [] for name in DATA_SETS}
    for data_set, day, table in tables(changes):
        assert table.schema.equals(DATA_SETS[data_set])
        table.validate(full=True)
        found[data_set] += [{"day": day, **row} for row in table.to_pylist()]
    for listed in found.values():
        listed.sort(key=lambda row: (int(str(row["stream_id"]).split("-")[1]), str(row)))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_runs_make_the_rows_that_single_messages_make(seed: int) -> None:
    rng = random.Random(seed)
    single, runs = Book("AAPL", "U1"), Book("AAPL", "U1")
    listed = executions(rng, 60)
    first, changes, expected = 0, [], []
    while first < len(listed):
        part = listed[first : first + rng.randint(1, 25)]
        expected.append(one_by_one(single, part, first))
        changes.append(in_a_run(runs, part, first))
        first += len(part)
    assert rows(changes) == rows(expected)


def test_a_replayed_run_is_cut_at_the_entry_that_was_written_last() -> None:
    listed = executions(random.Random(3), 30)
    whole = in_a_run(Book("AAPL"), listed, 0)
    expected = rows([one_by_one(Book("AAPL"), listed, 0)])
    for start in range(30):
        kept = rows([whole.after((5, start - 1))])
        for data_set, all_rows in expected.items():
            later = [row for row in all_rows if int(str(row["stream_id"]).split("-")[1]) >= start]
            assert kept[data_set] == later


def test_figures_beyond_64_bits_are_exact() -> None:
    big = 300_000_000 * ONE
    part = [Execution(f"e{n}", f"e{n}", 1, n, big, 7 * ONE, None, n) for n in range(3)]
    changes = [in_a_run(Book("X"), part, 0)]
    [table] = [table.rows for table in tables(changes) if table.data_set == "positions"]
    assert table.column("qty").to_pylist()[-1] == Decimal(900_000_000)
    assert table.column("cost_basis").to_pylist()[-1] == 7 * Decimal(900_000_000)
