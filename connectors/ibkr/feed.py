"""TWS or IB Gateway to stream messages; IBKR's spellings end here.

The one idea: the library's events are not to be trusted, for fills that were fetched
and fills of orders that this client never saw raise none. So after every packet the
library's list of fills is compared with what was handed on. Each fetch begins with
forgetting that: all that TWS lists is handed on again, and the receiver, whose memory
outlasts connections, knows what is new.

Everything here only reads: no order is placed, changed or cancelled.
"""

import asyncio
import logging
import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from state.keys import position_key

# On import, eventkit takes the thread's event loop: newer Pythons make none by
# themselves, and the one that older ones make would never be closed.
_loop = asyncio.new_event_loop()
asyncio.set_event_loop(_loop)
if TYPE_CHECKING:
    from ib_insync import IB, Contract, ExecutionFilter, Fill, Position
else:
    try:  # ib_insync's successor, with the same names, serves where it is installed
        from ib_async import IB, Contract, ExecutionFilter, Fill, Position
    except ImportError:
        from ib_insync import IB, Contract, ExecutionFilter, Fill, Position
asyncio.set_event_loop(None)
_loop.close()

Message = dict[str, str]
"""The fields of one stream entry."""

log = logging.getLogger("lotstream.ibkr")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0

_PLACES = Decimal(1).scaleb(-10)
_LARGEST = 1e300  # TWS says "unset" with the largest float there is
_WIDE = Context(prec=320, rounding=ROUND_HALF_EVEN)  # has room for any float


class TwsError(Exception):
    """There is no connection to TWS; the text says why, in one line."""


class ClientIdTakenError(TwsError):
    """Another program is connected with this client id."""


class Tws(NamedTuple):
    """Where TWS or Gateway listens, and as whom to connect."""

    host: str
    port: int
    client_id: int
    zone: tzinfo
    """The zone of times that name none."""
    answer_s: float = 5.0
    """How long an answer may take, in seconds."""


# --- numbers, times, names --------------------------------------------------------------


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


# Short names that mean one offset wherever TWS is used; CST and IST, say, do not.
_HOURS_OF = {
    "EDT": -4, "CDT": -5, "MDT": -6, "PDT": -7, "PST": -8,
    "BST": 1, "CEST": 2, "EEST": 3, "HKT": 8, "SGT": 8, "JST": 9, "KST": 9, "AEST": 10, "AEDT": 11,
}  # fmt: skip
_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?P<gap>-| +)(\d\d):(\d\d):(\d\d)(?:\.\d*)?(?: +(?P<zone>\S.*))?"
)


