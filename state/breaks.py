"""What a break is: our position and the broker's differ, and not for a moment only.

Two steps. `differences` says what differs now. `BreakWatch` says which of that has
lasted: fills are always on their way, so what differs at one look proves nothing, and what
is not known is no difference.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import NamedTuple

LASTING_S = 10.0
"""For how long, in seconds, something has to differ to be a break."""

FACTORS = (10, 100, 1000)
"""By how much average prices differ if a multiplier or a magnifier is wrong."""

_ABOUT = Decimal("0.1")
"""IBKR keeps average cost, and a book FIFO lots, so the factor is not met exactly."""


class Kind(StrEnum):
    """In what a position differs."""

    QUANTITY = "quantity"
    ONLY_OURS = "only ours"
    ONLY_BROKER = "only the broker's"
    PRICE_FACTOR = "price factor"
    TWO_NAMES = "two names"


_OF_QUANTITY = frozenset({Kind.QUANTITY, Kind.ONLY_OURS, Kind.ONLY_BROKER})
"""One difference: which of them it is changes as a position is closed and opened again."""


class Side(NamedTuple):
    """A position as one side has it."""

    account: str | None
    symbol: str
    qty: Decimal
    """Signed."""
    avg_price: Decimal | None
    con_id: str | None


class Difference(NamedTuple):
    """How the two sides of a key differ."""

    kind: Kind
    ours: Decimal
    broker: Decimal
    detail: str = ""
    """For a price factor about how many times, for two names the other one."""

    @property
    def missing(self) -> Decimal:
        """What the broker has more than we, signed."""
        return self.broker - self.ours


def differences(
    ours: Mapping[str, Side], broker: Mapping[str, Side], accounts: Collection[str]
) -> dict[str, Difference]:
    """Return how the keys differ that do, in order of key.

    accounts: those whose positions at the broker are known. A book without an account is
    compared with the sum over accounts that have no book of their own for its symbol.

    >>> ours = {"U1:A": Side("U1", "A", Decimal(3), Decimal(5), "1")}
    >>> differences(ours, {}, ["U1"])["U1:A"].kind
    <Kind.ONLY_OURS: 'only ours'>
    >>> differences(ours, {}, [])
    {}
    """
    booked = {
        key: side for key, side in ours.items() if side.account is None or side.account in accounts
    }
    held: dict[str, list[Side]] = defaultdict(list)
    for key, side in broker.items():
        if side.account in accounts:
            shared = key not in booked and side.symbol in booked
            held[side.symbol if shared else key].append(side)
    found = {
        key: difference
        for key in sorted({*booked, *held})
        if (difference := _difference(booked.get(key), held.get(key, ()))) is not None
    }
    return found | _two_names(booked, held, found)


def _difference(ours: Side | None, held: Collection[Side]) -> Difference | None:
    qty = ours.qty if ours else Decimal(0)
    theirs = sum((side.qty for side in held), Decimal(0))
    if qty != theirs:
        kind = Kind.QUANTITY if qty and theirs else Kind.ONLY_OURS if qty else Kind.ONLY_BROKER
        return Difference(kind, qty, theirs)
    if ours is None or not qty or len(held) != 1:
        return None
    factor = price_factor(ours.avg_price, next(iter(held)).avg_price)
    return None if factor is None else Difference(Kind.PRICE_FACTOR, qty, theirs, factor)


def price_factor(ours: Decimal | None, broker: Decimal | None) -> str | None:
    """Say about how many times the broker's price ours is, if that is a suspicious number.

    >>> price_factor(Decimal("1088.5"), Decimal("10.9")), price_factor(Decimal(5), Decimal(6))
    ('100', None)
    >>> price_factor(Decimal("0.5"), Decimal(512))
    '1/1000'
    """
    if not ours or not broker:
        return None
    with localcontext(prec=28):
        for factor in FACTORS:
            if abs(ours / broker / factor - 1) <= _ABOUT:
                return str(factor)
            if abs(broker / ours / factor - 1) <= _ABOUT:
                return f"1/{factor}"
    return None


def _two_names(
    booked: Mapping[str, Side],
    held: Mapping[str, Collection[Side]],
    found: Mapping[str, Difference],
) -> dict[str, Difference]:
    """Return the keys whose contract has another name as well, where it is open."""
    names: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    both = [*booked.items(), *((key, side) for key, sides in held.items() for side in sides)]
    for key, side in both:
        if side.con_id and side.qty:
            names[side.account, side.con_id].add(key)
    twice = {}
    for keys in names.values():
        for key in keys if len(keys) > 1 else ():
            difference = found.get(key)
            qty = booked[key].qty if key in booked else Decimal(0)
            theirs = difference.broker if difference else qty
            others = ", ".join(sorted(keys - {key}))
            twice[key] = Difference(Kind.TWO_NAMES, qty, theirs, others)
    return twice


class BreakWatch:
    """Tells which differences have lasted, look by look."""

    def __init__(self) -> None:
        self._doubts: dict[str, tuple[Difference, float]] = {}
        """What differs, and for how many seconds it has."""
        self._last_s: float | None = None
        """When the last look was, if it told anything."""
        self.breaks: dict[str, Difference] = {}
        """Those that stand, by key."""

    def look(
        self, at_s: float, found: Mapping[str, Difference] | None, *, lasting_s: float = LASTING_S
    ) -> tuple[dict[str, Difference], dict[str, Difference]]:
        """Take one look in; return the breaks that begin with it, and those that end.

        at_s: when, in seconds of a clock that never goes back. found: what differs; None
        if a look tells nothing, as the broker's side is not known, or entries are not
        booked yet. Time counts only from one look that tells to the next, and only while
        the same is missing. lasting_s: how long it has to last.
        """
        if found is None:
            self._last_s = None
            return {}, {}
        since_s = 0.0 if self._last_s is None else at_s - self._last_s
        self._last_s = at_s
        self._doubts = {
            key: (difference, self._lasted(key, difference, since_s))
            for key, difference in found.items()
        }
        ended = {key: self.breaks[key] for key in self.breaks.keys() - found.keys()}
        begun = {
            key: difference
            for key, (difference, lasted_s) in self._doubts.items()
            if key not in self.breaks and lasted_s >= lasting_s
        }
        standing = {key: found[key] for key in self.breaks if key in found}
        self.breaks = standing | begun
        return begun, ended

    def unknown(self) -> None:
        """Begin to count anew: the broker's side is not known, and may be another one after."""
        self._doubts, self._last_s = {}, None

    def _lasted(self, key: str, difference: Difference, since_s: float) -> float:
        before, lasted_s = self._doubts.get(key, (None, 0.0))
        if before is None or before.missing != difference.missing:
            return 0.0
        kinds = {before.kind, difference.kind}
        return lasted_s + since_s if len(kinds) == 1 or kinds <= _OF_QUANTITY else 0.0
