"""The sink of history: two Parquet data sets that grow by whole files.

`positions` has one row for each message that counted, `closed_lots` one for each
match; both are split by `date` as Hive does. What a crash can do to them is settled
by one file per stream, the manifest: it names the newest entry whose rows are
written (`last_id`) and the files of the last commit.

1. The rows of an epoch go to temporary files, synced to disk.
2. The manifest that names them is put in place by a rename: that is the commit.
3. The files are renamed to where readers look.

A start finishes step 3 if a crash cut it off, and deletes temporary files that no
manifest names. Rows of entries up to `last_id` are passed over, since a row depends
only on the entries before it, not on how they were read: so a replay writes nothing
twice, with or without a recovery store.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.file_lock import FileLock
from state.exact import MONEY_PLACES, PLACES
from state.messages import CommissionReport, Execution, Message, Opening, Split
from state.records import FIRST_ID, Changes, Update, id_order
from state.snapshot import ClosedLot

log = logging.getLogger("lotstream.parquet")

QUANTITY = pa.decimal128(38, PLACES)
MONEY = pa.decimal128(38, MONEY_PLACES)
TIME = pa.timestamp("ms", tz="UTC")

POSITIONS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "qty": QUANTITY, "avg_price": QUANTITY, "cost_basis": MONEY,
        "realized_pnl": MONEY, "commission": QUANTITY, "net_realized_pnl": MONEY,
        "open_lots": pa.int64(), "executions": pa.int64(), "last_exec_id": pa.string(),
        "last_price": QUANTITY, "timestamp": TIME, "stream_id": pa.string(),
        "type": pa.string(), "message_timestamp": TIME, "side": pa.string(),
        "fill_qty": QUANTITY, "fill_price": QUANTITY, "exec_id": pa.string(),
        "order_id": pa.int64(), "realized_pnl_change": MONEY, "net_realized_pnl_change": MONEY,
    }
)  # fmt: skip
CLOSED_LOTS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "direction": pa.string(), "qty": QUANTITY,
        "open_exec_id": pa.string(), "open_timestamp": TIME, "open_price": QUANTITY,
        "close_exec_id": pa.string(), "close_timestamp": TIME, "close_price": QUANTITY,
        "realized_pnl": MONEY, "stream_id": pa.string(),
    }
)  # fmt: skip

DATA_SETS = {"positions": POSITIONS_SCHEMA, "closed_lots": CLOSED_LOTS_SCHEMA}

_DAY_MS = 86_400_000
_LOCK_WAIT_S = 3.0


class DataDirError(Exception):
    """The data directory cannot be written, or is not the one this flow wrote before."""


class ParquetSink(FixedPartitionedSink[Changes, str]):
    """Append each update's rows to the data sets once.

    Items are keyed by their source stream; each stream has its own files and manifest.
    Exactly once, also when replayed from any earlier entry.
    """

    def __init__(self, data_dir: Path, streams: list[str]) -> None:
        self._data_dir, self._parts = data_dir, sorted(streams)

    def list_parts(self) -> list[str]:
        """Name the source streams."""
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Return the place of a source stream in the sorted list of parts."""
        return self._parts.index(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: str | None
    ) -> "_ParquetPartition":
        """Settle what a crash left behind and go on after the last commit.

        Raises LockedError if another process writes this stream's rows, DataDirError
        if the data directory lacks rows that the recovery store says are written.
        """
        del step_id
        part = _ParquetPartition(StreamFiles(self._data_dir, for_part))
        if id_order(part.last_id) < id_order(resume_state or FIRST_ID):
            raise DataDirError(
                f"{self._data_dir}: expected rows up to entry {resume_state} of stream "
                f"{for_part!r}, as the recovery directory has it, found rows up to "
                f"{part.last_id}; a recovery directory and a DATA_DIR belong together"
            )
        return part


