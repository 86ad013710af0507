"""More partitions, and other processes for them, with nothing lost, doubled or rebuilt."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest
from redis import Redis
from typer.testing import CliRunner

from connectors.parquet.files import StreamFiles
from connectors.redis.letters import OtherLetters, keys_beside
from connectors.redis.link import RedisLink, RedisRefusedError
from connectors.redis.names import once_keys
from connectors.redis.partitions import PartitionsError
from connectors.redis.publisher import Once, Publisher
from flows import rescale
from flows.common.settings import partition_names
from flows.job.names import POSITION_ID, POSITION_VERSION, SOURCE_ID
from flows.job.recovery import RecoveryError, new_store
from state.keys import partition_of
from state.records import FIRST_ID
from tests.support.flow_process import ROOT, FlowProcess, group, groups, read_stream
from tests.support.follower import newest
from tests.support.scaling import Ledger, found

Start = Callable[..., FlowProcess]


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start a flow on all or some partitions, with the recovery directory of a name."""
    with ExitStack() as running:

        def begin(partitions: int, own: str = "", store: str = "old", **more: str) -> FlowProcess:
            options = ["-r", str(tmp_path / store), "-b", "0"] if store else []
            flow = FlowProcess(
                tmp_path / f"flow-{store}-{partitions}-{own}", redis_url, recovery=False,
                arguments=options, DATA_DIR=str(tmp_path / "data"),
                STREAM_PARTITIONS=str(partitions), OWN_PARTITIONS=own, **more,
            )  # fmt: skip
            return running.enter_context(flow)

        yield begin


