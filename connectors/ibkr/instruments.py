"""What contracts are called, and what a point of their price is worth.

Neither stands in an execution. TWS is asked for a contract's details once; the answer,
and the name that no other contract has, are remembered by a register that outlasts us.
"""

import asyncio
import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from connectors.ibkr.messages import Contract, Instrument, decimal_text
from connectors.ibkr.session import ReadingIB, contract_details
from state.names import possible_names

log = logging.getLogger("lotstream.ibkr")

ASKED_AT_ONCE = 20
"""TWS takes 50 requests a second; what waits for its turn must not run out of time."""

_IN_PERCENT = ("BOND", "BILL")
"""Kinds whose price is in percent of par, and whose quantity TWS's documents leave open."""

Record = dict[str, str | None]
"""What the register remembers of a contract."""


class Register(Protocol):
    """Remembers contracts and gives names; each call may wait."""

    async def known(self) -> dict[int, Record]:
        """Return all that is remembered, by con_id."""

    async def claim(self, con_id: int, names: Sequence[str], record: Record | None) -> Record:
        """Give a contract the first of the names that no other has, unless it has one.

        record: what to remember beside the name, None for nothing. Returns what is
        remembered, or only the name.
        """


class Details(NamedTuple):
    """What TWS says of a contract, "" for what it does not."""

    contract: Contract
    primary_exchange: str
    magnifier: int
    """How many of the price's units make one of the currency's, as cents: 100."""
    ev_rule: str
    """By which rule its value follows from its price; "" if it is linear."""


def worth(details: Details) -> tuple[str, str]:
    """Return what a point is worth in money per unit ("" for 1), and what is doubtful.

    >>> wheat = Contract(1, "ZW", "FUT", "USD", "ZWN6", "5000")
    >>> worth(Details(wheat, "CBOT", 100, ""))
    ('50', '')
    """
    contract = details.contract
    if details.ev_rule:
        return "", (
            f"multiplier: expected a contract whose value is linear in its price, found "
            f"evRule {details.ev_rule!r}"
        )
    if contract.sec_type in _IN_PERCENT:
        return "", (
            f"multiplier: expected to know what one unit of a {contract.sec_type} is, found that "
            f"TWS does not say; its price is in percent of par"
        )
    point = decimal_text(Decimal(contract.multiplier or 1) / max(details.magnifier, 1))
    return "" if point == "1" else point, ""


