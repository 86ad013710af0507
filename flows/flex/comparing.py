"""The broker's figures against ours, close by close and lot by lot.

Gross P&L comes from our matches, charges from our book, never from the file: a charge
that was taken from the file would hide what is wrong. What the file gives no figure for,
or what the broker matched otherwise than FIFO, is told apart from a difference.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from connectors.flex.actions import MoveStep, SaleStep, Step, paid_id
from connectors.flex.draft import Draft, Fill, Key
from connectors.flex.known import KnownEvent, Names, book
from connectors.flex.lots import Held, Holding, exact_text
from connectors.flex.records import Contract, FlexLot, Trade
from flows.flex.history import History, Match
from state.exact import milliseconds

TOLERANCE = Fraction(1, 10_000)
NOT_FIFO = frozenset({"ML", "MLG", "MLL", "MSG", "MSL", "SL", "HC", "LI"})
"""Codes of lots that were matched otherwise than FIFO."""
NOT_BOOKED = "not in the book: import the file"
_NONE = Fraction(0)


class Finding(NamedTuple):
    """One figure on both sides."""

    what: str
    """`close`, `closed lot`, `open lot`."""
    account: str
    symbol: str
    id: str
    time: int
    ours: Fraction | None
    brokers: Fraction | None
    why: str
    """What explains it, or what differs."""


@dataclass
class Comparison:
    """What was compared, and what came out."""

    equal: Counter[str] = field(default_factory=Counter)
    differences: list[Finding] = field(default_factory=list)
    explained: list[Finding] = field(default_factory=list)
    """What cannot be compared, and what is no fault of ours."""


class Books:
    """What our book has of the keys that files tell of, as the history says.

    Booked along once more, for the part of each charge that went with each match.
    """

    def __init__(self, draft: Draft, history: History, names: Names) -> None:
        self.names = names
        draft.watched(names)
        identities = draft.identities
        contents = draft.contents
        keys = {(row.account, names.of(row.contract)) for row in contents.trades.values()}
        keys |= {(row.account, names.of(row.contract)) for row in contents.actions.values()}
        lots = (*contents.open_lots, *contents.closed_lots)
        keys |= {(lot.account, names.of(lot.contract)) for lot in lots}
        executions = history.known(identities, set()).executions
        keys |= {(account, known.symbol) for (account, _), known in executions.items()}
        self.known = history.known(identities, keys)
        self.unclear: dict[Key, str] = {}
        """By key: what happened that nobody knows the figures of any more."""
        self.held: dict[tuple[Key, int], list[Held]] = {}
        """The open lots of a key at a moment that the files tell of."""
        self._charges: dict[tuple[str, str, str], Fraction] = {}
        self._events = {
            (key, event.id): event for key in keys for event in self.known.events.get(key, ())
        }
        moments = sorted({lot.time for lot in contents.open_lots})
        for key in keys:
            self._replay(key, moments)
        closers = {(key[0], event.id) for (key, _), event in self._events.items()}
        self.matches: dict[tuple[str, str], list[Match]] = defaultdict(list)
        """By account and closing identity."""
        for match in history.matches(closers):
            self.matches[match.account, match.closed_by].append(match)

    def event(self, key: Key, identity: str) -> KnownEvent | None:
        """Return an execution as it was booked."""
        return self._events.get((key, identity))

    def charge(self, match: Match) -> Fraction:
        """Return what both sides of a match bore of charges."""
        return self._charges.get((match.account, match.closed_by, match.opened_by), _NONE)

    def net(self, match: Match) -> Fraction:
        """Return a match's P&L net of the charges that the book has."""
        return Fraction(match.realized) - self.charge(match)

    def own_charge(self, key: Key, matches: Sequence[Match]) -> Fraction:
        """Return what the closing side of its matches bore."""
        event = self.event(key, matches[0].closed_by)
        closed = sum((abs(Fraction(match.qty)) for match in matches), _NONE)
        return Fraction(event.charge) * closed / abs(Fraction(event.qty)) if event else _NONE

    def _replay(self, key: Key, moments: Sequence[int]) -> None:
        holding, waiting = Holding(), list(moments)
        events = self.known.events.get(key, ())
        for event in sorted(events, key=lambda event: event.kind != "opening"):
            while waiting and event.kind != "opening" and event.time > waiting[0]:
                self.held[key, waiting.pop(0)] = list(holding.lots)
            if event.kind != "execution":
                book(holding, event)
                continue
            closed = holding.trade(event.id, event.time, event.qty, event.value, event.charge)
            for part in closed:
                pair = (key[0], event.id, part.lot.id)
                self._charges[pair] = self._charges.get(pair, _NONE) + part.charge
        self.held.update({(key, moment): list(holding.lots) for moment in waiting})
        if holding.unclear:
            self.unclear[key] = f"the entry of {holding.unclear} is no longer on the stream"


