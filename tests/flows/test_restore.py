"""Backup and restore as the runbook says: a backup goes on, what is lost is made anew."""

import shutil
from pathlib import Path

import pytest
import redis as redis_py

from tests.conftest import OwnServer
from tests.support import naive
from tests.support.flow_process import FlowProcess, add, outcome, read_stream

DIRECTORIES = ("recovery", "data")


def trade(redis: redis_py.Redis, *numbers: int) -> None:
    for number in numbers:
        add(
            redis,
            {
                "symbol": "AB"[number % 2], "side": ("BUY", "BUY", "SELL")[number % 3],
                "fill_qty": "3", "fill_price": str(100 + number), "order_id": "1",
                "exec_id": f"e{number}", "timestamp": str(1_784_000_000_000 + number),
            },
        )  # fmt: skip


def run(flow: FlowProcess, redis: redis_py.Redis) -> None:
    with flow:
        flow.until_committed(redis)
        assert flow.stop() == 0


def is_as_if_nothing_had_happened(flow: FlowProcess, redis: redis_py.Redis) -> bool:
    return outcome(redis, flow.data_dir) == naive.by_stream(redis)


def test_a_backup_of_both_directories_goes_on_where_it_was_made(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    flow = FlowProcess(tmp_path / "flow", redis_url)
    trade(redis, *range(20))
    run(flow, redis)
    for name in DIRECTORIES:
        shutil.copytree(tmp_path / "flow" / name, tmp_path / "backup" / name)
    trade(redis, *range(20, 40))
    run(flow, redis)
    for name in DIRECTORIES:
        shutil.rmtree(tmp_path / "flow" / name)
        shutil.copytree(tmp_path / "backup" / name, tmp_path / "flow" / name)
    trade(redis, *range(40, 60))
    run(flow, redis)
    assert is_as_if_nothing_had_happened(flow, redis)


def test_a_backup_of_everything_is_restored_and_goes_on(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(appendonly=True)
    flow = FlowProcess(tmp_path / "flow", server.url)
    with server.client() as client:
        trade(client, *range(20))
        run(flow, client)
        for name in DIRECTORIES:
            shutil.copytree(tmp_path / "flow" / name, tmp_path / "backup" / name)
        trade(client, *range(20, 25))  # producers go on; Redis is copied last
    server.stop()
    shutil.copytree(server.directory, tmp_path / "backup" / "redis")
    for name in DIRECTORIES:
        shutil.rmtree(tmp_path / "flow" / name)
        shutil.copytree(tmp_path / "backup" / name, tmp_path / "flow" / name)
    shutil.rmtree(server.directory)
    shutil.copytree(tmp_path / "backup" / "redis", server.directory)
    server.start()
    with server.client() as client:
        trade(client, *range(25, 30))
        run(flow, client)
        assert len(read_stream(client, "executions")) == 30
        assert is_as_if_nothing_had_happened(flow, client)


@pytest.mark.parametrize("lost", [("recovery",), DIRECTORIES])
def test_a_whole_stream_makes_anew_what_is_lost(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    flow = FlowProcess(tmp_path / "flow", redis_url)
    trade(redis, *range(20))
    run(flow, redis)
    for name in lost:
        shutil.rmtree(tmp_path / "flow" / name)
    trade(redis, *range(20, 40))
    run(flow, redis)
    assert is_as_if_nothing_had_happened(flow, redis)
