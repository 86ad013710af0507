"""What a flow leaves in Redis for others to see, written by hand: positions and progress."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import redis

from connectors.redis.names import CONSUMER, GROUP


def position(symbol: str, **members: Any) -> str:
    """Return a value of the positions hash; numbers may be given as text, to be exact."""
    value = {
        "account": None, "symbol": symbol, "currency": "USD", "multiplier": 1, "sec_type": None,
        "con_id": None, "qty": 10, "avg_price": "150.25", "cost_basis": "1502.5",
        "realized_pnl": 0, "commission": 1, "other_commissions": None, "basis_adjustment": 0,
        "net_realized_pnl": -1, "open_lots": 1, "executions": 1, "last_exec_id": "e1",
        "last_price": "150.25", "timestamp": 1700000000000, "stream_id": "1700000000500-0",
        **members,
    }  # fmt: skip
    texts = {
        "account", "symbol", "currency", "sec_type", "other_commissions", "last_exec_id",
        "stream_id",
    }  # fmt: skip
    return _json(value, texts)


def _json(value: dict[str, Any], texts: set[str]) -> str:
    members = (
        f'"{name}": {json.dumps(v) if name in texts or v is None else v}'
        for name, v in value.items()
    )
    return f"{{{', '.join(members)}}}"


def put(client: redis.Redis, *values: str, name: str = "positions") -> None:
    """Write positions, or valuations, into a hash, each under its key."""
    fields: dict[Any, Any] = {}
    for value in values:
        members = json.loads(value)
        account = members["account"]
        key = members["symbol"] if account is None else f"{account}:{members['symbol']}"
        fields[key] = value
    client.hset(name, mapping=fields)


def valuation(symbol: str, **members: Any) -> str:
    """Return a value of the valuations hash, live and of today in UTC, as of `position`."""
    value = {
        "account": None, "symbol": symbol, "currency": "USD", "multiplier": 1, "qty": 10,
        "cost_basis": "1502.5", "mark_price": "151", "mark_timestamp": time.time_ns() // 10**6,
        "market_value": 1510, "unrealized_pnl": "7.5", "realized_pnl": 0, "net_realized_pnl": -1,
        "total_pnl": "6.5", "day_pnl": "2.25", "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "state": "live", "stream_id": "1700000000500-0", **members,
    }  # fmt: skip
    texts = {"account", "symbol", "currency", "day", "state", "stream_id"}
    return _json(value, texts)


def base_totals(**members: Any) -> str:
    """Return a value of `valuations:totals`, in dollars; `currencies` as `currency_total`."""
    value = {
        "base_currency": "USD", "as_of": 1700000000500, "unrealized_pnl": "7.5",
        "day_pnl": "2.25", "total_pnl": "6.5", "unvalued": 0, "day_unknown": 0, "stale": 0,
        "no_rate": "{}", "currencies": f"[{currency_total('USD')}]", **members,
    }  # fmt: skip
    return _json(value, {"base_currency"})


def currency_total(currency: str, **members: Any) -> str:
    """Return one of the `currencies` of `base_totals`."""
    value = {
        "currency": currency, "positions": 1, "unrealized_pnl": "7.5", "day_pnl": "2.25",
        "total_pnl": "6.5", "unvalued": 0, "day_unknown": 0, "stale": 0, "pair": None,
        "rate": None, "rate_timestamp": None, "rate_state": None, **members,
    }  # fmt: skip
    return _json(value, {"currency", "pair", "rate_state"})


NOT_KNOWN = dict.fromkeys(
    ("mark_price", "mark_timestamp", "market_value", "unrealized_pnl", "total_pnl", "day_pnl")
)
"""The members of a valuation that needs a mark and has none."""


def commit(client: redis.Redis, entry_id: str, *, read: int, stream: str = "executions") -> None:
    """Put the flow's consumer group at an entry; read: how many entries that makes."""
    try:
        client.xgroup_create(stream, GROUP, entry_id, entries_read=read)
    except redis.ResponseError:
        client.xgroup_setid(stream, GROUP, entry_id, entries_read=read)


def be_heard(client: redis.Redis, stream: str = "executions") -> None:
    """Make the flow heard of now; the group must be there."""
    client.xreadgroup(GROUP, CONSUMER, {stream: "0"}, count=1)
