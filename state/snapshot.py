"""The flat records that leave the book: position snapshots, closed lots and open lots.

The units are those of `exact`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


class PositionSnapshot(NamedTuple):
    """A position after one message."""

    account: str | None
    symbol: str
    currency: str
    multiplier: int
    sec_type: str | None
    """This and con_id: of the last message in booking order that names one."""
    con_id: int | None
    qty: int
    """Signed: above 0 long, below 0 short."""
    avg_price: int | None
    """Of the open lots, rounded half-even to 10 places; None when flat."""
    cost_basis: int
    """Money: sum of qty x price x multiplier over the open lots, signed."""
    realized_pnl: int
    """Money, gross."""
    commission: int
    """Of all executions so far, in the key's currency, above 0 = cost."""
    other_commissions: tuple[tuple[str, int], ...]
    """Those in other currencies: currency and sum, in order of currency, none of them 0."""
    basis_adjustment: int
    """Of all messages so far, above 0 = cost."""
    net_realized_pnl: int
    """Money: gross less the charges of what was closed, on both sides."""
    open_lots: int
    executions: int
    last_exec_id: str | None
    """This, price and time are those of the execution last in booking order."""
    last_price: int | None
    timestamp: int | None


new_snapshot: Callable[[tuple[Any, ...]], PositionSnapshot] = partial(
    tuple.__new__, PositionSnapshot
)
"""Make one from its values in order, three times as fast as `PositionSnapshot(...)`."""


class ClosedLot(NamedTuple):
    """Quantity matched between an opening and a closing execution."""

    direction: str
    """LONG or SHORT, as the lot was."""
    qty: int
    """Above 0; below 0 in a record that takes an earlier one back."""
    open_exec_id: str
    open_timestamp: int
    open_price: int
    close_exec_id: str
    close_timestamp: int
    close_price: int
    realized_pnl: int
    """Money, gross."""

    def taken_back(self) -> "ClosedLot":
        """Return the record that undoes this one in every sum."""
        direction, qty, *between, realized_pnl = self
        return new_closed_lot((direction, -qty, *between, -realized_pnl))


new_closed_lot: Callable[[tuple[Any, ...]], ClosedLot] = partial(tuple.__new__, ClosedLot)
"""Make one from its values in order, three times as fast as `ClosedLot(...)`."""


class OpenLot(NamedTuple):
    """Quantity still open from one execution, opening or transfer."""

    exec_id: str
    opened: int
    """When: milliseconds since 1970."""
    price: int
    qty: int
    """Signed."""
    cost: int
    """Money, signed as the quantity."""
    charge: int
    """What of its opener's charge has not fallen due, above 0 = cost."""
