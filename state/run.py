"""Many executions of one key at once: the fast path for what comes in order.

`book.Book` is the definition. This does the same for a run of plain executions, in
columns of equal length, without an object for each; `Book.apply_run` decides whether
it may. Tests hold the two against each other on random input.
"""

import marshal
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from itertools import accumulate, count
from typing import Any, NamedTuple

from state.exact import LIMIT, MONEY, ONE, divide_half_even
from state.lots import Lot, new_lot, take
from state.messages import Execution, Instrument


class Run(NamedTuple):
    """Executions of one key in order of arrival, first revisions all, in columns."""

    exec_ids: list[str]
    identities: list[str]
    timestamps: list[int]
    qtys: list[int]
    """Signed, never 0."""
    prices: list[int]
    commissions: list[int | None]
    order_ids: list[int]
    instrument: Instrument

    def executions(self) -> Iterable[Execution]:
        """Return them one by one."""
        return map(self._execution, *self[:-1])

    def execution(self, at: int) -> Execution:
        """Return one of them."""
        return self._execution(*[column[at] for column in self[:-1]])

    def rest(self, start: int) -> "Run":
        """Return the run less what precedes one of its executions."""
        return Run._make([*(column[start:] for column in self[:-1]), self.instrument])

    def pack(self) -> bytes:
        """Return it as bytes, in a form that Python 3.11 and 3.12 share."""
        return marshal.dumps((*self[:-1], tuple(self.instrument)))

    @classmethod
    def unpack(cls, packed: bytes) -> "Run":
        """Return the run that `pack` packed."""
        *columns, instrument = marshal.loads(packed)  # noqa: S302 - packed by this process, or kept beside pickles
        return cls._make([*columns, Instrument(*instrument)])

    def _execution(self, *row: Any) -> Execution:
        exec_id, identity, timestamp, qty, price, commission, order_id = row
        side = "BUY" if qty > 0 else "SELL"
        return Execution(
            exec_id, identity, 1, timestamp, qty, price, commission, order_id, side,
            self.instrument,
        )  # fmt: skip


class RunResult(NamedTuple):
    """What booking a run did, in columns; the first seven are as long as the run."""

    qtys: list[int]
    """The position after each execution, and so on."""
    costs: list[int]
    realized: list[int]
    nets: list[int]
    open_lots: list[int]
    gains: list[int]
    """What each execution realized, net of commission in `net_gains`."""
    net_gains: list[int]
    parts: list[Lot]
    """The lots closed, in order, and in `closers` the place in the run of what closed
    each, in `part_gains` what it realized."""
    closers: list[int]
    part_gains: list[int]


def book_run(  # noqa: PLR0915 - one loop, spelled out for speed
    run: Run, first_place: int, lots: deque[Lot], totals: tuple[int, int, int, int], factor: int
) -> RunResult:
    """Book a run on top of the lots.

    lots: changed in place. totals: quantity, cost, realized and net before.
    factor: the multiplier, which must be whole.
    """
    gains, dues, costs, open_lots = [], [], [], []
    closed: list[Lot] = []
    closers, closed_gains = [], []
    held, cost, realized, net = totals
    worths = [qty * price * factor for qty, price in zip(run.qtys, run.prices, strict=True)]
    rows = zip(
        count(first_place), run.exec_ids, run.timestamps, run.prices, run.qtys, worths,
        run.commissions,
    )  # fmt: skip
    for place, exec_id, timestamp, price, qty, worth, commission in rows:
        fee = commission or 0
        gain = due = 0
        if held and (held > 0) != (qty > 0):
            parts, opened = take(lots, qty)
            later = divide_half_even(fee * opened, qty) if fee and opened else 0
            due = fee - later
            for part in parts:
                part_gain = part.qty * price * factor - part.cost
                gain += part_gain
                due += part.commission
                cost -= part.cost
                closed_gains.append(part_gain)
                closers.append(place - first_place)
            closed += parts
            if opened:
                rest = opened * price * factor
                lots.append(new_lot((place, exec_id, timestamp, price, opened, rest, later, False)))
                cost += rest
        else:
            lots.append(new_lot((place, exec_id, timestamp, price, qty, worth, fee, False)))
            cost += worth
        held += qty
        gains.append(gain)
        dues.append(due)
        costs.append(cost)
        open_lots.append(len(lots))
    net_gains = [gain - due * ONE for gain, due in zip(gains, dues, strict=True)]
    return RunResult(
        _running(totals[0], run.qtys), costs, _running(realized, gains), _running(net, net_gains),
        open_lots, gains, net_gains, closed, closers, closed_gains,
    )  # fmt: skip


