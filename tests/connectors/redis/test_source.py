"""The source against a real server: where it reads on, and what it refuses to read past."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from prometheus_client import REGISTRY

from connectors.clock import ClockError
from connectors.kept import seal_values
from connectors.redis.link import RedisLink, RedisRefusedError, send
from connectors.redis.source import GapError, Read, RedisStreamSource, ResumeState
from tests.conftest import OwnServer
from tests.support.flow_process import group, groups, read_stream, until
from tests.support.servers import RedisServer

STREAM = "executions"


@pytest.fixture
def stop() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


@pytest.fixture
def link(redis_url: str, stop: Event, redis: redis_py.Redis) -> Iterator[RedisLink]:
    link = RedisLink(redis_url, stop)
    redis.config_set("hz", 200)  # an idle server ends a wait at its next tick
    with closing(link.client):
        yield link
    redis.config_set("hz", 10)


class Reader:
    """One partition, driven as Bytewax drives it: an epoch is some reads and a snapshot."""

    def __init__(
        self, link: RedisLink, state: ResumeState | None = None, stop: Event | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        options.setdefault("bulk_count", options.get("count", 10_000))
        source = RedisStreamSource(link, [STREAM], stop or Event(), **options)
        if state is not None and len(state) == 2:  # as a test has it
            state = seal_values(STREAM, state)
        self.part = source.build_part("step", STREAM, state)

    def reads(self) -> list[Read]:
        return self.part.next_batch()

    def ids(self) -> list[str]:
        return [entry.decode() for read in self.reads() for entry, _ in read.entries]

    def epoch(self) -> list[str]:
        """Read all there is, snapshot, and begin the next epoch: what was read is committed."""
        ids = []
        while more := self.ids():
            ids += more
        self.part.snapshot()
        return ids + self.ids()


def add(client: redis_py.Redis, *ids: str) -> None:
    for entry in ids:
        client.xadd(STREAM, {"n": entry}, id=entry)


# --- reading --------------------------------------------------------------------------------


def test_entries_are_read_in_order_and_once(link: RedisLink, redis: redis_py.Redis) -> None:
    add(redis, "9-1", "9-2", "10-1")
    reader = Reader(link)
    assert reader.ids() == ["9-1", "9-2", "10-1"]
    assert reader.ids() == []
    add(redis, "10-2")
    assert reader.ids() == ["10-2"]


def test_a_resumed_source_reads_on_after_its_snapshot(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1")
    first = Reader(link, count=1)
    assert first.ids() == ["1-1"]
    assert Reader(link, first.part.snapshot()).ids() == ["2-1"]


def test_names_and_values_stay_as_they_are_byte_for_byte(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    fields = [b"b", b"\xff\x00", b"a", b"", b"b", b"again", b"", b" "]
    send(redis, "XADD", STREAM, "*", *fields)
    [read] = Reader(link).reads()
    assert [found for _, found in read.entries] == [fields]


def test_reading_is_the_same_over_the_third_protocol(
    redis_url: str, stop: Event, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "1-2")
    link = RedisLink(f"{redis_url}?protocol=3", stop)
    with closing(link.client):
        reader = Reader(link)
        assert reader.epoch() == ["1-1", "1-2"]
        redis.xtrim(STREAM, minid="1-3", approximate=False)
        with pytest.raises(GapError):
            reader.ids()


def test_a_stream_that_does_not_exist_yet_is_waited_for(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    reader = Reader(link)
    assert reader.epoch() == []
    assert not redis.exists(STREAM)
    add(redis, "1-1")
    assert reader.ids() == ["1-1"]


def test_a_stop_ends_the_input_also_while_redis_is_away(own_server: OwnServer, stop: Event) -> None:
    server = own_server()
    link = RedisLink(server.url, stop)
    with closing(link.client), ThreadPoolExecutor() as pool:
        reader = Reader(link, stop=stop)
        assert reader.ids() == []
        server.kill()
        waiting = pool.submit(reader.ids)
        until(lambda: link.retries >= 1, "an outage")
        stop.set()
        with pytest.raises(StopIteration):
            waiting.result(20)
    with pytest.raises(StopIteration):
        reader.ids()


def test_a_stop_ends_the_input_although_there_is_more_to_read(
    link: RedisLink, redis: redis_py.Redis, stop: Event
) -> None:
    add(redis, "1-1", "1-2")
    reader = Reader(link, stop=stop, count=1)
    assert reader.ids() == ["1-1"]
    stop.set()
    with pytest.raises(StopIteration):
        reader.ids()


def test_the_engine_is_told_to_ask_again_at_once_whatever_the_clock_says(link: RedisLink) -> None:
    assert Reader(link).part.next_awake() == datetime.fromtimestamp(0, UTC)


def test_a_clock_that_is_set_back_in_an_epoch_stops_the_source_and_the_next_epoch_forgets_it(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(redis, "1-1")
    reader, time_now = Reader(link), time.time
    assert reader.ids() == ["1-1"]
    monkeypatch.setattr(time, "time", lambda: time_now() - 3600)
    with pytest.raises(ClockError):
        reader.ids()
    reader.part.snapshot()
    assert reader.ids() == []


# --- progress -------------------------------------------------------------------------------


def test_the_group_follows_what_is_committed_and_is_never_ahead_of_it(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "1-2")
    reader = Reader(link, count=1)
    reader.ids()
    assert group(redis) is None
    reader.part.snapshot()
    assert group(redis) is None
    reader.ids()
    assert group(redis) == "1-1"
    reader.ids()
    assert group(redis) == "1-1"
    reader.part.snapshot()
    reader.ids()
    assert group(redis) == "1-2"


def test_the_group_shows_the_lag_where_the_server_can_tell(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "1-2", "1-3")
    reader = Reader(link, count=2)
    reader.ids()
    reader.part.snapshot()
    reader.ids()
    assert groups(redis)[0]["lag"] == 1


def test_a_start_shows_what_is_committed_before_anything_new_comes(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "1-2")
    redis.xgroup_create(STREAM, "positions", "1-1")
    reader = Reader(link, ("1-2", 2))
    reader.ids()
    reader.ids()
    assert group(redis) == "1-2"
    assert groups(redis)[0]["lag"] == 0


def test_a_rebuild_takes_the_group_back_with_it(link: RedisLink, redis: redis_py.Redis) -> None:
    add(redis, "1-1", "1-2")
    redis.xgroup_create(STREAM, "positions", "1-2")
    reader = Reader(link, count=1)
    reader.ids()
    reader.ids()
    assert group(redis) == "0-0"


def test_a_group_that_someone_deleted_is_made_again(link: RedisLink, redis: redis_py.Redis) -> None:
    add(redis, "1-1")
    reader = Reader(link)
    reader.epoch()
    redis.xgroup_destroy(STREAM, "positions")
    add(redis, "1-2")
    reader.epoch()
    assert group(redis) == "1-2"


def test_after_an_outage_the_group_is_put_where_it_was(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    """The server may have come back without its last writes."""
    add(redis, "1-1", "1-2")
    reader = Reader(link)
    reader.epoch()
    redis.xgroup_setid(STREAM, "positions", "1-1")
    for act in link.after_outage:
        act()
    reader.ids()
    assert group(redis) == "1-2"


def test_while_nothing_comes_the_groups_consumer_shows_that_the_flow_is_there(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1")
    acted: list[bool] = []
    link.while_alive.append(lambda: acted.append(True))
    reader = Reader(link)
    reader.epoch()
    [consumer] = redis.xinfo_consumers(STREAM, "positions")
    assert (consumer["name"], consumer["pending"]) == (b"flow", 0)
    assert acted
    assert group(redis) == "1-1"


def test_the_end_of_an_epoch_is_measured_once(link: RedisLink) -> None:
    def measured() -> float:
        return REGISTRY.get_sample_value("lotstream_epoch_close_seconds_count") or 0

    reader, before = Reader(link), measured()
    reader.epoch()
    reader.ids()
    assert measured() == before + 1


@pytest.mark.parametrize("ms", [1, 9])
def test_trimming_stops_at_the_committed_entry(
    link: RedisLink, redis: redis_py.Redis, ms: int
) -> None:
    add(redis, f"{ms}-1", f"{ms}-2")
    first = Reader(link)
    first.ids()
    add(redis, f"{ms}-3", f"{ms}-4")
    reader = Reader(link, first.part.snapshot(), retention_ms=1)
    assert reader.ids() == [f"{ms}-3", f"{ms}-4"]
    reader.ids()
    assert [entry for entry, _ in read_stream(redis, STREAM)] == [f"{ms}-{n}" for n in (2, 3, 4)]


def test_trimming_keeps_what_is_young(link: RedisLink, redis: redis_py.Redis) -> None:
    add(redis, "1-1")
    redis.xadd(STREAM, {"a": "b"})
    [_, (young, _)] = read_stream(redis, STREAM)
    newest = young.replace("-0", "-7")
    add(redis, newest)
    first = Reader(link)
    first.epoch()
    for retention_ms in (10**15, 3_600_000):  # the first reaches back to before 1970
        assert redis.xlen(STREAM) > 1
        Reader(link, first.part.snapshot(), retention_ms=retention_ms).epoch()
    assert [entry for entry, _ in read_stream(redis, STREAM)] == [young, newest]


def test_what_the_flow_trimmed_itself_is_no_gap(link: RedisLink, redis: redis_py.Redis) -> None:
    add(redis, "1-1", "1-2", "1-3")
    first = Reader(link)
    first.epoch()
    reader = Reader(link, first.part.snapshot(), retention_ms=1, written=lambda _: ("1-1", "1-1"))
    reader.ids()
    reader.ids()
    assert redis.xlen(STREAM) == 1
    add(redis, "2-1")
    assert reader.epoch() == ["2-1"]
    resumed = Reader(link, reader.part.snapshot(), written=lambda _: ("1-1", "1-1"))
    assert resumed.ids() == []


@contextmanager
def as_redis_6(port: int) -> Iterator[int]:
    """Stand before a server and answer as Redis 6.2 does, which counts no entries added or read."""

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                while asked := self.request.recv(1 << 16):
                    answer = b"-ERR wrong number of arguments for 'xgroup|setid' command\r\n"
                    if b"ENTRIESREAD" not in asked:
                        server.sendall(asked)
                        answer = server.recv(1 << 16).replace(b"entries-added", b"entries-other")
                    self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Front) as front:
        front.daemon_threads = True
        threading.Thread(target=front.serve_forever, args=(0.05,)).start()
        yield front.server_address[1]
        front.shutdown()


def test_a_server_that_counts_no_entries_is_read_and_shown_progress(
    redis_server: RedisServer, stop: Event, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "1-2")
    with as_redis_6(redis_server.port) as port:
        link = RedisLink(f"redis://127.0.0.1:{port}/0", stop)
        with closing(link.client):
            source = RedisStreamSource(link, [STREAM], stop)
            part = source.build_part("step", STREAM, None)
            [read] = part.next_batch()
            part.snapshot()
            assert part.next_batch() == []
            assert source.to_go() is None
    assert [entry for entry, _ in read.entries] == [b"1-1", b"1-2"]
    assert group(redis) == "1-2"


def test_a_read_of_many_streams_waits_a_moment_and_not_for_ever(
    link: RedisLink, stop: Event
) -> None:
    streams = [f"executions:{n}" for n in range(4)]
    source = RedisStreamSource(link, streams, stop, block_ms=1)
    part = source.build_part("step", streams[0], None)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(part.next_batch)
        try:
            assert read.result(8) == []
        finally:
            stop.set()


@pytest.mark.parametrize("command", ["xgroup", "xinfo"])
def test_a_permission_that_lacks_is_named_and_not_taken_for_a_stream_that_is_not_there(
    redis_url: str, redis: redis_py.Redis, stop: Event, command: str
) -> None:
    add(redis, "1-1")
    send(redis, "ACL", "SETUSER", "some", "on", ">word", "~*", "&*", "+@all", f"-{command}")
    link = RedisLink(redis_url.replace("redis://", "redis://some:word@"), stop)
    with closing(link.client):
        reader = Reader(link)
        with pytest.raises(RedisRefusedError, match=f"lacks a permission: .*{command}"):
            reader.epoch()
    send(redis, "ACL", "DELUSER", "some")


def test_what_is_still_to_be_read_is_counted_over_all_streams(
    link: RedisLink, redis: redis_py.Redis, stop: Event
) -> None:
    add(redis, "1-1", "1-2", "1-3")
    redis.xadd("executions:1", {"a": "b"})
    source = RedisStreamSource(link, [STREAM, "executions:1"], stop, count=2)
    part = source.build_part("step", STREAM, None)
    source.build_part("step", "executions:1", None)
    assert source.to_go() == 4
    assert len(part.next_batch()[0].entries) == 2
    assert source.to_go() == 2
    redis.delete(STREAM)  # a server that lost some counts them no more
    add(redis, "1-4")
    assert source.to_go() == 1


# --- gaps -----------------------------------------------------------------------------------


def trimmed(client: redis_py.Redis) -> None:
    add(client, "6-1", "7-1", "8-1")
    client.xtrim(STREAM, minid="7-1", approximate=False)


def trimmed_to_nothing(client: redis_py.Redis) -> None:
    add(client, "6-1")
    client.xtrim(STREAM, maxlen=0, approximate=False)


def deleted(client: redis_py.Redis) -> None:
    client.delete(STREAM)


def flushed_with_new_ids_above(client: redis_py.Redis) -> None:
    client.flushall()
    add(client, "6-1")


def restored_from_an_old_copy(client: redis_py.Redis) -> None:
    client.flushall()
    add(client, "1-1", "2-1")


def old_copy_with_new_ids_above(client: redis_py.Redis) -> None:
    restored_from_an_old_copy(client)
    add(client, "6-1")


def last_entry_deleted(client: redis_py.Redis) -> None:
    client.xdel(STREAM, "5-1")


LOSSES = [
    trimmed, trimmed_to_nothing, deleted, flushed_with_new_ids_above, restored_from_an_old_copy,
    old_copy_with_new_ids_above, last_entry_deleted,
]  # fmt: skip


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("when", ["running", "just committed", "restarted"])
def test_a_gap_stops_the_source_and_names_the_ids(
    link: RedisLink, redis: redis_py.Redis, lose: Callable[[redis_py.Redis], None], when: str
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    reader = Reader(link)
    if when == "just committed":
        reader.ids()
        state = reader.part.snapshot()
    else:
        reader.epoch()
        state = reader.part.snapshot()
    lose(redis)
    if when == "restarted":
        reader = Reader(link, state)
    with pytest.raises(GapError, match=r"'executions'.* 5-1.*ACCEPT_GAP=5-1"):
        reader.ids()


@pytest.mark.parametrize("lose", [trimmed, last_entry_deleted])
def test_a_rebuild_needs_the_streams_beginning(
    link: RedisLink, redis: redis_py.Redis, lose: Callable[[redis_py.Redis], None]
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    lose(redis)
    with pytest.raises(GapError, match=r"\d of its entries are gone.*ACCEPT_GAP=0-0"):
        Reader(link).ids()


@pytest.mark.parametrize(
    "lose", [deleted, flushed_with_new_ids_above, restored_from_an_old_copy, last_entry_deleted]
)
@pytest.mark.parametrize("state", [None, ("0-0", 0), ("1-1", 1)])
def test_a_start_from_before_what_was_written_needs_that_entry(
    link: RedisLink,
    redis: redis_py.Redis,
    lose: Callable[[redis_py.Redis], None],
    state: ResumeState | None,
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    lose(redis)
    with pytest.raises(GapError, match=r" 5-1"):
        Reader(link, state, written=lambda _: ("1-1", "5-1")).ids()


def test_a_rebuild_needs_the_first_entry_also_where_the_server_does_not_count(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    redis.xtrim(STREAM, minid="2-1", approximate=False)
    # As Redis 6.2 has it, which keeps no count of the entries that were ever added.
    send(redis, "XSETID", STREAM, "5-1", "ENTRIESADDED", 2, "MAXDELETEDID", "0-0")
    assert Reader(link).ids() == ["2-1", "5-1"]
    with pytest.raises(GapError, match=r"entry 1-1, which was read before, is gone"):
        Reader(link, written=lambda _: ("1-1", "5-1")).ids()


def test_a_start_from_before_what_was_written_reads_it_again(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    assert Reader(link, ("1-1", 1), written=lambda _: ("1-1", "5-1")).epoch() == ["2-1", "5-1"]


def test_a_start_from_before_what_was_written_needs_the_entries_between(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1", "3-1", "5-1")
    redis.xtrim(STREAM, minid="3-1", approximate=False)
    with pytest.raises(GapError):
        Reader(link, ("1-1", 1), written=lambda _: ("1-1", "5-1")).ids()


@pytest.mark.parametrize("lose", [trimmed, flushed_with_new_ids_above, last_entry_deleted])
def test_a_gap_that_is_accepted_by_its_id_is_passed(
    link: RedisLink, redis: redis_py.Redis, lose: Callable[[redis_py.Redis], None]
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    first = Reader(link)
    first.epoch()
    lose(redis)
    with pytest.raises(GapError, match="ACCEPT_GAP=2-1,5-1"):  # with that of another stream
        Reader(link, first.part.snapshot(), accept_gap=["2-1"]).ids()
    accepted: Any = {"accept_gap": ["2-1", "5-1"], "written": lambda _: ("1-1", "5-1")}
    reader = Reader(link, first.part.snapshot(), **accepted)
    reader.epoch()
    add(redis, "9-1")
    assert reader.epoch() == ["9-1"]
    assert group(redis) == "9-1"
    redis.xdel(STREAM, "9-1")
    with pytest.raises(GapError, match="9-1"):
        reader.ids()


def test_a_rebuild_from_what_is_left_can_be_accepted(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    trimmed(redis)
    reader = Reader(link, accept_gap=["0-0"], written=lambda _: ("1-1", "5-1"))
    assert reader.epoch() == ["7-1", "8-1"]
    assert groups(redis)[0]["lag"] == 0


def test_a_gap_that_is_accepted_stays_so_while_nothing_or_only_a_part_is_read(
    link: RedisLink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add(redis, "1-1", "2-1", "3-1", "5-1")
    last_entry_deleted(redis)
    reader = Reader(link, ("1-1", 1), accept_gap=["1-1"], written=lambda _: ("1-1", "5-1"), count=1)
    assert reader.epoch() == ["2-1", "3-1"]
    redis.delete(STREAM)
    send(redis, "XGROUP", "CREATE", STREAM, "positions", "$", "MKSTREAM")
    send(redis, "XSETID", STREAM, "5-1")
    caplog.clear()
    reader = Reader(link, ("3-1", 3), accept_gap=["3-1"])
    assert reader.ids() == reader.ids() == []
    assert [message for message in caplog.messages if "ACCEPT_GAP" in message] == [
        "going on after 3-1 as ACCEPT_GAP says, although entry 3-1, which was read before, is gone"
    ]


def test_entries_are_told_apart_by_their_numbers_and_not_as_texts(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "9-1", "10-1", "11-1")
    assert Reader(link, ("9-1", 1), written=lambda _: ("9-1", "10-1")).ids() == ["10-1", "11-1"]
    redis.xdel(STREAM, "10-1")
    with pytest.raises(GapError, match=r"read up to 10-1"):
        Reader(link, ("9-1", 1), written=lambda _: ("9-1", "10-1")).ids()
    redis.delete(STREAM)
    add(redis, "9-1")
    with pytest.raises(GapError, match=r"newest id 9-1.*XSETID to 10-1"):
        Reader(link, ("10-1", 2), accept_gap=["10-1"]).ids()


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (deleted, r"make it anew .*raise its newest id .*set ACCEPT_GAP=5-1"),
        (trimmed, r"on without them, set ACCEPT_GAP=5-1\. See"),
    ],
)
def test_a_gap_is_told_with_what_to_do_and_no_more(
    link: RedisLink, redis: redis_py.Redis, lose: Callable[[redis_py.Redis], None], told: str
) -> None:
    add(redis, "1-1", "5-1")
    lose(redis)
    with pytest.raises(GapError, match=told):
        Reader(link, ("5-1", 2)).ids()


@pytest.mark.parametrize("state", [None, ("1-1", 1)])
def test_what_is_no_stream_is_refused(
    link: RedisLink, redis: redis_py.Redis, state: ResumeState | None
) -> None:
    redis.set(STREAM, "a text")
    with pytest.raises(RedisRefusedError, match="WRONGTYPE"):
        Reader(link, state).ids()


def test_ids_that_went_back_are_accepted_only_above_the_last_one_read(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1", "2-1", "5-1")
    first = Reader(link)
    first.epoch()
    restored_from_an_old_copy(redis)
    state = first.part.snapshot()
    with pytest.raises(GapError, match=r"newest id 2-1.*XSETID to 5-1"):
        Reader(link, state, accept_gap=["5-1"]).ids()
    send(redis, "XSETID", STREAM, "5-1")
    reader = Reader(link, state, accept_gap=["5-1"])
    reader.epoch()
    add(redis, "5-2")
    assert reader.epoch() == ["5-2"]


def test_a_gap_is_found_although_entries_come_in_the_same_answer(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    add(redis, "1-1")
    reader = Reader(link)
    reader.epoch()
    flushed_with_new_ids_above(redis)
    before = reader.part.snapshot()
    with pytest.raises(GapError):
        reader.ids()
    assert reader.part.snapshot() == before
