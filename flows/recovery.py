"""Make Bytewax's recovery directory fit for exactly once, before Bytewax opens it.

Three things that Bytewax 0.21.1 leaves to its caller:

- **Init.** A directory that does not exist yet is made and initialised.
- **Lock.** Two runs on one store corrupt it without a word, so a single process holds
  the directory alone. The processes of a cluster share it, and one that comes back
  waits until the others of its last run are gone.
- **Scrub.** The recovery snapshots of an epoch that a crash cut off stay in the store,
  and a later resume may load them although their entries are read again. They are
  deleted while no process has the store open.
"""

import json
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from bytewax.recovery import init_db_dir

from connectors.file_lock import FileLock, LockedError

log = logging.getLogger("lotstream.recovery")

_STARTING_S = 10.0
"""How long another process may take to prepare the same directory."""

_RETRY_S = 0.2


def prepare(directory: Path, process: int | None, processes: int = 1) -> FileLock:
    """Lock, initialise and scrub a recovery directory.

    process: this one's number in a cluster; None if it runs alone.
    Returns the lock, to be kept as long as the process lives.
    Raises LockedError, naming the holder, if another run uses the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "lock")
    if process is None:
        lock.acquire(wait_s=1)
        _init(directory, 1)
        _scrub(directory)
    else:
        _join(directory, lock, process, processes)
    return lock


def _join(directory: Path, lock: FileLock, process: int, processes: int) -> None:
    """Share the directory with the other processes of this run of the cluster."""
    members = directory / "members.json"
    warned = False
    while True:
        guard = FileLock(directory / "starting.lock")
        guard.acquire(wait_s=_STARTING_S)
        try:
            if _try(lock, shared=False):
                # Nobody else is here: a new run begins.
                _init(directory, processes)
                _scrub(directory)
                members.write_text("[]")
            if not _try(lock, shared=True):
                raise LockedError(f"{lock.path} is held by process {lock.holder()}")
            joined = json.loads(members.read_text())
            if process not in joined:
                members.write_text(json.dumps([*joined, process]))
                return
            # This one was in the run that is still there, so that run is over.
            lock.release()
        finally:
            guard.close()
        if not warned:
            log.info("waiting for the other processes of the last run to end")
            warned = True
        time.sleep(_RETRY_S)


def _try(lock: FileLock, *, shared: bool) -> bool:
    try:
        lock.acquire(shared=shared)
    except LockedError:
        return False
    return True


def _init(directory: Path, parts: int) -> None:
    """Initialise the store if it is not; part 0, moved last, says that it is."""
    if (directory / "part-0.sqlite3").exists():
        return
    with TemporaryDirectory(dir=directory, prefix="init-") as new:
        init_db_dir(Path(new), parts)  # type: ignore[no-untyped-call]
        for path in sorted(Path(new).iterdir(), reverse=True):
            path.rename(directory / path.name)


def _scrub(directory: Path) -> None:
    """Delete the snapshots of epochs that were never completed."""
    paths = sorted(directory.glob("part-*.sqlite3"))
    epoch = _resume_epoch(paths)
    for path in paths:
        with closing(sqlite3.connect(path)) as db, db:
            gone = db.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (epoch,)).rowcount
        if gone:
            log.info("dropped %d snapshots of an epoch that a crash cut off", gone)


def _resume_epoch(paths: list[Path]) -> int:
    """Return the epoch that Bytewax will resume at: the least of the workers' frontiers.

    As in src/recovery.rs of Bytewax 0.21.1: the last run's resume epoch, or where its
    slowest worker has come to since.
    """
    runs, fronts = [], []
    for path in paths:
        with closing(sqlite3.connect(path)) as db:
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
