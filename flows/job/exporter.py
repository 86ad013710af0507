"""The metrics server of a process: METRICS_PORT.

What the flow counts is there already (`connectors.metrics`); here, each scrape looks up
in Redis what is not counted. A scrape never waits long for an absent Redis: it says so.
"""

import logging
from collections.abc import Callable
from functools import partial

from connectors import metrics
from connectors.redis.overview import Overview, OverviewReader, RedisAwayError
from flows.common.hints import tell_how_to_run
from flows.common.overview import overview_reader
from flows.common.settings import Settings

log = logging.getLogger("lotstream.metrics")


def start(settings: Settings) -> Callable[[], None]:
    """Serve the metrics if METRICS_PORT is set; return what ends that.

    Raises SystemExit with one line if the port is taken.
    """
    if settings.metrics_port is None:
        return lambda: None
    try:
        stop = metrics.serve(settings.metrics_port, partial(_refresh, overview_reader(settings)))
    except OSError as error:
        raise SystemExit(
            f"lotstream: METRICS_PORT: expected a free port, found {settings.metrics_port}: {error}"
        ) from None
    log.info("metrics on http://127.0.0.1:%d/metrics", settings.metrics_port)
    return stop


def _refresh(reader: OverviewReader) -> None:
    try:
        overview = reader.read()
    except (RedisAwayError, ValueError):
        metrics.REDIS_UP.set(0)
        _forget()
    else:
        metrics.REDIS_UP.set(1)
        _set(overview)


def _set(overview: Overview) -> None:
    _forget()
    for state in overview.streams:
        if state.lag is not None:
            metrics.LAG_ENTRIES.labels(state.stream).set(state.lag)
        if state.committed_age_s is not None:
            metrics.COMMITTED_AGE_SECONDS.labels(state.stream).set(state.committed_age_s)
        metrics.LAG_SECONDS.labels(state.stream).set(state.lag_s)
    metrics.DEAD_LETTERS_WAITING.set(overview.dead_letters)
    if overview.broker.known is not None:
        metrics.BROKER_KNOWN.set(overview.broker.known)
    if overview.broker.known:
        metrics.BREAKS.set(len(overview.broker.breaks))
    totals = overview.totals
    metrics.POSITIONS_OPEN.set(sum(total.open for total in totals))
    for total in totals:
        metrics.REALIZED_PNL.labels(total.currency).set(float(total.realized_pnl))


def _forget() -> None:
    # An old figure must not look like a new one.
    for gauge in (
        metrics.LAG_ENTRIES, metrics.LAG_SECONDS, metrics.COMMITTED_AGE_SECONDS,
        metrics.REALIZED_PNL,
    ):  # fmt: skip
        gauge.clear()
    for gauge in (
        metrics.DEAD_LETTERS_WAITING, metrics.POSITIONS_OPEN, metrics.BROKER_KNOWN,
        metrics.BREAKS,
    ):  # fmt: skip
        gauge.set(float("nan"))


if __name__ == "__main__":
    tell_how_to_run(f"{__doc__}\nIt runs within the flow: METRICS_PORT=9100 python -m flows run")
