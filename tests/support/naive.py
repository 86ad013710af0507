"""What the flow must make of a list of entries, worked out the slow and plain way.

Two oracles, which know nothing of batches, files, restarts or time. `by_hand` is for
executions in order of time: fractions, a list of lots, nothing of `state/`. `by_book`
takes every type of message and asks the book (which has its own tests) for one after
the other: it says what a run without any crash makes of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

import redis

from connectors.codec import decode
from state.book import Applied, Book
from state.exact import MONEY_PLACES, PLACES
from state.keys import position_key
from state.messages import (
    TYPE_NAMES,
    CommissionReport,
    ContractNumber,
    Execution,
    Message,
    RejectedError,
    terms,
)
from state.snapshot import ClosedLot, PositionSnapshot
from tests.support.flow_process import Outcome, Row, order, read_stream, time_of

Entries = Iterable[tuple[str, list[bytes]]]
"""Entry id; field names and values in turn."""

Values = dict[tuple[str, str], Row]
"""The value of a key in the hash, behind each entry that changed it."""

_TEN, _TWENTY = Decimal(1).scaleb(-PLACES), Decimal(1).scaleb(-MONEY_PLACES)


def both(outcomes: Sequence[Outcome]) -> Outcome:
    """Put what several streams lead to into one."""
    first, *rest = outcomes
    for other in rest:
        first.hash.update(other.hash)
        first.positions.extend(other.positions)
        first.closed_lots.extend(other.closed_lots)
        first.dead.update(other.dead)
    return _sorted(first)


def _sorted(found: Outcome) -> Outcome:
    for rows in (found.positions, found.closed_lots):
        rows.sort(key=lambda row: (order(row["stream_id"]), row["date"]))
    return found


# --- by hand --------------------------------------------------------------------------------


@dataclass
class _Fill:
    """An execution, and how much of it is gone."""

    said: dict[str, str]
    sign: int
    qty: Fraction
    price: Fraction
    charge: Fraction
    """What it costs in the key's currency, commission and adjustment."""
    gone: Fraction = Fraction(0)
    """Closed: what it closed itself, then what others closed of it."""

    def take(self, units: Fraction) -> Fraction:
        """Count units as gone; return what of the charge falls due with them."""
        before, self.gone = self._due(), self.gone + units
        return self._due() - before

    def _due(self) -> Fraction:
        return Fraction(_rounded(self.charge * self.gone / self.qty))


@dataclass
class _Held:
    """What one key holds, as fractions."""

    currency: str
    multiplier: Fraction
    sec_type: str | None = None
    con_id: int | None = None
    lots: list[_Fill] = field(default_factory=list)
    realized: Fraction = Fraction(0)
    commission: Fraction = Fraction(0)
    others: dict[str, Fraction] = field(default_factory=dict)
    adjustment: Fraction = Fraction(0)
    net: Fraction = Fraction(0)
    seen: set[str] = field(default_factory=set)


def by_hand(
    entries: Entries, *, bad: frozenset[str] = frozenset(), values: Values | None = None
) -> Outcome:
    """Book executions that come in order of time; an exec_id seen before changes nothing.

    bad: ids of the entries that cannot be used; their dead letters have no reason here.
    values: takes all that the hash may ever show.
    """
    found, books = Outcome({}, [], [], {}), dict[str, _Held]()
    for entry_id, pairs in entries:
        if entry_id in bad:
            found.dead[entry_id] = pairs
            continue
        said = dict(zip((p.decode() for p in pairs[::2]), (p.decode() for p in pairs[1::2])))  # noqa: B905
        key = f"{said['account']}:{said['symbol']}" if "account" in said else said["symbol"]
        if key not in books:
            multiplier = Fraction(said.get("multiplier", "1"))
            books[key] = _Held(said.get("currency", "USD"), multiplier)
        held = books[key]
        if said["exec_id"] not in held.seen:
            held.seen.add(said["exec_id"])
            closed, changes = _book(held, said)
            found.closed_lots.extend(_closed_row(held, said, lot, entry_id) for lot in closed)
            found.hash[key], row = _rows(held, said, entry_id, changes)
            found.positions.append(row)
            if values is not None:
                values[key, entry_id] = found.hash[key]
    return _sorted(found)


_Match = tuple[_Fill, Fraction, Fraction]
"""What opened, how much of it was closed, gross P&L."""


