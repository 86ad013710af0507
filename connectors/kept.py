"""What is kept on disk, so that damage at rest is noticed: plain values under a checksum.

A checksum (CRC-32) finds every flipped byte and every text cut short. It is no guard
against somebody who may write there. What is read back names no class, so reading it
runs nothing.
"""

import marshal
import pickle
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

_PROTOCOL = 5
_SIZE = 4
_AT_ONCE = 1 << 20


class DamagedError(ValueError):
    """What was read is not what was written."""


def dumps(values: Any) -> bytes:
    """Return plain values as bytes."""
    return pickle.dumps(values, _PROTOCOL)


def loads(data: bytes) -> Iterator[Any]:
    """Return the values that were written one behind the other; raises DamagedError."""
    file = BytesIO(data)
    while file.tell() < len(data):
        try:
            value = _Unpickler(file).load()
        except Exception as error:  # damaged, or another version's, it may fail in any way
            raise DamagedError(f"cannot be read: {error}") from error
        yield value


class _Unpickler(pickle.Unpickler):
    """Reads plain values only."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"expected plain values, found {module_name}.{global_name}")


def seal(data: bytes, of: Sequence[object]) -> bytes:
    """Return bytes with a checksum before them. of: what they belong to, in plain values."""
    return _sum(data, of).to_bytes(_SIZE, "big") + data


def unseal(sealed: bytes, of: Sequence[object]) -> bytes:
    """Return the bytes that `seal` was given for the same; raises DamagedError."""
    data = sealed[_SIZE:]
    if _sum(data, of) != int.from_bytes(sealed[:_SIZE], "big"):
        raise DamagedError("its checksum is wrong")
    return data


def seal_values(of: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return plain values, and a checksum behind them. of: what they belong to."""
    return (*values, _sum(_plain(tuple(values)), (of,)))


def unseal_values(of: str, sealed: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values that `seal_values` was given for the same; raises DamagedError."""
    *values, found = sealed
    if _sum(_plain(tuple(values)), (of,)) != found:
        raise DamagedError("its checksum is wrong")
    return tuple(values)


def read_only(path: Path) -> "closing[sqlite3.Connection]":
    """Open a SQLite file, which another process may have open too, to read it."""
    return closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True))


def check_pages(db: sqlite3.Connection) -> None:
    """Raise DamagedError if SQLite finds a file's pages not as it writes them."""
    [[found], *_] = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise DamagedError(found)


def checksum_of(path: Path) -> str:
    """Return a file's checksum, in eight hexadecimal digits."""
    found = 0
    with path.open("rb") as file:
        while data := file.read(_AT_ONCE):
            found = zlib.crc32(data, found)
    return f"{found:08x}"


def _sum(data: bytes, of: Sequence[object]) -> int:
    return zlib.crc32(data, zlib.crc32(_plain(tuple(of))))


def _plain(values: tuple[Any, ...]) -> bytes:
    # Version 2 depends on nothing but the values, not on how they came to be.
    return marshal.dumps(values, 2)
