"""The data set `valuations`: once a minute a row for each key whose valuation changed.

A minute is one file, put in place by one rename when the minute is over, and never again:
after a crash there is a row for what was valued since, or none, never two; what comes in a
minute that is written already goes with the next. A lock sees to it that one process alone
writes here.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors import metrics
from connectors.disk import make_dir, sync
from connectors.file_lock import FileLock
from connectors.kept import checksum_of
from connectors.parquet.files import DataDirError, date_of, own_dir, publishing
from connectors.parquet.tables import MONEY, QUANTITY, TIME, table_of
from state.valuation import Valuation

DATA_SET = "valuations"
MINUTE_MS = 60_000
_DAY_MS = 86_400_000

VALUATIONS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "qty": QUANTITY, "cost_basis": MONEY, "mark_price": QUANTITY,
        "mark_timestamp": TIME, "market_value": MONEY, "unrealized_pnl": MONEY,
        "realized_pnl": MONEY, "net_realized_pnl": MONEY, "total_pnl": MONEY, "day_pnl": MONEY,
        "day": pa.string(), "state": pa.string(), "stream_id": pa.string(), "time": TIME,
    }
)  # fmt: skip


class MinuteFiles:
    """Collects the last valuation of each key in a minute, and writes it when that is over."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._making = own_dir(data_dir) / "valuations.making"
        self._lock: FileLock | None = None
        self._minute = -1
        self._rows: dict[str, Valuation] = {}

    def lock(self) -> None:
        """Make this process the only one to write here.

        Raises LockedError, naming the process that does, and DataDirError if the directory
        cannot be written.
        """
        try:
            make_dir(own_dir(self._data_dir))
            self._lock = FileLock(own_dir(self._data_dir) / "valuations.lock")
            self._lock.acquire(wait_s=3)
            self._making.unlink(missing_ok=True)
        except OSError as error:
            raise DataDirError(f"cannot write to DATA_DIR: {error}") from error
        # At its first array Arrow imports pandas, if that is there: better now than at the
        # end of the first minute, when marks would wait for it.
        pa.array([])

    def add(self, key: str, valuation: Valuation, at: int) -> None:
        """Take a valuation in that was made at a time, milliseconds since 1970."""
        self.end_minute(at)
        self._rows[key] = valuation

    def end_minute(self, now: int) -> None:
        """Write the minute that was collected if it is over."""
        # A clock that was set back goes on in the minute that is open.
        minute = max(self._minute, now // MINUTE_MS)
        if minute != self._minute:
            if self._rows and self._write(self._minute * MINUTE_MS, list(self._rows.values())):
                self._rows = {}
            self._minute = minute

    def close(self) -> None:
        """Let other processes write here; a minute that is not over is left out."""
        if self._lock is not None:
            self._lock.close()

    def _write(self, time: int, valuations: list[Valuation]) -> bool:
        """Write a minute; return False if an earlier run did so, as the clock was set back."""
        day = date_of(time // _DAY_MS)
        directory = self._data_dir / DATA_SET / f"date={day}"
        # The name is that of a part, which `flows.compact` merges and `flows.verify` checks.
        name = f"{DATA_SET}.0-0.{time}-0"
        if any(directory.glob(f"{name}.*parquet")):
            return False
        rows: list[tuple[Any, ...]] = [(*valuation, time) for valuation in valuations]
        pq.write_table(table_of(VALUATIONS_SCHEMA, rows), self._making, compression="zstd")
        sync(self._making)
        path = directory / f"{name}.{checksum_of(self._making)}.parquet"
        make_dir(directory)
        with publishing(self._data_dir):
            self._making.rename(path)
        sync(directory)
        metrics.PARQUET_ROWS.labels(DATA_SET).inc(len(rows))
        metrics.PARQUET_FILES.labels(DATA_SET).inc()
        return True
