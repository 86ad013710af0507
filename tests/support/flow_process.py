"""The main job as a real process: started, killed, stopped, and what it left behind.

A `FlowProcess` runs `python -m bytewax.run flows.positions` in a process group of its
own, with its data, recovery directory and log in one directory that outlasts restarts.
What a reader sees is read back here: `Outcome` is the hash, both Parquet data sets and
the dead letters, as plain Python values that compare with `==`.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import redis

from connectors.redis.exact_json import from_json
from connectors.redis.link import send
from flows.common import process
from flows.common.process import MAIN_JOB, Program

ROOT = process.ROOT
DEADLINE_S = 40.0
"""How long a machine under load may take for what takes a second otherwise."""

# Runs before the flow, in its process. A shell's background job, as a test run may be
# one, ignores SIGINT, and so would the flow. The rest is prctl(PR_SET_PDEATHSIG,
# SIGKILL): a test run that is killed itself leaves nothing behind.
_LAUNCH = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execvp(sys.argv[1], sys.argv[1:])
"""

Row = dict[str, Any]


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fail with `what` was waited for if it never does."""
    process.until(condition, what, deadline_s)


class FlowProcess(Program):
    """One copy of the main job, or of another flow; not running until `start()` or `with`.

    directory: holds `data`, `recovery` and the log. recovery: run with `-r`.
    arguments: more of Bytewax's own. prefix: a command that runs the rest of its words,
    such as `ip netns exec host`. settings: environment variables, such as
    `STREAM_PARTITIONS="2"`; none is inherited but PATH.
    """

    def __init__(
        self,
        directory: Path,
        redis_url: str,
        *,
        recovery: bool = True,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
        flow: str = "flows.positions",
        **settings: str,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = Path(settings.get("DATA_DIR", directory / "data"))
        self.recovery_dir = directory / "recovery"
        self.arguments = [*(("-r", str(self.recovery_dir), "-b", "0") if recovery else ())]
        self.arguments += ["-s", "1", *arguments]
        self.settings = {
            "REDIS_URL": redis_url, "DATA_DIR": str(self.data_dir), "LOG_FORMAT": "json",
            **settings,
        }  # fmt: skip
        log = directory / f"flow-{len(list(directory.glob('flow-*.log')))}.log"
        log.touch()
        launch = (sys.executable, "-I", "-S", "-c", _LAUNCH)
        environment = {"PATH": os.environ["PATH"], "RUST_BACKTRACE": "0", **self.settings}
        command = [*prefix, *launch, *MAIN_JOB[:-1], flow, *self.arguments]
        super().__init__(command, log, environment, group=True)

    def messages(self, level: str) -> list[str]:
        """Return what it has logged at a level, such as `critical`, since its last start."""
        lines = [
            json.loads(line)
            for line in self.log.splitlines()
            if line[:2] == '{"' and line[-1] == "}"
        ]
        return [line["message"] for line in lines if line["level"] == level]

    def stop(self, signum: signal.Signals = signal.SIGTERM, deadline_s: float = DEADLINE_S) -> int:
        """Ask it to end; return its exit code.

        Once it can be asked, that is: before it has its handlers, a signal kills it.
        """
        self.until(lambda: self._handles(signum), f"a handler of signal {signum}")
        return super().stop(signum, deadline_s)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; return its exit code."""
        return super().wait(deadline_s)

    def until(
        self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S
    ) -> None:
        """Wait until a condition holds; fail with the log if the flow ends before."""
        super().until(condition, what, deadline_s)

    def _handles(self, signum: signal.Signals) -> bool:
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():  # not Linux, or over
            return True
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)

    def until_committed(self, client: redis.Redis, *streams: str) -> None:
        """Wait until its consumer group is at the end of the streams."""
        for stream in streams or ("executions",):
            self.until(lambda: _at_the_end(client, stream), f"{stream} committed")  # noqa: B023


def _at_the_end(client: redis.Redis, stream: str) -> bool:
    newest: bytes = info(client, stream).get("last-generated-id", b"")
    return group(client, stream) == newest.decode()


# --- what it leaves behind ----------------------------------------------------------------


