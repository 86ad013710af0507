"""Bulk reads of a stream: a reply of many like entries, without an object for each value.

While the flow catches up, a read brings thousands of entries that have the same
fields in the same order. To make some twenty objects of each costs more than all that
is done with them later. So the reply is taken as bytes, and an `EntryBlock` only finds
out where in it each value is: for all entries at once, by the line ends.

A reply is a text in lines (the Redis serialization protocol, RESP). Of an entry with
the fields a=1 and b=22 it has these:

    *2   $15   1700000000000-0   *4   $1   a   $1   1   $1   b   $2   22

Every text stands behind its length. An `EntryBlock` checks each of these lengths, so it
reads what a parser reads, whatever the values hold; a reply that is not made like this
is left to the parser.
"""

import re
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, groupby, pairwise
from typing import Any

import hiredis
import numpy as np
import pyarrow as pa
import redis
from numpy.typing import NDArray

from state.records import RawEntry, id_at, pack_ids

_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]
_Words = NDArray[np.uint64]
_Texts = tuple[_Bytes, _Ints]

_HEAD = re.compile(
    rb"(?:\*1\r\n\*2|%1)\r\n"  # one stream: its name, its entries; in RESP2, in RESP3
    rb"\$\d+\r\n[^\r\n]+\r\n"
    rb"\*(?P<entries>[1-9]\d*)\r\n"
    rb"(?=\*2\r\n\$\d+\r\n[^\r\n]+\r\n\*(?P<texts>\d+)\r\n)"
)
_LAST = re.compile(rb"\r\n\*2\r\n\$\d+\r\n(\d{1,20}-\d{1,20})\r\n")
_ID, _FIRST_NAME = 2, 5
"""Lines of an entry: see the module's example."""

_FIRST_SIZE = 1 << 20
_LONGEST = 99


class BulkConnection:
    """A connection of its own to Redis, whose replies are taken as bytes.

    `ask` and `answer` take turns; in between, the server does its part. After an error
    it is to be closed. All but `close` raise redis.RedisError.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._size = _FIRST_SIZE
        self._end = b""
        try:
            # What it needs below; a user of Redis may lack the permission.
            self._connection.send_command("ECHO", "")  # type: ignore[no-untyped-call]
            self._connection.read_response()
        except redis.RedisError:
            self.close()
            raise

    def ask(self, *commands: tuple[str | int | bytes, ...]) -> None:
        """Send commands."""
        # The server answers in order, so its echo of what nobody can have foreseen tells
        # where the answers end.
        token = secrets.token_hex(8)
        self._end = f"$16\r\n{token}\r\n".encode()
        packed = self._connection.pack_commands([*commands, ("ECHO", token)])
        self._connection.send_packed_command(packed)

    def answer(self) -> bytearray:
        """Wait for the replies to all commands, and return them."""
        sock, end = self._connection._sock, self._end  # noqa: SLF001  # has no other name
        reply, length = bytearray(self._size), 0
        while length < len(end) or not reply.endswith(end, 0, length):
            if length == len(reply):
                reply += bytes(length)
                self._size = len(reply)
            try:
                with memoryview(reply) as view:
                    received = sock.recv_into(view[length:])
            except OSError as error:
                raise redis.ConnectionError(f"while reading a bulk reply: {error}") from error
            if not received:
                raise redis.ConnectionError("closed by the server during a bulk reply")
            length += received
        del reply[length - len(end) :]
        return reply

    def close(self) -> None:
        """Give it up, with whatever is under way."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def parse(reply: bytes | bytearray) -> list[Any]:
    """Return the replies to all commands as the client library would."""
    reader = hiredis.Reader()
    reader.feed(bytes(reply))
    replies = []
    while (one := reader.gets()) is not False:
        replies.append(one)
    return replies


def last_id_in(reply: bytearray, checks: int = 1) -> str | None:
    """Guess the id of the last entry in a reply to XREAD, with `checks` to XRANGE behind it.

    A text in an entry could mislead it; `EntryBlock.last_id` is certain.
    """
    behind = len(reply)
    for _ in range(checks):
        behind = max(0, reply.rfind(b"\r\n*1\r\n*2\r\n", 0, behind))
    found = _LAST.match(reply, max(0, reply.rfind(b"\r\n*2\r\n", 0, behind)))
    return found and found[1].decode()


