"""The broker's figures against ours, close by close and lot by lot.

Gross P&L comes from our matches, charges from our book, never from the file: a charge
that was taken from the file would hide what is wrong. What the file gives no figure for,
or what the broker matched otherwise than FIFO, is told apart from a difference.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from connectors.flex.actions import LeftOutStep, MoveStep, SaleStep, Step, paid_id
from connectors.flex.contents import Contents
from connectors.flex.draft import Draft, Fill, Key
from connectors.flex.known import KnownEvent, Names, book
from connectors.flex.lots import Held, Holding, exact_text
from connectors.flex.openings import moments_told, sums_told
from connectors.flex.records import Action, Contract, FlexLot, Trade
from flows.flex.history import History, Match
from state.exact import milliseconds

TOLERANCE = Fraction(1, 10_000)
NOT_FIFO = frozenset({"ML", "MLG", "MLL", "MSG", "MSL", "SL", "HC", "LI"})
"""Codes of lots that were matched otherwise than FIFO."""
NOT_BOOKED = "not in the book: import the file"
NOT_BUSTED = "the broker cancelled it, the book has it: import the file"
EVENING = 7 * 3600 * 1000
"""Before a day's end, in milliseconds: what is traded then may be the broker's next day's."""
NO_LOTS = "told without its lots: let the query give the level of detail Lot"
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


class Replay:
    """One key booked along once more: what an audit asks that stands in no row.

    events: in order of booking. moment: the last one of which the files tell all that is
    held. told: the identities that the files tell of.
    """

    def __init__(
        self, events: Sequence[KnownEvent], moment: int | None, told: Container[str]
    ) -> None:
        self.held: list[list[Held]] = []
        """The open lots at that moment; then before each execution of the day's evening that
        no file has, as it may be the next day's to the broker."""
        self.left: dict[str, list[Held]] = {}
        """What each transfer took out."""
        self.charges: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
        """What the lots of an opener that a closer closed bore of charges."""
        self.elsewhere = ""
        """The currency of commissions that are no part of net P&L."""
        self._holding = Holding()
        later = [each for each in events if moment is not None and _is_after(each, moment)]
        for event in events[: len(events) - len(later)]:
            if event.kind != "execution" or event.id in told:
                self.held.clear()
            elif moment is not None and event.time > moment - EVENING:
                self.held.append(list(self._holding.lots))
            self._book(event)
        self.held.insert(0, list(self._holding.lots))
        for event in later:
            self._book(event)

    @property
    def unclear(self) -> str:
        """What happened that nobody knows the figures of any more, "" if nothing did."""
        entry = self._holding.unclear
        return entry and f"the entry of {entry} is no longer on the stream"

    def _book(self, event: KnownEvent) -> None:
        self.elsewhere = self.elsewhere or event.elsewhere
        if event.kind == "out":
            self.left[event.id] = self._holding.leave(abs(Fraction(event.qty)))
        elif event.kind != "execution":
            book(self._holding, event)
        else:
            figures = (event.qty, event.value, event.charge)
            for part in self._holding.trade(event.id, event.time, *figures):
                self.charges[event.id, part.lot.id] += part.charge


_NOTHING = Replay((), None, ())


class Books:
    """What our book has of the keys that files tell of, as the history says."""

    def __init__(self, draft: Draft, history: History, names: Names) -> None:
        self.names = names
        draft.watched(names)
        identities = draft.identities
        keys = _keys_told(draft.contents, names)
        executions = history.known(identities, set()).executions
        keys |= {(account, known.symbol) for (account, _), known in executions.items()}
        self.last = _last_told(draft.contents, {account for account, _ in keys})
        """By account: the last moment of which the files tell all that is held."""
        keys |= history.holding(self.last)
        self.known = history.known(identities, keys)
        told = {identity for _, identity in identities}
        self._replays = {key: self._replay(key, told) for key in sorted(keys)}
        self._events = {
            (key, event.id): event for key in keys for event in self.known.events.get(key, ())
        }
        closers = {(key[0], event.id) for (key, _), event in self._events.items()}
        self.matches: dict[tuple[str, str], list[Match]] = defaultdict(list)
        """By account and closing identity."""
        for match in history.matches(closers):
            self.matches[match.account, match.closed_by].append(match)

    def event(self, key: Key, identity: str) -> KnownEvent | None:
        """Return an execution as it was booked."""
        return self._events.get((key, identity))

    def replay(self, key: Key) -> Replay:
        """Return what a key comes to."""
        return self._replays.get(key, _NOTHING)

    def told_whole(self) -> list[Key]:
        """Return the keys of the accounts of which the files tell all that is held."""
        return [key for key in self._replays if key[0] in self.last]

    def charge(self, match: Match) -> Fraction:
        """Return what both sides of a match bore of charges."""
        charges = self.replay((match.account, match.symbol)).charges
        return charges.get((match.closed_by, match.opened_by), _NONE)

    def net(self, match: Match) -> Fraction:
        """Return a match's P&L net of the charges that the book has."""
        return Fraction(match.realized) - self.charge(match)

    def own_charge(self, key: Key, matches: Sequence[Match]) -> Fraction:
        """Return what the closing side of its matches bore."""
        event = self.event(key, matches[0].closed_by)
        closed = sum((abs(Fraction(match.qty)) for match in matches), _NONE)
        return Fraction(event.charge) * closed / abs(Fraction(event.qty)) if event else _NONE

    def _replay(self, key: Key, told: Container[str]) -> Replay:
        events = self.known.events.get(key, ())
        in_order = sorted(events, key=lambda event: event.kind != "opening")
        return Replay(in_order, self.last.get(key[0]), told)


