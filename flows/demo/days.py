"""What the sample was worth at the end of each of its days.

The flow that values goes by the clock, and the sample is half a year that is booked in
seconds. So the flow's own parts, what values a position and what writes the data set
`valuations`, are given the sample's days instead: a symbol's mark is the price at which it
traded last.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import polars as pl

from connectors.parquet.minutes import MINUTE_MS, MinuteFiles
from connectors.redis.exact_json import to_json
from connectors.redis.valuations import read_holding
from flows.common.rows import scan
from state.exact import from_text, milliseconds
from state.valuation import Day, Holding, Mark, value

_CLOSES = time(21, tzinfo=UTC)
_STALE_MS = 60_000


def value_days(data_dir: Path) -> None:
    """Write a row for each key and each day with an execution, beside the flow's own rows."""
    files = MinuteFiles(data_dir)
    files.lock()
    try:
        totals: dict[str, int | None] = {}
        for close, marks, holdings in _days(data_dir):
            day = f"{datetime.fromtimestamp(close / 1000, UTC):%Y-%m-%d}"
            for key, holding in holdings.items():
                began = Day(day, totals.get(key, 0))
                mark = Mark(marks[holding.symbol], close) if holding.symbol in marks else None
                valuation = value(holding, mark, began, close, _STALE_MS)
                totals[key] = valuation.total_pnl
                files.add(key, valuation, close)
            files.end_minute(close + MINUTE_MS)
    finally:
        files.close()


def _days(data_dir: Path) -> Iterator[tuple[int, dict[str, int], dict[str, Holding]]]:
    """Yield each day's close (ms), each symbol's price by then, and the positions by then."""
    rows = (
        scan(data_dir)
        .sort("arrival", "number")
        # All of it was published at once: what had come by a day is told by what came with it.
        .with_columns(by=pl.col("message_timestamp").cum_max().over("account"))
        .collect()
    )
    filled = rows.filter((pl.col("type") == "execution") & (pl.col("fill_qty") > 0))
    for date in filled["message_timestamp"].dt.date().unique().sort():
        close = datetime.combine(date, _CLOSES)
        prices = filled.filter(pl.col("by") <= close).unique("symbol", keep="last")
        held = rows.filter(pl.col("by") <= close).unique("key", keep="last", maintain_order=True)
        yield (
            milliseconds(close),
            {s: from_text(f"{p:f}") for s, p in prices.select("symbol", "fill_price").iter_rows()},
            {row["key"]: _holding(row) for row in held.iter_rows(named=True)},
        )


def _holding(row: dict[str, Any]) -> Holding:
    return read_holding(to_json({name: row[name] for name in Holding._fields}).encode())
