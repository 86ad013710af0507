"""Entries as a server sends them: replies to XREAD, in the Redis serialization protocol.

And what comes of them: read by columns, and entry by entry, to be held against each other.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from connectors.columns.messages import Refused, decode_entry, decode_replies
from connectors.columns.replies import Replies, Reply
from state.messages import Message, RejectedError
from state.records import RawEntry, pack_ids
from state.run import Run

ANCHOR: list[RawEntry] = [[b"1-0", [b"a", b"b"]]]
"""What the reply to XRANGE has in `reply`."""


def encode(value: object) -> bytes:
    """Encode bytes and, nested in lists and tuples, arrays of them."""
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    assert isinstance(value, list | tuple)
    return b"*%d\r\n%b" % (len(value), b"".join(map(encode, value)))


def reply(entries: Sequence[Sequence[Any]], *, resp3: bool = False) -> bytes:
    """Return the reply to an XREAD that found these entries in a stream, and to an XRANGE."""
    stream, listed = encode(b"executions"), encode([list(entry) for entry in entries])
    head = b"%1\r\n" if resp3 else b"*1\r\n*2\r\n"
    return head + stream + listed + encode(ANCHOR)


def flat(fields: dict[str, str] | dict[str, bytes] | dict[str, str | bytes]) -> list[bytes]:
    """Return fields as an entry has them: names and values in turn."""
    parts = [part for pair in fields.items() for part in pair]
    return [part.encode() if isinstance(part, str) else part for part in parts]


def replies_of(entries: Sequence[RawEntry], size: int | None = None) -> Replies:
    """Return a read of these entries, so many a reply; none may need a parser."""
    size = size or len(entries)
    found = [Reply.of(reply(entries[at : at + size])) for at in range(0, len(entries), size)]
    replies = [one for one in found if one is not None]
    assert len(replies) == len(found), "an entry holds a line end"
    return Replies(replies)


class Decoded(NamedTuple):
    """What came of the entries of a read."""

    by_key: dict[tuple[str, str | None], list[tuple[RawEntry, Message]]]
    """By symbol and account, in order of arrival."""
    refused: list[Refused]


def by_columns(replies: Replies) -> tuple[Decoded, set[bytes]]:
    """Decode a read by columns; return also the ids of what is in runs."""
    pieces, refused = decode_replies(replies)
    decoded, in_runs = Decoded({}, refused), set()
    for symbol, account, packed, entries, messages in pieces:
        ids = [raw[0] for raw in entries]
        assert packed == pack_ids(ids)
        assert len(messages) == len(entries) > 0
        if isinstance(messages, Run):
            in_runs |= set(ids)
        each = messages.messages() if isinstance(messages, Run) else messages
        decoded.by_key.setdefault((symbol, account), []).extend(zip(entries, each, strict=True))
    return decoded, in_runs


def one_by_one(entries: Sequence[RawEntry]) -> Decoded:
    """Decode entries each by itself."""
    decoded = Decoded({}, [])
    for entry in entries:
        try:
            symbol, account, message = decode_entry(entry)
        except RejectedError as error:
            decoded.refused.append(Refused(entry, str(error)))
        else:
            decoded.by_key.setdefault((symbol, account), []).append((entry, message))
    return decoded


def check_columns(entries: Sequence[RawEntry], size: int | None = None) -> set[bytes]:
    """Hold a read by columns against each entry by itself; return the ids of what is in runs."""
    decoded, in_runs = by_columns(replies_of(entries, size))
    assert decoded == one_by_one(entries)
    return in_runs
