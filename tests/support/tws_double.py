"""A TWS for tests: it speaks the real wire protocol, so that the real library is tested.

It serves version 176 on a loopback socket from a thread of its own, so the program
under test may be a process. A test tells it what happens (a fill, a lost connection,
a server that never ends its list) and reads what it was asked. Field orders are those
of the TWS API's decoder; what no program here reads is left empty.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import ClassVar, Self

from tests.support.servers import free_port

VERSION = 176
DEADLINE_S = 20.0
CHANGES_ORDERS = {3, 4, 58}  # placeOrder, cancelOrder, reqGlobalCancel

Field = str | int | float
Rows = Iterator[list[Field]]


@dataclass(frozen=True)
class Instrument:
    """A contract."""

    con_id: int
    symbol: str
    sec_type: str = "STK"
    currency: str = "USD"
    local_symbol: str = ""
    expiry: str = ""
    strike: float = 0.0
    right: str = ""
    multiplier: str = ""
    exchange: str = "SMART"
    primary_exchange: str = "NASDAQ"
    price_magnifier: int = 1
    ev_rule: str = ""

    def fields(self, exchange: str | None = None) -> list[Field]:
        place = self.exchange if exchange is None else exchange
        return [
            self.con_id, self.symbol, self.sec_type, self.expiry, self.strike, self.right,
            self.multiplier, place, self.currency, self.local_symbol or self.symbol, self.symbol,
        ]  # fmt: skip

    def details(self, request: str) -> list[Field]:
        def empty(count: int) -> list[Field]:
            return [""] * count

        if self.sec_type == "BOND":
            # cusip to descAppend, then marketName to suggestedSizeIncrement
            return [
                18, request, self.symbol, self.sec_type, *empty(11), self.exchange, self.currency,
                "", self.symbol, self.con_id, 0.01, *empty(6), "A bond", self.ev_rule, 0, 0,
                "", "", 1, 1, 1,
            ]  # fmt: skip
        # marketName; minTick to validExchanges; contractMonth to liquidHours; aggGroup on
        return [
            10, request, self.symbol, self.sec_type, self.expiry, self.strike, self.right,
            self.exchange, self.currency, self.local_symbol or self.symbol, "", self.symbol,
            self.con_id, 0.01, self.multiplier, "", "", self.price_magnifier, 0, "A contract",
            self.primary_exchange, *empty(7), self.ev_rule, 0, 0, *empty(6), 1, 1, 1,
        ]  # fmt: skip


@dataclass(frozen=True)
class Fill:
    """An execution; `commission` is None until TWS reports it."""

    exec_id: str
    instrument: Instrument
    side: str = "BOT"
    shares: float = 100.0
    price: float = 10.0
    time: str = "20260706 10:30:05 US/Eastern"
    account: str = "U1"
    order_id: int = 7
    perm_id: int = 1001
    cum_qty: float = 100.0
    avg_price: float = 10.0
    order_ref: str = ""
    commission: str | None = "1.0"
    commission_currency: str = "USD"
    ev_rule: str = ""
    model_code: str = ""

    def fields(self, request: int) -> list[Field]:
        return [
            11, request, self.order_id, *self.instrument.fields("ISLAND"), self.exec_id,
            self.time, self.account, "ISLAND", self.side, self.shares, self.price, self.perm_id,
            0, 0, self.cum_qty, self.avg_price, self.order_ref, self.ev_rule, "",
            self.model_code, 2,
        ]  # fmt: skip

    def commission_fields(self) -> list[Field]:
        unset = "1.7976931348623157E308"
        figure = self.commission or ""
        return [59, 1, self.exec_id, figure, self.commission_currency, unset, unset, ""]


@dataclass(frozen=True)
class Order:
    """An order that this TWS tells its clients of."""

    order_id: int
    perm_id: int
    instrument: Instrument
    quantity: float
    legs: tuple[Instrument, ...] = ()

    def fields(self) -> list[Field]:
        def empty(count: int) -> list[Field]:
            return [""] * count

        head = [5, self.order_id, *replace(self.instrument, right="?").fields()]
        body: list[Field] = ["BUY", self.quantity, "LMT", 10.0, 0.0, "DAY", "", "U1"]
        # openClose to permId; then outsideRth to volatilityType
        body += ["", 0, "", 0, self.perm_id, *empty(36)]
        # deltaNeutralOrderType "None" and its fields, then continuousUpdate to comboLegsDescrip
        body += ["None", *empty(9), *empty(7)]
        legs: list[Field] = [len(self.legs)]
        for leg in self.legs:
            legs += [leg.con_id, 1, "BUY", "SMART", 0, 0, "", -1]
        # no leg prices, no smart routing; scale, hedge; opt-out to dnc, algo, solicited, whatIf
        tail: list[Field] = [0, 0, *empty(4), *empty(4), 0, *empty(3), "Submitted"]
        # margins to randomizePrice; no conditions; adjusted orders to the peg fields
        tail += [*empty(16), 0, *empty(16), *empty(8)]
        return [*head, *body, *legs, *tail]


@dataclass(frozen=True)
class Holding:
    """A position as TWS tells it; the average cost includes the multiplier."""

    account: str
    instrument: Instrument
    quantity: float
    average_cost: float

    def fields(self) -> list[Field]:
        contract = self.instrument.fields("")
        return [61, 3, self.account, *contract, self.quantity, self.average_cost]


@dataclass
class _Session:
    writer: asyncio.StreamWriter
    ready: bool = False
    market_data_type: int = 1
    watched: dict[str, int] = field(default_factory=dict)
    """The con_ids whose prices are asked for, by the request's number."""

    def send(self, *fields: Field) -> None:
        body = "".join(f"{value}\0" for value in fields).encode()
        if not self.writer.is_closing():
            self.writer.write(struct.pack(">I", len(body)) + body)


