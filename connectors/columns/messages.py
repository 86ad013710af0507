"""Many entries to runs of executions: the fast path of `codec.decode`.

While the flow catches up, a read brings thousands of entries from one producer, alike
in their fields. They are parsed by columns: Arrow casts text to decimals exactly and
refuses what it cannot. Only what is plain passes: as soon as anything in a read is
unusual, the whole read is left to `codec`, which also has the words for what is wrong.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.codec import HEADING, LAST_TIMESTAMP, LONGEST_NAME, Heading, check_heading
from connectors.columns.replies import BlockEntries, EntryBlocks
from state.exact import PLACES
from state.messages import RejectedError
from state.run import NO_COMMISSION, RUN_WIDTH, Run

# Nine digits before the point: Arrow refuses 1e9 and above, and an eleventh place.
_DECIMAL = pa.decimal128(9 + PLACES, PLACES)
_IBKR_ID = r"^[0-9a-fA-F]{8}\.[0-9a-fA-F]{8}\.[0-9]{2}\.[0-9]{2}$"
_NEEDED = {b"symbol", b"side", b"fill_qty", b"fill_price", b"order_id", b"exec_id", b"timestamp"}
_TEXTS = (b"sec_type", b"exchange", b"order_ref")
_LONGEST_TIMESTAMP, _LONGEST_INTEGER = 15, 20
_LONGEST_DECIMAL = len("-999999999.9999999999")

_Ints = NDArray[np.int64]


class KeyRun(NamedTuple):
    """The executions of one key in a read."""

    heading: Heading
    run: Run
    entries: BlockEntries


class _UnusualError(Exception):
    """Something that only the careful path can judge."""


def decode_blocks(blocks: EntryBlocks) -> list[KeyRun] | None:
    """Decode entries to one run a key; None if any of them is not plain."""
    try:
        _check_texts(blocks)
        numbers = _numbers(blocks)
        headings, order, bounds = _group(blocks)
    except (_UnusualError, RejectedError, pa.ArrowException, UnicodeDecodeError):
        return None
    rows, width = numbers[order].tobytes(), numbers.itemsize * numbers.shape[1]
    exec_ids, ids = blocks.lines(b"exec_id", order, bounds), blocks.ids(order, bounds)
    return [
        KeyRun(
            heading,
            Run(rows[width * start : width * stop], exec_ids_of_key, heading.instrument),
            BlockEntries(blocks, order, start, stop, ids_of_key),
        )
        for heading, exec_ids_of_key, ids_of_key, (start, stop) in zip(
            headings, exec_ids, ids, pairwise(bounds.tolist()), strict=True
        )
    ]


def _numbers(blocks: EntryBlocks) -> _Ints:
    """Return the rows of a `Run`."""
    qtys, prices = _units(blocks.values(b"fill_qty")), _units(blocks.values(b"fill_price"))
    if qtys.min() <= 0 or prices.min() <= 0:
        raise _UnusualError
    numbers = np.empty((len(blocks), RUN_WIDTH), np.int64)
    numbers[:, 0] = _timestamps(blocks.values(b"timestamp"))
    numbers[:, 1] = qtys * _signs(blocks.values(b"side"))
    numbers[:, 2] = prices
    if b"commission" in blocks.names:
        numbers[:, 3] = _units(blocks.values(b"commission"))
        if (numbers[:, 3] == NO_COMMISSION).any():
            raise _UnusualError
    else:
        numbers[:, 3] = NO_COMMISSION
    numbers[:, 4] = _integers(blocks.values(b"order_id"))
    return numbers


def _units(values: pa.Array) -> _Ints:
    """Parse decimals to whole numbers of 10^-10."""
    _check_bytes(values, b"-", b"9", _LONGEST_DECIMAL)
    decimals = values.cast(pa.string()).cast(_DECIMAL)
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[: 2 * len(values)]
    low: _Ints = halves[0::2]
    if not np.array_equal(halves[1::2], low >> 63):
        raise _UnusualError  # above 9.2e8, and so above 64 bits
    return low


def _integers(values: pa.Array, least: bytes = b"-", longest: int = _LONGEST_INTEGER) -> _Ints:
    _check_bytes(values, least, b"9", longest)
    integers = values.cast(pa.string()).cast(pa.int64())
    return np.frombuffer(integers.buffers()[1], np.int64)[: len(values)]


def _check_bytes(values: pa.Array, least: bytes, most: bytes, longest: int) -> None:
    """Refuse what Arrow may read as another number, or crash on: exponents, 0x10, inf."""
    _, offsets, data = values.buffers()
    bytes_ = np.frombuffer(data, np.uint8)
    in_range = bytes_ - np.uint8(ord(least)) <= ord(most) - ord(least)
    if not in_range.all() or np.diff(np.frombuffer(offsets, np.int32)).max() > longest:
        raise _UnusualError


def _timestamps(values: pa.Array) -> _Ints:
    timestamps = _integers(values, b"0", _LONGEST_TIMESTAMP)
    if timestamps.max() > LAST_TIMESTAMP:
        raise _UnusualError
    return timestamps


def _signs(sides: pa.Array) -> _Ints:
    if not _is_one_of(sides, [b"BUY", b"SELL"]):
        sides = pc.ascii_upper(sides.cast(pa.string())).cast(pa.binary())
        if not _is_one_of(sides, [b"BUY", b"SELL"]):
            raise _UnusualError
    bought: NDArray[np.bool_] = pc.equal(sides, b"BUY").to_numpy(zero_copy_only=False)
    return np.where(bought, np.int64(1), np.int64(-1))


def _check_texts(blocks: EntryBlocks) -> None:
    """Check the form of the fields, and what is text."""
    names = blocks.names
    if len(set(names)) != len(names) or not {*names} >= _NEEDED:
        raise _UnusualError
    if b"type" in names and not _is_one_of(blocks.values(b"type"), [b"", b"execution"]):
        raise _UnusualError
    for name in _TEXTS:
        if name in names:
            blocks.values(name).cast(pa.string())
    exec_ids = blocks.values(b"exec_id").cast(pa.string())
    lengths = pc.min_max(pc.utf8_length(exec_ids)).as_py()
    if lengths["min"] < 1 or lengths["max"] > LONGEST_NAME:
        raise _UnusualError
    first = pc.ends_with(exec_ids, ".01")
    if not pc.all(first).as_py():
        of_ibkr = pc.match_substring_regex(exec_ids, _IBKR_ID)
        if pc.any(pc.and_not(of_ibkr, first)).as_py():
            raise _UnusualError  # a later revision


def _is_one_of(values: pa.Array, allowed: list[bytes]) -> bool:
    return bool(pc.all(pc.is_in(values, pa.array(allowed, pa.binary()))).as_py())


def _group(blocks: EntryBlocks) -> tuple[list[Heading], _Ints, _Ints]:
    """Return the keys, the entries key by key, and where each key begins among these."""
    names = tuple(name for name in HEADING if name in blocks.names)
    values = [blocks.values(name).dictionary_encode() for name in names]
    codes = np.zeros(len(blocks), np.int64)
    for column in values:
        codes = codes * len(column.dictionary) + column.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
    firsts = order[begins]
    listed = [column.take(pa.array(firsts)).dictionary_decode().to_pylist() for column in values]
    headings = [check_heading(names, found) for found in zip(*listed, strict=True)]
    if len({heading[:2] for heading in headings}) != len(headings):
        raise _UnusualError  # one key says different things of its instrument
    if any((heading.instrument.multiplier or 0) % 10**PLACES for heading in headings):
        raise _UnusualError  # a multiplier with decimal places, and what it multiplies
    return headings, order, np.append(begins, len(blocks))
