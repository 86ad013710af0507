"""What lasts through a power cut: files and names that the disk has confirmed."""

import os
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