class EntryBlock(Sequence[RawEntry]):
    """The entries in one reply to XREAD, all with the same fields in the same order."""

    def __init__(self, reply: bytearray, lines: "_Lines") -> None:
        """Take a reply and the lines of its entries; raises ValueError if they are not alike."""
        self._reply, self._first, self._stop = reply, lines.first, int(lines.ends[-1, -1]) + 1
        self.names = [lines.text(line, 0) for line in range(_FIRST_NAME, len(lines.ends), 4)]
        """The names of the fields."""
        lines.check(_ID + 1, b"*%d\r\n" % (2 * len(self.names)))
        self.ids = lines.values(_ID)
        """One behind the other, and their lengths."""
        self.texts: dict[bytes, _Texts] = {}
        """The same for the values of each field."""
        for line, name in enumerate(self.names):
            at = _FIRST_NAME + 4 * line
            lines.check(at, b"$%d\r\n%b\r\n" % (len(name), name))
            self.texts[name] = lines.values(at + 2)
        self.last_id = lines.text(_ID, -1).decode()

    @classmethod
    def of(cls, reply: bytearray) -> "EntryBlock | None":
        """Find the entries at the beginning of a reply; None if that takes a parser."""
        head = _HEAD.match(reply)
        if head is None:
            return None
        first, count, lines = head.end(), int(head["entries"]), 4 + 2 * int(head["texts"])
        ends = first + np.flatnonzero(np.frombuffer(reply, np.uint8)[first:] == ord("\n"))
        if len(ends) < count * lines:
            return None
        by_line = np.ascontiguousarray(ends[: count * lines].reshape(count, lines).T)
        try:
            return cls(reply, _Lines(reply, first, by_line))
        except ValueError:
            return None

    def __len__(self) -> int:
        return len(self.ids[1])

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would."""
        return self._parsed[at]

    def __iter__(self) -> Iterator[RawEntry]:
        return iter(self._parsed)

    @cached_property
    def _parsed(self) -> list[RawEntry]:
        [parsed] = parse(b"*%d\r\n" % len(self) + self._reply[self._first : self._stop])
        return list(parsed)

    @property
    def rest(self) -> bytes:
        """What follows the entries in the reply."""
        return bytes(self._reply[self._stop :])


class _Lines:
    """The lines of a reply's entries, of each as many."""

    def __init__(self, reply: bytearray, first: int, ends: _Ints) -> None:
        """Take where the first entry begins, and where lines end: for each line, a row."""
        self.first, self.ends = first, ends
        self._reply = np.frombuffer(reply, np.uint8)
        # The eight bytes from each place on, as one number.
        self._words: _Words = np.ndarray((len(reply) - 7,), "<u8", reply, strides=(1,))

    def text(self, line: int, entry: int) -> bytes:
        """Return a line of an entry."""
        return self._reply[self.ends[line - 1, entry] + 1 : self.ends[line, entry] - 1].tobytes()

    def check(self, line: int, text: bytes) -> None:
        """Check that a text, line ends and all, is what a line of each entry ends with."""
        stops = self.ends[line] + 1
        while text:
            last, text = text[-8:], text[:-8]
            if (self._words[stops - 8] >> _shift(last) != _word(last)).any():
                raise ValueError(f"expected {last!r} in each entry")
            stops = stops - 8

    def values(self, line: int) -> _Texts:
        """Return a line of each entry, all as long as the line before says.

        So they hold no line ends, and the next line is what the protocol has there.
        """
        starts, stops = self.ends[line - 1] + 1, self.ends[line] - 1
        lengths = stops - starts
        if lengths.min() < 0 or lengths.max() > _LONGEST:
            raise ValueError("expected texts that are short and without line ends")
        if (self._words[starts - 8] >> _LENGTH_SHIFTS[lengths] != _LENGTH_WORDS[lengths]).any():
            raise ValueError("expected texts without line ends")
        return _gather(self._reply, starts, stops), lengths


