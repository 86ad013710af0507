"""One script of messages, and a flow that dies at a chosen system call of it.

The flow never waits: whenever it asks for entries, the next part of the script is there, and
after the last it is told to stop. So a run is the same each time but for what its threads do
side by side, and a point of it (`fsync 12`: before the twelfth) means the same instant.
"""

import queue
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import redis

from tests.support import chaos, follower, naive
from tests.support.flow_process import FlowProcess, group
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.servers import RedisServer
from tests.support.system_calls import Call, Held

T = TypeVar("T")

_STREAM = "executions"
_NOON, _LATER, _NEXT_DAY = 1_700_000_000_000, 1_700_000_060_000, 1_700_086_400_000
_FIRST_MS = 1_784_000_000_000

_A, _B, _OTHER, _C = "U1:A", "U1:B", "U2:A", "U2:C"

_ARGUMENTS = ("-s", "0")
"""An epoch for each read, and one after the other when there is none."""


def _said(key: str, at: int = _NOON, **more: str) -> dict[str, str]:
    account, symbol = key.split(":")
    return {"symbol": symbol, "account": account, "timestamp": str(at), **more}


def _exec_id(name: str, revision: int = 1) -> str:
    return f"0000e0d5.{int(name, 16):08x}.01.{revision:02d}"


def _fill(
    key: str, name: str, qty: int, price: str, at: int = _NOON, revision: int = 1, **more: str
) -> dict[str, str]:
    side, size = "BUY" if qty > 0 else "SELL", str(abs(qty))
    said = {"side": side, "fill_qty": size, "fill_price": price, "order_id": "1"}
    return _said(key, at, **said, exec_id=_exec_id(name, revision), **more)


_A1 = _fill(_A, "a1", 10, "100", commission="1.05", con_id="7")
_A6 = _fill(_A, "a6", -20, "103", _NEXT_DAY, con_id="265598")

PARTS: list[list[dict[str, str]]] = [
    [_A1, _fill(_B, "b1", 7, "20.5")],
    [
        _fill(_A, "a2", -4, "101.25", _LATER),
        _said(_A, _LATER, type="commission", exec_id=_exec_id("a2"), commission="0.35"),
        _A1,
        _fill(_A, "a3", 1, "100") | {"side": "HOLD"},
    ],
    [
        _said(_C, type="opening", exec_id="held", qty="-5", avg_price="12.5"),
        _fill(_C, "c1", 3, "12", _LATER),
        _fill(_A, "a4", 2, "99.5", _NOON - 5),
        _said(_B, _LATER, type="split", ratio="2:1"),
    ],
    [
        _fill(_A, "a2", -5, "101.25", _LATER, 2),
        _fill(_B, "b2", -3, "11", _LATER + 1),
        _fill(_B, "b1", 7, "20.5", revision=2) | {"fill_qty": "0"},
        _said(_A, _LATER + 2, type="cost", per_unit="-0.5"),
    ],
    [
        _said(_A, _LATER + 3, type="transfer", exec_id="out", direction="OUT", qty="2"),
        _said(_OTHER, _LATER + 3, type="transfer", exec_id="in", direction="IN", qty="2",
              avg_price="99", opened=str(_NOON)),
        _said(_A, _LATER + 4, type="instrument", con_id="265598"),
        _fill(_A, "a5", 1, "1", _LATER + 5, currency="EUR"),
    ],
    [_A6, _fill(_C, "c2", 9, "11", _NEXT_DAY + 1)],
    [_fill(_A, "a7", 6, "98", _NEXT_DAY + 2), _A6],
]  # fmt: skip
"""Messages of all types, of four keys on two days; the book, too, refuses one of them."""


def _ids() -> Iterable[list[tuple[str, dict[str, str]]]]:
    for number, part in enumerate(PARTS):
        yield [(f"{_FIRST_MS + number}-{at}", fields) for at, fields in enumerate(part)]


ENTRIES = [
    (entry, [word.encode() for pair in fields.items() for word in pair])
    for part in _ids()
    for entry, fields in part
]
VALUES: naive.Values = {}
EXPECTED = naive.by_book(_STREAM, ENTRIES, values=VALUES)


