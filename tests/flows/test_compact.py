"""Compaction: one file a day, the same rows, and readers and flows that go on meanwhile."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_py

from connectors.file_lock import FileLock
from connectors.parquet.files import is_whole
from flows import compact as compact_module
from flows.compact import CompactError, compact
from tests.support import naive
from tests.support.chaos import Feed, Trader, new_seed
from tests.support.flow_process import (
    DEADLINE_S,
    ROOT,
    FlowProcess,
    add,
    outcome,
    parts,
    until,
)
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.happened import Happened
from tests.support.servers import RedisServer
from tests.support.system_calls import Call, Held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has renameat2")

DAY = date(2026, 7, 14)
SCHEMA = pa.schema(
    {"stream_id": pa.string(), "qty": pa.decimal128(38, 10), "account": pa.string(),
     "timestamp": pa.timestamp("ms", tz="UTC"), "n": pa.int64()}
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_module, "LISTING_S", 0.0)


def make_part(
    data_dir: Path,
    *numbers: int,
    stream: str = "executions",
    day: date = DAY,
    data_set: str = "positions",
) -> Path:
    """Write a part as a flow names it, with a row for each number, as entry `number-1`."""
    rows = [
        {
            "stream_id": f"{number}-1", "qty": Decimal(number) / 7, "n": number,
            "account": None if number % 3 else f"U{number}",
            "timestamp": datetime(2026, 7, 14, tzinfo=UTC) + timedelta(seconds=number),
        }
        for number in numbers
    ]  # fmt: skip
    directory = data_dir / data_set / f"date={day}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stream}.{min(numbers) - 1}-1.{max(numbers)}-1.parquet"
    table = pa.Table.from_pylist(rows, SCHEMA.remove(1)).add_column(
        1,
        SCHEMA.field(1),
        pa.array([row["qty"] for row in rows]).cast(SCHEMA.field(1).type, False),
    )
    pq.write_table(table, path, compression="zstd")
    return path


def numbers_in(data_dir: Path) -> list[int]:
    """Return the rows' numbers as they stand in the files."""
    return [
        n for path in parts(data_dir, "positions") for n in pq.read_table(path)["n"].to_pylist()
    ]


def run(data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    with started(data_dir, *options) as process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def started(data_dir: Path, *options: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "flows.compact", *options],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


# --- what it does ---------------------------------------------------------------------------


def test_a_days_parts_become_one_file_with_the_same_rows_in_order_of_their_entries(
    tmp_path: Path,
) -> None:
    made = [make_part(tmp_path, 30, 10, 20), make_part(tmp_path, 100, 31), make_part(tmp_path, 9)]
    table = pa.concat_tables(pq.read_table(path) for path in made).sort_by("n")
    [done] = compact(tmp_path)
    assert done == ("positions", DAY, 3, 6)
    [path] = parts(tmp_path, "positions")
    assert pq.ParquetFile(path).read().equals(table)
    assert pq.ParquetFile(path).schema_arrow.equals(SCHEMA)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [p.name for p in (tmp_path / ".lotstream").iterdir() if p.is_dir()] == []


def test_the_parts_of_several_streams_and_processes_become_one(tmp_path: Path) -> None:
    for first in range(4):
        make_part(tmp_path, *range(first * 10 + 1, first * 10 + 6), stream=f"executions.{first}")
    assert len(list(compact(tmp_path))) == 1
    assert numbers_in(tmp_path) == [n for n in range(1, 40) if n % 10 in (1, 2, 3, 4, 5)]


def test_rows_of_one_entry_keep_their_order(tmp_path: Path) -> None:
    path = make_part(tmp_path, 3, 2)
    rows = pq.ParquetFile(path).read()
    same = pa.array(["7-1", "7-1"])
    pq.write_table(rows.set_column(0, SCHEMA.field(0), same), path)
    make_part(tmp_path, 5)
    list(compact(tmp_path))
    assert numbers_in(tmp_path) == [5, 3, 2]


def test_each_streams_rows_stay_in_order_whatever_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "ROWS_AT_ONCE", 4)
    for first in range(1, 40, 3):
        make_part(tmp_path, first + 2, first, first + 1)
    list(compact(tmp_path))
    assert numbers_in(tmp_path) == list(range(1, 40))
    make_part(tmp_path, 43, 40, 42, 41)
    list(compact(tmp_path))
    assert numbers_in(tmp_path) == list(range(1, 44))


