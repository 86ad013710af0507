"""What a key holds lot by lot, as the messages of contract make it: a plain FIFO.

An import needs it before anything is booked: what leaves one key lot by lot comes into
another. An audit needs it to say which part of a charge belongs to a close. Figures
are exact fractions; the one rounding is a split's, to the broker's places.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction

Number = Decimal | Fraction | int


@dataclass(frozen=True, slots=True)
class Held:
    """A lot."""

    id: str
    opened: int
    """Milliseconds since 1970, UTC."""
    qty: Fraction
    """Signed."""
    cost: Fraction
    """Money, signed like qty, without charges."""
    charge: Fraction = Fraction(0)
    """What it still bears of charges, above 0 a cost."""

    @property
    def net_cost(self) -> Fraction:
        """Its cost as the broker has it: charges included."""
        return self.cost + self.charge

    def split_off(self, qty: Fraction) -> tuple["Held", "Held"]:
        """Return a part of it, signed like it, and the rest."""
        share = qty / self.qty
        part = replace(self, qty=qty, cost=self.cost * share, charge=self.charge * share)
        rest = replace(
            self, qty=self.qty - qty, cost=self.cost - part.cost, charge=self.charge - part.charge
        )
        return part, rest


@dataclass(frozen=True, slots=True)
class Closed:
    """A part of a lot that an execution closed."""

    lot: Held
    """The part: its quantity, its cost, its charge."""
    realized: Fraction
    """Gross."""
    charge: Fraction
    """Both sides' charges."""


class Holding:
    """The open lots of one key, the first to close first."""

    def __init__(self) -> None:
        self.lots: deque[Held] = deque()
        self.unclear = ""
        """What happened to it, by its id, that nobody knows the figures of any more."""

    @property
    def qty(self) -> Fraction:
        return sum((lot.qty for lot in self.lots), Fraction(0))

    def trade(
        self, id_: str, time: int, qty: Number, value: Number, charge: Number
    ) -> list[Closed]:
        """Book an execution; return what it closed.

        qty: signed. value: money, qty × price × multiplier. charge: above 0 a cost.
        """
        rest = Held(id_, time, Fraction(qty), Fraction(value), Fraction(charge))
        closed = []
        while rest.qty and self.lots and (self.lots[0].qty < 0) != (rest.qty < 0):
            lot = self.lots.popleft()
            part = min(abs(lot.qty), abs(rest.qty))
            mine, rest = rest.split_off(part if rest.qty > 0 else -part)
            gone, left = lot.split_off(part if lot.qty > 0 else -part)
            if left.qty:
                self.lots.appendleft(left)
            closed.append(Closed(gone, -mine.cost - gone.cost, mine.charge + gone.charge))
        if rest.qty:
            self.lots.append(rest)
        return closed

    def split(self, ratio: Number, places: int = 10) -> None:
        """Make the lots `ratio` times as many units, the running totals rounded to `places`."""
        total, after, rest = Fraction(0), Fraction(0), (Fraction(0), Fraction(0))
        lots: list[Held] = []
        for lot in self.lots:
            total += lot.qty * Fraction(ratio)
            qty, after = rounded(total, places) - after, rounded(total, places)
            new = replace(lot, qty=qty, cost=lot.cost + rest[0], charge=lot.charge + rest[1])
            rest = (Fraction(0), Fraction(0)) if qty else (new.cost, new.charge)
            lots += [new] if qty else []
        if lots:
            last = lots[-1]
            lots[-1] = replace(last, cost=last.cost + rest[0], charge=last.charge + rest[1])
        self.lots = deque(lots)

    def lay(self, per_unit: Number) -> None:
        """Lay money per unit, above 0 a cost to what is long, on every lot."""
        self.lots = deque(
            replace(lot, charge=lot.charge + lot.qty * Fraction(per_unit)) for lot in self.lots
        )

    def leave(self, qty: Number | None = None) -> list[Held]:
        """Let units (above 0; default all) leave, the oldest first; return what left."""
        left, gone = abs(self.qty) if qty is None else Fraction(qty), []
        while left and self.lots:
            lot = self.lots.popleft()
            part = min(abs(lot.qty), left)
            out, rest = lot.split_off(part if lot.qty > 0 else -part)
            gone.append(out)
            left -= part
            if rest.qty:
                self.lots.appendleft(rest)
        return gone

    def join(self, lot: Held) -> None:
        """Let a lot come in at its place by opening time; of the other sign as much leaves."""
        if self.lots and (self.lots[0].qty < 0) != (lot.qty < 0):
            gone = sum((abs(each.qty) for each in self.leave(abs(lot.qty))), Fraction(0))
            if gone == abs(lot.qty):
                return
            _, lot = lot.split_off(gone if lot.qty > 0 else -gone)
        before = sum(1 for each in self.lots if each.opened <= lot.opened)
        self.lots.insert(before, lot)


def rounded(value: Fraction, places: int) -> Fraction:
    """Return a value rounded half-even to decimal places."""
    return Fraction(round(value * 10**places), 10**places)


def exact_text(value: Fraction, places: int) -> str:
    """Write a fraction plainly, rounded half-even to decimal places.

    >>> exact_text(Fraction(1, 3), 4), exact_text(Fraction(-5), 4)
    ('0.3333', '-5')
    """
    with localcontext(prec=80):
        number = Decimal(round(value * 10**places)).scaleb(-places)
        text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def spread(total: Fraction, weights: Iterable[Fraction], places: int = 10) -> list[Fraction]:
    """Divide a total by weights so that the parts, rounded, add up to it exactly."""
    weights = list(weights)
    whole, run, given, parts = sum(weights, Fraction(0)), Fraction(0), Fraction(0), []
    for weight in weights:
        run += weight
        upto = total if run == whole else rounded(total * run / whole, places)
        parts.append(upto - given)
        given = upto
    return parts


def moved(lots: Sequence[Held], total: Fraction | None, share: Fraction) -> list[Held]:
    """Return lots as they come into another key: in their order, at a share of their net cost.

    total: how many units all of them become; None for as many. Quantities and costs are
    rounded to 10 places so that they add up; the cost of a lot that comes to no unit goes
    to the next, of the last ones to the one before.
    """
    whole = abs(sum((lot.qty for lot in lots), Fraction(0)))
    sign = 1 if lots[0].qty > 0 else -1
    qtys = spread(sign * abs(whole if total is None else total), [lot.qty for lot in lots])
    costs = [lot.net_cost * share for lot in lots]
    ends = [place for place, qty in enumerate(qtys) if qty]
    come, given = [], Fraction(0)
    for place, end in enumerate(ends):
        last = place == len(ends) - 1
        upto = rounded(sum(costs if last else costs[: end + 1], Fraction(0)), 10)
        come.append(Held(lots[end].id, lots[end].opened, qtys[end], upto - given))
        given = upto
    return come
