"""The step from what a read brought to checked messages, key by key.

What cannot be used leaves here as `Rejected`, with its reason; so does a message in a
partition where its key does not live, since it would get a second book there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from connectors.columns.messages import decode_entries, decode_replies
from connectors.columns.replies import Replies
from connectors.redis.source import Read
from flows.common.logs import Progress
from state.keys import partition_of, position_key
from state.messages import Message
from state.records import Entry, RawEntry, Rejected
from state.run import Run


class Messages(NamedTuple):
    """What one read brought for one key, or a piece of it, in order of arrival."""

    stream: str
    key: str
    symbol: str
    account: str | None
    ids: bytes
    """Of the entries, packed."""
    entries: Sequence[RawEntry]
    messages: Run | list[Message]
    """As many as there are entries."""
    live: bool


def decode_read(read: Read, progress: Progress) -> Iterable[Messages | Rejected]:
    """Sort a read's entries into messages by key, and entries that cannot be used."""
    if isinstance(read.entries, Replies):
        pieces, refused = decode_replies(read.entries)
    else:
        pieces, refused = decode_entries(read.entries)
    progress.read(len(read.entries), len(refused), live=read.live)
    rejected = [Rejected(read.stream, Entry.of(raw), reason) for raw, reason in refused]
    found = [
        Messages(read.stream, position_key(piece.symbol, piece.account), *piece, read.live)
        for piece in pieces
    ]
    return [*rejected, *found]


def at_home(
    items: Iterable[Messages | Rejected], partitions: Sequence[str], progress: Progress
) -> Iterator[Messages | Rejected]:
    """Refuse messages in a partition where their key does not live: it would get two books."""
    for item in items:
        home = item.stream
        if isinstance(item, Messages) and partitions:
            home = partitions[partition_of(item.key, len(partitions))]
        if isinstance(item, Rejected) or home == item.stream:
            yield item
            continue
        reason = (
            f"symbol: expected a key of stream {item.stream!r}, found {item.key!r}, which lives "
            f"in {home!r}"
        )
        progress.read(0, len(item.entries), live=item.live)
        yield from (Rejected(item.stream, Entry.of(raw), reason) for raw in item.entries)
