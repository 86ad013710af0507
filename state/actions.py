"""What changes open lots otherwise than by trading: splits, costs, transfers.

Each takes the open lots of a position, the oldest first, and returns those open after
it, with what else it moved. A split and a cost begin every lot anew: what is left of its
cost and its charge is borne evenly by the units that it has from then on. A transfer
leaves the lots that stay as they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from state.exact import LIMIT, MONEY, ONE, PLACES, divide_half_even, to_text
from state.fifo import Lot, Row, behind
from state.messages import (
    Action,
    Cost,
    Execution,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)


class Moved(NamedTuple):
    """What actions moved past trading, so far."""

    cost: int = 0
    """Money: what left at its own cost, less what came so."""
    charge: int = 0
    """Charges that left with it."""
    laid: int = 0
    """Charges laid on open lots."""


def act(
    action: Action, place: int, lots: Sequence[Lot], moved: Moved, multiplier: int
) -> tuple[list[Lot], Moved]:
    """Return the lots open after an action, and what actions moved by then.

    place: the action's own place of arrival. Raises RejectedError if a figure cannot be.
    """
    match action:
        case Split():
            return _split(action, lots, moved, multiplier)
        case Cost():
            return _lay(action, lots, moved, multiplier)
        case TransferOut():
            return _send(lots, moved, held(lots) if action.qty is None else action.qty)
        case TransferIn():
            return _receive(action, place, lots, moved, multiplier)


def held(lots: Sequence[Lot]) -> int:
    """Return the open units, without sign."""
    return sum([lot.rest for lot in lots])


def shown_price(cost: int, qty: int, multiplier: int) -> int:
    """Return the price at which a quantity costs so much, to 10 places, to be shown only."""
    price = divide_half_even(cost * ONE, qty * multiplier)
    if abs(price) >= LIMIT * ONE:
        raise RejectedError(
            f"avg_price: expected to stay below 1e17, found {to_text(price)} after this"
        )
    return price


def worth(qty: int, price: int | None, cost: int | None, multiplier: int) -> tuple[int, int]:
    """Return the price and the cost of a lot of which the one or the other was told."""
    if price is None:
        assert cost is not None
        return shown_price(cost, qty, multiplier), cost
    return price, money(qty, price, multiplier)


def money(qty: int, price: int, multiplier: int) -> int:
    """Return quantity x price x multiplier; raises RejectedError beyond 20 decimal places."""
    if multiplier == ONE:
        return qty * price
    amount, rest = divmod(qty * price * multiplier, ONE)
    if rest:
        found = " x ".join(map(to_text, (qty, price, multiplier)))
        raise RejectedError(
            f"fill_price: expected quantity x price x multiplier of at most 20 decimal places, "
            f"found {found}"
        )
    return amount


def _anew(lot: Lot, qty: int, cost: int, charge: int) -> Lot:
    return Lot(lot.row._replace(qty=qty, value=cost, charge=charge), abs(qty))


def _split(
    split: Split, lots: Sequence[Lot], moved: Moved, multiplier: int
) -> tuple[list[Lot], Moved]:
    unit = 10 ** (PLACES - split.places)
    found: list[Lot] = []
    before = rounded = cost = charge = 0
    for lot in lots:
        before += lot.rest * split.new
        total = divide_half_even(before, split.old * unit) * unit
        rest, rounded = total - rounded, total
        of_lot = behind(*lot)
        cost, charge = cost + of_lot[0], charge + of_lot[1]
        if rest:  # else the next bears it
            found.append(_anew(lot, rest if lot.row.qty > 0 else -rest, cost, charge))
            cost = charge = 0
    if not found:
        return [], moved._replace(cost=moved.cost + cost, charge=moved.charge + charge)
    if cost or charge:
        last = found[-1]
        found[-1] = _anew(last, last.row.qty, last.row.value + cost, last.row.charge + charge)
    return [
        Lot(row._replace(price=shown_price(row.value, row.qty, multiplier)), rest)
        for row, rest in found
    ], moved


def _lay(cost: Cost, lots: Sequence[Lot], moved: Moved, multiplier: int) -> tuple[list[Lot], Moved]:
    found, laid = [], moved.laid
    for lot in lots:
        qty = lot.rest if lot.row.qty > 0 else -lot.rest
        of_lot, charge = behind(*lot)
        more = divide_half_even(qty * cost.per_unit * multiplier, MONEY)
        laid += more
        found.append(_anew(lot, qty, of_lot, charge + more))
    return found, moved._replace(laid=laid)


def _send(lots: Sequence[Lot], moved: Moved, qty: int) -> tuple[list[Lot], Moved]:
    stay = []
    cost, charge, laid = moved
    for lot in lots:
        goes = min(lot.rest, qty)
        qty -= goes
        before, after = behind(*lot), behind(lot.row, lot.rest - goes)
        cost, charge = cost + before[0] - after[0], charge + before[1] - after[1]
        if goes < lot.rest:
            stay.append(Lot(lot.row, lot.rest - goes))
    return stay, Moved(cost, charge, laid)


def _receive(
    came: TransferIn, place: int, lots: Sequence[Lot], moved: Moved, multiplier: int
) -> tuple[list[Lot], Moved]:
    price, cost = worth(came.qty, came.price, came.cost, multiplier)
    rest = abs(came.qty)
    stay = list(lots)
    if lots and (lots[0].row.qty > 0) != (came.qty > 0):
        met = min(rest, held(lots))
        stay, moved = _send(lots, moved, met)
        rest -= met
    if not rest:
        return stay, moved
    fill = Execution(came.exec_id, came.exec_id, 1, came.opened, came.qty, price)
    new = Lot(Row.of(fill, place, cost, 0), rest)
    of_rest, _ = behind(*new)
    later = [at for at, lot in enumerate(stay) if lot.row.timestamp > came.opened]
    stay.insert(later[0] if later else len(stay), new)
    return stay, moved._replace(cost=moved.cost - of_rest)
