"""Killed just before a chosen system call, then started again: all is as if nothing happened.

See tests/support/crashes.py for how; `make soak` does it before each call of the run.
"""

import random
from pathlib import Path

from state.messages import TYPE_NAMES
from tests.support import crashes
from tests.support.chaos import new_seed
from tests.support.servers import RedisServer

_POINTS = 10


def test_the_script_has_messages_of_all_types_and_bad_ones() -> None:
    said = {fields.get("type", "execution") for part in crashes.PARTS for fields in part}
    assert said == set(TYPE_NAMES.values())
    assert len(crashes.EXPECTED.dead) == 2
    assert crashes.EXPECTED.hash["U1:A"]["con_id"] == 265598
    assert len({row["date"] for row in crashes.EXPECTED.positions}) == 2


def test_a_kill_just_before_any_system_call_costs_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Of each kind of call one, of the rarest kinds first, and one in the run after it."""
    rng = random.Random(new_seed())
    whole = crashes.Crash(tmp_path / "whole", redis_server)
    points = whole.points()
    whole.recover()
    by_kind: dict[str, list[str]] = {}
    for point in points:
        by_kind.setdefault(point.split()[0], []).append(point)
    assert by_kind.keys() >= {"fsync", "fdatasync", "pwrite64", "sendto", "recvfrom", "openat"}
    for kind in sorted(by_kind, key=lambda kind: len(by_kind[kind]))[:_POINTS]:
        chosen = [rng.choice(by_kind[kind]), rng.choice(points)]
        crash = crashes.Crash(tmp_path / kind, redis_server)
        crash.die_and_recover(chosen)
