"""Entries as a server sends them: replies to XREAD, in the Redis serialization protocol."""

from collections.abc import Sequence
from typing import Any

from connectors.columns.messages import KeyRun, decode_blocks
from connectors.columns.replies import EntryBlock, EntryBlocks


def encode(value: object) -> bytes:
    """Encode bytes and, nested in lists and tuples, arrays of them."""
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    assert isinstance(value, list | tuple)
    return b"*%d\r\n%b" % (len(value), b"".join(map(encode, value)))


def reply(entries: Sequence[Sequence[Any]], *, resp3: bool = False) -> bytearray:
    """Return the reply to an XREAD that found these entries in a stream, and to an XRANGE."""
    stream, listed = encode(b"executions"), encode([list(entry) for entry in entries])
    head = b"%1\r\n" if resp3 else b"*1\r\n*2\r\n"
    return bytearray(head + stream + listed + encode([[b"1-0", [b"a", b"b"]]]))


def decode_runs(entries: Sequence[Sequence[Any]]) -> list[KeyRun] | None:
    """Decode entries by columns; None if that is left to the careful path."""
    block = EntryBlock.of(reply(entries))
    return None if block is None else decode_blocks(EntryBlocks([block]))
