"""The step from what a read brought to checked messages, key by key.

What cannot be used leaves here as `Rejected`, with its reason; so does a message in a
partition where its key does not live, since it would get a second book there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from connectors.codec import decode
from connectors.columns.messages import KeyRun, decode_blocks
from connectors.columns.replies import BlockEntries, EntryBlocks
from connectors.redis.source import Read
from flows.common.logs import Progress
from state.keys import partition_of, position_key
from state.messages import Message, RejectedError
from state.records import Entry, RawEntry, Rejected
from state.run import Run


class Messages(NamedTuple):
    """What one read brought for one key, in order of arrival."""

    stream: str
    key: str
    symbol: str
    account: str | None
    entries: list[RawEntry] | BlockEntries
    messages: Sequence[Message] | Run
    """As many as there are entries."""
    live: bool


def decode_read(read: Read, progress: Progress) -> Iterable[Messages | Rejected]:
    """Sort a read's entries into messages by key, and entries that cannot be used."""
    if isinstance(read.entries, EntryBlocks):
        runs = decode_blocks(read.entries)
        if runs is not None:
            progress.read(len(read.entries), live=read.live)
            return [_messages_of(read, of_key) for of_key in runs]
        if len(read.entries.blocks) > 1:
            # Few entries are unusual: only the blocks that have some take long.
            return [
                item
                for block in read.entries.blocks
                for item in decode_read(read._replace(entries=EntryBlocks([block])), progress)
            ]
    by_key: dict[str, Messages] = {}
    rejected: list[Messages | Rejected] = []
    for raw in read.entries:
        try:
            symbol, account, message = decode(raw[1])
        except RejectedError as error:
            rejected.append(Rejected(read.stream, Entry.of(raw), str(error)))
            continue
        key = position_key(symbol, account)
        if key not in by_key:
            by_key[key] = Messages(read.stream, key, symbol, account, [], [], read.live)
        by_key[key].entries.append(raw)  # type: ignore[union-attr]
        by_key[key].messages.append(message)  # type: ignore[union-attr]
    progress.read(len(read.entries), len(rejected), live=read.live)
    return rejected + list(by_key.values())


def _messages_of(read: Read, of_key: KeyRun) -> Messages:
    heading, run, entries = of_key
    symbol, account, _ = heading
    key = position_key(symbol, account)
    return Messages(read.stream, key, symbol, account, entries, run, read.live)


def at_home(
    items: Iterable[Messages | Rejected], partitions: Sequence[str]
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
        yield from (Rejected(item.stream, Entry.of(raw), reason) for raw in item.entries)
