"""Damage in a SQLite file that reading its rows one by one would not meet."""

import sqlite3
from contextlib import closing
from pathlib import Path


def damage_index(path: Path, name: str) -> None:
    """Change a text in the index of a file's only table that has one; nobody may have it open."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        [[size]] = db.execute("PRAGMA page_size").fetchall()
        [[page]] = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name IN "
            "('books', 'snaps')"
        ).fetchall()
    content = bytearray(path.read_bytes())
    at = content.index(name.encode(), (page - 1) * size, page * size)
    content[at] ^= 1
    path.write_bytes(content)
