"""Many entries to runs of messages: what `codec.decode` does, by columns.

While the flow catches up, a read brings thousands of entries of a few shapes: most are
executions or reports of their commissions, in plain figures. Those are parsed by columns;
Arrow casts text to decimals exactly. What is not plain is left to `codec`, entry by
entry: it also has the words for what is wrong. Per key, everything stays in the order in
which it arrived.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise, product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.codec import (
    FIRST_TIMESTAMP,
    HEADING,
    LAST_TIMESTAMP,
    LONGEST_NAME,
    Heading,
    check_heading,
    decode,
    latest,
)
from connectors.columns.replies import Replies, Shape, SomeEntries, joined, lines, take
from state.exact import ONE, PLACES
from state.messages import Instrument, Message, RejectedError
from state.records import RawEntry, pack_ids
from state.run import EXECUTION_WIDTH, NO_COMMISSION, REPORT_WIDTH, Run

# Nine digits before the point: Arrow refuses 1e9 and above, and an eleventh place.
_DECIMAL = pa.decimal128(9 + PLACES, PLACES)
_PLAIN_DECIMAL = r"^-?[0-9]{1,8}(\.[0-9]{1,10})?$"  # below 1e8: within 64 bits
_PLAIN_INTEGER = r"^-?[0-9]{1,18}$"
_LATER_REVISION = r"^[0-9a-zA-Z]{8}\.[0-9a-zA-Z]{8}\.[0-9]{2}\.(0[02-9]|[1-9][0-9])$"
_NEEDED = {b"symbol", b"side", b"fill_qty", b"fill_price", b"order_id", b"exec_id", b"timestamp"}
_NEEDED_IN_REPORT = {b"symbol", b"exec_id", b"commission", b"timestamp"}
_NOT_PLAIN = {b"commission_currency", b"basis_adjustment"}
_REPORT_HEADING = (b"symbol", b"account", b"currency")
_TEXTS = {b"exchange", b"order_ref"}
_BUY = list(map(bytes, product(b"Bb", b"Uu", b"Yy")))
_SELL = list(map(bytes, product(b"Ss", b"Ee", b"Ll", b"Ll")))
_PLAIN_TIMESTAMP, _LONGEST_TIMESTAMP = r"^[0-9]{1,15}$", len(str(LAST_TIMESTAMP))
_LONGEST_INTEGER, _LONGEST_DECIMAL = 20, len("-999999999.9999999999")

_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


class Piece(NamedTuple):
    """Messages of one key that follow each other in a read."""

    symbol: str
    account: str | None
    ids: bytes
    """Of the entries that brought them, packed."""
    entries: Sequence[RawEntry]
    messages: Run | list[Message]
    """As many as there are entries."""


class Refused(NamedTuple):
    """An entry that cannot be used, and why."""

    entry: RawEntry
    reason: str


def decode_replies(replies: Replies) -> tuple[list[Piece], list[Refused]]:
    """Decode a read: a key's messages in pieces, runs wherever they are plain.

    The pieces of one key are in order of arrival.
    """
    columns, places = _all_columns(replies)
    odd, refused = _decode_each((place, replies[place]) for place in places)
    return list(_pieces(replies, columns, odd)), refused


def _all_columns(replies: Replies) -> tuple[list["_Columns"], list[int]]:
    """Read the columns of a read; return them, and the places of the entries that are in none."""
    earliest, newest = _time_of(replies[0][0]), _time_of(replies[len(replies) - 1][0])
    # What is later is judged by its own id.
    bound = latest(earliest if newest < FIRST_TIMESTAMP else max(earliest, FIRST_TIMESTAMP))
    columns, places = [], replies.odd()
    for shape, is_report in chain.from_iterable(map(_by_type, replies.shapes())):
        found, left = _columns(shape, bound, is_report=is_report)
        places += left.tolist()
        if found is not None:
            columns.append(found)
    return columns, sorted(places)


def decode_entries(entries: Iterable[RawEntry]) -> tuple[list[Piece], list[Refused]]:
    """Decode entries one by one: a piece for each key, in order of arrival."""
    by_owner: dict[tuple[str, str | None], list[_Single]] = {}
    singles, refused = _decode_each(enumerate(entries))
    for one in singles:
        by_owner.setdefault((one.symbol, one.account), []).append(one)
    return list(map(_piece_of, by_owner.values())), refused


class _Single(NamedTuple):
    """An entry that `codec` read."""

    place: int
    symbol: str
    account: str | None
    entry: RawEntry
    message: Message


def _decode_each(entries: Iterable[tuple[int, RawEntry]]) -> tuple[list[_Single], list[Refused]]:
    singles, refused = [], []
    for place, entry in entries:
        try:
            symbol, account, message = decode_entry(entry)
        except RejectedError as error:
            refused.append(Refused(entry, str(error)))
        else:
            singles.append(_Single(place, symbol, account, entry, message))
    return singles, refused


def _piece_of(singles: Sequence[_Single]) -> Piece:
    first, entries = singles[0], [one.entry for one in singles]
    ids = pack_ids(entry_id for entry_id, _ in entries)
    return Piece(first.symbol, first.account, ids, entries, [one.message for one in singles])


def decode_entry(entry: RawEntry) -> tuple[str, str | None, Message]:
    """Decode one entry; raises RejectedError."""
    return decode(entry[1], _time_of(entry[0]))


def _time_of(entry_id: bytes) -> int:
    return int(entry_id[: entry_id.index(b"-")])


# --- one shape to columns ----------------------------------------------------------------


class _Columns(NamedTuple):
    """The plain entries of one shape."""

    places: _Ints
    """In the read."""
    ids: pa.Array
    exec_ids: pa.Array
    refs: pa.Array
    """Empty texts where there is none."""
    numbers: _Ints
    """Rows as those of a `Run`, but for the place among its messages, and as wide for reports."""
    heading: _Ints
    """Which of the headings each has."""
    headings: list[Heading | None]
    is_report: bool


class _UnusualError(Exception):
    """Something that only the careful path can judge."""


def _by_type(shape: Shape) -> Iterator[tuple[Shape, bool]]:
    """Divide a shape into what may be reports, and what may not."""
    types = shape.values.get(b"type")
    are_reports = (
        np.zeros(len(shape.at), np.bool_) if types is None else _are(types, [b"commission"])
    )
    for is_report in (False, True):
        rows = np.flatnonzero(are_reports == is_report)
        if len(rows):
            yield shape.take(rows), is_report


def _columns(shape: Shape, bound: int, *, is_report: bool) -> tuple[_Columns | None, _Ints]:
    """Parse the entries of a shape; return what is plain, and the places of what is not.

    bound: no timestamp up to it is too far ahead of its entry.
    """
    names, values = set(shape.names), shape.values
    if not names >= (_NEEDED_IN_REPORT if is_report else _NEEDED):
        return None, shape.at
    plain = np.ones(len(shape.at), np.bool_)
    if b"type" in names and not is_report:
        plain &= _are(values[b"type"], [b"execution", b""])
    plain &= _are_ids(values[b"exec_id"])
    timestamps = _parse(values[b"timestamp"], _integers, _PLAIN_TIMESTAMP, plain)
    is_short = _lengths(values[b"timestamp"]) <= _LONGEST_TIMESTAMP
    plain &= (timestamps >= FIRST_TIMESTAMP) & _in_time(timestamps, shape.ids, bound) & is_short
    if is_report:
        fees = _parse(values[b"commission"], _units, _PLAIN_DECIMAL, plain)
        numbers = [0 * fees, timestamps, fees, 0 * fees, 0 * fees]
        heading_names: tuple[bytes, ...] = _REPORT_HEADING
    else:
        numbers = [timestamps, *_execution_numbers(values, plain)]
        heading_names = HEADING
        for name in _NOT_PLAIN & names:
            plain &= _lengths(values[name]) == 0
        for name in _TEXTS & names:
            plain &= _are_text(values[name])
    heading, headings = _headings(values, heading_names)
    plain &= np.array([one is not None for one in headings])[heading]
    rows = np.flatnonzero(plain)
    refs = values.get(b"order_ref", pa.repeat(b"", len(plain)))
    found = _Columns(
        shape.at[rows], take(shape.ids, rows), take(values[b"exec_id"], rows), take(refs, rows),
        np.stack(numbers, axis=1)[rows], heading[rows], headings, is_report,
    )  # fmt: skip
    return found, shape.at[~plain]


def _in_time(timestamps: _Ints, ids: pa.Array, bound: int) -> _Bools:
    """Tell which messages are not too far ahead of their entries."""
    found: _Bools = timestamps <= bound
    later = np.flatnonzero(~found)
    if len(later):
        bounds = [latest(_time_of(entry_id)) for entry_id in take(ids, later).to_pylist()]
        found[later] = timestamps[later] <= np.array(bounds)
    return found


def _execution_numbers(values: dict[bytes, pa.Array], plain: _Bools) -> list[_Ints]:
    """Return quantity, price, commission and order id."""
    qtys = _parse(values[b"fill_qty"], _units, _PLAIN_DECIMAL, plain)
    prices = _parse(values[b"fill_price"], _units, _PLAIN_DECIMAL, plain)
    plain &= (qtys > 0) & (prices > 0)
    signs = _signs(values[b"side"], plain)
    fees = np.full(len(plain), NO_COMMISSION)
    if b"commission" in values:
        given = pc.not_equal(values[b"commission"], b"")
        or_nothing = pc.if_else(given, values[b"commission"], b"0")
        parsed = _parse(or_nothing, _units, _PLAIN_DECIMAL, plain)
        fees = np.where(_bools(given), parsed, NO_COMMISSION)
    order_ids = _parse(values[b"order_id"], _integers, _PLAIN_INTEGER, plain)
    return [qtys * signs, prices, fees, order_ids]


def _parse(
    values: pa.Array, cast: Callable[[pa.Array], _Ints], pattern: str, plain: _Bools
) -> _Ints:
    """Parse a column; what is not plain in it is 0, and marked."""
    try:
        return cast(values)
    except (_UnusualError, pa.ArrowException):
        is_plain = pc.match_substring_regex(values, pattern)
        plain &= _bools(is_plain)
        return cast(pc.if_else(is_plain, values, b"0"))


def _units(values: pa.Array) -> _Ints:
    """Parse decimals to whole numbers of 10^-10."""
    _check_bytes(values, _LONGEST_DECIMAL)
    decimals = values.cast(pa.string()).cast(_DECIMAL)
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[: 2 * len(values)]
    low: _Ints = halves[0::2]
    if not np.array_equal(halves[1::2], low >> 63):
        raise _UnusualError  # above 9.2e8, and so above 64 bits
    return low


def _integers(values: pa.Array) -> _Ints:
    _check_bytes(values, _LONGEST_INTEGER)
    integers = values.cast(pa.string()).cast(pa.int64())
    return np.frombuffer(integers.buffers()[1], np.int64)[: len(values)]


def _check_bytes(values: pa.Array, longest: int) -> None:
    """Refuse what Arrow may read as another number, or crash on: exponents, 0x10, inf."""
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[: len(values) + 1]
    bytes_ = np.frombuffer(data, np.uint8)[: ends[-1]]
    in_range = bytes_ - np.uint8(ord("-")) <= ord("9") - ord("-")
    if not in_range.all() or np.diff(ends).max() > longest:
        raise _UnusualError


def _signs(sides: pa.Array, plain: _Bools) -> _Ints:
    bought = _are(sides, _BUY)
    plain &= bought | _are(sides, _SELL)
    return np.where(bought, np.int64(1), np.int64(-1))


def _are_ids(exec_ids: pa.Array) -> _Bools:
    """Tell which execution ids are short texts of first revisions."""
    lengths = _lengths(exec_ids)
    plain = (lengths > 0) & (lengths <= LONGEST_NAME) & _are_text(exec_ids)
    return plain & ~_bools(pc.match_substring_regex(exec_ids, _LATER_REVISION))


def _are_text(values: pa.Array) -> _Bools:
    try:
        values.cast(pa.string())
    except pa.ArrowException:
        listed = values.to_pylist()
        return np.array([one.decode(errors="ignore").encode() == one for one in listed])
    return np.ones(len(values), np.bool_)


def _are(values: pa.Array, allowed: list[bytes]) -> _Bools:
    return _bools(pc.is_in(values, pa.array(allowed, pa.binary())))


def _lengths(values: pa.Array) -> _Ints:
    lengths: _Ints = pc.binary_length(values).to_numpy()
    return lengths


def _bools(values: pa.Array) -> _Bools:
    found: _Bools = values.to_numpy(zero_copy_only=False)
    return found


def _headings(
    values: dict[bytes, pa.Array], wanted: Sequence[bytes]
) -> tuple[_Ints, list[Heading | None]]:
    """Return which heading each entry has, and the headings; None for one that is not plain."""
    names = tuple(name for name in wanted if name in values)
    # No value holds a line end.
    joined = pc.binary_join_element_wise(*(values[name] for name in names), b"\n")
    encoded = joined.dictionary_encode()
    listed = [tuple(text.split(b"\n")) for text in encoded.dictionary.to_pylist()]
    heading: _Ints = encoded.indices.to_numpy()
    return heading, [_heading(names, found) for found in listed]


def _heading(names: tuple[bytes, ...], values: tuple[bytes, ...]) -> Heading | None:
    try:
        heading = check_heading(names, values)
    except RejectedError:
        return None
    # A multiplier with decimal places asks for a look at what it multiplies.
    return None if (heading.instrument.multiplier or 0) % ONE else heading


# --- columns to pieces -----------------------------------------------------------------------

_EXECUTION, _REPORT, _SINGLE = 0, 1, 2


def _pieces(replies: Replies, columns: list[_Columns], singles: list[_Single]) -> Iterator[Piece]:
    """Put the entries of each key in order of arrival, and cut them where a run must end."""
    arrivals = _Arrivals(columns, singles)
    for number, (start, stop) in enumerate(pairwise(arrivals.bounds.tolist())):
        if arrivals.kind[start] == _SINGLE:
            yield _piece_of([singles[at] for at in arrivals.single[start:stop].tolist()])
        else:
            entries = SomeEntries(replies, arrivals.places[start:stop])
            symbol, account = arrivals.owners[arrivals.key[start]]
            yield Piece(symbol, account, arrivals.ids[number], entries, arrivals.run(number))


class _Arrivals:
    """All entries of a read, key by key and in order of arrival, cut into pieces."""

    def __init__(self, columns: list[_Columns], singles: list[_Single]) -> None:
        owners: dict[tuple[str, str | None], int] = {}
        said: dict[Instrument, int] = {}
        key, says = [], []
        for one in columns:
            found = [heading or _NO_HEADING for heading in one.headings]
            owner = [owners.setdefault(heading[:2], len(owners)) for heading in found]
            tells = [said.setdefault(heading.instrument, len(said)) for heading in found]
            key.append(np.array(owner)[one.heading])
            says.append(np.array(tells)[one.heading])
        key.append(np.array([owners.setdefault(s[1:3], len(owners)) for s in singles], np.int64))
        says.append(np.full(len(singles), -1))
        places = [*(one.places for one in columns), np.array([s.place for s in singles], np.int64)]
        kinds = [*(_REPORT if one.is_report else _EXECUTION for one in columns), _SINGLE]
        lengths = list(map(len, places))
        plain = sum(lengths[:-1])
        # As yet column by column, what `codec` read last.
        all_keys, all_places = np.concatenate(key), np.concatenate(places)
        order = np.lexsort((all_places, all_keys))
        self.owners, self._said = list(owners), list(said)
        self.key, self.places = all_keys[order], all_places[order]
        self.kind = np.repeat(kinds, lengths)[order]
        self.single = order - plain
        """Of a single entry, which of them it is."""
        self._says = np.concatenate(says)[order]
        self.bounds = self._cut()
        self._pack(columns, order)

    def _cut(self) -> _Ints:
        """Return where pieces begin, and where the last one ends.

        One begins at another key, at single entries and behind them, and where an execution
        says another thing of the instrument, or a report of its currency, than the last.
        """
        key, is_single = self.key, self.kind == _SINGLE
        cut = np.ones(len(key), np.bool_)
        cut[1:] = (key[1:] != key[:-1]) | (is_single[1:] != is_single[:-1])
        for which in (_EXECUTION, _REPORT):
            of_kind = np.flatnonzero(self.kind == which)
            says = self._says[of_kind]
            cut[of_kind[1:]] |= says[1:] != says[:-1]
        return np.append(np.flatnonzero(cut), len(key))

    def _pack(self, columns: list[_Columns], order: _Ints) -> None:
        """Lay what the runs of all pieces hold one behind the other, each to be cut out."""
        is_execution, is_report = self.kind == _EXECUTION, self.kind == _REPORT
        executions, reports = order[is_execution], order[is_report]
        # How many of them there are before each piece.
        before, reports_before = (
            np.append(0, np.cumsum(which))[self.bounds] for which in (is_execution, is_report)
        )
        rows = np.concatenate([_NO_ROWS, *(one.numbers for one in columns)])
        report_rows = rows[reports, :REPORT_WIDTH]
        starts = np.repeat(self.bounds[:-1], np.diff(self.bounds))
        report_rows[:, 0] = (np.arange(len(order)) - starts)[is_report]
        exec_ids = joined([one.exec_ids for one in columns])
        refs, ids = joined([one.refs for one in columns]), joined([one.ids for one in columns])
        self.ids = lines(ids, order[self.kind != _SINGLE], before + reports_before)
        self._rows, self._report_rows = rows[executions], report_rows
        self._exec_ids = lines(exec_ids, executions, before)
        self._report_ids = lines(exec_ids, reports, reports_before)
        self._refs = lines(refs, executions, before)
        self._executions, self._reports = before.tolist(), reports_before.tolist()
        self._by_execution, self._by_report = self._says[is_execution], self._says[is_report]

    def run(self, piece: int) -> Run:
        """Return the run of a piece."""
        start, stop = self._executions[piece : piece + 2]
        first, last = self._reports[piece : piece + 2]
        refs = self._refs[piece]
        return Run(
            self._rows[start:stop].tobytes(), self._exec_ids[piece],
            refs if refs.strip(b"\n") else b"",
            self._said[self._by_execution[start]] if stop > start else _NO_HEADING.instrument,
            self._report_rows[first:last].tobytes(), self._report_ids[piece],
            self._said[self._by_report[first]].currency if last > first else None,
        )  # fmt: skip


_NO_HEADING = Heading("", None, Instrument())
_NO_ROWS = np.empty((0, EXECUTION_WIDTH), np.int64)
