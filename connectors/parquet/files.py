"""The files of one stream's rows, and the manifest that commits them.

What a crash can do to them is settled by one file per stream, the manifest: it names the
newest entry whose rows are written (`last_id`) and the files of the last commit.

1. The rows of an epoch go to temporary files. They, their names and a new manifest that
   names them are synced to disk, all side by side.
2. That manifest is put in place by a rename, which is synced: that is the commit.
3. The files are renamed to where readers look. These names need last only when the next
   manifest forgets the files, so its commit waits for the disk to have them.

A start finishes step 3 if a crash cut it off, and deletes temporary files that no
manifest names.

A file's name ends with its checksum, so that damage is noticed: `...parts.1f0a22c3.parquet`.
The manifest has one of its own in it.
"""

import json
import re
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors import metrics
from connectors.disk import make_dir, sync
from connectors.file_lock import FileLock
from connectors.kept import checksum_of
from connectors.parquet.tables import Table
from state.records import FIRST_ID

MANIFEST_VERSION = 2
"""Of the manifest's own form; one of another version is not read."""

_WAYS_OUT = (
    "restore DATA_DIR and the recovery directory from one backup; or move both away, and the "
    "flow rebuilds them from the stream"
)

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


class StreamFiles:
    """The files of one stream's rows, and the manifest that commits them."""

    def __init__(self, data_dir: Path, stream: str) -> None:
        self._data_dir, self.stream = data_dir, stream
        name = re.sub(r"[^A-Za-z0-9_-]+", ".", stream)
        self._own_dir = own_dir(data_dir) / name
        # Many readers pass over a file whose name begins with one of these.
        self._name = name.lstrip("._") or "stream"
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
        for name, path in manifest["files"].items():
            if (self._own_dir / name).exists() and not is_whole(self._own_dir / name, Path(path)):
                raise DataDirError(f"{self._own_dir / name} is damaged; {_WAYS_OUT}")
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
        checksums = list(self._threads.map(PartFile.finish, self._open.values()))
        finishing = [self._threads.submit(sync, file.path) for file in self._open.values()]
        files = {}
        for ((data_set, day), file), checksum in zip(self._open.items(), checksums, strict=True):
            final = f"{self._name}.{self._after}.{last_id}.{checksum}.parquet"
            files[file.path.name] = f"{data_set}/date={date_of(day)}/{final}"
        manifest = {
            "version": MANIFEST_VERSION, "stream": self.stream, "first_id": self.first_id,
            "last_id": last_id, "files": files,
        }  # fmt: skip
        temporary = self._manifest.with_suffix(".tmp")
        temporary.write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}))
        sync(temporary)
        sync(self._own_dir)
        for done in (*finishing, *self._syncing):
            done.result()
        temporary.rename(self._manifest)
        sync(self._own_dir)
        self._publish(files)
        for data_set, _ in self._open:
            metrics.PARQUET_FILES.labels(data_set).inc()
        self._open, self._after = {}, last_id

    def close(self) -> None:
        """Let others write the stream's rows; does nothing if it is closed already."""
        self._threads.shutdown()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

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
            self._threads.submit(sync, directory) for directory in directories if directory.exists()
        ]

    def _read_manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self._manifest)
        if manifest and manifest["stream"] != self.stream:
            raise DataDirError(
                f"{self._manifest}: expected the manifest of stream {self.stream!r}, "
                f"found that of {manifest['stream']!r}"
            )
        return manifest or {"first_id": FIRST_ID, "last_id": FIRST_ID, "files": {}}


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what a manifest says, nothing if there is none.

    Raises DataDirError if it is damaged, or of another version of lotstream.
    """
    try:
        manifest: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataDirError(
            f"{path}: expected a manifest, found no JSON: {error}; {_WAYS_OUT}"
        ) from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise DataDirError(
            f"{path}: expected a manifest of version {MANIFEST_VERSION}, found "
            f"version {version}: run the lotstream that wrote it; or {_WAYS_OUT}"
        )
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise DataDirError(f"{path} is damaged: its checksum is wrong; {_WAYS_OUT}")
    return dict(manifest)


def manifests(data_dir: Path) -> list[Path]:
    """Return the manifests of all streams."""
    # One by one: what may not be read is not as good as absent, which `glob` takes it for.
    own = own_dir(data_dir)
    try:
        # That of a stream without any plain letter is in the directory itself.
        places = [own, *sorted(own.iterdir())]
    except FileNotFoundError:
        return []
    return [path for place in places if (path := place / "manifest.json").exists()]


_CHECKSUM = re.compile(r".+\.([0-9a-f]{8})\.parquet")


def is_whole(path: Path, named: Path | None = None) -> bool | None:
    """Tell whether a file has the checksum that its name says; None if that says none.

    named: the name that it is to have, if it has another so far.
    """
    match = _CHECKSUM.fullmatch((named or path).name)
    return match and checksum_of(path) == match[1]


def _checksum(manifest: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"


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


class PartFile:
    """A Parquet file that is being written.

    It is open only where a day has many rows: a commit of years' history has thousands of
    files, more than a process may have open.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self._schema = path, schema
        self._file: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._held_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows in; few are held, as each row group takes room and time of its own."""
        self._held.append(rows)
        self._held_rows += rows.num_rows
        if self._held_rows >= _ROW_GROUP:
            self._write()

    def finish(self) -> str:
        """Complete the file, which is still to be synced; return its checksum."""
        if self._held:
            self._write()
        assert self._writer is not None
        assert self._file is not None
        self._writer.close()
        self._file.close()
        return checksum_of(self.path)

    def _write(self) -> None:
        if self._writer is None:
            # Not a Python file: to write to one needs Python, which the main thread may hold.
            self._file = pa.output_stream(
                str(self.path), compression=None, buffer_size=_BUFFER_BYTES
            )
            repeating = [field.name for field in self._schema if field.name in _REPEATING]
            self._writer = pq.ParquetWriter(
                self._file, self._schema, compression="zstd", use_dictionary=repeating
            )
        self._writer.write_table(pa.concat_tables(self._held))
        self._held, self._held_rows = [], 0
