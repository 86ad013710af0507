"""Anything that may happen to a book, in any order, with crashes between.

A machine of rules feeds one book: new and late executions, duplicates, corrections, busts,
reports, openings and their removal, splits, costs, transfers, what contradicts what was
taken; and now and then the process dies and the book comes back from what was kept. After
every step the book is held against the naive oracle.
"""

import pickle
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from state.book import Applied, Book
from state.exact import ONE
from state.messages import (
    CommissionReport,
    ContractNumber,
    Cost,
    Execution,
    Instrument,
    Message,
    Opening,
    RejectedError,
    Split,
    TransferIn,
    TransferOut,
)
from state.snapshot import ClosedLot
from tests.support.notation import exec_id
from tests.support.oracle import (
    Verdict,
    check_agrees,
    check_invariants,
    check_matches,
    check_step,
    told,
)
from tests.support.strategies import (
    RATIOS,
    SETTINGS,
    executions,
    fees,
    halves,
    multipliers,
    odd,
    openings,
    places,
    prices,
    signed,
    signs,
    sums,
)

ago = st.integers(0, 6)
"""How many seconds late."""
quantities = st.one_of(halves, odd)


class BookMachine(RuleBasedStateMachine):
    """One book, and the messages that it took."""

    @initialize(multiplier=multipliers, sign=signs)
    def begin(self, multiplier: int | None, sign: int) -> None:
        self.book = Book("XYZ", "U1")
        self.taken: list[Message] = []
        self.closed: list[ClosedLot] = []
        self.told = told([], "XYZ", "U1")
        self.now = 1
        self.numbers = 0
        self.instrument = Instrument(None, multiplier)
        self.sign = sign
        """Of all openings."""

    # --- executions

    @rule(fill=executions(1), later=st.integers(0, 2))
    def arrive(self, fill: Execution, later: int) -> None:
        self.now += later
        self.take(self.numbered(fill, self.now))

    @rule(fill=executions(1), ago=ago)
    def arrive_late(self, fill: Execution, ago: int) -> None:
        self.take(self.numbered(fill, max(0, self.now - ago)))

    @precondition(lambda self: self.fills())
    @rule(data=st.data(), fill=executions(1), up=st.integers(1, 3), ago=ago)
    def correct(self, data: st.DataObject, fill: Execution, up: int, ago: int) -> None:
        old = data.draw(st.sampled_from(self.fills()))
        self.take(self.revision(old, up, fill, max(0, self.now - ago)))

    @precondition(lambda self: self.fills())
    @rule(data=st.data(), up=st.integers(1, 3))
    def bust(self, data: st.DataObject, up: int) -> None:
        old = data.draw(st.sampled_from(self.fills()))
        nothing = old._replace(qty=0, commission=None, commission_currency=None, adjustment=None)
        self.take(self.revision(old, up, nothing, old.timestamp))

    @rule(fill=executions(1), up=st.integers(1, 3))
    def correct_before_the_original(self, fill: Execution, up: int) -> None:
        original = self.numbered(fill, self.now)
        self.take(self.revision(original, up, fill, self.now))
        self.take(original)

    @precondition(lambda self: self.fills())
    @rule(data=st.data(), amount=fees, up=st.integers(0, 2), ago=ago)
    def report(self, data: st.DataObject, amount: int, up: int, ago: int) -> None:
        fill = data.draw(st.sampled_from(self.fills()))
        self.take(self.about(fill, fill.revision + up, amount, max(0, self.now - ago)))

    @rule(fill=executions(1), amount=fees, currency=st.sampled_from([None, "EUR", "USD"]))
    def report_before_the_execution(
        self, fill: Execution, amount: int, currency: str | None
    ) -> None:
        late = self.numbered(fill, self.now)
        self.take(self.about(late, 1, amount, self.now)._replace(currency=currency))
        self.take(late)

    # --- what else happens to a position

    @rule(opening=openings("", 1), name=st.sampled_from("abc"))
    def open(self, opening: Opening, name: str) -> None:
        cost = None if opening.cost is None else abs(opening.cost) * self.sign
        qty = abs(opening.qty) * self.sign
        self.offer(
            opening._replace(exec_id=name, qty=qty, cost=cost, instrument=self.instrument)
        )  # the second of a name may contradict the first

    @rule(name=st.sampled_from("abc"))
    def remove_the_opening(self, name: str) -> None:
        self.take(Opening(name, self.now * 1000, 0, None))

    @rule(ratio=st.sampled_from(RATIOS), places=places, ago=ago)
    def split(self, ratio: tuple[int, int], places: int, ago: int) -> None:
        self.take(Split(self.name(), self.time(ago), *ratio, places))

    @rule(per_unit=fees, sign=signs, ago=ago)
    def lay_a_cost(self, per_unit: int, sign: int, ago: int) -> None:
        self.take(Cost(self.name(), self.time(ago), per_unit * sign))

    @rule(qty=st.none() | quantities, ago=ago)
    def transfer_out(self, qty: int | None, ago: int) -> None:
        self.take(TransferOut(self.name(), self.time(ago), qty))

    @rule(qty=signed, price=st.none() | prices, cost=sums, opened=st.integers(0, 30), ago=ago)
    def transfer_in(self, qty: int, price: int | None, cost: int, opened: int, ago: int) -> None:
        each, total = (
            (abs(price), None) if price is not None else (None, cost if qty > 0 else -cost)
        )
        self.take(TransferIn(self.name(), self.time(ago), qty, each, total, opened * 1000))

    @rule(con_id=st.sampled_from([7, 8]))
    def name_a_contract_number(self, con_id: int) -> None:
        self.take(ContractNumber(self.now * 1000, con_id))

    # --- what goes wrong

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self.take(data.draw(st.sampled_from(self.taken)))

    @precondition(lambda self: self.fills())
    @rule(data=st.data(), figure=st.sampled_from(["price", "qty", "timestamp", "commission"]))
    def contradict(self, data: st.DataObject, figure: str) -> None:
        fill = data.draw(st.sampled_from(self.fills()))
        said = getattr(fill, figure)
        other: Any = {figure: (said or 0) + ONE}
        self.offer(fill._replace(**other))

    @precondition(lambda self: self.fills())
    @rule(data=st.data(), con_id=st.sampled_from([7, 8, 9]))
    def name_another_contract(self, data: st.DataObject, con_id: int) -> None:
        fill = data.draw(st.sampled_from(self.fills()))
        self.offer(fill._replace(instrument=fill.instrument._replace(con_id=con_id)))

    @rule()
    def crash_and_restart(self) -> None:
        state = pickle.loads(pickle.dumps(self.book.to_state()))  # noqa: S301
        self.book = Book.from_state(state)
        assert self.book.to_state() == state
        check_agrees(self.book, self.taken)

    def teardown(self) -> None:
        if hasattr(self, "book"):
            check_matches(self.closed, self.taken)

    # --- how a message is given to the book

    def take(self, message: Message) -> None:
        """Apply a message that nothing is wrong with."""
        self.did(message, self.book.apply(message))

    def offer(self, message: Message) -> None:
        """Apply a message that may have to be refused."""
        verdict = told([*self.taken, message], "XYZ", "U1").verdicts[-1]
        before = (self.book.snapshot(), self.book.open_lots(), self.book.to_state())
        try:
            applied = self.book.apply(message)
        except RejectedError:
            assert verdict is Verdict.REFUSED
            assert (self.book.snapshot(), self.book.open_lots(), self.book.to_state()) == before
            return
        self.did(message, applied)

    def did(self, message: Message, applied: Applied | None) -> None:
        self.taken.append(message)
        self.closed += applied.closed if applied else []
        before, self.told = self.told, told(self.taken, "XYZ", "U1")
        check_step(applied, before, self.told)
        check_invariants(self.book, self.closed)
        assert self.book.snapshot() == self.told.snapshot
        assert self.book.open_lots() == self.told.open_lots

    def fills(self) -> list[Execution]:
        return [each for each in self.taken if isinstance(each, Execution)]

    def name(self) -> str:
        self.numbers += 1
        return str(self.numbers)

    def time(self, ago: int) -> int:
        return max(0, self.now - ago) * 1000

    def numbered(self, fill: Execution, second: int) -> Execution:
        self.numbers += 1
        name = exec_id(self.numbers)
        return fill._replace(
            exec_id=name, identity=name, order_id=self.numbers, timestamp=second * 1000,
            instrument=self.instrument,
        )  # fmt: skip

    def revision(self, old: Execution, up: int, new: Execution, second: int) -> Execution:
        """Return a revision above all those of its identity that were taken."""
        taken = [each.revision for each in self.fills() if each.identity == old.identity]
        revision = max([old.revision, *taken]) + up
        return new._replace(
            exec_id=exec_id(old.order_id, revision), identity=old.identity, revision=revision,
            order_id=old.order_id, timestamp=second * 1000 if new.qty else old.timestamp,
            instrument=self.instrument,
        )  # fmt: skip

    def about(self, fill: Execution, revision: int, amount: int, second: int) -> CommissionReport:
        name = exec_id(fill.order_id, revision)
        return CommissionReport(name, fill.identity, revision, second * 1000, amount)


TestBook: Any = BookMachine.TestCase
TestBook.settings = SETTINGS
