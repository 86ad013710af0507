"""Many executions of one key at once: the fast path for what comes in order.

`book.Book` is the definition. This does the same for a run of plain executions, in
columns; `Book.apply_run` decides whether it may. Tests hold the two against each
other on random input.

What is handed on or kept is packed: 64-bit numbers in rows (in the machine's byte
order), and texts with a line end behind each. So a run is a few objects however long
it is, it can be stored as it is, and whoever needs columns takes them from the runs of
many keys at once.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, count
from operator import mul
from struct import Struct
from typing import Any, NamedTuple

from state.exact import LIMIT, MONEY, ONE, divide_half_even
from state.lots import Lot, new_lot
from state.messages import Execution, Instrument

NO_COMMISSION = -(2**63)
"""Stands for a commission that is not given."""

WIDEST = 2**63
"""No number that is packed reaches it."""

RUN_WIDTH, EFFECTS_WIDTH, CLOSED_WIDTH = 5, 2, 6
"""Numbers in a packed row."""

_RUN_ROW = Struct(f"={RUN_WIDTH}q")

_new_execution: Callable[[tuple[Any, ...]], Execution] = partial(tuple.__new__, Execution)
"""As `lots.new_lot`."""


class Run(NamedTuple):
    """Executions of one key in order of arrival, all first revisions, packed."""

    numbers: bytes
    """Of each execution: timestamp, quantity, price, commission, order id."""
    exec_ids: bytes
    """The execution ids, which are the identities too."""
    instrument: Instrument

    @classmethod
    def of(cls, executions: Sequence[Execution]) -> "Run":
        """Pack executions. Raises OverflowError if a number takes more than 64 bits."""
        rows = [
            (each.timestamp, each.qty, each.price,
             NO_COMMISSION if each.commission is None else each.commission, each.order_id)
            for each in executions
        ]  # fmt: skip
        exec_ids = pack_texts(each.exec_id for each in executions)
        return cls(_pack(chain.from_iterable(rows)), exec_ids, executions[0].instrument)

    def columns(self) -> "Columns":
        """Unpack what booking needs."""
        timestamps, qtys, prices, fees, _ = _unpack_rows(self.numbers, RUN_WIDTH)
        if NO_COMMISSION in fees:
            fees = [0 if fee == NO_COMMISSION else fee for fee in fees]
        traded = list(map(mul, qtys, prices))
        return Columns(unpack_texts(self.exec_ids), timestamps, qtys, prices, fees, traded)

    def timestamps(self) -> "array[int]":
        """Unpack the times only."""
        return array("q", self.numbers)[::RUN_WIDTH]

    def execution(self, at: int, exec_id: str) -> Execution:
        """Return one of the executions, whose exec_id is known."""
        row = _RUN_ROW.unpack_from(self.numbers, at * _RUN_ROW.size)
        timestamp, qty, price, commission, order_id = row
        return _new_execution(
            (exec_id, exec_id, 1, timestamp, qty, price,
             None if commission == NO_COMMISSION else commission, order_id,
             "BUY" if qty > 0 else "SELL", self.instrument)
        )  # fmt: skip

    def executions(self) -> list[Execution]:
        """Return the executions one by one."""
        return [
            self.execution(at, exec_id) for at, exec_id in enumerate(unpack_texts(self.exec_ids))
        ]

    def rest(self, start: int) -> "Run":
        """Return the run less what precedes one of its executions."""
        exec_ids = pack_texts(unpack_texts(self.exec_ids)[start:])
        return Run(self.numbers[start * _RUN_ROW.size :], exec_ids, self.instrument)

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain values."""
        return (self.numbers, self.exec_ids, *self.instrument)

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "Run":
        """Return what `to_state` described."""
        numbers, exec_ids, *instrument = state
        return cls(numbers, exec_ids, Instrument(*instrument))


class Columns(NamedTuple):
    """Columns of a run, of equal length."""

    exec_ids: list[str]
    timestamps: list[int]
    qtys: list[int]
    """Signed, never 0."""
    prices: list[int]
    """Above 0."""
    fees: list[int]
    """The commissions, 0 where none is given."""
    traded: list[int]
    """Quantity x price."""


class RunResult(NamedTuple):
    """What booking a run did, packed."""

    effects: bytes
    """Of each execution: the commission that fell due of its own (the rest of it goes
    with the lot it opened), and the number of open lots after it."""
    closed: bytes
    """Of each lot, or part of one, that was closed: the place in the run of its closer,
    then as in `Lot` its place, timestamp, price, quantity and commission."""
    closed_exec_ids: bytes
    """Of the executions that opened them; "" for an opening position."""
    gain: int
    """Money: what all of it realized."""
    due: int
    """The commissions of what was closed, on both sides."""

    def dues(self) -> list[int]:
        """Return what fell due of each execution's own commission."""
        return _unpack_rows(self.effects, EFFECTS_WIDTH)[0]

    def closed_lots(self, run: Run, factor: int) -> list[tuple[int, Lot, int]]:
        """Return each closed lot, or part of one, between its closer's place and its gain."""
        prices = run.columns().prices
        exec_ids = unpack_texts(self.closed_exec_ids)
        lots = []
        for exec_id, row in zip(
            exec_ids, zip(*_unpack_rows(self.closed, CLOSED_WIDTH), strict=True), strict=True
        ):
            closer, place, timestamp, price, qty, fee = row
            cost = qty * price * factor
            lot = Lot(place, exec_id or None, timestamp, price, qty, cost, fee)
            lots.append((closer, lot, qty * prices[closer] * factor - cost))
        return lots


