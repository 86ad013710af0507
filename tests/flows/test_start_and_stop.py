"""What a person sees of the main job: where it begins, that it ends, and why it stopped."""

import os
import sys
from pathlib import Path

import redis as redis_py

from flows.common.process import Program
from tests.support.flow_process import DEADLINE_S, FlowProcess, add, group, row_count


def publish(client: redis_py.Redis, *numbers: int) -> str:
    for number in numbers:
        newest = add(
            client,
            {
                "symbol": f"S{number % 7}", "side": "BUY", "fill_qty": "1", "fill_price": "10",
                "order_id": "1", "exec_id": f"e{number}", "timestamp": f"{178_400_000 + number}000",
            },
        )  # fmt: skip
    return newest


def last_line(program: Program) -> str:
    return program.log.splitlines()[-1]


def test_one_line_at_the_start_one_at_the_end_and_a_second_flow_is_turned_away(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "DATA_DIR": str(data)}
    newest = publish(redis, *range(200))
    command = [sys.executable, "-m", "flows", "run"]
    with Program(command, tmp_path / "log", environment, group=True) as flow:
        flow.until(lambda: group(redis) == newest, "all", DEADLINE_S)
        assert flow.stop(deadline_s=DEADLINE_S) == 0
        assert "started: stream executions, 1 partition, from its beginning; " in flow.log
        assert f"DATA_DIR {data}, recovery directory {data / 'recovery'}" in flow.log
        assert "Processed 200 executions" in flow.log
        assert "Position updated" not in flow.log  # 200 at once are no news of each
        assert last_line(flow).endswith('message="stopped, as told to"')
        flow.start()
        flow.until(lambda: f"1 partition, from after {newest};" in flow.log, "start", DEADLINE_S)
        publish(redis, 200)
        changed = "Position updated: S4 = 29 @ 10 (change: +1)"
        flow.until(lambda: changed in flow.log, "a line", DEADLINE_S)
        with FlowProcess(tmp_path / "other", redis_url, DATA_DIR=str(data)) as second:
            assert second.wait() == 1
            assert f"stopped: DATA_DIR is in use: {data}" in last_line(second)
            assert f"process {flow.pid}" in last_line(second)
            assert "Position updated" not in second.log
        assert flow.stop(deadline_s=DEADLINE_S) == 0
    assert row_count(data, "positions") == 201


def test_a_clear_stop_is_the_last_word_and_the_rest_is_for_debugging(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with FlowProcess(tmp_path, redis_url) as flow:
        publish(redis, 1)
        flow.until_committed(redis)
        assert flow.stop() == 0
    redis.flushall()
    for level, engine_heard in (("INFO", False), ("DEBUG", True)):
        with FlowProcess(tmp_path, redis_url, LOG_LEVEL=level) as flow:
            assert flow.wait() == 1
            assert "ACCEPT_GAP=" in flow.messages("critical")[0]
            assert ("ACCEPT_GAP=" in last_line(flow)) != engine_heard
            assert ("Traceback" in flow.log) == engine_heard
            assert ("panicked" in flow.log) == engine_heard


def test_a_file_in_the_place_of_data_dir_is_said_before_the_first_entry(
    redis_url: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.write_text("no directory")
    with FlowProcess(tmp_path, redis_url, DATA_DIR=str(data)) as flow:
        assert flow.wait() == 1
        assert last_line(flow) == (
            f"lotstream: DATA_DIR: expected a directory, which is made if there is none, found "
            f"'{data}'"
        )
