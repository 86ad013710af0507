"""What is kept is damaged at rest: it is named, or it does no harm; and a flow says so too."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from connectors import book_store
from connectors.parquet.files import manifests
from flows import verify as module
from flows.common.settings import Settings, load_settings
from flows.job import recovery
from flows.job.names import POSITION_ID
from flows.verify import Damage, verify
from state.records import FIRST_ID
from tests.support.flow_process import FlowProcess, parts
from tests.support.scaling import Ledger

FLIPS = 25
"""In each file, spread over it; more in those that are read byte by byte."""


class Kept:
    """What a flow has kept, and what of it is read."""

    def __init__(self, flow: FlowProcess, settings: Settings) -> None:
        self.flow, self.settings = flow, settings
        self.snapshots = self.read()

    def look(self) -> list[Damage]:
        return verify(self.settings, self.flow.recovery_dir)

    def read(self) -> tuple[object, ...]:
        """Read what a flow would, on its next start."""
        directory = self.flow.recovery_dir
        snapshots = recovery.read_snapshots(directory)
        books = [
            book_store.read_book(directory, key, values[3], values[4], values[5], FIRST_ID)[0]
            for step, key, values in snapshots
            if step == POSITION_ID
        ]
        return (sorted(snapshots, key=repr), [book.to_state() for book in books])


@pytest.fixture
def kept(
    redis: redis_py.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Kept:
    ledger = Ledger(redis, seed=5)
    with FlowProcess(tmp_path, redis_url) as flow:
        for _ in range(3):
            ledger.publish(150, 1)
            flow.until_committed(redis)
        monkeypatch.setattr(module, "_BETWEEN_S", 0.0)
        monkeypatch.setenv("REDIS_URL", redis_url)
        monkeypatch.setenv("DATA_DIR", str(flow.data_dir))
        settings = load_settings()
        assert verify(settings, flow.recovery_dir) == [], "while the flow runs"
        assert flow.stop() == 0
    return Kept(flow, settings)


def test_any_byte_of_any_file_is_named_or_does_no_harm(kept: Kept) -> None:
    assert kept.look() == []
    stores = recovery.store_files(kept.flow.recovery_dir)
    books = book_store.store_files(kept.flow.recovery_dir)
    files = [*parts(kept.flow.data_dir, "positions"), *parts(kept.flow.data_dir, "closed_lots")]
    assert len(stores) == len(books) == 1
    assert len(files) > 4
    for path in [*stores, *books, *manifests(kept.flow.data_dir), files[0], files[-1]]:
        whole, named = path.read_bytes(), 0
        for at in range(0, len(whole), max(1, len(whole) // FLIPS)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
            found = kept.look()
            named += bool(found)
            if found:
                assert {damage.where for damage in found} == {str(path)}, (path, at, found)
            else:
                assert path in {*stores, *books}, (path, at)
                assert kept.read() == kept.snapshots, (path, at)
        path.write_bytes(whole[: len(whole) // 2])
        assert [damage.where for damage in kept.look()] == [str(path)]
        path.write_bytes(whole)
        assert named, path
    assert kept.look() == []


def test_a_snapshot_that_is_gone_is_noticed_by_verify_and_by_the_flow(
    kept: Kept, redis: redis_py.Redis
) -> None:
    flow = kept.flow
    [store] = recovery.store_files(flow.recovery_dir)
    key = next(key for step, key, _ in recovery.read_snapshots(flow.recovery_dir)
               if step == POSITION_ID)  # fmt: skip
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("DELETE FROM snaps WHERE state_key = ?", (key,))
    [damage] = kept.look()
    assert damage == (
        str(flow.recovery_dir), f"expected a snapshot of {key!r}, whose book is kept; found none"
    )  # fmt: skip
    account, symbol = key.split(":")
    redis.xadd(
        "executions",
        {
            "symbol": symbol, "account": account, "side": "BUY", "fill_qty": "1",
            "fill_price": "1", "order_id": "1", "exec_id": "late", "timestamp": "1784000000000",
        },
    )  # fmt: skip
    flow.start()
    assert flow.wait() == 1
    assert f"expected the snapshot of {key!r} after entry" in flow.log


def test_what_does_not_fit_together_is_named(kept: Kept, redis: redis_py.Redis) -> None:
    [key, *_] = redis.hkeys("positions")
    value: Any = redis.hget("positions", key)
    redis.hset("positions", key, value.replace(b'"open_lots":', b'"open_lots":1'))
    [damage] = kept.look()
    assert damage.where == "hash positions"
    redis.hset("positions", key, value)
    [*_, last] = parts(kept.flow.data_dir, "closed_lots")
    last.rename(last.with_suffix(".gone"))
    assert {damage.where for damage in kept.look()} == {str(kept.flow.data_dir / "closed_lots")}
    last.with_suffix(".gone").rename(last)
    assert kept.look() == []
    shutil.rmtree(kept.flow.data_dir / "positions")
    assert str(kept.flow.data_dir / "positions") in {damage.where for damage in kept.look()}


def test_the_flow_stops_with_a_line_that_names_a_damaged_file(kept: Kept) -> None:
    flow = kept.flow
    [store] = recovery.store_files(flow.recovery_dir)
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("UPDATE snaps SET ser_change = substr(ser_change, 1, 20)")
    flow.start()
    assert flow.wait() == 1
    assert flow.log.splitlines()[-1].startswith(f"lotstream: {store} is damaged: ")
