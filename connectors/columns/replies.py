"""Bulk reads of a stream: replies of many entries, without an object for each value.

While the flow catches up, a read brings thousands of entries that have the same few sets
of fields. To make some twenty objects of each costs more than all that is done with them
later. So the reply is taken as bytes, and a `Reply` only finds out where in it each value
is: for all entries of one shape at once, by the line ends.

A reply is a text in lines (the Redis serialization protocol, RESP). Of an entry with
the fields a=1 and b=22 it has these:

    *2   $15   1700000000000-0   *4   $1   a   $1   1   $1   b   $2   22

The fourth line says how many texts follow, so where the next entry begins. Every text
stands behind its length, and each of these is checked: so a `Reply` reads what a parser
reads, whatever the values hold. An entry that is not like the others is left to the
parser, alone.
"""

import re
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import hiredis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from numpy.typing import NDArray

from state.records import RawEntry

_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]
_Words = NDArray[np.uint64]

_HEAD = re.compile(
    rb"(?:\*1\r\n\*2|%1)\r\n"  # one stream: its name, its entries; in RESP2, in RESP3
    rb"\$(?P<length>\d{1,9})\r\n(?P<stream>[^\r\n]+)\r\n"
    rb"\*(?P<entries>[1-9]\d{0,8})\r\n"
)
_LAST = re.compile(rb"\r\n\*2\r\n\$\d+\r\n(\d{1,20}-\d{1,20})\r\n")
_ID, _COUNT, _FIRST_NAME = 2, 3, 5
"""Lines of an entry: see the module's example."""

_DIGITS = 4
"""As many at most has the number of an entry's texts."""

_FIRST_SIZE = 1 << 20
_LONGEST = 99
_NEARLY_ALL = 0.9
_MOST_SHAPES = 12
"""In one reply; entries of further ones are left to the parser."""


class BulkConnection:
    """A connection of its own to Redis, whose replies are taken as bytes.

    `ask` and `answer` take turns; in between, the server does its part. After an error
    it is to be closed. All but `close` raise redis.RedisError.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._buffer = bytearray(_FIRST_SIZE)
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

    def answer(self) -> bytes:
        """Wait for the replies to all commands, and return them."""
        sock, end = self._connection._sock, self._end  # noqa: SLF001  # has no other name
        buffer, length = self._buffer, 0
        while not buffer.endswith(end, 0, length):
            if length == len(buffer):
                buffer += bytes(length)
            try:
                with memoryview(buffer) as view:
                    received = sock.recv_into(view[length:])
            except OSError as error:
                raise redis.ConnectionError(f"while reading a bulk reply: {error}") from error
            if not received:
                raise redis.ConnectionError("closed by the server during a bulk reply")
            length += received
        # Many replies are held at once, so each takes the room that it needs.
        with memoryview(buffer) as view:
            return bytes(view[: length - len(end)])

    def close(self) -> None:
        """Give it up, with whatever is under way."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def parse(reply: bytes) -> list[Any]:
    """Return the replies to all commands as the client library would."""
    reader = hiredis.Reader()
    reader.feed(reply)
    replies = []
    while (one := reader.gets()) is not False:
        replies.append(one)
    return replies


def last_id_in(reply: bytes, checks: int = 1) -> str | None:
    """Guess the id of the last entry in a reply to XREAD, with `checks` to XRANGE behind it.

    A text in an entry could mislead it; the last of a `Reply` is certain.
    """
    behind = len(reply)
    for _ in range(checks):
        behind = max(0, reply.rfind(b"\r\n*1\r\n*2\r\n", 0, behind))
    found = _LAST.match(reply, max(0, reply.rfind(b"\r\n*2\r\n", 0, behind)))
    return found and found[1].decode()


# Texts are Arrow's binary arrays, without nulls.


def joined(parts: Iterable[pa.Array]) -> pa.Array:
    """Put the texts of several parts together."""
    return pa.concat_arrays([_NO_TEXTS, *parts])


def take(texts: pa.Array, places: _Ints) -> pa.Array:
    """Return the texts at some places, which rise."""
    return texts if len(places) == len(texts) else texts.take(pa.array(places))