class _ParquetPartition(StatefulSinkPartition[Changes, str]):
    def __init__(self, files: "StreamFiles") -> None:
        self._files = files
        self._files.lock()
        self.last_id = self._files.recover()
        self._written = id_order(self.last_id)
        self._rows: list[Update] = []

    def write_batch(self, values: list[Changes]) -> None:
        for changes in values:
            if id_order(changes.stream_id) > self._written:
                self._rows += [
                    update
                    for update in changes.updates
                    if id_order(update.stream_id) > self._written
                ]

    def snapshot(self) -> str:
        if self._rows:
            self._rows.sort(key=lambda update: id_order(update.stream_id))
            self.last_id = self._rows[-1].stream_id
            try:
                self._files.commit(_tables(self._rows), self._rows[0].stream_id, self.last_id)
            except OSError as error:
                log.critical("stopped: cannot write to DATA_DIR: %s", error)
                raise
            self._written = id_order(self.last_id)
            self._rows = []
        return self.last_id

    def close(self) -> None:
        self._files.close()


class _Table(NamedTuple):
    """Rows of one data set and one date."""

    data_set: str
    day: int
    """Days since 1970."""
    rows: pa.Table


# --- rows ---------------------------------------------------------------------------


def _tables(updates: list[Update]) -> list[_Table]:
    """Build one table for each data set and date, rows in order of their entries."""
    closed = [(lot, update) for update in updates for lot in update.applied.closed]
    return [
        *_by_day("positions", updates, _position_day, _positions_table),
        *_by_day("closed_lots", closed, _closed_day, _closed_lots_table),
    ]


def _by_day(
    data_set: str,
    rows: list[Any],
    day_of: Callable[[Any], int],
    build: Callable[[list[Any]], pa.Table],
) -> list[_Table]:
    days = groupby(sorted(rows, key=day_of), key=day_of)
    return [_Table(data_set, day, build(list(of_day))) for day, of_day in days]


def _position_day(update: Update) -> int:
    # A position without any execution has no time of its own.
    timestamp = update.snapshot.timestamp
    return (update.message.timestamp if timestamp is None else timestamp) // _DAY_MS


def _closed_day(row: tuple[ClosedLot, Update]) -> int:
    return row[0].close_timestamp // _DAY_MS


def _positions_table(updates: list[Update]) -> pa.Table:
    return _table(
        POSITIONS_SCHEMA,
        (
            (
                *update.snapshot,
                update.stream_id,
                *_message_fields(update.message),
                update.applied.realized_change,
                update.applied.net_change,
            )
            for update in updates
        ),
    )


def _message_fields(message: Message) -> tuple[Any, ...]:
    """Return the message's own type, time, side, fill_qty, fill_price, exec_id, order_id."""
    kind, timestamp = _TYPE_NAMES[type(message)], message.timestamp
    if isinstance(message, Execution):
        return (
            kind, timestamp, message.side, abs(message.qty), message.price, message.exec_id,
            message.order_id,
        )  # fmt: skip
    exec_id = message.exec_id if isinstance(message, CommissionReport) else None
    return (kind, timestamp, None, None, None, exec_id, None)


def _closed_lots_table(rows: list[tuple[ClosedLot, Update]]) -> pa.Table:
    return _table(
        CLOSED_LOTS_SCHEMA,
        (
            (
                update.snapshot.account,
                update.snapshot.symbol,
                update.snapshot.currency,
                update.snapshot.multiplier,
                *lot,
                update.stream_id,
            )
            for lot, update in rows
        ),
    )