def _running(start: int, changes: list[int]) -> list[int]:
    """Return the total after each change."""
    return list(accumulate(changes, initial=start))[1:]


class RunUpdate(NamedTuple):
    """A position after each execution of a run, and what the key says of all of them."""

    run: Run
    result: RunResult
    executions: int
    """Before the run, and so is the commission."""
    commission: int
    account: str | None
    symbol: str
    currency: str
    multiplier: int
    packed: bytes
    """The run, by `Run.pack`."""

    def rest(self, start: int) -> "RunUpdate":
        """Return the update less what precedes one of the run's executions."""
        run, result = self.run, self.result
        match = bisect_left(result.closers, start)
        return self._replace(
            run=run.rest(start),
            result=RunResult._make(
                [
                    *(column[start:] for column in result[:7]),
                    result.parts[match:],
                    [at - start for at in result.closers[match:]],
                    result.part_gains[match:],
                ]
            ),
            executions=self.executions + start,
            commission=self.commission + sum(filter(None, run.commissions[:start])),
        )


class KeptRun(NamedTuple):
    """What a book remembers of a run, packed: a window full of objects would be slow."""

    first_place: int
    identities: list[str]
    timestamps: "array[int]"
    run: bytes
    effects: bytes
    forgotten: int = 0
    """How many of its executions, from the first, are remembered no more."""

    @classmethod
    def of(cls, first_place: int, run: Run, packed: bytes, result: RunResult) -> "KeptRun":
        """Pack a run (`packed` by `Run.pack`) and what booking it did."""
        parts = list(map(list, zip(*result.parts, strict=True)))
        effects = marshal.dumps((result.gains, result.net_gains, parts, result.closers))
        times = array("q", run.timestamps)
        return cls(first_place, run.identities, times, packed, effects)

    def unpack(self) -> tuple[Run, list[int], list[int], list[Lot], list[int]]:
        """Return the run, its gains and net gains, the lots closed, and what closed each."""
        gains, net_gains, parts, closers = marshal.loads(self.effects)  # noqa: S302
        lots = [Lot(*values) for values in zip(*parts, strict=True)]
        return Run.unpack(self.run), gains, net_gains, lots, closers

    def execution(self, at: int) -> Execution:
        """Return one of its executions."""
        return Run.unpack(self.run).execution(at)

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain values."""
        return (*self._replace(timestamps=self.timestamps.tobytes()),)  # type: ignore[arg-type]

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "KeptRun":
        """Return what `to_state` described."""
        kept = cls(*state)
        return kept._replace(timestamps=array("q", kept.timestamps))


_DEAREST = 10**9 * ONE
"""No message's commission reaches this, so neither does what is left of it in a lot."""


def cannot_overflow(
    run: Run, totals: tuple[int, int, int, int], factor: int, commission: int, open_lots: int
) -> bool:
    """Tell whether no figure can reach the limit, however the run is matched.

    All prices, also those of the lots, must be above 0: then what the lots and the
    run's executions are worth bounds what matching them can gain or lose.
    """
    held, cost, realized, net = map(abs, totals)
    qty = sum(map(abs, run.qtys))
    worth = qty * max(run.prices) * factor + cost
    fees = sum(abs(fee) for fee in run.commissions if fee) + open_lots * _DEAREST
    return (
        held + qty < LIMIT * ONE
        and abs(commission) + fees < LIMIT * ONE
        and max(realized, net) + 2 * worth + fees * ONE < LIMIT * MONEY
    )
