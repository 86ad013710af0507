"""How many partitions there are: who comes first says it, all others agree or are refused."""

from collections.abc import Sequence
from contextlib import closing

import pytest
import redis as redis_py

from connectors.redis import partitions
from connectors.redis.link import NotOursError, RedisLink
from connectors.redis.partitions import PartitionsError, agree, recorded
from tests.conftest import OwnServer

ONE = ["executions"]
TWO = ["executions:0", "executions:1"]
FOUR = [f"executions:{number}" for number in range(4)]


@pytest.mark.parametrize(("first", "then"), [(FOUR, TWO), (TWO, FOUR), (ONE, FOUR), (FOUR, ONE)])
def test_all_agree_with_who_came_first(
    link: RedisLink, redis: redis_py.Redis, first: Sequence[str], then: Sequence[str]
) -> None:
    agree(link, first)
    assert redis.get("executions:partitions") == str(len(first)).encode()
    for record in (True, False):
        agree(link, first, record=record)
        told = f"expected {len(first)}, as stream 'executions' has .* found {len(then)};"
        with pytest.raises(PartitionsError, match=told):
            agree(link, then, record=record)
    assert recorded(redis, "executions") == len(first)


def test_a_single_stream_may_be_called_as_if_it_were_the_first_of_many(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    agree(link, ["mine:0"])
    assert redis.keys() == [b"mine:0:partitions"]


def test_who_only_looks_records_nothing(link: RedisLink, redis: redis_py.Redis) -> None:
    agree(link, FOUR, record=False)
    assert redis.dbsize() == 0


@pytest.mark.parametrize("value", ["", "four", "-1", "4.0"])
def test_what_is_no_number_is_not_ours(link: RedisLink, redis: redis_py.Redis, value: str) -> None:
    redis.set("executions:partitions", value)
    with pytest.raises(NotOursError, match="executions:partitions: expected a number"):
        agree(link, FOUR)
    assert redis.get("executions:partitions") == value.encode()


def test_of_two_who_come_first_at_once_one_is_refused(
    link: RedisLink, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(client: redis_py.Redis, stream: str) -> int | None:
        found = recorded(client, stream)
        if found is None:  # and then the other records its own
            redis.set("executions:partitions", 2)
        return found

    monkeypatch.setattr(partitions, "recorded", ask)
    with pytest.raises(PartitionsError):
        agree(link, FOUR)
    assert redis.get("executions:partitions") == b"2"


def test_a_redis_that_is_full_is_only_asked(own_server: OwnServer) -> None:
    """It waits for the flow to trim, which must get as far as that."""
    server = own_server(maxmemory_policy="noeviction")
    link = RedisLink(server.url, stop=None)
    with closing(link.client), server.client() as client:
        agree(link, FOUR)
        client.config_set("maxmemory", 1)
        agree(link, FOUR)