def book_run(  # noqa: PLR0915 - one loop, spelled out for speed
    columns: Columns, first_place: int, lots: deque[Lot], held: int, factor: int
) -> RunResult:
    """Book a run on top of the lots, which are changed in place.

    first_place: the place of arrival of its first execution. held: the quantity before.
    factor: the multiplier, which must be whole. No lot may have been split.
    """
    effects: list[int] = []
    closed: list[int] = []
    closed_exec_ids: list[str] = []
    gain = due = 0
    for at, exec_id, timestamp, qty, price, fee, traded in zip(count(), *columns):
        opened, own, later = qty, 0, fee
        if held and (held > 0) != (qty > 0):
            # `lots.take`, spelled out, since a call and a lot for each part take long.
            while opened and lots:
                place, by, opened_at, cost_price, size, cost, share, _ = lots[0]
                rest = size + opened
                if rest and (rest > 0) == (size > 0):
                    size, opened = -opened, 0
                    rest_share = share
                    if share:
                        share = divide_half_even(share * size, rest + size)
                        rest_share -= share
                    cost -= size * cost_price * factor
                    lots[0] = new_lot(
                        (place, by, opened_at, cost_price, rest, cost, rest_share, False)
                    )
                else:
                    lots.popleft()
                    opened = rest
                closed += (at, place, opened_at, cost_price, size, share)
                closed_exec_ids.append(by or "")
                gain += size * (price - cost_price)
                due += share
            later = divide_half_even(fee * opened, qty) if opened and fee else 0
            own = fee - later
            due += own
        if opened:
            cost = (traded if opened == qty else opened * price) * factor
            lots.append(
                new_lot((first_place + at, exec_id, timestamp, price, opened, cost, later, False))
            )
        held += qty
        effects += (own, len(lots))
    return RunResult(_pack(effects), _pack(closed), pack_texts(closed_exec_ids), gain * factor, due)


def _rest_of(result: RunResult, start: int) -> RunResult:
    """Return what booking the rest of a run did; but its totals stay those of the whole."""
    rows = array("q", result.closed)
    match = bisect_left(rows[::CLOSED_WIDTH], start)
    rows = rows[match * CLOSED_WIDTH :]
    for closer in range(0, len(rows), CLOSED_WIDTH):
        rows[closer] -= start
    exec_ids = unpack_texts(result.closed_exec_ids)[match:]
    effects = _pack(array("q", result.effects)[start * EFFECTS_WIDTH :])
    return RunResult(effects, rows.tobytes(), pack_texts(exec_ids), result.gain, result.due)


class RunUpdate(NamedTuple):
    """A run, what booking it did, and what the key was before and is said to be."""

    run: Run
    result: RunResult
    qty: int
    cost: int
    realized: int
    net: int
    commission: int
    executions: int
    account: str | None
    symbol: str
    currency: str
    multiplier: int
    """Whole."""


class KeptRun(NamedTuple):
    """What a book remembers of a run."""

    first_place: int
    run: Run
    result: RunResult
    forgotten: int = 0
    """How many of its executions, from the first, are remembered no more."""

    def rest(self, start: int) -> "KeptRun":
        """Return it less what precedes one of its executions."""
        place, run, result, _ = self
        return KeptRun(place + start, run.rest(start), _rest_of(result, start))

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain values."""
        return (self.first_place, self.run.to_state(), tuple(self.result), self.forgotten)

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "KeptRun":
        """Return what `to_state` described."""
        first_place, run, result, forgotten = state
        return cls(first_place, Run.from_state(run), RunResult(*result), forgotten)


_DEAREST = 10**9 * ONE
"""No message's commission reaches this, so neither does what is left of it in a lot."""


def fits(
    columns: Columns, totals: tuple[int, int, int, int], factor: int, commission: int, lots: int
) -> bool:
    """Tell whether no figure can grow too wide, however the run is matched.

    Quantities and commissions stay within 64 bits, money below its limit. All prices,
    also those of the lots, must be above 0: then what the lots and the run's executions
    are worth bounds what matching them can gain or lose.
    totals: quantity, cost, realized and net before. commission: of all before.
    lots: how many are open.
    """
    held, cost, realized, net = map(abs, totals)
    qty = held + sum(map(abs, columns.qtys))
    fees = sum(map(abs, columns.fees))
    worth = qty * max(columns.prices) * factor + cost
    return (
        min(columns.prices) > 0
        and max(qty, ONE) * factor < WIDEST
        and abs(commission) + fees < WIDEST
        and max(realized, net) + 2 * worth + (fees + lots * _DEAREST) * ONE < LIMIT * MONEY
    )


def _pack(numbers: Iterable[int]) -> bytes:
    return array("q", numbers).tobytes()


def _unpack_rows(packed: bytes, width: int) -> list[list[int]]:
    """Return the columns of packed rows."""
    numbers = array("q", packed).tolist()
    return [numbers[at::width] for at in range(width)]


def pack_texts(texts: Iterable[str]) -> bytes:
    """Pack texts that hold no line ends."""
    return "\n".join([*texts, ""]).encode()


def unpack_texts(packed: bytes) -> list[str]:
    """Return the texts that `pack_texts` packed."""
    return packed.decode().split("\n")[:-1]
