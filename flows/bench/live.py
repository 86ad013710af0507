"""How soon an execution shows in the hash, and what waiting and restarting cost.

One loop publishes on schedule, whether or not earlier executions have shown by then,
and asks the hash for those that have not. The same loop, with nobody in between, is
what it is compared with: publish, write the value oneself, read it back.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

from connectors.redis.link import send
from flows.bench.report import Figure
from flows.bench.rig import DEADLINE_S, FIRST_TIME, HASH, STREAM, Flow, Rig, no_collection, set_up
from flows.bench.sizes import Sizes
from state.records import id_order

TITLE = "Live: XADD until visible in the hash, 50 books with a past"
STEPS = 8
RATES = (200, 2_000)

_BOOKS = 50
_SETTLE_S = 1.5
"""More than an epoch, so that nothing is left to do."""
_ASKED_AT_ONCE = 100
_STREAM_ID = re.compile(rb'"stream_id": ?"(\d+)-(\d+)"')

_Id = tuple[int, int]
_Message = list[str]
"""What follows XADD and the stream's name; the symbol is its third word."""


class Shown(NamedTuple):
    """One execution's way into the hash; seconds since the run began."""

    sent: float
    seen: float


def measure(sizes: Sizes, step: Callable[[str], None]) -> list[Figure]:
    """Measure the idle flow, the live flow at each rate, and restarts."""
    with set_up() as rig:
        step("live: the books' past")
        rig.fill(_BOOKS * sizes.past, prefix="LIVE", symbols=_BOOKS)
        messages = new_executions(rig)
        with Flow(rig) as flow:
            flow.until_committed()
            time.sleep(_SETTLE_S)
            step("live: idle")
            figures = [_idle(flow, sizes.idle_s)]
            for rate in RATES:
                step(f"live: bare round trips, {rate:,}/s")
                bare = bare_round_trips(rig, messages, rate, sizes.live_s / 4)
                step(f"live: {rate:,}/s")
                live = executions_shown(rig, flow, messages, rate, sizes.live_s)
                figures += _figures(rate, live, bare)
            step("live: kill and restart")
            figures.append(_recovery(rig, flow, messages, sizes.restarts))
    return figures


def new_executions(rig: Rig) -> Iterator[_Message]:
    """Make executions that go on where the stream ends."""
    random = Random(rig.client.xlen(STREAM))  # noqa: S311  # any will do
    for number in count(rig.client.xlen(STREAM)):
        fields = {
            "symbol": f"LIVE{random.randint(1, _BOOKS)}", "side": random.choice(("BUY", "SELL")),
            "fill_qty": random.randint(1, 500), "fill_price": f"{random.uniform(10, 500):.2f}",
            "order_id": number, "exec_id": f"0000e0d5.{number:08x}.01.01",
            "timestamp": FIRST_TIME + number, "commission": "0.35", "currency": "USD",
        }  # fmt: skip
        yield ["*", *(str(word) for pair in fields.items() for word in pair)]


# --- latency --------------------------------------------------------------------------------


def executions_shown(
    rig: Rig, flow: Flow, messages: Iterator[_Message], rate: int, seconds: float
) -> list[Shown]:
    """Publish executions at a rate; return when each was sent, and when it showed."""
    return published_and_shown(
        rig, flow, messages, rate, seconds, stream=STREAM, hash_=HASH,
        order=lambda _, entry: id_order(entry.decode()), newest=shown_id,
    )  # fmt: skip


def published_and_shown(
    rig: Rig,
    flow: Flow,
    messages: Iterator[_Message],
    rate: int,
    seconds: float,
    *,
    stream: str,
    hash_: str,
    order: Callable[[_Message, bytes], Any],
    newest: Callable[[bytes | None], Any],
) -> list[Shown]:
    """Publish at a rate; return when each message was sent, and when it or a later one showed.

    order: of a message and its entry id. newest: the order of what a value of the hash shows.
    """
    waiting: dict[str, list[tuple[Any, float]]] = {}
    shown: list[Shown] = []
    due = [next(messages) for _ in range(int(rate * seconds))][::-1]
    deadline = time.monotonic() + seconds + DEADLINE_S
    with no_collection():
        start = perf_counter()
        sent = 0
        while due or waiting:
            now = perf_counter() - start
            if due and now >= sent / rate:
                message = due.pop()
                place = order(message, send(rig.client, "XADD", stream, *message))
                waiting.setdefault(message[2], []).append((place, now))
                sent += 1
            elif waiting:
                keys = list(waiting)[:_ASKED_AT_ONCE]
                values = send(rig.client, "HMGET", hash_, *keys)
                seen = perf_counter() - start
                for key, value in zip(keys, values, strict=True):
                    shown += _take_off(waiting, key, newest(value), seen)
                flow.check("all shown", deadline)
            else:
                time.sleep(max(0.0, sent / rate - now))
    return shown


