"""The rows of a call put in order, before anybody asks what is known already.

An execution may stand in several rows: revisions, cancellations, the same in another
file. Here they become one fill. Rows that mean nothing alone are left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from connectors.flex.actions import (
    MoveStep,
    RenameStep,
    SaleStep,
    SplitStep,
    Step,
    paid_id,
    steps,
)
from connectors.flex.contents import COMMISSIONS, Contents, Problem
from connectors.flex.known import Names
from connectors.flex.openings import Opening
from connectors.flex.openings import openings as find_openings
from connectors.flex.options import OptionEnds, is_end, option_ends
from connectors.flex.records import (
    OPTIONS,
    Action,
    Cancel,
    Cash,
    Contract,
    FlexLot,
    Trade,
)
from connectors.flex.times import read_time
from state.keys import parse_exec_id

Fields: TypeAlias = dict[str, str]
Key: TypeAlias = tuple[str, str]
"""Account and symbol."""

_KINDS = frozenset({"", "ExchTrade", "BookTrade", "DvpTrade", "FracShare", "FracShareCancel",
                    "TradeCorrect", "TradeCancel"})  # fmt: skip


class Planned(NamedTuple):
    """A message to publish once."""

    once_id: str
    fields: Fields
    version: str = ""


@dataclass
class Plan:
    """What an import is going to do."""

    messages: list[Planned] = field(default_factory=list)
    """Empty if they are published as they come."""
    counts: Counter[str] = field(default_factory=Counter)
    """Messages by type."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: int = 0
    """Rows passed over, as what they say is known."""


@dataclass(frozen=True)
class Asked:
    """What a call asks for."""

    ratios: Mapping[str, Fraction] = field(default_factory=dict)
    since: int | None = None
    """Rows before it are passed over; milliseconds, as of all times."""
    until: int | None = None
    """Rows from it on are passed over."""

    def has(self, time: int) -> bool:
        return (self.since is None or time >= self.since) and (
            self.until is None or time < self.until
        )


class Fill(NamedTuple):
    """An execution with all its rows: the highest revision, and what all of them cost."""

    trade: Trade
    identity: str
    revision: int
    charge: Decimal | None
    """With what its cancellations gave back."""
    busted: bool
    added: Decimal | None = None
    """What its rows add to the charge of its first row, which is in no file; None if it is."""


