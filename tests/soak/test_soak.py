"""The long chaos run, and the model explored deeper: `make soak`, outside CI. Prints its figures.

LOTSTREAM_SOAK_KILLS says how often each kind of run is killed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.support import chaos, rare
from tests.support.explorer import explore
from tests.support.model import Setting
from tests.support.servers import RedisServer

KILLS = int(os.environ.get("LOTSTREAM_SOAK_KILLS", "300"))

KINDS: dict[str, dict[str, Any]] = {
    "with recovery": {},
    "without recovery, by hand": {"recovery": False, "wild": False},
    "without recovery": {"recovery": False},
    "two workers, two streams": {"partitions": 2, "arguments": ("-w", "2")},
}


@pytest.mark.soak
@pytest.mark.timeout(20 * KILLS + 300)
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_kills_cost_nothing(
    redis_server: RedisServer,
    redis: redis_py.Redis,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    ran = chaos.run(tmp_path, redis_server, seed=chaos.new_seed(), kills=KILLS, **KINDS[kind])
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {ran.kills} kills ({ran.cut_off} in the middle of a recovery snapshot), "
            f"{ran.entries} entries, {ran.rows} rows, {ran.dead} dead letters, {ran.hash_reads} "
            f"reads of the hash ({ran.values} values, each that of some prefix of the stream): "
            f"0 lost, 0 doubled, 0 backwards\n"
        )


@pytest.mark.soak
@pytest.mark.timeout(20 * KILLS + 300)
def test_the_rare_paths_are_all_taken(
    redis_server: RedisServer, redis: redis_py.Redis, tmp_path: Path
) -> None:
    reached = tmp_path / "reached"
    chaos.run(
        tmp_path, redis_server, seed=chaos.new_seed(), kills=KILLS, backlogs=max(1, KILLS // 8),
        reached=reached,
    )  # fmt: skip
    assert rare.not_taken(reached) == set()


DEEPER = {
    "four entries": Setting("abab"),
    "three crashes": Setting("aba", crashes=3),
    "two workers": Setting("aba", workers=2),
    "two workers, four entries": Setting("abba", workers=2, crashes=1),
    "two workers, the recovery directory lost": Setting("aba", workers=2, loses_store=True),
    "two workers, Redis forgets": Setting("aba", workers=2, crashes=1, forgets=1),
    "Redis forgets twice": Setting("aba", crashes=1, forgets=2),
}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", DEEPER)
def test_a_model_in_which_more_happens_finds_nothing(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = explore(DEEPER[name])
    assert (found.violation, found.way) == (None, [])
    with capsys.disabled():
        sys.stdout.write(f"\nmodel, {name}: {found.states:,} states\n")