@dataclass
class TwsDouble:
    """A TWS to connect to, from `with` on; the attributes may be changed at any time."""

    accounts: tuple[str, ...] = ("U1",)
    taken_client_ids: set[int] = field(default_factory=set)
    ends_executions: bool = True
    ends_positions: bool = True
    cut_code: int = 0
    """What it tells each client that connects, as a TWS that has no servers: 1100 or 2110."""
    silent: bool = False
    """Reads, but answers nothing, as a machine that hangs."""
    closes_at_once: bool = False
    """Closes each connection before the handshake, as a Gateway that is restarting."""
    listed: dict[tuple[str, str], Fill] = field(default_factory=dict)
    holdings: list[Holding] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    """Those that wait, of all clients."""
    figures: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Account, tag, value, currency."""
    silent_details: set[int] = field(default_factory=set)
    """The con_ids whose details are never answered."""
    unknown_details: set[int] = field(default_factory=set)
    """The con_ids that TWS says it does not know."""
    asked_details: list[int] = field(default_factory=list)
    instruments: dict[int, Instrument] = field(default_factory=dict)
    """All that were ever filled or held, by con_id."""
    lines: int = 100
    """How many contracts' prices it sends at once."""
    not_subscribed: set[int] = field(default_factory=set)
    """The con_ids of which there is delayed data only."""
    quotes: dict[int, dict[int, str]] = field(default_factory=dict)
    """The prices by con_id and kind of tick: 1 bid, 2 ask, 4 last, 9 close."""
    binds_orders: bool | None = None
    """Whether orders given by hand become the client's; None if it asked to hear of none."""
    requests: list[int] = field(default_factory=list)
    """The kinds of all requests so far."""
    port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        self._sessions: list[_Session] = []
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    # --- what happens to the connection ---

    def open(self) -> None:
        """Listen, on the same port as before."""

        async def listen() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(DEADLINE_S)

    def close(self) -> None:
        """Stop listening and drop all connections."""

        def shut() -> None:
            if self._server is not None:
                self._server.close()
            self._server = None

        self._do(shut)
        self.drop()

    def drop(self, *, reset: bool = False) -> None:
        """Drop all connections; with a reset as from a crash, or in good order."""

        def cut() -> None:
            for session in self._sessions:
                sock = session.writer.get_extra_info("socket")
                if reset and sock is not None:
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                session.writer.transport.abort()
            self._sessions.clear()

        self._do(cut)

    def error(self, code: int, text: str = "") -> None:
        """Send an error that belongs to no request."""
        self._send_all(4, 2, -1, code, text, "")

    def error_of_market_data(self, code: int) -> None:
        """Send an error that belongs to each request for prices; they go on."""

        def tell() -> None:
            for session in self._sessions:
                for request in session.watched:
                    session.send(4, 2, request, code, "", "")

        self._do(tell)

    def wait_for_client(self, count: int = 1) -> None:
        """Wait until so many clients are connected."""
        wait_until(lambda: sum(session.ready for session in self._sessions) >= count)

    # --- what happens on the market ---

    def fill(self, *fills: Fill, live: bool = True) -> None:
        """Let executions happen: they are listed from now on, and sent if live."""

        def happen() -> None:
            for fill in fills:
                self.listed[fill.account, fill.exec_id] = fill
                self.instruments[fill.instrument.con_id] = fill.instrument
                if live:
                    self._send_now(*fill.fields(-1))
                    self._send_commission(fill)

        self._do(happen)

    def hold(self, *holdings: Holding, live: bool = True) -> None:
        """Let positions become these; quantity 0: no more held."""

        def happen() -> None:
            for new in holdings:
                place = (new.account, new.instrument.con_id)
                self.holdings = [
                    old for old in self.holdings if (old.account, old.instrument.con_id) != place
                ]
                if new.quantity:
                    self.holdings.append(new)
                if live:
                    self._send_now(*new.fields())

        self._do(happen)

    def commission(self, exec_id: str, figure: str, *, live: bool = True) -> None:
        """Report what an execution cost."""

        def report() -> None:
            place = next(place for place in self.listed if place[1] == exec_id)
            self.listed[place] = replace(self.listed[place], commission=figure)
            if live:
                self._send_commission(self.listed[place])

        self._do(report)

    def report(self, fill: Fill) -> None:
        """Report what an execution costs that is yet to come."""
        self._send_all(*fill.commission_fields())

    def quote(self, con_id: int, kind: int, price: str) -> None:
        """Let a price change; see `quotes`."""

        def change() -> None:
            self.quotes.setdefault(con_id, {})[kind] = price
            for session in self._sessions:
                for request, watched in session.watched.items():
                    if watched == con_id:
                        session.send(*self._tick(request, con_id, kind))

        self._do(change)

    @property
    def watched(self) -> list[int]:
        """The con_ids whose prices are asked for at the moment, once for each request."""
        return sorted(each for session in self._sessions for each in session.watched.values())

    def order(self, order: Order) -> None:
        """Tell of an order, as TWS tells the master client."""
        self._send_all(*order.fields())

    # --- in the double's own thread ---

    def _do(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(DEADLINE_S)

    def _send_all(self, *fields: Field) -> None:
        self._do(lambda: self._send_now(*fields))

    def _send_now(self, *fields: Field) -> None:
        for session in self._sessions:
            if session.ready and not self.silent:
                session.send(*fields)

    def _send_commission(self, fill: Fill) -> None:
        if fill.commission is not None:
            self._send_now(*fill.commission_fields())

    async def _wind_up(self) -> None:
        # A connection taken just now begins to be served in some turns of the loop, and what is
        # aborted is closed in the next ones.
        for _ in range(5):
            await asyncio.sleep(0)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(writer)
        try:
            if not self.closes_at_once:
                await self._talk(session, reader, writer)
        finally:
            if session in self._sessions:
                self._sessions.remove(session)
            writer.transport.abort()

    async def _talk(
        self, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Else each step of the dialogue would wait for the other side's delayed ack.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sessions.append(session)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await reader.readexactly(4) == b"API\0"
            await _frame(reader)
            if not self.silent:
                session.send(VERSION, "20260706 09:30:00 US/Eastern")
            while True:
                request = await _frame(reader)
                self.requests.append(int(request[0]))
                if not self.silent:
                    self._answer(session, request)

    def _answer(self, session: _Session, request: list[str]) -> None:
        kind, *details = request
        answers = self._ANSWERS.get(kind)
        for fields in answers(self, session, details) if answers else ():
            session.send(*fields)

    def _start(self, session: _Session, details: list[str]) -> Rows:
        if int(details[1]) in self.taken_client_ids:
            session.send(4, 2, -1, 326, "Unable to connect as the client id is in use", "")
            session.writer.close()
            return
        yield [15, 1, ",".join(self.accounts)]
        yield [9, 1, 1]
        for code in (2104, 2106, 2158):
            yield [4, 2, -1, code, "data farm connection is OK", ""]
        if self.cut_code:
            yield [4, 2, -1, self.cut_code, "Connectivity is broken", ""]
        session.ready = True

    def _positions(self, _session: _Session, _details: list[str]) -> Rows:
        for held in self.holdings:
            yield held.fields()
        if self.ends_positions:
            yield [62, 1]

    def _account(self, _session: _Session, details: list[str]) -> Rows:
        for account, tag, value, currency in self._figures(details[2]):
            yield [6, 2, tag, value, currency, account]
        yield [54, 1, details[2]]

    def _account_by_model(self, _session: _Session, details: list[str]) -> Rows:
        for account, tag, value, currency in self._figures(details[2]):
            yield [73, 1, details[1], account, "", tag, value, currency]
        yield [74, 1, details[1]]

    def _figures(self, account: str) -> list[tuple[str, str, str, str]]:
        own = [figure for figure in self.figures if figure[0] == account]
        return own or [(account, "NetLiquidation", "1000000", "USD")]

    def _open_orders(self, _session: _Session, _details: list[str]) -> Rows:
        for order in self.orders:
            yield order.fields()
        yield [53, 1]

    def _contract_details(self, _session: _Session, details: list[str]) -> Rows:
        request, con_id = details[1], int(details[2])
        self.asked_details.append(con_id)
        if con_id in self.silent_details:
            return
        self.instruments |= {held.instrument.con_id: held.instrument for held in self.holdings}
        found = self.instruments.get(con_id)
        if found is None or con_id in self.unknown_details:
            yield [4, 2, request, 200, "No security definition has been found", ""]
            return
        yield found.details(request)
        yield [52, 1, request]

    def _executions(self, _session: _Session, details: list[str]) -> Rows:
        for fill in self.listed.values():
            yield fill.fields(int(details[1]))
            if fill.commission is not None:
                yield fill.commission_fields()
        if self.ends_executions:
            yield [55, 1, details[1]]

    def _market_data_type(self, session: _Session, details: list[str]) -> Rows:
        session.market_data_type = int(details[1])
        yield from ()

    def _market_data(self, session: _Session, details: list[str]) -> Rows:
        request, con_id = details[1], int(details[2])
        delayed = con_id in self.not_subscribed
        if len(session.watched) >= self.lines:
            yield [4, 2, request, 101, "Max number of tickers has been reached", ""]
        elif delayed and session.market_data_type < 3:
            yield [4, 2, request, 354, "Requested market data is not subscribed", ""]
        else:
            session.watched[request] = con_id
            if delayed:
                yield [4, 2, request, 10167, "Displaying delayed market data", ""]
            yield [58, 1, request, 3 if delayed else 1]
            yield [81, request, 0.01, "9c0001", 3]
            for kind in self.quotes.get(con_id, {}):
                yield self._tick(request, con_id, kind)
            yield [46, 6, request, 45, "1783348205"]

    def _tick(self, request: str, con_id: int, kind: int) -> list[Field]:
        delayed = {1: 66, 2: 67, 4: 68, 9: 75}[kind]
        shown = delayed if con_id in self.not_subscribed else kind
        return [1, 6, request, shown, self.quotes[con_id][kind], "100", 0]

    def _no_market_data(self, session: _Session, details: list[str]) -> Rows:
        if session.watched.pop(details[1], None) is None:
            yield [4, 2, details[1], 300, "Can't find EId", ""]

    def _account_summary(self, _session: _Session, details: list[str]) -> Rows:
        yield [64, 1, details[1]]

    def _orders_by_hand(self, _session: _Session, details: list[str]) -> Rows:
        self.binds_orders = details[1] == "1"
        yield from ()

    def _clock(self, _session: _Session, _details: list[str]) -> Rows:
        yield [49, 1, int(time.time())]

    _ANSWERS: ClassVar[dict[str, Callable[["TwsDouble", _Session, list[str]], Rows]]] = {
        "1": _market_data,
        "2": _no_market_data,
        "59": _market_data_type,
        "71": _start,
        "61": _positions,
        "6": _account,
        "76": _account_by_model,
        "7": _executions,
        "9": _contract_details,
        "16": _open_orders,
        "62": _account_summary,
        "15": _orders_by_hand,
        "49": _clock,
    }


async def _frame(reader: asyncio.StreamReader) -> list[str]:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    return (await reader.readexactly(length)).decode().split("\0")[:-1]


def wait_until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; raises TimeoutError."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s} s")
        time.sleep(0.01)
