"""What the router leaves in Redis of the broker's side, as readers see it.

What is older than `STALE_S` is not known, whoever died; and what is not known is not empty.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from connectors.redis.exact_json import from_json

STATE = ":state"
"""The field of the hash that says what is known."""

STALE_S = 10.0


class BrokerView(NamedTuple):
    """The broker's side at a look."""

    accounts: Sequence[str] | None
    """Those whose positions are known at the moment; None if no router was ever here."""
    breaks: Mapping[str, Mapping[str, Any]]
    """By key; empty while no account is known."""
    figures: Mapping[str, Mapping[str, Any]]
    """By account what the broker says of it: nothing here is derived."""

    @property
    def known(self) -> bool | None:
        """Whether anything is known of the broker's side; None if no router was ever here."""
        return None if self.accounts is None else bool(self.accounts)


NO_BROKER = BrokerView(None, {}, {})


def breaks_key(name: str) -> str:
    """Name the hash of the breaks: key to JSON."""
    return f"{name}:breaks"


def account_key(name: str) -> str:
    """Name the hash of the accounts' figures: account to JSON."""
    return f"{name}:account"


def known_accounts(state: bytes | None, now_ms: int) -> list[str]:
    """Return the accounts whose positions are known, as the field `:state` says.

    now_ms: the server's clock.
    """
    if state is None:
        return []
    accounts = json.loads(state)["accounts"]
    return sorted(a for a, at in accounts.items() if now_ms - at <= STALE_S * 1000)


def broker_view(
    state: bytes | None,
    breaks: Mapping[bytes, bytes],
    figures: Mapping[bytes, bytes],
    now_ms: int,
) -> BrokerView:
    """Return the broker's side from what Redis holds."""
    if state is None:
        return NO_BROKER
    accounts = known_accounts(state, now_ms)
    return BrokerView(accounts, _objects(breaks) if accounts else {}, _objects(figures))


def _objects(values: Mapping[bytes, bytes]) -> dict[str, Any]:
    items = sorted(values.items())
    return {key.decode(errors="backslashreplace"): from_json(value) for key, value in items}
