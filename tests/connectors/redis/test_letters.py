"""Dead letters of the flow and of others on one stream: none is lost, none comes twice."""

from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any

import pytest
import redis as redis_py
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from connectors.redis.letters import OtherLetters, add_of_flow, keys_beside
from connectors.redis.link import RedisLink
from tests.support.flow_process import read_stream

DEAD = "executions:dead"
WORDS = [b"symbol", b"A"]
WIDE = [b"%d" % (n // 2) for n in range(20_000)]
"""More words than a script hands on."""


@pytest.fixture
def others(redis_url: str) -> Iterator[OtherLetters]:
    link = RedisLink(redis_url, Event())
    with closing(link.client):
        yield OtherLetters(link, {"executions": DEAD})


def ids(redis: redis_py.Redis) -> list[str]:
    found: Any = redis.xrange(DEAD)
    return [entry_id.decode() for entry_id, _ in found]


def test_a_letter_from_elsewhere_comes_once_behind_the_newest(
    redis: redis_py.Redis, others: OtherLetters
) -> None:
    add_of_flow(redis, DEAD, [("5-3", WORDS)])
    fields = {"symbol": "AAPL", "tws": "{}"}
    assert others.add_once("U1:e1", "executions", fields, "time: expected …")
    assert not others.add_once("U1:e1", "executions", fields, "time: expected …")
    found: Any = redis.xrange(DEAD)
    assert found[1] == (
        b"5-4",
        {
            b"symbol": b"AAPL", b"tws": b"{}", b"error": "time: expected …".encode(),
            b"source_stream": b"executions", b"source_id": b"0-0",
        },
    )  # fmt: skip


@pytest.mark.parametrize("words", [WORDS, WIDE], ids=["few words", "many words"])
def test_a_letter_of_the_flow_whose_id_is_taken_is_written_all_the_same(
    redis: redis_py.Redis, others: OtherLetters, words: list[bytes]
) -> None:
    add_of_flow(redis, DEAD, [("5-3", WORDS)])
    for number in range(2):
        others.add_once(str(number), "executions", {"symbol": "A"}, "no")
    assert add_of_flow(redis, DEAD, [("5-4", words), ("5-5", WORDS), ("6-0", words)]) == [True] * 3
    assert ids(redis) == ["5-3", "5-4", "5-5", "5-6", "5-7", "6-0"]
    assert add_of_flow(redis, DEAD, [("5-4", words), ("5-5", WORDS), ("6-0", words)]) == [False] * 3


@pytest.mark.parametrize("words", [WORDS, WIDE], ids=["few words", "many words"])
def test_without_others_a_letter_has_its_entry_s_id_and_nothing_stands_beside(
    redis: redis_py.Redis, words: list[bytes]
) -> None:
    assert add_of_flow(redis, DEAD, [("9-9", WORDS), ("10-0", words)]) == [True, True]
    assert ids(redis) == ["9-9", "10-0"]
    assert not redis.exists(*keys_beside(DEAD))


def test_a_sequence_that_ends_in_nines_goes_on(redis: redis_py.Redis, others: OtherLetters) -> None:
    add_of_flow(redis, DEAD, [("5-199", WORDS)])
    others.add_once("1", "executions", {}, "no")
    add_of_flow(redis, DEAD, [("7-9999", WORDS)])
    others.add_once("2", "executions", {}, "no")
    assert ids(redis) == ["5-199", "5-200", "7-9999", "7-10000"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(st.integers(1, 3), st.just("other"), st.just("replay")), max_size=30))
def test_whatever_the_order_each_letter_is_there_once(
    redis: redis_py.Redis, others: OtherLetters, steps: list[int | str]
) -> None:
    redis.flushall()
    written: list[str] = []
    other = 0
    for step in steps:
        if step == "other":
            other += 1
            assert others.add_once(str(other), "executions", {"symbol": "B"}, "no")
        elif step == "replay":
            again = [(entry_id, [b"source_id", entry_id.encode()]) for entry_id in written]
            assert not again or not any(add_of_flow(redis, DEAD, again))
        else:
            new = [f"{1 + len(written) // 3}-{len(written) % 3 + n}" for n in range(int(step))]
            new = [entry_id for entry_id in new if entry_id not in written]
            new.sort(key=lambda entry_id: tuple(map(int, entry_id.split("-"))))
            last = written[-1] if written else "0-0"
            new = [n for n in new if _order(n) > _order(last)]
            if new:
                letters = [(entry_id, [b"source_id", entry_id.encode()]) for entry_id in new]
                assert all(add_of_flow(redis, DEAD, letters))
                written += new
    found: Any = redis.xrange(DEAD)
    sources = [fields[b"source_id"].decode() for _, fields in found if b"error" not in fields]
    assert sources == written
    assert len(found) == len(written) + other


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


def test_a_letter_of_more_words_than_a_script_hands_on_is_written_like_any_other(
    redis: redis_py.Redis, others: OtherLetters
) -> None:
    letters = [("5-3", WORDS), ("5-4", WIDE), ("5-5", WIDE[:8000]), ("6-0", WIDE)]
    assert add_of_flow(redis, DEAD, letters[:2]) == [True, True]
    assert others.add_once("1", "executions", {"symbol": "A"}, "no")
    assert add_of_flow(redis, DEAD, letters) == [False, False, True, True]
    assert add_of_flow(redis, DEAD, letters) == [False] * 4
    assert ids(redis) == ["5-3", "5-4", "5-5", "5-6", "6-0"]
    assert [redis.get(key) for key in keys_beside(DEAD)[:1]] == [b"6-0"]
    found: Any = redis.xrange(DEAD)
    assert len(found[-1][1]) == 10_000


def test_a_letter_of_many_words_goes_behind_one_that_comes_while_it_looks_for_its_place(
    redis: redis_py.Redis, others: OtherLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_of_flow(redis, DEAD, [("5-3", WORDS)])
    others.add_once("before", "executions", {}, "no")
    transaction: Any = redis.transaction

    def interrupted(act: Any, *watched: Any) -> Any:
        def act_and_add(pipe: Any) -> None:
            act(pipe)
            others.add_once("meanwhile", "executions", {}, "no")

        return transaction(act_and_add, *watched)

    monkeypatch.setattr(redis, "transaction", interrupted)
    assert add_of_flow(redis, DEAD, [("5-4", WIDE)]) == [True]
    assert ids(redis) == ["5-3", "5-4", "5-5", "5-6"]
    assert len(read_stream(redis, DEAD)[-1][1]) == len(WIDE)


@pytest.mark.parametrize("words", [WORDS, WIDE], ids=["few words", "many words"])
def test_what_the_server_refuses_is_raised_and_no_letter_taken_for_written(
    redis: redis_py.Redis, words: list[bytes]
) -> None:
    redis.set(DEAD, "no stream")
    with pytest.raises(redis_py.ResponseError, match="WRONGTYPE"):
        add_of_flow(redis, DEAD, [("5-3", words)])


def test_letters_are_added_in_one_step(redis: redis_py.Redis) -> None:
    """Else some of them were there, and counted nowhere, after an error at a later one."""
    add_of_flow(redis, DEAD, [("5-3", WORDS)])
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        add_of_flow(redis, DEAD, [("5-4", WORDS), ("5-5", WORDS)])
        seen: list[str] = []
        while "XADD" not in seen:
            seen.append(monitor.next_command()["command"].split(" ", 1)[0])
    assert "MULTI" in seen


@pytest.mark.parametrize("stream", ["executions:dead", "{executions}:dead:0"])
def test_what_stands_beside_the_letters_is_in_their_slot_of_redis_cluster(stream: str) -> None:
    assert {key_slot(key.encode()) for key in keys_beside(stream)} == {key_slot(stream.encode())}