def execution_time(text: str, zone: tzinfo) -> datetime:
    """Read the time of an execution as TWS writes it.

    zone: that of a time that names none; but `20260706-14:30:05`, TWS's "UTC format",
    is UTC. An hour that a zone has twice a year counts as the first of the two.
    Raises ValueError, saying what to do, if the time or its zone cannot be read.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a time such as 20260706 10:30:05 US/Eastern, found {text!r}")
    naive = datetime(*map(int, match.group(1, 2, 3, 5, 6, 7)))  # type: ignore[arg-type]  # noqa: DTZ001
    if match["zone"]:
        zone = _named_zone(match["zone"], naive, zone)
    elif match["gap"] == "-":
        zone = UTC
    return naive.replace(tzinfo=zone).astimezone(UTC)


def _named_zone(name: str, naive: datetime, zone: tzinfo) -> tzinfo:
    # A short name such as EDT is no zone to Python, but may be that of the user's zone.
    for local in (naive.replace(tzinfo=zone), naive.replace(tzinfo=zone, fold=1)):
        offset = local.utcoffset()
        if local.tzname() == name and offset is not None:
            return timezone(offset)
    if name in _HOURS_OF:
        return timezone(timedelta(hours=_HOURS_OF[name]))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"no time zone is named {name!r}; let TWS send times in UTC format (its API "
            f"settings), or set IBKR_TIMEZONE to the zone that this is short for"
        ) from None


def instrument(contract: Contract) -> str:
    """Name the instrument: a stock by its symbol, all else by the broker's local symbol.

    The local symbol tells apart what shares a symbol: the series of a derivative,
    currency pairs, an issuer's bonds.
    """
    if contract.secType == "STK" and contract.symbol:
        return contract.symbol
    if contract.localSymbol:
        return contract.localSymbol
    if contract.secType == "CASH":
        return f"{contract.symbol}.{contract.currency}"
    return f"{contract.symbol}#{contract.conId}"


# --- messages ----------------------------------------------------------------------------


def execution_message(fill: Fill, ordered: float = 0.0) -> Message | None:
    """Return the stream message of an execution; None for a combo, whose legs come too.

    ordered: the total quantity of the order, 0 if unknown. What the contract
    needs and TWS does not give is left out; the flow then says what is missing.
    """
    contract, execution = fill.contract, fill.execution
    if contract.secType == "BAG":
        return None
    return _present(
        symbol=instrument(contract),
        account=execution.acctNumber,
        side={"BOT": "BUY", "SLD": "SELL"}.get(execution.side, execution.side),
        fill_qty=decimal_text(execution.shares),
        fill_price=decimal_text(execution.price),
        order_id=str(execution.orderId),
        exec_id=execution.execId,
        timestamp=_milliseconds(execution.time),
        remaining=_remaining(ordered, execution.cumQty),
        avg_fill_price=decimal_text(execution.avgPrice),
        sec_type=contract.secType,
        con_id=str(contract.conId or ""),
        currency=contract.currency,
        exchange=execution.exchange or contract.exchange,
        multiplier=_multiplier(contract),
        order_ref=execution.orderRef,
    )


def commission_message(fill: Fill) -> Message | None:
    """Return the stream message of what an execution cost; None if that is not known yet.

    A fill that has no report yet carries a placeholder: no id, or a zero of no
    currency, or unset figures. None of these is a free trade.
    """
    report = fill.commissionReport
    commission = decimal_text(report.commission)
    unknown = not report.execId or not commission or (commission == "0" and not report.currency)
    if unknown or fill.contract.secType == "BAG":
        return None
    return _present(
        type="commission",
        symbol=instrument(fill.contract),
        account=fill.execution.acctNumber,
        exec_id=fill.execution.execId,
        timestamp=_milliseconds(fill.execution.time),
        commission=commission,
        currency=report.currency,
    )


class Held(NamedTuple):
    """A position that the broker holds; all are texts as in a message, "" for none."""

    account: str
    symbol: str
    qty: str
    """Signed."""
    avg_price: str
    """Average cost per unit and point: IBKR's own includes the multiplier."""
    sec_type: str
    con_id: str
    currency: str
    multiplier: str


def held(position: Position) -> Held:
    """Return a position in the stream's terms."""
    contract, multiplier = position.contract, _multiplier(position.contract)
    return Held(
        account=position.account,
        symbol=instrument(contract),
        qty=decimal_text(position.position),
        avg_price=decimal_text(Decimal(str(position.avgCost)) / Decimal(multiplier or 1)),
        sec_type=contract.secType,
        con_id=str(contract.conId or ""),
        currency=contract.currency,
        multiplier=multiplier,
    )


def opening_message(position: Held, timestamp: int) -> Message:
    """Return the message that opens a book with a position that the broker holds.

    timestamp: milliseconds since 1970, UTC; the flow books it first whatever it is.
    """
    return _present(type="opening", timestamp=str(timestamp), **position._asdict())


def _remaining(ordered: float, filled: float) -> str:
    if not math.isfinite(ordered) or not 0 <= filled <= ordered > 0:
        return ""
    return decimal_text(Decimal(str(ordered)) - Decimal(str(filled)))


