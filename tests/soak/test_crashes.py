"""Before each system call of a run the flow is killed, or the power is cut: `make soak`."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import crashes
from tests.support.chaos import new_seed
from tests.support.servers import RedisServer

_CUTS = 3
"""At each point: what was not synced may be there or not in many ways."""


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("recovery", [True, False])
@pytest.mark.parametrize("kills", [1, 2])
def test_a_kill_before_each_system_call_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kills: int, recovery: bool
) -> None:
    """kills: the second comes at any point of the start after the first."""
    rng = random.Random(new_seed())
    points = crashes.points(tmp_path, recovery=recovery)
    tried = [[point, *rng.choices(points, k=kills - 1)] for point in points]

    def act(directory: Path, server: RedisServer, at: list[str]) -> None:
        crashes.Crash(directory, server, recovery=recovery).die_and_recover(at)

    failed = crashes.try_all(tmp_path, tried, act)
    with capsys.disabled():
        kinds = Counter(point.split()[0] for point in points)
        sys.stdout.write(
            f"\nkilled {kills} times, {'with' if recovery else 'without'} recovery: "
            f"{len(tried)} points {dict(kinds)}: {len(failed)} failed\n"
        )
    assert failed == {}


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_a_power_cut_before_each_system_call_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = new_seed()
    points = crashes.points(tmp_path)

    def act(directory: Path, server: RedisServer, point: str) -> None:
        rng = random.Random(f"{seed} {point}")
        crashes.Crash(directory, server).lose_power(point, rng, _CUTS)

    failed = crashes.try_all(tmp_path, points, act)
    with capsys.disabled():
        sys.stdout.write(f"\n{_CUTS} power cuts at {len(points)} points: {len(failed)} failed\n")
    assert failed == {}
