"""A disk that cannot be written: the flow says so, stops, and later goes on.

On small file systems of their own, which only root may mount.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.support import naive
from tests.support.flow_process import FlowProcess, add, outcome, parts, read_hash
from tests.support.needs import need, need_right

EXECUTION = {"side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1"}

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a new memory file system with some options."""
    place = tmp_path / "disk"
    place.mkdir()

    def run(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            need_right("mount a file system", done.stderr.strip())
        return place

    need("mount")
    yield run
    if os.path.ismount(place):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def publish(client: redis_py.Redis, first: int, last: int) -> None:
    for number in range(first, last):
        fields = {
            "symbol": f"S{number % 3}",
            "exec_id": str(number),
            "timestamp": str(1_700_000_000_000 + number),
        }
        add(client, EXECUTION | fields)


def settings(data_dir: Path) -> Any:
    return {"DATA_DIR": str(data_dir)}


def assert_stopped(flow: FlowProcess, reason: str) -> None:
    assert flow.wait() == 1
    [line] = flow.messages("critical")
    assert line.startswith("stopped: ")
    assert "DATA_DIR" in line
    assert reason in line


def assert_exact(client: redis_py.Redis, flow: FlowProcess) -> None:
    assert outcome(client, flow.data_dir) == naive.by_stream(client)


def test_a_full_disk_stops_the_flow_and_room_lets_it_go_on(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, mount: Mount
) -> None:
    disk = mount("size=1m")
    publish(redis, 0, 50)
    with FlowProcess(tmp_path, redis_url, **settings(disk / "data")) as flow:
        flow.until_committed(redis)
        before = parts(flow.data_dir, "positions")
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(b"x" * (room.f_bavail - 1) * room.f_frsize)
        publish(redis, 50, 2050)
        assert_stopped(flow, "No space left on device")
        assert parts(flow.data_dir, "positions") == before
        flow.start()
        assert_stopped(flow, "No space left on device")
        assert parts(flow.data_dir, "positions") == before
        (disk / "filler").unlink()
        flow.start()
        flow.until_committed(redis)
        assert flow.stop() == 0
        assert_exact(redis, flow)


def test_a_disk_without_any_room_at_the_start_stops_the_flow(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, mount: Mount
) -> None:
    disk = mount("size=64k")
    (disk / "filler").write_bytes(b"x" * 64 * 1024)
    publish(redis, 0, 5)
    with FlowProcess(tmp_path, redis_url, **settings(disk / "data")) as flow:
        assert_stopped(flow, "No space left on device")


def test_a_full_disk_under_the_recovery_directory_stops_the_flow_and_room_lets_it_go_on(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, mount: Mount
) -> None:
    disk = mount("size=2m")
    both = ("-r", str(disk / "recovery"))
    publish(redis, 0, 50)
    with FlowProcess(tmp_path, redis_url, arguments=both, **settings(disk / "data")) as flow:
        flow.until_committed(redis)
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(b"x" * room.f_bavail * room.f_frsize)
        publish(redis, 50, 2050)
        for _ in range(2):
            assert flow.wait() == 1
            [line] = flow.messages("critical")
            assert line.startswith("stopped: ")
            assert str(disk) in line
            flow.start()
        flow.kill()
        (disk / "filler").unlink()
        flow.start()
        flow.until_committed(redis)
        assert flow.stop() == 0
        assert_exact(redis, flow)


@pytest.mark.parametrize("made", [True, False])
def test_a_read_only_data_dir_stops_the_flow_and_a_writable_one_lets_it_go_on(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, mount: Mount, made: bool
) -> None:
    disk = mount("size=8m")
    if made:
        (disk / "data").mkdir()
    remount = ["mount", "-o", "remount", str(disk)]
    subprocess.run([*remount[:-1], "-o", "ro", remount[-1]], check=True)
    publish(redis, 0, 50)
    with FlowProcess(tmp_path, redis_url, **settings(disk / "data")) as flow:
        assert_stopped(flow, "Read-only file system")
        subprocess.run([*remount[:-1], "-o", "rw", remount[-1]], check=True)
        flow.start()
        flow.until_committed(redis)
        assert flow.stop() == 0
        assert read_hash(redis).keys() == {"S0", "S1", "S2"}
        assert_exact(redis, flow)
