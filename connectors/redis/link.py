"""One process's link to Redis: it waits for what can pass and stops on what cannot.

All parts of a process share one `RedisLink`, so that an outage is logged once
when it begins and once when it is over. How long it
waits says `connectors.backoff`. What a caller retries here must be safe to repeat: every command
that this project sends is.
"""

import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from threading import Event, Lock
from typing import Any, TypeVar
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_when_event_set,
)
from tenacity.nap import sleep_using_event

from connectors import metrics
from connectors.backoff import BACKOFF
from state.records import FIRST_ID

T = TypeVar("T")
PAGE = 5_000
"""Entries that `RedisLink.entries` asks for at once."""

log = logging.getLogger("lotstream.redis")

# Error codes of a server that will take the command later. redis-py keeps some of
# them apart from the error's text; others stand in it, and a script's error on
# Redis 6.2 has them in the middle. Of LOADING redis-py makes a lost connection.
_PASSING_CODES = (
    "READONLY", "OOM", "MISCONF", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "BUSY",
    "UNBLOCKED",
)  # fmt: skip
_PASSING_CODE = re.compile(rf"\b(?:{'|'.join(_PASSING_CODES)})\b")


class RedisRefusedError(Exception):
    """Redis answered, and waiting will not change its answer."""


class NotOursError(RedisRefusedError, ValueError):
    """What stands in Redis is not what this project writes there; the text says where."""


class StoppedError(Exception):
    """The program was told to stop while Redis was away."""


class RedisLink:
    """A Redis client whose calls outlast an outage.

    url: `redis://`, `rediss://` or `unix://`; never logged, as it may hold a password.
    stop: set by the program's signal handlers; ends the waiting. None: an outage is not
    waited for.
    """

    def __init__(self, url: str, stop: Event | None) -> None:
        self.client = redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=5,
            socket_timeout=10,
            redis_connect_func=self._on_connect,
        )
        self._connected: WeakSet[Any] = WeakSet()
        self.losses = self._told = 0
        """How often a connection, or an attempt, has failed since the process began: each time
        the server may have come back without its last writes. And of how many of them all
        parts were told."""
        self._stop = stop or Event()
        if stop is None:
            self._stop.set()
        self._lock = Lock()
        self._retries_before_outage: int | None = None
        self.retries = 0
        """Retries since the process began."""
        self.after_outage: list[Callable[[], None]] = []
        """Called when Redis is back, by the thread that found it so. Also when a connection had
        to be made again and no call has failed: a server that restarts in no time may have lost
        its last writes too."""
        self.while_alive: list[Callable[[], None]] = []
        """Called about once a second by a flow that runs, by the thread of any of its sources.
        The engine gives a sink that has nothing to write no turn of its own."""

    def call(self, command: Callable[[redis.Redis], T]) -> T:
        """Return `command(client)`, retried until Redis takes it.

        Raises RedisRefusedError, saying what to do, if Redis never will, and
        StoppedError if the program is told to stop first.
        """
        result = self._call(command)
        if self.losses > self._told:
            self._told = self.losses
            for act in self.after_outage:
                act()
        return result

    def entries(self, stream: str, after: str = FIRST_ID) -> Iterator[dict[str, str]]:
        """Yield the fields, as text, of a stream's entries behind one; raises as `call` does."""
        while page := self.call(partial(_page, stream=stream, after=after)):
            yield from map(texts, (fields for _, fields in page))
            after = page[-1][0].decode()

    def _call(self, command: Callable[[redis.Redis], T]) -> T:
        try:
            return command(self.client)
        except redis.RedisError as error:
            if not can_pass(error):
                raise RedisRefusedError(explain(error)) from error
        return self._outlast(command)

    def _on_connect(self, connection: Any) -> None:
        # Of a connection that was closed while idle, redis-py makes a new one in silence.
        connection.on_connect()
        if connection in self._connected:
            self._note_loss()
        self._connected.add(connection)

    def _outlast(self, command: Callable[[redis.Redis], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(can_pass),
            wait=BACKOFF,
            sleep=sleep_using_event(self._stop),
            stop=stop_when_event_set(self._stop),
            before_sleep=self._note_outage,
            reraise=True,
        )
        try:
            result = retrying(command, self.client)
        except redis.RedisError as error:
            if can_pass(error):
                raise StoppedError(f"told to stop while Redis is away: {error}") from error
            raise RedisRefusedError(explain(error)) from error
        self._note_end()
        self._note_loss()
        return result

    def _note_loss(self) -> None:
        with self._lock:
            self.losses += 1

    def _note_outage(self, attempt: RetryCallState) -> None:
        # A failover may have moved the address, and a kept connection not notice.
        self.client.connection_pool.disconnect(inuse_connections=False)
        self._connected.clear()
        error = attempt.outcome.exception() if attempt.outcome else None
        with self._lock:
            if self._retries_before_outage is None:
                log.warning("Redis is away, retrying until it is back: %s", error)
                self._retries_before_outage = self.retries
            self.retries += 1
            self.losses += 1
        metrics.REDIS_RETRIES.inc()

    def _note_end(self) -> None:
        with self._lock:
            if self._retries_before_outage is not None:
                retries = self.retries - self._retries_before_outage
                log.info("Redis is back after %d retries", retries)
                self._retries_before_outage = None


def _page(client: redis.Redis, stream: str, after: str) -> Any:
    return client.xrange(stream, f"({after}", "+", PAGE)


def texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return an entry's fields as text."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in fields.items()
    }


