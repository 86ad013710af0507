"""The totals of all valuations: by currency, and over all in BASE_CURRENCY.

They are kept as the valuations change, so that however many there are, telling them takes
no time. A position without a mark is in no total, a currency without a rate in none of
BASE_CURRENCY; how many there are is told beside them. The totals go to a key of Redis
(BASE_CURRENCY only), from which `watch` and `board` show them, and to the metrics.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from operator import add, sub
from threading import Lock
from typing import NamedTuple

import redis

from connectors import metrics
from connectors.clock import now_ms
from connectors.redis.base_totals import BaseTotals, CurrencyTotal, TotalsKey
from connectors.redis.link import RedisLink, StoppedError
from flows.common.settings import Settings
from state.exact import MONEY, MONEY_PLACES, to_text
from state.valuation import LIVE, NO_MARK, STALE, Mark, Rate, Valuation, rate_to, state_of

log = logging.getLogger("lotstream.metrics")

SHOW_EVERY_S = 1.0
_NAN = float("nan")
_FIGURES = ("unrealized_pnl", "day_pnl", "total_pnl")


class Sums(NamedTuple):
    """What some valuations of one currency come to."""

    positions: int = 0
    open: int = 0
    live: int = 0
    """Of the open ones. So are the next two."""
    stale: int = 0
    no_mark: int = 0
    unvalued: int = 0
    day_unknown: int = 0
    unrealized_pnl: int = 0
    """Money, of the positions of which it is known. So are the next two."""
    day_pnl: int = 0
    total_pnl: int = 0

    @classmethod
    def of(cls, valuation: Valuation) -> "Sums":
        """Return what one valuation adds."""
        is_open, state = valuation.qty != 0, valuation.state
        return cls(
            1, is_open, is_open and state == LIVE, is_open and state == STALE,
            is_open and state == NO_MARK, valuation.total_pnl is None, valuation.day_pnl is None,
            valuation.unrealized_pnl or 0, valuation.day_pnl or 0, valuation.total_pnl or 0,
        )  # fmt: skip

    def exchanged(self, old: "Sums", new: "Sums") -> "Sums":
        """Return the sums with one thing instead of another."""
        return Sums(*map(add, map(sub, self, old), new))

    def figure(self, name: str) -> int | None:
        """Return one of _FIGURES; None if it is known of none of the positions.

        A flat one has no unrealized P&L, so it makes no sum of it a known one.
        """
        if name == "unrealized_pnl":
            is_known = not self.open or self.open > self.unvalued
        else:
            is_known = self.positions > (self.day_unknown if name == "day_pnl" else self.unvalued)
        amount: int = getattr(self, name)
        return amount if is_known else None


_NOTHING = Sums()


class Totals:
    """Sums of the latest valuations; may be asked by any thread.

    rates: the marks of currency pairs. base: the currency of the sums over all, if any.
    """

    def __init__(self, rates: Mapping[str, Mark], base: str | None, stale_ms: int) -> None:
        self._rates, self._base, self._stale_ms = rates, base, stale_ms
        self._lock = Lock()
        self._latest: dict[str, tuple[str, Sums]] = {}
        """By key, the currency, and what the valuation added to its sums."""
        self._sums: dict[str, Sums] = {}

    def take(self, key: str, valuation: Valuation) -> None:
        """Count a valuation instead of the one that the key had."""
        currency, new = valuation.currency, Sums.of(valuation)
        with self._lock:
            was, old = self._latest.get(key, (currency, _NOTHING))
            if was != currency:
                self._sums[was] = self._sums[was].exchanged(old, _NOTHING)
                old = _NOTHING
            self._latest[key] = (currency, new)
            self._sums[currency] = self._sums.get(currency, _NOTHING).exchanged(old, new)

    def sums(self) -> dict[str, Sums]:
        """Return the sums by currency, in order of their names."""
        with self._lock:
            return {currency: sums for currency, sums in sorted(self._sums.items()) if sums[0]}

    def in_base(self, now: int) -> BaseTotals | None:
        """Return the totals in BASE_CURRENCY; None without that. now: ms since 1970."""
        base = self._base
        if base is None:
            return None
        marks, sums = dict(self._rates), self.sums()
        rates = {currency: rate_to(base, currency, marks) for currency in sums if currency != base}
        no_rate = {
            f"{currency}.{base}": sums[currency].positions
            for currency, rate in rates.items()
            # What is nothing in one currency is nothing in each.
            if rate is None and any(getattr(sums[currency], name) for name in _FIGURES)
        }
        counted = {
            currency: each for currency, each in sums.items() if f"{currency}.{base}" not in no_rate
        }
        unrealized, day, total = (_exchanged(counted, rates, name) for name in _FIGURES)
        unvalued, day_unknown, stale = (
            sum(getattr(each, name) for each in counted.values())
            for name in ("unvalued", "day_unknown", "stale")
        )
        return BaseTotals(
            base, now, unrealized, day, total, unvalued, day_unknown, stale, no_rate,
            [_total(currency, each, rates.get(currency), now, self._stale_ms)
             for currency, each in sums.items()],
        )  # fmt: skip


def _exchanged(
    counted: Mapping[str, Sums], rates: Mapping[str, Rate | None], name: str
) -> Decimal | None:
    amounts = [
        amount if (rate := rates.get(currency)) is None else rate.exchange(amount)
        for currency, sums in counted.items()
        if (amount := sums.figure(name)) is not None
    ]
    return _money(sum(amounts) if amounts else None)


def _total(currency: str, sums: Sums, rate: Rate | None, now: int, stale_ms: int) -> CurrencyTotal:
    unrealized, day, total = (_money(sums.figure(name)) for name in _FIGURES)
    exchanged: tuple[str, Decimal, int, str] | tuple[None, None, None, None] = (
        (None, None, None, None)
        if rate is None
        else (
            rate.pair, Decimal(to_text(rate.mark.price)), rate.mark.timestamp,
            state_of(rate.mark, now, stale_ms),
        )
    )  # fmt: skip
    return CurrencyTotal(
        currency, sums.positions, unrealized, day, total, sums.unvalued, sums.day_unknown,
        sums.stale, *exchanged,
    )  # fmt: skip


def _money(amount: int | None) -> Decimal | None:
    return None if amount is None else Decimal(to_text(amount, MONEY_PLACES))


# --- where they go ------------------------------------------------------------------------


def start_totals(settings: Settings, link: RedisLink, rates: Mapping[str, Mark]) -> Totals:
    """Begin totals that are shown in Redis and, if METRICS_PORT is set, as metrics.

    rates: the marks of currency pairs. Raises SystemExit if the port is taken.
    """
    totals = Totals(rates, settings.base_currency, settings.mark_stale_ms)
    if settings.base_currency is not None:
        link.while_alive.append(_shower(totals, TotalsKey(link, settings.valuations_hash)))
    if settings.metrics_port is not None:
        _serve(settings, totals, settings.metrics_port)
    return totals


def _shower(totals: Totals, key: TotalsKey) -> Callable[[], None]:
    due, begun = 0.0, False

    def show() -> None:
        nonlocal due, begun
        if time.monotonic() < due:
            return
        due = time.monotonic() + SHOW_EVERY_S
        found = totals.in_base(now_ms())
        if found is None or not found.currencies:
            return
        if begun:
            with suppress(StoppedError):
                key.show(found)
        # Not at once: all that a start finds is to be counted first.
        begun = True

    return show


def _serve(settings: Settings, totals: Totals, port: int) -> None:
    client = redis.Redis.from_url(
        settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2
    )

    def refresh() -> None:
        _forget()
        try:
            client.exists(settings.valuations_hash)
        except redis.RedisError:
            metrics.REDIS_UP.set(0)
            return
        metrics.REDIS_UP.set(1)
        _set(totals.sums(), totals.in_base(now_ms()))

    try:
        metrics.serve(port, refresh)
    except OSError as error:
        raise SystemExit(
            f"lotstream: METRICS_PORT: expected a free port, found {port}: {error}"
        ) from None
    log.info("metrics on http://127.0.0.1:%d/metrics", port)


def _forget() -> None:
    # An old figure must not look like a new one.
    for gauge in (metrics.TOTAL_PNL, metrics.UNREALIZED_PNL, metrics.VALUATION_STATES):
        gauge.clear()
    for single in (metrics.BASE_TOTAL_PNL, metrics.BASE_UNREALIZED_PNL, metrics.RATES_MISSING):
        single.set(_NAN)


def _set(sums: Mapping[str, Sums], base: BaseTotals | None) -> None:
    for state, counted in ((LIVE, "live"), (STALE, "stale"), (NO_MARK, "no_mark")):
        if count := sum(getattr(each, counted) for each in sums.values()):
            metrics.VALUATION_STATES.labels(state).set(count)
    for gauge, in_base, name in (
        (metrics.TOTAL_PNL, metrics.BASE_TOTAL_PNL, "total_pnl"),
        (metrics.UNREALIZED_PNL, metrics.BASE_UNREALIZED_PNL, "unrealized_pnl"),
    ):
        for currency, each in sums.items():
            if (amount := each.figure(name)) is not None:
                gauge.labels(currency).set(amount / MONEY)
        if base is not None and not base.no_rate and (all_ := getattr(base, name)) is not None:
            in_base.set(float(all_))
    if base is not None:
        metrics.RATES_MISSING.set(len(base.no_rate))
