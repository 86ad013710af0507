"""Position changes as Arrow tables: the columns of both Parquet data sets.

What was booked one message at a time comes as rows, what was booked in runs as
columns; both become the same tables, split by date.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from state.exact import MONEY_PLACES, ONE, PLACES, divide_half_even
from state.messages import CommissionReport, Execution, Message, Opening, Split
from state.records import Changes, RunUpdates, Update
from state.run import RunUpdate
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
    positions = _run_positions(runs)
    closed = _run_closed_lots(runs, positions)
    yield from _split_by_day("positions", positions, "timestamp")
    yield from _split_by_day("closed_lots", closed, "close_timestamp")


def _split_by_day(data_set: str, table: pa.Table, time_column: str) -> Iterator[Table]:
    days = table.column(time_column).combine_chunks().view(pa.int64()).to_numpy() // _DAY_MS
    for day in np.unique(days).tolist():
        yield Table(data_set, day, table if days[0] == days[-1] == day and (days == day).all()
                    else table.filter(pa.array(days == day)))  # fmt: skip


def _run_positions(runs: list[RunUpdates]) -> pa.Table:
    """One row for each execution of the runs; in a run, it is also the last one booked."""
    of_run = np.repeat(np.arange(len(runs)), [len(run.ids) for run in runs])
    updates = [run.update for run in runs]
    qtys = _all(update.run.qtys for update in updates)
    prices = _small_decimals(_all(update.run.prices for update in updates), QUANTITY)
    exec_ids = pa.array(_all(update.run.exec_ids for update in updates), pa.string())
    times = pa.array(_all(update.run.timestamps for update in updates), pa.int64()).view(TIME)
    executions = chain.from_iterable(
        range(update.executions + 1, update.executions + len(update.run.qtys) + 1)
        for update in updates
    )
    bought = np.array([qty > 0 for qty in qtys])
    columns = {
        "account": _repeat([update.account for update in updates], pa.string(), of_run),
        "symbol": _repeat([update.symbol for update in updates], pa.string(), of_run),
        "currency": _repeat([update.currency for update in updates], pa.string(), of_run),
        "multiplier": _repeat([update.multiplier for update in updates], QUANTITY, of_run),
        "qty": _small_decimals(_all(update.result.qtys for update in updates), QUANTITY),
        "avg_price": _small_decimals(_all(map(_average_prices, updates)), QUANTITY),
        "cost_basis": _decimals(_all(update.result.costs for update in updates), MONEY),
        "realized_pnl": _decimals(_all(update.result.realized for update in updates), MONEY),
        "commission": _small_decimals(_all(map(_commissions_so_far, updates)), QUANTITY),
        "net_realized_pnl": _decimals(_all(update.result.nets for update in updates), MONEY),
        "open_lots": pa.array(_all(update.result.open_lots for update in updates), pa.int64()),
        "executions": pa.array(list(executions), pa.int64()),
        "last_exec_id": exec_ids,
        "last_price": prices,
        "timestamp": times,
        "stream_id": pa.array(_all(run.ids for run in runs), pa.string()),
        "type": _repeat(["execution"], pa.string(), np.zeros(len(of_run), np.int64)),
        "message_timestamp": times,
        "side": pa.array(["SELL", "BUY"]).take(pa.array(bought.astype(np.int64))),
        "fill_qty": pc.abs(_small_decimals(qtys, QUANTITY)),
        "fill_price": prices,
        "exec_id": exec_ids,
        "order_id": pa.array(_all(update.run.order_ids for update in updates), pa.int64()),
        "realized_pnl_change": _decimals(_all(u.result.gains for u in updates), MONEY),
        "net_realized_pnl_change": _decimals(_all(u.result.net_gains for u in updates), MONEY),
    }
    return pa.table(columns, schema=POSITIONS_SCHEMA)


def _run_closed_lots(runs: list[RunUpdates], positions: pa.Table) -> pa.Table:
    """One row for each match; what the closing execution says is taken from its row."""
    starts = np.cumsum([0, *(len(run.ids) for run in runs)])[:-1].tolist()
    closers = pa.array(
        [start + at for start, run in zip(starts, runs, strict=True)
         for at in run.update.result.closers], pa.int64(),
    )  # fmt: skip
    if not len(closers):
        return CLOSED_LOTS_SCHEMA.empty_table()
    parts = zip(*_all(run.update.result.parts for run in runs), strict=True)
    _, open_ids, open_times, open_prices, qtys, *_ = map(list, parts)
    closing = positions.select(
        ["account", "symbol", "currency", "multiplier", "exec_id", "timestamp", "fill_price",
         "stream_id"]
    ).take(closers)  # fmt: skip
    columns = {name: closing.column(name) for name in ("account", "symbol", "currency")}
    long = np.array([qty > 0 for qty in qtys])
    columns |= {
        "multiplier": closing.column("multiplier"),
        "direction": pa.array(["SHORT", "LONG"]).take(pa.array(long.astype(np.int64))),
        "qty": pc.abs(_small_decimals(qtys, QUANTITY)),
        "open_exec_id": pa.array(open_ids, pa.string()),
        "open_timestamp": pa.array(open_times, pa.int64()).view(TIME),
        "open_price": _small_decimals(open_prices, QUANTITY),
        "close_exec_id": closing.column("exec_id"),
        "close_timestamp": closing.column("timestamp"),
        "close_price": closing.column("fill_price"),
        "realized_pnl": _decimals(_all(run.update.result.part_gains for run in runs), MONEY),
        "stream_id": closing.column("stream_id"),
    }
    return pa.table(columns, schema=CLOSED_LOTS_SCHEMA)


def _average_prices(update: RunUpdate) -> list[int | None]:
    """Return the average price of the open lots after each execution; None when flat."""
    multiplier = update.multiplier
    return [
        divide_half_even(cost * ONE, qty * multiplier) if qty else None
        for cost, qty in zip(update.result.costs, update.result.qtys, strict=True)
    ]


def _commissions_so_far(update: RunUpdate) -> Iterator[int]:
    costs = (commission or 0 for commission in update.run.commissions)
    return islice(accumulate(costs, initial=update.commission), 1, None)


def _all(columns: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(columns))


def _repeat(values: Sequence[Any], of_type: pa.DataType, of_run: np.ndarray[Any, Any]) -> pa.Array:
    return _array(values, of_type).take(pa.array(of_run))


def _small_decimals(values: Sequence[int | None], of_type: pa.DataType) -> pa.Array:
    """Build decimals from whole numbers of their smallest unit, most below 64 bits."""
    try:
        narrow = pa.array(values, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        return _decimals(values, of_type)
    # Arrow widens with scale 0; the same whole numbers then count smaller units.
    wide = narrow.cast(pa.decimal128(38, 0))
    return pa.Array.from_buffers(of_type, len(values), wide.buffers())


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
