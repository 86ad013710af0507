"""Rows of a Flex file as records: texts become numbers, times and names, once, here.

Activity statements and trade confirmations name the same things differently; behind
this module there is one name for each. Only what lotstream asks for is kept, so a
large file's rows fit into memory. A row that cannot be read raises RowError, with the
reason; it loses no other.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import NamedTuple, Self

from connectors.flex.times import read_time
from connectors.flex.xml import Row

_PLACES = Decimal(1).scaleb(-10)
_WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)
_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?", re.ASCII
)
END_OF_DAY = time(23, 59, 59)
"""When in its day a corporate action took place that names no time, or a position is told.

Of an action of which only the day of the report is known, that day begins with it.
"""
PER_CENT = Decimal("0.01")
TRANSFER = "TRANSFER"
"""The type of an action that takes a position to, or brings it from, another account or broker."""

_NOTHING = ("N/A", "-", "--")
"""What a file writes where there is nothing to say."""
SEC_TYPES = {
    "STK": "STK", "OPT": "OPT", "FSOPT": "OPT", "FUT": "FUT", "FOP": "FOP", "FSFOP": "FOP",
    "CASH": "CASH", "BOND": "BOND", "BILL": "BILL", "FUND": "FUND", "WAR": "WAR", "IOPT": "IOPT",
    "CFD": "CFD", "CMDTY": "CMDTY", "CRYPTO": "CRYPTO",
}  # fmt: skip
"""Flex's asset categories to IBKR's security types."""
_NEEDS_MULTIPLIER = frozenset({"OPT", "FUT", "FOP"})
_WORTH_IN_DOUBT = frozenset({"FUT", "FOP", "BOND", "BILL"})
"""Kinds whose price may be in cents, per piece, or of a part of the principal."""
_SAME_MONEY = Decimal("0.0001")
OPTIONS = frozenset({"OPT", "FOP", "WAR", "IOPT"})


class RowError(Exception):
    """The row cannot be read; the text says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a row says of its instrument; texts, "" for none."""

    con_id: str
    symbol: str
    # What one query tells and another does not, makes no other instrument.
    sec_type: str = field(compare=False)
    currency: str = field(compare=False)
    multiplier: Decimal = field(compare=False)
    """Money per point of price per unit."""
    exchange: str = field(compare=False)
    """Where it is listed."""
    isin: str = field(compare=False)
    underlying: str = field(compare=False)
    """The underlying's con_id."""
    underlying_symbol: str = field(compare=False)
    strike: str = field(compare=False)
    right: str = field(compare=False)
    """`C`, `P` or ""."""


@dataclass(frozen=True, slots=True)
class Trade:
    """An execution, or what the broker books as one."""

    account: str
    contract: Contract
    time: int
    """Milliseconds since 1970, UTC."""
    qty: Decimal
    """Signed: bought above 0."""
    price: Decimal
    charge: Decimal | None
    """Commission and taxes, above 0 a cost; None if the file does not say."""
    charge_currency: str
    kind: str
    """`ExchTrade`, `BookTrade`, `FracShare`, `TradeCancel` …"""
    notes: frozenset[str]
    cancels: bool
    exec_id: str
    trade_id: str
    transaction_id: str
    order_id: str
    cancelled_id: str
    """The trade id of what a cancellation cancels."""
    action_id: str
    exchange: str
    order_ref: str
    cost: Decimal | None
    """The cost of what was closed, or what it cost, as the file signs it."""
    pnl: Decimal | None
    """The broker's realized P&L, net; None if the file does not say."""
    generated: str
    """When the statement was made: of two that differ in a charge, the later one counts."""

    @property
    def key(self) -> tuple[str, ...]:
        """What the same row has in every file."""
        if self.exec_id:
            return (self.account, self.exec_id, self.transaction_id)
        if self.transaction_id or (self.trade_id and not self.cancels):
            return (self.account, self.transaction_id or f"trade-{self.trade_id}", self.kind)
        figures = (str(self.time), str(self.qty), str(self.price))
        return (self.account, self.contract.con_id, self.kind, self.cancelled_id, *figures)

    @property
    def order(self) -> tuple[int, int, int]:
        """The place among trades: by time, equal ones by trade id, then transaction id."""
        return self.time, _id_number(self.trade_id), _id_number(self.transaction_id)

    @property
    def id(self) -> str:
        """The `exec_id` of its message."""
        return self.exec_id or f"flex-{self.transaction_id or self.trade_id}"

    @property
    def shown(self) -> dict[str, str]:
        """The row, for a person."""
        return {
            "account": self.account, "symbol": self.contract.symbol,
            "con_id": self.contract.con_id, "qty": f"{self.qty:f}", "price": f"{self.price:f}",
            "kind": self.kind, "notes": ";".join(sorted(self.notes)), "exec_id": self.exec_id,
            "trade_id": self.trade_id, "transaction_id": self.transaction_id,
            "time": str(self.time),
        }  # fmt: skip


