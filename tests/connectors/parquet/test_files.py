"""A stream's files and their manifest: what a commit rests on, and what is not read."""

import json
import os
import resource
import shutil
import time
from pathlib import Path
from threading import Thread, Timer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import REGISTRY

from connectors.disk import sync
from connectors.file_lock import LockedError
from connectors.parquet import files as files_module
from connectors.parquet.files import (
    DataDirError,
    PartFile,
    StreamFiles,
    manifests,
    publishing,
    read_manifest,
)
from connectors.parquet.tables import Table
from tests.support.happened import Happened


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> Happened:
    return Happened(monkeypatch)


def started(data_dir: Path) -> StreamFiles:
    files = StreamFiles(data_dir, "executions")
    files.lock()
    files.recover()
    return files


def test_a_commit_waits_for_the_disk_to_have_all_that_it_rests_on(
    tmp_path: Path, happened: Happened
) -> None:
    files = started(tmp_path)
    own = tmp_path / ".lotstream" / "executions"
    moved_to: set[int] = set()
    for number in (1, 2):
        for day in (0, 1):
            files.write(Table("positions", day, pa.table({"a": [day]})))
        files.commit(f"{number}-0")
        # A rename keeps the inode.
        written = {path.stat().st_ino for path in tmp_path.glob(f"positions/*/*.{number}-0.*")}
        manifest = (own / "manifest.json").stat().st_ino
        committed = happened.index(("renamed", manifest))
        seen = min(happened.index(("renamed", inode)) for inode in written)
        synced = {inode for what, inode in happened[:committed] if what == "synced"}
        assert len(written) == 2
        assert written | {manifest, own.stat().st_ino} | moved_to <= synced
        assert ("synced", own.stat().st_ino) in happened[committed:seen]
        del happened[:seen]
        moved_to = {path.stat().st_ino for path in (tmp_path / "positions").iterdir()}
    files.close()


def test_a_file_is_whole_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, synced = PartFile.finish, []

    def noted_sync(path: Path) -> None:
        if path.suffix == ".parquet":
            synced.append(pq.read_metadata(path).num_rows)
        sync(path)

    def slow_finish(file: PartFile) -> str:
        time.sleep(0.1)
        return finish(file)

    monkeypatch.setattr(files_module, "sync", noted_sync)
    monkeypatch.setattr(PartFile, "finish", slow_finish)
    files = started(tmp_path)
    files.write(Table("positions", 0, pa.table({"a": [1, 2]})))
    files.commit("1-0")
    files.close()
    assert synced == [2]


def test_a_commit_may_have_more_days_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    files, limits = started(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as lowest:
        few = lowest.fileno() + 50
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        for day in range(100):
            files.write(Table("positions", day, pa.table({"a": [day]})))
        files.commit("1-0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        files.close()
    assert len(list(tmp_path.glob("positions/date=*/*.parquet"))) == 100


def test_the_directories_that_a_start_makes_last(tmp_path: Path, happened: Happened) -> None:
    started(tmp_path / "data").close()
    assert happened.synced(tmp_path)
    assert happened.synced(tmp_path / "data")
    assert happened.synced(tmp_path / "data" / ".lotstream")


def test_one_process_at_a_time_writes_a_streams_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = started(tmp_path), StreamFiles(tmp_path, "executions")
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "_LOCK_WAIT_S", 0.0)
        with pytest.raises(LockedError):
            second.lock()
    second.close()
    ending = Timer(0.2, first.close)  # a run before may take a moment to end
    ending.start()
    started(tmp_path).close()
    ending.join()


def test_files_are_put_in_place_side_by_side_but_not_while_others_are_merged(
    tmp_path: Path,
) -> None:
    files = started(tmp_path)
    files.write(Table("positions", 0, pa.table({"a": [1]})))
    committing = Thread(target=files.commit, args=("1-0",))
    with publishing(tmp_path, alone=True):
        committing.start()
        committing.join(0.2)
        assert not list(tmp_path.rglob("date=*/*.parquet"))
    committing.join(20)
    assert len(list(tmp_path.rglob("date=*/*.parquet"))) == 1
    with publishing(tmp_path):
        committing = Thread(target=files.commit, args=("2-0",))
        committing.start()
        committing.join(20)
        assert files.written() == ("0-0", "2-0")
        assert not committing.is_alive()
    files.close()


def test_a_data_dir_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataDirError, match=r"cannot write to DATA_DIR: .*data"):
        StreamFiles(tmp_path / "data", "executions").lock()


