"""Bytewax's cluster: several processes, one flow, one recovery directory."""

import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from redis import Redis

from flows.common.settings import partition_names
from tests.support.flow_process import FlowProcess, until
from tests.support.follower import newest
from tests.support.scaling import Ledger, found
from tests.support.servers import free_port

TWO = ("executions:0", "executions:1")


def cluster(
    running: ExitStack, directory: Path, url: str, size: int, *, recovery: Sequence[str] = ()
) -> list[FlowProcess]:
    """Start a cluster whose processes share a recovery directory, or have those named."""
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(size))
    shared = [str(directory / "recovery")] * size
    return [
        running.enter_context(
            FlowProcess(
                directory / f"process-{number}-of-{size}",
                url,
                recovery=False,
                arguments=["-r", where, "-b", "0", "-i", str(number), "-a", addresses],
                STREAM_PARTITIONS="2",
                DATA_DIR=str(directory / "data"),
            )
        )
        for number, where in enumerate(recovery or shared)
    ]


def _until_committed(processes: list[FlowProcess], redis: Redis) -> None:
    for process in processes:
        process.until_committed(redis, *TWO)


def _stop(processes: list[FlowProcess]) -> None:
    for process in processes:
        process.send(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0] * len(processes)


def test_a_cluster_of_two_one_killed_then_three_then_one_gets_every_position_right(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    ledger = Ledger(redis, seed=11)
    ledger.publish(400, 2)
    pair = cluster(running, tmp_path, redis_url, 2)
    _until_committed(pair, redis)
    ledger.publish(400, 2)
    pair[1].kill()
    assert pair[0].wait() != 0  # Bytewax ends all when one dies
    assert found(redis, tmp_path / "data", 2).hash.keys() == ledger.expected().hash.keys()
    for process in pair:
        process.start()
    _until_committed(pair, redis)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()
    ledger.publish(200, 2)
    for process in pair:
        process.kill()
    three = cluster(running, tmp_path, redis_url, 3)
    ledger.publish(200, 2)
    _until_committed(three, redis)
    _stop(three)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()
    alone = FlowProcess(tmp_path, redis_url, STREAM_PARTITIONS="2", DATA_DIR=str(tmp_path / "data"))
    running.enter_context(alone)
    ledger.publish(200, 2)
    alone.until_committed(redis, *TWO)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()
    changes = partition_names("positions:changes", 2)
    assert newest(redis, *changes) == ledger.expected().hash


def test_a_cluster_whose_processes_do_not_share_their_recovery_directory_never_runs(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    # Each would restore its part only, and positions could be wrong without a word.
    Ledger(redis, seed=12).publish(50, 2)
    apart = [str(tmp_path / "one"), str(tmp_path / "other")]
    pair = cluster(running, tmp_path, redis_url, 2, recovery=apart)
    for number, process in enumerate(pair):
        said = f"waiting for process {1 - number} of the cluster to join in {apart[number]}"
        process.until(lambda: said in process.log, said)  # noqa: B023
    assert not redis.hgetall("positions")
    _stop(pair)  # also while it waits


def test_a_process_that_is_started_again_before_all_have_joined_joins_again(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    ledger = Ledger(redis, seed=13)
    ledger.publish(50, 2)
    with ExitStack() as stack:
        first, second, last = cluster(stack, tmp_path, redis_url, 3)
        last.kill()
        for process in (first, second):
            process.until(lambda: "waiting for process" in process.log, "it waits")  # noqa: B023
        second.kill()
        second.start()
        second.until(lambda: "waiting for process 2" in second.log, "it waits again")
        last.start()
        _until_committed([first, second, last], redis)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()


def test_a_process_that_dies_just_before_the_others_begin_is_not_waited_for_for_ever(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    # Bytewax would try to reach it for ever, and it would wait for them to end.
    ledger = Ledger(redis, seed=14)
    ledger.publish(50, 2)
    first, second, last = three = cluster(running, tmp_path, redis_url, 3)
    last.kill()
    second.until(lambda: "waiting for process 2" in second.log, "it waits")
    first.until(lambda: "waiting for process 2" in first.log, "it waits")
    second.kill()
    last.start()
    members = tmp_path / "recovery" / "members.json"
    last.until(lambda: set(json.loads(members.read_text())[2]) == {0, 1, 2}, "all have joined")
    second.start()
    for process in (first, last):
        assert process.wait() != 0
        assert "another process of the cluster was started anew" in process.log
        process.start()
    _until_committed(three, redis)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()


def test_one_process_of_a_cluster_is_never_there_twice(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    Ledger(redis, seed=15).publish(50, 2)
    first, second = cluster(running, tmp_path, redis_url, 2)
    _until_committed([first, second], redis)
    twin = FlowProcess(
        tmp_path / "twin", redis_url, recovery=False, arguments=first.arguments, **first.settings
    )
    assert running.enter_context(twin).wait() == 1
    assert f"process-0.lock is held by process {first.pid}" in twin.log
    until(lambda: first.running and second.running, "the cluster goes on", deadline_s=1)
