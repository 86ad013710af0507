"""A naive book to hold the real one against, worked out from the contract's words.

`told` starts afresh for each list of messages: it goes through them in order of arrival
to see which are taken and what counts, puts what counts in booking order, and books it
with a plain list of lots. It shares no code and no idea with `state.book`: no columns,
no running totals, nothing that is undone. Figures are fractions in natural units,
rounded exactly where the contract says so; what comes out is in the book's own units,
so that it can be compared to the last digit. It forgets nothing and knows no limits.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from state.book import Applied, Book
from state.exact import MONEY, ONE
from state.messages import (
    Action,
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    Split,
    TransferIn,
    TransferOut,
)
from state.snapshot import ClosedLot, OpenLot, PositionSnapshot

Key: TypeAlias = tuple[str, str]
"""What an execution, an opening or an action is known by: its type and its identity."""


class Verdict(Enum):
    """What becomes of a message when it arrives."""

    ROW = "makes a row"
    NOTHING = "changes nothing"
    REFUSED = "is refused"


class Told(NamedTuple):
    """What a list of arrived messages comes to."""

    verdicts: list[Verdict]
    snapshot: PositionSnapshot
    open_lots: list[OpenLot]
    matches: list[ClosedLot]


def told(arrived: Sequence[Message], symbol: str = "XYZ", account: str | None = None) -> Told:
    """Say what messages come to that arrived in this order."""
    heard = _Heard()
    verdicts = [heard.hear(message) for message in arrived]
    books = _Books(heard)
    books.book_all()
    return Told(verdicts, books.snapshot(symbol, account), books.open_lots(), books.matches)


def taken(arrived: Sequence[Message]) -> list[Message]:
    """Return the messages that are not refused."""
    return [
        message
        for message, verdict in zip(arrived, told(arrived).verdicts, strict=True)
        if verdict is not Verdict.REFUSED
    ]


def rounded(value: Fraction, places: int) -> Fraction:
    """Round half-even to so many decimal places.

    >>> rounded(Fraction(25, 1000), 2)
    Fraction(1, 50)
    """
    return Fraction(round(value * 10**places), 10**places)


# --- which messages count ---------------------------------------------------------------------


class Charge(NamedTuple):
    """A commission: units of 10^-10, and the currency."""

    amount: int
    currency: str


@dataclass
class _Heard:
    """What the messages that arrived so far say."""

    currency: str | None = None
    multiplier: int | None = None
    con_id: int | None = None
    also: set[int] = field(default_factory=set)
    """Contract numbers of `instrument` messages."""
    counts: dict[Key, Execution | Opening | Action] = field(default_factory=dict)
    """In order of first arrival."""
    reports: dict[str, CommissionReport] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    """Openings."""

    def hear(self, message: Message) -> Verdict:
        match message:
            case ContractNumber():
                self.also.add(message.con_id)
                return Verdict.NOTHING
            case CommissionReport():
                return self._report(message)
            case Execution():
                return self._settled(message.instrument, self._execution(message))
            case Opening(qty=0):  # says nothing of the key: what it removes did
                return self._removal(message)
            case Opening():
                first, acted = self.currency is None, self._acted()
                verdict = self._settled(message.instrument, self._opening(message))
                # Removed before, it is the first to say what a point is worth all the same.
                anew = verdict is Verdict.NOTHING and first and acted and self.multiplier != ONE
                return Verdict.ROW if anew else verdict
            case _:
                return self._action(message)

    def in_order(self) -> list[Execution | Opening | Action]:
        """Return what counts, in booking order: Python's sorting keeps first arrivals first."""
        return sorted(
            self.counts.values(),
            key=lambda each: (not isinstance(each, Opening), each.timestamp),
        )

    def _acted(self) -> bool:
        return any(not isinstance(each, Execution | Opening) for each in self.counts.values())

    def commission_of(self, execution: Execution) -> Charge:
        """Return what an execution costs, in whichever currency."""
        home = self.currency or "USD"
        if not execution.qty:
            return Charge(0, home)
        report = self.reports.get(execution.identity)
        if report is not None:
            return Charge(report.commission, report.currency or home)
        if execution.commission is None:
            return Charge(0, home)
        return Charge(execution.commission, execution.commission_currency or home)

    def _agrees(self, says: Instrument) -> bool:
        known = self.currency is not None
        currency = says.currency in (None, self.currency) or not known
        multiplier = says.multiplier in (None, self.multiplier) or not known
        con_id = says.con_id in (None, self.con_id, *self.also) or self.con_id is None
        return currency and multiplier and con_id

    def _settled(self, says: Instrument, verdict: Verdict) -> Verdict:
        if verdict is not Verdict.REFUSED:
            if self.currency is None:
                self.currency = says.currency or "USD"
                self.multiplier = ONE if says.multiplier is None else says.multiplier
            if self.con_id is None:
                self.con_id = says.con_id
        return verdict

    def _execution(self, new: Execution) -> Verdict:
        if not self._agrees(new.instrument):
            return Verdict.REFUSED
        key = _key(new)
        old = self.counts.get(key)
        assert old is None or isinstance(old, Execution)
        if old is None or new.revision > old.revision:
            self.counts[key] = new
            return Verdict.ROW
        if new.revision < old.revision:
            return Verdict.NOTHING
        return self._same_again(key, old, new)

    def _same_again(self, key: Key, old: Execution, new: Execution) -> Verdict:
        figures = (old.timestamp, old.qty, old.price) == (new.timestamp, new.qty, new.price)
        commissions = {self._said(each) for each in (old, new)} - {None}
        adjustments = {old.adjustment, new.adjustment} - {None}
        if not figures or len(commissions) > 1 or len(adjustments) > 1:
            return Verdict.REFUSED
        whole = old
        if old.commission is None and new.commission is not None:
            whole = whole._replace(
                commission=new.commission, commission_currency=new.commission_currency
            )
        if old.adjustment is None:
            whole = whole._replace(adjustment=new.adjustment)
        if whole == old:
            return Verdict.NOTHING
        self.counts[key] = whole
        return Verdict.ROW

    def _said(self, execution: Execution) -> Charge | None:
        if execution.commission is None:
            return None
        currency = execution.commission_currency or self.currency or "USD"
        return Charge(execution.commission, currency)

    def _report(self, new: CommissionReport) -> Verdict:
        best = self.reports.get(new.identity)
        if best and (best.revision, best.timestamp) > (new.revision, new.timestamp):
            return Verdict.NOTHING
        execution = self.counts.get(("execution", new.identity))
        if execution is None:
            self.reports[new.identity] = new
            return Verdict.NOTHING
        assert isinstance(execution, Execution)
        before = self.commission_of(execution)
        self.reports[new.identity] = new
        after = self.commission_of(execution)
        return Verdict.NOTHING if before == after else Verdict.ROW

    def _opening(self, new: Opening) -> Verdict:
        if not self._agrees(new.instrument):
            return Verdict.REFUSED
        if new.exec_id in self.removed:
            return Verdict.NOTHING
        known = self.counts.get(_key(new))
        if known is not None:
            assert isinstance(known, Opening)
            return Verdict.NOTHING if _figures(known) == _figures(new) else Verdict.REFUSED
        others = [each for each in self.counts.values() if isinstance(each, Opening)]
        if any((other.qty > 0) != (new.qty > 0) for other in others):
            return Verdict.REFUSED
        self.counts[_key(new)] = new
        return Verdict.ROW

    def _removal(self, new: Opening) -> Verdict:
        if new.exec_id in self.removed:
            return Verdict.NOTHING
        self.removed.add(new.exec_id)
        self.counts.pop(_key(new), None)
        return Verdict.ROW

    def _action(self, new: Action) -> Verdict:
        known = self.counts.get(_key(new))
        if known is None:
            self.counts[_key(new)] = new
            return Verdict.ROW
        return Verdict.NOTHING if known == new and type(known) is type(new) else Verdict.REFUSED


