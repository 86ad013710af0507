"""Where messages are booked: stretches, divided by actions.

Each part begins with the lots that an action left, and has the executions up to the next
one. What comes late is put into its part; that part and those behind it are run on from
there, on new ones: the old are left as they were, so whoever has them can go back.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from state.actions import Moved, act
from state.fifo import Lot, Row, Stretch
from state.messages import Action, message_from_state, message_to_state
from state.snapshot import ClosedLot

Order = tuple[int, int]
"""A place in booking order: time, place of arrival."""


class Part(NamedTuple):
    """A stretch, and the action that it begins with; none if it is the first."""

    stretch: Stretch
    action: Action | None = None
    place: int = -1
    moved: Moved = Moved()
    """By this action and those before it."""

    @property
    def order(self) -> Order:
        """Where it begins."""
        return (self.action.timestamp if self.action else -1, self.place)


Parts = list[Part]
"""All of a key, in booking order."""


class Laid(NamedTuple):
    """What a change leads to. `changed_lots` tells what it did."""

    parts: Parts
    number: int
    """The first part that is another than before."""
    row: int
    """The row of that one, as it was, below which nothing changed."""


# --- looking ------------------------------------------------------------------------------


def find(parts: Parts, place: int, places: int) -> tuple[int, int]:
    """Return the part and the row of an execution that is there.

    place: at which it arrived. places: how many there are.
    """
    for number in range(len(parts) - 1, -1, -1):
        stretch = parts[number].stretch
        # Where it is, if nothing came late since.
        row = len(stretch) - places + place
        if row < stretch.base or stretch.rows[row].place != place:
            found = [row.place for row in stretch.rows[stretch.base :]]
            if place not in found:
                continue
            row = stretch.base + found.index(place)
        return number, row
    raise LookupError(f"expected a row that arrived at place {place}, found none")


def backwards(parts: Parts) -> Iterator[Row]:
    """Return the executions that count, the last in booking order first."""
    for part in reversed(parts):
        yield from (row for row in reversed(part.stretch.rows[part.stretch.base :]) if row.qty)


def changed_lots(before: Parts, laid: Laid) -> list[ClosedLot]:
    """Return the lots that a change takes back, then those closed instead."""
    _, number, row = laid
    # The rows that nobody traded, with which a part begins, may be more or fewer now.
    now = row - before[number].stretch.base + laid.parts[number].stretch.base
    return _difference(_closed(before[number:], row), _closed(laid.parts[number:], now))


def _closed(parts: Sequence[Part], row: int) -> list[ClosedLot]:
    """Return what the rows of some parts closed, of the first of them from a row on."""
    found = parts[0].stretch.closed_lots(row) if row < len(parts[0].stretch) else []
    for part in parts[1:]:
        found += part.stretch.closed_lots(part.stretch.base)
    return found


def _difference(before: list[ClosedLot], after: list[ClosedLot]) -> list[ClosedLot]:
    if not before:
        return after
    left, gone = Counter(after), []
    for lot in before:
        if left.get(lot):
            left[lot] -= 1
        else:
            gone.append(lot.taken_back())
    return gone + list(left.elements())


# --- changing. All raise RejectedError if a figure of what lies behind cannot be ----------


def put(parts: Parts, row: Row, at: tuple[int, int] | None, multiplier: int, *, anew: bool) -> Laid:
    """Put a row where it belongs, in place of another if there is one.

    at: the part and row of the other. anew: whether all actions are to be done again.
    """
    there = _part_at(parts, (row.timestamp, row.place))
    touched = [(0, parts[0].stretch.base)] if anew else []
    if at is not None:
        touched.append(at)
    numbers = {there, *(number for number, _ in touched)}
    changed = {number: parts[number].stretch.copy() for number in numbers}
    if at is not None:
        changed[at[0]].put(at[1], cut=1)
    new = changed[there].index(row.timestamp, row.place)
    changed[there].put(new, [row])
    number, first = min([*touched, (there, new)])
    instead = [parts[number]._replace(stretch=changed[number])]
    return _run_on(parts, number, first, instead, multiplier, changed)


def put_action(parts: Parts, action: Action, place: int, multiplier: int) -> Laid:
    """Divide a part where an action belongs. place: at which that arrived."""
    number = _part_at(parts, (action.timestamp, place))
    part = parts[number]
    at = part.stretch.index(action.timestamp, place)
    head, rows = part.stretch, part.stretch.rows[at:]
    if rows:
        head = head.copy()
        head.put(at, cut=len(rows))
    instead = [part._replace(stretch=head)]
    instead.append(_begin(action, place, instead[0], rows, multiplier))
    return _run_on(parts, number, at, instead, multiplier)


def put_lots(parts: Parts, lots: Sequence[Lot], multiplier: int) -> Laid:
    """Begin with other lots than before."""
    first = parts[0].stretch
    stretch = Stretch(lots, first.rows[first.base :])
    return _run_on(parts, 0, first.base, [parts[0]._replace(stretch=stretch)], multiplier)


def _run_on(  # noqa: PLR0917 - what changed, and where
    parts: Parts,
    number: int,
    row: int,
    instead: Parts,
    multiplier: int,
    changed: dict[int, Stretch] | None = None,
) -> Laid:
    """Put parts in place of one, and run on those behind it.

    changed: rows of those behind it that did.
    """
    new = [*parts[:number], *instead]
    for behind in range(number + 1, len(parts)):
        action, place = parts[behind].action, parts[behind].place
        stretch = (changed or {}).get(behind, parts[behind].stretch)
        assert action is not None
        new.append(_begin(action, place, new[-1], stretch.rows[stretch.base :], multiplier))
    return Laid(new, number, row)


def _begin(action: Action, place: int, before: Part, rows: Sequence[Row], multiplier: int) -> Part:
    lots, moved = act(action, place, before.stretch.lots(), before.moved, multiplier)
    return Part(Stretch(lots, rows), action, place, moved)


def _part_at(parts: Parts, order: Order) -> int:
    """Return the number of the part in which a place in booking order lies."""
    number = len(parts) - 1
    while number and order < parts[number].order:
        number -= 1
    return number


# --- as plain values ------------------------------------------------------------------------


def part_to_state(part: Part) -> tuple[Any, ...]:
    """Return a part as plain values."""
    return (
        part.action and message_to_state(part.action),
        part.place,
        tuple(part.moved),
        part.stretch.to_state(),
    )


def part_from_state(state: tuple[Any, ...]) -> Part:
    """Return the part that `part_to_state` described."""
    action, place, moved, stretch = state
    said = cast("Action | None", action and message_from_state(action))
    return Part(Stretch.from_state(stretch), said, place, Moved(*moved))
