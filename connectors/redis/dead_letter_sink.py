"""The sink of rejected entries: another Redis Stream, where they wait for a person.

A dead letter is written under its source entry's own id, and none that is not above the
newest one, so that none is written twice, however often the flow replays (see
`letters`). For that they must come in order: they are held until the epoch closes,
when all of it is here, and written by id. A letter that a person has removed is not
written again either. After an outage or a restart the last ones are written once more, since
a server that crashed may have lost them, but not the entries that they are about. So the
recovery snapshot has those of the last seconds.
"""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors import metrics
from connectors.kept import seal_values, unseal_values
from connectors.redis.letters import add_of_flow
from connectors.redis.link import RedisLink
from state.records import Entry, Rejected, id_order

log = logging.getLogger("lotstream.dead_letters")

_AT_ONCE = 500

_LOST_S, _MOST_BYTES = 10.0, 16_000_000
"""Longer than what a server may lose that syncs its file each second, and about as many bytes of
letters as it takes in the last of these. Each recovery snapshot has them."""

ResumeState = tuple[Any, ...]
"""Of the last letters id, fields and reason, under a checksum (`kept.seal_values`)."""


class DeadLetterSink(FixedPartitionedSink[Rejected, ResumeState]):
    """Write each rejected entry once, with its own fields unchanged and the reason.

    streams: the dead letter stream of each source stream. Items are keyed by their
    source stream. Exactly once, also when replayed.
    """

    def __init__(self, link: RedisLink, streams: Mapping[str, str]) -> None:
        self._link, self._streams = link, streams
        self._parts = sorted(streams)

    def list_parts(self) -> list[str]:
        """Name the source streams."""
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Return the place of a source stream in the sorted list of parts."""
        return self._parts.index(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: ResumeState | None
    ) -> "_DeadLetterPartition":
        """Begin with the last letters before, which may be lost."""
        del step_id
        kept = unseal_values(for_part, resume_state) if resume_state else ()
        last = [Rejected(for_part, Entry(*entry), reason) for *entry, reason in kept]
        return _DeadLetterPartition(self._link, for_part, self._streams[for_part], last)


class _DeadLetterPartition(StatefulSinkPartition[Rejected, ResumeState]):
    def __init__(self, link: RedisLink, source: str, stream: str, last: list[Rejected]) -> None:
        self._link, self._source, self._stream = link, source, stream
        self._held: list[Rejected] = []
        self._recent: deque[tuple[float, Rejected]] = deque()
        """With the time when each was written."""
        self._bytes = 0
        """What all of them take."""
        self._again_at = 0.0
        """When they were written again."""
        self._note(last)
        self._losses: int | None = None
        """The link's, when the last letters were written; None until then."""
        link.after_outage.append(lambda: self._write([]))
        link.while_alive.append(self._write_lost)

    def write_batch(self, values: list[Rejected]) -> None:
        self._held += values

    def snapshot(self) -> ResumeState:
        self._held.sort(key=lambda rejected: id_order(rejected.entry.id))
        for start in range(0, len(self._held), _AT_ONCE):
            self._write(self._held[start : start + _AT_ONCE])
        self._held = []
        since = time.monotonic() - _LOST_S
        if not self._maybe_lost() and self._again_at <= since:
            while self._recent and self._recent[0][0] <= since:
                self._forget()
        last = [(*one.entry, one.reason) for _, one in self._recent]
        return seal_values(self._source, last)

    def _write_lost(self) -> None:
        # At the start; and if an outage was over before its letters were noted.
        if self._maybe_lost():
            self._write([])

    def _write(self, letters: list[Rejected]) -> None:
        losses = 0

        def add(client: redis.Redis) -> list[Rejected]:
            nonlocal losses
            client.exists(self._stream)  # so that a connection lost since is noticed now
            losses = self._link.losses  # not later: another thread may note an outage
            if lost := self._maybe_lost():
                self._again_at = time.monotonic()
            offered = [*lost, *letters]
            parts = (offered[at : at + _AT_ONCE] for at in range(0, len(offered), _AT_ONCE))
            return [new for some in parts for new in self._add(client, some)]

        added = self._link.call(add)
        self._losses = losses
        self._note(letters)
        for rejected in added:
            metrics.DEAD_LETTERS.labels(metrics.field_of(rejected.reason)).inc()
            log.warning(
                "dead letter %s of %s: %s", rejected.entry.id, rejected.stream, rejected.reason
            )

    def _note(self, letters: list[Rejected]) -> None:
        self._recent.extend((time.monotonic(), letter) for letter in letters)
        self._bytes += sum(map(_size, letters))
        while self._bytes > _MOST_BYTES and len(self._recent) > _AT_ONCE:
            self._forget()

    def _forget(self) -> None:
        _, oldest = self._recent.popleft()
        self._bytes -= _size(oldest)

    def _maybe_lost(self) -> list[Rejected]:
        """Return what a server may have come back without that was away since, or before."""
        if self._losses is None or self._link.losses > self._losses:
            return [letter for _, letter in list(self._recent)]  # another thread may add
        return []

    def _add(self, client: redis.Redis, letters: list[Rejected]) -> list[Rejected]:
        """Add what is not there yet and return it."""
        words = [(rejected.entry.id, _fields(rejected)) for rejected in letters]
        added = add_of_flow(client, self._stream, words)
        return [rejected for rejected, new in zip(letters, added, strict=True) if new]


def _size(rejected: Rejected) -> int:
    return len(rejected.reason) + sum(map(len, rejected.entry.fields))


def _fields(rejected: Rejected) -> list[bytes]:
    return [
        *rejected.entry.fields,
        b"error", rejected.reason.encode(errors="backslashreplace"),
        b"source_stream", rejected.stream.encode(),
        b"source_id", rejected.entry.id.encode(),
    ]  # fmt: skip