def _multiplier(contract: Contract) -> str:
    text = decimal_text(contract.multiplier or "0")
    return "" if text == "0" else text


def _milliseconds(moment: datetime) -> str:
    return str((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))


def _present(**fields: str) -> Message:
    return {name: value for name, value in fields.items() if value}


# --- the connection -------------------------------------------------------------------------


class ReadingIB(IB):
    """The library's IB, for reading only, with three of its faults mended.

    It loses executions whose time names a zone unknown to Python, and reads TWS's
    UTC format as local time: here the decoder gets times as seconds since 1970,
    which it reads rightly. It reads a commission that is not given as 0: here it
    does not get it. And its connect fails if TWS does not end the list of
    executions, as some versions do not: here it does not ask for them.
    """

    def __init__(self, zone: tzinfo) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # They log every attempt and every fill; what matters is logged here, once.
        for part in ("client", "wrapper", "ib"):
            logging.getLogger(f"{IB.__module__.split('.')[0]}.{part}").setLevel(logging.CRITICAL)
        self._zone = zone
        self._unread: set[str] = set()
        handlers: dict[int, Callable[[list[str]], None]] = self.client.decoder.handlers
        self._decode_execution = handlers[_EXECUTION]
        self._decode_commission = handlers[_COMMISSION]
        handlers[_EXECUTION] = self._on_execution
        handlers[_COMMISSION] = self._on_commission

    async def reqExecutionsAsync(self, execFilter: Any = None) -> list[Fill]:  # noqa: ARG002, N802, N803
        """Ask for nothing; see `fetch_executions`."""
        return []

    def _on_execution(self, fields: list[str]) -> None:
        try:
            moment = execution_time(fields[_TIME_FIELD], self._zone)
        except ValueError as error:
            exec_id = fields[_TIME_FIELD - 1]
            if exec_id not in self._unread:
                log.error("execution %s is not published: %s", exec_id, error)  # noqa: TRY400
                self._unread.add(exec_id)
            return
        seconds = str(int(moment.timestamp()))
        self._decode_execution([*fields[:_TIME_FIELD], seconds, *fields[_TIME_FIELD + 1 :]])

    def _on_commission(self, fields: list[str]) -> None:
        if fields[_COMMISSION_FIELD]:
            self._decode_commission(fields)

    def hang_up(self) -> None:
        """End the connection now, also one whose other end is gone without a word."""
        transport = self.client.conn.transport
        with suppress(OSError):  # of a socket that is no longer connected
            self.client.disconnect()  # type: ignore[no-untyped-call]
        if transport is not None:
            transport.abort()  # a plain close would wait for what is yet to be sent


# TWS's messages, and where they have the time and the figure.
_EXECUTION, _TIME_FIELD = 11, 15
_COMMISSION, _COMMISSION_FIELD = 59, 3


async def connect(ib: ReadingIB, tws: Tws) -> None:
    """Connect for reading only.

    Raises TwsError as soon as it is clear that TWS will not have us; the library
    alone would wait for its time-out.
    """
    codes: set[int] = set()
    connecting = asyncio.ensure_future(
        ib.connectAsync(tws.host, tws.port, tws.client_id, tws.answer_s, readonly=True)
    )

    def on_error(_request: int, code: int, _text: str, _contract: Any) -> None:
        codes.add(code)

    def on_hang_up(_text: str) -> None:
        connecting.cancel()

    ib.errorEvent += on_error
    ib.client.conn.disconnected += on_hang_up
    try:
        await asyncio.wait({connecting})
    finally:
        connecting.cancel()
        ib.errorEvent -= on_error
        ib.client.conn.disconnected -= on_hang_up
    if connecting.cancelled() or connecting.exception():
        error = None if connecting.cancelled() else connecting.exception()
        if _CLIENT_ID_TAKEN in codes:
            taken = f"client id {tws.client_id} is in use by another program; set IBKR_CLIENT_ID"
            raise ClientIdTakenError(taken)
        raise TwsError(_reason(tws, error)) from error


