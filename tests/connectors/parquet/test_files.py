"""A stream's files and their manifest: what a commit rests on, and what is not read."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from connectors.parquet.files import DataDirError, StreamFiles
from connectors.parquet.tables import Table


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return what is synced or renamed from now on, by inode."""
    noted: list[tuple[str, int]] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: int) -> None:
        fsync(fd)
        noted.append(("synced", os.fstat(fd).st_ino))

    def noted_rename(path: Path, target: Path) -> Path:
        noted.append(("renamed", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    return noted


def test_a_commit_waits_for_the_disk_to_have_all_that_it_rests_on(
    tmp_path: Path, happened: list[tuple[str, int]]
) -> None:
    # A power cut, which no test can make, may undo whatever is not synced.
    files = StreamFiles(tmp_path, "executions")
    files.lock()
    files.recover()
    own = tmp_path / ".lotstream" / "executions"
    moved_to: set[int] = set()
    for number in (1, 2):
        for day in (0, 1):
            files.write(Table("positions", day, pa.table({"a": [day]})))
        written = {path.stat().st_ino for path in own.glob("*.parquet")}
        files.commit(f"{number}-0")
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
    files = StreamFiles(tmp_path, "executions")
    files.lock()
    files.recover()
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
