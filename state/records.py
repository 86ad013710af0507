"""What travels between the steps of the flow: entries, rejected entries, updates."""

from typing import NamedTuple

from state.book import Applied
from state.messages import Message
from state.snapshot import PositionSnapshot

FIRST_ID = "0-0"
"""Below every entry's id."""


class Entry(NamedTuple):
    """One entry of a stream, as it was read."""

    id: str
    fields: list[bytes]
    """Names and values in turn, byte for byte."""


class Rejected(NamedTuple):
    """An entry that cannot be used."""

    stream: str
    entry: Entry
    reason: str
    """What was expected and what was found."""


class Update(NamedTuple):
    """A position after one message that changed it."""

    stream_id: str
    """The entry that brought the message."""
    message: Message
    applied: Applied
    snapshot: PositionSnapshot


class Changes(NamedTuple):
    """What one read changed in one position."""

    stream: str
    key: str
    stream_id: str
    """The entry that brought the last change."""
    position: PositionSnapshot
    """After all of it."""
    updates: list[Update]
    """One for each message that counts, in order of their entries; none if this only
    shows the position again after a restart."""
    live: bool
    """True if the read had caught up with its stream."""


def id_order(entry_id: str) -> tuple[int, int]:
    """Return what sorts entry ids as Redis does: milliseconds, then sequence.

    >>> id_order("1700000000000-3") < id_order("1700000000000-10")
    True
    """
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
