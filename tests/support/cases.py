"""Cases that others published: messages, and the figures that came of them.

`cases/fifo.json` restates figures of other projects' tests of FIFO books, in the
words of `tests.support.notation`; a case leaves out what its source does not state, and `?`
stands for a figure that hangs on a price its source does not give. `cases/statements.json`
holds fills of IBKR activity statements that their owners published, with the broker's
own realized P&L of each fill (`net`), and of the lots it closed where it lists them; a row
without `net` (an opening, a split, a fill of which no figure is known) is not compared.
`cases/actions.json` has what else happened to positions on such statements.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from state.exact import from_text
from state.keys import parse_exec_id
from state.messages import Execution, Message
from tests.support.notation import message

_CASES = Path(__file__).with_suffix("")

_LOT = re.compile(r"(?P<qty>\S+) cost (?P<cost>\S+)(?: net (?P<net>\S+))? of (?P<opened>\S+)")


class FifoCase(NamedTuple):
    """A test of another project; None is what it does not state."""

    source: str
    fills: list[str]
    qty: str
    average: str | None = None
    gross: str | None = None
    lots: str | None = None
    closed: list[str] | None = None


class ActionCase(NamedTuple):
    """What happened to a position otherwise than by trading; None is what is not stated."""

    source: str
    what: str
    lines: list[str]
    qty: str
    net: str | None = None
    lots: str | None = None
    costs: str | None = None
    charges: str | None = None
    tolerance: str = "0.0001"


class StatementLot(NamedTuple):
    """What a statement says of one lot that a fill closed; units are those of `exact`."""

    qty: int
    cost: int
    """What was paid for it, its commission included, as units of 10^-10."""
    net: int | None
    """None of an open lot."""
    opened: int
    """Milliseconds since 1970."""


class StatementFill(NamedTuple):
    """One fill of a statement, or what else changed the position."""

    message: Message
    net: int | None
    """Net realized P&L, as units of 10^-10; None if it is not known."""
    lots: list[StatementLot] | None
    """None if the statement does not list them."""


class Statement(NamedTuple):
    """The fills of one instrument on one statement, in its order."""

    source: str
    symbol: str
    fills: list[StatementFill]
    open_lots: list[StatementLot] | None
    """At its end; None if the statement does not list them."""


def fifo_cases() -> list[FifoCase]:
    """Read the cases of other projects."""
    return [FifoCase(**case) for case in _read("fifo.json")]


def action_cases() -> list[ActionCase]:
    """Read what else happened to positions."""
    return [ActionCase(**case) for case in _read("actions.json")]


def statements() -> list[Statement]:
    """Read the statements."""
    return [
        Statement(
            each["source"],
            each["symbol"],
            [_fill(n, row) for n, row in enumerate(each["fills"])],
            _lots(each.get("open_lots")),
        )
        for each in _read("statements.json")
    ]


def _read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_CASES / name).read_text())
    return found


def _fill(number: int, row: dict[str, Any]) -> StatementFill:
    fill = message(row["fill"], number)._replace(timestamp=_milliseconds(row["time"]))
    if "exec_id" in row:
        assert isinstance(fill, Execution)
        identity, revision = parse_exec_id(row["exec_id"])
        fill = fill._replace(exec_id=row["exec_id"], identity=identity, revision=revision or 1)
    net = from_text(row["net"]) if "net" in row else None
    return StatementFill(fill, net, _lots(row.get("lots")))


def _lots(texts: list[str] | None) -> list[StatementLot] | None:
    return None if texts is None else [_lot(text) for text in texts]


def _lot(text: str) -> StatementLot:
    match = _LOT.fullmatch(text)
    assert match is not None, text
    net = match["net"] and from_text(match["net"])
    qty, cost = from_text(match["qty"]), from_text(match["cost"])
    return StatementLot(qty, cost, net or None, _milliseconds(match["opened"]))


def _milliseconds(time: str) -> int:
    # As printed: the zone of a statement does not matter to the order of its fills.
    return round(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp() * 1000)