def _reason(tws: Tws, error: BaseException | None) -> str:
    where = f"{tws.host}:{tws.port}"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}; is TWS or Gateway running, with its API enabled?"
    if isinstance(error, TimeoutError):
        return f"no answer from {where} within {tws.answer_s:g} s"
    if error is None or isinstance(error, ConnectionError):
        return f"{where} closed the connection"
    return f"{where}: {error}"


async def fetch_executions(ib: IB, answer_s: float) -> bool:
    """Bring all executions that TWS lists into `ib.fills()`.

    Returns whether TWS said that these are all, within `answer_s` seconds; what
    comes later still arrives. Raises ConnectionError if the connection is lost.
    """
    client: Any = ib.client
    wrapper: Any = ib.wrapper
    request = client.getReqId()
    ended = wrapper.startReq(request)
    client.reqExecutions(request, ExecutionFilter())
    try:
        await asyncio.wait_for(ended, answer_s)
    except TimeoutError:
        return False
    finally:
        # Else the library would keep, for ever, a request that is never answered.
        wrapper._endReq(request)  # noqa: SLF001
    return True


class Account(NamedTuple):
    """What the broker says of all accounts."""

    positions: list[Held]
    traded: set[str]
    """Keys of which TWS lists executions, that is, of today."""


async def ask_account(tws: Tws, spare_ids: int) -> Account:
    """Read positions, as client `tws.client_id` or the next id that is free.

    spare_ids: how many more ids to try. Raises TwsError.
    """
    ib = ReadingIB(tws.zone)
    try:
        for client_id in range(tws.client_id, tws.client_id + spare_ids):
            with suppress(ClientIdTakenError):
                await connect(ib, tws._replace(client_id=client_id))
                break
        else:
            await connect(ib, tws._replace(client_id=tws.client_id + spare_ids))
        # Asked again, as the library takes a list that did not come for an empty one.
        await asyncio.wait_for(ib.reqPositionsAsync(), tws.answer_s)
        await fetch_executions(ib, tws.answer_s)
        fills = filter(None, map(execution_message, ib.fills()))
        traded = {position_key(fill["symbol"], fill.get("account")) for fill in fills}
        return Account(list(map(held, ib.positions())), traded)
    except TimeoutError:
        raise TwsError(f"it did not list its positions within {tws.answer_s:g} s") from None
    except ConnectionError:
        raise TwsError("it closed the connection") from None
    finally:
        ib.hang_up()


_CLIENT_ID_TAKEN = 326
_CUT = {1100, 2110}  # TWS has lost IBKR's servers,
_HEALED = {1101, 1102}  # and has them back
_NOTICES = range(2100, 2170)  # states of data farms and the like


