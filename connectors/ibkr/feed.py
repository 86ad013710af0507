"""Which executions and commissions are new.

The one idea: the library's events are not to be trusted, for fills that were fetched
and fills of orders that this client never saw raise none. So TWS's own messages are
read, and what each says is compared with what was handed on; a message costs the same
however many there were before. TWS is asked for its list again and again. The receiver,
whose memory outlasts this one, knows what is new to it.

Everything here only reads: no order is placed, changed or cancelled.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from connectors.ibkr.account import Accounts, Positions
from connectors.ibkr.instruments import Instruments, Register
from connectors.ibkr.messages import (
    COMBO,
    COMMISSION,
    EXECUTION,
    POSITION,
    POSITIONS_END,
    Contract,
    Cost,
    Execution,
    Instrument,
    Letter,
    Message,
    ReadTime,
    commission_message,
    execution_key,
    execution_message,
    is_live,
    letter,
    read_commission,
    read_execution,
)
from connectors.ibkr.session import (
    CLIENT_ID_TAKEN,
    CUT,
    LONGEST_WAIT_S,
    ReadingIB,
    Tws,
    TwsError,
    connect,
    fetch_executions,
    is_of_market_data,
    waits,
)

log = logging.getLogger("lotstream.ibkr")

_HEALED = {1101, 1102}  # TWS has IBKR's servers back,
_FORGOTTEN = 1101  # but what it was asked to go on telling is forgotten
_NOTICES = range(2100, 2170)  # states of data farms and the like
_READ_ONLY = {200, 321}  # no such contract, and what a TWS set to reading only refuses

_SEC_TYPE = 5  # its place in TWS's message of an execution

_AT_ONCE = 500
"""Messages handed on at a time, so that a long list keeps nothing else waiting."""
_LISTS_APART = 50
"""A list that took long is asked for again after as many times that long, or later."""


@dataclass
class _Known:
    """An execution that was read, in one account."""

    execution: Execution
    skipped: bool
    """Of a combo, or of an account that is not followed: nothing is handed on."""
    reported: bool = False
    """Whether a report has come since the execution was last listed."""
    cost: Cost | None = None


class _Item(NamedTuple):
    """Something to hand on."""

    execution: Execution
    cost: Cost | None
    """None for the execution itself, else a report of what it cost."""
    fields: list[str]
    """TWS's message of it."""


