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

from connectors.codec import decode
from state.book import Applied, Book
from state.exact import MONEY_PLACES, PLACES
from state.keys import position_key
from state.messages import CommissionReport, Execution, Message, Opening, RejectedError
from state.snapshot import ClosedLot, PositionSnapshot
from tests.support.flow_process import Outcome, Row, order, time_of

Entries = Iterable[tuple[str, list[bytes]]]
"""Entry id; field names and values in turn."""

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
class _Held:
    """What one key holds, as fractions."""

    multiplier: Fraction = Fraction(1)
    lots: list[Row] = field(default_factory=list)
    realized: Fraction = Fraction(0)
    commission: Fraction = Fraction(0)
    net: Fraction = Fraction(0)
    seen: set[str] = field(default_factory=set)


def by_hand(entries: Entries, *, bad: frozenset[str] = frozenset()) -> Outcome:
    """Book executions that come in order of time; an exec_id seen before changes nothing.

    bad: ids of the entries that cannot be used; their dead letters have no reason here.
    Commissions must share out to whole units of the tenth decimal place.
    """
    found, books = Outcome({}, [], [], {}), dict[str, _Held]()
    for entry_id, pairs in entries:
        if entry_id in bad:
            found.dead[entry_id] = pairs
            continue
        said = dict(zip((p.decode() for p in pairs[::2]), (p.decode() for p in pairs[1::2])))  # noqa: B905
        key = f"{said['account']}:{said['symbol']}" if "account" in said else said["symbol"]
        held = books.setdefault(key, _Held())
        if said["exec_id"] not in held.seen:
            held.seen.add(said["exec_id"])
            closed, changes = _book(held, said)
            found.closed_lots.extend(_closed_row(held, said, lot, entry_id) for lot in closed)
            found.hash[key], row = _rows(held, said, entry_id, changes)
            found.positions.append(row)
    return _sorted(found)


def _book(held: _Held, said: dict[str, str]) -> tuple[list[Row], tuple[Fraction, Fraction]]:
    """Match an execution; return the lots closed, and the changes of gross and net."""
    before = held.realized, held.net
    held.multiplier = Fraction(said.get("multiplier", "1"))
    price, left = Fraction(said["fill_price"]), Fraction(said["fill_qty"])
    cost_each = Fraction(said.get("commission", "0")) / left
    sign = 1 if said["side"] == "BUY" else -1
    closed = []
    while left and held.lots and held.lots[0]["sign"] != sign:
        lot = held.lots[0]
        part = min(left, lot["qty"])
        gross = (price - lot["price"]) * part * held.multiplier * lot["sign"]
        held.realized += gross
        held.net += gross - part * (lot["cost_each"] + cost_each)
        closed.append({**lot, "qty": part, "gross": gross})
        left, lot["qty"] = left - part, lot["qty"] - part
        if not lot["qty"]:
            held.lots.pop(0)
    if left:
        held.lots.append(
            {"sign": sign, "qty": left, "price": price, "cost_each": cost_each, "said": said}
        )
    held.commission += cost_each * Fraction(said["fill_qty"])
    return closed, (held.realized - before[0], held.net - before[1])


def _rows(
    held: _Held, said: dict[str, str], entry_id: str, changes: tuple[Fraction, Fraction]
) -> tuple[Row, Row]:
    """Return the value of the hash and the row of `positions`."""
    qty = sum((lot["sign"] * lot["qty"] for lot in held.lots), Fraction(0))
    cost = held.multiplier * sum(
        (lot["sign"] * lot["qty"] * lot["price"] for lot in held.lots), Fraction(0)
    )
    value = {
        "account": said.get("account"), "symbol": said["symbol"],
        "currency": said.get("currency", "USD"), "multiplier": _exact(held.multiplier),
        "qty": _exact(qty), "avg_price": _rounded(cost / qty / held.multiplier) if qty else None,
        "cost_basis": _exact(cost), "realized_pnl": _exact(held.realized),
        "commission": _exact(held.commission), "net_realized_pnl": _exact(held.net),
        "open_lots": len(held.lots), "executions": len(held.seen), "last_exec_id": said["exec_id"],
        "last_price": Decimal(said["fill_price"]), "timestamp": int(said["timestamp"]),
        "stream_id": entry_id,
    }  # fmt: skip
    at = time_of(int(said["timestamp"]))
    row = {
        **value, "timestamp": at, "type": "execution", "message_timestamp": at,
        "side": said["side"], "fill_qty": Decimal(said["fill_qty"]),
        "fill_price": Decimal(said["fill_price"]), "exec_id": said["exec_id"],
        "order_id": int(said["order_id"]), "realized_pnl_change": _exact(changes[0]),
        "net_realized_pnl_change": _exact(changes[1]), "date": at.date(),
    }  # fmt: skip
    return value, row


