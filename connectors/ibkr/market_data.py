"""What the market says of the contracts that are held: marks.

The one idea: a contract has one request, known by a number that no other request and no
later connection uses, so that whatever TWS says of it can only be its. TWS's own messages
are read, so a price is the text that TWS wrote. A mark is the last price, else the middle
of bid and ask, else the last close. A mark's time is that of TWS's message.

TWS gives as many contracts at once as the account has market data lines. What it
refuses waits, and is asked for again later.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from connectors.clock import now_ms
from connectors.ibkr.messages import decimal_text
from connectors.ibkr.session import (
    ReadingIB,
    contract_details,
    is_of_market_data,
    market_data_numbers,
)

log = logging.getLogger("lotstream.ibkr")

LIVE, DELAYED = 1, 3
"""TWS's types of market data. DELAYED is live where the account has a subscription."""
LOOK_EVERY_S = 1.0
ASK_AGAIN_S = 120.0
"""After which time to ask again for what TWS has refused."""

_PRICE, _TYPE = 1, 58
_UNREAD = (2, 21, 45, 46, 81)
"""Kinds of TWS's messages on a request for market data that say nothing of a price."""
_NAMES = {1: "bid", 2: "ask", 4: "last", 9: "close", 66: "bid", 67: "ask", 68: "last", 75: "close"}
_FIRST_DELAYED = 66
_GOES_ON = {10090, 10091, 10167}
"""A part of it is not subscribed to, for the API, and: delayed data is shown. Prices come all
the same."""
_NO_LINE = 101


class Mark(NamedTuple):
    """A price of a symbol."""

    symbol: str
    price: str
    """Plain, with at most 10 places."""
    timestamp: int
    """When TWS said so, in milliseconds since 1970."""
    source: str
    """Such as `ibkr last`, `ibkr mid`, `ibkr delayed close`."""


@dataclass
class _Asked:
    """A contract that TWS was asked for."""

    con_id: int
    prices: dict[str, Decimal] = field(default_factory=dict)
    delayed: bool = False
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, kind: int, text: str) -> str | None:
        """Take in a price; return what it is of if it decides the mark, else None."""
        name, delayed = _NAMES[kind], kind >= _FIRST_DELAYED
        if delayed != self.delayed:
            self.prices, self.delayed = {}, delayed
        before = self.choose()
        price = read_price(name, text)
        if price is None:
            self.prices.pop(name, None)
        else:
            self.prices[name] = price
        now = self.choose()
        if now is None:
            return None
        tells = name == now[0] or (now[0] == "mid" and name in ("bid", "ask"))
        return now[0] if now != before or (tells and price is not None) else None

    def choose(self) -> tuple[str, Decimal] | None:
        """Return what the mark is and of what, None if there is no price."""
        found = self.prices
        if "last" in found:
            return "last", found["last"]
        if "bid" in found and "ask" in found:
            return "mid", (found["bid"] + found["ask"]) / 2
        return ("close", found["close"]) if "close" in found else None


def read_price(name: str, text: str) -> Decimal | None:
    """Read a price; None for what TWS sends where it has none: nothing, NaN, -1.

    A bid of 0 is one, as of an option that nobody wants; of others it means none.

    >>> read_price("last", "191.20"), read_price("last", "-1.0"), read_price("ask", "nan")
    (Decimal('191.2'), None, None)
    """
    try:
        number = Decimal(decimal_text(text) or "NaN")
    except ArithmeticError:
        return None
    if not number.is_finite() or number == -1 or (not number and name != "bid"):
        return None
    return number


