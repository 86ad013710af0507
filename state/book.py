"""The book of one key: a position as a function of the set of its messages.

Messages are booked in order of time, those of one time in order of first arrival;
openings come before all. The book decides which messages count; `order` puts each where
it belongs, `fifo` says what follows from that, `actions` what a split, a cost or a
transfer does. Nothing has to be remembered of what booking a message did.

This is the definition of a position. It knows nothing of streams, files or clocks.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import count, repeat
from operator import mul
from typing import Any, NamedTuple

from state import order
from state.actions import money, worth
from state.exact import LIMIT, MONEY, ONE, divide_half_even, to_text
from state.fifo import Lot, Row, Stretch, behind, identities, new_row
from state.messages import (
    TYPE_NAMES,
    Action,
    CommissionReport,
    ContractNumber,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    execution_from_state,
    execution_to_state,
    terms,
)
from state.order import (
    Laid,
    Order,
    Part,
    changed_lots,
    part_from_state,
    part_to_state,
)
from state.run import (
    LOT_WIDTH,
    NO_COMMISSION,
    REPORT_WIDTH,
    WIDEST,
    Columns,
    Run,
    RunUpdate,
    pack,
    pack_texts,
    unpack_rows,
    unpack_texts,
)
from state.snapshot import ClosedLot, OpenLot, PositionSnapshot, new_snapshot

REMEMBERED = 2100
"""How many executions of a key can still be corrected or told from a duplicate, at least:
2,000, and some that were busted. Actions among them are remembered too, up to as many."""

FORGET_AT_ONCE = 500

STATE_VERSION = 4

_END_OF_MONEY = LIMIT * MONEY
_LIMITS = (-LIMIT * ONE, -_END_OF_MONEY, LIMIT * ONE, _END_OF_MONEY)


class Applied(NamedTuple):
    """What a message that counts did to the position."""

    closed: list[ClosedLot]
    """Lots taken back first, then lots closed."""
    realized_change: int
    net_change: int


_new_applied: Callable[[tuple[Any, ...]], Applied] = partial(tuple.__new__, Applied)


class Book:
    """The lots, totals and remembered messages of one key.

    Quantities, prices, charges and money are whole numbers (see `exact`).
    """

    def __init__(  # noqa: PLR0915 - all that a position depends on
        self, symbol: str, account: str | None = None
    ) -> None:
        self.symbol = symbol
        self.account = account
        self.instrument = Instrument()
        """What executions and openings settled; the sec_type is not settled by anything."""
        self._agreed: Instrument | None = None
        """What the last of them said: said again, it needs no check."""
        self._con_ids: set[int] = set()
        """Further contract numbers."""
        self._parts = [Part(Stretch())]
        self._paid = 0
        """Money that executions and openings cost."""
        self._commission = self._adjustments = self.executions = 0
        self._others: dict[str, int] = {}
        self._realized = (0, 0)
        """Gross and net."""
        self._known: dict[Hashable, int] = {}
        """The places of what is remembered: by identity an execution, by type and id others."""
        self._reports: dict[str, CommissionReport] = {}
        self._openings: dict[str, tuple[Opening, int]] = {}
        """With the places at which they were first named."""
        self._places = 0
        self._is_typed = False
        """Whether anything ever named a sec_type."""
        self._newest = -1
        """The time of what is last in booking order."""
        self._last: Row | None = None
        """The execution last in booking order."""
        self._named_by: Instrument | None = None
        self._named: _Named = (None, None)
        """By the messages in booking order, last."""
        self._horizon: Order = (-1, -1)
        """Where in booking order the last message stands that was forgotten."""
        self._forgotten: dict[Hashable, None] = {}
        """What was forgotten of the horizon's own time; a set that keeps its order."""
        self._last_before: Row | None = None
        self._named_before: _Named = (None, None)
        """`_last` and `_named` as they were at the horizon."""
        self._shown: PositionSnapshot | None = None
        """What `snapshot` returned, if nothing was taken since."""

    def apply(self, message: Message) -> Applied | None:
        """Take a message in; return what it did, or None if it changes nothing.

        Raises RejectedError if the message cannot be used; the book is then as it was.
        """
        self._shown = None
        gross, net = self._realized
        closed: list[ClosedLot] | None
        if type(message) is Execution and self._is_next(message):
            # What `_amounts` would say; a call would cost.
            commission, adjustment = message.commission or 0, message.adjustment or 0
            closed = self._append(message, commission, "", adjustment)
        else:
            before = (
                self.instrument, self._agreed, self._paid, self._commission, self._adjustments,
                self._others.copy(), self.executions, self._parts, self._openings,
            )  # fmt: skip
            try:
                closed = self._apply(message)
            except RejectedError:
                (self.instrument, self._agreed, self._paid, self._commission, self._adjustments,
                 self._others, self.executions, self._parts, self._openings) = before  # fmt: skip
                raise
            if closed is None:
                return None
        if len(self._known) >= REMEMBERED + FORGET_AT_ONCE:
            self._forget()
        realized = self._realized
        return _new_applied((closed, realized[0] - gross, realized[1] - net))

    def _is_next(self, new: Execution) -> bool:
        """Tell whether an execution is what nearly all are: new, in order, nothing odd in it."""
        _, identity, revision, timestamp, _, _, _, _, _, instrument, _, other_currency, _ = new
        return (
            timestamp >= self._newest
            and revision == 1
            and (instrument is self._agreed or instrument == self._agreed)
            and other_currency is None
            and identity not in self._known
            and identity not in self._reports
            and identity not in self._forgotten
        )

    def _append(  # noqa: PLR0915 - calls would cost
        self, new: Execution, commission: int, other: str, adjustment: int
    ) -> list[ClosedLot]:
        """Book an execution behind all others; return the lots it closed.

        commission, other, adjustment: see `_Amounts`.
        """
        exec_id, identity, _, timestamp, qty, price = new[:6]
        place, multiplier = self._places, self.instrument.multiplier
        value = qty * price if multiplier == ONE else money(qty, price, self.multiplier)
        charge = adjustment
        if other:
            self._others[other] = self._others.get(other, 0) + commission
        else:
            self._commission += commission
            charge += commission
        if adjustment:
            self._adjustments += adjustment
        self._paid += value
        if qty:
            self.executions += 1
        row = new_row((exec_id, timestamp, price, place, qty, value, charge, new))
        stretch = self._parts[-1].stretch
        closed = stretch.append(row)
        try:
            self._settle_figures()
        except RejectedError:
            self._count(row, -1)
            stretch.put(len(stretch) - 1, cut=1)
            raise
        self._known[identity] = place
        self._places = place + 1
        self._newest = timestamp
        if qty:
            self._last = row
            if self._agreed is not self._named_by:
                self._name(new.instrument)
        return closed

    def apply_run(self, run: Run) -> RunUpdate | None:
        """Take in a run at once, as `apply` would message by message.

        Returns None, and does nothing, unless all of it is plain: new executions in order
        of time that agree with the key, and first reports of what executions cost that say
        nothing of it themselves. Then use `apply`.
        """
        columns, instrument, agreed = run.columns(), self.instrument, self._agreed
        try:
            says = run.instrument
            anew = (
                bool(run.numbers) and says is not agreed and says != agreed and self._settle(says)
            )
        except RejectedError:
            return None
        update = None if anew else self._plan(run, columns)
        if update is None:
            self.instrument, self._agreed = instrument, agreed
            return None
        self._book_run(run, columns, update.targets)
        return update

    def snapshot(self) -> PositionSnapshot:
        """Return the position as it stands."""
        if self._shown is not None:
            return self._shown
        stretch, _, _, moved = self._parts[-1]
        last, qty, cost = self._last, stretch.held, stretch.cost
        currency, multiplier, _, _ = self.instrument
        others = (
            tuple(sorted((c, amount) for c, amount in self._others.items() if amount))
            if self._others
            else ()
        )
        gross, net = self._realized
        # In the fields' order, since names take twice as long.
        exec_id, timestamp, price = (None, None, None) if last is None else last[:3]
        self._shown = new_snapshot(
            (self.account, self.symbol, currency or "USD", multiplier or ONE, *self._named,
             qty, divide_half_even(cost * ONE, qty * (multiplier or ONE)) if qty else None, cost,
             gross, self._commission, others, self._adjustments + moved.laid, net,
             stretch.open_lots, self.executions, exec_id, price, timestamp)
        )  # fmt: skip
        return self._shown

    def open_lots(self) -> list[OpenLot]:
        """Return the open lots, the oldest first."""
        return [
            OpenLot(*row[:3], rest if row.qty > 0 else -rest, *behind(row, rest))
            for row, rest in self._parts[-1].stretch.lots()
        ]

    @property
    def multiplier(self) -> int:
        """Money per point of price per unit."""
        return self.instrument.multiplier or ONE

    @property
    def currency(self) -> str:
        """The currency of all money but other commissions."""
        return self.instrument.currency or "USD"

    @property
    def size(self) -> int:
        """How many things it holds: open lots and remembered messages."""
        return sum([len(part.stretch) for part in self._parts]) + len(self._reports)

    # --- what each type of message does: None if nothing, else the lots it closed ----------

    def _apply(self, message: Message) -> list[ClosedLot] | None:
        match message:
            case Execution():
                return self._apply_execution(message)
            case CommissionReport():
                return self._apply_report(message)
            case Opening():
                return self._apply_opening(message)
            case ContractNumber():
                self._con_ids.add(message.con_id)
                return None
            case _:
                return self._apply_action(message)

    def _apply_execution(self, new: Execution) -> list[ClosedLot] | None:
        anew = new.instrument is not self._agreed and self._settle(new.instrument)
        place = self._known.get(new.identity)
        if place is None:
            self._refuse_forgotten(new.identity, new.timestamp)
            if new.revision > 1 and self._horizon[0] >= 0:
                raise RejectedError(
                    "exec_id: expected a revision of an execution that is known, or revision 1, "
                    f"as the key has forgotten its beginning; found {new.exec_id!r}"
                )
            if not anew and new.timestamp >= self._newest:
                return self._append(new, *self._amounts(new))
            closed = self._put(self._row(new, self._places), None, anew=anew)
            self._known[new.identity] = self._places
            self._places += 1
            return closed
        at = order.find(self._parts, place, self._places)
        old = self._parts[at[0]].stretch.rows[at[1]].fill
        if new.revision < old.revision:
            return None
        if new.revision == old.revision:
            new = self._completed(old, new)
            if new == old:
                return None
        elif new.qty and (new.timestamp, place) < self._horizon:
            raise self._forgot(new.timestamp)
        return self._put(self._row(new, place), at, anew=anew)

    def _apply_report(self, report: CommissionReport) -> list[ClosedLot] | None:
        identity = report.identity
        best = self._reports.get(identity)
        if best and (report.revision, report.timestamp) < (best.revision, best.timestamp):
            return None
        place = self._known.get(identity)
        if place is None:
            self._refuse_forgotten(identity, report.timestamp)
            if best is None and len(self._reports) - len(self._known) >= 2 * REMEMBERED:
                raise RejectedError(
                    f"commission: expected the report of a known execution, since "
                    f"{2 * REMEMBERED} reports of others are kept already; found exec_id "
                    f"{report.exec_id!r}"
                )
            self._reports[identity] = report
            return None
        number, at = order.find(self._parts, place, self._places)
        row = self._parts[number].stretch.rows[at]
        before, after = self._amounts(row.fill), self._amounts(row.fill, report)
        if before != after:
            self._count_charges(before, -1)
            self._count_charges(after, 1)
            self._charge(number, at, row, after.charge)
        self._reports[identity] = report
        return None if before == after else []

    def _apply_opening(self, new: Opening) -> list[ClosedLot] | None:
        anew = bool(new.qty) and self._settle(new.instrument)
        old, place = self._openings.get(new.exec_id, (None, self._places))
        if old is not None and (not old.qty or (new.qty and self._is_same(old, new))):
            # It is not booked, but what it says of the instrument counts.
            return self._open(self._openings) if anew else None
        if old is not None and new.qty:
            raise _contradicts(old, new)
        if self._horizon[0] >= 0:
            raise RejectedError(
                f"exec_id: expected no opening to be added or removed, as the key has forgotten "
                f"its beginning; found {new.exec_id!r} with qty {to_text(new.qty)}"
            )
        if any(one.qty * new.qty < 0 for one, _ in self._openings.values()):
            raise RejectedError(
                f"qty: expected the sign of the openings that there are, found {to_text(new.qty)}"
            )
        openings = self._openings | {new.exec_id: (new, place)}
        closed: list[ClosedLot] = []
        if new.qty or old is not None:
            closed = self._open(openings)
        self._openings = openings
        self._places += old is None
        return closed

    def _apply_action(self, new: Action) -> list[ClosedLot] | None:
        identity = (TYPE_NAMES[type(new)], new.exec_id)
        place = self._known.get(identity)
        if place is not None:
            old = next(part.action for part in self._parts if part.action and part.place == place)
            if old != new:
                raise _contradicts(old, new)
            return None
        self._refuse_forgotten(identity, new.timestamp)
        closed = self._lay(order.put_action(self._parts, new, self._places, self.multiplier))
        self._known[identity] = self._places
        self._places += 1
        return closed

    # --- many at once -----------------------------------------------------------------------

    def _plan(self, run: Run, columns: Columns) -> RunUpdate | None:
        """Say what the rows of a run follow from; None if it is not plain."""
        factor, fraction = divmod(self.multiplier, ONE)
        if fraction or not self._follow(columns):
            return None
        named = self._targets(run, columns) if run.reports else []
        if named is None:
            return None
        stretch = self._parts[-1].stretch
        traded, held = sum(map(abs, columns.qtys)), sum(columns.qtys)
        opened, closed = stretch.opened[-1], stretch.closed[-1]
        closes = ((opened + closed + traded - abs(stretch.held + held)) >> 1) - closed
        rows = stretch.rows_between(closed, min(closed + closes, opened))
        if of_before := {-at for at in named if at < 0}:
            rows = sorted(of_before.union(rows))
        numbers: list[int] = []
        ids = []
        spent = 0
        for at in rows:
            exec_id, timestamp, price, _, qty, value, charge, _ = stretch.rows[at]
            if value != qty * price * factor or "\n" in exec_id:
                return None
            begin, end = stretch.opened[at - 1] - closed, stretch.opened[at] - closed
            numbers += (timestamp, price, qty, begin, end, charge)
            ids.append(exec_id)
            spent += abs(value)
        if not self._fits(run, columns, numbers, spent):
            return None
        places = {at: number - len(rows) for number, at in enumerate(rows)}
        targets = [at if at >= 0 else places[-at] for at in named]
        return RunUpdate(run, self.snapshot(), pack(numbers), pack_texts(ids), targets)

    def _targets(self, run: Run, columns: Columns) -> list[int] | None:
        """Say what a run's reports name: an execution of the run, or below 0 a row of before.

        Returns None if there is anything unusual in them.
        """
        if run.currency not in {None, self.currency}:
            return None
        in_run = dict(zip(columns.exec_ids, count(), strict=False))
        identities = unpack_texts(run.report_ids)
        arrivals, _, fees = unpack_rows(run.reports, REPORT_WIDTH)
        # A report of 0, which is what counts already, makes no row.
        if (
            0 in fees
            or len(set(identities)) < len(identities)
            or not self._reports.keys().isdisjoint(identities)
        ):
            return None
        stretch, found = self._parts[-1].stretch, []
        for number, identity in enumerate(identities):
            arrived = arrivals[number] - number
            at = in_run.get(identity)
            if at is not None:
                bare, behind = columns.fees[at] == NO_COMMISSION, arrived - at
            elif (place := self._known.get(identity)) is not None:
                part, row = order.find(self._parts, place, self._places)
                if part != len(self._parts) - 1:
                    return None
                fill, at = stretch.rows[row].fill, -row
                bare = fill.commission is None and not fill.adjustment and fill.qty != 0
                behind = len(stretch) + at + arrived
            else:
                return None
            # Also, no message in between may have the execution forgotten.
            if not bare or not 0 < behind < REMEMBERED - 1:
                return None
            found.append(at)
        return found

    def _follow(self, columns: Columns) -> bool:
        """Tell whether executions are new and in order."""
        identities, times = columns.exec_ids, columns.timestamps
        if not times:
            return True
        return (
            times[0] >= self._newest
            and (len(times) == 1 or (times == sorted(times) and len(set(identities)) == len(times)))
            and self._known.keys().isdisjoint(identities)
            and not (self._reports and not self._reports.keys().isdisjoint(identities))
            and not (self._forgotten and not self._forgotten.keys().isdisjoint(identities))
        )

    def _fits(self, run: Run, columns: Columns, lots: list[int], spent: int) -> bool:
        """Tell whether no figure can grow too large, however the run is matched.

        lots: the numbers of the rows of before that it touches. spent: what each of these
        cost, without its sign, as they may come to little together.
        """
        stretch, factor = self._parts[-1].stretch, self.multiplier // ONE
        traded = sum(map(abs, columns.qtys))
        fees = sum(map(abs, columns.charges))
        if run.reports:
            fees += sum(map(abs, unpack_rows(run.reports, REPORT_WIDTH)[2]))
        dearest = max(map(abs, columns.prices), default=0)
        worth = max(map(abs, (*self._realized, stretch.cost))) + traded * dearest * factor + spent
        charges = sum(map(abs, lots[LOT_WIDTH - 1 :: LOT_WIDTH])) + abs(self._commission) + fees
        charged = self._commission + self._adjustments + self._parts[-1].moved.laid
        return (
            max((abs(stretch.held) + traded) * factor, dearest, charges, *map(abs, lots)) < WIDEST
            and abs(charged) + fees < LIMIT * ONE
            and worth + charges * ONE < _END_OF_MONEY
        )

    def _book_run(self, run: Run, columns: Columns, targets: list[int]) -> None:
        stretch = self._parts[-1].stretch
        self._shown = None
        (exec_ids, timestamps, qtys, prices, _), charges = columns, columns.charges
        self._commission += sum(charges)
        if run.reports:
            charges = self._charges_of(run, charges, targets)
        values = list(map(mul, qtys, prices))
        factor = self.multiplier // ONE
        if factor != 1:
            values = [value * factor for value in values]
        first, number = self._places, len(exec_ids)
        places = list(range(first, first + number))
        said = repeat(run.kept(first))
        rows = zip(exec_ids, timestamps, prices, places, qtys, values, charges, said, strict=False)
        stretch.extend(list(map(new_row, rows)))
        self._known.update(zip(exec_ids, places, strict=True))
        self._places += number
        self._paid += sum(values)
        self.executions += number
        if number:
            self._newest, self._last = timestamps[-1], stretch.rows[-1]
            self._name(run.instrument)
        self._settle_figures()
        if len(self._known) >= REMEMBERED + FORGET_AT_ONCE:
            self._forget()

    def _charges_of(self, run: Run, charges: list[int], targets: list[int]) -> list[int]:
        """Take a run's reports in; return what the executions of the run cost with them."""
        charges = charges.copy()
        for target, (_, report) in zip(targets, run.commission_reports(), strict=True):
            self._reports[report.identity] = report
            self._commission += report.commission
            if target >= 0:
                charges[target] = report.commission
            else:
                place = self._known[report.identity]
                _, at = order.find(self._parts, place, self._places)
                self._parts[-1].stretch.charge(at, report.commission)
        return charges

    # --- putting rows where they belong ----------------------------------------------------

    def _row(self, fill: Execution, place: int) -> Row:
        value = money(fill.qty, fill.price, self.multiplier)
        return Row.of(fill, place, value, self._amounts(fill).charge)

    def _put(self, row: Row, at: tuple[int, int] | None, *, anew: bool) -> list[ClosedLot]:
        """Put a row where it belongs, in place of another if there is one.

        at: the part and row of the other. anew: whether actions are to be done again, since
        the multiplier was not known before.
        """
        self._count(row, 1)
        if at is not None:
            self._count(self._parts[at[0]].stretch.rows[at[1]], -1)
        return self._lay(order.put(self._parts, row, at, self.multiplier, anew=anew))

    def _lay(self, laid: Laid) -> list[ClosedLot]:
        """Take a change over; return the lots taken back, then those closed instead."""
        before, self._parts = self._parts, laid.parts
        self._settle_figures()
        self._look_back()
        return changed_lots(before, laid)

    def _open(self, openings: dict[str, tuple[Opening, int]]) -> list[ClosedLot]:
        """Begin with other openings."""
        lots: list[Lot] = []
        for opening, place in _in_order(openings):
            exec_id, timestamp, qty, price, cost, instrument = opening
            price, cost = worth(qty, price, cost, self.multiplier)
            fill = Execution(exec_id, exec_id, 1, timestamp, qty, price, instrument=instrument)
            lots.append(Lot(Row.of(fill, place, cost, 0), abs(qty)))
        first = self._parts[0].stretch
        self._paid += sum([lot.row.value for lot in lots])
        self._paid -= sum([row.value for row in first.rows[: first.base]])
        self._openings = openings
        return self._lay(order.put_lots(self._parts, lots, self.multiplier))

    def _charge(self, number: int, at: int, row: Row, charge: int) -> None:
        """Let a row, which stands in a part, cost something else."""
        if number < len(self._parts) - 1:
            new = row._replace(charge=charge)
            self._lay(order.put(self._parts, new, (number, at), self.multiplier, anew=False))
            return
        stretch = self._parts[number].stretch
        stretch.charge(at, charge)
        try:
            self._settle_figures()
        except RejectedError:
            stretch.charge(at, row.charge)
            raise

    # --- figures ----------------------------------------------------------------------------

    def _amounts(self, fill: Execution, report: CommissionReport | None = None) -> "_Amounts":
        """Return what an execution costs: as reported, by that report, else as it says itself."""
        if not fill.qty:
            return _Amounts(0, "", 0)
        amount, currency = fill.commission or 0, fill.commission_currency
        if report := report or self._reports.get(fill.identity):
            amount, currency = report.commission, report.currency
        other = "" if currency is None or currency == self.currency else currency
        return _Amounts(amount, other, fill.adjustment or 0)

    def _count(self, row: Row, sign: int) -> None:
        self._paid += sign * row.value
        if row.qty:
            self.executions += sign
            self._count_charges(self._amounts(row.fill), sign)

    def _count_charges(self, amounts: "_Amounts", sign: int) -> None:
        commission, other, adjustment = amounts
        if other:
            self._others[other] = self._others.get(other, 0) + sign * commission
        else:
            self._commission += sign * commission
        self._adjustments += sign * adjustment

    def _settle_figures(self) -> None:
        """Work out what is realized. Raises RejectedError if a figure grows too large."""
        stretch, _, _, (cost, charge, laid) = self._parts[-1]
        commission = self._commission
        gross = stretch.cost + cost - self._paid
        charged = commission + self._adjustments + laid
        net = gross - (charged - charge - stretch.not_due) * ONE
        least, least_money, end, end_of_money = _LIMITS
        if not (
            least < stretch.held < end
            and least < commission < end
            and least < charged < end
            and least_money < stretch.cost < end_of_money
            and least_money < gross < end_of_money
            and least_money < net < end_of_money
        ):
            figures = (
                ("qty", stretch.held, ONE), ("commission", self._commission, ONE),
                ("charges", charged, ONE), ("cost_basis", stretch.cost, MONEY),
                ("realized_pnl", gross, MONEY), ("net_realized_pnl", net, MONEY),
            )  # fmt: skip
            name, value, one = next(f for f in figures if abs(f[1]) >= LIMIT * f[2])
            raise RejectedError(
                f"{name}: expected to stay below 1e17, found {value // one} after this"
            )
        self._realized = (gross, net)

    def _name(self, says: Instrument) -> None:
        """Note what the execution last in booking order says."""
        # What it says is what was agreed on, though another object may say it.
        self._named_by, self._named = self._agreed, _last_named(self._named, [says])

    def _look_back(self) -> None:
        """Find the execution last in booking order, and what was named last."""
        found: list[Instrument] = []
        booked: Row | None = None
        is_typed, is_numbered = self._is_typed, self.instrument.con_id is not None
        for row in order.backwards(self._parts):
            booked = booked or row
            says = row.said.instrument
            found.append(says)
            is_typed &= says.sec_type is None
            is_numbered &= says.con_id is None
            if not is_typed and not is_numbered:
                break
        if self._horizon[0] < 0:
            found += [opening.instrument for opening, _ in reversed(_in_order(self._openings))]
        self._last = booked or self._last_before
        self._named_by, self._named = None, _last_named(self._named_before, reversed(found))
        part = self._parts[-1]
        is_empty = len(part.stretch) == part.stretch.base
        newest = max(part.order[0], self._horizon[0])
        self._newest = newest if is_empty else part.stretch.rows[-1].timestamp

    # --- what is the same, and what is settled ---------------------------------------------

    def _completed(self, old: Execution, new: Execution) -> Execution:
        """Return an execution with what the same id says besides.

        Raises RejectedError if it says something else.
        """
        for name in ("timestamp", "qty", "price", "commission", "adjustment"):
            was, now = getattr(old, name), getattr(new, name)
            if None not in (was, now) and was != now:
                shown = [str(v) if name == "timestamp" else to_text(v) for v in (was, now)]
                word = "quantity" if name == "qty" else name
                raise self._other(word, shown[0], new.exec_id, shown[1])
        if old.commission is None:
            commission, currency = new.commission, new.commission_currency
        else:
            commission, currency = old.commission, old.commission_currency
            says = new.commission_currency or self.currency
            if new.commission is not None and says != (currency or self.currency):
                raise self._other("commission_currency", currency, new.exec_id, says)
        return old._replace(
            commission=commission, commission_currency=currency,
            adjustment=new.adjustment if old.adjustment is None else old.adjustment,
        )  # fmt: skip

    def _other(self, name: str, was: object, exec_id: str, now: object) -> RejectedError:
        return RejectedError(
            f"exec_id: expected {name} {was}, as {exec_id!r} had before, found {now}"
        )

    def _is_same(self, old: Opening, new: Opening) -> bool:
        costs = [worth(one.qty, one.price, one.cost, self.multiplier)[1] for one in (old, new)]
        return old[1:3] == new[1:3] and costs[0] == costs[1]

    def _settle(self, says: Instrument) -> bool:
        """Settle what a message says of the instrument, if nothing else was settled before.

        Returns whether actions are to be done again, as they took the multiplier for 1.
        Raises RejectedError if it says something else.
        """
        has, self._shown = self.instrument, None
        for name in ("currency", "multiplier", "con_id"):
            old, new = getattr(has, name), getattr(says, name)
            also = self._con_ids if name == "con_id" else ()
            if old is None or new is None or old == new or new in also:
                continue
            shown = [to_text(v) if name == "multiplier" else repr(v) for v in (old, new)]
            raise RejectedError(f"{name}: expected {shown[0]}, as before, found {shown[1]}")
        con_id = says.con_id if has.con_id is None else has.con_id
        self._is_typed |= bool(says.sec_type)
        self.instrument = Instrument(
            has.currency or says.currency or "USD", has.multiplier or says.multiplier or ONE, con_id
        )
        self._agreed = says
        anew = has.multiplier is None and self.instrument.multiplier != ONE
        return anew and len(self._parts) > 1

    # --- forgetting, and what can be said of what was forgotten -----------------------------

    def _forget(self) -> None:
        """Drop the oldest messages, if there are too many; what they did stays."""
        actions = len(self._parts) - 1
        # Always a multiple of so many, whether they came one by one or in runs: what is
        # forgotten must not depend on how the stream was read.
        left = (len(self._known) - actions - REMEMBERED) // FORGET_AT_ONCE * FORGET_AT_ONCE
        most = 1 + actions if actions < REMEMBERED + FORGET_AT_ONCE else REMEMBERED
        if left <= 0 and actions < most:
            return
        while left > 0 or len(self._parts) > most:
            stretch = self._parts[0].stretch
            rows = len(stretch) - stretch.base
            if len(self._parts) <= most:
                rows = min(rows, left)
            if rows:
                self._forget_rows(stretch.forget(rows))
                left -= rows
            else:
                action, place = self._parts[1].action, self._parts[1].place
                assert action is not None
                self._advance_horizon((action.timestamp, place))
                identity = (TYPE_NAMES[type(action)], action.exec_id)
                del self._known[identity]
                self._forgotten[identity] = None
                del self._parts[0]
                self._parts[0] = self._parts[0]._replace(action=None, place=-1)
        self._reports = {
            identity: report
            for identity, report in self._reports.items()
            if identity in self._known or report.timestamp >= self._horizon[0]
        }

    def _forget_rows(self, rows: Sequence[Row]) -> None:
        newest = rows[-1].timestamp
        self._advance_horizon((newest, rows[-1].place))
        gone = identities(rows)
        for identity in gone:
            del self._known[identity]
        for identity in self._reports.keys() & gone:
            del self._reports[identity]
        at = len(rows)
        while at and rows[at - 1].timestamp == newest:
            at -= 1
        self._forgotten.update(dict.fromkeys(gone[at:]))
        counting = [row for row in rows if row.qty]
        if counting:
            self._last_before = counting[-1]
            said = [row.said.instrument for row in counting]
            self._named_before = _last_named(self._named_before, said)

    def _advance_horizon(self, reached: Order) -> None:
        if self._horizon[0] < 0:
            said = [opening.instrument for opening, _ in _in_order(self._openings)]
            self._named_before = _last_named(self._named_before, said)
        # It never goes back: a bust may stand earlier than what was forgotten before it.
        before, self._horizon = self._horizon, max(self._horizon, reached)
        if self._horizon[0] > before[0]:
            self._forgotten.clear()

    def _refuse_forgotten(self, identity: Hashable, timestamp: int) -> None:
        """Refuse what may repeat a forgotten message, or belongs before one."""
        if timestamp < self._horizon[0] or identity in self._forgotten:
            raise self._forgot(timestamp)

    def _forgot(self, timestamp: int) -> RejectedError:
        return RejectedError(
            f"timestamp: expected a time after {self._horizon[0]}, since which the last "
            f"{len(self._known)} messages of this key are remembered, found {timestamp}; an older "
            "one cannot be told from a duplicate, nor be put in its place"
        )

    # --- the book as plain values, for keeping -----------------------------------------------

    def to_state(self) -> tuple[Any, ...]:
        """Return all there is to know as plain tuples, lists, numbers and texts."""
        others = {currency: amount for currency, amount in self._others.items() if amount}
        return (
            STATE_VERSION,
            (self.symbol, self.account, tuple(self.instrument), sorted(self._con_ids)),
            (self._paid, self._commission, self._adjustments, self.executions, others),
            [part_to_state(part) for part in self._parts],
            [tuple(report) for report in self._reports.values()],
            [(*opening[:-1], tuple(opening.instrument), place)
             for opening, place in self._openings.values()],
            (self._places, self._horizon, list(self._forgotten)),
            (self._last_before and execution_to_state(self._last_before.fill), self._named_before),
        )  # fmt: skip

    @classmethod
    def from_state(cls, state: tuple[Any, ...]) -> "Book":
        """Return the book that `to_state` described.

        Raises ValueError if another version of the program wrote it.
        """
        if state[0] != STATE_VERSION:
            raise ValueError(f"expected a book of version {STATE_VERSION}, found {state[0]}")
        _, key, sums, parts, reports, openings, memory, (fill, named) = state
        symbol, account, instrument, con_ids = key
        book = cls(symbol, account)
        book.instrument, book._con_ids = Instrument(*instrument), set(con_ids)
        book._paid, book._commission, book._adjustments, book.executions, others = sums
        book._others = dict(others)
        book._parts = [part_from_state(part) for part in parts]
        book._reports = {report[1]: CommissionReport(*report) for report in reports}
        for exec_id, timestamp, qty, price, cost, says, place in openings:
            opening = Opening(exec_id, timestamp, qty, price, cost, Instrument(*says))
            book._openings[exec_id] = (opening, place)
        book._places, book._horizon, forgotten = memory
        book._forgotten = dict.fromkeys(forgotten)
        book._named_before = named
        book._last_before = fill and Row.of(execution_from_state(fill), -1, 0, 0)
        for part in book._parts:
            if part.action is not None:
                book._known[TYPE_NAMES[type(part.action)], part.action.exec_id] = part.place
            stretch = part.stretch
            rows = stretch.rows[stretch.base :]
            book._known.update(zip(identities(rows), [row.place for row in rows], strict=True))
        book._is_typed = True  # it may have been
        book._settle_figures()
        book._look_back()
        return book


