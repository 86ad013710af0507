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

TITLE = "Catch-up, 100 symbols, one worker"
STEPS = 5

_POLL_S = 0.02
_BARE = "bare XREAD loop"


class _Progress(NamedTuple):
    at: float
    """Seconds."""
    entries: int
    cpu_s: float


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Let the flow, the bare loop and a simple handler read the same stream."""
    with set_up() as rig:
        step(f"catch-up: publish {sizes.catch_up:,}")
        rig.fill(sizes.catch_up)
        step("catch-up: bare loop")
        before = bare_rate(rig)
        step("catch-up: the flow")
        with Flow(rig) as flow:
            rate, cpu_us = _flow_rate(rig, flow, sizes.catch_up)
            peak_mb = flow.peak_mb
        step("catch-up: bare loop again")
        bare = (before + bare_rate(rig)) / 2
        step("catch-up: a simple handler")
        handler = handler_rate(rig, sizes.handler_s)
    return [
        Figure("catchup.flow", "the flow, everything on", rate, "/s", bare, _BARE),
        Figure("catchup.handler", "a handler that takes one by one", handler, "/s",
               bare, _BARE),
        Figure("catchup.over_handler", "the flow again", rate, "/s", handler, "the handler"),
        Figure("catchup.cpu", "its processor time per execution", cpu_us, "µs",
               1e6 / bare, f"{_BARE}, time"),
        Figure("catchup.memory", f"its peak memory, {sizes.catch_up:,}", peak_mb, "MB"),
    ]  # fmt: skip


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
