"""What TWS gives, as the fields of stream messages; IBKR's spellings end here.

Executions, reports and positions are read from the fields of TWS's own messages, so
that a figure is the text that TWS wrote, and what cannot be read can be shown as it came.
"""

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import NamedTuple
from zoneinfo import ZoneInfo

from state.exact import milliseconds
from state.names import plain_name

Message = dict[str, str]
"""The fields of one stream entry."""

_PLACES = Decimal(1).scaleb(-10)
_LARGEST = 1e300  # TWS says "unset" with the largest float there is
_WIDE = Context(prec=320, rounding=ROUND_HALF_EVEN)  # has room for any float


# --- numbers and times ------------------------------------------------------------------


def decimal_text(value: float | str | Decimal) -> str:
    """Write a number plainly, rounded half-even to 10 places; unset ones become "".

    A float counts as the shortest decimal that reads back as the same float, so
    that 0.1 is 0.1. What is no number stays as it is: the flow says so of it.
    """
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    if not number.is_finite() or abs(number) > _LARGEST:
        return ""
    text = f"{number.quantize(_PLACES, context=_WIDE):f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


# Short names that mean one offset wherever TWS is used, in hours; CST, IST and AST, say,
# do not. Those that the zone files have (EST, MST, WET ...) are not repeated.
_HOURS_OF = {
    "HDT": -9, "AKDT": -8, "AKST": -9, "PDT": -7, "PST": -8, "MDT": -6, "CDT": -5, "EDT": -4,
    "ADT": -3, "NDT": -2.5, "NST": -3.5, "BRT": -3, "BRST": -2, "ART": -3, "CLT": -4,
    "CLST": -3, "COT": -5, "PET": -5, "Z": 0, "WEST": 1, "BST": 1, "WAT": 1, "CEST": 2,
    "MEST": 2, "MESZ": 2, "CAT": 2, "SAST": 2, "EEST": 3, "IDT": 3, "EAT": 3, "TRT": 3,
    "MSK": 3, "GST": 4, "PKT": 5, "NPT": 5.75, "ICT": 7, "WIB": 7, "HKT": 8, "SGT": 8,
    "MYT": 8, "PHT": 8, "AWST": 8, "JST": 9, "KST": 9, "ACST": 9.5, "ACDT": 10.5, "AEST": 10,
    "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
_OFFSET = re.compile(r"(?:GMT|UTC)?([+-])(\d{1,2})(?::?([0-5]\d))?")
_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?P<gap>-| +)(\d\d):(\d\d):(\d\d)(?:\.\d*)?(?: +(?P<zone>\S.*))?"
)


class ReadTime(NamedTuple):
    """The time of an execution, UTC."""

    moment: datetime
    again: datetime | None = None
    """What it may be as well: the same time of day comes twice in that night."""
    zone_named: bool = True
    """False if it was read in the zone of times that name none."""


def execution_time(text: str, zone: tzinfo) -> ReadTime:
    """Read the time of an execution as TWS writes it.

    zone: that of a time that names none, and what tells which of several zones a short
    name means; but `20260706-14:30:05`, TWS's "UTC format", is UTC.
    Raises ValueError, saying what to do, if the time or its zone cannot be read.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a time such as 20260706 10:30:05 US/Eastern, found {text!r}")
    naive = datetime(*map(int, match.group(1, 2, 3, 5, 6, 7)))  # type: ignore[arg-type]  # noqa: DTZ001
    zone_named = bool(match["zone"]) or match["gap"] == "-"
    if match["zone"]:
        zone = _named_zone(match["zone"], naive, zone)
    elif match["gap"] == "-":
        zone = UTC
    first = naive.replace(tzinfo=zone).astimezone(UTC)
    second = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)
    # In the hour that is left out in spring, the second reading is the earlier one.
    return ReadTime(first, second if second > first else None, zone_named)


def _named_zone(name: str, naive: datetime, zone: tzinfo) -> tzinfo:
    # A short name such as CST is no zone to Python, but may be that of the user's zone,
    # at that time or in the other half of the year.
    for moment in (naive, naive.replace(month=1, day=1), naive.replace(month=7, day=1)):
        for local in (moment.replace(tzinfo=zone), moment.replace(tzinfo=zone, fold=1)):
            offset = local.utcoffset()
            if local.tzname() == name and offset is not None:
                return timezone(offset)
    if name in _HOURS_OF:
        return timezone(timedelta(hours=_HOURS_OF[name]))
    try:
        if match := _OFFSET.fullmatch(name):
            ahead = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
            return timezone(ahead if match[1] == "+" else -ahead)
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"time: expected a time zone that has one meaning, found {name!r}; let TWS send times "
            f"in UTC format (its API settings), or set IBKR_TIMEZONE to the zone that this is "
            f"short for"
        ) from None


# --- what TWS's messages say ------------------------------------------------------------

COMBO = "BAG"
"""The sec_type of a combo, whose legs come as executions of their own."""

EXECUTION, COMMISSION, POSITION, POSITIONS_END = 11, 59, 61, 62
"""The kinds of TWS's messages, their first field."""


