"""What the broker holds: positions as TWS lists and updates them, and the account's figures.

What is unknown is not empty: positions are known from the end of TWS's list on, until
the connection to TWS, or TWS's own to IBKR, is lost.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from connectors.ibkr.instruments import Instruments, Register
from connectors.ibkr.messages import (
    COMBO,
    COMMISSION,
    EXECUTION,
    POSITION,
    POSITIONS_END,
    Held,
    Position,
    decimal_text,
    held,
    read_execution,
    read_position,
)
from connectors.ibkr.session import (
    CUT,
    ClientIdTakenError,
    ReadingIB,
    Tws,
    TwsError,
    connect,
    fetch_executions,
)
from state.keys import position_key

_MASTER = re.compile(r"D?F\d+")


class Accounts:
    """Which accounts are followed: all but those of an FA master, whose fills are allocated.

    chosen: these and no others, if any are named.
    """

    def __init__(self, chosen: Collection[str] = ()) -> None:
        self._chosen = frozenset(chosen)

    def __contains__(self, account: str) -> bool:
        if self._chosen:
            return account in self._chosen
        return _MASTER.fullmatch(account) is None

    def unknown(self, managed: Collection[str]) -> list[str]:
        """Return those that were named and are not among the accounts that TWS has."""
        return sorted(self._chosen.difference(managed))


class Positions:
    """The broker's positions, as TWS's messages bring them.

    changed: called whenever there is something new.
    """

    def __init__(self, accounts: Accounts, changed: Callable[[], None]) -> None:
        self._accounts, self._changed = accounts, changed
        self._held: dict[tuple[str, int], Position] = {}
        self._listing: dict[tuple[str, int], Position] | None = None
        self.known = False
        """Whether all of them are known at the moment."""

    @property
    def held(self) -> list[Position]:
        """What is held; the last that was known, if it is not known now."""
        return list(self._held.values())

    def list_begins(self) -> None:
        """Take what comes from now on for a list of all positions, until it ends.

        One that is on its way already is gone on with: nothing tells its end from this one's.
        """
        self._listing = self._listing or {}

    def lost(self) -> None:
        """Note that changes may be missed from now on."""
        self.known, self._listing = False, None
        self._changed()

    def read(self, fields: list[str]) -> None:
        """Read TWS's message of a position."""
        position = read_position(fields)
        if position.account not in self._accounts or position.contract.sec_type == COMBO:
            return
        table = self._held if self._listing is None else self._listing
        key = (position.account, position.contract.con_id)
        if position.qty == "0":
            table.pop(key, None)
        else:
            table[key] = position
        if self._listing is None:
            self._changed()

    def read_end(self, _fields: list[str]) -> None:
        """Read that TWS's list has ended."""
        if self._listing is not None:
            self._held, self._listing = self._listing, None
            self.known = True
            self._changed()


class OpenOrder(NamedTuple):
    """An order that waits at the broker, as the broker has it."""

    account: str
    symbol: str
    side: str
    qty: str
    order_type: str
    limit_price: str
    stop_price: str
    tif: str
    status: str
    filled: str
    order_id: int
    client_id: int
    order_ref: str


FIGURES = ("NetLiquidation", "BuyingPower", "CashBalance")
_BASE = "BASE"
"""TWS's name for the sum over currencies, which is no currency."""


def account_figures(ib: ReadingIB, accounts: Accounts) -> dict[str, dict[str, dict[str, str]]]:
    """Return, by account and name, the figures by currency, as the broker gives them."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for value in ib.accountValues():
        if value.tag in FIGURES and value.account in accounts and not value.modelCode:
            if value.currency == _BASE:
                continue
            by_currency = found.setdefault(value.account, {}).setdefault(value.tag, {})
            by_currency[value.currency] = decimal_text(value.value)
    return found


async def open_orders(ib: ReadingIB, accounts: Accounts, answer_s: float) -> list[OpenOrder]:
    """Ask for the orders that wait, of all clients and those given by hand.

    Raises TimeoutError if TWS does not answer, as one that is set to reading only may
    not, and ConnectionError if the connection is lost.
    """
    async with asyncio.timeout(answer_s):
        trades = await ib.reqAllOpenOrdersAsync()
    return [_open_order(trade) for trade in trades if trade.order.account in accounts]


def _open_order(trade: Any) -> OpenOrder:
    contract, order, status = trade.contract, trade.order, trade.orderStatus
    return OpenOrder(
        order.account,
        contract.localSymbol or contract.symbol,
        order.action,
        decimal_text(order.totalQuantity),
        order.orderType,
        decimal_text(order.lmtPrice) if "LMT" in order.orderType else "",
        decimal_text(order.auxPrice) if "STP" in order.orderType else "",
        order.tif,
        status.status,
        decimal_text(status.filled),
        order.orderId,
        order.clientId,
        order.orderRef,
    )


class Account(NamedTuple):
    """What the broker says of all accounts, when asked once."""

    positions: list[Held]
    traded: dict[str, list[str]]
    """Execution ids that TWS lists, that is, of today, by key."""
    accounts: list[str]
    """Those that are followed, of this login's."""


