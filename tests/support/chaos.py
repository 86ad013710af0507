"""A feed at its worst, processes that die at the worst moment, and readers who watch.

All choices come from one seed, which the failing test prints; when exactly a process
dies still depends on the machine.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import pyarrow.parquet as pq
import redis

from state.keys import partition_of
from tests.support import follower, naive, rare
from tests.support.flow_process import (
    DEADLINE_S,
    FlowProcess,
    Outcome,
    Row,
    order,
    outcome,
    parts,
    read_hash,
    read_stream,
    row_count,
    until,
)
from tests.support.servers import RedisServer

Fields = dict[str, str]


def new_seed() -> int:
    """Return LOTSTREAM_SEED, or else a new seed, and print it: a failing test shows that."""
    seed = int(os.environ.get("LOTSTREAM_SEED") or random.randrange(2**32))
    sys.stdout.write(f"again with LOTSTREAM_SEED={seed}\n")
    return seed


_MIDNIGHT_MS = 1_700_006_400_000
"""The feed trades around this midnight, so that there are two dates."""

_SPOILT: list[Fields] = [
    {"symbol": ""}, {"side": "HOLD"}, {"fill_qty": "0"}, {"fill_qty": "NaN"},
    {"fill_price": "1e999999999"}, {"fill_price": "-1", "sec_type": "STK"}, {"timestamp": "soon"},
    {"timestamp": "1700006400"}, {"timestamp": "250000000000000"}, {"exec_id": "x" * 65},
    {"type": "dividend"}, {"account": "a:b"}, {"order_id": "1.5"}, {"basis_adjustment": "some"},
]  # fmt: skip

_INSTRUMENTS: list[Fields] = [{}, {"currency": "EUR"}, {"multiplier": "100"}]
"""What the keys' executions say of the instrument, one key after the other."""

_PLAIN, _ROUTERS, _ABROAD, _BARE = range(4)
"""Shapes of an execution: with its commission; as the router writes it; with an
adjustment, and a commission in whatever currency; with nothing that is not needed."""


