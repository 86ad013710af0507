"""The router's work beside publishing: the broker's side in Redis, and the breaks.

Three loops, each of which may wait for Redis without holding up the others: what the
broker holds and whether that is known; our positions held against it; the account's own
figures.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from connectors.clock import now_ms
from connectors.ibkr.account import Accounts, OpenOrder, account_figures, open_orders
from connectors.ibkr.feed import ExecutionFeed
from connectors.ibkr.instruments import Instruments, Record
from connectors.ibkr.messages import Contract, Held, Instrument, held
from connectors.redis.broker import (
    BothSides,
    BothSidesReader,
    BrokerHash,
    BrokerPosition,
    difference_json,
)
from connectors.redis.instruments import InstrumentHash
from flows.common.threads import in_daemon_thread
from state.breaks import LASTING_S, BreakWatch, Difference, differences

T = TypeVar("T")
log = logging.getLogger("lotstream.router")

SHOW_EVERY_S = 2.0
"""How often to say that the broker's side is still known; readers wait for five times that."""
LOOK_EVERY_S = 1.0
AT_CONNECT_S = 4.0
"""For how long something has to differ directly after a connect to be told. TWS has listed
all it has, and all of it is booked, so less is on its way than at other times."""
FIGURES_EVERY_S = 5.0
ORDERS_EVERY_S = 30.0
_ANSWER_S = 5.0
_ASK_AGAIN_S = 30.0


class WaitingRegister:
    """The hash `instruments` for the feed, one call at a time."""

    def __init__(self, instruments: InstrumentHash, failed: Callable[[Exception], None]) -> None:
        self._hash, self._failed = instruments, failed
        self._lock = asyncio.Lock()

    async def known(self) -> dict[int, Record]:
        return await self._call(self._hash.known)

    async def claim(self, con_id: int, names: Sequence[str], record: Record | None) -> Record:
        return await self._call(lambda: self._hash.claim(con_id, names, record))

    async def _call(self, call: Callable[[], T]) -> T:
        async with self._lock:
            try:
                return await in_daemon_thread(call)
            except Exception as error:
                # Whoever waits for a name goes on waiting, and the program ends.
                self._failed(error)
                await asyncio.Event().wait()
                raise


