"""What a look finds on a real server, and what it says when there is nothing to find."""

import json
import socket
import time
from collections.abc import Iterator
from decimal import Decimal, localcontext

import pytest
import redis as redis_py

from connectors.redis.link import NotOursError
from connectors.redis.overview import (
    SILENT_S,
    WAITING_S,
    OverviewReader,
    RedisAwayError,
    StreamState,
    lags,
)
from tests.conftest import OwnServer
from tests.support.hash_values import be_heard, commit, position, put


@pytest.fixture
def reader(redis_url: str) -> Iterator[OverviewReader]:
    reader = reader_of(redis_url)
    yield reader
    reader.close()


def reader_of(url: str, *streams: str) -> OverviewReader:
    return OverviewReader(
        url,
        streams=streams or ("executions",),
        letters=["executions:dead"],
        positions_hash="positions",
    )


def state(reader: OverviewReader) -> StreamState:
    [state] = reader.read().streams
    return state


def add(redis: redis_py.Redis, entry_id: str = "*", stream: str = "executions") -> str:
    added = redis.xadd(stream, {"symbol": b"\xff"}, id=entry_id)
    assert isinstance(added, bytes)
    return added.decode()


def test_an_empty_server_has_nothing_to_show(reader: OverviewReader) -> None:
    overview = reader.read()
    assert abs(overview.at_ms / 1000 - time.time()) < 10
    assert overview.positions == {}
    assert overview.totals == []
    assert overview.dead_letters == 0
    [stream] = overview.streams
    assert stream == StreamState("executions", 0, None, None, None, 0, 0.0, None)
    assert stream.flow == "unknown"


def test_figures_are_exact(reader: OverviewReader, redis: redis_py.Redis) -> None:
    pnl = "12345678901234567.00000000000000000001"
    put(redis, position("AAPL", account="U1", realized_pnl=pnl, avg_price=None, timestamp=None))
    [(key, found)] = reader.read().positions.items()
    assert key == "U1:AAPL"
    assert found.realized_pnl == Decimal(pnl)
    assert found.qty == 10
    assert found.avg_price is None
    assert found.timestamp is None
    assert found.changed_at == 1700000000500


