"""What a running flow tells of itself: metrics, its log, and that it is there."""

import re
import urllib.request
from pathlib import Path
from typing import Any

import redis as redis_py
from prometheus_client.parser import text_string_to_metric_families

from connectors.redis.overview import OverviewReader
from tests.support.flow_process import FlowProcess
from tests.support.servers import free_port

ID = "0000e0d5.6596b0d2.01"
BUY: dict[Any, Any] = {
    "symbol": "AAPL", "side": "BUY", "fill_qty": "10", "fill_price": "150.25", "order_id": "1",
    "exec_id": f"{ID}.01", "timestamp": "1700000001000",
}  # fmt: skip


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_flow_counts_what_becomes_of_executions(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    port = free_port()
    for message in (
        BUY,
        BUY,
        {**BUY, "exec_id": f"{ID}.02", "fill_qty": "12"},
        {**BUY, "exec_id": "late", "timestamp": "1700000000000", "side": "SELL", "fill_qty": "4"},
        {**BUY, "side": "HOLD"},
    ):
        redis.xadd("executions", message)
    with FlowProcess(tmp_path, redis_url, METRICS_PORT=str(port)) as flow:
        flow.until_committed(redis)
        flow.until(lambda: redis.xlen("executions:dead"), "a dead letter")
        seen = scrape(port)
        assert flow.stop() == 0
    assert seen["lotstream_executions_booked_total"] == 3
    assert seen["lotstream_executions_duplicate_total"] == 1
    assert seen["lotstream_executions_corrected_total"] == 1
    assert seen["lotstream_executions_late_total"] == 1
    assert seen["lotstream_dead_letters_total{side}"] == 1
    assert seen["lotstream_batch_entries_sum"] == 5
    assert seen["lotstream_epoch_close_seconds_count"] >= 1
    assert seen["lotstream_parquet_rows_total{positions}"] == 3
    assert seen["lotstream_parquet_files_total{positions}"] >= 1
    assert seen["lotstream_redis_up"] == 1
    assert seen["lotstream_stream_lag_entries{executions}"] == 0
    assert seen["lotstream_positions_open"] == 1


def test_a_flow_with_nothing_to_do_is_heard_of_and_one_that_is_gone_is_not(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    reader = OverviewReader(
        redis_url, streams=["executions"], letters=["executions:dead"], positions_hash="positions"
    )

    def silent_s() -> float:
        silent = reader.read().streams[0].flow_silent_s
        return 1e9 if silent is None else silent

    redis.xadd("executions", BUY)
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        flow.until(lambda: silent_s() < 2, "the flow to be heard of")
        flow.kill()
    was = silent_s()
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until(lambda: silent_s() < was, "the next run to be heard of")
    reader.close()


def test_a_flow_tells_each_change_when_live_and_a_sum_when_it_catches_up(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path
) -> None:
    with redis.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.xadd("executions", {**BUY, "symbol": f"S{number % 50}", "exec_id": f"e{number}"})
        pipe.execute()
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until_committed(redis)
        redis.xadd("executions", BUY)
        flow.until(lambda: "change: +10" in flow.log, "the first change")  # alone in its read
        redis.xadd("executions", {**BUY, "exec_id": "e", "side": "SELL", "fill_qty": "4"})
        flow.until(lambda: "change: -4" in flow.log, "both changes")
        told = flow.messages("info")
    changes = [message for message in told if message.startswith("Position updated: AAPL")]
    assert changes[-1] == "Position updated: AAPL = 6 @ 150.25 (change: -4)"
    sums = [message for message in told if message.startswith("Processed")]
    assert re.fullmatch(r"Processed 5,000 executions \(errors: 0\), [\d,]+/s, 0 to go", sums[0]), (
        told
    )