def test_today_and_a_day_of_one_file_are_left_alone(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    for number in (1, 2):
        make_part(tmp_path, number, day=today)
        make_part(tmp_path, number, day=today + timedelta(days=1))
    make_part(tmp_path, 1)
    (tmp_path / "positions" / "date=someday").mkdir()
    assert list(compact(tmp_path)) == []


def test_the_command_does_the_day_that_it_is_asked_for_also_today(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    for number in (1, 2):
        make_part(tmp_path, number, day=today, data_set="closed_lots")
        make_part(tmp_path, number)
    done = run(tmp_path, "--date", str(today))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"closed_lots {today}: 2 files, 2 rows, now in one\n"
    assert len(parts(tmp_path, "positions")) == 2


def test_the_command_says_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "positions").mkdir()
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to compact\n", "")
    done = run(tmp_path / "absent")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"expected the flow's directory, found none at {tmp_path / 'absent'}" in done.stderr
    assert not (tmp_path / "absent").exists()


def test_parts_that_come_later_are_merged_into_a_file_of_a_new_name(tmp_path: Path) -> None:
    make_part(tmp_path, 1), make_part(tmp_path, 2)
    list(compact(tmp_path))
    [first] = parts(tmp_path, "positions")
    make_part(tmp_path, 3)
    assert next(iter(compact(tmp_path))).parts == 2
    [second] = parts(tmp_path, "positions")
    assert second.name != first.name
    assert numbers_in(tmp_path) == [1, 2, 3]


def test_the_directory_stays_its_owners(tmp_path: Path) -> None:
    make_part(tmp_path, 1), make_part(tmp_path, 2)
    directory = tmp_path / "positions" / f"date={DAY}"
    directory.chmod(0o2775)
    if os.geteuid() == 0:
        os.chown(directory, 12345, 12345)
    before = directory.stat()
    list(compact(tmp_path))
    after = directory.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    [merged] = parts(tmp_path, "positions")
    assert (merged.stat().st_uid, merged.stat().st_gid) == (before.st_uid, before.st_gid)


def test_the_old_parts_go_when_the_disk_has_what_replaces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_part(tmp_path, number) for number in (1, 2)]
    happened, day = Happened(monkeypatch), made[0].parent
    exchange, remove = compact_module._exchange, shutil.rmtree
    at: list[int] = []

    def noted_exchange(new: Path, old: Path) -> None:
        at.append(len(happened))
        exchange(new, old)

    def noted_remove(path: Path, *, ignore_errors: bool = False) -> None:
        at.append(len(happened))
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(compact_module, "_exchange", noted_exchange)
    monkeypatch.setattr(shutil, "rmtree", noted_remove)
    list(compact(tmp_path))
    [merged] = parts(tmp_path, "positions")
    _, exchanged, removed = at
    assert happened.synced(merged, before=exchanged)
    assert happened.synced(day, before=exchanged)
    assert happened.synced(day.parent, since=exchanged, before=removed)
    assert len(set(happened[exchanged:removed])) == 2  # and the directory of the old parts


def test_a_merged_file_has_its_checksum_in_its_name_and_the_parts_are_held_against_theirs(
    tmp_path: Path,
) -> None:
    make_part(tmp_path, 1), make_part(tmp_path, 2)
    list(compact(tmp_path))
    [merged] = parts(tmp_path, "positions")
    assert is_whole(merged) is True
    third = make_part(tmp_path, 3)
    third = third.rename(third.with_suffix(".01234567.parquet"))
    with pytest.raises(CompactError, match=r"3-1\.01234567\.parquet is damaged: its checksum"):
        list(compact(tmp_path))
    assert parts(tmp_path, "positions") == sorted([merged, third])


