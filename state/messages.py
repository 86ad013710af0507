"""The messages that make a position, as they are after validation.

They hold no text that still has to be understood: quantities, prices, multipliers
and commissions are whole numbers of 10^-10 (see `exact`), times are milliseconds
since 1970 in UTC, a quantity's sign tells the side. `None` is "not given".
"""

from typing import Any, NamedTuple, TypeAlias


class Instrument(NamedTuple):
    """What a message says of the instrument that its key stands for."""

    currency: str | None = None
    multiplier: int | None = None
    con_id: int | None = None


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


class CommissionReport(NamedTuple):
    """The broker's later word on what an execution cost."""

    exec_id: str
    identity: str
    revision: int
    timestamp: int
    commission: int
    instrument: Instrument = Instrument()


class Opening(NamedTuple):
    """The position held before the first execution."""

    timestamp: int
    qty: int
    price: int
    instrument: Instrument = Instrument()


class Split(NamedTuple):
    """`old` units became `new` units, at no cost."""

    timestamp: int
    new: int
    old: int
    instrument: Instrument = Instrument()


Message: TypeAlias = Execution | CommissionReport | Opening | Split


def message_to_state(message: Message) -> tuple[Any, ...]:
    """Return a message as plain values, which outlast a renamed class."""
    return (_KINDS.index(type(message)), *message[:-1], *message.instrument)


def message_from_state(state: tuple[Any, ...]) -> Message:
    """Return the message that `message_to_state` described."""
    kind, *fields = state
    has = len(Instrument._fields)
    message: Message = _KINDS[kind](*fields[:-has], instrument=Instrument(*fields[-has:]))
    return message


_KINDS: tuple[type[Message], ...] = (Execution, CommissionReport, Opening, Split)
"""What is kept names a type by its place here: only ever add at the end."""


class RejectedError(Exception):
    """A message that cannot be used; the text says what was expected and found."""
