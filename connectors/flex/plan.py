"""From the rows of Flex files to stream messages, each once: the rules of an import.

Rows are taken in order of time. What is known already is passed over by its identity.
What moves between keys lot by lot needs to know what they held, so the keys that
corporate actions touch are booked along. A row that cannot be said in messages is left
out with its reason; nothing is guessed.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from connectors.flex.actions import (
    LeftOutStep,
    MoveStep,
    RenameStep,
    SaleStep,
    SplitStep,
    Step,
    steps,
)
from connectors.flex.contents import COMMISSIONS, Contents, Problem
from connectors.flex.known import Known, KnownEvent, KnownExecution, Names, book
from connectors.flex.lots import Held, Holding, exact_text, spread
from connectors.flex.openings import Opening
from connectors.flex.openings import openings as find_openings
from connectors.flex.options import OptionEnds, option_ends
from connectors.flex.records import Cash, Contract, Trade, plain
from connectors.flex.times import read_time
from state.keys import parse_exec_id

Fields: TypeAlias = dict[str, str]
Key: TypeAlias = tuple[str, str]
"""Account and symbol."""

_KINDS = frozenset({"", "ExchTrade", "BookTrade", "DvpTrade", "FracShare", "FracShareCancel",
                    "TradeCorrect", "TradeCancel"})  # fmt: skip
_PER_SHARE = re.compile(r"(\d+(?:\.\d+)?) PER SHARE")
_REFUND = re.compile(r"\((?P<symbol>.+), (?P<qty>-?[\d.,]+), (?P<date>\d{4}-\d\d-\d\d)\)")
_HALF_A_CENT = Fraction(501, 100_000)


class Planned(NamedTuple):
    """A message to publish once."""

    once_id: str
    fields: Fields
    version: str = ""


@dataclass
class Plan:
    """What an import is going to do."""

    messages: list[Planned] = field(default_factory=list)
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


class _Fill(NamedTuple):
    """An execution with all its rows: the highest revision, and what all of them cost."""

    trade: Trade
    identity: str
    revision: int
    charge: Decimal | None
    busted: bool


class Draft:
    """The rows of a call put in order, before what is known is asked for."""

    def __init__(self, contents: Contents, asked: Asked, *, openings: bool = False) -> None:
        self.contents, self.asked = contents, asked
        self.plan = Plan(problems=list(contents.problems))
        trades = sorted(
            (trade for trade in contents.trades.values() if asked.has(trade.time)),
            key=lambda trade: trade.order,
        )
        self._actions = [each for each in contents.actions.values() if asked.has(each.time)]
        self.steps, problems = steps(self._actions, asked.ratios, _contracts(trades, self._actions))
        self.plan.problems += problems
        self.cash = [each for each in contents.cash.values() if asked.has(each.time)]
        self.fills = self._fills(trades)
        self.ends: OptionEnds = option_ends(fill.trade for fill in self.fills)
        self.plan.problems += self.ends.problems
        self._note_orders(trades)
        self.openings: list[Opening] = []
        if openings:
            counted = [fill.trade for fill in self.fills if not fill.busted]
            self.openings, problems = find_openings(contents, counted, self._first_moments())
            self.plan.problems += problems

    @property
    def identities(self) -> set[tuple[str, str]]:
        """Account and identity of all executions, to ask what is known of them."""
        return {(fill.trade.account, fill.identity) for fill in self.fills}

    def watched(self, names: Names) -> set[Key]:
        """Return the keys whose lots must be known; gives all instruments their names."""
        self._name_all(names)
        keys = {(each.account, names.of(each.contract)) for each in self.openings}
        for step in self.steps:
            if isinstance(step, MoveStep | RenameStep):
                keys |= {(step.account, names.of(each)) for each in _touched(step)}
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
                    names.give(item.new, name)
                names.of(item.new)
            elif isinstance(item, MoveStep):
                names.of(item.source, item.called)
                for row, _ in item.targets:
                    names.of(row.contract)
            elif isinstance(item, SaleStep):
                names.of(item.contract)
            elif isinstance(item, _Fill):
                names.of(item.trade.contract)

    def _first_moments(self) -> dict[str, int]:
        """Return when the files of each account begin."""
        first: dict[str, int] = {}
        for account, day, _ in self.contents.statements:
            if day:
                moment = read_time(day, self.contents.zone)
                first[account] = min(first.get(account, moment), moment)
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

    def _fills(self, trades: list[Trade]) -> list[_Fill]:
        rows: dict[tuple[str, str], list[Trade]] = defaultdict(list)
        cancels: list[Trade] = []
        for trade in trades:
            if trade.cancels and trade.kind != "FracShareCancel":
                cancels.append(trade)
            elif reason := _unfit(trade):
                self._leave_out([trade], reason)
            else:
                rows[trade.account, parse_exec_id(trade.id).identity].append(trade)
        busted = self._busted(rows, cancels)
        fills = [
            fill
            for (account, identity), of_it in rows.items()
            if (fill := self._fill(identity, of_it, busted=(account, identity) in busted))
        ]
        return sorted(fills, key=lambda fill: fill.trade.order)

    def _fill(self, identity: str, rows: list[Trade], *, busted: bool) -> _Fill | None:
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
        return _Fill(trade, identity, parse_exec_id(trade.id).revision or 1, charge, busted)

    def _busted(
        self, rows: Mapping[tuple[str, str], list[Trade]], cancels: Sequence[Trade]
    ) -> set[tuple[str, str]]:
        """Return the executions that cancellations leave nothing of."""
        by_trade = {
            (account, row.trade_id): (account, identity)
            for (account, identity), of_it in rows.items()
            for row in of_it
            if row.trade_id
        }
        of: dict[tuple[str, str], list[Trade]] = defaultdict(list)
        for cancel in cancels:
            ids = (cancel.cancelled_id, cancel.trade_id)
            found = next(
                (by_trade[cancel.account, each] for each in ids
                 if (cancel.account, each) in by_trade), None,
            )  # fmt: skip
            if found is None:
                self._leave_out([cancel], "expected the trade that this cancels (its tradeID: "
                                "origTradeID), found none: import its file together with "
                                "this one")  # fmt: skip
            else:
                of[found].append(cancel)
        return {found for found, those in of.items() if self._is_busted(rows[found], those)}

    def _is_busted(self, rows: list[Trade], cancels: list[Trade]) -> bool:
        last = max(rows, key=lambda row: parse_exec_id(row.id).revision or 1)
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

    def _note_orders(self, trades: list[Trade]) -> None:
        told = {(trade.account, trade.order_id) for trade in trades}
        told |= {(trade.account, trade.contract.con_id, trade.time) for trade in trades}  # type: ignore[misc]
        for order in self.contents.orders:
            facts = (order.account, order.contract.con_id, order.time)
            if (
                self.asked.has(order.time)
                and not order.cancels
                and not ({(order.account, order.order_id), facts} & told)
            ):
                self._leave_out([order], "expected the executions that this order sums up, found "
                                "none: let the query give the level of detail Execution")  # fmt: skip

    def _leave_out(self, rows: Sequence[Trade], reason: str) -> None:
        self.plan.problems += [Problem(reason, row.shown) for row in rows]


Item: TypeAlias = Step | Cash | _Fill


def _unfit(trade: Trade) -> str:
    if trade.kind not in _KINDS and not trade.exec_id:
        return f"transactionType: expected one of {', '.join(sorted(_KINDS))}, found {trade.kind!r}"
    if not (trade.exec_id or trade.transaction_id or trade.trade_id):
        return "expected ibExecID, transactionID or tradeID to know it again by, found none"
    if trade.kind == "TradeCorrect" and not trade.exec_id:
        return "expected a corrected trade to have an ibExecID, found none"
    if not trade.contract.symbol or not trade.contract.currency:
        return "expected symbol and currency, found none"
    booked_at_0 = trade.kind == "BookTrade" and trade.price == 0 and trade.pnl is not None
    if booked_at_0 and trade.cost is not None and not {"A", "Ex", "GEA"} & trade.notes:
        missing = trade.cost - (trade.pnl or 0)
        if abs(missing) > Decimal("0.01"):
            return (f"expected a booked trade at 0 to realize its cost, found a P&L that differs "
                    f"by {missing:f}")  # fmt: skip
    return ""


def _contracts(trades: Sequence[Trade], actions: Sequence[object]) -> dict[str, Contract]:
    found: dict[str, Contract] = {}
    for row in (*trades, *actions):
        contract: Contract = row.contract  # type: ignore[attr-defined]
        for name in (contract.isin, contract.symbol):
            if name:
                found.setdefault(name, contract)
    return found


def _touched(step: MoveStep | RenameStep) -> list[Contract]:
    if isinstance(step, RenameStep):
        return [step.old, step.new]
    return [step.source, *(row.contract for row, _ in step.targets)]


def _same_ticker(step: RenameStep) -> bool:
    return step.new.symbol in (step.old.symbol, step.called)


# --- messages -------------------------------------------------------------------------------


class Planner:
    """Turns a draft into messages, knowing what was known before."""

    def __init__(self, draft: Draft, known: Known, names: Names, watched: set[Key]) -> None:
        self._draft, self._known, self._names = draft, known, names
        self._plan = draft.plan
        self._holdings = {key: Holding() for key in watched}
        self._refunds: dict[tuple[str, ...], tuple[Decimal, int]] = {}
        self._odd_times = 0
        self._opened_since = dict(known.opened_since)

    def plan(self) -> Plan:
        """Return what the import is going to do."""
        items: list[tuple[tuple[int, ...], Item | tuple[Key, KnownEvent]]] = []
        items += self._draft.items()
        for event_key, event in self._history():
            # Openings are booked before all else, whatever their time.
            time = -1 if event.kind == "opening" else event.time
            items.append(((time, *_PLACE_OF.get(event.kind, (1, -1)), 0), (event_key, event)))
        items.sort(key=lambda item: item[0])
        self._find_refunds()
        self._take_openings()
        for _, item in items:
            match item:
                case _Fill():
                    self._take_fill(item)
                case SplitStep():
                    self._take_split(item)
                case SaleStep():
                    self._take_sale(item)
                case MoveStep():
                    self._take_move(item)
                case RenameStep():
                    self._take_rename(item)
                case LeftOutStep():
                    self._leave_out(item)
                case Cash():
                    self._take_cash(item)
                case (key, event):
                    book(self._holdings[key], event)
        if self._odd_times:
            self._plan.notes.append(
                f"{self._odd_times} executions are known with another time than the files': is "
                f"--timezone right?"
            )
        return self._plan

    def _history(self) -> Iterator[tuple[Key, KnownEvent]]:
        mine = self._draft.identities
        own = tuple(f"{step.id}" for step in self._draft.steps)
        for key, events in self._known.events.items():
            for event in events:
                told_here = (key[0], event.id) in mine or (
                    event.kind != "execution" and own and _begins(event.id, own)
                )
                if key in self._holdings and not told_here:
                    yield key, event

    # --- executions ---

    def _take_fill(self, fill: _Fill) -> None:
        trade, ends = fill.trade, self._draft.ends
        if trade.key in ends.left_out:
            return
        symbol = self._names.of(trade.contract)
        if trade.key in ends.leave:
            fields = self._common("transfer", trade.account, symbol, trade.time, trade.id)
            self._put(trade.id, {**fields, "direction": "OUT", "qty": plain(abs(trade.qty))})
            self._watch((trade.account, symbol), KnownEvent(trade.time, "out", "", trade.qty))
            return
        if trade.time < self._opened_since.get((trade.account, symbol), 0):
            self._problem(trade, "expected nothing from before what an opening stands for already, "
                          "found this")  # fmt: skip
            return
        price = ends.settled.get(trade.key, trade.price)
        charge = None if trade.key in ends.settled and trade.price == 0 else fill.charge
        adjustment = ends.adjustments.get(trade.key, "")
        known = self._known.execution(trade.account, fill.identity)
        if fill.busted:
            self._take_bust(fill, symbol, known)
            return
        if known is not None:
            symbol = known.symbol
        self._watch((trade.account, symbol), _event_of(fill, price, charge, adjustment))
        fields = self._execution(trade, symbol, price, charge, adjustment)
        revision = known and (parse_exec_id(known.exec_id).revision or 1)
        if known is None or revision is None or fill.revision > revision:
            self._put(trade.id, fields, version=adjustment)
        elif fill.revision < revision:
            self._plan.known += 1
        else:
            self._compare(fill, known, fields)
        self._refund(fill, symbol)

    def _compare(self, fill: _Fill, known: KnownExecution, fields: Fields) -> None:
        """Pass over what is known; complete it if it lacks what an option's end added."""
        trade, ours = fill.trade, Decimal(fields.get("basis_adjustment", "0"))
        price = Decimal(fields["fill_price"])
        if (known.qty, known.price) != (Decimal(plain(trade.qty)), price):
            self._problem(trade, f"expected {known.qty:f} at {known.price:f}, as it is known under "
                          f"this id, found {trade.qty:f} at {price:f}")  # fmt: skip
            return
        self._odd_times += known.time != trade.time
        if ours and not known.adjustment:
            completing = {**fields, "timestamp": str(known.time)}
            completing.pop("commission", None)
            completing.pop("commission_currency", None)
            self._put(trade.id, completing, version=fields["basis_adjustment"])
        elif ours != known.adjustment:
            self._problem(trade, f"expected an adjustment of {known.adjustment:f}, as it is known, "
                          f"found {ours:f}")  # fmt: skip
            return
        if fill.trade.key not in self._refunds and "commission" in fields:
            self._report(fill, known.symbol, Decimal(fields["commission"]), trade.time, known)
        self._plan.known += 1

    def _report(
        self, fill: _Fill, symbol: str, charge: Decimal, time: int, known: KnownExecution | None
    ) -> None:
        trade = fill.trade
        currency = trade.charge_currency or trade.contract.currency
        text = plain(charge)
        if known is not None:
            same = known.commission == Decimal(text) and known.commission_currency == currency
            if same or known.commission_time > time:
                return
        fields = self._common("commission", trade.account, symbol, time, trade.id)
        fields |= {"commission": text, "currency": currency}
        self._put(f"commission:{trade.id}", fields, version=f"{text} {currency}")

    def _take_bust(self, fill: _Fill, symbol: str, known: KnownExecution | None) -> None:
        trade, told = fill.trade, parse_exec_id(fill.trade.id)
        if known is not None and known.qty == 0:
            self._plan.known += 1
        elif told.revision is None and known is None:
            self._plan.notes.append(f"{trade.id} was cancelled before it was published")
        elif told.revision is None:
            self._problem(trade, "expected an execution id with a revision, as the trade is "
                          "cancelled and known already, found none")  # fmt: skip
        else:
            seen = max(fill.revision, (known and parse_exec_id(known.exec_id).revision) or 1)
            bust = f"{fill.identity[:-2]}{seen + 1:02d}"
            fields = self._execution(trade, symbol, trade.price, None, "")
            if known is None:
                charged = self._execution(trade, symbol, trade.price, fill.charge, "")
                self._put(trade.id, charged)
            self._put(bust, {**fields, "exec_id": bust, "fill_qty": "0"})

    def _execution(
        self, trade: Trade, symbol: str, price: Decimal | Fraction, charge: Decimal | None,
        adjustment: str,
    ) -> Fields:  # fmt: skip
        contract = trade.contract
        currency = trade.charge_currency
        fields = {
            "symbol": symbol, "account": trade.account,
            "side": "BUY" if trade.qty > 0 else "SELL", "fill_qty": plain(abs(trade.qty)),
            "fill_price": plain(Decimal(price)) if isinstance(price, Decimal)
            else exact_text(price, 10),
            "order_id": trade.order_id if trade.order_id.isdigit() else "0", "exec_id": trade.id,
            "timestamp": str(trade.time), "con_id": contract.con_id,
            "sec_type": contract.sec_type, "currency": contract.currency,
            "exchange": trade.exchange, "multiplier": _multiplier(contract),
            "order_ref": trade.order_ref, "commission": "" if charge is None else plain(charge),
            "commission_currency": "" if charge is None or currency == contract.currency
            else currency,
            "basis_adjustment": adjustment,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value}

    # --- what is laid on positions ---

    def _take_openings(self) -> None:
        for opening in self._draft.openings:
            key = (opening.account, self._names.of(opening.contract))
            events = self._known.events.get(key, ())
            if any(event.kind != "opening" and event.time < opening.since for event in events):
                reason = "expected nothing known of what was before, found messages of that time"
            elif any(event.kind == "opening" and not event.id.startswith(f"flex-open-"
                     f"{opening.since}-") for event in events):  # fmt: skip
                reason = "expected no opening that is known already, found one"
            else:
                self._open(opening, key)
                continue
            self._plan.problems.append(Problem(reason, opening.lot.shown))

    def _open(self, opening: Opening, key: Key) -> None:
        lot = opening.lot
        fields = self._common("opening", *key, lot.opened, opening.id)
        contract = lot.contract
        fields |= {
            "qty": plain(lot.qty), "cost_basis": plain(lot.cost), "con_id": contract.con_id,
            "sec_type": contract.sec_type, "currency": contract.currency,
            "multiplier": _multiplier(contract),
        }  # fmt: skip
        self._put(opening.id, {name: value for name, value in fields.items() if value})
        event = KnownEvent(lot.opened, "opening", opening.id, lot.qty, lot.cost)
        if not any(each.id == opening.id for each in self._known.events.get(key, ())):
            self._watch(key, event)

    def _find_refunds(self) -> None:
        """Find the execution that each refunded commission was paid for."""
        for cash in self._draft.cash:
            if COMMISSIONS not in cash.kind.upper():
                continue
            match = _REFUND.search(cash.text)
            fills = [
                fill for fill in self._draft.fills if match and _is_refunded(fill, cash, match)
            ]
            if len(fills) != 1 or fills[0].charge is None:
                self._plan.problems.append(
                    Problem(
                        f"expected one execution that this refunds, found {len(fills)}", cash.shown
                    )  # fmt: skip
                )
                continue
            key = fills[0].trade.key
            left, _ = self._refunds.get(key, (fills[0].charge, 0))
            self._refunds[key] = left - cash.amount, cash.time

    def _refund(self, fill: _Fill, symbol: str) -> None:
        if fill.trade.key in self._refunds:
            charge, time = self._refunds[fill.trade.key]
            known = self._known.execution(fill.trade.account, fill.identity)
            self._report(fill, symbol, charge, time, known)

    def _take_cash(self, cash: Cash) -> None:
        if COMMISSIONS in cash.kind.upper():
            return
        symbol, found = self._names.of(cash.contract), _PER_SHARE.search(cash.text.upper())
        key = (cash.account, symbol)
        held = self._holdings[key].qty
        if found is None:
            self._problem(cash, "expected how much was paid PER SHARE, found nothing of it")
            return
        per_share = Fraction(found[1])
        for sign in (-1, 1):  # a reversal takes it back
            if abs(sign * held * per_share + Fraction(cash.amount)) < _HALF_A_CENT and held:
                time, per_unit = cash.ex_time or cash.time, sign * per_share
                id_ = f"flex-{cash.transaction_id or f'{cash.time}-{found[1]}'}"
                fields = self._common("cost", cash.account, symbol, time, id_)
                text = exact_text(per_unit / Fraction(cash.contract.multiplier), 10)
                self._put(id_, {**fields, "per_unit": text})
                self._watch(key, KnownEvent(time, "cost", id_, value=per_unit))
                return
        entitled = exact_text(Fraction(cash.amount) / per_share, 4) if per_share else "?"
        self._problem(cash, f"expected to hold the {entitled} that were paid for, found "
                      f"{exact_text(held, 10)}: import what was traded before")  # fmt: skip

    # --- corporate actions ---

    def _leave_out(self, step: LeftOutStep) -> None:
        self._plan.problems += [Problem(step.reason, row.shown) for row in step.rows]
        for contract in step.touched:
            key = (step.account, self._names.known(contract.con_id) or contract.symbol)
            if key in self._holdings:
                self._holdings[key].unclear = step.id

    def _take_split(self, step: SplitStep) -> None:
        symbol, moved = self._names.of(step.old), self._names.of(step.new)
        if symbol != moved:
            self._move(step, step.old, [(step.new, Fraction(1), None)])
            return
        fields = self._common("split", step.account, symbol, step.time, step.id)
        places = {} if step.places is None else {"places": str(step.places)}
        self._put(step.id, {**fields, "ratio": step.ratio, **places})
        key = (step.account, symbol)
        if key in self._holdings:
            new, old = map(int, step.ratio.split(":"))
            self._holdings[key].split(
                Fraction(new, old), 10 if step.places is None else step.places
            )
        self._say_number(step, symbol, step.old, step.new)

    def _say_number(self, step: Step, symbol: str, old: Contract, new: Contract) -> None:
        if new.con_id and new.con_id != old.con_id:
            id_ = f"{step.id}-{new.con_id}"
            fields = self._common("instrument", step.account, symbol, step.time, "")
            self._put(id_, {**fields, "con_id": new.con_id})

    def _take_sale(self, step: SaleStep) -> None:
        symbol = self._names.of(step.contract)
        row = step.rows[0]
        fields = {
            "symbol": symbol, "account": step.account, "side": "BUY" if step.qty > 0 else "SELL",
            "fill_qty": exact_text(abs(step.qty), 10), "fill_price": exact_text(step.price, 10),
            "order_id": "0", "exec_id": step.id, "timestamp": str(step.time),
            "con_id": step.contract.con_id, "sec_type": step.contract.sec_type,
            "currency": step.contract.currency, "multiplier": _multiplier(step.contract),
        }  # fmt: skip
        known = self._known.execution(step.account, step.id)
        if known is not None and (known.qty, known.price) != (
            row.qty, Decimal(fields["fill_price"])
        ):  # fmt: skip
            self._plan.problems.append(
                Problem(
                    f"expected {known.qty:f} at {known.price:f}, as it is known, found "
                    f"{row.qty:f} at {fields['fill_price']}",
                    row.shown,
                )  # fmt: skip
            )
            return
        value = step.qty * step.price * Fraction(step.contract.multiplier)
        event = KnownEvent(step.time, "execution", step.id, step.qty, value)
        self._watch((step.account, symbol), event)
        if known is None:
            self._put(step.id, {name: value for name, value in fields.items() if value})
        else:
            self._plan.known += 1

    def _take_rename(self, step: RenameStep) -> None:
        symbol, moved = self._names.of(step.old), self._names.of(step.new)
        if symbol == moved:
            self._say_number(step, symbol, step.old, step.new)
            return
        self._move(step, step.old, [(step.new, Fraction(1), None)])

    def _take_move(self, step: MoveStep) -> None:
        if step.note:
            self._plan.notes.append(f"{step.id}: {step.note}")
        targets = [
            (row.contract, share or Fraction(0), Fraction(row.qty)) for row, share in step.targets
        ]
        self._move(step, step.source, targets)

    def _move(
        self, step: Step, source: Contract,
        targets: Sequence[tuple[Contract, Fraction, Fraction | None]],
    ) -> None:  # fmt: skip
        """Let lots, or a share of their cost, go from one key into others."""
        key = (step.account, self._names.of(source))
        holding = self._holdings[key]
        leaves = next(
            (Fraction(row.qty) for row in step.rows if row.contract.con_id == source.con_id), None
        )
        reason = _why_not(holding, leaves)
        if reason:
            self._plan.problems += [Problem(reason, row.shown) for row in step.rows]
            return
        given = sum((share for _, share, _ in targets), Fraction(0))
        stays = 1 - given if leaves is None else Fraction(0)
        if leaves is None and stays == 1:
            lots = list(holding.lots)
        else:
            lots = holding.leave(None if leaves is None else abs(leaves))
            gone = abs(sum((lot.qty for lot in lots), Fraction(0)))
            fields = self._common("transfer", *key, step.time, step.id)
            self._put(step.id, {**fields, "direction": "OUT", "qty": exact_text(gone, 10)})
        costs = [lot.net_cost for lot in lots]
        if leaves is None and stays != 1:
            self._join(step, key, "kept", [lot.qty for lot in lots], lots,
                       [cost * stays for cost in costs])  # fmt: skip
        whole = sum((lot.qty for lot in lots), Fraction(0))
        for number, (contract, share, comes) in enumerate(targets):
            total = abs(whole if comes is None else comes) * (1 if whole > 0 else -1)
            into = (step.account, self._names.of(contract))
            qtys = spread(total, [abs(lot.qty) for lot in lots])
            self._join(step, into, f"in{number}", qtys, lots, [cost * share for cost in costs])

    def _join(
        self, step: Step, key: Key, part: str, qtys: Sequence[Fraction], lots: Sequence[Held],
        costs: Sequence[Fraction],
    ) -> None:  # fmt: skip
        total = sum(costs, Fraction(0))
        run, given = Fraction(0), Fraction(0)
        for number, (qty, lot, cost) in enumerate(zip(qtys, lots, costs, strict=True), start=1):
            run += cost
            text = exact_text((total if number == len(lots) else run) - given, 10)
            given += Fraction(text)
            if not qty:
                continue
            id_ = f"{step.id}-{part}-{number}"
            fields = self._common("transfer", *key, step.time, id_)
            fields |= {"direction": "IN", "qty": exact_text(qty, 10), "cost_basis": text,
                       "opened": str(lot.opened)}  # fmt: skip
            self._put(id_, fields)
            event = KnownEvent(step.time, "in", id_, qty, Fraction(text), opened=lot.opened)
            self._watch(key, event)

    # --- helpers ---

    def _common(self, kind: str, account: str, symbol: str, time: int, id_: str) -> Fields:
        fields = {"type": kind, "symbol": symbol, "account": account, "timestamp": str(time),
                  "exec_id": id_}  # fmt: skip
        return {name: value for name, value in fields.items() if value}

    def _put(self, once_id: str, fields: Fields, version: str = "") -> None:
        kind = fields.get("type", "")
        account = fields.get("account", "")
        if kind in _ONCE and (kind, account, fields.get("exec_id", "")) in self._known.others:
            self._plan.known += 1
            return
        prefix = f"{kind}:" if kind in (*_ONCE, "instrument") else ""
        self._plan.messages.append(Planned(f"{prefix}{once_id}", fields, version))

    def _watch(self, key: Key, event: KnownEvent) -> None:
        if key in self._holdings:
            book(self._holdings[key], event)

    def _problem(self, row: Trade | Cash, reason: str) -> None:
        self._plan.problems.append(Problem(reason, row.shown))