class Instruments:
    """Knows the instrument of each contract, or finds out.

    ib: the connection; it may be lost and made again. answer_s: how long TWS's answer may
    take.
    """

    def __init__(self, ib: ReadingIB, register: Register, answer_s: float) -> None:
        self._ib, self._register, self._answer_s = ib, register, answer_s
        self._known: dict[int, Instrument] = {}
        self._remembered: dict[int, Record] | None = None
        self._lost: dict[int, Record] = {}
        """What was remembered before `remember_again`."""
        self._finding: dict[int, asyncio.Task[Instrument]] = {}
        self._at_once = asyncio.Semaphore(ASKED_AT_ONCE)
        self._loading = asyncio.Lock()
        self._warned: set[int] = set()

    def get(self, contract: Contract) -> Instrument | None:
        """Return the instrument if it is known."""
        return self._known.get(contract.con_id)

    def find_soon(self, contract: Contract) -> "asyncio.Task[Instrument]":
        """Begin to find out; the same again while that lasts is the same task.

        The task waits as long as the register is away or TWS is; its instrument has a
        doubt if TWS does not answer.
        """
        con_id = contract.con_id
        task = self._finding.get(con_id)
        if task is None:
            task = self._finding[con_id] = asyncio.create_task(self._find(contract))
            task.add_done_callback(lambda _: self._finding.pop(con_id, None))
        return task

    async def find(self, contract: Contract) -> Instrument:
        """Return the instrument, waiting as long as it takes; see `find_soon`."""
        known = self.get(contract)
        return known if known is not None else await asyncio.shield(self.find_soon(contract))

    def remember_again(self) -> None:
        """Give the register anew what is known: it may have lost it."""
        self._known.clear()
        self._lost |= self._remembered or {}
        self._remembered = None

    async def _find(self, contract: Contract) -> Instrument:
        con_id = contract.con_id
        record, doubt = await self._remembered_of(con_id), ""
        if record is None and (lost := self._lost.get(con_id)) is not None:
            names = [lost["name"] or contract.plain_name, *_names(contract, None)]
            record = await self._register.claim(con_id, names, lost)
        if record is None:
            details = await self._ask(contract)
            names = _names(contract, details)
            if details is None:
                return _instrument(contract, await self._register.claim(con_id, names, None))
            point, doubt = worth(details)
            record = await self._register.claim(con_id, names, _record(details, point, doubt))
        if self._remembered is not None:
            self._remembered[con_id] = record
        instrument = _instrument(contract, record)
        if instrument.doubt:
            instrument = instrument._replace(doubt=doubt or _DOUBT)
            self._warn(con_id, instrument)
        self._known[con_id] = instrument
        return instrument

    async def _remembered_of(self, con_id: int) -> Record | None:
        async with self._loading:
            if self._remembered is None:
                self._remembered = await self._register.known()
        return self._remembered.get(con_id)

    async def _ask(self, contract: Contract) -> Details | None:
        async with self._at_once:
            while True:
                try:
                    found = await contract_details(self._ib, contract.con_id, self._answer_s)
                except TimeoutError:
                    return None
                except ConnectionError:
                    await asyncio.sleep(_RETRY_S)
                else:
                    return None if found is None else _details(contract, found)

    def _warn(self, con_id: int, instrument: Instrument) -> None:
        if con_id not in self._warned:
            self._warned.add(con_id)
            log.error(
                "%s (con_id %d): its executions become dead letters; %s",
                instrument.name, con_id, instrument.doubt,
            )  # fmt: skip


_RETRY_S = 0.2
_NO_DETAILS = (
    "multiplier: expected the contract's details, which say what a point is worth, found that TWS "
    "does not give them"
)
_DOUBT = (
    "multiplier: expected to know what a point is worth, found that it does not follow from the "
    "contract's details (a bond, or an evRule)"
)


def _details(asked: Contract, found: Any) -> Details:
    contract = found.contract
    multiplier = decimal_text(contract.multiplier or "0")
    return Details(
        Contract(
            asked.con_id,
            contract.symbol or asked.symbol,
            contract.secType or asked.sec_type,
            contract.currency or asked.currency,
            contract.localSymbol or asked.local_symbol,
            asked.multiplier if multiplier == "0" else multiplier,
        ),
        contract.primaryExchange or contract.exchange,
        int(found.priceMagnifier or 1),
        found.evRule or asked.ev_rule,
    )


def _names(contract: Contract, details: Details | None) -> list[str]:
    """Return what it may be called, the best first."""
    exchange = details.primary_exchange if details else ""
    return possible_names(contract.plain_name, contract.con_id, exchange)


def _record(details: Details, point: str, doubt: str) -> Record:
    contract = details.contract
    return {
        "symbol": contract.symbol,
        "sec_type": contract.sec_type,
        "currency": contract.currency,
        "multiplier": None if doubt else point or "1",
        "local_symbol": contract.local_symbol,
        "primary_exchange": details.primary_exchange,
    }


def _instrument(contract: Contract, record: Record) -> Instrument:
    """Return what the register says; with a doubt if it does not know what a point is worth."""
    multiplier = decimal_text(record.get("multiplier") or "1")
    return Instrument(
        record.get("name") or contract.plain_name,
        record.get("sec_type") or contract.sec_type,
        record.get("currency") or contract.currency,
        "" if multiplier == "1" else multiplier,
        "" if record.get("multiplier") else _NO_DETAILS,
    )