def _book(held: _Held, said: dict[str, str]) -> tuple[list[_Match], tuple[Fraction, Fraction]]:
    """Match an execution; return the lots closed, and the changes of gross and net."""
    before = held.realized, held.net
    new = _new_fill(held, said)
    closed = []
    while new.gone < new.qty and held.lots and held.lots[0].sign != new.sign:
        lot = held.lots[0]
        part = min(new.qty - new.gone, lot.qty - lot.gone)
        gross = (new.price - lot.price) * part * held.multiplier * lot.sign
        held.realized += gross
        held.net += gross - lot.take(part) - new.take(part)
        closed.append((lot, part, gross))
        if lot.gone == lot.qty:
            held.lots.pop(0)
    if new.gone < new.qty:
        held.lots.append(new)
    return closed, (held.realized - before[0], held.net - before[1])


def _new_fill(held: _Held, said: dict[str, str]) -> _Fill:
    """Take in what an execution says beside its trade."""
    held.sec_type = said.get("sec_type", held.sec_type)
    held.con_id = int(said["con_id"]) if "con_id" in said else held.con_id
    charge = adjustment = Fraction(said.get("basis_adjustment", "0"))
    held.adjustment += adjustment
    commission = Fraction(said.get("commission", "0"))
    currency = said.get("commission_currency", held.currency)
    if currency == held.currency:
        held.commission += commission
        charge += commission
    else:
        held.others[currency] = held.others.get(currency, Fraction(0)) + commission
    sign = 1 if said["side"] == "BUY" else -1
    return _Fill(said, sign, Fraction(said["fill_qty"]), Fraction(said["fill_price"]), charge)


def _rows(
    held: _Held, said: dict[str, str], entry_id: str, changes: tuple[Fraction, Fraction]
) -> tuple[Row, Row]:
    """Return the value of the hash and the row of `positions`."""
    open_lots = [(lot.sign * (lot.qty - lot.gone), lot.price) for lot in held.lots]
    qty = sum((units for units, _ in open_lots), Fraction(0))
    cost = held.multiplier * sum((units * price for units, price in open_lots), Fraction(0))
    others = {currency: _exact(sum_) for currency, sum_ in held.others.items() if sum_}
    value = {
        "account": said.get("account"), "symbol": said["symbol"], "currency": held.currency,
        "multiplier": _exact(held.multiplier), "sec_type": held.sec_type, "con_id": held.con_id,
        "qty": _exact(qty), "avg_price": _rounded(cost / qty / held.multiplier) if qty else None,
        "cost_basis": _exact(cost), "realized_pnl": _exact(held.realized),
        "commission": _exact(held.commission), "other_commissions": others or None,
        "basis_adjustment": _exact(held.adjustment), "net_realized_pnl": _exact(held.net),
        "open_lots": len(held.lots), "executions": len(held.seen), "last_exec_id": said["exec_id"],
        "last_price": Decimal(said["fill_price"]), "timestamp": int(said["timestamp"]),
        "stream_id": entry_id,
    }  # fmt: skip
    at = time_of(int(said["timestamp"]))
    commission = Decimal(said["commission"]) if "commission" in said else None
    row = {
        **value, "timestamp": at, "type": "execution", "message_timestamp": at,
        "side": said["side"], "fill_qty": Decimal(said["fill_qty"]),
        "fill_price": Decimal(said["fill_price"]), "exec_id": said["exec_id"],
        "order_id": int(said["order_id"]), "order_ref": said.get("order_ref"),
        "message_commission": commission,
        "message_commission_currency":
            None if commission is None else said.get("commission_currency", held.currency),
        "realized_pnl_change": _exact(changes[0]), "net_realized_pnl_change": _exact(changes[1]),
        "message_terms": None,
        "date": at.date(),
    }  # fmt: skip
    return value, row


def _closed_row(held: _Held, said: dict[str, str], match: _Match, entry_id: str) -> Row:
    opener, qty, gross = match
    opened = opener.said
    at = time_of(int(said["timestamp"]))
    return {
        "account": said.get("account"), "symbol": said["symbol"], "currency": held.currency,
        "multiplier": _exact(held.multiplier), "direction": "LONG" if opener.sign > 0 else "SHORT",
        "qty": _exact(qty), "open_exec_id": opened["exec_id"],
        "open_timestamp": time_of(int(opened["timestamp"])), "open_price": _exact(opener.price),
        "close_exec_id": said["exec_id"], "close_timestamp": at,
        "close_price": Decimal(said["fill_price"]), "realized_pnl": _exact(gross),
        "stream_id": entry_id, "date": at.date(),
    }  # fmt: skip


def _exact(value: Fraction) -> Decimal:
    with localcontext(prec=80):
        number = Decimal(value.numerator) / Decimal(value.denominator)
    assert Fraction(number) == value
    return number


def _rounded(value: Fraction) -> Decimal:
    with localcontext(prec=80):
        number = Decimal(value.numerator) / Decimal(value.denominator)
        return number.quantize(_TEN, ROUND_HALF_EVEN)


