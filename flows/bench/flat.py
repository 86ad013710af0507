"""Whether an execution costs the same as the work grows: in symbols, lots, history.

Each kind of growth is measured in one run of the flow, from small to large: the flow
is held while the next executions are published, and then takes them all. What is
counted is its processor time, all threads, until everything is durable.
"""

from collections.abc import Callable
from typing import NamedTuple

from flows.bench.report import Figure
from flows.bench.rig import Flow, Rig, set_up
from flows.bench.sizes import Sizes

TITLE = "Processor time per execution as the work grows, and peak memory"
STEPS = 9

SYMBOLS = (10, 100, 10_000)
OPEN_LOTS = (10, 1_000, 60_000)

_WARM_UP = 2_000


class _Growth(NamedTuple):
    """One run of the flow."""

    rig: Rig
    flow: Flow

    def take(self, count: int, *, prefix: str, symbols: int = 100, pattern: str = "any") -> float:
        """Let the flow take more executions; return the microseconds for each."""
        with self.flow.held():
            self.rig.fill(count, prefix=prefix, symbols=symbols, pattern=pattern)
            before = self.flow.cpu_s
        self.flow.until_committed()
        return (self.flow.cpu_s - before) / count * 1e6


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Measure all three kinds of growth."""
    return [*_by_symbols(sizes, step), *_by_lots(sizes, step), *_by_history(sizes, step)]


def _by_symbols(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    us = {}
    with set_up() as rig, Flow(rig, sizes.epoch_s) as flow:
        growth = _begin(rig, flow)
        for symbols in SYMBOLS:
            step(f"growth: {symbols:,} symbols")
            us[symbols] = growth.take(sizes.by_symbols, prefix=f"OF{symbols}-", symbols=symbols)
    return _figures("symbols", "{:,} symbols", us, "µs", base=100)


def _by_lots(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    us = {}
    with set_up() as rig, Flow(rig, sizes.epoch_s) as flow:
        growth = _begin(rig, flow)
        for lots in OPEN_LOTS:
            step(f"growth: {lots:,} open lots")
            prefix = f"HAS{lots}-"
            growth.take(lots, prefix=prefix, symbols=1, pattern="buys")
            us[lots] = growth.take(sizes.by_lots, prefix=prefix, symbols=1, pattern="pairs")
    return _figures("lots", "one book of {:,} open lots", us, "µs", base=10)


def _by_history(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    us, mb, so_far = {}, {}, 0
    with set_up() as rig, Flow(rig, sizes.epoch_s) as flow:
        growth = _begin(rig, flow)
        for upto in sizes.history:
            step(f"growth: {upto:,} executions")
            us[upto] = growth.take(upto - so_far, prefix="SYM")
            mb[upto] = flow.peak_mb
            so_far = upto
    # The first few cost more: the end of an epoch costs something for itself.
    base = sizes.history[1]
    return [
        *_figures("history", "up to {:,} executions", us, "µs", base),
        *_figures("memory", "peak memory after {:,}", mb, "MB", base),
    ]


def _figures(name: str, what: str, values: dict[int, float], unit: str, base: int) -> list[Figure]:
    """Set each value beside that of one size."""
    of = f"at {base:,}"
    return [
        Figure(f"flat.{name}_{size}", what.format(size), value, unit)
        if size == base
        else Figure(f"flat.{name}_{size}", what.format(size), value, unit, values[base], of)
        for size, value in sorted(values.items())
    ]


def _begin(rig: Rig, flow: Flow) -> _Growth:
    """Let the flow do once all that it does only once."""
    rig.fill(_WARM_UP, prefix="WARM-UP-")
    flow.until_committed()
    return _Growth(rig, flow)
