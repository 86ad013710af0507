"""The sink of rejected entries: another Redis Stream, where they wait for a person.

A dead letter is written under its source entry's own id, and none that is not above the
newest one, so that none is written twice, however often the flow replays (see
`letters`). For that they must come in order: they are held until the epoch closes,
when all of it is here, and written by id. A letter that a person has removed is not
written again either. After an outage the last ones are written once more, since a
server that crashed may have lost them, but not the entries that they are about.
"""

import logging
from collections import deque
from collections.abc import Iterable, Mapping

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors import metrics
from connectors.redis.letters import add_of_flow
from connectors.redis.link import RedisLink
from state.records import Rejected, id_order

log = logging.getLogger("lotstream.dead_letters")

_AT_ONCE = 500


class DeadLetterSink(FixedPartitionedSink[Rejected, None]):
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

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_DeadLetterPartition":
        """Begin with none held."""
        del step_id, resume_state
        return _DeadLetterPartition(self._link, self._streams[for_part])


class _DeadLetterPartition(StatefulSinkPartition[Rejected, None]):
    def __init__(self, link: RedisLink, stream: str) -> None:
        self._link, self._stream = link, stream
        self._held: list[Rejected] = []
        self._recent: deque[Rejected] = deque(maxlen=_AT_ONCE)
        self._retries = link.retries
        link.after_outage.append(lambda: self._write([]))

    def write_batch(self, values: list[Rejected]) -> None:
        self._held += values

    def snapshot(self) -> None:
        self._held.sort(key=lambda rejected: id_order(rejected.entry.id))
        for start in range(0, len(self._held), _AT_ONCE):
            self._write(self._held[start : start + _AT_ONCE])
        self._held = []

    def _write(self, letters: list[Rejected]) -> None:
        added = self._link.call(lambda client: self._add(client, [*self._maybe_lost(), *letters]))
        self._retries = self._link.retries
        self._recent.extend(letters)
        for rejected in added:
            metrics.DEAD_LETTERS.labels(metrics.field_of(rejected.reason)).inc()
            log.warning(
                "dead letter %s of %s: %s", rejected.entry.id, rejected.stream, rejected.reason
            )

    def _maybe_lost(self) -> Iterable[Rejected]:
        """Return what a server that was away since may have come back without."""
        return self._recent if self._link.retries > self._retries else ()

    def _add(self, client: redis.Redis, letters: list[Rejected]) -> list[Rejected]:
        """Add what is not there yet and return it."""
        if not letters:
            return []
        words = [(rejected.entry.id, _fields(rejected)) for rejected in letters]
        added = add_of_flow(client, self._stream, words)
        return [rejected for rejected, new in zip(letters, added, strict=True) if new]


def _fields(rejected: Rejected) -> list[bytes]:
    return [
        *rejected.entry.fields,
        b"error", rejected.reason.encode(errors="backslashreplace"),
        b"source_stream", rejected.stream.encode(),
        b"source_id", rejected.entry.id.encode(),
    ]  # fmt: skip