class ExecutionFeed:
    """Follows TWS for ever, and hands on every execution and commission that it lists.

    receive: called on the event loop with messages in execution order: by time,
    equal times as TWS sent them; only a contract whose details are yet to come is behind.
    refuse: called with an execution that cannot be published. Both may be given the
    same again, after `offer_again()` and by the next feed; they are to ignore what they
    have. register: remembers contracts. positions_changed: called when the broker's
    positions have. pause_s: seconds between lists.
    """

    def __init__(
        self,
        tws: Tws,
        receive: Callable[[list[Message]], None],
        refuse: Callable[[Letter], None],
        register: Register,
        *,
        accounts: Accounts | None = None,
        positions_changed: Callable[[], None] = lambda: None,
        warn_of_zone: bool = False,
        pause_s: float = 30.0,
    ) -> None:
        self._tws, self._pause_s = tws, pause_s
        self._receive, self._refuse = receive, refuse
        self._accounts = accounts or Accounts()
        self.positions = Positions(self._accounts, positions_changed)
        instead = {
            EXECUTION: self._on_execution,
            COMMISSION: self._on_commission,
            POSITION: self.positions.read,
        }
        self.ib = ReadingIB(instead=instead, before={POSITIONS_END: self.positions.read_end})
        self.ib.updateEvent += self._on_packet
        self.ib.errorEvent += self._on_error
        self.ib.disconnectedEvent += self._on_disconnect
        self.instruments = Instruments(self.ib, register, tws.answer_s)
        self._clock = _Clock(warn_of_zone=warn_of_zone)
        self._wake = asyncio.Event()
        self._memory = _Memory()
        self._held: list[_Item] = []
        self._waiting: dict[int, list[_Item]] = {}
        """What is to be handed on once its contract is known, by con_id."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding = self._cut = self._forgotten = False
        self._packets = self._told = 0
        self._said: set[str] = set()
        self._said_for_good: set[str] = set()
        self.listed: float | None = None
        """When, by the loop's clock, TWS had listed all executions for the first time since
        it was connected; None until then."""

    def fetch(self) -> None:
        """Have TWS list all executions again soon."""
        self._wake.set()

    def offer_again(self) -> None:
        """Have all that TWS lists handed on again: the receiver may have lost it."""
        self._memory.clear()
        self.instruments.remember_again()
        self.fetch()

    @property
    def waiting(self) -> int:
        """How many contracts' details are waited for."""
        return len(self._waiting)

    async def run(self) -> None:
        """Connect, follow, and connect again, until cancelled."""
        clock = asyncio.get_running_loop().time
        pauses = waits()
        while True:
            began = clock()
            self._holding = True
            self._cut = self._forgotten = False  # else TWS says so, maybe while we connect
            self.positions.list_begins()  # connecting has TWS list them
            try:
                await connect(self.ib, self._tws)
                await self._follow()
            except TwsError as error:
                self._warn_once(f"no connection to TWS, retrying until there is: {error}")
            except ConnectionError:
                self._warn_once("TWS closed the connection, connecting again")
            finally:
                self._on_disconnect()
                self.ib.hang_up()
                self._hand_on(self._take_held())
            if clock() - began > 2 * LONGEST_WAIT_S:
                pauses = waits()
            await asyncio.sleep(next(pauses))

    async def _follow(self) -> None:
        self._note_connected()
        clock = asyncio.get_running_loop().time
        list_at = clock()
        while True:
            if self._wake.is_set() or clock() >= list_at:
                self._wake.clear()
                began = clock()
                complete = await self._fetch()
                if self.listed is None and not self._cut:
                    self.listed = clock()
                # What is live waits in the connection behind the list.
                took_s = clock() - began if complete else 0.0
                list_at = clock() + max(self._pause_s, _LISTS_APART * took_s)
            else:
                await self._hear()
            # Not wait_for: until Python 3.12 it forgets that it was cancelled if what it waits
            # for happens at the same time.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._wake.wait()
            if self._forgotten:
                return  # connecting asks for all of it again

    async def _hear(self) -> None:
        try:
            async with asyncio.timeout(self._tws.answer_s):
                await self.ib.reqCurrentTimeAsync()
        except TimeoutError:
            raise TwsError(f"it has not answered for {self._tws.answer_s:g} s") from None

    async def _fetch(self) -> bool:
        """Have TWS list all executions; return whether it said that these are all."""
        before = self._packets
        self._clock.list_begins()
        self._memory.list_begins()
        self.ib.client.reqCurrentTime()  # type: ignore[no-untyped-call]
        if not self.positions.known and not self._cut:
            self.positions.list_begins()
            self.ib.client.reqPositions()  # type: ignore[no-untyped-call]
        complete = await fetch_executions(self.ib, self._tws.answer_s, lambda: self._told)
        if complete:
            self._memory.list_ends()
        await self._let_go()
        if self._packets == before:
            raise TwsError(f"it has not answered for {self._tws.answer_s:g} s")
        if not complete:
            self._warn_once("TWS does not end its list of executions; what it sent is published")
        return complete

    # --- TWS's messages -----------------------------------------------------------------

    def _on_execution(self, fields: list[str]) -> None:
        self._told += not is_live(fields)
        account, exec_id = execution_key(fields)
        known = self._memory.find(account, exec_id)
        if known is not None:
            known.reported = False
            return
        try:
            execution = read_execution(fields, self._tws.zone)
        except ValueError as error:
            combo = fields[_SEC_TYPE : _SEC_TYPE + 1] == [COMBO]
            if not combo and (not account or account in self._accounts):
                self._refuse_once(letter(fields, str(error)))
            return
        moment = self._clock.decide(execution.time, exec_id, live=is_live(fields))
        execution = execution._replace(time=ReadTime(moment))
        skipped = execution.contract.sec_type == COMBO or account not in self._accounts
        self._note_account(execution)
        early = self._memory.add(_Known(execution, skipped))
        if not skipped:
            self._held.append(_Item(execution, None, fields))
            if self.instruments.get(execution.contract) is None:
                self.instruments.find_soon(execution.contract)
        if early is not None:
            self._on_commission(early)

    def _on_commission(self, fields: list[str]) -> None:
        exec_id, cost = read_commission(fields)
        if cost is None:
            return
        known = self._memory.next_to_report(exec_id, fields)
        if known is None:
            return
        known.reported = True
        if known.cost != cost and not known.skipped:
            self._held.append(_Item(known.execution, cost, fields))
        known.cost = cost

    def _on_packet(self) -> None:
        self._packets += 1
        if not self._holding and self._held:
            self._hand_on(self._take_held())

    # --- handing on ---------------------------------------------------------------------

    async def _let_go(self) -> None:
        """Hand on what was held while TWS listed, in the order of time."""
        while self._held:
            items = self._take_held()
            for start in range(0, len(items), _AT_ONCE):
                self._hand_on(items[start : start + _AT_ONCE])
                await asyncio.sleep(0)
        self._holding = False

    def _take_held(self) -> list[_Item]:
        items, self._held = self._held, []
        return sorted(items, key=lambda item: item.execution.time.moment)

    def _hand_on(self, items: Iterable[_Item]) -> None:
        """Hand on what can be, and have the rest wait for its contract."""
        messages: list[Message] = []
        for item in items:
            contract = item.execution.contract
            instrument = self.instruments.get(contract)
            if contract.con_id in self._waiting:
                self._waiting[contract.con_id].append(item)
            elif instrument is None:
                self._waiting[contract.con_id] = [item]
                task = asyncio.create_task(self._hand_on_later(contract))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                messages += self._messages(item, instrument)
        if messages:
            self._receive(messages)

    async def _hand_on_later(self, contract: Contract) -> None:
        instrument = await self.instruments.find(contract)
        items = self._waiting.pop(contract.con_id)
        if messages := [each for item in items for each in self._messages(item, instrument)]:
            self._receive(messages)

    def _messages(self, item: _Item, instrument: Instrument) -> list[Message]:
        execution = item.execution
        if item.cost is not None:
            return [commission_message(execution, instrument, item.cost)]
        message = execution_message(execution, instrument, self._ordered(execution))
        if not instrument.doubt:
            return [message]
        if self.instruments.get(execution.contract) is None:
            self._memory.forget(execution)  # its next listing asks for the details again
        self._refuse_once(letter(item.fields, instrument.doubt, message))
        return []

    def _ordered(self, execution: Execution) -> float:
        trade: Any = self.ib.wrapper.permId2Trade.get(execution.perm_id)
        # A leg fills another quantity than the combo that was ordered.
        known = trade is not None and trade.contract.conId == execution.contract.con_id
        return float(trade.order.totalQuantity) if known else 0.0

    def _refuse_once(self, refused: Letter) -> None:
        text = f"execution {refused.exec_id or '?'} is not published: {refused.reason}"
        if text not in self._said_for_good:
            self._said_for_good.add(text)
            log.error(text)
        self._refuse(refused)

    # --- what happens to the connection -------------------------------------------------

    def _on_disconnect(self) -> None:
        self.listed = None
        self.positions.lost()
        self.fetch()

    def _on_error(self, request: int, code: int, text: str, _contract: Any) -> None:
        if is_of_market_data(request):
            return
        if code in _HEALED:
            log.info("TWS has IBKR's servers back (%d), asking for executions", code)
            self._cut = False
            self._forgotten |= code == _FORGOTTEN
            self.fetch()
        elif code in CUT:
            if not self._cut:
                log.warning("TWS has lost IBKR's servers (%d): %s", code, text)
            self._cut, self.listed = True, None
            self.positions.lost()
        elif code != CLIENT_ID_TAKEN:
            level = logging.DEBUG if code in _NOTICES or code in _READ_ONLY else logging.WARNING
            log.log(level, "TWS says (%d): %s", code, text)

    def _warn_once(self, text: str) -> None:
        """Log a text once until there is a new connection."""
        if text not in self._said:
            log.warning(text)
            self._said.add(text)

    def _note_connected(self) -> None:
        host, port, client_id, *_ = self._tws
        accounts = self.ib.managedAccounts()
        log.info(
            "connected to TWS at %s:%d as client %d: %s", host, port, client_id, ", ".join(accounts)
        )
        if unknown := self._accounts.unknown(accounts):
            self._say_once(
                "IBKR_ACCOUNTS names %s, which this TWS does not have: it has %s",
                ", ".join(unknown), ", ".join(accounts),
            )  # fmt: skip
        self._said.clear()

    def _note_account(self, execution: Execution) -> None:
        if execution.account not in self._accounts:
            self._say_once(
                "executions of account %s are not published: it is an FA master, whose "
                "allocations come by themselves, or IBKR_ACCOUNTS leaves it out", execution.account,
            )  # fmt: skip
        elif execution.model_code:
            self._say_once(
                "account %s has executions of model %s: a position is the account's, over all "
                "models", execution.account, execution.model_code,
            )  # fmt: skip

    def _say_once(self, text: str, *about: str) -> None:
        if (said := text % about) not in self._said_for_good:
            self._said_for_good.add(said)
            log.warning(said)