def lines(texts: pa.Array, order: _Ints, bounds: _Ints) -> list[bytes]:
    """Return texts in groups, each text with a line end behind it.

    order: the texts of one group after the other. bounds: where each group begins in
    that order, and where the last one ends.
    """
    groups = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), texts.take(pa.array(order)))
    together = pc.binary_join(groups, b"\n").to_pylist()
    some = np.diff(bounds).tolist()
    return [text + b"\n" if any_ else b"" for text, any_ in zip(together, some, strict=True)]


_NO_TEXTS = pa.nulls(0, pa.binary())


class Shape(NamedTuple):
    """Entries with the same fields in the same order."""

    names: tuple[bytes, ...]
    at: _Ints
    """Their places among all entries."""
    ids: pa.Array
    values: dict[bytes, pa.Array]
    """The texts of each field."""

    def take(self, rows: _Ints) -> "Shape":
        """Return some of the entries."""
        if len(rows) == len(self.at):
            return self
        values = {name: take(texts, rows) for name, texts in self.values.items()}
        return Shape(self.names, self.at[rows], take(self.ids, rows), values)


class Reply(Sequence[RawEntry]):
    """The entries in one reply to XREAD."""

    def __init__(self, reply: bytes, begins: _Ints, lines: "_Lines") -> None:
        """Take a reply and the lines with which its entries begin, and the last one ends."""
        self._reply, self._offsets = reply, lines.starts[begins]
        """Where each entry begins, and the last one ends."""
        self.shapes: list[Shape] = []
        counts = np.diff(begins)
        seen, odd = np.zeros(len(counts), np.bool_), np.ones(len(counts), np.bool_)
        while not seen.all() and len(self.shapes) < _MOST_SHAPES:
            lines_of_first = counts[seen.argmin()]
            as_long = np.flatnonzero(~seen & (counts == lines_of_first))
            entries = lines.of_entries(begins[as_long], int(lines_of_first))
            shape, like = _shape_of(entries, as_long)
            if shape is not None:
                self.shapes.append(shape)
                odd[shape.at] = False
            like[0] = True  # whatever it is, it was looked at
            seen[as_long[like]] = True
        self.odd = np.flatnonzero(odd)
        """The places of entries that are in none of the shapes."""

    @classmethod
    def of(cls, reply: bytes) -> "Reply | None":
        """Find the entries at the beginning of a reply; None if that takes a parser."""
        head = _HEAD.match(reply)
        if head is None or len(head["stream"]) != int(head["length"]):
            return None
        lines = _Lines(reply, head.end())
        begins = lines.entries(int(head["entries"]))
        if begins is None:
            return None
        found = cls(reply, begins, lines)
        # What no shape has checked could hold lines that imitate an entry.
        return found if all(map(found.is_one, found.odd.tolist())) else None

    def is_one(self, at: int) -> bool:
        """Tell whether a parser finds one entry, and nothing else, where it is said to be."""
        try:
            return parse(self._bytes(at) + b":1\r\n")[1:] == [1]
        except hiredis.HiredisError:
            return False

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would; only this one is parsed."""
        [entry] = parse(self._bytes(range(len(self))[at]))
        return entry

    def __iter__(self) -> Iterator[RawEntry]:
        [parsed] = parse(b"*%d\r\n" % len(self) + self._reply[self._offsets[0] : self._offsets[-1]])
        return iter(parsed)

    def _bytes(self, at: int) -> bytes:
        return self._reply[self._offsets[at] : self._offsets[at + 1]]

    def variety(self, field: bytes) -> int:
        """Count the different values of a field in each shape; return the most."""
        found = (shape.values[field] for shape in self.shapes if field in shape.values)
        return max((pc.count_distinct(texts).as_py() for texts in found), default=0)

    def is_rising(self, field: bytes) -> bool:
        """Tell whether nearly all values of a field, as texts, are not below the one before."""
        columns = [shape.values[field] for shape in self.shapes if field in shape.values]
        values = max(columns, key=len, default=_NO_TEXTS)
        rises = pc.greater_equal(values[1:], values[:-1])
        return bool((pc.mean(rises).as_py() or 0) > _NEARLY_ALL)

    @property
    def rest(self) -> bytes:
        """What follows the entries in the reply."""
        return bytes(self._reply[self._offsets[-1] :])


def _shape_of(entries: "_EntryLines", at: _Ints) -> tuple[Shape | None, _Bools]:
    """Return the shape that the first of some equally long entries has.

    With it, which of the entries have its fields: those of them whose values are short
    texts without line ends are in the shape. at: the places of the entries.
    """
    values_of = range(_FIRST_NAME + 2, entries.lines, 4)
    names = tuple(entries.text(line - 2) for line in values_of)
    like = entries.are(_COUNT, b"*%d\r\n" % (2 * len(names)))
    for line, name in zip(values_of, names, strict=True):
        like &= entries.are(line - 2, b"$%d\r\n%b\r\n" % (len(name), name))
    plain = like.copy()
    for line in (_ID, *values_of):
        plain &= entries.are_texts(line)
    if not plain.any() or len(set(names)) < len(names):
        return None, like
    if not plain.all():
        entries, at = entries._replace(starts=entries.starts[:, plain]), at[plain]
    values = {name: entries.texts(line) for line, name in zip(values_of, names, strict=True)}
    return Shape(names, at, entries.texts(_ID), values), like


class _Lines:
    """The lines of a reply, from its first entry on."""

    def __init__(self, reply: bytes, first: int) -> None:
        self._reply = np.frombuffer(reply, np.uint8)
        # The eight bytes from each place on, as one number.
        self._words: _Words = np.ndarray((max(len(reply) - 7, 0),), "<u8", reply, strides=(1,))
        ends = np.flatnonzero(self._reply[first:] == ord("\n"))
        self.starts = np.empty(len(ends) + 1, np.int64)
        """Where they begin; one more than there are, for what follows."""
        self.starts[0] = first
        np.add(ends, first + 1, out=self.starts[1:])

    def entries(self, count: int) -> _Ints | None:
        """Return the lines with which so many entries begin, and the one behind the last.

        None if there are not so many.
        """
        lines = len(self.starts) - 1
        if count * (_COUNT + 1 + 2) > lines:  # an entry has two texts at least
            return None
        # Most often all are as long as the first.
        length = _COUNT + 1 + 2 * int(self._counts(np.zeros(1, np.int64))[0])
        alike = np.arange(count + 1) * length
        if length > _COUNT + 1 and alike[-1] <= lines and self._begin(alike[:-1]).all():
            found = alike
            if (np.diff(self._counts(alike[:-1])) == 0).all():
                return found
        begins = np.flatnonzero(np.diff(self.starts) == len(b"*2\r\n"))
        begins = begins[: np.searchsorted(begins, lines - _COUNT)]
        begins = begins[self._begin(begins)]
        follows = begins + _COUNT + 1 + 2 * self._counts(begins)
        if len(begins) >= count and np.array_equal(follows[: count - 1], begins[1:count]):
            found = np.append(begins[:count], follows[count - 1])
        else:  # a value imitates the beginning of an entry
            behind = dict(zip(begins.tolist(), follows.tolist(), strict=True))
            chained = [0]
            while len(chained) <= count and chained[-1] in behind:
                chained.append(behind[chained[-1]])
            found = np.array(chained)
        is_whole = len(found) == count + 1 and found[0] == 0 and found[-1] <= lines
        return found if is_whole and bool((np.diff(found) > _COUNT + 1).all()) else None

    def _begin(self, lines: _Ints) -> _Bools:
        stops = self.starts[lines + 1]
        found: _Bools = self._words[stops - 8] >> _shift(b"*2\r\n") == _word(b"*2\r\n")
        return found

    def _counts(self, begins: _Ints) -> _Ints:
        """Return how many texts the fields of entries are; -1 where that is not said."""
        at = self.starts[begins + _COUNT]
        size = self.starts[begins + _COUNT + 1] - at - len(b"*\r\n")
        numbers = np.zeros(len(begins), np.int64)
        for digit in range(_DIGITS):
            more = size > digit
            figure = self._reply[np.where(more, at + 1 + digit, 0)].astype(np.int64) - ord("0")
            numbers = np.where(more, 10 * numbers + figure, numbers)
        is_said = (self._reply[at] == ord("*")) & (size >= 1) & (size <= _DIGITS)
        return np.where(is_said, numbers, -1)

    def of_entries(self, begins: _Ints, lines: int) -> "_EntryLines":
        """Return the lines of equally long entries."""
        starts = self.starts[begins + np.arange(lines + 1)[:, None]]
        return _EntryLines(self._reply, self._words, starts)


class _EntryLines(NamedTuple):
    """The lines of equally long entries."""

    reply: _Bytes
    words: _Words
    starts: NDArray[np.int64]
    """Where they begin: a row for each line, and one for where the entries end."""

    @property
    def lines(self) -> int:
        """How many an entry has."""
        return len(self.starts) - 1

    def text(self, line: int) -> bytes:
        """Return a line of the first entry."""
        return self.reply[self.starts[line, 0] : self.starts[line + 1, 0] - 2].tobytes()

    def are(self, line: int, text: bytes) -> _Bools:
        """Tell which entries have a line that ends with a text, line ends and all."""
        stops = self.starts[line + 1] - 8
        same = np.ones(len(stops), np.bool_)
        while text:
            last, text = text[-8:], text[:-8]
            same &= self.words[stops] >> _shift(last) == _word(last)
            stops = stops - 8
        return same

    def are_texts(self, line: int) -> _Bools:
        """Tell of which entries a line is as long as the line before says, and not long.

        So it holds no line ends, and the next line is what the protocol has there.
        """
        starts = self.starts[line]
        lengths = self.starts[line + 1] - starts - 2
        short = (lengths >= 0) & (lengths <= _LONGEST)
        known = lengths if short.all() else np.where(short, lengths, 0)
        same: _Bools = self.words[starts - 8] >> _LENGTH_SHIFTS[known] == _LENGTH_WORDS[known]
        same &= short
        return same

    def texts(self, line: int) -> pa.Array:
        """Return a line of each entry."""
        bounds = np.empty((self.starts.shape[1], 2), np.int32)
        bounds[:, 0] = self.starts[line]
        np.subtract(self.starts[line + 1], 2, out=bounds[:, 1], casting="unsafe")
        # What lies between them are texts to Arrow too, but not taken.
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(self.reply)]
        all_texts = pa.Array.from_buffers(pa.binary(), bounds.size - 1, buffers)
        return all_texts.take(pa.array(np.arange(0, bounds.size, 2)))


class Replies(Sequence[RawEntry]):
    """The entries of replies, one behind the other, by shapes."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies
        self._begins = [0, *accumulate(map(len, replies))]

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would; only this one is parsed."""
        which = range(len(self))[at]
        reply = bisect_right(self._begins, which) - 1
        return self._replies[reply][which - self._begins[reply]]

    def __iter__(self) -> Iterator[RawEntry]:
        return chain.from_iterable(self._replies)

    def shapes(self) -> list[Shape]:
        """Return the shapes that the entries have."""
        alike: dict[tuple[bytes, ...], list[Shape]] = {}
        for reply, begin in zip(self._replies, self._begins, strict=False):
            for shape in reply.shapes:
                alike.setdefault(shape.names, []).append(shape._replace(at=shape.at + begin))
        return [
            Shape(
                names,
                np.concatenate([shape.at for shape in shapes]),
                joined(shape.ids for shape in shapes),
                {name: joined(shape.values[name] for shape in shapes) for name in names},
            )
            for names, shapes in alike.items()
        ]

    def odd(self) -> list[int]:
        """Return the places of the entries that are in none of the shapes."""
        begins = zip(self._replies, self._begins, strict=False)
        return [begin + at for reply, begin in begins for at in reply.odd.tolist()]


class SomeEntries(Sequence[RawEntry]):
    """Some entries of replies, parsed when they are asked for. Sent elsewhere, they are a list."""

    def __init__(self, replies: Replies, places: _Ints) -> None:
        """Take the entries at these places."""
        self._replies, self._places = replies, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        """Return an entry as the client library would."""
        return self._replies[int(self._places[at])]

    def __reduce__(self) -> tuple[Any, ...]:
        return (list, (list(self),))


def _word(text: bytes) -> np.uint64:
    """Return a text of at most eight bytes as `_Lines` has it, shifted by `_shift`."""
    return np.uint64(int.from_bytes(text, "little"))


def _shift(text: bytes) -> np.uint64:
    """Return the bits of a word that ends with a text which are not of the text."""
    return np.uint64(8 * (8 - len(text)))


_LENGTH_LINES = [b"$%d\r\n" % length for length in range(_LONGEST + 1)]
_LENGTH_WORDS = np.array(list(map(_word, _LENGTH_LINES)))
_LENGTH_SHIFTS = np.array(list(map(_shift, _LENGTH_LINES)))
