"""From the rows of Flex files to stream messages, each once: the rules of an import.

Rows are taken in order of time. What is known already is passed over by its identity.
What moves between keys lot by lot needs to know what they held, so the keys that
corporate actions touch are booked along. A row that cannot be said in messages is left
out with its reason; nothing is guessed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

from connectors.flex.actions import (
    LeftOutStep,
    MoveStep,
    RenameStep,
    SaleStep,
    SplitStep,
    Step,
    paid_id,
    places_for,
)
from connectors.flex.contents import COMMISSIONS, Problem
from connectors.flex.draft import Draft, Fields, Fill, Key, Plan, Planned
from connectors.flex.known import Known, KnownEvent, KnownExecution, Names, book
from connectors.flex.lots import Held, Holding, exact_text, moved
from connectors.flex.openings import Opening
from connectors.flex.records import TRANSFER, Action, Cash, Contract, Trade, plain
from state.keys import parse_exec_id

_PER_SHARE = re.compile(r"(\d+(?:\.\d+)?) (?:[A-Z]{3} )?PER SHARE")
_OLD_PER_SHARE = re.compile(r"DIVIDEND [A-Z]{3} (\d+\.\d+)")
_REFUND = re.compile(r"\((?P<symbol>.+), (?P<qty>-?[\d.,]+), (?P<date>\d{4}-\d\d-\d\d)\)")
_BEFORE_OPENING = "expected nothing from before what an opening stands for already, found this"
_ROUNDING = Fraction(1, 1000)
"""By how much rounded splits before may make our position differ from the broker's."""
_HALF_A_CENT = Fraction(501, 100_000)


