"""The hash of the broker's side, and both sides read together."""

import json
from decimal import Decimal
from typing import Any

import pytest
import redis as redis_py

from connectors.redis.broker import (
    BothSidesReader,
    BrokerHash,
    BrokerPosition,
    difference_json,
)
from connectors.redis.broker_state import broker_view, known_accounts
from connectors.redis.link import RedisLink
from state.breaks import Difference, Kind


def row(account: str, symbol: str, qty: str = "1", price: str = "10") -> BrokerPosition:
    return BrokerPosition(account, symbol, qty, price, "7", 1)


def test_positions_that_are_no_longer_held_go_those_of_other_accounts_stay(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    broker = BrokerHash(link, "broker")
    broker.write([row("U1", "A"), row("U1", "B")], ["U1"])
    broker.write([row("U2", "A")], ["U2"])
    broker.show(["U1", "U2"], known=True)
    broker.write([row("U1", "B", "2.5", "")], ["U1"])
    assert {*redis.hkeys("broker")} == {b"U1:B", b"U2:A", b":state"}
    value: Any = redis.hget("broker", "U1:B")
    assert json.loads(value) == {"qty": 2.5, "avg_price": None, "con_id": 7, "as_of": 1}
    broker.write([row("U1", "B")._replace(con_id="")], ["U1"])
    value = redis.hget("broker", "U1:B")
    assert json.loads(value)["con_id"] is None
    broker.write([], ["U1"])
    assert {*redis.hkeys("broker")} == {b"U2:A", b":state"}


def test_two_routers_know_each_their_own_accounts(link: RedisLink, redis: redis_py.Redis) -> None:
    broker = BrokerHash(link, "broker")
    broker.show(["U1"], known=True)
    broker.show(["U2"], known=True)
    broker.show(["U1"], known=False)
    value: Any = redis.hget("broker", ":state")
    state = json.loads(value)
    assert (state["known"], [*state["accounts"]]) == (True, ["U2"])
    broker.show(["U2"], known=False)
    value = redis.hget("broker", ":state")
    assert json.loads(value)["known"] is False


def test_what_a_router_said_that_is_gone_is_forgotten_by_the_next(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    seconds, _ = redis.time()
    old = {"U2": (seconds - 60) * 1000, "U3": (seconds - 1) * 1000}
    redis.hset("broker", ":state", json.dumps({"known": True, "accounts": old}))
    BrokerHash(link, "broker").show(["U1"], known=True)
    value: Any = redis.hget("broker", ":state")
    state = json.loads(value)
    assert {*state["accounts"]} == {"U1", "U3"}
    assert seconds * 1000 <= state["as_of"] == state["accounts"]["U1"] < (seconds + 60) * 1000


def test_what_is_not_known_shows_no_breaks_and_what_was_never_there_is_something_else() -> None:
    state = json.dumps({"known": True, "as_of": 5_000, "accounts": {"U1": 5_000}}).encode()
    breaks, figures = {b"U1:\xff": b'{"ours": 1.10}'}, {b"U1": b'{"nlv": 2}'}
    view = broker_view(state, breaks, figures, 15_000)
    assert (view.known, view.accounts) == (True, ["U1"])
    assert view.breaks == {"U1:\\xff": {"ours": Decimal("1.10")}}
    stale = broker_view(state, breaks, figures, 15_001)
    assert (stale.known, stale.accounts, stale.breaks) == (False, [], {})
    assert stale.figures == {"U1": {"nlv": 2}}
    never = broker_view(None, breaks, figures, 1)
    assert (never.known, never.accounts, never.breaks, never.figures) == (None, None, {}, {})


def test_what_nobody_has_said_for_a_while_is_not_known() -> None:
    state = json.dumps({"known": True, "as_of": 5_000, "accounts": {"U1": 5_000, "U2": 1}}).encode()
    assert known_accounts(state, 15_000) == ["U1"]
    assert known_accounts(state, 15_001) == []
    assert known_accounts(None, 1) == []


def test_both_sides_are_read_with_what_is_known_and_booked(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    broker = BrokerHash(link, "broker")
    broker.write([row("U1", "A", "3", "10.25")], ["U1"])
    ours = {"account": "U1", "symbol": "A", "qty": 2, "avg_price": None, "con_id": 7}
    redis.hset("positions", "U1:A", json.dumps(ours))
    reader = BothSidesReader(
        link, positions_hash="positions", broker_hash="broker", streams=["executions"]
    )
    sides = reader.read()
    assert (sides.accounts, sides.booked) == ([], True)
    broker.show(["U1"], known=True)
    redis.xadd("executions", {"a": "b"})
    sides = reader.read()
    assert (sides.accounts, sides.booked) == (["U1"], False)
    assert sides.ours["U1:A"].qty == 2
    assert sides.broker["U1:A"].avg_price == Decimal("10.25")
    assert sides.ours["U1:A"].con_id == sides.broker["U1:A"].con_id == "7"
    redis.xgroup_create("executions", "positions", "$")
    assert reader.read().booked
    # The server cannot tell how many are behind an entry that is gone.
    gone: Any = redis.xadd("executions", {"a": "b"})
    redis.xadd("executions", {"a": "b"})
    redis.xdel("executions", gone)
    assert not reader.read().booked
    redis.xgroup_setid("executions", "positions", "$")
    assert reader.read().booked
    reader = BothSidesReader(
        link, positions_hash="positions", broker_hash="broker", streams=["executions", "other"]
    )
    redis.xadd("other", {"a": "b"})
    assert not reader.read().booked


def test_what_has_changed_since_the_last_look_is_read_again(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    reader = BothSidesReader(link, positions_hash="positions", broker_hash="broker", streams=["e"])
    for qty in (1, 2, 2):
        redis.hset("positions", "A", json.dumps({"symbol": "A", "qty": qty, "avg_price": 1}))
        assert {key: side.qty for key, side in reader.read().ours.items()} == {"A": qty}
    redis.hdel("positions", "A")
    assert reader.read().ours == {}


def test_the_lag_is_read_before_the_positions(link: RedisLink, redis: redis_py.Redis) -> None:
    """Else what is booked in between would be a break."""
    reader = BothSidesReader(link, positions_hash="positions", broker_hash="broker", streams=["e"])
    with redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        reader.read()
        seen: list[str] = []
        while seen.count("HGETALL") < 2:
            seen.append(monitor.next_command()["command"].split(" ", 1)[0])
    assert "XINFO" in seen[: seen.index("HGETALL")]


def test_account_symbol_and_contract_are_the_values_own_or_those_of_the_key(
    link: RedisLink, redis: redis_py.Redis
) -> None:
    ours = {"account": None, "symbol": "A:B", "qty": 1, "avg_price": None, "con_id": None}
    redis.hset("positions", "A:B", json.dumps(ours))
    for key in ("U1:EUR.USD", "U1:A:B", "EUR.USD"):
        redis.hset("broker", key, '{"qty": 1, "avg_price": 2, "con_id": null}')
    reader = BothSidesReader(link, positions_hash="positions", broker_hash="broker", streams=["e"])
    sides = reader.read()
    assert sides.ours["A:B"][:2] == (None, "A:B")
    assert sides.ours["A:B"].con_id is None
    assert sides.broker["U1:EUR.USD"][:2] == ("U1", "EUR.USD")
    assert sides.broker["U1:A:B"][:2] == ("U1", "A:B")
    assert sides.broker["EUR.USD"][:2] == (None, "EUR.USD")


@pytest.mark.parametrize("value", ["{}", "[]", "5", "no JSON", b"\xff"])
def test_a_value_that_is_no_position_is_told_with_its_key(
    link: RedisLink, redis: redis_py.Redis, value: str | bytes
) -> None:
    redis.hset("positions", "U1:A", value)
    reader = BothSidesReader(link, positions_hash="positions", broker_hash="broker", streams=["e"])
    with pytest.raises(ValueError, match="position 'U1:A': expected a JSON object"):
        reader.read()


def test_breaks_are_kept_until_they_end(link: RedisLink, redis: redis_py.Redis) -> None:
    broker = BrokerHash(link, "broker")
    text = difference_json(Difference(Kind.QUANTITY, Decimal(2), Decimal("3.5")), 9)
    broker.write_breaks({"U1:A": text, "U1:B": text}, [])
    broker.write_breaks({}, ["U1:B"])
    assert broker.breaks() == ["U1:A"]
    value: Any = redis.hget("broker:breaks", "U1:A")
    assert json.loads(value) == {
        "kind": "quantity", "ours": 2, "broker": 3.5, "detail": "", "since": 9,
    }  # fmt: skip
