"""The second flow: marks and positions become valuations.

    python -m flows valuation

Marks and changes come in one read, conflated by symbol; each symbol values its positions;
what changed goes to the hash, and once a minute to Parquet. It needs no recovery
directory: it begins with the hashes. It never writes what the main job reads, and so
never slows it.
"""

import logging
from typing import Annotated, NoReturn

import bytewax.operators as op
import typer
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from connectors.clock import ClockError, now_ms
from connectors.file_lock import LockedError
from connectors.parquet.files import DataDirError
from connectors.parquet.minutes import MinuteFiles
from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.news import News, NewsSource, Passing
from connectors.redis.valuations import ValuationHashSink, Valued
from flows.common.doors import app_of, become_flow, enter
from flows.common.logs import log_exceptions_of_parts, set_up_logging
from flows.common.settings import Settings, load_settings
from flows.job.launch import agree_on_partitions, launch
from flows.valuing.minutes_sink import MinutesSink
from flows.valuing.totals import Totals, start_totals
from flows.valuing.value_step import ValueLogic
from state.valuation import Calendar

log = logging.getLogger("lotstream.valuation")


def build_flow(
    source: Source[tuple[str, News]],
    *,
    valuations: Sink[tuple[str, Valued]],
    minutes: Sink[tuple[str, Valued]],
    totals: Totals,
    settings: Settings,
) -> Dataflow:
    """Wire the parts."""
    stale_ms, calendar = settings.mark_stale_ms, Calendar(settings.day_zone)
    flow = Dataflow("valuation")
    news = op.input("news", flow, source)  # (symbol, News)
    valued = op.stateful_batch(
        "value", news, lambda _: ValueLogic(calendar, stale_ms, now_ms)
    )  # (symbol, Valued)
    valued = op.inspect(
        "totals", valued, lambda _, item: totals.take(item[1].key, item[1].valuation)
    )
    op.output("hash", valued, log_exceptions_of_parts(valuations))
    op.output("minutes", valued, log_exceptions_of_parts(minutes))
    return flow


def flow() -> Dataflow:
    """Read the settings and wire the real parts; Bytewax's runner calls it."""
    settings = load_settings()
    set_up_logging(settings, last_word=True)
    if not settings.changes_kept:
        raise SystemExit(
            "lotstream: CHANGES_KEPT: expected a number above 0, as valuations follow the stream "
            "of changes; found 0"
        )
    run = launch(settings, retains=False)
    if run.together:
        raise SystemExit(
            "lotstream: expected one worker in one process for flows.valuation, found more; it "
            "takes the last mark of a symbol where more come than it can value"
        )
    link = RedisLink(settings.redis_url.get_secret_value(), run.stop)
    agree_on_partitions(link, settings)
    files = MinuteFiles(settings.data_dir)
    try:
        files.lock()
    except (LockedError, DataDirError) as error:
        raise SystemExit(f"lotstream: valuations: {error}") from None
    source = NewsSource(
        link,
        run.stop,
        positions=settings.positions_hash,
        valuations=settings.valuations_hash,
        changes=list(settings.changes_of.values()),
        marks=settings.marks_stream,
        passing=Passing(Calendar(settings.day_zone), settings.mark_stale_ms),
    )
    totals = start_totals(settings, link, source.rates)
    log.info(
        "started: %s valued by the stream %s; DATA_DIR %s",
        settings.positions_hash, settings.marks_stream, settings.data_dir.absolute(),
    )  # fmt: skip
    return build_flow(
        log_exceptions_of_parts(source, RedisRefusedError, ClockError),
        valuations=ValuationHashSink(link, settings.valuations_hash),
        minutes=MinutesSink(files, link),
        totals=totals,
        settings=settings,
    )


def main(
    workers: Annotated[
        int, typer.Option("-w", "--workers-per-process", min=1, help="It runs with one only.")
    ] = 1,
) -> NoReturn:
    """Value the positions by the marks, live. Ctrl-C ends it."""
    # It keeps nothing between two runs but what it shows, so no recovery directory.
    become_flow("flows.valuation", ["-s", "1", "-w", str(workers)])


app = app_of(main)

if __name__ == "__main__":
    enter(app, "valuation")
