"""The FIFO rule: the oldest open lot is closed first.

A lot is quantity still open from one execution. `take` closes from the left, where
the oldest lot is; new lots are appended on the right; `put_back` undoes `take`.
Quantities are signed, so that one routine serves long and short: a long lot is
above 0 and is closed by a sale, a short one is below 0 and is closed by a purchase.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from state.exact import ONE, divide_half_even


class Lot(NamedTuple):
    """Quantity still open from one execution, or a part of it that was closed."""

    place: int
    """Which message opened it: its place of arrival within the key."""
    exec_id: str | None
    """None if an `opening` message opened it."""
    timestamp: int
    price: int
    """Shown only, if the lot was split: then `cost` is the exact figure."""
    qty: int
    cost: int
    """qty x price x multiplier as money, signed like qty; a split leaves it alone."""
    commission: int
    """What is left of the opening execution's commission, above 0 = cost."""
    was_split: bool = False


new_lot: Callable[[tuple[Any, ...]], Lot] = partial(tuple.__new__, Lot)
"""Make a lot from its values in order, three times as fast as `Lot(...)`."""


def take(lots: deque[Lot], qty: int) -> tuple[list[Lot], int]:
    """Close up to `qty` of the lots, the oldest first.

    qty: signed as the closing execution is, so against the sign of the lots.
    Returns the closed parts, oldest first, each with its share of cost and
    commission, and what of `qty` is left over when no lot is.

    >>> def lot(qty, price):
    ...     return Lot(0, "e", 0, price, qty, qty * price, 0)
    >>> lots = deque([lot(10, 100), lot(10, 110)])
    >>> [(part.qty, part.price) for part in take(lots, -15)[0]]
    [(10, 100), (5, 110)]
    >>> lots[0].qty
    5
    """
    parts = []
    while lots and qty:
        held = lots[0].qty
        rest = held + qty
        if rest and (rest > 0) == (held > 0):
            part, lots[0] = divide(lots[0], -qty)
            parts.append(part)
            return parts, 0
        parts.append(lots.popleft())
        qty = rest
    return parts, qty


def put_back(lots: deque[Lot], parts: list[Lot]) -> None:
    """Undo the `take` that returned these parts."""
    for part in reversed(parts):
        if lots and lots[0].place == part.place:
            lots[0] = _unite(part, lots[0])
        else:
            lots.appendleft(part)


def divide(lot: Lot, qty: int) -> tuple[Lot, Lot]:
    """Divide a lot into `qty` of it and the rest.

    The cost of the part is exact; of a lot that was split it is pro rata, rounded
    half-even to 10 places, as the commission always is. The rest is what remains,
    so that the parts add up to the whole.
    """
    # Spelled out, since `_replace` takes four times as long.
    place, exec_id, timestamp, price, whole, cost, commission, was_split = lot
    if was_split:
        part_cost = divide_half_even(cost * qty, whole * ONE) * ONE
    else:
        part_cost = cost * qty // whole
    due = divide_half_even(commission * qty, whole) if commission else 0
    rest, rest_cost, rest_due = whole - qty, cost - part_cost, commission - due
    return (
        new_lot((place, exec_id, timestamp, price, qty, part_cost, due, was_split)),
        new_lot((place, exec_id, timestamp, price, rest, rest_cost, rest_due, was_split)),
    )


def _unite(part: Lot, rest: Lot) -> Lot:
    return part._replace(
        qty=part.qty + rest.qty,
        cost=part.cost + rest.cost,
        commission=part.commission + rest.commission,
    )
