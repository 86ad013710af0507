"""The FIFO rule: the k-th unit closed closes the k-th unit opened.

All units that a key ever opened lie on a line, in the order in which they were opened,
and closing goes along that line from its beginning. So two totals tell everything: how
many units were opened and how many were closed so far. Those between them are open.
Both follow from two sums over the executions, since every unit traded either opened or
closed, and what is held is what was opened and is not closed:

    opened + closed = |units traded|          opened - closed = |units held|

Long and short need no cases: all that is open is closed before anything opens on the
other side, so what lies between the totals has one sign.

A `Stretch` keeps the executions that follow each other undisturbed, as columns in
booking order, a row each, and with each row both totals after it. All else is read off:
the lots are the rows with units between the totals, and a closer matches the openers
whose units lie where it took the total of closed units from and to. What comes late is
put into the columns, and the totals are worked out again from there.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from operator import sub
from typing import Any, NamedTuple

from state.exact import share
from state.messages import Execution
from state.run import Kept, said_from_state, said_to_state
from state.snapshot import ClosedLot, new_closed_lot


class Row(NamedTuple):
    """An execution as it is booked."""

    exec_id: str
    timestamp: int
    price: int
    place: int
    """Its place of arrival within the key: the order of equal times."""
    qty: int
    """Signed: above 0 bought, below 0 sold."""
    value: int
    """Money: qty x price x multiplier. The units bear it, and the charge, evenly."""
    charge: int
    """What it cost besides its price."""
    said: Execution | Kept
    """The message; a split changes what is booked of it, not what it was."""

    @classmethod
    def of(cls, fill: Execution, place: int, value: int, charge: int) -> "Row":
        """Return the row of an execution."""
        exec_id, _, _, timestamp, qty, price, *_ = fill
        return new_row((exec_id, timestamp, price, place, qty, value, charge, fill))

    @property
    def fill(self) -> Execution:
        """The message."""
        said = self.said
        return said.execution(self.place, self.exec_id) if isinstance(said, Kept) else said


class Lot(NamedTuple):
    """A row of which units are open."""

    row: Row
    rest: int
    """How many, above 0; the others are gone."""


class Piece(NamedTuple):
    """A row's units from a place on the line on."""

    row: int
    units: int
    cost: int
    charge: int


# A tuple's own constructor takes a third of the time.
new_row: Callable[[tuple[Any, ...]], Row] = partial(tuple.__new__, Row)
_new_piece: Callable[[tuple[Any, ...]], Piece] = partial(tuple.__new__, Piece)

_NOBODY = Row.of(Execution("", "", 1, -1, 0, 0), -1, 0, 0)


