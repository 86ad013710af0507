"""What a break most likely is, and what would heal it.

Only an opening is ever published here, for what was held before the first execution, and
only on request: no fill is invented. All else is said in words, with the message to send.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import NamedTuple

from connectors.clock import now_ms
from connectors.ibkr.messages import Held, Message, decimal_text
from connectors.redis.link import RedisLink
from connectors.redis.publisher import Once, Publisher
from flows.common.overview import counted
from state.breaks import Difference, Kind
from state.keys import parse_exec_id, position_key, split_key

_MOST_OF_A_SPLIT = 50
_ABOUT = Decimal("0.02")


def likely(
    key: str,
    difference: Difference,
    held: Sequence[Held],
    our_price: Decimal | None,
    other_breaks: Mapping[str, Difference],
) -> str:
    """Say what a break most likely is, and what would heal it.

    held: the broker's positions of the key. our_price: our average price. other_breaks:
    those of other keys.
    """
    if doubts := [each.doubt for each in held if each.doubt]:
        return (
            f"what a point is worth is not known, so its executions are dead letters "
            f"({doubts[0]}). If you know it: python -m flows.replay put-back … --set "
            f"multiplier=…, and write it into the hash of instruments"
        )
    if renumbered := _renumbered(key, difference, other_breaks):
        return _move_lots(*renumbered)
    return _by_kind(key, difference, our_price, price_of(held))


def _by_kind(
    key: str, difference: Difference, our_price: Decimal | None, their_price: Decimal | None
) -> str:
    if difference.kind is Kind.TWO_NAMES:
        return (
            f"one contract under two names, the other is {difference.detail}. If it was renamed: "
            f"{_xadd(key, type='transfer', exec_id='renamed', direction='OUT')}, and the same lots "
            f"to the other name with direction IN, qty and cost_basis"
        )
    if difference.kind is Kind.PRICE_FACTOR:
        return (
            f"a price factor: our average price is about {difference.detail} times the broker's. "
            f"Either a multiplier was published that is not money per point (its key keeps it: "
            f"publish the executions anew under another symbol), or an opening has a wrong price "
            f"({_xadd(key, type='opening', qty='0')} removes it)"
        )
    if ratio := split_ratio(difference, our_price, their_price):
        return f"a split that was not told. If so: {_xadd(key, type='split', ratio=ratio)}"
    if difference.kind is Kind.ONLY_OURS:
        return (
            f"{difference.ours:f} left the account without an execution (transfer, assignment, "
            f"expiration), or a fill is missing: python -m flows.flex import brings it; or, if it "
            f"left: "
            f"{_xadd(key, type='transfer', exec_id='…', direction='OUT')}"
        )
    return (
        f"an opening is missing (held before the first execution: "
        f"python -m flows.reconcile --adopt publishes {difference.missing:+f}), or a fill that TWS "
        f"no longer lists (python -m flows.flex import brings it)"
    )


def _renumbered(
    key: str, difference: Difference, others: Mapping[str, Difference]
) -> tuple[str, str] | None:
    """Return the old and the new name of what we have under one and the broker under both."""
    breaks = {**others, key: difference}
    plain = re.sub(_SECOND_NAME, "", key)
    for old, new in [(plain, key), *((key, each) for each in others)]:
        is_second = new != old and re.sub(_SECOND_NAME, "", new) == old
        if is_second and old in breaks and breaks[old].kind is Kind.ONLY_OURS:
            return old, new
    return None


def _move_lots(old: str, new: str) -> str:
    out = _xadd(old, type="transfer", exec_id="renumbered")
    back = _xadd(new, type="transfer", exec_id="renumbered", direction="IN")
    return (
        f"{old} under a new contract number, as a corporate action gives one, which is called "
        f"{new}. If so, move the lots: {out}, and {back} with qty, cost_basis and opened of each"
    )


_SECOND_NAME = re.compile(r"[@#][^@#:]+$")


def split_ratio(
    difference: Difference, our_price: Decimal | None, their_price: Decimal | None
) -> str | None:
    """Return the split that turns our position into the broker's, if one plausibly does.

    That is: quantities in a simple ratio, and prices in the inverse one.

    >>> one = Difference(Kind.QUANTITY, Decimal(100), Decimal(400))
    >>> split_ratio(one, Decimal(40), Decimal(10)), split_ratio(one, Decimal(40), Decimal(40))
    ('4:1', None)
    """
    ours, theirs = difference.ours, difference.broker
    if difference.kind is not Kind.QUANTITY or not our_price or not their_price:
        return None
    ratio = (Fraction(theirs) / Fraction(ours)).limit_denominator(_MOST_OF_A_SPLIT)
    if not 0 < ratio.numerator <= _MOST_OF_A_SPLIT or ratio == 1:
        return None
    with localcontext(prec=28):
        near = abs(theirs / ours * ratio.denominator / ratio.numerator - 1) <= _ABOUT / 10
        same_cost = abs(our_price * ours / (their_price * theirs) - 1) <= _ABOUT
    return f"{ratio.numerator}:{ratio.denominator}" if near and same_cost else None


def price_of(held: Sequence[Held]) -> Decimal | None:
    """Return the broker's average price of a key; None if several positions have its name."""
    known = len(held) == 1 and held[0].avg_price
    return Decimal(known) if known else None


def _xadd(key: str, **fields: str) -> str:
    account, symbol = split_key(key)
    named = {"type": fields.pop("type"), "symbol": symbol}
    named |= {"account": account} if account else {}
    words = " ".join(
        f"{name} {value!r}" if " " in value else f"{name} {value}"
        for name, value in {**named, **fields, "timestamp": "<ms>"}.items()
    )
    return f"XADD executions * {words}"