def run(
    tmp_path: Path, url: str, *options: str, instead_of: str = "", do: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command on the data of `tmp_path`.

    instead_of: a function of it in whose place the statement `do` is carried out.
    """
    patch = f"def instead(*_): {do}\nrescale.{instead_of} = instead" if instead_of else ""
    code = (
        f"import os, redis, typer\nfrom flows import rescale\n{patch}\ntyper.run(rescale.rescale)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "REDIS_URL": url, "DATA_DIR": str(tmp_path / "data"),
             **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def until_read(flow: FlowProcess, redis: Redis, streams: list[str]) -> None:
    """Wait until nothing in the streams is unread."""
    for stream in streams:
        flow.until(lambda: _lag(redis, stream) == 0, f"{stream} read")  # noqa: B023


def _lag(redis: Redis, stream: str) -> int:
    last = group(redis, stream) or "0-0"
    return len(redis.xrange(stream, f"({last}", "+", count=1) or ())


def test_one_stream_becomes_four_and_each_flow_goes_on_where_the_one_died(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=21)
    ledger.publish(600, 1)
    one = start(1)
    one.until_committed(redis)
    ledger.publish(300, 1)
    one.kill()  # some may be read, some not
    said = done(run(
        tmp_path, redis_url, "--to", "4", "--from", f"{tmp_path}/old",
        "--into", f"{tmp_path}/4-{{}}",
    ))  # fmt: skip
    assert said.endswith("Now start producers and flows, all with STREAM_PARTITIONS=4.\n")
    ledger.publish(300, 4)
    for stream in partition_names("executions", 4):  # nothing is to be rebuilt
        assert group(redis, stream) != "0-0" or not redis.xlen(stream)
    flows = [start(4, own=str(part), store=f"4-{part}") for part in range(4)]
    for part, flow in enumerate(flows):
        until_read(flow, redis, [f"executions:{part}"])
        assert flow.stop() == 0
    assert found(redis, tmp_path / "data", 4) == ledger.expected()
    # Also those whose last change came before the streams were divided.
    changes = partition_names("positions:changes", 4)
    assert newest(redis, *changes) == ledger.expected().hash
    assert sum(redis.xlen(f"executions:{part}") for part in range(4)) == len(ledger.entries)


def test_a_flow_without_recovery_directory_rebuilds_from_the_new_streams_and_doubles_nothing(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=22)
    ledger.publish(500, 2)
    two = start(2, store="")
    until_read(two, redis, partition_names("executions", 2))
    two.stop()
    done(run(tmp_path, redis_url, "--to", "4", "--into", f"{tmp_path}/new", STREAM_PARTITIONS="2"))
    ledger.publish(200, 4)
    four = start(4, store="")
    until_read(four, redis, partition_names("executions", 4))
    four.stop()
    assert found(redis, tmp_path / "data", 4) == ledger.expected()


def test_streams_whose_beginning_was_trimmed_are_divided_with_their_state(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=23)
    ledger.publish(600, 2)
    two = start(2)
    streams = partition_names("executions", 2)
    until_read(two, redis, streams)
    two.stop()
    for stream in streams:  # as the flow itself does: all but the last that it has read
        redis.xtrim(stream, maxlen=1, approximate=False)
    ledger.publish(200, 2)
    done(run(
        tmp_path, redis_url, "--to", "4", "--from", f"{tmp_path}/old", "--into", f"{tmp_path}/new"
    ))  # fmt: skip
    ledger.publish(200, 4)
    streams = partition_names("executions", 4)
    four = start(4, store="new")
    until_read(four, redis, streams)
    four.stop()
    assert found(redis, tmp_path / "data", 4) == ledger.expected()
    assert [groups(redis, stream)[0]["lag"] for stream in streams] == [0] * 4
    rebuilding = start(4, store="")  # their beginning is gone, still
    assert rebuilding.wait() != 0
    assert "entries may be missing" in rebuilding.log


def test_the_state_of_partitions_moves_to_other_processes(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=24)
    ledger.publish(400, 4)
    for own, store in (("0,1", "old"), ("2,3", "older")):
        flow = start(4, own=own, store=store)
        until_read(flow, redis, [f"executions:{part}" for part in own.split(",")])
        flow.kill()
    done(run(
        tmp_path, redis_url, "--to", "4", "--from", f"{tmp_path}/old", "--from",
        f"{tmp_path}/older", "--into", f"{tmp_path}/a=3", "--into", f"{tmp_path}/b=0,1,2",
    ))  # fmt: skip
    for stream in partition_names("executions", 4):
        redis.xtrim(stream, maxlen=1, approximate=False)  # so that only the state can tell
    ledger.publish(100, 4)
    for flow, own in [(start(4, own=own, store=store), own)
                      for own, store in (("3", "a"), ("0,1,2", "b"))]:  # fmt: skip
        until_read(flow, redis, [f"executions:{part}" for part in own.split(",")])
        flow.stop()
    assert found(redis, tmp_path / "data", 4) == ledger.expected()


def test_a_run_that_dies_anywhere_is_done_again_with_the_same_options(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=25)
    ledger.publish(300, 2)
    two = start(2)
    until_read(two, redis, partition_names("executions", 2))
    two.kill()
    options = ("--to", "4", "--from", f"{tmp_path}/old", "--into", f"{tmp_path}/new")
    for step in ("write_state", "os.sync", "put_in_place", "_Rescaling._settle_rows"):
        died = run(tmp_path, redis_url, *options, instead_of=step, do="os._exit(9)")
        assert died.returncode == 9, died.stderr
        assert redis.exists("executions:2") == (step == "_Rescaling._settle_rows")
    done(run(tmp_path, redis_url, *options))
    ledger.publish(100, 4)
    four = start(4, store="new")
    until_read(four, redis, partition_names("executions", 4))
    four.stop()
    assert found(redis, tmp_path / "data", 4) == ledger.expected()


def test_entries_that_a_producer_adds_meanwhile_are_not_lost_but_stop_it(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    ledger = Ledger(redis, seed=26)
    ledger.publish(100, 1)
    add = f"redis.Redis.from_url('{redis_url}').xadd('executions', {{'symbol': 'late'}})"
    stopped = run(
        tmp_path, redis_url, "--to", "2", "--into", f"{tmp_path}/new", instead_of="os.sync", do=add
    )
    assert stopped.returncode == 1
    assert "executions: expected no new entries meanwhile, found some" in stopped.stderr
    assert redis.xlen("executions") == 101
    one = start(1)  # as nothing has changed
    one.until_committed(redis)
    assert found(redis, tmp_path / "data", 1).hash == ledger.expected().hash


def test_a_producer_that_was_not_told_is_refused_and_published_ids_stay_known(
    tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    link = RedisLink(redis_url, Event())
    fields = {
        "symbol": "AAPL", "qty": "5", "avg_price": "1", "type": "opening",
        "timestamp": "1700000000000",
    }  # fmt: skip
    untold = Publisher(link, ["executions"])
    assert untold.publish_once(Once("x", fields)) == [True]
    letters = dict(
        zip(partition_names("executions", 2), partition_names("executions:dead", 2), strict=True)
    )
    before = OtherLetters(link, {"executions": "executions:dead"})
    assert before.add_once("U1:e1", "executions", fields, "why")
    for left in (once_keys("executions:1")[1], keys_beside("executions:dead:1")[1]):
        redis.set(left, "by streams that had these names before")
    done(run(tmp_path, redis_url, "--to", "2", "--into", f"{tmp_path}/new"))
    with pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        untold.publish_once(Once("y", fields))
    with pytest.raises(PartitionsError, match="STREAM_PARTITIONS: expected 2"):
        Publisher(link, ["executions"]).publish(fields)
    told = Publisher(link, partition_names("executions", 2))
    assert told.publish_once(Once("x", fields), Once("y", fields)) == [False, True]
    assert not any(OtherLetters(link, letters).add_once("U1:e1", to, fields, "") for to in letters)
    assert not redis.exists(*once_keys("executions")[1:])
    assert redis.get("executions") == b"moved by flows.rescale to executions:0, executions:1"


def test_letters_that_wait_go_to_the_first_partition(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    said: dict[Any, Any] = {
        "side": "BUY", "fill_price": "1", "order_id": "1", "exec_id": "x",
        "timestamp": "1700000000000",
    }  # fmt: skip
    for qty in ("1", "2"):  # the book refuses the second, and each partition has one of the keys
        for symbol in ("AAPL", "MSFT"):
            redis.xadd("executions", {"symbol": symbol, "fill_qty": qty, **said})
    redis.xadd("executions", {"symbol": "AAPL"})
    one = start(1)
    one.until_committed(redis)
    one.stop()
    before = read_stream(redis, "executions:dead")
    assert len(before) == 3
    redis.xadd("executions:dead:handled", {"done": "dropped"}, id="1-1")
    done(run(tmp_path, redis_url, "--to", "2", "--into", f"{tmp_path}/new"))
    two = start(2, store="")  # reads all again
    until_read(two, redis, partition_names("executions", 2))
    assert read_stream(redis, "executions:dead:0") == before
    assert not redis.xlen("executions:dead:1")
    assert read_stream(redis, "executions:dead:0:handled") == [("1-1", [b"done", b"dropped"])]
    assert not redis.exists("executions:dead", "executions:dead:handled")


@pytest.mark.parametrize(
    ("texts", "layout"),
    [
        (["r"], {"r": [0, 1, 2]}),
        (["r-{}"], {"r-0": [0], "r-1": [1], "r-2": [2]}),
        (["a=0,2", "b=1"], {"a": [0, 2], "b": [1]}),
    ],
)
def test_each_partition_goes_to_the_directory_that_is_named_for_it(
    texts: list[str], layout: dict[str, list[int]]
) -> None:
    found = rescale.read_layout(texts, 3)
    assert {str(path): list(parts) for path, parts in found.items()} == layout


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a=0,1"], "expected each partition from 0 to 2 once, found 0, 1"),
        (["a=0,1", "b=1,2"], "expected each partition from 0 to 2 once, found 0, 1, 1, 2"),
        (["a=0,1,2,3"], "found 0, 1, 2, 3"),
        (["a=", "b"], "expected DIR=0,2, DIR-{} or DIR, found 'a='"),
    ],
)
def test_a_partition_without_a_directory_or_with_two_is_refused(
    texts: list[str], says: str
) -> None:
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.read_layout(texts, 3)
    assert says in str(refused.value)


def test_what_it_cannot_do_it_refuses_in_one_line_that_says_why(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    Ledger(redis, seed=27).publish(50, 2)
    two = start(2)
    until_read(two, redis, partition_names("executions", 2))
    old, new = f"{tmp_path}/old", f"{tmp_path}/new"

    def refused(*options: str) -> str:
        result = run(tmp_path, redis_url, *options)
        assert result.returncode == 1
        line, *more = result.stderr.splitlines()
        assert not more
        return line

    moved = ["--from", old, "--into", new]
    assert "is held by process" in refused("--to", "4", *moved)
    two.stop()
    assert "expected the recovery directories whose partitions are to move" in refused(
        "--to", "2", "--into", new
    )
    assert "--to: expected a multiple of 2, found 3" in refused("--to", "3", *moved)
    assert "--to: expected a multiple of 2, found 1" in refused("--to", "1", *moved)
    assert "expected directories that are not there yet" in refused(
        "--to", "4", "--from", old, "--into", str(tmp_path)
    )
    assert "--from: expected a recovery directory, found" in refused(
        "--to", "4", "--from", new, "--into", new
    )
    assert "--from: expected each recovery directory once, found one twice" in refused(
        "--to", "4", "--from", old, *moved
    )
    shutil.copytree(old, tmp_path / "copy")
    assert "is in two of the directories" in refused(
        "--to", "4", "--from", str(tmp_path / "copy"), *moved
    )
    options = [*moved, "--to", "4"]
    assert "DATA_DIR: expected rows of stream" in run(
        tmp_path, redis_url, *options, DATA_DIR=str(tmp_path / "other")
    ).stderr  # fmt: skip
    for stream in ("executions:3", "executions:dead:2"):
        redis.xadd(stream, {"symbol": "AAPL"})
        assert f"stream '{stream}': expected none of this name yet" in refused("--to", "4", *moved)
        redis.delete(stream)


ENTRY: dict[Any, Any] = {
    "side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
    "timestamp": "1700000000000",
}  # fmt: skip
TWO, FOUR = partition_names("executions", 2), partition_names("executions", 4)


def publish_everywhere(redis: Redis) -> dict[str, list[int]]:
    """Fill two streams; return by entry's number which of four each belongs to."""
    homes: dict[str, list[int]] = {stream: [] for stream in FOUR}
    elsewhere = next(symbol for symbol in "ABCDEFGH" if partition_of(symbol, 2) == 0)
    for number in range(1, 27):
        symbol = "ABCDEFGH"[number % 8]
        parent, home = TWO[partition_of(symbol, 2)], FOUR[partition_of(symbol, 4)]
        fields = ENTRY | {"symbol": symbol, "exec_id": f"e{number}"}
        if number == 5:  # a dead letter
            parent, home, fields = TWO[1], FOUR[1], {"symbol": symbol}
        if number == 18:  # a program has put it into the wrong stream
            parent, home, fields = TWO[1], FOUR[1], fields | {"symbol": elsewhere}
        redis.xadd(parent, fields, id=f"{number}-0")
        homes[home].append(number)
    return homes


def last_of(numbers: Sequence[int], upto: int) -> tuple[str, int]:
    """Return the last entry up to one, and how many there are until then."""
    before = [number for number in numbers if number <= upto]
    return f"{before[-1]}-0" if before else FIRST_ID, len(before)


class Left(NamedTuple):
    """What a flow has left: how far it has read and written rows, how some were lost."""

    read: int
    written: int
    lost: str = ""


NEWEST = "deleted, the newest one"


def leave(
    tmp_path: Path, redis: Redis, left: Left, all_of: dict[str, list[int]]
) -> dict[str, tuple[str, int]]:
    """Leave two recovery directories' and DATA_DIR's content; return what was read of each."""
    progress = {stream: last_of(numbers, left.read) for stream, numbers in all_of.items()}
    with new_store(tmp_path / "old", [(SOURCE_ID, *of) for of in progress.items()]):
        pass
    for stream, numbers in all_of.items():
        files = StreamFiles(tmp_path / "data", stream)
        files.lock()
        files.first_id = f"{numbers[0]}-0" if left.written else FIRST_ID
        files.commit(last_of(numbers, left.written)[0])
        files.close()
        kept: Any = redis.xrange(stream, progress[stream][0])
        if left.lost == "trimmed":  # as the flow itself does: all but the last that it has read
            redis.xtrim(stream, minid=progress[stream][0], approximate=False)
        elif left.lost == NEWEST:
            redis.xdel(stream, kept[-1][0])
        elif left.lost:
            redis.delete(stream)
            for entry_id, fields in kept:
                redis.xadd(stream, fields, id=entry_id)
    return progress


def numbers_in(redis: Redis, stream: str) -> list[int]:
    return [int(entry_id.removesuffix("-0")) for entry_id, _ in read_stream(redis, stream)]


def divide(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"REDIS_URL": url, "DATA_DIR": f"{tmp_path}/data", "STREAM_PARTITIONS": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    options = ["--to", "4", "--from", f"{tmp_path}/old", "--into", f"{tmp_path}/new"]
    ran = CliRunner().invoke(rescale.app, options)
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize(
    "left",
    [
        Left(0, 0), Left(7, 0), Left(7, 9), Left(26, 26), Left(7, 9, "trimmed"),
        Left(6, 0, "trimmed"), Left(6, 6, "made anew"), Left(7, 7, NEWEST),
    ],
)  # fmt: skip
def test_each_part_gets_its_entries_and_what_was_read_and_written_of_them(
    tmp_path: Path, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, left: Left
) -> None:
    monkeypatch.setattr(rescale, "_PAGE", 5)
    homes = publish_everywhere(redis)
    all_of = {TWO[n]: sorted(homes[FOUR[n]] + homes[FOUR[n + 2]]) for n in range(2)}
    progress = leave(tmp_path, redis, left, all_of)
    there = {stream: numbers_in(redis, stream) for stream in TWO}
    divide(tmp_path, redis_url, monkeypatch)
    found = rescale.read_state([tmp_path / "new"], FOUR).progress
    for stream, home in homes.items():
        parent = TWO[FOUR.index(stream) % 2]
        first, stays, gone = home[0], set[int](), 0
        if left.lost:  # each part wants to find the last that was read
            first, stays = all_of[parent][0], {int(progress[parent][0].removesuffix("-0"))}
            gone = len(all_of[parent]) - len(there[parent])
        numbers = sorted(stays | {*home} & {*there[parent]})
        assert numbers_in(redis, stream) == numbers
        reached, read = last_of(numbers, left.read)
        assert found[stream] == (reached, read + gone * (left.lost != "made anew"))
        [told] = groups(redis, stream)
        assert (told["last-delivered-id"].decode(), told["entries-read"]) == found[stream]
        assert told["lag"] == (None if left.lost == NEWEST else len(numbers) - read)
        rows_to, _ = last_of(numbers, left.written)
        rows_from = FIRST_ID if rows_to == FIRST_ID else f"{first}-0"
        assert StreamFiles(tmp_path / "data", stream).written() == (rows_from, rows_to)


def test_a_flow_that_runs_is_seen_by_either_of_its_directories(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    Ledger(redis, seed=30).publish(50, 1)
    one = start(1)
    one.until_committed(redis)
    options = ["--to", "2", "--into", f"{tmp_path}/new"]
    assert "executions/lock is held by process" in run(tmp_path, redis_url, *options).stderr
    options += ["--from", f"{tmp_path}/old"]
    elsewhere = {"DATA_DIR": str(tmp_path / "other")}
    assert "old/lock is held by process" in run(tmp_path, redis_url, *options, **elsewhere).stderr


def test_a_stream_that_lacks_its_beginning_is_divided_only_with_the_state_that_goes_on(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    Ledger(redis, seed=29).publish(50, 1)
    one = start(1)
    one.until_committed(redis)
    one.stop()
    redis.xtrim("executions", maxlen=1, approximate=False)
    options = ["--to", "2", "--into", f"{tmp_path}/new"]
    said = run(tmp_path, redis_url, *options).stderr
    assert "--from: expected the recovery directories, since the beginning of stream" in said
    last = group(redis)
    assert redis.xdel("executions", str(last)) == 1
    said = run(tmp_path, redis_url, *options, "--from", f"{tmp_path}/old").stderr
    assert f"expected entry {last}, which the flow has read last, found it gone" in said
    assert not redis.exists("executions:0", "executions:1")


def test_a_flow_with_the_old_number_is_refused(
    tmp_path: Path, redis: Redis, redis_url: str, start: Start
) -> None:
    Ledger(redis, seed=28).publish(50, 1)
    one = start(1)
    one.until_committed(redis)
    one.stop()
    done(run(tmp_path, redis_url, "--to", "2", "--from", f"{tmp_path}/old", "--into",
             f"{tmp_path}/new"))  # fmt: skip
    one.start()
    assert one.wait() == 1
    assert "STREAM_PARTITIONS: expected 2, as stream 'executions' has had so far" in one.log


def test_redis_away_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "redis://127.0.0.1:1/0", "--to", "2", "--into", f"{tmp_path}/new")
    assert result.returncode == 1
    assert result.stderr.startswith("lotstream: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_stream_that_no_directory_has_is_named(tmp_path: Path) -> None:
    made = tmp_path / "with those above it" / "r"
    with new_store(made, [(SOURCE_ID, "executions:0", ("5-0", 1))]):
        pass
    said = "the recovery directories of executions:0, executions:1, found those of executions:0"
    with pytest.raises(rescale.RescaleError, match=said):
        rescale.read_state([made], ["executions:0", "executions:1"])


def test_positions_of_another_version_are_not_moved(tmp_path: Path) -> None:
    state = (POSITION_VERSION + 1, "executions", "A")
    with new_store(tmp_path / "r", [(POSITION_ID, "A", state)]):
        pass
    with pytest.raises(RecoveryError, match=f"of version {POSITION_VERSION}, found"):
        rescale.read_state([tmp_path / "r"], ["executions"])