class Planner:
    """Turns a draft into messages, knowing what was known before.

    emit: given each message in its order; by default the plan keeps them.
    """

    def __init__(
        self,
        draft: Draft,
        known: Known,
        names: Names,
        watched: set[Key],
        emit: Callable[[Planned], None] | None = None,
    ) -> None:
        self._draft, self._known, self._names = draft, known, names
        self._plan = draft.plan
        self._emit = emit or self._plan.messages.append
        self._holdings = {key: Holding() for key in watched}
        self._refunds: dict[tuple[str, ...], tuple[Decimal, int]] = {}
        self._odd_times = 0
        self._opened_since = dict(known.opened_since)

    def plan(self) -> Plan:
        """Return what the import is going to do."""
        take: dict[type, Callable[[Any], None]] = {
            Fill: self._take_fill, SplitStep: self._take_split, SaleStep: self._take_sale,
            MoveStep: self._take_move, RenameStep: self._take_rename,
            LeftOutStep: self._leave_out, Cash: self._take_cash, Step: lambda _: None,
        }  # fmt: skip
        self._take_openings()
        acts = []
        for place, item in self._draft.items():
            taken = self._unless_told(item) if isinstance(item, Step) else item
            acts.append((place, partial(take[type(taken)], taken)))
        for key, event in self._history():
            # Openings are booked before all else, whatever their time.
            time = -1 if event.kind == "opening" else event.time
            place = (time, *_PLACE_OF.get(event.kind, (1, -1)), 0)
            acts.append((place, partial(book, self._holdings[key], event)))
        self._find_refunds()
        for _, act in sorted(acts, key=lambda act: act[0]):
            act()
        if self._odd_times:
            self._plan.notes.append(
                f"{self._odd_times} executions are known with another time than the files': is "
                f"--timezone right?"
            )
        return self._plan

    def _history(self) -> Iterator[tuple[Key, KnownEvent]]:
        """Yield what is known of the watched keys and no row of this call tells."""
        mine, own = self._draft.identities, {step.id for step in self._draft.steps}
        own |= {cash.id for cash in self._draft.cash}
        for key in self._holdings:
            for event in self._known.events.get(key, ()):
                told_here = (key[0], event.id) in mine or not own.isdisjoint(_stems(event.id))
                if not told_here:
                    yield key, event

    # --- executions ---

    def _take_fill(self, fill: Fill) -> None:
        trade, ends = fill.trade, self._draft.ends
        symbol = self._names.of(trade.contract)
        known = self._known.execution(trade.account, fill.identity)
        if trade.key in ends.left_out:
            return
        if self._is_worth_other(trade.contract, trade):
            return
        if known is None and trade.time < self._opened_since.get((trade.account, symbol), 0):
            self._problem(trade, _BEFORE_OPENING)
        elif trade.key in ends.leave:
            fields = self._common("transfer", trade.account, symbol, trade.time, trade.id)
            self._put(trade.id, {**fields, "direction": "OUT", "qty": plain(abs(trade.qty))})
            self._watch((trade.account, symbol), KnownEvent(trade.time, "out", "", trade.qty))
        elif fill.busted:
            self._take_bust(fill, symbol, known)
        else:
            self._take_execution(fill, known.symbol if known else symbol, known)

    def _take_execution(self, fill: Fill, symbol: str, known: KnownExecution | None) -> None:
        trade, ends = fill.trade, self._draft.ends
        price = ends.settled.get(trade.key, trade.price)
        # What the broker charges for a settlement in cash is not in its figure.
        settled = trade.key in ends.settled and trade.price == 0
        charge = None if settled else _charge(fill, known)
        adjustment = ends.adjustments.get(trade.key, "")
        if (trade.account, symbol) in self._holdings:
            self._watch((trade.account, symbol), _event_of(fill, price, charge, adjustment))
        fields = self._execution(trade, symbol, price, charge, adjustment)
        revision = (parse_exec_id(known.exec_id).revision or 1) if known else 0
        if known is None or fill.revision > revision:
            self._put(trade.id, fields)
        elif fill.revision < revision:
            self._plan.known += 1
        else:
            self._compare(fill, known, fields)
        self._refund(fill, symbol)

    def _compare(self, fill: Fill, known: KnownExecution, fields: Fields) -> None:
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
            self._put(f"{trade.id} by flex", completing, version=fields["basis_adjustment"])
        elif ours != known.adjustment:
            self._problem(trade, f"expected an adjustment of {known.adjustment:f}, as it is known, "
                          f"found {ours:f}")  # fmt: skip
            return
        if fill.trade.key not in self._refunds and "commission" in fields:
            self._report(fill, known.symbol, Decimal(fields["commission"]), trade.time, known)
        self._plan.known += 1

    def _report(
        self, fill: Fill, symbol: str, charge: Decimal, time: int, known: KnownExecution | None
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
        # The router has a memory of its own of what it reported: it must not report again.
        instead = f"{known.commission} {known.commission_currency}" if known else ""
        self._put(f"{trade.id} by flex", fields, version=f"{text} {currency} for {instead}")

    def _take_bust(self, fill: Fill, symbol: str, known: KnownExecution | None) -> None:
        trade, told = fill.trade, parse_exec_id(fill.trade.id)
        if known is not None and known.qty == 0:
            self._plan.known += 1
        elif ("transfer", trade.account, trade.id) in self._known.others:
            self._problem(trade, "expected an option's end that was not published before it was "
                          "cancelled, found its transfer: publish what left as a transfer "
                          "IN")  # fmt: skip
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
        self, trade: Trade, symbol: str, price: Decimal, charge: Decimal | None,
        adjustment: str,
    ) -> Fields:  # fmt: skip
        contract = trade.contract
        currency = trade.charge_currency
        fields = {
            "symbol": symbol, "account": trade.account,
            "side": "BUY" if trade.qty > 0 else "SELL", "fill_qty": plain(abs(trade.qty)),
            "fill_price": plain(price),
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
            elif any(event.kind == "opening" and event.qty and not event.id.startswith(
                     f"flex-open-{opening.since}-") for event in events):  # fmt: skip
                reason = "expected no opening that is known already, found one"
            else:
                self._open(opening, key)
                continue
            self._plan.problems.append(Problem(reason, opening.lot.shown))

    def _open(self, opening: Opening, key: Key) -> None:
        self._opened_since[key] = opening.since
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
                self._problem(cash, f"expected one execution that it refunds, found {len(fills)}")
                continue
            key = fills[0].trade.key
            left, _ = self._refunds.get(key, (fills[0].charge, 0))
            self._refunds[key] = left - cash.amount, cash.time

    def _refund(self, fill: Fill, symbol: str) -> None:
        if fill.trade.key in self._refunds:
            charge, time = self._refunds[fill.trade.key]
            known = self._known.execution(fill.trade.account, fill.identity)
            self._report(fill, symbol, charge, time, known)

    def _take_cash(self, cash: Cash) -> None:
        if COMMISSIONS in cash.kind.upper():
            return
        symbol, text = self._names.of(cash.contract), cash.text.upper()
        key = (cash.account, symbol)
        held = self._holdings[key].qty
        found = _PER_SHARE.search(text) or _OLD_PER_SHARE.search(text)
        other = self._names.other_currency(cash.contract)
        if other:
            self._problem(
                cash, f"expected a return in {other}, as the position is, found "
                f"{cash.contract.currency}: at which rate it counts stands in no row",
            )  # fmt: skip
            return
        if (cash.ex_time or cash.time) < self._opened_since.get(key, 0) and (
            "cost", cash.account, cash.id) not in self._known.others:  # fmt: skip
            self._problem(cash, _BEFORE_OPENING)
            return
        if found is None:
            self._problem(cash, "expected how much was paid PER SHARE, found nothing of it")
            return
        per_share = Fraction(found[1])
        for sign in (-1, 1):  # a reversal takes it back
            if abs(sign * held * per_share + Fraction(cash.amount)) < _HALF_A_CENT and held:
                time, per_unit = cash.ex_time or cash.time, sign * per_share
                fields = self._common("cost", cash.account, symbol, time, cash.id)
                text = exact_text(per_unit / Fraction(cash.contract.multiplier), 10)
                self._put(cash.id, {**fields, "per_unit": text})
                self._watch(key, KnownEvent(time, "cost", cash.id, value=per_unit))
                return
        entitled = exact_text(Fraction(cash.amount) / per_share, 4) if per_share else "?"
        self._problem(cash, f"expected to hold the {entitled} that were paid for, found "
                      f"{exact_text(held, 10)}: import what was traded before")  # fmt: skip

    # --- corporate actions ---

    def _unless_told(self, step: Step) -> Step:
        """Leave a step out if an opening, or what was cancelled since, says it already."""
        before = self._is_before_opening(step)
        if not (step.cancelled or before):
            return step
        mine = (id_ for _, account, id_ in self._known.others if account == step.account)
        published = {stem for id_ in mine for stem in _stems(id_)}
        if self._known.execution(step.account, step.id) is not None:
            published.add(step.id)
        if before and step.id not in published and type(step) not in (Step, LeftOutStep):
            return LeftOutStep(*_step_facts(step), (), _BEFORE_OPENING)
        for id_ in step.cancelled:
            if id_ in published or self._known.execution(step.account, id_) is not None:
                touched = tuple(row.contract for row in step.rows)
                return LeftOutStep(*_step_facts(step), touched, f"expected an action that was "
                                   f"not published before it was cancelled, found {id_}: undo "
                                   f"what its messages did, and do what stands instead, by "
                                   f"messages of your own")  # fmt: skip
        return step

    def _is_before_opening(self, step: Step) -> bool:
        keys = {(row.account, self._called(row.contract)) for row in step.rows}
        if isinstance(step, MoveStep):
            keys.add((step.account, self._called(step.source)))
        return any(step.time < self._opened_since.get(key, 0) for key in keys)

    def _called(self, contract: Contract) -> str:
        return self._names.known(contract.con_id) or contract.symbol

    def _leave_out(self, step: LeftOutStep) -> None:
        self._plan.problems += [Problem(step.reason, row.shown) for row in step.rows]
        names = {self._called(each) for each in step.touched}
        for key in {(row.account, name) for row in step.rows for name in names}:
            if key in self._holdings:
                self._holdings[key].unclear = step.id

    def _take_split(self, step: SplitStep) -> None:
        symbol, renamed = self._names.of(step.old), self._names.of(step.new)
        if symbol != renamed:
            comes = Fraction(_row_of(step, step.new).qty)
            self._move(step, step.old, [(step.new, Fraction(1), comes)], _goes(step))
            return
        fields = self._common("split", step.account, symbol, step.time, step.id)
        holding = self._holdings[step.account, symbol]
        places = step.places if holding.unclear else places_for(step, holding.qty)
        told = {} if places is None else {"places": str(places)}
        self._put(step.id, {**fields, "ratio": step.ratio, **told})
        new, old = map(int, step.ratio.split(":"))
        holding.split(Fraction(new, old), 10 if places is None else places)
        self._say_number(step, symbol, step.old, step.new)

    def _say_number(self, step: Step, symbol: str, old: Contract, new: Contract) -> None:
        if new.con_id in ("", old.con_id):
            return
        # Where nothing is known from before, the new number would be the key's only one, and
        # what an earlier file tells under the old one be refused.
        is_known = bool(self._holdings[step.account, symbol].lots)
        for con_id in filter(None, [new.con_id] if is_known else [old.con_id, new.con_id]):
            fields = self._common("instrument", step.account, symbol, step.time, "")
            self._put(f"{step.id}-{con_id}", {**fields, "con_id": con_id})

    def _take_sale(self, step: SaleStep) -> None:
        symbol = self._names.of(step.contract)
        row = step.rows[0]
        if self._is_worth_other(step.contract, row):
            return
        if ("transfer", step.account, f"{step.id}-in0-1") in self._known.others:
            self._plan.known += 1  # rights, which came with the lots that they are for
            return
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
            found = f"found {row.qty:f} at {fields['fill_price']}"
            self._problem(
                row, f"expected {known.qty:f} at {known.price:f}, as it is known, {found}"
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
        symbol, renamed = self._names.of(step.old), self._names.of(step.new)
        if symbol == renamed:
            self._say_number(step, symbol, step.old, step.new)
            return
        self._move(step, step.old, [(step.new, Fraction(1), None)], _goes(step))

    def _take_move(self, step: MoveStep) -> None:
        if step.is_rights and self._stands_alone(step):
            [(row, _)] = step.targets
            self._take_sale(
                SaleStep(*_step_facts(step), row.contract, Fraction(row.qty), Fraction(0))
            )
            return
        if step.note:
            self._plan.notes.append(f"{step.id}: {step.note}")
        targets = [
            (row.contract, share or Fraction(0), Fraction(row.qty)) for row, share in step.targets
        ]
        leaves = step.leaves
        if leaves is not None and step.rows[0].code == TRANSFER:
            held = self._holdings[step.account, self._names.of(step.source)].qty
            leaves = abs(leaves) if held < 0 else leaves
        self._move(step, step.source, targets, leaves, step.sold)

    def _stands_alone(self, step: MoveStep) -> bool:
        """Tell whether rights come, or came, without the lots that they are for."""
        held = self._holdings[step.account, self._names.of(step.source)]
        published = self._known.execution(step.account, step.id) is not None
        return published or not held.qty or bool(held.unclear)

    def _move(
        self, step: Step, source: Contract,
        targets: Sequence[tuple[Contract, Fraction, Fraction | None]], leaves: Fraction | None,
        sold: Fraction | None = None,
    ) -> None:  # fmt: skip
        """Let lots, or a share of their cost, go from one key into others.

        leaves: how much goes, signed against what is held; None if all of it stays.
        sold: the part of the cost that is sold for the proceeds of the source's row.
        """
        key = (step.account, self._names.of(source))
        holding = self._holdings[key]
        # A split and a new name take all there is, or something before it is missing.
        most = _ROUNDING if isinstance(step, SplitStep | RenameStep) else None
        reason = (
            _why_not(holding, leaves, most) or _other_currency(source, targets)
            or _cost_turned(holding, targets) or _not_sold(holding, leaves, sold)
        )  # fmt: skip
        if not reason and isinstance(step, MoveStep) and step.per_unit:
            reason = _not_for(holding, step.per_unit, Fraction(step.rows[0].qty))
        if reason:
            touched = (source, *(contract for contract, _, _ in targets))
            self._leave_out(LeftOutStep(*_step_facts(step), touched, reason))
            return
        shares = sum((share for _, share, _ in targets), Fraction(0))
        stays = 1 - shares if leaves is None else Fraction(0)
        lots = list(holding.lots)
        if stays != 1:
            lots = holding.leave(None if leaves is None else abs(leaves))
            gone = abs(sum((lot.qty for lot in lots), Fraction(0)))
            fields = self._common("transfer", *key, step.time, step.id)
            self._put(step.id, {**fields, "direction": "OUT", "qty": exact_text(gone, 10)})
            if leaves is None:
                self._join(step, key, "kept", moved(lots, None, stays))
        if sold is not None and leaves is not None:
            lots = self._sell_part(step, source, lots, leaves, sold)
        account = (isinstance(step, MoveStep) and step.into) or step.account
        for number, (contract, share, comes) in enumerate(targets):
            into = (account, self._names.of(contract))
            self._join(step, into, f"in{number}", moved(lots, comes, share))

    def _sell_part(
        self, step: Step, source: Contract, lots: Sequence[Held], leaves: Fraction, sold: Fraction
    ) -> list[Held]:
        """Sell lots for the source row's proceeds at a part of their cost; return the rest."""
        key = (step.account, self._names.of(source))
        self._join(step, key, "kept", [_costing(lot, sold) for lot in lots])
        row = _row_of(step, source)
        price = Fraction(row.proceeds) / -(leaves * Fraction(source.multiplier))
        facts = (step.account, step.time, paid_id(step), (row,))
        self._take_sale(SaleStep(*facts, source, leaves, price))
        return [_costing(lot, lot.net_cost - sold) for lot in lots]

    def _join(self, step: Step, key: Key, part: str, lots: Sequence[Held]) -> None:
        for number, lot in enumerate(lots, start=1):
            id_ = f"{step.id}-{part}-{number}"
            fields = self._common("transfer", *key, step.time, id_)
            fields |= {
                "direction": "IN", "qty": exact_text(lot.qty, 10),
                "cost_basis": exact_text(lot.cost, 10), "opened": str(lot.opened),
            }  # fmt: skip
            self._put(id_, fields)
            event = KnownEvent(step.time, "in", id_, lot.qty, lot.cost, opened=lot.opened)
            self._watch(key, event)

    # --- helpers ---

    def _common(self, kind: str, account: str, symbol: str, time: int, id_: str) -> Fields:
        fields = {"type": kind, "symbol": symbol, "account": account, "timestamp": str(time),
                  "exec_id": id_}  # fmt: skip
        return {name: value for name, value in fields.items() if value}

    def _put(self, id_: str, fields: Fields, version: str = "") -> None:
        kind = fields.get("type", "")
        account = fields.get("account", "")
        if kind in _ONCE and (kind, account, fields.get("exec_id", "")) in self._known.others:
            self._plan.known += 1
            return
        self._plan.counts[kind or "execution"] += 1
        self._emit(Planned(f"{kind}{kind and ':'}{account}:{id_}", fields, version))

    def _is_worth_other(self, contract: Contract, row: Trade | Action) -> bool:
        other = self._names.other_multiplier(contract)
        if other is not None:
            self._problem(
                row, f"multiplier: expected {other:f}, as it is remembered of the contract, found "
                f"{contract.multiplier:f}",
            )  # fmt: skip
        return other is not None

    def _watch(self, key: Key, event: KnownEvent) -> None:
        if key in self._holdings:
            book(self._holdings[key], event)

    def _problem(self, row: Trade | Cash | Action, reason: str) -> None:
        self._plan.problems.append(Problem(reason, row.shown))


_ONCE = ("opening", "split", "cost", "transfer")
_PLACE_OF = {"split": (0, -2), "cost": (0, -2), "out": (0, -2), "in": (0, -2), "opening": (-1, 0)}
"""Where what is known stands among what a file tells of the same time."""


def _costing(lot: Held, cost: Fraction) -> Held:
    return replace(lot, cost=cost, charge=Fraction(0))


def _goes(step: RenameStep | SplitStep) -> Fraction:
    return Fraction(_row_of(step, step.old).qty)


def _row_of(step: Step, contract: Contract) -> Action:
    return next(row for row in step.rows if row.contract == contract)


def _step_facts(step: Step) -> tuple[str, int, str, tuple[Action, ...]]:
    return step.account, step.time, step.id, step.rows


def _stems(id_: str) -> Iterator[str]:
    """Yield what a step's id may be, of which an exec_id has its number of the lot behind."""
    while id_:
        yield id_
        id_ = id_.rpartition("-")[0]


def _event_of(fill: Fill, price: Decimal, charge: Decimal | None, adjustment: str) -> KnownEvent:
    trade = fill.trade
    value = Fraction(trade.qty) * Fraction(price) * Fraction(trade.contract.multiplier)
    own = trade.charge_currency in ("", trade.contract.currency)
    borne = Fraction(charge or 0) * own + Fraction(adjustment or 0)
    return KnownEvent(trade.time, "execution", fill.identity, trade.qty, value, borne)


def _charge(fill: Fill, known: KnownExecution | None) -> Decimal | None:
    """Return what a fill cost in all; None if that is not known."""
    if known is None or fill.added is None:
        return fill.charge
    if known.commission is None or known.commission_currency != fill.trade.charge_currency:
        return None
    is_new = fill.revision > (parse_exec_id(known.exec_id).revision or 1)
    return known.commission + fill.added if is_new else known.commission


def _is_refunded(fill: Fill, cash: Cash, match: re.Match[str]) -> bool:
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


def _why_not(holding: Holding, leaves: Fraction | None, most: Fraction | None) -> str:
    """Say why what is held cannot go; most: how much may stay, None for any number."""
    held = holding.qty
    if holding.unclear:
        return (f"expected to know each lot, found {holding.unclear} before it, which was left "
                f"out or is no longer on the stream")  # fmt: skip
    if leaves is None:
        return "" if held else (
            "expected a position in what the text names first, found none: import what was "
            "traded before, or its openings"
        )  # fmt: skip
    stays = abs(held) - abs(leaves)
    if (held > 0) == (leaves < 0) and stays >= 0 and held and (most is None or stays < most):
        return ""
    return (
        f"expected to hold the {exact_text(-leaves, 10)} that go, found {exact_text(held, 10)}: "
        f"import what was traded before, or its openings"
    )


def _not_for(holding: Holding, per_unit: Fraction, comes: Fraction) -> str:
    """Say why what comes is not for what is held; a fraction may be paid instead."""
    if abs(holding.qty * per_unit - comes) < 1:
        return ""
    return (
        f"expected to hold the {exact_text(comes / per_unit, 4)} that it comes for, found "
        f"{exact_text(holding.qty, 10)}: import what was traded before, or its openings"
    )


def _other_currency(
    source: Contract, targets: Sequence[tuple[Contract, Fraction, Fraction | None]]
) -> str:
    for contract, share, _ in targets:
        if share and contract.currency not in ("", source.currency) and source.currency:
            return (f"expected cost to stay in {source.currency}, found {contract.currency}: at "
                    f"which rate it goes over stands in no row")  # fmt: skip
    return ""


def _cost_turned(
    holding: Holding, targets: Sequence[tuple[Contract, Fraction, Fraction | None]]
) -> str:
    turned = next((lot for lot in holding.lots if lot.net_cost * lot.qty < 0), None)
    if turned is None or not any(share for _, share, _ in targets):
        return ""
    return (
        f"expected a cost that is signed like the {exact_text(turned.qty, 10)} of each lot, found "
        f"{exact_text(turned.net_cost, 10)}, as charges or returns of capital are more: no "
        f"transfer says that"
    )


def _not_sold(holding: Holding, leaves: Fraction | None, sold: Fraction | None) -> str:
    if sold is None:
        return ""
    if leaves != -holding.qty:
        return f"expected all to go for cash and shares, found {exact_text(holding.qty, 10)} held"
    if sold and (len(holding.lots) > 1 or sold > holding.lots[0].net_cost):
        return (
            f"expected one lot that cost {exact_text(sold, 4)} or more, as so much was sold for "
            f"cash, found {len(holding.lots)} that cost "
            f"{exact_text(sum((lot.net_cost for lot in holding.lots), Fraction(0)), 4)}: how the "
            f"row's P&L is divided between lots stands in no row"
        )
    return ""


def _multiplier(contract: Contract) -> str:
    text = plain(contract.multiplier)
    return "" if text == "1" else text
