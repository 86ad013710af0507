"""The messages that make a position, as they are after validation.

They hold no text that still has to be understood: quantities, prices, multipliers,
commissions and adjustments are whole numbers of 10^-10, a cost basis is money, in
whole numbers of 10^-20 (see `exact`), times are milliseconds since 1970 in UTC, a
quantity's sign tells the side. `None` is "not given".
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from state.exact import MONEY_PLACES, to_text


class Instrument(NamedTuple):
    """What a message says of the instrument that its key stands for."""

    currency: str | None = None
    multiplier: int | None = None
    con_id: int | None = None
    sec_type: str | None = None


class Execution(NamedTuple):
    """One fill; a correction or a bust if its revision is above another's."""

    exec_id: str
    identity: str
    """What all revisions of the execution share."""
    revision: int
    timestamp: int
    qty: int
    """Bought above 0, sold below; 0 is a bust: the execution never was."""
    price: int
    commission: int | None = None
    """Above 0 is a cost."""
    order_id: int = 0
    side: str = "BUY"
    instrument: Instrument = Instrument()
    order_ref: str | None = None
    commission_currency: str | None = None
    """None for the key's."""
    adjustment: int | None = None
    """What else it cost or brought, in the key's currency; above 0 is a cost."""


class CommissionReport(NamedTuple):
    """The broker's later word on what an execution cost."""

    exec_id: str
    identity: str
    revision: int
    timestamp: int
    commission: int
    currency: str | None = None
    """None for the key's."""


class Opening(NamedTuple):
    """Quantity held before the first execution; quantity 0 removes what it named for good."""

    exec_id: str
    timestamp: int
    qty: int
    price: int | None
    """None if `cost` is given."""
    cost: int | None = None
    """Money, signed as the quantity."""
    instrument: Instrument = Instrument()


class Split(NamedTuple):
    """`old` units became `new` units, at no cost."""

    exec_id: str
    timestamp: int
    new: int
    old: int
    places: int = 10
    """Decimal places that the position has after it, from 0 to 10."""


class Cost(NamedTuple):
    """So much was laid on each open unit; below 0 it was paid back."""

    exec_id: str
    timestamp: int
    per_unit: int


class TransferOut(NamedTuple):
    """Quantity left at its own cost, the oldest lots first."""

    exec_id: str
    timestamp: int
    qty: int | None = None
    """Above 0; None for all there is."""


class TransferIn(NamedTuple):
    """A lot came at its own cost."""

    exec_id: str
    timestamp: int
    qty: int
    """Signed."""
    price: int | None
    """None if `cost` is given."""
    cost: int | None
    """Money, signed as the quantity."""
    opened: int
    """When the lot was first opened."""


class ContractNumber(NamedTuple):
    """The key has this contract number too."""

    timestamp: int
    con_id: int


Action: TypeAlias = Split | Cost | TransferOut | TransferIn
"""What changes open lots otherwise than by trading."""

Message: TypeAlias = (
    Execution
    | CommissionReport
    | Opening
    | Split
    | Cost
    | TransferOut
    | TransferIn
    | ContractNumber
)

new_execution: Callable[[tuple[Any, ...]], Execution] = partial(tuple.__new__, Execution)
"""Make an execution from its values in order, three times as fast as `Execution(...)`."""

TYPE_NAMES: dict[type[Message], str] = {
    Execution: "execution",
    CommissionReport: "commission",
    Opening: "opening",
    Split: "split",
    Cost: "cost",
    TransferOut: "transfer",
    TransferIn: "transfer",
    ContractNumber: "instrument",
}
"""What the stream calls each type."""


def terms(message: Message) -> str | None:
    """Write what a message says beside its type, id and time as JSON; None if nothing.

    >>> terms(Split("s", 0, 4, 1)), terms(TransferOut("t", 0, None))
    ('{"ratio": "4:1", "places": 10}', '{"direction": "OUT", "qty": null}')
    """
    match message:
        case Opening():
            return _json(qty=to_text(message.qty), **_worth(message))
        case Split():
            return _json(ratio=f'"{message.new}:{message.old}"', places=str(message.places))
        case Cost():
            return _json(per_unit=to_text(message.per_unit))
        case TransferOut():
            qty = "null" if message.qty is None else to_text(message.qty)
            return _json(direction='"OUT"', qty=qty)
        case TransferIn():
            figures = {"qty": to_text(message.qty), **_worth(message)}
            return _json(direction='"IN"', **figures, opened=str(message.opened))
        case _:
            return None


def _json(**members: str) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in members.items()) + "}"


def _worth(message: Opening | TransferIn) -> dict[str, str]:
    if message.cost is not None:
        return {"cost_basis": to_text(message.cost, MONEY_PLACES)}
    return {} if message.price is None else {"avg_price": to_text(message.price)}


_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in TYPE_NAMES}


def message_to_state(message: Message) -> tuple[Any, ...]:
    """Return a message as plain values, which outlast a renamed class's fields."""
    fields = [tuple(field) if isinstance(field, Instrument) else field for field in message]
    return (type(message).__name__, *fields)


def message_from_state(state: tuple[Any, ...]) -> Message:
    """Return the message that `message_to_state` described."""
    kind, *fields = state
    make: Any = _KINDS[kind]
    message: Message = make(
        *(Instrument(*field) if isinstance(field, tuple) else field for field in fields)
    )
    return message


def execution_to_state(execution: Execution) -> tuple[Any, ...]:
    """Return an execution as plain values."""
    return (*execution[:9], tuple(execution.instrument), *execution[10:])


def execution_from_state(state: tuple[Any, ...]) -> Execution:
    """Return the execution that `execution_to_state` described."""
    return new_execution((*state[:9], Instrument(*state[9]), *state[10:]))


class RejectedError(Exception):
    """A message that cannot be used; the text says what was expected and found."""
