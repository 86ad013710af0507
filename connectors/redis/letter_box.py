"""The dead letters from a person's side: read them, put repaired ones back, drop others.

Whatever is done with a letter is one step on the server: the repaired entry onto its
stream, a trace of it all, the letter's removal; all of it or nothing. So a letter can
not be put back twice, however often and by however many people that is tried. Its place
in the dead letter stream stays taken: the flow does not write it again.

A trace is an entry of the stream that is named as the letter's with `:handled` behind:
the whole letter, then what was done, when, and by whom.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Any, NamedTuple

import redis

from connectors.redis.letters import ORDER, WIDE
from connectors.redis.link import RedisLink, send
from connectors.redis.names import trace_stream
from state.records import FIRST_ID, id_order

_LETTER_FIELDS = (b"error", b"source_stream", b"source_id")
"""What the flow has put behind an entry's own fields, in this order."""
_TRACE_FIELDS = (
    b"letter_id", b"action", b"changes", b"why", b"handled_at", b"handled_by", b"new_stream",
    b"new_id",
)  # fmt: skip
"""What is put behind a letter's fields."""
_PAGE = 1000

# KEYS: the letter's stream, the stream for the entry, the trace's stream.
# ARGV: letter id, how many words the entry has (0: none is put back), those words, then
# those of the trace but the new entry's id.
_HANDLE = """
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return false end
local words, trace, new_id = tonumber(ARGV[2]), letter[2], ''
if words > 0 then new_id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3, 2 + words)) end
for i = 3 + words, #ARGV do trace[#trace + 1] = ARGV[i] end
trace[#trace + 1] = 'new_id'
trace[#trace + 1] = new_id
redis.call('XADD', KEYS[3], '*', unpack(trace))
redis.call('XDEL', KEYS[1], ARGV[1])
return new_id
"""


# KEYS: a stream. Answers with the id that its next entry gets by the server's clock.
_NEXT = f"""{ORDER}
local last, now = newest(KEYS[1]), redis.call('TIME')
local id = string.format('%s%03d-0', now[1], math.floor(now[2] / 1000))
return newer(id, last) and id or behind(last)
"""


class Letter(NamedTuple):
    """An entry that the flow could not use."""

    stream: str
    """The dead letter stream it is in."""
    id: str
    fields: list[bytes]
    """The entry's own names and values in turn, byte for byte."""
    reason: str
    """What was expected and what was found."""
    source_stream: str
    source_id: str
    """The entry's own; `FIRST_ID` if it never was one."""

    @property
    def field(self) -> str:
        """The field that the reason is about."""
        return self.reason.partition(":")[0]


class Trace(NamedTuple):
    """What was done with a letter."""

    letter_id: str
    action: str
    changes: str
    why: str
    handled_at: str
    handled_by: str
    new_stream: str
    new_id: str


