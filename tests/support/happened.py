"""What a program syncs and renames, in order: a power cut may undo whatever is not synced."""

import os
import time
from pathlib import Path
from threading import current_thread, main_thread

import pytest

_SLOW_S = 0.05
"""A disk takes its time, so that it shows if nobody waits for what a thread syncs."""


class Happened(list[tuple[str, int]]):
    """What is synced or renamed from now on, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        fsync, rename = os.fsync, Path.rename

        def noted_fsync(fd: int) -> None:
            if current_thread() is not main_thread():
                time.sleep(_SLOW_S)
            fsync(fd)
            self.append(("synced", os.fstat(fd).st_ino))

        def noted_rename(path: Path, target: Path) -> Path:
            self.append(("renamed", path.stat().st_ino))
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "rename", noted_rename)

    def renamed(self, path: Path) -> int:
        """Return when what is now at a path was renamed last."""
        return len(self) - 1 - self[::-1].index(("renamed", path.stat().st_ino))

    def synced(self, path: Path, *, since: int = 0, before: int | None = None) -> bool:
        """Tell whether what is now at a path was synced, since and before something else."""
        return ("synced", path.stat().st_ino) in self[since:before]
