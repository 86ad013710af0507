"""The power goes: the disk has what was synced, and of the rest anything; nothing is lost.

See tests/support/forgetful_disk.py for what a disk may hold then; `make soak` cuts before
each system call of the run.
"""

import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from connectors.book_store import read_book
from connectors.parquet.files import StreamFiles
from flows.job import recovery
from tests.support import crashes
from tests.support.chaos import new_seed
from tests.support.flow_process import ROOT
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.servers import RedisServer
from tests.support.system_calls import Call, Held

_POINTS, _CUTS = 4, 3


def test_what_a_power_cut_leaves_is_enough_to_go_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    rng = random.Random(new_seed())
    points = crashes.Crash(tmp_path / "whole", redis_server).points()
    for point in rng.sample(points, _POINTS):
        crash = crashes.Crash(tmp_path / point.replace(" ", "-"), redis_server)
        crash.lose_power(point, rng, _CUTS)


_STORES = """
import sys
from pathlib import Path

import pyarrow as pa

from connectors.book_store import BookStore
from connectors.parquet.files import StreamFiles
from connectors.parquet.tables import Table
from flows.job import recovery
from state.book import Book
from state.exact import ONE
from state.messages import Execution

root = Path(sys.argv[1])
files = StreamFiles(root / "data", "executions")
files.lock()
files.recover()
recovery.prepare(root / "recovery", None)
store, book = BookStore(root / "recovery"), Book("S")
for number in range(1, 5):
    said = Execution(f"e{number}", f"e{number}", 1, number, ONE, ONE)
    book.apply(said)
    store.remember("S", book, b"%d-0\\n" % number, [said])
    store.commit()
    for day in {0, number}:
        files.write(Table("positions", day, pa.table({"n": [number]})))
    files.commit(f"{number}-0")
    (root / f"committed-{number}").touch()
"""


def _whole_epochs(data_dir: Path) -> int:
    """Return how many epochs have their rows after a start, each all of them and once."""
    files = StreamFiles(data_dir, "executions")
    files.lock()
    last = int(files.recover().removesuffix("-0"))
    files.close()
    parts = (data_dir / "positions").glob("*/*.parquet")
    rows = [n for part in parts for n in pq.ParquetFile(part).read()["n"].to_pylist()]
    assert sorted(rows) == sorted([*range(1, last + 1)] * 2)
    return last


def test_what_a_store_has_committed_outlasts_a_power_cut_at_any_instant(tmp_path: Path) -> None:
    root, left, held, rng = tmp_path / "root", tmp_path / "left", Held(), random.Random(new_seed())
    root.mkdir()
    disk, committed = ForgetfulDisk(root), 0

    def look(call: Call) -> int | None:
        nonlocal committed
        paths = call.paths
        if not any(map(disk.holds, paths)):
            return None
        committed += "/committed-" in paths[0]
        if "write" in call.kind:  # of these the disk chooses some, whenever it is cut later
            return disk.see(call)
        disk.cut(rng, left)
        assert committed <= _whole_epochs(left / "data") <= committed + 1
        if committed:
            book, _ = read_book(left / "recovery", "S", "S", None, f"{committed}-0", "0-0")
            assert book.snapshot().executions == committed
        else:
            recovery.prepare(left / "recovery", None).close()
        return disk.see(call)

    with held.watched(look):
        command = [*held.prefix, sys.executable, "-c", _STORES, str(root)]
        ended = subprocess.run(command, cwd=ROOT, process_group=0, check=False)
    assert (ended.returncode, committed) == (0, 4)


class _Said(Call):
    """A call with all that a disk asks it for."""

    paths: list[str] = []  # noqa: RUF012
    data, offset = b"", 0


def _call(kind: str, *paths: Path, data: bytes = b"", flags: int = 0o100) -> Call:
    said = _Said(kind, 0, (0, 0, flags))
    said.paths, said.data = [str(path) for path in paths], data
    return said


def test_a_disk_keeps_what_was_synced_and_forgets_the_rest(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (file, moved), rng = (root / "a", root / "b"), random.Random(1)
    disk = ForgetfulDisk(root)
    ways: dict[str, set[bytes | None]] = {"a": set(), "b": set()}
    for call in (_call("mkdir", root), _call("openat", file)):
        assert disk.see(call) is None
    disk.see(_call("write", file, data=b"whole"))
    assert disk.see(_call("fsync", file)) == 0
    disk.cut(rng)
    assert not root.exists() or not file.exists() or file.read_bytes() == b"whole"
    disk.see(_call("fsync", tmp_path))
    disk.see(_call("fsync", root))
    disk.see(_call("write", file, data=b"W"))
    disk.see(_call("rename", file, moved))
    for _ in range(50):
        disk.cut(rng)
        for name, found in ways.items():
            path = root / name
            found.add(path.read_bytes() if path.exists() else None)
    assert ways == {"a": {None, b"whole", b"Whole"}, "b": {None, b"whole", b"Whole"}}
    disk.see(_call("fsync", root))
    disk.see(_call("fsync", moved))
    disk.cut(rng)
    assert moved.read_bytes() == b"Whole"
    assert not file.exists()
