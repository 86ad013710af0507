"""What the files of one call hold, each row once.

The same row stands in every file that covers its day. Repeats are dropped here; of two
that differ in nothing but a charge, the statement made later counts. What cannot be
read becomes a problem with its row and the reason, and loses no other row.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import NamedTuple, TypeVar

from connectors.flex.records import (
    Action,
    Cash,
    Contract,
    FlexLot,
    RowError,
    Trade,
    read_action,
    read_cash,
    read_closed_lot,
    read_open_lot,
    read_trade,
    read_transfer,
)
from connectors.flex.times import names_zone, read_time
from connectors.flex.xml import Row

T = TypeVar("T")

SUMS = frozenset({"SYMBOL_SUMMARY", "ASSET_SUMMARY", "WASH_SALE", "SYMBOLSUMMARY",
                  "ASSETSUMMARY", "WASHSALE", "SUMMARY"})  # fmt: skip
"""Levels of detail that sum up what stands elsewhere, or tell of it again."""
CLOSED = frozenset({"LOT", "CLOSED_LOT", "CLOSEDLOT"})
RETURN_OF_CAPITAL, COMMISSIONS = "RETURN OF CAPITAL", "COMMISSION ADJUSTMENTS"
ELSEWHERE = frozenset({"StockGrantActivities", "TradeTransfers", "IncomingTradeTransfers",
                       "OutgoingTradeTransfers"})  # fmt: skip
"""Sections of which nobody knows what else tells of what comes or goes by them."""
WITHHOLDING = "WITHHOLDING"
"""A tax on what was returned, whose text is the same, changes no cost."""


class Problem(NamedTuple):
    """A row that was left out, and why."""

    reason: str
    row: Mapping[str, str]


@dataclass
class Contents:
    """The rows of all files of a call."""

    zone: tzinfo
    """Of times that name none."""
    trades: dict[tuple[str, ...], Trade] = field(default_factory=dict)
    orders: list[Trade] = field(default_factory=list)
    actions: dict[tuple[str, ...], Action] = field(default_factory=dict)
    cash: dict[tuple[str, ...], Cash] = field(default_factory=dict)
    closed_lots: Counter[FlexLot] = field(default_factory=Counter)
    open_lots: Counter[FlexLot] = field(default_factory=Counter)
    first_days: set[tuple[str, str]] = field(default_factory=set)
    """Account and first day of the statements that tell what it did."""
    lot_days: set[tuple[str, str]] = field(default_factory=set)
    """The same of those that tell what it held, such as one of the day before."""
    told_open: set[tuple[str, str]] = field(default_factory=set)
    """Account ("" for all) and day of which the open positions are told, also where none is."""
    held: set[tuple[str, str, str]] = field(default_factory=set)
    """Account, con_id (else symbol) and day of open positions that are told as a sum of lots."""
    problems: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Sections that say nothing of positions, or that nobody knows, and their rows."""
    zoneless: bool = False
    """Whether a time named no zone."""
    _told: set[str] = field(default_factory=set)
    _sums: dict[tuple[str, ...], Problem] = field(default_factory=dict)
    """By what `_told` may call what they sum up."""
    _days: dict[str, str] = field(default_factory=dict)
    _transferred: set[tuple[str, Contract]] = field(default_factory=set)

    def add_file(self, rows: Iterable[Row]) -> None:
        """Take the rows of one file."""
        closed, opened = Counter[FlexLot](), Counter[FlexLot]()
        for row in rows:
            try:
                self._add(row, closed, opened)
            except RowError as error:
                self.problems.append(Problem(str(error), _shown(row)))
        # Two lots of one file may be alike; in another file they are the same two.
        self.closed_lots |= closed
        self.open_lots |= opened

    def _add(self, row: Row, closed: Counter[FlexLot], opened: Counter[FlexLot]) -> None:
        match row.section:
            case "FlexStatement":
                if row.tag == "OpenPositions":
                    account = row.statement.account.strip("-")
                    self.told_open.add((account, self._day(row.statement.last_day)))
            case "Trades" | "TradeConfirms" | "TradeConfirmations":
                self._add_trade(row, closed)
            case "OpenPositions":
                self._add_open(row, opened)
            case "CorporateActions":
                self._told.update(_names(row))
                self._add_action(read_action(row, self.zone), row)
            case "CashTransactions":
                self._add_cash(row)
            case "Transfers":
                self._add_transfer(row)
            case section if section in ELSEWHERE:
                raise RowError(
                    f"expected positions to change by trades, corporate actions and transfers, "
                    f"found a row of {section}: publish what came or went by it, if no trade or "
                    f"transfer says it too"
                )
            case section:
                self.passed_over[section] += 1

    def sums_alone(self) -> list[Problem]:
        """Return sums, and closed lots, of what is told in no other way."""
        return [sum_ for names, sum_ in self._sums.items() if self._told.isdisjoint(names)]

    def _day(self, said: str) -> str:
        """Return a day of a statement, "" if it has no or two readings; that is told once."""
        if said not in self._days:
            self._days[said] = said
            try:
                if said:
                    read_time(said, self.zone)
            except ValueError as error:
                self._days[said] = ""
                self.problems.append(Problem(str(error), {"section": "FlexStatement"}))
        return self._days[said]

    def _add_open(self, row: Row, opened: Counter[FlexLot]) -> None:
        day = self._day(row.fields.get("reportDate") or row.statement.last_day)
        account = (row.fields.get("accountId") or row.statement.account).strip("-")
        of_all = row.statement.account.strip("-")
        # What is told says itself of which day it is, and whose.
        self.told_open.discard((of_all, self._day(row.statement.last_day)))
        self.told_open.add((of_all and account, day))
        if row.fields.get("levelOfDetail", "").upper() == "LOT":
            lot = read_open_lot(row, self.zone)
            opened[lot] += 1
            self.lot_days.add((lot.account, self._day(row.statement.first_day)))
            return
        self.held.add((account, _names(row)[0], day))
        self.passed_over["OpenPositions (not lots)"] += 1

    def _add_trade(self, row: Row, closed: Counter[FlexLot]) -> None:
        level = row.fields.get("levelOfDetail", "").upper() or _LEVELS.get(row.tag, row.tag.upper())
        names = _names(row)
        if level in ("ORDER", "EXECUTION"):
            self._told |= {*names, ""}
        elif "WASH" not in level:
            self._sums.setdefault(names, Problem(
                "expected the executions that this sums up, or that closed it, found none: let the "
                "query give the level of detail Execution", _shown(row),
            ))  # fmt: skip
        if level in CLOSED:
            closed[read_closed_lot(row, self.zone)] += 1
        elif level == "ORDER":
            self.orders.append(read_trade(row, self.zone))
        elif level == "EXECUTION":
            self._add_execution(read_trade(row, self.zone), row)
        elif level in SUMS:
            self.passed_over[f"{row.section} ({level.lower()})"] += 1
        else:
            raise RowError(
                f"levelOfDetail: expected EXECUTION, ORDER, CLOSED_LOT or a sum, found {level!r}"
            )

    def _add_execution(self, trade: Trade, row: Row) -> None:
        self.zoneless = self.zoneless or not names_zone(row.fields.get("dateTime", ""))
        self.first_days.add((trade.account, self._day(row.statement.first_day)))
        old = self.trades.get(trade.key)
        if old is None:
            self.trades[trade.key] = trade
        elif (old.qty, old.price) != (trade.qty, trade.price):
            raise RowError(
                f"expected {old.qty:f} at {old.price:f}, as another row with its ids says, found "
                f"{trade.qty:f} at {trade.price:f}"
            )
        elif (trade.charge is not None, trade.generated) > (
            old.charge is not None, old.generated,
        ):  # fmt: skip
            self.trades[trade.key] = trade

    def _add_action(self, action: Action, row: Row) -> None:
        self.first_days.add((action.account, self._day(row.statement.first_day)))
        self.actions.setdefault(_action_key(action), action)

    def _add_cash(self, row: Row) -> None:
        kind, text = (row.fields.get(name, "").upper() for name in ("type", "description"))
        summary = row.fields.get("levelOfDetail", "").upper() == "SUMMARY"
        says_so = RETURN_OF_CAPITAL in f"{kind} {text}" and WITHHOLDING not in kind
        counts = says_so or COMMISSIONS in kind
        names = tuple(f"{name} {text}" for name in _names(row))
        if counts and summary:
            self._sums.setdefault(names, Problem(
                "expected the transactions that this sums up, found none: let the query give the "
                "level of detail Detail", _shown(row),
            ))  # fmt: skip
        if summary or not counts:
            self.passed_over[row.section] += 1
            return
        self._told |= set(names)
        cash = read_cash(row, self.zone)
        self.cash.setdefault(
            (cash.account, cash.transaction_id or f"{cash.time} {cash.amount} {cash.text}"), cash
        )

    def _add_transfer(self, row: Row) -> None:
        if row.fields.get("assetCategory") == "CASH" or not row.fields.get("quantity", "").strip(
            "-0."
        ):
            self.passed_over[row.section] += 1
            return
        transfer = read_transfer(row, self.zone)
        key = (transfer.account, transfer.contract)
        if row.fields.get("levelOfDetail", "").upper() not in CLOSED:
            self._transferred.add(key)
            self._add_action(transfer, row)
        elif key in self._transferred:
            self.passed_over["Transfers (lots)"] += 1
        else:
            raise RowError("expected the transfer that this is a lot of, found none before it: "
                           "let the query give the level of detail Transfer")  # fmt: skip


_LEVELS = dict.fromkeys(("Trade", "TradeConfirm", "TradeConfirmation"), "EXECUTION")


def _action_key(action: Action) -> tuple[str, ...]:
    if action.transaction_id:
        return action.account, action.transaction_id
    facts = (action.contract.con_id, action.text, str(action.time), str(action.qty),
             action.report_date, str(action.cancelled))  # fmt: skip
    return (action.account, *facts)


_SHOWN = (
    "accountId", "symbol", "conid", "assetCategory", "levelOfDetail", "dateTime", "tradeDate",
    "reportDate", "buySell", "quantity", "position", "tradePrice", "price", "transactionType",
    "type", "ibExecID", "execID", "tradeID", "transactionID", "description", "amount",
)  # fmt: skip


def _names(row: Row) -> tuple[str, ...]:
    """Return what a row's instrument may be called, "" if it is of all of them."""
    said = (row.fields.get(name, "") for name in ("conid", "symbol"))
    return tuple(filter(None, said)) or ("",)


def _shown(row: Row) -> dict[str, str]:
    known = {name: row.fields[name] for name in _SHOWN if row.fields.get(name)}
    return {"section": row.section, **(known or dict(row.fields))}
