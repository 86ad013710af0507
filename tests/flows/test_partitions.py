"""Shared nothing: a flow for each partition, each with its own recovery directory."""

from contextlib import ExitStack
from pathlib import Path
from threading import Event

from redis import Redis

from connectors.redis.link import RedisLink
from connectors.redis.publisher import Publisher
from state.keys import partition_of
from tests.support.flow_process import FlowProcess, group, outcome, parts, read_stream
from tests.support.scaling import Ledger, flow_of, found

TWO = ("executions:0", "executions:1")
SYMBOLS = ("AAPL", "MSFT", "TSLA")


def _two(running: ExitStack, tmp_path: Path, redis_url: str) -> tuple[FlowProcess, FlowProcess]:
    first, second = (flow_of(tmp_path, redis_url, partition, 2) for partition in range(2))
    return running.enter_context(first), running.enter_context(second)


def test_two_flows_with_a_partition_each_get_every_position_right_whichever_is_killed(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    ledger = Ledger(redis, seed=1)
    ledger.publish(500, 2)
    first, second = _two(running, tmp_path, redis_url)
    second.until_committed(redis, TWO[1])
    first.kill()
    ledger.publish(500, 2)
    second.until_committed(redis, TWO[1])  # does not mind that the other is dead
    first.start()
    first.until(lambda: group(redis, TWO[0]), "the first goes on")
    second.kill()
    ledger.publish(500, 2)
    second.start()
    first.until_committed(redis, TWO[0])
    second.until_committed(redis, TWO[1])
    assert (first.stop(), second.stop()) == (0, 0)
    assert found(redis, tmp_path / "data", 2) == ledger.expected()


def test_each_partition_has_its_own_dead_letters_progress_and_files(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    Ledger(redis, seed=2).publish(300, 2)
    for number, flow in enumerate(_two(running, tmp_path, redis_url)):
        flow.until_committed(redis, TWO[number])
        flow.stop()
    for number, stream in enumerate(TWO):
        ids = {entry for entry, _ in read_stream(redis, stream)}
        letters = read_stream(redis, f"executions:dead:{number}")
        assert letters
        assert all(fields[-3:] == [stream.encode(), b"source_id", entry.encode()]
                   for entry, fields in letters)  # fmt: skip
        assert {entry for entry, _ in letters} <= ids
    names = {path.name.split(".")[1] for path in parts(tmp_path / "data", "positions")}
    assert names == {"0", "1"}


def test_an_entry_in_a_partition_where_its_key_does_not_live_is_a_dead_letter(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    Publisher(RedisLink(redis_url, Event()), TWO).publish(*map(_buy, SYMBOLS, (1, 2, 3)))
    right = [partition_of(symbol, 2) for symbol in SYMBOLS]
    assert len(set(right)) == 2  # else this shows nothing
    for symbol, partition in zip(SYMBOLS, right, strict=True):
        redis.xadd(TWO[1 - partition], _buy(symbol, 100))  # type: ignore[arg-type]
    for number, flow in enumerate(_two(running, tmp_path, redis_url)):
        flow.until_committed(redis, TWO[number])
    seen = outcome(redis, tmp_path / "data", dead=("executions:dead:0", "executions:dead:1"))
    assert {key: int(value["qty"]) for key, value in seen.hash.items()} == dict(
        zip(SYMBOLS, (1, 2, 3), strict=True)
    )
    letters = [letter for n in range(2) for letter in read_stream(redis, f"executions:dead:{n}")]
    reasons = {fields[-5].decode() for _, fields in letters}
    assert len(letters) == 3
    assert any(
        reason.startswith(f"symbol: expected a key of stream {TWO[1 - right[0]]!r}")
        and f"found {SYMBOLS[0]!r}, which lives in {TWO[right[0]]!r}" in reason
        for reason in reasons
    ), reasons


def _buy(symbol: str, qty: int) -> dict[str, str]:
    return {
        "symbol": symbol, "side": "BUY", "fill_qty": str(qty), "fill_price": "1",
        "order_id": "1", "exec_id": f"{symbol}-{qty}", "timestamp": "1784073600000",
    }  # fmt: skip


def test_neither_another_number_of_partitions_nor_a_second_reader_of_one_is_let_in(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    ledger = Ledger(redis, seed=4)
    ledger.publish(50, 2)
    first, second = _two(running, tmp_path, redis_url)
    first.until_committed(redis, TWO[0])
    data = str(first.data_dir)
    again = running.enter_context(
        FlowProcess(
            tmp_path / "again", redis_url, STREAM_PARTITIONS="2", OWN_PARTITIONS="0", DATA_DIR=data
        )
    )
    other = running.enter_context(
        FlowProcess(tmp_path / "other", redis_url, STREAM_PARTITIONS="4", DATA_DIR=data)
    )
    assert again.wait() != 0
    assert f"is held by process {first.pid}" in again.log
    assert other.wait() == 1
    assert other.log.splitlines()[-1].startswith(
        "lotstream: STREAM_PARTITIONS: expected 2, as stream 'executions' has had so far, found 4;"
    )
    second.until_committed(redis, TWO[1])
    assert found(redis, tmp_path / "data", 2) == ledger.expected()


def test_a_partition_moves_to_another_process_without_its_state_by_being_read_again(
    running: ExitStack, tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    ledger = Ledger(redis, seed=5)
    ledger.publish(400, 2)
    first, second = _two(running, tmp_path, redis_url)
    first.until_committed(redis, TWO[0])
    first.kill()
    second.until_committed(redis, TWO[1])
    second.stop()
    both = FlowProcess(
        tmp_path / "both", redis_url, STREAM_PARTITIONS="2", DATA_DIR=str(first.data_dir)
    )
    running.enter_context(both)
    ledger.publish(100, 2)
    both.until_committed(redis, *TWO)
    both.stop()
    assert found(redis, tmp_path / "data", 2) == ledger.expected()
