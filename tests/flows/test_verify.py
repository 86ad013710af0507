"""What is kept is damaged at rest: it is named, or it does no harm; and a flow says so too."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis as redis_py
from pydantic import SecretStr

from connectors import book_store
from connectors.kept import dumps, loads, seal, seal_values
from connectors.parquet.files import manifests
from connectors.parquet.tables import DATA_SETS
from flows import verify as module
from flows.common.settings import Settings, load_settings
from flows.job import recovery
from flows.job.names import POSITION_ID, SOURCE_ID
from flows.verify import Damage, verify
from state.records import FIRST_ID, id_order
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


def test_what_is_behind_what_it_should_be_is_damage_and_what_is_ahead_is_none(
    kept: Kept, redis: redis_py.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    keys: Any = redis.hkeys("positions")
    key = min(keys).decode()
    value: Any = redis.hget("positions", key)
    said = json.loads(value)
    ms, _, seq = said["stream_id"].partition("-")
    for other, is_damage in (
        (value.replace(said["stream_id"].encode(), b"%d-%d" % (int(ms), int(seq) + 1)), False),
        (value.replace(said["stream_id"].encode(), b"%d-0" % (int(ms) - 1)), True),
        (value.replace(b'"open_lots": ', b'"open_lots": 1'), True),
        (b"{}", True), (b"[", True), (b'{"stream_id": "x"}', True),
    ):  # fmt: skip
        redis.hset("positions", key, other)
        assert [damage.where for damage in kept.look()] == ["hash positions"] * is_damage, other
    redis.hdel("positions", key)
    [damage] = kept.look()
    assert damage.what == f"expected the position of {key!r}, found none"
    redis.hset("positions", key, value)
    away = kept.settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    assert verify(away, kept.flow.recovery_dir) == []
    assert capsys.readouterr().err.startswith("The hash was not looked at: ")


def test_rows_and_books_of_entries_not_committed_yet_are_no_damage(kept: Kept) -> None:
    newest = max(id_order(values[0]) for step, _, values in recovery.read_snapshots(
        kept.flow.recovery_dir) if step == SOURCE_ID)  # fmt: skip
    [store] = book_store.store_files(kept.flow.recovery_dir)
    for row_id, is_damage in (((newest[0], newest[1] + 1), False), (newest, True)):
        with closing(sqlite3.connect(store)) as db, db:
            row = ("new", *row_id, 0)
            db.execute("INSERT INTO books VALUES (?, ?, ?, ?, ?)", (*row, seal(dumps(()), row)))
        found = [damage.what for damage in kept.look()]
        assert found == ["expected a snapshot of 'new', whose book is kept; found none"] * is_damage
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("DELETE FROM books WHERE key = 'new'")
    for data_set in DATA_SETS:
        part = parts(kept.flow.data_dir, data_set)[-1]
        rows = pq.ParquetFile(part).read()
        at = rows.schema.get_field_index("stream_id")
        for entry, is_damage in ((f"{newest[0]}-{newest[1] + 1}", False), ("0-1", True)):
            later = pa.array([entry] * rows.num_rows)
            pq.write_table(rows.set_column(at, "stream_id", later), part.with_name("ahead.parquet"))
            where = (
                {str(kept.flow.data_dir / "closed_lots")} if data_set == "closed_lots" else set()
            )
            assert {damage.where for damage in kept.look()} == (where if is_damage else set())
        part.with_name("ahead.parquet").unlink()


def take_positions(kept: Kept) -> tuple[pa.Table, Path]:
    """Take all rows of `positions` away; return them, and a file for what is to be there."""
    files = parts(kept.flow.data_dir, "positions")
    rows = pa.concat_tables(pq.ParquetFile(part).read() for part in files)
    for part in files:
        part.unlink()
    return rows, files[0].with_name("a.parquet")


def test_the_last_row_is_that_of_the_last_entry_wherever_it_stands(kept: Kept) -> None:
    rows, file = take_positions(kept)
    pq.write_table(rows.take(pa.array(range(rows.num_rows - 1, -1, -1))), file)
    assert kept.look() == []


def test_a_last_row_of_another_figure_is_named(kept: Kept) -> None:
    rows, file = take_positions(kept)
    for figure in ("qty", "cost_basis", "realized_pnl", "net_realized_pnl", "open_lots"):
        at = rows.schema.get_field_index(figure)
        other = pa.array([one + 1 for one in rows[figure].to_pylist()], rows.schema.types[at])
        changed = rows.set_column(at, rows.schema.field(at), other)
        pq.write_table(changed, file)
        found = kept.look()
        assert {damage.where for damage in found} == {str(kept.flow.data_dir / "positions")}
        assert "expected the last row of" in found[0].what


def test_a_snapshot_that_is_not_what_its_book_comes_to_is_named(kept: Kept) -> None:
    [store] = recovery.store_files(kept.flow.recovery_dir)
    with closing(sqlite3.connect(store)) as db, db:
        [(row, key, data), *_] = db.execute(
            "SELECT rowid, state_key, ser_change FROM snaps WHERE step_id = ? "
            "ORDER BY snap_epoch DESC", (POSITION_ID,)
        ).fetchall()  # fmt: skip
        *values, shown, _ = next(loads(data))
        wrong = (*shown[:2], "CHF", *shown[3:])
        data = dumps(seal_values(key, (*values, wrong)))
        db.execute("UPDATE snaps SET ser_change = ? WHERE rowid = ?", (data, row))
    assert any("to be what its book comes to" in damage.what for damage in kept.look())


def test_damage_is_what_is_still_there_when_one_looks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stays, goes, comes = (Damage(name, "damaged") for name in ("stays", "goes", "comes"))
    monkeypatch.setattr(module, "_BETWEEN_S", 0.0)
    for looks, found in (
        ([[stays, goes], [stays], [stays, comes]], [stays]),
        ([[goes], [comes], []], []),
        ([[], [comes], [comes]], []),
    ):
        seen = iter(looks)
        monkeypatch.setattr(module, "_look", lambda *_, seen=seen: next(seen))
        assert verify(Settings(), None) == found


def test_a_file_that_is_gone_is_no_damage_and_one_that_cannot_be_read_is(tmp_path: Path) -> None:
    (tmp_path / "positions" / "date=2026-07-14" / "a.12345678.parquet").mkdir(parents=True)
    [damage] = verify(Settings(data_dir=tmp_path), None)
    assert damage.what == "cannot be read: Is a directory"
    store = tmp_path / "recovery" / "part-0.sqlite3"
    store.mkdir(parents=True)
    [_, damage] = sorted(verify(Settings(data_dir=tmp_path), store.parent))
    assert damage.where == str(store)
    assert damage.what.startswith("cannot be read: ")
    assert list(module._check(tmp_path / "gone.12345678.parquet", module._check_part)) == []


def test_rows_are_read_whatever_the_directory_is_named_and_whatever_is_merged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = tmp_path / "[data]*" / "positions" / "date=2026-07-14"
    day.mkdir(parents=True)
    row = {"account": "U1", "symbol": "A", "stream_id": "5-1"}
    # Of two versions: the newer knows more columns.
    pq.write_table(pa.Table.from_pylist([row]), day / "a.parquet")
    pq.write_table(pa.Table.from_pylist([row | {"new": 1}]), day / "b.parquet")
    upto = pl.LazyFrame([("U1", "A", 5, 1)], {"account": pl.String, "symbol": pl.String,
                        "ms": pl.Int64, "seq": pl.Int64}, orient="row")  # fmt: skip
    looks: list[pl.LazyFrame] = []

    def read(rows: pl.LazyFrame) -> dict[Any, Any]:
        looks.append(rows)
        if len(looks) == 1:
            (day / "a.parquet").rename(day / "merged-1.parquet")
        return {(None, "A"): rows.collect().height}

    monkeypatch.setattr(module, "_BETWEEN_S", 0.0)
    assert module._read(day.parents[1], "positions", upto, read) == {(None, "A"): 2}
    assert len(looks) == 2

    def gone(_: pl.LazyFrame) -> dict[Any, Any]:
        raise FileNotFoundError

    with pytest.raises(SystemExit, match="run this again when"):
        module._read(day.parents[1], "positions", upto, gone)


def test_the_command_names_what_is_damaged_and_exits_with_1(
    kept: Kept, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "set_up_logging", lambda _: None)
    not_looked_at = "-r names the recovery directory, which was not looked at."
    module.main(kept.flow.recovery_dir)
    module.main()
    assert capsys.readouterr().out.splitlines() == [
        "All is as it was written.",
        f"All of DATA_DIR is as it was written; {not_looked_at}",
    ]
    kept.flow.recovery_dir.rename(kept.flow.data_dir / "recovery")
    module.main()  # where the flow keeps it if nobody says
    assert capsys.readouterr().out == "All is as it was written.\n"
    part = parts(kept.flow.data_dir, "positions")[0]
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    said = f"{part}: damaged: its checksum is not that of its name\n"
    assert capsys.readouterr().out == said


def test_the_flow_stops_with_a_line_that_names_a_damaged_file(kept: Kept) -> None:
    flow = kept.flow
    [store] = recovery.store_files(flow.recovery_dir)
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("UPDATE snaps SET ser_change = substr(ser_change, 1, 20)")
    flow.start()
    assert flow.wait() == 1
    assert flow.log.splitlines()[-1].startswith(f"lotstream: {store} is damaged: ")