async def ask_account(tws: Tws, spare_ids: int, register: Register, accounts: Accounts) -> Account:
    """Read positions, as client `tws.client_id` or the next id that is free.

    spare_ids: how many more ids to try. Raises TwsError.
    """
    question = _Question(tws, accounts)
    try:
        await question.connect(spare_ids)
        asking = asyncio.ensure_future(
            question.ask(Instruments(question.ib, register, tws.answer_s))
        )

        def on_hang_up() -> None:
            asking.cancel()  # who asks for a contract's name would wait for another connection

        question.ib.disconnectedEvent += on_hang_up
        await asyncio.wait({asking})
        if asking.cancelled():
            raise TwsError("it closed the connection")
        return asking.result()
    except TimeoutError:
        raise TwsError(f"it did not list its positions within {tws.answer_s:g} s") from None
    except ConnectionError:
        raise TwsError("it closed the connection") from None
    finally:
        question.ib.hang_up()


class _Question:
    def __init__(self, tws: Tws, accounts: Accounts) -> None:
        self._tws, self._accounts = tws, accounts
        self._executions: list[list[str]] = []
        self._positions = Positions(accounts, lambda: None)
        instead = {
            EXECUTION: self._executions.append,
            COMMISSION: lambda _fields: None,
            POSITION: self._positions.read,
        }
        self.ib = ReadingIB(instead=instead, before={POSITIONS_END: self._positions.read_end})
        self.ib.errorEvent += self._on_error
        self._cut = 0
        """The code with which TWS said that it has lost IBKR's servers, if it did."""

    def _on_error(self, _request: int, code: int, _text: str, _contract: Any) -> None:
        if code in CUT:
            self._cut = code

    async def connect(self, spare_ids: int) -> None:
        tws = self._tws
        for client_id in range(tws.client_id, tws.client_id + spare_ids):
            with suppress(ClientIdTakenError):
                await connect(self.ib, tws._replace(client_id=client_id))
                return
        await connect(self.ib, tws._replace(client_id=tws.client_id + spare_ids))

    async def ask(self, instruments: Instruments) -> Account:
        # Asked again, as the library takes a list that did not come for an empty one.
        self._positions.list_begins()
        async with asyncio.timeout(self._tws.answer_s):
            await self.ib.reqPositionsAsync()
        await fetch_executions(self.ib, self._tws.answer_s, lambda: len(self._executions))
        named = [
            held(position, await instruments.find(position.contract))
            for position in self._positions.held
        ]
        managed = self.ib.managedAccounts()
        accounts = {each for each in managed if each in self._accounts}
        accounts |= {each.account for each in named}
        traded: dict[str, list[str]] = {}
        for execution in self._readable():
            if execution.account in self._accounts and execution.contract.sec_type != COMBO:
                name = (await instruments.find(execution.contract)).name
                key = position_key(name, execution.account)
                traded.setdefault(key, []).append(execution.exec_id)
                accounts.add(execution.account)
        if not accounts:
            raise TwsError(
                f"expected an account that is followed (see IBKR_ACCOUNTS), found "
                f"{', '.join(managed)}"
            )
        if self._cut:
            raise TwsError(f"it has lost IBKR's servers ({self._cut}), so what it holds is unknown")
        return Account(named, traded, sorted(accounts))

    def _readable(self) -> Iterable[Any]:
        for fields in self._executions:
            with suppress(ValueError):
                yield read_execution(fields, self._tws.zone)
