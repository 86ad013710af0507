"""Fixtures: a server that tests share, cleared for each, and servers of a test's own.

Every test that uses one of them carries the marker `server`, so that they can be run
alone on another server (LOTSTREAM_TEST_SERVER, see tests/support/servers.py). Every test
that stands in a file that starts programs, or has a fixture of one, carries `process`:
`make quick` leaves out both.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
import redis as redis_py
from hypothesis import settings

from flows.common.process import Program
from tests.support import needs
from tests.support.commands import run_apart
from tests.support.flow_process import FlowProcess
from tests.support.servers import RedisServer

_STARTERS = (subprocess, run_apart, Program, FlowProcess, RedisServer)
"""Tests and fixtures of a file that knows one of them start programs."""

# For `make quick`: what holds for few examples is tried with more by `make test`.
settings.register_profile("quick", max_examples=5, stateful_step_count=20)


class OwnServer(Protocol):
    """What `own_server` gives: start a server of the test's own, configured at will."""

    def __call__(self, *, appendonly: bool = False, **config: str | int) -> RedisServer: ...


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known: dict[int, bool] = {}
    for item in items:
        if {"redis_server", "own_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
        for names in _surroundings(item):
            if id(names) not in known:
                known[id(names)] = starts_programs(names)
            if known[id(names)]:
                item.add_marker(pytest.mark.process)


def _surroundings(item: pytest.Item) -> Iterator[Mapping[str, object]]:
    """Yield the names that stand in a test's file, and in those of its fixtures."""
    if isinstance(item, pytest.Function):
        yield vars(item.module)
        for fixtures in item._fixtureinfo.name2fixturedefs.values():
            yield from (getattr(fixture.func, "__globals__", {}) for fixture in fixtures)


def starts_programs(names: Mapping[str, object]) -> bool:
    """Tell whether a file with these names at its top starts programs, or a broker's double."""
    return any(
        any(value is starter for starter in _STARTERS)
        or getattr(value, "__module__", "") == "tests.support.tws_double"
        for value in names.values()
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if line := needs.summary(str(report.longrepr) for report in skipped):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The server that tests share; ask for `redis` or `redis_url` to have it empty."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[redis_py.Redis]:
    """A client of the shared server, which is empty."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: RedisServer, redis: redis_py.Redis) -> str:
    """The address of the shared server, which is empty."""
    return redis_server.url


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """What ends, with the test, all that has entered it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """Start servers that the test may stop, kill, fill up and configure."""
    with ExitStack() as running:

        def start(*, appendonly: bool = False, **config: str | int) -> RedisServer:
            server = RedisServer(
                tmp_path / f"redis-{len(servers)}", appendonly=appendonly, **config
            )
            servers.append(server)
            return running.enter_context(server)

        servers: list[RedisServer] = []
        yield start
