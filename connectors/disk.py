"""What lasts through a power cut: files and names that the disk has confirmed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or the names in a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(directory: Path) -> None:
    """Make a directory and those above it, so that they last."""
    if not directory.exists():
        make_dir(directory.parent)
        directory.mkdir(exist_ok=True)
        sync(directory.parent)


@contextmanager
def made_whole(directory: Path, name: str) -> Iterator[Path]:
    """Give an empty directory, whose files are moved to `directory` when all are made.

    name: tells what is made from what others make there at the same time. The file whose
    name comes first is moved last: where it is, all are. Who writes them syncs them.
    """
    new = directory / f".{name}.making"
    shutil.rmtree(new, ignore_errors=True)  # a crash may have left it
    new.mkdir()
    yield new
    for path in sorted(new.iterdir(), reverse=True):
        path.rename(directory / path.name)
    sync(directory)
    new.rmdir()