class Comparer:
    """Compares what a draft's files say with our books."""

    def __init__(self, draft: Draft, books: Books) -> None:
        self._draft, self._books = draft, books
        self._found = Comparison()
        self._fills = {(fill.trade.account, fill.identity): fill for fill in draft.fills}

    def compare(self) -> Comparison:
        """Return what came out."""
        for fill in self._draft.fills:
            (self._compare_bust if fill.busted else self._compare_fill)(fill)
        for step in self._draft.steps:
            self._compare_step(step)
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

    def _compare_bust(self, fill: Fill) -> None:
        trade, books = fill.trade, self._books
        known = books.known.execution(trade.account, fill.identity)
        if (known is not None and known.qty) or (
            ("transfer", trade.account, trade.id) in books.known.others
        ):
            symbol = books.names.of(trade.contract)
            close = _Close(trade.account, symbol, fill.identity, trade.time, None)
            matches = books.matches.get((trade.account, fill.identity), [])
            self._differ(close.finding(sum(map(books.net, matches), _NONE), NOT_BUSTED))

    def _compare_step(self, step: Step) -> None:
        facts = _sold(step)
        if facts is not None:
            contract, id_, pnl = facts
            symbol = self._books.names.of(contract)
            self._compare_close(_Close(step.account, symbol, id_, step.time, pnl))
        elif isinstance(step, LeftOutStep):
            for row in step.rows:
                if row.pnl:
                    symbol = self._books.names.of(row.contract)
                    close = _Close(step.account, symbol, step.id, step.time, row.pnl)
                    self._explain(close.finding(None, f"left out: {step.reason}"))

    def _compare_close(self, close: "_Close", fill: Fill | None = None) -> None:
        books = self._books
        known = books.known.execution(close.account, close.id)
        account = close.account if (close.account, close.id) in books.known.executions else ""
        matches = books.matches.get((account, close.id), [])
        if known is None:
            tell = self._explain if close.pnl is None else self._differ
            tell(close.finding(None, NOT_BOOKED))
        elif close.pnl is None:
            if matches:
                self._explain(close.finding(None, "no P&L in the file"))
        elif matches or close.pnl:
            key = (account, known.symbol)
            ours = sum(map(books.net, matches), _NONE)
            if unclear := books.replay(key).unclear:
                self._explain(close.finding(None, unclear))
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
        if matches and (elsewhere := self._books.replay(key).elsewhere):
            return _leaves_out(elsewhere)
        if fill is None:
            return ""
        other = NOT_FIFO & fill.trade.notes
        if other:
            return f"the broker matched other lots than FIFO's ({', '.join(sorted(other))})"
        if matches and self._is_commission_changed(close, fill, key, matches):
            return "the broker changed a commission of what was closed after its own row"
        return ""

    def _is_commission_changed(
        self, close: "_Close", fill: Fill, key: Key, matches: Sequence[Match]
    ) -> bool:
        """Tell whether all that differs is the cost of what was closed.

        By no more than its commissions, while the file's own row of each opening says what
        the book has.
        """
        if fill.trade.cost is None or close.pnl is None:
            return False
        books, sign = self._books, 1 if matches[0].qty > 0 else -1
        proceeds = sum((Fraction(each.qty) * Fraction(each.point) for each in matches), _NONE)
        own = books.own_charge(key, matches)
        theirs = proceeds - own - sign * abs(Fraction(fill.trade.cost))
        opening = sum(map(books.charge, matches), _NONE) - own
        off = abs(sum(map(books.net, matches), _NONE) - Fraction(close.pnl))
        openers = {match.opened_by for match in matches}
        if abs(theirs - Fraction(close.pnl)) > TOLERANCE or not all(
            self._file_agrees(key, each) for each in openers
        ):
            return False
        # What was laid on the lots since is a charge, but no commission.
        paid = (abs(Fraction(self._fills[key[0], each].charge or 0)) for each in openers)
        return off <= min(abs(opening), sum(paid, _NONE))

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
        for trade in (fill.trade for fill in self._draft.fills):
            if trade.key in self._draft.ends.leave:
                key = (trade.account, self._books.names.of(trade.contract))
                left = self._books.replay(key).left.get(trade.id, [])
                ours[key, trade.time] += [_Lot(lot.opened, lot.qty) for lot in left]
        for (key, closed), lots in theirs.items():
            if any(lot.contract.sec_type == "CASH" for lot in lots):
                continue
            sides = [_Lot(lot.opened, Fraction(lot.qty), _fraction(lot.pnl)) for lot in lots]
            self._compare_lots(key, closed, lots, sides, ours.get((key, closed), []))

    def _compare_open_lots(self) -> None:
        contents, books = self._draft.contents, self._books
        contracts = {(lot.account, lot.contract) for lot in contents.open_lots}
        contracts |= {(row.account, row.contract) for row in contents.trades.values()}
        fx = {
            (account, books.names.of(contract))
            for account, contract in contracts
            if contract.sec_type == "CASH"
        }
        # What we hold and the file does not is a difference too.
        theirs: dict[Key, list[FlexLot]] = {key: [] for key in books.told_whole()}
        for lot in contents.open_lots.elements():
            if lot.time == books.last[lot.account]:
                theirs[lot.account, books.names.of(lot.contract)].append(lot)
        for account, name, moment in sorted(sums_told(contents)):
            if moment == books.last.get(account, max(books.last.values(), default=moment)):
                symbol = books.names.known(name) or name
                for key in [each for each in theirs if each == (account or each[0], symbol)]:
                    del theirs[key]  # of a sum over accounts, in each of them
                found = Finding("open lot", account, symbol, "", moment, None, None, NO_LOTS)
                self._explain(found)
        for key, some in theirs.items():
            if key not in fx:
                sides = [_Lot(lot.opened, Fraction(lot.qty), Fraction(lot.cost)) for lot in some]
                ours = [
                    [_Lot(lot.opened, lot.qty, lot.net_cost) for lot in held]
                    for held in books.replay(key).held
                ]
                self._compare_lots(key, books.last[key[0]], some, sides, *ours)

    def _compare_lots(
        self,
        key: Key,
        time: int,
        rows: Sequence[FlexLot],
        theirs: Sequence["_Lot"],
        *ours: Sequence["_Lot"],
    ) -> None:
        """Compare quantity and money of what was opened at the same time.

        ours: what we have; behind it what it may be instead.
        """
        what = "closed lot" if rows and rows[0].is_closed else "open lot"
        replay = self._books.replay(key)
        if replay.unclear:
            self._explain(Finding(what, *key, "", time, None, None, replay.unclear))
            return
        when = _precision([lot.opened for lot in theirs], self._draft.contents.zone)
        left = _summed(theirs, when)
        found = [_unlike(left, _summed(some, when)) for some in ours]
        equal, unlike = next((each for each in found if not each[1]), found[0])
        if equal:
            self._found.equal[what] += equal
        other = {code for row in rows for code in row.notes} & NOT_FIFO
        for his, mine in unlike:
            text = f"opened {shown_time(his.opened)}"
            if his.qty != mine.qty:
                text += f": {exact_text(mine.qty, 10)} units, the broker {exact_text(his.qty, 10)}"
            finding = Finding(what, *key, "", time, mine.money, his.money, text)
            if other:
                self._explain(finding._replace(why=f"{text}; matched otherwise than FIFO"))
            elif replay.elsewhere and his.qty == mine.qty:
                self._explain(finding._replace(why=f"{text}; {_leaves_out(replay.elsewhere)}"))
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


