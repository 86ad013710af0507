"""What travels between the steps of the flow: entries, rejected entries, updates."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple

from state.book import Applied
from state.messages import Message
from state.run import RunUpdate, unpack_texts
from state.snapshot import PositionSnapshot

FIRST_ID = "0-0"
"""Below every entry's id."""


class Entry(NamedTuple):
    """One entry of a stream, as it was read."""

    id: str
    fields: list[bytes]
    """Names and values in turn, byte for byte."""

    @classmethod
    def of(cls, raw: "RawEntry") -> "Entry":
        """Return an entry as the client library returned it."""
        return cls(raw[0].decode(), raw[1])


RawEntry = list[Any]
"""An entry as the client library returns it: the id as bytes, the fields."""


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


class RunUpdates(NamedTuple):
    """A position after each message of a run."""

    ids: bytes
    """The entries that brought the messages, packed."""
    update: RunUpdate
    skip: int = 0
    """How many of the messages, from the first, are of no interest."""


class Changes(NamedTuple):
    """What one read changed in one position."""

    stream: str
    key: str
    stream_id: str
    """The entry that brought the last change."""
    position: PositionSnapshot
    """After all of it."""
    updates: list[Update] | RunUpdates
    """One for each message that counts, in order of their entries; none if this only
    shows the position again after a restart."""
    live: bool
    """True if the read had caught up with its stream."""

    @property
    def first_id(self) -> str:
        """The entry that brought the first update."""
        if isinstance(self.updates, RunUpdates):
            return id_at(self.updates.ids, self.updates.skip)
        return self.updates[0].stream_id if self.updates else self.stream_id

    @property
    def size(self) -> int:
        """How many updates there are."""
        if isinstance(self.updates, RunUpdates):
            return self.updates.ids.count(b"\n") - self.updates.skip
        return len(self.updates)

    def after(self, order: tuple[int, int]) -> "Changes":
        """Return the updates whose entries come after one (see `id_order`)."""
        if isinstance(self.updates, RunUpdates):
            start = bisect_right(unpack_texts(self.updates.ids), order, key=id_order)
            return self._replace(updates=self.updates._replace(skip=start))
        later = [update for update in self.updates if id_order(update.stream_id) > order]
        return self._replace(updates=later)


def pack_ids(entry_ids: Iterable[bytes]) -> bytes:
    """Pack entry ids as `state.run` packs texts."""
    return b"".join([entry_id + b"\n" for entry_id in entry_ids])


def id_at(ids: bytes, at: int) -> str:
    """Return one of some packed ids."""
    return ids.split(b"\n", at + 1)[at].decode()


def last_id(ids: bytes) -> str:
    """Return the last of some packed ids."""
    return ids[ids.rfind(b"\n", 0, -1) + 1 : -1].decode()


def id_order(entry_id: str) -> tuple[int, int]:
    """Return what sorts entry ids as Redis does: milliseconds, then sequence.

    >>> id_order("1700000000000-3") < id_order("1700000000000-10")
    True
    """
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