class Trader:
    """Makes up entries: executions, duplicates, bad ones and, if wild, all the rest.

    Between, for tens to thousands of entries, plain executions alone, of one shape or a
    few: the flow has a fast path for those. If wild, some are followed by reports.
    wild: also late executions, corrections, busts, and every other type of message.
    """

    def __init__(self, rng: random.Random, keys: int = 6, *, wild: bool = True) -> None:
        self._rng, self._wild = rng, wild
        self._names = [{"symbol": f"S{n}", "account": f"U{n % 2}"} for n in range(keys)]
        self._numbers = {name["symbol"]: [str(n)] for n, name in enumerate(self._names)}
        self._plain, self._left, self._shapes = True, 0, [_PLAIN]
        self._now = _MIDNIGHT_MS - 60_000
        self._made: list[Fields] = []
        self._others: list[Fields] = []
        """What was made of other types."""
        self._next: list[Fields] = []
        self._revisions: dict[str, int] = {}

    def next(self) -> tuple[Fields, bool]:
        """Return an entry's fields, and whether the flow can use it for certain."""
        if not self._left:
            self._begin_stretch()
        self._left -= 1
        if self._next:
            return self._next.pop(), True
        choice = 1.0 if self._plain else self._rng.random()
        self._now += self._rng.choice((0, 0, 7, 1000))
        if choice < 0.04:
            return {**self._execution(), **self._rng.choice(_SPOILT)}, False
        if choice < 0.12 and self._made:
            return dict(self._rng.choice(self._made)), True
        if choice < 0.30 and self._made and self._wild:
            return self._unusual(), True
        self._made.append(self._execution())
        self._made = self._made[-300:]
        if self._wild and "commission" not in self._made[-1] and self._rng.random() < 0.8:
            self._next.append(self._report(self._made[-1]))
        return self._made[-1], True

    def _begin_stretch(self) -> None:
        self._plain = not self._plain
        self._left = self._rng.choice((30, 300, 2500) if self._plain else (100, 700))
        shapes = [_PLAIN, _ROUTERS, _ABROAD, _BARE]
        self._shapes = self._rng.sample(shapes, self._rng.choice((1, 1, 2, 3, 4)))

    def _execution(self) -> Fields:
        number = self._rng.randrange(len(self._names))
        self._revisions[base := f"{len(self._revisions):08x}.{self._now % 2**32:08x}.01"] = 1
        fields = {
            **self._names[number], "side": self._rng.choice(("BUY", "SELL")),
            "fill_qty": self._qty(),
            "fill_price": f"{self._rng.randint(900, 1100) / 100:.2f}",
            "order_id": str(len(self._revisions)), "exec_id": f"{base}.01",
            "timestamp": str(self._now), **_INSTRUMENTS[number % 3],
        }  # fmt: skip
        return self._in_shape(fields, self._rng.choice(self._shapes))

    def _in_shape(self, fields: Fields, shape: int) -> Fields:
        match shape:
            case 0:
                return {**fields, "commission": self._fee()}
            case 1:
                # The order of its fields is the router's own too.
                router = {
                    "con_id": self._rng.choice(self._numbers[fields["symbol"]]), "sec_type": "FUT",
                    "currency": "USD", "exchange": "CME", "order_ref": self._rng.choice("ab"),
                    "multiplier": "1",
                }  # fmt: skip
                price = self._rng.choice((fields["fill_price"], fields["fill_price"], "0", "-0.5"))
                return {**router, **fields, "fill_price": price}
            case 2:
                abroad = {"commission": self._fee(), "basis_adjustment": self._signed(self._fee())}
                currency = self._rng.choice(("USD", "EUR", "GBP"))
                return {**fields, **abroad, "commission_currency": currency}
            case _:
                return fields

    def _qty(self) -> str:
        qty = self._rng.randint(1, 50)
        return self._rng.choice((str(qty), str(qty), f"{qty / 8:.3f}"))

    def _fee(self) -> str:
        return f"{self._rng.randrange(1, 300) / 100:.2f}"

    def _signed(self, number: str) -> str:
        return self._rng.choice(("", "-")) + number

    # --- what only a wild one makes ---------------------------------------------------------

    def _unusual(self) -> Fields:
        made = self._rng.choice(self._made)
        if self._rng.random() < 0.5:
            return self._again(made)
        if self._others and self._rng.random() < 0.3:
            again = self._rng.choice(self._others)
            return self._rng.choice([again, {**again, "timestamp": str(self._now)}])
        name = {"symbol": made["symbol"], "account": made["account"]}
        kinds = (self._opening, self._split, self._cost, self._leaves, self._comes, self._number)
        self._others.append({**name, **self._rng.choice(kinds)(name["symbol"])})
        self._others = self._others[-50:]
        return self._others[-1]

    def _again(self, made: Fields) -> Fields:
        """Say something more of an execution, or make up one that is late."""
        match self._rng.randrange(6):
            case 0:
                return {**self._execution(), "timestamp": self._earlier()}
            case 1:
                return {**self._revised(made), "fill_qty": self._qty()}
            case 2:
                return {**self._revised(made), "fill_qty": "0"}
            case 3:
                return {**made, "commission": self._fee(), "basis_adjustment": self._fee()}
            case 4:
                self._made.append(late := self._execution())
                self._next.append(late)
                return self._report(late)
            case _:
                return self._report(made)

    def _revised(self, made: Fields) -> Fields:
        base = made["exec_id"].rpartition(".")[0]
        self._revisions[base] = min(self._revisions[base] + 1, 99)
        return {**made, "exec_id": f"{base}.{self._revisions[base]:02d}"}

    def _report(self, of: Fields) -> Fields:
        said = {
            "type": "commission", "symbol": of["symbol"], "account": of["account"],
            "exec_id": of["exec_id"], "commission": f"{self._rng.random():.4f}",
            "timestamp": str(self._now),
        }  # fmt: skip
        currency = self._rng.choice(("", of.get("currency", "USD"), "EUR"))
        return {**said, "currency": currency} if currency else said

    def _earlier(self) -> str:
        return str(self._now - self._rng.randrange(60_000))

    def _opening(self, symbol: str) -> Fields:
        exec_id = self._rng.choice(("", "opening", "bought", "moved"))
        qty = self._rng.choice(("0", self._qty(), self._qty()))
        sign = "" if symbol < "S3" or qty == "0" else "-"
        return {
            "type": "opening", "exec_id": exec_id, "qty": sign + qty, "timestamp": self._earlier(),
            **self._worth(sign), **_INSTRUMENTS[int(symbol[1:]) % 3],
        }  # fmt: skip

    def _worth(self, sign: str) -> Fields:
        """Say what a lot cost: each unit, or all of it."""
        return self._rng.choice(
            ({"avg_price": self._fee()}, {"cost_basis": f"{sign}{self._rng.random():.15f}"})
        )

    def _split(self, _: str) -> Fields:
        ratio = self._rng.choice(("2:1", "1:2", "3:2", "2:3", "1:3"))
        places = self._rng.choice(("", "0", "2", "4"))
        return {
            "type": "split", "ratio": ratio, "places": places, "timestamp": self._earlier(),
            "exec_id": self._rng.choice(("", f"split {self._now}")),
        }  # fmt: skip

    def _cost(self, _: str) -> Fields:
        return {"type": "cost", "per_unit": self._signed(self._fee()), "timestamp": self._earlier()}

    def _leaves(self, _: str) -> Fields:
        said = {"type": "transfer", "exec_id": f"out {self._now}", "timestamp": self._earlier()}
        return self._rng.choice((said, {**said, "direction": "OUT", "qty": self._qty()}))

    def _comes(self, _: str) -> Fields:
        qty = self._signed(self._qty())
        return {
            "type": "transfer", "direction": "IN", "exec_id": f"in {self._now}", "qty": qty,
            **self._worth(qty[: qty.startswith("-")]), "opened": str(_MIDNIGHT_MS - 10**9),
            "timestamp": self._earlier(),
        }  # fmt: skip

    def _number(self, symbol: str) -> Fields:
        numbers = self._numbers[symbol]
        numbers.append(f"{numbers[0]}{len(numbers):03d}")
        return {"type": "instrument", "con_id": numbers[-1], "timestamp": str(self._now)}


