"""The sink of history: two Parquet data sets that grow by whole files.

`positions` has one row for each message that counted, `closed_lots` one for each
match; both are split by `date` as Hive does. How files are committed, so that a crash
leaves all of an epoch's rows or none, is told in `connectors.parquet.files`.

Rows of entries up to the last commit's `last_id` are passed over, since a row depends
only on the entries before it, not on how they were read: so a replay writes nothing
twice, with or without a recovery store.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.file_lock import LockedError
from connectors.kept import seal_values, unseal_values
from connectors.parquet.files import DataDirError, StreamFiles
from connectors.parquet.tables import DATA_SETS, tables
from state.records import FIRST_ID, Changes, id_order

log = logging.getLogger("lotstream.parquet")

_ROWS_AT_ONCE, _ROWS_AT_ONCE_LIVE = 10_000, 200
"""Rows made to tables together: many cost less, few delay what comes after them less. What
comes at once is made together, live or not."""


ResumeState = tuple[Any, ...]
"""The entry up to which rows are committed, under a checksum (`kept.seal_values`)."""


class ParquetSink(FixedPartitionedSink[Changes, ResumeState]):
    """Append each update's rows to the data sets once.

    Items are keyed by their source stream; each stream has its own files and manifest.
    Exactly once, also when replayed from any earlier entry.
    """

    def __init__(self, data_dir: Path, streams: list[str]) -> None:
        self._data_dir, self._parts = data_dir, sorted(streams)
        self._built: dict[str, _ParquetPartition] = {}

    def list_parts(self) -> list[str]:
        """Name the source streams."""
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Return the place of a source stream in the sorted list of parts."""
        return self._parts.index(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: ResumeState | None
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

    def _build(self, for_part: str, resume_state: ResumeState | None) -> "_ParquetPartition":
        if for_part in self._built:
            # On a busy machine a cluster's engine may give a part its first items while it
            # still loads its state. Then it builds the part again, after a snapshot of it.
            self._built[for_part].give_way()
        part = self._built[for_part] = _ParquetPartition(StreamFiles(self._data_dir, for_part))
        [kept] = unseal_values(for_part, resume_state) if resume_state else [FIRST_ID]
        if id_order(part.last_id) < id_order(kept):
            raise DataDirError(
                f"{self._data_dir}: expected rows up to entry {kept} of stream "
                f"{for_part!r}, as the recovery directory has it, found rows up to "
                f"{part.last_id}; a recovery directory and a DATA_DIR belong together"
            )
        return part


class _ParquetPartition(StatefulSinkPartition[Changes, ResumeState]):
    """Rows go to files while the epoch runs, in a thread; `snapshot` commits them.

    It holds up the flow, so as little as can be is left to it.
    """

    def __init__(self, files: StreamFiles) -> None:
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
            if self._held_rows >= _ROWS_AT_ONCE:
                self._hand_over()
        if values[-1].live and self._held_rows >= _ROWS_AT_ONCE_LIVE:
            self._hand_over()

    def _hand_over(self) -> None:
        # Tables are made here, while the figures are fresh in the processor's cache;
        # writing them needs no Python, so the other core can do it.
        for made in tables(self._held):
            thread = self._threads[made.data_set]
            self._writing.append(thread.submit(self._files.write, made))
        self._held, self._held_rows = [], 0

    def snapshot(self) -> ResumeState:
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
        return seal_values(self._files.stream, (self.last_id,))

    def give_way(self) -> None:
        """Let another go on where this one has come to; all of it must be committed."""
        assert self._newest == self._written
        self.close()

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()
        self._files.close()