# --- what it refuses ------------------------------------------------------------------------


def test_a_second_compaction_refuses_and_names_the_first(tmp_path: Path) -> None:
    make_part(tmp_path, 1), make_part(tmp_path, 2)
    lock = FileLock(tmp_path / ".lotstream" / "compact~.lock")
    lock.acquire()
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("lotstream: cannot compact: ")
    assert done.stderr.endswith(f"is held by process {os.getpid()}\n")
    lock.close()


def test_a_part_that_cannot_be_read_leaves_the_day_as_it_is(tmp_path: Path) -> None:
    whole, half = make_part(tmp_path, 1), make_part(tmp_path, 2)
    half.write_bytes(half.read_bytes()[:-20])
    done = run(tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("lotstream: cannot compact: ")
    assert half.name in line
    assert parts(tmp_path, "positions") == [whole, half]


@pytest.mark.parametrize("wrong", ["lost", "doubled", "changed", "nulled", "swapped"])
def test_a_merged_file_that_does_not_hold_the_same_rows_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def spoil(rows: pa.Table) -> pa.Table:
        changed = {"changed": pa.array([1, 2, 4]), "nulled": pa.array([1, 2, None], pa.int64()),
                   "swapped": pa.array([1, 3, 2])}  # fmt: skip
        if wrong in changed:
            return rows.set_column(4, SCHEMA.field(4), changed[wrong])
        return rows.slice(1) if wrong == "lost" else pa.concat_tables([rows, rows.slice(2)])

    monkeypatch.setattr(compact_module, "_sorted", spoil)
    before = [make_part(tmp_path, 1), make_part(tmp_path, 2), make_part(tmp_path, 3)]
    with pytest.raises(CompactError, match="expected the 3 rows of 3 parts"):
        list(compact(tmp_path))
    assert parts(tmp_path, "positions") == before


def test_what_an_older_part_has_no_column_for_is_null_in_the_merged_file(tmp_path: Path) -> None:
    first, _ = make_part(tmp_path, 1), make_part(tmp_path, 2)
    pq.write_table(pq.ParquetFile(first).read().drop_columns("qty"), first)
    list(compact(tmp_path))
    [merged] = parts(tmp_path, "positions")
    rows = {row["n"]: row for row in pq.ParquetFile(merged).read().to_pylist()}
    assert rows[1]["qty"] is None
    assert rows[2]["qty"] is not None


def test_files_of_other_types_or_of_others_names_are_not_merged(tmp_path: Path) -> None:
    first, second = make_part(tmp_path, 1), make_part(tmp_path, 2)
    rows = pq.ParquetFile(second).read()
    pq.write_table(rows.set_column(0, "stream_id", pa.array([2])), second)
    with pytest.raises(CompactError, match=r"2-1\.parquet: expected the types of"):
        list(compact(tmp_path))
    second.rename(first.with_name("mine.parquet"))
    with pytest.raises(CompactError, match=r"mine\.parquet: expected the name"):
        list(compact(tmp_path))
    assert len(parts(tmp_path, "positions")) == 2


def test_a_system_that_cannot_exchange_directories_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "_RENAME_EXCHANGE", 1 << 20)  # no flag of any system
    before = [make_part(tmp_path, 1), make_part(tmp_path, 2)]
    with pytest.raises(CompactError, match="cannot exchange two directories"):
        list(compact(tmp_path))
    assert parts(tmp_path, "positions") == before


# --- flows meanwhile ------------------------------------------------------------------------