class EntryBlocks(Sequence[RawEntry]):
    """Blocks of like entries, one behind the other, by columns."""

    def __init__(self, blocks: list[EntryBlock]) -> None:
        self.blocks = blocks
        self.names = blocks[0].names
        self._begins = [0, *accumulate(map(len, blocks))]

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would; only its block is parsed for it."""
        block = bisect_right(self._begins, at) - 1
        return self.blocks[block][at - self._begins[block]]

    def __iter__(self) -> Iterator[RawEntry]:
        return chain.from_iterable(self.blocks)

    def values(self, name: bytes) -> pa.Array:
        """Return the values of a field, as binary."""
        texts, offsets = _joined(block.texts[name] for block in self.blocks)
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(texts)]
        return pa.Array.from_buffers(pa.binary(), len(self), buffers)

    def lines(self, name: bytes, order: _Ints, bounds: _Ints) -> list[bytes]:
        """Return the values of a field, in groups, each with a line end behind it.

        order: the entries of one group after the other. bounds: where each group begins
        in that order, and where the last one ends.
        """
        return _grouped(*_joined(block.texts[name] for block in self.blocks), order, bounds)

    def ids(self, order: _Ints, bounds: _Ints) -> list[bytes]:
        """Return the entry ids as `lines` does the values of a field."""
        return _grouped(*_joined(block.ids for block in self.blocks), order, bounds)


def _joined(of_blocks: Iterable[_Texts]) -> _Texts:
    """Return texts one behind the other, and where each begins, and the last ends."""
    texts, lengths = zip(*of_blocks, strict=True)
    return np.concatenate(texts), np.append(0, np.cumsum(np.concatenate(lengths)))


def _grouped(texts: _Bytes, offsets: _Ints, order: _Ints, bounds: _Ints) -> list[bytes]:
    # Each with a byte more than it has, where the line end is put.
    starts, stops = offsets[:-1][order], offsets[1:][order] + 1
    lines, ends = _gather(np.append(texts, np.uint8(0)), starts, stops), np.cumsum(stops - starts)
    lines[ends - 1] = ord("\n")
    text, cuts = lines.tobytes(), np.append(0, ends)[bounds].tolist()
    return [text[start:stop] for start, stop in pairwise(cuts)]


def alike(blocks: Iterable[EntryBlock]) -> list[EntryBlocks]:
    """Put blocks that follow each other together as long as they have the same fields."""
    groups = groupby(blocks, key=lambda block: block.names)
    return [EntryBlocks(list(group)) for _, group in groups]


def _gather(bytes_: _Bytes, starts: _Ints, stops: _Ints) -> _Bytes:
    """Copy pieces of bytes one behind the other."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    places: _Ints = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])
    return bytes_[places]


class BlockEntries(Sequence[RawEntry]):
    """Some entries of blocks. Sent to another process, they are a list."""

    def __init__(
        self, blocks: EntryBlocks, order: _Ints, start: int, stop: int, ids: bytes
    ) -> None:
        """Take the entries `order[start:stop]`; ids: theirs, packed."""
        self._blocks, self._order, self._start, self._stop = blocks, order, start, stop
        self.ids = ids

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would."""
        return self._blocks[self._order[self._start : self._stop][at]]

    def __reduce__(self) -> tuple[Any, ...]:
        return (list, (list(self),))


def ids_of(entries: Sequence[RawEntry]) -> list[bytes]:
    """Return the ids of entries; no block is parsed for them."""
    if isinstance(entries, BlockEntries):
        return entries.ids.split(b"\n")[:-1]
    return [entry_id for entry_id, _ in entries]


def packed_ids(entries: Sequence[RawEntry]) -> bytes:
    """Return the ids of entries, packed."""
    if isinstance(entries, BlockEntries):
        return entries.ids
    return pack_ids(ids_of(entries))


def first_id(entries: Sequence[RawEntry]) -> str:
    """Return the id of the first of some entries; no block is parsed for it."""
    if isinstance(entries, BlockEntries):
        return id_at(entries.ids, 0)
    return str(entries[0][0].decode())


def _word(text: bytes) -> np.uint64:
    """Return a text of at most eight bytes as `EntryBlock` has it, shifted by `_shift`."""
    return np.uint64(int.from_bytes(text, "little"))


def _shift(text: bytes) -> np.uint64:
    """Return the bits of a word that ends with a text which are not of the text."""
    return np.uint64(8 * (8 - len(text)))


_LENGTH_LINES = [b"$%d\r\n" % length for length in range(_LONGEST + 1)]
_LENGTH_WORDS = np.array(list(map(_word, _LENGTH_LINES)))
_LENGTH_SHIFTS = np.array(list(map(_shift, _LENGTH_LINES)))
