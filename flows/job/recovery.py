"""Make Bytewax's recovery directory fit for exactly once, before Bytewax opens it.

Three things that Bytewax 0.21.1 leaves to its caller:

- **Init.** A directory that does not exist yet is made and initialised.
- **Lock.** Two runs on one store corrupt it without a word, so a single process holds
  the directory alone. The processes of a cluster share it: each waits for all to join
  (with directories of their own they would scrub and resume apart, and wrongly), and
  one that comes back until the others of its last run are gone.
- **Scrub.** The recovery snapshots of an epoch that a crash cut off stay in the store,
  and a later resume may load them although their entries are read again. They are
  deleted while no process has the store open.
"""

import json
import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, NamedTuple

from bytewax.recovery import init_db_dir

from connectors.book_store import scrub_books
from connectors.disk import made_whole, make_dir, sync
from connectors.file_lock import FileLock, LockedError
from connectors.kept import (
    DamagedError,
    check_pages,
    dumps,
    loads,
    read_only,
    seal_values,
    unseal_values,
)
from flows.job.names import LETTERS_ID, PARQUET_ID, POSITION_ID, POSITION_VERSION, SOURCE_ID
from state.records import FIRST_ID, id_order

log = logging.getLogger("lotstream.recovery")

_STARTING_S = 10.0
"""How long another process may take to prepare the same directory."""

_CHECKED = (SOURCE_ID, POSITION_ID, PARQUET_ID, LETTERS_ID)
"""The steps whose snapshots are under a checksum."""

_RETRY_S = 0.2
_LOOK_EVERY_S = 1.0


_RESTORE = (
    "restore it from a backup together with its DATA_DIR, or start with an empty recovery "
    "directory: it is rebuilt from the stream, and no row is written twice"
)


class RecoveryError(Exception):
    """The recovery directory cannot be used as it is."""


def prepare(
    directory: Path, process: int | None, processes: int = 1, stop: Event | None = None
) -> FileLock:
    """Lock, initialise and scrub a recovery directory.

    process: this one's number in a cluster; None if it runs alone. stop: set by the
    program's signal handlers; ends the wait for the rest of a cluster, and the program.
    Returns the lock, to be kept as long as the process lives.
    Raises LockedError, naming the holder, if another run uses the directory, and
    RecoveryError if it cannot be read or written, is damaged, or is of another version of
    lotstream.
    """
    try:
        make_dir(directory)
        check(directory)  # before anything is written
        lock = FileLock(directory / "lock")
        if process is None:
            lock.acquire(wait_s=1)
            _init(directory, 1)
            _scrub(directory)
        else:
            _join(directory, lock, process, processes, stop or Event())
    except (OSError, sqlite3.Error) as error:
        raise RecoveryError(f"cannot use the recovery directory {directory}: {error}") from error
    return lock


def check(directory: Path) -> None:
    """Raise RecoveryError if a snapshot is damaged, or of another version of lotstream."""
    for path in store_files(directory):
        check_file(path)


def check_file(path: Path) -> None:
    """Read all that a file of Bytewax's store holds of ours, as `check` does."""
    try:
        with read_only(path) as db:
            check_pages(db)
            for step, key, data in db.execute("SELECT step_id, state_key, ser_change FROM snaps"):
                if step in _CHECKED:
                    _values(path, step, key, data)
                    continue
                # Bytewax unpickles these as well, and would run whatever one from elsewhere says.
                for _ in loads(data or b""):
                    pass
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, DamagedError) as error:
        raise RecoveryError(f"{path} is damaged: {error}; {_RESTORE}") from error


def store_files(directory: Path) -> list[Path]:
    """Return the files of Bytewax's store."""
    return sorted(directory.glob("part-*.sqlite3"))


def _snapshots(
    path: Path, steps: Sequence[str]
) -> Iterator[tuple[int, str, str, tuple[Any, ...] | None]]:
    """Read steps' snapshots in a file of Bytewax's store: epoch, step, key, values.

    The values are None where the step has let the key go. Raises sqlite3.DatabaseError or
    DamagedError, and RecoveryError for another version.
    """
    with read_only(path) as db:
        rows = db.execute("SELECT snap_epoch, step_id, state_key, ser_change FROM snaps")
        for epoch, step, key, data in rows:
            if step in steps:
                yield epoch, step, key, _values(path, step, key, data)