class Draft:
    """The rows of a call put in order, before what is known is asked for.

    cancelled: cancellations of earlier calls whose trades were not there.
    """

    def __init__(
        self,
        contents: Contents,
        asked: Asked,
        *,
        openings: bool = False,
        cancelled: Iterable[Cancel] = (),
    ) -> None:
        self.contents, self.asked = contents, asked
        self._cancelled = {cancel.key: cancel for cancel in cancelled}
        self.unmatched: list[Cancel] = []
        """Cancellations whose trades are in no file."""
        self.plan = Plan(problems=[*contents.problems, *contents.sums_alone()])
        trades = sorted(
            (trade for trade in contents.trades.values() if asked.has(trade.time)),
            key=lambda trade: trade.order,
        )
        self._actions = [each for each in contents.actions.values() if asked.has(each.time)]
        rows: tuple[Trade | FlexLot | Action, ...] = (
            *trades, *contents.open_lots, *contents.closed_lots, *self._actions,
        )  # fmt: skip
        contracts = _contracts(row.contract for row in rows)
        self.steps, problems = steps(self._actions, asked.ratios, contracts)
        self.plan.problems += problems
        self.cash = [each for each in contents.cash.values() if asked.has(each.time)]
        self.fills = self._fills(trades)
        self.ends: OptionEnds = option_ends(fill.trade for fill in self.fills if not fill.busted)
        self.plan.problems += self.ends.problems
        self.unexplained_orders = self._orders_alone(trades)
        """Order rows whose executions are in no file."""
        self.openings: list[Opening] = []
        if openings:
            counted = [fill.trade for fill in self.fills if not fill.busted]
            self.openings, problems = find_openings(contents, counted, self._first_moments())
            self.plan.problems += problems

    @property
    def identities(self) -> set[tuple[str, str]]:
        """Account and identity of all executions, to ask what is known of them."""
        return {(fill.trade.account, fill.identity) for fill in self.fills} | {
            (step.account, id_)
            for step in self.steps
            for id_ in (step.id, paid_id(step), *step.cancelled)
        }

    def watched(self, names: Names) -> set[Key]:
        """Return the keys whose lots must be known; gives all instruments their names."""
        self._name_all(names)
        keys = {(each.account, names.of(each.contract)) for each in self.openings}
        for step in self.steps:
            touched = {names.of(each) for each in _touched(step)}
            keys |= {(row.account, name) for row in step.rows for name in touched}
        keys |= {
            (cash.account, names.of(cash.contract))
            for cash in self.cash
            if COMMISSIONS not in cash.kind.upper()
        }
        return keys

    def _name_all(self, names: Names) -> None:
        for _, item in sorted(self._items(), key=lambda item: item[0]):
            if isinstance(item, SplitStep | RenameStep):
                called = item.called
                name = names.of(item.old, called)
                if names.known(item.new.con_id) is None and (
                    isinstance(item, SplitStep) or _same_ticker(item)
                ):
                    names.share(item.new, name)
                names.of(item.new)
            elif isinstance(item, MoveStep):
                names.of(item.source, item.called)
                for row, _ in item.targets:
                    names.of(row.contract)
            elif isinstance(item, SaleStep):
                names.of(item.contract)
            elif isinstance(item, Fill):
                names.of(item.trade.contract)

    def _first_moments(self) -> dict[str, int]:
        """Return when the files of each account begin."""
        first: dict[str, int] = {}
        for days in (self.contents.lot_days, self.contents.first_days):
            moments: dict[str, list[int]] = defaultdict(list)
            for account, day in days:
                if day:
                    moments[account].append(read_time(day, self.contents.zone))
            first |= {account: min(of_it) for account, of_it in moments.items()}
        return first

    def _items(self) -> "Iterator[tuple[tuple[int, ...], Item]]":
        for place, step in enumerate(self.steps):
            yield (step.time, 0, place, 0), step
        for place, cash in enumerate(self.cash):
            yield (cash.ex_time or cash.time, 0, -1, place), cash
        for place, fill in enumerate(self.fills):
            yield (*fill.trade.order[:1], 1, place, 0), fill

    def items(self) -> "list[tuple[tuple[int, ...], Item]]":
        """Return all that is to be done, in order; a place is time, 0 or 1, number."""
        return sorted(self._items(), key=lambda item: item[0])

    # --- executions with all their rows ----------------------------------------------------

    def _fills(self, trades: list[Trade]) -> list[Fill]:
        rows: dict[tuple[str, str], list[Trade]] = defaultdict(list)
        cancels: list[Cancel] = []
        for trade in trades:
            if trade.cancels and trade.kind != "FracShareCancel":
                cancels.append(Cancel.of(trade))
            elif reason := _unfit(trade):
                self._leave_out([trade], reason)
            else:
                rows[trade.account, parse_exec_id(trade.id).identity].append(trade)
        cancelled = self._cancellations(rows, cancels)
        fills = [
            fill
            for (account, identity), of_it in rows.items()
            if (fill := self._fill(identity, of_it, cancelled[account, identity]))
        ]
        return sorted(fills, key=lambda fill: fill.trade.order)

    def _fill(self, identity: str, rows: list[Trade], cancels: list[Cancel]) -> Fill | None:
        distinct: dict[tuple[str, str], Trade] = {}
        for row in rows:
            # A trade confirmation names no transaction: it is the row that names one.
            if row.transaction_id or not any(
                other.exec_id == row.exec_id and other.transaction_id for other in rows
            ):
                distinct[row.id, row.transaction_id] = row
        trade = max(distinct.values(), key=lambda row: parse_exec_id(row.id).revision or 1)
        same = [row for row in rows if row.id == trade.id]
        if len({(row.qty, row.price) for row in same}) > 1:
            self._leave_out(same, "expected rows of one execution id to agree, found others")
            return None
        charges = [row.charge for row in distinct.values() if row.charge is not None]
        charge = sum(charges, Decimal(0)) if charges else None
        revision = parse_exec_id(trade.id).revision or 1
        if cancels and self._is_busted(rows, cancels):
            return Fill(trade, identity, revision, charge, busted=True)
        if charge is None:
            return Fill(trade, identity, revision, charge, busted=False)
        refunded = charge + sum((cancel.charge for cancel in cancels), Decimal(0))
        if _has_first(rows, cancels):
            return Fill(trade, identity, revision, refunded, busted=False)
        return Fill(trade, identity, revision, charge, busted=False, added=refunded)

    def _cancellations(
        self, rows: Mapping[tuple[str, str], list[Trade]], cancels: Sequence[Cancel]
    ) -> Mapping[tuple[str, str], list[Cancel]]:
        """Return the cancellations of each execution."""
        by_trade = {
            (account, row.trade_id): (account, identity)
            for (account, identity), of_it in rows.items()
            for row in of_it
            if row.trade_id
        }
        here = {cancel.key: cancel for cancel in cancels}
        of: dict[tuple[str, str], list[Cancel]] = defaultdict(list)
        for key, cancel in (self._cancelled | here).items():
            found = next(
                (by_trade[cancel.account, each] for each in cancel.trade_ids
                 if (cancel.account, each) in by_trade), None,
            )  # fmt: skip
            if found is not None:
                of[found].append(cancel)
            elif key in here:
                self.unmatched.append(cancel)
                self._leave_out([cancel], "expected the trade that this cancels (its tradeID: "
                                "origTradeID), found none: it is kept out, or taken back, when "
                                "its file is imported")  # fmt: skip
        return of

    def _is_busted(self, rows: list[Trade], cancels: list[Cancel]) -> bool:
        """Tell whether cancellations leave nothing of an execution."""
        last = max(rows, key=_revision_and_booking)
        cancels = [cancel for cancel in cancels if not _is_before(cancel, last)]
        if not cancels:
            return False  # it was booked again, under the same id too
        revisions = {row.id for row in rows}
        hit = [c for c in cancels if (abs(c.qty), c.price) == (abs(last.qty), last.price)]
        alike = {row.id for row in rows if (row.qty, row.price) == (last.qty, last.price)}
        if len(hit) >= len(alike) and (
            len(revisions) > 1 or (parse_exec_id(last.id).revision == 1)
        ):
            return True
        if hit and parse_exec_id(last.id).revision is None:
            return True  # of an id of another shape, there is no revision
        if not hit and len(revisions) == 1 and parse_exec_id(last.id).revision in (1, None):
            self._leave_out(cancels, f"expected a cancellation of {last.qty:f} at "
                            f"{last.price:f}, found another quantity or price")  # fmt: skip
        return False  # it cancels an earlier revision, which the later one replaces

    def _orders_alone(self, trades: list[Trade]) -> list[Trade]:
        told: set[tuple[object, ...]] = {(trade.account, trade.order_id) for trade in trades}
        told |= {(trade.account, trade.contract, trade.time) for trade in trades}
        alone = [
            order
            for order in self.contents.orders
            if self.asked.has(order.time) and told.isdisjoint(
                {(order.account, order.order_id), (order.account, order.contract, order.time)}
            )
        ]  # fmt: skip
        self._leave_out(alone, "expected the executions that this order sums up, found none: let "
                        "the query give the level of detail Execution")  # fmt: skip
        return alone

    def _leave_out(self, rows: Sequence[Trade | Cancel], reason: str) -> None:
        self.plan.problems += [Problem(reason, row.shown) for row in rows]


