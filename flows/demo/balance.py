"""The demo's last check: what was made is what the holdings gained less what was paid for them.

Over any stretch of time, realized P&L and the change of the unrealized one together are
the change of the market value less the money that was paid in. The left side and the
market values are the flows'; what was paid in is added up here from the messages alone.
All of it is exact, so it holds to the last digit or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple

Message = Mapping[str, str]
Valuations = Mapping[str, Mapping[str, Any]]


class Balance(NamedTuple):
    """Both sides for one key, over a stretch; money in the key's currency."""

    key: str
    currency: str
    realized: Fraction
    unrealized: Fraction
    """Its change."""
    market_value: Fraction
    """Its change."""
    paid: Fraction
    """Below 0 for money that was received."""

    @property
    def holds(self) -> bool:
        """Whether both sides are equal."""
        return self.realized + self.unrealized == self.market_value - self.paid


def before_last_day(messages: list[dict[str, str]]) -> int:
    """Return how many messages come before the first execution of the last day."""
    days = [datetime.fromtimestamp(int(each["timestamp"]) / 1000, UTC).date() for each in messages]
    return days.index(max(days))


def last_prices(messages: Iterable[Message]) -> dict[str, str]:
    """Return each symbol's last price in the messages."""
    prices = {}
    for each in messages:
        if price := each.get("fill_price") or each.get("avg_price"):
            prices[each["symbol"]] = price
    return prices


def paid_in(messages: Iterable[Message]) -> dict[str, Fraction]:
    """Return the money that the messages paid for holdings, by key.

    The last revision of an execution counts, a bust for nothing, a duplicate once.
    """
    amounts: dict[tuple[str, str], tuple[str, Fraction]] = {}
    for each in messages:
        if each.get("type") != "commission":
            key, exec_id = f"{each['account']}:{each['symbol']}", each.get("exec_id", "opening")
            known = amounts.get((key, exec_id[:-2]), ("", Fraction(0)))
            amounts[key, exec_id[:-2]] = max(known, (exec_id, _amount(each)))
    paid: defaultdict[str, Fraction] = defaultdict(Fraction)
    for (key, _), (_, amount) in amounts.items():
        paid[key] += amount
    return paid


def _amount(message: Message) -> Fraction:
    if message.get("type") == "opening":
        qty, price = Fraction(message["qty"]), message["avg_price"]
    else:
        sign = 1 if message["side"] == "BUY" else -1
        qty, price = sign * Fraction(message["fill_qty"]), message["fill_price"]
    return qty * Fraction(price) * Fraction(message.get("multiplier", "1"))


def balances(
    before: Valuations, after: Valuations, earlier: Sequence[Message], later: Sequence[Message]
) -> list[Balance]:
    """Return each key's balance over a stretch.

    before, after: the valuations at its ends. earlier, later: what was published before it
    and in it. A key that was not there before was worth 0.
    """
    paid_before, paid_after = paid_in(earlier), paid_in([*earlier, *later])
    return [
        Balance(
            key,
            after[key]["currency"],
            _change(before, after, key, "realized_pnl"),
            _change(before, after, key, "unrealized_pnl"),
            _change(before, after, key, "market_value"),
            paid - paid_before.get(key, Fraction(0)),
        )
        for key, paid in sorted(paid_after.items())
    ]


def _change(before: Valuations, after: Valuations, key: str, name: str) -> Fraction:
    start = before[key][name] if key in before else 0
    return Fraction(after[key][name]) - Fraction(start)