class BrokerSide:
    """Keeps the hash `broker` at what TWS says.

    `changed` is to be called when that is something new.
    """

    def __init__(self, broker: BrokerHash, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker, self._clock = broker, clock
        self._wake = asyncio.Event()
        self._written: dict[tuple[str, str], BrokerPosition] | None = None
        self._accounts: list[str] = []
        self._unnamed: dict[int, tuple[float, Instrument]] = {}

    def changed(self) -> None:
        """Note that positions have changed, or are no longer known."""
        self._wake.set()

    def write_again(self) -> None:
        """Write all anew: Redis may have lost it."""
        self._written = None
        self._wake.set()

    async def run(self, feed: ExecutionFeed, accounts: Accounts) -> None:
        """Write what there is, until cancelled. Raises RedisRefusedError."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SHOW_EVERY_S):  # see ExecutionFeed._follow
                    await self._wake.wait()
            self._wake.clear()
            if feed.positions.known:
                followed = [each for each in feed.ib.managedAccounts() if each in accounts]
                self._accounts = followed or self._accounts
                await self._write(feed)
            # Asked again: it may have been lost meanwhile.
            await self._show(known=feed.positions.known)

    async def forget(self) -> None:
        """Say that nothing is known any more."""
        await self._show(known=False)

    async def _show(self, *, known: bool) -> None:
        accounts = list(self._accounts)
        await in_daemon_thread(lambda: self._broker.show(accounts, known=known))

    async def _write(self, feed: ExecutionFeed) -> None:
        positions = feed.positions.held
        instruments = await asyncio.gather(
            *(self._instrument(feed.instruments, each.contract) for each in positions)
        )
        now = now_ms()
        before = self._written or {}
        rows = {}
        for position, instrument in zip(positions, instruments, strict=True):
            row = _row(held(position, instrument), now)
            old = before.get((row.account, row.con_id))
            same = old is not None and old._replace(as_of=now) == row
            rows[row.account, row.con_id] = old if old and same else row
        if rows != self._written:
            accounts = list(self._accounts)
            await in_daemon_thread(lambda: self._broker.write(list(rows.values()), accounts))
            self._written = rows

    async def _instrument(self, instruments: Instruments, contract: Contract) -> Instrument:
        """Return it, also without the details that TWS does not give, for a name is needed."""
        asked_at, instrument = self._unnamed.get(contract.con_id, (-_ASK_AGAIN_S, None))
        if instrument is None or self._clock() > asked_at + _ASK_AGAIN_S:
            instrument = await instruments.find(contract)
            if instruments.get(contract) is None:
                self._unnamed[contract.con_id] = (self._clock(), instrument)
        return instruments.get(contract) or instrument


def _row(position: Held, as_of: int) -> BrokerPosition:
    return BrokerPosition(
        position.account,
        position.symbol,
        position.qty,
        position.avg_price,
        position.con_id,
        as_of,
    )


class Comparison:
    """Holds our positions against the broker's, and tells of breaks.

    on_their_way: how many messages were read from TWS and are not published.
    """

    def __init__(
        self, reader: BothSidesReader, broker: BrokerHash, on_their_way: Callable[[], int]
    ) -> None:
        self._reader, self._broker, self._on_their_way = reader, broker, on_their_way
        self._watch = BreakWatch()
        self._before: set[str] = set()
        """Breaks that an earlier run has left, until it is known that they have ended."""
        self._since: dict[str, int] = {}
        self._written: dict[str, str] = {}

    def write_again(self) -> None:
        """Write all breaks anew: Redis may have lost them."""
        self._written = {}

    async def run(self, feed: ExecutionFeed) -> None:
        """Look again and again, until cancelled. Raises RedisRefusedError."""
        clock = asyncio.get_running_loop().time
        self._before = set(await in_daemon_thread(self._broker.breaks))
        said = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            listed = feed.listed
            on_their_way = self._on_their_way() + feed.waiting
            if listed is None or not feed.positions.known:
                self._watch.unknown()
                continue
            try:
                sides = await in_daemon_thread(self._reader.read)
            except ValueError as error:
                if str(error) != said:
                    said = str(error)
                    log.error("positions are not compared: %s", said)  # noqa: TRY400
                continue
            said = ""
            if feed.listed != listed or not feed.positions.known:
                continue
            told = sides.booked and not on_their_way and bool(sides.accounts)
            await self._look(clock() - listed, sides if told else None)

    async def _look(self, connected_s: float, sides: BothSides | None) -> None:
        found = None
        if sides is not None:
            found = differences(sides.ours, sides.broker, sides.accounts)
        lasting_s = AT_CONNECT_S if connected_s < LASTING_S else LASTING_S
        clock = asyncio.get_running_loop().time
        begun, ended = self._watch.look(clock(), found, lasting_s=lasting_s)
        for key, difference in begun.items():
            log.warning("break: %s: %s", key, words(difference))
        for key, difference in ended.items():
            log.info("no break any more: %s: %s", key, words(difference))
        gone = set(ended)
        if found is not None and connected_s > LASTING_S:
            gone |= self._before - found.keys()
            self._before &= found.keys()
        now = now_ms()
        self._since = {key: self._since.get(key, now) for key in self._watch.breaks}
        texts = {
            key: difference_json(difference, self._since[key])
            for key, difference in self._watch.breaks.items()
        }
        new = {key: text for key, text in texts.items() if self._written.get(key) != text}
        self._written = texts  # first: it may have to be written again right after
        await in_daemon_thread(lambda: self._broker.write_breaks(new, gone))


def words(difference: Difference) -> str:
    """Say how the two sides of a key differ."""
    both = f"ours {difference.ours:f}, the broker's {difference.broker:f}"
    if difference.kind == "price factor":
        return f"{both}, but our average price is about {difference.detail} times the broker's"
    if difference.kind == "two names":
        return f"{both}; the same contract is also called {difference.detail}"
    return f"{both} ({difference.kind}), {difference.missing:+f} missing"


class AccountView:
    """Keeps the accounts' own figures and open orders beside the hash `broker`."""

    def __init__(self, broker: BrokerHash, accounts: Accounts) -> None:
        self._broker, self._accounts = broker, accounts
        self._orders: list[OpenOrder] | None = None

    async def run(self, feed: ExecutionFeed) -> None:
        """Write what the broker says, until cancelled. Raises RedisRefusedError."""
        clock = asyncio.get_running_loop().time
        ask_at: float | None = 0.0
        connected: float | None = None
        while True:
            await asyncio.sleep(FIGURES_EVERY_S if connected else LOOK_EVERY_S)
            if feed.listed is None:
                connected, ask_at = None, 0.0
                continue
            connected = feed.listed
            if ask_at is not None and clock() >= ask_at:
                ask_at = clock() + ORDERS_EVERY_S if await self._ask_orders(feed) else None
            await self._write(feed)

    async def _write(self, feed: ExecutionFeed) -> None:
        figures = account_figures(feed.ib, self._accounts)
        texts = {
            account: _account_json(account, of_account, self._orders)
            for account, of_account in figures.items()
        }
        await in_daemon_thread(lambda: self._broker.write_account(texts))

    async def _ask_orders(self, feed: ExecutionFeed) -> bool:
        """Ask for open orders; tell whether TWS answers such a question."""
        try:
            self._orders = await open_orders(feed.ib, self._accounts, _ANSWER_S)
        except (TimeoutError, ConnectionError):
            self._orders = None  # unknown is not none
            return False
        return True


def _account_json(
    account: str, figures: Mapping[str, Mapping[str, str]], orders: Sequence[OpenOrder] | None
) -> str:
    own = None
    if orders is not None:
        own = [order._asdict() for order in orders if order.account == account]
    return json.dumps(
        {
            "net_liquidation": figures.get("NetLiquidation", {}),
            "buying_power": figures.get("BuyingPower", {}),
            "cash": figures.get("CashBalance", {}),
            "open_orders": own,
            "as_of": now_ms(),
        }
    )
