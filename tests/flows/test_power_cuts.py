"""The power goes: the disk has what was synced, and of the rest anything; nothing is lost.

See tests/support/forgetful_disk.py for what a disk may hold then; `make soak` cuts before
each system call of the run.
"""

import random
from pathlib import Path

from tests.support import crashes
from tests.support.chaos import new_seed
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.servers import RedisServer
from tests.support.system_calls import Call

_POINTS, _CUTS = 4, 3


def test_what_a_power_cut_leaves_is_enough_to_go_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    rng = random.Random(new_seed())
    points = crashes.Crash(tmp_path / "whole", redis_server).points()
    for point in rng.sample(points, _POINTS):
        crash = crashes.Crash(tmp_path / point.replace(" ", "-"), redis_server)
        crash.lose_power(point, rng, _CUTS)


class _Said(Call):
    """A call with all that a disk asks it for."""

    paths: list[str] = []  # noqa: RUF012
    data, offset = b"", 0


def _call(kind: str, *paths: Path, data: bytes = b"", flags: int = 0o100) -> Call:
    said = _Said(kind, 0, (0, 0, flags))
    said.paths, said.data = [str(path) for path in paths], data
    return said


def test_a_disk_keeps_what_was_synced_and_forgets_the_rest(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (file, moved), rng = (root / "a", root / "b"), random.Random(1)
    disk = ForgetfulDisk(root)
    ways: dict[str, set[bytes | None]] = {"a": set(), "b": set()}
    for call in (_call("mkdir", root), _call("openat", file)):
        assert disk.see(call) is None
    disk.see(_call("write", file, data=b"whole"))
    assert disk.see(_call("fsync", file)) == 0
    disk.cut(rng)
    assert not root.exists() or not file.exists() or file.read_bytes() == b"whole"
    disk.see(_call("fsync", tmp_path))
    disk.see(_call("fsync", root))
    disk.see(_call("write", file, data=b"W"))
    disk.see(_call("rename", file, moved))
    for _ in range(50):
        disk.cut(rng)
        for name, found in ways.items():
            path = root / name
            found.add(path.read_bytes() if path.exists() else None)
    assert ways == {"a": {None, b"whole", b"Whole"}, "b": {None, b"whole", b"Whole"}}
    disk.see(_call("fsync", root))
    disk.see(_call("fsync", moved))
    disk.cut(rng)
    assert moved.read_bytes() == b"Whole"
    assert not file.exists()