def test_what_someone_removed_of_the_last_commit_holds_up_no_other(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.write(Table("positions", 0, pa.table({"a": [1]})))
    files.commit("1-0")
    files.close()
    shutil.rmtree(tmp_path / "positions")
    files = started(tmp_path)
    files.write(Table("positions", 1, pa.table({"a": [2]})))
    files.commit("2-0")
    files.close()
    assert len([*(tmp_path / "positions").rglob("*.parquet")]) == 1


def test_rows_and_files_are_counted(tmp_path: Path) -> None:
    def counted() -> list[float]:
        names = ("lotstream_parquet_rows_total", "lotstream_parquet_files_total")
        labels = {"data_set": "closed_lots"}
        return [REGISTRY.get_sample_value(name, labels) or 0 for name in names]

    rows, written = counted()
    files = started(tmp_path)
    for day in (0, 0, 1):
        files.write(Table("closed_lots", day, pa.table({"a": [1, 2]})))
    files.commit("1-0")
    files.close()
    assert counted() == [rows + 6, written + 2]


def test_names_that_a_killed_run_gave_last_before_their_manifest_is_replaced(
    tmp_path: Path, happened: Happened
) -> None:
    killed = started(tmp_path)
    killed.write(Table("positions", 0, pa.table({"a": [1]})))
    killed.commit("1-0")
    killed.close()
    happened.clear()
    files = started(tmp_path)
    files.commit("2-0")
    files.close()
    committed = happened.renamed(tmp_path / ".lotstream" / "executions" / "manifest.json")
    assert happened.synced(tmp_path / "positions" / "date=1970-01-01", before=committed)


def test_a_start_finishes_a_commit_and_refuses_a_damaged_file_of_it(tmp_path: Path) -> None:
    own = tmp_path / ".lotstream" / "executions"
    files = started(tmp_path)
    files.write(Table("positions", 0, pa.table({"a": [1]})))
    files.commit("1-0")
    files.close()
    [final] = (tmp_path / "positions").glob("*/*.parquet")
    cut_off = final.rename(own / "positions.1970-01-01.0-0.parquet")
    whole = cut_off.read_bytes()
    cut_off.write_bytes(whole[:-1])
    with pytest.raises(DataDirError, match=r"positions\.1970-01-01\.0-0\.parquet is damaged"):
        StreamFiles(tmp_path, "executions").recover()
    cut_off.write_bytes(whole)
    assert StreamFiles(tmp_path, "executions").recover() == "1-0"
    assert final.read_bytes() == whole
    assert list(own.glob("*.parquet")) == []


@pytest.mark.parametrize(
    ("rows", "groups"), [(999, [999]), (1000, [1000]), (1001, [1000, 1]), (2000, [1000, 1000])]
)
def test_a_file_has_all_its_rows_however_many_and_few_are_held(
    tmp_path: Path, rows: int, groups: list[int]
) -> None:
    files = started(tmp_path)
    for first in range(0, rows, 500):
        part = list(range(first, min(first + 500, rows)))
        files.write(Table("positions", 0, pa.table({"a": part})))
    files.commit("1-0")
    files.close()
    [path] = (tmp_path / "positions").glob("*/*.parquet")
    assert pq.ParquetFile(path).read()["a"].to_pylist() == list(range(rows))
    about = pq.read_metadata(path)
    assert [about.row_group(at).num_rows for at in range(about.num_row_groups)] == groups


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("executions", "executions"), ("executions:3", "executions.3"),
        ("{ib}:executions", "ib.executions"), ("_own", "own"), ("сделки", "stream"),
    ],
)  # fmt: skip
def test_readers_see_the_rows_of_a_stream_of_any_name(
    tmp_path: Path, stream: str, name: str
) -> None:
    for number in (1, 2):
        files = StreamFiles(tmp_path, stream)
        files.lock()
        assert files.recover() == f"{number - 1}-0"
        files.write(Table("positions", 0, pa.table({"a": [number]})))
        files.commit(f"{number}-0")
        files.close()
    assert sorted(pq.read_table(tmp_path / "positions")["a"].to_pylist()) == [1, 2]
    written = [path.name.split(".0-0.")[0] for path in tmp_path.rglob("*.0-0.*.parquet")]
    assert written == [name]
    [manifest] = manifests(tmp_path)
    assert read_manifest(manifest)["stream"] == stream


def test_two_streams_of_one_directory_name_are_told_apart(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "executions:1")
    files.lock()
    files.commit("5-0")
    files.close()
    with pytest.raises(DataDirError) as refused:
        StreamFiles(tmp_path, "executions.1").written()
    said = "expected the manifest of stream 'executions.1', found that of 'executions:1'"
    assert said in str(refused.value)


def test_a_manifest_whose_figures_were_changed_is_refused(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.commit("5-0")
    files.close()
    path = tmp_path / ".lotstream" / "executions" / "manifest.json"
    path.write_text(path.read_text().replace('"5-0"', '"4-0"'))
    with pytest.raises(DataDirError, match=r"manifest\.json is damaged: its checksum is wrong"):
        StreamFiles(tmp_path, "executions").recover()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {"version": 1, "stream": "executions"},
            "of version 2, found version 1: run the lotstream",
        ),
        ({"stream": "executions"}, "version 2, found version None: run the lotstream"),
        ([], "version 2, found version None: run the lotstream"),
        ("{", "a manifest, found no JSON"),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_what_to_do(
    tmp_path: Path, content: object, found: str
) -> None:
    path = tmp_path / ".lotstream" / "executions" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataDirError) as refused:
        StreamFiles(tmp_path, "executions").written()
    said = str(refused.value)
    assert said.startswith(f"{path}: expected ")
    assert found in said
    assert said.endswith("move both away, and the flow rebuilds them from the stream")


def test_the_form_of_a_manifest_changes_with_its_version_only(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.commit("5-0")
    files.close()
    manifest = json.loads((tmp_path / ".lotstream" / "executions" / "manifest.json").read_text())
    checksum = manifest.pop("checksum")
    assert int(checksum, 16)
    assert manifest == {
        "version": 2, "stream": "executions", "first_id": "0-0", "last_id": "5-0", "files": {},
    }  # fmt: skip


def test_files_that_no_manifest_names_are_deleted_by_a_start(tmp_path: Path) -> None:
    files = StreamFiles(tmp_path, "executions")
    files.lock()
    own = tmp_path / ".lotstream" / "executions"
    for name in ("positions.2024-01-02.0-0.parquet", "closed_lots.2024-01-02.0-0.parquet.making"):
        (own / name).write_bytes(b"cut off")
    assert files.recover() == "0-0"
    files.close()
    assert [path.name for path in own.iterdir()] == ["lock"]