class _Amounts(NamedTuple):
    """What an execution costs besides its price."""

    commission: int
    other: str
    """The commission's currency if it is not the key's, else nothing."""
    adjustment: int

    @property
    def charge(self) -> int:
        """What of it is in the key's currency."""
        return self.adjustment if self.other else self.commission + self.adjustment


_Named = tuple[str | None, int | None]
"""A sec_type and a con_id."""


def _last_named(named: _Named, said: Iterable[Instrument]) -> _Named:
    """Return what is named last, if these are said one after the other."""
    sec_type, con_id = named
    before: Instrument | None = None
    for says in said:
        if says is not before:  # most say what the one before said
            before = says
            sec_type = says.sec_type or sec_type
            con_id = con_id if says.con_id is None else says.con_id
    return sec_type, con_id


def _contradicts(old: Opening | Action, new: Opening | Action) -> RejectedError:
    was, now = (f"{terms(one)} at {one.timestamp}" for one in (old, new))
    return RejectedError(
        f"exec_id: expected {was}, as the {TYPE_NAMES[type(new)]} {new.exec_id!r} had before, "
        f"found {now}"
    )


def _in_order(openings: dict[str, tuple[Opening, int]]) -> list[tuple[Opening, int]]:
    """Return those that are booked; quantity 0 removed the others."""
    booked = [one for one in openings.values() if one[0].qty]
    return sorted(booked, key=lambda one: (one[0].timestamp, one[1]))
