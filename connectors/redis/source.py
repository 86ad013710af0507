"""The source: Redis Streams, one input partition a stream, read in order of entry id.

The resume state is the id of the last entry that was handed on; reading starts
after it. Two rules make a gap impossible to miss:

- The last entry read stays in the stream (the flow's own trimming keeps it), and
  every read asks for it again, after the new entries in the same round trip. If it is
  gone, so may be entries that were never read: the stream was trimmed, deleted,
  restored from a copy, or its server lost data.
- A read from the very beginning asks whether the stream still begins there.

While there is more to read than one read takes, the next read is asked for before this
one is worked on, and taken as bytes (see `bulk`).

Delivery is at least once by itself; the sinks make it exactly once.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from threading import Event
from typing import Any, NamedTuple

import hiredis
import redis
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors import metrics
from connectors.clock import AT_ONCE, Clock, ClockError, now_ms
from connectors.columns.replies import BulkConnection, Replies, Reply, last_id_in, parse
from connectors.kept import seal_values, unseal_values
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError, send, send_all
from connectors.redis.names import CONSUMER, GROUP
from state.records import FIRST_ID, RawEntry, id_order

log = logging.getLogger("lotstream.source")

_MOST, _COLLECT_S = 100_000, 2.0
"""Entries handed on at once while catching up, and the longest time to collect them."""

_WORK_S = 4.0
"""How long it may take, about, to book what is handed on at once: until then none of it is
durable, and the flow does not stop."""

_MANY, _MOST_OF_MANY, _SHORT_S = 1_000, 300_000, 1.0
"""Where there are so many symbols among the entries of one reply, so much is handed on: each
costs something for itself each time. What took less than a second says little then of how
long more would take, unless entries come late: each of those costs more than a symbol."""

TRIM_EVERY_S = 10.0
ALIVE_EVERY_S = 1.0

_Progress = tuple[str, int]
"""The id of the last entry handed on, and how many were before and with it."""

ResumeState = tuple[Any, ...]
"""The same under a checksum (`kept.seal_values`)."""


class GapError(Exception):
    """Entries are missing; going on would make positions wrong in silence."""


class Read(NamedTuple):
    """What one read of a stream returned."""

    stream: str
    entries: Sequence[RawEntry]
    """As `Replies` if they are many."""
    live: bool
    """True if these were all the entries there were: the flow has caught up."""


class RedisStreamSource(FixedPartitionedSource[Read, ResumeState]):
    """Read streams: a `Read` is what one round trip brings, or many while there is more.

    streams: the streams' names, one partition each.
    written: tells the first and the newest entry of a stream whose rows the sinks have
        already, 0-0 if none; a start that reads them again needs them to be there still.
    count: most entries a read; bulk_count: while there are more than that.
    block_ms: longest wait in a read, in milliseconds.
    retention_ms: entries older than this are trimmed, never past the last one that is
        committed; None keeps all.
    accept_gap: last read ids behind which to go on although entries are missing.
    """

    def __init__(
        self,
        link: RedisLink,
        streams: list[str],
        stop: Event,
        *,
        written: Callable[[str], tuple[str, str]] = lambda _stream: (FIRST_ID, FIRST_ID),
        count: int = 2000,
        bulk_count: int = 2_500,
        block_ms: int = 10,
        retention_ms: int | None = None,
        accept_gap: Sequence[str] = (),
    ) -> None:
        self._link, self.streams, self._stop = link, streams, stop
        self._written, self._accept_gap = written, accept_gap
        self._counts, self._retention_ms = (count, bulk_count), retention_ms
        self._block_ms = max(1, block_ms // len(streams))
        self._readers: list[_StreamReader] = []

    def to_go(self) -> int | None:
        """Count the entries this process has still to read, None if nobody can tell."""
        counts = [reader.to_go() for reader in self._readers]
        return None if None in counts else sum(filter(None, counts))

    def list_parts(self) -> list[str]:
        """Name the streams."""
        return self.streams

    def build_part(
        self, step_id: str, for_part: str, resume_state: ResumeState | None
    ) -> "_StreamPartition":
        """Resume a stream after the last entry handed on, or begin at its first."""
        del step_id
        reader = _StreamReader(self._link, for_part, self._counts, self._block_ms, self._accept_gap)
        reader.began_at, reader.must_hold = self._written(for_part)
        if resume_state is not None:
            reader.last_id, reader.entries_read = unseal_values(for_part, resume_state)
        self._readers.append(reader)
        part = _StreamPartition(reader, self._stop, self._retention_ms)
        # A server that was away may have come back without its last writes.
        self._link.after_outage.append(part.show_progress_again)
        return part


class _StreamPartition(StatefulSourcePartition[Read, ResumeState]):
    def __init__(self, reader: "_StreamReader", stop: Event, retention_ms: int | None) -> None:
        self._reader, self._stop, self._retention_ms = reader, stop, retention_ms
        self._snapshot: _Progress = (reader.last_id, reader.entries_read)
        self._shown: _Progress | None = None
        self._trim_at = self._alive_at = 0.0
        self._clock = Clock()
        self._closing: float | None = None
        """When the epoch before ended, until all of it is durable."""

    def next_batch(self) -> list[Read]:
        # Bytewax calls this in a new epoch only when all of the one before is
        # durable, so that what snapshot() returned last is committed by now.
        if self._closing is not None:
            metrics.EPOCH_CLOSE_SECONDS.observe(time.monotonic() - self._closing)
            self._closing = None
        if self._stop.is_set():
            raise StopIteration
        try:
            self._clock.check()
            if self._reader.checked:
                self._show_progress()
                self._show_alive()
                self._trim()
            reads = self._reader.read()
        except StoppedError:
            raise StopIteration from None
        except Exception as error:
            explained = isinstance(error, GapError | RedisRefusedError | ClockError)
            log.critical("stopped: %s", error, exc_info=not explained)
            raise
        return reads

    def next_awake(self) -> datetime | None:
        """Ask to be called again at once: the read itself waits for entries.

        With None the engine waits a millisecond after an empty one, by the system's clock,
        which may be set back.
        """
        return AT_ONCE

    def snapshot(self) -> ResumeState:
        self._closing = time.monotonic()
        self._clock.begin()
        self._snapshot = (self._reader.last_id, self._reader.entries_read)
        return seal_values(self._reader.stream, self._snapshot)

    def show_progress_again(self) -> None:
        self._shown = None

    def _show_progress(self) -> None:
        if self._shown != self._snapshot:
            self._reader.show_progress(*self._snapshot)
            self._shown = self._snapshot

    def _show_alive(self) -> None:
        if time.monotonic() >= self._alive_at:
            self._alive_at = time.monotonic() + ALIVE_EVERY_S
            self._reader.show_alive()

    def _trim(self) -> None:
        if self._retention_ms is None or time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + TRIM_EVERY_S
        oldest = now_ms() - self._retention_ms
        self._reader.trim(min(f"{max(0, oldest)}-0", self._snapshot[0], key=id_order))


class _StreamReader:
    """The commands that one stream needs, and the check that no entry is missing."""

    def __init__(
        self,
        link: RedisLink,
        stream: str,
        counts: tuple[int, int],
        block_ms: int,
        accept_gap: Sequence[str],
    ) -> None:
        self._link, self.stream = link, stream
        self._count, self._bulk_count = counts
        self._block_ms, self._accept_gap = block_ms, accept_gap
        self.last_id = FIRST_ID
        self.entries_read = 0
        self.must_hold = FIRST_ID
        """The newest entry that an earlier run is known to have read."""
        self.began_at = FIRST_ID
        """An early entry that an earlier run has read; matters to a read from the start."""
        self.checked = False
        """True once a read has found no entry missing."""
        self._warned = False
        self._bulk: BulkConnection | None = None
        self._asked_after: str | None = None
        """The entry after which the next bulk read goes on, if it was asked for."""
        self._checks: list[tuple[str, ...]] = []
        """What was asked with it, to see that no entry is missing."""
        self._may_bulk = True
        self._behind = False
        self._handed, self._handed_at = 0, 0.0
        """How many entries were handed on last, and when."""

    def read(self) -> list[Read]:
        """Return the entries after the last one read, waiting a moment if there is none.

        Raises GapError if an entry may be missing.
        """
        found = self._read_bulk() or self._read_parsed()
        if entries := sum(map(len, found)):
            metrics.BATCH_ENTRIES.observe(entries)
        self._handed, self._handed_at = entries, time.monotonic()
        return [Read(self.stream, some, live=not self._behind) for some in found]

    def _took(self, entries: Reply | list[RawEntry], *, most: int) -> None:
        """Note that entries were read; if there may be more, ask for them."""
        if entries:
            self.last_id = entries[-1][0].decode()
            self.entries_read += len(entries)
        self._behind = len(entries) >= most
        if self._asked_after not in {None, self.last_id}:
            self._give_bulk_up()
        if self._behind and self._asked_after is None:
            self._ask_bulk(self.last_id)

    def _read_parsed(self) -> list[list[RawEntry]]:
        reply, gone, info = self._link.call(self._ask)
        if gone:
            self._refuse_gap(f"entry {gone[0]}, which was read before, is gone")
        if self.last_id == FIRST_ID:
            self._check_beginning(info)
        self.checked = True
        entries = entries_of(reply)
        self._took(entries, most=self._count)
        return [entries] if entries else []

    def _read_bulk(self) -> list[Sequence[RawEntry]]:
        """Return the entries that were asked for, if any were, and those behind them."""
        replies: list[Reply] = []
        began = time.monotonic()
        took = began - self._handed_at
        most, until = 1.0, began + _COLLECT_S
        while (
            self._asked_after is not None
            and sum(map(len, replies)) < most
            and time.monotonic() < until
        ):
            entries = self._answer_of_bulk()
            self._took(entries, most=self._bulk_count)
            if not isinstance(entries, Reply):
                return [*_together(replies), *([entries] if entries else [])]
            if not replies:
                most = self._most(entries, took)
            replies.append(entries)
        return [*_together(replies)]

    def _most(self, first: Reply, took: float) -> float:
        """Say how many to hand on. first: those read first. took: seconds for the last ones."""
        are_many = first.variety(b"symbol") >= _MANY and first.is_rising(b"timestamp")
        if are_many and took < _SHORT_S:
            return _MOST_OF_MANY
        return min(_MOST_OF_MANY if are_many else _MOST, self._handed * _WORK_S / (took + 1e-9))

    def _ask_bulk(self, after: str) -> None:
        """Ask for the entries after one, for `_read_bulk` to take."""
        read = ("XREAD", "COUNT", self._bulk_count, "STREAMS", self.stream, after)
        self._checks = [("XRANGE", self.stream, one, one) for one in self._anchors(after)]
        try:
            if self._bulk is None and self._may_bulk:
                self._bulk = BulkConnection(self._link.client)
            if self._bulk is not None:
                self._bulk.ask(read, *self._checks)
                self._asked_after = after
        except redis.RedisError as error:
            # A user of Redis without the permission will not get it meanwhile.
            self._may_bulk = not isinstance(error, redis.ResponseError)
            self._give_bulk_up()

    def _answer_of_bulk(self) -> Reply | list[RawEntry]:
        """Return the entries that were asked for, and ask for those behind them.

        Whatever is wrong, it returns none: the next read, which is parsed, will find out.
        """
        assert self._bulk is not None
        self._asked_after, checks = None, len(self._checks)
        try:
            reply = self._bulk.answer()
            # Already now, as the server takes as long as it takes to look at these.
            if (last_id := last_id_in(reply, checks)) is not None:
                self._ask_bulk(last_id)
            found = Reply.of(reply)
            replies = parse(reply if found is None else found.rest)
        except (redis.RedisError, hiredis.HiredisError):
            self._give_bulk_up()
            return []
        anchors = replies[-checks:]
        all_there = all(one and not isinstance(one, Exception) for one in anchors)
        if not all_there or len(replies) != checks + (found is None):
            return []
        return entries_of(replies[0]) if found is None else found

    def _give_bulk_up(self) -> None:
        self._asked_after = None
        if self._bulk is not None:
            self._bulk.close()
            self._bulk = None

    def _anchors(self, last_id: str) -> set[str]:
        """Return entries that must be there still, if that is the last one read."""
        return {last_id, max(self.must_hold, last_id, key=id_order)} - {FIRST_ID}

    @property
    def _anchor(self) -> str:
        """The newest entry that was ever read; 0-0 if none was."""
        return max(self.must_hold, self.last_id, key=id_order)

    def _ask(self, client: redis.Redis) -> tuple[Any, list[str], dict[str, Any]]:
        """Return the reply to XREAD, entries that should be there and are not, and XINFO."""
        at_start = self.last_id == FIRST_ID
        anchors = self._anchors(self.last_id)
        if at_start:
            anchors |= {self.began_at} - {FIRST_ID}
        answers = send_all(
            client,
            ("XREAD", "COUNT", self._count, "BLOCK", self._block_ms, "STREAMS", self.stream,
             self.last_id),
            *(("XRANGE", self.stream, anchor, anchor) for anchor in anchors),
        )  # fmt: skip
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        info = self._info(client) if at_start else {}
        gone = [anchor for anchor, found in zip(anchors, answers[1:], strict=True) if not found]
        return answers[0], gone, info

    def _check_beginning(self, info: dict[str, Any]) -> None:
        # Redis before 7 does not count what was added: there, only what an earlier run
        # has read can tell that the beginning is gone.
        gone = info.get("entries-added", info.get("length", 0)) - info.get("length", 0)
        if gone:
            self._refuse_gap(f"{gone} of its entries are gone")
            self.entries_read = gone

    def _refuse_gap(self, what: str) -> None:
        """Raise GapError, unless the user accepts this very gap."""
        info = self._link.call(self._info)
        newest = _text(info.get("last-generated-id", FIRST_ID))
        lost = id_order(newest) < id_order(self._anchor)
        if self.last_id in self._accept_gap and not lost:
            if not self._warned:
                log.warning("going on after %s as ACCEPT_GAP says, although %s", self.last_id, what)
            self._warned = True
            self.must_hold = FIRST_ID
            return
        first = _text(info["first-entry"][0]) if info.get("first-entry") else "none"
        accept = dict.fromkeys([*self._accept_gap, self.last_id])
        raise GapError(
            f"stream {self.stream!r}: {what}, so that entries may be missing that this flow "
            f"needs (it has read up to {self._anchor}; the stream's first entry is "
            f"now {first}, its newest id {newest}). Restore the stream; or, to go on without them, "
            + ("" if info else "make it anew (XGROUP CREATE ... MKSTREAM), ")
            + (f"raise its newest id by XSETID to {self._anchor} and then " if lost else "")
            + f"set ACCEPT_GAP={','.join(accept)}. See 'Gaps' in docs/runbook.md"
        )

    def _info(self, client: redis.Redis) -> dict[str, Any]:
        try:
            return dict(client.xinfo_stream(self.stream))
        except redis.ResponseError as error:
            if _is_no_such_key(error):
                return {}
            raise

    def show_progress(self, last_id: str, entries_read: int) -> None:
        """Put the consumer group at the last committed entry."""
        try:
            self._link.call(lambda client: self._set_group(client, last_id, entries_read))
        except RedisRefusedError as error:
            # The next read tells whether there may be no stream.
            if "requires the key to exist" not in str(error):
                raise

    def _set_group(self, client: redis.Redis, last_id: str, entries_read: int) -> None:
        set_id = ("XGROUP", "SETID", self.stream, GROUP, last_id)
        try:
            try:
                send(client, *set_id, "ENTRIESREAD", entries_read)
            except redis.ResponseError as error:
                # Redis before 7 knows no ENTRIESREAD, and shows no lag.
                if "wrong number of arguments" not in str(error):
                    raise
                send(client, *set_id)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            send(client, "XGROUP", "CREATE", self.stream, GROUP, last_id)
            self._set_group(client, last_id, entries_read)

    def show_alive(self) -> None:
        """Let the group's consumer read what it has pending: nothing, and nothing moves."""
        self._link.call(self._read_nothing)
        for act in self._link.while_alive:
            act()

    def _read_nothing(self, client: redis.Redis) -> None:
        group = ("GROUP", GROUP, CONSUMER, "COUNT", 1)
        try:
            send(client, "XREADGROUP", *group, "STREAMS", self.stream, FIRST_ID)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise

    def to_go(self) -> int | None:
        """Count the entries that are not read yet, None if the server cannot tell."""
        added = self._link.call(self._info).get("entries-added")
        # A server that lost some counts them no more.
        return None if added is None else max(0, added - self.entries_read)

    def trim(self, oldest_kept: str) -> None:
        """Delete the entries before an id."""
        self._link.call(lambda client: send(client, "XTRIM", self.stream, "MINID", oldest_kept))


def entries_of(reply: Any) -> list[RawEntry]:
    """Return the entries in a reply to XREAD of one stream, in RESP2's form or RESP3's."""
    if not reply or isinstance(reply, Exception):
        return []
    [[_, entries]] = reply.items() if isinstance(reply, dict) else reply
    return list(entries)


def _is_no_such_key(answer: object) -> bool:
    return isinstance(answer, redis.ResponseError) and "no such key" in str(answer)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _together(replies: list[Reply]) -> list[Replies]:
    return [Replies(replies)] if replies else []