def _key(message: Execution | Opening | Action) -> Key:
    match message:
        case Execution():
            return "execution", message.identity
        case Opening():
            return "opening", message.exec_id
        case Split():
            return "split", message.exec_id
        case Cost():
            return "cost", message.exec_id
        case _:
            return "transfer", message.exec_id


def _figures(opening: Opening) -> tuple[int | None, ...]:
    return opening.timestamp, opening.qty, opening.price, opening.cost


# --- what they come to ------------------------------------------------------------------------


@dataclass
class _Lot:
    """A lot as it began, and how many of its units are gone."""

    exec_id: str
    opened: int
    price: Fraction
    units: Fraction
    """Signed."""
    cost: Fraction
    charge: Fraction
    over: Fraction
    """The units that bear the charge, above 0."""
    before: Fraction = Fraction(0)
    """How many of those were gone before the lot began."""
    gone: Fraction = Fraction(0)

    @property
    def sign(self) -> int:
        return 1 if self.units > 0 else -1

    @property
    def left(self) -> Fraction:
        """Units, above 0."""
        return abs(self.units) - self.gone

    @property
    def cost_left(self) -> Fraction:
        return self.cost - rounded(self.cost * self.gone / abs(self.units), 20)

    @property
    def charge_left(self) -> Fraction:
        return self.charge - rounded(self.charge * (self.before + self.gone) / self.over, 10)

    def take(self, units: Fraction) -> tuple[Fraction, Fraction]:
        """Let units go; return the cost and the charge that go with them."""
        cost, charge = self.cost_left, self.charge_left
        self.gone += units
        return cost - self.cost_left, charge - self.charge_left