def _table(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [_array(values, field.type) for values, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _array(values: Sequence[Any], of_type: pa.DataType) -> pa.Array:
    return _decimals(values, of_type) if pa.types.is_decimal(of_type) else pa.array(values, of_type)


def _decimals(values: Sequence[int | None], of_type: pa.DataType) -> pa.Array:
    """Build decimals from whole numbers of their smallest unit, exactly."""
    data = b"".join((value or 0).to_bytes(16, "little", signed=True) for value in values)
    known = pa.array([value is not None for value in values], pa.bool_())
    return pa.Array.from_buffers(of_type, len(values), [known.buffers()[1], pa.py_buffer(data)])


_TYPE_NAMES: dict[type, str] = {
    Execution: "execution",
    CommissionReport: "commission",
    Opening: "opening",
    Split: "split",
}


# --- files ----------------------------------------------------------------------------


class StreamFiles:
    """The files of one stream's rows, and the manifest that commits them."""

    def __init__(self, data_dir: Path, stream: str) -> None:
        self._data_dir, self._stream = data_dir, stream
        self._name = re.sub(r"[^A-Za-z0-9_-]+", ".", stream)
        self._own_dir = own_dir(data_dir) / self._name
        self._manifest = self._own_dir / "manifest.json"
        self._lock: FileLock | None = None

    def last_id(self) -> str:
        """Return the newest entry whose rows are committed, 0-0 if there is none."""
        last_id: str = self._read_manifest()["last_id"]
        return last_id

    def lock(self) -> None:
        """Make this process the only one to write the stream's rows.

        Raises LockedError, naming the process that does, and DataDirError if the
        directory cannot be made.
        """
        try:
            self._lock = FileLock(self._own_dir / "lock")
        except OSError as error:
            raise DataDirError(f"cannot write to DATA_DIR: {error}") from error
        self._lock.acquire(wait_s=_LOCK_WAIT_S)

    def recover(self) -> str:
        """Finish the last commit, delete what never became one; return `last_id`."""
        manifest = self._read_manifest()
        self._publish(manifest["files"])
        for leftover in self._own_dir.glob("*.parquet*"):
            leftover.unlink()
        return str(manifest["last_id"])

    def commit(self, tables: list[_Table], first_id: str, last_id: str) -> None:
        """Write tables as files that appear whole, all of them or none."""
        files = {}
        for data_set, day, rows in tables:
            # Unlike the names of any other commit: what is left of one that a crash cut
            # off must not pass for a file of the commit before, at the next start.
            name = f"{data_set}.{date_of(day)}.{last_id}.parquet"
            files[name] = (
                f"{data_set}/date={date_of(day)}/{self._name}.{first_id}.{last_id}.parquet"
            )
            _write_synced(self._own_dir / name, rows)
        _sync(self._own_dir)
        manifest = {"version": 1, "stream": self._stream, "last_id": last_id, "files": files}
        temporary = self._manifest.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._manifest)
        _sync(self._own_dir)
        self._publish(files)

    def close(self) -> None:
        """Let other processes write the stream's rows."""
        if self._lock is not None:
            self._lock.close()

    def _publish(self, files: dict[str, str]) -> None:
        """Move committed files to where readers look; those already there are done."""
        to_move = [(self._own_dir / name, self._data_dir / path) for name, path in files.items()]
        with publishing(self._data_dir):
            for temporary, final in to_move:
                if temporary.exists():
                    make_dir(final.parent)
                    temporary.rename(final)
        # The next commit forgets these files, so their new names must last.
        for directory in {final.parent for _, final in to_move}:
            if directory.exists():
                _sync(directory)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads(self._manifest.read_text())
        except FileNotFoundError:
            return {"last_id": FIRST_ID, "files": {}}
        if manifest["stream"] != self._stream:
            raise DataDirError(
                f"{self._manifest}: expected the manifest of stream {self._stream!r}, "
                f"found that of {manifest['stream']!r}"
            )
        return manifest


def own_dir(data_dir: Path) -> Path:
    """Return the directory for what readers of the data sets should not see."""
    return data_dir / ".lotstream"


def publishing(data_dir: Path) -> "_Publishing":
    """Hold off `flows.compact` while files are put where readers look."""
    return _Publishing(FileLock(own_dir(data_dir) / "publish.lock"))


class _Publishing:
    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire(shared=True, wait_s=60)

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def date_of(day: int) -> date:
    """Return the date of a day since 1970."""
    return datetime.fromtimestamp(day * 86_400, UTC).date()


def make_dir(directory: Path) -> None:
    """Make a directory and those above it, so that they last."""
    if not directory.exists():
        make_dir(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _write_synced(path: Path, rows: pa.Table) -> None:
    with path.open("wb") as file:
        pq.write_table(rows, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
