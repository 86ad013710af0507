"""What a broker itself says was realized: the proof that `make demo` shows.

`statements.json` restates sequences of fills from IBKR activity statements that
their owners published, each with its source. A statement's figure is net: every lot
carries its own execution's commission, and the closing one's is deducted. The book
has to come to the same figure, close by close.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

ACCOUNT = "statement"
"""The account that their messages carry."""

TOLERANCE = Decimal("0.0001")
"""A figure that is off by this much is wrong: statements round to 6 places, or fewer."""

_FILE = Path(__file__).with_name("statements.json")


class Fill(NamedTuple):
    """One line of a statement; all figures as printed there."""

    time: str
    side: str
    qty: str
    price: str
    commission: str
    realized_pnl: str
    """Net; 0 where nothing was closed."""
    exec_id: str


class Statement(NamedTuple):
    """The fills of one contract, in the statement's order."""

    source: str
    """Repository and file that the statement was published in."""
    symbol: str
    sec_type: str
    currency: str
    multiplier: str
    fills: list[Fill]

    def messages(self) -> list[dict[str, str]]:
        """Return the fills as messages for the stream."""
        return [self._message(number, fill) for number, fill in enumerate(self.fills, 1)]

    def closes(self) -> dict[str, Decimal]:
        """Return what each closing execution realized, by its id."""
        realized = {fill.exec_id: Decimal(fill.realized_pnl) for fill in self.fills}
        return {exec_id: figure for exec_id, figure in realized.items() if figure}

    def _message(self, number: int, fill: Fill) -> dict[str, str]:
        time = datetime.fromisoformat(fill.time).replace(tzinfo=UTC)
        return {
            "account": ACCOUNT,
            "symbol": self.symbol,
            "sec_type": self.sec_type,
            "currency": self.currency,
            "multiplier": self.multiplier,
            "side": fill.side,
            "fill_qty": fill.qty,
            "fill_price": fill.price,
            "commission": fill.commission,
            "order_id": str(number),
            "exec_id": fill.exec_id,
            "timestamp": str(int(time.timestamp()) * 1000),
        }


class Comparison(NamedTuple):
    """One contract: our figures beside the statement's."""

    symbol: str
    closes: int
    ours: Decimal
    """Net realized P&L of all closes, like the next."""
    brokers: Decimal
    worst: Decimal
    """The largest difference of a single close, above 0."""

    @property
    def agrees(self) -> bool:
        """Tell whether every close and their total are the statement's."""
        return self.worst < TOLERANCE and abs(self.ours - self.brokers) < TOLERANCE


def load_statements() -> list[Statement]:
    """Read the statements that come with the program."""
    return [
        Statement(**{**entry, "fills": _fills(entry["symbol"], entry["fills"])})
        for entry in json.loads(_FILE.read_text())["statements"]
    ]


def compare(statement: Statement, ours: Mapping[str, Decimal]) -> Comparison:
    """Set our figures beside the statement's.

    ours: net realized P&L of each execution of the contract, by its id; one that is
    missing counts as 0.
    """
    brokers = statement.closes()
    differences = [
        abs(ours.get(exec_id, Decimal()) - brokers.get(exec_id, Decimal()))
        for exec_id in ours.keys() | brokers.keys()
    ]
    return Comparison(
        statement.symbol,
        len(brokers),
        sum(ours.values(), Decimal()),
        sum(brokers.values(), Decimal()),
        max(differences, default=Decimal()),
    )


def _fills(symbol: str, rows: list[list[str | None]]) -> list[Fill]:
    """Read a statement's lines; those without an execution id get one."""
    return [
        Fill(*(cell or f"{symbol}-{number}" for cell in row)) for number, row in enumerate(rows, 1)
    ]