class _Books:
    """The lots and totals while booking."""

    def __init__(self, heard: _Heard) -> None:
        self.heard = heard
        self.multiplier = Fraction(ONE if heard.multiplier is None else heard.multiplier, ONE)
        self.lots: list[_Lot] = []
        self.matches: list[ClosedLot] = []
        self.gross = self.due = self.commission = self.adjustment = Fraction(0)
        self.other: Counter[str] = Counter()
        self.fills: list[Execution] = []
        self.named = Instrument()

    def book_all(self) -> None:
        for message in self.heard.in_order():
            match message:
                case Execution():
                    self.execution(message)
                case Opening():
                    self.name(message.instrument)
                    self.lots.append(self.bought(message, message.timestamp))
                case Split():
                    self.split(message)
                case Cost():
                    self.lay(Fraction(message.per_unit, ONE))
                case TransferOut(qty=None):
                    self.leave(sum((lot.left for lot in self.lots), Fraction(0)))
                case TransferOut(qty=qty):
                    assert qty is not None
                    self.leave(Fraction(qty, ONE))
                case TransferIn():
                    self.come(message)

    def name(self, says: Instrument) -> None:
        self.named = Instrument(
            sec_type=says.sec_type or self.named.sec_type,
            con_id=self.named.con_id if says.con_id is None else says.con_id,
        )

    def execution(self, fill: Execution) -> None:
        if not fill.qty:
            return
        self.fills.append(fill)
        self.name(fill.instrument)
        units, charge = abs(Fraction(fill.qty, ONE)), self.charge_of(fill)
        sign = 1 if fill.qty > 0 else -1
        closed = Fraction(0)
        while closed < units and self.lots and self.lots[0].sign != sign:
            part = min(units - closed, self.lots[0].left)
            self.match(self.lots[0], part, fill)
            closed += part
            self.drop_empty()
        self.due += rounded(charge * closed / units, 10)
        if closed < units:
            price = Fraction(fill.price, ONE)
            opened = sign * (units - closed)
            self.lots.append(
                _Lot(
                    fill.exec_id, fill.timestamp, price, opened,
                    opened * price * self.multiplier, charge, units, closed,
                )
            )  # fmt: skip

    def charge_of(self, fill: Execution) -> Fraction:
        commission = self.heard.commission_of(fill)
        charge = Fraction(fill.adjustment or 0, ONE)
        self.adjustment += charge
        if commission.currency == (self.heard.currency or "USD"):
            self.commission += Fraction(commission.amount, ONE)
            charge += Fraction(commission.amount, ONE)
        else:
            self.other[commission.currency] += commission.amount
        return charge

    def match(self, lot: _Lot, part: Fraction, fill: Execution) -> None:
        cost, charge = lot.take(part)
        gain = lot.sign * part * Fraction(fill.price, ONE) * self.multiplier - cost
        self.gross += gain
        self.due += charge
        self.matches.append(
            ClosedLot(
                "LONG" if lot.sign > 0 else "SHORT", _whole(part, ONE), lot.exec_id, lot.opened,
                _whole(lot.price, ONE), fill.exec_id, fill.timestamp, fill.price,
                _whole(gain, MONEY),
            )
        )  # fmt: skip

    def split(self, split: Split) -> None:
        ratio = Fraction(split.new, split.old)
        exact = carried_cost = carried_charge = Fraction(0)
        after: list[_Lot] = []
        for lot in self.lots:
            start = rounded(exact, split.places)
            exact += lot.sign * lot.left * ratio
            units = rounded(exact, split.places) - start
            cost, charge = lot.cost_left + carried_cost, lot.charge_left + carried_charge
            if units:
                after.append(self.anew(lot, units, cost, charge))
                carried_cost = carried_charge = Fraction(0)
            else:
                carried_cost, carried_charge = cost, charge
        if after and (carried_cost or carried_charge):
            last = after[-1]
            cost, charge = last.cost + carried_cost, last.charge + carried_charge
            after[-1] = self.anew(last, last.units, cost, charge)
        self.lots = after

    def anew(self, lot: _Lot, units: Fraction, cost: Fraction, charge: Fraction) -> _Lot:
        price = self.price_of(cost, units)
        return _Lot(lot.exec_id, lot.opened, price, units, cost, charge, abs(units))

    def price_of(self, cost: Fraction, units: Fraction) -> Fraction:
        return rounded(cost / units / self.multiplier, 10)

    def lay(self, per_unit: Fraction) -> None:
        for n, lot in enumerate(self.lots):
            units = lot.sign * lot.left
            laid = rounded(units * per_unit * self.multiplier, 10)
            self.adjustment += laid
            self.lots[n] = _Lot(
                lot.exec_id, lot.opened, lot.price, units, lot.cost_left, lot.charge_left + laid,
                abs(units),
            )  # fmt: skip

    def leave(self, units: Fraction) -> Fraction:
        """Let the oldest units leave, at most these; return how many did."""
        left = Fraction(0)
        while self.lots and left < units:
            part = min(units - left, self.lots[0].left)
            self.lots[0].take(part)
            left += part
            self.drop_empty()
        return left

    def come(self, new: TransferIn) -> None:
        lot = self.bought(new, new.opened)
        if self.lots and self.lots[0].sign != lot.sign:
            lot.take(self.leave(abs(lot.units)))
            if not lot.left:
                return
        later = [n for n, other in enumerate(self.lots) if other.opened > lot.opened]
        self.lots.insert(later[0] if later else len(self.lots), lot)

    def bought(self, message: Opening | TransferIn, opened: int) -> _Lot:
        units = Fraction(message.qty, ONE)
        if message.cost is not None:
            cost = Fraction(message.cost, MONEY)
            price = self.price_of(cost, units)
        else:
            assert message.price is not None
            price = Fraction(message.price, ONE)
            cost = units * price * self.multiplier
        return _Lot(message.exec_id, opened, price, units, cost, Fraction(0), abs(units))

    def drop_empty(self) -> None:
        self.lots = [lot for lot in self.lots if lot.left]

    # --- in the book's units

    def snapshot(self, symbol: str, account: str | None) -> PositionSnapshot:
        qty = sum((lot.sign * lot.left for lot in self.lots), Fraction(0))
        cost = sum((lot.cost_left for lot in self.lots), Fraction(0))
        last = self.fills[-1] if self.fills else None
        return PositionSnapshot(
            account, symbol, self.heard.currency or "USD", _whole(self.multiplier, ONE),
            self.named.sec_type, self.named.con_id, _whole(qty, ONE),
            _whole(self.price_of(cost, qty), ONE) if qty else None, _whole(cost, MONEY),
            _whole(self.gross, MONEY), _whole(self.commission, ONE),
            tuple(sorted((name, amount) for name, amount in self.other.items() if amount)),
            _whole(self.adjustment, ONE), _whole(self.gross - self.due, MONEY), len(self.lots),
            len(self.fills), last and last.exec_id, last and last.price, last and last.timestamp,
        )  # fmt: skip

    def open_lots(self) -> list[OpenLot]:
        return [
            OpenLot(
                lot.exec_id, lot.opened, _whole(lot.price, ONE), _whole(lot.sign * lot.left, ONE),
                _whole(lot.cost_left, MONEY), _whole(lot.charge_left, ONE),
            )
            for lot in self.lots
        ]  # fmt: skip