def test_the_newer_members_are_read_and_a_value_of_the_first_version_lacks_them(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    new = position(
        "A", sec_type="STK", con_id=7, other_commissions={"EUR": 1}, basis_adjustment="0.5"
    )
    members = json.loads(position("B"))
    for name in ("sec_type", "con_id", "other_commissions", "basis_adjustment"):
        del members[name]
    put(redis, new, json.dumps(members))
    found, old = (reader.read().positions[key] for key in "AB")
    assert (found.sec_type, found.con_id, found.basis_adjustment) == ("STK", 7, Decimal("0.5"))
    assert found.other_commissions == {"EUR": Decimal(1)}
    assert (old.sec_type, old.con_id, old.other_commissions) == (None, None, None)
    assert old.basis_adjustment == 0


def test_totals_are_exact_and_apart_by_currency(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(
        redis,
        position("A", realized_pnl="12345678901234567.00000000000000000001", cost_basis=-5),
        position("B", realized_pnl="0.00000000000000000002", qty=0, cost_basis=0),
        position("C", currency="EUR", commission="0.1", net_realized_pnl="-0.1"),
    )
    with localcontext() as context:
        context.prec = 5
        euro, dollar = reader.read().totals
    assert (euro.currency, dollar.currency) == ("EUR", "USD")
    assert (dollar.open, dollar.flat) == (1, 1)
    assert dollar.realized_pnl == Decimal("12345678901234567.00000000000000000003")
    assert dollar.cost_basis == -5
    assert (euro.commission, euro.net_realized_pnl) == (Decimal("0.1"), Decimal("-0.1"))


def test_a_position_that_has_not_changed_is_the_same_object(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"), position("B"), position("C"))
    first = reader.read().positions
    put(redis, position("B", qty=20, executions=2))
    redis.hdel("positions", "C")
    second = reader.read()
    assert second.positions["A"] is first["A"]
    assert second.positions["B"].qty == 20
    assert second.positions.keys() == {"A", "B"}
    assert second.executions == 3
    assert first.keys() == {"A", "B", "C"}


@pytest.mark.parametrize("value", ['{"qty": 1}', "no JSON", "[]", position("A", qty='"much"')[:90]])
def test_a_value_that_is_no_position_is_named(
    reader: OverviewReader, redis: redis_py.Redis, value: str
) -> None:
    redis.hset("positions", "AAPL", value)
    with pytest.raises(NotOursError) as wrong:
        reader.read()
    assert str(wrong.value) == (
        "position 'AAPL': expected a JSON object with the members of a position, "
        f"found {value[:80].encode()!r}"
    )


def test_what_came_and_went_while_a_value_was_no_position_is_not_shown(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    put(redis, position("A"), position("B"))
    reader.read()
    redis.hdel("positions", "A")
    redis.hset("positions", mapping={"C": position("C"), "Z": "none"})
    with pytest.raises(NotOursError):
        reader.read()
    redis.hdel("positions", "C", "Z")
    assert list(reader.read().positions) == ["B"]


def test_a_key_that_is_no_text_is_shown_so_that_it_can_be_told(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    redis.hset("positions", b"\xff", position("A"))
    assert list(reader.read().positions) == [r"\xff"]
    redis.hdel("positions", b"\xff")
    assert reader.read().positions == {}


def test_lag_is_what_is_behind_the_committed_entry(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    ids = [add(redis) for _ in range(5)]
    before = state(reader)
    assert (before.entries, before.newest_id, before.lag) == (5, ids[-1], 5)
    assert (before.committed_id, before.committed_age_s) == (None, None)
    commit(redis, ids[1], read=2)
    time.sleep(0.05)
    behind = state(reader)
    assert (behind.committed_id, behind.lag) == (ids[1], 3)
    assert behind.lag_s >= 0.05
    assert behind.committed_age_s is not None
    assert behind.committed_age_s >= behind.lag_s
    commit(redis, ids[-1], read=5)
    done = state(reader)
    assert (done.committed_id, done.lag, done.lag_s) == (ids[-1], 0, 0.0)


def test_the_oldest_waiting_entry_is_found_though_others_were_trimmed(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    now = int(time.time() * 1000)
    for age_s in (100, 50, 20):
        add(redis, f"{now - age_s * 1000}-0")
    commit(redis, f"{now - 100_000}-0", read=1)
    redis.xdel("executions", f"{now - 50_000}-0")
    assert state(reader).lag_s == pytest.approx(20, abs=5)


def test_a_flow_that_is_heard_of_runs_and_one_that_is_silent_is_away(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    commit(redis, add(redis), read=1)
    assert state(reader).flow == "unknown"
    be_heard(redis)
    time.sleep(0.1)
    heard = state(reader)
    assert heard.flow == "running"
    assert heard.flow_silent_s is not None
    [about] = redis.xinfo_consumers("executions", "positions")
    assert 0.1 <= heard.flow_silent_s <= about["idle"] / 1000
    assert heard._replace(flow_silent_s=SILENT_S + 1).flow == "away"


def test_what_others_read_of_a_stream_says_nothing_of_the_flow(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    first, last = add(redis), add(redis)
    redis.xgroup_create("executions", "another", last)
    redis.xgroup_create("executions", "positions", first, entries_read=1)
    redis.xreadgroup("positions", "by hand", {"executions": "0"}, count=1)
    seen = state(reader)
    assert (seen.committed_id, seen.lag, seen.flow_silent_s) == (first, 1, None)


def test_an_entry_from_the_future_has_not_waited(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    add(redis, f"{time.time_ns() // 10**6 + 600_000}-0")
    assert (state(reader).lag, state(reader).lag_s) == (1, 0.0)


def test_nothing_lags_where_all_that_was_behind_is_deleted(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    first, *rest = (add(redis) for _ in range(3))
    commit(redis, first, read=1)
    redis.xdel("executions", *rest)
    assert (state(reader).lag, state(reader).lag_s) == (0, 0.0)


@pytest.mark.parametrize(("has", "found"), [(4, 1), (1, 4)])
def test_another_number_of_partitions_than_redis_has_is_said(
    redis: redis_py.Redis, redis_url: str, has: int, found: int
) -> None:
    reader = OverviewReader(
        redis_url, streams=[], letters=[], positions_hash="positions",
        partitions=("executions", found),
    )  # fmt: skip
    assert reader.read().streams == [], "not known yet"
    redis.set("executions:partitions", has)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"expected {has}, .* found {found}"):
            reader.read()
    redis.set("executions:partitions", found)
    reader.read()
    reader.close()


def test_a_flow_that_was_never_heard_of_is_away_when_an_entry_waits_long(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    add(redis, f"{int((time.time() - WAITING_S - 5) * 1000)}-0")
    assert state(reader).flow == "away"


def test_being_heard_of_moves_nothing(reader: OverviewReader, redis: redis_py.Redis) -> None:
    first, _ = add(redis), add(redis)
    commit(redis, first, read=1)
    before = redis.xinfo_groups("executions")
    be_heard(redis)
    [after] = redis.xinfo_groups("executions")
    assert after == {**before[0], "consumers": 1}


def test_a_server_that_cannot_tell_the_lag_is_believed_at_the_end_only(
    reader: OverviewReader, redis: redis_py.Redis
) -> None:
    # As on Redis before 7, which knows no ENTRIESREAD: here, an entry was deleted.
    ids = [add(redis) for _ in range(4)]
    redis.xdel("executions", ids[2])
    redis.xgroup_create("executions", "positions", ids[1])
    assert state(reader).lag is None
    redis.set_response_callback("XINFO STREAM", lambda reply, **_: reply)  # as all who ask so
    assert lags(redis, ["executions", "none"]) == [None, 0]
    redis.xgroup_setid("executions", "positions", ids[3])
    assert state(reader).lag == 0
    assert lags(redis, ["executions"]) == [0]


def test_dead_letters_of_all_partitions_count(redis: redis_py.Redis, redis_url: str) -> None:
    for part in (0, 1):
        add(redis, stream=f"executions:dead:{part}")
        add(redis, stream=f"executions:{part}")
    reader = OverviewReader(
        redis_url,
        streams=["executions:0", "executions:1"],
        letters=["executions:dead:0", "executions:dead:1"],
        positions_hash="positions",
    )
    overview = reader.read()
    reader.close()
    assert overview.dead_letters == 2
    assert [state.entries for state in overview.streams] == [1, 1]


def test_a_look_changes_nothing(reader: OverviewReader, redis: redis_py.Redis) -> None:
    put(redis, position("A"))
    commit(redis, add(redis), read=1)
    redis.config_resetstat()
    reader.read()
    stats = redis.info("commandstats")
    writes = {"set", "hset", "xadd", "xdel", "xgroup", "xreadgroup", "xtrim", "del", "eval"}
    assert not {name.removeprefix("cmdstat_").partition("|")[0] for name in stats} & writes


def test_an_absent_server_is_said_at_once_and_a_look_works_when_it_is_back(
    own_server: OwnServer,
) -> None:
    server = own_server()
    reader = reader_of(server.url)
    reader.read()
    server.kill()
    start = time.monotonic()
    with pytest.raises(RedisAwayError, match=r"refused|closed|reset"):
        reader.read()
    assert time.monotonic() - start < 1
    server.start()
    assert reader.read().positions == {}
    reader.close()


def test_a_server_that_never_answers_is_asked_once_and_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reader = reader_of(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RedisAwayError, match="Timeout"):
            reader.read()
        reader.close()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_refused_login_says_what_to_check(own_server: OwnServer) -> None:
    server = own_server(requirepass="secret")
    reader = reader_of(server.url.replace("secret", "wrong"))
    with pytest.raises(RedisAwayError, match="check user and password in REDIS_URL"):
        reader.read()
    reader.close()


def test_a_key_of_another_type_is_said(reader: OverviewReader, redis: redis_py.Redis) -> None:
    redis.set("positions", "text")
    with pytest.raises(RedisAwayError, match="Redis refuses a command: WRONGTYPE"):
        reader.read()