class MarketData:
    """Has TWS send the prices of what is held, and hands marks on.

    ib: the connection; it may be lost and made again. kind: LIVE or DELAYED. receive:
    called on the event loop with each mark.
    """

    def __init__(
        self, ib: ReadingIB, kind: int, answer_s: float, receive: Callable[[Mark], None]
    ) -> None:
        self._ib, self._kind, self._answer_s, self._receive = ib, kind, answer_s, receive
        ib.read_instead(dict.fromkeys(_UNREAD, lambda _fields: None))
        ib.read_instead({_PRICE: self._on_price, _TYPE: self._on_type})
        ib.errorEvent += self._on_error
        self._numbers = market_data_numbers()
        self._asked: dict[int, _Asked] = {}
        """What TWS sends prices of, by the request's number."""
        self._held: Mapping[int, frozenset[str]] = {}
        self._contracts: dict[int, Any] = {}
        self._not_before: dict[int, float] = {}
        """By con_id, when to ask again for what was refused."""
        self._full_until = 0.0
        self._said: set[tuple[int, int]] = set()

    def hold(self, symbols: Mapping[int, frozenset[str]]) -> None:
        """Note what is held: the symbols of each con_id, more than one where names differ."""
        self._held = symbols

    async def run(self, connected: Callable[[], float | None]) -> None:
        """Follow what is held, until cancelled.

        connected: since when TWS answers and has its own servers, None while not; another
        figure after each time that it did not.
        """
        since: float | None = None
        while True:
            now = connected()
            if now is None and not self._ib.isConnected():
                self._asked.clear()  # with the connection they are gone
            elif now is not None:
                if now != since:
                    self._begin()
                since = now
                try:
                    await self._follow()
                except ConnectionError:
                    log.debug("market data: the connection to TWS is lost")
            await asyncio.sleep(LOOK_EVERY_S)

    def _begin(self) -> None:
        """Ask for all anew: TWS may have lost what it was asked for."""
        self._not_before.clear()
        self._full_until = 0.0
        for number in list(self._asked):
            self._cancel(number)
        self._ib.client.reqMarketDataType(self._kind)  # type: ignore[no-untyped-call]

    async def _follow(self) -> None:
        for number, asked in list(self._asked.items()):
            if asked.con_id not in self._held:
                self._cancel(number)
                self._full_until = 0.0
        clock = asyncio.get_running_loop().time
        # One at a time, so that no question of the executions' waits behind many of these.
        for con_id in self._held:
            if clock() < self._full_until:
                return
            known = any(asked.con_id == con_id for asked in list(self._asked.values()))
            if known or clock() < self._not_before.get(con_id, 0.0):
                continue
            if con_id not in self._contracts:
                details = None
                with suppress(TimeoutError):
                    details = await contract_details(self._ib, con_id, self._answer_s)
                if details is None:
                    self._not_before[con_id] = clock() + ASK_AGAIN_S
                    continue
                self._contracts[con_id] = details.contract
            await self._ask(con_id)

    async def _ask(self, con_id: int) -> None:
        number = next(self._numbers)
        self._asked[number] = _Asked(con_id)
        self._ib.client.reqMktData(  # type: ignore[no-untyped-call]
            number, self._contracts[con_id], "",
            snapshot=False, regulatorySnapshot=False, mktDataOptions=[],
        )  # fmt: skip
        # If there is no line left, that is to be known before the next question.
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._asked[number].answered.wait()

    def _cancel(self, number: int) -> None:
        del self._asked[number]
        self._ib.client.cancelMktData(number)  # type: ignore[no-untyped-call]

    def _on_type(self, fields: list[str]) -> None:
        if asked := self._asked.get(int(fields[2])):
            asked.answered.set()

    def _on_price(self, fields: list[str]) -> None:
        asked = self._asked.get(int(fields[2]))
        kind = int(fields[3])
        if asked is None or kind not in _NAMES:
            return
        asked.answered.set()
        name = asked.take(kind, fields[4])
        found = asked.choose()
        if name is None or found is None:
            return
        source = f"ibkr {'delayed ' if asked.delayed else ''}{name}"
        now = now_ms()
        for symbol in self._held.get(asked.con_id, ()):
            self._receive(Mark(symbol, decimal_text(found[1]), now, source))

    def _on_error(self, request: int, code: int, text: str, _contract: Any) -> None:
        if not is_of_market_data(request) or code in _GOES_ON:
            return
        asked = self._asked.get(request)
        if asked is None:
            return
        asked.answered.set()
        self._cancel(request)  # some of what is refused, TWS would give as soon as it can
        clock = asyncio.get_running_loop().time
        if code == _NO_LINE:
            self._full_until = clock() + ASK_AGAIN_S
            self._say(0, code, "%d contracts have marks, more have no market data line: %s",
                      len(self._asked), text)  # fmt: skip
            return
        self._not_before[asked.con_id] = clock() + ASK_AGAIN_S
        names = ", ".join(sorted(self._held.get(asked.con_id, ())))
        self._say(asked.con_id, code, "no marks of %s (%d): %s", names, code, text)

    def _say(self, con_id: int, code: int, text: str, *about: object) -> None:
        if (con_id, code) not in self._said:
            self._said.add((con_id, code))
            log.warning(text, *about)
