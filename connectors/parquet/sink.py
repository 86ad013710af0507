"""The sink of history: two Parquet data sets that grow by whole files.

`positions` has one row for each message that counted, `closed_lots` one for each
match; both are split by `date` as Hive does. What a crash can do to them is settled
by one file per stream, the manifest: it names the newest entry whose rows are
written (`last_id`) and the files of the last commit.

1. The rows of an epoch go to temporary files. They, their names and a new manifest that
   names them are synced to disk, all side by side.
2. That manifest is put in place by a rename, which is synced: that is the commit.
3. The files are renamed to where readers look. These names need last only when the next
   manifest forgets the files, so its commit waits for the disk to have them.

A start finishes step 3 if a crash cut it off, and deletes temporary files that no
manifest names. Rows of entries up to `last_id` are passed over, since a row depends
only on the entries before it, not on how they were read: so a replay writes nothing
twice, with or without a recovery store.
"""

import json
import logging
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors import metrics
from connectors.file_lock import FileLock, LockedError
from connectors.parquet.tables import DATA_SETS, Table, tables
from state.records import FIRST_ID, Changes, id_order

log = logging.getLogger("lotstream.parquet")

_ROWS_AT_ONCE, _ROWS_AT_ONCE_LIVE = 10_000, 200
"""Rows made to tables together: many cost less, few delay what comes after them less."""

_ROW_GROUP = 1_000
"""Rows in a file from which they are written before the file is finished."""

# Columns of few values, which a dictionary makes small; in others it costs time only.
_REPEATING = {"account", "symbol", "currency", "multiplier", "type", "side", "direction"}

_BUFFER_BYTES = 1 << 16

_LOCK_WAIT_S = 3.0

_FILES_AT_ONCE = 2
"""Finished side by side, which needs little Python."""


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
        try:
            return self._build(for_part, resume_state)
        except (DataDirError, LockedError) as error:
            log.critical("stopped: %s", error)
            raise
        except OSError as error:
            log.critical("stopped: cannot write to DATA_DIR: %s", error)
            raise

    def _build(self, for_part: str, resume_state: str | None) -> "_ParquetPartition":
        part = _ParquetPartition(StreamFiles(self._data_dir, for_part))
        if id_order(part.last_id) < id_order(resume_state or FIRST_ID):
            raise DataDirError(
                f"{self._data_dir}: expected rows up to entry {resume_state} of stream "
                f"{for_part!r}, as the recovery directory has it, found rows up to "
                f"{part.last_id}; a recovery directory and a DATA_DIR belong together"
            )
        return part


class _ParquetPartition(StatefulSinkPartition[Changes, str]):
    """Rows go to files while the epoch runs, in a thread; `snapshot` commits them.

    It holds up the flow, so as little as can be is left to it.
    """

    def __init__(self, files: "StreamFiles") -> None:
        self._files = files
        self._files.lock()
        self.last_id = self._files.recover()
        self._newest = self._written = id_order(self.last_id)
        self._held: list[Changes] = []
        self._held_rows = 0
        # One each, as a data set's rows are written in order; together when nothing else runs.
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=name) for name in DATA_SETS}
        self._writing: list[Future[None]] = []

    def write_batch(self, values: list[Changes]) -> None:
        at_once = _ROWS_AT_ONCE_LIVE if values[-1].live else _ROWS_AT_ONCE
        for changes in values:
            newest = id_order(changes.stream_id)
            if newest > self._written:
                # Only a replay brings entries both written and not.
                replayed = id_order(changes.first_id) <= self._written
                self._held.append(changes.after(self._written) if replayed else changes)
                self._held_rows += changes.size
                self._newest = max(self._newest, newest)
                if self._written == id_order(FIRST_ID):
                    earliest = (changes.first_id, self._files.first_id)
                    self._files.first_id = min(set(earliest) - {FIRST_ID}, key=id_order)
            if self._held_rows >= at_once:
                self._hand_over()

    def _hand_over(self) -> None:
        # Tables are made here, while the figures are fresh in the processor's cache;
        # writing them needs no Python, so the other core can do it.
        for made in tables(self._held):
            thread = self._threads[made.data_set]
            self._writing.append(thread.submit(self._files.write, made))
        self._held, self._held_rows = [], 0

    def snapshot(self) -> str:
        if self._newest > self._written:
            try:
                for written in self._writing:
                    written.result()
                for made in tables(self._held):
                    self._files.write(made)
                self.last_id = "{}-{}".format(*self._newest)
                self._files.commit(self.last_id)
            except OSError as error:
                log.critical("stopped: cannot write to DATA_DIR: %s", error)
                raise
            self._written = self._newest
            self._held, self._held_rows, self._writing = [], 0, []
        return self.last_id

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()
        self._files.close()


# --- files ----------------------------------------------------------------------------