class Feed:
    """Publishes what a trader makes, each key to its partition, in a thread while `with`."""

    def __init__(self, server: RedisServer, trader: Trader, streams: list[str], seed: int) -> None:
        self._server, self._trader, self._streams = server, trader, streams
        self._rng = random.Random(seed)
        self._over = Event()
        self.bad: set[str] = set()

    def publish(self, count: int) -> None:
        """Publish some entries at once."""
        made = [self._trader.next() for _ in range(count)]
        with self._server.client() as client:
            pipe = client.pipeline(transaction=False)
            for fields, _ in made:
                pipe.xadd(self._stream_of(fields), fields)
            ids = pipe.execute()
        self.bad |= {found.decode() for found, (_, good) in zip(ids, made, strict=True) if not good}

    def _stream_of(self, fields: Fields) -> str:
        key = f"{fields['account']}:{fields['symbol']}"
        return self._streams[partition_of(key, len(self._streams))]

    def _run(self) -> None:
        while not self._over.is_set():
            self.publish(self._rng.choice((1, 1, 5, 40)))
            self._over.wait(self._rng.choice((0.005, 0.05, 0.2)))

    @contextmanager
    def live(self) -> Iterator[None]:
        """Go on publishing, a few to a hundred entries a second."""
        self._over.clear()
        with _threads(self._over, self._run):
            yield


_END, _LAST_ID = "the end of changes", f"{2**63}-0"


class Watch:
    """Readers of hash, changes and Parquet files who note whatever no reader may see."""

    def __init__(self, server: RedisServer, data_dir: Path, changes: list[str]) -> None:
        self._server, self._data_dir, self._changes = server, data_dir, changes
        self._over = Event()
        self.reads = 0
        self.followed: dict[str, Row] = {}
        """The positions, as one knows them who only follows their changes."""
        self.shown: naive.Values = {}
        """Each value that a read of the hash or a follower's has had."""
        self.wrong: list[str] = []

    def check(self, values: naive.Values) -> None:
        """Assert that whatever was read is what the oracle has at some prefix of the stream."""
        assert self.wrong == []
        for of, value in self.shown.items():
            assert value == values.get(of), f"{of} was never to be seen"
        with redis.Redis.from_url(self._server.url) as client:
            for stream in self._changes:
                for entry_id, key, value in follower.changes(client, stream)[:-1]:
                    assert value == values.get((key, entry_id)), f"{key} {entry_id} in {stream}"

    def _note(self, newest: dict[str, str], key: str, value: Row) -> None:
        """Note what a reader sees of a key; newest: the entries whose values it saw before."""
        entry_id = value["stream_id"]
        if order(entry_id) < order(newest.get(key, "0-0")):
            self.wrong.append(f"{key}: {entry_id} after {newest[key]}")
        newest[key] = entry_id
        if self.shown.setdefault((key, entry_id), value) != value:
            self.wrong.append(f"{key}: two values behind {entry_id}")

    def _watch_hash(self) -> None:
        newest: dict[str, str] = {}
        with self._server.client() as client:
            while not self._over.is_set():
                for key, value in read_hash(client).items():
                    self._note(newest, key, value)
                self.reads += 1
                time.sleep(0.002)

    def _watch_files(self) -> None:
        known: set[Path] = set()
        rows: set[str] = set()
        while not self._over.is_set():
            new = set(parts(self._data_dir, "positions")) - known
            for path in new:
                ids = pq.ParquetFile(path).read(["stream_id"])["stream_id"].to_pylist()
                if len(rows | set(ids)) < len(rows) + len(ids):
                    self.wrong.append(f"{path.name} repeats a row")
                rows |= set(ids)
            known |= new
            time.sleep(0.05)

    def _follow(self, stream: str) -> None:
        newest: dict[str, str] = {}
        with redis.Redis.from_url(self._server.url, decode_responses=True) as client:
            for key, position in follower.follow(client, stream):
                if key == _END:
                    return
                self._note(newest, key, position)
                self.followed[key] = position

    @contextmanager
    def on(self, *, files: bool = True) -> Iterator[None]:
        """Watch; an entry id names a row only where there is one stream, so `files`."""
        targets = [self._watch_hash, *([self._watch_files] if files else [])]
        targets += [partial(self._follow, stream) for stream in self._changes]
        with _threads(self._over, *targets):
            try:
                yield
            finally:
                with self._server.client() as client:
                    for stream in self._changes:
                        position = f'{{"stream_id": "{_LAST_ID}"}}'
                        client.xadd(stream, {"key": _END, "position": position}, id=_LAST_ID)


