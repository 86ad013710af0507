"""What `watch`, `board` and the metrics share of their looks at Redis: the words, the rate.

Also how an age and a number of things are written, everywhere.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from connectors.redis.base_totals import BaseTotals
from connectors.redis.broker_state import BrokerView
from connectors.redis.overview import OverviewReader, StreamState
from connectors.redis.worth import Valuations
from flows.common.settings import Settings
from state.valuation import STALE

RATE_OVER_S = 10.0


class Rate:
    """How fast a count grows of late."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def count(self, value: int) -> None:
        """Note what the count is now."""
        self._counts.append((time.monotonic(), value))
        while self._counts[-1][0] - self._counts[0][0] > RATE_OVER_S:
            self._counts.popleft()

    def reset(self) -> None:
        """Begin anew: nobody has counted for a while."""
        self._counts.clear()

    @property
    def per_second(self) -> float | None:
        """The rate, None before the second count."""
        if len(self._counts) < 2:  # noqa: PLR2004
            return None
        (start, before), (end, now) = self._counts[0], self._counts[-1]
        return max(0, now - before) / (end - start)


def overview_reader(settings: Settings, *, valued: bool = False) -> OverviewReader:
    """Return what looks at the Redis that the settings name; valued: also at valuations."""
    stale_ms = settings.mark_stale_ms
    valuations = Valuations(settings.valuations_hash, stale_ms, settings.day_zone)
    return OverviewReader(
        settings.redis_url.get_secret_value(),
        streams=settings.own_streams,
        letters=list(settings.letters_of.values()),
        positions_hash=settings.positions_hash,
        broker_hash=settings.broker_hash,
        partitions=(settings.executions_stream, settings.stream_partitions),
        valuations=valuations if valued else None,
    )


def flow_words(state: StreamState, stream: str = "") -> str:
    """Say whether the flow is there; stream: a name to say it of."""
    flow = f"flow on {stream}" if stream else "flow"
    if state.flow == "running":
        return f"{flow} running"
    if state.flow_silent_s is not None:
        return f"{flow} AWAY or stuck, seen {age(state.flow_silent_s)} ago"
    if state.newest_id is None:
        # A flow shows itself on the stream, which is not there before its first entry.
        return f"{stream or 'flow'} waiting for a first entry"
    return f"{flow} AWAY or stuck" if state.flow == "away" else f"{flow} not seen yet"


def broker_words(broker: BrokerView) -> tuple[str, str]:
    """Say how our positions agree with the broker's, and whether that is `good` or `bad`.

    "" if no router was ever here; `warn` while the broker's side is not known.
    """
    if broker.known is None:
        return "", ""
    if not broker.known:
        return "broker's side unknown", "warn"
    breaks = len(broker.breaks)
    return counted(breaks, "break"), "bad" if breaks else "good"


def break_words(key: str, found: Mapping[str, Any]) -> str:
    """Say what a break is, from its JSON."""
    about = f" {found['detail']}" if found["detail"] else ""
    return f"{key}: ours {found['ours']:f}, broker's {found['broker']:f} ({found['kind']}{about})"


def lacking_words(unvalued: int, day_unknown: int, stale: int) -> list[str]:
    """Say of how many positions a total knows nothing, or something old."""
    counts = (
        (unvalued, "without a mark left out"),
        (day_unknown - unvalued, "more in no day's P&L"),
        (stale, "at a stale mark"),
    )
    return [f"{count:,} {what}" for count, what in counts if count > 0]


def base_words(base: BaseTotals, now_ms: int) -> list[str]:
    """Say what the totals over all currencies leave out and why, and which rates are old."""
    missing = [
        f"no rate {pair}: {counted(count, 'position')} left out"
        for pair, count in base.no_rate.items()
    ]
    old = [
        f"rate {each.pair} stale, {age(max(0, now_ms - each.rate_timestamp) / 1000)}"
        for each in base.currencies
        if each.rate_state == STALE and each.rate_timestamp is not None
    ]
    return missing + old + lacking_words(base.unvalued, base.day_unknown, base.stale)


def counted(count: int, what: str) -> str:
    """Write how many there are of what; its plural has an s.

    >>> counted(1, "break"), counted(1200, "break"), counted(0, "entry")
    ('1 break', '1,200 breaks', '0 entries')
    """
    if count != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what}"


def age(seconds: float) -> str:
    """Write how long ago something was, in its largest unit.

    >>> age(0.2), age(59), age(61), age(7200), age(172800)
    ('0 s', '59 s', '1 min', '2 h', '2 d')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