class Cancel(NamedTuple):
    """A cancellation, as far as it says what it cancels; a row of its own has no execution id."""

    account: str
    trade_ids: tuple[str, ...]
    """Of the trade that it cancels; the first that is known counts."""
    qty: Decimal
    price: Decimal
    shown: Mapping[str, str]
    """The row, for a person."""
    charge: Decimal = Decimal(0)
    """What it gives back of the charge, below 0."""

    @property
    def transaction_id(self) -> str:
        return self.shown["transaction_id"]

    @classmethod
    def of(cls, trade: Trade) -> Self:
        """Return what a trade's row says that cancels."""
        ids = tuple(filter(None, (trade.cancelled_id, trade.trade_id)))
        charge = trade.charge or Decimal(0)
        return cls(trade.account, ids, trade.qty, trade.price, trade.shown, charge)

    @property
    def key(self) -> tuple[str, ...]:
        """What the same row has in every file."""
        return (self.account, *self.trade_ids, f"{self.qty:f}", f"{self.price:f}",
                self.shown["time"])  # fmt: skip


@dataclass(frozen=True, slots=True)
class FlexLot:
    """A lot as the broker has it: still open, or closed."""

    account: str
    contract: Contract
    qty: Decimal
    """Signed as the position is (of a closed lot: as it was)."""
    cost: Decimal
    """Money, commission included; signed like qty."""
    opened: int
    time: int
    """When it was closed; of an open one, as of when it is told."""
    pnl: Decimal | None
    origin: str
    """The transaction id of what opened it (an open lot) or closed it (a closed one)."""
    notes: frozenset[str]
    is_closed: bool = False

    @property
    def shown(self) -> dict[str, str]:
        return {
            "account": self.account, "symbol": self.contract.symbol,
            "con_id": self.contract.con_id, "qty": f"{self.qty:f}", "cost": f"{self.cost:f}",
            "opened": str(self.opened), "time": str(self.time),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Action:
    """One row of a corporate action."""

    account: str
    contract: Contract
    time: int
    qty: Decimal
    """What comes (above 0) or goes."""
    proceeds: Decimal
    value: Decimal
    pnl: Decimal | None
    code: str
    """Its type: `FS`, `RS`, `TC`, `SO` …"""
    text: str
    cancelled: bool
    action_id: str
    transaction_id: str
    report_date: str
    summary: bool
    between: tuple[str, ...] = ()
    """Of a transfer: the same in both rows of one between accounts of the same owner."""

    @property
    def shown(self) -> dict[str, str]:
        return {
            "account": self.account, "symbol": self.contract.symbol,
            "con_id": self.contract.con_id, "qty": f"{self.qty:f}",
            "proceeds": f"{self.proceeds:f}", "type": self.code, "text": self.text,
            "transaction_id": self.transaction_id, "time": str(self.time),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cash:
    """A cash transaction that can change what a position cost."""

    account: str
    contract: Contract
    time: int
    ex_time: int | None
    """When the ex-date begins."""
    amount: Decimal
    kind: str
    text: str
    transaction_id: str

    @property
    def id(self) -> str:
        """The `exec_id` of its message."""
        return f"flex-{self.transaction_id or f'{self.time}-{self.amount}'}"

    @property
    def shown(self) -> dict[str, str]:
        return {
            "account": self.account, "symbol": self.contract.symbol, "kind": self.kind,
            "amount": f"{self.amount:f}", "text": self.text,
            "transaction_id": self.transaction_id, "time": str(self.time),
        }  # fmt: skip


def read_trade(row: Row, zone: tzinfo) -> Trade:
    """Return a row of `Trades` or `TradeConfirms` as a trade.

    zone: of times that name none. Raises RowError.
    """
    fields = row.fields
    side, _, cancelled = _first(fields, "buySell").partition(" ")
    qty = _needed(fields, "quantity")
    notes = _codes(_first(fields, "notes", "code"))
    kind = _first(fields, "transactionType")
    cancels = bool(cancelled) or kind.endswith("Cancel")
    if not cancels and side.upper() not in ("", "BUY" if qty > 0 else "SELL"):
        raise RowError(f"expected quantity to be signed like buySell, found {side} {qty}")
    if qty == 0:
        raise RowError("expected a quantity other than 0")
    charges = [
        _number(fields, *names) for names in (("ibCommission", "commission"), ("taxes", "tax"))
    ]
    known = [charge for charge in charges if charge is not None]
    contract, price = read_contract(fields), _needed(fields, "tradePrice", "price")
    if contract.sec_type in _WORTH_IN_DOUBT:
        money = _number(fields, "tradeMoney") or Decimal(0)
        worth = qty * price * contract.multiplier
        if money and abs(abs(money) - abs(worth)) > max(abs(worth) * _SAME_MONEY, PER_CENT):
            raise RowError(
                f"tradeMoney: expected {worth:f}, as a point of its price is worth "
                f"{contract.multiplier:f}, found {money:f}: publish it with a price that "
                f"comes to that"
            )
    return Trade(
        account=_account(row), contract=contract, time=_time(row, zone), qty=qty, price=price,
        charge=-sum(known, Decimal(0)) if charges[0] is not None else None,
        charge_currency=_first(fields, "ibCommissionCurrency", "commissionCurrency")
        or contract.currency,
        kind=sys.intern(kind), notes=notes, cancels=cancels,
        exec_id=_first(fields, "ibExecID", "execID"), trade_id=_first(fields, "tradeID"),
        transaction_id=_first(fields, "transactionID"),
        order_id=_first(fields, "ibOrderID", "orderID"),
        cancelled_id=_id(_first(fields, "origTradeID")),
        action_id=_first(fields, "positionActionID"),
        exchange=sys.intern(_first(fields, "exchange").strip("-")),
        order_ref=_first(fields, "orderReference"),
        cost=_number(fields, "cost"), pnl=_number(fields, "fifoPnlRealized"),
        generated=row.statement.generated,
    )  # fmt: skip


def read_closed_lot(row: Row, zone: tzinfo) -> FlexLot:
    """Return a closed-lot row. Raises RowError."""
    fields = row.fields
    qty, side = abs(_needed(fields, "quantity")), _first(fields, "buySell").upper()
    was_short = side.startswith("BUY") if side else _needed(fields, "quantity") < 0
    sign = -1 if was_short else 1
    return FlexLot(
        account=_account(row), contract=read_contract(fields), qty=sign * qty,
        cost=sign * abs(_needed(fields, "cost")), opened=_opened(row, zone),
        time=_time(row, zone), pnl=_number(fields, "fifoPnlRealized"),
        origin=_first(fields, "transactionID"), notes=_codes(_first(fields, "notes", "code")),
        is_closed=True,
    )  # fmt: skip


def read_open_lot(row: Row, zone: tzinfo) -> FlexLot:
    """Return a lot of the open positions. Raises RowError."""
    fields = row.fields
    day = _first(fields, "reportDate") or row.statement.last_day
    qty = _needed(fields, "position", "quantity")
    cost = _needed(fields, "costBasisMoney")
    return FlexLot(
        account=_account(row), contract=read_contract(fields), qty=qty,
        cost=cost.copy_sign(qty) if cost else Decimal(0), opened=_opened(row, zone),
        time=_parsed_time(day, zone, END_OF_DAY), pnl=None,
        origin=_first(fields, "originatingTransactionID"), notes=_codes(_first(fields, "code")),
    )  # fmt: skip


def read_action(row: Row, zone: tzinfo) -> Action:
    """Return a row of a corporate action. Raises RowError."""
    fields = row.fields
    moment, reported = _first(fields, "dateTime"), _first(fields, "reportDate")
    # It is reported on the day that begins with it.
    when = (moment, zone, END_OF_DAY) if moment else (reported, zone, time(0))
    return Action(
        account=_account(row), contract=read_contract(fields),
        time=_parsed_time(*when), qty=_needed(fields, "quantity"),
        proceeds=_number(fields, "proceeds") or Decimal(0),
        value=_number(fields, "value") or Decimal(0), pnl=_number(fields, "fifoPnlRealized"),
        code=_first(fields, "type").upper(),
        text=_first(fields, "actionDescription", "description"),
        cancelled="CA" in {code.upper() for code in _codes(_first(fields, "code"))},
        action_id=_first(fields, "actionID"), transaction_id=_first(fields, "transactionID"),
        report_date=reported, summary=_is_summary(fields),
    )  # fmt: skip


def read_transfer(row: Row, zone: tzinfo) -> Action:
    """Return a transfer of a position as an action of one row; what goes is below 0.

    Its text says what the sign cannot: a short position may go or come. Raises RowError.
    """
    fields = row.fields
    account, contract, qty = _account(row), read_contract(fields), _needed(fields, "quantity")
    kind, direction = _first(fields, "type").upper(), _first(fields, "direction").upper()
    if direction not in ("IN", "OUT"):
        raise RowError(f"direction: expected IN or OUT, found {direction!r}")
    time = _parsed_time(_first(fields, "dateTime", "date", "reportDate"), zone, END_OF_DAY)
    other = _first(fields, "account")
    number = _first(fields, "transactionID")
    facts = f"{contract.con_id or contract.symbol}-{time}-{plain(abs(qty))}"
    own = () if kind == "INTERNAL" else (direction, number)
    return Action(
        account=account, contract=contract, time=time,
        qty=-abs(qty) if direction == "OUT" else abs(qty), proceeds=Decimal(0), value=Decimal(0),
        pnl=_number(fields, "pnlAmount"), code=TRANSFER,
        text=f"{kind} {direction} {qty:f} {other}".strip(), cancelled=False,
        action_id=facts, transaction_id=number, report_date=_first(fields, "reportDate"),
        summary=_is_summary(fields), between=(*sorted((account, other)), *own),
    )  # fmt: skip


def read_cash(row: Row, zone: tzinfo) -> Cash:
    """Return a cash transaction. Raises RowError."""
    fields = row.fields
    ex_date = _first(fields, "exDate")
    return Cash(
        account=_account(row), contract=read_contract(fields),
        time=_parsed_time(_first(fields, "dateTime", "settleDate", "reportDate"), zone, time(0)),
        ex_time=_parsed_time(ex_date, zone, time(0)) if ex_date else None,
        amount=_needed(fields, "amount"), kind=_first(fields, "type"),
        text=_first(fields, "description"), transaction_id=_first(fields, "transactionID"),
    )  # fmt: skip


def read_contract(fields: Mapping[str, str]) -> Contract:
    """Return what a row says of its instrument. Raises RowError."""
    return _contract(tuple(_first(fields, *names) for names in _OF_CONTRACT))


_OF_CONTRACT = (
    ("conid",), ("symbol",), ("assetCategory", "assetClass"), ("currency",), ("multiplier",),
    ("listingExchange",), ("isin", "securityID"), ("underlyingConid",), ("underlyingSymbol",),
    ("strike",), ("putCall",),
)  # fmt: skip


@lru_cache(maxsize=10_000)
def _contract(said: tuple[str, ...]) -> Contract:
    (con_id, symbol, category, currency, multiplier, exchange, isin, underlying, underlying_symbol,
     strike, put_call) = said  # fmt: skip
    sec_type = SEC_TYPES.get(category.upper(), "")
    if category and not sec_type:
        raise RowError(
            f"assetCategory: expected one of {', '.join(SEC_TYPES)}, found {category!r}: what a "
            f"point of its price is worth is not known"
        )
    worth = _number({"multiplier": multiplier}, "multiplier") or Decimal(1)
    if sec_type in _NEEDS_MULTIPLIER and not multiplier:
        raise RowError("multiplier: expected what a point of its price is worth, found none: let "
                       "the query give it")  # fmt: skip
    if sec_type in ("BOND", "BILL"):
        worth *= PER_CENT  # the price is in per cent of par, whatever the file says
    right = put_call.upper()[:1]
    if sec_type == "OPT" and not right and (osi := re.search(r"\d{6}([CP])\d{8}$", symbol)):
        right = osi[1]
    return Contract(
        con_id, symbol, sec_type, currency, worth, exchange.strip("-"), isin, underlying,
        underlying_symbol, strike, right,
    )  # fmt: skip


def plain(number: Decimal) -> str:
    """Write a number as the stream takes it: rounded half-even to 10 places.

    >>> plain(Decimal("1.50")), plain(Decimal("-0"))
    ('1.5', '0')
    """
    text = f"{number.quantize(_PLACES, context=_WIDE):f}"
    text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _first(fields: Mapping[str, str], *names: str) -> str:
    for name in names:
        if name in fields:
            value = fields[name]
            return "" if value in _NOTHING else value
    return ""


def _number(fields: Mapping[str, str], *names: str) -> Decimal | None:
    text = _first(fields, *names)
    if not text:
        return None
    number = _decimal(text)
    if number is None:
        raise RowError(f"{names[0]}: expected a number, found {text!r}")
    return number


# A file says the same again and again; what is alike is kept once.
@lru_cache(maxsize=10_000)
def _decimal(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _needed(fields: Mapping[str, str], *names: str) -> Decimal:
    number = _number(fields, *names)
    if number is None:
        raise RowError(f"{names[0]}: expected a number, found none")
    return number


@lru_cache(maxsize=1_000)
def _codes(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in re.split("[;,]", text) if part.strip())


def _is_summary(fields: Mapping[str, str]) -> bool:
    return _first(fields, "levelOfDetail").upper() == "SUMMARY"


def _account(row: Row) -> str:
    said = _first(row.fields, "accountId", "clientAccountID")
    account = said or row.statement.account
    return sys.intern("" if account == "-" else account)


def _time(row: Row, zone: tzinfo) -> int:
    day, of_day = _first(row.fields, "tradeDate"), _first(row.fields, "tradeTime")
    text = _first(row.fields, "dateTime") or (f"{day};{of_day}" if of_day else day)
    return _parsed_time(text, zone, time(0))


def _opened(row: Row, zone: tzinfo) -> int:
    return _parsed_time(_first(row.fields, "openDateTime"), zone, time(0))


@lru_cache(maxsize=10_000)
def _parsed_time(text: str, zone: tzinfo, without_time: time) -> int:
    try:
        return read_time(text, zone, without_time=without_time)
    except ValueError as error:
        raise RowError(str(error)) from None


def _id(text: str) -> str:
    return "" if text == "0" else text


def _id_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else sys.maxsize
