"""The Parquet sink through the flow: what crashes and mishaps at its worst moments leave."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis as redis_py

from connectors.file_lock import FileLock, LockedError
from connectors.kept import DamagedError, unseal_values
from connectors.parquet import sink as sink_module
from connectors.parquet.files import DataDirError
from connectors.parquet.sink import ParquetSink
from connectors.parquet.tables import Table, tables
from state.book import Book
from state.records import FIRST_ID, Changes, Update
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
from tests.support.notation import message

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
    expected = naive.by_stream(client)
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


# --- the sink alone ---------------------------------------------------------------------------


def changes(symbol: str, *numbers: int, live: bool = True) -> Changes:
    """Return what one read changed in a position: a purchase for each entry `5-number`."""
    book, updates = Book(symbol), []
    for number in numbers:
        said = message("BUY 1 @ 1", number)
        applied = book.apply(said)
        assert applied is not None
        updates.append(Update(f"5-{number}", said, applied, book.snapshot()))
    stream_id = updates[-1].stream_id if updates else FIRST_ID
    return Changes("s", symbol, stream_id, book.snapshot(), updates, live)


def committed(
    data_dir: Path, *reads: list[Changes], resume_state: tuple[Any, ...] | None = None
) -> list[str]:
    """Let a run of the sink take in some reads, an epoch each; return what each came to."""
    part = ParquetSink(data_dir, ["s"]).build_part("", "s", resume_state)
    found: list[str] = []
    try:
        for read in reads:
            if read:
                part.write_batch(read)
            found += unseal_values("s", part.snapshot())
    finally:
        part.close()
    return found


def ids(data_dir: Path) -> list[str]:
    found = (pq.ParquetFile(path).read() for path in parts(data_dir, "positions"))
    return sorted(entry for table in found for entry in table["stream_id"].to_pylist())


def test_keys_whose_entries_come_in_another_order_are_written_once(tmp_path: Path) -> None:
    read = [changes("A", 1, 4), changes("B", 2, 3)]
    assert committed(tmp_path, [], read, []) == ["0-0", "5-4", "5-4"]
    assert committed(tmp_path, read, [changes("A", 1, 4, 5)]) == ["5-4", "5-5"]
    assert committed(tmp_path, [changes("A", 5, 6)]) == ["5-6"]
    assert ids(tmp_path) == [f"5-{number}" for number in range(1, 7)]


def test_what_only_shows_a_position_again_makes_no_row_and_no_commit(tmp_path: Path) -> None:
    assert committed(tmp_path, [changes("A"), changes("B", 2, 3)]) == ["5-3"]
    found = json.loads((tmp_path / ".lotstream" / "s" / "manifest.json").read_text())
    assert (found["first_id"], found["last_id"]) == ("5-2", "5-3")


def test_the_first_entry_that_has_a_row_stays_known(tmp_path: Path) -> None:
    committed(tmp_path, [changes("A", 10, 12), changes("B", 9)], [changes("A", 13)])
    committed(tmp_path, [changes("A", 14)])
    assert ids(tmp_path) == ["5-10", "5-12", "5-13", "5-14", "5-9"]
    found = json.loads((tmp_path / ".lotstream" / "s" / "manifest.json").read_text())
    assert (found["first_id"], found["last_id"]) == ("5-9", "5-14")


def test_an_epoch_without_rows_writes_nothing_to_the_disk(tmp_path: Path) -> None:
    manifest = tmp_path / ".lotstream" / "s" / "manifest.json"
    part = ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    assert unseal_values("s", part.snapshot()) == ("0-0",)
    assert not manifest.exists()
    part.write_batch([changes("A", 1)])
    part.snapshot()
    written = manifest.stat()
    part.write_batch([changes("B")])
    assert unseal_values("s", part.snapshot()) == ("5-1",)
    assert manifest.stat() == written
    part.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were made to tables, each time."""
    made: list[int] = []

    def noted(held: list[Changes]) -> Iterator[Table]:
        made.append(sum(each.size for each in held))
        return tables(held)

    monkeypatch.setattr(sink_module, "tables", noted)
    return made


