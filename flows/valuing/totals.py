"""The valuation's metrics: totals by currency, and over all in BASE_CURRENCY.

Looked up in the hash `valuations` when somebody asks, not counted. A position without a
mark is in no total; how many there are is told beside them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import redis

from connectors import metrics
from connectors.redis.valuations import read_valuation
from flows.common.settings import Settings
from state.exact import MONEY
from state.valuation import InBase, Mark, in_base

log = logging.getLogger("lotstream.metrics")
_NAN = float("nan")


def start(settings: Settings, rates: Mapping[str, Mark]) -> None:
    """Serve the metrics if METRICS_PORT is set.

    rates: the marks of currency pairs. Raises SystemExit if the port is taken.
    """
    if settings.metrics_port is None:
        return
    client = redis.Redis.from_url(
        settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2
    )
    try:
        metrics.serve(settings.metrics_port, _refresh(client, settings, rates))
    except OSError as error:
        raise SystemExit(
            f"lotstream: METRICS_PORT: expected a free port, found {settings.metrics_port}: {error}"
        ) from None
    log.info("metrics on http://127.0.0.1:%d/metrics", settings.metrics_port)


def _refresh(
    client: redis.Redis, settings: Settings, rates: Mapping[str, Mark]
) -> Callable[[], None]:
    def refresh() -> None:
        # An old figure must not look like a new one.
        for gauge in (metrics.TOTAL_PNL, metrics.UNREALIZED_PNL, metrics.VALUATION_STATES):
            gauge.clear()
        for single in (
            metrics.BASE_TOTAL_PNL, metrics.BASE_UNREALIZED_PNL, metrics.RATES_MISSING,
        ):  # fmt: skip
            single.set(_NAN)
        try:
            texts: Any = client.hvals(settings.valuations_hash)
        except redis.RedisError:
            metrics.REDIS_UP.set(0)
            return
        metrics.REDIS_UP.set(1)
        prices = {pair: mark.price for pair, mark in dict(rates).items()}
        _set(texts, settings.base_currency, prices)

    return refresh


def _set(texts: list[bytes], base: str | None, rates: dict[str, int]) -> None:
    totals: Counter[str] = Counter()
    unrealized: Counter[str] = Counter()
    for text in texts:
        valuation = read_valuation(text)
        if valuation.qty:
            metrics.VALUATION_STATES.labels(valuation.state).inc()
        totals[valuation.currency] += valuation.total_pnl or 0
        unrealized[valuation.currency] += valuation.unrealized_pnl or 0
    for currency in totals:
        metrics.TOTAL_PNL.labels(currency).set(totals[currency] / MONEY)
        metrics.UNREALIZED_PNL.labels(currency).set(unrealized[currency] / MONEY)
    if base is not None:
        in_total, in_unrealized = in_base(totals, rates, base), in_base(unrealized, rates, base)
        metrics.BASE_TOTAL_PNL.set(_figure(in_total))
        metrics.BASE_UNREALIZED_PNL.set(_figure(in_unrealized))
        metrics.RATES_MISSING.set(len({*in_total.missing, *in_unrealized.missing}))


def _figure(found: InBase) -> float:
    return _NAN if found.total is None else found.total / MONEY
