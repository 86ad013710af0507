"""One stream entry to one message: the only place where input is checked.

Every rule of the input's form stands here, in the order of the contract's table.
What passes has numbers instead of text and needs no further check of its form;
what does not raises RejectedError with what was expected and what was found.
Unknown fields are ignored, so that producers can carry their own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from state.exact import PLACES, decimal_places, from_text, money_from_text
from state.keys import parse_exec_id
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)

LONGEST_NAME = 64
"""Characters of a symbol or an execution id."""

LAST_TIMESTAMP = 253_402_300_799_999
"""The end of the year 9999, in milliseconds since 1970."""

FIRST_TIMESTAMP = 31_536_000_000
"""The beginning of 1971; what is earlier is most likely in seconds."""

DAY_MS = 86_400_000

NEVER_BELOW_ZERO = frozenset({"STK", "BOND", "BILL", "FUND", "CASH", "CRYPTO"})
"""The security types (IBKR's) whose price may be 0, but not negative."""

_INTEGER = re.compile(r"([+-]?)0*([0-9]{1,19})", re.ASCII)
_RATIO = re.compile(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", re.ASCII)
_SIDES = {b"BUY": "BUY", b"SELL": "SELL"}
_LONGEST_SHOWN = 80
_DIGITS_OF_TIME = len(str(LAST_TIMESTAMP))
_DIGITS_OF_64_BITS = 18
"""As many always fit in."""

_Fields = Mapping[bytes, bytes | None]

HEADING = (b"symbol", b"account", b"currency", b"multiplier", b"con_id", b"sec_type")


class Heading(NamedTuple):
    """What an entry says of its position: whose, and of what instrument."""

    symbol: str
    account: str | None
    instrument: Instrument


def decode(pairs: Sequence[bytes], arrived: int | None = None) -> tuple[str, str | None, Message]:
    """Read an entry's fields as (symbol, account, message).

    pairs: field names and values in turn, as Redis keeps them. arrived: the time in the
    entry's own id, in milliseconds; a message may be at most a day ahead of it.
    Raises RejectedError, naming the field, what was expected and what was found.
    """
    words = iter(pairs)
    fields = dict(zip(words, words, strict=True))
    if 2 * len(fields) != len(pairs):
        _refuse_repeated(pairs[::2])
    kind = _text(fields, b"type") or "execution"
    read = _READERS.get(kind)
    if read is None:
        raise _expected("type", f"one of {', '.join(_READERS)}", kind)
    symbol, account = _owner(fields.get(b"symbol"), fields.get(b"account"))
    message = read(fields)
    if arrived is not None and message.timestamp > latest(arrived):
        raise _wrong_time("timestamp", message.timestamp)
    return symbol, account, message


def latest(arrived: int) -> int:
    """Return the latest time that a message may have which arrived then.

    Ids that are no times since 1971, which a producer may choose, say nothing of it.
    """
    return min(arrived + DAY_MS, LAST_TIMESTAMP) if arrived >= FIRST_TIMESTAMP else LAST_TIMESTAMP


def _wrong_time(name: str, timestamp: int) -> RejectedError:
    if timestamp < FIRST_TIMESTAMP:
        why = "milliseconds since 1970, not before 1971: most likely these are seconds"
    else:
        why = "a time not more than a day after that of the entry's own id"
    return RejectedError(f"{name}: expected {why}, found {timestamp}")


@lru_cache(maxsize=100_000)
def check_heading(names: tuple[bytes, ...], values: tuple[bytes, ...]) -> Heading:
    """Check the fields that nearly all messages of a key say alike, once for all of them.

    names, values: the fields of HEADING that the entry has. Raises RejectedError.
    """
    fields = dict(zip(names, values, strict=True))
    return Heading(*_owner(fields.get(b"symbol"), fields.get(b"account")), _instrument(fields))


@lru_cache(maxsize=100_000)
def _owner(given_symbol: bytes | None, given_account: bytes | None) -> tuple[str, str | None]:
    """Check what nearly all messages of a key say alike, once for all of them."""
    fields = {b"symbol": given_symbol, b"account": given_account}
    symbol = _name(fields, b"symbol")
    account = _text(fields, b"account")
    if account is not None and ":" in account:
        raise _expected("account", "a text without colon", account)
    if account is None and ":" in symbol:
        raise _expected("symbol", "no colon, as there is no account", symbol)
    return symbol, account


# --- the types of message ---------------------------------------------------------


def _execution(fields: _Fields) -> Execution:
    side = _SIDES.get((fields.get(b"side") or b"").upper())
    if side is None:
        raise _expected("side", "BUY or SELL", fields.get(b"side"))
    qty = _decimal(fields, b"fill_qty")
    price = _price(fields, b"fill_price")
    order_id = _integer(fields, b"order_id")
    exec_id = _name(fields, b"exec_id")
    identity, revision = _revision_of(exec_id)
    if qty < 0 or (qty == 0 and revision <= 1):
        expected = "a decimal above 0 (0 only in a correction, as the bust of an execution)"
        raise _expected("fill_qty", expected, fields[b"fill_qty"])
    timestamp = _timestamp(fields)
    commission = _optional_decimal(fields, b"commission")
    instrument = _instrument(fields)
    _text(fields, b"exchange")
    if instrument.multiplier is not None:
        _check_places(qty, price, instrument.multiplier)
    return Execution(
        exec_id, identity, revision, timestamp, qty if side == "BUY" else -qty, price,
        commission, order_id, side, instrument, _text(fields, b"order_ref"),
        _text(fields, b"commission_currency"), _optional_decimal(fields, b"basis_adjustment"),
    )  # fmt: skip


def _commission(fields: _Fields) -> CommissionReport:
    exec_id = _name(fields, b"exec_id")
    identity, revision = _revision_of(exec_id)
    commission = _decimal(fields, b"commission")
    currency = _text(fields, b"currency")
    return CommissionReport(exec_id, identity, revision, _timestamp(fields), commission, currency)


def _opening(fields: _Fields) -> Opening:
    exec_id = _name_or(fields, "opening")
    qty, timestamp = _decimal(fields, b"qty"), _timestamp(fields)
    if qty == 0:
        return Opening(exec_id, timestamp, 0, 0)
    price, cost = _price_or_cost(fields, qty)
    instrument = _instrument(fields)
    if instrument.multiplier is not None and price is not None:
        _check_places(qty, price, instrument.multiplier)
    return Opening(exec_id, timestamp, qty, price, cost, instrument)


def _split(fields: _Fields) -> Split:
    text = _required(fields, b"ratio")
    match = _RATIO.fullmatch(text)
    if match is None:
        raise _expected("ratio", "two whole numbers such as 4:1 or 1:10", text)
    places = _integer(fields, b"places") if fields.get(b"places") else PLACES
    if not 0 <= places <= PLACES:
        raise _expected("places", f"a whole number from 0 to {PLACES}", fields[b"places"])
    timestamp = _timestamp(fields)
    return Split(_name_or(fields, str(timestamp)), timestamp, int(match[1]), int(match[2]), places)


def _cost(fields: _Fields) -> Cost:
    timestamp, per_unit = _timestamp(fields), _decimal(fields, b"per_unit")
    return Cost(_name_or(fields, str(timestamp)), timestamp, per_unit)


def _transfer(fields: _Fields) -> TransferIn | TransferOut:
    direction = (_text(fields, b"direction") or "OUT").upper()
    exec_id, timestamp = _name(fields, b"exec_id"), _timestamp(fields)
    if direction == "OUT":
        qty = _optional_decimal(fields, b"qty")
        if qty is not None and qty <= 0:
            raise _expected("qty", "a decimal above 0, or none for all", fields[b"qty"])
        return TransferOut(exec_id, timestamp, qty)
    if direction != "IN":
        raise _expected("direction", "IN or OUT", direction)
    qty = _decimal(fields, b"qty")
    if qty == 0:
        raise _expected("qty", "a decimal other than 0", fields[b"qty"])
    price, cost = _price_or_cost(fields, qty)
    return TransferIn(exec_id, timestamp, qty, price, cost, _timestamp(fields, b"opened"))


def _contract(fields: _Fields) -> ContractNumber:
    return ContractNumber(_timestamp(fields), _integer(fields, b"con_id"))


_READERS: dict[str, Callable[[_Fields], Message]] = {
    "execution": _execution,
    "commission": _commission,
    "opening": _opening,
    "split": _split,
    "cost": _cost,
    "transfer": _transfer,
    "instrument": _contract,
}


# --- the forms of a field ------------------------------------------------------------


def _text(fields: _Fields, name: bytes) -> str | None:
    """Return a field's text, or None if it is absent or empty."""
    value = fields.get(name)
    if not value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _expected(name.decode(), "UTF-8 text", value) from None


def _required(fields: _Fields, name: bytes) -> str:
    value = _text(fields, name)
    if value is None:
        raise RejectedError(f"{name.decode()}: expected a value, found none")
    return value


def _name(fields: _Fields, name: bytes) -> str:
    value = _required(fields, name)
    if len(value) > LONGEST_NAME:
        raise _expected(name.decode(), f"1 to {LONGEST_NAME} characters", value)
    return value


def _name_or(fields: _Fields, default: str) -> str:
    return _name(fields, b"exec_id") if fields.get(b"exec_id") else default


def _revision_of(exec_id: str) -> tuple[str, int]:
    identity, revision = parse_exec_id(exec_id)
    return identity, 1 if revision is None else revision


def _decimal(fields: _Fields, name: bytes, read: Callable[[str], int] = from_text) -> int:
    text = _required(fields, name)
    try:
        return read(text)
    except ValueError as error:
        raise _expected(name.decode(), str(error), text) from None


def _optional_decimal(fields: _Fields, name: bytes) -> int | None:
    return _decimal(fields, name) if fields.get(name) else None


def _price(fields: _Fields, name: bytes) -> int:
    price = _decimal(fields, name)
    if price <= 0:
        sec_type = _text(fields, b"sec_type")
        if sec_type is None:
            raise _expected(
                name.decode(), "a decimal above 0, as there is no sec_type", fields[name]
            )
        if price < 0 and sec_type in NEVER_BELOW_ZERO:
            expected = f"a decimal not below 0, as sec_type is {sec_type}"
            raise _expected(name.decode(), expected, fields[name])
    return price


def _price_or_cost(fields: _Fields, qty: int) -> tuple[int | None, int | None]:
    """Return a lot's average price or its cost basis, whichever is given."""
    if fields.get(b"cost_basis"):
        if fields.get(b"avg_price"):
            raise RejectedError("cost_basis: expected it or avg_price, found both")
        cost = _decimal(fields, b"cost_basis", money_from_text)
        if cost and (cost > 0) != (qty > 0):
            raise _expected("cost_basis", "the sign of qty", fields[b"cost_basis"])
        return None, cost
    price = _decimal(fields, b"avg_price")
    if price < 0:
        raise _expected("avg_price", "a decimal not below 0", fields[b"avg_price"])
    return price, None


def _integer(fields: _Fields, name: bytes) -> int:
    text = _required(fields, name)
    if len(text) <= _DIGITS_OF_64_BITS and _is_digits(text):
        return int(text)
    match = _INTEGER.fullmatch(text)
    value = int(match[1] + match[2]) if match else 2**63
    if not -(2**63) <= value < 2**63:
        raise _expected(name.decode(), "a whole number of at most 64 bits", text)
    return value


def _timestamp(fields: _Fields, name: bytes = b"timestamp") -> int:
    text = _required(fields, name)
    value = int(text) if len(text) <= _DIGITS_OF_TIME and _is_digits(text) else None
    if value is None or value > LAST_TIMESTAMP:
        expected = "whole milliseconds since 1970, from 1971 to the end of the year 9999"
        raise _expected(name.decode(), expected, text)
    if value < FIRST_TIMESTAMP:
        raise _wrong_time(name.decode(), value)
    return value


def _is_digits(text: str) -> bool:
    return text.isdecimal() and text.isascii()


def _instrument(fields: _Fields) -> Instrument:
    return _instrument_of(
        fields.get(b"currency"), fields.get(b"multiplier"), fields.get(b"con_id"),
        fields.get(b"sec_type"),
    )  # fmt: skip


@lru_cache(maxsize=100_000)
def _instrument_of(
    given_currency: bytes | None,
    given_multiplier: bytes | None,
    given_con_id: bytes | None,
    sec_type: bytes | None,
) -> Instrument:
    """Check what nearly all messages of a key say alike, and keep one object for all of them."""
    fields = {
        b"currency": given_currency, b"multiplier": given_multiplier, b"con_id": given_con_id,
        b"sec_type": sec_type,
    }  # fmt: skip
    currency = _text(fields, b"currency")
    multiplier = _optional_decimal(fields, b"multiplier")
    if multiplier is not None and multiplier <= 0:
        raise _expected("multiplier", "a decimal above 0", fields[b"multiplier"])
    con_id = _integer(fields, b"con_id") if fields.get(b"con_id") else None
    return Instrument(currency, multiplier, con_id, _text(fields, b"sec_type"))


def _check_places(qty: int, price: int, multiplier: int) -> None:
    places = sum(map(decimal_places, (qty, price, multiplier)))
    if places > 2 * PLACES:
        raise RejectedError(
            f"multiplier: expected quantity, price and multiplier to have at most "
            f"{2 * PLACES} decimal places together, found {places}"
        )


def _refuse_repeated(names: Sequence[bytes]) -> None:
    """Refuse a known field that is given twice: nobody can say which one counts."""
    for name in _KNOWN:
        if names.count(name) > 1:
            raise RejectedError(f"{name.decode()}: expected once, found {names.count(name)} times")


_KNOWN = tuple(
    b"type symbol side fill_qty fill_price order_id exec_id timestamp account con_id sec_type "
    b"currency exchange order_ref multiplier commission commission_currency basis_adjustment qty "
    b"avg_price cost_basis ratio places per_unit direction opened".split()
)


def _expected(field: str, expected: str, found: bytes | str | None) -> RejectedError:
    if not found:
        return RejectedError(f"{field}: expected {expected}, found none")
    shown = repr(found)
    if isinstance(found, bytes):
        # Text is shown as text; bytes that are no text keep Python's b'..' form.
        with suppress(UnicodeDecodeError):
            shown = repr(found.decode())
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:_LONGEST_SHOWN]}... ({len(found)} long)"
    return RejectedError(f"{field}: expected {expected}, found {shown}")
