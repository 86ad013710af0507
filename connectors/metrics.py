"""Every Prometheus metric, and the server that shows them on the loopback interface.

The flow counts what it does where it does it, once a batch, never once an entry. What
can be seen in Redis (lag, open positions, P&L) is looked up when it is asked for.
A process shows the streams it reads; positions and P&L are of the whole hash, so over
several processes take their maximum, not their sum.
"""

from collections.abc import Callable, Iterable
from threading import Lock

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    start_http_server,
)
from prometheus_client.registry import Collector

EXECUTIONS_BOOKED = Counter(
    "lotstream_executions_booked", "Executions that changed a position, corrections included."
)
EXECUTIONS_DUPLICATE = Counter(
    "lotstream_executions_duplicate",
    "Executions that changed nothing: delivered again, or superseded by a correction.",
)
EXECUTIONS_CORRECTED = Counter(
    "lotstream_executions_corrected", "Executions booked that correct or bust another one."
)
EXECUTIONS_LATE = Counter(
    "lotstream_executions_late", "Executions booked before one that had come earlier."
)
DEAD_LETTERS = Counter(
    "lotstream_dead_letters", "Entries dead-lettered, by the field that was wrong.", ["reason"]
)
BATCH_ENTRIES = Histogram(
    "lotstream_batch_entries",
    "Entries that one read of a stream brought, reads that brought none left out.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000),
)
EPOCH_CLOSE_SECONDS = Histogram(
    "lotstream_epoch_close_seconds",
    "From the end of an epoch until all of it is durable.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REDIS_RETRIES = Counter("lotstream_redis_retries", "Commands that had to be sent to Redis again.")
MARKS_READ = Counter("lotstream_marks_read", "Entries of the stream of marks that were read.")
MARKS_REFUSED = Counter(
    "lotstream_marks_refused", "Entries of the stream of marks that were no marks."
)
VALUATIONS = Counter("lotstream_valuations", "Valuations that changed and were shown.")
PARQUET_ROWS = Counter("lotstream_parquet_rows", "Rows written, by data set.", ["data_set"])
PARQUET_FILES = Counter(
    "lotstream_parquet_files", "Files put where readers look, by data set.", ["data_set"]
)

REDIS_UP = Gauge("lotstream_redis_up", "1 if Redis answered this scrape, else 0.")
LAG_ENTRIES = Gauge(
    "lotstream_stream_lag_entries", "Entries that are not committed yet, by stream.", ["stream"]
)
LAG_SECONDS = Gauge(
    "lotstream_stream_lag_seconds",
    "How long the oldest entry that is not committed has waited, by stream.",
    ["stream"],
)
COMMITTED_AGE_SECONDS = Gauge(
    "lotstream_stream_committed_age_seconds",
    "Time since the last committed entry was added, by stream.",
    ["stream"],
)
DEAD_LETTERS_WAITING = Gauge(
    "lotstream_dead_letters_waiting", "Dead letters that nobody has dealt with."
)
POSITIONS_OPEN = Gauge("lotstream_positions_open", "Positions that are not flat.")
BROKER_KNOWN = Gauge(
    "lotstream_broker_known",
    "1 if the router knows the broker's positions, 0 if not; NaN if no router was ever here.",
)
BREAKS = Gauge(
    "lotstream_breaks", "Positions that differ from the broker's; NaN while those are not known."
)
REALIZED_PNL = Gauge(
    "lotstream_realized_pnl", "Gross realized P&L of all positions, by currency.", ["currency"]
)
TOTAL_PNL = Gauge(
    "lotstream_total_pnl",
    "Net realized and unrealized P&L of all positions that have a mark, by currency.",
    ["currency"],
)
UNREALIZED_PNL = Gauge(
    "lotstream_unrealized_pnl",
    "Unrealized P&L of all positions that have a mark, by currency.",
    ["currency"],
)
VALUATION_STATES = Gauge(
    "lotstream_valuation_states", "Positions that are not flat, by the state of mark.", ["state"]
)
BASE_TOTAL_PNL = Gauge(
    "lotstream_base_total_pnl",
    "Total P&L over all currencies in BASE_CURRENCY; NaN without that, a rate, or any mark.",
)
BASE_UNREALIZED_PNL = Gauge("lotstream_base_unrealized_pnl", "The same, unrealized alone.")
RATES_MISSING = Gauge(
    "lotstream_rates_missing", "Currencies that have no rate to BASE_CURRENCY among the marks."
)

# Flow and valuation serve all metrics, and each looks up its own.
for _gauge in (
    DEAD_LETTERS_WAITING, POSITIONS_OPEN, BROKER_KNOWN, BREAKS,
    BASE_TOTAL_PNL, BASE_UNREALIZED_PNL, RATES_MISSING,
):  # fmt: skip
    _gauge.set(float("nan"))  # a process that does not know says nothing


FIELDS = (
    "type", "symbol", "side", "fill_qty", "fill_price", "order_id", "exec_id", "timestamp",
    "account", "con_id", "sec_type", "currency", "exchange", "order_ref", "multiplier",
    "commission", "commission_currency", "basis_adjustment", "qty", "avg_price", "cost_basis",
    "ratio", "places", "per_unit", "direction", "opened", "charges", "realized_pnl",
    "net_realized_pnl", "opening", "split",
)  # fmt: skip
"""What a dead letter's reason can begin with."""

# A counter that begins at its first count shows no increase by it, so no alert either.
for _field in FIELDS:
    DEAD_LETTERS.labels(_field)
for _data_set in ("positions", "closed_lots", "valuations"):
    PARQUET_ROWS.labels(_data_set)
    PARQUET_FILES.labels(_data_set)


def field_of(reason: str) -> str:
    """Return the label of a dead letter's reason: the field in front of the colon.

    >>> field_of("side: expected BUY or SELL, found 'HOLD'"), field_of("out of words")
    ('side', 'other')
    """
    field = reason.partition(":")[0]
    return field if field in FIELDS else "other"


def serve(port: int, refresh: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Serve all metrics on 127.0.0.1; return what ends that.

    refresh: called before each answer, to set what is looked up. Raises OSError if the
    port is taken.
    """
    registry = CollectorRegistry()
    registry.register(_Refreshed(refresh))
    server, thread = start_http_server(port, "127.0.0.1", registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Refreshed(Collector):
    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh, self._lock = refresh, Lock()

    def describe(self) -> Iterable[Metric]:
        # Else registering it would collect, and so refresh.
        return []

    def collect(self) -> Iterable[Metric]:
        # Scrapes may come at once, each from a thread of its own, and a refresh begins by
        # forgetting: none may see what another is about to set.
        with self._lock:
            self._refresh()
            return list(REGISTRY.collect())