@contextmanager
def held_up(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a compaction, and give it when it has merged and waits to put that in place."""
    lock = FileLock(data_dir / ".lotstream" / "publish.lock")
    lock.acquire(shared=True)
    with started(data_dir) as process:
        try:
            until(lambda: list(data_dir.glob(".lotstream/compact~/*/merged-*")), "a merged file")
            until(lambda: has_open(process.pid, lock.path), "a wait for the lock")
            yield process
        finally:
            lock.close()
            process.communicate(timeout=60)


def has_open(pid: int, path: Path) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed by now
            if descriptor.readlink() == path:
                return True
    return False


def test_a_part_that_appears_meanwhile_is_carried_over(tmp_path: Path) -> None:
    make_part(tmp_path, 1), make_part(tmp_path, 2)
    with held_up(tmp_path) as process:
        late = make_part(tmp_path, 3)
    assert process.returncode == 0
    assert late in parts(tmp_path, "positions")
    assert len(parts(tmp_path, "positions")) == 2
    assert sorted(numbers_in(tmp_path)) == [1, 2, 3]


def test_a_part_that_is_removed_meanwhile_is_not_brought_back(tmp_path: Path) -> None:
    make_part(tmp_path, 1)
    gone = make_part(tmp_path, 2)
    with held_up(tmp_path) as process:
        gone.unlink()
    assert process.returncode == 1
    assert numbers_in(tmp_path) == [1]


def test_a_reader_that_is_listing_the_day_still_sees_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {make_part(tmp_path, number).name for number in range(1, 6)}
    listed, waited = Event(), Event()

    def until_listed(_: float) -> None:
        waited.set()
        listed.wait(DEADLINE_S)

    monkeypatch.setattr(compact_module, "time", SimpleNamespace(sleep=until_listed))
    with ThreadPoolExecutor(1) as pool, os.scandir(tmp_path / "positions" / f"date={DAY}") as names:
        compacting = pool.submit(list, compact(tmp_path))
        deadline = time.monotonic() + DEADLINE_S
        while len(parts(tmp_path, "positions")) > 1:
            assert time.monotonic() < deadline
        assert {entry.name for entry in names} == made
        listed.set()
        assert len(compacting.result()) == 1
    assert waited.is_set()
    assert not (tmp_path / ".lotstream" / "compact~").exists()


def test_killed_at_any_instant_it_costs_nothing_and_the_next_run_finishes(tmp_path: Path) -> None:
    rng = random.Random(new_seed())
    for number in range(1, 301):
        make_part(tmp_path, number)
    began = time.monotonic()
    with started(tmp_path) as whole_run:
        until(lambda: len(parts(tmp_path, "positions")) == 1, "the exchange")
        takes = time.monotonic() - began
        whole_run.kill()
    for number in range(301, 309):
        make_part(tmp_path, number)
        with started(tmp_path) as process:
            time.sleep(rng.uniform(0.5, 1.1) * takes)
            process.send_signal(signal.SIGKILL)
        assert sorted(numbers_in(tmp_path)) == list(range(1, number + 1))
    assert run(tmp_path).returncode == 0
    assert numbers_in(tmp_path) == list(range(1, 309))
    assert len(parts(tmp_path, "positions")) == 1
    assert not (tmp_path / ".lotstream" / "compact~").exists()


def cut_short(data_dir: Path, point: str, rng: random.Random) -> list[str]:
    """Compact, and cut the power just before a point of it, such as `fsync 2`.

    Returns the points that it came to; they are the same in each run.
    """
    held, disk = Held(), ForgetfulDisk(data_dir)
    seen: Counter[str] = Counter()
    points: list[str] = []

    def look(call: Call) -> int | None:
        if not any(map(disk.holds, call.paths)):
            return None
        seen[call.kind] += 1
        points.append(f"{call.kind} {seen[call.kind]}")
        if points[-1] == point:
            call.send(signal.SIGKILL)
            return 0
        return disk.see(call)

    with held.watched(look), started(data_dir, prefix=held.prefix) as process:
        process.communicate()
    disk.cut(rng)
    return points


@pytest.mark.parametrize("some", [5, pytest.param(None, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_a_power_cut_leaves_each_row_once_and_the_next_run_finishes(
    tmp_path: Path, some: int | None
) -> None:
    rng = random.Random(new_seed())
    for number in range(1, 5):
        make_part(tmp_path / "made", number)
    shutil.copytree(tmp_path / "made", tmp_path / "whole")
    points = cut_short(tmp_path / "whole", "", rng)
    assert "renameat2 1" in points
    assert numbers_in(tmp_path / "whole") == [1, 2, 3, 4]
    for point in points if some is None else rng.sample(points, some):
        data_dir = tmp_path / point.replace(" ", "-")
        shutil.copytree(tmp_path / "made", data_dir)
        cut_short(data_dir, point, rng)
        assert sorted(numbers_in(data_dir)) == [1, 2, 3, 4], point
        assert run(data_dir).returncode == 0
        assert numbers_in(data_dir) == [1, 2, 3, 4], point
        assert len(parts(data_dir, "positions")) == 1


class Reader:
    """Reads a data set again and again, as a notebook does; notes rows that go or double."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.over = Event()
        self.reads, self.again, self.most = 0, 0, 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                ids = pl.read_parquet(self._data_dir / "positions")["stream_id"]
            except (FileNotFoundError, pl.exceptions.ComputeError):
                self.again += 1  # listed before the exchange, opened after it: run again
                continue
            if ids.n_unique() != len(ids) or len(ids) < self.most:
                self.wrong.append(f"{len(ids)} rows of {ids.n_unique()} entries, had {self.most}")
            self.most, self.reads = len(ids), self.reads + 1


def compact_while_it_runs(flow: FlowProcess, seconds: float) -> int:
    """Compact again and again, kill the flow once meanwhile; return how often it did."""
    runs = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or runs < 3:
        done = run(flow.data_dir)
        assert done.returncode == 0, done.stderr
        runs += "now in one" in done.stdout
        if runs == 2:
            flow.kill()
            flow.start()
    return runs


def test_readers_and_a_flow_go_on_while_their_days_are_compacted_again_and_again(
    redis_server: RedisServer, redis: redis_py.Redis, tmp_path: Path
) -> None:
    feed = Feed(redis_server, Trader(random.Random(1)), ["executions"], seed=1)
    feed.publish(200)
    reader = Reader(tmp_path / "data")
    with FlowProcess(tmp_path, redis_server.url) as flow, ThreadPoolExecutor(1) as pool:
        flow.until_committed(redis)
        reading = pool.submit(reader.run)
        with feed.live():
            compact_while_it_runs(flow, seconds=4)
        flow.until_committed(redis)
        assert flow.stop() == 0
        reader.over.set()
        reading.result(DEADLINE_S)
        assert run(flow.data_dir).returncode == 0
    assert reader.wrong == []
    assert reader.reads > 5
    for data_set in ("positions", "closed_lots"):
        days = {path.parent for path in parts(flow.data_dir, data_set)}
        assert len(parts(flow.data_dir, data_set)) == len(days)
    assert outcome(redis, flow.data_dir) == naive.by_stream(redis)


def test_a_flow_whose_rows_were_compacted_writes_none_again(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    execution = {"symbol": "S", "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1"}
    with FlowProcess(tmp_path, redis_url) as flow:
        for number in range(2):
            add(
                redis,
                {**execution, "timestamp": str(1_700_000_000_000 + number), "exec_id": str(number)},
            )
            flow.until_committed(redis)
        assert flow.stop() == 0
    assert len(parts(flow.data_dir, "positions")) > 1
    assert run(flow.data_dir).returncode == 0
    add(redis, {**execution, "timestamp": "1700000000005", "exec_id": "5"})
    with FlowProcess(tmp_path, redis_url, recovery=False) as rebuild:
        rebuild.until_committed(redis)
        assert rebuild.stop() == 0
    assert len(parts(flow.data_dir, "positions")) == 2
    expected: Any = naive.by_stream(redis)
    assert outcome(redis, flow.data_dir) == expected
