"""The book of one key: a position as a function of the set of its messages.

Messages are booked in order of time, those of one time in order of first arrival.
The one idea: the book remembers what booking each of them did, so that it can be
undone. A message that arrives in order is booked on top. Whatever comes late
(an execution, a correction, a bust, a commission) is put where it belongs: the
book is unbooked back to there and booked forward again.

This is the definition of a position. It knows nothing of streams, files or clocks.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Hashable
from itertools import chain
from typing import Any, NamedTuple

from state.exact import LIMIT, MONEY, ONE, divide_half_even, to_text
from state.lots import Lot, put_back, take
from state.messages import (
    CommissionReport,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    message_from_state,
    message_to_state,
)
from state.run import WIDEST, Columns, KeptRun, Run, RunUpdate, book_run, fits, unpack_texts
from state.snapshot import ClosedLot, PositionSnapshot

REMEMBERED = 2100
"""How many messages of a key can still be corrected or told from a duplicate, at least:
2,000 executions, and room for splits among them."""

_FORGET_AT_ONCE = 500

_END, _END_OF_MONEY = LIMIT * ONE, LIMIT * MONEY

_STATE_VERSION = 2


class Booked:
    """One message of the book's history, and what booking it did."""

    __slots__ = ("commission", "message", "net", "parts", "place", "realized")

    def __init__(
        self, message: Execution | Opening | Split, place: int, commission: int = 0
    ) -> None:
        self.message = message
        self.place = place
        self.commission = commission
        self.parts: list[Lot] = []
        """The lots it closed, oldest first; of a split, all the lots as they were."""
        self.realized = 0
        self.net = 0


class Applied(NamedTuple):
    """What a message that counts did to the position."""

    closed: list[ClosedLot]
    """Lots taken back first, then lots closed."""
    realized_change: int
    net_change: int


