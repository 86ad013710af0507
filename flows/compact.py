"""A day's Parquet parts become one file each: `python -m flows.compact`.

A flow adds a part an epoch, so a past day may have thousands. For each data set and
day the parts are merged into a file in a directory that no reader sees, checked, and
the two directories then change places in one step (renameat2, RENAME_EXCHANGE):
whoever lists a day finds its old parts or the new file, never both and never neither.

Flows go on meanwhile: a part that appears while others are merged is carried over.
What is merged is remembered nowhere else, so a run may die at any instant: the day
that readers see is complete before and after the exchange, and the other directory,
whichever it is, is deleted by the next run.

A query that listed a day before the exchange and opens its files after it fails, as
they are gone, and is to be run again. It cannot be wrong, since no name ever comes back.
"""

import ctypes
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from stat import S_IMODE
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from connectors.disk import sync
from connectors.file_lock import FileLock, LockedError
from connectors.kept import checksum_of
from connectors.parquet.files import is_whole, own_dir, publishing
from flows.common.doors import a_day, app_of, enter, flows_directory
from flows.common.logs import set_up_logging
from flows.common.progress import Work
from flows.common.rows import days, files_of
from flows.common.settings import load_settings

DATA_SETS = ("positions", "closed_lots", "valuations")

ROWS_AT_ONCE = 250_000
"""Held in memory, sorted and written together, about."""

LISTING_S = 1.0
"""How long a reader may take to list a directory that has just been replaced."""

