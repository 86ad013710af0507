"""The main job: executions from Redis Streams become positions.

    python -m flows run

which is, with the options that it wants,

    python -m bytewax.run flows.positions -r data/recovery -s 1 -b 0

The steps, as the README draws them: source, decode, dead letters aside, key,
position, hash and Parquet. Delivery inside is at least once; each sink passes over
what it has already, which makes it exactly once (see the sinks).
"""

from collections.abc import Sequence
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import BranchOut
from bytewax.outputs import Sink

from connectors.book_store import BookStores
from connectors.file_lock import LockedError
from connectors.parquet.files import DataDirError, StreamFiles
from connectors.parquet.sink import ParquetSink
from connectors.redis.dead_letter_sink import DeadLetterSink
from connectors.redis.hash_sink import PositionHashSink
from connectors.redis.link import RedisLink, warn_of_eviction
from connectors.redis.source import Read, RedisStreamSource
from flows.common.hints import tell_how_to_run
from flows.common.logs import Progress, log_exceptions, log_exceptions_of_parts, set_up_logging
from flows.common.settings import load_settings
from flows.job import exporter, names
from flows.job.decode_step import Messages, at_home, decode_read
from flows.job.launch import agree_on_partitions, check_data_dir, launch, tell_start
from flows.job.position_step import PositionLogic
from state.records import Changes, Rejected

_BLOCK_ALONE_MS, _BLOCK_TOGETHER_MS = 10, 1
"""Longest wait in a read: a worker that waits serves no peer meanwhile."""


def build_flow(
    source: Source[Read],
    *,
    dead_letters: Sink[tuple[str, Rejected]],
    position_hash: Sink[tuple[str, Changes]],
    parquet: Sink[tuple[str, Changes]],
    stores: BookStores | None = None,
    partitions: Sequence[str] = (),
    progress: Progress | None = None,
) -> Dataflow:
    """Wire the parts. Recovery hangs on the names of flow and steps, as `flows.job.names` has them.

    partitions: the streams that keys are divided among; none if there is but one.
    """
    progress = progress or Progress()
    flow = Dataflow(names.FLOW)
    reads = op.input(names.SOURCE, flow, source)  # Read
    # Rejected | Messages
    decode_logged = log_exceptions(partial(decode_read, progress=progress))
    decoded = op.flat_map(
        "decode", reads, lambda read: at_home(decode_logged(read), partitions, progress)
    )
    checked: BranchOut[Rejected, Messages]
    checked = op.branch("check", decoded, _is_rejected)  # type: ignore[assignment]
    keyed = op.key_on("key", checked.falses, lambda messages: messages.key)  # (key, Messages)
    booked = op.stateful_batch(
        names.POSITION, keyed, lambda state: PositionLogic(state, stores, progress)
    )
    # (key, Rejected | Changes); the sinks want (stream, ...)
    results = op.map("by_stream", booked, lambda item: (item[1].stream, item[1]))
    applied: BranchOut[tuple[str, Rejected], tuple[str, Changes]]
    applied = op.branch("book_check", results, _holds_rejected)  # type: ignore[assignment]
    refused = op.key_on("refused_by_stream", checked.trues, lambda rejected: rejected.stream)
    rejected = op.merge("rejected", refused, applied.trues)  # (stream, Rejected)
    op.output(names.LETTERS, rejected, log_exceptions_of_parts(dead_letters))
    op.output("hash", applied.falses, log_exceptions_of_parts(position_hash))
    told = (DataDirError, LockedError, OSError)
    op.output(names.PARQUET, applied.falses, log_exceptions_of_parts(parquet, *told))
    return flow


def _is_rejected(item: Messages | Rejected) -> bool:
    return isinstance(item, Rejected)


def _holds_rejected(item: tuple[str, Changes | Rejected]) -> bool:
    return isinstance(item[1], Rejected)


def flow() -> Dataflow:
    """Read the settings, prepare recovery, and wire the real parts.

    Bytewax's runner calls it, in the main thread, before it opens the recovery store.
    """
    settings = load_settings()
    set_up_logging(settings, last_word=True)
    run = launch(settings)
    link = RedisLink(settings.redis_url.get_secret_value(), run.stop)
    agree_on_partitions(link, settings)
    check_data_dir(settings, run)
    warn_of_eviction(link)
    streams, hours = settings.own_streams, settings.stream_retention_hours
    source = RedisStreamSource(
        link,
        streams,
        run.stop,
        written=lambda stream: StreamFiles(settings.data_dir, stream).written(),
        block_ms=_BLOCK_TOGETHER_MS if run.together else _BLOCK_ALONE_MS,
        retention_ms=None if hours is None else int(hours * 3_600_000),
        accept_gap=settings.accept_gap,
    )
    exporter.start(settings)
    tell_start(settings, run)
    return build_flow(
        source,
        dead_letters=DeadLetterSink(link, settings.letters_of),
        position_hash=PositionHashSink(
            link,
            streams,
            settings.positions_hash,
            changes=settings.changes_of,
            changes_kept=settings.changes_kept,
            together=run.together,
            resumes=run.stores is not None,
        ),
        parquet=ParquetSink(settings.data_dir, streams),
        stores=run.stores,
        partitions=settings.streams if settings.stream_partitions > 1 else (),
        progress=Progress(source.to_go),
    )


if __name__ == "__main__":
    tell_how_to_run(__doc__)