@pytest.mark.parametrize("live", [True, False])
def test_many_rows_are_made_while_an_epoch_runs_fewer_at_once_if_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int], live: bool
) -> None:
    monkeypatch.setattr(sink_module, "_ROWS_AT_ONCE_LIVE", 3)
    monkeypatch.setattr(sink_module, "_ROWS_AT_ONCE", 6)
    most = 3 if live else 6
    first = [changes("A", *range(1, most), live=live), changes("B", most, live=live)]
    part = ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    for each in (*first, changes("C", most + 1, live=live)):
        part.write_batch([each])
    part.snapshot()
    assert made == [most, 1]
    part.write_batch([changes("D", *range(10, 9 + most), live=live)])
    assert made == [most, 1]
    part.snapshot()
    part.close()
    expected = [*range(1, most + 2), *range(10, 9 + most)]
    assert ids(tmp_path) == sorted(f"5-{number}" for number in expected)


def test_rows_that_come_at_once_are_made_at_once_also_if_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    monkeypatch.setattr(sink_module, "_ROWS_AT_ONCE_LIVE", 2)
    monkeypatch.setattr(sink_module, "_ROWS_AT_ONCE", 6)
    part = ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    part.write_batch([changes(symbol, at) for at, symbol in enumerate("ABCDEFGHI", 1)])
    assert made == [6, 3]
    part.snapshot()
    part.close()
    assert ids(tmp_path) == [f"5-{number}" for number in range(1, 10)]


def test_a_state_that_is_ahead_of_the_rows_or_damaged_is_refused(tmp_path: Path) -> None:
    part = ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    part.write_batch([changes("A", 9, 10)])
    state = part.snapshot()
    part.close()
    assert committed(tmp_path, [], resume_state=state) == ["5-10"]
    for other, upto in ((changes("A"), "0-0"), (changes("A", 9), "5-9")):
        committed(tmp_path / upto, [other])
        with pytest.raises(DataDirError, match=rf"entry 5-10 .* found rows up to {upto};"):
            committed(tmp_path / upto, [], resume_state=state)
    with pytest.raises(DamagedError):
        committed(tmp_path, [], resume_state=("5-0", *state[1:]))


def test_a_part_that_the_engine_builds_again_goes_on_where_the_first_came_to(
    tmp_path: Path,
) -> None:
    sink = ParquetSink(tmp_path, ["s"])
    first = sink.build_part("", "s", None)
    first.write_batch([changes("A", 1)])
    second = sink.build_part("", "s", first.snapshot())
    first.close()  # as the engine does with what it drops
    with pytest.raises(LockedError):
        FileLock(tmp_path / ".lotstream" / "s" / "lock").acquire()
    second.write_batch([changes("A", 1, 2)])
    with pytest.raises(AssertionError):  # what is not committed would be lost
        sink.build_part("", "s", None)
    second.snapshot()
    second.close()
    assert ids(tmp_path) == ["5-1", "5-2"]


def test_an_epoch_whose_rows_could_not_be_written_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sink_module, "_ROWS_AT_ONCE_LIVE", 1)
    part = ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    (tmp_path / ".lotstream" / "s" / "positions.1970-01-01.0-0.parquet").mkdir()
    part.write_batch([changes("A", 1)])
    with pytest.raises(OSError, match="positions"):
        part.snapshot()
    part.close()
    assert not (tmp_path / ".lotstream" / "s" / "manifest.json").exists()
    [line] = caplog.messages
    assert line.startswith("stopped: cannot write to DATA_DIR: ")


@pytest.mark.parametrize("in_the_way", ["manifest.json", "left.parquet", "lock"])
def test_a_start_that_a_data_dir_does_not_let_write_says_so_and_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_the_way: str
) -> None:
    (tmp_path / ".lotstream" / "s" / in_the_way).mkdir(parents=True)
    with pytest.raises((OSError, DataDirError), match=in_the_way):
        ParquetSink(tmp_path, ["s"]).build_part("", "s", None)
    [line] = caplog.messages
    assert line.startswith("stopped: cannot write to DATA_DIR: ")


def test_parts_are_numbered_as_the_engine_sorts_them(tmp_path: Path) -> None:
    streams = [f"executions:{number}" for number in range(12)]
    sink = ParquetSink(tmp_path, streams)
    assert sink.list_parts() == sorted(streams)
    assert [sink.list_parts()[sink.part_fn(stream)] for stream in streams] == streams