class Contract(NamedTuple):
    """A contract as executions and positions name it; texts are "" for none."""

    con_id: int
    symbol: str
    sec_type: str
    currency: str
    local_symbol: str
    multiplier: str
    """The contract's own, which is money per point only if its price has no magnifier."""
    ev_rule: str = ""
    """By which rule its value follows from its price, where an execution says so."""

    @property
    def plain_name(self) -> str:
        """Return what it is called if nothing else is called so."""
        return plain_name(
            sec_type=self.sec_type, symbol=self.symbol, local_symbol=self.local_symbol,
            currency=self.currency, con_id=self.con_id,
        )  # fmt: skip


def _contract(fields: Sequence[str]) -> Contract:
    con_id, symbol, sec_type, _, _, _, multiplier, _, currency, local_symbol, _ = fields
    multiplier = "" if decimal_text(multiplier or "0") == "0" else decimal_text(multiplier)
    return Contract(int(con_id or 0), symbol, sec_type, currency, local_symbol, multiplier)


_CONTRACT_FIELDS = 11
_EXECUTION_NAMES = (
    "kind", "request", "order_id", "con_id", "symbol", "sec_type", "expiry", "strike", "right",
    "multiplier", "order_exchange", "currency", "local_symbol", "trading_class", "exec_id", "time",
    "account", "exchange", "side", "shares", "price", "perm_id", "client_id", "liquidation",
    "cum_qty", "avg_price", "order_ref", "ev_rule", "ev_multiplier", "model_code",
    "last_liquidity",
)  # fmt: skip
_FEWEST_FIELDS = _EXECUTION_NAMES.index("order_ref")
_UNSET_ORDER_ID = str(2**31 - 1)  # TWS says so of orders given by hand


class Execution(NamedTuple):
    """An execution, as TWS tells of it; texts are "" for none."""

    contract: Contract
    account: str
    exec_id: str
    time: ReadTime
    side: str
    shares: str
    price: str
    order_id: str
    perm_id: int
    cum_qty: str
    avg_price: str
    exchange: str
    order_ref: str
    model_code: str


def read_execution(fields: Sequence[str], zone: tzinfo) -> Execution:
    """Read TWS's message of an execution.

    Raises ValueError, saying what was expected and found, if it cannot be read.
    """
    if len(fields) < _FEWEST_FIELDS:
        raise ValueError(f"fields: expected {_FEWEST_FIELDS} or more, found {len(fields)}")
    given = _by_name(fields)
    contract = _contract(fields[3 : 3 + _CONTRACT_FIELDS])
    for name in ("exec_id", "account"):
        if not given[name]:
            raise ValueError(f"{name}: expected a value, found none")
    if not contract.con_id:
        raise ValueError("con_id: expected a contract's number, found none")
    order_id = given["order_id"]
    return Execution(
        contract._replace(ev_rule=given.get("ev_rule", "")),
        given["account"],
        given["exec_id"],
        execution_time(given["time"], zone),
        {"BOT": "BUY", "SLD": "SELL"}.get(given["side"], given["side"]),
        decimal_text(given["shares"]),
        decimal_text(given["price"]),
        "0" if order_id in ("", _UNSET_ORDER_ID) else order_id,
        int(given["perm_id"] or 0),
        decimal_text(given["cum_qty"] or "0"),
        decimal_text(given["avg_price"]),
        given["exchange"] or given["order_exchange"],
        given.get("order_ref", ""),
        given.get("model_code", ""),
    )


def execution_key(fields: Sequence[str]) -> tuple[str, str]:
    """Return the account and id of an execution from TWS's message, "" for what is not there."""
    given = _by_name(fields)
    return given.get("account", ""), given.get("exec_id", "")


def is_live(fields: Sequence[str]) -> bool:
    """Tell whether TWS sends the execution because it has just happened, not as asked for."""
    return fields[1] == "-1"


def _by_name(fields: Sequence[str]) -> dict[str, str]:
    return dict(zip(_EXECUTION_NAMES, fields, strict=False))


class Cost(NamedTuple):
    """What an execution cost, as TWS reports it."""

    commission: str
    currency: str


def read_commission(fields: Sequence[str]) -> tuple[str, Cost | None]:
    """Return the execution id and the cost; None if TWS does not know it yet.

    An execution that has no report yet may have a placeholder: no figure, an unset one,
    or 0 or -1 of no currency. None of these is a free trade, or a rebate.
    """
    exec_id, figure, currency = fields[2:5]
    commission = decimal_text(figure) if figure else ""
    unknown = not commission or (commission in {"0", "-1"} and not currency)
    return exec_id, None if unknown else Cost(commission, currency)


