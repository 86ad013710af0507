"""The two ways to rows, one by one and in runs, lead to the same tables."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.parquet import tables as tables_module
from connectors.parquet.tables import DATA_SETS, _on_one_line, other_commissions_json, tables
from state.book import Book
from state.exact import ONE
from state.messages import (
    CommissionReport,
    Execution,
    Instrument,
    Message,
    RejectedError,
)
from state.records import Changes, RunUpdates, Update, id_order, last_id, pack_ids
from tests.support.notation import message, messages
from tests.support.runs import fit_together, plain_sessions, reads, run_of
from tests.support.strategies import SETTINGS, sessions

DAY_MS = 86_400_000

Rows = dict[str, list[dict[str, Any]]]


def one_by_one(book: Book, part: Sequence[Message], first: int) -> list[Changes]:
    """Book messages, the first of which entry 5-first brought, each by itself."""
    updates = []
    for number, each in enumerate(part, first):
        try:
            applied = book.apply(each)
        except RejectedError:
            continue
        if applied is not None:
            updates.append(Update(f"5-{number}", each, applied, book.snapshot()))
    if not updates:
        return []
    return [Changes("s", "k", updates[-1].stream_id, book.snapshot(), updates, live=False)]


def in_a_run(book: Book, part: Sequence[Message], first: int) -> list[Changes] | None:
    """Book messages as a run, if the book takes them so."""
    update = book.apply_run(run_of(part)) if fit_together(part) else None
    if update is None:
        return None
    ids = pack_ids(f"5-{number}".encode() for number in range(first, first + len(part)))
    return [Changes("s", "k", last_id(ids), book.snapshot(), RunUpdates(ids, update), live=False)]


def rows(changes: Sequence[Changes]) -> Rows:
    """Return all rows of each data set, key by key, with the date they belong to."""
    found: Rows = {name: [] for name in DATA_SETS}
    for data_set, day, table in tables(changes):
        assert table.schema.equals(DATA_SETS[data_set])
        table.validate(full=True)
        assert table.num_rows > 0
        found[data_set] += [{"day": day, **row} for row in table.to_pylist()]
    for listed in found.values():
        # Stable, so what one entry closed stays in order.
        listed.sort(key=lambda row: (row["symbol"], number_of(row)))
    return found


def number_of(row: dict[str, Any]) -> int:
    return id_order(row["stream_id"])[1]


def check_same(by_runs: Sequence[Changes], single: Sequence[Changes]) -> None:
    found, expected = rows(by_runs), rows(single)
    for data_set, listed in expected.items():
        for row, other in zip(found[data_set], listed, strict=True):
            assert row == other


# --- runs against single messages -----------------------------------------------------------


@SETTINGS
@given(st.lists(plain_sessions(25), min_size=1, max_size=3), st.data())
def test_runs_make_the_rows_that_single_messages_make(
    keys: list[list[Message]], data: st.DataObject
) -> None:
    by_runs: list[Changes] = []
    single: list[Changes] = []
    for number, taken in enumerate(keys):
        fast, slow = (Book(f"S{number}", "U1" if number else None) for _ in range(2))
        first = 0
        for read in reads(data, taken):
            single += one_by_one(slow, read, first)
            run = in_a_run(fast, read, first)
            assert run is not None
            by_runs += run
            first += len(read)
    assert all(isinstance(change.updates, RunUpdates) for change in by_runs)
    check_same(data.draw(st.permutations(by_runs)), single)


@SETTINGS
@given(sessions(), st.data())
def test_runs_among_other_messages_make_the_same_rows(
    taken: list[Message], data: st.DataObject
) -> None:
    by_runs: list[Changes] = []
    single: list[Changes] = []
    fast, slow, first = Book("XYZ", "U1"), Book("XYZ", "U1"), 0
    for read in reads(data, taken):
        single += one_by_one(slow, read, first)
        run = in_a_run(fast, read, first)
        by_runs += one_by_one(fast, read, first) if run is None else run
        first += len(read)
    check_same(by_runs, single)


def busy(rng: random.Random, count: int) -> list[Message]:
    """Make executions over some days, each with a report some messages later."""
    time = 1_700_000_000_000
    found: list[Message] = []
    waiting: list[Message] = []
    says = Instrument("EUR", rng.choice([1, 100]) * ONE, 7, rng.choice([None, "FUT"]))
    for number in range(count):
        time += rng.choice([0, 1000, DAY_MS // 3])
        qty = rng.choice([-1, 1]) * rng.choice([ONE, 7 * ONE, ONE // 2, 1])
        fee = rng.choice([None, None, 0, ONE // 3, -5])
        fill = Execution(
            f"e{number}", f"e{number}", 1, time, qty, rng.randint(1, 10**13), fee, number,
            "BUY" if qty > 0 else "SELL", says, rng.choice([None, "mine"]),
        )  # fmt: skip
        found.append(fill)
        if fee is None:
            waiting.append(
                CommissionReport(
                    fill.exec_id, fill.identity, 1, time, rng.randint(1, 10**10), "EUR"
                )
            )
        while waiting and rng.random() < 0.5:
            found.append(waiting.pop(rng.randrange(len(waiting))))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_most_runs_are_taken_and_make_the_same_rows(seed: int) -> None:
    rng = random.Random(seed)
    by_runs, single, taken = [], [], 0
    for symbol in ("A", "B", "C"):
        fast, slow = Book(symbol), Book(symbol)
        left, first = busy(rng, 60), 0
        while left:
            size = rng.randint(1, 25)
            single += one_by_one(slow, left[:size], first)
            run = in_a_run(fast, left[:size], first)
            taken += run is not None
            by_runs += one_by_one(fast, left[:size], first) if run is None else run
            first, left = first + size, left[size:]
    assert taken > 0.9 * len(by_runs)
    check_same(by_runs, single)


def test_a_replayed_run_is_cut_at_the_entry_that_was_written_last() -> None:
    taken = busy(random.Random(3), 30)
    [before], [whole] = (in_a_run(book, part, first) or [] for book in [Book("AAPL")]
                         for part, first in ((taken[:9], 0), (taken[9:], 9)))  # fmt: skip
    slow = Book("AAPL")
    one_by_one(slow, taken[:9], 0)
    expected = rows(one_by_one(slow, taken[9:], 9))
    for start in range(9, len(taken) + 1):
        kept = whole.after((5, start - 1))
        assert kept.size == len(taken) - start
        if not kept.size:
            break
        assert kept.first_id == f"5-{start}"
        # What comes whole beside it stays whole.
        for changes in ([kept], [before, kept]):
            found = rows(changes)
            for data_set, all_rows in expected.items():
                later = [row for row in all_rows if number_of(row) >= start]
                assert [row for row in found[data_set] if number_of(row) >= 9] == later
    assert kept.size == 0


def test_rows_of_single_messages_are_cut_too() -> None:
    taken = busy(random.Random(4), 10)
    [whole] = one_by_one(Book("AAPL"), taken, 0)
    expected = rows([whole])
    found = rows([whole.after((5, 3))])
    for data_set, all_rows in expected.items():
        assert found[data_set] == [row for row in all_rows if number_of(row) > 3]


def test_nothing_makes_no_table() -> None:
    assert list(tables([])) == []
    shown = Book("AAPL").snapshot()
    assert list(tables([Changes("s", "k", "5-0", shown, [], live=True)])) == []


def test_figures_beyond_64_bits_are_exact() -> None:
    big = 300_000_000 * ONE
    part = [Execution(f"e{n}", f"e{n}", 1, 10**12 + n, big, 7 * ONE, None, n) for n in range(3)]
    books = [Book("X"), Book("X")]
    assert in_a_run(books[0], part, 0) is None  # too many units for a run
    [table] = [
        one.rows for one in tables(one_by_one(books[1], part, 0)) if one.data_set == "positions"
    ]
    assert table.column("qty").to_pylist()[-1] == Decimal(900_000_000)
    assert table.column("cost_basis").to_pylist()[-1] == 7 * Decimal(900_000_000)


@pytest.mark.parametrize("held", ["BUY 1 @ 950000000", "BUY 0.1 @ 5 x950000000"])
def test_a_run_beside_a_price_or_a_multiplier_beyond_64_bits_makes_its_rows(held: str) -> None:
    lines = messages(held, "BUY 0.01 @ 1", "BUY 0.02 @ 2")
    fast, slow = Book("X"), Book("X")
    by_runs = one_by_one(fast, lines[:1], 0)
    run = in_a_run(fast, lines[1:], 1)
    assert run is not None
    check_same(by_runs + run, one_by_one(slow, lines, 0))


@pytest.mark.parametrize(("opens", "closes"), [("BUY", "SELL"), ("SELL", "BUY")])
@pytest.mark.parametrize("before", [0, 1], ids=["opened in the run", "held before"])
def test_runs_with_more_units_together_than_64_bits_count_are_exact(
    opens: str, closes: str, before: int
) -> None:
    by_runs, single = [], []
    for number in range(6):
        lines = (
            f"{opens} 200000000 @ {number + 1}.01 fee 1", f"{closes} 1.0000000001 @ 7.5",
            f"{closes} 6 @ 9", "#2 REPORT 3",
        )  # fmt: skip
        part = messages(*lines)
        fast, slow = Book(f"S{number}"), Book(f"S{number}")
        for book in (fast, slow):
            one_by_one(book, part[:before], 0)
        run = in_a_run(fast, part[before:], before)
        assert run is not None
        by_runs += run
        single += one_by_one(slow, part[before:], before)
    check_same(by_runs, single)


@pytest.mark.parametrize(
    ("line", "expected"),
    [(8, [1] * 5), (9, [2, 1, 2]), (1, [1] * 5), (21, [5])],
)
def test_runs_are_divided_where_their_units_do_not_fit_on_one_line(
    monkeypatch: pytest.MonkeyPatch, line: int, expected: list[int]
) -> None:
    """Each begins with 1 unit short, and trades 3."""
    unit = "0.0000000001"
    updates = []
    for number in range(5):
        book = Book(f"S{number}")
        book.apply(message(f"SELL {unit} @ 1"))
        lines = (f"BUY {unit} @ 1", f"SELL {unit} @ 1", f"BUY {unit} @ 1")
        [change] = in_a_run(book, [message(one, n) for n, one in enumerate(lines, 2)], 0) or []
        assert isinstance(change.updates, RunUpdates)
        updates.append(change.updates)
    monkeypatch.setattr(tables_module, "_LONGEST_LINE", line)
    divided = list(_on_one_line(updates))
    assert [run for some in divided for run in some] == updates
    assert [len(some) for some in divided] == expected


def test_what_is_on_one_line_fits_in_64_bits_whatever_a_float_makes_of_it() -> None:
    assert 2 * tables_module._LONGEST_LINE <= 2**63


def test_runs_of_reports_alone_make_their_rows() -> None:
    bought = messages("BUY 3 @ 5", "BUY 1 @ 6", "SELL 2 @ 7")
    reports = messages("#1 REPORT 1", "#3 REPORT 2.5 at 2")
    single, runs = Book("XYZ"), Book("XYZ")
    expected = one_by_one(single, bought, 0) + one_by_one(single, reports, 3)
    found = (in_a_run(runs, bought, 0) or []) + (in_a_run(runs, reports, 3) or [])
    assert len(found) == 2
    check_same(found, expected)
    check_same(found[1:], expected[1:])


# --- what a row holds -----------------------------------------------------------------------


def test_each_type_of_message_makes_a_row_of_its_own_form() -> None:
    book = Book("XYZ", "U1")
    lines = [
        "OPENING 5 @ 10 at 1", "BUY 3 @ 5 fee 1.5 EUR adj 2", "#2 REPORT 2 at 3", "SPLIT 2:1 at 4",
        "COST -0.5 at 5", "#9 OUT 4 at 6", "#8 IN 1 @ 3 of 2 at 7", "NUMBER 8 at 8",
        "#2.2 BUST at 2", "SELL 1 @ 2",
    ]  # fmt: skip
    taken = messages(*lines)
    found = rows(one_by_one(book, taken, 0))["positions"]
    own = ("type", "exec_id", "side", "fill_qty", "fill_price", "order_id", "message_commission",
           "message_commission_currency")  # fmt: skip
    bust, sold = "00000002.00000002.01.02", "00000010.00000010.01.01"
    assert [tuple(row[name] for name in own) for row in found] == [
        ("opening", "opening", None, None, None, None, None, None),
        ("execution", bust[:-1] + "1", "BUY", 3, 5, 2, Decimal("1.5"), "EUR"),
        ("commission", bust[:-1] + "1", None, None, None, None, 2, "USD"),
        ("split", "4000", None, None, None, None, None, None),
        ("cost", "5000", None, None, None, None, None, None),
        ("transfer", "9", None, None, None, None, None, None),
        ("transfer", "8", None, None, None, None, None, None),
        ("execution", bust, "BUY", 0, 1, 2, None, None),
        ("execution", sold, "SELL", 1, 2, 10, None, None),
    ]
    times = [row["message_timestamp"] for row in found]
    assert times == [datetime.fromtimestamp(second, UTC) for second in (1, 2, 3, 4, 5, 6, 7, 2, 10)]
    assert [row["other_commissions"] for row in found[:3]] == [None, '{"EUR": 1.5}', None]
    assert [row["basis_adjustment"] for row in found[:3]] == [0, 2, 2]
    assert found[0]["timestamp"] is None
    assert [row["stream_id"] for row in found] == [f"5-{at}" for at in (0, 1, 2, 3, 4, 5, 6, 8, 9)]


def test_a_report_is_in_its_own_currency() -> None:
    taken = messages("BUY 3 @ 5", "#1 REPORT 2 EUR at 3", "BUY 1 @ 5", "#3 REPORT 1")
    found = rows(one_by_one(Book("XYZ"), taken, 0))["positions"]
    own = ("message_commission", "message_commission_currency", "commission", "other_commissions")
    assert [tuple(row[name] for name in own) for row in found] == [
        (None, None, 0, None), (2, "EUR", 0, '{"EUR": 2}'), (None, None, 0, '{"EUR": 2}'),
        (1, "USD", 1, '{"EUR": 2}'),
    ]  # fmt: skip


def test_what_is_named_of_the_instrument_is_in_each_row() -> None:
    said = [Instrument("EUR", ONE, 7, "STK"), Instrument(), Instrument(sec_type="FUND")]
    part: list[Message] = []
    for number, instrument in enumerate(said, 1):
        fill = message("BUY 1 @ 5", number)
        assert isinstance(fill, Execution)
        part.append(fill._replace(instrument=instrument, order_ref=f"ref {number}"))
    single, runs = Book("XYZ"), Book("XYZ")
    found = rows(one_by_one(single, part, 0))["positions"]
    assert [(row["sec_type"], row["con_id"]) for row in found] == [
        ("STK", 7), ("STK", 7), ("FUND", 7),
    ]  # fmt: skip
    assert [row["order_ref"] for row in found] == ["ref 1", "ref 2", "ref 3"]
    changes = [in_a_run(runs, [each], at) or [] for at, each in enumerate(part)]
    assert rows([change for some in changes for change in some])["positions"] == found


def test_a_report_before_a_run_s_first_execution_tells_nothing_that_this_one_names() -> None:
    said = [Instrument(), Instrument(con_id=7, sec_type="STK")]
    bought, report, sold = messages("BUY 2 @ 5", "#1 REPORT 1", "SELL 1 @ 6")
    assert isinstance(bought, Execution)
    assert isinstance(sold, Execution)
    parts: list[list[Message]] = [
        [bought._replace(instrument=said[0])],
        [report, sold._replace(instrument=said[1])],
    ]
    single, runs = Book("XYZ"), Book("XYZ")
    expected = [one_by_one(single, part, at) for at, part in enumerate(parts)]
    found = [in_a_run(runs, part, at) or [] for at, part in enumerate(parts)]
    check_same([*found[0], *found[1]], [*expected[0], *expected[1]])
    told = [(row["sec_type"], row["con_id"]) for row in rows(found[1])["positions"]]
    assert told == [(None, None), ("STK", 7)]


def test_a_row_is_under_the_date_of_the_position_or_of_its_own_message() -> None:
    book = Book("XYZ")
    day = DAY_MS // 1000
    lines = (f"OPENING 5 @ 10 at {3 * day}", f"COST 1 at {4 * day}", f"BUY 1 @ 2 at {2 * day}",
             f"COST 1 at {6 * day}", f"SELL 2 @ 2 at {2 * day + 1}")  # fmt: skip
    found = rows(one_by_one(book, messages(*lines), 0))
    assert [row["day"] for row in found["positions"]] == [3, 4, 2, 2, 2]
    assert [row["day"] for row in found["closed_lots"]] == [2]


@pytest.mark.parametrize("days", [(1, 2, 1), (1, 1, 2), (2, 1, 1), (1, 1, 1)])
def test_runs_of_several_days_are_each_under_their_own(days: tuple[int, ...]) -> None:
    by_runs, single = [], []
    for number, day in enumerate(days):
        time = day * DAY_MS // 1000
        part = messages(f"BUY 2 @ 5 at {time}", f"SELL 1 @ 6 at {time + 5}")
        fast, slow = Book(f"S{number}"), Book(f"S{number}")
        by_runs += in_a_run(fast, part, 2 * number) or []
        single += one_by_one(slow, part, 2 * number)
    assert len(by_runs) == len(days)
    check_same(by_runs, single)
    assert [row["day"] for row in rows(by_runs)["closed_lots"]] == list(days)


def test_a_match_that_is_undone_is_taken_back_under_its_own_date() -> None:
    book = Book("XYZ")
    day = DAY_MS // 1000
    lines = ("BUY 5 @ 10 at 1", f"#2 SELL 5 @ 12 at {day}", f"#2.2 SELL 4 @ 12 at {2 * day}")
    found = rows(one_by_one(book, messages(*lines), 0))["closed_lots"]
    assert [(row["day"], row["qty"], row["realized_pnl"]) for row in found] == [
        (1, 5, 10), (1, -5, -10), (2, 4, 8),
    ]  # fmt: skip


def test_commissions_in_other_currencies_are_written_exactly() -> None:
    assert other_commissions_json(()) is None
    assert other_commissions_json((("CHF", -ONE // 2), ('"E', 3))) == (
        '{"CHF": -0.5, "\\"E": 0.0000000003}'
    )