def _take_off(
    waiting: dict[str, list[tuple[Any, float]]], key: str, newest: Any, seen: float
) -> list[Shown]:
    """Take off the waiting list what the hash shows by now."""
    shown = [Shown(sent, seen) for place, sent in waiting[key] if place <= newest]
    waiting[key] = [(place, sent) for place, sent in waiting[key] if place > newest]
    if not waiting[key]:
        del waiting[key]
    return shown


def bare_round_trips(
    rig: Rig, messages: Iterator[_Message], rate: int, seconds: float
) -> list[Shown]:
    """Publish, write and read back at a rate, with nobody in between."""
    value = '{"symbol": "LIVE1", "stream_id": "1-1"}'.ljust(400)
    due = [next(messages) for _ in range(int(rate * seconds))]
    shown = []
    with no_collection():
        start = perf_counter()
        for sent, message in enumerate(due):
            while (now := perf_counter() - start) < sent / rate:
                time.sleep(sent / rate - now)
            send(rig.client, "XADD", "bare:executions", *message)
            send(rig.client, "HSET", "bare:positions", message[2], value)
            send(rig.client, "HGET", "bare:positions", message[2])
            shown.append(Shown(now, perf_counter() - start))
    return shown


def shown_id(value: bytes | None) -> _Id:
    """Return the id of the entry that caused a value of the hash; the least if none did."""
    found = _STREAM_ID.search(value or b"")
    return (int(found[1]), int(found[2])) if found else (0, 0)


# --- what it says ---------------------------------------------------------------------------


def _figures(rate: int, live: list[Shown], bare: list[Shown]) -> list[Figure]:
    ours, theirs = latencies_ms(live), latencies_ms(bare)
    at = f"{rate:,}/s"
    return [
        *(Figure(f"live.{name}_{rate}", f"{at}, {what}", ours[name], "ms",
                 theirs[name], "XADD, HSET, HGET") for name, what in _RANKS.items()),
        Figure(f"live.pause_{rate}", f"{at}, longest pause, typical second",
               median(pauses_ms(live)), "ms", median(pauses_ms(bare)), "XADD, HSET, HGET"),
        Figure(f"live.longest_pause_{rate}", f"{at}, longest pause of all",
               max(pauses_ms(live)), "ms", max(pauses_ms(bare)), "XADD, HSET, HGET"),
    ]  # fmt: skip


_RANKS = {
    "median": "median",
    "p99": "p99",
    "worst": "worst",
    "typical_worst": "worst, typical second",
}


def latencies_ms(shown: list[Shown]) -> dict[str, float]:
    """Return the ranks of what it took from sent to seen, in milliseconds."""
    taken = [(seen - sent) * 1000 for sent, seen in shown]
    by_second: dict[int, float] = {}
    for (sent, _), ms in zip(shown, taken, strict=True):
        by_second[int(sent)] = max(ms, by_second.get(int(sent), 0.0))
    return {
        "median": median(taken),
        "p99": quantiles(taken, n=100, method="inclusive")[98],
        "worst": max(taken),
        "typical_worst": median(by_second.values()),
    }


def pauses_ms(shown: list[Shown]) -> list[float]:
    """Return the longest time between two updates seen, of each second, in milliseconds."""
    by_second: dict[int, float] = {}
    for before, after in pairwise(sorted(seen for _, seen in shown)):
        by_second[int(after)] = max((after - before) * 1000, by_second.get(int(after), 0.0))
    return list(by_second.values())


# --- idle, and after a crash ------------------------------------------------------------------


def _idle(flow: Flow, seconds: float) -> Figure:
    before, start = flow.cpu_s, perf_counter()
    time.sleep(seconds)
    share = (flow.cpu_s - before) / (perf_counter() - start)
    return Figure("live.idle", "idle, of one core", share * 100, "%")


def _recovery(rig: Rig, flow: Flow, messages: Iterator[_Message], restarts: int) -> Figure:
    taken = median(_restart_s(rig, flow, messages) for _ in range(restarts))
    start = perf_counter()
    subprocess.run(  # our own program
        [sys.executable, "-c", "import bytewax.run, flows.positions"],
        cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    imports = perf_counter() - start
    return Figure(
        "live.recovery", "restart after kill -9, first position", taken, "s",
        imports, "for the imports",
    )  # fmt: skip


def _restart_s(rig: Rig, flow: Flow, messages: Iterator[_Message]) -> float:
    """Kill the flow, publish, start it; return seconds until it shows any of that."""
    flow.kill()
    sent: dict[str, _Id] = {}
    for _ in range(_BOOKS):
        message = next(messages)
        entry = send(rig.client, "XADD", STREAM, *message)
        sent[message[2]] = id_order(entry.decode())
    start = perf_counter()
    flow.start()
    flow.until(
        lambda: any(
            shown_id(value) >= entry
            for entry, value in zip(
                sent.values(), send(rig.client, "HMGET", HASH, *sent), strict=True
            )
        ),
        "a new position shown after a restart",
        DEADLINE_S,
    )
    return perf_counter() - start