class Position(NamedTuple):
    """A position that the broker holds."""

    account: str
    contract: Contract
    qty: str
    """Signed."""
    avg_cost: str
    """In money per unit: what a unit cost on average, the multiplier included."""


def read_position(fields: Sequence[str]) -> Position:
    """Read TWS's message of a position."""
    end = 3 + _CONTRACT_FIELDS
    qty, avg_cost = fields[end : end + 2]
    return Position(fields[2], _contract(fields[3:end]), decimal_text(qty), decimal_text(avg_cost))


# --- stream messages --------------------------------------------------------------------


class Instrument(NamedTuple):
    """What a contract is called on the stream, and what a point of its price is worth."""

    name: str
    sec_type: str
    currency: str
    multiplier: str
    """Money per point and unit; "" for 1."""
    doubt: str = ""
    """Why that is not known, "" if it is: then no price of it may be multiplied."""


def execution_message(
    execution: Execution, instrument: Instrument, ordered: float = 0.0
) -> Message:
    """Return the stream message of an execution.

    ordered: the total quantity of the order, 0 if unknown. What the contract
    needs and TWS does not give is left out; the flow then says what is missing.
    """
    contract = execution.contract
    return _present(
        symbol=instrument.name,
        account=execution.account,
        side=execution.side,
        fill_qty=execution.shares,
        fill_price=execution.price,
        order_id=execution.order_id,
        exec_id=execution.exec_id,
        timestamp=str(milliseconds(execution.time.moment)),
        remaining=_remaining(ordered, execution.cum_qty),
        avg_fill_price=execution.avg_price,
        sec_type=contract.sec_type or instrument.sec_type,
        con_id=str(contract.con_id or ""),
        currency=contract.currency or instrument.currency,
        exchange=execution.exchange,
        multiplier=instrument.multiplier,
        order_ref=execution.order_ref,
    )


def commission_message(execution: Execution, instrument: Instrument, cost: Cost) -> Message:
    """Return the stream message of what an execution cost."""
    return _present(
        type="commission",
        symbol=instrument.name,
        account=execution.account,
        exec_id=execution.exec_id,
        timestamp=str(milliseconds(execution.time.moment)),
        commission=cost.commission,
        currency=cost.currency,
    )


class Letter(NamedTuple):
    """An execution that cannot be published as it is."""

    account: str
    exec_id: str
    fields: Message
    """As many of the message's fields as are known, and in `tws` all that TWS gave."""
    reason: str
    """What was expected and what was found."""


def letter(fields: Sequence[str], reason: str, message: Message | None = None) -> Letter:
    """Return the dead letter of an execution.

    fields: TWS's message. message: the stream message, if there is one.
    """
    given = _by_name(fields)
    account, exec_id = execution_key(fields)
    shown = message or _present(
        symbol=given.get("symbol", ""),
        account=account,
        side={"BOT": "BUY", "SLD": "SELL"}.get(given.get("side", ""), given.get("side", "")),
        fill_qty=given.get("shares", ""),
        fill_price=given.get("price", ""),
        order_id=given.get("order_id", ""),
        exec_id=exec_id,
        sec_type=given.get("sec_type", ""),
        con_id=given.get("con_id", ""),
        currency=given.get("currency", ""),
    )
    tws = {name: value for name, value in given.items() if value} or list(fields)
    times = {"tws_time": given["time"]} if given.get("time") else {}
    return Letter(account, exec_id, {**shown, **times, "tws": json.dumps(tws)}, reason)


class Held(NamedTuple):
    """A position that the broker holds; all are texts as in a message, "" for none."""

    account: str
    symbol: str
    qty: str
    """Signed."""
    avg_price: str
    """Average cost per unit and point: IBKR's own includes the multiplier. "" if what a
    point is worth is not known."""
    sec_type: str
    con_id: str
    currency: str
    multiplier: str
    doubt: str = ""


def held(position: Position, instrument: Instrument) -> Held:
    """Return a position in the stream's terms."""
    price = ""
    if not instrument.doubt and position.avg_cost:
        price = decimal_text(Decimal(position.avg_cost) / Decimal(instrument.multiplier or 1))
    return Held(
        account=position.account,
        symbol=instrument.name,
        qty=position.qty,
        avg_price=price,
        sec_type=position.contract.sec_type,
        con_id=str(position.contract.con_id or ""),
        currency=position.contract.currency,
        multiplier=instrument.multiplier,
        doubt=instrument.doubt,
    )


def _remaining(ordered: float, filled: str) -> str:
    if not math.isfinite(ordered) or not 0 <= float(filled or 0) <= ordered > 0:
        return ""
    return decimal_text(Decimal(str(ordered)) - Decimal(filled or 0))


def _present(**fields: str) -> Message:
    return {name: value for name, value in fields.items() if value}
