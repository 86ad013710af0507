"""Many entries to runs of executions: the fast path of `codec.decode`.

While the flow catches up, a read brings thousands of entries from one producer, alike
in their fields. They are parsed by columns: Arrow casts text to decimals exactly and
refuses what it cannot. Only what is plain passes: as soon as anything in a read is
unusual, the whole read is left to `codec`, which also has the words for what is wrong.
"""

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.codec import HEADING, LAST_TIMESTAMP, LONGEST_NAME, Heading, check_heading
from state.exact import PLACES
from state.messages import RejectedError
from state.run import Run

# Nine digits before the point: Arrow refuses 1e9 and above, and an eleventh place.
_DECIMAL = pa.decimal128(9 + PLACES, PLACES)
_IBKR_ID = r"^[0-9a-fA-F]{8}\.[0-9a-fA-F]{8}\.[0-9]{2}\.[0-9]{2}$"
_NEEDED = {b"symbol", b"side", b"fill_qty", b"fill_price", b"order_id", b"exec_id", b"timestamp"}
_TEXTS = (b"sec_type", b"exchange", b"order_ref")
_LONGEST_TIMESTAMP = 15
_LONGEST_DECIMAL = len("-999999999.9999999999")

_Columns = dict[bytes, list[bytes]]


class KeyRun(NamedTuple):
    """The executions of one key in a read, and which of the read's entries they are."""

    heading: Heading
    run: Run
    at: Sequence[int]


class _UnusualError(Exception):
    """Something that only the careful path can judge."""


def decode_runs(entries: Sequence[Sequence[Any]]) -> list[KeyRun] | None:
    """Decode entries (id, fields) to one run a key; None if any of them is not plain."""
    try:
        columns = _columns([fields for _, fields in entries])
        parsed = _parse(columns)
        groups = _group(columns, len(entries))
    except (_UnusualError, RejectedError, pa.ArrowException, UnicodeDecodeError):
        return None
    return [
        KeyRun(heading, Run._make([*_pick(parsed, at), heading.instrument]), at)
        for heading, at in groups.items()
    ]


def _columns(rows: list[list[bytes]]) -> _Columns:
    """Turn rows of names and values into columns by name."""
    names, width = rows[0][::2], len(rows[0])
    if set(map(len, rows)) != {width} or len(set(names)) != len(names) or not {*names} >= _NEEDED:
        raise _UnusualError
    flat = list(chain.from_iterable(rows))
    for place, name in enumerate(names):
        if flat[2 * place :: width].count(name) != len(rows):
            raise _UnusualError
    return {name: flat[2 * place + 1 :: width] for place, name in enumerate(names)}


def _parse(columns: _Columns) -> list[list[Any]]:
    """Return the columns of a `Run`, as lists of plain values."""
    if not set(columns.get(b"type", [b""])) <= {b"", b"execution"}:
        raise _UnusualError
    for name in _TEXTS:
        _text(columns.get(name, []))
    qtys, prices = _units(columns[b"fill_qty"]), _units(columns[b"fill_price"])
    if qtys.min() <= 0 or prices.min() <= 0:
        raise _UnusualError
    exec_ids, identities = _exec_ids(columns[b"exec_id"])
    return [
        exec_ids,
        identities,
        _timestamps(columns[b"timestamp"]),
        (qtys * _signs(columns[b"side"])).tolist(),
        prices.tolist(),
        _commissions(columns.get(b"commission"), len(qtys)),
        _integers(columns[b"order_id"]).tolist(),
    ]


def _text(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string())


def _units(values: list[bytes]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Parse decimals to whole numbers of 10^-10."""
    together = b"".join(values)
    if max(map(len, values)) > _LONGEST_DECIMAL or b"e" in together or b"E" in together:
        raise _UnusualError  # which Arrow may read as another number, or crash on
    decimals = _text(values).cast(_DECIMAL)
    halves = np.frombuffer(decimals.buffers()[1], np.int64)[: 2 * len(values)]
    low: np.ndarray[Any, np.dtype[np.int64]] = halves[0::2]
    if not np.array_equal(halves[1::2], low >> 63):
        raise _UnusualError  # above 9.2e8, and so above 64 bits
    return low


def _integers(values: list[bytes]) -> np.ndarray[Any, np.dtype[np.int64]]:
    texts = _text(values)
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
        raise _UnusualError  # Arrow reads 0x10 as 16
    integers: np.ndarray[Any, np.dtype[np.int64]] = texts.cast(pa.int64()).to_numpy()
    return integers


def _timestamps(values: list[bytes]) -> list[int]:
    timestamps = _integers(values)
    in_range = timestamps.min() >= 0 and timestamps.max() <= LAST_TIMESTAMP
    if not in_range or max(map(len, values)) > _LONGEST_TIMESTAMP or b"-0" in values:
        raise _UnusualError
    listed: list[int] = timestamps.tolist()
    return listed


def _signs(sides: list[bytes]) -> np.ndarray[Any, np.dtype[np.int64]]:
    upper = pc.ascii_upper(_text(sides))
    bought = pc.equal(upper, "BUY").to_numpy(zero_copy_only=False)
    sold = pc.equal(upper, "SELL").to_numpy(zero_copy_only=False)
    if not (bought | sold).all():
        raise _UnusualError
    return np.where(bought, np.int64(1), np.int64(-1))


def _exec_ids(values: list[bytes]) -> tuple[list[str], list[str]]:
    """Return execution ids and identities; revisions above the first are unusual."""
    ids = _text(values)
    lengths = pc.min_max(pc.utf8_length(ids)).as_py()
    if lengths["min"] < 1 or lengths["max"] > LONGEST_NAME:
        raise _UnusualError
    of_ibkr, first = pc.match_substring_regex(ids, _IBKR_ID), pc.ends_with(ids, ".01")
    if pc.any(pc.and_not(of_ibkr, first)).as_py():
        raise _UnusualError
    texts = ids.to_pylist()
    return texts, texts  # an execution is known by the id of its first revision


def _commissions(values: list[bytes] | None, length: int) -> list[int | None]:
    if values is None:
        return [None] * length
    if b"" in values:
        raise _UnusualError
    units: list[int | None] = _units(values).tolist()
    return units


def _group(columns: _Columns, length: int) -> dict[Heading, list[int]]:
    """Return where in the read each key's executions are."""
    names = tuple(name for name in HEADING if name in columns)
    by_values: dict[tuple[bytes, ...], list[int]] = {}
    rows = zip(*(columns[name] for name in names), strict=True)
    for at, values in enumerate(rows):
        if values in by_values:
            by_values[values].append(at)
        else:
            by_values[values] = [at]
    groups = {check_heading(names, values): at for values, at in by_values.items()}
    if len({heading[:2] for heading in groups}) != len(by_values) or length == 0:
        raise _UnusualError  # one key says different things of its instrument
    if any(heading.instrument.multiplier is not None for heading in groups):
        _refuse_fractions(groups)
    return groups


def _refuse_fractions(groups: dict[Heading, list[int]]) -> None:
    """Leave multipliers with decimal places, and what they multiply, to the careful path."""
    for heading in groups:
        if (heading.instrument.multiplier or 0) % 10**PLACES:
            raise _UnusualError


def _pick(columns: list[list[Any]], at: list[int]) -> list[list[Any]]:
    if len(at) == 1:
        return [[column[at[0]]] for column in columns]
    pick = itemgetter(*at)
    return [list(pick(column)) for column in columns]