class _Memory:
    """What was handed on, as long as TWS lists it: by execution id, an item per account."""

    def __init__(self) -> None:
        self._listed: dict[str, list[_Known]] = {}
        self._before: dict[str, list[_Known]] = {}
        self._early: dict[str, list[str]] = {}
        """Reports whose execution has not come."""

    def clear(self) -> None:
        self._listed, self._before = {}, {}

    def list_begins(self) -> None:
        self._early.clear()  # they are listed again

    def list_ends(self) -> None:
        """Forget what is not in this list and has not come since the one before."""
        self._before, self._listed = self._listed, {}

    def find(self, account: str, exec_id: str) -> _Known | None:
        """Return what is known of an execution, and remember it longer."""
        for known in self._of(exec_id):
            if known.execution.account == account:
                return known
        return None

    def add(self, known: _Known) -> list[str] | None:
        """Take in an execution; return the report that came before it, if one did."""
        exec_id = known.execution.exec_id
        self._listed[exec_id] = [*self._of(exec_id), known]
        return self._early.pop(exec_id, None)

    def forget(self, execution: Execution) -> None:
        others = [
            each
            for each in self._of(execution.exec_id)
            if each.execution.account != execution.account
        ]
        self._listed[execution.exec_id] = others

    def next_to_report(self, exec_id: str, fields: list[str]) -> _Known | None:
        """Return the execution that a report is for; None if it has not come.

        A report names no account. Where one id stands for executions in several, as
        an FA's block and its allocations may, the reports come in their order.
        """
        candidates = self._of(exec_id)
        if not candidates:
            self._early[exec_id] = fields
            return None
        if len(candidates) == 1:
            return candidates[0]
        # None: one says anew what cannot be told apart; the next list says all in order.
        return next((each for each in candidates if not each.reported), None)

    def _of(self, exec_id: str) -> list[_Known]:
        found = self._listed.get(exec_id)
        if found is None and (found := self._before.pop(exec_id, None)) is not None:
            self._listed[exec_id] = found
        return found or []