class Comparer:
    """Compares what a draft's files say with our books."""

    def __init__(self, draft: Draft, books: Books) -> None:
        self._draft, self._books = draft, books
        self._found = Comparison()
        self._fills = {(fill.trade.account, fill.identity): fill for fill in draft.fills}

    def compare(self) -> Comparison:
        """Return what came out."""
        for fill in self._draft.fills:
            if not fill.busted:
                self._compare_fill(fill)
        for step in self._draft.steps:
            facts = _sold(step)
            if facts is not None:
                contract, id_, pnl = facts
                symbol = self._books.names.of(contract)
                self._compare_close(_Close(step.account, symbol, id_, step.time, pnl))
        for order in self._draft.unexplained_orders:
            self._tell_order(order)
        self._compare_closed_lots()
        self._compare_open_lots()
        return self._found

    # --- closes ---

    def _compare_fill(self, fill: Fill) -> None:
        trade = fill.trade
        symbol = self._books.names.of(trade.contract)
        close = _Close(trade.account, symbol, fill.identity, trade.time, trade.pnl)
        if trade.contract.sec_type == "CASH":
            self._explain(close.finding(None, "FX rows have no P&L in Flex"))
        elif trade.key not in self._draft.ends.leave:
            self._compare_close(close, fill)
        elif ("transfer", trade.account, trade.id) in self._books.known.others:
            self._found.equal["close"] += 1
        else:
            self._differ(close.finding(None, NOT_BOOKED))

    def _compare_close(self, close: "_Close", fill: Fill | None = None) -> None:
        books = self._books
        known = books.known.execution(close.account, close.id)
        account = close.account if (close.account, close.id) in books.known.executions else ""
        matches = books.matches.get((account, close.id), [])
        if close.pnl is None:
            if matches:
                self._explain(close.finding(None, "no P&L in the file"))
        elif known is None:
            self._differ(close.finding(None, NOT_BOOKED))
        elif matches or close.pnl:
            key = (account, known.symbol)
            ours = sum(map(books.net, matches), _NONE)
            if key in books.unclear:
                self._explain(close.finding(None, books.unclear[key]))
            elif abs(ours - Fraction(close.pnl)) <= TOLERANCE:
                self._found.equal["close"] += 1
            elif why := self._explanation(close, fill, key, matches):
                self._explain(close.finding(ours, why))
            else:
                self._differ(close.finding(ours, self._hint(key, fill)))

    def _explanation(
        self, close: "_Close", fill: Fill | None, key: Key, matches: Sequence[Match]
    ) -> str:
        """Say why a difference is no fault of the book; "" if nothing explains it."""
        if fill is None:
            return ""
        other = NOT_FIFO & fill.trade.notes
        if other:
            return f"the broker matched other lots than FIFO's ({', '.join(sorted(other))})"
        if not matches or fill.trade.cost is None or close.pnl is None:
            return ""
        # A commission that was changed after its own row: all that differs is the cost of
        # what was closed, by no more than its charges, while the file's own row of each
        # opening says what the book has.
        books, sign = self._books, 1 if matches[0].qty > 0 else -1
        proceeds = sum((Fraction(each.qty) * Fraction(each.point) for each in matches), _NONE)
        own = books.own_charge(key, matches)
        theirs = proceeds - own - sign * abs(Fraction(fill.trade.cost))
        opening = sum(map(books.charge, matches), _NONE) - own
        off = abs(sum(map(books.net, matches), _NONE) - Fraction(close.pnl))
        consistent = abs(theirs - Fraction(close.pnl)) <= TOLERANCE and off <= abs(opening)
        if consistent and all(self._file_agrees(key, match.opened_by) for match in matches):
            return "the broker changed a commission of what was closed after its own row"
        return ""

    def _file_agrees(self, key: Key, identity: str) -> bool:
        event, fill = self._books.event(key, identity), self._fills.get((key[0], identity))
        if event is None or fill is None or fill.charge is None:
            return False
        return abs(Fraction(event.charge) - self._file_charge(fill)) <= TOLERANCE

    def _file_charge(self, fill: Fill) -> Fraction:
        adjustment = self._draft.ends.adjustments.get(fill.trade.key, "0")
        return Fraction(fill.charge or 0) + Fraction(adjustment)

    def _hint(self, key: Key, fill: Fill | None) -> str:
        event = self._books.event(key, fill.identity) if fill else None
        if fill is None or event is None or fill.charge is None:
            return "differs"
        if abs(Fraction(event.charge) - self._file_charge(fill)) <= TOLERANCE:
            return "differs"
        return (
            f"charge {exact_text(Fraction(event.charge), 6)} in the book, "
            f"{exact_text(self._file_charge(fill), 6)} in the file: import the file"
        )

    def _tell_order(self, order: Trade) -> None:
        if order.pnl:
            symbol = self._books.names.of(order.contract)
            close = _Close(order.account, symbol, f"order {order.order_id}", order.time, order.pnl)
            self._explain(close.finding(None, "an order's sum; none of its executions is there"))

    # --- lots ---

    def _compare_closed_lots(self) -> None:
        theirs: dict[tuple[Key, int], list[FlexLot]] = defaultdict(list)
        for lot in self._draft.contents.closed_lots.elements():
            theirs[(lot.account, self._books.names.of(lot.contract)), lot.time].append(lot)
        ours: dict[tuple[Key, int], list[_Lot]] = defaultdict(list)
        for match in (match for some in self._books.matches.values() for match in some):
            mine = _Lot(match.opened, Fraction(match.qty), self._books.net(match))
            ours[(match.account, match.symbol), match.closed].append(mine)
        for (key, closed), lots in theirs.items():
            if any(lot.contract.sec_type == "CASH" for lot in lots):
                continue
            sides = [_Lot(lot.opened, Fraction(lot.qty), _fraction(lot.pnl)) for lot in lots]
            self._compare_lots(key, closed, lots, sides, ours.get((key, closed), []))

    def _compare_open_lots(self) -> None:
        lots = self._draft.contents.open_lots
        last: dict[str, int] = {}
        for lot in lots:
            last[lot.account] = max(last.get(lot.account, 0), lot.time)
        contracts = {(lot.account, lot.contract) for lot in lots}
        contracts |= {(row.account, row.contract) for row in self._draft.contents.trades.values()}
        fx = {
            (account, self._books.names.of(contract))
            for account, contract in contracts
            if contract.sec_type == "CASH"
        }
        # What we hold and the file does not is a difference too.
        theirs: dict[Key, list[FlexLot]] = {
            key: [] for key, moment in self._books.held if last.get(key[0]) == moment
        }
        for lot in lots.elements():
            if lot.time == last[lot.account]:
                key = (lot.account, self._books.names.of(lot.contract))
                theirs.setdefault(key, []).append(lot)
        for key, some in theirs.items():
            if key not in fx:
                held = self._books.held.get((key, last[key[0]]), [])
                sides = [_Lot(lot.opened, Fraction(lot.qty), Fraction(lot.cost)) for lot in some]
                mine = [_Lot(lot.opened, lot.qty, lot.net_cost) for lot in held]
                self._compare_lots(key, last[key[0]], some, sides, mine)

    def _compare_lots(
        self,
        key: Key,
        time: int,
        rows: Sequence[FlexLot],
        theirs: Sequence["_Lot"],
        ours: Sequence["_Lot"],
    ) -> None:
        """Compare quantity and money of what was opened at the same time."""
        what = "closed lot" if rows and rows[0].is_closed else "open lot"
        if key in self._books.unclear:
            self._explain(Finding(what, *key, "", time, None, None, self._books.unclear[key]))
            return
        other = {code for row in rows for code in row.notes} & NOT_FIFO
        when = _precision([lot.opened for lot in theirs], self._draft.contents.zone)
        left, right = _summed(theirs, when), _summed(ours, when)
        for opened in sorted({*left, *right}):
            his, mine = left.get(opened, _Lot(opened)), right.get(opened, _Lot(opened))
            same = his.money is None or mine.money is None or (
                abs(his.money - mine.money) <= TOLERANCE
            )  # fmt: skip
            if his.qty == mine.qty and same:
                self._found.equal[what] += 1
                continue
            text = f"opened {shown_time(opened)}"
            if his.qty != mine.qty:
                text += f": {exact_text(mine.qty, 10)} units, the broker {exact_text(his.qty, 10)}"
            finding = Finding(what, *key, "", time, mine.money, his.money, text)
            if other:
                self._explain(finding._replace(why=f"{text}; matched otherwise than FIFO"))
            else:
                self._differ(finding)

    def _differ(self, finding: Finding) -> None:
        self._found.differences.append(finding)

    def _explain(self, finding: Finding) -> None:
        self._found.explained.append(finding)


