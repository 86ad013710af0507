"""Locks between real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.file_lock import FileLock, LockedError
from tests.support.flow_process import ROOT

_HOLD = """
import sys, time
from pathlib import Path
from connectors.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire(shared=sys.argv[2] == "shared")
print("locked", flush=True)
time.sleep(600)
"""


@contextmanager
def held(path: Path, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_that_is_held_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with held(path) as holder:
        for shared, wait_s in ((False, 0.0), (True, 0.0), (False, 0.15)):
            with pytest.raises(LockedError, match=f"held by process {holder.pid}"):
                FileLock(path).acquire(shared=shared, wait_s=wait_s)


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    with held(lock.path) as holder:
        holder.kill()
        lock.acquire(wait_s=20)
    assert lock.holder() == str(os.getpid())


def test_sharers_hold_a_lock_together_and_keep_others_out(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with held(lock.path, "shared"):
        lock.acquire(shared=True)
        with pytest.raises(LockedError):
            other.acquire()
    lock.release()
    other.acquire(wait_s=20)


def test_a_closed_lock_is_given_back_and_so_is_its_file(tmp_path: Path) -> None:
    before = _open_files()
    for _ in range(100):
        lock = FileLock(tmp_path / "lock")
        lock.acquire()
        lock.close()
    assert _open_files() < before + 100  # others may open some


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_a_lock_tells_its_holder_and_nothing_of_those_before(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.holder() == "unknown"
    lock.path.write_text("1234567890123")
    lock.acquire(shared=True)
    assert lock.holder() == "1234567890123"
    lock.acquire()
    assert lock.holder() == str(os.getpid())
