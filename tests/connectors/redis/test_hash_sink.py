"""The hash against a real server, written by the flow: it never goes back."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors.redis import hash_sink
from connectors.redis.dead_letter_sink import DeadLetterSink
from connectors.redis.hash_sink import PositionHashSink, to_json
from connectors.redis.link import RedisLink, RedisRefusedError, StoppedError
from state.book import Book
from state.messages import Execution, Instrument
from state.records import Changes
from tests.conftest import OwnServer
from tests.support.flow_process import FlowProcess, add, read_hash, read_stream
from tests.support.notation import message, messages
from tests.support.servers import RedisServer, free_port

EXECUTION = {
    "side": "BUY",
    "fill_qty": "1",
    "fill_price": "1",
    "order_id": "1",
    "timestamp": "1700000000000",
}


def value(stream_id: str, **members: object) -> str:
    return json.dumps({**members, "stream_id": stream_id})


# What a key's field holds when the flow comes to write an entry of 10-10 to 10-99.
STAYS = {
    "newer": value("11-0"), "newer in the same millisecond": value("10-100"),
    "newer, written without spaces": '{"stream_id":"11-0"}', "much newer": value("100-1"),
    "newest": value("18446744073709551614-18446744073709551615"),
}  # fmt: skip
IS_REPLACED = {
    "older": value("9-99"), "older in the same millisecond": value("10-9"),
    "no JSON": "something else", "an id that is not at the end": 'x "stream_id": "99-9" y',
    "without id": "{}",
    "an id in a text": value("1-1", last_exec_id='"stream_id": "99-9"}'),
}  # fmt: skip


@pytest.fixture(scope="module")
def shown(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the fields hold after the flow has run."""
    with redis_server.client() as client:
        client.flushall()
        client.hset("positions", mapping=STAYS | IS_REPLACED)
        for number, symbol in enumerate(STAYS | IS_REPLACED, 10):
            fields = {**EXECUTION, "symbol": symbol, "exec_id": "e"}
            add(client, fields, entry=f"10-{number}")
        with FlowProcess(tmp_path_factory.mktemp("flow"), redis_server.url) as flow:
            flow.until_committed(client)
            assert flow.stop() == 0
        yield {key.decode(): text.decode() for key, text in client.hgetall("positions").items()}


@pytest.mark.parametrize("symbol", STAYS)
def test_a_newer_position_of_another_writer_stays(shown: dict[str, str], symbol: str) -> None:
    assert shown[symbol] == STAYS[symbol]


@pytest.mark.parametrize("symbol", IS_REPLACED)
def test_an_older_position_and_what_is_none_are_replaced(
    shown: dict[str, str], symbol: str
) -> None:
    assert json.loads(shown[symbol])["symbol"] == symbol


