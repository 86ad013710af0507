"""Position changes as Arrow tables: the columns of both Parquet data sets.

What was booked one message at a time comes as rows, what was booked in runs as
columns; both become the same tables, split by date.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.parquet.wide import Ints, Wide, quotients
from state.exact import MONEY_PLACES, ONE, PLACES
from state.messages import CommissionReport, Execution, Message, Opening, Split
from state.records import Changes, RunUpdates, Update
from state.run import CLOSED_WIDTH, EFFECTS_WIDTH, NO_COMMISSION, RUN_WIDTH
from state.snapshot import ClosedLot

QUANTITY = pa.decimal128(38, PLACES)
MONEY = pa.decimal128(38, MONEY_PLACES)
TIME = pa.timestamp("ms", tz="UTC")

POSITIONS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "qty": QUANTITY, "avg_price": QUANTITY, "cost_basis": MONEY,
        "realized_pnl": MONEY, "commission": QUANTITY, "net_realized_pnl": MONEY,
        "open_lots": pa.int64(), "executions": pa.int64(), "last_exec_id": pa.string(),
        "last_price": QUANTITY, "timestamp": TIME, "stream_id": pa.string(),
        "type": pa.string(), "message_timestamp": TIME, "side": pa.string(),
        "fill_qty": QUANTITY, "fill_price": QUANTITY, "exec_id": pa.string(),
        "order_id": pa.int64(), "realized_pnl_change": MONEY, "net_realized_pnl_change": MONEY,
    }
)  # fmt: skip
CLOSED_LOTS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "direction": pa.string(), "qty": QUANTITY,
        "open_exec_id": pa.string(), "open_timestamp": TIME, "open_price": QUANTITY,
        "close_exec_id": pa.string(), "close_timestamp": TIME, "close_price": QUANTITY,
        "realized_pnl": MONEY, "stream_id": pa.string(),
    }
)  # fmt: skip

DATA_SETS = {"positions": POSITIONS_SCHEMA, "closed_lots": CLOSED_LOTS_SCHEMA}

_DAY_MS = 86_400_000


class Table(NamedTuple):
    """Rows of one data set and one date."""

    data_set: str
    day: int
    """Days since 1970."""
    rows: pa.Table


def tables(changes: Iterable[Changes]) -> Iterator[Table]:
    """Build tables for each data set and date, the rows of each key in order."""
    rows: list[Update] = []
    runs: list[RunUpdates] = []
    for change in changes:
        if isinstance(change.updates, RunUpdates):
            runs.append(change.updates)
        else:
            rows += change.updates
    if rows:
        yield from _tables_of_rows(rows)
    if runs:
        yield from _tables_of_runs(runs)


# --- from columns -------------------------------------------------------------------


def _tables_of_runs(runs: list[RunUpdates]) -> Iterator[Table]:
    did = _Booked(runs)
    positions = _run_positions(did)
    closed_lots = _run_closed_lots(did, positions)
    if any(did.skips):
        wanted = did.at >= np.array(did.skips)[did.of_run]
        positions = positions.filter(pa.array(wanted))
        closed_lots = closed_lots.filter(pa.array(wanted[did.closers]))
    yield from _split_by_day("positions", positions, "timestamp")
    yield from _split_by_day("closed_lots", closed_lots, "close_timestamp")


def _split_by_day(data_set: str, table: pa.Table, time_column: str) -> Iterator[Table]:
    days = table.column(time_column).combine_chunks().view(pa.int64()).to_numpy() // _DAY_MS
    for day in np.unique(days).tolist():
        yield Table(data_set, day, table if days[0] == days[-1] == day and (days == day).all()
                    else table.filter(pa.array(days == day)))  # fmt: skip


class _Booked:
    """What was booked in runs, in columns: over all executions, and over all lots they closed."""

    def __init__(self, runs: list[RunUpdates]) -> None:  # noqa: PLR0915 - many columns
        # Turned to columns at once: to look at each update again and again takes longer.
        self.ids, updates, self.skips = zip(*runs, strict=True)
        run, result, qty, cost, realized, net, commission, self.executions, *says = zip(
            *updates, strict=True
        )
        self.accounts, self.symbols, self.currencies, multipliers = says
        self.multipliers = np.array(multipliers, np.int64)
        numbers, self.exec_ids, _ = zip(*run, strict=True)
        effects, closed, self.open_exec_ids, _, _ = zip(*result, strict=True)

        lengths = _lengths(numbers, RUN_WIDTH)
        self.begins = np.cumsum(lengths) - lengths
        self.of_run = np.repeat(np.arange(len(runs)), lengths)
        """Which run each execution belongs to."""
        self.at = np.arange(len(self.of_run)) - self.begins[self.of_run]
        """Its place there."""
        self.times, self.qtys, self.prices, commissions, self.order_ids = _unpack(
            numbers, RUN_WIDTH
        )
        fees = np.where(commissions == NO_COMMISSION, 0, commissions)
        own_dues, self.open_lots = _unpack(effects, EFFECTS_WIDTH)
        closers, _, self.open_times, self.open_prices, self.closed_qtys, open_fees = _unpack(
            closed, CLOSED_WIDTH
        )
        self.closers = closers + np.repeat(self.begins, _lengths(closed, CLOSED_WIDTH))

        # To close a lot realizes what it is worth by now less what it cost. So what the
        # open lots cost changes by what is traded and what is realized.
        factors = (self.multipliers // ONE)[self.of_run]
        rises = self.prices[self.closers] - self.open_prices
        self.part_gains = Wide.product(self.closed_qtys * factors[self.closers], rises)
        self.gains = self._by_closer(self.part_gains)
        dues = Wide.of(own_dues) + self._by_closer(Wide.of(open_fees))
        self.net_gains = self.gains - Wide.product(dues.narrow(), np.full(len(self.qtys), ONE))
        traded = Wide.product(self.qtys * factors, self.prices)

        self.held = self._running(Wide.of(self.qtys), qty)
        self.costs = self._running(traded + self.gains, cost)
        self.realized = self._running(self.gains, realized)
        self.nets = self._running(self.net_gains, net)
        self.commissions = self._running(Wide.of(fees), commission)
        self.averages = quotients(self.costs, self.held.narrow() * factors, QUANTITY)

    def _by_closer(self, of_closed: Wide) -> Wide:
        """Add up for each execution what belongs to the lots it closed."""
        counts = np.bincount(self.closers, minlength=len(self.qtys))
        upto = np.cumsum(counts)
        sums = of_closed.sums()
        return sums.take(upto) - sums.take(upto - counts)

    def _running(self, changes: Wide, before: Sequence[int]) -> Wide:
        """Return a figure after each execution; before: what it was before each run."""
        sums = changes.sums()
        starts = Wide.of_ints(before) - sums.take(self.begins)
        return sums.take(np.arange(1, len(self.qtys) + 1)) + starts.take(self.of_run)


def _run_positions(did: _Booked) -> pa.Table:
    """One row for each execution; it is also the last one booked."""
    of_run, exec_ids = pa.array(did.of_run), _texts(did.exec_ids)
    prices, times = _quantities(did.prices), pa.array(did.times).view(TIME)
    columns = {
        "account": pa.array(did.accounts, pa.string()).take(of_run),
        "symbol": pa.array(did.symbols).take(of_run),
        "currency": pa.array(did.currencies).take(of_run),
        "multiplier": _quantities(did.multipliers).take(of_run),
        "qty": did.held.to_decimals(QUANTITY),
        "avg_price": did.averages,
        "cost_basis": did.costs.to_decimals(MONEY),
        "realized_pnl": did.realized.to_decimals(MONEY),
        "commission": did.commissions.to_decimals(QUANTITY),
        "net_realized_pnl": did.nets.to_decimals(MONEY),
        "open_lots": pa.array(did.open_lots),
        "executions": pa.array(np.array(did.executions, np.int64)[did.of_run] + did.at + 1),
        "last_exec_id": exec_ids,
        "last_price": prices,
        "timestamp": times,
        "stream_id": _texts(did.ids),
        "type": pa.array(["execution"]).take(pa.array(np.zeros(len(did.qtys), np.int8))),
        "message_timestamp": times,
        "side": _either(did.qtys > 0, "BUY", "SELL"),
        "fill_qty": _quantities(np.abs(did.qtys)),
        "fill_price": prices,
        "exec_id": exec_ids,
        "order_id": pa.array(did.order_ids),
        "realized_pnl_change": did.gains.to_decimals(MONEY),
        "net_realized_pnl_change": did.net_gains.to_decimals(MONEY),
    }
    return pa.table(columns, schema=POSITIONS_SCHEMA)


def _run_closed_lots(did: _Booked, positions: pa.Table) -> pa.Table:
    """One row for each closed lot; what the closing execution says is taken from its row."""
    closing = positions.select(
        ["account", "symbol", "currency", "multiplier", "exec_id", "timestamp", "fill_price",
         "stream_id"]
    ).take(pa.array(did.closers))  # fmt: skip
    open_ids = _texts(did.open_exec_ids)
    columns = {name: closing.column(name) for name in ("account", "symbol", "currency")}
    columns |= {
        "multiplier": closing.column("multiplier"),
        "direction": _either(did.closed_qtys > 0, "LONG", "SHORT"),
        "qty": _quantities(np.abs(did.closed_qtys)),
        "open_exec_id": pc.if_else(pc.equal(open_ids, ""), None, open_ids),
        "open_timestamp": pa.array(did.open_times).view(TIME),
        "open_price": _quantities(did.open_prices),
        "close_exec_id": closing.column("exec_id"),
        "close_timestamp": closing.column("timestamp"),
        "close_price": closing.column("fill_price"),
        "realized_pnl": did.part_gains.to_decimals(MONEY),
        "stream_id": closing.column("stream_id"),
    }
    return pa.table(columns, schema=CLOSED_LOTS_SCHEMA)


def _unpack(packed: Iterable[bytes], width: int) -> Ints:
    """Return the columns of packed rows (see `state.run`)."""
    return np.frombuffer(b"".join(packed), np.int64).reshape(-1, width).T


def _lengths(packed: Sequence[bytes], width: int) -> Ints:
    """Return how many packed rows each has."""
    return np.fromiter(map(len, packed), np.int64, len(packed)) // (8 * width)


def _texts(packed: Iterable[bytes]) -> pa.Array:
    """Return packed texts (see `state.run`)."""
    data = np.frombuffer(b"".join(packed), np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[data != ord("\n")])]
    return pa.Array.from_buffers(pa.string(), len(ends), buffers)


def _quantities(numbers: Ints) -> pa.Array:
    return Wide.of(numbers).to_decimals(QUANTITY)


def _either(first: np.ndarray[Any, Any], if_so: str, else_: str) -> pa.Array:
    return pa.array([else_, if_so]).take(pa.array(first.astype(np.int8)))


# --- from rows ------------------------------------------------------------------------


def _tables_of_rows(updates: list[Update]) -> list[Table]:
    closed = [(lot, update) for update in updates for lot in update.applied.closed]
    return [
        *_by_day("positions", updates, _position_day, _positions_table),
        *_by_day("closed_lots", closed, _closed_day, _closed_lots_table),
    ]


def _by_day(
    data_set: str,
    rows: list[Any],
    day_of: Callable[[Any], int],
    build: Callable[[list[Any]], pa.Table],
) -> list[Table]:
    days = groupby(sorted(rows, key=day_of), key=day_of)
    return [Table(data_set, day, build(list(of_day))) for day, of_day in days]


def _position_day(update: Update) -> int:
    # A position without any execution has no time of its own.
    timestamp = update.snapshot.timestamp
    return (update.message.timestamp if timestamp is None else timestamp) // _DAY_MS


def _closed_day(row: tuple[ClosedLot, Update]) -> int:
    return row[0].close_timestamp // _DAY_MS


def _positions_table(updates: list[Update]) -> pa.Table:
    return _table(
        POSITIONS_SCHEMA,
        (
            (
                *update.snapshot,
                update.stream_id,
                *_message_fields(update.message),
                update.applied.realized_change,
                update.applied.net_change,
            )
            for update in updates
        ),
    )


def _message_fields(message: Message) -> tuple[Any, ...]:
    """Return the message's own type, time, side, fill_qty, fill_price, exec_id, order_id."""
    kind, timestamp = _TYPE_NAMES[type(message)], message.timestamp
    if isinstance(message, Execution):
        return (
            kind, timestamp, message.side, abs(message.qty), message.price, message.exec_id,
            message.order_id,
        )  # fmt: skip
    exec_id = message.exec_id if isinstance(message, CommissionReport) else None
    return (kind, timestamp, None, None, None, exec_id, None)


def _closed_lots_table(rows: list[tuple[ClosedLot, Update]]) -> pa.Table:
    return _table(
        CLOSED_LOTS_SCHEMA,
        (
            (
                update.snapshot.account,
                update.snapshot.symbol,
                update.snapshot.currency,
                update.snapshot.multiplier,
                *lot,
                update.stream_id,
            )
            for lot, update in rows
        ),
    )


def _table(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [_array(values, field.type) for values, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _array(values: Sequence[Any], of_type: pa.DataType) -> pa.Array:
    return _decimals(values, of_type) if pa.types.is_decimal(of_type) else pa.array(values, of_type)


def _decimals(values: Sequence[int | None], of_type: pa.DataType) -> pa.Array:
    """Build decimals from whole numbers of their smallest unit, exactly."""
    data = b"".join([(value or 0).to_bytes(16, "little", signed=True) for value in values])
    known = None
    if None in values:
        known = pa.array([value is not None for value in values], pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(of_type, len(values), [known, pa.py_buffer(data)])


_TYPE_NAMES: dict[type, str] = {
    Execution: "execution",
    CommissionReport: "commission",
    Opening: "opening",
    Split: "split",
}