def _whole(value: Fraction, unit: int) -> int:
    scaled = value * unit
    assert scaled.denominator == 1, f"{value} is no whole number of 1/{unit}"
    return scaled.numerator


# --- holding a book against it ----------------------------------------------------------------


def check_agrees(book: Book, arrived: Sequence[Message]) -> None:
    """Check that a book that took these messages has the oracle's figures, to the last digit."""
    expected = told(arrived, book.symbol, book.account)
    assert book.snapshot() == expected.snapshot
    assert book.open_lots() == expected.open_lots


def check_step(applied: Applied | None, before: Told, after: Told) -> None:
    """Check what a book said that the last message did.

    before, after: what the oracle makes of all messages without it, and with it.
    """
    assert (applied is not None) == (after.verdicts[-1] is Verdict.ROW), after.verdicts[-1]
    if applied is None:
        return
    old, new = before.snapshot, after.snapshot
    assert applied.realized_change == new.realized_pnl - old.realized_pnl
    assert applied.net_change == new.net_realized_pnl - old.net_realized_pnl
    gone = Counter(before.matches) - Counter(after.matches)
    come = Counter(after.matches) - Counter(before.matches)
    taken_back = [lot.taken_back() for lot in gone.elements()]
    assert Counter(applied.closed) == Counter(taken_back) + come
    signs = [lot.qty > 0 for lot in applied.closed]
    assert signs == sorted(signs), "what is taken back comes first"


