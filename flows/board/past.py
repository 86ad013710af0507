"""The curves that the page draws: how realized P&L came about.

A curve needs a past: it is read from the Parquet files once, at the start.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from connectors.redis.overview import Overview, Position
from flows.common.rows import days, files_of, scan

SPARK_POINTS, CURVE_POINTS = 40, 600
PAST_DAYS, PAST_FILES = 2, 2000
"""How much of the Parquet data the curves begin with: the latest of it."""

Point = tuple[int, float]
"""Milliseconds since 1970, P&L."""


class Past:
    """How realized P&L came about: a few points per position, a curve per currency.

    Only for drawing, so figures are floats.
    """

    def __init__(self) -> None:
        self.sparks: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=SPARK_POINTS))
        self.curves: dict[str, list[Point]] = {}
        self._latest: dict[str, int] = {}

    def note(self, overview: Overview, changed: Iterable[str]) -> dict[str, Point]:
        """Add what has changed; return the new point of each curve."""
        for key in changed:
            position = overview.positions[key]
            spark, pnl = self.sparks[key], float(position.realized_pnl)
            if not spark or spark[-1] != pnl:
                spark.append(pnl)
            # The executions' own time: also a replay of last year draws a sensible curve.
            time = position.changed_at if position.timestamp is None else position.timestamp
            self._latest[position.currency] = max(self._latest.get(position.currency, 0), time)
        return {
            total.currency: self._add(total.currency, float(total.realized_pnl))
            for total in overview.totals
        }

    def _add(self, currency: str, pnl: float) -> Point:
        curve = self.curves.setdefault(currency, [])
        point = (max(self._latest[currency], curve[-1][0] if curve else 0), pnl)
        if curve and curve[-1][0] == point[0]:
            curve.pop()
        curve.append(point)
        if len(curve) > 2 * CURVE_POINTS:
            self.curves[currency] = thinned(curve)
        return point

    def begin(self, rows: pl.DataFrame, now: Mapping[str, Position]) -> None:
        """Draw the past from rows of the `positions` data set, up to the positions of now."""
        for (key,), of_key in rows.group_by("key", maintain_order=True):
            values = of_key.filter(pl.col("change") != 0)["pnl"].to_list()
            self.sparks[str(key)].extend(values)
        for (currency,), of_currency in rows.group_by("currency", maintain_order=True):
            moved = set(of_currency["key"])
            rest = sum(
                float(position.realized_pnl)
                for key, position in now.items()
                if position.currency == currency and key not in moved
            )
            last = sum(of_currency.group_by("key").last()["pnl"].to_list())
            start = rest + last - sum(of_currency["change"].to_list())
            curve = of_currency.sort("time", maintain_order=True).select(
                "time", pnl=start + pl.col("change").cum_sum()
            )
            self.curves[str(currency)] = thinned(curve.rows())
            self._latest[str(currency)] = curve["time"][-1]


def thinned(curve: list[Point]) -> list[Point]:
    """Return about as many points of a curve as can be drawn, the last one among them."""
    step = max(1, len(curve) // CURVE_POINTS)
    return curve[::-step][::-1]


def read_past(data_dir: Path) -> pl.DataFrame:
    """Return the latest rows of the `positions` data set, in order of their entries."""
    files = [path for day in days(data_dir / "positions")[-PAST_DAYS:] for path in files_of(day)]
    latest = sorted(files, key=lambda path: path.stat().st_mtime)[-PAST_FILES:]
    return (
        scan(data_dir, files=latest)
        .select(
            "key",
            "currency",
            time=pl.col("message_timestamp").dt.epoch("ms"),
            pnl=pl.col("realized_pnl").cast(pl.Float64),
            change=pl.col("realized_pnl_change").cast(pl.Float64),
            ms="arrival",
            seq="number",
        )
        .sort("ms", "seq")
        .collect()
    )
