"""How soon a mark shows in the hash of valuations, and what marks cost the executions.

Latency as in `live`: published on schedule, the hash asked for what has not shown yet,
beside the same loop with nobody in between. Then a flood, of which the valuation takes
the last mark of a symbol where more come than it can value. Last, the executions'
latency with marks beside them and without.
"""

import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import perf_counter

import redis

from connectors.clock import now_ms
from connectors.redis.link import send
from flows.bench.live import (
    RATES,
    Shown,
    bare_round_trips,
    executions_shown,
    latencies_ms,
    new_executions,
    published_and_shown,
)
from flows.bench.report import Figure
from flows.bench.rig import DEADLINE_S, HASH, Flow, Rig, set_up
from flows.bench.sizes import Sizes

TITLE = "Marks: XADD until visible in the hash of valuations"
STEPS = 5

_RATE, _KEYS = 1_000, 1_000
_FLOOD_RATE, _FLOOD_KEYS = 1_000_000 // 60, 10_000
_BEATS = 100
"""How often a second a flood is added to."""
_PREFIX = "LIVE"
_TIME = re.compile(rb'"mark_timestamp": (\d+)')


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Measure the latency of marks, a flood of them, and executions beside them."""
    with set_up() as rig:
        step("marks: positions")
        symbols = min(_FLOOD_KEYS, sizes.catch_up // 20)
        rig.fill(2 * symbols, prefix=_PREFIX, symbols=symbols)
        executions = new_executions(rig)
        with Flow(rig) as flow:
            flow.until_committed()
            held = sorted(str(key, "utf-8") for key in send(rig.client, "HKEYS", HASH))
            few = held[:_KEYS]
            step("marks: executions without marks")
            without = executions_shown(rig, flow, executions, RATES[0], sizes.live_s / 2)
            with Flow(rig, name="valuation") as valuation:
                valuation.until(lambda: rig.client.exists("valuations"), "valuations", DEADLINE_S)
                step(f"marks: {_RATE:,}/s")
                bare = bare_round_trips(rig, _marks(few, _RATE), _RATE, sizes.live_s / 4)
                shown = _marks_shown(rig, valuation, _marks(few, _RATE), sizes.live_s / 2)
                step("marks: a flood")
                flood = _flood(rig, valuation, held, sizes.live_s / 4)
                step("marks: executions with marks")
                with _fed(rig, few):
                    beside = executions_shown(rig, flow, executions, RATES[0], sizes.live_s / 2)
    ours, theirs = latencies_ms(shown), latencies_ms(bare)
    loaded, alone = latencies_ms(beside), latencies_ms(without)
    at = f"{_RATE:,}/s, {len(few):,} keys"
    return [
        *(Figure(f"marks.{rank}", f"{at}, {rank}", ours[rank], "ms", theirs[rank],
                 "XADD, HSET, HGET") for rank in ("median", "p99")),
        *flood,
        *(Figure(f"marks.executions_{rank}", f"executions beside them, {rank}", loaded[rank],
                 "ms", alone[rank], "without marks") for rank in ("median", "p99")),
    ]  # fmt: skip


def _marks(symbols: list[str], rate: int) -> Iterator[list[str]]:
    """Make marks of now, of symbols that are held, so many that a symbol's time names its mark."""
    start = now_ms()
    for number in count():
        symbol, price = symbols[number % len(symbols)], f"{100 + number % 977 / 100:.2f}"
        at = start + number * 1000 // rate
        yield ["*", "symbol", symbol, "price", price, "timestamp", str(at)]


def _marks_shown(
    rig: Rig, valuation: Flow, marks: Iterator[list[str]], seconds: float
) -> list[Shown]:
    return published_and_shown(
        rig, valuation, marks, _RATE, seconds, stream="marks", hash_="valuations",
        order=lambda mark, _: int(mark[6]), newest=_time_shown,
    )  # fmt: skip


def _time_shown(value: bytes | None) -> int:
    found = _TIME.search(value or b"")
    return int(found[1]) if found else 0


def _flood(rig: Rig, valuation: Flow, held: list[str], seconds: float) -> list[Figure]:
    before, start = valuation.cpu_s, perf_counter()
    last = _publish(rig.client, _FLOOD_RATE, held, seconds)
    ended = perf_counter()
    symbol, at = last[2], int(last[6])
    valuation.until(
        lambda: _time_shown(send(rig.client, "HGET", "valuations", symbol)) >= at,
        "the last mark shown",
        DEADLINE_S,
    )
    lag, spent = perf_counter() - ended, valuation.cpu_s - before
    published = int(_FLOOD_RATE * seconds)
    what = f"{_FLOOD_RATE:,}/s, {len(held):,} keys"
    return [
        Figure("marks.flood_cpu", f"{what}, processor time a mark", spent / published * 1e6, "µs"),
        Figure("marks.flood_lag", f"{what}, the last one shown after", lag * 1000, "ms"),
        Figure("marks.flood_took", f"{what}, publishing", ended - start, "s", seconds, "as told"),
    ]


def _publish(client: redis.Redis, rate: int, symbols: list[str], seconds: float) -> list[str]:
    """Publish at a rate, some at a time; return the last mark."""
    marks, start = _marks(symbols, rate), perf_counter()
    mark: list[str] = []
    for beat in range(max(1, int(seconds * _BEATS))):
        time.sleep(max(0.0, start + beat / _BEATS - perf_counter()))
        pipe = client.pipeline(transaction=False)
        for _ in range(rate // _BEATS):
            mark = next(marks)
            send(pipe, "XADD", "marks", "MAXLEN", "~", "100000", *mark)
        pipe.execute()
    return mark


@contextmanager
def _fed(rig: Rig, symbols: list[str]) -> Iterator[None]:
    """Publish marks meanwhile, from a process of its own."""
    feeder = multiprocessing.get_context("spawn").Process(
        target=_feed, args=(rig.url, symbols), daemon=True
    )
    feeder.start()
    try:
        yield
    finally:
        feeder.terminate()
        feeder.join()


def _feed(url: str, symbols: list[str]) -> None:
    with redis.Redis.from_url(url) as client:
        _publish(client, _RATE, symbols, DEADLINE_S)