class Script:
    """Publishes the parts, each when the flow asks for entries."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.left = list(_ids())

    def follow(self, call: Call) -> None:
        """Publish the next part if that is what the flow asks for; stop it behind the last."""
        if call.kind == "sendto" and b"\r\nXREAD\r\n" in call.data[:20]:
            if self.left:
                self._publish(self.left.pop(0))
            else:
                call.send(signal.SIGTERM)

    def publish_rest(self) -> None:
        """Publish all that is left."""
        while self.left:
            self._publish(self.left.pop(0))

    def _publish(self, part: list[tuple[str, dict[str, str]]]) -> None:
        for entry, fields in part:
            self._client.xadd(_STREAM, fields, id=entry)  # type: ignore[arg-type]


class Crash:
    """A flow, in a directory and on a server of its own, which dies at points of its run."""

    def __init__(self, directory: Path, server: RedisServer, *, recovery: bool = True) -> None:
        self._client = server.client()
        self._client.flushall()
        self._script = Script(self._client)
        self._held = Held()

        data = directory / "data"
        arguments = (*_ARGUMENTS, *(("-r", str(data / "recovery")) if recovery else ()))
        flow = partial(FlowProcess, directory, server.url, recovery=recovery, arguments=arguments)
        self._watched, self._free = flow(prefix=self._held.prefix), flow()
        self.disk = ForgetfulDisk(data)

    def points(self) -> list[str]:
        """Run the script to its end; return the points of it, in order."""
        found: list[str] = []
        assert self._run(found.append) == 0
        assert self._script.left == []
        return found

    def die(self, point: str) -> bool:
        """Run until just before a point; return whether there was such a point."""
        found: list[str] = []

        def look(this: str) -> bool:
            found.append(this)
            return this == point

        self._run(look)
        return point in found

    def die_and_recover(self, points: Iterable[str]) -> None:
        """Die at each of some points, one run after the other, and then recover."""
        for point in points:
            self.die(point)
        self.recover()

    def lose_power(self, point: str, rng: random.Random, cuts: int) -> None:
        """Die at a point by a power cut, and recover from what a disk may hold then, some times.

        Redis, on a machine of its own, has what it had then; but its stream has been trimmed
        as far as its group says that all is durable.
        """
        self.die(point)
        if self._client.exists(_STREAM) and (committed := group(self._client)):
            self._client.xtrim(_STREAM, minid=committed, approximate=False)
        kept = {key: self._client.dump(key) for key in self._client.keys("*")}
        left = list(self._script.left)
        for _ in range(cuts):
            self._client.flushdb()
            for key, value in kept.items():
                self._client.restore(key, 0, value or b"")
            self._script.left = list(left)
            self.disk.cut(rng)
            self.recover()

    def _run(self, kills_at: Callable[[str], object]) -> int:
        seen: Counter[str] = Counter()

        def look(call: Call) -> int | None:
            if not any(p.startswith("socket:") or self.disk.holds(p) for p in call.paths):
                return None
            self._script.follow(call)
            seen[call.kind] += 1
            if kills_at(f"{call.kind} {seen[call.kind]}") is True:
                call.send(signal.SIGKILL)
                return 0
            return self.disk.see(call)

        with self._held.watched(look):
            self._watched.start()
            return self._watched.wait()

    def recover(self) -> None:
        """Start the flow again until it has all; assert that it is as if nothing had happened."""
        self._script.publish_rest()
        with self._free as flow:
            chaos.settle(flow, self._client, [_STREAM], EXPECTED)
            assert flow.stop() == 0
        chaos.compare(chaos.written(self._client, flow, [_STREAM]), EXPECTED)
        assert follower.newest(self._client, "positions:changes") == EXPECTED.hash
        for entry_id, key, value in follower.changes(self._client):
            assert value == VALUES[key, entry_id]


# --- many of them ---------------------------------------------------------------------------

_AT_ONCE = 2


def points(directory: Path, *, recovery: bool = True) -> list[str]:
    """Return the points of a run that nothing disturbs."""
    with RedisServer(directory / "redis") as server:
        return Crash(directory / "whole", server, recovery=recovery).points()


def try_all(
    directory: Path, tried: Sequence[T], act: Callable[[Path, RedisServer, T], None]
) -> dict[str, str]:
    """Act on each in turn, two at a time, each with a directory and a server of its own.

    Returns those at which it failed, and how; the directories of these stay.
    """
    servers: queue.SimpleQueue[RedisServer] = queue.SimpleQueue()
    failed: dict[str, str] = {}

    def one(number: int) -> None:
        server, where = servers.get(), directory / f"try-{number}"
        try:
            act(where, server, tried[number])
            shutil.rmtree(where)
        except Exception as error:  # noqa: BLE001  # all are tried
            failed[f"{tried[number]}"] = f"{where}: {error!r}"
        finally:
            servers.put(server)

    with ExitStack() as running, ThreadPoolExecutor(_AT_ONCE) as threads:
        for number in range(_AT_ONCE):
            servers.put(running.enter_context(RedisServer(directory / f"redis-{number}")))
        list(threads.map(one, range(len(tried))))
    return failed
