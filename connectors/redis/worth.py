"""What positions are worth, for whoever looks: the hash `valuations` held against now.

A valuation was true when it was written. One whose mark has become old since, whose day is
over, or whose position has changed long ago is not shown as if it were of now, so a
valuation flow that is away is seen by its figures.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from connectors.redis.base_totals import BaseTotals, read_totals
from connectors.redis.exact_json import from_json
from state.valuation import LIVE, NO_MARK, STALE

NOT_VALUED = "not valued"
"""The state of a position that has no valuation, or one of what it was before."""

CATCHES_UP_MS = 5000
"""A valuation that is older than its position by more than this is of another position."""


class Worth(NamedTuple):
    """What a position is worth by its mark, exact; a figure that nobody knows is None."""

    mark_price: Decimal | None
    mark_timestamp: int | None
    """Milliseconds since 1970."""
    market_value: Decimal | None
    unrealized_pnl: Decimal | None
    total_pnl: Decimal | None
    day_pnl: Decimal | None
    state: str
    """LIVE, STALE, NO_MARK or NOT_VALUED."""


UNKNOWN = Worth(None, None, None, None, None, None, NOT_VALUED)


class _Kept(NamedTuple):
    worth: Worth
    day: str
    stream_id: str


class Valuations:
    """What is known of the hash of valuations; only what has changed is read anew.

    name: the hash's. stale_ms: an older mark is stale. zone: whose midnight begins the day.
    """

    def __init__(self, name: str, stale_ms: int, zone: str) -> None:
        self.hash = name
        self._stale_ms, self._zone = stale_ms, ZoneInfo(zone)
        self._raw: dict[bytes, bytes] = {}
        self._kept: dict[str, _Kept] = {}

    def take(self, values: dict[bytes, bytes]) -> None:
        """Take the hash's values in. Raises ValueError, naming the key, if one is none."""
        # In step at any moment: a value may be no valuation.
        for key in self._raw.keys() - values.keys():
            del self._raw[key], self._kept[key.decode(errors="backslashreplace")]
        for key, value in values.items():
            if self._raw.get(key) != value:
                name = key.decode(errors="backslashreplace")
                self._kept[name] = _kept(name, value)
                self._raw[key] = value

    def worth(self, changed: Mapping[str, tuple[str, int]], now_ms: int) -> dict[str, Worth]:
        """Return what each position is worth now; nothing if no position was ever valued.

        changed: by key the entry that caused the position, and when that came.
        """
        if not self._kept:
            return {}
        today = datetime.fromtimestamp(now_ms / 1000, self._zone).date().isoformat()
        return {
            key: self._of(key, stream_id, now_ms - at_ms, now_ms, today)
            for key, (stream_id, at_ms) in changed.items()
        }

    def in_base(self, text: bytes | None, now_ms: int) -> BaseTotals | None:
        """Read the totals over all currencies; None if nobody tells them now."""
        return None if text is None else read_totals(text, now_ms, self._stale_ms)

    def _of(self, key: str, stream_id: str, since_ms: int, now_ms: int, today: str) -> Worth:
        kept = self._kept.get(key)
        if kept is None or (kept.stream_id != stream_id and since_ms > CATCHES_UP_MS):
            return UNKNOWN
        worth = kept.worth
        if worth.state == LIVE and now_ms - (worth.mark_timestamp or 0) > self._stale_ms:
            worth = worth._replace(state=STALE)
        return worth if kept.day == today else worth._replace(day_pnl=None)


def _kept(key: str, value: bytes) -> _Kept:
    try:
        members = from_json(value)
        mark_timestamp = members["mark_timestamp"]
        worth = Worth(*(_figure(name, members[name]) for name in Worth._fields))
        at = None if mark_timestamp is None else int(mark_timestamp)
        return _Kept(worth._replace(mark_timestamp=at), members["day"], members["stream_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"valuation {key!r}: expected a JSON object with the members of a valuation, "
            f"found {value[:80]!r}"
        ) from error


def _figure(name: str, member: Any) -> Any:
    if name == "state":
        has_form = member in (LIVE, STALE, NO_MARK)
    else:
        has_form = member is None or isinstance(member, Decimal)
    if not has_form:
        raise TypeError(name)
    return member
