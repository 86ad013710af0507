"""How fast the flow catches up, beside reading the stream at all.

The bare loop is measured right before and right after the flow, so that what the
machine does meanwhile slows both.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from flows.bench.peers import bare_rate, handler_rate
from flows.bench.report import Figure
from flows.bench.rig import DEADLINE_S, Flow, Rig, set_up
from flows.bench.sizes import Sizes

TITLE = "Catch-up, one worker"
STEPS = 5 + 2 * 4

_POLL_S = 0.02
_BARE = "bare XREAD loop"


class _Progress(NamedTuple):
    at: float
    """Seconds."""
    entries: int
    cpu_s: float


class _Caught(NamedTuple):
    """One stream, read by the flow and by the bare loop."""

    rate: float
    """Entries a second."""
    cpu_us: float
    """Processor time for an entry."""
    peak_mb: float
    bare: float
    """Entries a second."""


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Let the flow, the bare loop and a simple handler read the same streams."""
    with set_up() as rig:
        alone = _catch_up(rig, sizes.catch_up, step, "executions alone")
        step("catch-up: a simple handler")
        handler = handler_rate(rig, sizes.handler_s)
    with set_up() as rig:
        router = _catch_up(rig, sizes.catch_up, step, "the router's", stream="router")
    with set_up() as rig:
        mixed = _catch_up(rig, sizes.catch_up, step, "mixed", stream="mixed", symbols=200)
    return [
        Figure("catchup.flow", "executions alone, 100 symbols", alone.rate, "/s",
               alone.bare, _BARE),
        Figure("catchup.router", "the router's stream: executions, their reports", router.rate,
               "/s", router.bare, _BARE),
        Figure("catchup.mixed", "two shapes: one symbol in 200 an option", mixed.rate, "/s",
               mixed.bare, _BARE),
        Figure("catchup.over_one_shape", "the same, of its bare loop",
               100 * mixed.rate / mixed.bare, "%", 100 * alone.rate / alone.bare, "one shape"),
        Figure("catchup.handler", "a handler that takes one by one", handler, "/s",
               alone.bare, _BARE),
        Figure("catchup.over_handler", "the flow again", alone.rate, "/s", handler, "the handler"),
        Figure("catchup.cpu", "its processor time per execution", alone.cpu_us, "µs",
               1e6 / alone.bare, f"{_BARE}, time"),
        Figure("catchup.router_cpu", "the same per entry of the router's stream", router.cpu_us,
               "µs", 1e6 / router.bare, f"{_BARE}, time"),
        Figure("catchup.memory", f"its peak memory, {sizes.catch_up:,}", alone.peak_mb, "MB"),
    ]  # fmt: skip


def _catch_up(
    rig: Rig,
    count: int,
    step: Callable[[str], None],
    what: str,
    *,
    stream: str = "alone",
    symbols: int = 100,
) -> _Caught:
    step(f"catch-up, {what}: publish {count:,}")
    rig.fill(count, stream=stream, symbols=symbols)
    step(f"catch-up, {what}: bare loop")
    before = bare_rate(rig)
    step(f"catch-up, {what}: the flow")
    with Flow(rig) as flow:
        rate, cpu_us = _flow_rate(rig, flow, count)
        peak_mb = flow.peak_mb
    step(f"catch-up, {what}: bare loop again")
    return _Caught(rate, cpu_us, peak_mb, (before + bare_rate(rig)) / 2)


def _flow_rate(rig: Rig, flow: Flow, count: int) -> tuple[float, float]:
    """Return entries a second, and processor time per entry in microseconds."""
    seen = _watch(rig, flow, count)
    # Progress shows once an epoch, and only between whole ones are both its start and
    # its end known: the last ends when there has been nothing to do for a while.
    whole = seen[1:-1] if len(seen) > 3 else seen  # noqa: PLR2004
    first, last = whole[0], whole[-1]
    entries = last.entries - first.entries
    return entries / (last.at - first.at), (last.cpu_s - first.cpu_s) / entries * 1e6


def _watch(rig: Rig, flow: Flow, count: int) -> list[_Progress]:
    """Return each step that the flow's consumer group made, from 0 to the end."""
    seen: list[_Progress] = []
    deadline = time.monotonic() + DEADLINE_S
    while not seen or seen[-1].entries < count:
        entries = rig.entries_read()
        if entries is not None and (not seen or entries > seen[-1].entries):
            seen.append(_Progress(time.perf_counter(), entries, flow.cpu_s))
        flow.check(f"{count} entries read", deadline)
        time.sleep(_POLL_S)
    return seen