class StreamFiles:
    """The files of one stream's rows, and the manifest that commits them."""

    def __init__(self, data_dir: Path, stream: str) -> None:
        self._data_dir, self._stream = data_dir, stream
        self._name = re.sub(r"[^A-Za-z0-9_-]+", ".", stream)
        self._own_dir = own_dir(data_dir) / self._name
        self._manifest = self._own_dir / "manifest.json"
        self._lock: FileLock | None = None
        self._open: dict[tuple[str, int], PartFile] = {}
        self._threads = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="files")
        self._syncing: list[Future[None]] = []
        """What makes the last commit's files last where readers look."""
        self.first_id = FIRST_ID
        self._after = FIRST_ID
        """The last commit's `last_id`: the files being written hold what comes after."""

    def written(self) -> tuple[str, str]:
        """Return the first and the newest entry whose rows are committed, 0-0 if none is."""
        manifest = self._read_manifest()
        return manifest["first_id"], manifest["last_id"]

    def lock(self) -> None:
        """Make this process the only one to write the stream's rows.

        Raises LockedError, naming the process that does, and DataDirError if the
        directory cannot be written.
        """
        try:
            make_dir(self._own_dir)
            self._lock = FileLock(self._own_dir / "lock")
            self._lock.acquire(wait_s=_LOCK_WAIT_S)
        except OSError as error:
            raise DataDirError(f"cannot write to DATA_DIR: {error}") from error

    def recover(self) -> str:
        """Finish the last commit, delete what never became one; return `last_id`."""
        manifest = self._read_manifest()
        self._publish(manifest["files"])
        for leftover in self._own_dir.glob("*.parquet*"):
            leftover.unlink()
        self.first_id = str(manifest["first_id"])
        self._after = str(manifest["last_id"])
        return self._after

    def write(self, made: Table) -> None:
        """Write rows to a file of the next commit, which no reader sees yet."""
        data_set, day, rows = made
        if (data_set, day) not in self._open:
            # Unlike the names of any other commit: what is left of one that a crash
            # cut off must not pass for a file of the commit before.
            path = self._own_dir / f"{data_set}.{date_of(day)}.{self._after}.parquet"
            self._open[data_set, day] = PartFile(path, rows.schema)
        self._open[data_set, day].add(rows)
        metrics.PARQUET_ROWS.labels(data_set).inc(rows.num_rows)

    def commit(self, last_id: str) -> None:
        """Let all that was written since the last commit appear, or none of it."""
        finishing = [self._threads.submit(file.finish) for file in self._open.values()]
        files = {}
        for (data_set, day), file in self._open.items():
            final = f"{self._name}.{self._after}.{last_id}.parquet"
            files[file.path.name] = f"{data_set}/date={date_of(day)}/{final}"
        manifest = {
            "version": 1, "stream": self._stream, "first_id": self.first_id, "last_id": last_id,
            "files": files,
        }  # fmt: skip
        temporary = self._manifest.with_suffix(".tmp")
        with temporary.open("w") as file_:
            json.dump(manifest, file_)
            file_.flush()
            os.fsync(file_.fileno())
        _sync(self._own_dir)
        for done in (*finishing, *self._syncing):
            done.result()
        temporary.rename(self._manifest)
        _sync(self._own_dir)
        self._publish(files)
        for data_set, _ in self._open:
            metrics.PARQUET_FILES.labels(data_set).inc()
        self._open, self._after = {}, last_id

    def close(self) -> None:
        """Let other processes write the stream's rows."""
        self._threads.shutdown()
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
        directories = {final.parent for _, final in to_move}
        self._syncing = [
            self._threads.submit(_sync, directory)
            for directory in directories
            if directory.exists()
        ]

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads(self._manifest.read_text())
        except FileNotFoundError:
            return {"first_id": FIRST_ID, "last_id": FIRST_ID, "files": {}}
        if manifest["stream"] != self._stream:
            raise DataDirError(
                f"{self._manifest}: expected the manifest of stream {self._stream!r}, "
                f"found that of {manifest['stream']!r}"
            )
        return manifest


def own_dir(data_dir: Path) -> Path:
    """Return the directory for what readers of the data sets should not see."""
    return data_dir / ".lotstream"


def publishing(data_dir: Path, *, alone: bool = False) -> "_Publishing":
    """Hold off `flows.compact` while files are put where readers look.

    alone: for `flows.compact` itself, to hold off all others.
    """
    return _Publishing(FileLock(own_dir(data_dir) / "publish.lock"), shared=not alone)


class _Publishing:
    def __init__(self, lock: FileLock, *, shared: bool) -> None:
        self._lock, self._shared = lock, shared

    def __enter__(self) -> None:
        self._lock.acquire(shared=self._shared, wait_s=60)

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


class PartFile:
    """A Parquet file that is being written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        # Not a Python file: to write to one needs Python, which the main thread may hold.
        self._file = pa.output_stream(str(path), compression=None, buffer_size=_BUFFER_BYTES)
        repeating = [field.name for field in schema if field.name in _REPEATING]
        self._writer = pq.ParquetWriter(
            self._file, schema, compression="zstd", use_dictionary=repeating
        )
        self._held: list[pa.Table] = []
        self._held_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows in; few are held, as each row group takes room and time of its own."""
        self._held.append(rows)
        self._held_rows += rows.num_rows
        if self._held_rows >= _ROW_GROUP:
            self._write()

    def finish(self) -> None:
        """Complete the file and wait until the disk has it."""
        if self._held:
            self._write()
        self._writer.close()
        self._file.close()
        _sync(self.path)

    def _write(self) -> None:
        self._writer.write_table(pa.concat_tables(self._held))
        self._held, self._held_rows = [], 0


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