class LetterBox:
    """The dead letter streams.

    streams: their names, all partitions.
    """

    def __init__(self, link: RedisLink, streams: Sequence[str]) -> None:
        self._link, self._streams = link, streams
        for command in ("XRANGE", "XREVRANGE"):
            # redis-py makes a dict of an entry's fields, which loses repeated ones.
            link.client.set_response_callback(command, lambda reply, **_: reply)
        self._script = link.client.register_script(_HANDLE)

    def letters(self) -> Iterator[Letter]:
        """Return all that wait, the oldest first."""
        return merge(*map(self._letters, self._streams), key=lambda letter: id_order(letter.id))

    def _letters(self, stream: str) -> Iterator[Letter]:
        for entry_id, fields in self._entries(stream):
            yield _letter(stream, entry_id, fields)

    def reports(self, stream: str) -> Iterator[list[bytes]]:
        """Return the fields of all commission reports on a stream, the oldest first."""
        for _, fields in self._entries(stream):
            if (b"type", b"commission") in zip(fields[::2], fields[1::2], strict=True):
                yield fields

    def add(self, stream: str, fields: Sequence[bytes]) -> None:
        """Add an entry to a stream, at least once."""
        self._link.call(lambda client: send(client, "XADD", stream, "*", *fields))

    def find(self, letter_id: str, stream: str = "") -> list[Letter]:
        """Return the letters of an id: one, none, or one of each of several partitions.

        stream: look only there.
        """
        return [
            _letter(name, entry_id.decode(), fields)
            for name in self._streams
            if stream in ("", name)
            for entry_id, fields in self._range("XRANGE", name, letter_id, letter_id)
        ]

    def traces(self, stream: str = "") -> Iterator[Trace]:
        """Return what was done with letters, the latest first.

        stream: only with those of this one.
        """
        streams = [stream] if stream else self._streams
        return merge(*map(self._traces, streams), key=lambda each: each.handled_at, reverse=True)

    def _traces(self, stream: str) -> Iterator[Trace]:
        for _, fields in self._entries(trace_stream(stream), latest_first=True):
            values = fields[-2 * len(_TRACE_FIELDS) + 1 :: 2]
            yield Trace(*map(_text, values))

    def trace_of(self, letter_id: str, stream: str = "") -> Trace | None:
        """Return what was done with a letter last, None if nothing was."""
        return next((each for each in self.traces(stream) if each.letter_id == letter_id), None)

    def put_back(
        self,
        letter: Letter,
        stream: str,
        fields: Sequence[bytes],
        *,
        changes: str,
        at: str,
        by: str,
    ) -> str | None:
        """Add the repaired entry to a stream in the letter's place.

        fields: names and values in turn. changes: what was repaired. at, by: for the trace.
        Returns the new entry's id; None if the letter was gone, and then nothing is done.
        """
        return self._handle(letter, "put back", stream, fields, changes, "", at, by)

    def drop(self, letter: Letter, *, why: str, at: str, by: str) -> bool:
        """Remove a letter for good; return whether it was still there."""
        return self._handle(letter, "dropped", "", (), "", why, at, by) is not None

    def _handle(
        self, letter: Letter, action: str, stream: str, fields: Sequence[bytes], *about: str
    ) -> str | None:
        keys = [letter.stream, stream or letter.stream, trace_stream(letter.stream)]
        values = (letter.id, action, *about, stream)
        trace = [word for pair in zip(_TRACE_FIELDS, values, strict=False) for word in pair]
        words = [letter.id, len(fields), *fields, *trace]

        def handle(client: redis.Redis) -> Any:
            if len(letter.fields) > WIDE:
                return _handle_wide(client, keys, letter.id, fields, trace)
            return self._script(keys, words)

        new_id = self._link.call(handle)
        return None if new_id is None else str(new_id.decode())

    def _entries(
        self, stream: str, *, latest_first: bool = False
    ) -> Iterator[tuple[str, list[bytes]]]:
        command, start, end = ("XREVRANGE", "+", "-") if latest_first else ("XRANGE", "-", "+")
        while page := self._range(command, stream, start, end):
            for entry_id, fields in page:
                yield entry_id.decode(), fields
            start = f"({page[-1][0].decode()}"

    def _range(self, command: str, stream: str, start: str, end: str) -> list[Any]:
        def ask(client: redis.Redis) -> Any:
            return send(client, command, stream, start, end, "COUNT", _PAGE)

        return list(self._link.call(ask))


def _handle_wide(
    client: redis.Redis,
    keys: Sequence[str],
    letter_id: str,
    fields: Sequence[bytes],
    trace: Sequence[Any],
) -> Any:
    """Do what the script does, from here: Lua can hand on only so many words at once."""
    new_id: Any = None
    box, stream, traces = keys

    def handle(pipe: Any) -> None:
        nonlocal new_id
        new_id = None
        found = send(pipe, "XRANGE", box, letter_id, letter_id)
        if found:
            new_id = send(pipe, "EVAL", _NEXT, 1, stream) if fields else b""
            pipe.multi()
            if fields:
                send(pipe, "XADD", stream, new_id, *fields)
            send(pipe, "XADD", traces, "*", *found[0][1], *trace, b"new_id", new_id)
            send(pipe, "XDEL", box, letter_id)

    client.transaction(handle, box, stream)  # anew if another writes meanwhile
    return new_id


def _letter(stream: str, entry_id: str, fields: list[bytes]) -> Letter:
    behind = 2 * len(_LETTER_FIELDS)
    if tuple(fields[-behind::2]) != _LETTER_FIELDS:
        reason = "none: the flow has not written this"
        return Letter(stream, entry_id, fields, reason, "", FIRST_ID)
    about = [_text(value) for value in fields[1 - behind :: 2]]
    return Letter(stream, entry_id, fields[:-behind], *about)


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
