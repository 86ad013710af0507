"""Killed again and again under live input: nothing lost, nothing doubled, nothing goes back.

See tests/chaos.py for what is done and checked; `make soak` does it for much longer.
"""

from pathlib import Path

import pytest
import redis as redis_py

from tests.support import chaos, rare
from tests.support.servers import RedisServer


@pytest.fixture(autouse=True)
def _empty(redis: redis_py.Redis) -> None:
    """Begin with an empty server."""


def test_dozens_of_kills_cost_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    ran = chaos.run(tmp_path, redis_server, seed=chaos.new_seed(), kills=32)
    assert ran.rows > 1000
    assert ran.dead > 10
    assert ran.hash_reads > 1000
    assert ran.values > 20


def test_kills_without_a_recovery_directory_cost_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """The oracle of this one shares no code with the flow."""
    ran = chaos.run(
        tmp_path, redis_server, seed=chaos.new_seed(), kills=12, recovery=False, wild=False
    )
    assert ran.rows > 1000


def test_kills_of_two_workers_on_two_streams_cost_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    ran = chaos.run(
        tmp_path, redis_server, seed=chaos.new_seed(), kills=12, partitions=2,
        arguments=("-w", "2"),
    )  # fmt: skip
    assert ran.rows > 1000


def test_the_lines_of_rare_paths_are_where_they_are_looked_for() -> None:
    assert len(rare.lines()) > 10
