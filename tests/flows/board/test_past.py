"""The curves: from which points they are drawn, and how they go on from the Parquet files."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.parquet.tables import POSITIONS_SCHEMA
from connectors.redis.overview import Overview, Position, _position
from flows.board import past as past_module
from flows.board.past import (
    CURVE_POINTS,
    PAST_DAYS,
    SPARK_POINTS,
    Past,
    read_past,
    thinned,
)
from tests.support.hash_values import position
from tests.support.rows import write_rows


def held(symbol: str, pnl: float, **members: Any) -> Position:
    return _position(symbol, position(symbol, realized_pnl=pnl, **members).encode())


def overview(*positions: Position) -> Overview:
    return Overview(1, {each.symbol: each for each in positions}, [], 0)


def rows(*told: tuple[str, str, int, float, float]) -> pl.DataFrame:
    """Return rows of (key, currency, time, P&L, change)."""
    names = ("key", "currency", "time", "pnl", "change")
    return pl.DataFrame(told, schema=list(names), orient="row")


def test_a_point_is_the_sum_at_the_latest_execution_of_its_currency() -> None:
    past = Past()
    a, b = held("A", 5, timestamp=2000), held("B", 7, currency="EUR", timestamp=100)
    late, later_still = held("C", 1, timestamp=1500), held("E", 0, timestamp=1700)
    points = past.note(overview(a, b, late), ["A", "B", "C"])
    assert points == {"USD": (2000, 6.0), "EUR": (100, 7.0)}
    assert past.note(overview(a, b, late, later_still), ["E"])["USD"] == (2000, 6.0)
    assert past.curves["USD"] == [(2000, 6.0)], "of one time the last"
    opened = held("D", 0, timestamp=None, stream_id="3000-7")
    past.note(overview(a, b, late, opened), ["D"])
    assert past.curves["USD"] == [(2000, 6.0), (3000, 6.0)]
    assert list(past.sparks["A"]) == [5.0]


def test_a_curve_never_goes_back_in_time_behind_what_was_read() -> None:
    past = Past()
    past.curves["USD"] = [(9000, 1.0)]
    assert past.note(overview(held("A", 5, timestamp=2000)), ["A"])["USD"] == (9000, 5.0)


def test_a_small_curve_has_a_point_for_each_figure_that_differs() -> None:
    past = Past()
    for pnl in (1, 1, 2, 2, 1):
        past.note(overview(held("A", pnl)), ["A"])
    assert list(past.sparks["A"]) == [1, 2, 1]
    for pnl in range(3, 100):
        past.note(overview(held("A", pnl)), ["A"])
    assert list(past.sparks["A"]) == list(range(100 - SPARK_POINTS, 100))


def test_a_curve_is_thinned_and_keeps_its_last_point() -> None:
    past = Past()
    for number in range(3 * CURVE_POINTS):
        past.note(overview(held("A", number, timestamp=number)), ["A"])
    assert CURVE_POINTS <= len(past.curves["USD"]) <= 2 * CURVE_POINTS
    assert past.curves["USD"][-1] == (3 * CURVE_POINTS - 1, 3 * CURVE_POINTS - 1)
    assert thinned([]) == []
    assert thinned([(1, 1.0)]) == [(1, 1.0)]
    long = [(n, 0.0) for n in range(10 * CURVE_POINTS + 5)]
    assert thinned(long)[-1] == long[-1]


def test_the_past_ends_where_the_positions_are_and_takes_the_unmoved_in() -> None:
    past = Past()
    told = rows(
        ("A", "USD", 2000, 5, 2), ("A", "USD", 1000, 9, 4), ("A", "USD", 3000, 9, 0),
        ("B", "USD", 4000, 1, 1), ("C", "EUR", 1, 7, 7),
    )  # fmt: skip
    now = {
        "A": held("A", 9), "B": held("B", 1), "unmoved": held("unmoved", 100),
        "C": held("C", 7, currency="EUR"), "other": held("other", 50, currency="EUR"),
    }  # fmt: skip
    past.begin(told, now)
    assert past.curves["USD"] == [(1000, 107), (2000, 109), (3000, 109), (4000, 110)]
    assert past.curves["EUR"] == [(1, 57)]
    assert list(past.sparks["A"]) == [5, 9]
    assert past.note(overview(*now.values()), [])["USD"] == (4000, 110)


def test_of_the_files_the_latest_are_read_in_order_of_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "[data]*"  # its name may hold a glob's signs
    for day in range(1, PAST_DAYS + 2):
        directory = data_dir / "positions" / f"date=2024-01-0{day}"
        directory.mkdir(parents=True)
        moment = datetime(2024, 1, day, tzinfo=UTC)
        for number, entry in enumerate((f"{day}-10", f"{day}-9")):
            row = {"symbol": "A", "stream_id": entry, "message_timestamp": moment}
            path = directory / f"{number}.parquet"
            pq.write_table(pa.Table.from_pylist([row], POSITIONS_SCHEMA), path)
            os.utime(path, (10 * day + number,) * 2)
    found = read_past(data_dir)
    assert found.select("ms", "seq").rows() == [(2, 9), (2, 10), (3, 9), (3, 10)]
    monkeypatch.setattr(past_module, "PAST_FILES", 3)
    assert read_past(data_dir).select("ms", "seq").rows() == [(2, 9), (3, 9), (3, 10)]


def test_of_each_row_its_key_its_own_time_and_what_it_made_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path, "U1", "A", ["BUY 2 @ 5 at 70", "SELL 1 @ 8 at 80", "SELL 1 @ 4 at 90"])
    write_rows(tmp_path, None, "B", ["BUY 1 @ 5 at 95"])
    assert read_past(tmp_path).sort("key", maintain_order=True).rows() == [
        ("B", "USD", 95_000, 0.0, 0.0, 1000, 0),
        ("U1:A", "USD", 70_000, 0.0, 0.0, 1000, 0),
        ("U1:A", "USD", 80_000, 3.0, 3.0, 2000, 0),
        ("U1:A", "USD", 90_000, 2.0, -1.0, 3000, 0),
    ]
