"""The two ways to rows, one by one and in runs, lead to the same tables."""

import random
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest

from connectors.parquet.tables import DATA_SETS, _on_one_line, other_commissions_json, tables
from state.book import Book
from state.exact import ONE
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    Split,
    TransferIn,
    TransferOut,
)
from state.records import Changes, RunUpdates, Update, last_id, pack_ids
from state.run import run_of

DAY_MS = 86_400_000
SAYS = Instrument("EUR", 100 * ONE, 7, "FUT")


def messages(rng: random.Random, count: int, *, own_charges: bool) -> list[Message]:
    """Make executions, each with its commission, or with a report of it some time later."""
    time = 1_700_000_000_000
    made: list[Message] = []
    waiting: list[Execution] = []
    for number in range(count):
        time += rng.choice([0, 1000, DAY_MS // 3])
        qty = rng.choice([-1, 1]) * rng.choice([ONE, 7 * ONE, ONE // 2, 1])
        commission = rng.choice([0, ONE // 3, -5]) if own_charges else None
        execution = Execution(
            f"e{number}", f"e{number}", 1, time, qty, rng.randint(1, 10**13), commission, number,
            "BUY" if qty > 0 else "SELL", SAYS, rng.choice([None, "trend"]),
        )  # fmt: skip
        made.append(execution)
        if commission is None:
            waiting.append(execution)
        while waiting and rng.random() < 0.5:
            of = waiting.pop(rng.randrange(len(waiting)))
            fee = rng.randint(-5, 10**10)
            made.append(CommissionReport(of.exec_id, of.identity, 1, of.timestamp, fee, "EUR"))
    return made


def one_by_one(book: Book, part: Sequence[Message], first: int) -> Changes:
    updates = []
    for number, message in enumerate(part):
        applied = book.apply(message)
        assert applied is not None
        updates.append(Update(f"5-{first + number}", message, applied, book.snapshot()))
    return Changes("s", "k", updates[-1].stream_id, book.snapshot(), updates, live=False)


def in_a_run(book: Book, part: Sequence[Message], first: int) -> Changes:
    update = book.apply_run(run_of(part))
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


@pytest.mark.parametrize("own_charges", [True, False], ids=["own charges", "reports"])
@pytest.mark.parametrize("seed", range(20))
def test_runs_make_the_rows_that_single_messages_make(seed: int, *, own_charges: bool) -> None:
    rng = random.Random(seed)
    changes, expected = [], []
    first = 0
    for symbol in ("AAPL", "MSFT", "IBM"):
        single, runs = Book(symbol, "U1"), Book(symbol, "U1")
        listed = messages(rng, 40, own_charges=own_charges)
        while listed:
            cut = rng.randint(1, 25)
            part, listed = listed[:cut], listed[cut:]
            expected.append(one_by_one(single, part, first))
            changes.append(in_a_run(runs, part, first))
            first += len(part)
    assert rows(changes) == rows(expected)


@pytest.mark.parametrize("own_charges", [True, False], ids=["own charges", "reports"])
def test_a_replayed_run_is_cut_at_the_entry_that_was_written_last(*, own_charges: bool) -> None:
    listed = messages(random.Random(3), 30, own_charges=own_charges)
    whole = in_a_run(Book("AAPL"), listed, 0)
    expected = rows([one_by_one(Book("AAPL"), listed, 0)])
    for start in range(len(listed)):
        kept = rows([whole.after((5, start - 1))])
        for data_set, all_rows in expected.items():
            later = [row for row in all_rows if int(str(row["stream_id"]).split("-")[1]) >= start]
            assert kept[data_set] == later


def test_a_run_of_reports_alone_makes_their_rows() -> None:
    listed = messages(random.Random(5), 20, own_charges=True)
    bought = [m._replace(commission=None) for m in listed if isinstance(m, Execution)]
    reports = [CommissionReport(m.exec_id, m.exec_id, 1, m.timestamp, ONE, "EUR") for m in bought]
    single, runs = Book("AAPL"), Book("AAPL")
    expected = [one_by_one(single, bought, 0), one_by_one(single, reports, 20)]
    made = [in_a_run(runs, bought, 0), in_a_run(runs, reports, 20)]
    assert rows(made) == rows(expected)
    assert rows(made[1:]) == rows(expected[1:])


def test_figures_beyond_64_bits_are_exact() -> None:
    big = 100_000_000 * ONE
    part = [Execution(f"e{n}", f"e{n}", 1, n, big, 9 * ONE, None, n) for n in range(4)]
    book = Book("X")
    for start in range(0, 4, 2):
        changes = [in_a_run(book, part[start : start + 2], start)]
    [table] = [table.rows for table in tables(changes) if table.data_set == "positions"]
    assert table.column("qty").to_pylist()[-1] == Decimal(400_000_000)
    assert table.column("cost_basis").to_pylist()[-1] == 9 * Decimal(400_000_000)


def test_runs_whose_units_do_not_fit_on_one_line_are_divided() -> None:
    big = 200_000_000 * ONE
    updates = []
    for number in range(5):
        part = [Execution("e", "e", 1, 0, big, ONE, None, 1)]
        changes = in_a_run(Book(f"K{number}"), part, number)
        assert isinstance(changes.updates, RunUpdates)
        updates.append(changes.updates)
    divided = list(_on_one_line(updates))
    assert [run for some in divided for run in some] == updates
    assert [len(some) for some in divided] == [2, 2, 1]
    assert all(np.iinfo(np.int64).max > sum(big for _ in some) for some in divided)


def test_each_type_of_message_says_what_is_its_own() -> None:
    time = 1_700_000_000_000
    listed: list[Message] = [
        Opening("held", time, 10 * ONE, ONE),
        Execution("e", "e", 1, time, 2 * ONE, 3 * ONE, ONE, 5, "BUY", Instrument(), "trend", "EUR"),
        CommissionReport("e", "e", 1, time, 2 * ONE, "CHF"),
        Split("s", time, 2, 1), Cost("c", time, -1), TransferOut("o", time, ONE),
        TransferIn("i", time, ONE, ONE, None, time),
    ]  # fmt: skip
    book = Book("X")
    assert book.apply(ContractNumber(time, 7)) is None
    found = rows([one_by_one(book, listed, 0)])["positions"]
    kinds = ["opening", "execution", "commission", "split", "cost", "transfer", "transfer"]
    assert [row["type"] for row in found] == kinds
    assert [row["exec_id"] for row in found] == ["held", "e", "e", "s", "c", "o", "i"]
    said = [(row["message_commission"], row["message_commission_currency"]) for row in found]
    assert said == [(None, None), (1, "EUR"), (2, "CHF"), *[(None, None)] * 4]
    assert [row["order_ref"] for row in found] == [None, "trend", *[None] * 5]
    assert found[1]["other_commissions"] == '{"EUR": 1}'
    assert found[2]["other_commissions"] == '{"CHF": 2}'


def test_commissions_in_other_currencies_are_written_exactly() -> None:
    assert other_commissions_json(()) is None
    assert other_commissions_json((("CHF", -ONE // 2), ("EUR", 3))) == (
        '{"CHF": -0.5, "EUR": 0.0000000003}'
    )
