"""The published statements of `cases.py` as rows of Flex files, an account for each."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from state.exact import ONE, to_text
from state.messages import Cost, Execution, Instrument, Opening, Split
from tests.support.cases import Statement, StatementFill
from tests.support.flex_files import action, con_id, element, trade


class StatementRows:
    """Rows by section; times are UTC, openings are lots of the end of 2018."""

    def __init__(self) -> None:
        self.trades: list[str] = []
        self.actions: list[str] = []
        self.cash: list[str] = []
        self.lots: list[str] = []
        self.closes = 0

    def add(self, number: int, statement: Statement) -> None:
        """Add a statement; number: of its account."""
        said: dict[str, object] = {
            "accountId": f"U{number}", "symbol": statement.symbol,
            "conid": con_id(statement.symbol), "assetCategory": "STK",
        }  # fmt: skip
        held = Fraction(0)
        for place, fill in enumerate(statement.fills, start=1):
            message, row = fill.message, f"{number}{place:04d}"
            match message:
                case Execution():
                    self._add_execution(fill, message, {**said, **_worth(message.instrument)}, row)
                    held += Fraction(message.qty, ONE)
                case Opening():
                    self._add_opening(message, {**said, **_worth(message.instrument)})
                    held += Fraction(message.qty, ONE)
                case Split():
                    ratio = Fraction(message.new, message.old)
                    self._add_split(message, said, held * (ratio - 1))
                    held *= ratio
                case Cost():
                    self._add_cost(message, said, held, row)
                case _:
                    raise AssertionError(message)

    def _add_execution(
        self, fill: StatementFill, message: Execution, said: dict[str, object], row: str
    ) -> None:
        net = None if fill.net is None else to_text(fill.net)
        more = {
            "ibExecID": message.exec_id, "tradeID": row, "transactionID": row,
            "ibCommission": to_text(-(message.commission or 0)), "fifoPnlRealized": net,
        }  # fmt: skip
        symbol, when = str(said["symbol"]), _when(message.timestamp)
        price = to_text(message.price)
        self.trades.append(trade(symbol, to_text(message.qty), price, when, **{**said, **more}))
        self.closes += bool(fill.net)
        self.trades += [
            element(
                "Lot", levelOfDetail="CLOSED_LOT", quantity=to_text(abs(lot.qty)), dateTime=when,
                buySell="SELL" if message.qty < 0 else "BUY", cost=to_text(lot.cost),
                openDateTime=_when(lot.opened),
                fifoPnlRealized=None if lot.net is None else to_text(lot.net), **said,
            )
            for lot in fill.lots or []
        ]  # fmt: skip

    def _add_opening(self, message: Opening, said: dict[str, object]) -> None:
        if message.cost is None:
            worth = Decimal(str(said["multiplier"]))
            cost = Decimal(message.qty * (message.price or 0)).scaleb(-20) * worth
        else:
            cost = Decimal(message.cost).scaleb(-20)
        self.lots.append(
            element(
                "OpenPosition", position=to_text(message.qty), costBasisMoney=f"{cost:f}",
                openDateTime="20000101;000000", reportDate="20181231", levelOfDetail="LOT", **said,
            )
        )  # fmt: skip

    def _add_split(self, message: Split, said: dict[str, object], comes: Fraction) -> None:
        symbol = str(said["symbol"])
        text = f"{symbol}(I) SPLIT {message.new} FOR {message.old} ({symbol}, X, I)"
        self.actions.append(action(symbol, comes, text, _when(message.timestamp), **said))

    def _add_cost(self, message: Cost, said: dict[str, object], held: Fraction, row: str) -> None:
        per_unit = -Decimal(message.per_unit).scaleb(-10)
        text = f"{said['symbol']} CASH DIVIDEND USD {per_unit:f} PER SHARE (Return of Capital)"
        self.cash.append(
            element(
                "CashTransaction", currency="USD", dateTime=_when(message.timestamp),
                amount=f"{float(per_unit * int(held)):.4f}", type="Dividends", description=text,
                transactionID=row, levelOfDetail="DETAIL", **said,
            )
        )  # fmt: skip


def _when(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y%m%d;%H%M%S}"


def _worth(instrument: Instrument) -> dict[str, object]:
    return {
        "currency": instrument.currency or "USD",
        "multiplier": to_text(instrument.multiplier or ONE),
    }