class Booked(NamedTuple):
    """What our book has."""

    qty: Decimal
    avg_price: Decimal | None
    stream_id: str
    """The entry that caused this; names the opening, so that it is published once."""


class _Executed(NamedTuple):
    revision: int
    qty: Decimal
    price: Decimal


class Adopter:
    """Publishes openings where they heal a break.

    prices: by key those that the user gives; under "" one for the only key. waiting: how
    many entries the flow has not booked.
    """

    def __init__(
        self, link: RedisLink, publisher: Publisher, prices: Mapping[str, str], *, waiting: int
    ) -> None:
        self._link, self._publisher, self._prices = link, publisher, prices
        self._waiting = waiting

    def adopt(
        self,
        key: str,
        difference: Difference,
        booked: Booked | None,
        held: Sequence[Held],
        traded: Sequence[str],
    ) -> str:
        """Publish an opening for what is missing; return why not, "" if it is published.

        traded: the ids of the executions that TWS lists of the key.
        """
        executed = self._executed(key)
        why_not = _unfit(difference, booked, held) or self._unsure(booked, traded, executed)
        if why_not:
            return f"not adopted, {why_not}"
        price = self._prices.get(key, self._prices.get(""))
        price = price or _derived(difference, booked, held, executed)
        if price is None:
            return (
                f"not adopted, as the price of what was held before cannot be derived from the "
                f"broker's average; give it: --price {key}=…"
            )
        message = _opening(key, difference.missing, price, booked, held)
        figures = f"{message['qty']} {price} {booked.stream_id if booked else ''}".rstrip()
        [added] = self._publisher.publish_once(Once(f"opening:{key}", message, figures))
        if added:
            return ""
        return f"adopted before, but {'it is not booked' if booked else 'there is no book'} yet"

    def _unsure(
        self, booked: Booked | None, traded: Sequence[str], executed: Mapping[str, _Executed]
    ) -> str:
        """Return what may yet make up the difference, "" if nothing."""
        if booked is None:
            return "as TWS lists executions of today for it" if traded else ""
        missing = [each for each in traded if parse_exec_id(each).identity not in executed]
        if missing:
            return f"as a fill is missing: TWS lists execution {missing[0]}, the stream has none"
        if self._waiting:
            return f"as the flow has {counted(self._waiting, 'entry')} to book yet"
        return ""

    def _executed(self, key: str) -> dict[str, _Executed]:
        """Return a key's executions on the stream, of each its last revision, by identity."""
        account, symbol = split_key(key)
        stream = self._publisher.stream_of({"symbol": symbol, "account": account})
        found: dict[str, _Executed] = {}
        for fields in self._link.entries(stream):
            if position_key(fields.get("symbol", ""), fields.get("account") or None) != key:
                continue
            identity, revision = parse_exec_id(fields.get("exec_id", ""))
            before = found.get(identity)
            newer = before is None or before.revision < (revision or 1)
            if newer and fields.get("type", "execution") == "execution":
                with suppress(ArithmeticError, KeyError):  # a dead letter
                    found[identity] = _Executed(revision or 1, *_signed(fields))
        return found


def _unfit(difference: Difference, booked: Booked | None, held: Sequence[Held]) -> str:
    """Return why an opening is not what heals it, "" if it may be."""
    if difference.kind is Kind.TWO_NAMES:
        return "as one contract has two names"
    if difference.kind is Kind.PRICE_FACTOR:
        return "as no quantity is missing"
    if any(each.doubt for each in held):
        return "as what a point is worth is not known"
    if len(held) > 1:
        return "as several contracts or accounts have this name"
    if split_ratio(difference, booked.avg_price if booked else None, price_of(held)):
        return "as it looks like a split that was not told"
    return ""


def _derived(
    difference: Difference,
    booked: Booked | None,
    held: Sequence[Held],
    executed: Mapping[str, _Executed],
) -> str | None:
    """Return the opening's price at which our average comes out as the broker's.

    An opening is the oldest lot: what was executed against it has closed it first. So
    of it, there is left what is more than that, and all that was executed with it is
    open too.
    """
    broker_price = price_of(held)
    if broker_price is None or broker_price < 0:
        return None
    if booked is None:
        return decimal_text(broker_price)
    if sum((each.qty for each in executed.values()), Decimal(0)) != booked.qty:
        return None  # not from executions alone, or some are trimmed
    opening = difference.missing
    along = [each for each in executed.values() if (each.qty > 0) == (opening > 0)]
    left = difference.broker - sum((each.qty for each in along), Decimal(0))
    if not left or (left > 0) != (opening > 0):
        return None
    with localcontext(prec=50):
        cost = sum((each.qty * each.price for each in along), Decimal(0))
        price = (broker_price * difference.broker - cost) / left
    return decimal_text(price) if price >= 0 else None


def _signed(fields: Message) -> tuple[Decimal, Decimal]:
    sign = {"BUY": 1, "SELL": -1}[fields["side"].upper()]
    return sign * Decimal(fields["fill_qty"]), Decimal(fields["fill_price"])


def _opening(
    key: str, missing: Decimal, price: str, booked: Booked | None, held: Sequence[Held]
) -> Message:
    """Return the message; the flow books it first whatever its time."""
    account, symbol = split_key(key)
    fields = {
        "type": "opening",
        "symbol": symbol,
        "account": account,
        "timestamp": str(now_ms()),
        "qty": decimal_text(missing),
        "avg_price": price,
        # One for each state of the book, so that a second try is the same opening.
        "exec_id": f"adopted-{booked.stream_id}" if booked else "",
    }
    if held:
        one = held[0]
        fields |= {"sec_type": one.sec_type, "con_id": one.con_id, "currency": one.currency}
        fields["multiplier"] = one.multiplier
    return {name: value for name, value in fields.items() if value}
