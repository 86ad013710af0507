"""What a flow needs before its parts can be wired: options, signals, recovery.

All of it happens in the `flow` factory, which Bytewax's runner calls in the main
thread before it opens the recovery store.
"""

import gc
import signal
import sys
from pathlib import Path
from threading import Event
from typing import NamedTuple

import bytewax.run as bytewax_run

from connectors.book_store import BookStores
from connectors.file_lock import FileLock, LockedError
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError
from connectors.redis.partitions import agree
from flows.common.settings import Settings
from flows.job import recovery


class Launched(NamedTuple):
    """What the process has and the parts are given."""

    stop: Event
    """Set by SIGTERM and SIGINT."""
    stores: BookStores | None
    """None without a recovery directory."""
    together: bool
    """True if the run has other workers or processes."""


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
    if retains and settings.stream_retention_hours and run.recovery_directory is None:
        raise SystemExit(
            "lotstream: STREAM_RETENTION_HOURS: expected a recovery directory (-r) with it, "
            "since a trimmed stream cannot rebuild positions; found none"
        )
    stores = None
    if run.recovery_directory is not None:
        stores = _recovered(run.recovery_directory, run, stop)
    return Launched(stop, stores, run.processes * run.workers > 1)


def _recovered(directory: Path, run: "_RunOptions", stop: Event) -> BookStores:
    try:
        _locks.append(recovery.prepare(directory, run.process_id, run.processes, stop))
    except LockedError as error:
        raise SystemExit(f"lotstream: the recovery directory is in use: {error}") from None
    except recovery.RecoveryError as error:
        raise SystemExit(f"lotstream: {error}") from None
    recovery.tell_of_full_disk(directory)
    return BookStores(directory, run.process_id or 0)


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
    addresses = [address for address in (given.addresses or "").split(";") if address]
    directory = given.recovery_directory
    return _RunOptions(
        directory and Path(directory),
        None if given.process_id is None else int(given.process_id),
        max(1, len(addresses)),
        int(given.workers_per_process or 1),
    )
