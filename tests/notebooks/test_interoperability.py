"""Other programs read the data sets with one line each, and lose nothing.

The lines are those of docs/reference.md. The rows are compared with what the files hold, read
one by one.
"""

from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.support.flow_process import Row, parse, read_rows


def by_polars(data_set: Path) -> tuple[dict[str, str], list[Row]]:
    frame = pl.scan_parquet(data_set).collect()
    return {name: str(kind) for name, kind in frame.schema.items()}, frame.to_dicts()


def by_duckdb(data_set: Path) -> tuple[dict[str, str], list[Row]]:
    rows = duckdb.sql(f"SELECT * FROM '{data_set}/*/*.parquet'")  # noqa: S608
    assert rows is not None
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    return types, rows.to_arrow_table().to_pylist()


def by_pandas(data_set: Path) -> tuple[dict[str, str], list[Row]]:
    frame = pd.read_parquet(data_set, dtype_backend="pyarrow")
    types = {str(name): str(kind) for name, kind in frame.dtypes.items()}
    return types, pa.Table.from_pandas(frame, preserve_index=False).to_pylist()


Read = Callable[[Path], tuple[dict[str, str], list[Row]]]

EXPECTED: dict[Read, dict[str, str]] = {
    by_polars: {
        "qty": "Decimal(precision=38, scale=10)",
        "realized_pnl": "Decimal(precision=38, scale=20)",
        "time": "Datetime(time_unit='ms', time_zone='UTC')",
        "date": "Date",
    },
    by_duckdb: {
        "qty": "DECIMAL(38,10)",
        "realized_pnl": "DECIMAL(38,20)",
        "time": "TIMESTAMP WITH TIME ZONE",
        "date": "DATE",
    },
    by_pandas: {
        "qty": "decimal128(38, 10)[pyarrow]",
        "realized_pnl": "decimal128(38, 20)[pyarrow]",
        "time": "timestamp[ms, tz=UTC][pyarrow]",
        "date": "dictionary<values=string, indices=int32, ordered=0>[pyarrow]",
    },
}
"""What programs call the types; `time` stands for the data set's own time."""


@pytest.mark.parametrize("read", EXPECTED)
@pytest.mark.parametrize(
    ("data_set", "time"),
    [("positions", "message_timestamp"), ("closed_lots", "close_timestamp")],
)
def test_a_data_set_is_read_with_one_line(
    data_dir: Path, read: Read, data_set: str, time: str
) -> None:
    types, rows = read(data_dir / data_set)
    for name, kind in EXPECTED[read].items():
        assert types[time if name == "time" else name] == kind
    expected = read_rows(data_dir, data_set)
    assert set(types) == set(expected[0])
    assert countable(rows) == countable(expected)


def countable(rows: list[Row]) -> Counter[tuple[object, ...]]:
    """Return how often each row is there, whatever the order of rows and columns."""
    return Counter(tuple(plain(name, row[name]) for name in sorted(row)) for row in rows)


def plain(name: str, value: Any) -> object:
    """Return a value as every program has it: some give a date's text, and no program a dict."""
    if name == "date" and isinstance(value, str):
        return date.fromisoformat(value)
    if name == "other_commissions" and value is not None:
        return tuple((parse(value) if isinstance(value, str) else value).items())
    return value