class Book:
    """The lots, totals and remembered messages of one key.

    Quantities, prices, commissions and money are whole numbers (see `exact`).
    """

    def __init__(self, symbol: str, account: str | None = None) -> None:
        self.symbol = symbol
        self.account = account
        self.instrument = Instrument()
        self._agreed: Instrument | None = None
        """What the last message but reports said of it: said again, it needs no check."""
        self.lots: deque[Lot] = deque()
        self.qty = self.cost = self.realized = self.net = self.commission = 0
        self.executions = 0
        self._history: list[Booked] = []
        self._known: dict[Hashable, Booked] = {}
        self._reports: dict[str, CommissionReport] = {}
        self._places = 0
        self._horizon = (-1, -1)
        """The booking order of the last message that was forgotten: its time and place."""
        self._forgotten: dict[Hashable, None] = {}
        """What was forgotten of the horizon's own time; a set that keeps its order."""
        self._last_forgotten: Execution | None = None
        self._last_of_runs: Execution | None = None
        self._runs: deque[KeptRun] = deque()
        """What came after `_history`, if it was booked in runs."""
        self._in_runs: set[str] = set()
        self._plain = True
        """Whether all lots are such that runs can be booked on them; False if not sure."""

    def apply(self, message: Message) -> Applied | None:
        """Take a message in; return what it did, or None if it changes nothing.

        Raises RejectedError if the message cannot be used; the book is then as it was.
        """
        if self._runs:
            self._unroll()
        instrument, realized, net = self.instrument, self.realized, self.net
        if message.instrument != self._agreed:
            report = isinstance(message, CommissionReport)
            self.instrument = self._instrument_with(message.instrument, of_report=report)
        try:
            closed = self._apply(message)
        except RejectedError:
            self.instrument = instrument
            raise
        if not isinstance(message, CommissionReport):  # which may leave something unsaid
            self._agreed = message.instrument
        self._forget()
        if closed is None:
            return None
        return Applied(closed, self.realized - realized, self.net - net)

    def apply_run(self, run: Run) -> RunUpdate | None:
        """Take in a run of executions at once, as `apply` would one by one.

        Returns None, and does nothing, unless all of it is plain: new executions in
        order of time that agree with the key, with prices above 0. Then use `apply`.
        """
        instrument = self.instrument
        if run.instrument != self._agreed:
            try:
                instrument = self._instrument_with(run.instrument)
            except RejectedError:
                return None
        columns = run.columns()
        factor, fraction = divmod(instrument.multiplier or ONE, ONE)
        totals = (self.qty, self.cost, self.realized, self.net)
        if (
            fraction
            or not self._belongs_on_top(columns)
            or not fits(columns, totals, factor, self.commission, len(self.lots))
        ):
            return None
        self.instrument, self._agreed = instrument, run.instrument
        result = book_run(columns, self._places, self.lots, self.qty, factor)
        update = RunUpdate(
            run, result, *totals, self.commission, self.executions, self.account, self.symbol,
            instrument.currency or "USD", self.multiplier,
        )  # fmt: skip
        self._runs.append(KeptRun(self._places, run, result))
        self._in_runs.update(columns.exec_ids)
        self._last_of_runs = run.execution(len(columns.qtys) - 1, columns.exec_ids[-1])
        self.qty += sum(columns.qtys)
        self.cost += sum(columns.traded) * factor + result.gain
        self.realized += result.gain
        self.net += result.gain - result.due * ONE
        self.commission += sum(columns.fees)
        self.executions += len(columns.qtys)
        self._places += len(columns.qtys)
        self._forget()
        return update

    def snapshot(self) -> PositionSnapshot:
        """Return the position as it stands."""
        last = self._last_execution()
        avg_price = self._price(self.cost, self.qty) if self.qty else None
        # In the fields' order, since names take twice as long.
        return PositionSnapshot(
            self.account, self.symbol, self.instrument.currency or "USD", self.multiplier,
            self.qty, avg_price, self.cost, self.realized, self.commission, self.net,
            len(self.lots), self.executions,
            last and last.exec_id, last and last.price, last and last.timestamp,
        )  # fmt: skip

    @property
    def multiplier(self) -> int:
        """Money per point of price per unit."""
        return ONE if self.instrument.multiplier is None else self.instrument.multiplier

    @property
    def size(self) -> int:
        """How many things it holds: open lots and remembered messages."""
        return len(self.lots) + self._remembered

    @property
    def _remembered(self) -> int:
        return len(self._history) + len(self._in_runs)

    # --- what each type of message does: None if nothing, else the lots it closed ----

    def _apply(self, message: Message) -> list[ClosedLot] | None:
        match message:
            case Execution():
                return self._apply_execution(message)
            case CommissionReport():
                return self._apply_commission(message)
            case Opening():
                return self._apply_opening(message)
            case Split():
                return self._apply_split(message)

    def _apply_execution(self, new: Execution) -> list[ClosedLot] | None:
        known = self._known.get(new.identity)
        if known is None:
            self._refuse_forgotten(new.identity, new.timestamp, self._places)
            return self._put(Booked(new, self._places, self._commission_of(new)))
        old = known.message
        assert isinstance(old, Execution)
        if new.revision < old.revision:
            return None
        if new.revision == old.revision:
            _refuse_different(old, new)
            if new.commission is None or new.commission == old.commission:
                return None
            if self._commission_of(new) == known.commission:
                known.message = new
                return None
        if new.qty:
            self._refuse_forgotten(new.identity, new.timestamp, known.place)
        return self._put(Booked(new, known.place, self._commission_of(new)), known)

    def _apply_commission(self, report: CommissionReport) -> list[ClosedLot] | None:
        best = self._reports.get(report.identity)
        if best and (report.revision, report.timestamp) < (best.revision, best.timestamp):
            return None
        known = self._known.get(report.identity)
        if known is None:
            self._refuse_forgotten(report.identity, report.timestamp, self._places)
            if best is None and len(self._reports) - len(self._known) >= 2 * REMEMBERED:
                raise RejectedError(
                    f"commission: expected the report of a known execution, since "
                    f"{2 * REMEMBERED} reports of others are kept already; found exec_id "
                    f"{report.exec_id!r}"
                )
            self._reports[report.identity] = report
            return None
        assert isinstance(known.message, Execution)
        costs = Booked(known.message, known.place, report.commission if known.message.qty else 0)
        closed = self._put(costs, known) if costs.commission != known.commission else None
        self._reports[report.identity] = report
        return closed

    def _apply_opening(self, new: Opening) -> list[ClosedLot] | None:
        known = self._known.get(_OPENING)
        if known is not None and known.message[:3] == new[:3]:
            return None
        if self._horizon[0] >= 0 or self.executions or known is not None:
            raise RejectedError(
                f"opening: expected an empty book, found one of {self.executions} executions, "
                f"quantity {to_text(self.qty)}"
            )
        return self._put(Booked(new, self._places))

    def _apply_split(self, new: Split) -> list[ClosedLot] | None:
        known = self._known.get((_SPLIT, new.timestamp))
        if known is None:
            self._refuse_forgotten((_SPLIT, new.timestamp), new.timestamp, self._places)
            return self._put(Booked(new, self._places))
        old = known.message
        assert isinstance(old, Split)
        if (old.new, old.old) != (new.new, new.old):
            raise RejectedError(
                f"split: expected the ratio {old.new}:{old.old} that this time already has, "
                f"found {new.new}:{new.old}"
            )
        return None

    # --- the history: what was booked, in booking order ---------------------------

    def _belongs_on_top(self, columns: Columns) -> bool:
        """Tell whether a run's executions are all new and in order, on lots that are plain."""
        exec_ids, times = columns.exec_ids, columns.timestamps
        if self._runs and self._last_of_runs is not None:
            last = self._last_of_runs.timestamp
        else:
            last = _order(self._history[-1])[0] if self._history else 0
        return (
            self._plain
            and times[0] >= last
            and (len(times) == 1 or (times == sorted(times) and len(set(exec_ids)) == len(times)))
            and self._in_runs.isdisjoint(exec_ids)
            and self._known.keys().isdisjoint(exec_ids)
            and self._reports.keys().isdisjoint(exec_ids)
            and self._forgotten.keys().isdisjoint(exec_ids)
        )

    def _unroll(self) -> None:
        """Turn what was booked in runs into single messages, which can be undone."""
        factor = self.multiplier // ONE
        for kept in self._runs:
            executions = kept.run.executions()
            booked = []
            for at, (execution, due) in enumerate(zip(executions, kept.result.dues(), strict=True)):
                booked.append(Booked(execution, kept.first_place + at, execution.commission or 0))
                booked[-1].net = -due * ONE
            for closer, part, gain in kept.result.closed_lots(kept.run, factor):
                one = booked[closer]
                one.parts.append(part)
                one.realized += gain
                one.net += gain - part.commission * ONE
            self._history += booked[kept.forgotten :]
            for execution, one in list(zip(executions, booked, strict=True))[kept.forgotten :]:
                self._known[execution.identity] = one
        self._runs.clear()
        self._in_runs.clear()

    def _put(self, new: Booked, old: Booked | None = None) -> list[ClosedLot]:
        """Book `new` where it belongs, in place of `old` if there is one."""
        if old is None and (not self._history or _order(self._history[-1]) < _order(new)):
            self._book(new)
            self._history.append(new)
            closed = self._closed_lots(new)
        else:
            closed = self._put_below(new, old)
        self._known[_identity(new.message)] = new
        self._places = max(self._places, new.place + 1)
        return closed

    def _put_below(self, new: Booked, old: Booked | None) -> list[ClosedLot]:
        start = bisect_left(self._history, _order(new), key=_order)
        if old is not None:
            start = min(start, bisect_left(self._history, _order(old), key=_order))
        undone = self._history[start:]
        redone = [booked for booked in undone if booked is not old]
        insort(redone, new, key=_order)
        closed = self._rebook(undone, redone)
        self._history[start:] = redone
        return closed

    def _rebook(self, undone: list[Booked], redone: list[Booked]) -> list[ClosedLot]:
        before = self._closed_by(undone)
        self._unbook_all(undone)
        try:
            self._book_all(redone)
        except RejectedError:
            self._book_all(undone)
            raise
        return _difference(before, self._closed_by(redone))

    def _book_all(self, messages: list[Booked]) -> None:
        for done, booked in enumerate(messages):
            try:
                self._book(booked)
            except RejectedError:
                self._unbook_all(messages[:done])
                raise

    def _unbook_all(self, messages: list[Booked]) -> None:
        for booked in reversed(messages):
            self._unbook(booked)

    def _closed_by(self, messages: list[Booked]) -> list[ClosedLot]:
        return list(chain.from_iterable(map(self._closed_lots, messages)))

    def _closed_lots(self, booked: Booked) -> list[ClosedLot]:
        """List the lots that a booked execution closed, oldest first."""
        by = booked.message
        if not isinstance(by, Execution):
            return []
        return [
            ClosedLot(
                "LONG" if part.qty > 0 else "SHORT", abs(part.qty),
                part.exec_id, part.timestamp, part.price, by.exec_id, by.timestamp, by.price,
                self._money(part.qty, by.price) - part.cost,
            )
            for part in booked.parts
        ]  # fmt: skip

    # --- booking one message, and its undoing -------------------------------------

    def _book(self, booked: Booked) -> None:
        if isinstance(booked.message, Split):
            self._book_split(booked, booked.message)
        else:
            self._book_fill(booked, booked.message)
        if problem := self._figure_out_of_range():
            self._unbook(booked)
            raise RejectedError(problem)

    def _book_fill(self, booked: Booked, fill: Execution | Opening) -> None:
        closing = self.qty * fill.qty < 0
        parts, opened = take(self.lots, fill.qty) if closing else ([], fill.qty)
        # The closing part's share of the execution's commission is due now; the
        # rest goes with the lot that it opens.
        fee = booked.commission
        later = divide_half_even(fee * opened, fill.qty) if closing else fee
        realized, due, cost = 0, fee - later, 0
        try:
            for part in parts:
                realized += self._money(part.qty, fill.price) - part.cost
                due += part.commission
                cost -= part.cost
            opened_cost = self._money(opened, fill.price)
        except RejectedError:
            put_back(self.lots, parts)
            raise
        booked.parts, booked.realized, booked.net = parts, realized, realized - due * ONE
        if opened:
            exec_id = fill.exec_id if isinstance(fill, Execution) else None
            lot = Lot(booked.place, exec_id, fill.timestamp, fill.price, opened, opened_cost, later)
            self._plain = self._plain and _is_plain(lot)
            self.lots.append(lot)
        self._add(booked, fill, 1, cost + opened_cost)

    def _book_split(self, booked: Booked, split: Split) -> None:
        lots = [self._split_lot(lot, split) for lot in self.lots]
        booked.parts = list(self.lots)
        self._plain = False
        self.lots = deque(lots)
        self.qty = sum(lot.qty for lot in lots)

    def _unbook(self, booked: Booked) -> None:
        fill = booked.message
        if isinstance(fill, Split):
            self.lots = deque(booked.parts)
            self.qty = sum(lot.qty for lot in self.lots)
            self._plain = all(map(_is_plain, self.lots))
            return
        cost = -sum(part.cost for part in booked.parts)
        if self.lots and self.lots[-1].place == booked.place:
            cost += self.lots.pop().cost
        put_back(self.lots, booked.parts)
        self._plain = self._plain and all(map(_is_plain, booked.parts))
        self._add(booked, fill, -1, cost)

    def _add(self, booked: Booked, fill: Execution | Opening, sign: int, cost: int) -> None:
        self.qty += sign * fill.qty
        self.cost += sign * cost
        self.realized += sign * booked.realized
        self.net += sign * booked.net
        self.commission += sign * booked.commission
        if isinstance(fill, Execution) and fill.qty:
            self.executions += sign

    def _split_lot(self, lot: Lot, split: Split) -> Lot:
        qty, rest = divmod(lot.qty * split.new, split.old)
        if rest:
            raise RejectedError(
                f"split: expected lots of at most 10 decimal places after it, found "
                f"{to_text(lot.qty)} x {split.new}:{split.old} of execution {lot.exec_id!r}"
            )
        price = self._price(lot.cost, qty)
        if abs(price) >= LIMIT * ONE:
            raise RejectedError(f"split: expected prices below 1e17 after it, found {price // ONE}")
        return lot._replace(qty=qty, price=price, was_split=True)

    # --- figures --------------------------------------------------------------------

    def _money(self, qty: int, price: int) -> int:
        multiplier = self.instrument.multiplier
        if multiplier is None or multiplier == ONE:
            return qty * price
        amount, rest = divmod(qty * price * multiplier, ONE)
        if rest:
            raise RejectedError(
                f"fill_price: expected quantity x price x multiplier of at most 20 decimal "
                f"places, found {to_text(qty)} x {to_text(price)} x {to_text(self.multiplier)}"
            )
        return amount

    def _price(self, cost: int, qty: int) -> int:
        return divide_half_even(cost * ONE, qty * self.multiplier)

    def _figure_out_of_range(self) -> str | None:
        if (
            abs(self.qty) < _END and abs(self.commission) < _END
            and abs(self.cost) < _END_OF_MONEY and abs(self.realized) < _END_OF_MONEY
            and abs(self.net) < _END_OF_MONEY
        ):  # fmt: skip
            return None
        figures = (
            ("qty", self.qty, ONE), ("commission", self.commission, ONE),
            ("cost_basis", self.cost, MONEY), ("realized_pnl", self.realized, MONEY),
            ("net_realized_pnl", self.net, MONEY),
        )  # fmt: skip
        for name, value, one in figures:
            if abs(value) >= LIMIT * one:
                return f"{name}: expected to stay below 1e17, found {value // one} after this"
        return None

    def _last_execution(self) -> Execution | None:
        """Return the execution that is last in booking order, or None if none is left."""
        if self._runs:
            return self._last_of_runs
        for booked in reversed(self._history):
            if isinstance(booked.message, Execution) and booked.message.qty:
                return booked.message
        return self._last_forgotten

    def _commission_of(self, execution: Execution) -> int:
        """Return what an execution costs: as reported, else as it says itself."""
        if not execution.qty:
            return 0
        report = self._reports.get(execution.identity)
        return report.commission if report else execution.commission or 0

    def _instrument_with(self, says: Instrument, *, of_report: bool = False) -> Instrument:
        """Return the key's instrument as it is after a message that says this of it.

        What a message does not say is as the key has it, at first USD and 1. What
        it says must be what the key has; a contract number may become known later.
        """
        has = self.instrument
        for name in Instrument._fields:
            old, new = getattr(has, name), getattr(says, name)
            if None not in (old, new) and old != new:
                shown = [to_text(v) if name == "multiplier" else repr(v) for v in (old, new)]
                raise RejectedError(f"{name}: expected {shown[0]}, as before, found {shown[1]}")
        currency, multiplier = has.currency or says.currency, has.multiplier or says.multiplier
        if not of_report:
            # A report's silence settles nothing: it says little of the instrument anyway.
            currency, multiplier = currency or "USD", multiplier or ONE
        return Instrument(currency, multiplier, has.con_id if says.con_id is None else says.con_id)

    # --- forgetting, and what can be said of what was forgotten -----------------------

    def _forget(self) -> None:
        """Drop the oldest messages; what they did to lots and totals stays."""
        too_many = self._remembered - REMEMBERED - _FORGET_AT_ONCE
        if too_many < 0:
            return
        # Always a multiple of so many, whether they came one by one or in runs: what is
        # forgotten must not depend on how the stream was read.
        left = self._forget_messages((too_many // _FORGET_AT_ONCE + 1) * _FORGET_AT_ONCE)
        while left:
            left -= self._forget_of_run(left)
        self._reports = {
            identity: report
            for identity, report in self._reports.items()
            if identity in self._known or report.timestamp >= self._horizon[0]
        }

    def _forget_messages(self, most: int) -> int:
        """Forget the oldest single messages; return how many are still to be forgotten."""
        gone, self._history = self._history[:most], self._history[most:]
        if gone:
            self._advance_horizon(_order(gone[-1]))
        for booked in gone:
            self._forget_message(booked)
        return most - len(gone)

    def _forget_of_run(self, most: int) -> int:
        """Forget the oldest executions of the oldest run; return how many."""
        kept = self._runs.popleft()
        exec_ids, timestamps = unpack_texts(kept.run.exec_ids), kept.run.timestamps()
        start, end = kept.forgotten, min(kept.forgotten + most, len(exec_ids))
        newest = timestamps[end - 1]
        self._advance_horizon((newest, kept.first_place + end - 1))
        self._in_runs.difference_update(exec_ids[start:end])
        of_newest = bisect_left(timestamps, newest, start, end)
        self._forgotten.update(dict.fromkeys(exec_ids[of_newest:end]))
        if end < len(exec_ids):
            # A long run takes room for what of it is forgotten, until most of it is.
            kept_on = kept._replace(forgotten=end) if 2 * end < len(exec_ids) else kept.rest(end)
            self._runs.appendleft(kept_on)
        if end - start == most:
            self._last_forgotten = kept.run.execution(end - 1, exec_ids[end - 1])
        return end - start

    def _advance_horizon(self, order: tuple[int, int]) -> None:
        before, self._horizon = self._horizon, max(self._horizon, order)
        if self._horizon[0] > before[0]:
            self._forgotten.clear()

    def _forget_message(self, booked: Booked) -> None:
        identity = _identity(booked.message)
        del self._known[identity]
        if isinstance(booked.message, Execution):
            self._reports.pop(booked.message.identity, None)
            if booked.message.qty:
                self._last_forgotten = booked.message
        if booked.message.timestamp == self._horizon[0]:
            self._forgotten[identity] = None

    def _refuse_forgotten(self, identity: Hashable, timestamp: int, place: int) -> None:
        """Refuse what may repeat a forgotten message, or belongs before one."""
        if (timestamp, place) < self._horizon or identity in self._forgotten:
            raise RejectedError(
                f"timestamp: expected a time after {self._horizon[0]}, since which the last "
                f"{len(self._history)} messages of this key are remembered, found {timestamp}; "
                f"an older one cannot be told from a duplicate, nor be put in its place"
            )

    # --- the book as plain values, for keeping -----------------------------------------

    def to_state(self) -> tuple[Any, ...]:
        """Return all there is to know as plain tuples, lists, numbers and texts."""
        return (
            _STATE_VERSION,
            (self.symbol, self.account, tuple(self.instrument)),
            [tuple(lot) for lot in self.lots],
            (self.qty, self.cost, self.realized, self.net, self.commission, self.executions),
            [_booked_to_state(booked) for booked in self._history],
            [message_to_state(report) for report in self._reports.values()],
            (self._places, self._horizon, list(self._forgotten)),
            self._last_forgotten and message_to_state(self._last_forgotten),
            [kept.to_state() for kept in self._runs],
        )

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "Book":
        """Return the book that `to_state` described.

        Raises ValueError if another version of the program wrote it.
        """
        if state[0] != _STATE_VERSION:
            raise ValueError(f"expected a book of version {_STATE_VERSION}, found {state[0]}")
        (
            _,
            (symbol, account, instrument),
            lots,
            totals,
            history,
            reports,
            memory,
            last,
            runs,
        ) = state
        book = cls(symbol, account)
        book.instrument = Instrument(*instrument)
        book.lots = deque(Lot(*lot) for lot in lots)
        book.qty, book.cost, book.realized, book.net, book.commission, book.executions = totals
        book._history = [_booked_from_state(booked) for booked in history]
        book._known = {_identity(booked.message): booked for booked in book._history}
        for report in map(message_from_state, reports):
            assert isinstance(report, CommissionReport)
            book._reports[report.identity] = report
        book._places, book._horizon, forgotten = memory
        book._forgotten = dict.fromkeys(forgotten)
        if last is not None:
            forgotten_execution = message_from_state(last)
            assert isinstance(forgotten_execution, Execution)
            book._last_forgotten = forgotten_execution
        book._runs = deque(map(KeptRun.from_state, runs))
        for kept in book._runs:
            exec_ids = unpack_texts(kept.run.exec_ids)
            book._in_runs.update(exec_ids[kept.forgotten :])
            book._last_of_runs = kept.run.execution(len(exec_ids) - 1, exec_ids[-1])
        book._plain = all(map(_is_plain, book.lots))
        return book


_OPENING = ("opening",)
_SPLIT = "split"


def _identity(message: Execution | Opening | Split) -> Hashable:
    """Return what tells a message from others; an execution's is a text, others' are not."""
    match message:
        case Execution():
            return message.identity
        case Opening():
            return _OPENING
        case Split():
            return (_SPLIT, message.timestamp)


def _is_plain(lot: Lot) -> bool:
    """Tell whether `state.run` can book on top of a lot, and pack it."""
    return (
        0 < lot.price < WIDEST
        and abs(lot.commission) < WIDEST
        and not lot.was_split
        and "\n" not in (lot.exec_id or "")
    )


def _order(booked: Booked) -> tuple[int, int]:
    """Return the place in booking order: by time, then by first arrival; openings first."""
    message = booked.message
    return (-1 if isinstance(message, Opening) else message.timestamp, booked.place)


def _refuse_different(old: Execution, new: Execution) -> None:
    """Refuse other figures under the same id and revision."""
    pairs = [(old.timestamp, new.timestamp, "timestamp"), (old.qty, new.qty, "quantity"),
             (old.price, new.price, "price")]  # fmt: skip
    if old.commission is not None and new.commission is not None:
        pairs.append((old.commission, new.commission, "commission"))
    for was, is_now, name in pairs:
        if was != is_now:
            shown = [str(v) if name == "timestamp" else to_text(v) for v in (was, is_now)]
            raise RejectedError(
                f"exec_id: expected {name} {shown[0]}, as {new.exec_id!r} had before, "
                f"found {shown[1]}"
            )


def _difference(before: list[ClosedLot], after: list[ClosedLot]) -> list[ClosedLot]:
    """Return what turns one list of closed lots into the other: taken back, then new ones."""
    if not before:
        return after
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return [lot.taken_back() for lot in gone.elements()] + list(new.elements())


def _booked_to_state(booked: Booked) -> tuple[Any, ...]:
    parts = [tuple(part) for part in booked.parts]
    state = message_to_state(booked.message)
    return (state, booked.place, booked.commission, parts, booked.realized, booked.net)


def _booked_from_state(state: tuple[Any, ...]) -> Booked:
    message, place, commission, parts, realized, net = state
    restored = message_from_state(message)
    assert not isinstance(restored, CommissionReport)
    booked = Booked(restored, place, commission)
    booked.parts = [Lot(*part) for part in parts]
    booked.realized, booked.net = realized, net
    return booked