def warn_of_eviction(link: RedisLink) -> None:
    """Log a warning if the server may throw away what it holds, to make room."""
    try:
        policy = link.call(lambda client: client.info("memory")).get("maxmemory_policy", "")
    except RedisRefusedError:
        return  # a user who may not ask
    if policy.startswith("allkeys"):
        log.warning(
            "Redis has maxmemory-policy %s: when it is full it may evict streams and positions, "
            "which no one can tell from a loss; set it to noeviction", policy,
        )  # fmt: skip


def newest_id(client: redis.Redis, stream: str) -> str:
    """Return the newest id that a stream has had; 0-0 if there is no such stream."""
    if not client.exists(stream):
        return FIRST_ID
    newest: bytes = client.xinfo_stream(stream)["last-generated-id"]
    return newest.decode()


def send(client: redis.Redis, *command: str | int | bytes) -> Any:
    """Send a command word for word and return the server's answer."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def send_all(client: redis.Redis, *commands: tuple[str | int | bytes, ...]) -> list[Any]:
    """Send commands in one go, word for word, and return the server's answers in order.

    What the server refuses has the error as its answer; a lost connection raises. That is
    redis-py's pipeline, or a single command, for a third less processor time.
    """
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_answer(connection) for _ in commands]
    finally:
        pool.release(connection)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def can_pass(error: BaseException) -> bool:
    """Tell whether waiting may cure the error."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return not _is_tls_refusal(error)
    if not isinstance(error, redis.RedisError):
        return False
    # A pipeline's error quotes the command first, and a symbol may be called OOM.
    text = str(error).rpartition("of pipeline caused error: ")[2]
    return error.status_code in _PASSING_CODES or bool(_PASSING_CODE.search(text))


def explain(error: BaseException) -> str:
    """Say in one line what Redis refused and what to do."""
    if isinstance(error, redis.AuthenticationError):
        return f"Redis refuses the login: {error}; check user and password in REDIS_URL"
    if _is_tls_refusal(error):
        return f"no TLS connection to Redis: {_root(error)}; check REDIS_URL and the certificates"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"the Redis user in REDIS_URL lacks a permission: {error}"
    if isinstance(error, redis.exceptions.InvalidResponse):
        return f"what answers at REDIS_URL does not answer as Redis does: {error}"
    told = f"Redis refuses a command: {error}"
    if "WRONGTYPE" in told:  # the server does not say which key
        told += "; one of the keys that settings name holds something else, see TYPE of each"
    return told


def _is_tls_refusal(error: BaseException) -> bool:
    # A peer that hangs up is one that restarts.
    root = _root(error)
    return isinstance(root, ssl.SSLError) and not isinstance(
        root, ssl.SSLEOFError | ssl.SSLZeroReturnError
    )


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