# No stream's files stand in a directory of this name, since they replace the sign.
_WORKSHOP = "compact~"

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")
_MERGED = re.compile(r"merged-(\d+)(?:\.[0-9a-f]{8})?\.parquet")
_PART = re.compile(r".+\.\d+-\d+\.(\d+)-(\d+)(?:\.[0-9a-f]{8})?\.parquet")
"""The part's stream, and the entries after and up to which it has the rows; the checksum."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class CompactError(Exception):
    """A day cannot be compacted; readers see it as it was."""


class Compacted(NamedTuple):
    """What became of a day of a data set."""

    data_set: str
    day: date
    parts: int
    rows: int

    def __str__(self) -> str:
        return f"{self.data_set} {self.day}: {self.parts} files, {self.rows:,} rows, now in one"


def main(
    day: Annotated[
        date | None,
        typer.Option("--date", parser=a_day, help="This day only; may be today."),
    ] = None,
) -> None:
    """Merge the Parquet parts of each day before today (UTC) into one file a data set."""
    settings = load_settings()
    set_up_logging(settings)
    data_dir = flows_directory(settings.data_dir)
    if day is not None and not any(_days(data_dir, day)):
        raise SystemExit(f"lotstream: --date: expected a day that has rows, found none of {day}")
    done = None
    try:
        with Work("merging", "bytes", sum(map(_size, _to_merge(data_dir, day)))) as work:
            for done in compact(data_dir, day, work.advance):
                print(done, flush=True)  # a day may take long
    except (CompactError, LockedError, OSError) as error:
        raise SystemExit(f"lotstream: cannot compact: {error}") from None
    if done is None:
        print("nothing to compact")


def compact(
    data_dir: Path, day: date | None = None, on_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[Compacted]:
    """Merge the parts of a day, or of all days before today (UTC).

    on_bytes: called with the size of each part that was read.
    Raises CompactError, LockedError or OSError; what is done by then stays done.
    """
    lock = FileLock(own_dir(data_dir) / f"{_WORKSHOP}.lock")
    lock.acquire()
    workshop = own_dir(data_dir) / _WORKSHOP
    shutil.rmtree(workshop, ignore_errors=True)
    try:
        for data_set, of, directory in _days(data_dir, day):
            parts = _in_order(files_of(directory))
            if len(parts) > 1:
                making = workshop / f"{data_set}.{of}"
                making.mkdir(parents=True)
                merged = making / _new_name(parts)
                rows = _merge(parts, merged, on_bytes)
                merged.rename(merged.with_suffix(f".{checksum_of(merged)}.parquet"))
                _put_in_place(data_dir, making, directory, parts)
                yield Compacted(data_set, of, len(parts), rows)
    finally:
        if workshop.exists():
            time.sleep(LISTING_S)
            shutil.rmtree(workshop)
        lock.close()


def _days(data_dir: Path, day: date | None) -> Iterator[tuple[str, date, Path]]:
    today = datetime.now(UTC).date()
    for data_set in DATA_SETS:
        for directory in days(data_dir / data_set):
            if match := _DAY.fullmatch(directory.name):
                of = date.fromisoformat(match[1])
                if of == day or (day is None and of < today):
                    yield data_set, of, directory


def _to_merge(data_dir: Path, day: date | None) -> Iterator[Path]:
    for _, _, directory in _days(data_dir, day):
        parts = files_of(directory)
        yield from parts if len(parts) > 1 else ()


def _size(path: Path) -> int:
    return path.stat().st_size


def _in_order(parts: Iterable[Path]) -> list[Path]:
    """Sort a day's files so that each stream's rows come in order of their entries."""
    return sorted(parts, key=lambda path: (_last_id(path), path.name))


def _last_id(part: Path) -> tuple[int, int]:
    """Return the last entry whose rows a part may hold; (0, 0) for a merged file."""
    if _MERGED.fullmatch(part.name):
        return 0, 0
    match = _PART.fullmatch(part.name)
    if match is None:
        raise CompactError(f"{part}: expected the name of a flow's part, found another")
    return int(match[1]), int(match[2])


def _new_name(parts: list[Path]) -> str:
    """Name the merged file as none of this day was ever named."""
    numbers = [int(match[1]) for part in parts if (match := _MERGED.fullmatch(part.name))]
    return f"merged-{max(numbers, default=0) + 1}.parquet"


# --- merging ----------------------------------------------------------------------------


def _merge(parts: list[Path], into: Path, on_bytes: Callable[[int], None]) -> int:
    """Write the rows of all parts to one file; return how many there are.

    Raises CompactError if what can be read back is not what the parts hold.
    """
    wanted, writer = _Sum(), None
    with into.open("wb") as file:
        for rows in _tables(parts, on_bytes):
            wanted.add(rows)
            writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
            writer.write_table(_sorted(rows))
        assert writer is not None
        writer.close()
    sync(into)
    found = _Sum()
    for batch in pq.ParquetFile(into).iter_batches(ROWS_AT_ONCE):
        found.add(pa.Table.from_batches([batch]))
    if (found.rows, found.hash) != (wanted.rows, wanted.hash):
        raise CompactError(
            f"{into}: expected the {wanted.rows} rows of {len(parts)} parts, found {found.rows} "
            f"rows that are not the same"
        )
    return wanted.rows


def _tables(parts: list[Path], on_bytes: Callable[[int], None]) -> Iterator[pa.Table]:
    """Read the parts in turn, as many at once as make a row group."""
    none = _columns(parts).empty_table()
    held: list[pa.Table] = []
    for part in parts:
        if is_whole(part) is False:
            raise CompactError(f"{part} is damaged: its checksum is not that of its name")
        try:
            rows = pq.ParquetFile(part).read()
        except pa.ArrowInvalid as error:
            raise CompactError(f"{part} cannot be read: {error}") from error
        # What an older version did not write is null, as readers see it too.
        held.append(pa.concat_tables([none, rows], promote_options="default"))
        on_bytes(_size(part))
        if sum(table.num_rows for table in held) >= ROWS_AT_ONCE:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _columns(parts: list[Path]) -> pa.Schema:
    """Return the columns that any of the parts has."""
    schema = pa.schema([])
    for part in parts:
        try:
            schema = pa.unify_schemas([schema, pq.read_schema(part)])
        except pa.ArrowTypeError as error:
            raise CompactError(f"{part}: expected the types of {parts[0].name}: {error}") from error
        except pa.ArrowInvalid as error:
            raise CompactError(f"{part} cannot be read: {error}") from error
    return schema


def _sorted(rows: pa.Table) -> pa.Table:
    """Sort rows by entry; those of one entry stay as they are."""
    halves = pc.split_pattern(rows["stream_id"], "-")
    numbers = {
        name: pc.cast(pc.list_element(halves, at), pa.uint64())
        for at, name in enumerate(("milliseconds", "sequence"))
    }
    order = pc.sort_indices(pa.table(numbers), [(name, "ascending") for name in numbers])
    return rows.take(order)


class _Sum:
    """How many rows there are, and a checksum over all their values, in any order."""

    def __init__(self) -> None:
        self.rows, self.hash = 0, 0

    def add(self, rows: pa.Table) -> None:
        frame = pl.DataFrame(rows)
        self.rows += frame.height
        self.hash += int(frame.hash_rows().to_numpy().sum(dtype=np.uint64))
        self.hash %= 2**64


# --- changing places --------------------------------------------------------------------


def _put_in_place(data_dir: Path, new: Path, day: Path, merged: list[Path]) -> None:
    """Let a directory take the place of a day's, with what has appeared there since."""
    with publishing(data_dir, alone=True):
        present = set(day.iterdir())
        if missing := set(merged) - present:
            raise CompactError(f"{min(missing)} has been removed while it was merged")
        for path in present - set(merged):
            (new / path.name).hardlink_to(path)
        _give_to_owner(new, day)
        # The old names too: what the flow moved there, and is merged here, it would else
        # move there once more after a power cut.
        sync(day)
        sync(new)
        _exchange(new, day)
        # Both must last before the old parts may go.
        sync(day.parent)
        sync(new.parent)


def _give_to_owner(new: Path, day: Path) -> None:
    """Let the flow, which may be another user's, write in the directory as before."""
    owner = day.stat()
    for path in (new, *new.glob("merged-*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    new.chmod(S_IMODE(owner.st_mode))


def _exchange(one: Path, other: Path) -> None:
    """Let two directories change places in one step."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise CompactError(f"{sys.platform} has no way to exchange two directories (renameat2)")
    if rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    ):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS):
            raise CompactError(f"{other}: its file system cannot exchange two directories")
        raise OSError(code, os.strerror(code), str(other))


app = app_of(main)

if __name__ == "__main__":
    enter(app, "compact")