def test_a_position_that_was_deleted_is_shown_again_by_the_next_start(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    flow = FlowProcess(tmp_path, redis_url)
    for number, symbol in enumerate(("A", "B", "A"), 1):
        add(redis, {**EXECUTION, "symbol": symbol, "exec_id": f"e{number}"})
    with flow:
        flow.until_committed(redis)
        before = read_hash(redis)
        assert flow.stop() == 0
    redis.delete("positions")
    with flow:
        flow.until(lambda: read_hash(redis) == before, "the positions shown again")
        assert flow.stop() == 0
    assert before["A"]["executions"] == 2


def test_a_position_that_is_kept_under_another_name_can_be_shown_there(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    add(redis, {**EXECUTION, "symbol": "A", "exec_id": "e"})
    for name in ("positions", "other"):
        with FlowProcess(tmp_path, redis_url, POSITIONS_HASH=name) as flow:
            flow.until(lambda: redis.hlen(name), f"the position in {name}")  # noqa: B023
            flow.until_committed(redis)
            assert flow.stop() == 0
    assert read_hash(redis, "other") == read_hash(redis)


def test_a_hash_that_is_deleted_under_a_running_flow_is_written_again_and_told(
    redis_url: str, redis: redis_py.Redis, tmp_path: Path
) -> None:
    for number, symbol in enumerate(("A", "B", "C"), 1):
        add(redis, {**EXECUTION, "symbol": symbol, "exec_id": f"e{number}"})
    with FlowProcess(tmp_path, redis_url) as flow:
        flow.until(lambda: len(read_hash(redis)) == 3, "the positions")
        before = read_hash(redis)
        redis.delete("positions")
        flow.until(lambda: read_hash(redis) == before, "the positions again")
        assert flow.log.count("was deleted or evicted: written again") == 1
        redis.delete("positions")
        # Also if a key is written before anyone has looked.
        add(redis, {**EXECUTION, "symbol": "A", "exec_id": "e4"})
        flow.until(lambda: len(read_hash(redis)) == 3, "all positions again")
        assert read_hash(redis)["A"]["executions"] == 2
        assert flow.stop() == 0


def test_a_server_that_may_evict_is_warned_of_at_the_start(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(maxmemory_policy="allkeys-lru")
    with FlowProcess(tmp_path, server.url) as flow:
        flow.until(lambda: "maxmemory-policy allkeys-lru" in flow.log, "the warning")


# --- the sink by itself ----------------------------------------------------------------------


def part_of(link: RedisLink, kept: int = 1000) -> Any:
    changes = {"executions": "positions:changes"}
    sink = PositionHashSink(link, ["executions"], "positions", changes=changes, changes_kept=kept)
    return sink.build_part("hash", "executions", None)


def change(key: str, stream_id: str, *, live: bool = True) -> Changes:
    return Changes("executions", key, stream_id, Book(key).snapshot(), [], live)


def there(redis: redis_py.Redis) -> dict[str, str]:
    """Return by which entry each key's position is shown."""
    return {key: position["stream_id"] for key, position in read_hash(redis).items()}


def look(link: RedisLink) -> None:
    for act in link.while_alive:
        act()


def test_while_it_catches_up_positions_are_shown_now_and_then_and_once_live_each_at_once(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(link)
    monkeypatch.setattr(hash_sink, "WRITE_EVERY_S", 1e9)
    part.write_batch([change("A", "1-0", live=False)])
    part.write_batch([change("A", "2-0", live=False), change("B", "3-0", live=False)])
    assert there(redis) == {"A": "1-0"}
    part.write_batch([change("C", "4-0"), change("C", "5-0")])
    assert there(redis) == {"A": "2-0", "B": "3-0", "C": "5-0"}
    part.write_batch([change("A", "6-0", live=False)])
    assert there(redis)["A"] == "2-0"
    part.snapshot()
    assert there(redis)["A"] == "6-0"
    assert read_stream(redis, "positions:changes")[-1][0] == "6-0"
    monkeypatch.setattr(hash_sink, "WRITE_EVERY_S", 0.0)
    part.write_batch([change("A", "7-0")])
    part.write_batch([change("A", "8-0", live=False)])
    assert there(redis)["A"] == "8-0"


def test_a_deletion_is_told_by_the_key_that_has_not_changed_for_longest(
    link: RedisLink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    part = part_of(link)
    part.write_batch([change("A", "1-0"), change("B", "2-0")])
    redis.delete("positions")
    part.write_batch([change("A", "3-0")])
    assert there(redis) == {"A": "3-0"}
    look(link)
    assert there(redis) == {"A": "3-0", "B": "2-0"}
    assert [line for line in caplog.messages if "deleted or evicted" in line]


def test_a_hash_that_is_there_is_looked_at_now_and_then_and_left_alone(
    link: RedisLink,
    redis: redis_py.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part, call, calls = part_of(link), link.call, []

    def noted(command: Any) -> Any:
        calls.append(command)
        return call(command)

    monkeypatch.setattr(hash_sink, "LOOK_EVERY_S", 0.0)
    look(link)  # there is no position yet
    part.write_batch([change("A", "1-0")])
    redis.hset("positions", "A", "of another writer")
    look(link)
    assert redis.hget("positions", "A") == b"of another writer"
    monkeypatch.setattr(hash_sink, "LOOK_EVERY_S", 1e9)
    look(link)
    monkeypatch.setattr(link, "call", noted)
    look(link)
    assert (calls, caplog.messages) == ([], [])


def test_more_positions_than_a_script_is_given_at_once_are_all_written(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_sink, "_AT_ONCE", 2)
    part_of(link).write_batch([change(key, f"{at}-0") for at, key in enumerate("ABCDE", 1)])
    assert there(redis) == {"A": "1-0", "B": "2-0", "C": "3-0", "D": "4-0", "E": "5-0"}


def test_what_is_not_written_yet_was_not_deleted(
    link: RedisLink, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    part = part_of(link)
    part.write_batch([change("A", "1-0", live=False)])
    redis.delete("positions")
    part.write_batch([change("A", "2-0", live=False)])
    look(link)
    assert (there(redis), caplog.messages) == ({}, [])


def test_changes_that_were_deleted_are_written_again_without_anything_new(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = part_of(link)
    part.write_batch([change("A", "1-0")])
    redis.delete("positions:changes")
    look(link)
    assert [entry_id for entry_id, _ in read_stream(redis, "positions:changes")] == ["1-0"]


def test_where_no_changes_are_kept_there_is_no_stream_of_them(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    part = part_of(link, kept=0)
    part.write_batch([change("A", "1-0")])
    part.snapshot()
    look(link)
    assert there(redis) == {"A": "1-0"}
    assert not redis.exists("positions:changes")


def test_a_stop_while_redis_is_away_fails_nowhere_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = RedisLink(f"redis://127.0.0.1:{free_port()}/0", stop=None)
    part = part_of(link)
    part.write_batch([change("A", "1-0")])
    part._untold = {"A": ("A", "1-0", "{}")}
    part.snapshot()
    for act in link.after_outage:
        act()
    told = [line.partition(" not written")[0] for line in caplog.messages if "next start" in line]
    assert told == ["positions", "changes", "positions"]


def test_what_is_not_in_the_hash_does_not_get_among_the_changes(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, call, calls = part_of(link), link.call, []

    def fail_once(command: Any) -> Any:
        calls.append(command)
        if len(calls) == 1:
            raise StoppedError
        return call(command)

    monkeypatch.setattr(link, "call", fail_once)
    part.write_batch([change("A", "1-0")])
    part.snapshot()
    assert not redis.exists("positions", "positions:changes")


def test_a_hash_that_is_none_is_refused(link: RedisLink, redis: redis_py.Redis) -> None:
    redis.set("positions", "a text")
    with pytest.raises(RedisRefusedError, match=r"WRONGTYPE.*keys that settings name"):
        part_of(link).write_batch([change("A", "1-0")])


def test_parts_are_numbered_as_the_engine_sorts_them(link: RedisLink) -> None:
    streams = [f"executions:{number}" for number in range(12)]
    for sink in (
        PositionHashSink(link, streams, "positions"),
        DeadLetterSink(link, {stream: f"{stream}:dead" for stream in streams}),
    ):
        assert sink.list_parts() == sorted(streams)
        assert [sink.list_parts()[sink.part_fn(stream)] for stream in streams] == streams


def test_a_position_of_which_nothing_is_known_has_all_members() -> None:
    assert json.loads(to_json(Book("A").snapshot(), "1-0")) == {
        "account": None, "symbol": "A", "currency": "USD", "multiplier": 1, "sec_type": None,
        "con_id": None, "qty": 0, "avg_price": None, "cost_basis": 0, "realized_pnl": 0,
        "commission": 0, "other_commissions": None, "basis_adjustment": 0, "net_realized_pnl": 0,
        "open_lots": 0, "executions": 0, "last_exec_id": None, "last_price": None,
        "timestamp": None, "stream_id": "1-0",
    }  # fmt: skip


def test_each_figure_of_a_position_is_under_its_name_with_every_digit() -> None:
    book = Book('B "1"', "U1")
    lines = ("BUY 3 @ 10.0000000001 x100 fee 1 adj 0.5", "SELL 1 @ 11 fee 0.25 EUR", "SELL 1 @ 12")
    for each in messages(*lines):
        book.apply(each)
    last = message("BUY 0.5 @ 7 fee -2", 9)
    assert isinstance(last, Execution)
    book.apply(last._replace(instrument=Instrument("USD", None, 7, "FUT")))
    text = to_json(book.snapshot(), "18446744073709551615-7")
    found = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    assert found == {
        "account": "U1", "symbol": 'B "1"', "currency": "USD", "multiplier": 100,
        "sec_type": "FUT", "con_id": 7, "qty": Decimal("1.5"), "avg_price": Decimal("9.0000000001"),
        "cost_basis": Decimal("1350.00000001"), "realized_pnl": Decimal("299.99999998"),
        "commission": -1, "other_commissions": {"EUR": Decimal("0.25")},
        "basis_adjustment": Decimal("0.5"), "net_realized_pnl": Decimal("298.99999998"),
        "open_lots": 2, "executions": 4, "last_exec_id": "00000009.00000009.01.01",
        "last_price": 7, "timestamp": 9000, "stream_id": "18446744073709551615-7",
    }  # fmt: skip
    assert text.endswith('"stream_id": "18446744073709551615-7"}')