def _unlike(
    theirs: Mapping[int, _Lot], ours: Mapping[int, _Lot]
) -> tuple[int, list[tuple[_Lot, _Lot]]]:
    """Return how many lots are equal, and those that are not: the broker's and ours."""
    unlike = []
    for opened in sorted({*theirs, *ours}):
        his, mine = theirs.get(opened, _Lot(opened)), ours.get(opened, _Lot(opened))
        same = his.money is None or mine.money is None or abs(his.money - mine.money) <= TOLERANCE
        if his.qty != mine.qty or not same:
            unlike.append((his, mine))
    return len({*theirs, *ours}) - len(unlike), unlike


def _leaves_out(currency: str) -> str:
    return f"our net P&L leaves out commissions in {currency}"


def _keys_told(contents: Contents, names: Names) -> set[Key]:
    rows: list[Trade | Action | FlexLot] = [*contents.trades.values(), *contents.actions.values()]
    rows += [*contents.open_lots, *contents.closed_lots]
    return {(row.account, names.of(row.contract)) for row in rows}


def _last_told(contents: Contents, accounts: set[str]) -> dict[str, int]:
    told = moments_told(contents)
    everywhere = told.pop("", set())
    return {
        account: max(moments)
        for account in {*accounts, *told}
        if (moments := told.get(account, set()) | everywhere)
    }


def _is_after(event: KnownEvent, moment: int) -> bool:
    return event.kind != "opening" and event.time > moment


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
