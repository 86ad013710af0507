"""Totals over all currencies in one: the key `valuations:totals`, written and read.

One process writes it, the valuation flow, in order and from one thread, so that the last
write is the newest. It is written when it changes; in between the flow only renews its
term. So it is gone within TERM_S of the flow's end, by the server's own clock, and what
is there is of now.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import redis

from connectors.redis.exact_json import from_json, to_json
from connectors.redis.link import NotOursError, RedisLink
from state.valuation import LIVE, STALE

TERM_S = 5
"""How long the key outlasts the flow."""


def totals_key(valuations: str) -> str:
    """Name the key by the hash of valuations."""
    return f"{valuations}:totals"


class CurrencyTotal(NamedTuple):
    """The sums of one currency's positions in itself, exact, and what exchanges them."""

    currency: str
    positions: int
    """Also the flat ones, whose realized P&L counts."""
    unrealized_pnl: Decimal | None
    """Of the positions of which it is known; None if it is of none. So are the next two."""
    day_pnl: Decimal | None
    total_pnl: Decimal | None
    unvalued: int
    """Positions that the unrealized and the total P&L leave out, as nobody knows theirs."""
    day_unknown: int
    """Those that the day's P&L leaves out."""
    stale: int
    """Open positions whose mark is stale; they are counted in."""
    pair: str | None
    """The symbol of the mark that exchanges: `EUR.USD`, or `USD.EUR`; None if there is none."""
    rate: Decimal | None
    """Its price."""
    rate_timestamp: int | None
    """Its time, milliseconds since 1970."""
    rate_state: str | None
    """LIVE or STALE; None without one."""


class BaseTotals(NamedTuple):
    """The sums over all currencies in one: what has a rate, and what is left out."""

    base_currency: str
    as_of: int
    """When any of it changed last, milliseconds since 1970."""
    unrealized_pnl: Decimal | None
    """Exchanged by the rates, each amount rounded half-even to 20 places; None if nothing is
    known. So are the next two."""
    day_pnl: Decimal | None
    total_pnl: Decimal | None
    unvalued: int
    """As in CurrencyTotal, of the currencies that are counted in. So are the next two."""
    day_unknown: int
    stale: int
    no_rate: Mapping[str, int]
    """By the pair that is missing, how many positions are left out for it."""
    currencies: Sequence[CurrencyTotal]
    """In order of their names."""


class TotalsKey:
    """Keeps the key at the latest totals; waits for Redis.

    valuations: the hash's name.
    """

    def __init__(self, link: RedisLink, valuations: str) -> None:
        self._link, self._name = link, totals_key(valuations)
        self._shown: BaseTotals | None = None

    def show(self, totals: BaseTotals) -> None:
        """Write totals if they have changed or are gone, else renew their term.

        Raises StoppedError and RedisRefusedError as RedisLink does.
        """
        same = self._shown is not None and totals == self._shown._replace(as_of=totals.as_of)
        if same and self._link.call(lambda client: client.expire(self._name, TERM_S)):
            return

        def put(client: redis.Redis) -> None:
            client.set(self._name, to_json(totals), ex=TERM_S)

        self._link.call(put)
        self._shown = totals


def read_totals(text: bytes, now_ms: int, stale_ms: int) -> BaseTotals:
    """Read the key's value; a rate that has become old since is stale.

    Raises NotOursError, which is a ValueError, if it is none.
    """
    try:
        members = from_json(text)
        totals: BaseTotals = _record(BaseTotals, members)
        currencies = [_record(CurrencyTotal, each) for each in members["currencies"]]
        no_rate = {pair: int(count) for pair, count in members["no_rate"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise NotOursError(
            "totals of the valuations: expected a JSON object with the members of such totals, "
            f"found {text[:80]!r}"
        ) from error
    held = [_at(each, now_ms, stale_ms) for each in currencies]
    return totals._replace(no_rate=no_rate, currencies=held)


def _at(total: CurrencyTotal, now_ms: int, stale_ms: int) -> CurrencyTotal:
    old = total.rate_state == LIVE and now_ms - (total.rate_timestamp or 0) > stale_ms
    return total._replace(rate_state=STALE) if old else total


def _record(kind: Any, members: Any) -> Any:
    return kind(*(_member(members[name], str(kind.__annotations__[name])) for name in kind._fields))


def _member(member: Any, kind: str) -> Any:
    if isinstance(member, Decimal) and "Decimal" not in kind:
        return int(member)
    if isinstance(member, str) and "str" not in kind:
        raise TypeError(kind)
    return member