@contextmanager
def _threads(over: Event, *targets: Callable[[], None]) -> Iterator[None]:
    died: list[Exception] = []

    def run(target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # noqa: BLE001  # told to the test below
            died.append(error)

    threads = [Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if died:
        raise died[0]


# --- killing --------------------------------------------------------------------------------


def kill_somewhere(flow: FlowProcess, rng: random.Random) -> None:
    """Kill the flow up to a second and a half from now: while it starts, works or waits."""
    time.sleep(rng.uniform(0, 1.5))
    flow.kill()


def kill_in_a_snapshot(flow: FlowProcess, rng: random.Random) -> None:
    """Kill the flow within 4 ms of a file's change that only the end of an epoch brings."""
    marks = rng.choice(
        [_new_parts, _manifest, _bytewax_store, _book_store]
        if flow.recovery_dir.exists()
        else [_new_parts, _manifest]
    )
    until(lambda: not flow.running or marks(flow), "a first snapshot")
    before = marks(flow)
    deadline = time.monotonic() + 5
    while marks(flow) == before and flow.running and time.monotonic() < deadline:
        time.sleep(0.0003)
    time.sleep(rng.uniform(0, 0.004))
    flow.kill()


def kill_late_in_a_backlog(flow: FlowProcess, rng: random.Random) -> None:
    """Kill the flow when the rows of all that it found waiting are written, or just committed."""
    began = time.time_ns()  # what an earlier run has left is older
    files = rng.choice(("*/*.parquet", "*/manifest.json"))

    def writes() -> bool:
        found = (flow.data_dir / ".lotstream").glob(files)
        return any(written > began for written, _ in _changed(*found))

    until(lambda: not flow.running or writes(), "rows being written")
    time.sleep(rng.uniform(0, 0.02))
    flow.kill()


def _new_parts(flow: FlowProcess) -> object:
    own = flow.data_dir / ".lotstream"
    return {path.name for path in own.glob("*/*") if path.name not in ("lock", "manifest.json")}


def _manifest(flow: FlowProcess) -> object:
    return _changed(*(flow.data_dir / ".lotstream").glob("*/manifest.json"))


def _bytewax_store(flow: FlowProcess) -> object:
    return _changed(flow.recovery_dir / "part-0.sqlite3-wal")


def _book_store(flow: FlowProcess) -> object:
    return _changed(flow.recovery_dir / "books-0.db-wal")


def _changed(*paths: Path) -> list[tuple[int, int]]:
    stats = []
    for path in paths:
        try:
            stats.append((path.stat().st_mtime_ns, path.stat().st_size))
        except FileNotFoundError:
            stats.append((0, 0))
    return stats


# --- a whole run ------------------------------------------------------------------------------


class Figures(NamedTuple):
    """What a run went through."""

    kills: int
    entries: int
    rows: int
    dead: int
    hash_reads: int
    values: int
    """That were read of hash and changes, each found to be right."""
    cut_off: int
    """Starts that found snapshots of an epoch which was never completed."""


def run(
    directory: Path,
    server: RedisServer,
    *,
    seed: int,
    kills: int,
    recovery: bool = True,
    partitions: int = 1,
    arguments: tuple[str, ...] = (),
    wild: bool = True,
    backlogs: int = 1,
    reached: Path | None = None,
) -> Figures:
    """Kill one flow again and again under live input, then compare with the oracle.

    Every second kill is aimed at a snapshot; some come late in a backlog, the last one too.
    wild: see `Trader`; what comes without is worked out by hand, with no use of `state/`.
    backlogs: how many there are. reached: a file for the rare paths that the flow takes.
    """
    rng = random.Random(seed)
    names = [f"executions:{n}" for n in range(partitions)] if partitions > 1 else ["executions"]
    feed = Feed(server, Trader(rng, wild=wild), names, seed)
    flow = FlowProcess(
        directory, server.url, recovery=recovery, arguments=arguments,
        STREAM_PARTITIONS=str(partitions), CHANGES_KEPT="10000000",
        **(rare.traced(reached) if reached else {}),
    )  # fmt: skip
    changes = [name.replace("executions", "positions:changes") for name in names]
    watch = Watch(server, flow.data_dir, changes)
    with server.client() as client, watch.on(files=partitions == 1), flow:
        for _ in range(backlogs):
            _kill_again_and_again(flow, feed, kills // backlogs, rng)
        entries = {name: read_stream(client, name) for name in names}
        values: naive.Values = {}
        expected = _expected(entries, feed, values, wild=wild)
        flow.start()
        settle(flow, client, names, expected, DEADLINE_S + 2 * kills)
        assert flow.stop() == 0
        compare(written(client, flow, names), expected)
        assert follower.newest(client, *changes) == expected.hash
        until(lambda: watch.followed == expected.hash, "all that a follower was told")
    watch.check(values)
    return Figures(
        kills, sum(map(len, entries.values())), len(expected.positions), len(expected.dead),
        watch.reads, len(watch.shown),
        flow.whole_log.count("snapshots of an epoch that a crash cut off"),
    )  # fmt: skip


def _kill_again_and_again(flow: FlowProcess, feed: Feed, kills: int, rng: random.Random) -> None:
    with feed.live():
        for number in range(kills - 2):
            if not flow.running:
                flow.start()
            (kill_in_a_snapshot if number % 2 else kill_somewhere)(flow, rng)
    feed.publish(4000)
    kill_late_in_a_backlog(flow.start(), rng)
    feed.publish(1000)  # so that a read brings what is written and what is not


def _expected(
    entries: dict[str, list[tuple[str, list[bytes]]]],
    feed: Feed,
    values: naive.Values,
    *,
    wild: bool,
) -> Outcome:
    if not wild:
        bad = frozenset(feed.bad)
        return naive.both([naive.by_hand(e, bad=bad, values=values) for e in entries.values()])
    return naive.both(
        [naive.by_book(name, found, values=values) for name, found in entries.items()]
    )


def written(client: redis.Redis, flow: FlowProcess, names: list[str]) -> Outcome:
    """Read back what a flow has written of some streams."""
    dead = [name.replace("executions", "executions:dead") for name in names]
    return outcome(client, flow.data_dir, dead=dead)


def settle(
    flow: FlowProcess,
    client: redis.Redis,
    names: list[str],
    expected: Outcome,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait until as much has been written as is expected."""
    dead = [name.replace("executions", "executions:dead") for name in names]
    flow.until(
        lambda: (
            sum(map(client.xlen, dead)) >= len(expected.dead)
            and row_count(flow.data_dir, "positions") >= len(expected.positions)
            and row_count(flow.data_dir, "closed_lots") >= len(expected.closed_lots)
            and read_hash(client) == expected.hash
        ),
        "hash, rows and dead letters as expected",
        deadline_s,
    )
    flow.until_committed(client, *names)


def compare(found: Outcome, expected: Outcome) -> None:
    """Assert that all is as expected; name the first rows that differ, lost or doubled."""
    for name in ("positions", "closed_lots"):
        rows, wanted = getattr(found, name), getattr(expected, name)
        for row, want in zip(rows, wanted, strict=False):
            differs = {field: want[field] for field in want if row[field] != want[field]}
            assert row == want, f"{name} of {want['stream_id']}: expected {differs}"
        assert len(rows) == len(wanted), f"{name}: {len(rows)} rows, expected {len(wanted)}"
    assert found.hash == expected.hash
    letters = {
        entry: fields[: len(expected.dead.get(entry, fields))]
        for entry, fields in found.dead.items()
    }
    assert letters == expected.dead
