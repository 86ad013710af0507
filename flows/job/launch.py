"""What a flow needs before its parts can be wired: options, signals, recovery.

All of it happens in the `flow` factory, which Bytewax's runner calls in the main
thread before it opens the recovery store.
"""

import atexit
import gc
import logging
import signal
import sys
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from typing import NamedTuple

import bytewax.run as bytewax_run

from connectors.book_store import BookStores
from connectors.disk import make_dir
from connectors.file_lock import FileLock, LockedError
from connectors.parquet.files import DataDirError, StreamFiles, own_dir
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError
from connectors.redis.partitions import agree
from flows.common.settings import Settings
from flows.job import recovery

log = logging.getLogger("lotstream.flow")


class Launched(NamedTuple):
    """What the process has and the parts are given."""

    stop: Event
    """Set by SIGTERM and SIGINT."""
    stores: BookStores | None
    """None without a recovery directory."""
    together: bool
    """True if the run has other workers or processes."""
    shared: bool
    """True if it has other processes."""
    recovery_directory: Path | None


def launch(settings: Settings, *, retains: bool = True) -> Launched:
    """Read Bytewax's options, set up signals, and make the recovery directory fit.

    retains: whether the flow is the one that trims its streams.
    Ends the program with one line if something is wrong.
    """
    # What is kept has no cycles. Looking for some, each time that some hundred objects
    # were made, would walk all that the books remember.
    gc.set_threshold(1_000_000, 20, 100)
    run = _run_options()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    atexit.register(_tell_end, stop)
    if retains and settings.stream_retention_hours and run.recovery_directory is None:
        raise SystemExit(
            "lotstream: STREAM_RETENTION_HOURS: expected a recovery directory (-r) with it, "
            "since a trimmed stream cannot rebuild positions; found none"
        )
    stores = None
    if run.recovery_directory is not None:
        stores = _recovered(run.recovery_directory, run, stop)
        if others := sorted(stores.resumed_at.keys() - set(settings.own_streams)):
            own = ", ".join(settings.own_streams)
            raise SystemExit(
                f"lotstream: -r: expected a recovery directory of {own} "
                f"alone, found {str(run.recovery_directory)!r}, which has {', '.join(others)}; "
                f"flows.rescale moves partitions to other directories"
            )
    together = run.processes * run.workers > 1
    return Launched(stop, stores, together, run.processes > 1, run.recovery_directory)


def tell_start(settings: Settings, run: Launched) -> None:
    """Log what is read, where that goes on, and where it goes."""
    recovery_directory = run.recovery_directory
    after = {} if run.stores is None else run.stores.resumed_at
    numbers = [settings.streams.index(stream) for stream in settings.own_streams]
    log.info(
        "started: stream %s, %s, from %s; DATA_DIR %s, %s",
        settings.executions_stream,
        f"partition{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} of "
        f"{settings.stream_partitions}" if settings.stream_partitions > 1 else "1 partition",
        ", ".join(f"after {after[stream]}" if stream in after else "its beginning"
                  for stream in settings.own_streams),
        settings.data_dir.absolute(),
        "no recovery directory" if recovery_directory is None
        else f"recovery directory {recovery_directory.absolute()}",
    )  # fmt: skip


def _tell_end(stop: Event) -> None:
    if stop.is_set():
        log.info("stopped, as told to")


def check_data_dir(settings: Settings, run: Launched) -> None:
    """End the program if DATA_DIR cannot be written or another process writes there.

    The sink would find out too, but at the first entry, when the hash shows it already.
    """
    try:
        # Other processes of the run may hold by now what this one would try.
        for stream in () if run.shared else settings.own_streams:
            files = StreamFiles(settings.data_dir, stream)
            files.lock()
            files.close()
        make_dir(own_dir(settings.data_dir))
        with TemporaryFile(dir=own_dir(settings.data_dir)):
            pass
    except LockedError as error:
        log.critical("stopped: DATA_DIR is in use: %s", error)
    except DataDirError as error:
        log.critical("stopped: %s", error)
    except OSError as error:
        log.critical("stopped: cannot write to DATA_DIR: %s", error)
    else:
        return
    raise SystemExit(1)


def _recovered(directory: Path, run: "_RunOptions", stop: Event) -> BookStores:
    try:
        _locks.append(recovery.prepare(directory, run.process_id, run.processes, stop))
    except LockedError as error:
        raise SystemExit(f"lotstream: the recovery directory is in use: {error}") from None
    except recovery.RecoveryError as error:
        raise SystemExit(f"lotstream: {error}") from None
    recovery.tell_of_full_disk(directory)
    return BookStores(directory, run.process_id or 0, recovery.resumed_at(directory))


_locks: list[FileLock] = []
"""Held as long as the process lives."""


def agree_on_partitions(link: RedisLink, settings: Settings) -> None:
    """End the program if the streams have another number of partitions."""
    try:
        agree(link, settings.streams)
    except RedisRefusedError as error:
        raise SystemExit(f"lotstream: {error}") from None
    except StoppedError:
        raise SystemExit(0) from None


class _RunOptions(NamedTuple):
    """What of Bytewax's own options matters here."""

    recovery_directory: Path | None = None
    process_id: int | None = None
    processes: int = 1
    workers: int = 1


def _run_options() -> _RunOptions:
    """Read the options of `python -m bytewax.run`, also those in its environment variables."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != "bytewax.run":
        return _RunOptions()
    # Bytewax has no public way to ask; its version is pinned.
    given = bytewax_run._parse_args()  # type: ignore[no-untyped-call]  # noqa: SLF001
    return _RunOptions(
        given.recovery_directory,
        None if given.process_id is None else int(given.process_id),
        len((given.addresses or "").split(";")),
        int(given.workers_per_process or 1),
    )
