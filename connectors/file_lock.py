"""A lock on a file, which the system gives back when its holder dies, however it dies."""

import fcntl
import os
import time
from pathlib import Path

_RETRY_S = 0.05


class LockedError(Exception):
    """Another process holds the lock; the text says which."""


class FileLock:
    """An advisory lock (flock) on a file, whose content says who holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> None:
        """Take the lock, or change how it is held.

        shared: together with other sharers. wait_s: how long to wait for the holder.
        Raises LockedError, naming the holding process.
        """
        deadline = time.monotonic() + wait_s
        while not self._try(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise LockedError(f"{self.path} is held by process {self.holder()}")
            time.sleep(_RETRY_S)
        if not shared:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def holder(self) -> str:
        """Return the process id that last held the lock alone, as the file tells it."""
        return os.pread(self._fd, 32, 0).decode() or "unknown"

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back and close its file."""
        os.close(self._fd)

    def _try(self, how: int) -> bool:
        try:
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