class Stretch:
    """Executions in booking order, on top of the lots that were open before them."""

    __slots__ = ("_oldest", "base", "closed", "cost", "held", "not_due", "open_lots", "opened",
                 "rows")  # fmt: skip

    def __init__(self, lots: Iterable[Lot] = (), rows: Sequence[Row] = ()) -> None:
        self.rows = [_NOBODY]
        """Row 0 is nobody's. It says where the line begins."""
        self.opened, self.closed = [0], [0]
        """The totals after each row."""
        self.held = 0
        """Units after the last row, signed."""
        self._oldest: Piece | None = None
        """What is open of the oldest lot; None if that has to be looked up."""
        for row, rest in lots:
            self.rows.append(row)
            self.opened.append(self.opened[-1] + rest)
            self.closed.append(0)
            self.held += rest if row.qty > 0 else -rest
        self.cost, self.not_due, self.open_lots = self._worth(0, self.opened[-1])
        """What the open units cost, what of their charges has not fallen due, and how many
        rows have open units."""
        self.base = len(self.rows)
        """Rows before this one are lots that were open at the beginning."""
        self.extend(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def copy(self) -> "Stretch":
        """Return one that can be changed alone."""
        new = Stretch.__new__(Stretch)
        for name in Stretch.__slots__:
            value = getattr(self, name)
            setattr(new, name, value.copy() if isinstance(value, list) else value)
        return new

    # --- putting rows in -------------------------------------------------------------------

    def append(self, row: Row) -> list[ClosedLot]:  # noqa: PLR0915 - calls would cost
        """Book one more execution, as `extend` does; return what it closed."""
        _, _, _, _, qty, value, charge, _ = row
        held, opened, closed = self.held, self.opened[-1], self.closed[-1]
        self.held = now = held + qty
        self.rows.append(row)
        if not held or not qty or (held > 0) == (qty > 0):
            self.opened.append(opened + (qty if qty > 0 else -qty))
            self.closed.append(closed)
            self.cost += value
            self.not_due += charge
            self.open_lots += qty != 0
            return []
        oldest = self._oldest or self._lot_at(closed)
        if not now or (now > 0) == (held > 0):
            need = qty if qty > 0 else -qty
            found, self._oldest, cost, due = self._match(row, need, oldest)
            self.opened.append(opened)
            self.closed.append(closed + need)
            self.cost -= cost
            self.not_due -= due
            self.open_lots -= len(found) - (self._oldest is not None)
            return found
        # A flip: it closes all there is, and opens the rest of it.
        found, self._oldest, _, _ = self._match(row, opened - closed, oldest)
        rest = now if now > 0 else -now
        self.opened.append(opened + rest)
        self.closed.append(opened)
        self.cost, self.not_due = behind(row, rest)
        self.open_lots = 1
        return found

    def extend(self, rows: Sequence[Row]) -> None:
        """Book executions one behind the other."""
        if not rows:
            return
        at, was_opened, was_closed = len(self.rows), self.opened[-1], self.closed[-1]
        self.rows += rows
        self._total(at, self.held)
        if self.open_lots <= len(rows):
            self._weigh()
            return
        # To look at what changed is less than to look at all that is open.
        cost, charge, begun = self._worth(was_opened, self.opened[-1])
        gone, due, ended = self._worth(was_closed, self.closed[-1])
        self.cost += cost - gone
        self.not_due += charge - due
        self.open_lots += begun - ended

    def index(self, timestamp: int, place: int) -> int:
        """Return the row in which a place in booking order stands, or belongs."""
        order = (timestamp, place)
        return bisect_left(self.rows, order, self.base, key=_order)

    def put(self, at: int, rows: Sequence[Row] = (), *, cut: int = 0) -> None:
        """Put rows in at a place, instead of as many as are to be cut, and run on from there."""
        held = self.held - sum([row.qty for row in self.rows[at:]])
        self.rows[at : at + cut] = rows
        self._total(at, held)
        self._weigh()

    def charge(self, at: int, charge: int) -> None:
        """Let a row cost something else."""
        row = self.rows[at]
        self.rows[at] = new = row._replace(charge=charge)
        self._oldest = None
        rest = self.opened[at] - max(self.opened[at - 1], self.closed[-1])
        if rest > 0:
            self.not_due += behind(new, rest)[1] - behind(row, rest)[1]

    def _total(self, at: int, held: int) -> None:
        """Work the totals out from a row on. held: before that row."""
        qtys = [row[4] for row in self.rows[at:]]
        traded = accumulate(map(abs, qtys), initial=self.opened[at - 1] + self.closed[at - 1])
        are_held = list(accumulate(qtys, initial=held))
        are_open = list(map(abs, are_held))
        opened = [(units + open_) >> 1 for units, open_ in zip(traded, are_open, strict=True)]
        self.opened[at - 1 :] = opened
        self.closed[at:] = list(map(sub, opened, are_open))[1:]
        self.held, self._oldest = are_held[-1], None

    def _weigh(self) -> None:
        self.cost, self.not_due, self.open_lots = self._worth(self.closed[-1], self.opened[-1])

    # --- reading the line -------------------------------------------------------------------

    def _worth(self, begin: int, end: int) -> tuple[int, int, int]:
        """Return what the units between two places on the line cost, and their charges.

        With it, how many rows have their last unit there.
        """
        rows, opened = self.rows, self.opened
        cost = charge = ended = 0
        for at in self.rows_between(begin, end):
            stop = opened[at]
            of_row, fee = behind(rows[at], stop - max(begin, opened[at - 1]))
            cost += of_row
            charge += fee
            ended += stop <= end
            if stop > end:
                of_row, fee = behind(rows[at], stop - end)
                cost -= of_row
                charge -= fee
        return cost, charge, ended

    def _lot_at(self, place: int) -> Piece:
        """Return the lot in which a place on the line lies, from there on."""
        at = bisect_right(self.opened, place)
        units = self.opened[at] - place
        return _new_piece((at, units, *behind(self.rows[at], units)))

    def _match(  # noqa: PLR0915 - calls would cost
        self, closer: Row, need: int, oldest: Piece
    ) -> tuple[list[ClosedLot], Piece | None, int, int]:
        """Close units, from the oldest lot on, with the first units of a closer.

        Returns the matches; what is left of the last lot, if anything; what the closed
        units cost, and what of charges falls due with them.
        """
        close_id, close_time, close_price, _, qty, value, _, _ = closer
        rows, opened = self.rows, self.opened
        size = qty if qty > 0 else -qty
        direction = "SHORT" if qty > 0 else "LONG"
        at, units, cost, due = oldest
        upto = paid = gone = fallen_due = 0
        found = []
        while True:
            left: Piece | None = None
            if units > need:
                left = _new_piece((at, units - need, *behind(rows[at], units - need)))
                _, _, cost_left, due_left = left
                units, cost, due = need, cost - cost_left, due - due_left
            gone += cost
            fallen_due += due
            # The closer's own first units close; they bear its value as those of a lot do.
            row, upto, before = rows[at], upto + units, paid
            paid = share(value, upto, size)
            found.append(
                new_closed_lot(
                    (direction, units, *row[:3], close_id, close_time, close_price,
                     before - paid - cost)
                )
            )  # fmt: skip
            need -= units
            if not need:
                return found, left, gone, fallen_due
            at += 1
            while opened[at] == opened[at - 1]:
                at += 1
            units = opened[at] - opened[at - 1]
            cost, due = behind(rows[at], units)

    def closed_lots(self, start: int) -> list[ClosedLot]:
        """Return what the rows from one on closed, in order."""
        found: list[ClosedLot] = []
        oldest: Piece | None = None
        begin = self.closed[start - 1]
        for row, end in zip(self.rows[start:], self.closed[start:], strict=True):
            if end > begin:
                lots, oldest, _, _ = self._match(row, end - begin, oldest or self._lot_at(begin))
                found += lots
                begin = end
        return found

    def lots(self) -> list[Lot]:
        """Return the rows with open units, the oldest first."""
        closed, opened = self.closed[-1], self.opened
        rows = self.rows_between(closed, opened[-1])
        return [Lot(self.rows[at], opened[at] - max(closed, opened[at - 1])) for at in rows]

    def rows_between(self, begin: int, end: int) -> list[int]:
        """Return the numbers of the rows that have units between two places on the line."""
        opened = self.opened
        rows = range(bisect_right(opened, begin), bisect_left(opened, end) + 1)
        return [at for at in rows if opened[at] > opened[at - 1]] if begin < end else []

    # --- forgetting -------------------------------------------------------------------------

    def forget(self, rows: int) -> list[Row]:
        """Keep of the oldest rows no more than what is open after them; return them."""
        stop = self.base + rows
        gone, closed = self.rows[self.base : stop], self.closed[stop - 1]
        first = bisect_right(self.opened, closed, 0, stop)
        kept = [at for at in range(first, stop) if self.opened[at] > self.opened[at - 1]]
        self.rows[1:stop] = [self.rows[at] for at in kept]
        self.opened[1:stop] = [self.opened[at] for at in kept]
        self.closed[:stop] = [closed] * (len(kept) + 1)
        self.opened[0] = closed
        self.base = len(kept) + 1
        self._oldest = None
        return gone

    # --- as plain values ----------------------------------------------------------------------

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain values."""
        # Nobody's row is one, so that there are columns.
        *columns, said = zip(*self.rows, strict=True)
        return (
            columns, said_to_state(said, columns[3]),
            self.opened[: self.base], self.closed[self.base - 1],
        )  # fmt: skip

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "Stretch":
        """Return the stretch that `to_state` described."""
        columns, said, opened, closed = state
        new = cls()
        said = said_from_state(said, columns[3])
        new.rows = list(map(new_row, zip(*columns, said, strict=True)))
        new.opened, new.base = list(opened), len(opened)
        new.closed = [closed] * new.base
        rests = map(sub, opened[1:], opened)
        held = [
            rest if row.qty > 0 else -rest for rest, row in zip(rests, new.rows[1:], strict=False)
        ]
        new._total(new.base, sum(held))
        new._weigh()
        return new


def identities(rows: Iterable[Row]) -> list[str]:
    """Return what all revisions of each execution share; in a run that is the id."""
    return [row.exec_id if isinstance(row.said, Kept) else row.said.identity for row in rows]


def behind(row: Row, units: int) -> tuple[int, int]:
    """Return what a row's last units bear of its cost and its charge.

    Of a row that has k of its q units before them, cost x k / q and charge x k / q lie
    there, rounded half-even. A row's closing units, if it has any, come first.
    """
    _, _, _, _, qty, cost, charge, _ = row
    size = qty if qty > 0 else -qty
    if units == size:
        return cost, charge
    gone = size - units
    return cost - share(cost, gone, size), charge - share(charge, gone, size)


def _order(row: Row) -> tuple[int, int]:
    return row[1], row[3]
