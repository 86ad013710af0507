"""Cases that others published: fills, and the figures that came of them.

`cases/fifo.json` restates figures of other projects' tests of FIFO books, in the
words of `tests.support.notation`; a case leaves out what its source does not state, and `?`
stands for a figure that hangs on a price its source does not give. `cases/statements.json`
holds fills of IBKR activity statements that their owners published, with the broker's
own realized P&L of each fill (`net`), and of the lots it closed where it lists them.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from state.exact import from_text
from state.keys import parse_exec_id
from state.messages import Execution
from tests.support.notation import execution

_CASES = Path(__file__).with_suffix("")

_LOT = re.compile(r"(?P<qty>\S+) cost (?P<cost>\S+) net (?P<net>\S+) of (?P<opened>\S+)")


class FifoCase(NamedTuple):
    """A test of another project; None is what it does not state."""

    source: str
    fills: list[str]
    qty: str
    average: str | None = None
    gross: str | None = None
    lots: str | None = None
    closed: list[str] | None = None


class StatementLot(NamedTuple):
    """What a statement says of one lot that a fill closed; units are those of `exact`."""

    qty: int
    cost: int
    """What was paid for it, its commission included."""
    net: int
    opened: int
    """Milliseconds since 1970."""


class StatementFill(NamedTuple):
    """One fill of a statement."""

    execution: Execution
    net: int
    """Net realized P&L, as units of 10^-10."""
    lots: list[StatementLot] | None
    """None if the statement does not list them."""


class Statement(NamedTuple):
    """The fills of one instrument on one statement, in its order."""

    source: str
    symbol: str
    fills: list[StatementFill]


def fifo_cases() -> list[FifoCase]:
    """Read the cases of other projects."""
    return [FifoCase(**case) for case in json.loads((_CASES / "fifo.json").read_text())]


def statements() -> list[Statement]:
    """Read the statements."""
    return [
        Statement(
            each["source"], each["symbol"], [_fill(n, row) for n, row in enumerate(each["fills"])]
        )
        for each in json.loads((_CASES / "statements.json").read_text())
    ]


def _fill(number: int, row: dict[str, Any]) -> StatementFill:
    fill = execution(row["fill"], number)._replace(timestamp=_milliseconds(row["time"]))
    if "exec_id" in row:
        identity, revision = parse_exec_id(row["exec_id"])
        fill = fill._replace(exec_id=row["exec_id"], identity=identity, revision=revision or 1)
    lots = [_lot(lot) for lot in row["lots"]] if "lots" in row else None
    return StatementFill(fill, from_text(row["net"]), lots)


def _lot(text: str) -> StatementLot:
    match = _LOT.fullmatch(text)
    assert match is not None, text
    qty, cost, net = (from_text(match[name]) for name in ("qty", "cost", "net"))
    return StatementLot(qty, cost, net, _milliseconds(match["opened"]))


def _milliseconds(time: str) -> int:
    # As printed: the zone of a statement does not matter to the order of its fills.
    return round(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp() * 1000)