_SLACK = timedelta(seconds=2)
_AN_HOUR_AND_MORE = timedelta(minutes=90)


class _Clock:
    """Decides between the two readings of a time that comes twice in a night, if it can.

    TWS sends executions in their order. So what comes after one that was later than the
    first reading is the second; and of what happens now, the clock tells.
    """

    def __init__(self, *, warn_of_zone: bool) -> None:
        self._warn_of_zone = warn_of_zone
        self._latest: datetime | None = None
        self._in_order = True

    def list_begins(self) -> None:
        self._latest, self._in_order = None, True

    def decide(self, time: ReadTime, exec_id: str, *, live: bool) -> datetime:
        """Return the moment, and warn if that is a guess."""
        if self._warn_of_zone and not time.zone_named:
            self._warn_of_zone = False
            log.warning(
                "TWS sends times without a zone, as of execution %s: they are read as UTC; set "
                "IBKR_TIMEZONE to the zone that TWS is set to", exec_id,
            )  # fmt: skip
        moment = time.moment if time.again is None else self._choose(time, exec_id, live=live)
        if self._latest is None or moment >= self._latest:
            self._latest = moment
        elif moment < self._latest - _SLACK:
            self._in_order = False
        return moment

    def _choose(self, time: ReadTime, exec_id: str, *, live: bool) -> datetime:
        first, second = time.moment, time.again or time.moment
        age = datetime.now(UTC) - first
        if live and -_SLACK <= age <= _AN_HOUR_AND_MORE:
            return first if age < (second - first) / 2 else second
        if self._in_order and self._latest is not None and first < self._latest - _SLACK:
            return second
        log.warning(
            "execution %s: its time comes twice in that night, and nothing tells which it is: "
            "taken for %s, may be %s", exec_id, first.isoformat(), second.isoformat(),
        )  # fmt: skip
        return first