class _Close(NamedTuple):
    account: str
    symbol: str
    id: str
    time: int
    pnl: Decimal | None

    def finding(self, ours: Fraction | None, why: str) -> Finding:
        brokers = _fraction(self.pnl)
        return Finding("close", self.account, self.symbol, self.id, self.time, ours, brokers, why)


class _Lot(NamedTuple):
    opened: int
    qty: Fraction = _NONE
    money: Fraction | None = _NONE


def _sold(step: Step) -> tuple[Contract, str, Decimal | None] | None:
    """Return what a corporate action sells, the sale's id, and the broker's P&L."""
    if isinstance(step, SaleStep):
        return step.contract, step.id, step.rows[0].pnl
    if isinstance(step, MoveStep) and step.sold is not None:
        realized = sum((row.pnl or Decimal(0) for row in step.rows), Decimal(0))
        return step.source, paid_id(step), realized
    return None


def _fraction(number: Decimal | None) -> Fraction | None:
    return None if number is None else Fraction(number)


def _summed(lots: Iterable[_Lot], when: Callable[[int], int]) -> dict[int, _Lot]:
    sums: dict[int, _Lot] = {}
    for lot in lots:
        old = sums.get(when(lot.opened), _Lot(0))
        money = None if lot.money is None or old.money is None else lot.money + old.money
        sums[when(lot.opened)] = _Lot(when(lot.opened), lot.qty + old.qty, money)
    return sums


def _precision(times: Sequence[int], zone: tzinfo) -> Callable[[int], int]:
    """Return how to compare opening times: a file may name days only."""

    def day(time: int) -> int:
        moment = datetime.fromtimestamp(time / 1000, zone)
        return milliseconds(moment.replace(hour=0, minute=0, second=0, microsecond=0))

    if times and all(day(time) == time for time in times):
        return day
    return lambda time: time - time % 1000


def shown_time(time: int) -> str:
    """Return a time for a person, UTC."""
    return f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d %H:%M:%S}"