def standing(closed: Iterable[ClosedLot]) -> Counter[ClosedLot]:
    """Return the closed lots that are left when those taken back are off.

    >>> lot = ClosedLot("LONG", 1, "a", 1, 1, "b", 2, 3, 2)
    >>> standing([lot, lot, lot.taken_back()]) == Counter([lot])
    True
    """
    left: Counter[ClosedLot] = Counter()
    for lot in closed:
        left[lot if lot.qty > 0 else lot.taken_back()] += 1 if lot.qty > 0 else -1
    assert all(count >= 0 for count in left.values()), "nothing is taken back that was not told"
    return +left


def check_matches(closed: Iterable[ClosedLot], arrived: Sequence[Message]) -> None:
    """Check that closed lots, those taken back off, are the oracle's matches."""
    assert standing(closed) == Counter(told(arrived).matches)


def check_invariants(book: Book, closed: Sequence[ClosedLot]) -> None:
    """Check what is true of every book after every message, whatever its messages are.

    closed: all that it said was closed, or taken back.
    """
    shown, lots = book.snapshot(), book.open_lots()
    assert all(lot.qty for lot in lots), "no lot is empty"
    assert len({lot.qty > 0 for lot in lots}) <= 1, "all lots are of one side"
    assert sum(lot.qty for lot in lots) == shown.qty, "lots add up to the quantity"
    assert sum(lot.cost for lot in lots) == shown.cost_basis, "lots add up to the cost basis"
    assert len(lots) == shown.open_lots, "lots are counted"
    assert sum(lot.realized_pnl for lot in closed) == shown.realized_pnl, "closed lots add up to it"
    assert (shown.avg_price is None) == (shown.qty == 0), "what is held has a price"


def check_charges(book: Book) -> None:
    """Check that what fell due and what waits in lots is all there was to pay.

    What leaves takes its charge along: so only of a book that no transfer or split came to.
    """
    shown = book.snapshot()
    waits = sum(lot.charge for lot in book.open_lots())
    due = shown.realized_pnl - shown.net_realized_pnl
    whole = shown.commission + shown.basis_adjustment
    assert due == (whole - waits) * ONE, "the parts of the charges add up to the whole"