class ExecutionFeed:
    """Follows TWS for ever, and hands on every execution and commission that it lists.

    receive: called on the event loop with messages in execution order: by time,
    equal times as TWS sent them. Messages come again after each fetch, that is
    after each connect, after IBKR's servers were away, every `pause_s` seconds and
    after `fetch()`; the receiver is to ignore those it has.
    """

    def __init__(
        self, tws: Tws, receive: Callable[[list[Message]], None], *, pause_s: float = 30.0
    ) -> None:
        self._tws = tws
        self._receive = receive
        self._pause_s = pause_s
        self._ib = ReadingIB(tws.zone)
        self._ib.updateEvent += self._on_update
        self._ib.errorEvent += self._on_error
        self._ib.disconnectedEvent += self.fetch
        self._wake = asyncio.Event()
        self._taken: dict[str, tuple[float, str]] = {}
        self._held: list[Message] = []
        self._holding = self._heard = self._cut = False
        self._said: set[str] = set()

    def fetch(self) -> None:
        """Have TWS list all executions again soon, and hand them on again."""
        self._wake.set()

    async def run(self) -> None:
        """Connect, follow, and connect again, until cancelled."""
        clock = asyncio.get_running_loop().time
        waits = _waits()
        while True:
            began = clock()
            self._holding = True
            try:
                await connect(self._ib, self._tws)
                await self._follow()
            except TwsError as error:
                self._warn_once(f"no connection to TWS, retrying until there is: {error}")
            except ConnectionError:
                self._warn_once("TWS closed the connection, connecting again")
            finally:
                self._ib.hang_up()
                self._hand_over()
            if clock() - began > 2 * LONGEST_WAIT_S:
                waits = _waits()
            await asyncio.sleep(next(waits))

    async def _follow(self) -> None:
        self._note_connected()
        while True:
            self._wake.clear()
            await self._fetch()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause_s)

    async def _fetch(self) -> None:
        self._taken.clear()
        self._heard, self._holding = False, True
        try:
            self._ib.client.reqCurrentTime()  # type: ignore[no-untyped-call]
            complete = await fetch_executions(self._ib, self._tws.answer_s)
        finally:
            self._hand_over()
        if not self._heard:
            raise TwsError(f"it has not answered for {self._tws.answer_s:g} s")
        if not complete:
            self._warn_once("TWS does not end its list of executions; what it sent is published")

    def _on_update(self) -> None:
        """Take what is new after a packet: a lost connection would wipe it."""
        self._heard = True
        for fill in self._ib.fills():
            report = fill.commissionReport
            figure = (report.commission, report.currency)
            if self._taken.get(fill.execution.execId) != figure:
                self._take(fill, figure)
        if not self._holding:
            self._hand_over()

    def _take(self, fill: Fill, figure: tuple[float, str]) -> None:
        exec_id = fill.execution.execId
        is_new = exec_id not in self._taken
        self._taken[exec_id] = figure
        try:
            messages = [execution_message(fill, self._ordered(fill)) if is_new else None]
            messages.append(commission_message(fill))
        except Exception:  # the library would swallow it, and stop the other fills
            log.exception("execution %s is not published: %s", exec_id, fill)
            return
        self._held += [message for message in messages if message is not None]

    def _ordered(self, fill: Fill) -> float:
        trade = self._ib.wrapper.permId2Trade.get(fill.execution.permId)
        # A leg fills another quantity than the combo that was ordered.
        known = trade is not None and trade.contract.conId == fill.contract.conId
        return trade.order.totalQuantity if trade and known else 0.0

    def _hand_over(self) -> None:
        self._holding = False
        messages, self._held = self._held, []
        if messages:
            self._receive(sorted(messages, key=lambda message: int(message["timestamp"])))

    def _on_error(self, _request: int, code: int, text: str, _contract: Any) -> None:
        if code in _HEALED:
            log.info("TWS has IBKR's servers back (%d), asking for executions", code)
            self._cut = False
            self.fetch()
        elif code in _CUT:
            if not self._cut:
                log.warning("TWS has lost IBKR's servers (%d): %s", code, text)
            self._cut = True
        elif code != _CLIENT_ID_TAKEN:
            level = logging.DEBUG if code in _NOTICES else logging.WARNING
            log.log(level, "TWS says (%d): %s", code, text)

    def _warn_once(self, text: str) -> None:
        """Log a text once until there is a new connection."""
        if text not in self._said:
            log.warning(text)
            self._said.add(text)

    def _note_connected(self) -> None:
        host, port, client_id, *_ = self._tws
        accounts = ", ".join(self._ib.managedAccounts())
        log.info("connected to TWS at %s:%d as client %d: %s", host, port, client_id, accounts)
        self._said.clear()
        self._cut = False


def _waits() -> Iterator[float]:
    """Yield the seconds to wait before each further attempt."""
    wait = FIRST_WAIT_S
    while True:
        yield wait + random.uniform(0, FIRST_WAIT_S)  # noqa: S311
        wait = min(2 * wait, LONGEST_WAIT_S)