class Outcome(NamedTuple):
    """All that the flow tells the world."""

    hash: dict[str, Row]
    positions: list[Row]
    """In order of their entries; `date` is the partition's."""
    closed_lots: list[Row]
    """In order of their entries, those of one entry by date, then as written."""
    dead: dict[str, list[bytes]]
    """The fields of each dead letter by its id."""


def outcome(
    client: redis.Redis,
    data_dir: Path,
    *,
    name: str = "positions",
    dead: Sequence[str] = ("executions:dead",),
) -> Outcome:
    """Read back all that a flow has written."""
    return Outcome(
        read_hash(client, name),
        read_rows(data_dir, "positions"),
        read_rows(data_dir, "closed_lots"),
        {entry: fields for stream in dead for entry, fields in read_stream(client, stream)},
    )


def read_hash(client: redis.Redis, name: str = "positions") -> dict[str, Row]:
    """Return each key's position; numbers are exact decimals."""
    found: Any = client.hgetall(name)
    return {key.decode(): parse(value) for key, value in found.items()}


def parse(value: bytes | str) -> Row:
    """Read a JSON object, such as a value of the hash; all its numbers become decimals."""
    row: Row = from_json(value)
    return row


def read_rows(data_dir: Path, data_set: str) -> list[Row]:
    """Return the rows of a data set, each with the `date` that it stands under.

    Commissions in other currencies, a text there, are a dict, as in the hash.
    """
    rows: list[Row] = []
    for path in parts(data_dir, data_set):
        day = date.fromisoformat(path.parent.name.removeprefix("date="))
        rows += [{**row, "date": day} for row in pq.ParquetFile(path).read().to_pylist()]
    for row in rows:
        if others := row.get("other_commissions"):
            row["other_commissions"] = parse(others)
    return sorted(rows, key=lambda row: (order(row["stream_id"]), row["date"]))


def parts(data_dir: Path, data_set: str) -> list[Path]:
    """Return the files of a data set that readers see."""
    return sorted((data_dir / data_set).glob("date=*/*.parquet"))


def row_count(data_dir: Path, data_set: str) -> int:
    """Return how many rows of a data set readers see."""
    return sum(pq.read_metadata(path).num_rows for path in parts(data_dir, data_set))


def read_stream(client: redis.Redis, stream: str) -> list[tuple[str, list[bytes]]]:
    """Return a stream's entries as (id, names and values in turn), byte for byte."""
    raw: Any = client.connection_pool.get_connection()
    try:
        raw.send_command("XRANGE", stream, "-", "+")
        return [(entry.decode(), fields) for entry, fields in raw.read_response()]
    finally:
        client.connection_pool.release(raw)


def group(client: redis.Redis, stream: str = "executions") -> str | None:
    """Return the last delivered id of the consumer group `positions`."""
    found = groups(client, stream)
    return found[0]["last-delivered-id"].decode() if found else None


def groups(client: redis.Redis, stream: str = "executions") -> list[dict[str, Any]]:
    """Return what XINFO GROUPS says; nothing if there is no such stream."""
    try:
        return list(client.xinfo_groups(stream))
    except redis.ResponseError:
        return []


def add(
    client: redis.Redis,
    fields: Mapping[str, str] | Mapping[bytes, bytes] | Mapping[str, Any],
    *,
    stream: str = "executions",
    entry: str = "*",
) -> str:
    """Add an entry; return its id."""
    pairs = [word for pair in fields.items() for word in pair]
    added: bytes = send(client, "XADD", stream, entry, *pairs)
    return added.decode()


def info(client: redis.Redis, stream: str = "executions") -> dict[str, Any]:
    """Return what XINFO STREAM says; nothing if there is no such stream."""
    try:
        return dict(client.xinfo_stream(stream))
    except redis.ResponseError:
        return {}


def order(entry_id: str) -> tuple[int, int]:
    """Return what sorts entry ids as Redis does."""
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)


def time_of(milliseconds: int) -> datetime:
    """Return the time that Parquet shows for a count of milliseconds, exactly."""
    whole, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest * 1000)
