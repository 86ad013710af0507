"""Hypothesis strategies of the domain: sets of messages, and how they may arrive.

`message_sets` draws what no book refuses, in whatever order it arrives: what belongs to
the key is the same wherever it is said, no two messages of one id contradict each other,
openings are of one side, and figures stay far below the limit. `unruly` adds what a book
has to refuse.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from state.exact import MONEY, ONE, from_text
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
from tests.support.notation import exec_id

SETTINGS = settings(
    deadline=None,  # a busy machine is no failure
    print_blob=True,  # what repeats a failure
    suppress_health_check=[HealthCheck.too_slow],
)
"""For every property."""

RATIOS = [(2, 1), (1, 2), (3, 2), (5, 1), (1, 10), (1, 1), (1, 3), (3, 1), (2, 7)]

times = st.integers(0, 8).map(lambda second: second * 1000)
halves = st.integers(1, 24).map(lambda half: half * ONE // 2)
odd = st.integers(1, 12).map(lambda third: third * ONE // 3)
signs = st.sampled_from([1, -1])
signed = st.builds(lambda qty, sign: qty * sign, st.one_of(halves, halves, odd), signs)
prices = st.one_of(
    st.integers(-200, 2000).map(lambda cents: cents * ONE // 100),
    st.integers(0, 10**11).map(lambda price: price * 100),  # so money has 20 places at most
)
fees = st.one_of(st.integers(0, 500).map(lambda cents: cents * ONE // 100), st.integers(-10, 10**9))
sums = st.one_of(
    st.integers(0, 2000).map(lambda whole: whole * MONEY), st.integers(0, 10**23)
)  # of money
multipliers = st.sampled_from([None, ONE, 100 * ONE, from_text("0.1")])
places = st.sampled_from([10, 10, 4, 2, 1, 0])


class Arrivals(NamedTuple):
    """Messages in the order in which they arrive, and where the book is stopped and resumed."""

    messages: list[Message]
    cuts: set[int]


class KeySays(NamedTuple):
    """What the messages of a set say of the key: all the same, or nothing if they may."""

    currency: str | None
    multiplier: int | None
    con_ids: list[int | None]

    def instrument(self, draw: st.DrawFn) -> Instrument:
        """Draw what one execution or opening says."""
        sec_type = draw(st.sampled_from([None, None, "STK", "OPT"]))
        con_id = draw(st.sampled_from(self.con_ids))
        return Instrument(self.currency, self.multiplier, con_id, sec_type)


@st.composite
def keys_say(draw: st.DrawFn) -> KeySays:
    """Draw what the messages of a set say of the key."""
    currency = draw(st.sampled_from([None, "EUR"]))
    con_ids: list[list[int | None]] = [[None], [None, 7], [None, 7, 8]]
    return KeySays(currency, draw(multipliers), draw(st.sampled_from(con_ids)))


NOTHING_SAID = KeySays(None, None, [None])


@st.composite
def executions(
    draw: st.DrawFn, number: int, *, revision: int = 1, says: KeySays = NOTHING_SAID
) -> Execution:
    """Draw one revision of the execution `number`; one after the first may be a bust."""
    bust = revision > 1 and draw(st.integers(0, 3)) == 0
    qty = 0 if bust else draw(signed)
    fee = draw(st.none() | fees)
    currency = None if fee is None else draw(st.sampled_from([None, None, None, "EUR", "GBP"]))
    return Execution(
        exec_id(number, revision), exec_id(number), revision, draw(times), qty, draw(prices),
        fee, number, "SELL" if qty < 0 else "BUY", says.instrument(draw), None, currency,
        draw(st.one_of(st.none(), st.none(), fees, fees.map(int.__neg__))),
    )  # fmt: skip


@st.composite
def reports(draw: st.DrawFn, number: int) -> CommissionReport:
    """Draw a report of what the execution `number` cost."""
    revision = draw(st.integers(1, 3))
    currency = draw(st.sampled_from([None, None, "USD", "EUR"]))
    name = exec_id(number)
    return CommissionReport(
        exec_id(number, revision), name, revision, draw(times), draw(fees), currency
    )


@st.composite
def openings(draw: st.DrawFn, name: str, sign: int, says: KeySays = NOTHING_SAID) -> Opening:
    """Draw an opening of one side."""
    qty = sign * abs(draw(signed))
    price, cost = draw(_worth(sign))
    return Opening(name, draw(times), qty, price, cost, says.instrument(draw))


@st.composite
def actions(draw: st.DrawFn, name: str) -> Action:
    """Draw what changes open lots otherwise than by trading."""
    kind, time = draw(st.sampled_from(["split", "cost", "out", "in"])), draw(times)
    if kind == "split":
        return Split(name, time, *draw(st.sampled_from(RATIOS)), draw(places))
    if kind == "cost":
        return Cost(name, time, draw(st.one_of(fees, fees.map(int.__neg__))))
    if kind == "out":
        return TransferOut(name, time, draw(st.none() | halves | odd))
    qty = draw(signed)
    return TransferIn(name, time, qty, *draw(_worth(qty)), draw(times))


@st.composite
def _worth(draw: st.DrawFn, sign: int) -> tuple[int | None, int | None]:
    """Draw a price or a cost."""
    if draw(st.booleans()):
        return abs(draw(prices)), None
    return None, draw(sums) * (1 if sign > 0 else -1)


@st.composite
def message_sets(draw: st.DrawFn) -> list[Message]:
    """Draw a set of messages of every type about one key."""
    says = draw(keys_say())
    found: list[Message] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        found += draw(_revisions(number, says))
        found += draw(st.lists(reports(number), max_size=2))
    for number in range(draw(st.integers(0, 4))):
        found.append(draw(actions(str(number))))
    sign = draw(signs)
    for name in draw(st.lists(st.sampled_from(["opening", "a", "b"]), unique=True, max_size=3)):
        opening = draw(openings(name, sign, says))
        found.append(opening)
        if draw(st.integers(0, 4)) == 0:
            found.append(opening._replace(qty=0, price=None, cost=None, timestamp=draw(times)))
    return found


@st.composite
def _revisions(draw: st.DrawFn, number: int, says: KeySays) -> list[Message]:
    """Draw revisions of one execution, some of them also with less said."""
    found: list[Message] = []
    for revision in draw(st.sets(st.integers(1, 4), min_size=1, max_size=3)):
        fill = draw(executions(number, revision=revision, says=says))
        found.append(fill)
        if draw(st.integers(0, 3)) == 0:
            found.append(fill._replace(commission=None, commission_currency=None))
        if draw(st.integers(0, 3)) == 0:
            found.append(fill._replace(adjustment=None))
    return found


def contract_numbers(found: Sequence[Message]) -> list[Message]:
    """Return the `instrument` messages that must come first, for these to be taken."""
    fills = [each for each in found if isinstance(each, Execution | Opening)]
    named = {each.instrument.con_id for each in fills if each.instrument.con_id is not None}
    return [ContractNumber(5000, con_id) for con_id in sorted(named)] if len(named) > 1 else []


@st.composite
def arrivals(draw: st.DrawFn, of: st.SearchStrategy[list[Message]] | None = None) -> Arrivals:
    """Draw a set in any order, some of it more than once, cut anywhere."""
    found = draw(message_sets() if of is None else of)
    again = draw(st.lists(st.sampled_from(found), max_size=6))
    first = contract_numbers(found) if of is None else []
    shuffled = first + draw(st.permutations(found + again))
    return Arrivals(shuffled, draw(st.sets(st.integers(0, len(shuffled)))))


@st.composite
def plain_arrivals(draw: st.DrawFn) -> Arrivals:
    """Draw executions, reports and openings only: what never lets anything leave."""
    arrived = draw(arrivals())
    kept: list[Message] = [each for each in arrived.messages if not isinstance(each, LEAVES)]
    return arrived._replace(messages=kept)


LEAVES = (Split, TransferOut, TransferIn)

HUGE = Execution(exec_id(90), exec_id(90), 1, 0, 10**8 * ONE, 10**19 - 100, None, 90)


@st.composite
def unruly(draw: st.DrawFn) -> list[Message]:
    """Draw a set with messages that contradict others, or that no book can take."""
    found = draw(message_sets())
    fills = [message for message in found if isinstance(message, Execution)]
    bad: list[Message] = []
    for fill in draw(st.lists(st.sampled_from(fills), max_size=3)):
        bad.append(fill._replace(price=draw(prices)))
        bad.append(fill._replace(qty=draw(signed), timestamp=draw(times)))
        bad.append(fill._replace(commission=draw(fees)))
        bad.append(fill._replace(adjustment=draw(fees)))
    bad += draw(st.lists(actions("0"), max_size=2))
    for name in draw(st.lists(st.sampled_from(["opening", "a", "c"]), max_size=2)):
        bad.append(draw(openings(name, draw(signs)))._replace(instrument=fills[0].instrument))
    bad += draw(st.lists(st.sampled_from([HUGE, HUGE._replace(qty=-HUGE.qty)]), max_size=1))
    for fill in draw(st.lists(st.sampled_from(fills), max_size=2)):
        said = fill.instrument
        others = [
            said._replace(currency="GBP"),
            said._replace(multiplier=7 * ONE),
            said._replace(con_id=9),
        ]
        bad.append(fill._replace(instrument=draw(st.sampled_from(others))))
    bad += draw(st.lists(st.builds(ContractNumber, times, st.sampled_from([8, 9])), max_size=1))
    return draw(st.permutations(found + bad))


# --- one key's messages as they come live -----------------------------------------------------


class Session:
    """What a live stream of one key may bring next, as a broker sends it.

    Messages come mostly in order of time. A correction never moves an execution to a
    later time, and what is delivered again is as it stands: so nothing comes back that a
    book could have forgotten and not tell from something new.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._now = 0
        self._stand: dict[int, Execution] = {}
        self._to_come: list[Execution] = []
        self._actions: list[Action] = []
        self._openings: list[Opening] = []
        self._sign = draw(signs)

    def next(self) -> Message:
        """Draw the next message."""
        comes = self._draw(st.booleans())
        if comes and self._to_come:
            return self._stood(self._to_come.pop())
        kinds = ["fill"] * 10 + ["late fill", "report first", "action", "action", "opening"]
        about = ["correction", "bust", "again", "report", "fee"] if self._stand else []
        again = [each for each in (self._actions, self._openings) if each]
        kind = self._draw(st.sampled_from(kinds + about + ["other again"] * len(again)))
        if kind in about:
            return self._about(self._draw(st.sampled_from([*self._stand.values()])), kind)
        if kind == "other again":
            return self._draw(st.sampled_from([*self._actions, *self._openings]))
        return self._new(kind)

    def _new(self, kind: str) -> Message:
        """Draw a message about what did not come before."""
        if kind == "fill":
            self._now += self._draw(st.integers(0, 1))
            return self._stood(self._fill(self._now))
        time = self._earlier(self._now)
        if kind == "report first":
            self._to_come.append(self._fill(time))
            return self._report(self._to_come[-1])
        if kind == "action":
            action = self._draw(actions(str(len(self._actions))))._replace(timestamp=time)
            self._actions.append(action)
            return action
        if kind == "opening":
            opening = self._draw(openings(str(len(self._openings)), self._sign))
            self._openings.append(opening)
            return opening
        return self._stood(self._fill(time))

    def _about(self, fill: Execution, kind: str) -> Message:
        """Draw a message about an execution that came before."""
        if kind in {"correction", "bust"} and fill.revision < 9:
            revision = fill.revision + 1
            new = self._fill(self._earlier(fill.timestamp))
            return self._stood(
                new._replace(
                    exec_id=exec_id(fill.order_id, revision), identity=fill.identity,
                    revision=revision, order_id=fill.order_id,
                    qty=0 if kind == "bust" else new.qty,
                )
            )  # fmt: skip
        if kind == "fee" and fill.commission is None:
            return self._stood(fill._replace(commission=self._draw(fees)))
        return self._report(fill) if kind == "report" else fill

    def _fill(self, time: int) -> Execution:
        number = 1 + len(self._stand) + len(self._to_come)
        return self._draw(executions(number))._replace(timestamp=time)

    def _stood(self, fill: Execution) -> Execution:
        self._stand[fill.order_id] = fill
        return fill

    def _report(self, fill: Execution) -> CommissionReport:
        currency = self._draw(st.sampled_from([None, None, None, "EUR"]))
        return CommissionReport(
            fill.exec_id, fill.identity, fill.revision, fill.timestamp, self._draw(fees), currency
        )

    def _earlier(self, time: int) -> int:
        return max(0, time - self._draw(st.integers(0, 3)))


@st.composite
def sessions(draw: st.DrawFn) -> list[Message]:
    """Draw the messages of one key as they come live."""
    session = Session(draw)
    return [session.next() for _ in range(draw(st.integers(1, 40)))]
