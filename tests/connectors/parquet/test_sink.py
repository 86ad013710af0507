"""The Parquet sink through the flow: what crashes and mishaps at its worst moments leave."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.file_lock import FileLock
from tests.support import naive
from tests.support.flow_process import (
    FlowProcess,
    group,
    order,
    outcome,
    parts,
    read_stream,
    until,
)

EXECUTION = {
    "side": "BUY",
    "fill_qty": "1",
    "fill_price": "1",
    "order_id": "1",
    "timestamp": "1700000000000",
}


def publish(client: redis_py.Redis, *numbers: int) -> None:
    """Add executions all at once, so that one read, and so one epoch, has all of them."""
    with client.pipeline(transaction=True) as pipeline:
        for number in numbers:
            side = "SELL" if number % 3 == 0 else "BUY"
            fields: dict[Any, Any] = {"symbol": f"S{number % 2}", "exec_id": number, "side": side}
            pipeline.xadd("executions", EXECUTION | fields)
        pipeline.execute()


def assert_exact(client: redis_py.Redis, flow: FlowProcess, *, rows: int) -> None:
    expected = naive.by_book("executions", read_stream(client, "executions"))
    assert outcome(client, flow.data_dir) == expected
    assert len(expected.positions) == rows


def own_files(flow: FlowProcess) -> list[Path]:
    return list((flow.data_dir / ".lotstream" / "executions").glob("*.parquet"))


def manifest(flow: FlowProcess) -> Any:
    path = flow.data_dir / ".lotstream" / "executions" / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {"last_id": "0-0"}


def newest_id(client: redis_py.Redis) -> str:
    return read_stream(client, "executions")[-1][0]


@pytest.mark.parametrize("recovery", [True, False])
def test_a_commit_that_a_crash_cut_off_before_its_files_were_in_place_is_finished(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path, recovery: bool
) -> None:
    flow = FlowProcess(tmp_path, redis_url, recovery=recovery)
    publish(redis, *range(6))
    with flow:
        until(lambda: manifest(flow)["last_id"] == newest_id(redis), "the first rows")
        flow.until_committed(redis)
        hold_back = FileLock(flow.data_dir / ".lotstream" / "publish.lock")
        hold_back.acquire(wait_s=20)
        committed = newest_id(redis)
        publish(redis, *range(6, 12))
        flow.until(lambda: manifest(flow)["last_id"] == newest_id(redis), "the commit")
        seen = parts(flow.data_dir, "positions")
        flow.kill()
        assert parts(flow.data_dir, "positions") == seen
        assert own_files(flow)
        assert group(redis) == committed
        hold_back.close()
        flow.start()
        flow.until_committed(redis)
        assert flow.stop() == 0
    assert own_files(flow) == []
    assert_exact(redis, flow, rows=12)


def test_what_is_left_of_an_epoch_that_failed_is_not_taken_for_the_one_before(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    flow = FlowProcess(tmp_path, redis_url)
    publish(redis, *range(6))
    with flow:
        flow.until_committed(redis)
        in_the_way = flow.data_dir / ".lotstream" / "executions" / "manifest.tmp"
        in_the_way.mkdir()
        publish(redis, *range(6, 12))
        assert flow.wait() == 1
        [line] = flow.messages("critical")
        assert line.startswith("stopped: cannot write to DATA_DIR")
        assert own_files(flow)
        in_the_way.rmdir()
        flow.start()
        flow.until_committed(redis)
        assert flow.stop() == 0
    assert_exact(redis, flow, rows=12)


def test_a_rebuild_writes_no_row_twice_and_goes_on(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    first = FlowProcess(tmp_path, redis_url)
    publish(redis, *range(6))
    with first:
        first.until_committed(redis)
        assert first.stop() == 0
    files = parts(first.data_dir, "positions")
    publish(redis, *range(6, 9))
    with FlowProcess(tmp_path, redis_url, recovery=False) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
    assert set(files) < set(parts(flow.data_dir, "positions"))
    assert_exact(redis, flow, rows=9)


def test_a_recovery_directory_refuses_a_data_dir_that_is_not_its_own(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    publish(redis, 1)
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        assert flow.stop() == 0
    with FlowProcess(tmp_path, redis_url, DATA_DIR=str(tmp_path / "other")) as flow:
        assert flow.wait() == 1
        [line] = flow.messages("critical")
        assert newest_id(redis) in line
        assert line.endswith("a recovery directory and a DATA_DIR belong together")


def test_a_second_writer_of_a_streams_rows_is_refused_and_the_first_named(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    publish(redis, 1)
    settings = {"DATA_DIR": str(tmp_path / "data")}
    with (
        FlowProcess(tmp_path / "one", redis_url, recovery=False, **settings) as one,
        FlowProcess(tmp_path / "two", redis_url, recovery=False, **settings) as two,
    ):
        until(lambda: not (one.running and two.running), "one that gives up")
        loser, winner = (one, two) if two.running else (two, one)
        assert loser.wait() == 1
        [line] = loser.messages("critical")
        assert line.startswith("stopped: ")
        assert line.endswith(f"held by process {winner.pid}")
        assert winner.running
        winner.until_committed(redis)
        assert winner.stop() == 0


def test_each_file_appears_whole_and_stays_as_it_is(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    seen: dict[Path, tuple[int, int]] = {}
    publish(redis, number := 1)
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            publish(redis, number := number + 1)
            for path in parts(flow.data_dir, "positions"):
                stat = path.stat()
                assert seen.setdefault(path, (stat.st_ino, stat.st_size))[0] == stat.st_ino
                assert seen[path] == (stat.st_ino, stat.st_size)
        flow.until_committed(redis)
        assert flow.stop() == 0
    assert len(seen) > 1
    ids = [path.name.split(".")[-4:-2] for path in parts(flow.data_dir, "positions")]
    assert all(order(first) <= order(last) for first, last in ids)
    assert_exact(redis, flow, rows=number)