def _closed_row(held: _Held, said: dict[str, str], lot: Row, entry_id: str) -> Row:
    opened: dict[str, str] = lot["said"]
    at = time_of(int(said["timestamp"]))
    return {
        "account": said.get("account"), "symbol": said["symbol"],
        "currency": said.get("currency", "USD"), "multiplier": _exact(held.multiplier),
        "direction": "LONG" if lot["sign"] > 0 else "SHORT", "qty": _exact(lot["qty"]),
        "open_exec_id": opened["exec_id"], "open_timestamp": time_of(int(opened["timestamp"])),
        "open_price": _exact(lot["price"]), "close_exec_id": said["exec_id"],
        "close_timestamp": at, "close_price": Decimal(said["fill_price"]),
        "realized_pnl": _exact(lot["gross"]), "stream_id": entry_id, "date": at.date(),
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


def by_book(stream: str, entries: Entries) -> Outcome:
    """Give each entry of a stream to the book of its key, one after the other."""
    found, books = Outcome({}, [], [], {}), dict[str, Book]()
    for entry_id, pairs in entries:
        try:
            symbol, account, message = decode(pairs)
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
            found.positions.append(_position_row(position, message, applied, entry_id))
            found.closed_lots.extend(_lot_row(position, lot, entry_id) for lot in applied.closed)
    return _sorted(found)


def _value(position: PositionSnapshot, entry_id: str) -> Row:
    money = {"cost_basis", "realized_pnl", "net_realized_pnl"}
    plain = {"account", "symbol", "currency", "last_exec_id"}
    whole = {"open_lots", "executions", "timestamp"}
    value: dict[str, Any] = {}
    for name, number in position._asdict().items():
        if name in plain | whole or number is None:
            value[name] = number
        else:
            value[name] = _scaled(number, MONEY_PLACES if name in money else PLACES)
    return {**value, "stream_id": entry_id}


def _position_row(
    position: PositionSnapshot, message: Message, applied: Applied, entry_id: str
) -> Row:
    execution = message if isinstance(message, Execution) else None
    at = message.timestamp if position.timestamp is None else position.timestamp
    named = execution or (message if isinstance(message, CommissionReport) else None)
    return {
        **_value(position, entry_id),
        "timestamp": None if position.timestamp is None else time_of(position.timestamp),
        "type": _type(message), "message_timestamp": time_of(message.timestamp),
        "side": execution and execution.side,
        "fill_qty": execution and _scaled(abs(execution.qty), PLACES),
        "fill_price": execution and _scaled(execution.price, PLACES),
        "exec_id": named and named.exec_id, "order_id": execution and execution.order_id,
        "realized_pnl_change": _scaled(applied.realized_change, MONEY_PLACES),
        "net_realized_pnl_change": _scaled(applied.net_change, MONEY_PLACES),
        "date": _day(at),
    }  # fmt: skip


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


def _type(message: Message) -> str:
    match message:
        case Execution():
            return "execution"
        case CommissionReport():
            return "commission"
        case Opening():
            return "opening"
        case _:
            return "split"


def _scaled(number: int, places: int) -> Decimal:
    with localcontext(prec=80):
        return Decimal(number).scaleb(-places)


def _day(milliseconds: int) -> date:
    return time_of(milliseconds).date()
