"""The stream of changes against a real server: in order, each once, the newest never missing."""

import json
import random
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import redis as redis_py
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.redis.changes_stream import ChangesStream, Shown
from connectors.redis.hash_sink import PositionHashSink
from connectors.redis.link import RedisLink
from state.book import Book
from state.records import Changes
from tests.support.flow_process import FlowProcess, add, read_hash, read_stream
from tests.support.follower import changes, follow, newest
from tests.support.servers import RedisServer

STREAM = "positions:changes"
EXECUTION = {"side": "BUY", "fill_qty": "1", "fill_price": "1", "order_id": "1",
             "timestamp": "1700000000000"}  # fmt: skip


def shown(key: str, stream_id: str) -> Shown:
    return key, stream_id, json.dumps({"key": key, "stream_id": stream_id})


def ids(client: redis_py.Redis) -> list[str]:
    return [entry_id for entry_id, _ in read_stream(client, STREAM)]


def test_changes_are_sorted_as_redis_sorts_and_none_is_written_twice(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    stream = ChangesStream(link, STREAM, 1000)
    stream.write([shown("A", "10-1"), shown("B", "9-10"), shown("C", "9-9")])
    stream.write([shown("B", "10-2")])
    again = ChangesStream(link, STREAM, 1000)
    again.write([shown("C", "9-9"), shown("B", "10-2"), shown("A", "10-1"), shown("D", "11-0")])
    assert [(i, key) for i, key, _ in changes(redis)] == [
        ("9-9", "C"), ("9-10", "B"), ("10-1", "A"), ("10-2", "B"), ("11-0", "D"),
    ]  # fmt: skip


def test_what_was_deleted_is_there_again_in_order_without_anything_new(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    redis.script_flush()  # as of a server that has just been started
    stream = ChangesStream(link, STREAM, 1000)
    stream.check()
    stream.write([shown("A", "1-0"), shown("B", "2-0")])
    stream.write([shown("A", "3-0")])
    redis.delete(STREAM)
    stream.check()
    assert ids(redis) == ["2-0", "3-0"]
    redis.delete(STREAM)
    stream.write([shown("C", "4-0")])
    assert ids(redis) == ["2-0", "3-0", "4-0"]


def test_what_is_offered_again_does_not_hide_that_newer_changes_are_lost(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    stream = ChangesStream(link, STREAM, 1000)
    stream.write([shown("A", "5-0")])
    stream.write([shown("B", "3-0")])
    redis.delete(STREAM)
    redis.xadd(STREAM, {"key": "B"}, id="4-0")
    stream.check()
    assert ids(redis) == ["4-0", "5-0"]


def test_a_look_while_another_writes_waits_for_nothing_and_does_nothing(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that writes may itself wait for an outage's end, and then tell the other."""
    stream, call, calls = ChangesStream(link, STREAM, 1000), link.call, []

    def call_and_look(command: Any) -> Any:
        calls.append(command)
        if len(calls) == 1:
            looking = Thread(target=stream.check, daemon=True)
            looking.start()
            looking.join(5)
            assert not looking.is_alive()
        return call(command)

    monkeypatch.setattr(link, "call", call_and_look)
    stream.write([shown("A", "1-0")])
    assert len(calls) == 1
    stream.check()
    assert len(calls) == 2


def test_about_as_many_are_kept_as_is_told(link: RedisLink, redis: redis_py.Redis) -> None:
    ChangesStream(link, STREAM, 100).write([shown("A", f"{n}-0") for n in range(1, 2001)])
    assert 100 <= redis.xlen(STREAM) <= 300
    assert ids(redis)[-1] == "2000-0"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_written_lost_and_shown_again_the_newest_of_each_key_is_there(
    redis_server: RedisServer, seed: int
) -> None:
    """Writers die between any two writes, and the server comes back without its last ones."""
    rng, link = random.Random(seed), RedisLink(redis_server.url, Event())
    history = [shown(rng.choice("ABCDE"), f"{n // 3}-{n % 3}") for n in range(3, 60)]
    with closing(link.client) as client:
        client.delete(STREAM)
        stream, at, committed = ChangesStream(link, STREAM, 1000), 0, 0
        while at < len(history):
            until = at + rng.randint(1, 12)
            batch = _newest_of(history[at:until])
            rng.shuffle(batch)
            chance = rng.random()
            if chance < 0.3:  # dies when a part is written; the next one shows again first
                stream.write(sorted(batch, key=_order)[: rng.randint(0, len(batch))])
                stream, at = ChangesStream(link, STREAM, 1000), committed
                stream.write(_newest_of(history[:at]))
                continue
            stream.write(batch)
            if chance < 0.6:
                _forget(client, rng.randint(0, 5))
                stream.check()
            at = until
            committed = rng.choice([committed, at])
        expected = {key: stream_id for key, stream_id, _ in history}
        assert {k: row["stream_id"] for k, row in newest(client, STREAM).items()} == expected


def _newest_of(history: list[Shown]) -> list[Shown]:
    return list({one[0]: one for one in history}.values())


def _order(one: Shown) -> tuple[int, ...]:
    return tuple(map(int, one[1].split("-")))


def _forget(client: redis_py.Redis, count: int) -> None:
    """Let the server have lost its last entries, as if it had never had them."""
    entries: Any = client.xrange(STREAM)
    client.delete(STREAM)
    for entry_id, fields in entries[: max(0, len(entries) - count)]:
        client.xadd(STREAM, fields, id=entry_id)


def _trade(client: redis_py.Redis, numbers: range, exec_id: str) -> None:
    pipe = client.pipeline(transaction=False)
    for number in numbers:
        fields: dict[Any, Any] = {**EXECUTION, "symbol": f"K{number}", "exec_id": exec_id}
        pipe.xadd("executions", fields)
    pipe.execute()


def test_what_a_restart_shows_again_is_in_order_however_many_keys_there_are(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    """The changes were deleted, and new entries are there when the flow comes back."""
    flow, keys = FlowProcess(tmp_path, redis_url), 3000
    _trade(redis, range(keys), "e1")
    with flow:
        flow.until_committed(redis)
        # One read that changes very many keys, while the flow is live.
        _trade(redis, range(1500), "e2")
        flow.until_committed(redis)
        assert newest(redis, STREAM) == read_hash(redis)
        flow.kill()
    redis.delete(STREAM)
    _trade(redis, range(0, keys, 50), "e3")
    with flow:
        flow.until_committed(redis)
        flow.until(lambda: newest(redis, STREAM) == read_hash(redis), "all changes again")
        _deleted_and_followed(flow, redis, redis_url, keys)
        assert flow.stop() == 0


def test_what_a_start_shows_in_several_batches_is_in_order_and_then_nothing_waits(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    """One worker's engine gives all of it in one batch, but nothing says that it must."""
    part = _hash_partition(link, resumes=True)
    part.write_batch([_change("B", "10-2"), _change("C", "10-3")])
    part.write_batch([_change("A", "10-1")])
    part.snapshot()
    assert ids(redis) == ["10-1", "10-2", "10-3"]
    part.write_batch([_change("B", "10-4")])
    assert ids(redis)[-1] == "10-4"


def test_what_several_workers_changed_is_in_order_in_every_epoch(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = _hash_partition(link, together=True)
    for epoch in (10, 11):
        part.write_batch([_change("B", f"{epoch}-2")])
        part.write_batch([_change("A", f"{epoch}-1")])
        part.snapshot()
    assert ids(redis) == ["10-1", "10-2", "11-1", "11-2"]


@pytest.mark.parametrize("runs", [{}, {"resumes": True}, {"together": True}], ids=str)
def test_a_position_is_in_the_hash_before_it_is_among_the_changes(
    link: RedisLink, redis: redis_py.Redis, runs: dict[str, bool]
) -> None:
    """Else who takes the stream's last id and then reads the hash would miss it."""
    part = _hash_partition(link, **runs)
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        for epoch in (10, 11):
            part.write_batch([_change("A", f"{epoch}-1"), _change("B", f"{epoch}-2")])
            part.snapshot()
        order: list[str] = []
        while len(order) < 8:
            command = monitor.next_command()["command"].split(" ", 1)[0]
            order += [command] if command in {"HSET", "XADD"} else []
    assert order == ["HSET", "HSET", "XADD", "XADD"] * 2


def test_after_an_outage_what_went_back_in_the_hash_or_among_the_changes_is_written_again(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    """Of a hash that is still there nothing else would notice it."""
    part = _hash_partition(link)
    part.write_batch([_change("A", "10-1"), _change("B", "10-2")])
    before: Any = redis.hgetall("positions")
    part.write_batch([_change("A", "10-3")])
    newest_ones = redis.hgetall("positions")
    redis.hset("positions", mapping=before)
    redis.delete(STREAM)
    for act in link.after_outage:
        act()
    assert redis.hgetall("positions") == newest_ones
    assert ids(redis) == ["10-2", "10-3"]


def _hash_partition(link: RedisLink, **runs: bool) -> Any:
    sink = PositionHashSink(
        link, ["executions"], "positions", changes={"executions": STREAM}, changes_kept=1000, **runs
    )
    return sink.build_part("hash", "executions", None)


def _change(key: str, stream_id: str) -> Changes:
    return Changes("executions", key, stream_id, Book(key).snapshot(), [], live=True)


def _deleted_and_followed(
    flow: FlowProcess, redis: redis_py.Redis, redis_url: str, keys: int
) -> None:
    redis.delete(STREAM)
    flow.until(lambda: redis.xlen(STREAM) == keys, "the changes again")
    assert newest(redis, STREAM) == read_hash(redis)
    with redis_py.Redis.from_url(redis_url, decode_responses=True) as client:
        told = follow(client, STREAM)
        assert dict(islice(told, keys)) == read_hash(redis)
        last = add(redis, {**EXECUTION, "symbol": "K7", "exec_id": "e4"})
        key, position = next(told)
    assert (key, position["stream_id"], position["qty"]) == ("K7", last, 3)


def test_a_follower_that_fell_behind_what_is_kept_begins_again_with_the_hash(
    link: RedisLink, redis: redis_py.Redis, redis_url: str
) -> None:
    stream = ChangesStream(link, STREAM, 10)

    def change(key: str, number: int) -> None:
        one = shown(key, f"{number}-0")
        redis.hset("positions", key, one[2])
        stream.write([one])

    with redis_py.Redis.from_url(redis_url, decode_responses=True) as client:
        told = follow(client, STREAM)
        change("A", 1)
        assert next(told)[0] == "A"
        change("B", 2)
        assert next(told)[0] == "B"
        change("C", 3)
        for number in range(4, 1000):
            change("D", number)
        assert "3-0" not in ids(redis)
        seen: dict[str, str] = {}
        while seen.get("D") != "999-0" or "C" not in seen:
            key, position = next(told)
            seen[key] = position["stream_id"]
        assert seen == {"C": "3-0", "D": "999-0"}