def _values(path: Path, step: str, key: str, data: bytes | None) -> tuple[Any, ...] | None:
    if data is None:
        return None
    try:
        [values] = loads(data)
        if values is None:  # a step that kept nothing, in a version before
            return None
        if step == POSITION_ID and values[0] != POSITION_VERSION:
            raise RecoveryError(
                f"the recovery directory {path.parent} is of another version of "
                f"lotstream: expected positions of version {POSITION_VERSION}, found "
                f"{values[0]}; start with an empty recovery directory: it is rebuilt "
                f"from the stream, and no row is written twice"
            )
        return unseal_values(key, values)
    except (ValueError, TypeError, LookupError) as error:  # damage may look like anything
        raise DamagedError(f"the snapshot of {key!r} in {step}: {error}") from None


def tell_of_full_disk(directory: Path) -> None:
    """Let the program end with a clear line if Bytewax's store has no room.

    Bytewax then panics, and shows a page that does not name the directory.
    """

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if "disk is full" in str(error):
            log.critical("stopped: no room left for the recovery directory %s", directory)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = tell


def _join(directory: Path, lock: FileLock, process: int, processes: int, stop: Event) -> None:
    """Share the directory with the other processes of this run of the cluster."""
    FileLock(directory / f"process-{process}.lock").acquire(wait_s=1)  # held until it ends
    told = ""
    while True:
        run = _enter(directory, lock, process, processes)
        waiting = "the other processes of the last run to end"
        while run is not None:
            members = _Members.read(directory)
            if members.run != run or members.over:
                break
            if missing := set(range(processes)) - set(members.joined):
                waiting = f"process {min(missing)} of the cluster to join in {directory}"
            else:
                Thread(target=_end_with_run, args=(directory, run), daemon=True).start()
                return
            told = _wait_for(waiting, told, stop)
        lock.release()
        told = _wait_for(waiting, told, stop)


def _wait_for(whom: str, told: str, stop: Event) -> str:
    if whom != told:
        log.info("waiting for %s", whom)
    if stop.wait(_RETRY_S):
        raise SystemExit(0)
    return whom


def _enter(directory: Path, lock: FileLock, process: int, processes: int) -> int | None:
    """Join the run of the cluster that begins, or begin one; return its number.

    Returns None if one of another size is still there. If it is one that this process was
    in, that run is over, and the others are told.
    """
    guard = FileLock(directory / "starting.lock")
    guard.acquire(wait_s=_STARTING_S)
    try:
        members = _Members.read(directory)
        if _try(lock, shared=False):
            # Nobody else is here: a new run begins.
            _init(directory, processes)
            _scrub(directory)
            members = _Members(members.run + 1, processes, [], over=False)
        if not _try(lock, shared=True):
            raise LockedError(f"{lock.path} is held by process {lock.holder()}")
        if members.processes != processes:
            return None
        over = members.over or process in members.joined
        members._replace(joined=[*members.joined, process], over=over).write(directory)
        return members.run
    finally:
        guard.close()


class _Members(NamedTuple):
    """Who takes part in a run of the cluster."""

    run: int
    processes: int
    """How many the run is to have."""
    joined: list[int]
    over: bool
    """True if one of them was started anew: so must all be."""

    @classmethod
    def read(cls, directory: Path) -> "_Members":
        path = directory / "members.json"
        try:
            return cls(*json.loads(path.read_text()))
        except FileNotFoundError:
            return cls(0, 0, [], over=False)
        except (ValueError, TypeError) as error:
            raise RecoveryError(
                f"{path} is damaged: {error}; delete it while no process of the cluster runs"
            ) from error

    def write(self, directory: Path) -> None:
        temporary = directory / "members.tmp"
        temporary.write_text(json.dumps(self))
        sync(temporary)
        temporary.rename(directory / "members.json")


def _end_with_run(directory: Path, run: int) -> None:
    """End this process when its run is over; Bytewax may wait for ever for one that died."""
    members = _Members.read(directory)
    while members.run == run and not members.over:
        time.sleep(_LOOK_EVERY_S)
        members = _Members.read(directory)
    log.error("stopped: another process of the cluster was started anew, so this one must be")
    os._exit(1)


def _try(lock: FileLock, *, shared: bool) -> bool:
    try:
        lock.acquire(shared=shared)
    except LockedError:
        return False
    return True


def is_initialised(directory: Path) -> bool:
    """Tell whether a directory has a recovery store."""
    return (directory / "part-0.sqlite3").exists()


def _init(directory: Path, parts: int) -> None:
    """Initialise the store if it is not; part 0, moved last, says that it is."""
    if is_initialised(directory):
        return
    with made_whole(directory, "store") as new:
        try:
            init_db_dir(new, parts)  # type: ignore[no-untyped-call]
        except BaseException as error:
            # Bytewax's panics are no Exceptions.
            if "disk is full" not in str(error):
                raise
            raise RecoveryError(f"no room left for the recovery directory {directory}") from None


