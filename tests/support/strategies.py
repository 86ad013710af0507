"""Hypothesis strategies of the domain: sets of messages, and how they may arrive.

No set is refused in any order: quantities are halves and ratios divide them without
end, so no split leaves more than 10 places; figures stay far below the limit.
`unruly` adds what a book may have to refuse.
"""

from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from state.exact import ONE, from_text
from state.messages import CommissionReport, Execution, Instrument, Message, Opening, Split
from tests.support.notation import exec_id

SETTINGS = settings(
    deadline=None,  # a busy machine is no failure
    print_blob=True,  # what repeats a failure
    suppress_health_check=[HealthCheck.too_slow],
)
"""For every property."""

RATIOS = [(2, 1), (1, 2), (3, 2), (5, 1), (1, 10), (1, 1)]

times = st.integers(0, 8).map(lambda second: second * 1000)
halves = st.integers(1, 24).map(lambda half: half * ONE // 2)
signed_halves = st.builds(lambda qty, sign: qty * sign, halves, st.sampled_from([1, -1]))
prices = st.one_of(
    st.integers(-200, 2000).map(lambda cents: cents * ONE // 100),
    st.integers(1, 10**13),
)
fees = st.one_of(st.integers(0, 500).map(lambda cents: cents * ONE // 100), st.integers(-10, 10**9))
multipliers = st.sampled_from([ONE, 100 * ONE, from_text("0.1")])


class Arrivals(NamedTuple):
    """Messages in the order in which they arrive, and where the book is stopped and resumed."""

    messages: list[Message]
    cuts: set[int]


@st.composite
def executions(draw: st.DrawFn, number: int, *, revision: int) -> Execution:
    """Draw one revision of the execution `number`; one after the first may be a bust."""
    bust = revision > 1 and draw(st.integers(0, 3)) == 0
    qty = 0 if bust else draw(signed_halves)
    return Execution(
        exec_id(number, revision), exec_id(number), revision, draw(times), qty, draw(prices),
        draw(st.none() | fees), number, "SELL" if qty < 0 else "BUY",
    )  # fmt: skip


@st.composite
def reports(draw: st.DrawFn, number: int) -> CommissionReport:
    """Draw a report of what the execution `number` cost."""
    revision = draw(st.integers(1, 3))
    return CommissionReport(
        exec_id(number, revision), exec_id(number), revision, draw(times), draw(fees)
    )


splits = st.builds(lambda time, ratio: Split(time, *ratio), times, st.sampled_from(RATIOS))
openings = st.builds(Opening, times, signed_halves, prices, st.just(Instrument()))


@st.composite
def message_sets(draw: st.DrawFn) -> list[Message]:
    """Draw a set of messages about one key; an opening comes first."""
    found: list[Message] = draw(st.lists(openings, max_size=1))
    found += draw(st.lists(splits, max_size=2, unique_by=lambda split: split.timestamp))
    for number in range(1, draw(st.integers(1, 7)) + 1):
        revisions = draw(st.sets(st.integers(1, 4), min_size=1, max_size=3))
        for revision in revisions:
            fill = draw(executions(number, revision=revision))
            found.append(fill)
            if fill.commission is not None and draw(st.booleans()):
                found.append(fill._replace(commission=None))
        found += draw(st.lists(reports(number), max_size=2))
    multiplier = draw(multipliers)
    return [message._replace(instrument=Instrument(None, multiplier)) for message in found]


@st.composite
def arrivals(draw: st.DrawFn, of: st.SearchStrategy[list[Message]] | None = None) -> Arrivals:
    """Draw a set in any order, some of it more than once, cut anywhere."""
    found = draw(message_sets() if of is None else of)
    opening = [message for message in found if isinstance(message, Opening)][:1]
    rest = [message for message in found if message not in opening]
    again = draw(st.lists(st.sampled_from(found), max_size=6))
    shuffled = opening + draw(st.permutations(rest + again))
    return Arrivals(shuffled, draw(st.sets(st.integers(0, len(shuffled)))))


@st.composite
def unruly(draw: st.DrawFn) -> list[Message]:
    """Draw a set with messages that contradict others, or that no book can take."""
    found = draw(message_sets())
    multiplier = found[0].instrument.multiplier
    fills = [message for message in found if isinstance(message, Execution)]
    bad: list[Message] = []
    for fill in draw(st.lists(st.sampled_from(fills), max_size=3)):
        bad.append(fill._replace(price=draw(prices)))
        bad.append(fill._replace(qty=draw(signed_halves), timestamp=draw(times)))
    bad += draw(st.lists(st.builds(Split, times, st.integers(1, 3), st.just(7)), max_size=2))
    bad += draw(st.lists(openings, max_size=1))
    huge = Execution(exec_id(90), exec_id(90), 1, draw(times), 10**8 * ONE, 10**19 - 1, None, 90)
    bad += draw(st.lists(st.sampled_from([huge, huge._replace(qty=-huge.qty)]), max_size=1))
    bad = [message._replace(instrument=Instrument(None, multiplier)) for message in bad]
    other = Instrument("EUR" if draw(st.booleans()) else None, 7 * ONE)
    bad += [
        fill._replace(instrument=other)
        for fill in draw(st.lists(st.sampled_from(fills), max_size=1))
    ]
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
        self._split_times: set[int] = set()

    def next(self) -> Message:
        """Draw the next message."""
        comes = self._draw(st.booleans())
        if comes and self._to_come:
            return self._stood(self._to_come.pop())
        kinds = ["fill"] * 8 + ["late fill", "report first", "split"]
        about = ["correction", "bust", "again", "report", "fee"] if self._stand else []
        kind = self._draw(st.sampled_from(kinds + about))
        if kind in about:
            return self._about(self._draw(st.sampled_from([*self._stand.values()])), kind)
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
        if kind == "split" and time not in self._split_times:
            self._split_times.add(time)
            return Split(time, *self._draw(st.sampled_from([(2, 1), (1, 1)])))
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
        fill = self._draw(executions(number, revision=1))
        price = abs(fill.price) or ONE if self._draw(st.integers(0, 7)) else fill.price
        return fill._replace(timestamp=time, price=price)

    def _stood(self, fill: Execution) -> Execution:
        self._stand[fill.order_id] = fill
        return fill

    def _report(self, fill: Execution) -> CommissionReport:
        return CommissionReport(
            fill.exec_id, fill.identity, fill.revision, fill.timestamp, self._draw(fees)
        )

    def _earlier(self, time: int) -> int:
        return max(0, time - self._draw(st.integers(0, 3)))


@st.composite
def sessions(draw: st.DrawFn) -> list[Message]:
    """Draw the messages of one key as they come live."""
    session = Session(draw)
    opening: list[Message] = draw(st.lists(openings, max_size=1))
    return opening + [session.next() for _ in range(draw(st.integers(1, 40)))]
