"""What names a position, and what names an execution.

A position's key is `symbol`, or `account:symbol`. An execution's identity is what
all its revisions share; IBKR marks a correction by raising the last group of the
execution id (TWS API, class Execution, field execId).
"""

import re
import zlib
from typing import NamedTuple

_IBKR_ID = re.compile(r"([0-9a-zA-Z]{8}\.[0-9a-zA-Z]{8}\.[0-9]{2}\.)([0-9]{2})")


def position_key(symbol: str, account: str | None = None) -> str:
    """Return the key of a position.

    >>> position_key("AAPL"), position_key("AAPL", "U1234567")
    ('AAPL', 'U1234567:AAPL')
    """
    return symbol if account is None else f"{account}:{symbol}"


def split_key(key: str) -> tuple[str, str]:
    """Return the account of a position's key, "" for none, and its symbol.

    >>> split_key("AAPL"), split_key("U1234567:US:AAPL")
    (('', 'AAPL'), ('U1234567', 'US:AAPL'))
    """
    account, colon, symbol = key.partition(":")
    return (account, symbol) if colon else ("", key)


def partition_of(key: str, partitions: int) -> int:
    """Return which of the partitions, from 0, a key lives in: crc32(key) mod N.

    >>> partition_of("AAPL", 4)
    0
    """
    return zlib.crc32(key.encode()) % partitions


class ExecutionId(NamedTuple):
    """An execution id taken apart."""

    identity: str
    """What all revisions share: the id of the first; the whole id if it is not of IBKR's
    shape. So no two executions share it, whatever ids other producers invent."""
    revision: int | None
    """1 for the first, more for a correction; None if the id has no revision."""


def parse_exec_id(text: str) -> ExecutionId:
    """Take an execution id apart.

    >>> parse_exec_id("0000e0d5.6596b0d2.01.02")
    ExecutionId(identity='0000e0d5.6596b0d2.01.01', revision=2)
    >>> parse_exec_id("my-fill-17")
    ExecutionId(identity='my-fill-17', revision=None)
    """
    match = _IBKR_ID.fullmatch(text)
    if match is None:
        return ExecutionId(text, None)
    if match[2] == "01":
        return ExecutionId(text, 1)  # no second text of the same letters, for each that is kept
    return ExecutionId(f"{match[1]}01", int(match[2]))