# --- by the book ----------------------------------------------------------------------------


def by_stream(client: redis.Redis, stream: str = "executions") -> Outcome:
    """Return what a flow without any crash makes of all that stands on a stream."""
    return by_book(stream, read_stream(client, stream))


def by_book(stream: str, entries: Entries, *, values: Values | None = None) -> Outcome:
    """Give each entry of a stream to the book of its key, one after the other.

    values: takes all that the hash may ever show.
    """
    found, books = Outcome({}, [], [], {}), dict[str, Book]()
    for entry_id, pairs in entries:
        try:
            symbol, account, message = decode(pairs, order(entry_id)[0])
            key = position_key(symbol, account)
            book = books.setdefault(key, Book(symbol, account))
            applied = book.apply(message)
        except RejectedError as error:
            reason = str(error).encode(errors="backslashreplace")
            found.dead[entry_id] = [
                *pairs, b"error", reason, b"source_stream", stream.encode(),
                b"source_id", entry_id.encode(),
            ]  # fmt: skip
            continue
        if applied is not None:
            position = book.snapshot()
            found.hash[key] = _value(position, entry_id)
            if values is not None:
                values[key, entry_id] = found.hash[key]
            found.positions.append(_position_row(position, message, applied, entry_id))
            found.closed_lots.extend(_lot_row(position, lot, entry_id) for lot in applied.closed)
    return _sorted(found)


def _value(position: PositionSnapshot, entry_id: str) -> Row:
    money = {"cost_basis", "realized_pnl", "net_realized_pnl"}
    scaled = money | {
        "multiplier", "qty", "avg_price", "commission", "basis_adjustment", "last_price",
    }  # fmt: skip
    value: dict[str, Any] = position._asdict()
    for name in scaled:
        if value[name] is not None:
            value[name] = _scaled(value[name], MONEY_PLACES if name in money else PLACES)
    others = {currency: _scaled(sum_, PLACES) for currency, sum_ in position.other_commissions}
    return {**value, "other_commissions": others or None, "stream_id": entry_id}


def _position_row(
    position: PositionSnapshot, message: Message, applied: Applied, entry_id: str
) -> Row:
    execution = message if isinstance(message, Execution) else None
    at = message.timestamp if position.timestamp is None else position.timestamp
    paid, currency = _commission(message)
    return {
        **_value(position, entry_id),
        "timestamp": None if position.timestamp is None else time_of(position.timestamp),
        "type": TYPE_NAMES[type(message)], "message_timestamp": time_of(message.timestamp),
        "side": execution and execution.side,
        "fill_qty": execution and _scaled(abs(execution.qty), PLACES),
        "fill_price": execution and _scaled(execution.price, PLACES),
        "exec_id": None if isinstance(message, ContractNumber) else message.exec_id,
        "order_id": execution and execution.order_id,
        "order_ref": execution and execution.order_ref,
        "message_commission": None if paid is None else _scaled(paid, PLACES),
        "message_commission_currency": None if paid is None else currency or position.currency,
        "realized_pnl_change": _scaled(applied.realized_change, MONEY_PLACES),
        "net_realized_pnl_change": _scaled(applied.net_change, MONEY_PLACES),
        "message_terms": terms(message),
        "date": _day(at),
    }  # fmt: skip


def _commission(message: Message) -> tuple[int | None, str | None]:
    match message:
        case Execution():
            return message.commission, message.commission_currency
        case CommissionReport():
            return message.commission, message.currency
        case _:
            return None, None


def _lot_row(position: PositionSnapshot, lot: ClosedLot, entry_id: str) -> Row:
    return {
        "account": position.account, "symbol": position.symbol, "currency": position.currency,
        "multiplier": _scaled(position.multiplier, PLACES), "direction": lot.direction,
        "qty": _scaled(lot.qty, PLACES), "open_exec_id": lot.open_exec_id,
        "open_timestamp": time_of(lot.open_timestamp),
        "open_price": _scaled(lot.open_price, PLACES), "close_exec_id": lot.close_exec_id,
        "close_timestamp": time_of(lot.close_timestamp),
        "close_price": _scaled(lot.close_price, PLACES),
        "realized_pnl": _scaled(lot.realized_pnl, MONEY_PLACES), "stream_id": entry_id,
        "date": _day(lot.close_timestamp),
    }  # fmt: skip


def _scaled(number: int, places: int) -> Decimal:
    with localcontext(prec=80):
        return Decimal(number).scaleb(-places)


def _day(milliseconds: int) -> date:
    return time_of(milliseconds).date()
