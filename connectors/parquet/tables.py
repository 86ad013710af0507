"""Position changes as Arrow tables: the columns of both Parquet data sets.

What was booked one message at a time comes as rows, what was booked in runs as
columns; both become the same tables, split by date.
"""

from collections.abc import Iterable, Iterator, Sequence
from json import dumps
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.parquet.wide import Ints, Wide, quotients
from state.exact import MONEY_PLACES, ONE, PLACES, to_text
from state.messages import TYPE_NAMES, CommissionReport, ContractNumber, Execution, Message, terms
from state.records import Changes, RunUpdates, Update
from state.run import EXECUTION_WIDTH, LOT_WIDTH, NO_COMMISSION, REPORT_WIDTH
from state.snapshot import PositionSnapshot

QUANTITY = pa.decimal128(38, PLACES)
MONEY = pa.decimal128(38, MONEY_PLACES)
TIME = pa.timestamp("ms", tz="UTC")

POSITIONS_SCHEMA = pa.schema(
    {
        "account": pa.string(), "symbol": pa.string(), "currency": pa.string(),
        "multiplier": QUANTITY, "sec_type": pa.string(), "con_id": pa.int64(), "qty": QUANTITY,
        "avg_price": QUANTITY, "cost_basis": MONEY, "realized_pnl": MONEY, "commission": QUANTITY,
        "other_commissions": pa.string(), "basis_adjustment": QUANTITY, "net_realized_pnl": MONEY,
        "open_lots": pa.int64(), "executions": pa.int64(), "last_exec_id": pa.string(),
        "last_price": QUANTITY, "timestamp": TIME, "stream_id": pa.string(),
        "type": pa.string(), "message_timestamp": TIME, "side": pa.string(),
        "fill_qty": QUANTITY, "fill_price": QUANTITY, "exec_id": pa.string(),
        "order_id": pa.int64(), "order_ref": pa.string(), "message_commission": QUANTITY,
        "message_commission_currency": pa.string(), "realized_pnl_change": MONEY,
        "net_realized_pnl_change": MONEY, "message_terms": pa.string(),
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


_DAY_BY = {"positions": ["timestamp", "message_timestamp"], "closed_lots": ["close_timestamp"]}
"""The times that tell a row's date; a position without any execution has none of its own."""


def _split_by_day(data_set: str, table: pa.Table) -> Iterator[Table]:
    times = pc.coalesce(*(table.column(name) for name in _DAY_BY[data_set]))
    days = times.combine_chunks().view(pa.int64()).to_numpy() // _DAY_MS
    for day in np.unique(days).tolist():
        of_day = days == day
        yield Table(data_set, day, table if of_day.all() else table.filter(pa.array(of_day)))


# --- from columns -------------------------------------------------------------------

_LONGEST_LINE = 2**62


def _tables_of_runs(runs: list[RunUpdates]) -> Iterator[Table]:
    for some in _on_one_line(runs):
        did = _Booked(some)
        positions, closed_lots = _run_positions(did), _run_closed_lots(did)
        if any(did.skips):
            wanted = did.at >= np.array(did.skips)[did.of_run]
            positions = positions.filter(pa.array(wanted))
            closed_lots = closed_lots.filter(pa.array(wanted[did.events[did.closers]]))
        yield from _split_by_day("positions", positions)
        yield from _split_by_day("closed_lots", closed_lots)


def _on_one_line(runs: list[RunUpdates]) -> Iterator[list[RunUpdates]]:
    """Divide runs so that the units of those together, one behind the other, fit in 64 bits."""
    _, traded, *_ = _unpack((run.update.run.numbers for run in runs), EXECUTION_WIDTH)
    held = sum([abs(run.update.before.qty) for run in runs])
    # Those of one run do: no position grows larger.
    if len(runs) == 1 or np.abs(traded).sum(dtype=np.float64) + held < _LONGEST_LINE:
        yield runs  # all but always
        return
    half = len(runs) // 2
    yield from _on_one_line(runs[:half])
    yield from _on_one_line(runs[half:])


class _Booked:
    """What was booked in runs, in columns over all of them.

    The rule is that of `state.fifo`: opened + closed = units traded, opened - closed =
    units held, and the k-th unit closed closes the k-th unit opened. Each run has a line
    of its own, on which 0 is where closing had come to before it.
    """

    def __init__(self, runs: list[RunUpdates]) -> None:  # noqa: PLR0915 - many columns
        self.ids, updates, self.skips = zip(*runs, strict=True)
        self.runs, snapshots, lots, self.lot_ids, targets = zip(*updates, strict=True)
        before: Any = PositionSnapshot._make(zip(*snapshots, strict=True))
        self.before = before
        """The columns of the positions before each run."""
        numbers, reports = [r.numbers for r in self.runs], [r.reports for r in self.runs]
        self.factors = np.array([multiplier // ONE for multiplier in before.multiplier], np.int64)
        executions = _unpack(numbers, EXECUTION_WIDTH)
        self.times, self.qtys, self.prices, self.said_fees, self.order_ids = executions
        self.fees = np.where(self.said_fees == NO_COMMISSION, 0, self.said_fees)
        self.report_at, self.report_times, self.report_fees = _unpack(reports, REPORT_WIDTH)
        of_executions = _lengths(numbers, EXECUTION_WIDTH)
        of_reports = _lengths(reports, REPORT_WIDTH)
        # Which run each execution and report belongs to, and each message; where a run's begin.
        each = np.arange(len(runs))
        self.execution_run, self.report_run = (
            np.repeat(each, n) for n in (of_executions, of_reports)
        )
        self.of_run = np.repeat(each, of_executions + of_reports)
        self.first_execution, first_report = _begins(of_executions), _begins(of_reports)
        first_event = _begins(of_executions + of_reports)
        self.at = np.arange(len(self.of_run)) - first_event[self.of_run]
        """The place of each message in its run."""
        self.report_events = first_event[self.report_run] + self.report_at
        self.is_report = np.zeros(len(self.of_run), np.bool_)
        self.is_report[self.report_events] = True
        self.events = np.flatnonzero(~self.is_report)
        """Which of the messages each execution is."""
        earlier_reports = np.arange(len(self.report_run)) - first_report[self.report_run]
        self.executions_before = self.report_at - earlier_reports
        self._totals(np.array(before.qty, np.int64))
        self._openers(lots, targets)
        self._match()
        self._count(before)

    def _totals(self, held_before: Ints) -> None:
        """Work out how far opening and closing have come, before and after each execution."""
        run, units = self.execution_run, np.abs(self.qtys)
        held = held_before[run] + self._running_units(self.qtys)
        self.opened = (np.abs(held_before)[run] + self._running_units(units) + np.abs(held)) >> 1
        self.closed = self.opened - np.abs(held)
        self.opened_before = np.append(0, self.opened)[:-1]
        self.closed_before = np.append(0, self.closed)[:-1]
        firsts = self.first_execution[np.unique(run)]
        self.opened_before[firsts] = np.abs(held_before)[run[firsts]]
        self.closed_before[firsts] = 0

    def _running_units(self, units: Ints) -> Ints:
        sums = np.append(0, np.cumsum(units))
        found: Ints = sums[1:] - sums[self.first_execution[self.execution_run]]
        return found

    def _openers(self, lots: Sequence[bytes], targets: Sequence[list[int]]) -> None:
        """Put the lots of before and the executions together, as what may open."""
        time, price, qty, begin, end, charge = _unpack(lots, LOT_WIDTH)
        of_run = _lengths(lots, LOT_WIDTH)
        self.lots = len(time)
        self.open_times = np.append(time, self.times)
        self.open_prices = np.append(price, self.prices)
        self.open_qtys = np.append(qty, self.qtys)
        self.open_run = np.append(np.repeat(np.arange(len(lots)), of_run), self.execution_run)
        self.begins = np.append(begin, self.opened_before)
        self.ends = np.append(end, self.opened)
        self.charges = np.append(charge, self.fees)
        target = np.array([at for some in targets for at in some], np.int64)
        ends_of_lots = np.cumsum(of_run)[self.report_run]
        in_run = self.lots + self.first_execution[self.report_run] + target
        self.targets = np.where(target < 0, ends_of_lots + target, in_run)
        self.charges[self.targets] = self.report_fees
        # From which message on a charge is known; it is borne by what closed before at once.
        self.charged_from = np.full(len(self.charges), -1)
        self.charged_from[self.targets] = self.report_events

    def _match(self) -> None:
        """Find out which openers each execution closed units of, and how many."""
        lengths = np.zeros(len(self.runs), np.int64)
        np.maximum.at(lengths, self.open_run, self.ends)
        offset = _begins(lengths)
        opens = np.flatnonzero(self.ends > np.maximum(self.begins, 0))
        line = offset[self.open_run[opens]] + self.ends[opens]
        in_order = np.argsort(line, kind="stable")
        opens, line = opens[in_order], line[in_order]
        start = offset[self.execution_run] + self.closed_before
        stop = offset[self.execution_run] + self.closed
        closers = np.flatnonzero(self.closed > self.closed_before)
        first = np.searchsorted(line, start[closers], "right")
        last = np.searchsorted(line, stop[closers], "left")
        number = last - first + 1
        # Of each match: who closed, who opened, and which units of the line.
        self.closers = np.repeat(closers, number)
        of_closer = np.arange(len(self.closers)) - np.repeat(_begins(number), number)
        self.matched = opens[np.repeat(first, number) + of_closer]
        self.match_begins = np.maximum(self.closed_before[self.closers], self.begins[self.matched])
        self.match_ends = np.minimum(self.closed[self.closers], self.ends[self.matched])
        gone_before = np.searchsorted(line, offset[self.execution_run], "right")
        gone = np.searchsorted(line, stop, "right") - gone_before
        opened = (self.opened > self.opened_before).astype(np.int64)
        self.lots_change = self._running_units(opened) - gone
        """How many more lots are open after each execution than before its run."""

    def _due(self, openers: Ints, upto: Ints) -> Ints:
        """Return what of the openers' charges is due once closing has come to a place."""
        size = np.abs(self.open_qtys[openers])
        left = np.maximum(self.ends[openers] - np.maximum(upto, self.begins[openers]), 0)
        return quotients(Wide.product(self.charges[openers], size - left), size).narrow()

    def _count(self, before: Any) -> None:  # noqa: PLR0915 - many columns
        """Work out the figures after each message."""
        factors = self.factors[self.execution_run]
        self.units = self.match_ends - self.match_begins
        signed = np.where(self.open_qtys[self.matched] > 0, self.units, -self.units)
        rises = self.prices[self.closers] - self.open_prices[self.matched]
        # To close a lot realizes what it is worth by now less what it cost. So what the
        # open lots cost changes by what is traded and what is realized.
        self.part_gains = Wide.product(
            signed * self.factors[self.execution_run[self.closers]], rises
        )
        gains = self._by_closer(self.part_gains)
        traded = Wide.product(self.qtys * factors, self.prices)
        every, events = len(self.of_run), self.events
        self.gains = gains.scattered(events, every)
        closed = np.append(0, self.closed)
        last = self.first_execution[self.report_run] + self.executions_before
        come_to = np.where(self.executions_before > 0, closed[last], 0)
        due = self.of_messages(self._dues(), self._due(self.targets, come_to))
        self.net_gains = self.gains - Wide.product(due, np.full(every, ONE))
        qtys, fees = self.of_messages(self.qtys, 0), self.of_messages(self.fees, self.report_fees)
        self.held = self._running(Wide.of(qtys), before.qty)
        self.costs = self._running((traded + gains).scattered(events, every), before.cost_basis)
        self.realized = self._running(self.gains, before.realized_pnl)
        self.nets = self._running(self.net_gains, before.net_realized_pnl)
        self.commissions = self._running(Wide.of(fees), before.commission)
        by = self.held.narrow() * self.factors[self.of_run]
        self.averages = quotients(self.costs, by).to_decimals(QUANTITY, by != 0)
        # The last execution by each message; before the first one of a run, none of it.
        count = np.cumsum(~self.is_report)
        self.last = count - 1
        self.is_first = count <= self.first_execution[self.of_run]
        lots = np.append(self.lots_change, 0)[self.last]
        self.open_lots = np.array(before.open_lots)[self.of_run] + np.where(self.is_first, 0, lots)
        booked = count - self.first_execution[self.of_run]
        self.executions = np.array(before.executions)[self.of_run] + booked

    def _dues(self) -> Ints:
        """Return the charges that fell due with each execution, its own and its openers'."""
        closes = self.closed - self.closed_before
        own = quotients(Wide.product(self.fees, closes), np.abs(self.qtys)).narrow()
        matched = np.flatnonzero(
            (self.charges[self.matched] != 0)
            & (self.charged_from[self.matched] < self.events[self.closers])
        )
        due = np.zeros(len(self.matched), np.int64)
        openers = self.matched[matched]
        due[matched] = self._due(openers, self.match_ends[matched])
        due[matched] -= self._due(openers, self.match_begins[matched])
        return own + self._by_closer(Wide.of(due)).narrow()

    def of_messages(self, of_executions: Ints, of_reports: Ints | int) -> Ints:
        """Put what belongs to executions and what belongs to reports in the messages' order."""
        found = np.empty(len(self.of_run), np.int64)
        found[self.events], found[self.report_events] = of_executions, of_reports
        return found

    def _by_closer(self, of_matches: Wide) -> Wide:
        """Add up for each execution what belongs to its matches."""
        counts = np.bincount(self.closers, minlength=len(self.qtys))
        upto = np.cumsum(counts)
        sums = of_matches.sums()
        return sums.take(upto) - sums.take(upto - counts)

    def _running(self, changes: Wide, before: Sequence[int]) -> Wide:
        """Return a figure after each message; before: what it was before each run."""
        sums, begins = changes.sums(), np.flatnonzero(self.at == 0)
        starts = Wide.of_ints(before) - sums.take(begins)
        return sums.take(np.arange(1, len(self.of_run) + 1)) + starts.take(self.of_run)


def _run_positions(did: _Booked) -> pa.Table:
    """One row for each message."""
    of_run, none = pa.array(did.of_run), did.is_report
    # Which execution the message is, and which was the last one booked by it.
    itself = pa.array(did.last, mask=none)
    last = pa.array(np.where(did.is_first, len(did.qtys) + did.of_run, did.last))
    exec_ids, before = _texts([run.exec_ids for run in did.runs]), did.before

    def booked(of_executions: pa.Array, of_before: Sequence[Any]) -> pa.Array:
        values = _array(of_before, of_executions.type)
        return pa.concat_arrays([of_executions, values]).take(last)

    prices, times = _quantities(did.prices), pa.array(did.times).view(TIME)
    fees = did.of_messages(did.said_fees, did.report_fees)
    said = fees != NO_COMMISSION
    instruments = [run.instrument for run in did.runs]
    others = list(map(other_commissions_json, before.other_commissions))
    of_key = _of_keys(before, of_run)
    message_times = did.of_messages(did.times, did.report_times)
    columns = {
        **of_key,
        "sec_type": _named(did, before.sec_type, [says.sec_type for says in instruments]),
        "con_id": _named(did, before.con_id, [says.con_id for says in instruments]),
        "qty": did.held.to_decimals(QUANTITY),
        "avg_price": did.averages,
        "cost_basis": did.costs.to_decimals(MONEY),
        "realized_pnl": did.realized.to_decimals(MONEY),
        "commission": did.commissions.to_decimals(QUANTITY),
        "other_commissions": pa.array(others, pa.string()).take(of_run),
        "basis_adjustment": _decimals(before.basis_adjustment, QUANTITY).take(of_run),
        "net_realized_pnl": did.nets.to_decimals(MONEY),
        "open_lots": pa.array(did.open_lots),
        "executions": pa.array(did.executions),
        "last_exec_id": booked(exec_ids, before.last_exec_id),
        "last_price": booked(prices, before.last_price),
        "timestamp": booked(times, before.timestamp),
        "stream_id": _texts(did.ids),
        "type": pc.if_else(pa.array(none), "commission", "execution"),
        "message_timestamp": pa.array(message_times).view(TIME),
        "side": pc.if_else(pa.array(did.qtys > 0), "BUY", "SELL").take(itself),
        "fill_qty": _quantities(np.abs(did.qtys)).take(itself),
        "fill_price": prices.take(itself),
        "exec_id": _exec_ids(did, exec_ids),
        "order_id": pa.array(did.order_ids).take(itself),
        "order_ref": _order_refs(did).take(itself),
        "message_commission": Wide.of(fees).to_decimals(QUANTITY, said),
        "message_commission_currency": pc.if_else(pa.array(said), of_key["currency"], None),
        "realized_pnl_change": did.gains.to_decimals(MONEY),
        "net_realized_pnl_change": did.net_gains.to_decimals(MONEY),
        "message_terms": pa.nulls(len(did.of_run), pa.string()),
    }  # fmt: skip
    return pa.table(columns, schema=POSITIONS_SCHEMA)


def _of_keys(before: Any, of_run: pa.Array) -> dict[str, pa.Array]:
    """Return what all rows of a key have in common."""
    return {
        "account": pa.array(before.account, pa.string()).take(of_run),
        "symbol": pa.array(before.symbol).take(of_run),
        "currency": pa.array(before.currency).take(of_run),
        "multiplier": _decimals(before.multiplier, QUANTITY).take(of_run),
    }


def _named(did: _Booked, before: Sequence[Any], named: Sequence[Any]) -> pa.Array:
    """Return what was named last: before the run, or by its executions."""
    after = [old if new is None else new for old, new in zip(before, named, strict=True)]
    which = did.of_run + np.where(did.is_first, 0, len(before))
    return pa.array([*before, *after]).take(pa.array(which))


def _exec_ids(did: _Booked, of_executions: pa.Array) -> pa.Array:
    """Return the execution that each message is or names."""
    of_reports = _texts([run.report_ids for run in did.runs])
    executions, reports = len(did.qtys), len(did.report_events)
    at = did.of_messages(np.arange(executions), executions + np.arange(reports))
    return pa.concat_arrays([of_executions, of_reports]).take(pa.array(at))


def _order_refs(did: _Booked) -> pa.Array:
    counts = np.bincount(did.execution_run, minlength=len(did.runs)).tolist()
    texts = [run.order_refs or b"\n" * n for run, n in zip(did.runs, counts, strict=True)]
    refs = _texts(texts)
    return pc.if_else(pc.equal(refs, ""), None, refs)


def _run_closed_lots(did: _Booked) -> pa.Table:
    """One row for each match."""
    closers, openers = pa.array(did.closers), pa.array(did.matched)
    of_run = pa.array(did.execution_run).take(closers)
    exec_ids = _texts([run.exec_ids for run in did.runs])
    open_ids = pa.concat_arrays([_texts(did.lot_ids), exec_ids])
    columns = {
        **_of_keys(did.before, of_run),
        "direction": pc.if_else(pa.array(did.open_qtys[did.matched] > 0), "LONG", "SHORT"),
        "qty": _quantities(did.units),
        "open_exec_id": open_ids.take(openers),
        "open_timestamp": pa.array(did.open_times[did.matched]).view(TIME),
        "open_price": _quantities(did.open_prices[did.matched]),
        "close_exec_id": exec_ids.take(closers),
        "close_timestamp": pa.array(did.times).view(TIME).take(closers),
        "close_price": _quantities(did.prices[did.closers]),
        "realized_pnl": did.part_gains.to_decimals(MONEY),
        "stream_id": _texts(did.ids).take(pa.array(did.events[did.closers])),
    }
    return pa.table(columns, schema=CLOSED_LOTS_SCHEMA)


def _unpack(packed: Iterable[bytes], width: int) -> Ints:
    """Return the columns of packed rows (see `state.run`)."""
    return np.frombuffer(b"".join(packed), np.int64).reshape(-1, width).T


def _lengths(packed: Sequence[bytes], width: int) -> Ints:
    """Return how many packed rows each has."""
    return np.fromiter(map(len, packed), np.int64, len(packed)) // (8 * width)


def _begins(lengths: Ints) -> Ints:
    """Return where each of some parts begins, one behind the other."""
    found: Ints = np.cumsum(lengths) - lengths
    return found


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


# --- from rows ------------------------------------------------------------------------


def _tables_of_rows(updates: list[Update]) -> Iterator[Table]:
    positions = map(_position_row, updates)
    yield from _split_by_day("positions", table_of(POSITIONS_SCHEMA, positions))
    closed_lots = [
        (*update.snapshot[:4], *lot, update.stream_id)
        for update in updates
        for lot in update.applied.closed
    ]
    if closed_lots:
        yield from _split_by_day("closed_lots", table_of(CLOSED_LOTS_SCHEMA, closed_lots))


def _position_row(update: Update) -> tuple[Any, ...]:
    position, applied = update.snapshot, update.applied
    others = position._fields.index("other_commissions")
    return (
        *position[:others], other_commissions_json(position.other_commissions),
        *position[others + 1 :], update.stream_id,
        *_message_fields(update.message, position.currency),
        applied.realized_change, applied.net_change, terms(update.message),
    )  # fmt: skip


def other_commissions_json(others: tuple[tuple[str, int], ...]) -> str | None:
    """Write commissions in other currencies as a JSON object, exactly; None if there are none."""
    if not others:
        return None
    return "{" + ", ".join(f"{dumps(name)}: {to_text(amount)}" for name, amount in others) + "}"


def _message_fields(message: Message, currency: str) -> tuple[Any, ...]:
    """Return what is the message's own, from `type` to `message_commission_currency`."""
    kind, timestamp = TYPE_NAMES[type(message)], message.timestamp
    if isinstance(message, Execution):
        fee = message.commission
        return (
            kind, timestamp, message.side, abs(message.qty), message.price, message.exec_id,
            message.order_id, message.order_ref, fee,
            None if fee is None else message.commission_currency or currency,
        )  # fmt: skip
    exec_id = None if isinstance(message, ContractNumber) else message.exec_id
    nothing = (None, None, None, exec_id, None, None)
    if isinstance(message, CommissionReport):
        return (kind, timestamp, *nothing, message.commission, message.currency or currency)
    return (kind, timestamp, *nothing, None, None)


def table_of(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Build a table from rows; decimals are given as whole numbers of their smallest unit."""
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
