"""The step from what a read brought to checked messages, key by key.

What cannot be used leaves here as `Rejected`, with its reason; so does a message in a
partition where its key does not live, since it would get a second book there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from connectors.columns.messages import Refused, decode_entry, decode_replies
from connectors.columns.replies import Replies
from connectors.redis.source import Read
from flows.common.logs import Progress
from state.keys import partition_of, position_key
from state.messages import Message, RejectedError
from state.records import Entry, RawEntry, Rejected
from state.run import Run


class Messages(NamedTuple):
    """What one read brought for one key, or a piece of it, in order of arrival."""

    stream: str
    key: str
    symbol: str
    account: str | None
    entries: Sequence[RawEntry]
    messages: list[Message] | Run
    """As many as there are entries."""
    live: bool


def decode_read(read: Read, progress: Progress) -> Iterable[Messages | Rejected]:
    """Sort a read's entries into messages by key, and entries that cannot be used."""
    if isinstance(read.entries, Replies):
        pieces, refused = decode_replies(read.entries)
        found = [
            Messages(read.stream, position_key(symbol, account), symbol, account, entries,
                     messages, read.live)
            for symbol, account, entries, messages in pieces
        ]  # fmt: skip
    else:
        found, refused = _decode_one_by_one(read)
    progress.read(len(read.entries), len(refused), live=read.live)
    rejected = [Rejected(read.stream, Entry.of(raw), reason) for raw, reason in refused]
    return [*rejected, *found]


def _decode_one_by_one(read: Read) -> tuple[list[Messages], list[Refused]]:
    by_key: dict[str, tuple[str, str | None, list[RawEntry], list[Message]]] = {}
    refused = []
    for raw in read.entries:
        try:
            symbol, account, message = decode_entry(raw)
        except RejectedError as error:
            refused.append(Refused(raw, str(error)))
            continue
        key = position_key(symbol, account)
        _, _, entries, messages = by_key.setdefault(key, (symbol, account, [], []))
        entries.append(raw)
        messages.append(message)
    return [
        Messages(read.stream, key, *of_key, read.live) for key, of_key in by_key.items()
    ], refused


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
