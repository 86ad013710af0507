"""Many messages of one key at once: executions, and reports of their commissions.

What comes in order, and says nothing unusual, needs no object for each message: a `Run`
is columns, packed. As such it is read, booked, kept and made to rows, whether it is
short or long. `Book.apply_run` says whether it may be booked so; what that comes to is
the same as message by message, and tests hold the two against each other.

Packed numbers are 64 bits each, in rows, in the machine's byte order; packed texts have
a line end behind each.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import count, groupby
from struct import Struct
from typing import Any, NamedTuple

from state.messages import (
    CommissionReport,
    Execution,
    Instrument,
    Message,
    execution_from_state,
    execution_to_state,
    new_execution,
)
from state.snapshot import PositionSnapshot

NO_COMMISSION = -(2**63)
"""Stands for a commission that is not given."""

WIDEST = 2**62
"""No number that is packed, nor a sum of such in one run, reaches it."""

EXECUTION_WIDTH, REPORT_WIDTH, LOT_WIDTH = 5, 3, 6
"""Numbers in a packed row."""

_NUMBERS = Struct(f"={EXECUTION_WIDTH}q")


class Run(NamedTuple):
    """Messages of one key in order of arrival, executions and reports apart.

    All are of first revisions, and the identities are the ids.
    """

    numbers: bytes
    """Of each execution: timestamp, quantity, price, commission, order id."""
    exec_ids: bytes
    order_refs: bytes
    """Nothing at all if none of the executions has one; "" for one that has none."""
    instrument: Instrument
    reports: bytes = b""
    """Of each report: its place among all messages of the run, timestamp, commission."""
    report_ids: bytes = b""
    """The ids of the executions that they name."""
    currency: str | None = None
    """Of the reports."""

    def __len__(self) -> int:
        return self.executions + len(self.reports) // (8 * REPORT_WIDTH)

    @property
    def executions(self) -> int:
        """How many of the messages are executions."""
        return len(self.numbers) // (8 * EXECUTION_WIDTH)

    def columns(self) -> "Columns":
        """Unpack the executions' columns, but for those that no figure hangs on."""
        numbers = array("q", self.numbers).tolist()
        timestamps, qtys, prices, fees = [numbers[at::EXECUTION_WIDTH] for at in range(4)]
        return Columns(unpack_texts(self.exec_ids), timestamps, qtys, prices, fees)

    def messages(self) -> list[Message]:
        """Return all messages one by one, in order of arrival."""
        kept = self.kept(0)
        messages: list[Message] = list(map(kept.execution, count(), unpack_texts(self.exec_ids)))
        for at, report in self.commission_reports():
            messages.insert(at, report)
        return messages

    def kept(self, first: int) -> "Kept":
        """Return the executions as a book keeps them, but for their ids.

        first: the place of the first one.
        """
        refs: list[str | None] | None = None
        if self.order_refs:
            named = unpack_texts(self.order_refs)
            refs = list(map({ref: ref or None for ref in named}.get, named))  # one text of each
        return Kept(self.numbers, refs, self.instrument, first)

    def commission_reports(self) -> list[tuple[int, CommissionReport]]:
        """Return the reports, each with its place among all messages."""
        rows = zip(*unpack_rows(self.reports, REPORT_WIDTH), strict=True)
        return [
            (at, CommissionReport(exec_id, exec_id, 1, timestamp, commission, self.currency))
            for exec_id, (at, timestamp, commission) in zip(
                unpack_texts(self.report_ids), rows, strict=True
            )
        ]

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain values."""
        return (*self[:3], tuple(self.instrument), *self[4:])

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "Run":
        """Return what `to_state` described."""
        numbers, exec_ids, order_refs, instrument, *rest = state
        return cls(numbers, exec_ids, order_refs, Instrument(*instrument), *rest)


class Columns(NamedTuple):
    """The executions of a run, in columns of equal length."""

    exec_ids: list[str]
    timestamps: list[int]
    qtys: list[int]
    prices: list[int]
    fees: list[int]
    """The commissions, `NO_COMMISSION` where none is given."""

    @property
    def charges(self) -> list[int]:
        """The commissions, 0 where none is given."""
        fees = self.fees
        if NO_COMMISSION in fees:
            return [0 if fee == NO_COMMISSION else fee for fee in fees]
        return fees


class Kept(NamedTuple):
    """A run's executions as a book keeps them: one is made when somebody asks for it."""

    numbers: bytes
    """As those of the run."""
    order_refs: list[str | None] | None
    instrument: Instrument
    first: int
    """The place of arrival of the first one within the key."""

    def execution(self, place: int, exec_id: str) -> Execution:
        """Return the execution with a place of arrival, whose id is known."""
        at = place - self.first
        numbers = _NUMBERS.unpack_from(self.numbers, at * _NUMBERS.size)
        timestamp, qty, price, fee, order_id = numbers
        ref = None if self.order_refs is None else self.order_refs[at]
        return new_execution(
            (exec_id, exec_id, 1, timestamp, qty, price, None if fee == NO_COMMISSION else fee,
             order_id, "BUY" if qty > 0 else "SELL", self.instrument, ref, None, None)
        )  # fmt: skip

    def to_state(self, place: int, number: int) -> tuple[Any, ...]:
        """Return some executions, from the one with a place of arrival on, as plain values."""
        start, size = place - self.first, _NUMBERS.size
        stop = start + number
        refs = None if self.order_refs is None else self.order_refs[start:stop]
        return (self.numbers[size * start : size * stop], refs, tuple(self.instrument))


def said_to_state(said: Sequence[Execution | Kept], places: Sequence[int]) -> list[Any]:
    """Return what is kept of executions as plain values; what follows in a run together.

    places: those of arrival.
    """
    found = []
    for _, some in groupby(range(len(said)), lambda at: (id(said[at]), places[at] - at)):
        first, *more = some
        one = said[first]
        if isinstance(one, Kept):
            found.append(one.to_state(places[first], 1 + len(more)))
        else:
            found.append(execution_to_state(one))
    return found


def said_from_state(state: Sequence[Any], places: Sequence[int]) -> list[Execution | Kept]:
    """Return what `said_to_state` described."""
    found: list[Execution | Kept] = []
    for one in state:
        if isinstance(one[0], bytes):
            numbers, refs, instrument = one
            kept = Kept(numbers, refs, Instrument(*instrument), places[len(found)])
            found += [kept] * (len(numbers) // _NUMBERS.size)
        else:
            found.append(execution_from_state(one))
    return found


class RunUpdate(NamedTuple):
    """A run that was booked, and all that its rows follow from."""

    run: Run
    before: PositionSnapshot
    lots: bytes
    """The rows of before that the run closed units of, or whose commissions it reports: of
    each the timestamp, price, signed quantity, where its units begin and end on the line,
    counted from the first one open, and the charge."""
    lot_ids: bytes
    targets: list[int]
    """Of each report, which execution it names: one of the run, or those lots from -1 down."""


def pack(numbers: Iterable[int]) -> bytes:
    """Pack numbers. Raises OverflowError if one takes more than 64 bits."""
    return array("q", numbers).tobytes()


def unpack_rows(packed: bytes, width: int) -> list[list[int]]:
    """Return the columns of packed rows."""
    numbers = array("q", packed).tolist()
    return [numbers[at::width] for at in range(width)]


def pack_texts(texts: Iterable[str]) -> bytes:
    """Pack texts that hold no line ends."""
    return "\n".join([*texts, ""]).encode()


def unpack_texts(packed: bytes) -> list[str]:
    """Return the texts that `pack_texts` packed."""
    return packed.decode().split("\n")[:-1]
