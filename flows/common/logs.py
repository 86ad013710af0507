"""Logging for all commands: key=value lines for people, JSON lines for machines.

Both forms carry the same: time, level, logger, message, whatever a call gives as
`extra`, and an exception's traceback. What the flow says of positions is here too:
while it is live, one line for each change; while it catches up, a summary now and then.
"""

import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Lock
from typing import Any, ParamSpec, TextIO, TypeVar

from connectors.redis.link import RedisRefusedError
from flows.common.overview import age
from flows.common.settings import Settings
from state.exact import to_text

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("lotstream.flow")

SUMMARY_EVERY_S = 5.0
MOST_LINES = 50
"""More entries than this in one read are summed up: no one reads so many lines."""
_PAUSE_S = 1.0
"""A longer time before a read that has caught up is a pause: it tells nothing of the speed."""
_MILLION = 1_000_000


def set_up_logging(settings: Settings, *, last_word: bool = False) -> None:
    """Log to standard error in the form and from the level that the settings say.

    last_word: let a critical line that explains itself be the last that a person sees
    (unless the level is DEBUG), whatever the engine prints when the program then ends.
    """
    quiet = last_word and settings.log_level != "DEBUG"
    handler = (_LastWordHandler if quiet else logging.StreamHandler)(sys.stderr)
    handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else _TextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class _LastWordHandler(logging.StreamHandler[TextIO]):
    """Ends what others print to standard error when a critical line has said why it ends.

    A line with a traceback does not explain itself: the more there is to see, the better.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        critical = record.levelno >= logging.CRITICAL
        if self._said and not critical:
            return
        super().emit(record)
        if critical and not record.exc_info and not self._said:
            self._said = True
            self._take_over()

    def _take_over(self) -> None:
        # The engine prints by file number, not by sys.stderr.
        self.flush()
        number = self.stream.fileno()
        self.setStream(os.fdopen(os.dup(number), "w"))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def log_exceptions(function: Callable[P, T], *told: type[Exception]) -> Callable[P, T]:
    """Make a function that the engine calls log its exception, with the traceback.

    Once, and before the engine has it, which may tell of it late, in part or not at all.
    One that explains itself comes without its traceback.
    StopIteration passes, as that is no error, and so do the exceptions named in `told`.
    """
    passing: tuple[type[Exception], ...] = (StopIteration, *told)

    @functools.wraps(function)
    def logged(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except passing:
            raise
        except Exception as error:
            if not getattr(error, "is_logged", False):
                error.is_logged = True  # type: ignore[attr-defined]
                # Redis says itself what it refuses.
                explained = isinstance(error, RedisRefusedError)
                log.critical("stopped: %s", error, exc_info=not explained)
            raise

    return logged


def log_exceptions_of_parts(endpoint: T, *told: type[Exception]) -> T:
    """Make the partitions that a Bytewax source or sink builds log their exceptions.

    told: those that they tell of themselves, in words for the user.
    """
    partitioned: Any = endpoint
    build = partitioned.build_part

    def build_part(*args: Any) -> Any:
        part = log_exceptions(build, *told)(*args)
        for name in ("next_batch", "write_batch", "snapshot"):
            if hasattr(part, name):
                setattr(part, name, log_exceptions(getattr(part, name), *told))
        return part

    partitioned.build_part = build_part
    return endpoint


class Progress:
    """What the flow tells of its work; all workers of a process share one.

    to_go: how many entries are still to be read, None if that cannot be told; asked
    for each summary only. clock: seconds.
    """

    def __init__(
        self,
        to_go: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to_go, self._clock = to_go, clock
        self._lock = Lock()
        self._entries = self._errors = 0
        self._since: float | None = None
        """When the count began; None while live."""
        self._read_at = self._busy_s = 0.0
        self._summed_up_at = -SUMMARY_EVERY_S
        self._behind = self._many = False
        """True while the changes of a read are too many for a line each."""

    def position_changed(self, key: str, qty: int, avg_price: int | None, change: int) -> None:
        """Tell of one change, while live; not of those of a read that had many entries.

        qty, avg_price: after it; avg_price None when flat. change: of the quantity, signed.
        """
        if log.isEnabledFor(logging.INFO) and not self._many:
            at = "" if avg_price is None else f" @ {to_text(avg_price)}"
            signed = f"{'+' if change > 0 else ''}{to_text(change)}"
            # An account may be named by any text, of any length.
            log.info("Position updated: %.200s = %s%s (change: %s)", key, to_text(qty), at, signed)

    def read(self, entries: int, errors: int = 0, *, live: bool) -> None:
        """Count entries that were read, and those of them that could not be used.

        live: the read has caught up with its stream.
        """
        with self._lock:
            now = self._clock()
            if entries:  # else it says of the last read how many could not be used
                self._many = self._behind or not live or entries > MOST_LINES
            if self._since is None:
                if not self._many:
                    return
                self._since = self._read_at = now
            # A stream may end with a full read: then the next comes whenever it comes.
            self._busy_s += min(now - self._read_at, _PAUSE_S) if live else now - self._read_at
            self._read_at = now
            self._entries += entries
            self._errors += errors
            caught_up, self._behind = self._behind and live, not live
            since = self._summed_up_at if live else self._since
            if caught_up or (entries and now >= since + SUMMARY_EVERY_S):
                self._sum_up()
                self._summed_up_at, self._since = now, None if live else now

    def _sum_up(self) -> None:
        rate = self._entries / self._busy_s if self._busy_s else 0.0
        to_go = self._to_go()
        log.info(
            "Processed %s executions (errors: %s)%s%s%s",
            f"{self._entries:,}",
            f"{self._errors:,}",
            f", {rate:,.0f}/s" if self._busy_s else "",
            "" if to_go is None else f", {_about(to_go)} to go",
            f", about {age(to_go / rate)} left" if to_go and rate else "",
        )
        self._entries = self._errors = 0
        self._busy_s = 0.0


def _about(count: int) -> str:
    return f"{count:,}" if count < _MILLION else f"{count / _MILLION:,.1f} million"


# --- the two forms ---------------------------------------------------------------------


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(f"{name}={_quoted(value)}" for name, value in _members(record))
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = dict(_members(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime"}
"""What every record has; the rest was given as `extra`."""


def _members(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    yield "time", moment.replace("+00:00", "Z")
    yield "level", record.levelname.lower()
    yield "logger", record.name
    yield "message", record.getMessage()
    yield from ((name, value) for name, value in vars(record).items() if name not in _OWN)


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