def _scrub(directory: Path) -> None:
    """Delete the snapshots of epochs that were never completed."""
    paths = store_files(directory)
    epoch = _resume_epoch(paths)
    for path in paths:
        with closing(sqlite3.connect(path)) as db, db:
            gone = db.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (epoch,)).rowcount
        if gone:
            log.info("dropped %d snapshots of an epoch that a crash cut off", gone)
    reached = resumed_at(directory)
    positions = read_snapshots(directory, [POSITION_ID])
    streams = {key: values[1] for _, key, values in positions}
    newest = max(reached.values(), key=id_order, default=FIRST_ID)
    scrub_books(directory, lambda key: reached.get(streams.get(key, ""), newest))


def resumed_at(directory: Path) -> dict[str, str]:
    """Return the entry that was read last of each stream, in a prepared directory."""
    return {key: values[0] for _, key, values in read_snapshots(directory, [SOURCE_ID])}


def _resume_epoch(paths: list[Path]) -> int:
    """Return the epoch that Bytewax will resume at: the least of the workers' frontiers.

    As in src/recovery.rs of Bytewax 0.21.1: the last run's resume epoch, or where its
    slowest worker has come to since.
    """
    runs, fronts = [], []
    for path in paths:
        with read_only(path) as db:
            runs += db.execute("SELECT ex_num, worker_count, resume_epoch FROM exs").fetchall()
            fronts += db.execute(
                "SELECT ex_num, worker_index, worker_frontier FROM fronts"
            ).fetchall()
    if not runs:
        return 0
    run, workers, resumed_at = max(runs)
    reached: dict[int, int] = dict.fromkeys(range(workers), resumed_at)
    for of_run, worker, frontier in fronts:
        if of_run == run:
            reached[worker] = max(reached.get(worker, 0), frontier)
    return min(reached.values())


# --- moving a store's content, for flows.rescale ------------------------------------------

Snapshot = tuple[str, str, tuple[Any, ...]]
"""Step, key (of a source or sink: the stream), and what the step keeps of it, unsealed."""

_MOVED_TO_EPOCH, _RESUME_EPOCH = 1, 2


def read_snapshots(
    directory: Path, steps: Sequence[str] = (SOURCE_ID, POSITION_ID, PARQUET_ID)
) -> list[Snapshot]:
    """Return the last recovery snapshot of each key of steps, of complete epochs only."""
    newest: dict[tuple[str, str], tuple[int, tuple[Any, ...] | None]] = {}
    paths = store_files(directory)
    resume = _resume_epoch(paths)
    for path in paths:
        for epoch, step, key, values in _snapshots(path, steps):
            if newest.get((step, key), (-1, None))[0] <= epoch < resume:
                newest[step, key] = (epoch, values)
    return [(*of, values) for of, (_, values) in newest.items() if values is not None]


@contextmanager
def new_store(directory: Path, snapshots: Iterable[Snapshot]) -> Iterator[Path]:
    """Make a recovery directory from which the first run resumes with these snapshots.

    Gives the directory to put more into; it takes its name when that is done.
    One that was made before and no run has used is replaced. Raises RecoveryError, or OSError,
    if it cannot be written.
    """
    making = directory.with_name(f".{directory.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        _init(making, 1)
        with closing(sqlite3.connect(making / "part-0.sqlite3")) as db, db:
            # As if a run had ended before it read anything.
            db.execute(
                "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (0, 1, ?)",
                (_RESUME_EPOCH,),
            )
            db.executemany(
                "INSERT INTO snaps (step_id, state_key, ser_change, snap_epoch) "
                "VALUES (?, ?, ?, ?)",
                (
                    (step, key, dumps(seal_values(key, values)), _MOVED_TO_EPOCH)
                    for step, key, values in snapshots
                ),
            )
        yield making
    except sqlite3.Error as error:
        raise RecoveryError(f"cannot make the recovery directory {directory}: {error}") from error
    shutil.rmtree(directory, ignore_errors=True)
    making.rename(directory)
    sync(directory.parent)


def is_unused(directory: Path) -> bool:
    """Tell whether a directory is one that `new_store` made and no run has used since."""
    if not is_initialised(directory):
        return False
    with closing(sqlite3.connect(directory / "part-0.sqlite3")) as db:
        runs = db.execute("SELECT ex_num, resume_epoch FROM exs").fetchall()
    return runs == [(0, _RESUME_EPOCH)]
