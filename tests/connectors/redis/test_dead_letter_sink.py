"""The sink of rejected entries against a real server."""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from prometheus_client import REGISTRY

from connectors.redis import dead_letter_sink
from connectors.redis.dead_letter_sink import DeadLetterSink
from connectors.redis.link import RedisLink
from state.records import Entry, Rejected
from tests.conftest import OwnServer
from tests.support.flow_process import read_stream, until

DEAD = "executions:dead"


def rejected(entry: str, *fields: bytes, reason: str = "side: expected BUY") -> Rejected:
    return Rejected("executions", Entry(entry, list(fields)), reason)


def counted() -> float:
    """Return how many dead letters about a side the metrics have counted."""
    return REGISTRY.get_sample_value("lotstream_dead_letters_total", {"reason": "side"}) or 0


def ping(client: redis_py.Redis) -> bool:
    return bool(client.ping())


def write(link: RedisLink, *epochs: list[Rejected]) -> None:
    """Write some epochs, as a run does after its start."""
    part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
    for letters in epochs:
        if letters:
            part.write_batch(letters)
        part.snapshot()


def test_a_letter_keeps_its_fields_and_says_why_and_where_from(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    fields = (b"b", b"\xff\x00", b"a", b"", b"b", b"again", b"error", b"its own")
    write(link, [rejected("5-1", *fields)])
    assert read_stream(redis, DEAD) == [
        ("5-1", [*fields, b"error", b"side: expected BUY", b"source_stream", b"executions",
                 b"source_id", b"5-1"])
    ]  # fmt: skip


def test_a_letter_is_written_and_logged_once_however_often_it_is_replayed(
    link: RedisLink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="lotstream.dead_letters")
    before = counted()
    write(link, [rejected("9-1")], [rejected("10-1")])
    write(link, [rejected("9-1"), rejected("10-1"), rejected("10-2")])
    assert [entry for entry, _ in read_stream(redis, DEAD)] == ["9-1", "10-1", "10-2"]
    assert len(caplog.messages) == 3
    assert counted() == before + 3


def test_letters_that_arrive_out_of_order_in_an_epoch_are_all_written(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
    part.write_batch([rejected("10-1"), rejected("9-2")])
    part.write_batch([rejected("9-10")])
    part.snapshot()
    assert [entry for entry, _ in read_stream(redis, DEAD)] == ["9-2", "9-10", "10-1"]


def test_a_letter_that_someone_removed_is_not_written_again(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    write(link, [rejected("5-1"), rejected("6-1")])
    redis.xdel(DEAD, "5-1", "6-1")
    write(link, [rejected("5-1"), rejected("6-1"), rejected("7-1")])
    assert [entry for entry, _ in read_stream(redis, DEAD)] == ["7-1"]


def test_many_letters_are_all_written(link: RedisLink, redis: redis_py.Redis) -> None:
    write(link, [rejected(f"{n}-1", b"n", b"x" * 100) for n in range(1, 1202)])
    assert redis.xlen(DEAD) == 1201


@pytest.mark.parametrize("more", [True, False])
def test_letters_that_a_server_lost_in_an_outage_are_written_again(
    own_server: OwnServer, more: bool
) -> None:
    server = own_server()
    link = RedisLink(server.url, Event())
    with closing(link.client), server.client() as client, ThreadPoolExecutor(1) as pool:
        part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
        part.write_batch([rejected("5-1"), rejected("6-1")])
        part.snapshot()
        server.kill()
        if more:
            part.write_batch([rejected("7-1")])
        waiting = pool.submit(part.snapshot if more else lambda: link.call(ping))
        until(lambda: link.retries, "an outage")
        server.start()
        waiting.result(20)
        written = [entry for entry, _ in read_stream(client, DEAD)]
    assert written == ["5-1", "6-1", "7-1"][: 2 + more]


@pytest.mark.parametrize("more", [True, False])
def test_all_that_a_server_may_have_lost_between_two_calls_is_written_again(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture, more: bool
) -> None:
    """It takes thousands of letters a second, and may be back before anybody has missed it."""
    caplog.set_level(logging.ERROR)
    server = own_server()
    link = RedisLink(server.url, Event())
    written = [rejected(f"{n}-1") for n in range(1, 1202)]
    with closing(link.client), server.client() as client:
        part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
        part.write_batch(written)
        part.snapshot()
        server.kill()
        server.start()
        if more:
            part.write_batch([rejected("1202-1")])
            part.snapshot()
        else:
            link.call(ping)
        assert link.retries == 0
        ids = [entry for entry, _ in read_stream(client, DEAD)]
    assert ids == [f"{n}-1" for n in range(1, 1202 + more)]


@pytest.mark.parametrize("more", [True, False])
def test_the_last_letters_before_a_restart_are_written_again_if_a_server_lost_them(
    link: RedisLink, redis: redis_py.Redis, more: bool
) -> None:
    sink = DeadLetterSink(link, {"executions": DEAD})
    part = sink.build_part("step", "executions", None)
    part.write_batch([rejected("5-1"), rejected("6-1", b"n", b"1")])
    kept = part.snapshot()
    letters = read_stream(redis, DEAD)
    redis.delete(DEAD)
    link.while_alive.clear()
    resumed = sink.build_part("step", "executions", kept)
    if more:
        resumed.write_batch([rejected("7-1")])
        resumed.snapshot()
    for _ in range(2):
        for act in link.while_alive:
            act()
    assert read_stream(redis, DEAD)[:2] == letters
    assert redis.xlen(DEAD) == 2 + more


def test_only_the_last_letters_are_kept_for_a_restart_and_those_of_long_ago_are_not(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server cannot have lost, a person may have removed, stream and all."""
    sink = DeadLetterSink(link, {"executions": DEAD})
    part = sink.build_part("step", "executions", None)
    part.write_batch([rejected("5-1"), rejected("6-1")])
    assert [entry for entry, *_ in part.snapshot()[:-1]] == ["5-1", "6-1"]
    monkeypatch.setattr(dead_letter_sink, "_LOST_S", 0.0)
    state = part.snapshot()
    redis.delete(DEAD)
    link.while_alive.clear()
    sink.build_part("step", "executions", state)
    for act in link.while_alive:
        act()
    assert not redis.exists(DEAD)


def test_letters_of_any_size_take_no_more_room_in_a_snapshot_than_a_server_may_lose(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
    part.write_batch([rejected(f"{n}-1", b"name", b"x" * 20_000) for n in range(1, 1_001)])
    kept = [entry for entry, *_ in part.snapshot()[:-1]]
    assert 700 < len(kept) < 800
    assert kept == [f"{n}-1" for n in range(1_001 - len(kept), 1_001)]
    assert redis.xlen(DEAD) == 1_000


def test_after_an_outage_the_last_letters_are_written_once_and_not_with_each_new_one(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
    for entry in ("5-1", "6-1", "7-1"):
        part.write_batch([rejected(entry)])
        part.snapshot()
        link.losses += entry == "5-1"
        if entry == "6-1":
            redis.delete(DEAD)  # by a person
    assert [entry for entry, _ in read_stream(redis, DEAD)] == ["7-1"]


@pytest.mark.parametrize("found_out", ["after_outage", "while_alive"])
def test_letters_are_written_again_if_redis_was_away_just_after_it_had_taken_them(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, found_out: str
) -> None:
    """Another thread may find out before the one that has written goes on."""
    part = DeadLetterSink(link, {"executions": DEAD}).build_part("step", "executions", None)
    call = link.call

    def call_and_go(command: Any) -> Any:
        answer = call(command)
        link.losses += 1
        return answer

    monkeypatch.setattr(link, "call", call_and_go)
    part.write_batch([rejected("5-1")])
    part.snapshot()
    monkeypatch.undo()
    redis.delete(DEAD)
    for act in getattr(link, found_out):
        act()
    assert [entry for entry, _ in read_stream(redis, DEAD)] == ["5-1"]


def test_a_reason_that_is_no_text_for_redis_is_written_all_the_same(
    link: RedisLink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # Its log line would be in pytest's report, which cannot carry it either.
    caplog.set_level(logging.CRITICAL)
    write(link, [rejected("5-1", reason="found '\ud800'")])
    [(_, fields)] = read_stream(redis, DEAD)
    assert fields[1] == b"found '\\ud800'"