_ONCE = ("opening", "split", "cost", "transfer")
_PLACE_OF = {"split": (0, -2), "cost": (0, -2), "out": (0, -2), "in": (0, -2), "opening": (-1, 0)}
"""Where what is known stands among what a file tells of the same time."""


def _begins(id_: str, own: tuple[str, ...]) -> bool:
    return any(id_ == each or id_.startswith(f"{each}-") for each in own)


def _event_of(fill: _Fill, price: Decimal, charge: Decimal | None, adjustment: str) -> KnownEvent:
    trade = fill.trade
    value = Fraction(trade.qty) * Fraction(price) * Fraction(trade.contract.multiplier)
    own = trade.charge_currency in ("", trade.contract.currency)
    borne = Fraction(charge or 0) * own + Fraction(adjustment or 0)
    return KnownEvent(trade.time, "execution", fill.identity, trade.qty, value, borne)


def _is_refunded(fill: _Fill, cash: Cash, match: re.Match[str]) -> bool:
    trade = fill.trade
    day = datetime.fromtimestamp(trade.time / 1000, UTC).date()
    asked = datetime.strptime(match["date"], "%Y-%m-%d").replace(tzinfo=UTC).date()
    return (
        trade.account == cash.account
        and match["symbol"] in (trade.contract.symbol, cash.contract.symbol)
        and trade.contract.symbol == (cash.contract.symbol or match["symbol"])
        and trade.qty == Decimal(match["qty"].replace(",", ""))
        and abs((day - asked).days) <= 1
    )


def _why_not(holding: Holding, leaves: Fraction | None) -> str:
    held = holding.qty
    if holding.unclear:
        return (f"expected to know each lot, found that the entry of {holding.unclear} is no "
                f"longer on the stream: publish the transfers yourself")  # fmt: skip
    if leaves is None:
        return "" if held else (
            "expected a position in what the text names first, found none: import what was "
            "traded before, or its openings"
        )  # fmt: skip
    if (held > 0) == (leaves < 0) and abs(held) >= abs(leaves) and held:
        return ""
    return (
        f"expected to hold the {exact_text(-leaves, 10)} that go, found {exact_text(held, 10)}: "
        f"import what was traded before, or its openings"
    )


def _multiplier(contract: Contract) -> str:
    text = plain(contract.multiplier)
    return "" if text == "1" else text