Item: TypeAlias = Step | Cash | Fill


def _booking(row: Trade | Cancel) -> int:
    """Return the place of a row among the broker's bookings; 0 if it does not say."""
    return int(row.transaction_id) if row.transaction_id.isdigit() else 0


def _is_before(cancel: Cancel, row: Trade) -> bool:
    """Tell whether a cancellation was booked before a row, so that it is of another one."""
    return 0 < _booking(cancel) < _booking(row)


def _has_first(rows: Iterable[Trade], cancels: Iterable[Cancel]) -> bool:
    """Tell whether the row that all others of an execution change is among its rows."""
    first = min(rows, key=_revision_and_booking)
    changed = any(_is_before(cancel, first) for cancel in cancels)
    return not changed and parse_exec_id(first.id).revision in (1, None)


def _revision_and_booking(row: Trade) -> tuple[int, int]:
    return parse_exec_id(row.id).revision or 1, _booking(row)


def _unfit(trade: Trade) -> str:
    if trade.kind not in _KINDS and not trade.exec_id:
        return f"transactionType: expected one of {', '.join(sorted(_KINDS))}, found {trade.kind!r}"
    if not (trade.exec_id or trade.transaction_id or trade.trade_id):
        return "expected ibExecID, transactionID or tradeID to know it again by, found none"
    if trade.kind == "TradeCorrect" and not trade.exec_id:
        return "expected a corrected trade to have an ibExecID, found none"
    if not trade.contract.symbol or not trade.contract.currency:
        return "expected symbol and currency, found none"
    return _unfit_end(trade)


def _unfit_end(trade: Trade) -> str:
    if trade.kind not in ("", "BookTrade") or trade.price or is_end(trade):
        return ""
    if trade.pnl is None or trade.cost is None:
        expired = "EP" in {note.upper() for note in trade.notes}
        if trade.contract.sec_type in OPTIONS and not (expired or trade.exec_id):
            return ("notes: expected Ep, A or Ex, to know whether the option expired, was assigned "
                    "or exercised, found none: let the query give Notes/Codes")  # fmt: skip
    elif trade.kind and abs(missing := trade.cost - trade.pnl) > Decimal("0.01"):
        return (f"expected a booked trade at 0 to realize its cost, found a P&L that differs "
                f"by {missing:f}")  # fmt: skip
    return ""


def _contracts(contracts: Iterable[Contract]) -> dict[str, Contract]:
    """Return contracts by what a text may call them; the first of a name counts."""
    found: dict[str, Contract] = {}
    for contract in contracts:
        for name in filter(None, (contract.isin, contract.symbol)):
            found.setdefault(name, contract)
            found.setdefault(f"{name} {contract.currency}", contract)
    return found


def _touched(step: Step) -> list[Contract]:
    if isinstance(step, RenameStep | SplitStep):
        return [step.old, step.new]
    if isinstance(step, MoveStep):
        return [step.source, *(row.contract for row, _ in step.targets)]
    return []


def _same_ticker(step: RenameStep) -> bool:
    return step.new.symbol in (step.old.symbol, step.called)
